"""World: one server on a stage, its clients and its handler."""

from __future__ import annotations

import itertools
import logging
import random
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from fuzz.answers import Pieces, answer_of
from fuzz.disk import Disk
from fuzz.framings import UP, Upgrades, random_framing
from fuzz.hands import Hands, OtherTask
from fuzz.judge import Judge
from fuzz.parts import LARGEST, Ambiguous, Client, HandlerFault, Moody, Turn, random_limits, random_script
from fuzz.pollers import FakeListener, FakePoller
from fuzz.protocols import CALLS, Rich
from fuzz.stage import Stage, StageCondition, StageLock, StageMail
from fuzz.wire import Net, Wire
from treadle._base import clock
from treadle.errors import DeadlineExceeded
from treadle.server import CloseConnection, Messages, Raw, Session, TakeOver
from treadle.server import _group as groups
from treadle.server._loop import event_loop as loops
from treadle.server._serving import driver as drivers
from treadle.server._serving import leadership as leaderships
from treadle.server._serving import watchdog as watchdogs
from treadle.server._serving.calling import exchanges
from treadle.server._transport import connection as connections
from treadle.server._transport import io as services
from treadle.server._transport.sending import file_range as files
from treadle.server._transport.sending import outbox as outboxes
from treadle.server._transport.sending import spool as spools

__all__ = ["World", "play"]


class Listening(logging.Handler):
    """Looks for what must never be logged."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        said = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if "a fault in treadle itself" in said or ("idle task" in said and "failed" in said):
            self.world.stage.fail(error if isinstance(error, Exception) else AssertionError(said))
        elif error is not None and "handler" not in said and not isinstance(error, HandlerFault):
            self.world.stage.fail(error)


class UnderTls:
    """A wire without the TLS on it."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what has come, or show it."""
        data: bytes = self.wire.peek(size) if flags else self.wire.take(size)
        return data

    def setsockopt(self, *what: object) -> None:
        """Set an option, or fail."""
        self.wire.setsockopt(*what)

    def shutdown(self, how: int) -> None:
        """End one direction, or both."""
        Wire.shutdown(self.wire, how)


class World(Judge):
    """See above."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.dice = dice = random.Random(seed)
        self.stage = Stage(dice, self.about_to_wait)
        self.lenient = dice.random() < 0.5  # so that more is answered in it
        self.net = Net(self.stage, dice, lenient=self.lenient)
        self.limits = random_limits(dice, lenient=self.lenient)
        self.disk = Disk(self.net, self.limits.spool_file)
        self.session = dice.random() < 0.2
        self.upgrades = not self.session and dice.random() < 0.2
        self.framing: Any = Upgrades() if self.upgrades else random_framing(dice)
        self.moody = not (self.session or self.upgrades) and dice.random() < 0.05
        self.pausing = dice.choice([0.0, 0.5, 0.9])  # how often conversations do
        self.greeting = dice.choice([b"", b"", b"hello\n"]) if not self.session else b""
        self.rich: Rich | None = None
        self.refusing = dice.choice([0.0, 0.0, 0.0, 0.1])  # how often the pool does
        self.untold = dice.choice([1, 2, 64])  # see UNTOLD
        self.secure = dice.random() < 0.3
        self.slow_handlers = dice.choice([0.0, 0.05, 0.3, 0.9])
        self.failing_handlers = dice.choice([0.0, 0.0, 0.02, 0.02 if self.lenient else 0.2])
        self.large_answers = dice.choice([0.0, 0.1, 0.5])
        self.shapes = dice.random() < 0.5  # answers are more than bytes
        self.pieces: list[Pieces] = []
        self.clients: list[Client] = []
        self.most_clients = dice.choice([2, 6, 40])
        self.numbers = itertools.count(1)
        self.group: groups.EventLoopGroup
        self.listener = FakeListener(self.net, secure=self.secure)
        self.over = False
        self.ended_at_pool = False

    # -- the handler -----------------------------------------------------------------------------------------------

    def handle(self, message: bytes, peer: Any) -> Any:
        """Answer a message; or do what handlers do."""
        client = self.clients[peer.address[1] - 1]
        stage, dice = self.stage, self.dice
        if stage.failure is not None:
            return None
        if client.inside:
            stage.tear(f"two messages of client {client.number} are handled at the same time")
        client.inside = True
        client.change_answer()
        client.seen.append(bytes(message))
        turn = Turn(bytes(message))
        client.turns.append(turn)
        self.check_call(client, message, peer)
        self.linger_in_handler()
        client.inside = False
        if dice.random() < self.failing_handlers:
            return self.fail(client, turn)
        data = self.random_bytes(client)
        if self.upgrades and message.endswith(UP):
            turn.answer += data
            return TakeOver(self.converse, data)
        if not data:
            return dice.choice([None, b"", bytearray(), memoryview(b""), []])
        return answer_of(self, client, turn, data)

    def check_call(self, client: Client, message: bytes, peer: Any) -> None:
        """Look at what a handler is called with."""
        if CALLS.get() != (0 if self.rich and self.rich.fresh_context else client.calls):
            self.stage.tear(f"call {client.calls} of client {client.number} has the context of call {CALLS.get()}")
        client.calls += 1
        CALLS.set(client.calls)
        if self.early(message) is not None:
            self.stage.tear(f"{message!r} needs no handler")
        if self.rich and self.rich.over and peer.exchange.message != message:
            self.stage.tear(f"{message!r} has the exchange of {peer.exchange.message!r}")

    def early(self, message: bytes) -> bytes | None:
        """Return the answer to a message that needs no handler; None: it does."""
        return self.rich.early(message) if self.rich else None

    def converse(self, talk: Any) -> Any:
        """Talk to a client, with no regard for its messages; to the end, or until it pauses."""
        client = self.clients[talk.peer.address[1] - 1]
        dice = self.dice
        if client.inside:
            self.stage.tear(f"two conversations with client {client.number}")
        client.inside = client.taken_over = True
        client.paused = None
        for _ in range(dice.choice([0, 1, 5, 20])):
            self.linger_in_handler()
            kind = dice.randrange(4)
            size = dice.choice([1, 10, 1000, 100_000])
            if kind == 0:
                self.say_to(client, talk)
            elif kind == 1:
                client.heard += talk.recv(size)
            elif kind == 2:
                client.heard += talk.readline()
            else:
                client.heard += talk.recv_exactly(min(size, self.limits.max_message))
            if dice.random() < self.failing_handlers / 4:
                raise HandlerFault("enough")
        if dice.random() < 0.2:
            talk.close()
        pauses = dice.random() < self.pausing
        client.inside = not pauses and dice.random() < 0.5  # it is not called again
        client.paused = talk if pauses else None
        return talk.pause() if pauses else None

    def say_to(self, client: Client, talk: Any) -> None:
        """Say something in a conversation."""
        turn = Turn(b"", self.random_bytes(client))
        client.turns.append(turn)
        try:
            talk.sendall(bytes(turn.answer))
        except OSError:
            turn.whole = False
            raise

    def linger_in_handler(self) -> None:
        """Take some time."""
        dice, stage = self.dice, self.stage
        for _ in range(dice.choice([0, 0, 1, 3])):
            stage.step()
        if dice.random() < self.slow_handlers:
            stage.sleep(dice.choice([0.0001, 0.002, 0.01, 0.1, 3.0, self.limits.handler_timeout or 0.1]))

    def random_bytes(self, client: Client) -> bytes:
        """Return something to answer, which tells whose it is; or nothing."""
        dice = self.dice
        if dice.random() < 0.15:
            return b""
        size = dice.randrange(1, LARGEST) if dice.random() < self.large_answers else dice.randrange(1, 30)
        return (b"<%d:%d>" % (client.number, len(client.turns))).ljust(size, b"=")

    def fail(self, client: Client, turn: Turn) -> Any:
        """End a connection, in one of many ways."""
        client.closing = True
        kind = self.dice.randrange(9)
        if kind < 2:
            turn.answer += b"bye"
            raise CloseConnection(b"bye")
        if kind == 2:
            raise CloseConnection
        if kind == 3:
            faults = [HandlerFault, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, DeadlineExceeded]
            raise self.dice.choice(faults)("x")
        if kind == 4:
            raise self.dice.choice(
                [BlockingIOError(11, "x"), ssl.SSLWantReadError("x"), ConnectionResetError(104, "x")]
            )
        return self.dice.choice(["text", 1, [1], [b"x", "y"], object(), 1.5, {1: 2}, 0, "", False, Ambiguous()])

    # -- what happens ----------------------------------------------------------------------------------------------

    def drama(self) -> None:
        """Do what clients and others do, and stop the server."""
        dice, stage = self.dice, self.stage
        acts: list[Callable[[], object]] = [self.connect, self.talk, self.talk, self.talk, self.listen, self.listen]
        acts += [self.pass_time, self.pass_time, self.end_or_leave, self.disturb]
        for _ in range(dice.choice([40, 150, 400] if self.lenient else [10, 40, 150])):
            dice.choice(acts)()
            stage.step()
        if dice.random() < 0.6:
            self.let_all_end()
        for _ in range(dice.choice([1, 1, 2])):
            first = self.group.drivers[0].loop
            first.post(partial(self.group.drain, stage.now + dice.choice([0.0, 0.1, 5.0])))
            for _ in range(dice.choice([0, 5, 30])):
                dice.choice(acts)()
                stage.step()
        stage.wait(lambda: self.over, what="the end")
        self.hands.close(cancel=dice.random() < 0.5)

    def let_all_end(self) -> None:
        """Have every client send the rest, read all, and end; and give the server the time for it."""
        for client in list(self.clients):
            self.say(client, len(client.script))
            if client.wire is not None:
                client.wire.room = 1 << 30
            self.end(client)
        self.stage.sleep(self.dice.choice([0.01, 3.0, 20.0]))

    def pick(self) -> Client | None:
        """Return a client that has not left."""
        there = [client for client in self.clients if not client.left]
        return self.dice.choice(there) if there else None

    def connect(self) -> None:
        """A client comes."""
        if len(self.clients) < self.most_clients and not self.listener.closed:
            number = next(self.numbers)
            script = random_script(self.dice, self.framing, self.limits.max_message, number, long=self.lenient)
            client = Client(number, self.dice, script, self.greeting)
            self.clients.append(client)
            self.listener.queue.append(client)

    def talk(self) -> None:
        """A client sends something."""
        if client := self.pick():
            self.say(client, self.dice.choice([1, 3, 20, 1000, 100_000]))

    def say(self, client: Client, size: int) -> None:
        """Have `client` send the next `size` bytes of its script."""
        data, client.script = client.script[:size], client.script[size:]
        if client.ended or client.left:
            return
        wire = client.wire
        client.sent += data
        if wire is None:
            client.early += data
        elif not wire.closed and not wire.reset:
            wire.greet()
            wire.incoming += data

    def listen(self) -> None:
        """A client reads."""
        if (client := self.pick()) and client.wire is not None:
            client.wire.room += self.dice.choice([1, 10, 1000, 100_000])

    def end_or_leave(self) -> None:
        """A client ends its half, or is gone all at once."""
        if client := self.pick():
            if self.dice.random() < 0.7:
                self.end(client)
            elif client.wire is not None and self.net.faults.hard:
                client.left = client.wire.reset = True
                client.wire.incoming.clear()
                client.wire.error = self.dice.choice([104, 110, 113, None])

    def end(self, client: Client) -> None:
        """`client` sends no more."""
        client.ended = True
        if client.wire is None:
            client.early_end = True
        else:
            client.wire.eof = True

    def pass_time(self) -> None:
        """Some time passes, seen by some or by all."""
        if self.dice.random() < 0.7:
            self.stage.sleep(self.dice.choice([0.0005, 0.002, 0.01, 0.2, 2.0]))
        else:
            self.stage.now += self.dice.choice([0.001, 0.05, 1.0, 40.0])
            self.jumped = self.stage.now

    def disturb(self) -> None:
        """Others use the pool, or it fails."""
        kind = self.dice.randrange(6)
        if kind < 3 and not self.hands.closed:
            with suppress(RuntimeError):
                self.hands.enter_later(
                    OtherTask(do=lambda: self.stage.sleep(self.dice.choice([0.0, 0.01, 1.0]))), "block"
                )
        elif kind == 3 and self.hands.running:
            self.hands.preempt_one()
        elif kind == 4 and self.net.faults.odd:
            self.hands.cancel_one()
        elif kind == 5 and self.net.faults.odd and self.dice.random() < 0.1:
            self.hands.close(cancel=self.dice.random() < 0.5)

    # -- the play --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Play it, and look at what is left."""
        listening = Listening(self)
        loggers = [logging.getLogger(name) for name in ("treadle", "treadle.server")]
        with ExitStack() as stack:
            for target, name, value in self.replacements():
                stack.enter_context(mock.patch.object(target, name, value))
            for logger in loggers:
                stack.enter_context(mock.patch.object(logger, "propagate", False))
                logger.addHandler(listening)
                stack.callback(logger.removeHandler, listening)
            self.set_up()
            self.stage.play()
            self.check_the_end()

    def replacements(self) -> list[tuple[Any, str, Any]]:
        """Return what of treadle is replaced, by what."""
        stage, dice = self.stage, self.dice

        def now() -> float:
            stage.now += 1e-9  # no two looks at a clock show the same
            return stage.now

        def start_thread(target: Callable[[], object], name: str) -> Any:
            return stage.add(name, target).thread

        system = SimpleNamespace(
            MSG_PEEK=socket.MSG_PEEK, SHUT_WR=socket.SHUT_WR, SHUT_RDWR=socket.SHUT_RDWR,
            SOL_SOCKET=socket.SOL_SOCKET, SO_LINGER=socket.SO_LINGER,
        )  # fmt: skip
        count = dice.choice([1, 1, 1, 2, 3])
        return [
            (clock, "now", now),
            (loops, "clock", now),
            (drivers, "clock", now),
            (leaderships, "clock", now),
            (watchdogs, "now", now),
            (leaderships, "thread_clock", lambda: 1),
            (watchdogs, "read_clock", lambda clock: stage.now * dice.choice([0.0, 1.0])),
            (watchdogs, "start_thread", start_thread),
            (loops, "new_poller", lambda: FakePoller(self.net, self.about_to_poll)),
            (loops, "Lock", lambda: StageLock(stage)),
            (leaderships, "allocate_lock", lambda: StageMail(stage)),
            (services, "socket", system),
            (connections, "socket", system),
            (connections, "plain_of", UnderTls),
            (connections, "unacknowledged", lambda sock: 0),
            (connections, "os", self.disk.system),
            (files, "os", self.disk.system),
            (spools, "os", self.disk.system),
            (spools, "tempfile", self.disk),
            (spools, "Lock", lambda: StageLock(stage)),
            (spools, "Condition", StageCondition),
            # What is left to be told at the end is told at once, for no thread of a world comes after that.
            (exchanges, "Condition", lambda: StageCondition(StageLock(stage))),
            (exchanges, "Teller", lambda most: SimpleNamespace(tell=lambda say: say(), thread=None)),
            *((module, "UNTOLD", self.untold) for module in (exchanges, outboxes, services)),
            (groups, "_loops_wanted", lambda dispatcher: count),
        ]

    def set_up(self) -> None:
        """Start the server."""
        self.hands = Hands(self.stage, self.dice, self.dice.choice([1, 1, 2, 3]))
        self.hands.refuses = max(self.refusing, self.net.faults.odd / 10)
        framing: Any = Moody(self.framing, self.dice) if self.moody else self.framing
        protocol: Any = Messages(self.handle, framing, greeting=self.greeting)
        if not (self.session or isinstance(self.framing, Raw)) and self.dice.random() < 0.6:
            protocol = self.rich = Rich(self, framing, self.greeting)
        if self.session:
            protocol = Session(self.converse, speaks_first=self.dice.random() < 0.5)
        self.group = groups.EventLoopGroup(protocol, self.limits, self.hands, self.end_of_group)  # type: ignore[arg-type]
        for driver in self.group.drivers:
            plain = driver.io.left
            driver.io.left = partial(self.left, plain)
        factory = self.group.factory
        factory._fault_of = partial(self.gone_already, factory._fault_of)  # type: ignore[method-assign]
        factory._decoder = partial(self.new_decoder, factory._decoder)  # type: ignore[method-assign]
        context: Any = SimpleNamespace(wrap_socket=self.wrap) if self.secure else None
        self.group.start([self.listener], context)  # type: ignore[list-item]
        self.stage.add("drama", self.drama)

    def wrap(self, wire: Any, **options: object) -> Any:
        """Do as an SSLContext."""
        if self.net.odds(self.net.faults.odd / 10):
            raise OSError(107, "not connected")
        return wire

    def end_of_group(self) -> None:
        """All event loops have ended."""
        assert not self.over, "the group has ended twice"
        self.over = True


def play(seed: int) -> World:
    """Play one world."""
    world = World(seed)
    world.run()
    return world

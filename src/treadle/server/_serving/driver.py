"""Driver: what a leader does, turn after turn: it alone knows the event loop, the connections' bytes and the handlers.

`run` is the path of every message, for a worker that leads; `turn` is that of the watchdog, the fallback leader, which
runs no handler. Who leads, and how the lead is lost, is told in `leadership`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from treadle._base.clock import now as clock
from treadle._base.words import log
from treadle._dispatch.worker import lent_here
from treadle.server._loop.event_loop import EventLoop
from treadle.server._loop.poller import READ
from treadle.server._serving.calling.answers import can_be_sent
from treadle.server._serving.handlers import TURN, Handlers
from treadle.server._serving.handshakes import Handshakes
from treadle.server._serving.leadership import Lead, Leadership
from treadle.server._transport.causes import CUT, FAULT, KILLED, Refusals
from treadle.server._transport.connection import BLOCKED, CHUNK, RECORD, ClientConnection
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.reaper import Reaper
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle._base.log_throttle import LogThrottles
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._accept.reception import Reception
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._transport.deadlines import Deadlines
    from treadle.server._transport.limits import Limits

__all__ = ["Driver"]

PATIENCE = 0.005  # seconds that a fallback leader waits for a worker that was woken, before it serves itself; a guess

_log = logging.getLogger("treadle.server")


class Driver:
    """One event loop of a server, with its connections, its handlers, and who leads it.

    For the leader alone, but for what is marked.

    Args:
        name: what logs call it.
        when_full: what happens to messages that the pool has no room for.
        left: called with a connection that is about to be closed, and why.
        broken: called when the poller is of no more use; ends the loop.
        observed: whether connections have Records.

    Attributes:
        reception: where connections begin when the server trusts proxies; None: it trusts none.
        dealt: connections that are on their way to it; guarded by the loop's lock.
        emptied: it drains, and no connection is left.
    """

    __slots__ = (
        "dealt",
        "emptied",
        "handlers",
        "handshakes",
        "io",
        "leadership",
        "loop",
        "reaper",
        "reception",
    )

    def __init__(
        self,
        name: str,
        protocol: Protocol,
        dispatcher: Dispatcher,
        limits: Limits,
        deadlines: Deadlines,
        left: Callable[[Driver, ClientConnection, str], object],
        broken: Callable[[Exception], object],
        throttles: LogThrottles,
        when_full: str = "block",
        *,
        observed: bool = False,
    ) -> None:
        self.loop = loop = EventLoop(name, deadlines.period(), broken)
        self.leadership = Leadership(loop, dispatcher, protocol.name)
        plain = protocol.converse is None and not observed and getattr(protocol, "over", None) is None
        refusals = Refusals(limits, throttles, protocol.name, getattr(protocol, "refusal", None))
        self.io = ConnectionIO(loop, limits, deadlines, partial(left, self), throttles, inline=plain, refusals=refusals)
        self.handlers = Handlers(self.leadership, self.io, protocol, limits, throttles, when_full, observed=observed)
        self.reaper = Reaper(self.io)
        if self.handlers.calls.overdue is not None:
            self.reaper.take_away = self.handlers.calls.overdue.take
        self.reaper.shed = self.handlers.shed
        self.handshakes = Handshakes(self.handlers, self.reaper, self.opened)
        self.reception: Reception | None = None
        self.dealt = 0
        self.emptied = Event()
        self.leadership.run, self.leadership.killed, self.leadership.pump = self.run, self.killed, self.io.pump

    # -- leading ------------------------------------------------------------------------------------------------------

    def run(self, lead: Lead) -> None:
        """Poll, read, run handlers, write: until `lead` is preempted or lost. The path of every message."""
        loop, leadership = self.loop, self.leadership
        poll, get, timers, ready = loop.poller.poll, loop.sources.get, loop.timers, loop.ready
        push, pop, handle = lead.slot.append, lead.slot.pop, self.handlers.calls.handle
        handlers, io, chunk, short = self.handlers, self.io, CHUNK, State.READY
        lent = lent_here(leadership.dispatcher)
        fresh = handlers.calls.fresh
        find = None if handlers.slowness.kinds is None else handlers.slowness.kinds.find
        instant = None if handlers.early.instants is None else handlers.early.answers_at_once
        messages: Any
        unsettled = False
        while not lead.preempted:
            try:
                events = poll(loop.patience())
            except (OSError, ValueError) as error:  # somebody has closed it behind our back, and it would fail for ever
                loop.broken(error)
                return
            now = clock()
            if now >= timers.next:
                self.reaper.expire(now)
            loop.now = now
            plain, turns = 0 if leadership.offload_all else READ, leadership.turns
            for fd, event in events:
                conn = get(fd)
                if conn is None:
                    continue
                if event != plain or conn.state is not short:
                    if not self.on_event(conn, event, lead):
                        return
                    turns = leadership.turns
                    continue
                try:
                    message = data = conn.recv(chunk)
                except OSError as error:
                    io.unreadable(conn, error)
                    continue
                if conn.cuts or not data:
                    messages = io.cut(conn, data)
                    if len(messages) != 1 or conn.intake.held or not data:
                        if not self.received(conn, data, messages, lead):
                            return
                        turns = leadership.turns
                        continue
                    message = messages[0]
                if instant is not None and instant(conn, message):
                    continue
                if find is not None:
                    record = find(message)
                    if record.level:
                        handlers.hand_over(conn, message, record)
                        continue
                    record.quick += 1
                    lead.record = record
                conn.active = now
                conn.number += 1
                leadership.turns = turns = turns + 1
                push(conn)
                if leadership.watchdog_sleeps:
                    leadership.wake_watchdog()
                context = conn.context.copy() if fresh else conn.context
                try:
                    if lent is None:
                        answer = context.run(handle, message, conn.peer)
                    else:
                        answer = lent.run(context, handle, message, conn.peer)
                    if type(answer) is not bytes:
                        answer = handlers.calls.prepared(conn, message, answer, context)
                except BaseException as error:
                    answer, unsettled = handlers.calls.failed(conn, error), True
                try:
                    pop()
                except IndexError:
                    handlers.lost_the_lead(conn, answer, lead)
                    return
                try:
                    if answer:
                        size = len(answer) if type(answer) is bytes else memoryview(answer).nbytes
                        if (sent := conn.send(answer)) != size:
                            io.keep(conn, answer, sent)
                    elif answer is not None:
                        handlers.calls.answer(conn, answer)  # nothing to send, or nothing that can be sent,
                        handlers.calls.send_made(conn)  # or it was made in pieces
                        unsettled = bool(conn.outbox.pieces or conn.ending.closing or conn.ending.error)
                except Exception as error:
                    self.unsent(conn, answer, error)
                answer = None  # or it would be kept while the next handler runs,
                if unsettled:  # or something is left to be done about the answer
                    unsettled = False
                    io.settle(conn)
            conn = message = data = messages = None  # and these until somebody sends something
            if ready and not self.serve_ready(lead):
                return

    def turn(self) -> None:
        """Poll once, and do what there is to do, but for handlers: the fallback leader's turn."""
        loop = self.loop
        try:
            events = loop.poller.poll(loop.patience())
        except (OSError, ValueError) as error:  # as in `run`
            loop.broken(error)
            return
        now = clock()
        if now >= loop.timers.next:
            self.reaper.expire(now)
        loop.now = now
        for fd, event in events:
            conn = loop.sources.get(fd)
            if conn is not None:
                self.on_event(conn, event, None)
        if loop.ready:
            self.serve_ready(None)

    def lead_as_fallback(self) -> None:
        """Lead without running handlers, until a worker takes over or the loop is over. Called by the watchdog."""
        leadership = self.leadership
        if leadership.offer():  # a worker is on its way, and would run inline what we make tasks of
            leadership.watchdog_wakeup.acquire(True, PATIENCE)
        while not self.loop.over and not leadership.hand_off():
            try:
                self.turn()
            except Exception as error:
                self.loop.tell_fault(error)

    def killed(self, conn: ClientConnection) -> None:
        """The thread that led, and had `conn`, is killed, or ended by a fault of ours. Called by it."""
        self.loop.post(partial(self.io.give_up, conn, KILLED))

    # -- coming in ----------------------------------------------------------------------------------------------------

    def register(self, conn: ClientConnection) -> None:
        """Begin to look after a connection that was accepted."""
        loop = self.loop
        loop.sources[conn.fd] = conn
        conn.ending.loop, conn.ending.early = loop, self.handlers.calls.early
        if self.reception is not None:
            self.reception.receive(conn)
        loop.timers.look_at(conn, self.io.deadlines.of(conn)[0], loop.now)
        if conn.record is not None and conn.state is not State.HEADER:
            conn.record.connected()
            if loop.orphaned:  # an observer has forked, and this is the child
                return
        if conn.state is State.OPEN:
            self.opened(conn)
        else:
            self.io.watch(conn, READ)

    def opened(self, conn: ClientConnection) -> None:
        """Greet a connection that is ready to talk."""
        if conn.state is not State.OPEN:
            conn.enter(State.OPEN)
        conn.active = self.loop.now
        protocol = self.handlers.calls.protocol
        if protocol.greeting:
            conn.write(protocol.greeting)
        if protocol.speaks_first:
            self.handlers.delegate(conn)
        else:
            self.io.settle(conn)

    # -- events -------------------------------------------------------------------------------------------------------

    def on_event(self, source: Any, event: int, lead: Lead | None) -> bool:
        """Do what `event` asks for; False: the lead was lost. What goes wrong with one connection ends that one."""
        try:
            return self.do(source, event, lead)
        except Exception as error:
            self.fault(source, lead, error)
            return True

    def do(self, source: Any, event: int, lead: Lead | None) -> bool:
        """Do what `event` asks for; False: the lead was lost."""
        if type(source) is not ClientConnection:
            source.attend(event)
            return True
        conn = source
        if conn.busy and conn.outbox.filling is not None:
            self.send_on(conn)
            return True
        if conn.busy and not self.io.has_back(conn):
            return True
        if conn in self.loop.ready:  # it has its turn there, after which it may be read from again
            return True
        if conn.is_open and not conn.outbox.pieces and not conn.ending.closing:
            return not conn.watched or self.read(conn, lead)  # else the event is older than what was decided since
        if conn.state is State.HANDSHAKE:
            if conn.intake.vet is not None and self.reception is not None and not self.reception.look(conn):
                return True
            return self.handshakes.step(conn, lead)
        if conn.intake.header is not None and self.reception is not None:
            self.reception.hear(conn, conn.intake.header)
            return True
        if conn.state is State.LINGERING:
            self.io.linger(conn)
            return True
        # What the event says is not trusted: it may be meant for a connection that was closed in this very turn, and
        # whose descriptor is this one's now. If the peer is gone, sending says so.
        self.send_on(conn)
        return True

    def send_on(self, conn: ClientConnection, *, now: bool = False) -> None:
        """Go on with what a client is sent; later, unless `now`, if the others have waited for as long as a turn."""
        if not now and clock() > self.loop.now + TURN:
            self.loop.ready[conn] = None
        elif conn.busy:
            self.io.pump(conn)
        else:
            conn.flush()
            self.io.settle(conn)

    def fault(self, source: Any, lead: Lead | None, error: Exception) -> None:
        """A fault in treadle itself, or in what it stands on: else the poller would tell of it again and again."""
        if lead is not None and (lead.slot or lead.lost is not None):
            raise error  # it is in the middle of a handler, and the lead goes with it
        log(_log, logging.ERROR, "%s: a fault in treadle itself; serving goes on", self.loop.name, error=error)
        if type(source) is ClientConnection and not source.busy:
            self.io.close(source, FAULT)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Read what has come, and have it handled; False: the lead was lost."""
        conn.intake.wait_in, conn.ending.looked = READ, True
        try:
            data = self.io.read_all(conn) if conn.secure else conn.recv(CHUNK)
        except OSError as error:
            self.io.unreadable(conn, error)
            return True
        if conn.intake.vet is not None and not conn.intake.vet(conn, data):
            self.io.settle(conn)
            return True
        return self.received(conn, data, self.io.cut(conn, data), lead)

    def received(self, conn: ClientConnection, data: bytes, messages: Sequence[Any], lead: Lead | None) -> bool:
        """Have handled what was read; False: the lead was lost. As `on_event` does, it ends what goes wrong."""
        try:
            return self.take_in(conn, data, messages, lead)
        except Exception as error:
            self.fault(conn, lead, error)
            return True

    def take_in(self, conn: ClientConnection, data: bytes, messages: Sequence[Any], lead: Lead | None) -> bool:
        """Note what was read, and have it handled; False: the lead was lost."""
        now = self.loop.now
        conn.active = conn.intake.read_at = now
        if not data:
            conn.intake.end()
        if messages:
            conn.intake.first_byte = conn.intake.begun
            conn.intake.begun, conn.intake.received = 0.0, 0
            conn.intake.waiting.extend(messages)
        if conn.intake.held:
            conn.intake.begun = conn.intake.begun or now
            conn.intake.received += len(data)
            if self.io.phased:
                conn.intake.look_at_phase(now)
        return self.proceed(conn, lead)

    def proceed(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Handle what waits in `conn`, here or elsewhere; False: the lead was lost."""
        handling = self.handlers
        if conn.intake.waiting and conn.outbox.has_room(self.handlers.limits.max_unsent):
            if handling.early.may_speak(conn):
                answers = handling.calls.answers(conn)
                waiting = handling.early.speak(conn, answers)
                if not handling.tell(conn, answers, lead):
                    return False
                if not (waiting and handling.calls.may_go_on(conn)):
                    self.io.settle(conn)
                    return True
            elsewhere = conn.timing.probation or self.leadership.offload_all or handling.calls.converses(conn)
            if lead is None or elsewhere:
                handling.delegate(conn)
                return True
            if not handling.work(conn, lead):
                return False
            if conn.busy:  # the next one was handed over
                return True
        self.io.settle(conn)
        return True

    def serve_ready(self, lead: Lead | None) -> bool:
        """Go on with connections that have something left to do, each once; False: the lead was lost.

        Not for longer than a turn may take: those of whom the poller tells wait for it. Who has had one is last again.
        """
        ready, until = self.loop.ready, clock() + TURN
        for number, conn in enumerate(list(ready)):
            if number and clock() > until:
                break
            del ready[conn]
            try:
                on = self.go_on(conn, lead)
            except Exception as error:
                self.fault(conn, lead, error)
                continue
            if not on:
                return False
        return True

    def go_on(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Do what is left to do in a connection; False: the lead was lost."""
        if conn.timing.late:
            return self.look(conn, lead)
        if conn.outbox.pieces and (conn.is_open or conn.state is State.CLOSING):
            self.send_on(conn, now=True)
            return True
        if conn.state not in (State.READY, State.OPEN):
            return True
        return self.proceed(conn, lead) if conn.intake.waiting else self.read(conn, lead)

    # -- looking once more --------------------------------------------------------------------------------------------

    def look(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with a connection whose time is over, as if it were not, and have it judged; False: the lead was lost.

        What is in the kernel now counts as come in time, and nothing else, so that dripping bytes gains no time.
        """
        conn.timing.late = False
        if conn.busy or conn.state is State.CLOSED:
            return True
        on = True
        if conn.state is State.HEADER:
            on = self.on_event(conn, conn.watched, lead)  # and what TLS has sent behind it
        if conn.state is State.HANDSHAKE:
            on = self.shake_on(conn, lead)
        elif conn.intake.waiting and not conn.outbox.pieces:  # it was us who did not go on
            self.io.excuse(conn)
            on = self.proceed(conn, lead)
        else:
            received, sent = conn.intake.received, conn.outbox.transfer.sent
            on = self.on_event(conn, conn.watched, lead)
            left = conn.unread() if on and self.io.is_late(conn) else 0
            while on and left > 0 and self.io.is_late(conn):
                before = conn.intake.received
                on = self.read(conn, lead)
                if conn.intake.received <= before:
                    break
                left -= conn.intake.received - before + (RECORD if conn.secure else 0)
            if on and conn.timing.stalled:
                self.io.make_up(conn, received, sent)
        if on:
            self.reaper.judge(conn)
        return on

    def shake_on(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with a handshake whose time is over; False if the lead was lost over it.

        Who has been silent only because its hello was not answered has its time for the rest. A handshake has few such
        steps, so nobody gains more than that by them.
        """
        active, hello = conn.active, conn.has_hello()
        if hello:
            conn.timing.since = self.loop.now
        on = self.on_event(conn, READ, lead)
        if on and not hello and conn.state is State.HANDSHAKE:
            conn.active = active
        return on

    # -- sending ------------------------------------------------------------------------------------------------------

    def unsent(self, conn: ClientConnection, answer: Any, error: Exception) -> None:
        """An answer could not be sent."""
        if not isinstance(error, OSError) or not can_be_sent(answer):
            self.handlers.calls.answer(conn, answer)  # says what is wrong with it
        elif isinstance(error, BLOCKED):
            self.io.keep(conn, answer, 0)
            return
        else:
            conn.give_up(error)
        self.io.settle(conn)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let everything go, once nobody leads any more: what is left belongs to handlers that still run."""
        while self.loop.inbox:
            self.loop.run_posted()
        with self.loop.lock:
            self.loop.unled = True
        for conn in self.io.connections():
            if conn.busy:  # cut, and closed by its handler when that is done, of which nobody is told any more
                if conn.outbox.filling is not None:  # else it is the handler's, who may be writing
                    conn.outbox.clear()
                self.io.left(conn, conn.ending.error or CUT)
            else:  # it was the leader's, who was stuck when all were cut, see `EventLoopGroup.abandon`
                self.io.abort(conn, CUT)
        self.loop.close()

    def forget_threads(self) -> None:
        """In a forked child, be over: what is left here, its descriptors, is closed, and nothing else.

        The poller and the connections are the parent's as well, so nobody may be unregistered, shut down or answered.
        """
        connections = self.io.connections()
        self.leadership.forget_threads()
        self.loop.forget_threads()  # first: it gives up its lock, which another thread may have had, and nobody is told
        for conn in connections:
            conn.abandon()

"""Judge: all that must hold for a server, at every turn and at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from fuzz.framings import cut
from fuzz.parts import LARGEST, Client, Turn
from treadle.server import Limits, Peer, Raw
from treadle.server._loop.poller import READ, WRITE
from treadle.server._transport.causes import DROPPED, HALF
from treadle.server._transport.connection import CHUNK, ClientConnection
from treadle.server._transport.sending.spool import Spool
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from fuzz.answers import Pieces
    from fuzz.pollers import FakeListener, FakePoller
    from fuzz.protocols import Rich
    from fuzz.stage import Stage
    from fuzz.wire import Net
    from treadle.server._group import EventLoopGroup

__all__ = ["Judge"]

SHORT = 0.02  # seconds that may pass without a look at whether anything is stuck

GENTLE = {
    "",
    "linger_timeout",
    "max_linger_bytes",
    "max_age",
    "max_message",
    "framing",
}  # ways of closing that lose no answer


class Judge:
    """The part of a World that looks at the rest."""

    stage: Stage
    net: Net
    limits: Limits
    framing: Any
    greeting: bytes
    session: bool
    moody: bool
    rich: Rich | None
    refusing: float
    untold: int
    early: Callable[[bytes], bytes | None]
    over: bool
    group: EventLoopGroup
    listener: FakeListener
    clients: list[Client]
    pieces: list[Pieces]

    def __init__(self) -> None:
        self.turns = 0
        self.jumped = 0.0  # when time moved on last though somebody had something to do
        self.unwelcome = 0  # clients that were accepted, and could not be taken in
        self.overdue: dict[ClientConnection, tuple[str, Any, float]] = {}  # by which limit, who led, since when we know
        self.not_read: dict[ClientConnection, float] = {}  # when it was seen last that the server does not read

    def about_to_wait(self, seconds: float) -> None:
        """Nobody can go on before `seconds` have passed: is anything left undone?"""
        if seconds < SHORT or self.over:
            return
        for driver in self.group.drivers:
            for conn in driver.io.connections():
                self.check_not_stuck(driver, conn)

    def check_not_stuck(self, driver: Any, conn: ClientConnection) -> None:
        """Fail if a connection has something to do, and nobody knows."""
        wire: Any = conn.sock
        waits_for_room = conn.watched & WRITE and not wire.readiness() & WRITE
        if conn.busy and conn.outbox.filling is not None and conn.outbox.filling.size:
            assert waits_for_room, f"{wire} is stuck amid an answer in pieces; {self.stage.scene()}"
        elif conn.busy and isinstance(conn.outbox.filling, Spool):
            waiting = conn.outbox.filling._room.waiting  # type: ignore[attr-defined]  # a StageCondition
            assert not waiting, f"{wire} has taken all, and nobody makes more; {self.stage.scene()}"
        if conn.busy or conn.state is not State.OPEN or conn.outbox.untold >= self.untold:
            return
        paused = wire.client.paused
        something = (
            (paused and paused._rest and paused._took)
            or wire.incoming
            or conn.intake.waiting
            or conn.outbox.pieces
            or (conn.secure and wire.plain)
            or wire.eof
        )
        assert waits_for_room or not something, (
            f"{wire} is stuck: {len(wire.incoming)} to read, {len(conn.intake.waiting)} to handle, "
            f"{conn.outbox.unsent} to send, watched for {conn.watched}; {self.stage.scene()}"
        )

    def about_to_poll(self, poller: FakePoller) -> None:
        """A leader has done its turn: look whether all agree."""
        if self.stage.failure is not None:
            return
        self.turns += 1
        driver = next(driver for driver in self.group.drivers if id(driver.loop.poller) == id(poller))
        if driver.loop.over or driver.loop.lock.locked():  # somebody is in the middle of it
            return
        self.stage.calm = True
        try:
            for fd, conn in list(driver.loop.sources.items()):
                if type(conn) is ClientConnection:
                    self.check_connection(driver, poller, fd, conn)
            for fd in poller.watched:
                assert fd in driver.loop.sources, f"{fd} is watched, and nobody's"
            assert self.group.limiter.connections <= self.limits.max_connections, "too many connections"
        except AssertionError as error:
            self.stage.tear(f"{error}; after {self.turns} turns")
        finally:
            self.stage.calm = False

    def check_connection(self, driver: Any, poller: FakePoller, fd: int, conn: ClientConnection) -> None:
        """Look at one connection that the event loop knows."""
        wire: Any = conn.sock
        said = f"{wire} {conn.state.name} watched={conn.watched} due={conn.due}"
        assert fd == conn.fd == wire.fd, said
        assert conn.state is not State.CLOSED, said
        assert not wire.closed, said
        assert (poller.watched.get(fd) or 0) == conn.watched, f"{said}: the poller watches for {poller.watched.get(fd)}"
        assert conn.due < inf, f"{said}: no timer"
        assert any(entry[2] is conn and entry[0] == conn.due for entry in driver.loop.timers.heap), (
            f"{said}: not in the heap"
        )
        self.check_outbox(conn, said)
        if conn.busy or conn.outbox.pieces:
            self.overdue.pop(conn, None)
            self.not_read[conn] = driver.loop.now
        if conn.busy:
            return
        is_told = conn.outbox.untold < self.untold and not driver.loop.inbox
        assert conn.watched or conn in driver.loop.ready or not is_told, f"{said}: forgotten"
        assert conn.intake.decoder.held <= self.limits.max_message + CHUNK, (
            f"{said}: {conn.intake.decoder.held} bytes held"
        )
        if conn.is_open and not conn.outbox.pieces and conn not in driver.loop.ready and is_told:
            assert conn.watched == conn.intake.wait_in, f"{said}: to read it waits for {conn.intake.wait_in}"
        if conn.state is State.READY:
            assert conn.watched == READ, said
            assert not any((conn.outbox.pieces, conn.intake.waiting, conn.secure)), said
            assert not any((conn.ending.closing, conn.ending.error)), said
        end, why = driver.reaper.deadlines.of(conn)
        if end > driver.loop.now or conn in driver.loop.ready:  # there it has a turn to come
            self.overdue.pop(conn, None)
        else:  # a busy connection that came back, for one, is found so at the next look
            # Who loses the lead amid others' turns leaves the rest to the next one, who has a period of its own for it.
            if self.overdue.setdefault(conn, (why, driver.leadership.lead, driver.loop.now))[:2] != (
                why,
                driver.leadership.lead,
            ):
                self.overdue[conn] = (why, driver.leadership.lead, driver.loop.now)
            late = driver.loop.now - self.overdue[conn][2]
            assert late <= driver.loop.timers.period or why == "max_age", f"{said}: {why} should have come {late} s ago"

    def check_outbox(self, conn: ClientConnection, said: str) -> None:
        """Look at what waits for a client."""
        outbox: Any = conn.outbox
        limits, filling = self.limits, outbox.filling
        spooled = sum(piece.size for piece in outbox.pieces if isinstance(piece, Spool))
        assert spooled <= limits.spool_memory + limits.spool_file + LARGEST, f"{said}: {spooled} bytes are spooled"
        others = outbox.unsent - (0 if filling in outbox.pieces else spooled)
        most = 2 * limits.max_unsent + LARGEST + 30  # those that wait when others are begun, and these; and last words
        assert others <= most, f"{said}: {others} bytes to send"
        if not conn.busy:
            sizes = [len(one) if isinstance(one, memoryview) else one.size for one in outbox.pieces if one != filling]
            assert outbox.unsent == sum(sizes), f"{said}: {outbox.unsent} bytes to send, which are {sizes}"
            assert outbox.parts == sum(1 for one in outbox.pieces if getattr(one, "is_last", False)), said

    def gone_already(self, plain: Callable[[Exception], str], error: Exception) -> str:
        """A client cannot be taken in."""
        self.unwelcome += 1
        return plain(error)

    def new_decoder(self, plain: Callable[[Peer], Any], peer: Peer) -> Any:
        """A client is about to be taken in, if its framing lets it."""
        decoder = plain(peer)
        self.unwelcome += decoder is None
        return decoder

    def left(self, plain: Callable[[ClientConnection, str], object], conn: ClientConnection, why: str) -> None:
        """A connection is about to be closed."""
        client: Client = conn.sock.client  # type: ignore[attr-defined]
        client.why.append(why)
        limits = self.limits
        least = {"read_timeout": limits.read_timeout, "idle_timeout": limits.idle_timeout}.get(why)
        least = limits.min_rate_grace if why == "min_read_rate" else least
        if conn.intake.farewell is not None:  # it was told so before
            least = None
        if client.taken_over:  # that was the conversation's own time, in which the server does not read
            least = None
        passed = self.stage.now - self.not_read.get(conn, 0.0)
        if least is not None and passed < least - 1e-6 and self.jumped < (conn.intake.begun or conn.active):
            self.stage.tear(f"{conn.sock} is cut by {why} {passed} s after the server could read it")
        client.conn = conn
        client.while_draining = any(driver.loop.draining for driver in self.group.drivers)
        untold = client.paused and not (client.paused._ended or client.paused._rest or conn.ending.closing)
        if untold and not (why or client.while_draining or self.limits.max_age):
            self.stage.tear(f"the conversation of {conn.sock} pauses, and is not told of the end")
        plain(conn, why)

    def check_the_end(self) -> None:
        """Look at what is left, and at each client's part."""
        group = self.group
        assert group.acceptors[0].reserve == -1
        assert not self.net.open, f"left open: {list(self.net.open.values())}"
        for pieces in self.pieces:
            assert pieces.closed == 1, f"pieces of client {pieces.client.number} were closed {pieces.closed} times"
        assert not self.net.pollers
        for wire in self.listener.handed_out:
            assert wire.closed == 1, f"{wire} was closed {wire.closed} times"
        for driver in group.drivers:
            assert not driver.io.connections() or group.tally.cut, f"known to the end: {driver.io.connections()}"
            for conn in driver.io.connections():
                assert conn.busy, f"{conn} is left, and not busy"
        assert not group.limiter.connections, f"{group.limiter.connections} are counted still"
        closed = self.unwelcome + sum(len(client.why) for client in self.clients)
        assert group.tally.closed == closed, f"{group.tally.closed} were counted, and {closed} are over"
        for client in self.clients:
            try:
                self.check_client(client)
            except AssertionError as error:
                raise AssertionError(f"client {client.number}: {error}; closed: {client.why}") from None

    def check_client(self, client: Client) -> None:
        """What was handled, in which order, and what was answered."""
        assert len(client.why) <= 1, "left twice"
        wire, limit = client.wire, self.limits.max_message
        if wire is None:
            return
        first_words = (self.limits.reject_connections_with, self.greeting)
        unheard = not (client.conn or client.seen or client.heard)
        if unheard and any(words.startswith(client.received) for words in first_words):
            return  # refused; or its handler was still running when the server ended
        stream = cut(self.framing, bytes(client.sent), limit, ended=client.ended or wire.reset)
        raw = isinstance(self.framing, Raw)
        heard = client.sent if self.session else stream.behind or b""
        assert heard.startswith(client.heard), f"heard {client.heard!r}, which is no part of {heard!r}"
        whole = [] if self.session else [bytes(client.sent)] if raw else stream.messages
        handled = whole if raw else [message for message in whole if self.early(message) is None]
        seen = [b"".join(client.seen)] if raw and not self.session else client.seen
        if wire.reset and seen and not raw:
            seen, part = seen[:-1], seen[-1]  # the last one may end where the system has dropped the rest
            assert b"".join(whole[len(seen) : len(seen) + 1]).startswith(part) or part in handled, (
                f"handled {part!r} of {whole!r}"
            )
        if raw and not self.session:
            assert whole[0].startswith(seen[0]), f"handled {seen!r}, which is no part of {whole!r}"
        else:
            assert seen == handled[: len(seen)], f"handled {seen!r}, sent {whole!r}"
        answered, certain, ends = self.due_to(client, whole)
        assert any(way.startswith(client.received) for way in self.ways(answered, ends)), (
            f"told {client.received!r}, answered {answered!r}"
        )
        late = self.limits.handler_timeout is not None and client.why != [""]  # though it has another name, perhaps
        faulty = late or wire.broken or wire.reset or not client.why or not GENTLE.issuperset(client.why)
        if not (wire.broken or wire.reset or self.net.faults.odd or client.taken_over):
            allowed = {"", "handshake_timeout", "read_timeout", "write_timeout", "idle_timeout", "min_read_rate"}
            allowed |= {"min_write_rate", "evicted", "cut at the end", "TLS handshake failed", "TLS cut short"} | GENTLE
            allowed |= {HALF, "handler_timeout"} if client.closing else {"handler_timeout"}
            allowed |= {DROPPED} if self.refusing else set()
            allowed |= {"head_timeout", "body_timeout"} if self.rich else set()
            assert set(client.why) <= allowed, "closed without a reason"
        amid_handshake = client.while_draining and not getattr(wire, "shaken", True)  # a server that stops ends that
        if faulty or amid_handshake:
            return
        assert len(client.received) >= certain, f"told {bytes(client.received)!r}, answered {answered!r}"
        of_itself = (
            client.taken_over
            or self.moody
            or client.closing
            or client.while_draining
            or self.limits.max_age is not None
            or stream.too_long
        )
        if client.ended and not of_itself:
            assert seen == handled, f"handled {seen!r}, sent {whole!r}"
            assert client.received == answered, f"told {client.received!r}, answered {answered!r}"

    def due_to(self, client: Client, messages: list[bytes]) -> tuple[bytes, int, list[int]]:
        """Return all that a client may be sent, in order.

        And how many bytes of it are sent, unless its connection breaks; and where it may end instead: where the last
        turn begins, and where those do behind it that need no handler, of which a decoder that fails makes nothing.
        """
        answered, certain, whole, ends = bytearray(client.greeting), len(client.greeting), True, [0]
        handled = 0
        for turn in self.in_order(client, messages):
            if turn in client.turns:
                ends, handled = [len(answered)], handled + 1
            elif self.moody:
                ends.append(len(answered))
            if self.rich and self.rich.over and (turn in client.turns or handled < len(client.turns)):
                self.check_told(client, turn, len(answered))
            answered += turn.answer
            whole = whole and turn.whole
            certain = len(answered) if whole and turn in client.turns else certain
        return bytes(answered), certain, ends

    def in_order(self, client: Client, messages: list[bytes]) -> list[Turn]:
        """Return what was handled in turn, and what needs no handler, as far as it was come to."""
        turns, order = deque(client.turns), list[Turn]()
        for message in messages if self.rich else ():
            early = self.early(message)
            if early is None and not turns:
                break
            order.append(turns.popleft() if early is None else Turn(message, early))
        return [*order, *turns]

    def check_told(self, client: Client, turn: Turn, begin: int) -> None:
        """Look at what the protocol was told of a message whose answer begins after so many bytes."""
        rich: Any = self.rich
        known, number = rich.client_of(turn.message)
        if known is None:
            return
        if rich.reply(turn.message) is not None:
            assert number not in client.told, f"{turn.message!r} was no message"
            return
        assert number in client.told, f"nothing is told of {turn.message!r}"
        sent, error = client.told[number]
        taken = max(0, min(len(client.received) - begin, len(turn.answer)))
        assert error is not None or sent == len(turn.answer), f"{sent} bytes of {turn.answer!r}, told to be all"
        dropped = "handler_timeout" in f"{client.why} {error}"  # and other words sent in its place
        assert sent == taken or dropped or turn.refused, (
            f"{sent} of {taken} bytes are told of {turn.answer!r}, {error!r}"
        )

    def ways(self, answered: bytes, ends: list[int]) -> list[bytes]:
        """Return what a client may be sent: that; with last words behind it; or with these in place of the last."""
        if self.rich is None or self.rich.refusal is None:
            return [answered]
        words = [word for word in self.rich.words.values() if isinstance(word, bytes)]
        return [begin + word for begin in (answered, *(answered[:end] for end in ends)) for word in words] + [answered]

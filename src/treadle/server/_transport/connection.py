"""ClientConnection: one client, as the server sees it."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from treadle._dispatch.worker import current_worker
from treadle.server._transport.decoder import RawDecoder
from treadle.server._transport.intake import Intake
from treadle.server._transport.peer import Peer, foretell
from treadle.server._transport.sending.file_range import FileRange
from treadle.server._transport.sending.outbox import BLOCKED, Outbox, view_of
from treadle.server._transport.sending.transfer import unacknowledged
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._loop.timers import Entry
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.observing.record import Record

__all__ = [
    "BLOCKED",
    "CHUNK",
    "RECORD",
    "ClientConnection",
    "hang_up",
    "is_ragged",
    "plain_of",
    "run_in",
]

T = TypeVar("T")

CHUNK = 256 * 1024  # bytes read at once, at most, as the event loops do; see `treadle.server._group` for what it costs
KERNEL = 16 << 20  # bytes that the kernel holds for one connection, at most; its own limit (net.ipv4.tcp_rmem) is 6 MiB
HANDSHAKE, LONGEST_RECORD = b"\x16", 5 + (1 << 14)  # how a record of one begins; bytes of a plain one, at most
UNSENDABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what the kernel says of a file that it cannot send itself
PIECE = 1 << 16  # bytes given to TLS at once, which does not say how many of them it has sent before all are
RECORD = 22  # bytes of a TLS record beside what it carries, at least (RFC 8446, section 5.2; a tag of 16 bytes)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the kernel forgets what is unsent, and sends RST


class Early(Protocol):
    """Sends what a handler has before it returns."""

    def send_ahead(self, conn: ClientConnection, data: bytes, *, whole: bool) -> None:
        """Send `data`; see `treadle.server._transport.peer.send_ahead`."""

    def open_answer(self, conn: ClientConnection) -> Any:
        """Begin the answer; see `treadle.server._transport.peer.open_answer`."""


class Ending:
    """What has been decided about a connection's end.

    Attributes:
        error: why it is broken beyond use; None: it is not. The leader may set it at any time, to end a connection that
            another thread has; else it is for the thread that has it, as `closing` is.
        why: by which limit or fault it is closed, though that is done gently; "": by none.
        closing: it is to be closed when what is answered is sent.
        last: it is to be closed after the message at hand. For the leader alone, as `looked` is.
        looked: it was read from since the server began to stop, or since it was too old.
        torn: the client has half of an answer, or may have, and is to see that.
        loop: who looks after it; None: nobody does yet, or any more.
        intake: what came of its peer; None: it is closed.
        early: sends what a handler has before it returns; None: no handler does.
    """

    __slots__ = ("closing", "early", "error", "intake", "last", "looked", "loop", "torn", "why")

    def __init__(self, intake: Intake) -> None:
        self.intake: Intake | None = intake
        self.loop: EventLoop | None = None
        self.error: str | None = None
        self.why = ""
        self.closing = False
        self.last = False
        self.looked = True
        self.torn = False
        self.early: Early | None = None

    def is_near(self) -> bool:
        """Whether nothing is answered any more but the message at hand, as far as is decided and was read."""
        intake, loop = self.intake, self.loop
        if intake is None or loop is None or self.error is not None:
            return True
        if intake.waiting or intake.more is not None:
            return False
        if intake.farewell:  # which is an answer too
            return False
        return self.closing or self.last or intake.ended or intake.farewell is not None or loop.draining

    def is_stopping(self) -> bool:
        """Whether the server stops, or the connection is closed."""
        return self.loop is None or self.loop.draining

    def send_ahead(self, fd: int, data: bytes, *, whole: bool) -> None:
        """Send `data` while the handler runs; nothing if the connection is closed."""
        loop, early = self.loop, self.early
        if loop is not None and early is not None:
            early.send_ahead(loop.sources[fd], data, whole=whole)

    def open_answer(self, fd: int) -> Any:
        """Begin the answer while the handler runs; None if the connection is closed."""
        loop, early = self.loop, self.early
        return None if loop is None or early is None else early.open_answer(loop.sources[fd])

    def forget(self) -> None:
        """The connection is closed; whoever keeps its Peer keeps nothing else of it."""
        self.intake = self.loop = self.early = None


class Timing:
    """What the deadlines of a connection are counted from, beside what it sends and is sent.

    Attributes:
        since: when it came, or began to linger.
        handled: when its handler began that runs in another thread than the leader's; 0: none does.
        queued: since when its message waits for a thread, where there is a limit to that; 0: none does.
        task: that waits so; None: none does.
        lull: since when a conversation in another thread waits for the client's next message; 0: it does not.
        late: its time is over; to be looked at once more before it is judged.
        stalled: so late were we ourselves that we did not run by then.
        probation: messages to come that are handed over before they run, for its handler has been slow.
        level: of slowness, meanwhile: 2, if it took more than 10 ms, else 1.
    """

    __slots__ = ("handled", "late", "level", "lull", "probation", "queued", "since", "stalled", "task")

    def __init__(self, now: float) -> None:
        self.since = now
        self.handled = 0.0
        self.queued = 0.0
        self.task: Any = None
        self.lull = 0.0
        self.late = False
        self.stalled = False
        self.probation = 0
        self.level = 0


class ClientConnection:
    """One client: its socket, what came and was not handled, what is to be sent, and where it stands.

    It belongs to one thread at a time: the leader, unless it is `busy`, when it belongs to the thread that runs its
    handler. (From one that is overdue the leader takes it away, see `Overdue`.) Fields marked [lock] are changed with
    the loop's lock held.
    """

    __slots__ = (
        "active",
        "context",
        "cuts",
        "due",
        "ending",
        "entry",
        "fd",
        "intake",
        "number",
        "outbox",
        "peer",
        "record",
        "recv",
        "secure",
        "send",
        "sock",
        "state",
        "timing",
        "watched",
    )

    def __init__(self, sock: socket.socket, peer: Peer, decoder: Decoder[Any], context: Context, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[Any], int] = sock.send
        self.secure = isinstance(sock, ssl.SSLSocket)
        self.peer = peer
        self.context = context  # the handler's context variables: each connection has its own
        self.cuts = not (type(decoder) is RawDecoder and decoder.limit >= CHUNK)  # whether what is read has to be cut
        self.state = State.HANDSHAKE if self.secure else State.OPEN  # [lock] to and from a busy one
        self.intake = Intake(decoder)
        self.ending = Ending(self.intake)
        foretell(peer, self.ending)
        self.outbox = Outbox()
        self.timing = Timing(now)
        self.active = now  # when it last gave a sign of life
        self.number = 0  # messages so far
        self.watched = 0  # [lock] for what the poller watches it; 0: the poller does not know it
        self.record: Record | None = None  # what observers are to be told; None: there are none
        self.due = inf  # see Timers
        self.entry: Entry | None = None

    # -- where it stands ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether another thread than the leader has it."""
        return self.state is State.BUSY or self.state is State.HANDSHAKE_BUSY

    @property
    def is_open(self) -> bool:
        """Whether messages are exchanged."""
        return self.state in (State.READY, State.OPEN, State.BUSY)

    def enter(self, state: State) -> None:
        """Go on to `state`.

        Raises:
            RuntimeError: it cannot from where it stands, see MOVES; this is a fault in treadle itself.
        """
        if state not in self.state.moves:
            raise RuntimeError(f"{self!r} cannot become {state.value!r}")
        self.state = state

    def look_closely(self) -> None:
        """Have its next message not take the short way. For the leader that has it, or may have it back."""
        if self.state is State.READY:
            self.state = State.OPEN

    def take_over(self, now: float) -> None:
        """Another thread has it now, which was the leader. The loop's lock is held."""
        self.timing.handled = now
        self.state = State.HANDSHAKE_BUSY if self.state is State.HANDSHAKE else State.BUSY

    def hand_back(self) -> None:
        """The leader has it again, or, if it has not lost it, as before."""
        self.timing.handled = 0.0
        if self.state is State.BUSY:
            self.state = State.OPEN
        elif self.state is State.HANDSHAKE_BUSY:
            self.state = State.HANDSHAKE

    def is_only_to_be_read(self) -> bool:
        """Whether nothing else is left to do, for the thread that gives it back."""
        intake, ending = self.intake, self.ending
        ends = ending.closing or ending.error or ending.last or intake.ended or intake.farewell is not None
        return not (ends or self.outbox.pieces or intake.waiting or self.secure)

    def idle(self) -> bool:
        """Whether nothing is under way, as far as we know: what may be closed without loss."""
        intake = self.intake
        return self.state in (State.READY, State.OPEN) and not (intake.waiting or self.outbox.pieces or intake.held)

    # -- what comes and goes --------------------------------------------------------------------------------------

    @property
    def plain(self) -> socket.socket:
        """The socket under TLS."""
        return plain_of(self.sock)

    def observe(self, record: Record) -> None:
        """Have `record` stand between this and its socket, and its decoder."""
        self.recv, self.send = record.count(self.recv, self.send)
        self.intake.decoder = record.timed(self.intake.decoder)
        self.record = record

    def bare(self, message: Any) -> Any:
        """Return the message itself of what waits, which is an Arrival where there are observers."""
        return message if self.record is None else message.message

    def run(self, fn: Callable[..., T], *args: Any) -> T:
        """Call the user's `fn` with the connection's context variables; what it has not set, its thread has."""
        return run_in(self.context, fn, *args)

    def write(self, answer: bytes) -> None:
        """Send `answer` behind all before it; keep what the kernel does not take. It never blocks or raises OSError."""
        view = view_of(answer)
        if self.ending.error is not None:
            return
        outbox = self.outbox
        if self.secure and len(view) > PIECE:
            outbox.add(view)
            if len(outbox.pieces) == 1:
                self.flush()
            return
        if not outbox.pieces:
            try:
                sent = self.send(view)
            except BLOCKED:
                sent = 0
            except OSError as error:
                self.give_up(error)
                return
            outbox.total += sent
            if sent == len(view):
                return
            view = view[sent:]
        outbox.add(view)

    def write_all(self, answers: Sequence[bytes | FileRange]) -> None:
        """Send several `answers`, as `write` does, without joining them; none if one is neither bytes nor in a file."""
        pieces = [answer if isinstance(answer, FileRange) else view_of(answer) for answer in answers]
        outbox = self.outbox
        first = not outbox.pieces
        for piece in pieces:
            if isinstance(piece, FileRange):
                outbox.add_part(piece)
            elif piece:
                outbox.add(piece)
        if self.ending.error is not None:
            outbox.clear()
        elif first:
            self.flush()

    def flush(self) -> None:
        """Send what the kernel takes; nothing once it was given up, or an answer that was dropped would seem sent."""
        if self.ending.error is not None:
            return
        try:
            self.outbox.send(self)
        except BLOCKED:
            pass
        except OSError as error:
            self.give_up(error)

    @property
    def at_once(self) -> int | None:
        """Bytes of views that are given to it at once, at most; None: all."""
        return PIECE if self.secure or not hasattr(self.sock, "sendmsg") else None  # as on Windows

    def send_views(self, views: Sequence[memoryview]) -> int:
        """Give the kernel several views at once, or TLS so many bytes of them; return how many bytes it took."""
        most = self.at_once
        if most is not None:  # TLS has to be called again with what begins the same, and is not shorter
            return self.send(views[0][:most] if len(views) == 1 else _joined(views, most))
        if len(views) == 1:
            return self.send(views[0])
        return self._count(self.sock.sendmsg(views))

    def send_file(self, file: Any, offset: int, size: int) -> int:
        """Give the kernel bytes of a file; return how many it took; 0: the file has none there."""
        if not self.secure and hasattr(os, "sendfile"):
            try:
                return self._count(os.sendfile(self.fd, file.fileno(), offset, size))
            except BLOCKED:
                raise
            except OSError as error:
                if error.errno not in UNSENDABLE:
                    raise
        data = os.pread(file.fileno(), min(size, PIECE), offset)
        return self.send(data) if data else 0

    def _count(self, sent: int) -> int:
        """Count what was not sent by `send`, for observers; return it."""
        if self.record is not None:
            self.record.bytes_out += sent
        return sent

    def begin_transfer(self, now: float) -> None:
        """Begin to time what is to be sent, anew if need be."""
        self.outbox.transfer.begin(now, unacknowledged(self.plain))

    def look_at_transfer(self, now: float) -> None:
        """Note how much of it the client has taken."""
        self.outbox.transfer.look(now, unacknowledged(self.plain))

    def unread(self, most: int = KERNEL) -> int:
        """Return how many bytes, `most` at most, have come and were not read. The socket must not block.

        With TLS, of its records; what is deciphered already does not count.
        """
        try:
            return len(self.plain.recv(most, socket.MSG_PEEK))
        except OSError:
            return 0

    def begin_again(self, since: float, now: float) -> None:
        """Count from `now` what began at `since` or later: we did not run in between, as it turns out."""
        if self.active >= since:
            self.active = now
        if self.intake.begun >= since:
            self.intake.restart(now)
        if self.outbox.transfer.since >= since:
            self.begin_transfer(now)
        if self.timing.since >= since and not self.is_open:
            self.timing.since = now

    def shut_down(self, how: int) -> bool:
        """Shut the socket down, one way or both, from any thread; False: the peer was faster.

        Not by SSLSocket's own way, which takes TLS from under the thread that uses it: what that sent next would go
        over the wire in plain text, and what it read would not be deciphered.
        """
        try:
            self.plain.shutdown(how)
        except OSError:
            return False
        return True

    def tear(self) -> None:
        """Have the client see, when this is closed, that it has half an answer, from any thread.

        By a reset alone: an end before it would look like the end of the whole, if the client has read what there was.
        """
        self.ending.torn = True
        self.forget_unsent()

    def forget_unsent(self) -> None:
        """Have the kernel forget what is unsent when this is closed, and send a reset, from any thread.

        So the client does not take the beginning of an answer for the whole of it.
        """
        try:
            self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            pass  # then it takes the kernel a while

    def has_hello(self) -> bool:
        """Whether a whole record of a TLS handshake has come, and was not read (RFC 8446, section 5.1)."""
        try:
            data = self.plain.recv(LONGEST_RECORD, socket.MSG_PEEK)
        except OSError:
            return False
        return data[:1] == HANDSHAKE and len(data) >= 5 + int.from_bytes(data[3:5], "big")

    def unblock(self) -> None:
        """Have the socket not block any more, after a conversation. In a forked child it is closed."""
        try:
            self.sock.setblocking(False)
        except OSError:
            pass

    def say_goodbye(self) -> None:
        """Send what ends a TLS stream (close_notify, RFC 8446, section 6.1), so that the client knows it has all.

        The socket must not block. Nothing can be read afterwards.
        """
        if self.secure:
            try:
                self.sock.unwrap()  # type: ignore[attr-defined]  # an SSLSocket
            except (OSError, ValueError):
                pass  # it is sent, and the client's, for which we do not wait, has not come; or it is broken

    def give_up(self, error: OSError | str) -> None:
        """Note that the connection is of no more use."""
        said = error if isinstance(error, str) else error.strerror or type(error).__name__
        self.ending.error = self.ending.error or said
        self.outbox.clear()

    def abandon(self) -> None:
        """In a forked child, close this copy, and have whoever still uses it find it broken; the client is not told."""
        self.state = State.CLOSED
        self.intake.decoder = None  # type: ignore[assignment]  # see ConnectionIO.cut: a framing that has forked must not go on
        self.outbox.forget_threads()
        self.give_up("the process forked")
        self.sock.close()

    def attend(self, event: int) -> None:
        """Never called: the leader attends to connections itself."""
        raise NotImplementedError

    def is_silent(self) -> bool:
        """Whether nothing has come that was not read. For the leader that has it."""
        return not (self.unread(1) or (self.secure and self.sock.pending()))  # type: ignore[attr-defined]  # an SSLSocket

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer} {self.state.value}>"


def is_ragged(error: OSError) -> bool:
    """Whether it is the end without TLS's own goodbye; Python 3.11.2, for one, has no class of its own for that."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def run_in(context: Context, fn: Callable[..., T], *args: Any) -> T:
    """Call the user's `fn` with the variables of `context`; what that has not set, the thread has."""
    worker = current_worker()
    if worker is None or worker.lent is None:
        return context.run(fn, *args)
    return worker.lent.run(context, fn, *args)


def _joined(views: Sequence[memoryview], most: int) -> bytes:
    """Return the bytes of `views`, at most so many."""
    some: list[memoryview] = []
    for view in views:
        if most <= 0:
            break
        some.append(view[:most])
        most -= len(view)
    return b"".join(some)


def plain_of(sock: socket.socket) -> socket.socket:
    """Return the socket under TLS. Not by way of `socket.socket`, which other libraries replace."""
    return super(ssl.SSLSocket, sock) if isinstance(sock, ssl.SSLSocket) else sock  # type: ignore[return-value]  # a proxy


def hang_up(sock: socket.socket) -> None:
    """Close a client's socket so that the client sees the end, though a child process may hold a copy.

    What was sent is delivered all the same. Not for a forked child itself, for it would end the parent's connection.
    """
    try:
        plain_of(sock).shutdown(socket.SHUT_RDWR)  # not SSLSocket's own way, see ClientConnection.shut_down
    except OSError:
        pass  # the peer was faster
    with suppress(OSError):  # somebody has closed it behind our back
        sock.close()

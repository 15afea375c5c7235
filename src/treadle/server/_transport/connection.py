"""Connection: one client, as the server sees it; and Peer, as its handlers do."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from treadle._dispatch.worker import current_worker
from treadle.server._loop.poller import READ
from treadle.server._transport.decoder import RawDecoder
from treadle.server._transport.peer import Peer

if TYPE_CHECKING:
    from treadle.server._accept.proxy import Header
    from treadle.server._loop.timers import Entry
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.observing.record import Record

__all__ = [
    "BLOCKED",
    "CHUNK",
    "RECORD",
    "ClientConnection",
    "Phase",
    "hang_up",
    "is_ragged",
    "plain_of",
]

T = TypeVar("T")

CHUNK = 256 * 1024  # bytes read at once, at most, as the event loops do; see `treadle.server._group` for what it costs
KERNEL = 16 << 20  # bytes that the kernel holds for one connection, at most; its own limit (net.ipv4.tcp_rmem) is 6 MiB
HANDSHAKE, LONGEST_RECORD = b"\x16", 5 + (1 << 14)  # how a record of one begins; bytes of a plain one, at most
PIECE = 1 << 16  # bytes given to TLS at once, which does not say how many of them it has sent before all are
RECORD = 22  # bytes of a TLS record beside what it carries, at least (RFC 8446, section 5.2; a tag of 16 bytes)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the kernel forgets what is unsent, and sends RST
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Phase(Enum):
    """Where a connection stands. It only ever moves down this list."""

    HEADER = "PROXY header"  # of a trusted proxy, which says who the client is
    SHAKING = "TLS handshake"
    OPEN = "open"
    CLOSING = "closing"  # what is answered is still being sent; nothing is read
    LINGERING = "lingering"  # all is sent, and our half closed; what the peer still sends is thrown away
    CLOSED = "closed"


class ClientConnection:
    """One client's socket, what was read from it and not handled, and what is to be sent.

    It belongs to one thread at a time: the leader, unless `busy`, when it belongs to the thread that runs its handler.
    Fields marked [lock] are changed with the loop's lock held.
    """

    __slots__ = (
        "active",
        "begun",
        "busy",
        "calm",
        "closing",
        "context",
        "decoder",
        "due",
        "ended",
        "entry",
        "error",
        "farewell",
        "fd",
        "feed",
        "handled",
        "header",
        "held",
        "last",
        "late",
        "looked",
        "lull",
        "number",
        "out",
        "out_since",
        "peer",
        "phase",
        "plain",
        "received",
        "record",
        "recv",
        "secure",
        "send",
        "sent",
        "since",
        "slow",
        "sock",
        "stalled",
        "unsent",
        "vet",
        "wait_in",
        "waiting",
        "watched",
        "why",
    )

    feed: Callable[[bytes], Any] | None
    entry: Entry | None

    def __init__(self, sock: socket.socket, peer: Peer, decoder: Decoder[Any], context: Context, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[Any], int] = sock.send
        self.peer = peer
        self.decoder = decoder
        self.feed = (
            None if type(decoder) is RawDecoder and decoder.limit >= CHUNK else decoder.feed
        )  # None: nothing to cut
        self.context = context  # the handler's context variables: each connection has its own
        self.secure = isinstance(sock, ssl.SSLSocket)
        self.plain = plain_of(sock)
        self.phase = Phase.SHAKING if self.secure else Phase.OPEN
        # Whether the leader may take the short way: open, plain, nobody's but the leader's, nothing waiting anywhere,
        # and its handler not slow lately.
        self.calm = False
        self.busy = False  # [lock] another thread than the leader has it
        self.watched = 0  # [lock] for what the poller watches it; 0: the poller does not know it
        self.wait_in = READ  # what TLS waits for before it can go on reading
        self.slow = 0  # messages to come that are handed over beforehand
        self.number = 0  # messages so far
        self.waiting: deque[Any] = deque()  # messages that were read and not handled; with a record, as Arrivals
        self.ended = False  # the peer will send no more
        self.farewell: bytes | None = None  # the last bytes, for the client sends what makes no message; None: go on
        self.closing = False  # to be closed when what is answered is sent
        self.last = False  # to be closed after the message at hand, for it is too old
        self.late = False  # its time is over; to be looked at once more before it is judged
        self.stalled = False  # so late were we ourselves that we did not run by then
        self.looked = True  # read from since the server began to stop, or since it was too old
        self.error: str | None = None  # why it is broken beyond use
        self.header: Header | None = None  # of a trusted proxy, as far as it came
        self.vet: Callable[[ClientConnection, bytes], bool] | None = (
            None  # tells by its first bytes whether it may go on
        )
        self.record: Record | None = None  # what observers are to be told; None: there are none
        self.why = ""  # by which limit or fault it is closed, though that is done gently; "": by none
        # What is answered and not sent.
        self.out: deque[memoryview] = deque()
        self.unsent = 0  # bytes
        self.out_since = 0.0
        self.sent = 0  # bytes of it, so far
        # For the timers.
        self.due, self.entry = inf, None
        self.since = now
        self.active = now  # when it last gave a sign of life
        self.handled = 0.0  # when its handler began that runs in another thread than the leader's; 0: none does
        self.lull = (
            0.0  # since when a conversation in another thread waits for the client's next message; 0: it does not
        )
        self.begun = 0.0  # when the message that is not complete began; 0: there is none
        self.held = 0  # bytes of it that the decoder holds back
        self.received = 0  # bytes of it

    def observe(self, record: Record) -> None:
        """Have `record` stand between this and its socket, and its decoder."""
        self.recv, self.send = record.count(self.recv, self.send)
        self.decoder = record.timed(self.decoder)
        self.record = record

    def run(self, fn: Callable[..., T], *args: Any) -> T:
        """Call the user's `fn` with the connection's context variables; what it has not set, its thread has."""
        worker = current_worker()
        if worker is None or worker.lent is None:
            return self.context.run(fn, *args)
        return worker.lent.run(self.context, fn, *args)

    def write(self, answer: bytes) -> None:
        """Send `answer` behind all before it; keep what the kernel does not take. It never blocks or raises OSError."""
        view = memoryview(answer)
        view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
        if self.error is not None:
            return
        if self.secure and len(view) > PIECE:
            self.keep(view)
            if len(self.out) == 1:
                self.flush()
            return
        if not self.out:
            try:
                sent = self.send(view)
            except BLOCKED:
                sent = 0
            except OSError as error:
                self.give_up(error)
                return
            if sent == len(view):
                return
            view = view[sent:]
        self.keep(view)

    def keep(self, view: memoryview) -> None:
        """Note that `view` is still to be sent. What the handler may change by then is copied."""
        self.calm = False
        self.out.append(view if type(view.obj) is bytes else memoryview(view.tobytes()))
        self.unsent += len(view)

    def flush(self) -> bool:
        """Send what the kernel takes; return whether it took something, or all that there is."""
        before = self.unsent
        while self.out:
            view = self.out[0]
            piece = view[:PIECE] if self.secure else view
            try:
                sent = self.send(piece)
            except BLOCKED:
                break
            except OSError as error:
                self.give_up(error)
                return True
            self.unsent -= sent
            self.sent += sent
            if sent == len(view):
                self.out.popleft()
                continue
            self.out[0] = view[sent:]
            if sent < len(piece):
                break
        return self.unsent < before or not before

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
        if self.begun >= since:
            self.begun, self.received = now, 0
        if self.out_since >= since:
            self.out_since, self.sent = now, 0
        if self.since >= since and self.phase is not Phase.OPEN:
            self.since = now

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
        self.error = self.error or (error if isinstance(error, str) else error.strerror or type(error).__name__)
        self.calm = False
        self.out.clear()
        self.unsent = 0

    def abandon(self) -> None:
        """In a forked child, close this copy, and have whoever still uses it find it broken; the client is not told."""
        self.phase = Phase.CLOSED
        self.decoder = None  # type: ignore[assignment]  # see ConnectionIO.cut: a framing that has forked is not to go on
        self.give_up("the process forked")
        self.sock.close()

    def taken_over(self, now: float) -> None:
        """Another thread has it, the one that was the leader. The loop's lock is held."""
        self.handled = now
        self.busy = True
        self.calm = False

    def attend(self, event: int) -> None:
        """Never called: the leader attends to connections itself."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether nothing is under way, as far as we know: what may be closed without loss."""
        return not (self.busy or self.waiting or self.out or self.held) and self.phase is Phase.OPEN

    def is_silent(self) -> bool:
        """Whether nothing has come that was not read. For the leader that has it."""
        return not (self.unread(1) or (self.secure and self.sock.pending()))  # type: ignore[attr-defined]  # an SSLSocket

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer} {self.phase.value}>"


def is_ragged(error: OSError) -> bool:
    """Whether it is the end without TLS's own goodbye; Python 3.11.2, for one, has no class of its own for that."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


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

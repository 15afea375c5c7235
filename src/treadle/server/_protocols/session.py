"""Session: a blocking function for each connection, which holds a thread while it runs."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from treadle._base import checks, clock
from treadle._base.words import counted
from treadle._tasks.call import name_of
from treadle.errors import MessageTooLong
from treadle.server._transport.causes import CUT_SHORT
from treadle.server._transport.connection import BLOCKED, RECORD, is_ragged
from treadle.server._transport.deadlines import JAM, STALL, TransferLimit
from treadle.server._transport.decoder import CloseConnection, Decoder, RawDecoder
from treadle.server._transport.limits import Limits

if TYPE_CHECKING:
    from treadle.server._transport.connection import ClientConnection
    from treadle.server._transport.peer import Peer

__all__ = ["Connection", "Session", "begin"]

CHUNK = 64 * 1024  # bytes read at once, at most
PAUSE = object()  # what `Connection.pause` returns


class Session:
    """Call `handler(conn)` for every connection; when it returns, the connection is closed, unless it pauses.

    The handler is an ordinary function, reads and writes as it likes, and holds one of the pool's threads until it
    returns. So it is not called before the client has sent something, and `conn` gives up on clients that are slower
    than the limits allow. For protocols of one message and one answer `Messages` needs no thread for clients that
    wait, and is far quicker.

    A handler that ends with `return conn.pause()` holds no thread while the client is silent, and is called again, with
    the same `conn`, when there is something to read. Each call counts as a message, in snapshots and for observers.

    Args:
        handler: takes a `Connection`. What it raises closes the connection and is logged, but for CloseConnection,
            and for what `conn` raised because the client was late, or left, or sent more than `Limits.max_message`.
            What it returns is ignored, but for what `conn.pause()` gave it.
        speaks_first: whether the handler is called as soon as the client has come in, for protocols in which the
            server greets. Each client then takes a thread before it has said anything, and when all threads are taken,
            the next ones are greeted only as threads come free.

    Raises:
        TypeError: an argument is of the wrong type, or `handler` is async, or cannot be called so.
    """

    greeting = b""

    def __init__(self, handler: Callable[[Connection], object], *, speaks_first: bool = False) -> None:
        checks.handler("handler", handler, "conn", instead="Messages(...), with the command no --session")
        self.handler = handler
        self.speaks_first = checks.boolean("speaks_first", speaks_first)
        self.name = name_of(handler)
        self.converse = partial(begin, handler)

    def decoder(self, limits: Limits, peer: Peer) -> Decoder[bytes]:
        """Return what passes the first bytes on as they come."""
        return RawDecoder(CHUNK)

    def handle(self, message: Any, peer: Peer) -> bytes | None:
        """Never called: a conversation is not cut into messages."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"Session({self.name})"


class Connection:
    """The client, for a Session's handler: read, write, close. For one thread at a time.

    Every method that waits raises TimeoutError when the server's Limits say so, and OSError when the client is gone.
    A handler may let both pass, and MessageTooLong and EOFError: they close the connection and are no failure of it.

    Attributes:
        peer: who the client is.
    """

    def __init__(self, connection: ClientConnection, limits: Limits) -> None:
        self.peer = connection.peer
        self._connection = connection
        self._sock = connection.sock
        self._idle = limits.idle_timeout
        self._most = limits.max_message
        self._reading = TransferLimit("read", limits.read_timeout, limits.min_read_rate, limits.min_rate_grace)
        self._writing = TransferLimit("write", limits.write_timeout, limits.min_write_rate, limits.min_rate_grace)
        self._rest = bytearray()  # read, and not taken
        self._took = False  # the handler has taken some of it, or of what was read in this call
        self._paused = False  # `pause` was called, in this call of the handler
        self._ended = False  # it was told of the end
        self._closed = False
        self._cut_short = False  # it was not the client who has ended it, as far as can be told
        self._pulled = 0.0  # when a message that was late was looked for in the kernel last
        self._excused = False  # it was us who kept it waiting: its time is counted from now on
        self._gone: OSError | EOFError | None = None  # what a method raised last
        self._why = ""  # by which limit, or fault of the network

    def recv(self, most: int = CHUNK) -> bytes:
        """Return what has come, 1 to `most` bytes, or wait for it; b"" when the client sends no more.

        With TLS also at an end without its goodbye (close_notify), as many clients leave, and anybody on the way can
        make them: what was read by then may be half of what was sent.

        Raises:
            TimeoutError: nothing came for `Limits.idle_timeout` seconds.
            OSError: the client is gone.
            ValueError: `most` is less than 1.
        """
        self._took = True
        if checks.integer("most", most, least=1) and not self._rest:
            return self._read(most)
        data = bytes(self._rest[:most])
        del self._rest[:most]
        return data

    def recv_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            EOFError: the client ended before.
            TimeoutError: the first did not come in `Limits.idle_timeout`, or the last in `Limits.read_timeout` seconds.
            MessageTooLong: `size` is more than `Limits.max_message`.
            OSError: the client is gone.
        """
        if checks.integer("size", size, least=0) > self._most:
            raise MessageTooLong(self._most, size)
        if not self._collect(lambda searched: len(self._rest) >= size):
            self._gone = EOFError(f"{self.peer} ended after {len(self._rest)} of {counted(size, 'byte')}")
            raise self._gone
        data = bytes(self._rest[:size])
        del self._rest[:size]
        self._took = self._took or size > 0
        return data

    def readline(self) -> bytes:
        r"""Return the next line with its "\n"; without one, what came before the client's end; b"" at the end.

        Raises:
            EOFError: the connection was cut off amid the line: with TLS, by an end without its goodbye, which anybody
                on the way can make; or by the server, at the end of a stop. `recv` returns what came of it.
            TimeoutError: the first byte did not come in `Limits.idle_timeout`, or the last in `Limits.read_timeout`
                seconds.
            MessageTooLong: the line is longer than `Limits.max_message`, its "\n" not counted.
            OSError: the client is gone.
        """
        whole = self._collect(lambda searched: self._rest.find(b"\n", searched) >= 0)
        if self._rest and self._cut_short and not whole:
            self._gone = EOFError(f"{self.peer} was cut off after {counted(len(self._rest), 'byte')} of a line")
            raise self._gone
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        line = bytes(self._rest[:end])
        if len(line.removesuffix(b"\n")) > self._most:
            raise MessageTooLong(self._most)
        del self._rest[:end]
        self._took = True
        return line

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, waiting for the client to take it.

        What raises here leaves the client with a part: at the end the connection is reset, so that it can tell.

        Raises:
            TimeoutError: it took nothing for `Limits.write_timeout` seconds, or less than `Limits.min_write_rate`.
            OSError: the client is gone.
            TypeError: `data` is no bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data={data!r} is {type(data).__name__}; allowed: bytes")
        view, since, sent, before = memoryview(data).cast("B"), clock.now(), 0, 0
        moved = since  # when the client has taken some of it last
        try:
            while sent < len(view):
                try:
                    self._sock.settimeout(self._writing.left(since, sent - before, clock.now(), moved))
                    sent += self._connection.send(view[sent : sent + CHUNK])
                    moved = clock.now()
                except TimeoutError as error:
                    stalled = clock.now() - self._writing.end(since, sent - before, moved)[0] > STALL
                    taken = self._push(view[sent:]) if _is_late(error) else 0
                    if not taken:
                        raise
                    sent += taken
                    moved = clock.now()
                    if stalled:  # and it went on meanwhile, see ConnectionIO.make_up
                        since, before = moved, sent
                    elif sent < len(view):
                        self._writing.left(since, sent - before, moved, moved)  # raises, if it is late nevertheless
        except BaseException as error:
            if not isinstance(error, ssl.SSLError):  # whose alert says why, and is not to be forgotten
                self._connection.forget_unsent()
            if isinstance(error, OSError):
                self._note(error, self._writing.end(since, sent - before, moved)[1])
            raise

    def _say_last(self, answer: Any) -> None:
        """Send the last bytes, if the client still takes them."""
        try:
            self.sendall(answer)
        except OSError:
            pass  # it is closed next

    def close(self) -> None:
        """Say that nothing more will be sent; the connection is closed when the handler returns.

        What the client still sends can be read until then, but not with TLS, where this is the end of both directions.
        """
        self._connection.ending.closing = True
        if not self._closed:
            self._closed = True
            self._connection.unblock()
            self._connection.say_goodbye()
            self._connection.shut_down(socket.SHUT_WR)

    def pause(self) -> object:
        """Have the handler called again, with this object, when there is something to read: `return conn.pause()`.

        Until then it holds no thread. The client's end is something to read, too: `recv` returns b"" then, once, and
        also when the client is gone. What was read and not taken is kept; if there is some, the handler is called again
        after others had their turn; or when more has come, if it has taken nothing. A connection that pauses is idle:
        `Limits.idle_timeout`, `max_age`, a stop of the server or an eviction close it without a word to the handler. It
        is closed as well if the handler returns something else, has called `close`, or was told of the end before. A
        `with conn:` around it does not close.
        """
        self._paused = True
        return PAUSE

    def _go_on(self) -> None:
        """The handler is called next: take in what was read meanwhile."""
        waiting = self._connection.intake.waiting
        for data in waiting:
            self._rest += data
        waiting.clear()
        self._took = self._paused = False

    def _pauses(self, returned: object) -> bool:
        """Whether the handler, which has returned, is to be called again; soon, if there is something to read now.

        Who has taken nothing waits for more, or it would be called for ever.
        """
        if returned is not PAUSE or not self._paused or self._closed:
            return False
        intake = self._connection.intake
        if self._rest and self._took:
            intake.waiting.append(b"")  # what is read stays here, or each call would copy all of it
        elif len(self._rest) > self._most:
            raise MessageTooLong(self._most)
        return bool(intake.waiting) or not (self._ended or intake.ended)

    def _collect(self, enough: Callable[[int], bool]) -> bool:
        """Read until `enough(bytes searched before)`; False: the client ended before."""
        searched, since = 0, clock.now()
        while not enough(searched):
            if not searched:
                since = clock.now()  # of the first byte, or just before
            searched = len(self._rest)
            if searched > self._most:
                raise MessageTooLong(self._most)
            data = self._read(CHUNK, since if searched else None)
            if self._excused:
                since, self._excused = clock.now(), False
            if not data:
                return False
            self._rest += data
        return True

    def _read(self, most: int, since: float | None = None) -> bytes:
        """Return what comes next, of a message that began at `since`, or has not yet (None)."""
        data = self._wait(most, since)
        self._ended = not data
        return data

    def _wait(self, most: int, since: float | None) -> bytes:
        connection, sock = self._connection, self._sock
        if connection.intake.ended or (self._closed and connection.secure):
            return b""
        try:
            if since is None:
                sock.settimeout(self._idle)
                connection.timing.lull = clock.now()  # a server that stops ends it
            else:
                sock.settimeout(self._reading.left(since, len(self._rest), clock.now()))
            data = self._receive(most)
        except OSError as error:
            late = self._pull(most, since) if _is_late(error) else None
            if late is not None:
                return self._vetted(late)
            self._note(error, "idle_timeout" if since is None else self._reading.end(since, len(self._rest))[1])
            raise
        finally:
            connection.timing.lull = 0.0
        return self._vetted(data)

    def _receive(self, most: int) -> bytes:
        """Return what comes; b"" at the end, and note if that may be somebody else's than the client's."""
        connection = self._connection
        try:
            data = connection.recv(most)
        except ssl.SSLError as error:
            if not is_ragged(error):
                raise
            self._cut_short = True
            if self._rest:
                connection.ending.why = connection.ending.why or CUT_SHORT
            return b""
        if not data and (connection.ending.error is not None or connection.ending.last):  # the server has cut it
            self._cut_short = True
        return data

    def _vetted(self, data: bytes) -> bytes:
        """Return what was read, unless the client may not go on after that."""
        connection = self._connection
        if connection.intake.vet is None or connection.intake.vet(connection, data):
            return data
        connection.shut_down(socket.SHUT_RDWR)
        self._gone = ConnectionAbortedError(errno.ECONNABORTED, connection.ending.error)
        raise self._gone

    def _pull(self, most: int, since: float | None) -> bytes | None:
        """Return what is in the kernel now that the time is over, for perhaps it was us who did not run; None: nothing.

        Of a message that has begun, all of it, and once only, so that dripping bytes gains no time.
        """
        connection, data, stalled = self._connection, bytearray(), False
        if since is not None:
            end = self._reading.end(since, len(self._rest))[0]
            if end <= self._pulled:
                return None
            self._pulled = clock.now()
            stalled = self._pulled - end > STALL
            most = CHUNK
        try:
            self._sock.setblocking(False)
            left = 1 if since is None else max(1, connection.unread())
            while left > 0 and (chunk := self._receive(most)):
                data += chunk
                left -= len(chunk) + (RECORD if connection.secure else 0)
        except OSError:
            if not data:
                return None
        self._excused = stalled and len(data) >= JAM  # it filled what the kernel has for it, see ConnectionIO.make_up
        return bytes(data)

    def _push(self, view: memoryview) -> int:
        """Return how much the kernel takes now that the time is over: perhaps it was us who did not run."""
        sent = 0
        try:
            self._sock.setblocking(False)
            while sent < len(view):
                sent += self._connection.send(view[sent : sent + CHUNK])
        except BLOCKED:
            pass
        return sent

    def _note(self, error: OSError, limit: str) -> None:
        """Remember why the client cannot be served on."""
        self._gone = error
        self._why = limit if _is_late(error) else error.strerror or type(error).__name__

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None or not self._paused:
            self.close()

    def __repr__(self) -> str:
        return f"<Connection with {self.peer}>"


def begin(handler: Callable[[Connection], object], connection: ClientConnection, limits: Limits) -> bool:
    """Have `handler` converse with a client, to the end or until it pauses; return whether it does."""
    conversation = Connection(connection, limits)
    connection.intake.conversation = partial(_go_on, handler, conversation)
    return _go_on(handler, conversation, connection, limits)


def _go_on(
    handler: Callable[[Connection], object], conversation: Connection, connection: ClientConnection, limits: Limits
) -> bool:
    """Call the handler, for the first time or after a pause; return whether it pauses."""
    conversation._go_on()
    try:
        return conversation._pauses(connection.run(handler, conversation))
    except MessageTooLong:
        connection.ending.why = "max_message"
        raise
    except CloseConnection as closing:
        conversation._say_last(closing.answer)
    except (OSError, EOFError) as error:
        if error is not conversation._gone:
            raise
        if connection.record is not None:
            connection.record.fail(error)
        if isinstance(error, ssl.SSLError):  # of which an alert has told it, that is not to be lost to a reset
            connection.ending.why = connection.ending.why or conversation._why
        elif isinstance(error, OSError):  # the client was late, or left: no fault of the handler's
            connection.ending.error = connection.ending.error or conversation._why
    finally:
        conversation._gone = None  # its traceback holds the conversation
        connection.unblock()
    return False


def _is_late(error: OSError) -> bool:
    """Whether it is a limit's, and not one of the network's own time-outs."""
    return isinstance(error, TimeoutError) and error.errno is None

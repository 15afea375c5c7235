"""Rfile: what a `socketserver` handler reads its client by, with a limit on how long a client may take.

The handler's `rfile` is still what `socketserver` makes, an io.BufferedReader or, without a buffer, a raw file; between
it and the socket's own file stands a Source. That limits each call, and can be given bytes that have been received
already, so that the head of a request is gathered while no thread waits for it.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
import sys
from socketserver import StreamRequestHandler
from typing import Any, cast

from treadle._base import clock
from treadle.server._socketserver.head import Head

__all__ = ["Reader", "Source", "limit_receiving", "limit_sending", "take_over"]

STRIDE = 1 << 16  # bytes of one call that start its time anew, so that who sends much may take longer: 2 KB/s in 30 s
AT_ONCE = 1 << 16  # bytes received in one call
NOW = getattr(socket, "MSG_DONTWAIT", 0)  # for a blocking socket, without two changes of its mode
WINDOWS = sys.platform == "win32"


class Source(io.RawIOBase):
    """Stands before a socket's raw file. It has its attributes too.

    Args:
        inner: the socket's file.
        read_timeout: seconds for each call, and for each STRIDE bytes of a longer one; None: no limit. If the socket
            has a longer time-out, each may take so long.
        buffered: whether a Reader stands before it, and tells it when a call begins.
    """

    def __init__(
        self, inner: socket.SocketIO, connection: socket.socket, read_timeout: float | None, *, buffered: bool
    ) -> None:
        self.inner = inner
        self.connection = connection
        self.read_timeout = read_timeout
        self.buffered = buffered
        self.single = not buffered  # each `readinto` is a call of its own
        self.due: float | None = None  # when the call under way has taken too long; None: from the next wait on
        self.left = STRIDE  # bytes until its time starts anew
        self.begun: float | None = None  # when the first byte of the call came; None: it had come before
        self.head_due: float | None = None  # when the head under way has taken too long, whatever calls read it
        self.first = bytearray()  # what is received already, and comes before all else
        self.dry = False  # nothing is read at all
        self.error: Exception | None = None  # what became of an earlier try to receive
        self.head = Head()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the socket's file."""
        if name == "inner":  # it is not set up, or was taken apart
            raise AttributeError(name)
        return getattr(self.inner, name)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.inner.fileno()

    def close(self) -> None:
        """Close the socket's file."""
        if not self.closed:
            self.inner.close()
        super().close()

    # -- for the handler --------------------------------------------------------------------------------------------

    def readinto(self, buffer: Any) -> int | None:
        """Read into `buffer` what has been received, or receive.

        Raises:
            TimeoutError: the client takes too long.
        """
        if self.dry:
            return None
        if self.first:
            view = memoryview(buffer).cast("B")
            size = min(len(view), len(self.first))
            view[:size] = self.first[:size]
            del self.first[:size]
            return size
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.read_timeout is None:
            return self.inner.readinto(buffer)
        return self._receive_into(buffer, self.read_timeout)

    def _receive_into(self, buffer: Any, limit: float) -> int | None:
        now = clock.now()
        timeout = self.connection.gettimeout()
        due = self.head_due
        if due is None:
            if self.due is None or self.single or self.left <= 0:
                self.due, self.left = now + max(limit, timeout or 0.0), STRIDE
            due = self.due
        if now > due:
            raise TimeoutError(f"the client has sent too little for read_timeout={limit:g} s")
        size: int | None = self.inner.readinto(buffer)
        if size is None and timeout is None:  # see limit_receiving
            raise TimeoutError(f"the client has sent nothing for read_timeout={limit:g} s")
        self.left -= size or 0
        if self.begun is None:
            self.begun = clock.now()
        return size

    def begin_head(self) -> None:
        """Limit all that is read up to `end_head`, and the line before it, together, however many calls read it."""
        if self.read_timeout is not None:
            now, timeout = clock.now(), self.connection.gettimeout()
            self.head_due = (now if self.begun is None else self.begun) + max(self.read_timeout, timeout or 0.0)

    def end_head(self) -> None:
        """Limit each call by itself again."""
        self.head_due = None

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line, in the time for one call."""
        self.due, self.begun, self.single = None, None, False
        try:
            return super().readline(size)
        finally:
            self.single = not self.buffered

    def readall(self) -> bytes:
        """Read up to the end, in the time for one call."""
        self.due, self.single = None, False
        try:
            return super().readall()
        finally:
            self.single = not self.buffered

    # -- for the conversation ---------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether some of the next request has come."""
        return bool(self.first)

    def gather(self) -> bool:
        """Receive what has come of the next request's head, without waiting; return whether the handler has all of it.

        Or all that it will get: what was received before an end or an error, which it is to meet.
        """
        try:
            whole = self.head.end_in(self.first) >= 0
            while not whole and (chunk := self._receive_now()):
                self.first += chunk
                whole = self.head.end_in(self.first) >= 0
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError) as error:
            self.error = error
        self.head = Head()
        return True

    def _receive_now(self) -> bytes:
        """Receive what is there, or raise an error."""
        connection = self.connection
        timeout = connection.gettimeout()
        if timeout is None and NOW and not isinstance(connection, ssl.SSLSocket):
            return self._receive(NOW)
        connection.settimeout(0.0)
        try:
            return self._receive()
        finally:
            connection.settimeout(timeout)

    def _receive(self, flags: int = 0) -> bytes:
        """Receive what is there; without a buffer, of what is no longer head nothing, for it may not be the handler's.

        http.server's CGI handlers leave the rest to a child, on the socket itself.
        """
        connection = self.connection
        if self.buffered or isinstance(connection, ssl.SSLSocket):
            return connection.recv(AT_ONCE, flags)
        chunk = connection.recv(AT_ONCE, flags | socket.MSG_PEEK)
        end = self.head.copy().end_in(self.first + chunk)
        return connection.recv(len(chunk) if end < 0 else end - len(self.first)) if chunk else b""


class Reader(io.BufferedReader):
    """Buffers what a Source gives, and tells it when a call begins."""

    def __init__(self, source: Source, size: int) -> None:
        super().__init__(source, size)
        self.source = source

    @property
    def started(self) -> bool:
        """Whether some of the next request has come."""
        return self.source.started

    def begin_head(self) -> None:
        """Do as Source does."""
        self.source.begin_head()

    def end_head(self) -> None:
        """Do as Source does."""
        self.source.end_head()

    def gather(self) -> bool:
        """Do as Source does, with what is in the buffer."""
        source = self.source
        source.dry = True
        try:
            source.first[:0] = super().read(len(super().peek()))
        except ValueError:  # it is closed, as the handler is to find
            return True
        finally:
            source.dry = False
        return source.gather()

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes."""
        self.source.due = None
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Read what there is, or else what comes first."""
        self.source.due = None
        return super().read1(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line."""
        self.source.due = self.source.begun = None
        return super().readline(size)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer."""
        self.source.due = None
        return super().readinto(buffer)

    def readinto1(self, buffer: Any, /) -> int:
        """Read into a buffer what there is, or else what comes first."""
        self.source.due = None
        return super().readinto1(buffer)

    def peek(self, size: int = 0, /) -> bytes:
        """Show what is in the buffer, or else what comes first."""
        self.source.due = None
        return super().peek(size)


def take_over(handler: Any, read_timeout: float | None) -> None:
    """Have a handler that was set up read by a Source, unless it reads in a way of its own."""
    rfile, connection = getattr(handler, "rfile", None), getattr(handler, "connection", None)
    if not isinstance(connection, socket.socket):
        return
    if type(rfile) is socket.SocketIO:
        handler.rfile = Source(rfile, connection, read_timeout, buffered=False)
    elif type(rfile) is io.BufferedReader and type(rfile.raw) is socket.SocketIO:
        standard = type(handler).setup is StreamRequestHandler.setup  # which reads nothing
        held = b"" if standard else _buffered(rfile, connection)
        source = Source(cast(socket.SocketIO, rfile.detach()), connection, read_timeout, buffered=True)
        source.first += held
        handler.rfile = Reader(source, handler.rbufsize if handler.rbufsize > 1 else io.DEFAULT_BUFFER_SIZE)


def _buffered(rfile: io.BufferedReader, connection: socket.socket) -> bytes:
    """Return what was received with something that the handler's `setup` has read already, as of a proxy's header."""
    timeout = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        return rfile.read(len(rfile.peek()))
    except OSError:  # there is nothing, or the handler is to meet the error
        return b""
    finally:
        connection.settimeout(timeout)


def limit_receiving(sock: socket.socket, seconds: float) -> None:
    """Have a blocking socket wait for its client for so long only, and then raise BlockingIOError.

    Not `settimeout`, which also limits how long a client may take for an answer, however large, and sets the socket
    non-blocking for programs that get it as their standard input or output. A time-out that is set goes before this.
    """
    _limit(sock, socket.SO_RCVTIMEO, seconds)


def limit_sending(sock: socket.socket, seconds: float) -> None:
    """Have a blocking socket wait for so long only until its client has taken some more, and then raise likewise.

    That is for each call of the system's, of which `sendall` makes as many as it takes: who takes all in good time may
    take long.
    """
    _limit(sock, socket.SO_SNDTIMEO, seconds)


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    # Zero is no limit there. A century overflows nothing.
    micros = max(1, int(min(seconds, 1e8) * 1e6))
    value = struct.pack("@L", micros // 1000 or 1) if WINDOWS else struct.pack("@ll", *divmod(micros, 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, option, value)

"""PoolMixIn: the standard library's `socketserver`, and `http.server`, on a bounded number of threads."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOPROTOOPT, EPERM, EPROTO
from socketserver import BaseServer, TCPServer
from typing import TYPE_CHECKING, Any, Self, cast

from treadle._base import checks, clock
from treadle._pool.pool import Pool
from treadle.server._socketserver.keepalive import check_handler, handle
from treadle.server._socketserver.request import current_request
from treadle.server._socketserver.requests import RequestManager

if TYPE_CHECKING:

    class Base(BaseServer):
        """Has what all servers that accept have, and BaseServer does not."""

        def fileno(self) -> int:
            """Return the listener's descriptor."""
            raise NotImplementedError

else:
    Base = object

__all__ = ["PoolMixIn"]

AT_ONCE = 16  # requests let in before the others have their turn; peers take 4 to 128
LONGEST_QUEUE = 65535  # of clients, in the kernel; the kernel takes what it can
# Whoever came has gone, and may be followed by others at once; see accept(2).
PASSING = (BlockingIOError, ConnectionError, InterruptedError, TimeoutError, ssl.SSLError)
PASSING_NUMBERS = {None, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOPROTOOPT, EPERM, EPROTO}
INHERITS = not sys.platform.startswith("linux")  # whether an accepted socket is non-blocking because its listener is


class PoolMixIn(Base):
    """Mix it into a server of `socketserver` or `http.server`, in place of ThreadingMixIn:

        class MyServer(PoolMixIn, socketserver.TCPServer): ...

    Request handlers run unchanged, on the threads of a pool, and no other thread is started. A client that has not sent
    anything yet holds no thread: the thread in `serve_forever` waits for all of them. So it does during TLS handshakes,
    and for an HTTP client until the head of a request is there, of the first one and of each that follows. All hooks of
    BaseServer are called as ThreadingMixIn calls them, `finish_request`, `handle_error` and `shutdown_request` on a
    thread of the pool.

    An HTTP client holds no thread before and between requests if the request handler is a BaseHTTPRequestHandler with
    `handle` and `__init__`, and the server one with `finish_request`, as in the standard library. Any other handler
    keeps its thread from the client's first byte until its `handle` returns; how long it may wait for the client there
    is limited by `read_timeout`. `handle_request` waits for no client without a thread.

    Attributes, of the class or set before serving:
        max_workers: threads of the server's own pool, 1 or more; None: as for Pool.
        pool: a Pool to share instead, which is left open; None: one of its own.
        wait_for_first_byte: whether clients wait for their first byte without a thread. False where the server speaks
            first, as in SMTP and FTP, and then they keep their thread between requests, too.
        max_connections: clients at once, waiting or served, 1 or more; of datagrams, those not answered yet. Beyond
            that, nothing is accepted until one leaves.
        idle_timeout: seconds, 0 or more, that a client may wait without a thread before it is closed; None: no limit.
        handshake_timeout: seconds, 0 or more, for a TLS handshake, in all; None: no limit. (For a TLS server, wrap
            its `socket`, or let `get_request` wrap with `do_handshake_on_connect=False`.)
        read_timeout: seconds, 0 or more, from the first byte of an HTTP request's head to its last; on a thread, for
            each line, or each 64 KiB, that a handler reads from its `rfile`, or the head that http.server's
            `parse_request` does, and for each `recv`, unless the handler sets a time-out of its own. Then TimeoutError
            is raised. None: no limit. Where the handler is no StreamRequestHandler, or the client's socket is a TLS
            one, this is the socket's time-out, and so limits each `sendall` too.
        write_timeout: seconds, 0 or more, in which a client must have taken some more of what a StreamRequestHandler
            sends, unless that sets a time-out of its own, or the socket is a TLS one. Then BlockingIOError, an OSError,
            is raised. None: no limit.
        drain_timeout: seconds, 0 or more, that `server_close` waits for running handlers before it cuts their clients
            off; None: as long as it takes.
        block_on_close: whether `server_close` waits, and cuts, at all.
        daemon_threads: True: neither `server_close` nor the interpreter's exit waits for running handlers.
    """

    max_workers: int | None = None
    pool: Pool | None = None
    wait_for_first_byte: bool = True
    max_connections: int = 10_000
    idle_timeout: float | None = 60.0
    handshake_timeout: float | None = 10.0
    read_timeout: float | None = 30.0
    write_timeout: float | None = 30.0
    drain_timeout: float | None = 10.0
    block_on_close: bool = True
    daemon_threads: bool = False

    # Names of its own are mangled: subclasses have the ones with a single underscore, as of BaseServer.
    __manager: RequestManager

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose other bases go before, for it would serve without the pool, and not say so.

        Raises:
            TypeError: the standard library's methods are found first.
        """
        super().__init_subclass__(**kwargs)
        for name in ("process_request", "serve_forever"):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner.__module__ == "socketserver":
                raise TypeError(
                    f"class {cls.__name__}: its {name} is {owner.__name__}'s, so nothing runs on a pool; "
                    f"name PoolMixIn first, as in class {cls.__name__}(PoolMixIn, ...)"
                )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Return a server that is not set up yet. Not in `__init__`, which subclasses may not call."""
        self = super().__new__(cls)
        self.__manager = RequestManager(self, self.__let_in)
        return self

    @property
    def RequestHandlerClass(self) -> Any:
        """What makes the handler of a request."""
        return self.__manager.handler

    @RequestHandlerClass.setter
    def RequestHandlerClass(self, handler: Any) -> None:
        """Take what makes the handlers."""
        check_handler(handler)
        self.__manager.set_handler(handler)

    @property
    def _threads(self) -> _Threads:
        """The threads that handle a request now, as in ThreadingMixIn."""
        return _Threads(self.__manager.threads())

    # -- serving ----------------------------------------------------------------------------------------------------

    def server_activate(self) -> None:
        """Listen, with the longest queue that the kernel allows unless a class, or the server, sets its own."""
        owner = next((cls for cls in type(self).__mro__ if "request_queue_size" in vars(cls)), None)
        if owner is TCPServer and "request_queue_size" not in vars(self):
            self.request_queue_size = LONGEST_QUEUE
        super().server_activate()

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Handle requests until `shutdown`; this thread waits for clients, and the pool's handle them.

        Args:
            poll_interval: seconds, at most, between two calls of `service_actions`. Shutdown does not wait for it.

        Raises:
            RuntimeError: another thread is in here.
            TypeError, ValueError: an attribute is of the wrong type, or out of range.
        """
        with _not_blocking(getattr(self, "socket", None)):
            self.__manager.serve(poll_interval)

    def shutdown(self) -> None:
        """Have `serve_forever` return, and wait until it has; at once if nobody serves.

        From any thread, a handler's included; in serve_forever's own, from a signal handler too, and there it does
        not wait. If serve_forever is only about to begin, it returns at once. Clients that wait are kept until
        `server_close`, and for a later serve_forever.
        """
        self.__manager.stop()

    def handle_request(self) -> None:
        """Handle one request, as in the standard library; while `max_connections` are there, wait for room first."""
        if self.__manager.wait_for_room(self.timeout):
            super().handle_request()
        else:
            self.handle_timeout()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a request on a thread of the pool, once the client has sent something."""
        self.__manager.take(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make a handler, which handles the request; for an HTTP/1.1 client, the first of its requests."""
        current, standard = current_request(), super().finish_request
        if current is None or getattr(standard, "__func__", None) is not BaseServer.finish_request:
            standard(request, client_address)
            return
        # What a method of the user's own does after this one would come too early if the handler waited.
        outermost = type(self).finish_request is PoolMixIn.finish_request and "finish_request" not in vars(self)
        handle(current.conversation, self.RequestHandlerClass, request, client_address, self, waits=outermost)

    def _handle_request_noblock(self) -> bool:
        """Let one request in; return False if there is none."""
        listener = getattr(self, "socket", None)
        if isinstance(listener, ssl.SSLSocket):
            cast(Any, listener).do_handshake_on_connect = False  # it would keep all others waiting
        try:
            request, client_address = self.get_request()
        except OSError as error:
            if not isinstance(error, PASSING) and error.errno not in PASSING_NUMBERS:
                self.__manager.hold_off(error)
            return False
        if client_address is None and self.__manager.is_deaf():  # of datagrams it lets in empty ones for ever then
            return False
        self.__manager.accepted()
        if INHERITS and isinstance(request, socket.socket) and request.gettimeout() is None:
            request.setblocking(True)
        if not self.verify_request(request, client_address):
            self.__manager.dismiss(request)
            return True
        try:
            self.process_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
            self.__manager.dismiss(request)
        except BaseException:
            self.__manager.dismiss(request)
            raise
        return True

    def __let_in(self) -> None:
        """Let some requests in; for the serving thread, when there is one."""
        # Several where it is certain that none does not mean waiting.
        standard: Any = TCPServer.get_request
        certain = type(self).get_request is standard and cast(TCPServer, self).socket.gettimeout() == 0.0
        for number in range(AT_ONCE if certain else 1):
            if not self._handle_request_noblock():
                if number == 0:  # somebody was there, or it was no client that made the listener ready
                    self.__manager.is_deaf()
                return
            if self.__manager.stopping or not self.__manager.has_room():
                return

    # -- the end ----------------------------------------------------------------------------------------------------

    def server_close(self) -> None:
        """Accept no more, close the clients that wait, and wait up to `drain_timeout` seconds for handlers that run.

        If serve_forever runs, it returns. From a handler, nothing is waited for. What still runs after that time finds
        that its clients have left.

        Raises:
            TypeError, ValueError: `drain_timeout` is of the wrong type, or out of range.
        """
        manager, timeout = self.__manager, checks.seconds("drain_timeout", self.drain_timeout)
        deadline = None if timeout is None else clock.now() + timeout
        manager.close(timeout)
        datagrams = getattr(self, "socket_type", None) == socket.SOCK_DGRAM
        if not datagrams:
            super().server_close()
        waits = self.block_on_close and not self.daemon_threads and current_request() is None
        if waits:
            manager.drain(deadline)
        if datagrams:  # handlers answer through this very socket
            super().server_close()
        manager.close_pool(wait=waits)


class _Threads(list[threading.Thread]):
    """What ThreadingMixIn, in a server that has it as well, finds as its threads when it closes."""

    def join(self) -> None:
        """Wait for none: they are the pool's, and `server_close` waits for what they do."""


@contextmanager
def _not_blocking(listener: Any) -> Iterator[None]:
    """Have a listener accept without waiting: a client may leave, or be another process's, before it is accepted."""
    if not isinstance(listener, socket.socket) or listener.type != socket.SOCK_STREAM:
        yield
        return
    timeout = listener.gettimeout()
    _set_timeout(listener, 0.0)
    try:
        yield
    finally:
        _set_timeout(listener, timeout)


def _set_timeout(listener: socket.socket, timeout: float | None) -> None:
    try:
        listener.settimeout(timeout)
    except OSError:
        pass  # it is closed, or is being closed

"""Visit: one request that a `socketserver` server let in, from then until it is closed.

One thread at a time owns a visit, and only the owner touches its socket:

    state      owner                    leaves it by
    parked     the serving thread       a byte, its deadline, or server_close: the poller forgets the descriptor first
    handed     nobody                   a thread of the pool takes it; or the pool drops it
    running    that thread              the conversation ends, or waits for its next request, and is handed back
    over       -

So no descriptor is closed while the poller knows it, and none is closed by a thread while another one looks at it.
"""

from __future__ import annotations

import functools
import io
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from math import inf
from socketserver import BaseRequestHandler, BaseServer
from typing import TYPE_CHECKING, Any

from treadle import checks, clock
from treadle.server.poller import READ, WRITE

if TYPE_CHECKING:
    from treadle.futures import Future
    from treadle.server.lot import Lot

__all__ = ["Visit", "keeping"]

STANDARD_INITS = (BaseRequestHandler.__init__, SimpleHTTPRequestHandler.__init__)  # that call `handle`

_here = threading.local()


class Visit:
    """A request, its client's address, and its handler while that waits for the next request of a conversation.

    Args:
        lot: the server's.
        request: what `get_request` returned: a socket, or for datagrams a tuple.
        polled: whether a thread serves that may poll its socket.
    """

    __slots__ = (
        "address",
        "due",
        "ending",
        "fd",
        "handler",
        "lot",
        "polled",
        "request",
        "shake_by",
        "task",
        "thread",
        "wants",
    )

    def __init__(self, lot: Lot, request: Any, address: Any, *, polled: bool) -> None:
        self.lot = lot
        self.request = request
        self.address = address
        self.polled = polled
        self.handler: Any = None
        self.wants = READ  # what it waits for while it is parked
        self.fd = -1  # the descriptor under which it is parked
        self.due = inf  # see Timers
        self.task: Future[Any] | None = None
        self.thread: threading.Thread | None = None  # the one that runs it
        self.ending = False  # its socket is being closed; guarded by the lot's lock
        self.shake_by: float | None = None  # the deadline of the TLS handshake, until that is done
        if isinstance(request, ssl.SSLSocket) and request.version() is None:
            timeout = lot.server.handshake_timeout
            self.shake_by = inf if timeout is None else clock.now() + timeout

    def attend(self, event: int) -> None:
        """Go on, for it is ready; `event` 0: it is too late. For the serving thread."""
        self.lot.unpark(self)
        if event or self.handler is not None:  # a handler says farewell in a thread of the pool: it is the user's code
            if not event:
                self.wants = 0
            self.lot.hand_over(self)
        else:
            self.leave()

    def waits(self) -> bool:
        """Whether there is nothing to do before the client sends something."""
        return self.polled and self.descriptor() >= 0 and (self.shake_by is not None or self.lot.server.park)

    def descriptor(self) -> int:
        """Return the descriptor to poll; -1 if there is none."""
        holder = self.request if self.handler is None else self.handler.connection
        return holder.fileno() if isinstance(holder, socket.socket) else -1

    # -- in a thread of the pool ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go on with the conversation; and hand it back, or end it."""
        outer = getattr(_here, "visit", None)
        _here.visit, self.thread = self, threading.current_thread()
        back = False
        try:
            try:
                back = self._advance()
            except Exception:
                self.lot.server.handle_error(self.request, self.address)
            finally:
                if not back:
                    self.close()
        except BaseException:  # as in a thread of ThreadingMixIn, SystemExit included
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))
        finally:
            _here.visit, self.thread = outer, None
            if back:
                self.lot.give_back(self, ready=self.handler is not None and _has_more(self.handler))
            else:
                self.lot.forget(self)

    def _advance(self) -> bool:
        """Run the handler as far as it goes without waiting for the client; return whether there is more to come."""
        if self.shake_by is not None:
            try:
                if not self._shake():
                    return True
            except OSError as error:
                self.lot.tell_failed_handshake(self, error)
                return False
            self.shake_by, self.wants = None, READ
            if self.waits() and not self.request.pending():
                return True
        if self.handler is None:
            self.lot.server.finish_request(self.request, self.address)
        else:
            self._resume()
        return self.handler is not None

    def _shake(self) -> bool:
        """Go on with the TLS handshake; return whether it is done."""
        timeout = self.request.gettimeout()
        # Where nobody polls, it is done here and now; else as far as it goes, and a slow client holds no thread.
        self.request.settimeout(0.0 if self.polled else self.lot.server.handshake_timeout)
        try:
            self.request.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = READ
            return False
        except ssl.SSLWantWriteError:
            self.wants = WRITE
            return False
        finally:
            self.request.settimeout(timeout)
        return True

    def _resume(self) -> None:
        """Let the handler handle one more request, or finish if the client was idle for too long."""
        handler, again = self.handler, False
        try:
            if self.wants:
                handler.handle_one_request()
                again = not handler.close_connection
        finally:
            if not again:
                self.handler = None
                handler.finish()

    def keeps(self, handler: Any) -> bool:
        """Whether `handler` may wait for its next request without a thread."""
        lot = self.lot
        return (
            self.polled
            and lot.server.park
            and handler.server is lot.server
            # What a server or a handler of the user's own does after the conversation would come too early.
            and type(lot.server).finish_request is BaseServer.finish_request
            and "finish_request" not in vars(lot.server)
            and isinstance(getattr(handler, "connection", None), socket.socket)
            and isinstance(handler.rfile, (io.BufferedReader, socket.SocketIO))
        )

    # -- the end ----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End it. For its owner."""
        handler, self.handler = self.handler, None
        try:
            try:
                if handler is not None:
                    handler.finish()
            finally:
                self.close()
        except Exception:
            self.lot.server.handle_error(self.request, self.address)
        finally:
            self.lot.forget(self)

    def close(self) -> None:
        """Close the socket. The only place where that is done."""
        with self.lot.lock:
            self.ending = True
        self.lot.server.shutdown_request(self.request)

    def cut(self) -> None:
        """Have a handler that waits for its client see the end of it; its owner closes the socket."""
        with self.lot.lock:  # so the owner does not close it meanwhile, and nobody opens another by the same number
            if not self.ending and isinstance(self.request, socket.socket):
                try:
                    # Not SSLSocket's, which takes the TLS layer from under the thread that uses it.
                    socket.socket.shutdown(self.request, socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended already

    def settled(self, task: Future[Any]) -> None:
        """Leave if the pool dropped the task; for the task's callback."""
        if task.cancelled() or task.exception() is not None:
            self.leave()


def current_visit() -> Visit | None:
    """Return the visit that this thread runs."""
    return getattr(_here, "visit", None)


def keeping(handler: Any) -> Any:
    """Return a handler class that waits for the next request of a conversation without a thread, if that can be done.

    It can with a subclass of BaseHTTPRequestHandler that leaves `handle` and `__init__` as they are, for one of its
    own may do more after the last request, and would do it after the first. A `functools.partial` of one will do.

    Raises:
        TypeError: a method is async which the standard library would call, and not await.
    """
    if isinstance(handler, functools.partial):
        return functools.partial(keeping(handler.func), *handler.args, **handler.keywords)
    _refuse_async(handler)
    standard = (
        isinstance(handler, type)
        and issubclass(handler, BaseHTTPRequestHandler)
        and handler.handle is BaseHTTPRequestHandler.handle
        and handler.__init__ in STANDARD_INITS
    )
    return _kept(handler) if standard else handler


def _refuse_async(handler: Any) -> None:
    """Raise if a handler class has async methods that would not run, unless it calls them in a way of its own."""
    if not isinstance(handler, type):
        return
    names: list[str] = []
    if issubclass(handler, BaseRequestHandler) and handler.__init__ in STANDARD_INITS:
        names += ("setup", "handle", "finish")
    if (
        issubclass(handler, BaseHTTPRequestHandler)
        and handler.handle_one_request is BaseHTTPRequestHandler.handle_one_request
    ):
        names += (name for name in dir(handler) if name.startswith("do_"))
    for name in names:
        checks.blocking(f"{handler.__name__}.{name}", getattr(handler, name))


def _kept(base: Any) -> type:
    """Return a subclass of `base` that ends `handle` after each request, and `finish`es after the last one."""

    def handle(self: Any) -> None:
        visit = current_visit()
        if visit is None or not visit.keeps(self):
            base.handle(self)
            return
        self.close_connection = True
        self.handle_one_request()
        if not self.close_connection:
            visit.handler = self

    def finish(self: Any) -> None:
        visit = current_visit()
        if visit is None or visit.handler is not self:
            base.finish(self)

    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    make: Callable[..., type] = type(base)
    return make(base.__name__, (base,), {**names, "handle": handle, "finish": finish})


def _has_more(handler: Any) -> bool:
    """Whether some of the client's next request has been read already, by the handler's file or by the TLS layer.

    The poller sees neither.
    """
    connection = handler.connection
    if not isinstance(handler.rfile, io.BufferedReader):
        return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
    try:
        timeout = connection.gettimeout()
        connection.settimeout(0.0)
        try:
            return bool(handler.rfile.peek(1))  # reads from the socket, and so from the TLS layer, if it has nothing
        finally:
            connection.settimeout(timeout)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except Exception:
        return True  # the handler is to meet the error

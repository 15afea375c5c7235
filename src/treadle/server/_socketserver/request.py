"""Request: one request that a `socketserver` server let in, from then until it is closed.

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
import os
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from math import inf
from socketserver import BaseRequestHandler, StreamRequestHandler
from typing import TYPE_CHECKING, Any

from treadle._base import checks, clock
from treadle.server._loop.poller import READ, WRITE
from treadle.server._socketserver.rfile import Reader, Source, limit_receiving, limit_sending, take_over
from treadle.server._transport.connection import plain_of

if TYPE_CHECKING:
    from treadle._tasks.future import Future
    from treadle.server._loop.timers import Entry
    from treadle.server._socketserver.requests import RequestManager

__all__ = ["Request", "can_wait", "check_handler", "current_visit", "handle"]

LEAST = 1e-6  # seconds; for sockets, 0 is another mode
LINGER, LINGER_BYTES = 2.0, 1 << 16  # seconds, and bytes, after a refusal; those of Limits
STANDARD_INITS = (BaseRequestHandler.__init__, SimpleHTTPRequestHandler.__init__)  # that call `handle`

_here = threading.local()


class Request:
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
        "entry",
        "fd",
        "handler",
        "head_by",
        "limited",
        "linger_by",
        "lot",
        "orphaned",
        "polled",
        "ready",
        "request",
        "shake_by",
        "task",
        "thread",
        "unheard",
        "wants",
    )

    def __init__(self, lot: RequestManager, request: Any, address: Any, *, polled: bool) -> None:
        self.lot = lot
        self.request = request
        self.address = address
        self.polled = polled
        self.handler: Any = None
        self.ready = False  # all that its handler needs of its next request has been received
        self.head_by: float | None = None  # when it is too late for the rest of a request's head, once that has begun
        self.limited: float | None = None  # the time-out that its socket was given, for `read_timeout`
        self.wants = READ  # what it waits for while it is parked
        self.fd = -1  # the descriptor under which it is parked
        self.due = inf  # see Timers
        self.entry: Entry | None = None
        self.task: Future[Any] | None = None
        self.thread: threading.Thread | None = None  # the one that runs it
        self.orphaned = False  # this is a forked child, and the visit is the parent's
        self.ending = False  # its socket is being closed; guarded by the lot's lock
        self.linger_by: float | None = None  # when the end of a client is awaited no longer that was refused
        self.unheard = 0  # bytes that it has sent since
        self.shake_by: float | None = None  # the deadline of the TLS handshake, until that is done
        if isinstance(request, ssl.SSLSocket) and request.version() is None:
            self.shake_by = _from_now(lot.server.handshake_timeout)

    def attend(self, event: int) -> None:
        """Go on, for it is ready; `event` 0: it is too late. For the serving thread."""
        self.lot.unpark(self)
        if self.linger_by is not None:
            if event and self._lingers():
                self.lot.give_back(self)
            else:
                self.leave()
        elif event or self.handler is not None:  # which says farewell in a thread of the pool: it is the user's code
            if not event:
                self.wants = 0
            self.lot.hand_over(self)
        else:
            self.leave()

    def waits(self) -> bool:
        """Whether there is nothing to do before the client sends something."""
        return (
            self.polled
            and self.descriptor() >= 0
            and (self.shake_by is not None or self.lot.server.wait_for_first_byte)
        )

    def descriptor(self) -> int:
        """Return the descriptor to poll; -1 if there is none."""
        holder = self.request if self.handler is None else self.handler.connection
        return holder.fileno() if isinstance(holder, socket.socket) else -1

    def patience_ends(self) -> float:
        """Return when it is too late for what it waits for now."""
        for deadline in (self.linger_by, self.shake_by, self.head_by):
            if deadline is not None:
                return deadline
        return _from_now(self.lot.server.idle_timeout)

    # -- in a thread of the pool ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go on with the conversation; and hand it back, or end it."""
        outer = getattr(_here, "visit", None)
        _here.visit, self.thread = self, threading.current_thread()
        back = False
        try:
            try:
                back = self._advance() and not self.orphaned
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
                self.lot.give_back(self, ready=self.ready)
            else:
                self.lot.forget(self)

    def _advance(self) -> bool:
        """Run the handler as far as it goes without waiting for the client; return whether there is more to come."""
        if self.shake_by is not None:
            try:
                if not self._shake():
                    if clock.now() < self.shake_by:
                        return True
                    raise TimeoutError(f"it took longer than handshake_timeout={self.lot.server.handshake_timeout} s")
            except OSError as error:
                self.lot.tell_failed_handshake(self, error)
                return isinstance(error, ssl.SSLError) and self._refuse()
            self.shake_by, self.wants = None, READ
            if self.waits() and not self.request.pending():
                return True
        try:
            if self.handler is None:
                self._begin()
            else:
                self._resume()
        except BlockingIOError as error:
            limits = self.lot.server.read_timeout, self.lot.server.write_timeout
            if limits != (None, None) and isinstance(self.request, socket.socket) and self.request.gettimeout() is None:
                said = "the client has sent nothing for read_timeout=%s s, or taken nothing for write_timeout=%s s"
                raise TimeoutError(said % limits) from error  # see limit_receiving
            raise
        return self.handler is not None

    def _begin(self) -> None:
        """Have the server make a handler, which handles the request, or its first one."""
        request, limit = self.request, checks.seconds("read_timeout", self.lot.server.read_timeout)
        if limit is not None and isinstance(request, socket.socket) and request.gettimeout() is None:
            request.settimeout(max(limit, LEAST))
            self.limited = request.gettimeout()
        self.lot.server.finish_request(request, self.address)

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

    def _refuse(self) -> bool:
        """Say no more, and await the client's end; return whether that is still to come.

        An alert says why. A close while bytes of the client's are unread would have the kernel send RST, and take it
        back. Below TLS, which has nothing more to say.
        """
        self.linger_by, self.wants = clock.now() + LINGER, READ
        try:
            plain_of(self.request).shutdown(socket.SHUT_WR)
            if self.polled:
                self.request.settimeout(0.0)
                return True
            while (left := self.linger_by - clock.now()) > 0:
                self.request.settimeout(left)
                if not self._lingers():
                    break
        except OSError:
            pass  # it has ended already
        return False

    def _lingers(self) -> bool:
        """Throw away what a client sends that was refused; return False if it has ended, or sends too much."""
        try:
            size = len(plain_of(self.request).recv(LINGER_BYTES))
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.unheard += size
        return size > 0 and self.unheard <= LINGER_BYTES

    def prepare(self, handler: Any) -> None:
        """Limit how long a handler that was set up waits for its client, and have it able to wait without a thread."""
        request, connection = self.request, getattr(handler, "connection", None)
        if not isinstance(connection, socket.socket) or connection.fileno() < 0:  # its `setup` has seen to it
            return
        plain = connection is request and not isinstance(request, ssl.SSLSocket)
        if plain and self.limited is not None and request.gettimeout() == self.limited:  # not the handler's own
            request.settimeout(None)
            limit_receiving(request, self.limited)
        if plain and request.gettimeout() is None and (limit := self.lot.server.write_timeout) is not None:
            limit_sending(request, limit)
        take_over(handler, self.lot.server.read_timeout)

    def may_wait(self, handler: Any) -> bool:
        """Whether `handler` may wait for its requests without a thread."""
        lot = self.lot
        return (
            self.polled
            and lot.server.wait_for_first_byte
            and handler.server is lot.server
            and isinstance(getattr(handler, "connection", None), socket.socket)
            and isinstance(getattr(handler, "rfile", None), (Reader, Source))
        )

    def converse(self, handler: Any) -> bool:
        """Let the handler handle a request, if one is there; return whether the conversation goes on."""
        if self.ready or self._gathered(handler):
            self.ready, self.head_by = False, None
            handler.handle_one_request()
            if handler.close_connection:
                return False
            self.ready = self._gathered(handler)
        if self.head_by is None or self.ready or clock.now() < self.head_by:
            return True
        _tell_late(handler)
        return False

    def _gathered(self, handler: Any) -> bool:
        """Receive what is there; return whether the handler has all that it needs of a request."""
        rfile = handler.rfile
        if not isinstance(rfile, (Reader, Source)) or rfile.gather():
            return True
        if self.head_by is None and rfile.started:
            self.head_by = _from_now(self.lot.server.read_timeout)
        return False

    def _resume(self) -> None:
        """Let the handler handle one more request, or finish if the client took too long."""
        handler, again = self.handler, False
        try:
            if self.wants:
                again = self.converse(handler)
            elif self.head_by is not None:
                _tell_late(handler)
        finally:
            if not again:
                self.handler = None
                handler.finish()

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
        """Close the socket. The only place where that is done, but for `abandon`."""
        if self.orphaned:
            self.abandon()
            return
        with self.lot.lock:
            self.ending = True
        self.lot.server.shutdown_request(self.request)

    def abandon(self) -> None:
        """In a forked child, close this copy of the socket, and neither shut it down nor say anything to the client."""
        for holder in (self.request, getattr(self.handler, "connection", None)):
            # Detached, for files of the handler's keep it open; and what they hold back is not for the child to send.
            if isinstance(holder, socket.socket) and holder.fileno() >= 0:
                os.close(holder.detach())

    def cut(self) -> None:
        """Have a handler that waits for its client see the end of it; its owner closes the socket."""
        with self.lot.lock:  # so the owner does not close it meanwhile, and nobody opens another by the same number
            if not self.ending and isinstance(self.request, socket.socket):
                try:
                    # Not SSLSocket's, which takes the TLS layer from under the thread that uses it.
                    plain_of(self.request).shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended already

    def settled(self, task: Future[Any]) -> None:
        """Leave if the pool dropped the task; for the task's callback."""
        if task.cancelled() or task.exception() is not None:
            self.leave()


def current_visit() -> Request | None:
    """Return the visit that this thread runs."""
    return getattr(_here, "visit", None)


def check_handler(handler: Any) -> None:
    """Check what makes the handlers of requests.

    Raises:
        TypeError: a method is async which the standard library would call, and not await.
    """
    if isinstance(handler, functools.partial):
        check_handler(handler.func)
    else:
        _refuse_async(handler)


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


def can_wait(handler: Any) -> bool:
    """Whether handlers can wait for the requests of a conversation without a thread.

    Those of a subclass of BaseHTTPRequestHandler can that leaves `handle` and `__init__` as they are, for one of its
    own may do more after the last request, and would do it after the first. A `functools.partial` of one will do.
    """
    if isinstance(handler, functools.partial):
        return can_wait(handler.func)
    return (
        isinstance(handler, type)
        and issubclass(handler, BaseHTTPRequestHandler)
        and handler.handle is BaseHTTPRequestHandler.handle
        and handler.__init__ in STANDARD_INITS
    )


def handle(visit: Request, make: Any, request: Any, address: Any, server: Any, *, waits: bool) -> None:
    """Make a handler, as `make(request, address, server)` does, with hooks that limit it.

    The hooks are attributes of the handler itself, not of a class of ours in the place of the user's: each takes itself
    away while the method of its name is called, so that the user's code finds the handler as it would be without. (But
    for `parse_request`, which is called for each request: between two it is there.)

    Args:
        waits: whether nothing of the user's comes after the handler's end, so that it may wait without a thread.
    """
    kind: Any = make
    args: tuple[Any, ...] = (request, address, server)
    keywords: dict[str, Any] = {}
    while isinstance(kind, functools.partial):
        args, keywords, kind = kind.args + args, {**kind.keywords, **keywords}, kind.func
    hookable = isinstance(kind, type) and issubclass(kind, StreamRequestHandler)
    if not hookable or type(kind).__call__ is not type.__call__:
        make(request, address, server)
        return
    handler: Any = kind.__new__(kind, *args, **keywords)
    if not isinstance(handler, kind):
        return
    own = vars(handler)

    def setup() -> None:
        del own["setup"]
        handler.setup()
        visit.prepare(handler)
        if waits and can_wait(type(handler)) and "handle" not in own and visit.may_wait(handler):
            own["handle"] = converse
        elif issubclass(kind, BaseHTTPRequestHandler):  # it waits for heads on its thread
            rfile = getattr(handler, "rfile", None)
            if isinstance(rfile, (Reader, Source)) and "parse_request" not in own:
                own["parse_request"] = functools.partial(parse_request, rfile)

    def parse_request(rfile: Reader | Source) -> bool:
        hook = own.pop("parse_request")
        rfile.begin_head()
        try:
            return bool(handler.parse_request())
        finally:
            rfile.end_head()
            own["parse_request"] = hook

    def converse() -> None:
        del own["handle"]
        handler.close_connection = True
        if visit.converse(handler):
            own["finish"] = pass_by
            visit.handler = handler

    def pass_by() -> None:
        del own["finish"]

    own["setup"] = setup
    try:
        type(handler).__init__(handler, *args, **keywords)
    finally:
        own.pop("setup", None)
        own.pop("parse_request", None)


def _tell_late(handler: Any) -> None:
    """Say, as http.server does, that a request did not come in time."""
    limit = handler.server.read_timeout
    handler.log_error("Request timed out: %r", TimeoutError(f"its head took longer than read_timeout={limit} s"))


def _from_now(timeout: float | None) -> float:
    return inf if timeout is None else clock.now() + timeout

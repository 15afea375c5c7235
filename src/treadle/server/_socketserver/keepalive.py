"""Keep-alive: how a BaseHTTPRequestHandler waits for its client's next request without a thread.

And what any StreamRequestHandler gets on the way: limits on how long it waits for its client.
"""

from __future__ import annotations

import functools
import socket
import ssl
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from math import inf
from socketserver import BaseRequestHandler, StreamRequestHandler
from typing import Any, Protocol

from treadle._base import checks, clock
from treadle.server._socketserver.rfile import Reader, Source, limit_receiving, limit_sending, take_over

__all__ = ["KeepAlive", "Limiting", "can_wait", "check_handler", "handle"]

LEAST = 1e-6  # seconds; for sockets, 0 is another mode
STANDARD_INITS = (BaseRequestHandler.__init__, SimpleHTTPRequestHandler.__init__)  # that call `handle`


class Limiting(Protocol):
    """What is asked of a server about its conversations."""

    read_timeout: float | None
    write_timeout: float | None
    wait_for_first_byte: bool


class KeepAlive:
    """A client's requests, one after the other, and the handler while that waits for the next of them.

    For the thread that owns the request, but for `handler`, which is not changed while a request waits.

    Args:
        server: the handler's.
        sock: what `get_request` returned.
        polled: whether somebody polls the socket, so that the handler need not wait for it.

    Attributes:
        handler: the one that waits for its next request; None: none does.
        ready: all that it needs of its next request has been received.
        head_by: when it is too late for the rest of a request's head, once that has begun.
        limited: the time-out that the socket was given, for `read_timeout`.
    """

    __slots__ = ("handler", "head_by", "limited", "polled", "ready", "server", "sock")

    def __init__(self, server: Limiting, sock: Any, *, polled: bool) -> None:
        self.server = server
        self.sock = sock
        self.polled = polled
        self.handler: Any = None
        self.ready = False
        self.head_by: float | None = None
        self.limited: float | None = None

    def limit(self) -> None:
        """Limit how long a handler that is about to be made waits for its client, until it is set up."""
        sock, limit = self.sock, checks.seconds("read_timeout", self.server.read_timeout)
        if limit is not None and isinstance(sock, socket.socket) and sock.gettimeout() is None:
            sock.settimeout(max(limit, LEAST))
            self.limited = sock.gettimeout()

    def prepare(self, handler: Any) -> None:
        """Limit how long a handler that was set up waits for its client, and have it able to wait without a thread."""
        sock, connection = self.sock, getattr(handler, "connection", None)
        if not isinstance(connection, socket.socket) or connection.fileno() < 0:  # its `setup` has seen to it
            return
        plain = connection is sock and not isinstance(sock, ssl.SSLSocket)
        if plain and self.limited is not None and sock.gettimeout() == self.limited:  # not the handler's own
            sock.settimeout(None)
            limit_receiving(sock, self.limited)
        if plain and sock.gettimeout() is None and (limit := self.server.write_timeout) is not None:
            limit_sending(sock, limit)
        take_over(handler, self.server.read_timeout)

    def may_wait(self, handler: Any) -> bool:
        """Whether `handler` may wait for its requests without a thread."""
        return (
            self.polled
            and self.server.wait_for_first_byte
            and handler.server is self.server
            and isinstance(getattr(handler, "connection", None), socket.socket)
            and isinstance(getattr(handler, "rfile", None), (Reader, Source))
        )

    def go_on(self, handler: Any) -> bool:
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
            self.head_by = inf if (limit := self.server.read_timeout) is None else clock.now() + limit
        return False

    def resume(self, *, late: bool) -> None:
        """Let the handler that waits handle one more request, or finish if the client took too long."""
        handler, again = self.handler, False
        try:
            if not late:
                again = self.go_on(handler)
            elif self.head_by is not None:
                _tell_late(handler)
        finally:
            if not again:
                self.finish()

    def finish(self) -> None:
        """Have the handler finish, if one waits."""
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.finish()


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


def handle(conversation: KeepAlive, make: Any, request: Any, address: Any, server: Any, *, waits: bool) -> None:
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
        conversation.prepare(handler)
        if waits and can_wait(type(handler)) and "handle" not in own and conversation.may_wait(handler):
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
        if conversation.go_on(handler):
            own["finish"] = pass_by
            conversation.handler = handler

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

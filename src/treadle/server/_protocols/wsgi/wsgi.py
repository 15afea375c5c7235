"""WSGI: an application that blocks, served by HTTP."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable
from math import ceil
from operator import attrgetter
from secrets import token_hex
from typing import Any
from weakref import ref

from treadle._base import checks
from treadle._base.log_throttle import LogThrottles
from treadle._base.words import cut, log
from treadle._tasks.call import name_of
from treadle.server._protocols.http.body import EMPTY
from treadle.server._protocols.http.decoder import Bounds, RequestDecoder, Sources
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Environ, Request
from treadle.server._protocols.http.status import Beginnings, error_answer
from treadle.server._protocols.wsgi.access_log import AccessLog
from treadle.server._protocols.wsgi.accounts import Accounts
from treadle.server._protocols.wsgi.answering.call import Call, Said
from treadle.server._protocols.wsgi.answering.files import FileWrapper
from treadle.server._protocols.wsgi.answering.hints import Hints, no_hints
from treadle.server._protocols.wsgi.answering.names import Names
from treadle.server._protocols.wsgi.answering.streams import Streams
from treadle.server._protocols.wsgi.faults import SHOWN, Faults
from treadle.server._protocols.wsgi.health import Health, Served
from treadle.server._transport.decoder import CloseConnection
from treadle.server._transport.limits import Limits, Phase
from treadle.server._transport.peer import Peer
from treadle.server._transport.sending.spool import ClientLeft

__all__ = ["WSGI"]

_log = logging.getLogger("treadle.wsgi")

App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
SCRIPT_NAME = re.compile(r"(?:/[!-.0->@-~]+)*")
HEALTH = re.compile(r"/[!-\"$->@-~]*")
SERVER = re.compile(r"[ -~]*")
# By what a client is told why it is cut while it sends a request (RFC 9110, section 15.5.9).
TOO_SLOW = ("head_timeout", "body_timeout", "min_head_rate", "min_body_rate", "read_timeout", "min_read_rate")
# And why it gets no answer of the application's (section 15.6.4).
TOO_MANY = ("handler_timeout", "max_connections", "max_connections_per_host", "message_rejected")


class Errors:
    """Where applications write what is wrong: standard error, whatever that is then (`wsgi.errors`, PEP 3333)."""

    def write(self, text: str) -> int:
        """Write it; nowhere if there is no standard error."""
        return sys.stderr.write(text) if sys.stderr is not None else len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have it written by now."""
        if sys.stderr is not None:
            sys.stderr.flush()


ERRORS = Errors()


class WSGI:
    """Serve a WSGI application (PEP 3333), such as one of Flask or Django, by HTTP/1.1 (RFC 9110, RFC 9112).

    The application is an ordinary function and may block. It is called by one thread for each request, in a context of
    its own (see `contextvars`), which takes all that it returns, and closes it. So it must be safe to call from several
    threads. A request is collected before it is called, and an answer is sent at the client's pace: neither holds a
    thread. Requests of routes that have been slow (over 1 ms) do not slow the others; a route is the method and the
    path, in which numbers, UUIDs and long tokens count for nothing.

    HTTP/2 is for a proxy to speak. What breaks a rule of HTTP/1.1 is refused with the right error, and its connection
    ends, for nobody can say where its next request begins.

    `Limits.handler_timeout` is how long the application may take: then the client gets a 503, and the log has the
    stack. `Limits.idle_timeout` is how long a connection is kept for the next request, `Limits.spool_folder` where long
    bodies and answers are kept.

    Args:
        app: called with an environ and `start_response`. Beside what PEP 3333 has, the environ has RAW_URI, the target
            as it was sent, REMOTE_PORT, `wsgi.input_terminated`, `wsgi.early_hints`, which is called with fields such
            as Link and sends them ahead (103), `treadle.client_gone`, which tells whether the client has left, and
            `treadle.request_id`, which is the client's X-Request-ID, or made.
        script_name: what the paths of all requests begin with, as in "/shop", and is not for the application: its
            SCRIPT_NAME. "": nothing. Where a proxy has taken it away, nothing is.
        max_body: bytes of a request's body, 0 or more; a longer one is refused (413).
        max_head: bytes of a request's head, 1 or more (431),
        max_line: bytes of its first line, 1 or more (414),
        max_fields: and how many fields it may have, 1 or more (431).
        max_streams: threads that answers without an end may hold, 1 or more: those of a type such as
            text/event-stream, and of routes that have had one. Others are refused (503). None: half of the threads.
        head_timeout: seconds, more than 0, from a head's first byte to its last; None: no limit (408).
        body_timeout: seconds, more than 0, in which some of the body must come; None: no limit (408).
        min_body_rate: bytes a second of a body, more than 0, on average, after `Limits.min_rate_grace`; None: no limit.
        queue_timeout: seconds, more than 0, that a request may wait for a thread. Whoever would wait for longer, as it
            went lately, is told so at once (503); when a queue stands, the newest are handled first. None: no limit.
        health: a path that is answered while the server lives, whatever its threads do, as in "/healthz"; and
        ready: one that is, unless it stops, or a request would wait for longer than `queue_timeout` (503). Neither
            reaches the application. None: there is none.
        access_log: has a line for each request; then each takes a longer way through the server. None: none is kept.
        server_header: the value of the answers' Server field; "": there is none.
        multiprocess: whether other processes call the same application: its `wsgi.multiprocess`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range, or `app` is async, as of ASGI, or
            cannot be called so.

    All methods may be called from any thread. One Server at a time may serve it.
    """

    converse = None
    speaks_first = False
    greeting = b""
    fresh_context = True
    sends_ahead = True  # for `send_ahead` and `open_answer` of peers, which are not public, and so neither is this
    drain_grace = 2.0

    def __init__(
        self,
        app: App,
        *,
        script_name: str = "",
        max_body: int = 1 << 30,
        max_head: int = 1 << 16,
        max_line: int = 8190,
        max_fields: int = 100,
        max_streams: int | None = None,
        head_timeout: float | None = 30.0,
        body_timeout: float | None = 30.0,
        min_body_rate: float | None = 240.0,
        queue_timeout: float | None = 10.0,
        health: str | None = None,
        ready: str | None = None,
        access_log: AccessLog | None = None,
        server_header: str = "treadle",
        multiprocess: bool = False,
    ) -> None:
        checks.handler("app", app, "environ", "start_response", instead="an ASGI server", generates=True)
        bounds = Bounds(
            body=checks.integer("max_body", max_body, least=0),
            head=checks.integer("max_head", max_head, least=1),
            line=checks.integer("max_line", max_line, least=1),
            fields=checks.integer("max_fields", max_fields, least=1),
        )
        checks.integer_or_none("max_streams", max_streams, least=1)
        _of_form("script_name", script_name, SCRIPT_NAME, "'', or a path such as '/shop'")
        _of_form("server_header", server_header, SERVER, "printable ASCII")
        if access_log is not None and not isinstance(access_log, AccessLog):
            raise TypeError(f"access_log={access_log!r} is {type(access_log).__name__}; allowed: AccessLog, or None")
        self.app = app
        self.name = name_of(app)
        self.kind = attrgetter("route")
        self.script_name = script_name
        self.queue_timeout = queue_timeout
        self.phases = {
            "head": _phase("head_timeout", head_timeout),
            "body": _phase("body_timeout", body_timeout, min_body_rate, anew=True),
        }
        self._max_streams = max_streams
        self._multiprocess = checks.boolean("multiprocess", multiprocess)
        self._server: ref[Served] | None = None
        self._throttles = LogThrottles()
        self._beginnings = Beginnings(server_header)
        self._names = Names()
        self._faults = Faults(self._beginnings, self._throttles)
        self._said = Said(self._beginnings, self._names, self._faults, Streams(self._streams))
        self._accounts = None if access_log is None else Accounts(access_log)
        self.reload = None if access_log is None else access_log.reopen
        self.over = None if self._accounts is None else self._accounts.over
        answers = self._answers(health, ready)
        self._sources = Sources(bounds, script_name, answers, self._refuse, f"{token_hex(4)}-")

    def _answers(self, health: str | None, ready: str | None) -> dict[str, Callable[[Request], bytes]]:
        """Return what is answered without the application, by path."""
        about = Health(self._beginnings, self.queue_timeout, self._served_by)
        answers: dict[str, Callable[[Request], bytes]] = {}
        if health is not None and health == ready:
            raise ValueError(f"health and ready are both {health!r}; allowed: two paths, or one of them None")
        for name, path, answer in (("health", health, about.live), ("ready", ready, about.ready)):
            if path is not None:
                _of_form(name, path, HEALTH, f"a path such as '/{name}z', or None")
                answers[path] = answer
        return answers

    # -- the server ---------------------------------------------------------------------------------------------------

    def started(self, server: Served) -> None:
        """Note who serves it.

        Raises:
            RuntimeError: another does.
        """
        before = self._served_by()
        if before is not None and before is not server and before.snapshot().state not in ("new", "stopped"):
            raise RuntimeError(f"{self!r} is served by {before!r} by now; make another one for another server")
        self._server = ref(server)

    def _served_by(self) -> Served | None:
        return None if self._server is None else self._server()

    def _streams(self) -> int:
        """Return how many threads may be held by answers without an end."""
        if self._max_streams is not None:
            return self._max_streams
        server = self._served_by()
        return max(1, server.snapshot().pool.max_workers // 2) if server is not None else 1

    # -- requests -----------------------------------------------------------------------------------------------------

    def decoder(self, limits: Limits, peer: Peer) -> RequestDecoder:
        """Return what makes one connection's bytes into requests."""
        return RequestDecoder(self._sources, lambda: self._base_of(peer), limits.spool_folder, peer)

    def _base_of(self, peer: Peer) -> Environ:
        """Return what the environs of all requests of one connection have."""
        local, secure = peer.local, peer.secure
        host, port = (local[0], str(local[1])) if local else ("localhost", "")
        base: Environ = {
            "REQUEST_METHOD": "",
            "SCRIPT_NAME": self.script_name,
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "RAW_URI": "",
            "SERVER_NAME": host,
            "SERVER_PORT": port or ("443" if secure else "80"),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "treadle",
            "REMOTE_ADDR": peer.host,
            "REMOTE_PORT": str(peer.port) if peer.port else "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if secure else "http",
            "wsgi.input": EMPTY,
            "wsgi.input_terminated": True,
            "wsgi.errors": ERRORS,
            "wsgi.multithread": True,
            "wsgi.multiprocess": self._multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.early_hints": Hints(peer, self._names),
            "treadle.client_gone": peer.has_left,
            "treadle.request_id": "",
        }
        if secure:
            base["HTTPS"] = "on"
        return base

    def _refuse(self, peer: Peer, refused: Refused, line: str) -> bytes:
        """Return the answer to a request that is refused."""
        throttle = self._throttles.of("refused", refused.status, refused.why)
        if throttle.begins():
            log(_log, logging.WARNING, "%s: %s, for %r%s", str(peer), refused, cut(line, SHOWN), throttle.rest)
        answer = error_answer(self._beginnings, refused.status, refused.why, head_only=line.startswith("HEAD "))
        if self._accounts is not None:
            size = len(answer.partition(b"\r\n\r\n")[2])
            self._accounts.refused(peer.host, refused.status, line, refused.why, size)
        return answer

    # -- answers ------------------------------------------------------------------------------------------------------

    def handle(self, request: Request, peer: Peer) -> Any:
        """Return the application's answer to a request; what it raises is logged, and the client told that."""
        if request.old:
            request.environ["wsgi.early_hints"] = no_hints
        if self._accounts is not None:
            self._accounts.begin(request, peer)
        call = Call(request, peer, self._said)
        try:
            return call.answer(self.app(request.environ, call.start_response))
        except CloseConnection:
            raise
        except BaseException as error:
            return self._failed(call, error)
        finally:
            if request.file is not None and not call.goes_on:
                request.file.close()

    def _failed(self, call: Call, error: BaseException) -> Any:
        """Return what the client gets over whose request the application failed."""
        request, peer, call.returned = call.request, call.peer, True
        if call.sent or isinstance(error, ClientLeft):
            return call.break_off(error)
        closes = request.closes or peer.closing
        if isinstance(error, Refused):
            answer = self._faults.refuse(request, peer, error, self._later(), closes=closes)
        else:
            self._faults.tell(request, peer, error)
            answer = self._faults.answer(request, error, closes=closes)
        if closes:
            raise CloseConnection(answer) from None
        return answer

    def refusal(self, why: str, message: Request | None) -> bytes | None:
        """Return what a client is told that is refused, or cut, for `why`; None: nothing."""
        if why in TOO_SLOW:
            return error_answer(self._beginnings, 408, why)
        if why not in TOO_MANY:
            return None
        closes = why != "message_rejected"
        if message is not None:
            closes = closes or message.closes
        if why == "message_rejected":
            why = "queue_timeout"
        if message is not None:
            self._faults.late(message, why)
        head_only = message is not None and message.method == "HEAD"
        request_id = "" if message is None else message.id
        answer = error_answer(
            self._beginnings,
            503,
            why,
            close=closes,
            head_only=head_only,
            retry_after=self._later(),
            request_id=request_id,
        )
        if message is not None and self._accounts is not None:
            self._accounts.reject(message, 503, len(answer.partition(b"\r\n\r\n")[2]))
        return answer

    def _later(self) -> int:
        """Return the seconds after which another try makes sense."""
        return 1 if self.queue_timeout is None else max(1, ceil(self.queue_timeout / 2))

    def __repr__(self) -> str:
        return f"WSGI({self.name})"


def _of_form(name: str, value: object, form: re.Pattern[str], allowed: str) -> None:
    """Raise an error if an argument is no text of the form."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: {allowed}")
    if form.fullmatch(value) is None:
        raise ValueError(f"{name}={value!r}; allowed: {allowed}")


def _phase(name: str, timeout: float | None, rate: float | None = None, *, anew: bool = False) -> Phase:
    """Return a phase of reading; an error names the argument that it is of."""
    try:
        return Phase(timeout, rate, anew=anew)
    except (TypeError, ValueError) as error:
        said = str(error).replace("timeout=", f"{name}=", 1).replace("min_rate=", "min_body_rate=", 1)
        raise type(error)(said) from None

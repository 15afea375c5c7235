"""WSGI: an application that blocks, served by HTTP."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from secrets import token_hex
from typing import Any

from treadle._base.log_throttle import LogThrottles
from treadle._base.words import log
from treadle._tasks.call import name_of
from treadle.server._protocols.http.body import EMPTY
from treadle.server._protocols.http.decoder import Bounds, RequestDecoder, Sources
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Environ, Request
from treadle.server._protocols.http.status import Beginnings, error_answer
from treadle.server._protocols.wsgi.call import Call, Said
from treadle.server._protocols.wsgi.faults import Faults
from treadle.server._protocols.wsgi.files import FileWrapper
from treadle.server._protocols.wsgi.names import Names
from treadle.server._transport.decoder import CloseConnection
from treadle.server._transport.limits import Limits, Phase
from treadle.server._transport.peer import Peer
from treadle.server._transport.sending.spool import ClientLeft

__all__ = ["WSGI"]

_log = logging.getLogger("treadle.wsgi")

App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


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


class WSGI:
    converse = None
    speaks_first = False
    greeting = b""
    fresh_context = True
    sends_ahead = True
    kind = staticmethod(attrgetter("route"))

    def __init__(
        self,
        app: App,
        *,
        script_name: str = "",
        max_body: int = 1 << 30,
        max_head: int = 1 << 16,
        max_line: int = 8190,
        max_fields: int = 100,
        head_timeout: float | None = 30.0,
        body_timeout: float | None = None,
        min_body_rate: float | None = 240.0,
        server_header: str = "treadle",
    ) -> None:
        self.app = app
        self.name = name_of(app)
        self.script_name = script_name
        self.phases = {"head": Phase(head_timeout), "body": Phase(body_timeout, min_body_rate)}
        self._beginnings = Beginnings(server_header)
        self._throttles = LogThrottles()
        self._faults = Faults(self._beginnings, self._throttles)
        self._said = Said(self._beginnings, Names(), self._faults)
        bounds = Bounds(max_head, max_line, max_fields, max_body)
        self._sources = Sources(bounds, script_name, {}, self._refuse, f"{token_hex(4)}-")

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
            "REMOTE_PORT": str(peer.port),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if secure else "http",
            "wsgi.input": EMPTY,
            "wsgi.input_terminated": True,
            "wsgi.errors": ERRORS,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "treadle.client_gone": peer.has_left,
            "treadle.request_id": "",
        }
        if secure:
            base["HTTPS"] = "on"
        return base

    def _refuse(self, peer: Any, refused: Refused, line: str) -> bytes:
        """Return the answer to a request that is refused."""
        throttle = self._throttles.of("refused", refused.status, refused.why)
        if throttle.begins():
            log(_log, logging.WARNING, "%s: %s for %r%s", peer, refused, line, throttle.rest)
        head_only = line.startswith("HEAD ")
        return error_answer(self._beginnings, refused.status, refused.why, head_only=head_only)

    # -- answers ------------------------------------------------------------------------------------------------------

    def handle(self, request: Request, peer: Peer) -> Any:
        """Return the application's answer to a request."""
        call = Call(request, peer, self._said)
        try:
            return call.answer(self.app(request.environ, call.start_response))
        except CloseConnection:
            raise
        except BaseException as error:
            if call.sent or isinstance(error, ClientLeft):
                return call.break_off(error)
            self._faults.tell(request, peer, error)
            closes = request.closes or peer.closing
            answer = self._faults.answer(request, error, closes=closes)
            if closes:
                raise CloseConnection(answer) from None
            return answer

    def refusal(self, why: str, message: Request | None) -> bytes | None:
        if why in ("head_timeout", "body_timeout", "min_body_rate", "min_head_rate"):
            return error_answer(self._beginnings, 408, why)
        if why in ("message_rejected", "handler_timeout", "max_connections", "max_connections_per_host"):
            return error_answer(self._beginnings, 503, why, retry_after=1, close=why != "message_rejected")
        return None

    def __repr__(self) -> str:
        return f"WSGI({self.name})"


ERRORS = Errors()

"""Faults: applications that fail, and what their clients are told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import cut, log
from treadle.errors import DeadlineExceeded
from treadle.server._protocols.http.status import Beginnings, error_answer

if TYPE_CHECKING:
    from treadle.server._protocols.http.refused import Refused
    from treadle.server._protocols.http.request import Request
    from treadle.server._transport.peer import Peer

__all__ = ["SHOWN", "Faults"]

_log = logging.getLogger("treadle.wsgi")

SHOWN = 200  # characters of a target, in a log
BURST = 10  # of a kind, in ten seconds, that are logged one by one: each has a request's id, for which a client may ask


def noted(request: Request, status: int, answer: bytes) -> bytes:
    """Return `answer`, an error's; the access log says how it begins, if there is one."""
    entry = request.entry  # once: it may be over meanwhile
    if entry is not None:
        entry.status, entry.head = status, answer.index(b"\r\n\r\n") + 4
    return answer


class Faults:
    """Logs what applications raise: ten times in ten seconds for each line that raises it. From any thread."""

    def __init__(self, beginnings: Beginnings, throttles: LogThrottles) -> None:
        self._beginnings = beginnings
        self._throttles = throttles

    def tell(self, request: Request, peer: Peer, error: BaseException, when: str = "failed") -> None:
        """Log that the application has failed over `request`, and when."""
        throttle = self._throttles.of("app", *kind_of(error), burst=BURST)
        if throttle.begins():
            said = "%s: %s %s %s (request %s)%s"
            what = (request.method, cut(request.target, SHOWN), when, request.id)
            log(_log, logging.ERROR, said, str(peer), *what, throttle.rest, error=error)

    def refuse(self, request: Request, peer: Peer, refused: Refused, later: int, *, closes: bool) -> bytes:
        """Return what the client is told whose request is refused, though it is a sound one, and log that."""
        throttle = self._throttles.of("limit", refused.status, burst=BURST)
        if throttle.begins():
            what = (request.method, cut(request.target, SHOWN), refused, request.id)
            log(_log, logging.WARNING, "%s: %s %s: %s (request %s)%s", str(peer), *what, throttle.rest)
        said = {"close": closes, "head_only": request.method == "HEAD", "request_id": request.id}
        answer = error_answer(self._beginnings, refused.status, refused.why, retry_after=later, **said)  # type: ignore[arg-type]
        return noted(request, refused.status, answer)

    def late(self, request: Request, limit: str) -> None:
        """Log which request found no thread, or no end, in time: its client may ask for it by the id it was told."""
        throttle = self._throttles.of("late", limit, burst=BURST)
        if throttle.begins():
            what = (request.method, cut(request.target, SHOWN), limit, request.id)
            log(_log, logging.WARNING, "%s %s: 503, %s (request %s)%s", *what, throttle.rest)

    def answer(self, request: Request, error: BaseException, *, closes: bool) -> bytes:
        """Return what the client is told in place of the application's answer."""
        status = 503 if isinstance(error, DeadlineExceeded) else 500
        head_only = request.method == "HEAD"
        answer = error_answer(self._beginnings, status, close=closes, head_only=head_only, request_id=request.id)
        return noted(request, status, answer)

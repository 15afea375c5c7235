"""Health: whether the server lives, and takes more; answered by whoever leads, though all threads are busy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from treadle._base import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from treadle.server._protocols.http.request import Request
    from treadle.server._protocols.http.status import Beginnings

__all__ = ["Health", "Served"]


class Served(Protocol):
    """What serves it: a Server."""

    def snapshot(self) -> Any:
        """Return what it does, a ServerSnapshot."""


class Health:
    """Answers requests for the state of the server. For any thread.

    Args:
        queue_timeout: seconds that a request may wait for a thread; None: as long as it takes.
        server: returns the server; None: it was not started.
    """

    def __init__(
        self, beginnings: Beginnings, queue_timeout: float | None, server: Callable[[], Served | None]
    ) -> None:
        self._beginnings = beginnings
        self._queue_timeout = queue_timeout
        self._server = server

    def live(self, request: Request) -> bytes:
        """Say that the server lives: it says so."""
        return self._answer(request, "200 OK", "alive\n")

    def ready(self, request: Request) -> bytes:
        """Say whether the server takes more: it does not stop, and nobody would wait for a thread for too long."""
        server = self._server()
        if server is None:
            return self._answer(request, "503 Service Unavailable", "not ready: the server was not started\n")
        snapshot = server.snapshot()
        wait, pool = snapshot.expected_wait, snapshot.pool
        said = f"{pool.busy}/{pool.max_workers} threads busy, {pool.waiting} waiting"
        if snapshot.state != "serving":
            return self._answer(request, "503 Service Unavailable", f"not ready: the server stops; {said}\n")
        if self._queue_timeout is not None and wait > self._queue_timeout:
            why = f"who comes now would wait for {wait:.1f} s, longer than queue_timeout"
            return self._answer(request, "503 Service Unavailable", f"not ready: {why}; {said}\n")
        return self._answer(request, "200 OK", f"ready: {said}\n")

    def _answer(self, request: Request, status: str, text: str) -> bytes:
        body = text.encode()
        closes = "Connection: close\r\n" if request.closes else "Connection: keep-alive\r\n" if request.old else ""
        fields = f"Content-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: {len(body)}\r\n{closes}\r\n"
        head = self._beginnings.of(status, clock.wall()) + fields.encode()
        return head if request.method == "HEAD" else head + body

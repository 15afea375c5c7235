"""Request: one request, as it is given to whoever answers it."""

from __future__ import annotations

from typing import Any, BinaryIO

__all__ = ["Environ", "Request"]

Environ = dict[str, Any]


class Request:
    """A complete request: its head, and its body.

    Attributes:
        environ: what the application is called with (PEP 3333), and may change.
        method: as it was sent,
        target: and what it was sent for.
        id: what the log calls it.
        route: what it has in common with others that take about as long, see `Routes`.
        closes: the connection ends with the answer, for the client will have it so.
        old: it is of HTTP/1.0.
        file: where its body is, if that is long; to be closed once it is answered. None: it is in memory.
        entry: what the access log is told of it; None: there is none, or it has not begun.
    """

    __slots__ = ("closes", "entry", "environ", "file", "id", "method", "old", "route", "target")

    def __init__(
        self, environ: Environ, method: str, target: str, number: str, route: str, closes: bool, old: bool = False
    ) -> None:
        self.environ = environ
        self.method = method
        self.target = target
        self.id = number
        self.route = route
        self.closes = closes
        self.old = old
        self.file: BinaryIO | None = None
        self.entry: Any = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target}>"

"""Hints: what a client may begin to fetch while its answer is made (103, RFC 8297)."""

from __future__ import annotations

from collections.abc import Iterable

from treadle.server._protocols.wsgi.answering.names import Names
from treadle.server._protocols.wsgi.answering.values import encoded, line_of
from treadle.server._transport.peer import Peer, send_ahead

__all__ = ["Hints", "no_hints"]


class Hints:
    """`environ["wsgi.early_hints"]`: called with fields such as Link, sends them ahead of the answer."""

    __slots__ = ("_names", "_peer")

    def __init__(self, peer: Peer, names: Names) -> None:
        self._peer = peer
        self._names = names

    def __call__(self, headers: Iterable[tuple[str, str]]) -> None:
        """Send them. In the thread that calls the application, and before the answer begins.

        Raises:
            TypeError, ValueError: they are not what WSGI wants.
            RuntimeError: the answer has begun.
        """
        lines = [line_of(header, self._names) for header in headers]
        send_ahead(self._peer, b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % encoded(lines))


def no_hints(headers: Iterable[tuple[str, str]]) -> None:
    """Send nothing: HTTP/1.0 knows no interim answers (RFC 9110, section 15.2)."""

"""Status: how an answer begins, and the errors that treadle itself answers with."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from treadle._base import clock

__all__ = ["Beginnings", "error_answer", "phrase_of"]

MOST = 100  # status lines that are kept for a second; a guess
# With the names of RFC 9110, section 15, which Python has since 3.13.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def phrase_of(status: int) -> str:
    """Return what `status` is called."""
    return PHRASES.get(status, "Error")


class Beginnings:
    """How answers begin: the status line, the server's name, and the date, which are the same for a second.

    From any thread: two that meet in a new second make the same.

    Args:
        server: the value of the Server field; "": there is none.
    """

    __slots__ = ("_named", "_second", "_table")

    def __init__(self, server: str) -> None:
        self._named = f"Server: {server}\r\n" if server else ""
        self._second = 0
        self._table: dict[str, bytes] = {}

    def of(self, status: str, now: float) -> bytes:
        """Return the lines that an answer with `status` begins with, such as "200 OK"; `now` is the world's time."""
        table = self._table
        if now >= self._second + 1 or now < self._second:
            self._second = int(now)
            self._table = table = {}
        begun = table.get(status)
        return self._begin(status, table, now) if begun is None else begun

    def _begin(self, status: str, table: dict[str, bytes], now: float) -> bytes:
        text = f"HTTP/1.1 {status}\r\n{self._named}Date: {formatdate(now, usegmt=True)}\r\n"
        begun = text.encode("latin-1")
        if len(table) < MOST:
            table[status] = begun
        return begun


def error_answer(
    beginnings: Beginnings,
    status: int,
    why: str = "",
    *,
    close: bool = True,
    head_only: bool = False,
    retry_after: int | None = None,
    request_id: str = "",
) -> bytes:
    """Return a whole answer that says what is wrong, in plain text.

    Args:
        why: what more is to be said than the status.
        close: the connection ends with it.
        head_only: it answers a HEAD.
        retry_after: seconds after which another try makes sense.
        request_id: which the log has as well.
    """
    phrase = phrase_of(status)
    text = f"{status} {phrase}{': ' if why else ''}{why}\n"
    if request_id:
        text += f"request {request_id}\n"
    body = text.encode("latin-1", "replace")
    lines = [f"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Length: {len(body)}\r\n"]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}\r\n")
    if request_id:
        lines.append(f"X-Request-ID: {request_id}\r\n")
    if close:
        lines.append("Connection: close\r\n")
    begun = beginnings.of(f"{status} {phrase}", clock.wall())
    return begun + "".join([*lines, "\r\n"]).encode("latin-1") + (b"" if head_only else body)

"""Head: where the head of an HTTP request ends, by the rules of `http.server`, while its bytes are still coming."""

from __future__ import annotations

import http.client
import re
from http.server import BaseHTTPRequestHandler
from typing import Any

__all__ = ["Head"]

LONGEST_LINE = 65536  # bytes; http.server's, with the end of the line: a longer one it answers with 414 or 431
USUAL = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.[01]\r?\n")  # what every version takes for a request, and most clients send
MOST_HEADERS = 100  # http.client's, if it says nothing


class Head:
    """Looks for the end of one head, at each byte once.

    The end is where a handler of `http.server` needs no more: after the empty line, or where it would refuse the
    request anyway, for the request line makes none, or for a line is too long or there are too many.
    """

    __slots__ = ("begin", "lines", "seen")

    def __init__(self) -> None:
        self.begin = 0  # of the line that is under way
        self.lines = 0  # that are complete
        self.seen = 0

    def end_in(self, data: bytes | bytearray) -> int:
        """Return where the head ends in `data`, which has grown since it was asked last; -1: there is more to come."""
        while (newline := data.find(b"\n", max(self.seen, self.begin), self.begin + LONGEST_LINE)) >= 0:
            line = bytes(data[self.begin : newline + 1])
            self.begin = newline + 1
            self.lines += 1
            if self._is_last(line):
                return self.begin
        if len(data) - self.begin > LONGEST_LINE:
            return len(data)
        self.seen = len(data)
        return -1

    def copy(self) -> Head:
        """Return one that has come as far, for a look at what is not received yet."""
        other = Head()
        other.begin, other.lines, other.seen = self.begin, self.lines, self.seen
        return other

    def _is_last(self, line: bytes) -> bool:
        if self.lines == 1:
            return USUAL.fullmatch(line) is None and not _Judge().wants_headers(line)
        most: int = getattr(http.client, "_MAXHEADERS", MOST_HEADERS)  # programs set it
        return line in (b"\r\n", b"\n") or self.lines > 1 + most


class _Wanted(Exception):
    """The headers are wanted."""


class _Judge(BaseHTTPRequestHandler):
    """Asks http.server what it makes of a request line: each version of Python has rules of its own."""

    def __init__(self) -> None:
        self.rfile: Any = self

    def wants_headers(self, line: bytes) -> bool:
        """Whether there is more to read than the request line."""
        self.raw_requestline = line
        try:
            self.parse_request()
        except _Wanted:
            return True
        return False

    def readline(self, size: int) -> bytes:
        """Be the file with the headers."""
        raise _Wanted

    def send_error(self, *args: Any) -> None:
        """Tell nobody: the handler will."""

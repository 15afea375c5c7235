"""Chunks: a body whose length nobody knew when it began (RFC 9112, section 7.1)."""

from __future__ import annotations

import re

from treadle.server._protocols.http.body import Body
from treadle.server._protocols.http.grammar import TOKEN
from treadle.server._protocols.http.head import judge_fields
from treadle.server._protocols.http.refused import Refused

__all__ = ["Chunks"]

LONGEST_LINE = 4096  # bytes of a chunk's line; a guess: extensions that anybody has seen are a tenth of that
MOST_EXTENSIONS = 1 << 16  # bytes of all extensions of a body (section 7.1.1 asks for a limit); a guess
QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'  # RFC 9110, section 5.6.4
# Section 7.1.1, with the blanks that are bad but allowed: they stand at a ";", or an "=", and nowhere else.
LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}}+)((?:[ \t]*+;[ \t]*+{TOKEN}(?:[ \t]*+=[ \t]*+(?:{TOKEN}|{QUOTED}))?+)*+)")
# RFC 9110, section 6.5.1: fields that say how a message is framed, routed, understood or allowed are not for trailers.
# fmt: off
FORBIDDEN = frozenset([
    "accept-encoding", "age", "authorization", "cache-control", "connection", "content-encoding", "content-length",
    "content-range", "content-type", "cookie", "date", "expect", "expires", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "location", "max-forwards", "pragma",
    "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "retry-after", "set-cookie", "te",
    "trailer", "transfer-encoding", "upgrade", "vary", "warning", "www-authenticate",
])
# fmt: on


class Chunks:
    """Takes the chunks of one body out of what was read. For one thread at a time.

    Args:
        body: what it is kept in.
        max_trailers: bytes of the fields behind the body, which are judged, and dropped.
        max_fields: how many there may be.
    """

    __slots__ = ("_body", "_extensions", "_left", "_looked", "_max_fields", "_max_trailers", "_trailers")

    def __init__(self, body: Body, max_trailers: int, max_fields: int) -> None:
        self._body = body
        self._max_trailers = max_trailers
        self._max_fields = max_fields
        self._left = 0  # of a chunk, with the CRLF behind it; 0: a line is next
        self._extensions = 0
        self._trailers: list[str] | None = None  # None: there are more chunks
        self._looked = 0  # so much of what was read holds no end of a line

    def take(self, data: bytearray) -> bool:
        """Take out of `data` what is the body's; return whether that was the last of it.

        Raises:
            Refused: it is malformed, or it, its extensions or its trailers are longer than allowed.
        """
        while True:
            if self._left:
                if not self._take_chunk(data):
                    return False
                continue
            line = self._next_line(data)
            if line is None:
                return False
            if self._trailers is None:
                self._begin_chunk(line)
            elif line:
                self._trailers.append(line)
                self._max_trailers -= len(line) + 2
                if self._max_trailers < 0:
                    raise Refused(431, "the trailers are longer than max_head allows (RFC 6585, section 5)")
                if len(self._trailers) > self._max_fields:
                    raise Refused(431, "there are more trailers than max_fields allows (RFC 6585, section 5)")
            else:
                self._judge_trailers(self._trailers)
                return True

    def _take_chunk(self, data: bytearray) -> bool:
        """Take out of `data` what is the chunk's; return whether that was all of it."""
        if self._left > 2:
            self._left -= self._body.take(data, self._left - 2)
        if self._left > 2 or not data:
            return False
        if not b"\r\n".startswith(data[:2]):
            raise Refused(400, "a chunk is longer than it says (RFC 9112, section 7.1)")
        if len(data) < 2:
            return False
        del data[:2]
        self._left = 0
        return True

    def _next_line(self, data: bytearray) -> str | None:
        """Take out the next line, without its end; None: it is not complete."""
        end = data.find(b"\n", self._looked)
        if end < 0:
            have = len(data) - 1  # the last may be the CR of the line's end
            if have > LONGEST_LINE and self._trailers is None:
                raise Refused(400, "a chunk's line is longer than anybody's (RFC 9112, section 7.1.1)")
            if have > self._max_trailers and self._trailers is not None:
                raise Refused(431, "the trailers are longer than max_head allows (RFC 6585, section 5)")
            if b"\r" in data[self._looked : -1]:
                raise Refused(400, "a CR stands without its LF (RFC 9112, section 2.2)")
            self._looked = max(0, have)
            return None
        line = data[: end + 1].decode("latin-1")
        del data[: end + 1]
        self._looked = 0
        if not line.endswith("\r\n"):
            raise Refused(400, "a LF stands without its CR (RFC 9112, section 2.2)")
        return line[:-2]

    def _begin_chunk(self, line: str) -> None:
        match = LINE.fullmatch(line) if len(line) <= LONGEST_LINE else None
        if match is None:
            raise Refused(400, "a chunk's size, or its extension, is malformed (RFC 9112, section 7.1)")
        self._extensions += len(match[2])
        if self._extensions > MOST_EXTENSIONS:
            raise Refused(400, "the chunks' extensions are longer than anybody's (RFC 9112, section 7.1.1)")
        size = int(match[1], 16)
        if size:
            self._body.expect(size)
            self._left = size + 2
        else:
            self._trailers = []

    def _judge_trailers(self, lines: list[str]) -> None:
        for name in judge_fields(lines):
            if name in FORBIDDEN:
                raise Refused(400, f"the field {name} is not for trailers (RFC 9110, section 6.5.1)")

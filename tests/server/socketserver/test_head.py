"""Head: a head ends where a handler of http.server reads no further, however its bytes are cut."""

from __future__ import annotations

import http.client
import http.server
import io
from typing import Any

import pytest

from treadle.server._socketserver.head import Head

LINE = b"GET / HTTP/1.1\r\n"
LONG = 65536  # bytes of the longest line

ENDED = [
    LINE + b"\r\n",
    LINE + b"Host: x\r\nAccept: */*\r\n\r\n",
    b"GET / HTTP/1.0\nHost: x\n\n",
    LINE + b"Host: x\n\r\n",
    LINE + b" \r\nHost: x\r\n\r\n",
    b"\r\n",
    b"\n",
    b"   \r\n",
    b"nonsense\r\n",
    b"PUT /two-words\r\n",
    b"GET / HTTP/x.y\r\n",
    b"GET / HTTP/2.0\r\n",
    b"GET / one too many HTTP/1.1\r\n",
    b"\x16\x03\x01\xff\n",
    b"GET /" + b"x" * (LONG - 5 + 1),
    LINE + b"X: " + b"x" * (LONG - 3 + 1),
    LINE + b"X: y\r\n" * 101,
]
UNENDED = [
    b"",
    b"G",
    LINE[:-1],
    LINE,
    LINE + b"\r",
    LINE + b"Host: x\r\n",
    LINE + b"Host: x\r\n\r",
    LINE + b"Host: x\r\r\n",
    b"GET /" + b"x" * (LONG - 5),
    LINE + b"X: " + b"x" * (LONG - 3),
    LINE + b"X: y\r\n" * 100,
]


class Watched(io.BytesIO):
    """A client of whom nothing more comes, and who has not left."""

    hungry = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.hungry = self.hungry or (not line.endswith(b"\n") and len(line) < (size or 0))
        return line


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, data: bytes) -> None:
        self.rfile: Any = Watched(data)
        self.wfile = io.BytesIO()
        self.client_address = ("nobody", 0)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def name_of(data: bytes) -> str:
    return repr(data[:20]) + str(len(data))


@pytest.mark.parametrize("data", ENDED, ids=name_of)
def test_a_head_ends_with_what_the_handler_needs(data: bytes) -> None:
    assert Head().end_in(data) == len(data)


@pytest.mark.parametrize("data", UNENDED, ids=name_of)
def test_before_that_there_is_more_to_come(data: bytes) -> None:
    assert Head().end_in(data) == -1


@pytest.mark.parametrize("data", [*ENDED, *UNENDED], ids=name_of)
def test_the_handler_of_this_python_agrees(data: bytes) -> None:
    handler = Handler(data)
    handler.handle_one_request()
    assert handler.rfile.hungry == (Head().end_in(data) < 0)


def test_a_request_line_of_http_0_9_is_judged_as_this_python_does() -> None:
    """Until 3.14 headers are read even so."""
    data = b"GET /\r\n"
    handler = Handler(data)
    handler.handle_one_request()
    assert handler.rfile.hungry == (Head().end_in(data) < 0)
    assert Head().end_in(data + b"\r\n") > 0


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n"])
@pytest.mark.parametrize("rest", [b"", b"body", b"GET /next HTTP/1.1\r\n\r\n"])
def test_it_ends_at_the_same_byte_however_it_is_cut(data: bytes, rest: bytes) -> None:
    for size in range(1, len(data)):
        head, come, end = Head(), bytearray(), -1
        for start in range(0, len(data + rest), size):
            come += (data + rest)[start : start + size]
            assert end < 0
            if (end := head.copy().end_in(come)) >= 0:
                break
            assert head.end_in(come) == -1
        assert end == len(data)


def test_the_most_headers_that_a_program_allows_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client, "_MAXHEADERS", 3)
    assert Head().end_in(LINE + b"X: y\r\n" * 3) == -1
    assert Head().end_in(LINE + b"X: y\r\n" * 4) > 0

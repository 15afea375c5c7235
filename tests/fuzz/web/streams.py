"""Streams: what a client may send, right and wrong: valid requests, changed, cut, and merged."""

from __future__ import annotations

import random
from collections.abc import Callable

from conformance.http.corpus import ENTRIES
from conformance.http.corpus.entry import get, head
from conformance.http.differences import mutated

__all__ = ["BEHIND", "random_pieces", "random_stream"]

BEHIND = get(target="/behind")
LONGEST = 2000  # bytes of an entry of the corpus that is used
SHORT: list[bytes] = [entry.raw for entry in ENTRIES if len(entry.raw) <= LONGEST]

METHODS = ["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE", "M-SEARCH"]
TARGETS = [
    "/",
    "/live",
    "/a/b?c=d",
    "/%7e%2F%00%ff",
    "//x//y",
    "/a?",
    "/?q={|}",
    "http://a/live",
    "http://a?x",
    "/;p=1",
]
# Lines that each do no harm to a valid request; those of a Connection change what becomes of it.
FIELDS = [
    "Accept: */*",
    "Accept-Encoding: gzip, br",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "X-Empty:",
    "X-Blanks: \t a  b \t",
    "X-Latin: \xe9\xff",
    "User-Agent: fuzz/1 (a; b)",
    "X_Under: 1",
    "x-request-id: abc",
    "Connection: keep-alive",
    "connection: Keep-Alive, TE",
    "TE: trailers",
    "Forwarded: for=1.2.3.4",
    "X-Forwarded-For: 1.2.3.4, 5.6.7.8",
    "Upgrade: websocket",
    "Content-Type: text/plain",
    "Range: bytes=0-1",
    "!#$%&'*+-.^`|~: 1",
]
# And lines that may do harm: what says where a request ends, in every way that somebody takes for the right one.
NASTY = [
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Content-Length: 5,6",
    "Content-Length : 5",
    " Content-Length: 5",
    "Content_Length: 5",
    "Content-Length:",
    "Content-Length: 0x5",
    "Content-Length: 5\x0b",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: Chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:",
    "Transfer_Encoding: chunked",
    "Connection: close",
    "Connection: close, keep-alive",
    "Connection: content-length",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Host: b",
    "Host:",
    "Host: a:b",
    "X: a\r b",
    "X: a\n b",
    "X: a\r\n b",
    "X: \0",
    "X",
    ": x",
    "",
]
EXTENSIONS = ["", "", ";a", ";a=b", '; a = "b;"']
ENDS = [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\n\r\n", b"0\r\n\r\n", b"\0", b" ", b"\xff"]


def random_request(dice: random.Random) -> bytes:
    """Return a valid request."""
    method, target = dice.choice(METHODS), dice.choice(TARGETS)
    version = "HTTP/1.0" if dice.random() < 0.08 else "HTTP/1.1"
    lines = [f"{method} {target} {version}", "Host: a", *dice.sample(FIELDS, dice.randrange(5))]
    if method in ("GET", "HEAD", "OPTIONS") and dice.random() < 0.8:
        return head(*lines)
    body = random_body(dice)
    if dice.random() < 0.2:
        lines.append("Expect: 100-continue")
    if dice.random() < 0.5 and version == "HTTP/1.1":
        return head(*lines, "Transfer-Encoding: chunked") + chunks_of(body, dice)
    return head(*lines, f"Content-Length: {len(body)}") + body


def random_body(dice: random.Random) -> bytes:
    """Return a body; most look like something else, as a smuggler's do."""
    return dice.choice(
        [b"", b"hello", b"\r\n", b"0\r\n\r\n", get(target="/inner"), b"5\r\nhello\r\n0\r\n\r\n", b"x" * 300]
    )


def chunks_of(body: bytes, dice: random.Random) -> bytes:
    """Return it in chunks, with extensions and trailers at times."""
    made = bytearray()
    while body:
        part = body[: dice.randrange(1, len(body) + 1)]
        body = body[len(part) :]
        size = dice.choice(["%x", "%X", "%04x"]) % len(part)
        made += f"{size}{dice.choice(EXTENSIONS)}\r\n".encode() + part + b"\r\n"
    trailers = dice.choice(["", "", "", "X-Sum: 1\r\n", "X-Sum: 1\r\nX-Other: \xe9\r\n"])
    return bytes(made) + f"{dice.choice(['0', '0', '000'])}\r\n{trailers}\r\n".encode("latin-1")


def _with_a_line(raw: bytes, dice: random.Random) -> bytes:
    """Put in a line that may do harm, or one that does none."""
    lines = raw.split(b"\r\n")
    lines.insert(dice.randrange(1, len(lines) + 1), dice.choice(NASTY + FIELDS).encode("latin-1"))
    return b"\r\n".join(lines)


def _framed_otherwise(raw: bytes, dice: random.Random) -> bytes:
    """Say in another way how long the body is."""
    lines = raw.split(b"\r\n")
    for at, line in enumerate(lines):
        if line.startswith((b"Content-Length:", b"Transfer-Encoding:")):
            lines[at] = dice.choice(NASTY).encode("latin-1")
    return b"\r\n".join(lines)


def _without_a_line(raw: bytes, dice: random.Random) -> bytes:
    lines = raw.split(b"\r\n")
    del lines[dice.randrange(len(lines))]
    return b"\r\n".join(lines)


def _lines_swapped(raw: bytes, dice: random.Random) -> bytes:
    lines = raw.split(b"\r\n")
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\r\n".join(lines)


def _cut(raw: bytes, dice: random.Random) -> bytes:
    """Leave out what stands at its end, or at its beginning."""
    at = dice.randrange(len(raw) + 1)
    return raw[:at] if dice.random() < 0.7 else raw[at:]


def _merged(raw: bytes, dice: random.Random) -> bytes:
    """Go on with another request from the middle of it."""
    other: bytes = dice.choice(SHORT)
    return raw[: dice.randrange(len(raw) + 1)] + other[dice.randrange(len(other) + 1) :]


def _put_into(raw: bytes, dice: random.Random) -> bytes:
    """Put another request into the middle."""
    at = dice.randrange(len(raw) + 1)
    other: bytes = dice.choice(SHORT)
    return raw[:at] + other + raw[at:]


def _ended_otherwise(raw: bytes, dice: random.Random) -> bytes:
    """Give one line another end, or put one where there is none."""
    ends = [at for at in range(len(raw)) if raw.startswith(b"\r\n", at)]
    if ends and dice.random() < 0.7:
        at = dice.choice(ends)
        return raw[:at] + dice.choice(ENDS) + raw[at + 2 :]
    at = dice.randrange(len(raw) + 1)
    return raw[:at] + dice.choice(ENDS) + raw[at:]


def _in_another_case(raw: bytes, dice: random.Random) -> bytes:
    begin = dice.randrange(len(raw) + 1)
    end = begin + dice.randrange(30)
    return raw[:begin] + raw[begin:end].swapcase() + raw[end:]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    mutated,
    mutated,
    _with_a_line,
    _framed_otherwise,
    _without_a_line,
    _lines_swapped,
    _cut,
    _merged,
    _put_into,
    _ended_otherwise,
    _in_another_case,
]


def random_stream(dice: random.Random) -> bytes:
    """Return some requests, of which one or two are changed, as a rule; and a valid one behind them."""
    parts = [
        dice.choice(SHORT) if dice.random() < 0.3 else random_request(dice) for _ in range(dice.choice([1, 1, 2, 3, 5]))
    ]
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        at = dice.randrange(len(parts))
        parts[at] = dice.choice(CHANGES)(parts[at], dice)
    return b"".join(parts) + BEHIND


def random_pieces(dice: random.Random, data: bytes) -> list[bytes]:
    """Return `data` in pieces, none of them empty."""
    most = dice.choice([1, 2, 7, 60, 1000])
    pieces = []
    while data:
        size = dice.randrange(1, most + 1)
        pieces.append(data[:size])
        data = data[size:]
    return pieces

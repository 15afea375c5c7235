"""A model of what RFC 9112 makes of a stream: the plainest way there is, which looks at all of it at once.

What a host and a target are, and which fields are not for trailers, it has from the decoder; how a message is framed,
it has not.
"""

from __future__ import annotations

import re

from treadle.server._protocols.http.chunks import FORBIDDEN
from treadle.server._protocols.http.grammar import ABSOLUTE_FORM, ORIGIN_FORM, is_host

__all__ = ["Stream", "cut"]

TOKEN = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/1\.([0-9])")
FIELD = re.compile(rb"(" + TOKEN + rb"):([\t -~\x80-\xff]*)")
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + EXTENSION + rb")*")
ONCE = (b"content-length", b"content-type", b"host", b"transfer-encoding")


class Wrong(Exception):
    """It breaks a rule."""


class Incomplete(Exception):
    """It may go on."""


class Stream:
    """What a stream is made of.

    Attributes:
        requests: each complete one before the first that is wrong: method, target, body.
        wrong: whether there is one that is.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.wrong = False


def cut(data: bytes) -> Stream:
    """Return what `data` is made of, up to a request that ends the connection."""
    stream = Stream()
    try:
        closes = False
        while not closes:
            head, data = _until(b"\r\n\r\n", data.removeprefix(b"\r\n"))
            line, *lines = head.split(b"\r\n")
            match = LINE.fullmatch(line)
            if match is None:
                raise Wrong
            method, target, minor = match[1].decode(), match[2].decode(), match[3]
            fields = _fields(lines)
            _judge(method, target, minor, fields)
            body, data = _body(fields, minor, data)
            stream.requests.append((method, target, body))
            options = [option.strip(b" \t").lower() for option in fields.get(b"connection", b"").split(b",")]
            closes = b"close" in options or (minor == b"0" and b"keep-alive" not in options)
    except Wrong:
        stream.wrong = True
    except Incomplete:
        pass
    return stream


def _until(end: bytes, data: bytes) -> tuple[bytes, bytes]:
    before, found, behind = data.partition(end)
    if not found:
        raise Incomplete
    return before, behind


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise Wrong
        name, value = match[1].lower(), match[2].strip(b" \t")
        if name in fields and name in ONCE:
            raise Wrong
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _judge(method: str, target: str, minor: bytes, fields: dict[bytes, bytes]) -> None:
    """Look at what does not say where the request ends."""
    host = fields.get(b"host")
    if (host is None and minor != b"0") or (host is not None and not is_host(host.decode("latin-1"))):
        raise Wrong
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if method == "CONNECT" or not (
        (target == "*" and method == "OPTIONS") or ORIGIN_FORM.fullmatch(target) or (absolute and is_host(absolute[1]))
    ):
        raise Wrong
    if minor != b"0" and fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Wrong


def _body(fields: dict[bytes, bytes], minor: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return the body, and what stands behind it."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None or minor == b"0" or coding.lower() != b"chunked":
            raise Wrong
        return _chunks(data)
    if length is None:
        return b"", data
    if re.fullmatch(rb"[0-9]+", length) is None or int(length) >= 10**18:
        raise Wrong
    size = int(length)
    if len(data) < size:
        raise Incomplete
    return data[:size], data[size:]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, data = _line(data)
        match = SIZE.fullmatch(line)
        if match is None:
            raise Wrong
        size = int(match[1], 16)
        if not size:
            break
        body += data[:size]
        if len(data) < size + 2:
            raise Incomplete
        if data[size : size + 2] != b"\r\n":
            raise Wrong
        data = data[size + 2 :]
    lines = []
    while True:
        line, data = _line(data)
        if not line:
            break
        lines.append(line)
    if any(name.decode() in FORBIDDEN for name in _fields(lines)):
        raise Wrong
    return body, data


def _line(data: bytes) -> tuple[bytes, bytes]:
    """Return the next line, and what stands behind it."""
    line, behind = _until(b"\n", data)
    if not line.endswith(b"\r"):
        raise Wrong
    return line[:-1], behind

"""Head: the request line and the fields, judged by every rule of RFC 9110 and RFC 9112 that there is for them.

This is the careful way, and the only judge: what it is not asked about is what the quick way of the decoder has found
to be plain in every part.
"""

from __future__ import annotations

from collections.abc import Iterable

from treadle.server._protocols.http.grammar import (
    ABSOLUTE_FORM,
    FIELD,
    ORIGIN_FORM,
    REQUEST_LINE,
    is_host,
    is_token,
)
from treadle.server._protocols.http.refused import Refused

__all__ = ["Head", "judge", "judge_fields"]

MOST_DIGITS = 18  # of a Content-Length: more than any disk holds, and no number that takes long to read
# Fields that there is one of, or none (RFC 9110, sections 5.3, 7.2, 8.3, 8.6; RFC 9112, section 6.1). Others are lists,
# or do no harm as such.
SINGLE = frozenset({"content-length", "content-type", "host", "transfer-encoding"})


class Head:
    """What the head of a request says.

    Attributes:
        method: a token.
        target: as it was sent.
        path: of the target, as it was sent; "*" where the whole server is meant; "" where there is none.
        query: without its "?".
        version: "HTTP/1.1", or "HTTP/1.0".
        fields: names in small letters, and their values; lines of the same name are one, as RFC 9110, 5.2, has it.
        length: bytes of the body; 0: there is none; None: it is in chunks, and they say.
        continues: the client waits for "100 Continue" before it sends the body.
        closes: the connection ends with the answer.
    """

    __slots__ = ("closes", "continues", "fields", "length", "method", "path", "query", "target", "version")

    def __init__(self, line: str) -> None:
        match = REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Refused(400, "the request line is malformed (RFC 9112, section 3)")
        self.method, self.target, major, minor = match.groups()
        if major != "1":
            raise Refused(505, f"HTTP/{major}.{minor} is not spoken here, HTTP/1.1 is (RFC 9110, section 15.6.6)")
        self.version = "HTTP/1.0" if minor == "0" else "HTTP/1.1"  # section 2.5 of RFC 9110: of a higher one, ours
        self.fields: dict[str, str] = {}
        self.length: int | None = 0
        self.continues = self.closes = False
        self.path = self.query = ""

    @property
    def is_old(self) -> bool:
        """Whether it is of HTTP/1.0, which knows no chunks, and closes unless it is asked not to."""
        return self.version == "HTTP/1.0"


def judge(lines: list[str]) -> Head:
    """Return what a request's line and its fields' lines say.

    Raises:
        Refused: they break a rule, or ask for what nobody has here.
    """
    head = Head(lines[0])
    head.fields = judge_fields(lines[1:])
    _judge_target(head)
    _judge_host(head)
    _judge_connection(head)
    _judge_length(head)
    _judge_expectation(head)
    return head


def judge_fields(lines: Iterable[str]) -> dict[str, str]:
    """Return the fields of these lines, of a head or of a trailer.

    Raises:
        Refused: one is malformed, or is there twice.
    """
    fields: dict[str, str] = {}
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise Refused(400, "a field is malformed, or folded over two lines (RFC 9112, section 5)")
        name, value = match[1].lower(), match[2]
        before = fields.get(name)
        if before is None:
            fields[name] = value
        elif name in SINGLE:
            raise Refused(400, f"there are two fields {name} (RFC 9110, section 5.3)")
        else:
            fields[name] = f"{before}{'; ' if name == 'cookie' else ', '}{value}"
    return fields


def _judge_target(head: Head) -> None:
    """RFC 9112, section 3.2: a target has one of four forms, two of them for one method each."""
    if head.method == "CONNECT":
        if not is_host(head.target) or ":" not in head.target.rpartition("]")[2]:
            raise Refused(400, "CONNECT has no host and port (RFC 9112, section 3.2.3)")
        raise Refused(501, "there are no tunnels here (RFC 9110, section 9.3.6)")
    if head.target == "*":
        if head.method != "OPTIONS":
            raise Refused(400, "the target * is for OPTIONS alone (RFC 9112, section 3.2.4)")
        head.path = "*"
        return
    match = ORIGIN_FORM.fullmatch(head.target)
    if match is not None:
        head.path, head.query = match[1], match[2] or ""
        return
    if begun := ORIGIN_FORM.match(head.target):
        wrong = head.target[begun.end()]
        sent = "is not sent" if wrong == "#" else f"is sent as %{ord(wrong):02X}"
        raise Refused(400, f"the target is malformed: {wrong!r} {sent} (RFC 9112, section 3.2)")
    match = ABSOLUTE_FORM.fullmatch(head.target)
    if match is None or not is_host(match[1]):
        raise Refused(400, "the target is malformed (RFC 9112, section 3.2)")
    if "host" in head.fields and not is_host(head.fields["host"]):
        raise Refused(400, "the Host field is malformed (RFC 9110, section 7.2)")
    if not head.is_old and "host" not in head.fields:
        raise Refused(400, "there is no Host field (RFC 9112, section 3.2)")
    head.fields["host"] = match[1]  # RFC 9112, section 3.2.2: the field is ignored
    head.path, head.query = match[2] or ("" if head.method == "OPTIONS" else "/"), match[3] or ""
    if not head.path:
        head.path = "*"  # section 3.2.4


def _judge_host(head: Head) -> None:
    """RFC 9112, section 3.2: there is one Host field, and it is a host."""
    host = head.fields.get("host")
    if host is None:
        if not head.is_old:
            raise Refused(400, "there is no Host field (RFC 9112, section 3.2)")
    elif not is_host(host):
        raise Refused(400, "the Host field is empty, or malformed (RFC 9110, section 7.2)")


def _judge_connection(head: Head) -> None:
    """RFC 9112, section 9.3: it goes on, unless it is to be closed; in HTTP/1.0, only if it is to be kept."""
    options = [option.strip(" \t").lower() for option in head.fields.get("connection", "").split(",")]
    head.closes = "close" in options or (head.is_old and "keep-alive" not in options)


def _judge_length(head: Head) -> None:
    """RFC 9112, section 6: how long the body is, and that nobody on the way can have thought otherwise."""
    length, coding = head.fields.get("content-length"), head.fields.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Refused(400, "there are both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)")
        if head.is_old:
            raise Refused(400, "HTTP/1.0 has no Transfer-Encoding (RFC 9112, section 6.1)")
        _judge_coding(coding)
        head.length = None
    elif length is not None:
        if not (length.isascii() and length.isdigit()):
            raise Refused(400, "Content-Length is no number (RFC 9110, section 8.6)")
        digits = length.lstrip("0")
        if len(digits) > MOST_DIGITS:
            raise Refused(413, "Content-Length is more than anybody takes (max_body)")
        head.length = int(digits or "0")


def _judge_coding(value: str) -> None:
    """RFC 9112, section 6.1: chunked is the last coding, and there once; we know no other."""
    codings = [coding.strip(" \t").lower() for coding in value.split(",")]
    if codings == ["chunked"]:
        return
    if codings[-1] != "chunked" or codings.count("chunked") > 1 or not all(map(is_token, codings)):
        raise Refused(400, "Transfer-Encoding does not end with chunked, once (RFC 9112, section 6.3)")
    raise Refused(501, "no Transfer-Encoding but chunked is known here (RFC 9112, section 6.1)")


def _judge_expectation(head: Head) -> None:
    """RFC 9110, section 10.1.1: of expectations there is one; what HTTP/1.0 says of it is ignored."""
    expected = head.fields.get("expect")
    if expected is None or head.is_old:
        return
    if expected.lower() != "100-continue":
        raise Refused(417, "no expectation but 100-continue is met here (RFC 9110, section 10.1.1)")
    head.continues = head.length != 0

"""What an entry of the corpus is, and the words in which the other modules write theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What the server under test is given, small enough that entries at either side of each are short.
LINE, HEAD, FIELDS, BODY = 1000, 4000, 40, 10_000  # bytes, bytes, a number, bytes

CUT = 0  # in the place of a status: the connection ends without a word
BAD = frozenset({400})
UNKNOWN_CODING = frozenset({400, 501})
UNKNOWN_VERSION = frozenset({400, 505})

Text = str | tuple[str, ...]  # a tuple: any of these


@dataclass(frozen=True)
class Call:
    """What the app must see of one request. A path of None is any: the RFCs do not say what it is for an app."""

    method: str
    path: Text | None
    query: str = ""
    body: bytes = b""
    environ: Mapping[str, Text] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """Bytes that a client sends, and all that may become of them.

    The app sees `calls`, in this order, and each is answered with 200. Then, if there is a refusal, the client is
    answered with one of these statuses, and the connection ends; else, if the entry `keeps` the connection, the next
    request is served, and if not, the connection ends (None: either is right).

    A server that answers with one that the entry `may_refuse` instead, and calls nothing, is right, too: there the RFCs
    leave a choice, and the note says which.
    """

    name: str
    raw: bytes
    rfc: str
    calls: tuple[Call, ...] = ()
    refused: frozenset[int] = frozenset()
    keeps: bool | None = True
    may_refuse: frozenset[int] = frozenset()
    note: str = ""


def head(*lines: str) -> bytes:
    """Return lines as sent, each ended by CRLF, and the empty one behind them."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(*fields: str, target: str = "/", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return a request that has a Host, and these fields."""
    return head(f"{method} {target} {version}", "Host: a", *fields)


def post(body: bytes, *fields: str, length: bool = True) -> bytes:
    """Return a POST with this body, its length told, or not."""
    told = [f"Content-Length: {len(body)}"] if length else []
    return head("POST /p HTTP/1.1", "Host: a", *told, *fields) + body


def chunked(body: bytes, *fields: str) -> bytes:
    """Return a POST whose body has the form of chunks, as given, right or wrong."""
    return post(body, "Transfer-Encoding: chunked", *fields, length=False)


def posted(body: bytes, **environ: Text) -> Call:
    """Return what the app sees of such a POST."""
    return Call("POST", "/p", body=body, environ=environ)


def refused(
    name: str, rfc: str, raw: bytes, statuses: frozenset[int] = BAD, note: str = "", calls: tuple[Call, ...] = ()
) -> Entry:
    """Return an entry that is refused, after the calls that are right."""
    return Entry(name, raw, rfc, calls, refused=statuses, keeps=False, note=note)

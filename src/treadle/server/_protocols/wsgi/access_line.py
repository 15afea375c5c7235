"""Entry: one request that was answered, or refused; and the line that says so, in either form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from math import floor
from typing import Literal
from urllib.parse import unquote_to_bytes

from treadle._base import checks
from treadle._base.words import cut, show

__all__ = ["FORMS", "Entry", "combined", "hider", "json"]

LONGEST_TARGET = 8192  # characters of a request's target that are told; as much as servers take, mostly
LONGEST_FIELD = 1024  # of anything else; a guess: more than any honest client sends
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]  # whatever the locale
HIDDEN = "***"

_odd = re.compile(r"[^ !#-\[\]-~]")  # all but printable ASCII, and what fields are quoted with
_spaced = re.compile(r"[^!#-\[\]-~]")  # and a space, in fields that stand unquoted
_name = re.compile(r"(?:^|[?;#])([^=?;#]*)=")  # of a parameter, or of one in a value that is a reference itself


@dataclass(slots=True)
class Entry:
    """One request that was answered, or refused. Texts are as the client sent them, latin-1; "" where there is none.

    Attributes:
        host: the client's address.
        user: who the client says it is.
        began: when its first byte came, on the wall clock, in seconds since 1970.
        method: of the request line; "" if that makes no sense, and its text is in `target`.
        target: of the request line, undecoded.
        version: such as HTTP/1.1.
        status: of the answer; 0 if there was none.
        bytes_out: of the answer.
        referer: what the field of that name says.
        agent: what the field User-Agent says.
        request_id: as the app sees it.
        route: what the app, or who observes it, calls the kind of request.
        wait: seconds that it waited for a thread.
        run: seconds in the app.
        send: seconds in which the answer was sent.
        error: what went wrong.
    """

    host: str = ""
    user: str = ""
    began: float = 0.0
    method: str = ""
    target: str = ""
    version: str = ""
    status: int = 0
    bytes_out: int = 0
    referer: str = ""
    agent: str = ""
    request_id: str = ""
    route: str = ""
    wait: float = 0.0
    run: float = 0.0
    send: float = 0.0
    error: str = ""


def combined(entry: Entry, target: str, referer: str) -> str:
    r"""Return the line in Apache's combined log format, which many programs read; all of it is printable ASCII.

    https://httpd.apache.org/docs/current/logs.html#combined. The time is UTC. What is no printable ASCII, quotes and
    backslashes are told as \xhh, and nothing else has a backslash: so does nginx, and no reader takes it for the end.

    Args:
        entry: the request.
        target: in the place of its own: something may be hidden.
        referer: likewise.
    """
    host, user, referer, agent = entry.host or "-", entry.user or "-", referer or "-", entry.agent or "-"
    request = _request_line(entry.method, target, entry.version)
    texts = f"{host}{user}{request}{referer}{agent}"
    if len(texts) > LONGEST_FIELD or _odd.search(texts) or " " in host or " " in user:  # seldom
        host, user = _escaped(host, odd=_spaced), _escaped(user, odd=_spaced)
        request = _request_line(_escaped(entry.method), _escaped(target, LONGEST_TARGET), _escaped(entry.version))
        referer, agent = _escaped(referer), _escaped(agent)
    return (
        f'{host} - {user} [{_apaches_time(floor(entry.began))}] "{request}" '
        f'{entry.status or "-"} {entry.bytes_out:d} "{referer}" "{agent}"\n'
    )


def _request_line(method: str, target: str, version: str) -> str:
    return f"{method} {target} {version}" if method and version else f"{method} {target}".strip(" ") or "-"


def _escaped(text: str, longest: int = LONGEST_FIELD, odd: re.Pattern[str] = _odd) -> str:
    return odd.sub(_as_hex, cut(text, longest))


def _as_hex(odd: re.Match[str]) -> str:
    code = ord(odd[0])
    octets = (code,) if code < 0x100 else odd[0].encode("utf-8", "surrogatepass")
    return "".join(f"\\x{octet:02x}" for octet in octets)


@lru_cache(maxsize=64)  # seconds; requests that end now began at several
def _apaches_time(second: int) -> str:
    time = datetime.fromtimestamp(second, UTC)
    return f"{time.day:02}/{MONTHS[time.month - 1]}/{time.year:04}:{time:%H:%M:%S} +0000"


def json(entry: Entry, target: str, referer: str) -> str:
    """Return the line as an object of JSON, all of it printable ASCII. The arguments are those of `combined`."""
    line = _object(entry, target, referer, _untouched)
    if len(line) > LONGEST_FIELD:
        line = _object(entry, target, referer, cut)
    return line.replace("\x7f", "\\u007f") if "\x7f" in line else line


def _object(entry: Entry, target: str, referer: str, cut: Callable[[str, int], str]) -> str:
    began, second = entry.began, floor(entry.began)
    return (
        f'{{"time": "{_iso_time(second)}.{min(999_999, round((began - second) * 1e6)):06}Z", '
        f'"host": {quoted(cut(entry.host, LONGEST_FIELD))}, '
        f'"user": {quoted(cut(entry.user, LONGEST_FIELD))}, '
        f'"method": {quoted(cut(entry.method, LONGEST_FIELD))}, '
        f'"target": {quoted(cut(target, LONGEST_TARGET))}, '
        f'"version": {quoted(cut(entry.version, LONGEST_FIELD))}, '
        f'"status": {entry.status:d}, "bytes": {entry.bytes_out:d}, '
        f'"referer": {quoted(cut(referer, LONGEST_FIELD))}, '
        f'"agent": {quoted(cut(entry.agent, LONGEST_FIELD))}, '
        f'"request_id": {quoted(cut(entry.request_id, LONGEST_FIELD))}, '
        f'"route": {quoted(cut(entry.route, LONGEST_FIELD))}, '
        f'"wait": {entry.wait:.6f}, "run": {entry.run:.6f}, "send": {entry.send:.6f}, '
        f'"error": {quoted(cut(entry.error, LONGEST_FIELD))}}}\n'
    )


def _untouched(text: str, longest: int) -> str:
    return text


@lru_cache(maxsize=64)
def _iso_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


FORMS: dict[str, Callable[[Entry, str, str], str]] = {"combined": combined, "json": json}


def hider(redact: Iterable[str] | Literal["query"]) -> Callable[[str], str] | None:
    """Return what hides the values of query parameters in a target or a referer; None if there are none to hide.

    Args:
        redact: the names of parameters, or "query" for all that stands behind the path. Names match in any case, and
            however they are encoded; in what follows a `#` too. A value is all up to the next `&`.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if isinstance(redact, str):
        if redact != "query":
            raise ValueError(f'redact={show(redact)}; allowed: "query", or several names, as in ("token",)')
        return _without_query
    names = {
        checks.text("redact", name).casefold() for name in checks.several("redact", redact, 'names, as in ("token",)')
    }
    if not names:
        return None

    def hidden(part: str) -> str:
        secret = next((found for found in _name.finditer(part) if _decoded(found[1]) in names), None)
        return part if secret is None else f"{part[: secret.end()]}{HIDDEN}"

    def hide(text: str) -> str:
        path = _path(text)
        return path + "&".join(map(hidden, text[len(path) :].split("&"))) if len(path) < len(text) else text

    return hide


def _without_query(text: str) -> str:
    path = _path(text)
    return f"{path}{text[len(path)]}{HIDDEN}" if len(path) < len(text) else text


def _path(text: str) -> str:
    return text.partition("?")[0].partition("#")[0]


def _decoded(name: str) -> str:
    octets = unquote_to_bytes(name.replace("+", " ").encode("latin-1", "replace"))
    return octets.decode("utf-8", "replace").casefold()

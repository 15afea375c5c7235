"""A client that sends an entry over a real socket, reads strictly what comes back, and says what is wrong with it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from wsgiref.validate import check_environ  # type: ignore[attr-defined]  # typeshed does not know it

from conformance.http.corpus.entry import CUT, Call, Entry, Text, head

PATIENCE = 20.0  # seconds after which an answer does not come any more
# Bytes that are sent one by one; of an entry that has more the rest goes in pieces.
ONE_BY_ONE = 1500
PIECE = 1021

# Whole, with another behind it, in one packet if the entry is the last of its connection; whole, with none behind it,
# as the first or the second of a connection; byte by byte; in one packet with one before it and one behind.
WAYS = ("whole", "alone", "second", "bytes", "neighbours")
LONELY = ("alone", "second")

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")


class Malformed(Exception):
    """What came back is no answer."""


@dataclass
class Seen:
    """A request as it arrived at the app."""

    environ: dict[str, Any]
    body: bytes


@dataclass
class Answer:
    """An answer, with the statuses that came before it as 1xx."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    interim: list[int]


class Recorder:
    """An app that answers each request with 200 and its path, and keeps what it saw; wsgiref's judge looks at it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        check_environ(environ | {"REQUEST_METHOD": "GET"})  # it warns of methods that it does not know
        body = environ["wsgi.input"].read()
        self.seen.append(Seen({key: value for key, value in environ.items() if isinstance(value, str)}, body))
        answer = environ["PATH_INFO"].encode("latin-1")
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
        return [answer]


class Reader:
    """What comes back over a socket, cut into answers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self.reset = False

    def answer(self, method: str) -> Answer | None:
        """Return the next answer, to a request of this method; None at the end."""
        interim: list[int] = []
        while True:
            if not self._data and not self._more():
                return None
            status, fields = self._head()
            if status >= 200:
                return Answer(status, fields, self._body(method, status, fields), interim)
            interim.append(status)

    def rest(self) -> bytes:
        """Return all that still comes, to the end."""
        while self._more():
            pass
        return bytes(self._data)

    def _more(self) -> bool:
        try:
            chunk = self._sock.recv(65536)
        except ConnectionResetError:
            self.reset = True
            return False
        self._data += chunk
        return bool(chunk)

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            if not self._more():
                raise Malformed(f"the connection ends within an answer, after {bytes(self._data)!r}")
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _line(self) -> bytes:
        while (at := self._data.find(b"\r\n")) < 0:
            if not self._more():
                raise Malformed(f"the connection ends within a line, after {bytes(self._data)!r}")
        return self._take(at + 2)[:-2]

    def _head(self) -> tuple[int, dict[bytes, bytes]]:
        line = self._line()
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"a status line {line!r}")
        fields: dict[bytes, bytes] = {}
        while line := self._line():
            field = _FIELD.fullmatch(line)
            if field is None or field[1].lower() in fields:
                raise Malformed(f"a field that is wrong or there twice: {line!r}")
            fields[field[1].lower()] = field[2]
        return int(match[1]), fields

    def _body(self, method: str, status: int, fields: Mapping[bytes, bytes]) -> bytes:
        if method == "HEAD" or status in {204, 304}:
            return b""
        if b"transfer-encoding" in fields:
            return self._chunks()
        if b"content-length" in fields:
            return self._take(int(fields[b"content-length"]))
        body = self.rest()
        self._data.clear()
        return body

    def _chunks(self) -> bytes:
        body = b""
        while True:
            line = self._line()
            if _SIZE.fullmatch(line) is None:
                raise Malformed(f"a chunk's size {line!r}")
            data = self._take(int(line, 16))
            if self._line():
                raise Malformed("no line's end behind a chunk")
            if not data:
                return body
            body += data


def faults_of(entry: Entry, way: str, address: tuple[Any, ...], recorder: Recorder) -> list[str]:
    """Send an entry in one of the WAYS and return what is wrong with what becomes of it, in words."""
    recorder.seen.clear()
    with socket.create_connection(address[:2], PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange = _Exchange(entry, way, sock)
        try:
            exchange.run()
        except Malformed as error:
            exchange.faults.append(f"there comes {error}")
        except TimeoutError:
            exchange.faults.append(f"nothing comes for {PATIENCE:g} s")
    faults = exchange.faults + _faults_of_calls(exchange.calls, recorder.seen)
    return [f"{entry.name} ({entry.rfc}), sent in the way {way!r}: {fault}" for fault in faults]


class _Exchange:
    """One connection: what is sent and what is answered, and the calls that the app must have seen by then."""

    def __init__(self, entry: Entry, way: str, sock: socket.socket) -> None:
        self.faults: list[str] = []
        self.calls: list[Call] = []
        self._entry = entry
        self._way = way
        self._sock = sock
        self._reader = Reader(sock)
        self._old = b" HTTP/1.0\r\n" in entry.raw  # and so is the last request of it
        if b" HTTP/1.1\r\n" in entry.raw:
            self._old = entry.raw.rfind(b" HTTP/1.0\r\n") > entry.raw.rfind(b" HTTP/1.1\r\n")
        self._behind = Call("GET", f"/behind/{entry.name}")

    def run(self) -> None:
        entry = self._entry
        before = Call("GET", f"/before/{entry.name}")
        sent_before = head(f"GET {before.path} HTTP/1.1", "Host: before")
        behind = head(f"GET {self._behind.path} HTTP/1.1", "Host: behind", "Connection: close")
        at_once = self._way == "neighbours" or entry.keeps is not True
        if self._way == "neighbours":
            self._send(sent_before + entry.raw + behind)
            self._expect_call(before)
        elif self._way == "bytes":
            self._send(*(entry.raw[at : at + 1] for at in range(min(len(entry.raw), ONE_BY_ONE))))
            self._send(*(entry.raw[at : at + PIECE] for at in range(ONE_BY_ONE, len(entry.raw), PIECE)))
        else:
            if self._way == "second":
                self._send(sent_before)
                self._expect_call(before)
            self._send(entry.raw + behind if at_once and self._way == "whole" else entry.raw)
        if self._way in LONELY:
            self._send_end()
        elif at_once and self._way == "bytes":
            self._send(behind)
        for nth, call in enumerate(entry.calls):
            last = nth == len(entry.calls) - 1 and not entry.refused
            if not self._expect_call(call, first=nth == 0, last=last):
                return
        if entry.refused:
            incomplete = {CUT} if self._way in LONELY else set()
            self._expect_refusal(self._reader.answer("GET"), entry.refused | incomplete)
        elif entry.keeps is False or self._way in LONELY:
            self._expect_end()
        else:
            if not at_once:
                self._send(behind)
            if entry.keeps is not None or self._more_follows():
                self._expect_call(self._behind)
                self._expect_end()

    def _send(self, *pieces: bytes) -> None:
        """Send these, one by one; who has refused may not read on."""
        try:
            for piece in pieces:
                self._sock.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _send_end(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # who has refused may have hung up
            pass

    def _more_follows(self) -> bool:
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except ConnectionResetError:
            return False

    def _expect_call(self, call: Call, *, first: bool = False, last: bool = False) -> bool:
        """Read an answer of the app's; return whether it is one, and more is to be expected."""
        answer = self._reader.answer(call.method)
        if answer is not None and first and answer.status in self._entry.may_refuse:
            self._expect_refusal(answer, self._entry.may_refuse)
            return False
        if answer is None or answer.status != 200:
            self.faults.append(f"{call.method} {call.path} is answered with {_words(answer)}, not with 200")
            return False
        self.calls.append(call)
        self._judge_interim(answer)
        token = answer.fields.get(b"connection", b"").lower()
        if last and self._entry.keeps is True and self._old and token != b"keep-alive":
            self.faults.append("the answer does not say keep-alive, as a client of HTTP/1.0 has to be told")
        if last and self._entry.keeps is False and not self._old and token != b"close":
            self.faults.append("the connection ends, and the answer does not say close (RFC 9112, 9.6)")
        return True

    def _judge_interim(self, answer: Answer) -> None:
        asked = b"100-continue" in self._entry.raw.lower() and not self._old
        if answer.interim not in ([], [100]) or (answer.interim and not asked):
            self.faults.append(f"before the answer there come {answer.interim}")

    def _expect_refusal(self, answer: Answer | None, statuses: frozenset[int]) -> None:
        status = CUT if answer is None else answer.status
        if status not in statuses:
            wanted = " or ".join(str(status) for status in sorted(statuses))
            self.faults.append(f"it is answered with {_words(answer)}, not with {wanted}{self._lost()}")
        if answer is not None and answer.interim:
            self.faults.append(f"before the refusal there come {answer.interim}")
        if answer is not None and answer.status >= 400 and answer.fields.get(b"connection", b"").lower() != b"close":
            self.faults.append("the refusal does not say close (RFC 9112, 9.6)")
        self._expect_end()

    def _expect_end(self) -> None:
        rest = self._reader.rest()
        if rest:
            self.faults.append(f"the connection should end, and there comes {rest[:200]!r}")

    def _lost(self) -> str:
        return " (the connection was reset: perhaps it got lost)" if self._reader.reset else ""


def _words(answer: Answer | None) -> str:
    return "the end of the connection" if answer is None else f"{answer.status} {answer.body[:100]!r}"


def _faults_of_calls(calls: list[Call], seen: list[Seen]) -> list[str]:
    faults = [fault for call, one in zip(calls, seen, strict=False) for fault in _faults_of_call(call, one)]
    if len(calls) != len(seen):
        told = [f"{one.environ['REQUEST_METHOD']} {one.environ['PATH_INFO']}" for one in seen]
        faults.append(f"the app was called {len(seen)} times, for {told}, and not {len(calls)} times")
    return faults


def _faults_of_call(call: Call, seen: Seen) -> list[str]:
    environ = seen.environ
    wanted: dict[str, Text] = {"REQUEST_METHOD": call.method, "QUERY_STRING": call.query, **call.environ}
    if call.path is not None:
        wanted["PATH_INFO"] = call.path
    faults = [
        f"{call.method} {call.path}: {key} is {environ.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if environ.get(key) not in (value if isinstance(value, tuple) else (value,))
    ]
    faults += [f"{call.method} {call.path}: {key} is {environ[key]!r}" for key in call.absent if environ.get(key)]
    if seen.body != call.body:
        faults.append(f"{call.method} {call.path}: the body is {seen.body[:200]!r}, not {call.body[:200]!r}")
    return faults

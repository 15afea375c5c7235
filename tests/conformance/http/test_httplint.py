"""Answers of every kind, as httplint reads them: what it finds wrong has a reason, or it is mended.

Those that the server makes itself, and those of an app that it passes on, over real sockets.
"""

from __future__ import annotations

import socket
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.http.corpus.entry import get, head, post
from conformance.http.wire import PATIENCE
from tcp import receive_all
from treadle.server import WSGI, Limits, Server

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    pytest.skip("what httplint imports would bring the GIL back", allow_module_level=True)
httplint = pytest.importorskip("httplint")

WRONG = {"WARN", "BAD"}
# Notes of these levels that are about no fault.
REASONS = {
    "FRESHNESS_HEURISTIC": "how long an answer may be kept is for the app to say",
    # The client's fault, which the status names.
    "STATUS_BAD_REQUEST": "",
    "STATUS_REQUEST_TIMEOUT": "",
    "STATUS_URI_TOO_LONG": "",
    "STATUS_VERSION_NOT_SUPPORTED": "",
}

Environ = dict[str, Any]
Fields = list[tuple[bytes, bytes]]
Message = tuple[bytes, Fields, bytes]  # the first line, the fields, the body
TYPE = ("Content-Type", "text/plain; charset=utf-8")

free = threading.Event()  # lets /wait go on


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer in the way that the path says."""
    path = environ["PATH_INFO"]
    if path == "/none":
        start_response("204 No Content", [])
        return []
    if path == "/same":
        start_response("304 Not Modified", [("ETag", '"a"')])
        return []
    if path == "/stream":
        start_response("200 OK", [TYPE])
        return (piece for piece in (b"a", b"", b"b"))
    if path == "/own":
        start_response("200 OK", [TYPE, ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Server", "app")])
        return [b"own"]
    if path == "/fails":
        raise LookupError("as it should")
    if path == "/hints":
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload; as=style")])
    if path == "/wait":
        free.wait(PATIENCE)
    start_response("200 OK", [TYPE, ("Content-Length", "5"), ("Cache-Control", "no-store")])
    return [b"hello"]


SMALL: dict[str, Any] = {"max_line": 1000, "max_head": 2000, "max_fields": 10, "max_body": 10}
# By name: what is sent, and the statuses of what comes.
ASKED = {
    "length": (get(), [200]),
    "length-head": (get(method="HEAD"), [200]),
    "length-close": (get("Connection: close"), [200]),
    "length-old": (get(version="HTTP/1.0"), [200]),
    "length-old-kept": (get("Connection: keep-alive", version="HTTP/1.0"), [200]),
    "chunked": (get(target="/stream"), [200]),
    "chunked-head": (get(target="/stream", method="HEAD"), [200]),
    "until-the-end": (get(target="/stream", version="HTTP/1.0"), [200]),
    "204": (get(target="/none"), [204]),
    "304": (get('If-None-Match: "a"', target="/same"), [304]),
    "fields-of-its-own": (get(target="/own"), [200]),
    "early-hints": (get(target="/hints"), [103, 200]),
    "early-hints-head": (get(target="/hints", method="HEAD"), [103, 200]),
    "health": (get(target="/live"), [200]),
    "health-head": (get(target="/live", method="HEAD"), [200]),
    "ready": (get(target="/ready"), [200]),
    "400": (head("GET / HTTP/1.1"), [400]),
    "400-head": (head("HEAD / HTTP/1.1"), [400]),
    "413": (post(b"x" * 11), [413]),
    "414": (get(target=f"/{'x' * 1000}"), [414]),
    "417": (get("Expect: more"), [417]),
    "431-long": (get(f"X: {'x' * 2000}"), [431]),
    "431-many": (get(*["X: x"] * 10), [431]),
    "500": (get(target="/fails"), [500]),
    "500-head": (get(target="/fails", method="HEAD"), [500]),
    "501-method": (head("CONNECT a:1 HTTP/1.1", "Host: a:1"), [501]),
    "501-coding": (post(b"", "Transfer-Encoding: gzip, chunked", length=False), [501]),
    "505": (get(version="HTTP/2.0"), [505]),
    "505-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
}


@contextmanager
def serve(limits: Limits | None = None, workers: int = 2, **options: Any) -> Iterator[Any]:
    """Serve the app, and give the address."""
    with Server(
        WSGI(app, health="/live", ready="/ready", **options), "127.0.0.1:0", max_workers=workers, limits=limits
    ) as server:
        yield server.address


def ask(address: Any, raw: bytes, *, end: bool = True) -> bytes:
    """Send this, and that it is all, if it is; return all that comes."""
    with socket.create_connection(address[:2], PATIENCE) as sock:
        sock.sendall(raw)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def messages_of(raw: bytes, *, bodiless: bool) -> Iterator[Message]:
    """Cut what came into answers; each is complete."""
    while raw:
        top, end, raw = raw.partition(b"\r\n\r\n")
        assert end
        line, *lines = top.split(b"\r\n")
        fields = [(name, value) for name, _, value in (one.partition(b": ") for one in lines)]
        told = {name.lower(): value for name, value in fields}
        status, body = int(line.split()[1]), b""
        if bodiless or status < 200 or status in (204, 304):
            pass
        elif b"transfer-encoding" in told:
            size = -1
            while size:
                begun, _, raw = raw.partition(b"\r\n")
                size = int(begun, 16)
                body += raw[:size]
                raw = raw[size + 2 :]
        elif b"content-length" in told:
            size = int(told[b"content-length"])
            body, raw = raw[:size], raw[size:]
        else:
            body, raw = raw, b""
        yield line, fields, body


def notes_of(request: bytes, answer: Message) -> list[str]:
    """Return what httplint finds wrong with an answer."""
    asked = httplint.HttpRequestLinter()
    top = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    method, target, version = top[0].split(b" ")
    asked.process_request_topline(method, b"http://a" + target.removeprefix(b"*"), version.partition(b"/")[2])
    asked.process_headers([(name, value.strip()) for name, _, value in (line.partition(b":") for line in top[1:])])
    asked.finish_content(True)
    line, fields, body = answer
    is_final = not line.startswith(b"HTTP/1.1 1")  # RFC 9110, section 6.6.1: a Date is for those
    version, status, phrase = line.split(b" ", 2)
    linter = httplint.HttpResponseLinter(no_content=method == b"HEAD", _related=asked)
    linter.process_response_topline(version.partition(b"/")[2], status, phrase)
    linter.process_headers(fields)
    linter.feed_content(body)
    linter.finish_content(True)
    return [
        f"{line.decode()}: {type(note).__name__}, {note.subject}: {note.summary}"
        for note in linter.notes
        if note.level.name in WRONG
        and type(note).__name__ not in REASONS
        and (is_final or type(note).__name__ != "DATE_CLOCKLESS")
    ]


def check(request: bytes, came: bytes, statuses: list[int]) -> None:
    """Look at each answer that came to a request."""
    answers = list(messages_of(came, bodiless=request.startswith(b"HEAD ")))
    assert [int(line.split()[1]) for line, _, _ in answers] == statuses, came[:500]
    assert not [note for answer in answers for note in notes_of(request, answer)]


@pytest.mark.parametrize(("request_", "statuses"), ASKED.values(), ids=ASKED)
def test_what_is_asked_for_at_once(request_: bytes, statuses: list[int]) -> None:
    with serve(**SMALL) as address:
        check(request_, ask(address, request_), statuses)


def test_continue_and_what_comes_of_it() -> None:
    begun, body = post(b"hello", "Expect: 100-continue")[:-5], b"hello"
    with serve(**SMALL) as address, socket.create_connection(address[:2], PATIENCE) as sock:
        sock.sendall(begun)
        came = sock.recv(65536)
        sock.sendall(body)
        sock.shutdown(socket.SHUT_WR)
        came += receive_all(sock)
    check(begun, came, [100, 200])


@pytest.mark.parametrize("raw", [get()[:-2], post(b"hello")[:-1]], ids=["head", "body"])
def test_408_to_who_is_too_slow(raw: bytes) -> None:
    with serve(head_timeout=0.05, body_timeout=0.05) as address:
        check(get(), ask(address, raw, end=False), [408])


def test_503_to_whom_no_thread_has_come() -> None:
    with serve(Limits(handler_timeout=0.05)) as address:
        try:
            check(get(target="/wait"), ask(address, get(target="/wait")), [503])
        finally:
            free.set()
            free.clear()


def test_507_where_the_disk_takes_nothing(tmp_path: Path) -> None:
    long, folder = post(b"x" * 600_000), tmp_path / "gone"
    folder.mkdir()
    with serve(Limits(spool_folder=folder)) as address:
        folder.rmdir()
        check(long, ask(address, long), [507])


def test_503_to_whom_there_is_no_room() -> None:
    with (
        serve(Limits(max_connections=1, at_max_connections="reject")) as address,
        socket.create_connection(address[:2], PATIENCE) as sock,
    ):
        sock.sendall(get())
        assert sock.recv(65536)
        with socket.create_connection(address[:2], PATIENCE) as other:  # who sends nothing is told at once
            check(get(), receive_all(other), [503])


def test_what_is_wrong_is_found() -> None:
    answer = b"HTTP/1.1 200 OK", [(b"Content-Type", b"text/plain"), (b"Content-Length", b"9")], b"hello"
    found = " ".join(notes_of(get(), answer))
    assert "CL_INCORRECT" in found
    assert "DATE_CLOCKLESS" in found

"""examples/web_app.py, run as a user runs it, and as any server may call it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from programs import PATIENCE, Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "web_app.py"


@pytest.fixture
def server() -> Iterator[Program]:
    with Program([sys.executable, "-W", "error", "-X", "dev", str(EXAMPLE), "0"]) as program:
        yield program


def end(server: Program) -> None:
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output
    assert "Warning" not in server.output


def connect(server: Program) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", server.wait_for_port(), timeout=PATIENCE)
    connection.connect()
    return connection


def ask(client: HTTPConnection, path: str, body: Any = None) -> HTTPResponse:
    client.request("GET" if body is None else "POST", path, body)
    return client.getresponse()


def test_its_page_asks_for_what_is_there(server: Program) -> None:
    client = connect(server)
    answer = ask(client, "/")
    page = answer.read().decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    paths = set(re.findall(r"(?:'|href=)(/\w+)", page))
    assert paths == {"/slow", "/upload", "/ticks", "/state", "/source"}
    for path in paths - {"/slow", "/ticks"}:
        answer = ask(client, path)
        answer.read()
        assert answer.status == 200
    state = json.loads(ask(client, "/state").read())
    assert state["requests"] == {"/": 1, "/upload": 1, "/state": 2, "/source": 1}
    client.close()
    end(server)


def test_an_upload_is_digested(server: Program) -> None:
    client = connect(server)
    body = bytes(range(256)) * 5000
    said = f"{len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}\n"
    assert ask(client, "/upload", body).read().decode() == said
    assert ask(client, "/upload", (body[at : at + 100_000] for at in range(0, len(body), 100_000))).read() == (
        said.encode()
    )
    client.close()
    end(server)


def test_others_are_served_while_one_is_slow_and_can_see_it(server: Program) -> None:
    slow, other = connect(server), connect(server)
    slow.request("GET", "/slow?seconds=5")
    deadline = monotonic() + PATIENCE
    while not any(
        doing.startswith("slow, line") for doing in json.loads(ask(other, "/state").read())["threads"].values()
    ):
        assert monotonic() < deadline
    assert slow.getresponse().read() == b"slept 5 s\n"
    slow.close()
    other.close()
    end(server)


def test_a_stream_comes_as_it_is_made_and_a_client_may_leave(server: Program) -> None:
    client = connect(server)
    answer = ask(client, "/ticks")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert [answer.readline() for _ in range(4)] == [b"data: tick 0\n", b"\n", b"data: tick 1\n", b"\n"]
    answer.close()
    client.close()
    end(server)


def test_the_file_is_its_own_source(server: Program) -> None:
    client = connect(server)
    answer = ask(client, "/source")
    assert answer.read() == EXAMPLE.read_bytes()
    assert answer.headers["Content-Length"] == str(EXAMPLE.stat().st_size)
    client.close()
    end(server)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/slow?seconds=soon", 400, "could not convert string to float: 'soon'\n"),
        ("/slow?seconds=-1", 400, "sleep length must be non-negative\n"),
        ("/slow?seconds=1&seconds=2", 400, "too many values to unpack"),
        ("/nothing", 404, "there are /, /state, /slow, /upload, /ticks, /source\n"),
    ],
)
def test_what_a_client_gets_wrong_is_told(server: Program, path: str, status: int, said: str) -> None:
    client = connect(server)
    answer = ask(client, path)
    assert answer.read().decode().startswith(said)
    assert answer.status == status
    client.close()
    end(server)


def load() -> ModuleType:
    """Return the example as a module, which serves nothing."""
    spec = importlib.util.spec_from_file_location("web_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["/", "/state", "/upload", "/source", "/nothing"])
def test_it_is_an_application_by_the_book(path: str) -> None:
    """As `wsgiref.validate` has it: any server may call it."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "wsgi.input": io.BytesIO(b"hello"), "wsgi.file_wrapper": FileWrapper}
    environ |= {"QUERY_STRING": ""}
    begun: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
        begun.append(status)
        return lambda data: None

    answer: Any = validator(load().app)(environ, start_response)
    try:
        assert b"".join(answer)
    finally:
        answer.close()
    assert begun == ["404 Not Found" if path == "/nothing" else "200 OK"]


def test_it_is_short_enough_to_be_read() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 150

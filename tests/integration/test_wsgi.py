"""WSGI apps on PoolMixIn: on wsgiref's server, and on werkzeug's, as Flask brings it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

from socketservers import ANYWHERE, PATIENCE, connect, pool_of, serving, until, web
from treadle.server import PoolMixIn

Made = Callable[[Any], Any]
WORKERS = 2


class Quiet(WSGIRequestHandler):
    """wsgiref's handler, without a line for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Wsgiref(PoolMixIn, WSGIServer):
    """wsgiref's server."""

    max_workers = WORKERS


def of_wsgiref(app: Any) -> Wsgiref:
    server = Wsgiref(ANYWHERE, Quiet)
    server.set_app(app)
    return server


def of_werkzeug(app: Any, *, own_handle: bool = True) -> Any:
    serving = pytest.importorskip("werkzeug.serving", reason="werkzeug is not installed")

    class Handler(serving.WSGIRequestHandler):  # type: ignore[misc,name-defined]  # as it may not be installed
        if not own_handle:
            handle = BaseHTTPRequestHandler.handle

        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    class Werkzeug(PoolMixIn, serving.BaseWSGIServer):  # type: ignore[misc,name-defined]  # as above
        multithread = True
        max_workers = WORKERS

    return Werkzeug("127.0.0.1", 0, app, Handler)


def of_the_documents(app: Any) -> Any:
    """As docs/server.md advises."""
    return of_werkzeug(app, own_handle=False)


EVERY = pytest.mark.parametrize("made", [of_wsgiref, of_werkzeug, of_the_documents])


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the body that came."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello ", body]


def get(server: Any, path: str = "/") -> bytes:
    with web(server) as client:
        client.request("GET", path)
        return client.getresponse().read()


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Clients that stay until the end of the test."""
    with ExitStack() as stack:
        yield stack


@EVERY
def test_views_run_on_at_most_max_workers_threads(made: Made) -> None:
    gate, names = threading.Event(), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        names.append(threading.current_thread().name)
        assert gate.wait(PATIENCE)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    answers: list[bytes] = []
    paths = [f"/{number}" for number in range(3 * WORKERS)]
    with serving(made(app)) as server:
        threads = [threading.Thread(target=lambda path=path: answers.append(get(server, path))) for path in paths]
        for thread in threads:
            thread.start()
        until(lambda: len(names) == WORKERS and pool_of(server).snapshot().waiting == 2 * WORKERS)
        gate.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(answers) == [path.encode() for path in paths]
    assert len(set(names)) == WORKERS


@EVERY
def test_silent_clients_hold_no_thread(made: Made, crowd: ExitStack) -> None:
    with serving(made(hello)) as server:
        for _ in range(5 * WORKERS):
            crowd.enter_context(connect(server))
        assert get(server) == b"hello "


def test_clients_amid_a_head_hold_no_thread_where_handle_is_that_of_http_server(crowd: ExitStack) -> None:
    with serving(of_the_documents(hello)) as server:
        server.read_timeout = None
        for _ in range(5 * WORKERS):
            crowd.enter_context(connect(server)).sendall(b"GET / HTTP/1.1\r\nHo")
        assert get(server) == b"hello "


def answer_to_half_a_body(server: Any, crowd: ExitStack) -> bytes:
    """Return the status line for a client that sends a body in part, and no more."""
    server.read_timeout = 0.05
    with serving(server):
        client = crowd.enter_context(connect(server))
        client.sendall(b"POST / HTTP/1.1\r\nHost: loom\r\nContent-Length: 10\r\n\r\nabc")
        return client.makefile("rb").readline()


@EVERY
def test_read_timeout_ends_a_body_that_does_not_come(made: Made, crowd: ExitStack) -> None:
    seen: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return hello(environ, start_response)
        except TimeoutError as error:
            seen.append(error)
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []

    assert b" 400 " in answer_to_half_a_body(made(app), crowd)
    assert "read_timeout=0.05" in str(seen[0])


def test_flask_answers_400_when_a_body_does_not_come(crowd: ExitStack) -> None:
    flask = pytest.importorskip("flask", reason="flask is not installed")
    app = flask.Flask(__name__)
    app.add_url_rule("/", "length", lambda: str(len(flask.request.get_data())), methods=["POST"])
    assert b" 400 " in answer_to_half_a_body(of_the_documents(app), crowd)


@EVERY
def test_closing_finishes_the_view_that_runs(made: Made) -> None:
    begun, gate, answers = threading.Event(), threading.Event(), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        begun.set()
        gate.wait(PATIENCE)
        return hello(environ, start_response)

    server = made(app)
    server.drain_timeout = None
    with serving(server):
        client = threading.Thread(target=lambda: answers.append(get(server)))
        client.start()
        assert begun.wait(PATIENCE)
        server.shutdown()
        gate.set()
    client.join(PATIENCE)
    assert answers == [b"hello "]


def test_app_of_several_threads_is_told_so_by_werkzeug() -> None:
    told: list[tuple[object, object]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told.append((environ["wsgi.multithread"], environ["SERVER_PROTOCOL"]))
        return hello(environ, start_response)

    with serving(of_the_documents(app)) as server, socket.create_connection(server.server_address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: loom\r\n\r\n")
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    assert told == [(True, "HTTP/1.1")]

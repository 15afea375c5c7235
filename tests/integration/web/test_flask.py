"""Flask on treadle: pages, sessions, errors, streams, and what Flask ties to a request."""

from __future__ import annotations

import http.client
import json
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import flask
import pytest

from integration.web.served import (
    DRESSES,
    PATIENCE,
    WAYS,
    WORKERS,
    Address,
    Client,
    Watched,
    content_of,
    crowd,
    cut,
    digest,
    form,
    serve,
    until,
)
from treadle.server import WSGI, Limits, Server

ROUNDS = 4
UPLOAD = 2 << 20  # bytes

visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


class Site:
    """A Flask app, and what became of its requests.

    Attributes:
        ends: how often each request, by its name, was torn down.
        strays: what was done in another thread, or in another context, than the view; empty if all is well.
        leaks: what a request has found of another.
    """

    def __init__(self) -> None:
        self.app = app = flask.Flask(__name__)
        app.secret_key = "loom"
        self.ends: Counter[str] = Counter()
        self.strays: list[str] = []
        self.leaks: list[str] = []
        app.before_request(self.begin)
        app.teardown_request(self.end)

    def begin(self) -> None:
        name = flask.request.full_path
        if hasattr(flask.g, "name") or visitor.get() is not None:
            self.leaks.append(f"{name} found {flask.g.get('name')}, {visitor.get()}")
        flask.g.name, flask.g.thread = name, threading.current_thread()
        visitor.set(name)

    def end(self, error: BaseException | None) -> None:
        self.look("teardown")
        self.ends[flask.g.name] += 1

    def look(self, where: str) -> None:
        """Note whether this is the thread and the context of the view."""
        if flask.g.thread is not threading.current_thread() or visitor.get() != flask.g.name:
            self.strays.append(f"{where} of {flask.g.name} in {threading.current_thread()}, {visitor.get()}")

    def check(self, requests: int, *, streams: bool = False) -> None:
        """All is well. Flask 3.1 tears a request down before its stream, and once more after it."""
        assert self.leaks == []
        assert self.strays == []
        assert len(self.ends) == requests
        assert set(self.ends.values()) <= ({1, 2} if streams else {1})


@DRESSES
def test_each_of_many_clients_gets_its_own_pages(dressed: Callable[[Any], Any]) -> None:
    site = Site()

    def page(number: int) -> Any:
        sent = flask.request.get_json()
        return {"page": number, "sent": sent, "asked": flask.request.args["q"], "g": flask.g.name}

    site.app.add_url_rule("/page/<int:number>", view_func=page, methods=["POST"])

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            path = f"/page/{number}?q={number}.{turn}"
            answer = client.post(path, json.dumps({"turn": turn, "of": number}).encode(), "application/json")
            assert (answer.status, answer.kept) == (200, True)
            told = {"page": number, "sent": {"turn": turn, "of": number}, "asked": f"{number}.{turn}", "g": path}
            assert json.loads(answer.body) == told

    watched = Watched(dressed(site.app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    site.check(clients * ROUNDS)
    watched.check()


def test_sessions_stay_with_their_clients() -> None:
    site = Site()

    def count() -> Any:
        name = flask.session.setdefault("name", flask.request.args["name"])
        flask.session["count"] = flask.session.get("count", 0) + 1
        return flask.jsonify(name, flask.session["count"])

    site.app.add_url_rule("/count", view_func=count)

    def visit(client: Client, number: int) -> list[Any]:
        return [json.loads(client.get(f"/count?name={number}&turn={turn}").body) for turn in range(ROUNDS)]

    with serve(site.app) as address:
        counts = crowd(address, visit)
    assert counts == [[[str(number), turn + 1] for turn in range(ROUNDS)] for number in range(len(counts))]
    site.check(len(counts) * ROUNDS)


@WAYS
def test_files_of_forms_arrive_whole(dressed: Callable[[Any], Any], pieces: int | None) -> None:
    site = Site()

    def upload() -> Any:
        file = flask.request.files["file"]
        content = file.read()
        return flask.jsonify(flask.request.form["name"], file.filename, len(content), digest(content))

    site.app.add_url_rule("/upload", view_func=upload, methods=["POST"])

    def visit(client: Client, number: int) -> None:
        content = content_of(number, UPLOAD)
        body, kind = form({"name": f"client {number}"}, {"file": content})
        answer = client.post(f"/upload?{number}", cut(body, pieces), kind)
        assert json.loads(answer.body) == [f"client {number}", "file.bin", UPLOAD, digest(content)]
        assert answer.kept

    # The judge tells frameworks less, and Flask reads no more than CONTENT_LENGTH says, which chunks have as well.
    with serve(dressed(site.app)) as address:
        clients = len(crowd(address, visit))
    site.check(clients)


@DRESSES
def test_streams_are_made_in_the_request_they_belong_to(dressed: Callable[[Any], Any]) -> None:
    site = Site()

    def stream(number: int) -> Any:
        def lines() -> Iterator[str]:
            try:
                for line in range(20):
                    site.look("step")
                    yield f"{number} {line} {flask.request.args['q']} {flask.g.name}\n"
            finally:
                site.look("end")

        return flask.Response(flask.stream_with_context(lines()), mimetype="text/plain")

    site.app.add_url_rule("/stream/<int:number>", view_func=stream)

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            path = f"/stream/{number}?q={turn}"
            answer = client.get(path)
            assert answer.text == "".join(f"{number} {line} {turn} {path}\n" for line in range(20))
            assert answer.kept

    watched = Watched(dressed(site.app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    site.check(clients * ROUNDS, streams=True)
    watched.check()


def test_head_of_a_stream_is_that_of_the_stream() -> None:
    """Which says nothing of a length, for nobody knows it (RFC 9110, section 8.6)."""
    site = Site()
    site.app.add_url_rule("/stream", view_func=lambda: flask.Response(iter(["first", "second"])))
    with serve(site.app) as address, Client(address) as client:
        head = client.request("HEAD", "/stream?head")
        assert (head.status, head.body, head.kept) == (200, b"", True)
        assert head.headers.get("Content-Length") is None
        assert client.get("/stream?get").text == "firstsecond"


def test_rows_of_sqlite_are_streamed_in_the_thread_that_asked_for_them(tmp_path: Path) -> None:
    """Objects of sqlite3 raise in any other."""
    path, site, closed = tmp_path / "shop.sqlite3", Site(), Counter[str]()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE things (number INTEGER)")
        database.executemany("INSERT INTO things VALUES (?)", [(number,) for number in range(200)])
    database.close()

    def close_database(error: BaseException | None) -> None:
        site.look("teardown of the app context")
        if "database" in flask.g:
            flask.g.pop("database").close()
            closed[flask.g.name] += 1

    def things(least: int) -> Any:
        def lines() -> Iterator[str]:
            flask.g.database = sqlite3.connect(path)
            query = "SELECT number FROM things WHERE number >= ? ORDER BY number"
            for (number,) in flask.g.database.execute(query, (least,)):
                yield f"{number}\n"

        return flask.Response(flask.stream_with_context(lines()))

    site.app.add_url_rule("/things/<int:least>", view_func=things)
    site.app.teardown_appcontext(close_database)

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            answer = client.get(f"/things/{number}?{turn}")
            assert answer.text == "".join(f"{thing}\n" for thing in range(number, 200))

    with serve(site.app) as address:
        clients = len(crowd(address, visit))
    site.check(clients * ROUNDS, streams=True)
    assert closed == Counter(site.ends.keys())


def fails() -> Any:
    raise LookupError(flask.request.args["q"])


def with_failures(site: Site) -> None:
    """Give the app views that end in other ways than with a page."""
    app = site.app
    app.add_url_rule("/fails", view_func=fails)
    app.add_url_rule("/aborts/<int:status>", "aborts", lambda status: flask.abort(status, f"as {flask.g.name} wants"))
    app.add_url_rule("/leads", "leads", lambda: flask.redirect(f"/found?q={flask.request.args['q']}", 303))
    app.add_url_rule("/found", "found", lambda: f"found {flask.request.args['q']}")


@DRESSES
def test_errors_and_redirects_reach_whose_they_are(
    dressed: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    with_failures(site)
    site.app.register_error_handler(LookupError, lambda error: (f"sorry, {error}", 500))

    def visit(client: Client, number: int) -> None:
        lost = client.get(f"/fails?q={number}")
        assert (lost.status, lost.text, lost.kept) == (500, f"sorry, {number}", True)
        for status in (400, 403, 404, 418, 503):
            refused = client.get(f"/aborts/{status}?q={number}")
            assert refused.status == status
            assert f"as /aborts/{status}?q={number} wants" in refused.text
        led = client.get(f"/leads?q={number}")
        assert (led.status, led.headers["Location"]) == (303, f"/found?q={number}")
        assert client.get(led.headers["Location"]).text == f"found {number}"
        assert client.get(f"/nowhere?{number}").status == 404
        assert client.post(f"/found?q={number}.unasked", b"unasked").status == 405

    watched = Watched(dressed(site.app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    site.check(clients * 10)
    watched.check()


def test_what_no_handler_takes_is_flasks_own_page(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    with_failures(site)
    with serve(site.app) as address, Client(address) as client:
        answer = client.get("/fails?q=1")
        assert (answer.status, answer.kept) == (500, True)
        assert "Internal Server Error" in answer.text
        assert client.get("/found?q=2").text == "found 2"
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == [site.app.name]
    site.check(2)


def test_what_flask_lets_out_is_the_servers_page(caplog: pytest.LogCaptureFixture) -> None:
    """As it does where `PROPAGATE_EXCEPTIONS` is set."""
    site = Site()
    with_failures(site)
    site.app.config["PROPAGATE_EXCEPTIONS"] = True
    with serve(site.app) as address:
        with Client(address) as client:
            assert client.get("/fails?q=secret").status == 500
            assert b"secret" not in client.get("/fails?q=secret2").body
        with Client(address) as client:
            assert client.get("/found?q=2").text == "found 2"
    assert "LookupError: secret" in caplog.text
    site.check(3)


def test_stream_that_fails_midway_is_cut_and_torn_down(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()

    def stream() -> Any:
        def lines() -> Iterator[str]:
            yield "begun\n"
            raise LookupError(flask.g.name)

        return flask.Response(flask.stream_with_context(lines()))

    site.app.add_url_rule("/stream", view_func=stream)

    def visit(client: Client, number: int) -> None:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.get(f"/stream?{number}")

    with serve(site.app) as address:
        clients = len(crowd(address, visit))
    site.check(clients, streams=True)


def leave_amid(address: Address, path: str) -> None:
    """Ask for what has no end, read its beginning, and leave."""
    with Client(address) as client:
        client.connection.request("GET", path)
        response = client.connection.getresponse()
        assert response.read(6) == b"begun\n"
        response.close()


def test_stream_whose_client_has_left_is_ended_in_its_thread() -> None:
    site, ended = Site(), threading.Event()

    def stream() -> Any:
        def lines() -> Iterator[str]:
            try:
                yield "begun\n"
                while True:
                    yield "more" * 1000 + "\n"
            finally:
                site.look("end")
                ended.set()

        return flask.Response(flask.stream_with_context(lines()))

    site.app.add_url_rule("/stream", view_func=stream)
    site.app.add_url_rule("/", view_func=lambda: "next")
    with serve(site.app) as address:
        leave_amid(address, "/stream")
        assert ended.wait(PATIENCE)
        until(lambda: site.ends["/stream?"])
        with Client(address) as client:
            assert client.get("/").text == "next"
    site.check(2, streams=True)


def test_view_is_told_that_its_client_has_left() -> None:
    site, begun, told = Site(), threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        until(flask.request.environ["treadle.client_gone"])
        told.set()
        return "to nobody"

    site.app.add_url_rule("/wait", view_func=wait)
    with serve(site.app) as address:
        with Client(address) as client:
            client.connection.request("GET", "/wait")
            assert begun.wait(PATIENCE)
        assert told.wait(PATIENCE)
    site.check(1)


def test_view_that_outlasts_its_time_is_torn_down_in_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    site, gate = Site(), threading.Event()

    def wait() -> str:
        assert gate.wait(PATIENCE)
        return "too late"

    site.app.add_url_rule("/wait", view_func=wait)
    with serve(site.app, limits=Limits(handler_timeout=0.05)) as address:
        with Client(address) as client:
            assert client.get("/wait").status == 503
        gate.set()
    site.check(1)


def test_streams_that_have_begun_are_finished_at_a_stop() -> None:
    site, begun, gate = Site(), threading.Semaphore(0), threading.Event()

    def stream() -> Any:
        def lines() -> Iterator[str]:
            yield "begun\n"
            begun.release()
            assert gate.wait(PATIENCE)
            yield "ended\n"

        return flask.Response(flask.stream_with_context(lines()))

    site.app.add_url_rule("/stream", view_func=stream)
    with ThreadPoolExecutor(1) as aside, Server(WSGI(site.app), "127.0.0.1:0", max_workers=WORKERS) as server:
        answers = aside.submit(crowd, server.address, lambda client, number: client.get(f"/stream?{number}").text, 2)
        for _ in range(2):
            assert begun.acquire(timeout=PATIENCE)
        stopped = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopped.start()
        gate.set()
        assert answers.result() == ["begun\nended\n"] * 2
        stopped.join(PATIENCE)
        assert not stopped.is_alive()
    site.check(2, streams=True)


def test_stream_that_a_stop_cuts_is_ended_in_its_thread() -> None:
    site, ended = Site(), threading.Event()

    def stream() -> Any:
        def lines() -> Iterator[str]:
            try:
                while True:
                    yield "begun\n"
            finally:
                site.look("end")
                ended.set()

        return flask.Response(flask.stream_with_context(lines()))

    site.app.add_url_rule("/stream", view_func=stream)
    with Server(WSGI(site.app), "127.0.0.1:0", max_workers=WORKERS) as server, Client(server.address) as client:
        client.connection.request("GET", "/stream")
        response = client.connection.getresponse()
        assert response.read(6) == b"begun\n"
        assert server.stop(0) == 1
        assert ended.wait(PATIENCE)
        response.close()
    site.check(1, streams=True)


def test_long_pages_arrive_whole() -> None:
    site = Site()
    site.app.add_url_rule("/<int:number>", "page", lambda number: content_of(number, UPLOAD))

    def visit(client: Client, number: int) -> None:
        answer = client.get(f"/{number}")
        assert (answer.headers["Content-Length"], answer.kept) == (str(UPLOAD), True)
        assert answer.body == content_of(number, UPLOAD)

    with serve(site.app) as address:
        clients = len(crowd(address, visit))
    site.check(clients)


def test_what_is_called_on_close_is_called_once_in_the_thread_of_the_view() -> None:
    site, calls = Site(), Counter[str]()

    def page() -> Any:
        response = flask.Response(f"for {flask.g.name}")
        name, thread = flask.g.name, threading.current_thread()

        def over() -> None:
            calls[name] += 1
            if threading.current_thread() is not thread:
                site.strays.append(f"close of {name}")

        response.call_on_close(over)
        return response

    site.app.add_url_rule("/", view_func=page)

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            path = f"/?{number}.{turn}"
            assert client.get(path).text == f"for {path}"

    with serve(site.app) as address:
        clients = len(crowd(address, visit))
    site.check(clients * ROUNDS)
    assert calls == site.ends

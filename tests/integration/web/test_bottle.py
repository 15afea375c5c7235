"""Bottle on treadle, whose request and response are objects of the thread."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import bottle
import pytest

from integration.web.served import DRESSES, WAYS, Client, Watched, content_of, crowd, cut, digest, form, serve

ROUNDS = 4
UPLOAD = 2 << 20  # bytes


@pytest.fixture
def app() -> Any:
    bottle.BaseRequest.MEMFILE_MAX = 4 << 20  # bytes of a body that Bottle takes in memory
    return bottle.Bottle()


@DRESSES
def test_each_of_many_clients_gets_its_own_pages(dressed: Callable[[Any], Any], app: Any) -> None:
    leaks, ends = [], Counter[str]()

    def begin() -> None:
        if "X-Visitor" in bottle.response.headers:
            leaks.append(bottle.response.headers["X-Visitor"])
        bottle.request.environ["shop.thread"] = threading.current_thread()

    def end() -> None:
        assert bottle.request.environ["shop.thread"] is threading.current_thread()
        ends[bottle.request.url] += 1

    def page(number: int) -> Any:
        bottle.response.set_header("X-Visitor", str(number))
        return {"page": number, "sent": bottle.request.json, "asked": bottle.request.query.q}

    app.add_hook("before_request", begin)
    app.add_hook("after_request", end)
    app.route("/page/<number:int>", "POST", page)

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            sent = json.dumps([number, turn]).encode()
            answer = client.post(f"/page/{number}?q={number}.{turn}", sent, "application/json")
            assert (answer.headers["X-Visitor"], answer.kept) == (str(number), True)
            assert json.loads(answer.body) == {"page": number, "sent": [number, turn], "asked": f"{number}.{turn}"}

    watched = Watched(dressed(app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    watched.check()
    assert leaks == []
    assert len(ends) == clients * ROUNDS
    assert set(ends.values()) == {1}


@WAYS
def test_files_of_forms_arrive_whole(dressed: Callable[[Any], Any], pieces: int | None, app: Any) -> None:
    """Bottle reads chunks itself where the header that tells of them is handed on to it."""

    def upload() -> Any:
        file = bottle.request.files.file
        content = file.file.read()
        return {"name": bottle.request.forms.name, "file": file.filename, "size": len(content), "is": digest(content)}

    app.route("/upload", "POST", upload)

    def visit(client: Client, number: int) -> None:
        content = content_of(number, UPLOAD)
        body, kind = form({"name": f"client {number}"}, {"file": content})
        answer = client.post("/upload", cut(body, pieces), kind)
        told = {"name": f"client {number}", "file": "file.bin", "size": UPLOAD, "is": digest(content)}
        assert json.loads(answer.body) == told
        assert answer.kept

    with serve(dressed(app)) as address:
        crowd(address, visit)


@DRESSES
def test_streams_see_the_request_of_their_thread(dressed: Callable[[Any], Any], app: Any) -> None:
    def stream(number: int) -> Iterator[str]:
        for line in range(20):
            yield f"{number} {line} {bottle.request.query.q}\n"

    app.route("/stream/<number:int>", callback=stream)

    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            answer = client.get(f"/stream/{number}?q={turn}")
            assert answer.text == "".join(f"{number} {line} {turn}\n" for line in range(20))
            assert answer.kept

    watched = Watched(dressed(app))
    with serve(watched) as address:
        crowd(address, visit)
    watched.check()


def fails() -> None:
    raise LookupError(bottle.request.query.q)


@DRESSES
def test_errors_redirects_and_cookies_reach_whose_they_are(
    dressed: Callable[[Any], Any], app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def count() -> str:
        number = int(bottle.request.get_cookie("count", "0", secret="loom")) + 1
        bottle.response.set_cookie("count", str(number), secret="loom")
        return f"{bottle.request.query.q} {number}"

    app.route("/fails", callback=fails)
    app.route("/aborts/<status:int>", callback=lambda status: bottle.abort(status, bottle.request.query.q))
    app.route("/leads", callback=lambda: bottle.redirect(f"/count?q={bottle.request.query.q}"))
    app.route("/count", callback=count)
    app.error(418)(lambda error: f"teapot {error.body}")

    def visit(client: Client, number: int) -> None:
        lost = client.get(f"/fails?q={number}")
        assert (lost.status, lost.kept) == (500, True)
        refused = client.get(f"/aborts/418?q={number}")
        assert (refused.status, refused.text) == (418, f"teapot {number}")
        led = client.get(f"/leads?q={number}")
        assert led.status == 303
        assert led.headers["Location"].endswith(f"/count?q={number}")
        for turn in range(ROUNDS):
            assert client.get(f"/count?q={number}").text == f"{number} {turn + 1}"
        assert client.get("/nowhere").status == 404
        assert client.post("/count", b"unasked").status == 405

    watched = Watched(dressed(app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    watched.check()
    assert len(watched.lives) == clients * (5 + ROUNDS)

"""Falcon on treadle."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import falcon
import pytest

from integration.web.served import DRESSES, WAYS, Client, Watched, content_of, crowd, cut, digest, form, serve

ROUNDS = 4
UPLOAD = 2 << 20  # bytes


class Ends:
    """Falcon's middleware: which request was begun and ended, and where."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.strays: list[str] = []

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if hasattr(req.context, "thread"):
            self.strays.append(f"{req.uri} begins with the context of another")
        req.context.thread = threading.current_thread()

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        self.ends[req.uri] += 1
        if req.context.thread is not threading.current_thread():
            self.strays.append(f"{req.uri} ends in another thread")

    def check(self, requests: int) -> None:
        assert self.strays == []
        assert len(self.ends) == requests
        assert set(self.ends.values()) == {1}


class Page:
    """Answers with what was sent; and with a stream."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, number: int) -> None:
        resp.media = {"page": number, "sent": req.get_media(), "asked": req.get_param("q")}
        resp.set_header("X-Visitor", str(number))

    def on_get(self, req: falcon.Request, resp: falcon.Response, number: int) -> None:
        def lines() -> Iterator[bytes]:
            for line in range(20):
                assert req.context.thread is threading.current_thread()
                yield f"{number} {line} {req.get_param('q')}\n".encode()

        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = lines()


class Upload:
    """Takes a form with a file, and a body that is one."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        told = {}
        for part in req.get_media():
            content = part.stream.read()
            told[part.name] = digest(content) if part.filename else content.decode()
        resp.media = told

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        content = req.bounded_stream.read()
        resp.media = [len(content), digest(content)]


class Trouble:
    """Ends in other ways than with a page."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise LookupError(req.get_param("q"))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise falcon.HTTPForbidden(title=req.get_param("q"))

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise falcon.HTTPSeeOther(f"/pages/{req.get_param('q')}?q=0")

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = falcon.HTTP_204


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def app(ends: Ends) -> Any:
    app = falcon.App(middleware=[ends])
    app.add_route("/pages/{number:int}", Page())
    app.add_route("/upload", Upload())
    app.add_route("/trouble", Trouble())
    return app


@DRESSES
def test_each_of_many_clients_gets_its_own_pages(dressed: Callable[[Any], Any], app: Any, ends: Ends) -> None:
    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            sent = json.dumps([number, turn]).encode()
            answer = client.post(f"/pages/{number}?q={number}.{turn}", sent, "application/json")
            assert (answer.headers["X-Visitor"], answer.kept) == (str(number), True)
            assert json.loads(answer.body) == {"page": number, "sent": [number, turn], "asked": f"{number}.{turn}"}

    watched = Watched(dressed(app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    watched.check()
    ends.check(clients * ROUNDS)


@DRESSES
def test_streams_are_made_in_the_thread_of_their_request(dressed: Callable[[Any], Any], app: Any, ends: Ends) -> None:
    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            answer = client.get(f"/pages/{number}?q={turn}")
            assert answer.text == "".join(f"{number} {line} {turn}\n" for line in range(20))
            assert answer.kept

    watched = Watched(dressed(app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    watched.check()
    ends.check(clients * ROUNDS)


@WAYS
def test_uploads_arrive_whole(dressed: Callable[[Any], Any], pieces: int | None, app: Any) -> None:
    def visit(client: Client, number: int) -> None:
        content = content_of(number, UPLOAD)
        body, kind = form({"name": f"client {number}"}, {"file": content})
        for method, sent, told in (
            ("POST", body, {"name": f"client {number}", "file": digest(content)}),
            ("PUT", content, [UPLOAD, digest(content)]),
        ):
            answer = client.request(method, "/upload", cut(sent, pieces), {"Content-Type": kind})
            assert json.loads(answer.body) == told
            assert answer.kept

    with serve(dressed(app)) as address:
        crowd(address, visit)


@DRESSES
def test_errors_and_redirects_reach_whose_they_are(
    dressed: Callable[[Any], Any], app: Any, ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    def visit(client: Client, number: int) -> None:
        lost = client.get(f"/trouble?q={number}")
        assert (lost.status, lost.kept) == (500, True)
        refused = client.post(f"/trouble?q={number}.refused", b"")
        assert (refused.status, json.loads(refused.body)["title"]) == (403, f"{number}.refused")
        led = client.request("PUT", f"/trouble?q={number}&led", b"unread")
        assert (led.status, led.headers["Location"]) == (303, f"/pages/{number}?q=0")
        assert client.get(led.headers["Location"]).text.startswith(f"{number} 0 0\n")
        gone = client.request("DELETE", f"/trouble?q={number}&gone")
        assert (gone.status, gone.body, gone.kept) == (204, b"", True)
        assert client.get(f"/nowhere?q={number}").status == 404

    watched = Watched(dressed(app))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    watched.check()
    ends.check(clients * 6)

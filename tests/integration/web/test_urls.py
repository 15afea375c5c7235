"""Where a request goes: what frameworks make of paths, queries and the name of the script, and of headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import bottle
import falcon
import flask
import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application

from integration.web.served import DRESSES, Client, serve

# What a page is told, in this order: name (of the path), q (of the query), the script's name, X-Word, its own address.
Told = list[str | None]
Made = Callable[[pytest.FixtureRequest], Any]


def with_flask(_: pytest.FixtureRequest) -> Any:
    def page(name: str) -> Any:
        request = flask.request
        return [name, request.args.get("q"), request.script_root, request.headers.get("X-Word"), request.base_url]

    app = flask.Flask(__name__)
    app.add_url_rule("/page/<path:name>", "page", page)
    return app


def with_bottle(_: pytest.FixtureRequest) -> Any:
    def page(name: str) -> str:
        request = bottle.request
        root = request.script_name.rstrip("/")
        address = request.url.partition("?")[0]
        return json.dumps([name, request.query.getunicode("q"), root, request.headers.get("X-Word"), address])

    app = bottle.Bottle()
    app.route("/page/<name:path>", callback=page)
    return app


def with_falcon(_: pytest.FixtureRequest) -> Any:
    class Page:
        def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
            address = req.prefix + quote(req.path)
            resp.media = [name, req.get_param("q"), req.root_path, req.get_header("X-Word"), address]

    app = falcon.App()
    app.add_route("/page/{name:path}", Page())
    return app


def with_django(request: pytest.FixtureRequest) -> Any:
    request.getfixturevalue("shop")
    request.getfixturevalue("monkeypatch").setattr(settings, "ROOT_URLCONF", "integration.web.shop.told")
    return get_wsgi_application()


MADE = pytest.mark.parametrize("made", [with_flask, with_bottle, with_falcon, with_django])


@MADE
@DRESSES
@pytest.mark.parametrize("script_name", ["", "/shop"])
@pytest.mark.parametrize(
    "name", ["plain", "with blank", "größe/€", "a/b", "100%", "織機", "a+b;c=d"], ids=lambda name: ascii(name)
)
def test_page_is_told_where_it_is(
    made: Made, dressed: Callable[[Any], Any], script_name: str, name: str, request: pytest.FixtureRequest
) -> None:
    with serve(dressed(made(request)), script_name=script_name) as address, Client(address) as client:
        path = f"{script_name}/page/{quote(name, safe='/+;=')}"
        answer = client.get(f"{path}?q={quote(name)}", {"X-Word": "word, word"})
        assert answer.status == 200
        told: Told = json.loads(answer.body)
        assert told[:4] == [name, name, script_name, "word, word"]
        host, port = address
        assert unquote(str(told[4])) == f"http://{host}:{port}{script_name}/page/{name}"

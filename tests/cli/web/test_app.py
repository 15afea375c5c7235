"""The app that MODULE:APP names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle._cli.loading import CannotImport
from treadle._cli.web.app import App, Unservable, load_app

SHOP = """
import functools, sys
from flask import Flask
from wsgiref.simple_server import demo_app

web = Flask("shop")
number = 3

def plain(environ, start_response):
    start_response("200 OK", [])
    return [b"plain"]

def generator(environ, start_response):
    start_response("200 OK", [])
    yield b"generator"

def anything(*args, **options):
    return plain(*args, **options)

def odd(env=None, start=None):
    return []

partial = functools.partial(plain)

class Plain:
    def __call__(self, environ, start_response):
        return plain(environ, start_response)

    def method(self, environ, start_response):
        return plain(environ, start_response)

    @classmethod
    def create(cls):
        return cls()

instance = Plain()

class Iterable:
    def __init__(self, environ, start_response):
        self.start = start_response

    def __iter__(self):
        self.start("200 OK", [])
        yield b"class"

class NoIterable:
    def __init__(self, environ, start_response):
        pass

class Asgi:
    async def __call__(self, scope, receive, send):
        pass

class Asgi2:
    def __init__(self, scope):
        pass

    async def __call__(self, receive, send):
        pass

asgi = Asgi()
asgi_partial = functools.partial(asgi)

async def asgi_function(scope, receive, send):
    pass

def asgi_by_name(scope, receive, send):
    pass

async def later(environ, start_response):
    pass

async def generates_later(environ, start_response):
    yield b""

def one(environ):
    pass

def three(environ, start_response, more):
    pass

made = []

def create_app(env="prod", *, debug=False):
    made.append((env, debug))
    return web

def make_nothing():
    pass

async def make_later():
    return web

def make_badly():
    raise ValueError("no database")

def make_and_leave():
    sys.exit("no settings")

class Raises:
    def __getattr__(self, name):
        raise RuntimeError("not yet")

raises = Raises()
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shop.py, which is the current one."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("shop", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("shop:plain", "function"),
        ("shop:generator", "function"),
        ("shop:anything", "function"),
        ("shop:odd", "function"),
        ("shop:partial", "partial of functools"),
        ("shop:instance", "Plain of shop"),
        ("shop:instance.method", "function"),
        ("shop:Iterable", "class Iterable"),
        ("shop:web", "Flask of flask.app"),
        ("shop:web.wsgi_app", "function"),
        ("shop:demo_app", "function"),
        ("shop:create_app()", "Flask of flask.app"),
        ("shop:Plain.create()", "Plain of shop"),
        ("shop:Plain()", "Plain of shop"),
    ],
)
def test_an_app_is_found_and_named(where: str, kind: str) -> None:
    app = load_app(where)
    assert (app.name, app.kind) == (where, kind)
    assert callable(app.call)
    sys.modules.pop("shop")


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("shop:create_app()", ("prod", False)),
        ("shop:create_app('test')", ("test", False)),
        ('shop:create_app("a:b(c)", debug=True)', ("a:b(c)", True)),
        ("shop: create_app(['x', -1, {'y': None}]) ", (["x", -1, {"y": None}], False)),
    ],
)
def test_a_factory_is_called_once_with_literals(where: str, arguments: tuple[Any, ...]) -> None:
    app = load_app(where)
    module = sys.modules.pop("shop")
    assert app.call is module.web
    assert module.made == [arguments]


@pytest.mark.parametrize(
    "text",
    ["create_app(web)", "create_app(*[1])", "create_app(**{})", "create_app(", "create_app()()", "create_app() or web",
     "create_app(print())", "(create_app)", "create_app(x for x in ())", "create_app(" + "(" * 300],
)  # fmt: skip
def test_what_is_no_call_with_literals_runs_nothing(text: str) -> None:
    with pytest.raises(Unservable, match=r"literals|is not MODULE:APP"):
        load_app(f"shop:{text}")
    assert "shop" not in sys.modules


@pytest.mark.parametrize("where", ["", ":app", "shop:", ".shop:app", "shop:1x", "shop:a b", "shop:a-b", "shop: "])
def test_what_is_not_module_and_app_is_said_with_what_is(where: str) -> None:
    with pytest.raises(Unservable, match=r"is not MODULE:APP, as in shop.wsgi:application, or MODULE:make_app\(\)"):
        load_app(where)


@pytest.mark.parametrize("names", [("application", "app"), ("app",)])
def test_a_module_alone_has_its_app_under_a_usual_name(shop: Path, names: tuple[str, ...]) -> None:
    (shop / "other.py").write_text(
        "from wsgiref.simple_server import demo_app\n" + "".join(f"{n} = demo_app\n" for n in names)
    )
    assert load_app("other").name == f"other:{names[0]}"
    sys.modules.pop("other")


LISTED = (
    "it has web, plain, generator, odd, partial, instance, Iterable, "
    "create_app(), make_nothing(), make_badly(), make_and_leave()"
)


@pytest.mark.parametrize("where", ["shop", "shop:aplication", "shop:aplication()"])
def test_what_looks_like_an_app_is_listed_where_none_is_found(where: str) -> None:
    with pytest.raises(Unservable) as caught:
        load_app(where)
    sys.modules.pop("shop")
    assert f"{LISTED}; write shop:web" in caught.value.message
    assert ("neither application nor app" in caught.value.message) == (where == "shop")


def test_a_module_with_nothing_like_an_app_is_said_to_be_so(shop: Path) -> None:
    (shop / "other.py").write_text("import os\n")
    with pytest.raises(Unservable, match="nothing in it looks like a WSGI app"):
        load_app("other")
    sys.modules.pop("other")


WANTED = "WSGI calls an app with (environ, start_response)"


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("shop:asgi", "is async (ASGI), which an ASGI server runs, as uvicorn or hypercorn"),
        ("shop:Asgi", "is async (ASGI)"),
        ("shop:Asgi()", "is async (ASGI)"),
        ("shop:Asgi2", "is async (ASGI)"),
        ("shop:asgi_partial", "is async (ASGI)"),
        ("shop:asgi_function", "is async (ASGI)"),
        ("shop:asgi_by_name", "is async (ASGI)"),
        ("shop:later", "is async (ASGI)"),
        ("shop:generates_later", "is async (ASGI)"),
        ("shop:one", f"takes (environ), and {WANTED}"),
        ("shop:three", f"takes (environ, start_response, more), and {WANTED}"),
        ("shop:number", f"is int, and cannot be called; {WANTED}"),
        ("shop:sys", f"is a module, and cannot be called; {WANTED}"),
        ("shop:NoIterable", "is a class, its objects give no answer, for they have no __iter__"),
        ("shop:Plain", f"is a class, made with (); {WANTED}; is an object of it meant?"),
        ("shop:create_app", "a factory? write shop:create_app()"),
        ("shop:make_nothing", f"takes (), and {WANTED}; a factory? write shop:make_nothing()"),
        ("shop:make_nothing()", "shop:make_nothing() is None, and cannot be called"),
        ("shop:make_later()", "shop:make_later is async, and a factory must be an ordinary function"),
        ("shop:web()", "shop:web is an app, and no factory; write shop:web"),
        ("shop:plain()", "shop:plain is an app, and no factory; write shop:plain"),
        ("shop:number()", "shop:number is int, and cannot be called to make an app"),
        ("shop:raises", "is Raises, and cannot be called"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(where: str, complaint: str) -> None:
    with pytest.raises(Unservable) as caught:
        load_app(where)
    sys.modules.pop("shop")
    assert complaint in caught.value.message
    assert caught.value.message.startswith("shop:")
    assert (caught.value.exit_code, "\n" in caught.value.message) == (78, False)


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("shop:make_badly()", "cannot make an app with shop:make_badly: ValueError: no database (shop.py, line "),
        ("shop:make_and_leave()", "SystemExit: no settings"),
        ("shop:create_app(1, 2)", "TypeError: create_app() takes from 0 to 1 positional arguments but 2 were given"),
        ("other", "cannot import other: ZeroDivisionError"),
    ],
)
def test_what_the_program_raises_is_told_in_its_own_frames(shop: Path, where: str, complaint: str) -> None:
    (shop / "other.py").write_text("1 / 0\n")
    with pytest.raises(CannotImport) as caught:
        load_app(where)
    sys.modules.pop("shop", None)
    assert complaint in caught.value.message
    assert "app.py" not in caught.value.story


def test_an_app_is_a_record() -> None:
    assert isinstance(load_app("shop:plain"), App)
    assert isinstance(sys.modules.pop("shop"), ModuleType)

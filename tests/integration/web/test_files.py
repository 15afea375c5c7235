"""Files as frameworks send them, each in its own way: whole, in part, or not at all, as the client has it already."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bottle
import falcon
import flask
import pytest
import whitenoise

from integration.web.served import DRESSES, Answer, Client, Watched, content_of, crowd, serve

SIZE = 1_000_000  # bytes: not a multiple of anything that is sent at once
NAME = "loom.bin"


def with_flask(folder: Path) -> Any:
    app = flask.Flask(__name__)
    app.add_url_rule("/<name>", "file", lambda name: flask.send_from_directory(folder, name))
    return app


def with_flask_from_memory(folder: Path) -> Any:
    def send(name: str) -> Any:
        if not (folder / name).exists():
            flask.abort(404)
        content = io.BytesIO((folder / name).read_bytes())
        return flask.send_file(content, "application/octet-stream", etag=name, conditional=True)

    app = flask.Flask(__name__)
    app.add_url_rule("/<name>", "file", send)
    return app


def with_bottle(folder: Path) -> Any:
    app = bottle.Bottle()
    app.route("/<name>", callback=lambda name: bottle.static_file(name, str(folder)))
    return app


def with_falcon(folder: Path) -> Any:
    app = falcon.App()
    app.add_static_route("/", folder)
    return app


def with_whitenoise(folder: Path) -> Any:
    return whitenoise.WhiteNoise(flask.Flask(__name__), root=str(folder))


MADE = pytest.mark.parametrize("made", [with_flask, with_flask_from_memory, with_bottle, with_falcon, with_whitenoise])
Made = Callable[[Path], Any]
# Some frameworks leave a file open that they do not send.
LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """Return what the file holds."""
    content = content_of(0, SIZE)
    (tmp_path / NAME).write_bytes(content)
    return content


@LEFT_OPEN  # by Falcon, asked by HEAD
@MADE
@DRESSES
def test_file_arrives_whole_in_part_and_without_its_body(
    made: Made, dressed: Callable[[Any], Any], tmp_path: Path, content: bytes
) -> None:
    def visit(client: Client, number: int) -> None:
        whole = client.get(f"/{NAME}")
        assert (whole.status, whole.kept) == (200, True)
        assert whole.headers["Content-Length"] == str(SIZE)
        assert whole.body == content
        bare = client.request("HEAD", f"/{NAME}")
        assert (bare.status, bare.body, bare.kept) == (200, b"", True)
        assert bare.headers["Content-Length"] == str(SIZE)
        first, last = 1000 * number, 1000 * number + 100_000
        part = client.get(f"/{NAME}", {"Range": f"bytes={first}-{last}"})
        assert (part.status, part.kept) == (206, True)
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
        assert part.headers["Content-Length"] == str(last - first + 1)
        assert part.body == content[first : last + 1]
        tail = client.get(f"/{NAME}", {"Range": f"bytes=-{number + 2}"})  # of one byte WhiteNoise does not know
        assert (tail.status, tail.body) == (206, content[-number - 2 :])

    watched = Watched(dressed(made(tmp_path)))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    assert len(watched.lives) == clients * 4
    watched.check()


@LEFT_OPEN  # by Falcon, asked by HEAD
@MADE
def test_file_that_nothing_is_put_around_arrives(made: Made, tmp_path: Path, content: bytes) -> None:
    """So that the server sees what the framework has made of `wsgi.file_wrapper`, and may send the file itself."""

    def visit(client: Client, number: int) -> None:
        assert client.get(f"/{NAME}").body == content
        assert client.get(f"/{NAME}", {"Range": f"bytes={number}-{number + 1}"}).body == content[number : number + 2]
        assert client.get(f"/{NAME}", {"Range": f"bytes={SIZE // 2}-"}).body == content[SIZE // 2 :]
        assert client.request("HEAD", f"/{NAME}").body == b""
        assert client.get(f"/{NAME}").kept

    with serve(made(tmp_path)) as address:
        crowd(address, visit)


def has_nothing(answer: Answer, status: int) -> bool:
    """Tell whether it has this status, no body, and its connection goes on."""
    return (answer.status, answer.body, answer.kept) == (status, b"", True)


@MADE
@DRESSES
def test_file_that_the_client_has_is_not_sent(
    made: Made, dressed: Callable[[Any], Any], tmp_path: Path, content: bytes
) -> None:
    with serve(dressed(made(tmp_path))) as address, Client(address) as client:
        known = client.get(f"/{NAME}").headers
        kinds = [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
        asked = [{condition: known[mark]} for mark, condition in kinds if mark in known]
        assert asked
        for condition in asked:
            assert has_nothing(client.get(f"/{NAME}", condition), 304)
            assert has_nothing(client.request("HEAD", f"/{NAME}", headers=condition), 304)
        assert client.get(f"/{NAME}", {"If-None-Match": '"another"'}).body == content
        assert client.get("/nowhere.bin").status == 404
        assert client.get(f"/{NAME}").body == content


@LEFT_OPEN  # by Bottle
@MADE
def test_part_that_a_file_does_not_have_is_refused(made: Made, tmp_path: Path, content: bytes) -> None:
    """Without the judge, who wants a Content-Type that WhiteNoise does not give here."""
    with serve(made(tmp_path)) as address, Client(address) as client:
        beyond = client.get(f"/{NAME}", {"Range": f"bytes={SIZE}-"})
        assert (beyond.status, beyond.kept) == (416, True)
        assert beyond.headers.get("Content-Range", f"bytes */{SIZE}") == f"bytes */{SIZE}"
        assert client.get(f"/{NAME}").body == content


@MADE
def test_empty_file_arrives(made: Made, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"")
    with serve(made(tmp_path)) as address, Client(address) as client:
        for _ in range(2):
            answer = client.get(f"/{NAME}")
            assert has_nothing(answer, 200)
            assert answer.headers["Content-Length"] == "0"


def test_whitenoise_serves_its_files_and_leaves_the_rest_to_the_app(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "style.css").write_text("body {}")
    (tmp_path / "style.css.gz").write_bytes(b"packed")
    app = flask.Flask(__name__)
    app.add_url_rule("/page/<int:number>", "page", lambda number: f"page {number}")
    served = whitenoise.WhiteNoise(app, root=str(tmp_path), prefix="static/")

    def visit(client: Client, number: int) -> None:
        assert client.get(f"/page/{number}").text == f"page {number}"
        assert client.get(f"/static/{NAME}").body == content
        plain, packed = (client.get("/static/style.css", {"Accept-Encoding": kind}) for kind in ("identity", "gzip"))
        assert (plain.text, packed.text) == ("body {}", "packed")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert packed.kept

    with serve(served) as address:
        crowd(address, visit)

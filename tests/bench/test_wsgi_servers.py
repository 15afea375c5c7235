"""The web servers that are measured, and their apps: each answers all of them alike, and ends when it is ended."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

Import = Callable[[str], ModuleType]
NAMES = ("treadle", "granian", "gunicorn", "waitress", "cheroot")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark is for Linux only")


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """Give a file to send, of a MiB and something."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom((1 << 20) + 17))
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("app", ["hello", "upload", "download", "file", "routes", "page"])
def test_each_server_answers_each_app(bench: Import, sent: Path, name: str, app: str) -> None:
    load, host = bench("wsgi_load"), "Host: 127.0.0.1"
    body = os.urandom(300_000)
    requests = {
        "upload": load.request("/", host, body=body),
        "routes": load.request("/quick?some", host),
        "page": load.request("/shops/42/items?first=7", host),
    }
    try:
        with load.serving_web(name, "--app", app, "--file", str(sent)) as server:
            got = load.answer(server, requests.get(app, load.request("/", host)))
            pids = load.family(server.process.pid)
    except bench("echo_servers").Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    expected = {"hello": b"Hello, world!\n", "upload": b"300000", "download": b"x" * (1 << 20), "routes": b"some"}
    if app == "page":
        assert b'"id":26' in got.replace(b" ", b"")
    else:
        assert hash(got) == hash(expected.get(app) or sent.read_bytes())  # or pytest would show where megabytes differ
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("app", "environ", "expected"),
    [
        ("hello", {}, b"Hello, world!\n"),
        ("upload", {"CONTENT_LENGTH": "5", "wsgi.input": io.BytesIO(b"abcde")}, b"5"),
        ("upload", {"CONTENT_LENGTH": "0"}, b"0"),
        ("download", {}, b"x" * (1 << 20)),
        ("routes", {"PATH_INFO": "/quick", "QUERY_STRING": "q17"}, b"q17"),
        ("file", {}, b"content"),
    ],
)
def test_apps_keep_to_pep_3333(
    bench: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, app: str, environ: dict[str, Any], expected: bytes
) -> None:
    apps = bench("wsgi_apps")
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setenv(apps.FILE, str(tmp_path / "file"))
    environ = {"QUERY_STRING": "", "SCRIPT_NAME": "", "PATH_INFO": "/", **environ}
    setup_testing_defaults(environ)
    heads = list[tuple[str, list[tuple[str, str]]]]()

    def start(status: str, fields: list[tuple[str, str]], _: Any = None, /) -> Callable[[bytes], object]:
        heads.append((status, fields))
        return bytes

    answered: Any = validator(getattr(apps, app))(environ, start)
    assert b"".join(answered) == expected
    answered.close()
    ((status, fields),) = heads
    assert status == "200 OK"
    assert dict(fields)["Content-Length"] == str(len(expected))


@pytest.mark.parametrize(("path", "seconds"), [("/slow", [0.1]), ("/quick", []), ("/", [])])
def test_one_route_sleeps(bench: Import, monkeypatch: pytest.MonkeyPatch, path: str, seconds: list[float]) -> None:
    apps, slept = bench("wsgi_apps"), list[float]()
    monkeypatch.setattr(apps, "time", SimpleNamespace(sleep=slept.append))
    apps.routes({"PATH_INFO": path, "QUERY_STRING": ""}, lambda status, fields: None)
    assert slept == seconds


@pytest.mark.parametrize("name", ["granian", "gunicorn"])
def test_what_is_not_installed_is_unavailable(bench: Import, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    servers = bench("wsgi_servers")
    monkeypatch.setattr(servers, "find_spec", lambda package: None)
    with pytest.raises(servers.Unavailable, match="not installed"):
        servers.SERVERS[name](SimpleNamespace(app="hello", port=0, threads=1))


def test_an_app_that_needs_flask_is_unavailable_without_it(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = bench("wsgi_servers")
    monkeypatch.delattr(servers.wsgi_apps, "page", raising=False)
    with pytest.raises(servers.Unavailable, match="Flask is not installed"):
        servers.application(SimpleNamespace(app="page"))

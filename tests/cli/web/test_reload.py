"""`treadle wsgi --reload`, as a real process, and what it looks at."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from types import FunctionType

import pytest

from programs import PATIENCE, TREADLE, Program
from socketservers import until
from tcp import receive_all
from treadle._cli.web.app import Unservable
from treadle._cli.web.reload import Loaded

APP = """
import importlib, os
import words

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/later":
        importlib.import_module("later")
    if path == "/die":
        os._exit(3)
    text = str(os.getpid()) if path == "/pid" else words.TEXT
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
"""
stamps = itertools.count(2_000_000_000)


def write(path: Path, text: str) -> None:
    """Write a file, whose time of change is another than any before, also in whole seconds, as Python compares it."""
    path.write_text(text)
    stamp = next(stamps)
    os.utime(path, (stamp, stamp))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shop.py, which is the current one, and takes its words from another file."""
    write(tmp_path / "shop.py", APP)
    write(tmp_path / "words.py", "TEXT = 'one'\n")
    write(tmp_path / "later.py", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    for name in ("PORT", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def reloading(*options: str, app: str = "shop") -> Program:
    return Program([*TREADLE, "wsgi", app, "--reload", "--bind", "127.0.0.1:0", *options])


def connect(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


def ask(client: socket.socket, path: str = "/") -> str:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return receive_all(client).decode().partition("\r\n\r\n")[2]


def get(server: Program, path: str = "/") -> str:
    with connect(server) as client:
        return ask(client, path)


def serves_again(server: Program, times: int) -> None:
    """Wait until the app serves for that time, the first one included."""
    server.wait_for(rf"(INFO serving \S+ on[\s\S]*){{{times}}}")


def end(server: Program, number: signal.Signals = signal.SIGTERM) -> None:
    server.send(number)
    assert server.wait() == 0, server.output


def test_an_app_is_started_anew_when_a_file_of_it_changes(here: Path) -> None:
    with reloading() as server:
        serves_again(server, 1)
        server.wait_for("reload:   when a file changes")
        first = get(server, "/pid")
        assert get(server) == "one"
        write(here / "words.py", "TEXT = 'two'\n")
        server.wait_for("words.py has changed: starting anew")
        serves_again(server, 2)
        assert get(server) == "two"
        assert get(server, "/pid") != first
        write(here / "shop.py", APP.replace("words.TEXT", "'three'"))
        serves_again(server, 3)
        assert get(server) == "three"
        end(server)
    assert server.output.count("treadle wsgi serves") == 1


def test_who_comes_while_the_app_is_broken_waits_and_is_served(here: Path) -> None:
    with reloading() as server:
        serves_again(server, 1)
        write(here / "words.py", "TEXT = (\n")
        server.wait_for("the app ended with status 78; waiting for a file to change")
        assert "Error: cannot import shop: SyntaxError" in server.output
        with connect(server) as client:
            write(here / "words.py", "TEXT = 'fine'\n")
            assert ask(client) == "fine"
        end(server)


def test_an_app_that_never_worked_is_waited_for(here: Path) -> None:
    write(here / "words.py", "import no_such_words\nTEXT = no_such_words.TEXT\n")
    with reloading() as server:
        server.wait_for("waiting for a file to change")
        assert "No module named 'no_such_words' (words.py, line 1)" in server.output
        write(here / "no_such_words.py", "TEXT = 'there now'\n")
        touch(here)
        serves_again(server, 1)
        assert get(server) == "there now"
        end(server)


def touch(folder: Path) -> None:
    """Have a folder changed for certain, as a new file in it does on a file system with a fine clock."""
    stamp = next(stamps)
    os.utime(folder, (stamp, stamp))


def test_an_app_that_is_not_there_is_waited_for(here: Path) -> None:
    with reloading(app="new:app") as server:
        server.wait_for("there is no module 'new'")
        server.wait_for("waiting for a file to change")
        write(here / "new.py", APP)
        touch(here)
        serves_again(server, 1)
        assert get(server) == "one"
        write(here / "new.py", APP.replace("words.TEXT", "'new'"))
        serves_again(server, 2)
        assert get(server) == "new"
        end(server)


def test_a_file_may_be_named_that_is_none_of_pythons(here: Path) -> None:
    write(here / "page.html", "<p>")
    with reloading("--reload-extra", "page.html") as server:
        serves_again(server, 1)
        write(here / "page.html", "<p>new")
        server.wait_for("page.html has changed: starting anew")
        serves_again(server, 2)
        end(server)


def test_what_is_imported_by_a_request_is_looked_at_soon(here: Path) -> None:
    with reloading() as server:
        serves_again(server, 1)
        get(server, "/later")

        def changed() -> bool:  # the file is told within a second; a change before that is not seen
            write(here / "later.py", "")
            server.output = server.output.replace("nothing to reload", "")
            server.send(signal.SIGHUP)  # which the app answers, unless it is started anew just now
            return server.wait_for("later.py has changed|nothing to reload").group() == "later.py has changed"

        until(changed)
        serves_again(server, 2)
        end(server)


@pytest.mark.usefixtures("here")
def test_an_app_that_dies_is_waited_for(here: Path) -> None:
    with reloading() as server:
        serves_again(server, 1)
        assert get(server, "/die") == ""
        server.wait_for("the app ended with status 3; waiting for a file to change")
        write(here / "words.py", "TEXT = 'alive'\n")
        serves_again(server, 2)
        assert get(server) == "alive"
        end(server)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("broken", [False, True])
def test_it_ends_with_the_app_or_without_one(here: Path, number: signal.Signals, broken: bool) -> None:
    if broken:
        write(here / "words.py", "1 / 0\n")
    with reloading() as server:
        child = 0
        if broken:
            server.wait_for("waiting for a file to change")
        else:
            child = int(get(server, "/pid"))
        end(server, number)
    assert not child or not alive(child)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("here")
def test_the_app_ends_when_its_parent_is_killed() -> None:
    with reloading() as server:
        child = int(get(server, "/pid"))
        server.send(signal.SIGKILL)
        server.wait()
        until(lambda: not alive(child))


@pytest.mark.usefixtures("here")
def test_ctrl_c_that_both_hear_ends_both_in_order() -> None:
    with reloading() as server:
        child = int(get(server, "/pid"))
        os.kill(child, signal.SIGINT)
        end(server, signal.SIGINT)
        assert not alive(child)


def test_children_tell_each_file_once_and_nothing_that_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "told_once.py"
    write(path, "")
    with closing(Loaded()) as loaded:
        module = type(sys)("told_once")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "told_once", module)
        assert loaded.tell() > 0
        loaded.tell()
        assert list(loaded.take()) == [(str(path), os.stat(path).st_mtime_ns)]
        assert list(loaded.take()) == []


@pytest.mark.parametrize("file", [None, "", "/no/such/file.py", "nul\0.py", 3])
def test_modules_without_a_file_are_none(file: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Loaded()) as loaded:
        module = type(sys)("without_file")
        module.__file__ = file  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, "without_file", module)
        loaded.tell()
        assert list(loaded.take()) == []


def test_of_a_failure_all_files_on_its_way_are_told_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("outer", "inner"):
        write(tmp_path / f"{name}.py", "")
    with closing(Loaded()) as loaded:
        loaded.tell_failure(
            fails(tmp_path / "outer.py", fails(tmp_path / "inner.py", SyntaxError("x", ("inner.py", 1, 1, ""))))
        )
        told = {path for path, _ in loaded.take()}
    assert {str(tmp_path), str(tmp_path / "outer.py"), str(tmp_path / "inner.py")} <= told


def fails(path: Path, cause: BaseException) -> BaseException:
    """Return an error that has passed through the file at `path`, because of another one."""

    def fail() -> None:
        raise ValueError from cause

    moved = FunctionType(fail.__code__.replace(co_filename=str(path)), globals(), closure=fail.__closure__)
    try:
        moved()
    except ValueError as error:
        return error
    raise AssertionError


def test_what_the_app_is_not_to_blame_for_is_only_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Loaded()) as loaded:
        loaded.tell_failure(Unservable("there is no module"))
        assert [path for path, _ in loaded.take() if re.match(re.escape(str(tmp_path)), path)] == [str(tmp_path)]


def test_variables_are_read_anew_and_their_file_is_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set in the environment stays; what a file no longer says is gone."""
    monkeypatch.setenv("STAYS", "outside")
    write(
        here / "shop.py", APP.replace("words.TEXT", "' '.join(map(str, map(os.environ.get, ('A', 'B', 'C', 'STAYS'))))")
    )
    write(here / ".env", "A=1\nB=2\nSTAYS=inside\n")
    with reloading("--env-file", ".env") as server:
        serves_again(server, 1)
        assert get(server) == "1 2 None outside"
        write(here / ".env", "A=3\nC=4\nSTAYS=inside\n")
        server.wait_for(".env has changed: starting anew")
        serves_again(server, 2)
        assert get(server) == "3 None 4 outside"
        write(here / ".env", "A\n")
        server.wait_for(r"\.env, line 1: 'A' is not KEY=VALUE")
        write(here / ".env", "A=5\n")
        serves_again(server, 3)
        assert get(server) == "5 None None outside"
        end(server)

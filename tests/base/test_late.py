"""Modules that are imported when something of them is first asked for."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from programs import run
from treadle._base.late import Late

PATIENCE = 20.0  # seconds for what must happen


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that is half made until it may go on."""
    (tmp_path / "slow_one.py").write_text("import threading\nbegan.set()\nassert go.wait(20)\nwhat = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_one", raising=False)
    return "slow_one"


def test_a_module_is_imported_when_something_of_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    late = Late("this")
    assert "this" not in sys.modules
    assert repr(late) == "Late('this')"
    assert late.s.startswith("Gur Mra")
    with pytest.raises(AttributeError):
        late.nothing_of_the_kind  # noqa: B018  # it is looked up


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_for_an_import(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    monkeypatch.setattr("builtins.began", began, raising=False)
    monkeypatch.setattr("builtins.go", go, raising=False)
    late = Late(slow)
    thread = threading.Thread(target=lambda: late.what)
    thread.start()
    assert began.wait(PATIENCE)
    timer = threading.Timer(0.05, go.set)
    timer.start()
    pid = os.fork()
    if not pid:
        signal.alarm(int(PATIENCE))
        os._exit(0 if late.what == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    for each in (timer, thread):
        each.join(PATIENCE)


def test_who_asks_while_another_thread_imports_it_waits_for_that(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go, found = threading.Event(), threading.Event(), list[object]()
    monkeypatch.setattr("builtins.began", began, raising=False)
    monkeypatch.setattr("builtins.go", go, raising=False)
    late = Late(slow)

    def ask() -> None:
        try:
            found.append(late.what)
        except AttributeError as error:
            found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    assert began.wait(PATIENCE)
    threads[1].start()
    threads[1].join(0.05)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [1, 1]


def test_a_module_in_a_package_is_found_and_what_is_asked_for_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    late, name = Late("importlib.metadata"), "version"
    assert late.version is sys.modules["importlib.metadata"].version
    monkeypatch.setattr("importlib.metadata.version", int)
    assert getattr(late, name) is int


def test_what_a_module_has_not_is_an_attribute_error_and_a_module_that_is_not_there_an_import_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        Late("math").nothing_like_it  # noqa: B018  # that is the point
    with pytest.raises(ImportError):
        Late("no_such_module").anything  # noqa: B018


def test_what_the_methods_of_a_pool_need_comes_with_the_first_pool() -> None:
    """A signal handler may call them in the middle of anything, and would find half of what is imported."""
    program = """
        import sys
        import treadle
        assert "dataclasses" not in sys.modules
        pool = treadle.Pool(1)
        assert pool.submit(abs, -1).result(30) == 1
        before = set(sys.modules)
        pool.snapshot()
        assert list(pool.map(abs, [-1])) == [1]
        assert [outcome.value for outcome in pool.outcomes(abs, [-1])] == [1]
        assert pool.options(name="whose").submit(abs, -1).result(30) == 1
        treadle.wait([pool.submit(abs, -1)])
        pool.resize(2)
        pool.shutdown()
        assert {name for name in sys.modules if name.startswith("treadle")} <= before
    """
    assert run(sys.executable, "-c", textwrap.dedent(program)) == (0, "", "")

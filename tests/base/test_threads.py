"""treadle._base.threads: daemons with a name, started at once or later."""

from __future__ import annotations

import _thread
import select
import threading
from typing import Any

import pytest

import treadle
from treadle._base.threads import DAEMON, at_end_of, check_unpatched, made_anew, new_thread, start_thread
from treadle._tasks.scope import SCOPE
from treadle.errors import PatchedTooLate


def test_a_new_thread_has_its_name_and_waits_to_be_started() -> None:
    ran = threading.Event()
    thread = new_thread(ran.set, "pool-7")
    assert (thread.name, thread.is_alive(), thread.ident, ran.is_set()) == ("pool-7", False, None, False)
    thread.start()
    thread.join(30)
    assert ran.is_set()


def test_a_started_thread_runs_its_function_in_a_thread_of_that_name() -> None:
    seen: list[str] = []
    thread = start_thread(lambda: seen.append(threading.current_thread().name), "treadle-helper")
    thread.join(30)
    assert not thread.is_alive()
    assert seen == ["treadle-helper"]


@pytest.mark.parametrize("failing", [False, True])
def test_the_end_of_a_thread_is_told_in_it_whatever_it_raised(failing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.Thread | int] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    thread = new_thread((lambda: 1 / 0) if failing else int, "x")
    at_end_of(thread, lambda: told.append(threading.get_ident()))
    thread.start()
    thread.join(30)
    assert told == [thread.ident]
    assert thread.over is None  # type: ignore[attr-defined]  # whom it may know of lives no longer


def test_the_end_of_a_thread_is_told_again_if_it_was_killed_as_that_began() -> None:
    told: list[int] = []

    def over() -> None:
        told.append(0)
        if len(told) < 2:
            raise SystemExit  # which threading, and so CPython, ends a thread with in silence

    thread = new_thread(int, "x")
    at_end_of(thread, over)
    thread.start()
    thread.join(30)
    assert told == [0, 0]


def test_a_thread_looks_like_any_other_and_is_a_debuggers_where_that_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Debugged(threading.Thread):
        pass

    assert repr(new_thread(int, "x")) == "<Thread(x, initial daemon)>"
    monkeypatch.setattr(threading, "Thread", Debugged)
    thread = new_thread(int, "x")
    at_end_of(thread, lambda: 1 / 0)
    assert type(thread) is Debugged


def test_threads_are_daemons_where_there_are_any() -> None:
    """So that one which never ends does not keep Python from exiting."""
    assert DAEMON is True, "this is no isolated sub-interpreter"
    assert new_thread(int, "x").daemon
    thread = start_thread(int, "x")
    thread.join(30)
    assert thread.daemon


def test_a_daemon_thread_is_one_whoever_makes_it() -> None:
    """A thread takes over the kind of its maker, unless it is told."""
    made: list[threading.Thread] = []
    maker = threading.Thread(target=lambda: made.append(new_thread(int, "x")), daemon=False)
    maker.start()
    maker.join(30)
    assert made[0].daemon is DAEMON


def test_a_thread_that_cannot_be_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        start_thread(int, "x")


def test_a_thread_has_no_scope_of_whoever_starts_it() -> None:
    """From Python 3.14 on, free-threaded builds start threads in a copy of the context, unless they are given one."""
    seen: list[object] = []
    with treadle.deadline(600):
        start_thread(lambda: seen.append(SCOPE.get()), "x").join(30)
    assert seen == [None]


def test_no_thread_is_made_once_threads_were_replaced_by_greenlets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "_allocate_lock", lambda: threading.Lock())
    for make in (lambda: new_thread(int, "x"), lambda: start_thread(int, "x"), lambda: treadle.Pool(1)):
        with pytest.raises(PatchedTooLate, match="before treadle is imported"):
            make()


def test_a_debugger_that_replaces_what_starts_threads_is_not_taken_for_greenlets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: 0)
    monkeypatch.setattr(threading, "Lock", lambda: 0)
    check_unpatched()


def test_a_module_is_made_anew_without_what_others_have_done_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "select")
    made = made_anew(select)
    assert made is not select
    assert made.select([], [], [], 0) == ([], [], [])


def test_what_cannot_be_made_anew_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "__spec__", None)
    assert made_anew(select) is select

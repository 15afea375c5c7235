"""treadle._base.threads: daemons with a name, started at once or later."""

from __future__ import annotations

import _thread
import errno
import faulthandler
import select
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import treadle
from treadle._base import threads
from treadle._base.threads import (
    DAEMON,
    at_end_of,
    check_unpatched,
    made_anew,
    new_thread,
    parse_dump,
    stacks_of,
    start_thread,
)
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


class Held:
    """A thread that waits where it is known to be."""

    def __init__(self) -> None:
        self.inside, self.gate = threading.Event(), threading.Event()
        self.thread = start_thread(lambda: self.descend(5), "treadle-held")
        assert self.inside.wait(30)

    def descend(self, depth: int) -> None:
        if depth:
            return self.descend(depth - 1)
        self.inside.set()
        assert self.gate.wait(30)
        return None

    def end(self) -> None:
        self.gate.set()
        self.thread.join(30)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.end()


@pytest.fixture(params=[True, False], ids=["frames", "dump"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of looking at stacks, whatever this build needs; the other one is barred."""

    def barred(*_: Any) -> Any:
        raise AssertionError("this way is not for such a build")

    if request.param and not threads.WITH_GIL():
        pytest.skip("no frame may be looked at without the GIL while its thread runs on")
    if request.param:
        monkeypatch.setattr(faulthandler, "dump_traceback", barred)
    else:
        monkeypatch.setattr(sys, "_current_frames", barred)
    monkeypatch.setattr(threads, "WITH_GIL", lambda: request.param)


@pytest.mark.usefixtures("way")
def test_the_stack_of_a_thread_is_told_outermost_call_first(held: Held) -> None:
    stack = stacks_of([held.thread.ident])[held.thread.ident]
    names = [frame.name for frame in stack]
    assert names.count("descend") == 6
    assert names[-1] == "wait"
    assert names.index("run") < names.index("descend")
    assert {frame.filename for frame in stack if frame.name == "descend"} == {__file__}
    assert "assert self.gate.wait(30)" in "".join(stack.format())


@pytest.mark.usefixtures("way")
def test_no_more_than_the_innermost_calls_are_told(held: Held) -> None:
    whole = [frame.name for frame in stacks_of([held.thread.ident])[held.thread.ident]]
    few = [frame.name for frame in stacks_of([held.thread.ident], 3)[held.thread.ident]]
    assert few == whole[-3:]


@pytest.mark.usefixtures("way")
def test_a_thread_that_has_ended_or_was_not_started_has_no_stack() -> None:
    ended, new = start_thread(lambda: None, "treadle-ended"), new_thread(lambda: None, "treadle-new")
    ended.join(30)
    assert stacks_of([ended.ident, new.ident, None]) == {}


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (tempfile, "TemporaryFile", OSError(errno.ENOSPC, "No space left on device")),
        (faulthandler, "dump_traceback", ImportError("it cannot be imported in isolated sub-interpreters")),
    ],
)
def test_without_a_dump_no_stack_is_told(
    module: Any, name: str, error: Exception, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(threads, "WITH_GIL", lambda: False)
    monkeypatch.setattr(module, name, fail)
    assert stacks_of([held.thread.ident]) == {}


def test_a_dump_is_read_with_the_names_of_threads_and_what_is_no_frame() -> None:
    """As CPython 3.15 writes it: a name after the identity; and with files of quotes and blanks in their names."""
    dump = [
        "Thread 0x00007f10 [Thread-1 (run)] (most recent call first):\n",
        '  File "/a "b" c.py", line 7 in inner\n',
        '  File "/d.py", line 12 in <module>\n',
        "\n",
        "Thread 0x00007f20 (most recent call first):\n",
        "  <no Python frame>\n",
        "\n",
        "Current thread 0x00007f30 (most recent call first):\n",
        '  File "/e.py", line 1 in look\n',
        "  ...\n",
    ]
    stacks = parse_dump(dump)
    assert {
        ident: [(frame.filename, frame.lineno, frame.name) for frame in stack] for ident, stack in stacks.items()
    } == {
        0x7F10: [("/d.py", 12, "<module>"), ('/a "b" c.py', 7, "inner")],
        0x7F20: [],
        0x7F30: [("/e.py", 1, "look")],
    }


def test_stacks_are_told_while_their_threads_run() -> None:
    """Nothing of it may end the process, on a build without the GIL either."""
    stop = threading.Event()

    def descend(depth: int) -> None:
        if depth:
            descend(depth - 1)

    def run() -> None:
        while not stop.is_set():
            descend(30)

    running = [start_thread(run, f"treadle-running-{number}") for number in range(3)]
    try:
        for _ in range(200):
            assert all(ident in {thread.ident for thread in running} for ident in stacks_of(t.ident for t in running))
    finally:
        stop.set()
        for thread in running:
            thread.join(30)

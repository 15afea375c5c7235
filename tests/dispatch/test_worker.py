"""Worker: what is known of a thread, who it is to whoever asks in it, and that its end is not missed."""

from __future__ import annotations

import contextvars
import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from treadle import Future, Pool
from treadle._base import threads
from treadle._dispatch.state import Claims, State
from treadle._dispatch.worker import Worker, current_worker, lent_here, tasks_here
from treadle._tasks.owner import Unowned
from treadle.errors import PatchedTooLate

PATIENCE = 30.0


def worker_of(main: Callable[[Worker], object], exited: Callable[[Worker], object] = lambda worker: None) -> Worker:
    """Return a worker of no pool, whose thread does `main`, and has not been started."""
    return Worker(Unowned(), Claims(State("scripted", ())), main, exited, "scripted")


def test_a_task_knows_its_worker_and_others_have_none() -> None:
    with Pool(1, name="db") as pool:
        worker = pool.submit(current_worker).result(30)
        assert worker is not None
        assert worker.thread.name == "db-0"
    assert current_worker() is None


def test_the_tasks_in_its_hands_are_those_further_out_and_the_innermost() -> None:
    worker, tasks = worker_of(print), [Future[Any]() for _ in range(3)]
    assert worker.stack() == []
    assert worker.turn() is None
    worker.task = tasks[0]
    assert worker.stack() == [tasks[0]]
    assert worker.turn() is tasks[0]
    worker.outer = [(None, 0.0), (tasks[0], 0.0), (tasks[1], 0.0)]  # the first: in a callback of one that is over
    worker.task = tasks[2]
    assert worker.stack() == tasks
    assert worker.turn() is None, "what it has taken in is counted as run in a caller's thread"


def test_a_task_that_is_over_and_whose_callbacks_run_is_nobodys_turn() -> None:
    worker = worker_of(print)
    worker.task, worker.calling = Future[Any](), True
    assert worker.turn() is None


def test_the_tasks_that_run_here_are_told_the_innermost_first() -> None:
    def outer() -> list[Future[Any]]:
        return pool.submit(tasks_here).result()

    assert tasks_here() == []
    with Pool(1) as pool:
        future = pool.submit(outer)
        here = future.result(30)
        assert len(here) == 2
        assert here[-1] is future


def test_a_task_whose_callbacks_run_does_not_run_here_nor_does_the_next_that_its_worker_has() -> None:
    seen: list[list[Future[Any]]] = []
    gate = threading.Event()
    with Pool(1) as pool:
        pool.submit(gate.wait, 30).add_done_callback(lambda _: seen.append(tasks_here()))
        after = pool.submit(abs, -1)
        gate.set()
        assert after.result(30) == 1
    assert seen == [[]]


def test_what_an_initializer_has_set_is_lent_to_its_own_pool_alone() -> None:
    setting: contextvars.ContextVar[int] = contextvars.ContextVar("setting")
    with Pool(1, initializer=setting.set, initargs=(3,)) as pool, Pool(1) as other:
        lent, others = pool.submit(
            lambda: (lent_here(pool._task_dispatcher), lent_here(other._task_dispatcher))
        ).result(30)
        assert lent is not None
        assert others is None
    assert lent_here(pool._task_dispatcher) is None


def test_whichever_way_its_thread_ends_somebody_is_told_once() -> None:
    """A thread may be killed before its first line, and after its last."""
    told: list[Worker] = []

    worker = worker_of(lambda worker: None, told.append)
    worker.thread.start()
    worker.thread.join(PATIENCE)
    assert told == [worker]


def kill_here() -> None:
    """Kill this thread at the next instant at which CPython looks."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(SystemExit))


class KillsWhenSet(threading.Event):
    """By which a thread tells that it has started; it is killed at once."""

    def set(self) -> None:
        super().set()
        kill_here()


class Killer:
    """Kills a thread as it comes by a function of threading's."""

    def __init__(self, function: str) -> None:
        self.function = function

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See what a profile function is shown."""
        if event == "call" and (frame.f_code.co_filename, frame.f_code.co_name) == (threading.__file__, self.function):
            sys.setprofile(None)
            kill_here()


@pytest.fixture(autouse=True)
def _watched_by_nobody() -> Iterator[None]:
    yield
    threading.setprofile(None)


# That threading does not find it in its list, from which it is to be taken.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("hook", ["keeps", "drops"])
@pytest.mark.parametrize("where", ["has started", "run", "_delete"])
def test_a_thread_that_is_killed_outside_of_what_is_treadles_loses_nothing(
    where: str, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it leaves in threading's lists, and whoever keeps its exception: its task is run by another thread."""
    kept: list[object] = []
    monkeypatch.setattr(threading, "excepthook", kept.append if hook == "keeps" else lambda arguments: None)
    started, start = list[threads.Thread](), threads.Thread.start

    def start_to_be_killed(thread: threads.Thread) -> None:
        started.append(thread)
        threading.setprofile(Killer(where) if len(started) < 4 else None)
        if where == "has started" and len(started) < 4:
            thread._started = KillsWhenSet()  # type: ignore[attr-defined]
        start(thread)

    monkeypatch.setattr(threads.Thread, "start", start_to_be_killed)
    pool = Pool(1, idle_timeout=0.0)
    assert [pool.submit(abs, -n).result(PATIENCE) for n in range(8)] == list(range(8))
    assert pool.shutdown(timeout=PATIENCE) == ()
    now = pool.snapshot()
    assert (now.threads, now.busy, now.waiting, now.finished, now.failed) == (0, 0, 0, 8, 0)
    for thread in started:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("how", ["gone", "cancelled", "never started"])
def test_the_end_of_a_thread_that_was_counted_out_is_told_to_nobody(how: str) -> None:
    told: list[Worker] = []

    def leave(worker: Worker) -> None:
        worker.gone, worker.cancelled = how == "gone", how == "cancelled"

    worker = worker_of(leave, told.append)
    if how != "never started":
        worker.thread.start()
        worker.thread.join(PATIENCE)
    del worker
    gc.collect()
    assert told == []


def test_a_worker_that_cannot_be_made_goes_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is what was to be made last; what pytest cannot raise, it warns of, and warnings are errors."""
    told: list[Worker] = []
    monkeypatch.setattr(threading, "_allocate_lock", lambda: threading.Lock())
    with pytest.raises(PatchedTooLate):
        worker_of(print, told.append)
    gc.collect()
    assert told == []


def test_a_task_without_a_context_is_one_of_those_that_run_here() -> None:
    """`None` says that it has run; that it has no context of its own is something else."""
    with Pool(1, context=False) as pool:
        assert pool.submit(lambda: len(tasks_here())).result(30) == 1

"""Work: what a thread of a pool settles and claims, whom it tells, and what kills it."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from scripted import ScriptedLock
from treadle import Future, Pool
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.worker import Worker, current_worker
from treadle.errors import WorkerLost
from treadle.orders import Fair


class Thing:
    """Something to hold a reference to."""


def test_nothing_of_a_task_is_held_when_it_is_done() -> None:
    with Pool(1) as pool:
        argument, result = Thing(), Thing()
        references = [weakref.ref(argument), weakref.ref(result)]
        box = [result]
        future = pool.submit(lambda thing: box.pop(), argument)
        assert future.result(30) is result
        del argument, result, future
        pool.submit(int).result(30)
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_a_callback_that_kills_its_worker_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fatal(future: Future[Any]) -> None:
        raise SystemExit

    others: list[Future[Any]] = []
    gate = threading.Event()
    with caplog.at_level(logging.CRITICAL, "treadle"), Pool(1) as pool:
        doomed = pool.submit(gate.wait, 30)
        doomed.add_done_callback(fatal)
        doomed.add_done_callback(others.append)
        after = [pool.submit(abs, -n) for n in range(10)]
        gate.set()
        assert [future.result(30) for future in after] == list(range(10))
        assert doomed.result(30) is True
        pool.shutdown()
    assert others == [doomed], "the callbacks behind the fatal one are called too"
    assert "was killed" in caplog.text


def test_a_worker_killed_in_the_middle_of_a_task_says_so_and_is_replaced() -> None:
    began = threading.Event()
    forever = threading.Event()

    def victim() -> None:
        began.set()
        while not forever.is_set():
            pass

    with Pool(1) as pool:
        future = pool.submit(victim)
        assert began.wait(30)
        (thread,) = pool._threads
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        assert isinstance(future.exception(30), SystemExit | WorkerLost)
        assert pool.submit(abs, -1).result(30) == 1


def test_callbacks_may_wait_for_tasks_of_the_pool() -> None:
    """The worker claims nothing while it runs callbacks, so what they wait for is not in its own hands."""
    seen: list[Any] = []
    gate, other_gate, called = threading.Event(), threading.Event(), threading.Event()
    with Pool(2) as pool:
        first = pool.submit(gate.wait, 30)
        second: list[Future[str]] = []

        def callback(future: Future[Any]) -> None:
            seen.append(second[0].result(20))
            called.set()

        first.add_done_callback(callback)
        holding = pool.submit(other_gate.wait, 30)
        second.append(pool.submit(lambda: "second"))
        try:
            gate.set()
            assert called.wait(10)
        finally:
            other_gate.set()
        holding.result(30)
    assert seen == ["second"]


def test_a_lone_task_after_another_needs_no_second_thread() -> None:
    """A worker is idle before it delivers a result."""
    with Pool(8) as pool:
        for _ in range(2000):
            pool.submit(int).result(30)
        assert pool.snapshot().threads == 1


class Script:
    """Has something done once, when `armed`, by a worker: before it takes the lock to settle a task, or after that.

    It must be written before the pool has that worker.
    """

    def __init__(self, pool: Pool, where: str, act: Callable[[], object]) -> None:
        self.armed, self.act = threading.Event(), act
        lock = ScriptedLock(pool._task_dispatcher)
        setattr(lock, where, self._perhaps)

    def _perhaps(self) -> None:
        if self.armed.is_set() and current_worker() is not None:
            self.armed.clear()
            self.act()


def die(*_: object) -> None:
    raise SystemExit


def test_a_worker_that_is_killed_before_it_settles_a_task_gives_its_result_and_frees_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or the order would take the task for one that runs, and hold back all others of its key for ever."""
    with Pool(1, order=Fair(max_running=1)) as pool:
        script = Script(pool, "before", die)
        view = pool.options(key="k")

        def last_act() -> str:
            script.armed.set()
            return "done"

        assert view.submit(last_act).result(30) == "done"
        with pool._task_dispatcher.state.lock:
            assert not pool._task_dispatcher.order._taken  # type: ignore[attr-defined]  # Fair's
        assert view.submit(abs, -1).result(30) == 1
    assert "was killed" in caplog.text


def test_a_worker_that_is_killed_before_it_begins_a_task_that_it_has_claimed_fails_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And tells whoever waits for the one that it has just settled."""
    gate = threading.Event()
    with Pool(1) as pool:
        script = Script(pool, "after", die)

        def last_act() -> str:
            assert gate.wait(30)
            script.armed.set()
            return "done"

        try:
            first, second = pool.submit(last_act), pool.submit(int)
            (thread,) = pool._threads
            with pool._task_dispatcher.state.lock:
                lock = threading.Lock()
                lock.acquire()
                first._get_waiters().latches.append(lock)
        finally:
            gate.set()
        thread.join(30)
        assert first.result(0) == "done"
        assert isinstance(second.exception(0), WorkerLost)
        assert not lock.locked(), "who waited for the first is told"
    assert "was killed" in caplog.text


def test_a_callback_that_kills_its_worker_leaves_the_next_task_to_another_though_it_was_claimed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It came after the worker had looked for callbacks, and before it settled the task, which has a condition."""
    gate = threading.Event()
    with Pool(1) as pool:
        futures: list[Future[Any]] = []
        script = Script(pool, "after", lambda: futures[0].add_done_callback(die))

        def last_act() -> str:
            assert gate.wait(30)
            script.armed.set()
            return "done"

        try:
            futures += [pool.submit(last_act), pool.submit(abs, -2)]
            assert futures[0]._condition is not None
        finally:
            gate.set()
        assert futures[1].result(30) == 2
        assert futures[0].result(0) == "done"
    assert "was killed" in caplog.text


class Bed:
    """The lock that an idle worker sleeps on, which tells when it does."""

    def __init__(self, worker: Worker) -> None:
        self.lock, self.asleep = worker.wakeup, threading.Event()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.asleep.set()
        return self.lock.acquire(blocking, timeout)

    def release(self) -> None:
        self.lock.release()


def test_an_idle_worker_holds_nothing_of_its_last_task() -> None:
    def task() -> Thing:
        worker = current_worker()
        assert worker is not None
        worker.wakeup = Bed(worker)  # type: ignore[assignment]  # scripted
        return Thing()

    with Pool(1) as pool:
        future = pool.submit(task)
        kept = weakref.ref(future.result(30))
        (worker,) = pool._task_dispatcher.workers.present
        assert worker.wakeup.asleep.wait(30)  # type: ignore[attr-defined]  # scripted
        del future
        gc.collect()
        assert kept() is None


def test_a_thread_that_is_killed_as_it_is_counted_out_is_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though somebody keeps what it was killed with, to whose traceback belong the frames of its last lines."""

    def exited(self: Dispatcher, *args: Any) -> object:
        if not struck:
            struck.append(True)
            raise SystemExit
        return real(self, *args)

    real, struck, kept = Dispatcher._exited, list[bool](), list[object]()
    monkeypatch.setattr(Dispatcher, "_exited", exited)
    monkeypatch.setattr(threading, "excepthook", kept.append)
    pool = Pool(1)
    assert pool.submit(int).result(30) == 0
    assert pool.shutdown(timeout=30) == ()
    assert (pool._threads, struck, len(kept)) == (set(), [True], 1)


@pytest.mark.parametrize("method", ["_hand_nothing_over", "_keep_unclaimed", "settle_lost", "end_claimed", "_exited"])
def test_a_thread_that_is_killed_again_as_it_leaves_loses_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def again(self: Dispatcher, *args: Any, **options: Any) -> object:
        if dying and not struck and threading.current_thread() is not threading.main_thread():
            struck.append(True)
            raise SystemExit
        return real(self, *args, **options)

    dying, struck = list[bool](), list[bool]()
    real = getattr(Dispatcher, method)
    monkeypatch.setattr(Dispatcher, method, again)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    pool = Pool(1)

    def be_killed() -> None:
        dying.append(True)
        raise SystemExit

    script = Script(pool, "after", be_killed)

    def last_act() -> str:
        script.armed.set()
        return "done"

    with pool:
        first, second = pool.submit(last_act), pool.submit(abs, -1)
        assert first.result(30) == "done"
        assert second.exception(30) is None or isinstance(second.exception(), WorkerLost)
        assert pool.submit(abs, -2).result(30) == 2
    assert pool._threads == set()
    assert "was killed" in caplog.text

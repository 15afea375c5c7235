"""The dispatcher: what becomes of a task, in whosever hands it is."""

from __future__ import annotations

import queue
import sys
import threading
import weakref
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from scripted import ScriptedLock
from treadle import Future, Pool, Rate, deadline
from treadle._base.timer import run_later
from treadle._dispatch import dispatcher as dispatcher_module
from treadle._dispatch import work
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.worker import Worker
from treadle._dispatch.workers import Workers
from treadle._tasks.future import RUNNING, waiters_of
from treadle._tasks.rate import Bucket
from treadle._tasks.scoped import ScopedTask
from treadle.errors import DeadlineExceeded
from treadle.orders import Fair, Order, Task


def hold(pool: Pool) -> threading.Event:
    """Fill the only thread of the pool until the returned event is set."""
    gate, began = threading.Event(), threading.Event()

    def task() -> None:
        began.set()
        assert gate.wait(30)

    pool.submit(task)
    assert began.wait(30)
    return gate


def test_cancelled_tasks_take_no_room_and_no_memory_for_long() -> None:
    with Pool(1, queue_size=100) as pool:
        gate = hold(pool)
        for _ in range(50):
            for future in [pool.submit(int) for _ in range(100)]:
                assert future.cancel()
            assert pool.snapshot().waiting == 0
            assert len(pool._task_dispatcher.queue.tasks) <= 200
        gate.set()


def test_a_task_is_run_once_whoever_is_faster() -> None:
    """A worker and a nested wait race for the same tasks."""
    ran: list[int] = []

    with Pool(2) as pool:

        def parent(number: int) -> None:
            for child in [pool.submit(ran.append, number * 10 + n) for n in range(10)]:
                child.result()

        for future in [pool.submit(parent, n) for n in range(50)]:
            future.result(30)
    assert sorted(ran) == list(range(500))


set_up = work._set_up


class Watched:
    """An object whose destructor sees whether another thread could take the pool's lock."""

    def __init__(self, pool: Pool, seen: queue.SimpleQueue[bool]) -> None:
        self.pool, self.seen = pool, seen

    def __del__(self) -> None:
        lock, free = self.pool._task_dispatcher.lock, list[bool]()

        def look() -> None:
            free.append(lock.acquire(timeout=5))  # somebody else may have it for a moment
            if free[0]:
                lock.release()

        other = threading.Thread(target=look)
        other.start()
        other.join(30)
        self.seen.put(free[0])


@pytest.mark.parametrize("way", ["cancel", "request_cancel", "deadline"])
def test_the_users_destructors_run_without_the_pools_lock(way: str) -> None:
    seen: queue.SimpleQueue[bool] = queue.SimpleQueue()
    with Pool(1) as pool:
        gate = hold(pool)
        with deadline(600):
            future = pool.submit(print, Watched(pool, seen))
        if way == "deadline":
            future._settle_once(None, DeadlineExceeded(600))
        else:
            getattr(future, way)()
        gate.set()
        assert seen.get(timeout=30)


@pytest.mark.parametrize("way", ["taken", "purged"])
def test_the_results_of_tasks_that_were_run_elsewhere_are_let_go_of_without_the_pools_lock(way: str) -> None:
    """The order may be the last that holds them."""
    seen: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def parent() -> None:
        pool.submit(Watched, pool, seen).result()
        if way == "purged":
            with pool._task_dispatcher.lock:
                pool._task_dispatcher.queue.purge()

    with Pool(1) as pool:
        pool.submit(parent).result(30)
    # Without the GIL an object that another thread lets go of last is destroyed by its maker, at whatever line that is.
    assert seen.get(timeout=30) or not getattr(sys, "_is_gil_enabled", lambda: True)()


def test_a_task_that_its_deadline_fails_just_before_it_waits_for_its_rate_is_forgotten() -> None:
    """The timers' thread takes it for one that runs, and leaves what it holds to its thread."""

    class Argument:
        pass

    def admit_too_late(task: Future[object]) -> bool:
        admitted = Bucket.admit(rate._bucket, task)
        task._settle_once(None, DeadlineExceeded(600))
        return admitted

    argument = Argument()
    kept = weakref.ref(argument)
    with Pool(1) as pool:
        rate = Rate(1.0)
        rate._bucket._tokens = 0.0
        rate._bucket.admit = admit_too_late  # type: ignore[method-assign]  # loses the race on purpose
        with deadline(600):
            future = pool.options(rate=rate).submit(id, argument)
        assert isinstance(future.exception(30), DeadlineExceeded)
    forgotten = threading.Event()
    run_later(forgotten.set)
    assert forgotten.wait(30)
    del argument
    assert kept() is None
    assert not rate._bucket._line
    assert rate._bucket._timer is None


def test_a_task_that_is_done_as_it_is_put_back_stays_so() -> None:
    with Pool(1) as pool:
        dispatcher, rate = pool._task_dispatcher, Rate(1.0)
        rate._bucket._tokens = 0.0
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        assert not task._ready()
        task._state, claims = RUNNING, dispatcher.state.claims()
        task._settle_once(None, DeadlineExceeded(600))
        with dispatcher.lock:
            dispatcher.put_back(claims, task)
            assert task.done()
            assert (claims.mine, dispatcher.queue.everything()) == ([task], [])
        dispatcher.end_claimed(claims)
        assert isinstance(task.exception(0), DeadlineExceeded)
        assert pool.snapshot().cancelled == 1


def test_a_task_is_counted_once_between_its_claim_and_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs what it waits for takes it out of the order first."""
    seen: list[int] = []
    run_here = Dispatcher.run_here

    def look(self: Dispatcher, task: Future[Any]) -> None:
        seen.append(pool.snapshot().submitted)
        run_here(self, task)

    monkeypatch.setattr(Dispatcher, "run_here", look)
    with Pool(1) as pool:
        assert pool.submit(lambda: pool.submit(abs, -1).result(30)).result(30) == 1
    assert seen == [2]


def test_a_task_is_counted_once_between_its_end_and_its_settlement() -> None:
    seen, ran = list[int](), threading.Event()
    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher

        def look() -> None:
            if ran.is_set() and dispatcher.is_ours():
                lock.before = lambda: None  # for a snapshot takes it too
                seen.append(pool.snapshot().submitted)
                lock.before = look

        lock = ScriptedLock(dispatcher, before=look)  # what a worker takes to settle a task
        assert pool.submit(ran.set).result(30) is None
    assert set(seen) == {1}


class Sleepless:
    """A lock that is taken once, as a latch is closed; who would sleep on it fails instead."""

    def __init__(self) -> None:
        self.lock = allocate_lock()

    def acquire(self, *_: object) -> bool:
        assert self.lock.acquire(False), "it sleeps, and nobody would wake it"
        return True

    def release(self) -> None:
        self.lock.release()


def test_who_asks_for_a_result_that_a_signal_handler_cancels_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        gate = hold(pool)
        try:
            waiting = pool.submit(int)

            def cancelled_first(future: Future[Any]) -> Any:
                monkeypatch.setattr(dispatcher_module, "waiters_of", waiters_of)
                assert waiting.cancel()
                return waiters_of(future)

            monkeypatch.setattr(dispatcher_module, "waiters_of", cancelled_first)
            monkeypatch.setattr(dispatcher_module, "allocate_lock", Sleepless)
            with pytest.raises(CancelledError):
                waiting.result()
        finally:
            gate.set()


def test_who_asks_for_a_result_that_comes_meanwhile_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the future was seen running, and before its worker could see that somebody waits."""
    with Pool(1) as pool:
        gate = hold(pool)
        try:
            (worker,) = pool._task_dispatcher.workers.present
            running: Any = worker.task
            watch: Any = threading.Event()
            running.add_done_callback(lambda _: watch.set())

            def end_first() -> Any:
                gate.set()
                assert watch.wait(30)
                return Sleepless()

            monkeypatch.setattr(dispatcher_module, "allocate_lock", end_first)
            assert running.result() is None
        finally:
            gate.set()


def test_what_was_accepted_is_run_though_no_thread_lived_when_the_pool_was_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one was killed, and no other could be started in its place."""

    class Refusing(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    def fatal(_: object) -> None:
        raise SystemExit

    pool = Pool(1)
    gate = hold(pool)
    try:
        (worker,) = pool._task_dispatcher.workers.present
        assert worker.task is not None
        worker.task.add_done_callback(fatal)
        left = pool.submit(abs, -3)
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Refusing)
            gate.set()
            worker.thread.join(30)
        assert pool.snapshot().threads == 0
    finally:
        gate.set()
        pool.shutdown()
    assert left.result(0) == 3
    assert "was killed" in caplog.text


class Counting(Order):
    """A queue that notes what it has given out, and what of it has ended."""

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        self.taken, self.over = list[Task](), list[Task]()

    def put(self, task: Task, /) -> None:
        self.tasks.append(task)

    def ready(self) -> bool:
        return bool(self.tasks)

    def take(self) -> Task:
        self.taken.append(self.tasks.popleft())
        return self.taken[-1]

    def evict(self, newcomer: Task, /) -> Task:
        return self.tasks.popleft()

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        self.tasks = deque(task for task in self.tasks if keep(task))

    def ended(self, task: Task, /) -> None:
        self.over.append(task)

    def __len__(self) -> int:
        return len(self.tasks)


def test_the_order_gives_out_every_task_that_a_thread_runs_the_one_it_is_started_for_too() -> None:
    order = Counting()
    with Pool(2, order=order) as pool:
        gate = hold(pool)
        futures = [pool.submit(abs, -1) for _ in range(3)]
        gate.set()
        assert [future.result(30) for future in futures] == [1] * 3
    assert len(order.taken) == 4
    assert set(order.over) == set(order.taken)


def test_no_more_of_a_key_run_than_may_though_a_thread_was_started_for_the_first() -> None:
    ran: list[int] = []
    with Pool(2, order=Fair(max_running=1)) as pool:
        view, gate, began = pool.options(key="k"), threading.Event(), threading.Event()
        first = view.submit(lambda: began.set() or gate.wait(30))  # type: ignore[func-returns-value]  # it is falsy
        assert began.wait(30)
        second = view.submit(ran.append, 1)
        assert pool.submit(abs, -1).result(30) == 1, "others have a thread"
        assert ran == []
        gate.set()
        second.result(30)
        assert first.done()


def test_a_submit_that_ctrl_c_ends_when_its_thread_has_the_task_leaves_its_key_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expect_no_more, ran = Workers.expect_no_more, list[int]()

    def interrupted(self: Workers, worker: Worker) -> None:
        monkeypatch.setattr(Workers, "expect_no_more", expect_no_more)
        raise KeyboardInterrupt

    with Pool(1, order=Fair(max_running=1)) as pool:
        view, gate = pool.options(key="k"), threading.Event()
        monkeypatch.setattr(work, "_set_up", lambda *args: gate.wait(30) and set_up(*args))
        monkeypatch.setattr(Workers, "expect_no_more", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.submit(ran.append, 1)
        gate.set()
        assert view.submit(abs, -2).result(30) == 2
    assert ran == []


# -- in a caller's thread, inside whatever runs there ---------------------------------------------------------------


def test_a_full_pool_runs_what_its_own_task_submits_at_once() -> None:
    with Pool(1, queue_size=1) as pool:

        def task() -> list[str]:
            futures = [pool.submit(lambda: threading.current_thread().name) for _ in range(3)]
            assert [future.done() for future in futures] == [False, True, True]
            return [future.result() for future in futures]

        assert set(pool.submit(task).result(30)) == {f"{pool.snapshot().name}_0"}


@pytest.mark.parametrize("depth", [1, 5])
def test_nested_waits_end_on_one_thread(depth: int) -> None:
    with Pool(1) as pool:

        def leaves(depth: int) -> int:
            if depth == 0:
                return 1
            return sum(future.result() for future in [pool.submit(leaves, depth - 1) for _ in range(2)])

        assert pool.submit(leaves, depth).result(30) == 2**depth

"""A snapshot is frozen, and its numbers add up."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clocks import LeapingClock
from treadle import ConcurrencyLimit, Future, Pool, deadline
from treadle.errors import Cancelled, DeadlineExceeded, WorkerLost
from treadle.events import Observer, PoolSnapshot, TaskEvent


def test_the_numbers_of_a_busy_pool_add_up() -> None:
    gate, began = threading.Event(), threading.Barrier(3)

    def hold() -> None:
        began.wait(30)
        assert gate.wait(30)

    with Pool(2, queue_size=10, name="db") as pool:
        pool.submit(int).result(30)
        for _ in range(2):
            pool.submit(hold)
        began.wait(30)
        waiting = [pool.submit(int) for _ in range(4)]
        waiting[0].cancel()
        now = pool.snapshot()
        gate.set()
    assert (now.name, now.max_workers, now.queue_size) == ("db", 2, 10)
    assert (now.threads, now.busy, now.idle, now.waiting, now.cancelled) == (2, 2, 0, 3, 1)
    assert now.submitted == now.finished + now.busy + now.waiting + now.cancelled + now.shed == 7
    assert {worker.task for worker in now.workers} == {f"{hold.__qualname__}"}
    assert {worker.name for worker in now.workers} == {"db-0", "db-1"}
    assert now.longest_wait >= 0
    after = pool.snapshot()
    assert (after.finished, after.waiting, after.busy, after.closed) == (6, 0, 0, True)


def test_a_worker_counts_what_it_took_and_the_pool_what_ran_inside_of_that_as_well() -> None:
    with Pool(1) as pool:
        pool.submit(lambda: pool.submit(int).result(30)).result(30)
        list(pool.map(abs, range(3)))
        pool.submit(int).result(30)  # the thread has ended its turn of the map
        now = pool.snapshot()
    assert (now.finished, [worker.finished for worker in now.workers]) == (6, [2])


def test_a_snapshot_cannot_be_changed() -> None:
    with Pool(1) as pool, pytest.raises(dataclasses.FrozenInstanceError):
        pool.snapshot().waiting = 3  # type: ignore[misc]  # that is the point


def test_a_task_inside_another_is_shown_with_those_around_it() -> None:
    gate, began = threading.Event(), threading.Event()

    def inner() -> None:
        began.set()
        assert gate.wait(30)

    with Pool(1) as pool:
        outer = pool.submit(lambda: pool.submit(inner).result())
        assert began.wait(30)
        (worker,) = pool.snapshot().workers
        gate.set()
        outer.result(30)
    assert worker.nested == 1
    assert worker.task is not None
    assert worker.task.endswith("inner")


def test_the_repr_counts() -> None:
    pool = Pool(3, name="db")
    assert repr(pool) == "<Pool 'db': 0/3 threads busy, 0 waiting>"
    pool.shutdown()
    assert repr(pool) == "<Pool 'db': 0/3 threads busy, 0 waiting, closed>"


def test_stacks_say_which_task_runs_where_and_since_when() -> None:
    inside, may_end = threading.Event(), threading.Event()

    def hold_the_shed_open() -> None:
        inside.set()
        assert may_end.wait(60)

    with Pool(2, name="loom", min_workers=2) as pool:
        pool.options(name="weft 7").submit(hold_the_shed_open)
        assert inside.wait(60)
        text = pool.stacks()
        may_end.set()
    busy, idle = sorted(text.split("loom-"), key=len, reverse=True)[:2]
    assert "weft 7 for " in busy
    assert "in hold_the_shed_open" in busy
    assert idle.endswith(": idle\n")


def test_a_task_is_counted_once_while_its_callbacks_run() -> None:
    seen: list[PoolSnapshot] = []
    gate = threading.Event()
    with Pool(1) as pool:
        future = pool.submit(gate.wait, 30)
        future.add_done_callback(lambda _: seen.append(pool.snapshot()))
        gate.set()
    (now,) = seen
    assert (now.submitted, now.finished, now.busy) == (1, 1, 1)


def test_the_turns_of_a_map_are_no_tasks() -> None:
    """Or fewer had been submitted when a turn found nothing to do than before."""
    gate = threading.Event()
    with Pool(1) as pool:
        pool.submit(gate.wait, 30)
        results = pool.map(abs, [-1, -2])
        assert (pool.snapshot().waiting, pool.snapshot().submitted) == (1, 1)
        gate.set()
        assert list(results) == [1, 2]
    assert (pool.snapshot().submitted, pool.snapshot().finished) == (3, 3)


def test_a_task_that_its_thread_did_not_begin_is_counted_as_cancelled() -> None:
    """Here: its surroundings were asked to stop before its turn came."""
    gate, inside = threading.Event(), threading.Event()
    inner: list[Future[int]] = []

    def outer() -> None:
        with deadline(600):
            inner.append(pool.submit(int))
        inside.set()
        assert gate.wait(30)

    with Pool(1) as pool:
        future = pool.submit(outer)
        assert inside.wait(30)
        assert future.request_cancel()
        gate.set()
        assert isinstance(inner[0].exception(30), Cancelled)
    now = pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled) == (2, 1, 1)


def fail(*_: object) -> None:
    raise ZeroDivisionError


def consumed(results: Any) -> int:
    """Take every result; return how many of them were raised."""
    raised = 0
    while True:
        try:
            next(results)
        except StopIteration:
            return raised
        except ZeroDivisionError:
            raised += 1


def nested(pool: Pool, *tasks: Callable[..., object]) -> None:
    """Have a task run the others in its own thread."""

    def outer() -> None:
        for task in tasks:
            pool.submit(task).exception(30)

    pool.submit(outer).result(30)


def in_time(pool: Pool, *tasks: Callable[..., object]) -> None:
    """Have them run under a deadline."""
    with deadline(600):
        for task in tasks:
            pool.submit(task).exception(30)


def in_a_task(pool: Pool, *tasks: Callable[..., object]) -> None:
    """Have a task take the results of a map, and so run its items."""
    pool.submit(lambda: consumed(pool.map(lambda task: task(), tasks, ordered=False))).result(30)


WAYS: dict[str, Callable[..., object]] = {
    "submit": lambda pool, *tasks: [pool.submit(task).exception(30) for task in tasks],
    "in the caller's thread": lambda pool, *tasks: [
        pool.options(when_full="caller_runs").submit(task).exception(30) for task in tasks
    ],
    "nested": nested,
    "deadline": in_time,
    "map": lambda pool, *tasks: consumed(pool.map(lambda task: task(), tasks)),
    "unordered map": lambda pool, *tasks: consumed(pool.map(lambda task: task(), tasks, ordered=False, chunksize=2)),
    "a map in a task": in_a_task,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_of_those_that_finished_it_counts_those_that_raised(way: str, workers: int, *, observed: bool) -> None:
    """However they are run, and also when their threads have ended."""
    observers = [Observer()] if observed else []
    with Pool(workers, queue_size=None if "map" in way else 0, observers=observers) as pool:
        WAYS[way](pool, int, fail, int, fail, fail)
        assert pool.snapshot().failed <= pool.snapshot().finished
    now = pool.snapshot()
    assert (now.failed, now.finished) == (3, 6 if way in ("nested", "a map in a task") else 5)
    assert now.threads == 0


def test_those_that_never_began_have_not_failed() -> None:
    gate = threading.Event()
    pool = Pool(1, queue_size=3)
    pool.submit(gate.wait, 30)
    pool.submit(int).cancel()
    for _ in range(4):
        pool.options(when_full="discard_oldest").submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    now = pool.snapshot()
    assert (now.finished, now.failed, now.cancelled, now.shed) == (1, 0, 4, 1)


def test_a_task_whose_surroundings_are_over_when_its_turn_comes_has_not_failed() -> None:
    """It is claimed, and given up then."""
    gate, inside = threading.Event(), threading.Event()
    inner: list[Future[int]] = []

    def outer() -> None:
        with deadline(600):
            inner.append(pool.submit(int))
        inside.set()
        assert gate.wait(30)

    with Pool(1) as pool:
        future = pool.submit(outer)
        assert inside.wait(30)
        assert future.request_cancel()
        gate.set()
        assert isinstance(inner[0].exception(30), Cancelled)
    assert (pool.snapshot().finished, pool.snapshot().failed) == (1, 0)


def test_a_task_that_runs_at_its_deadline_has_failed_when_its_thread_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, gate, began = LeapingClock(monkeypatch), threading.Event(), threading.Event()
    with Pool(1) as pool:
        with deadline(600):
            late = pool.submit(lambda: began.set() or gate.wait(30))  # type: ignore[func-returns-value]  # it is falsy
        assert began.wait(30)
        clock.leap(600)
        assert isinstance(late.exception(30), DeadlineExceeded)
        now = pool.snapshot()
        gate.set()
    assert (now.finished, now.failed) == (0, 0)
    assert (pool.snapshot().finished, pool.snapshot().failed) == (1, 1)


@pytest.mark.parametrize("when", ["started", "finished"])
def test_a_task_whose_thread_is_lost_before_it_has_returned_has_failed(when: str) -> None:
    class Killing(Observer):
        def tell(self, what: str, event: TaskEvent) -> None:
            if (what, event.name) == (when, "doomed"):
                raise SystemExit

        def started(self, event: TaskEvent) -> None:
            self.tell("started", event)

        def finished(self, event: TaskEvent) -> None:
            self.tell("finished", event)

    with Pool(1, observers=[Killing()]) as pool:
        doomed = pool.options(name="doomed").submit(int)
        lost = doomed.exception(30)
        assert pool.submit(abs, -1).result(30) == 1
    assert isinstance(lost, WorkerLost) is (when == "started")
    assert (pool.snapshot().finished, pool.snapshot().failed) == (2, when == "started")


def test_the_limit_is_what_was_found_and_max_workers_what_the_user_allows() -> None:
    with Pool(16, limit=ConcurrencyLimit(initial=3)) as pool:
        assert (pool.snapshot().limit, pool.snapshot().max_workers) == (3, 16)
        pool.resize(2)
        assert (pool.snapshot().limit, pool.snapshot().max_workers) == (2, 2)
        pool.resize(9)
        assert (pool.snapshot().limit, pool.snapshot().max_workers) == (2, 9)
    with Pool(16) as pool:
        assert (pool.snapshot().limit, pool.snapshot().max_workers) == (None, 16)

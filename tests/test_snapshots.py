"""A snapshot is frozen, and its numbers add up."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from treadle import Future, Pool, deadline
from treadle.errors import Cancelled
from treadle.events import PoolSnapshot


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

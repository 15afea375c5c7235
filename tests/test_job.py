"""The turns in which a map's items are run."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

import treadle
from treadle import Pool


def test_items_that_block_are_spread_over_all_threads() -> None:
    """Each turn that begins and leaves items waiting brings one more thread."""
    together = threading.Barrier(4)
    with Pool(4) as pool:
        assert sorted(pool.map(lambda number: together.wait(30), range(4))) == [0, 1, 2, 3]


def test_a_long_map_lets_the_tasks_behind_it_run() -> None:
    """A turn goes back to the end of the queue after an item when others wait."""
    order: list[str] = []
    gate = threading.Event()

    def item(number: int) -> None:
        assert gate.wait(30)
        order.append(f"item {number}")

    with Pool(1) as pool:
        results = pool.map(item, range(100))
        behind = pool.submit(order.append, "behind")
        gate.set()
        behind.result(30)
        for _ in results:
            pass
    assert order.index("behind") <= 2


def test_chunksize_is_how_many_items_a_thread_runs_before_it_looks_for_others() -> None:
    order: list[str] = []
    gate = threading.Event()

    def item(number: int) -> None:
        assert gate.wait(30)
        order.append(f"item {number}")

    with Pool(1) as pool:
        results = pool.map(item, range(100), chunksize=10)
        behind = pool.submit(order.append, "behind")
        gate.set()
        behind.result(30)
        for _ in results:
            pass
    assert order.index("behind") in (10, 20)


def test_items_that_the_pool_drops_are_cancelled_and_none_hangs() -> None:
    gate, began = threading.Event(), threading.Event()

    def item(number: int) -> int:
        began.set()
        assert gate.wait(30)
        return number

    pool = Pool(1)
    results = pool.map(item, range(10))
    assert began.wait(30)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert next(results) == 0
    for _ in range(9):
        with pytest.raises(CancelledError):
            next(results)
    with pytest.raises(StopIteration):
        next(results)
    pool.shutdown()


def test_items_of_a_map_count_as_tasks_in_snapshots() -> None:
    with Pool(2) as pool:
        assert len(list(pool.map(abs, range(100)))) == 100
        pool.shutdown()
        now = pool.snapshot()
        assert (now.finished, now.submitted, now.waiting) == (100, 100, 0)


def test_an_item_that_failed_and_was_never_taken_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1, name="worker") as pool:
        pool.map(int, ["1", "not a number"])
    (record,) = caplog.records
    assert "task int failed, and nobody asked" in record.getMessage()


def test_an_item_that_failed_and_was_taken_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        results = pool.map(int, ["not a number"])
        with pytest.raises(ValueError, match="not a number"):
            next(results)
        del results
    assert not caplog.records


def test_items_have_the_deadline_of_the_task_that_maps_without_contexts_too() -> None:
    """One item runs in that task's own thread, the other, at the same time, in another."""
    together = threading.Barrier(2)

    def item(_: int) -> float | None:
        together.wait(30)
        return treadle.time_left()

    with Pool(2, context=False) as pool:
        with treadle.deadline(600):
            seen = pool.submit(lambda: list(pool.map(item, range(2)))).result(30)
    assert None not in seen

"""The turns in which a map's items are run."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, cast

import pytest

import treadle
from treadle import Pool
from treadle._base.locks import closed_latch
from treadle._pool.mapping import job as job_module
from treadle._pool.mapping.job import NOT_YET, Item, Job
from treadle.errors import WorkerLost
from treadle.events import Observer


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


class ComesLate(deque[Item]):
    """The items of a map: as soon as a turn has found none left, one more is appended."""

    def __init__(self, items: deque[Item], late: Item) -> None:
        super().__init__(items)
        self.late = [late]

    def __bool__(self) -> bool:
        found = len(self) > 0
        if not found and self.late:
            self.append(self.late.pop())  # and no turn is begun for it, for there is one
        return found


class Mapping:
    """A pool of one thread and no room, which is held, and the job of a map whose only turn waits there."""

    def __init__(self) -> None:
        self.gate, began = threading.Event(), threading.Event()
        self.pool = Pool(1, queue_size=1)
        self.pool.submit(lambda: began.set() or self.gate.wait(30))  # type: ignore[func-returns-value]  # it is falsy
        assert began.wait(30)
        self.results = cast(Any, self.pool.map(abs, [-1], timeout=30))
        self.job: Job = self.results._job
        (self.turn,) = self.job.live


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    made = Mapping()
    yield made
    made.gate.set()
    made.pool.shutdown()


def test_an_item_that_comes_as_the_last_turn_ends_is_run(mapping: Mapping) -> None:
    """The turn looks once more after it has counted itself out, so either it or the consumer sees to the item."""
    late = Item()
    late.args, late.value = -2, NOT_YET
    mapping.job.waiting = ComesLate(mapping.job.waiting, late)
    mapping.gate.set()
    mapping.pool.shutdown()
    assert late.value == 2
    assert (mapping.job.live, mapping.job.running) == (set(), set())


def test_a_turn_that_is_lost_after_it_has_ended_is_counted_out_once(mapping: Mapping) -> None:
    """Its thread was killed between the two; a count too low would let the map wait for a turn that never comes."""
    mapping.gate.set()
    assert list(mapping.results) == [1]
    mapping.pool.shutdown()
    late = Item()
    late.args, late.value = -2, NOT_YET
    mapping.job.waiting.append(late)  # that another turn is to run
    mapping.job.turn_over(mapping.turn, WorkerLost("worker", "abs", None))
    assert (mapping.job.live, mapping.job.running) == (set(), set())
    assert (late.value, list(mapping.job.waiting)) == (NOT_YET, [late])
    mapping.job.waiting.clear()


def test_items_whose_only_turn_is_dropped_while_it_waits_are_cancelled(mapping: Mapping) -> None:
    mapping.pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        next(mapping.results)


def test_a_turn_that_there_is_no_room_for_does_not_count(mapping: Mapping) -> None:
    """Or the map would wait for it when all others have ended."""
    assert not mapping.job.offer_turn()
    assert mapping.job.live == {mapping.turn}


class Failure(Exception):
    """An exception that leaves a weak reference to itself in a list."""

    def __init__(self, kept: list[weakref.ref[Failure]]) -> None:
        super().__init__()
        kept.append(weakref.ref(self))


@pytest.mark.parametrize("observers", [[], [Observer()]])
def test_an_item_that_failed_and_was_never_taken_makes_no_cycle(
    observers: list[Observer], caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is freed, and logged, when the map is dropped, and not when the garbage collector comes by."""

    def fail(_: int) -> None:
        raise Failure(kept)

    kept: list[weakref.ref[Failure]] = []
    caplog.set_level(logging.CRITICAL, "treadle")  # or the record would keep it
    gc.collect()
    gc.disable()
    try:
        with Pool(1, observers=observers) as pool:
            results = pool.map(fail, [1])
            pool.submit(int).result(30)
            assert kept[0]() is not None
            del results
            # Without the GIL an object that another thread lets go of last is freed when its maker comes by.
            assert kept[0]() is None or not getattr(sys, "_is_gil_enabled", lambda: True)()
    finally:
        gc.enable()


class Sleepless:
    """A latch that is closed; who would sleep on it fails instead."""

    def __init__(self) -> None:
        self.latch = closed_latch()

    def acquire(self, *_: object) -> bool:
        assert self.latch.acquire(False), "it sleeps, and nobody would wake it"
        return True

    def release(self) -> None:
        self.latch.release()


def test_an_item_that_is_done_just_before_its_consumer_sleeps_is_not_missed(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker looked for somebody who waits before there was one; so the consumer looks at the item once more."""
    item = Item()
    item.value = NOT_YET

    def end_first() -> Any:
        item.value = None
        return Sleepless()

    monkeypatch.setattr(job_module, "closed_latch", end_first)
    assert mapping.job.wait(item, None)


def is_freed(reference: weakref.ref[Any]) -> bool:
    """Without the GIL an object that another thread lets go of last is freed when its maker comes by."""
    return reference() is None or not getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("observers", [[], [Observer()]])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_function_is_held_no_longer_than_its_map(observers: list[Observer], ordered: bool) -> None:
    def function(number: int) -> int:
        return number

    with Pool(1, observers=observers) as pool:
        results = pool.map(function, range(3), ordered=ordered)
        assert sorted(results) == [0, 1, 2]
        kept = weakref.ref(function)
        del function, results
        pool.submit(int).result(30)
        assert is_freed(kept)


class Thing:
    """What there may be weak references to."""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("observers", [[], [Observer()]])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_is_closed_holds_no_result_that_comes_later(observers: list[Observer], ordered: bool) -> None:
    kept: list[weakref.ref[Thing]] = []
    began, gate = threading.Event(), threading.Event()

    def make(_: int) -> Thing:
        began.set()
        assert gate.wait(30)
        thing = Thing()
        kept.append(weakref.ref(thing))
        return thing

    with Pool(1, observers=observers) as pool:
        results = pool.map(make, range(3), ordered=ordered)
        assert began.wait(30)
        results.close()
        gate.set()
        pool.submit(int).result(30)
        assert [is_freed(each) for each in kept] == [True]
        assert list(results) == []


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_is_dropped_holds_no_result_that_came_before(ordered: bool) -> None:
    """Though its last item still runs."""
    kept: list[weakref.ref[Thing]] = []
    began, gate = threading.Event(), threading.Event()

    def make(number: int) -> Thing | None:
        if number == 1:
            began.set()
            assert gate.wait(30)
            return None
        thing = Thing()
        kept.append(weakref.ref(thing))
        return thing

    with Pool(1) as pool:
        results = pool.map(make, range(2), ordered=ordered)
        assert began.wait(30)
        del results
        assert [is_freed(each) for each in kept] == [True]
        gate.set()

"""What a full pool drops or refuses, by every way into it: one class to catch, with the facts; and who is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import treadle
from treadle import Pool, TaskGroup
from treadle._dispatch.state import Claims
from treadle.errors import Overloaded, PoolFull, Shed
from treadle.events import Observer, TaskEvent
from treadle.orders import Adaptive

PATIENCE = 30.0

Drop = Callable[[], object]
Way = Callable[[Pool, Drop], BaseException]


class Told(Observer):
    """Keeps the events of tasks that were shed."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    def shed(self, event: TaskEvent) -> None:
        self.events.append(event)


class Passing(Pool):
    """A pool whose `submit` was overridden, so that a map submits every call."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *args, **kwargs)


@contextmanager
def busy(kind: type[Pool] = Pool, **options: Any) -> Iterator[tuple[Pool, Told]]:
    """A pool of one thread, which is held up."""
    told, gate, began = Told(), threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool = kind(1, name="db", observers=[told], **{"queue_size": 1, "when_full": "discard_oldest", **options})
    try:
        pool.submit(hold)
        assert began.wait(PATIENCE)
        yield pool, told
    finally:
        gate.set()
        pool.shutdown()


def query() -> None:
    """Do what is never begun."""
    raise AssertionError("it ran")


def row(number: int) -> None:
    """As `query`."""
    query()


def fails(ask: Callable[[], object]) -> BaseException:
    try:
        ask()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def by_submit(pool: Pool, drop: Drop) -> BaseException:
    future = pool.submit(query)
    drop()
    assert not future.cancelled()
    assert not future.cancel()
    assert future.exception(0) is fails(lambda: future.result(0))
    return fails(lambda: future.result(0))


def by_options(pool: Pool, drop: Drop) -> BaseException:
    future = pool.options(name="named").submit(query)
    drop()
    error = fails(lambda: future.result(0))
    assert isinstance(error, Shed)
    assert error.task_name == "named"
    return error


def by_a_view_with_a_deadline(pool: Pool, drop: Drop) -> BaseException:
    with treadle.deadline(PATIENCE):
        future = pool.submit(query)
    drop()
    return fails(lambda: future.result(0))


def by_map(pool: Pool, drop: Drop) -> BaseException:
    rows = pool.map(row, [1], buffersize=1)
    drop()
    return fails(lambda: next(rows))


def by_map_in_any_order(pool: Pool, drop: Drop) -> BaseException:
    rows = pool.map(row, [1], buffersize=1, ordered=False)
    drop()
    return fails(lambda: next(rows))


def by_run(pool: Pool, drop: Drop) -> BaseException:
    async def main() -> None:
        running = asyncio.ensure_future(pool.run(query))
        await asyncio.sleep(0)
        drop()
        await running

    return fails(lambda: asyncio.run(main()))


def by_an_event_loop(pool: Pool, drop: Drop) -> BaseException:
    async def main() -> None:
        running = asyncio.get_running_loop().run_in_executor(pool, query)
        drop()
        await running

    return fails(lambda: asyncio.run(main()))


def by_a_group(pool: Pool, drop: Drop) -> BaseException:
    def main() -> None:
        with TaskGroup(pool) as group:
            group.submit(query)
            drop()

    (error,) = fails(main).exceptions  # type: ignore[attr-defined]  # it is a group
    assert isinstance(error, BaseException)
    return error


def by_a_group_that_goes_on(pool: Pool, drop: Drop) -> BaseException:
    with TaskGroup(pool, keep_going=True) as group:
        group.submit(query)
        drop()
    (outcome,) = group.outcomes
    assert outcome.error is not None
    return outcome.error


def by_the_standard_librarys_wait(pool: Pool, drop: Drop) -> BaseException:
    future = pool.submit(query)
    drop()
    (done,) = concurrent.futures.wait([future], PATIENCE, FIRST_COMPLETED).done
    return fails(done.result)


def by_a_submit_that_was_replaced(pool: Pool, drop: Drop) -> BaseException:
    original = ThreadPoolExecutor.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", lambda self, fn, /, *args: original(self, fn, *args))
        future = pool.submit(query)
        theirs = ThreadPoolExecutor.submit(pool, query)
    error = fails(lambda: future.result(PATIENCE))  # the second took its place
    drop()
    assert isinstance(fails(lambda: theirs.result(PATIENCE)), Shed)
    return error


WAYS: list[Way] = [
    by_submit,
    by_options,
    by_a_view_with_a_deadline,
    by_map,
    by_map_in_any_order,
    by_run,
    by_an_event_loop,
    by_a_group,
    by_a_group_that_goes_on,
    by_the_standard_librarys_wait,
    by_a_submit_that_was_replaced,
]


@pytest.mark.parametrize("kind", [Pool, Passing])
@pytest.mark.parametrize("way", WAYS)
def test_what_makes_room_for_a_newer_task_is_shed_whatever_way_it_came(way: Way, kind: type[Pool]) -> None:
    with busy(kind) as (pool, told):
        error = way(pool, lambda: pool.options(name="newer").submit(int))
        assert isinstance(error, Shed)
        assert isinstance(error, Overloaded)
        assert (error.pool, error.reason) == ("db", "discarded")
        assert "when_full is 'discard_oldest'" in str(error)
        assert error.waited >= 0
        assert {event.name for event in told.events} <= {"query", "row", "named"}
        assert str(error) in [str(event.error) for event in told.events]
        assert (pool.snapshot().shed, pool.snapshot().cancelled) == (len(told.events), 0)


@pytest.mark.parametrize("way", [by_submit, by_options, by_map, by_run, by_a_group])
def test_what_has_waited_too_long_is_shed_for_that(way: Way) -> None:
    order = Adaptive(target=0.0, interval=0.0)
    with busy(order=order, queue_size=None) as (pool, told):

        def stand() -> None:
            order._standing = True  # as after a look that found the head late
            pool._task_dispatcher._do_and_end(shed_next)

        def shed_next(claims: Claims) -> None:
            hands = SimpleNamespace(task=None)
            pool._task_dispatcher.queue.give(hands)  # one waits
            claims.add(hands.task, "too_old")

        error = way(pool, stand)
        assert isinstance(error, Shed)
        assert (error.pool, error.reason) == ("db", "too_old")
        assert str(error) in [str(event.error) for event in told.events]


def test_what_is_shed_tells_its_key() -> None:
    with busy(order="fair") as (pool, _):
        future = pool.options(key="ann").submit(query)
        pool.submit(int)
        error = future.exception(0)
        assert isinstance(error, Shed)
        assert error.key == "ann"


def test_what_was_taken_out_of_the_queue_is_not_shed() -> None:
    """It is in nobody's way there; and whoever has it still decides what becomes of it."""
    with busy() as (pool, told):
        future = pool.submit(int)
        item: Any = pool._work_queue.get_nowait()
        pool.submit(int)
        item.run()
        assert future.result(0) == 0
        assert told.events == []


@pytest.mark.parametrize("when_full", ["reject", "discard_oldest", "block"])
def test_there_is_one_thing_to_catch(when_full: str) -> None:
    """Where nothing waits, there is nothing to discard either."""
    with busy(queue_size=0, when_full=when_full, order="fair") as (pool, _):
        with pytest.raises(Overloaded) as caught:
            pool.options(name="late", key="ann", block_timeout=0.01 if when_full == "block" else None).submit(int)
        error = caught.value
        assert isinstance(error, PoolFull)
        assert (error.pool, error.task_name, error.key, error.queue_size) == ("db", "late", "ann", 0)
        assert error.waited == (0.01 if when_full == "block" else 0)

"""What is kept of a pool's work keeps no pool: dropped without a shutdown, it ends, and so do its threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import treadle
from treadle import Future, Pool, Rate, TaskGroup
from treadle.events import Observer, TaskEvent


def fail() -> None:
    raise ValueError("as it should")


def done(future: Future[Any]) -> Future[Any]:
    """Return `future`, once it is done."""
    future.exception(30)
    return future


def future_of_a_group(pool: Pool) -> object:
    with TaskGroup(pool) as group:
        future = group.submit(int)
    return future


def future_of_a_group_that_failed(pool: Pool) -> object:
    with pytest.raises(ExceptionGroup), TaskGroup(pool.options(name="work")) as group:
        future = group.submit(fail)
    return future


def future_of_a_group_in_a_task(pool: Pool) -> object:
    return pool.submit(future_of_a_group, pool).result(30)


def group_with_outcomes(pool: Pool) -> object:
    with TaskGroup(pool, keep_going=True) as group:
        group.submit(int)
    assert [outcome.value for outcome in group.outcomes] == [0]
    return group


def context_of_a_group(pool: Pool) -> object:
    with TaskGroup(pool):
        context = contextvars.copy_context()
    return context


def future_under_a_deadline(pool: Pool) -> object:
    with treadle.deadline(600):
        return done(pool.submit(int))


def future_past_its_deadline(pool: Pool) -> object:
    with treadle.deadline(0.01):
        late = pool.submit(treadle.sleep, 600)
    return done(late)


def future_at_a_rate(pool: Pool) -> object:
    return [done(pool.options(rate=Rate(1000.0)).submit(int)) for _ in range(2)]


def future_with_a_callback(pool: Pool) -> object:
    future, gate = pool.submit(fail), threading.Event()

    def call_back(_: object) -> None:
        pool.snapshot()
        gate.set()

    future.add_done_callback(call_back)
    assert gate.wait(30)
    return done(future)


def error(pool: Pool) -> object:
    return pool.submit(fail).exception(30)


def results_of_a_map(pool: Pool) -> object:
    results = pool.map(abs, range(9))
    assert list(results) == list(range(9))
    return results


def results_of_a_map_at_a_rate(pool: Pool) -> object:
    results = pool.options(rate=Rate(5000.0)).map(abs, range(9))
    assert list(results) == list(range(9))
    return results


def results_of_a_map_that_was_closed(pool: Pool) -> object:
    results = pool.options(rate=Rate(5000.0)).map(abs, iter(int, 1), buffersize=2)
    next(results)
    results.close()
    return results


def run_that_failed(pool: Pool) -> object:
    """Its error has the frames of whoever awaited it; ours are among them."""

    async def main(call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        kept = asyncio.ensure_future(call)
        await asyncio.wait([kept], timeout=30)
        assert isinstance(kept.exception(), ValueError)
        return kept

    call = pool.run(fail)
    del pool
    return asyncio.run(main(call))


def snapshot(pool: Pool) -> object:
    pool.submit(int).result(30)
    return pool.snapshot()


@pytest.mark.parametrize(
    "work",
    [
        future_of_a_group,
        future_of_a_group_that_failed,
        future_of_a_group_in_a_task,
        group_with_outcomes,
        context_of_a_group,
        future_under_a_deadline,
        future_past_its_deadline,
        future_at_a_rate,
        future_with_a_callback,
        error,
        results_of_a_map,
        results_of_a_map_at_a_rate,
        results_of_a_map_that_was_closed,
        run_that_failed,
        snapshot,
    ],
)
def test_a_pool_ends_though_what_came_of_it_is_kept(work: Callable[[Pool], object]) -> None:
    class Notes(Observer):
        def finished(self, event: TaskEvent) -> None:
            events.append(event)

    events: list[TaskEvent] = []
    pool = Pool(2, name="kept", observers=[Notes()])
    reference = weakref.ref(pool)
    kept = work(pool)
    threads = pool._threads
    del pool
    gc.collect()
    assert reference() is None
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert kept is not None

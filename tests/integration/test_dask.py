"""dask, with a Pool as the executor of its threaded scheduler."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest

from treadle import Pool

dask = pytest.importorskip("dask", reason="dask is not installed")
bag = pytest.importorskip("dask.bag", reason="dask.bag is not installed")

PATIENCE = 30.0


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(4, name="dask") as pool, dask.config.set(pool=pool, scheduler="threads"):
        yield pool


def thread_name(*_: object) -> str:
    return threading.current_thread().name


def test_delayed_graph_is_computed_on_threads_of_the_pool(pool: Pool) -> None:
    names = [dask.delayed(thread_name)(number) for number in range(20)]
    assert set(dask.compute(names)[0]) <= {f"dask-{number}" for number in range(4)}
    assert pool.snapshot().submitted > 0


def test_delayed_graph_with_dependencies_gives_its_result(pool: Pool) -> None:
    level = [dask.delayed(number) for number in range(64)]
    while len(level) > 1:
        level = [dask.delayed(operator.add)(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    assert level[0].compute() == sum(range(64))


def test_more_tasks_than_the_pool_has_room_for_are_computed() -> None:
    """dask hands its tasks over from one thread, which the pool may make wait."""
    with Pool(2, queue_size=1) as pool, dask.config.set(pool=pool, scheduler="threads"):
        assert sum(dask.compute(*(dask.delayed(abs)(-number) for number in range(200)))) == sum(range(200))


def test_bag_maps_filters_and_folds_on_the_pool(pool: Pool) -> None:
    numbers = bag.from_sequence(range(1000), npartitions=16)
    odd_squares = numbers.filter(lambda number: number % 2).map(lambda number: number**2)
    assert odd_squares.fold(operator.add).compute() == sum(number**2 for number in range(1, 1000, 2))
    assert numbers.map(thread_name).distinct().compute()[0].startswith("dask-")


def test_exception_in_a_task_reaches_compute(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        (dask.delayed(operator.truediv)(1, 0) + 1).compute()
    assert dask.delayed(operator.add)(1, 1).compute() == 2


def test_task_may_compute_a_graph_of_its_own_on_the_same_pool(pool: Pool) -> None:
    """The inner graph needs one thread at least beside those that wait for inner graphs: dask waits on a queue of its
    own, which no pool can see through."""

    def inner(number: int) -> int:
        return int(dask.delayed(sum)([dask.delayed(abs)(-number), 1]).compute())

    outer = [dask.delayed(inner)(number) for number in range(3)]
    assert dask.compute(*outer) == (1, 2, 3)


def test_task_may_use_another_pool_by_any_depth(pool: Pool) -> None:
    """What to do where graphs nest deeper than there are threads: give each level its own."""

    def inner(number: int, pools: tuple[Executor, ...]) -> int:
        if not pools:
            return number
        with dask.config.set(pool=pools[0]):
            return int(dask.delayed(inner)(number + 1, pools[1:]).compute(scheduler="threads", pool=pools[0]))

    with Pool(1) as second, Pool(1) as third:
        computed = dask.compute(*(dask.delayed(inner)(number, (second, third)) for number in range(4)))
    assert computed == (2, 3, 4, 5)


def test_threads_computing_at_once_share_the_pool(pool: Pool) -> None:
    def compute(number: int) -> int:
        return int(dask.delayed(operator.add)(dask.delayed(abs)(-number), 1).compute(scheduler="threads", pool=pool))

    with Pool(8) as callers:
        assert list(callers.map(compute, range(40))) == list(range(1, 41))

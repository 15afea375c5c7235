"""Nothing grows: threads, memory, and what abandoned waits leave behind."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from treadle import Pool
from treadle.errors import PoolFull

SLACK = 80_000  # bytes that may come and go; a leak of one byte a task would be more


@pytest.fixture
def growth() -> Iterator[Callable[[], int]]:
    """Return how many bytes there are more than at the first call."""
    tracemalloc.start()
    first: list[int] = []

    def measure() -> int:
        gc.collect()
        first.append(tracemalloc.get_traced_memory()[0])
        return first[-1] - first[0]

    yield measure
    tracemalloc.stop()


def test_a_hundred_thousand_submits_leave_no_memory_and_no_thread(growth: Callable[[], int]) -> None:
    def batch() -> None:
        for future in [pool.submit(int) for _ in range(2000)]:
            future.result(30)

    with Pool(4) as pool:
        batch()
        growth()
        for _ in range(50):
            batch()
        assert growth() < SLACK
        assert pool.snapshot().threads <= 4
        assert pool.snapshot().finished == 102_000


def test_a_hundred_thousand_items_leave_no_memory(growth: Callable[[], int]) -> None:
    with Pool(4) as pool:
        assert len(list(pool.map(abs, range(100)))) == 100
        growth()
        assert sum(1 for _ in pool.map(abs, range(100_000))) == 100_000
        assert growth() < SLACK


def test_polling_giving_up_and_cancelling_leave_nothing_in_a_stuck_pool(growth: Callable[[], int]) -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(120)

    with Pool(1, queue_size=10) as pool:
        running = pool.submit(hold)
        assert began.wait(30)
        waiting = [pool.submit(int) for _ in range(10)]
        impatient = pool.options(block_timeout=0)

        def round_of_everything() -> None:
            with pytest.raises(concurrent.futures.TimeoutError):
                running.result(0)
            with pytest.raises(PoolFull):
                impatient.submit(int)
            waiting.pop().cancel()
            waiting.append(pool.submit(int))
            pool.snapshot()

        round_of_everything()
        growth()
        for _ in range(5000):
            round_of_everything()
        assert growth() < SLACK
        gate.set()


def test_pools_that_come_and_go_leave_nothing(growth: Callable[[], int]) -> None:
    def one_pool() -> None:
        with Pool(3) as pool:
            assert list(pool.map(abs, range(10))) == list(range(10))

    one_pool()
    growth()
    for _ in range(300):
        one_pool()
    assert growth() < SLACK

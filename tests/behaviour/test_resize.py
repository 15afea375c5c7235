"""The ceiling on threads, changed while the pool runs."""

from __future__ import annotations

import random
import threading

import pytest

from treadle import Pool

PATIENCE = 30.0


def wait_for_threads(pool: Pool, count: int) -> None:
    for _ in range(int(PATIENCE / 0.005)):
        if pool.snapshot().threads == count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{pool.snapshot().threads} threads, not {count}")


def test_waiting_tasks_get_threads_as_soon_as_there_may_be_more() -> None:
    together = threading.Barrier(5)
    with Pool(1) as pool:
        futures = [pool.submit(together.wait, PATIENCE) for _ in range(4)]
        pool.resize(4)
        together.wait(PATIENCE)  # all four run at once
        assert sorted(future.result(PATIENCE) for future in futures) != []
        assert pool.snapshot().threads == 4


def test_idle_threads_beyond_it_end_at_once_and_busy_ones_when_they_are_free() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        inside.release()
        assert gate.wait(PATIENCE)

    with Pool(4, min_workers=0, idle_timeout=None) as pool:
        held = [pool.submit(hold) for _ in range(4)]
        for _ in held:
            assert inside.acquire(timeout=PATIENCE)
        waiting = [pool.submit(abs, -n) for n in range(20)]
        pool.resize(2)
        assert pool.snapshot().threads == 4  # a task is never broken off
        gate.set()
        assert [future.result(PATIENCE) for future in waiting] == list(range(20))
        wait_for_threads(pool, 2)
        pool.resize(1)
        wait_for_threads(pool, 1)
        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_a_task_may_resize_its_own_pool() -> None:
    with Pool(2) as pool:
        pool.submit(pool.resize, 1).result(PATIENCE)
        assert [pool.submit(abs, -n).result(PATIENCE) for n in range(5)] == list(range(5))
        assert pool.snapshot().max_workers == 1


def test_every_task_runs_once_whoever_resizes_meanwhile() -> None:
    ran: list[int] = []
    with Pool(3, queue_size=50) as pool:

        def resize(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(300):
                pool.resize(chance.randint(1, 6))

        others = [threading.Thread(target=resize, args=(seed,)) for seed in range(3)]
        for thread in others:
            thread.start()
        futures = [pool.submit(ran.append, number) for number in range(3000)]
        for thread in others:
            thread.join()
        pool.resize(2)
        for future in futures:
            future.result(PATIENCE)
        pool.submit(int).result(PATIENCE)
        wait_for_threads(pool, 2) if pool.snapshot().threads > 2 else None
    assert sorted(ran) == list(range(3000))


@pytest.mark.parametrize(
    ("size", "words"), [(0, "max_workers=0"), ("2", "max_workers='2'"), (1, "less than min_workers=2")]
)
def test_bad_sizes_are_named(size: int, words: str) -> None:
    with Pool(4, min_workers=2) as pool, pytest.raises((TypeError, ValueError), match=words):
        pool.resize(size)

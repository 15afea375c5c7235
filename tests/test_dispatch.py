"""What a pool, its workers and its futures share."""

from __future__ import annotations

import threading

import pytest

from treadle import Pool


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
            assert len(pool._dispatcher.tasks) <= 200
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

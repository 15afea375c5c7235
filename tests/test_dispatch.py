"""What a pool, its workers and its futures share."""

from __future__ import annotations

import threading

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

"""Tasks that run in their caller's thread, inside whatever runs there."""

from __future__ import annotations

import threading

import pytest

from treadle import Pool


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

"""Awaiting tasks: the event loop is never blocked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from treadle import Pool
from treadle.errors import PoolClosed, PoolFull


class Gate:
    """Holds the only thread of a pool until it is opened."""

    def __init__(self, pool: Pool) -> None:
        self.open, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.open.wait(30)

        pool.submit(hold)
        assert began.wait(30)


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds, giving way to the loop's other tasks."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def test_run_awaits_the_result_and_raises_what_was_raised() -> None:
    async def main() -> None:
        with Pool(2) as pool:
            assert await pool.run(divmod, 7, 2) == (3, 1)
            with pytest.raises(ValueError, match="'x'"):
                await pool.run(int, "x")
            assert await asyncio.gather(*(pool.run(abs, -n) for n in range(50))) == list(range(50))

    run(main())


@pytest.mark.parametrize("policy", ["wait", "run"])
def test_awaiting_room_does_not_block_the_loop(policy: str) -> None:
    async def main() -> None:
        with Pool(1, queue_size=1, when_full=policy) as pool:
            gate = Gate(pool)
            pool.submit(int)
            waiting = [asyncio.ensure_future(pool.run(threading.get_ident)) for _ in range(3)]
            await until(lambda: pool.snapshot().blocked == 3)
            gate.open.set()
            assert threading.get_ident() not in await asyncio.gather(*waiting)

    run(main())


def test_cancelling_the_await_cancels_what_has_not_begun() -> None:
    ran: list[int] = []

    async def main() -> None:
        with Pool(1, queue_size=1) as pool:
            gate = Gate(pool)
            tasks = [asyncio.ensure_future(pool.run(ran.append, n)) for n in range(2)]
            await until(lambda: pool.snapshot().blocked == 1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert pool.snapshot().blocked == pool.snapshot().waiting == 0
            gate.open.set()

    run(main())
    assert ran == []


def test_the_time_allowed_for_room_ends_the_await() -> None:
    async def main() -> None:
        with Pool(1, queue_size=0, name="narrow") as pool:
            gate = Gate(pool)
            with pytest.raises(PoolFull, match=r"'narrow' is full after waiting 0\.01 s"):
                await pool.options(timeout=0.01).run(int)
            assert pool.snapshot().blocked == 0
            gate.open.set()
            assert await pool.options(timeout=30).run(int) == 0

    run(main())


def test_those_refused_for_time_leave_the_counts_and_the_bound_as_they_were() -> None:
    async def main() -> None:
        with Pool(1, queue_size=2) as pool:
            gate = Gate(pool)
            waiting = [pool.submit(int) for _ in range(2)]
            patient = asyncio.ensure_future(pool.run(int))
            await until(lambda: pool.snapshot().blocked == 1)
            for _ in range(5):
                with pytest.raises(PoolFull):
                    await pool.options(timeout=0.001).run(int)
                now = pool.snapshot()
                assert (now.waiting, now.blocked, now.cancelled) == (2, 1, 0)
            assert pool._dispatcher.dead == 0
            gate.open.set()
            assert await patient == 0
            assert [future.result(30) for future in waiting] == [0, 0]
        assert pool.snapshot().submitted == pool.snapshot().finished == 4
        assert pool.snapshot().rejected == 5

    run(main())


def test_reject_and_shutdown_refuse() -> None:
    async def main() -> None:
        pool = Pool(1, queue_size=0)
        gate = Gate(pool)
        with pytest.raises(PoolFull):
            await pool.options(when_full="reject").run(int)
        waiting = asyncio.ensure_future(pool.run(int))
        await until(lambda: pool.snapshot().blocked == 1)
        pool.shutdown(wait=False)
        with pytest.raises(PoolClosed):
            await waiting
        with pytest.raises(PoolClosed):
            await pool.run(int)
        gate.open.set()
        pool.shutdown()

    run(main())

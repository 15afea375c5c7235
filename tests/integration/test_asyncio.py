"""asyncio, with a Pool as its executor, and a Pool awaited directly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from treadle import Pool
from treadle.errors import PoolFull

PATIENCE = 30.0

request_id: ContextVar[str] = ContextVar("request_id", default="none")


def thread_name(*_: object) -> str:
    return threading.current_thread().name


def fail() -> None:
    raise LookupError("from the task")


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2, name="work") as pool:
        yield pool


class Gate:
    """Holds a thread in `hold` until it is opened, which the end of its block does too."""

    def __init__(self) -> None:
        self._opened, self._entered = threading.Event(), threading.Event()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        self._opened.set()

    def hold(self) -> None:
        self._entered.set()
        assert self._opened.wait(PATIENCE)

    def wait_until_held(self) -> None:
        assert self._entered.wait(PATIENCE)


def test_to_thread_runs_on_the_pool_given_to_set_default_executor() -> None:
    async def main() -> list[str]:
        asyncio.get_running_loop().set_default_executor(Pool(2, name="work"))
        return await asyncio.gather(*(asyncio.to_thread(thread_name) for _ in range(20)))

    assert set(asyncio.run(main())) <= {"work-0", "work-1"}


def test_loop_ends_the_threads_of_its_default_executor() -> None:
    pool = Pool(2, name="work")

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(pool)
        await asyncio.to_thread(thread_name)

    asyncio.run(main())
    assert pool.snapshot().closed
    assert pool.snapshot().threads == 0


def test_name_look_up_of_the_loop_runs_on_the_pool(pool: Pool) -> None:
    """The loop's own blocking calls go to its default executor too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        assert await loop.getaddrinfo("127.0.0.1", 80)

    asyncio.run(main())
    assert pool.snapshot().finished == 1


@pytest.mark.parametrize("context", [True, False])
def test_to_thread_carries_the_context(context: bool) -> None:
    """asyncio copies it itself, so a pool that does not is no obstacle."""

    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(Pool(1, context=context))
        request_id.set("r-17")
        return await asyncio.to_thread(request_id.get)

    assert asyncio.run(main()) == "r-17"


def test_run_in_executor_carries_the_context_which_asyncio_alone_does_not(pool: Pool) -> None:
    async def main() -> str:
        request_id.set("r-18")
        return await asyncio.get_running_loop().run_in_executor(pool, request_id.get)

    assert asyncio.run(main()) == "r-18"


def test_run_in_executor_gives_results_and_exceptions(pool: Pool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, thread_name) in {"work-0", "work-1"}
        with pytest.raises(LookupError, match="from the task"):
            await loop.run_in_executor(pool, fail)

    asyncio.run(main())


def test_wrap_future_awaits_a_submitted_task(pool: Pool) -> None:
    async def main() -> tuple[int, str]:
        done = pool.submit(pow, 2, 10)
        assert done.result(PATIENCE) == 1024
        running = pool.submit(thread_name)
        return await asyncio.wrap_future(done), await asyncio.wrap_future(running)

    result, name = asyncio.run(main())
    assert result == 1024
    assert name.startswith("work-")


def test_cancelling_a_wrapped_future_cancels_a_task_that_has_not_begun() -> None:
    async def main(pool: Pool, gate: Gate) -> None:
        pool.submit(gate.hold)
        gate.wait_until_held()
        future = pool.submit(thread_name)
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        await asyncio.sleep(0)  # asyncio passes it on from its next turn
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        assert future.cancelled()
        gate.open()

    with Pool(1) as pool, Gate() as gate:
        asyncio.run(main(pool, gate))
    assert pool.snapshot().cancelled == 1


def test_cancelled_task_on_the_pool_cancels_the_wrapped_future() -> None:
    async def main(pool: Pool, gate: Gate) -> None:
        pool.submit(gate.hold)
        gate.wait_until_held()
        future = pool.submit(thread_name)
        wrapped = asyncio.wrap_future(future)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(wrapped, PATIENCE)
        gate.open()

    with Pool(1) as pool, Gate() as gate:
        asyncio.run(main(pool, gate))


def test_run_gives_results_exceptions_and_context(pool: Pool) -> None:
    async def main() -> None:
        request_id.set("r-19")
        assert await pool.run(request_id.get) == "r-19"
        assert await pool.run(int, "ff", base=16) == 255
        with pytest.raises(LookupError, match="from the task"):
            await pool.run(fail)

    asyncio.run(main())


def test_run_waits_for_room_without_blocking_the_loop() -> None:
    """Ten times as many awaits as the pool has room for, all made while its only thread is held by one that only the
    loop can free."""

    async def main(pool: Pool, gate: Gate) -> list[int]:
        held = asyncio.ensure_future(pool.run(gate.hold))
        await asyncio.get_running_loop().run_in_executor(None, gate.wait_until_held)
        calls = [asyncio.ensure_future(pool.run(pow, number, 2)) for number in range(20)]
        await asyncio.sleep(0)  # each of them begins, and finds the pool full or takes the last room
        seen = pool.snapshot()
        assert (seen.waiting, seen.blocked) == (2, 18)
        gate.open()  # from the loop: it is not blocked
        await held
        return await asyncio.gather(*calls)

    with Pool(1, queue_size=2) as pool, Gate() as gate:
        assert asyncio.run(main(pool, gate)) == [number**2 for number in range(20)]


def test_cancelling_the_await_of_run_frees_its_place_in_line() -> None:
    ran: list[int] = []

    async def main(pool: Pool, gate: Gate) -> None:
        held = pool.submit(gate.hold)
        gate.wait_until_held()
        calls = [asyncio.ensure_future(pool.run(ran.append, number)) for number in range(5)]
        await asyncio.sleep(0)
        for call in calls[1:4]:
            call.cancel()
        outcomes = await asyncio.gather(*calls[1:4], return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        gate.open()
        await asyncio.gather(calls[0], calls[4], asyncio.wrap_future(held))

    with Pool(1, queue_size=1) as pool, Gate() as gate:
        asyncio.run(main(pool, gate))
    assert ran == [0, 4]


def test_run_with_a_timeout_for_room_raises_pool_full() -> None:
    async def main(pool: Pool, gate: Gate) -> None:
        pool.submit(gate.hold)
        gate.wait_until_held()
        pool.submit(thread_name)
        with pytest.raises(PoolFull, match=r"is full after waiting 0\.01 s for room"):
            await pool.options(block_timeout=0.01).run(thread_name)
        gate.open()

    with Pool(1, queue_size=1) as pool, Gate() as gate:
        asyncio.run(main(pool, gate))
    assert pool.snapshot().rejected == 1


def test_run_rejects_at_once_where_the_policy_is_reject() -> None:
    async def main(pool: Pool, gate: Gate) -> None:
        pool.submit(gate.hold)
        gate.wait_until_held()
        pool.submit(thread_name)
        with pytest.raises(PoolFull):
            await pool.run(thread_name)
        gate.open()

    with Pool(1, queue_size=1, when_full="reject") as pool, Gate() as gate:
        asyncio.run(main(pool, gate))


def test_run_never_runs_in_the_loops_thread_where_the_policy_is_run() -> None:
    async def main(pool: Pool, gate: Gate) -> list[str]:
        pool.submit(gate.hold)
        gate.wait_until_held()
        calls = [asyncio.ensure_future(pool.run(thread_name)) for _ in range(5)]
        await asyncio.sleep(0)
        gate.open()
        return await asyncio.gather(*calls)

    with Pool(1, queue_size=1, when_full="caller_runs", name="work") as pool, Gate() as gate:
        assert asyncio.run(main(pool, gate)) == ["work-0"] * 5


def test_two_loops_in_two_threads_share_one_pool(pool: Pool) -> None:
    async def main(base: int) -> int:
        return sum(await asyncio.gather(*(pool.run(pow, base, 2) for _ in range(200))))

    with Pool(2) as loops:
        assert list(loops.map(lambda base: asyncio.run(main(base)), [2, 3])) == [800, 1800]

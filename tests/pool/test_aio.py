"""Awaiting tasks: the event loop is never blocked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import re
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import treadle
from treadle import Future, Pool
from treadle._pool.submit import WhenFull
from treadle.errors import Cancelled, PoolBroken, PoolClosed, PoolFull, Shed


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


@pytest.mark.parametrize("policy", ["block", "caller_runs"])
def test_awaiting_room_does_not_block_the_loop(policy: WhenFull) -> None:
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
                await pool.options(block_timeout=0.01).run(int)
            assert pool.snapshot().blocked == 0
            gate.open.set()
            assert await pool.options(block_timeout=30).run(int) == 0

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
                    await pool.options(block_timeout=0.001).run(int)
                now = pool.snapshot()
                assert (now.waiting, now.blocked, now.cancelled) == (2, 1, 0)
            assert pool._task_dispatcher.queue.tombstones == 0
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


# -- what comes out of the await ----------------------------------------------------------------------------------


class Stop(StopIteration):
    """One that asyncio does not know by its type."""


class Sealed(Exception):
    """One whose attributes cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Sealed
        raise RuntimeError(f"{name} is sealed")


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [StopIteration(7), Stop(), asyncio.CancelledError("of its own loop")])
def test_what_means_something_else_to_a_coroutine_is_a_runtime_error_from_it(error: BaseException) -> None:
    async def main() -> None:
        with Pool(1) as pool, pytest.raises(RuntimeError) as caught:
            await pool.run(raising(error))
        assert caught.value.__cause__ is error

    run(main())


@pytest.mark.parametrize(
    "kind",
    [
        StopAsyncIteration,
        GeneratorExit,
        Cancelled,
        concurrent.futures.CancelledError,
        concurrent.futures.InvalidStateError,
        asyncio.InvalidStateError,
        TimeoutError,
        Sealed,
    ],
)
def test_whatever_else_a_task_raises_is_raised_as_it_is(kind: type[BaseException]) -> None:
    async def main() -> None:
        error = kind()
        with Pool(1) as pool, pytest.raises(kind) as caught:
            await pool.run(raising(error))
        assert caught.value is error

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_the_loop_that_awaits_it(kind: type[BaseException]) -> None:
    error = kind()
    with Pool(1) as pool:
        with pytest.raises(kind) as caught:
            asyncio.run(pool.run(raising(error)))
        assert caught.value is error


def test_what_is_raised_is_not_part_of_a_cycle() -> None:
    async def main() -> weakref.ref[BaseException]:
        class Failure(Exception):
            pass

        def fail() -> None:
            raise Failure

        try:
            await pool.run(fail)
        except Failure as error:
            return weakref.ref(error)
        raise AssertionError("it did not fail")

    with Pool(1) as pool:
        gc.disable()
        try:
            died = asyncio.run(main())
            for _ in range(3):  # the worker lets go of a task when it takes another
                pool.submit(int).result(30)
            assert died() is None
        finally:
            gc.enable()


async def in_a_group(awaited: Coroutine[Any, Any, Any], meanwhile: Callable[[], object]) -> BaseException:
    """Await in an asyncio.TaskGroup, which says nothing of a task that it takes for cancelled; return what it says."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(awaited)
            await asyncio.sleep(0)
            meanwhile()
    except BaseExceptionGroup as errors:
        (error,) = errors.exceptions
        return error
    raise AssertionError(f"the group noticed nothing: {task!r}")


def test_a_task_that_its_pool_drops_has_failed_and_was_not_cancelled() -> None:
    async def main() -> None:
        pool = Pool(1, queue_size=1, when_full="discard_oldest")
        gate = Gate(pool)
        assert isinstance(await in_a_group(pool.run(int), lambda: pool.submit(int)), Shed)
        closed = await in_a_group(pool.run(int), lambda: pool.shutdown(wait=False, cancel_futures=True))
        assert isinstance(closed, PoolClosed)
        gate.open.set()
        pool.shutdown()

    run(main())


def test_a_task_whose_pool_broke_has_failed() -> None:
    entered, broken = threading.Event(), threading.Event()

    def initialize() -> None:
        entered.set()
        assert broken.wait(30)
        raise LookupError

    async def main() -> None:
        with Pool(1, initializer=initialize) as pool:
            pool.submit(int)
            assert entered.wait(30)
            assert isinstance(await in_a_group(pool.run(int), broken.set), PoolBroken)

    run(main())


def test_a_task_that_somebody_else_cancels_or_stops_has_failed() -> None:
    """Whoever shuts a pool down is given its futures."""

    def wait() -> None:
        began.set()
        treadle.sleep(30)

    def stop(pool: Pool) -> None:
        assert began.wait(30)
        for future in pool.shutdown(wait=False):
            future.request_cancel()

    async def main() -> None:
        pool = Pool(1)
        gate = Gate(pool)
        error = await in_a_group(pool.run(int), lambda: [left.cancel() for left in pool.shutdown(wait=False)])
        assert type(error) is concurrent.futures.CancelledError
        gate.open.set()
        pool.shutdown()
        pool = Pool(1)
        assert isinstance(await in_a_group(pool.run(wait), lambda: stop(pool)), Cancelled)
        pool.shutdown()

    began = threading.Event()
    run(main())


def test_a_task_that_raises_the_cancelled_error_of_another_has_failed() -> None:
    async def main() -> None:
        cancelled: Future[int] = Future()
        cancelled.cancel()
        with Pool(1) as pool:
            error = await in_a_group(pool.run(cancelled.result), int)
        assert type(error) is concurrent.futures.CancelledError

    run(main())


def test_cancelling_the_await_asks_a_running_task_to_stop() -> None:
    began, stopped = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        try:
            treadle.sleep(30)
        except Cancelled:
            stopped.set()
            raise

    async def main() -> None:
        with Pool(1) as pool:
            call = asyncio.ensure_future(pool.run(work))
            await until(began.is_set)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert stopped.wait(30)

    run(main())


def test_a_task_that_outlives_the_loop_of_its_await_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        gate = Gate(pool)

        async def main() -> None:
            call = asyncio.ensure_future(pool.run(int))
            await asyncio.sleep(0)
            calls.append(call)

        calls: list[asyncio.Future[int]] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        gate.open.set()
        assert pool.submit(int).result(30) == 0
        calls[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # it is never to be done, on purpose
    assert not caplog.records


# -- the end ------------------------------------------------------------------------------------------------------


def test_leaving_the_block_drains_without_blocking_the_loop() -> None:
    """The task that the pool waits for ends when the loop lets it."""

    async def main() -> None:
        async with Pool(1) as pool:
            gate = Gate(pool)
            last = pool.submit(abs, -3)
            asyncio.get_running_loop().call_soon(gate.open.set)
        assert last.result(0) == 3
        assert pool.snapshot().closed
        assert pool.snapshot().threads == 0
        with pytest.raises(PoolClosed):
            await pool.__aenter__()

    run(main())


def test_leaving_the_block_does_not_use_the_executor_of_the_loop_which_may_be_this_pool() -> None:
    async def main() -> None:
        async with Pool(1) as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            assert await asyncio.to_thread(abs, -1) == 1
        assert pool.snapshot().threads == 0

    run(main())


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError])
def test_a_block_that_raises_or_is_cancelled_drains(error: type[BaseException]) -> None:
    async def main(pool: Pool) -> Future[int]:
        gate = Gate(pool)
        last = pool.submit(abs, -3)
        try:
            async with pool:
                asyncio.get_running_loop().call_soon(gate.open.set)
                raise error
        except error:
            return last

    assert asyncio.run(main(Pool(1))).result(0) == 3


def test_a_block_that_ctrl_c_ended_cancels_what_waits_and_does_not_wait_for_what_runs() -> None:
    async def main() -> None:
        pool = Pool(1)
        gate = Gate(pool)
        last = pool.submit(abs, -3)
        await pool.__aexit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert last.cancelled()
        assert pool.snapshot().busy == 1
        gate.open.set()
        pool.shutdown()

    run(main())


def test_cancelling_aclose_leaves_the_pool_closing() -> None:
    async def main() -> None:
        pool = Pool(1)
        gate = Gate(pool)
        last = pool.submit(abs, -3)
        closing = asyncio.ensure_future(pool.aclose())
        await until(lambda: pool.snapshot().closed)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not last.done()
        gate.open.set()
        assert await pool.aclose() == ()
        assert last.result(0) == 3

    run(main())


def test_aclose_takes_the_arguments_of_shutdown_and_returns_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pool = Pool(1)
        gate = Gate(pool)
        last = pool.submit(abs, -3)
        for wrong in ("soon", float("nan")):
            with pytest.raises((TypeError, ValueError), match="timeout="):
                await pool.aclose(timeout=wrong)  # type: ignore[arg-type]  # that is the point
        assert not pool.snapshot().closed
        (held,) = await pool.aclose(cancel_futures=True, timeout=0.01)
        assert re.search("(1 task was|2 tasks were) not done 0.01 s after shutdown", caplog.text)
        assert last.cancelled()
        gate.open.set()
        assert await pool.aclose() == ()
        assert held.done()

    run(main())


def test_a_task_that_closes_its_own_pool_does_not_wait_for_itself() -> None:
    async def close() -> tuple[Future[Any], ...]:
        return await pool.aclose()

    pool = Pool(1)
    closing = pool.submit(lambda: asyncio.run(close()))
    assert closing.result(30) == (closing,)
    pool.shutdown()


def test_closing_raises_what_a_shutdown_of_ones_own_raises() -> None:
    class Fussy(Pool):
        def shutdown(self, *args: Any, **kwargs: Any) -> Any:
            super().shutdown(*args, **kwargs)
            raise StopIteration

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await Fussy(1).aclose()
        assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


def test_closing_calls_a_shutdown_of_ones_own_with_no_more_than_is_asked_for() -> None:
    """It may be older than the keywords, which came with Python 3.9."""

    class Old(Pool):
        def shutdown(self, wait: bool = False) -> Any:  # type: ignore[override]  # that is the point
            self.waited = wait
            return super().shutdown(wait)

    async def main() -> None:
        async with Old(1) as pool:
            pass
        assert pool.waited

    run(main())
    with Old(1) as pool:
        pass
    assert pool.waited


def test_what_a_task_of_the_pool_awaits_waits_for_room_as_well() -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(pool.run(abs, -number) for number in range(5)))

    with Pool(2, queue_size=0) as pool:
        assert pool.submit(lambda: asyncio.run(main())).result(30) == list(range(5))

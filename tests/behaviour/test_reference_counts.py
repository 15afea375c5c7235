"""What a program lets go of is gone at once: treadle makes no cycles, which only the garbage collector would find.

As in the standard library's pool: there too an exception's traceback is kept from leading back to what keeps it. What
the frames of the user's own functions hold, they hold.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import treadle
from treadle import Channel, Crew, Pipeline, Pool, Rate, TaskGroup
from treadle._base.timer import TimerHandle
from treadle.events import Observer

PATIENCE = 10.0  # seconds for threads to end


class Marker:
    """Is to go when nobody has it any more: an argument, a result, what a function holds."""

    def __init__(self, *_: object) -> None:
        living.add(self)


class Fault(Exception):
    """Likewise, what a task raises."""

    def __init__(self, *_: object) -> None:
        living.add(self)


class Ending(BaseException):
    """Likewise, what would end a thread."""

    def __init__(self, *_: object) -> None:
        living.add(self)


living: weakref.WeakSet[object] = weakref.WeakSet()


def fail(*_: object) -> None:
    marker = Marker()
    raise Fault(marker)


def end(*_: object) -> None:
    raise Ending


def give(marker: object) -> object:
    return marker


def hold(gate: threading.Event, began: threading.Event) -> None:
    began.set()
    assert gate.wait(30)


class Held:
    """A pool whose only thread is busy until the block is left."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.gate, self.began = threading.Event(), threading.Event()

    def __enter__(self) -> Pool:
        self.pool.submit(hold, self.gate, self.began)
        assert self.began.wait(30)
        return self.pool

    def __exit__(self, *_: object) -> None:
        self.gate.set()


SCENARIOS: list[Callable[[], object]] = []


def scenario(function: Callable[[], object]) -> Callable[[], object]:
    SCENARIOS.append(function)
    return function


@scenario
def task_that_fails() -> None:
    with Pool(1) as pool:
        assert type(pool.submit(fail, Marker()).exception(30)) is Fault


@scenario
def task_that_fails_in_a_pool_that_is_dropped() -> None:
    Pool(1).submit(fail, Marker()).exception(30)


@scenario
def result_that_is_raised() -> None:
    with Pool(1) as pool, suppress(Fault):
        pool.submit(fail, Marker()).result(30)


@scenario
def task_that_returns() -> None:
    with Pool(1) as pool:
        pool.submit(give, Marker()).result(30)


@scenario
def task_under_a_deadline_that_fails() -> None:
    with Pool(1) as pool, treadle.deadline(600), suppress(Fault):
        pool.submit(fail, Marker()).result(30)


@scenario
def task_past_its_deadline() -> None:
    with Pool(1) as pool, suppress(treadle.errors.DeadlineExceeded):
        pool.options(deadline=0.01).submit(give, Marker()).result(30)
        pool.options(deadline=0.01).submit(treadle.sleep, 600).result(30)


@scenario
def task_at_a_rate_that_fails() -> None:
    with Pool(1, rate=Rate(1000)) as pool:
        for _ in range(3):
            pool.submit(fail, Marker()).exception(30)


def busy(**options: Any) -> Held:
    pool = Pool(1, queue_size=1, **options)
    held = Held(pool)
    held.__enter__()
    pool.submit(int)
    return held


@scenario
def task_that_its_caller_runs() -> None:
    held = busy(when_full="caller_runs")
    assert type(held.pool.submit(fail, Marker()).exception(30)) is Fault
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_that_its_caller_runs_and_that_is_no_function_of_pythons() -> None:
    held = busy(when_full="caller_runs")
    assert type(held.pool.submit(divmod, 1, 0).exception(30)) is ZeroDivisionError
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_with_a_deadline_that_its_caller_runs() -> None:
    held = busy(when_full="caller_runs")
    assert type(held.pool.options(deadline=600).submit(fail, Marker()).exception(30)) is Fault
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_of_an_observed_pool_that_its_caller_runs() -> None:
    held = busy(when_full="caller_runs", observers=[Observer()])
    assert type(held.pool.submit(fail, Marker()).exception(30)) is Fault
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_that_is_refused() -> None:
    held = busy(when_full="reject")
    with suppress(treadle.errors.PoolFull):
        held.pool.submit(give, Marker())
    with suppress(treadle.errors.PoolFull):
        held.pool.options(deadline=600).submit(give, Marker())
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_that_finds_no_room_in_time() -> None:
    held = busy(when_full="block")
    with suppress(treadle.errors.PoolFull):
        held.pool.options(block_timeout=0.01).submit(give, Marker())
    with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
        held.pool.submit(give, Marker())
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_that_is_discarded() -> None:
    held = busy(when_full="discard_oldest")
    held.pool.submit(give, Marker())
    held.pool.submit(give, Marker())
    held.gate.set()
    held.pool.shutdown()


@scenario
def task_that_is_cancelled() -> None:
    with Held(Pool(1)) as pool:
        future = pool.submit(give, Marker())
        future.cancel()
        with suppress(concurrent.futures.CancelledError):
            future.result(30)
    pool.shutdown()


def nested() -> None:
    pool = treadle.current_pool()
    assert pool is not None
    assert type(pool.submit(fail, Marker()).exception(30)) is Fault


@scenario
def task_that_a_task_waits_for() -> None:
    with Pool(1) as pool:
        pool.submit(nested).result(30)


def nested_with_result() -> None:
    pool = treadle.current_pool()
    assert pool is not None
    with suppress(Fault):
        pool.submit(fail, Marker()).result(30)


@scenario
def task_whose_result_a_task_asks_for() -> None:
    with Pool(1) as pool:
        pool.submit(nested_with_result).result(30)


def nested_under_a_deadline() -> None:
    with treadle.deadline(600):
        nested()


@scenario
def task_under_a_deadline_that_a_task_waits_for() -> None:
    with Pool(1) as pool:
        pool.submit(nested_under_a_deadline).result(30)


def give_what_failed(ask: Callable[[Any], object]) -> object:
    return ask(treadle.current_pool().submit(fail, Marker()))  # type: ignore[union-attr]


def asked(futures: Any) -> object:
    try:
        return futures
    finally:
        futures.exception(30)
        del futures


@scenario
def task_that_returns_one_that_failed_in_it() -> None:
    with Pool(1) as pool:
        pool.submit(give_what_failed, asked).result(30)


@scenario
def task_under_a_deadline_that_returns_one_that_failed_in_it() -> None:
    with Pool(1) as pool, treadle.deadline(600):
        pool.submit(give_what_failed, asked).result(30)


@scenario
def item_of_a_map_that_is_one_that_failed_in_it() -> None:
    with Pool(1) as pool:
        for _ in pool.map(give_what_failed, [asked, asked]):
            pass


@scenario
def item_that_a_worker_runs_for_itself() -> None:
    with Pool(1) as pool:
        pool.submit(lambda: deque(treadle.current_pool().map(give_what_failed, [asked, asked]), 0)).result(30)  # type: ignore[union-attr]


def wait_for_those_that_fail(wait: Callable[[Any], object]) -> None:
    pool = treadle.current_pool()
    assert pool is not None
    wait([pool.submit(fail, Marker()) for _ in range(3)])


def take_as_completed(futures: Any) -> None:
    completed = treadle.as_completed(futures)
    del futures
    deque(completed, 0)


@scenario
def tasks_that_a_task_waits_for_with_wait() -> None:
    with Pool(1) as pool:
        pool.submit(wait_for_those_that_fail, treadle.wait).result(30)
        pool.submit(wait_for_those_that_fail, take_as_completed).result(30)
        with treadle.deadline(600):
            pool.submit(wait_for_those_that_fail, treadle.wait).result(30)


@scenario
def tasks_that_are_waited_for_with_wait() -> None:
    with Pool(2) as pool:
        treadle.wait([pool.submit(fail, Marker()) for _ in range(3)])
        for _ in treadle.as_completed([pool.submit(fail, Marker()) for _ in range(3)]):
            pass
        with treadle.deadline(600):
            treadle.wait([pool.submit(fail, Marker()) for _ in range(3)])
            for _ in treadle.as_completed([pool.submit(fail, Marker()) for _ in range(3)]):
                pass


@scenario
def task_that_is_run_so_that_a_wait_may_end() -> None:
    with Pool(1) as one, Pool(1) as other:
        one.submit(lambda: other.submit(lambda: one.submit(fail, Marker()).exception() and None).result()).result(30)


@scenario
def group() -> None:
    with Pool(2) as pool, TaskGroup(pool) as tasks:
        tasks.submit(give, Marker())


@scenario
def group_whose_task_fails() -> None:
    with Pool(2) as pool, suppress(BaseException), TaskGroup(pool) as tasks:
        tasks.submit(fail, Marker())
        tasks.submit(treadle.sleep, 600)


@scenario
def group_whose_block_fails() -> None:
    with Pool(2) as pool, suppress(BaseException), TaskGroup(pool) as tasks:
        tasks.submit(treadle.sleep, 600)
        raise Fault


@scenario
def group_that_is_cancelled() -> None:
    with Pool(2) as pool, TaskGroup(pool) as tasks:
        tasks.submit(treadle.sleep, 600)
        tasks.cancel()


@scenario
def group_that_is_never_entered() -> None:
    with Pool(2) as pool:
        TaskGroup(pool)


@scenario
def group_with_outcomes() -> None:
    with Pool(2) as pool:
        with TaskGroup(pool, keep_going=True) as tasks:
            tasks.submit(fail, Marker())
        assert [type(outcome.error) for outcome in tasks.outcomes] == [Fault]


@scenario
def group_in_a_task() -> None:
    with Pool(1) as pool:
        pool.submit(run_group).exception(30)


def run_group() -> None:
    with TaskGroup(treadle.current_pool()) as tasks:  # type: ignore[arg-type]
        tasks.submit(fail, Marker())


def run_until_told(began: threading.Event) -> None:
    began.set()
    while True:
        treadle.checkpoint()


def sleep_until_told(began: threading.Event) -> None:
    began.set()
    treadle.sleep(600)


@scenario
def task_that_is_asked_to_stop() -> None:
    with Pool(1) as pool:
        for function in (run_until_told, sleep_until_told):
            began = threading.Event()
            future = pool.submit(function, began)
            assert began.wait(30)
            future.request_cancel()
            assert type(future.exception(30)) is treadle.errors.Cancelled


@scenario
def maps() -> None:
    with Pool(2) as pool:
        for each in (pool.map, pool.options(rate=Rate(10000)).map):
            assert len(list(each(give, [Marker(), Marker()]))) == 2


@scenario
def maps_whose_function_fails() -> None:
    with Pool(2) as pool:
        for each in (pool.map, pool.options(rate=Rate(10000)).map):
            with suppress(Fault):
                list(each(fail, [Marker(), Marker()]))
            results = each(fail, [Marker(), Marker()], ordered=False)
            for _ in range(2):
                with suppress(Fault):
                    next(results)


@scenario
def outcomes() -> None:
    with Pool(2) as pool:
        for each in (pool.outcomes, pool.options(rate=Rate(10000)).outcomes):
            assert [type(outcome.error) for outcome in each(fail, [Marker(), Marker()])] == [Fault, Fault]


def input_that_fails() -> Iterator[object]:
    yield Marker()
    raise Fault


@scenario
def maps_whose_input_fails() -> None:
    with Pool(2) as pool:
        for each in (pool.map, pool.options(rate=Rate(10000)).map):
            with suppress(Fault):
                list(each(give, input_that_fails()))


@scenario
def maps_that_are_dropped_or_closed() -> None:
    with Pool(2) as pool:
        for each in (pool.map, pool.options(rate=Rate(10000)).map):
            each(fail, [Marker(), Marker()])
            next(each(give, [Marker(), Marker()]))
            each(fail, iter(Marker, None), buffersize=2).close()


@scenario
def map_that_is_not_there_in_time() -> None:
    with Pool(2) as pool:
        for each in (pool.map, pool.options(rate=Rate(10000)).map):
            with suppress(concurrent.futures.TimeoutError):
                list(each(time.sleep, [0.1], timeout=0.01))
            with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
                list(each(treadle.sleep, [600]))


@scenario
def map_of_a_closed_pool() -> None:
    with Pool(2) as pool:
        results = pool.map(give, iter(Marker, None), buffersize=2)
        next(results)
    with suppress(treadle.errors.PoolClosed, concurrent.futures.CancelledError):
        list(results)


@scenario
def run() -> None:
    async def main() -> None:
        async with Pool(1) as pool:
            await pool.run(give, Marker())
            with suppress(Fault):
                await pool.run(fail, Marker())
            with suppress(TimeoutError):
                await asyncio.wait_for(pool.run(treadle.sleep, 600), 0.01)

    asyncio.run(main())


@scenario
def channel() -> None:
    numbers: Channel[object] = Channel(1)
    with suppress(treadle.errors.ChannelEmpty):
        numbers.get_nowait()
    numbers.put(Marker())
    with suppress(treadle.errors.ChannelFull):
        numbers.put_nowait(Marker())
    with suppress(treadle.errors.ChannelFull):
        numbers.put(Marker(), 0.01)
    with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
        numbers.put(Marker())
    numbers.get()
    with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
        numbers.get()
    numbers.close()
    with suppress(treadle.errors.ChannelClosed):
        numbers.put(Marker())
    with suppress(treadle.errors.ChannelClosed):
        numbers.get()


@scenario
def crew() -> None:
    with Crew(give, 2) as hands:
        hands.put(Marker())


@scenario
def crew_whose_handler_fails() -> None:
    with Crew(fail, 2) as hands:
        hands.put(Marker())
    with Crew(fail, 2, on_error=lambda item, error: None) as hands:
        hands.put(Marker())


@scenario
def pipeline() -> None:
    for ordered in (True, False):
        assert len(list(Pipeline().stage(give).stage(give, workers=2).run([Marker()], ordered=ordered))) == 1


@scenario
def pipeline_that_fails() -> None:
    for ordered in (True, False):
        with suppress(Fault):
            list(Pipeline().stage(give).stage(fail, workers=2).run([Marker()], ordered=ordered))
        with suppress(Fault):
            list(Pipeline().stage(give).run(input_that_fails(), ordered=ordered))


@scenario
def pipeline_that_is_closed() -> None:
    for ordered in (True, False):
        results = Pipeline().stage(give).run(iter(Marker, None), ordered=ordered)
        next(results)
        results.close()


@scenario
def pipeline_past_its_deadline() -> None:
    for ordered in (True, False):
        with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
            list(Pipeline().stage(treadle.sleep).run([0, 600], ordered=ordered))


@scenario
def block_that_fails() -> None:
    with suppress(Fault), Pool(1) as pool:
        pool.submit(give, Marker())
        raise Fault


@scenario
def initializer_that_fails() -> None:
    with suppress(treadle.errors.PoolBroken), Pool(1, initializer=fail, initargs=(Marker(),)) as pool:
        pool.submit(give, Marker()).exception(30)
        pool.submit(give, Marker())


class Bad(treadle.orders.Fifo):
    """An order that fails."""

    def take(self) -> Any:
        super().take()
        raise Fault


@scenario
def order_that_fails() -> None:
    with suppress(treadle.errors.PoolBroken), Pool(1, order=Bad()) as pool:
        pool.submit(give, Marker()).exception(30)
        pool.submit(give, Marker())


@scenario
def closed_pool() -> None:
    with Held(Pool(1)) as pool:
        future = pool.submit(give, Marker())
        pool.shutdown(wait=False, cancel_futures=True)
        with suppress(concurrent.futures.CancelledError):
            future.result(30)
        with suppress(treadle.errors.PoolClosed):
            pool.submit(give, Marker())
        with suppress(treadle.errors.PoolClosed):
            pool.options(deadline=600).submit(give, Marker())
    pool.shutdown()


@scenario
def callbacks_that_raise() -> None:
    for what in (fail, end):
        held = Held(Pool(1))
        with held as pool:
            future = pool.submit(give, Marker())
            future.add_done_callback(what)
            future.add_done_callback(what)
        with suppress(Ending):
            future.result(30)
        held.pool.shutdown()
        by_hand: treadle.Future[None] = treadle.Future()
        by_hand.add_done_callback(what)
        with suppress(Ending):
            by_hand.set_result(None)
        with suppress(Ending):
            by_hand.add_done_callback(what)


@scenario
def callbacks_of_what_is_given_up() -> None:
    for what in (fail, end):
        held = busy(when_full="discard_oldest")
        future = held.pool.submit(give, Marker())
        future.add_done_callback(what)
        with suppress(Ending):
            held.pool.submit(give, Marker())
        future = held.pool.submit(give, Marker())
        future.add_done_callback(what)
        with suppress(Ending):
            future.cancel()
        future = held.pool.submit(give, Marker())
        future.add_done_callback(what)
        with suppress(Ending):
            held.pool.shutdown(wait=False, cancel_futures=True)
        held.gate.set()
        held.pool.shutdown()


class Rude(Observer):
    """An observer that would end a thread."""

    def submitted(self, event: object) -> None:
        raise Ending


@scenario
def observers_that_raise() -> None:
    with Pool(1, observers=[Rude()]) as pool, suppress(Ending):
        pool.submit(give, Marker())


@scenario
def exception_of_a_future_made_by_hand() -> None:
    future: treadle.Future[None] = treadle.Future()
    with suppress(concurrent.futures.TimeoutError):
        future.result(0.01)
    with treadle.deadline(0.01), suppress(treadle.errors.DeadlineExceeded):
        future.result()
    future.set_exception(Fault())
    assert type(future.exception()) is Fault


@scenario
def lifespan_that_fails() -> None:
    lifespan: Any = fail
    with suppress(treadle.errors.PoolBroken), Pool(1, thread_lifespan=lifespan) as pool:
        pool.submit(give, Marker()).exception(30)


def treadles() -> list[str]:
    """Return what there is of treadle's objects, but for cancelled timers: a few are kept, and keep nothing."""
    things = [thing for thing in gc.get_objects() if is_treadles(type(thing))]
    return [f"{type(each).__name__} {id(each):#x}" for each in things if type(each) is not TimerHandle or each.is_due]


def is_treadles(kind: type) -> bool:
    return any(str(base.__module__).split(".")[0] == "treadle" for base in type.mro(kind))


@pytest.mark.parametrize("work", SCENARIOS, ids=lambda work: work.__name__)
def test_nothing_is_left_to_the_garbage_collector(work: Callable[[], object]) -> None:
    logging.disable()
    work()  # what is made once, and stays
    gc.collect()
    before = set(treadles())
    gc.disable()
    try:
        work()
        left: list[object] = [""]
        tick, deadline = threading.Event(), time.monotonic() + PATIENCE
        while left and time.monotonic() < deadline:  # threads may be about to end
            tick.wait(0.001)
            left = [*living, *(set(treadles()) - before)]
        assert not left
    finally:
        gc.enable()
        logging.disable(0)


@pytest.mark.parametrize("when_full", ["reject", "discard_oldest"])
@pytest.mark.parametrize("order", ["fifo", "priority", "fair", "adaptive"])
def test_no_cancelled_task_is_let_go_of_with_the_lock_held(order: treadle.orders.OrderName, when_full: Any) -> None:
    """What a user has a weak reference call, as a future goes, may wait for another thread that wants the lock."""
    told: list[bool] = []
    references: list[weakref.ref[object]] = []
    pool = Pool(1, order=order, queue_size=80, when_full=when_full)

    def cancel(number: int) -> None:
        for _ in range(number):
            future = pool.submit(int)
            references.append(weakref.ref(future, lambda _: told.append(pool._task_dispatcher.lock._is_owned())))  # type: ignore[attr-defined]
            future.cancel()

    with Held(pool):
        cancel(75)  # many enough to be purged
        cancel(30)
        for _ in range(100):  # until there is no room, but for theirs
            with suppress(treadle.errors.PoolFull):
                pool.submit(int)
        cancel(0 if when_full == "reject" else 3)
        pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()
    gc.collect()  # without the GIL an object may be let go of by its maker only
    assert told == [False] * len(references)

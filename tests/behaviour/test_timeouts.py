"""Every way in takes the same time-outs, and says the same of what is none.

What the standard library takes, treadle takes: a negative number has no time left, and True is a second. More than can
be waited for, infinity too, is no limit. All else is refused in words, before anything is done.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from queue import Empty
from typing import Any

import pytest

import treadle
from treadle import Channel, Crew, Future, Pool, Rate
from treadle._base import clock
from treadle.errors import ChannelEmpty, ChannelFull, PoolFull

PATIENCE = 30.0

UP = [0, -0.0, 1e-9, Fraction(1, 10**9)]
PAST = [-1, -1e-9, -1e308, -math.inf, -(10**400), False]
LONG = [
    None,
    1e6,
    1e10,
    1e30,
    1e308,
    math.inf,
    10**400,
    threading.TIMEOUT_MAX,
    math.nextafter(threading.TIMEOUT_MAX, 0),
]
BAD = [math.nan, "1", "x", b"1", object(), 1j, [1], Decimal("0.1"), Decimal("nan")]


def id_of(value: object) -> str:
    text = f"{type(value).__name__}:{value}"
    return text[:20].split(" object")[0]


@dataclass
class Way:
    """One way to wait for what has not come, and how to look at it."""

    call: Callable[[Any], object]
    waits: Callable[[], object]  # whether it sleeps; or is about to, and does nothing more before
    come: Callable[[], object]  # end the wait
    late: type[Exception] | None  # what is raised when time is up; None: it returns
    untouched: Callable[[], object] = lambda: True  # whether nothing was done yet
    is_new: bool = False  # whether the standard library has no such wait: then a negative number is a mistake


class Busy:
    """A pool whose only thread runs a task until it is let go."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.gate = threading.Event()
        self.pool = stack.enter_context(Pool(1, **options))
        stack.callback(self.gate.set)
        began = threading.Event()

        def run() -> None:
            began.set()
            self.gate.wait(PATIENCE)

        self.pool.submit(run)
        assert began.wait(PATIENCE)


def result_of_one_made_by_hand(stack: ExitStack) -> Way:
    future: Future[int] = Future()
    waiters: Any = future._condition
    return Way(future.result, lambda: waiters._waiters, lambda: future.set_result(1), TimeoutError)


def exception_of_one_made_by_hand(stack: ExitStack) -> Way:
    future: Future[int] = Future()
    waiters: Any = future._condition
    return Way(future.exception, lambda: waiters._waiters, lambda: future.set_result(1), TimeoutError)


def result_of_a_task(stack: ExitStack) -> Way:
    busy = Busy(stack)
    future = busy.pool.submit(abs, -1)
    waits = lambda: future._awaited_by is not None and future._awaited_by.latches  # noqa: E731
    return Way(future.result, waits, busy.gate.set, TimeoutError, lambda: future._awaited_by is None)


def under_a_deadline(way: Way) -> Way:
    """Return the same wait within a deadline that is far away."""

    def call(timeout: Any) -> object:
        with treadle.deadline(math.inf if timeout is None else 1e6):
            return inner(timeout)

    inner, way.call = way.call, call
    return way


def result_under_a_deadline(stack: ExitStack) -> Way:
    return under_a_deadline(result_of_a_task(stack))


def wait(stack: ExitStack) -> Way:
    future: Future[int] = Future()
    return Way(
        lambda timeout: treadle.wait([future], timeout), lambda: future._waiters, lambda: future.set_result(1), None
    )


def wait_under_a_deadline(stack: ExitStack) -> Way:
    return under_a_deadline(wait(stack))


def as_completed(stack: ExitStack) -> Way:
    future: Future[int] = Future()
    call = lambda timeout: list(treadle.as_completed([future], timeout))  # noqa: E731
    return Way(call, lambda: future._waiters, lambda: future.set_result(1), TimeoutError)


def mapped(stack: ExitStack, **options: Any) -> tuple[Busy, Iterator[int], Callable[[Any], list[int]]]:
    busy = Busy(stack)
    items = iter([-1, -2])
    return busy, items, lambda timeout: list(busy.pool.options(**options).map(abs, items, timeout=timeout))


def map_(stack: ExitStack) -> Way:
    busy, items, call = mapped(stack)
    left = lambda: busy.pool.snapshot().waiting == 0 and [*items] == [-1, -2]  # noqa: E731
    return Way(call, lambda: busy.pool.snapshot().waiting, busy.gate.set, TimeoutError, left)


def map_at_a_rate(stack: ExitStack) -> Way:
    busy, items, call = mapped(stack, rate=Rate(1e6))
    left = lambda: busy.pool.snapshot().waiting == 0 and [*items] == [-1, -2]  # noqa: E731
    return Way(call, lambda: busy.pool.snapshot().waiting, busy.gate.set, TimeoutError, left)


def shutdown(stack: ExitStack) -> Way:
    busy = Busy(stack)
    call = lambda timeout: busy.pool.shutdown(timeout=timeout)  # noqa: E731
    return Way(call, lambda: busy.pool.snapshot().closed, busy.gate.set, None, lambda: not busy.pool.snapshot().closed)


def aclose(stack: ExitStack) -> Way:
    busy = Busy(stack)
    call = lambda timeout: asyncio.run(busy.pool.aclose(timeout=timeout))  # noqa: E731
    return Way(call, lambda: busy.pool.snapshot().closed, busy.gate.set, None, lambda: not busy.pool.snapshot().closed)


def queue_of_a_pool(stack: ExitStack) -> Way:
    pool = Busy(stack).pool
    takers = pool._task_dispatcher.admission.takers
    call = lambda timeout: pool._work_queue.get(timeout=timeout)  # noqa: E731
    return Way(call, lambda: takers, lambda: pool.submit(abs, -1), Empty)


def room(stack: ExitStack) -> Way:
    busy = Busy(stack, queue_size=0)
    call = lambda timeout: busy.pool.options(block_timeout=timeout).submit(abs, -1)  # noqa: E731
    blocked = lambda: busy.pool.snapshot().blocked  # noqa: E731
    return Way(call, blocked, busy.gate.set, PoolFull, lambda: busy.pool.snapshot().submitted == 1, is_new=True)


def get(stack: ExitStack) -> Way:
    channel: Channel[int] = Channel()
    return Way(channel.get, lambda: channel._getters, lambda: channel.put(1), ChannelEmpty, is_new=True)


def put(stack: ExitStack) -> Way:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    return Way(lambda timeout: channel.put(2, timeout), lambda: channel._putters, channel.get, ChannelFull, is_new=True)


def crew_of(stack: ExitStack) -> tuple[Crew[int], threading.Event]:
    gate, began = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        began.set()
        gate.wait(PATIENCE)

    crew = stack.enter_context(Crew(handle, 1, channel=1))
    stack.callback(gate.set)
    crew.put(1)
    assert began.wait(PATIENCE)
    crew.put(2)
    return crew, gate


def put_to_a_crew(stack: ExitStack) -> Way:
    crew, gate = crew_of(stack)
    return Way(lambda timeout: crew.put(3, timeout), lambda: crew.channel._putters, gate.set, ChannelFull, is_new=True)


def join(stack: ExitStack) -> Way:
    crew, gate = crew_of(stack)
    crew.close()
    return Way(crew.join, lambda: crew.channel.closed, gate.set, None, is_new=True)


STANDARD = [
    result_of_one_made_by_hand,
    exception_of_one_made_by_hand,
    result_of_a_task,
    result_under_a_deadline,
    wait,
    wait_under_a_deadline,
    as_completed,
    map_,
    map_at_a_rate,
    shutdown,
    aclose,
    queue_of_a_pool,
]
NEW = [room, get, put, put_to_a_crew, join]
all_ways = pytest.mark.parametrize("way_of", [*STANDARD, *NEW], ids=lambda way: way.__name__)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def until(true: Callable[[], object]) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if true():
            return
        tick.wait(0.01)
    raise AssertionError("it has not come to that")


def outcome_of(way: Way, timeout: Any) -> object:
    """Return what the call returns, or raises."""
    try:
        return way.call(timeout)
    except Exception as error:
        return error


@all_ways
@pytest.mark.parametrize("timeout", UP, ids=id_of)
def test_time_is_up(stack: ExitStack, way_of: Callable[[ExitStack], Way], timeout: Any) -> None:
    way = way_of(stack)
    outcome = outcome_of(way, timeout)
    assert isinstance(outcome, Exception if way.late else object)
    assert way.late is None or isinstance(outcome, way.late)


@pytest.mark.parametrize("way_of", STANDARD, ids=lambda way: way.__name__)
@pytest.mark.parametrize("timeout", PAST, ids=id_of)
def test_no_time_is_left_where_the_standard_library_says_so(
    stack: ExitStack, way_of: Callable[[ExitStack], Way], timeout: Any
) -> None:
    test_time_is_up(stack, way_of, timeout)


@all_ways
@pytest.mark.parametrize("timeout", LONG, ids=id_of)
def test_it_waits_for_as_long_as_it_takes(stack: ExitStack, way_of: Callable[[ExitStack], Way], timeout: Any) -> None:
    way = way_of(stack)
    outcome: list[object] = []
    waiter = threading.Thread(target=lambda: outcome.append(outcome_of(way, timeout)), daemon=True)
    waiter.start()
    until(lambda: outcome or way.waits())
    assert not outcome
    way.come()
    waiter.join(PATIENCE)
    assert outcome
    assert not isinstance(outcome[0], Exception)


@all_ways
@pytest.mark.parametrize("timeout", BAD, ids=id_of)
def test_what_is_no_time_is_named_before_anything_is_done(
    stack: ExitStack, way_of: Callable[[ExitStack], Way], timeout: Any
) -> None:
    way = way_of(stack)
    with pytest.raises((TypeError, ValueError), match=r"timeout=.*; allowed: .*seconds.*, or None for no limit"):
        way.call(timeout)
    assert way.untouched()


@pytest.mark.parametrize("way_of", NEW, ids=lambda way: way.__name__)
@pytest.mark.parametrize("timeout", [*PAST, True], ids=id_of)
def test_a_negative_time_is_a_mistake_where_the_standard_library_has_no_such_wait(
    stack: ExitStack, way_of: Callable[[ExitStack], Way], timeout: Any
) -> None:
    test_what_is_no_time_is_named_before_anything_is_done(stack, way_of, timeout)


@pytest.mark.parametrize("timeout", BAD, ids=id_of)
def test_a_task_that_asks_for_another_with_such_a_time_does_not_run_it(stack: ExitStack, timeout: Any) -> None:
    pool = stack.enter_context(Pool(1))

    def ask() -> bool:
        inner = pool.submit(abs, -1)
        with pytest.raises((TypeError, ValueError), match="timeout="):
            inner.result(timeout)
        return inner.done()

    assert not pool.submit(ask).result(PATIENCE)


@pytest.mark.parametrize("timeout", BAD, ids=id_of)
def test_who_need_not_wait_need_not_say_how_long(timeout: Any) -> None:
    """As in the standard library, and because nothing is quicker than not to look."""
    future: Future[int] = Future()
    future.set_result(1)
    assert future.result(timeout) == 1
    assert future.exception(timeout) is None


@pytest.mark.parametrize("seconds", LONG[2:-1], ids=id_of)
def test_a_deadline_too_far_away_is_none(seconds: Any) -> None:
    with treadle.deadline(seconds):
        assert treadle.time_left() is None
    with treadle.deadline(5), treadle.deadline(seconds):
        left = treadle.time_left()
        assert left is not None
        assert left <= 5


@pytest.mark.parametrize("seconds", [*UP, *LONG], ids=id_of)
def test_threads_may_idle_for_any_time(seconds: Any) -> None:
    with Pool(1, idle_timeout=seconds) as pool:
        assert pool.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize("seconds", [*PAST, *BAD, True], ids=id_of)
def test_other_times_to_idle_are_named(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"idle_timeout=.*; allowed: .*seconds.*, or None"):
        Pool(1, idle_timeout=seconds)


@pytest.mark.parametrize("seconds", [1e10, 1e308, math.inf, 10**400], ids=id_of)
@pytest.mark.parametrize("deadline", [None, 1e6, math.inf])
def test_a_sleep_may_last_for_ever(seconds: Any, deadline: float | None) -> None:
    with Pool(1) as pool, ExitStack() as stack:
        if deadline is not None:
            stack.enter_context(treadle.deadline(deadline))
        sleeper = pool.submit(treadle.sleep, seconds)
        until(sleeper.running)
        assert sleeper.request_cancel()
        with pytest.raises(treadle.errors.Cancelled):
            sleeper.result(PATIENCE)


def test_a_sleep_outside_of_a_task_is_no_longer_than_the_clock_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(clock, "pause", slept.append)
    treadle.sleep(math.inf)
    assert slept == [threading.TIMEOUT_MAX]


@pytest.mark.parametrize("timeout", [0, -0.0, 1e-9, *PAST[:-2], False], ids=id_of)
def test_the_standard_library_says_so(timeout: Any) -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    for ask in (future.result, future.exception, lambda left: list(concurrent.futures.as_completed([future], left))):
        with pytest.raises(TimeoutError):
            ask(timeout)
    assert concurrent.futures.wait([future], timeout).not_done == {future}

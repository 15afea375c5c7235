"""Deadlines and cancellation across everything: who inherits them, who is told on time, and what is left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any

import pytest

import treadle
from behaviour.scripts import script
from clocks import LeapingClock
from treadle import Channel, Future, Pool, Rate, TaskGroup
from treadle._base import timer as alarm_module
from treadle._base.timer import TimerThread
from treadle._tasks import rate as rate_module
from treadle._tasks import scope as scope_module
from treadle._tasks import waiters as watchers_module
from treadle._tasks.scope import SCOPE, Scope, current
from treadle.errors import Cancelled, ChannelClosed, ChannelEmpty, DeadlineExceeded, PoolFull
from treadle.events import Observer, TaskEvent

PATIENCE = 30.0  # seconds for what must happen
LONG = 600.0  # seconds that no test waits for
SOON = 0.05  # seconds until a deadline that is to pass


@pytest.fixture(autouse=True)
def _alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test timers of its own, whose thread is gone when the test is."""
    made = TimerThread()
    monkeypatch.setattr(alarm_module, "LINGER", 0.0)
    for module in (alarm_module, rate_module, scope_module, watchers_module):
        monkeypatch.setattr(module, "TIMERS", made)
    yield
    made.call_at(0.0, int)  # so that its thread looks, and finds nothing more to do


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


def forgotten(future: Future[Any]) -> bool:
    """Return whether nobody waits for it any more; who opens the latches clears their list after that."""
    return future._get_waiters().latches == []


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells, such as another thread being asleep."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


class Doing(threading.Thread):
    """A thread that does one thing, in a copy of its maker's context, and gives what came of it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.context, self.function, self.args = copy_context(), function, args
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function, *self.args)
        except Exception as error:
            self.result = error

    def outcome(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "it did not end"
        return self.result


class Held:
    """A pool whose threads are all busy, with tasks without a deadline, until they are let go."""

    def __init__(self, threads: int = 1, **options: Any) -> None:
        self.pool, self.gate, began = Pool(threads, **options), threading.Event(), threading.Barrier(threads + 1)

        def hold() -> None:
            began.wait(PATIENCE)
            assert self.gate.wait(4 * PATIENCE)  # longer than any test waits for something else

        self.running = [self.pool.submit(hold) for _ in range(threads)]
        began.wait(PATIENCE)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.pool.shutdown()


def leap_when_watched(clock: LeapingClock, future: Future[Any]) -> None:
    """Let a deadline pass as soon as somebody waits for `future`."""

    def leap() -> None:
        until(lambda: future._awaited_by is not None)
        clock.leap(LONG)

    Doing(leap)


def pass_deadline_of(future: Future[Any]) -> None:
    """Have the timers' thread find that the deadline of a task has passed, however far it is."""
    scope: Scope = future._scope  # type: ignore[attr-defined]  # it was submitted under one
    alarm = alarm_module.TIMERS
    assert scope._timer is not None
    scope._timer.cancel()
    alarm.call_at(0.0, scope._expire)


def scope_here() -> Scope:
    scope = current()
    assert scope is not None
    return scope


def is_clean(scope: Scope) -> bool:
    return not scope.wakers and not scope._members


# -- who inherits ---------------------------------------------------------------------------------------------------


def left_inside(pool: Pool, kind: str) -> float | None:
    """Return what a task sees as its time left, that is submitted here in one of all ways."""
    if kind == "submit":
        return pool.submit(treadle.time_left).result(PATIENCE)
    if kind == "options":
        return pool.options(name="x", block_timeout=PATIENCE).submit(treadle.time_left).result(PATIENCE)
    if kind == "rate":
        return pool.options(rate=Rate(1e6)).submit(treadle.time_left).result(PATIENCE)
    if kind == "map":
        return next(iter(pool.map(lambda _: treadle.time_left(), [1])))
    if kind == "unordered map":
        return next(iter(pool.map(lambda _: treadle.time_left(), [1], ordered=False)))
    if kind == "rated map":
        return next(iter(pool.options(rate=Rate(1e6)).map(lambda _: treadle.time_left(), [1])))
    if kind == "run":
        return asyncio.run(pool.run(treadle.time_left))
    if kind == "group":
        with TaskGroup(pool) as group:
            future = group.submit(treadle.time_left)
        return future.result(0)
    assert kind == "nested"
    return pool.submit(lambda: pool.submit(treadle.time_left).result()).result(PATIENCE)


KINDS = ["submit", "options", "rate", "map", "unordered map", "rated map", "run", "group", "nested"]


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_submitted_in_the_block_has_its_deadline(kind: str, threads: int, context: bool) -> None:
    with Pool(threads, context=context) as pool:
        assert left_inside(pool, kind) is None
        with treadle.deadline(LONG):
            seen = left_inside(pool, kind)
            assert seen is not None
            assert LONG - PATIENCE < seen <= LONG
        assert left_inside(pool, kind) is None, "and what is submitted afterwards has not"


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_may_shorten_its_time_and_not_lengthen_it(kind: str) -> None:
    def task(seconds: float) -> float | None:
        with treadle.deadline(seconds):
            return left_inside(pool, kind)

    with Pool(4) as pool, treadle.deadline(LONG):
        shorter, longer = pool.submit(task, LONG / 2), pool.submit(task, LONG * 2)
        shorter_left, longer_left = shorter.result(PATIENCE), longer.result(PATIENCE)
        assert shorter_left is not None
        assert LONG / 2 - PATIENCE < shorter_left <= LONG / 2
        assert longer_left is not None
        assert LONG - PATIENCE < longer_left <= LONG


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "group"])
def test_under_a_deadline_that_has_passed_nothing_is_run(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    monkeypatch.setattr(treadle, "time_left", lambda: ran.append(1))
    with Pool(1) as pool:
        with treadle.deadline(0), pytest.raises(DeadlineExceeded):
            left_inside(pool, kind)
        assert pool.submit(abs, -3).result(PATIENCE) == 3
    assert ran == []


def test_under_a_deadline_that_has_passed_a_group_takes_nothing() -> None:
    refused: list[Exception] = []

    def block() -> None:
        with treadle.deadline(0), TaskGroup(pool) as group:
            try:
                group.submit(int)
            except DeadlineExceeded as error:
                refused.append(error)

    with Pool(1) as pool:
        with pytest.raises(DeadlineExceeded):
            block()
        assert len(refused) == 1
        assert pool.snapshot().submitted == 0


def test_a_chain_of_tasks_shares_one_deadline() -> None:
    """Each submits the next, and the last of them is as late as the first."""

    def link(number: int) -> list[float]:
        left = treadle.time_left()
        assert left is not None
        return [left, *(pool.submit(link, number - 1).result() if number else [])]

    with Pool(1) as pool, treadle.deadline(LONG):
        lefts = pool.submit(link, 20).result(PATIENCE)
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] > LONG - PATIENCE


def test_a_task_without_contexts_passes_its_deadline_on_when_it_submits(leaping: LeapingClock) -> None:
    began, late = threading.Event(), threading.Event()

    def outer() -> Any:
        began.set()
        assert late.wait(PATIENCE)
        with pytest.raises(DeadlineExceeded):
            treadle.sleep(PATIENCE)
        try:
            return pool.submit(int)
        except DeadlineExceeded as error:
            return error

    with Pool(2, context=False) as pool:
        returned: list[Any] = []
        with treadle.deadline(LONG):
            future = pool.submit(lambda: returned.append(outer()))
        assert began.wait(PATIENCE)
        leaping.leap(LONG)
        late.set()
        assert isinstance(future.exception(PATIENCE), DeadlineExceeded)
    assert isinstance(returned[0], DeadlineExceeded)


# -- failing on time ------------------------------------------------------------------------------------------------


def told_by(way: str, future: Future[Any]) -> BaseException | None:
    """Wait for `future` in one of all ways, and return what it failed with."""
    if way == "result":
        try:
            return future.result(PATIENCE)  # type: ignore[no-any-return]  # it does not return
        except DeadlineExceeded as error:
            return error
    if way == "exception":
        return future.exception(PATIENCE)
    if way == "callback":
        told = threading.Event()
        future.add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE)
    elif way == "concurrent.futures.wait":
        assert concurrent.futures.wait([future], PATIENCE).done == {future}
    elif way == "first exception":
        done = concurrent.futures.wait([future, Future()], PATIENCE, concurrent.futures.FIRST_EXCEPTION).done
        assert done == {future}
    elif way == "concurrent.futures.as_completed":
        assert list(concurrent.futures.as_completed([future], PATIENCE)) == [future]
    elif way == "treadle.wait":
        assert treadle.wait([future], PATIENCE).done == {future}
    elif way == "treadle.as_completed":
        assert list(treadle.as_completed([future], PATIENCE)) == [future]
    else:

        async def main() -> None:
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)

        asyncio.run(main())
    return future.exception(0)


WAYS = [
    "result",
    "exception",
    "callback",
    "concurrent.futures.wait",
    "first exception",
    "concurrent.futures.as_completed",
    "treadle.wait",
    "treadle.as_completed",
    "asyncio.wrap_future",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("begun", [True, False])
def test_whoever_waits_is_told_on_time_though_the_task_goes_on(way: str, begun: bool, leaping: LeapingClock) -> None:
    ran, gate, began = [], threading.Event(), threading.Event()

    def stubborn() -> None:
        began.set()
        assert gate.wait(PATIENCE)
        ran.append(1)

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(Pool(1)) if begun else stack.enter_context(Held()).pool
        stack.callback(gate.set)
        with treadle.deadline(LONG):
            future = pool.submit(stubborn)
        if begun:
            assert began.wait(PATIENCE)
        leap_when_watched(leaping, future)
        assert isinstance(told_by(way, future), DeadlineExceeded)
        assert future.done()
        assert not future.running()
        assert ran == []
        if begun:
            (worker,) = pool.snapshot().workers
            assert worker.task is not None
            assert worker.overdue > 0
    assert ran == ([1] if begun else [])
    assert isinstance(future.exception(0), DeadlineExceeded)
    until(partial(forgotten, future))
    assert future._waiters == []


@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_its_own_thread_waits_for_inside_another_pool_is_told_on_time(
    way: str, leaping: LeapingClock
) -> None:
    """The one that waits is a worker, with no deadline of its own."""
    with Held() as held, Pool(1) as pool:
        with treadle.deadline(LONG):
            future = held.pool.submit(int)
        leap_when_watched(leaping, future)
        assert isinstance(pool.submit(told_by, way, future).result(PATIENCE), DeadlineExceeded)


def test_the_await_of_run_ends_on_time_and_the_loop_goes_on(leaping: LeapingClock) -> None:
    gate, began = threading.Event(), threading.Event()

    def stubborn() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    async def main() -> str:
        with treadle.deadline(LONG):
            awaiting = asyncio.ensure_future(pool.run(stubborn))
            await asyncio.get_running_loop().run_in_executor(None, began.wait, PATIENCE)
            leaping.leap(LONG)
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(awaiting, PATIENCE)
        gate.set()
        assert await pool.run(abs, -3) == 3
        return "went on"

    with Pool(2) as pool:
        assert asyncio.run(main()) == "went on"


def test_the_await_of_run_that_waits_for_room_ends_on_time(leaping: LeapingClock) -> None:
    async def main() -> None:
        with treadle.deadline(LONG):
            awaiting = asyncio.ensure_future(held.pool.run(int))
            await asyncio.sleep(0)
            assert held.pool.snapshot().blocked == 1
            leaping.leap(LONG)
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(awaiting, PATIENCE)

    with Held(queue_size=0) as held:
        asyncio.run(main())
        assert held.pool.snapshot().blocked == 0


def test_cancelling_the_await_of_run_asks_the_task_to_stop() -> None:
    began, seen = threading.Event(), []

    def task() -> None:
        began.set()
        try:
            treadle.sleep(PATIENCE)
        except BaseException as error:
            seen.append(type(error))
            raise

    async def main() -> None:
        awaiting = asyncio.ensure_future(pool.run(task))
        await asyncio.get_running_loop().run_in_executor(None, began.wait, PATIENCE)
        awaiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting

    with Pool(1) as pool:
        asyncio.run(main())
    assert seen == [Cancelled]


def test_a_late_exception_is_logged_once_and_changes_nothing(
    leaping: LeapingClock, caplog: pytest.LogCaptureFixture
) -> None:
    gate, began = threading.Event(), threading.Event()

    def stubborn() -> None:
        began.set()
        assert gate.wait(PATIENCE)
        raise ValueError("much too late")

    with caplog.at_level(logging.ERROR), Pool(1) as pool:
        with treadle.deadline(LONG):
            future = pool.submit(stubborn)
        assert began.wait(PATIENCE)
        leaping.leap(LONG)
        assert isinstance(future.exception(PATIENCE), DeadlineExceeded)
        gate.set()
        pool.submit(int).result(PATIENCE)
    gc.collect()
    assert isinstance(future.exception(0), DeadlineExceeded)
    told = [record.getMessage() for record in caplog.records if "stubborn" in record.getMessage()]
    assert len(told) == 1  # beside what others have left to the garbage collector
    assert "failed after its deadline" in told[0]
    assert "much too late" in caplog.text


def test_waiting_items_of_a_map_fail_on_time_for_who_takes_them_outside_the_block() -> None:
    with Held() as held:
        with treadle.deadline(SOON):
            results = held.pool.map(abs, range(3))
        taker = Doing(next, results)
        taker.join(PATIENCE)
        on_time = not taker.is_alive()
        held.gate.set()
        assert isinstance(taker.outcome(), DeadlineExceeded)
        assert on_time
        results.close()


def test_an_item_of_a_map_that_runs_fails_on_time_and_its_thread_is_overdue() -> None:
    """The deadline is so near that the taker sleeps for it, and begins with the first item."""
    gate, began = threading.Event(), threading.Event()

    def item(_: int) -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Pool(1) as pool, contextlib.ExitStack() as stack:
        stack.callback(gate.set)
        with treadle.deadline(LONG):
            results: Any = pool.map(item, range(3))
        assert began.wait(PATIENCE)
        job = results._job
        job.scope.deadline = results._deadline = monotonic() + SOON
        assert isinstance(Doing(next, results).outcome(), DeadlineExceeded)
        (worker,) = pool.snapshot().workers
        assert worker.task is not None
        assert worker.overdue > 0


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("ordered", [True, False])
def test_no_item_of_a_map_is_begun_after_the_deadline(chunksize: int, ordered: bool, leaping: LeapingClock) -> None:
    ran: list[int] = []

    def task(number: int) -> None:
        ran.append(number)
        if number == 1:
            leaping.leap(LONG)

    with Pool(1) as pool:
        with treadle.deadline(LONG):
            results = pool.map(task, range(8), chunksize=chunksize, ordered=ordered)
            outcomes: list[Any] = []
            with pytest.raises(DeadlineExceeded):
                outcomes.extend(results)
    assert ran == [0, 1]


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_map_inside_its_own_pool_begins_no_item_when_there_is_no_point(how: str, leaping: LeapingClock) -> None:
    """The only thread runs the items itself, as it waits for them."""
    ran: list[int] = []
    gate = threading.Event()
    futures: list[Future[None]] = []

    def item(number: int) -> None:
        ran.append(number)
        if number == 2:
            if how == "cancel":
                futures[0].request_cancel()
            else:
                leaping.leap(LONG)

    def task() -> None:
        for _ in pool.map(item, range(8)):
            pass

    with Pool(1) as pool:
        pool.submit(gate.wait, PATIENCE)
        with treadle.deadline(LONG):
            futures.append(pool.submit(task))
        gate.set()
        assert isinstance(futures[0].exception(PATIENCE), (Cancelled, DeadlineExceeded))
    assert ran == [0, 1, 2]


# -- asking to stop -------------------------------------------------------------------------------------------------


def test_asking_cancels_what_has_not_begun_and_asks_what_runs() -> None:
    ran: list[int] = []
    began = threading.Event()

    def task() -> None:
        began.set()
        treadle.sleep(PATIENCE)

    with Pool(1) as pool:
        running, waiting = pool.submit(task), pool.submit(ran.append, 1)
        assert began.wait(PATIENCE)
        assert not running.cancel(), "as ever"
        assert not running.done()
        assert waiting.request_cancel()
        assert waiting.cancelled()
        assert running.request_cancel()
        assert isinstance(running.exception(PATIENCE), Cancelled)
        assert not running.cancelled(), "for it had begun"
        assert not running.request_cancel(), "it is done"
        with pytest.raises(CancelledError):
            running.result(0)
    assert ran == []


def test_a_task_that_does_not_look_goes_on() -> None:
    gate = threading.Event()
    with Pool(1) as pool:
        future = pool.submit(gate.wait, PATIENCE)
        until(future.running)
        assert future.request_cancel()
        gate.set()
        assert future.result(PATIENCE) is True


def test_a_task_that_looks_sees_it_and_others_do_not() -> None:
    asked, told = threading.Event(), threading.Barrier(3)

    def task() -> tuple[bool, bool]:
        before = treadle.should_stop()
        told.wait(PATIENCE)
        assert asked.wait(PATIENCE)
        return before, treadle.should_stop()

    with Pool(2) as pool:
        first, second = pool.submit(task), pool.submit(task)
        told.wait(PATIENCE)
        first.request_cancel()
        asked.set()
        assert first.result(PATIENCE) == (False, True)
        assert second.result(PATIENCE) == (False, False)
        assert pool.submit(treadle.should_stop).result(PATIENCE) is False, "nor does the next one in that thread"


def test_what_a_task_submitted_under_a_deadline_is_asked_to_stop_too() -> None:
    began = threading.Event()
    inner: list[Future[None]] = []

    def sleeper() -> None:
        began.set()
        treadle.sleep(PATIENCE)

    def task() -> None:
        with treadle.deadline(LONG):
            inner.append(pool.submit(sleeper))
            inner[0].result()

    with Pool(2) as pool:
        outer = pool.submit(task)
        assert began.wait(PATIENCE)
        assert outer.request_cancel()
        assert isinstance(outer.exception(PATIENCE), Cancelled)
        assert isinstance(inner[0].exception(PATIENCE), Cancelled)


def test_a_task_that_stops_as_it_was_told_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    began = threading.Event()

    def task() -> None:
        began.set()
        treadle.sleep(PATIENCE)

    with Pool(1) as pool:
        future = pool.submit(task)
        assert began.wait(PATIENCE)
        future.request_cancel()
        pool.submit(int).result(PATIENCE)
        del future
    gc.collect()
    assert not caplog.records


# -- every wait of ours wakes ---------------------------------------------------------------------------------------


class Waits:
    """Each wait of treadle's, on something that does not come by itself; `wait` begins it, `come` brings it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.held = Held(queue_size=0) if kind in ("room", "run room") else Held()
        self.channel: Channel[str] = Channel(1)
        self.future: Future[str] = Future()
        self.waiting: Future[int] | None = None
        self.let_in: Future[int] | None = None
        if kind == "put":
            self.channel.put("first")
        if kind in ("task", "wait task", "as_completed task"):
            self.waiting = self.held.pool.submit(int)

    def wait(self) -> Any:
        kind, pool = self.kind, self.held.pool
        if kind == "sleep":
            return treadle.sleep(PATIENCE)
        if kind == "get":
            return self.channel.get()
        if kind == "put":
            return self.channel.put("second")
        if kind == "by hand":
            return self.future.result()
        if kind == "task":
            assert self.waiting is not None
            return self.waiting.result()
        if kind == "wait":
            return treadle.wait([self.future])
        if kind == "wait task":
            return treadle.wait([self.waiting])
        if kind == "as_completed":
            return list(treadle.as_completed([self.future]))
        if kind == "as_completed task":
            return list(treadle.as_completed([self.waiting]))  # type: ignore[type-var]  # there is one
        if kind == "map":
            return next(pool.map(abs, [1, 2]))
        if kind == "unordered map":
            return next(pool.map(abs, [1, 2], ordered=False))
        if kind == "rated map":
            return next(pool.options(rate=Rate(1e6)).map(abs, [1, 2]))
        assert kind == "room"
        self.let_in = pool.submit(abs, -1)
        return self.let_in

    def asleep(self, scope: Scope) -> bool:
        return bool(scope.wakers)

    def come(self) -> None:
        if self.kind == "get":
            self.channel.put("an item")
        elif self.kind == "put":
            self.channel.get()
        elif self.kind in ("by hand", "wait", "as_completed"):
            self.future.set_result("a result")
        else:
            self.held.gate.set()

    def check_nothing_is_left(self) -> None:
        """Hold everything that could have been left behind against what there should be."""
        assert not self.channel._getters
        assert not self.channel._putters
        assert not self.future._waiters
        if self.waiting is not None:
            until(partial(forgotten, self.waiting))
            assert self.waiting._waiters == []
        assert self.held.pool.snapshot().blocked == 0


WAITS = [
    "sleep",
    "get",
    "put",
    "by hand",
    "task",
    "wait",
    "wait task",
    "as_completed",
    "as_completed task",
    "map",
    "unordered map",
    "rated map",
    "room",
]


@pytest.mark.parametrize("inside", ["a thread", "a task", "a task of another scope"])
@pytest.mark.parametrize("why", ["cancelled", "late", "cancelled before", "late before"])
@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_ends_when_there_is_no_point_and_leaves_nothing_behind(kind: str, why: str, inside: str) -> None:
    waits, scopes, go, began = Waits(kind), [], threading.Event(), threading.Event()

    def wait() -> Any:
        scopes.append(scope_here())
        began.set()
        assert go.wait(PATIENCE)
        return waits.wait()

    def block() -> Any:
        with treadle.deadline(LONG if "late" not in why else 0 if why == "late before" else SOON):
            return wait()

    with waits.held, Pool(1) as pool:
        if inside == "a thread":
            waiter: Any = Doing(block)
        elif inside == "a task":
            waiter = Doing(lambda: pool.submit(block).result())
        else:
            waiter = Doing(lambda: pool.options(name="x").submit(block).result())
        assert began.wait(PATIENCE)
        (scope,) = scopes
        if why == "cancelled before":
            scope.cancel()
        go.set()
        if why == "cancelled":
            until(lambda: waits.asleep(scope))
            scope.cancel()
        outcome = waiter.outcome()
        expected = DeadlineExceeded if "late" in why else Cancelled
        if kind == "room" and isinstance(outcome, Future):  # the timers' thread may come a moment before the wait ends
            outcome = outcome.exception(0)
        assert isinstance(outcome, expected), outcome
        waits.check_nothing_is_left()
        assert not scope.wakers
        assert scope.parent is None or not scope.parent.wakers
        until(lambda: not scope._members)


@pytest.mark.parametrize("kind", WAITS)
def test_a_task_that_waits_is_woken_by_asking_it_to_stop(kind: str) -> None:
    waits = Waits(kind)
    scopes: list[Scope] = []

    def task() -> Any:
        scopes.append(scope_here())
        return waits.wait()

    with waits.held, Pool(1) as pool:
        future = pool.submit(task)
        until(lambda: bool(scopes) and waits.asleep(scopes[0]))
        assert future.request_cancel()
        assert isinstance(future.exception(PATIENCE), Cancelled)
        waits.check_nothing_is_left()
        assert is_clean(scopes[0])


@pytest.mark.parametrize("kind", [kind for kind in WAITS if kind != "sleep"])
def test_a_wait_under_a_deadline_that_is_far_ends_when_what_it_waits_for_comes(kind: str) -> None:
    waits, scopes = Waits(kind), []

    def wait() -> Any:
        with treadle.deadline(LONG):
            scopes.append(scope_here())
            return waits.wait()

    with waits.held:
        waiter = Doing(wait)
        until(lambda: bool(scopes) and waits.asleep(scopes[0]))
        waits.come()
        outcome = waiter.outcome()
        assert not isinstance(outcome, BaseException), outcome
        waits.check_nothing_is_left()
        if waits.let_in is not None:
            assert waits.let_in.result(PATIENCE) == 1
    assert is_clean(scopes[0])


def test_a_timeout_that_is_nearer_than_the_deadline_is_what_is_raised() -> None:
    channel: Channel[int] = Channel()
    with Held(queue_size=0) as held, treadle.deadline(LONG):
        with pytest.raises(ChannelEmpty):
            channel.get(0.01)
        with pytest.raises(concurrent.futures.TimeoutError) as caught:
            held.running[0].result(0.01)
        assert not isinstance(caught.value, DeadlineExceeded)
        with pytest.raises(PoolFull):
            held.pool.options(block_timeout=0.01).submit(int)
        assert treadle.wait([held.running[0]], 0.01).not_done == {held.running[0]}
        assert held.pool.snapshot().blocked == 0
        assert is_clean(scope_here())


def test_a_deadline_that_is_nearer_than_the_timeout_is_what_is_raised() -> None:
    channel: Channel[int] = Channel()
    with Held(queue_size=0) as held:
        for wait in (
            lambda: channel.get(LONG),
            lambda: held.running[0].result(LONG),
            lambda: treadle.wait([held.running[0]], LONG),
            lambda: list(treadle.as_completed([held.running[0]], LONG)),
            lambda: Future[int]().result(LONG),
        ):
            with treadle.deadline(0.01), pytest.raises(DeadlineExceeded):
                wait()
        with treadle.deadline(0.01):
            with pytest.raises(DeadlineExceeded):
                held.pool.options(block_timeout=LONG).submit(int).result()
        assert held.pool.snapshot().blocked == 0


def test_what_is_there_already_is_given_though_the_deadline_has_passed() -> None:
    """Only waits end; a result that is in hand is not withheld."""
    channel: Channel[int] = Channel()
    channel.put(1)
    with Pool(1) as pool:
        future = pool.submit(abs, -3)
        concurrent.futures.wait([future], PATIENCE)
        with treadle.deadline(0):
            assert future.result() == 3
            assert channel.get() == 1
            assert channel.put(2) is None  # type: ignore[func-returns-value]  # it went in
            assert treadle.wait([future]).done == {future}


def test_a_deadline_as_far_as_a_number_can_say_is_no_fault() -> None:
    """The system cannot wait so long, and nobody asks it to."""
    for kind in [kind for kind in WAITS if kind != "sleep"]:
        waits, scopes = Waits(kind), []  # type: ignore[var-annotated]  # of one scope

        def wait(waits: Waits = waits, scopes: list[Scope] = scopes) -> Any:
            with treadle.deadline(1e300):
                scopes.append(scope_here())
                return waits.wait()

        with waits.held:
            waiter = Doing(wait)
            until(lambda w=waits, s=scopes, t=waiter: (bool(s) and w.asleep(s[0])) or not t.is_alive())  # type: ignore[misc]
            waits.come()
            outcome = waiter.outcome()
        assert not isinstance(outcome, BaseException), (kind, outcome)


# -- races: whatever comes first, nothing is lost -------------------------------------------------------------------

ROUNDS = 150


def test_get_against_cancel_every_item_ends_in_exactly_one_place() -> None:
    channel: Channel[int] = Channel()
    with Pool(2) as pool:
        for number in range(ROUNDS):
            together = threading.Barrier(3)

            def get(together: threading.Barrier = together) -> int:
                scope_here()
                together.wait(PATIENCE)
                return channel.get()

            def put(together: threading.Barrier = together, number: int = number) -> None:
                together.wait(PATIENCE)
                channel.put(number)

            getting, putting = pool.submit(get), pool.submit(put)
            together.wait(PATIENCE)
            getting.request_cancel()
            assert putting.result(PATIENCE) is None
            error = getting.exception(PATIENCE)
            if error is None:
                assert getting.result(0) == number
            else:
                assert isinstance(error, Cancelled)
                assert channel.get_nowait() == number
            assert len(channel) == 0
            assert not channel._getters


def test_put_against_cancel_the_item_is_in_if_and_only_if_put_returned() -> None:
    with Pool(2) as pool:
        for _ in range(ROUNDS):
            channel: Channel[str] = Channel(1)
            channel.put("first")
            together = threading.Barrier(3)

            def put(together: threading.Barrier = together, channel: Channel[str] = channel) -> None:
                together.wait(PATIENCE)
                channel.put("second")

            def get(together: threading.Barrier = together, channel: Channel[str] = channel) -> str:
                together.wait(PATIENCE)
                return channel.get()

            putting, getting = pool.submit(put), pool.submit(get)
            together.wait(PATIENCE)
            putting.request_cancel()
            assert getting.result(PATIENCE) == "first"
            error = putting.exception(PATIENCE)
            assert error is None or isinstance(error, Cancelled)
            assert len(channel) == (error is None)
            assert not channel._putters


def test_get_against_deadline_no_item_is_lost() -> None:
    channel: Channel[int] = Channel()
    taken: list[int] = []

    def take_impatiently() -> None:
        while True:
            try:
                with treadle.deadline(0.0005):
                    taken.append(channel.get())
            except DeadlineExceeded:
                continue
            except ChannelClosed:
                return

    takers = [Doing(take_impatiently) for _ in range(3)]
    for number in range(500):
        channel.put(number)
        if number % 7 == 0:
            threading.Event().wait(0.0003)
    channel.close()
    assert [taker.outcome() for taker in takers] == [None] * 3
    assert sorted(taken) == list(range(500))


@pytest.mark.parametrize("kind", ["result", "wait", "as_completed", "by hand"])
def test_waiting_for_a_future_against_cancel_leaves_nobody_behind(kind: str) -> None:
    with Pool(2) as pool, Pool(1) as other:
        for _ in range(ROUNDS):
            together = threading.Barrier(3)
            made: Future[int] = Future()
            event = threading.Event()
            awaited = made if kind == "by hand" else other.submit(event.wait, PATIENCE)

            def wait(
                together: threading.Barrier = together, awaited: Future[Any] = awaited, made: Future[int] = made
            ) -> Any:
                together.wait(PATIENCE)
                if kind in ("result", "by hand"):
                    return awaited.result()
                return treadle.wait([awaited]) if kind == "wait" else list(treadle.as_completed([awaited]))

            def come(
                together: threading.Barrier = together, made: Future[int] = made, event: threading.Event = event
            ) -> None:
                together.wait(PATIENCE)
                made.set_result(1) if kind == "by hand" else event.set()

            waiting, coming = pool.submit(wait), pool.submit(come)
            together.wait(PATIENCE)
            waiting.request_cancel()
            assert coming.result(PATIENCE) is None
            error = waiting.exception(PATIENCE)
            assert error is None or isinstance(error, Cancelled)
            awaited.result(PATIENCE)
            until(partial(forgotten, awaited))
            assert awaited._waiters == []
            assert waiting._own_scope().wakers == {}


def test_waiting_for_room_against_cancel_the_task_is_run_if_and_only_if_submit_returned() -> None:
    ran: list[int] = []
    with Pool(1, queue_size=0) as full, Pool(2) as pool:
        for number in range(ROUNDS):
            together, event = threading.Barrier(3), threading.Event()
            holding = full.submit(event.wait, PATIENCE)

            def submit(together: threading.Barrier = together, number: int = number) -> Future[None]:
                together.wait(PATIENCE)
                return full.submit(ran.append, number)

            def make_room(together: threading.Barrier = together, event: threading.Event = event) -> None:
                together.wait(PATIENCE)
                event.set()

            submitting, making = pool.submit(submit), pool.submit(make_room)
            together.wait(PATIENCE)
            submitting.request_cancel()
            assert making.result(PATIENCE) is None
            error = submitting.exception(PATIENCE)
            assert holding.result(PATIENCE) is True
            if error is None:
                submitting.result(0).result(PATIENCE)
            else:
                assert isinstance(error, Cancelled)
            assert (number in ran) is (error is None)
        assert full.snapshot().blocked == 0
        assert full.snapshot().waiting == 0


def test_a_map_against_cancel_is_closed_and_its_pool_goes_on() -> None:
    with Pool(2) as pool, Pool(1) as other:
        for _ in range(ROUNDS):
            together = threading.Barrier(2)

            def consume(together: threading.Barrier = together) -> list[int]:
                together.wait(PATIENCE)
                return list(other.map(abs, range(20)))

            consuming = pool.submit(consume)
            together.wait(PATIENCE)
            consuming.request_cancel()
            error = consuming.exception(PATIENCE)
            assert isinstance(error, Cancelled) if error is not None else consuming.result(0) == list(range(20))
        assert other.submit(abs, -3).result(PATIENCE) == 3
        until(lambda: other.snapshot().busy == 0)
        assert other.snapshot().waiting == 0


def test_many_that_cancel_one_sleeper_at_once_are_all_told_it_was_asked() -> None:
    with Pool(1) as pool:
        for _ in range(ROUNDS):
            together, began = threading.Barrier(4), threading.Event()

            def task(began: threading.Event = began) -> None:
                began.set()
                treadle.sleep(PATIENCE)

            future = pool.submit(task)
            assert began.wait(PATIENCE)

            def ask(together: threading.Barrier = together, future: Future[None] = future) -> bool:
                together.wait(PATIENCE)
                return future.request_cancel()

            askers = [Doing(ask) for _ in range(4)]
            outcomes = [asker.outcome() for asker in askers]
            assert all(outcome in (True, False) for outcome in outcomes), outcomes
            assert any(outcomes)
            assert isinstance(future.exception(PATIENCE), Cancelled)


def test_a_return_against_the_deadline_each_callback_is_called_once_and_each_waiter_woken() -> None:
    """The worker and the timers' thread settle it at the same time, over and over."""
    with Pool(1) as pool:
        for _ in range(ROUNDS):
            calls: list[Any] = []
            with treadle.deadline(0.004):

                def until_the_end() -> None:
                    with contextlib.suppress(DeadlineExceeded):
                        treadle.sleep(PATIENCE)

                try:
                    future = pool.submit(until_the_end)
                except DeadlineExceeded:  # it was slow
                    continue
            for _ in range(3):
                future.add_done_callback(calls.append)
            waiters = [Doing(future.exception) for _ in range(3)]
            for waiter in waiters:
                assert waiter.outcome() is None or isinstance(waiter.outcome(), DeadlineExceeded)
            assert pool.submit(abs, -1).result(PATIENCE) == 1
            until(lambda calls=calls: len(calls) >= 3)  # type: ignore[misc]
            assert calls == [future] * 3
        assert pool.snapshot().threads == 1
        assert pool.snapshot().waiting == 0


def test_submitting_against_the_deadline_leaves_the_pool_sound() -> None:
    """It passes at any point of a submit, over and over, with all that comes behind it."""
    ran: list[int] = []
    pool = Pool(2, queue_size=3)
    late = 0
    for number in range(400):
        with treadle.deadline(0.0002 * (number % 5 + 1)):
            futures: list[Future[None]] = []
            with contextlib.suppress(DeadlineExceeded):
                while True:
                    futures.append(pool.submit(ran.append, number))
        for future in futures:
            late += isinstance(future.exception(PATIENCE), DeadlineExceeded)
    pool.shutdown()
    now = pool.snapshot()
    assert now.waiting == now.blocked == 0
    assert now.submitted == now.finished + now.cancelled + now.shed
    assert len(ran) + late + now.rejected >= now.submitted
    assert pool._task_dispatcher.queue.tombstones == len(pool._task_dispatcher.queue.tasks)


def test_user_code_called_at_a_deadline_holds_up_no_other_deadline() -> None:
    """Callbacks and observers may block, and even wait for what only another deadline ends."""
    gate, called, observed = threading.Event(), threading.Event(), threading.Event()

    class Slow(Observer):
        def cancelled(self, event: TaskEvent) -> None:
            observed.set()
            assert gate.wait(PATIENCE)

    def slow(_: object) -> None:
        called.set()
        assert gate.wait(PATIENCE)

    def group_of_one() -> BaseException | None:
        group = TaskGroup(held.pool)
        try:
            with group:
                futures.append(group.submit(int))
                submitted.set()
        except BaseException as error:
            return error
        return None

    futures: list[Future[int]] = []
    submitted = threading.Event()
    with Held(observers=(Slow(),)) as held:
        try:
            with treadle.deadline(LONG):
                first = held.pool.submit(int)
            first.add_done_callback(slow)
            pass_deadline_of(first)
            assert called.wait(PATIENCE)
            with treadle.deadline(LONG):
                second = held.pool.submit(int)
                grouped = Doing(group_of_one)
            assert submitted.wait(PATIENCE)
            pass_deadline_of(second)
            pass_deadline_of(futures[0])
            assert concurrent.futures.wait([second], PATIENCE).done
            assert isinstance(grouped.outcome(), BaseExceptionGroup)
        finally:
            gate.set()
            held.gate.set()
        assert observed.wait(PATIENCE)


def test_deadlines_of_many_pools_are_kept_though_a_callback_of_one_raises_anything() -> None:
    def fatal(_: object) -> None:
        raise SystemExit

    with Held() as held:
        with treadle.deadline(LONG):
            first = held.pool.submit(int)
        first.add_done_callback(fatal)
        pass_deadline_of(first)
        assert isinstance(first.exception(PATIENCE), DeadlineExceeded)
        with treadle.deadline(LONG):
            second = held.pool.submit(int)
        pass_deadline_of(second)
        assert isinstance(second.exception(PATIENCE), DeadlineExceeded)


# -- whole programs -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_in_a_forked_child_the_deadline_goes_on() -> None:
    done = script("""
        import treadle
        from treadle import Pool
        from treadle.errors import DeadlineExceeded
        pool = Pool(1)
        with treadle.deadline(600):
            pool.submit(int).result()
            def child():
                assert pool.submit(abs, -3).result() == 3
                assert 500 < pool.submit(treadle.time_left).result() <= 600
                with treadle.deadline(0.05):
                    late = pool.submit(threading.Event().wait, 60)
                assert isinstance(late.exception(20), DeadlineExceeded)
                try:
                    with treadle.deadline(0.05):
                        treadle.sleep(60)
                except DeadlineExceeded:
                    print("ended")
            print(fork(child))
            late = None
        with treadle.deadline(0.05):
            late = pool.submit(treadle.sleep, 60)
        assert isinstance(late.exception(20), DeadlineExceeded)
    """)
    assert done.stdout.split() == ["ended", "0"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_other_threads_use_the_same_deadline_does_not_hang_the_child() -> None:
    done = script("""
        import contextvars, treadle
        from treadle import Pool
        pool, stop = Pool(2), threading.Event()
        def churn():
            while not stop.is_set():
                pool.submit(int).result()
        def child():
            signal.alarm(10)
            assert pool.submit(abs, -3).result() == 3
        with treadle.deadline(600):
            threads = [threading.Thread(target=contextvars.copy_context().run, args=(churn,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            statuses = set()
            for _ in range(20):
                statuses.add(fork(child))
                if statuses != {0}:
                    break
            stop.set()
            for thread in threads:
                thread.join()
        print(statuses)
    """)
    assert done.stdout.strip() == "{0}", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_other_threads_use_a_rate_does_not_hang_the_child() -> None:
    done = script("""
        from treadle import Pool, Rate
        pool, stop = Pool(2, rate=Rate(1e6)), threading.Event()
        def churn():
            while not stop.is_set():
                pool.submit(int).result()
        def child():
            signal.alarm(10)
            with Pool(1, rate=Rate(1e6)) as other:
                assert other.submit(abs, -3).result() == 3
        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        statuses = set()
        for _ in range(20):
            statuses.add(fork(child))
            if statuses != {0}:
                break
        stop.set()
        for thread in threads:
            thread.join()
        print(statuses)
    """)
    assert done.stdout.strip() == "{0}", done.stderr


def test_the_context_is_as_it_was_after_everything() -> None:
    assert SCOPE.get() is None
    assert current() is None

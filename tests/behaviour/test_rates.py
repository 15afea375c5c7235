"""Tasks that wait for their rate: when they begin, what they hold up meanwhile, and that none is forgotten."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from behaviour.scripts import script
from clocks import FakeClock
from treadle import Future, Pool, Rate, TaskGroup
from treadle._base import clock
from treadle._base.timer import TimerHandle, TimerThread
from treadle._pool.view import PoolView
from treadle._tasks.rate import Bucket
from treadle._tasks.scoped import FREE
from treadle.errors import DeadlineExceeded, PoolBroken, PoolClosed, PoolFull, Shed, WorkerLost
from treadle.events import Observer, TaskEvent
from treadle.orders import Fair, OrderName

PATIENCE = 20.0  # seconds after which a wait that ought to end is taken to hang
NO_RATE = 1e9  # tasks a second: for those that a test has run at once in a pool with a rate of its own


class TimelyAlarm(TimerThread):
    """Rings when it is told to, and what is due when it is set at once: a thread may set it just after time passed."""

    def call_at(self, when: float, callback: Callable[[], object]) -> TimerHandle:
        bell = super().call_at(when, callback)
        if when <= clock.now():
            threading.Thread(target=self.call_due).start()
        return bell


class Time:
    """Time that stands still; what is due then is called in the thread of the test, for the timers have none here."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock(patch)
        patch.setattr("treadle._base.timer.start_thread", lambda target, name: threading.current_thread())
        self.alarm = TimelyAlarm()
        patch.setattr("treadle._tasks.rate.TIMERS", self.alarm)
        patch.setattr("treadle._tasks.scope.TIMERS", self.alarm)

    def pass_(self, seconds: float) -> None:
        self.clock.pass_(seconds)
        self.alarm.call_due()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@contextmanager
def closing(*pools: Pool) -> Iterator[None]:
    """Drop what the pools have left at the end, so that a test that fails does not wait for turns that never come."""
    try:
        yield
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True, timeout=PATIENCE)


def pass_by(pool: Pool) -> None:
    """Return when the only thread of `pool` has seen all that waits in its order: so it has begun, or is throttled."""
    pool.options(rate=Rate(NO_RATE, burst=1000)).submit(int).result(PATIENCE)


def put_aside(pool: Pool | PoolView, count: int = 1, fn: Callable[..., Any] = int) -> list[Future[Any]]:
    """Submit tasks that have to wait for their turn, to a pool that is otherwise idle; return when they do."""
    dispatcher = pool._task_dispatcher
    futures = []
    for _ in range(count):
        futures.append(pool.submit(fn))
        wait_until(lambda: futures[-1] in dispatcher.queue.throttled)
    return futures


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        threading.Event().wait(0.002)
    raise AssertionError("it did not happen in time")


class Hold:
    """A task that runs until it is let go, in a pool whose rate does not count for it."""

    def __init__(self, pool: Pool) -> None:
        self.began, self.gate = threading.Event(), threading.Event()
        self.future = pool.options(rate=Rate(NO_RATE)).submit(self._run)
        assert self.began.wait(PATIENCE)

    def _run(self) -> None:
        self.began.set()
        assert self.gate.wait(PATIENCE)

    def let_go(self) -> None:
        self.gate.set()
        self.future.result(PATIENCE)


def blocked_submit(pool: Pool, fn: Callable[..., Any], *args: Any) -> tuple[threading.Thread, list[Future[Any]]]:
    """Have a thread submit to a full pool; return when it waits for room."""
    got: list[Future[Any]] = []

    def submit() -> None:
        try:
            got.append(pool.options(rate=Rate(NO_RATE)).submit(fn, *args))
        except PoolClosed:
            pass  # the test has failed, and says why

    before = pool.snapshot().blocked
    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: pool.snapshot().blocked == before + 1)
    return thread, got


# -- when they begin ----------------------------------------------------------------------------------------------

TICK = 0.125  # seconds; with rates that are powers of two, all is exact in binary


class Model:
    """What a token bucket is: tasks in line, and tokens that come one by one."""

    def __init__(self, per_second: float, burst: int) -> None:
        self.per_second, self.burst, self.tokens = per_second, burst, float(burst)
        self.line: list[int] = []
        self.begun: list[int] = []

    def begin(self) -> None:
        while self.line and self.tokens >= 1:
            self.tokens -= 1
            self.begun.append(self.line.pop(0))

    def tick(self) -> None:
        self.tokens = min(float(self.burst), self.tokens + TICK * self.per_second)


class Play:
    """Two pools of one thread and a view, with one rate, beside the model of it."""

    def __init__(self, time: Time, per_second: float, burst: int) -> None:
        self.time, self.model, self.rate = time, Model(per_second, burst), Rate(per_second, burst=burst)
        self.pools = [Pool(1, rate=self.rate), Pool(1, queue_size=None), Pool(1, rate=self.rate, context=False)]
        self.doors = [self.pools[0], self.pools[1].options(rate=self.rate), self.pools[2]]
        self.begun: list[int] = []
        self.times: list[float] = []
        self.futures: list[Future[Any]] = []

    def task(self, number: int) -> None:
        self.begun.append(number)
        self.times.append(self.time.clock.now())

    def submit(self, door: int) -> None:
        number = len(self.futures)
        self.futures.append(self.doors[door].submit(self.task, number))
        self.model.line.append(number)

    def cancel(self, number: int) -> None:
        if self.futures:
            number %= len(self.futures)
            assert self.futures[number].cancel() == (number not in self.model.begun)
            if number in self.model.line:
                self.model.line.remove(number)

    def ask(self, number: int) -> None:
        """Have a task of the same pool wait for that one, which then begins at once."""
        if not self.futures or self.futures[number % len(self.futures)].cancelled():
            return
        number %= len(self.futures)
        future = self.futures[number]
        pool = next(pool for pool in self.pools if pool._task_dispatcher is future._owner)
        pool.options(rate=Rate(NO_RATE)).submit(future.result).result(PATIENCE)
        if number in self.model.line:
            self.model.line.remove(number)
            self.model.begun.append(number)
            self.model.tokens -= 1

    def tick(self, count: int) -> None:
        for _ in range(count):
            self.model.tick()
            self.model.begin()
            self.time.pass_(TICK)
            self.check()

    def check(self) -> None:
        self.model.begin()
        for pool in self.pools:
            pass_by(pool)
        assert self.begun == self.model.begun
        assert self.rate._bucket._tokens <= self.rate.burst
        assert sum(pool.snapshot().waiting for pool in self.pools) == len(self.model.line)


NUMBER = st.integers(0, 99)


@contextmanager
def played(steps: list[tuple[str, int]], per_second: float, burst: int) -> Iterator[Play]:
    """Do the steps, and check after each; the pools are closed after the block."""
    with pytest.MonkeyPatch.context() as patch:
        play = Play(Time(patch), per_second, burst)
        with closing(*play.pools):
            for step, number in steps:
                getattr(play, step)(number)
                play.check()
            yield play


SUBMIT_OR_PASS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 2)),
    st.tuples(st.just("submit"), st.integers(0, 2)),
    st.tuples(st.just("tick"), st.integers(1, 10)),
)
ANYTHING = st.one_of(SUBMIT_OR_PASS, st.tuples(st.sampled_from(["cancel", "ask"]), NUMBER))
PER_SECOND = st.sampled_from([0.5, 1.0, 2.0, 8.0])


@settings(max_examples=40)
@given(steps=st.lists(ANYTHING, max_size=25), per_second=PER_SECOND, burst=st.integers(1, 4))
def test_pools_that_share_a_rate_begin_tasks_as_one_token_bucket_does(
    steps: list[tuple[str, int]], per_second: float, burst: int
) -> None:
    """In turn, as soon as there is a token, and whatever is cancelled or run elsewhere meanwhile."""
    with played(steps, per_second, burst) as play:
        pass
    assert [number for number, future in enumerate(play.futures) if not future.cancelled()] == sorted(play.begun)


@settings(max_examples=40)
@given(steps=st.lists(SUBMIT_OR_PASS, max_size=25), per_second=PER_SECOND, burst=st.integers(1, 4))
def test_in_no_interval_do_more_begin_than_the_burst_and_what_the_rate_gives_in_it(
    steps: list[tuple[str, int]], per_second: float, burst: int
) -> None:
    with played(steps, per_second, burst) as play:
        play.tick(len(play.futures) * 16)  # 2 seconds for each: all of them begin
    times = play.times
    assert play.begun == list(range(len(play.futures)))
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + per_second * (times[last] - begin)


def test_threads_of_one_pool_that_race_for_the_tokens_get_no_more_than_there_are(time: Time) -> None:
    lock, begun = threading.Lock(), 0

    def task() -> None:
        nonlocal begun
        with lock:
            begun += 1

    def await_count(expected: int) -> None:
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 40 - expected and begun >= expected)

    pool = Pool(8, rate=Rate(2.0, burst=5))
    with closing(pool):
        for _ in range(40):
            pool.submit(task)
        for expected in (5, 7, 9, 11):
            await_count(expected)
            wait_until(lambda: pool.snapshot().busy == 0)
            assert begun == expected
            time.pass_(1.0)


def test_a_called_task_is_not_overtaken_by_one_that_comes_to_a_free_thread(time: Time) -> None:
    """The token is its own, though its pool has something else to do first."""
    ran: list[str] = []
    rate = Rate(1.0)
    pool, other = Pool(1), Pool(1)
    with closing(pool, other):
        view, beside = pool.options(rate=rate), other.options(rate=rate)
        view.submit(int).result(PATIENCE)
        first = view.submit(ran.append, "first")
        pass_by(pool)
        hold = Hold(pool)
        time.pass_(1.0)
        second = beside.submit(ran.append, "second")
        pass_by(other)
        hold.let_go()
        first.result(PATIENCE)
        time.pass_(1.0)
        second.result(PATIENCE)
    assert ran == ["first", "second"]


def test_a_pool_whose_threads_wait_for_another_pool_does_not_keep_its_tokens_for_ever(time: Time) -> None:
    """The called task waits for the thread, the thread for the other pool's task, and that for its turn."""
    rate = Rate(1.0)
    pool, other = Pool(1), Pool(1)
    gate, began = threading.Event(), threading.Event()

    def outer() -> int:
        began.set()
        assert gate.wait(PATIENCE)
        return other.options(rate=rate).submit(abs, -2).result()

    with closing(other, pool):
        pool.options(rate=rate).submit(int).result(PATIENCE)
        called = pool.options(rate=rate).submit(abs, -1)
        pass_by(pool)
        asks = pool.submit(outer)
        assert began.wait(PATIENCE)
        time.pass_(1.0)  # the token is for `called`, which waits behind `outer`
        gate.set()
        done = []
        for _ in range(20):
            done = list(concurrent.futures.wait([asks], 0.1).done)
            if done:
                break
            time.pass_(1.0)
        assert done, "outer waits for ever"
        time.pass_(1.0)
        assert (asks.result(0), called.result(PATIENCE)) == (2, 1)


def test_a_view_has_the_pools_rate_unless_it_is_given_one(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0), order="priority")
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        slow = pool.options(priority=1).submit(int)
        assert pool.options(rate=Rate(5.0)).submit(abs, -1).result(PATIENCE) == 1
        assert not slow.done()
        time.pass_(1.0)
        assert slow.result(PATIENCE) == 0


def test_a_rate_has_no_burst_unless_it_is_given_one_for_pools_and_views(time: Time) -> None:
    pool = Pool(1, rate=Rate(2.0))
    with closing(pool):
        for door in (pool, pool.options(rate=Rate(2.0))):
            door.submit(int).result(PATIENCE)
            (late,) = put_aside(door)
            time.pass_(0.49)
            pass_by(pool)
            assert not late.done()
            time.pass_(0.01)
            assert late.result(PATIENCE) == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_items_of_a_map_begin_at_the_rate(time: Time, ordered: bool) -> None:
    begun: list[int] = []
    pool = Pool(1, rate=Rate(1.0, burst=2))
    with closing(pool):
        results = pool.map(begun.append, range(5), buffersize=5, ordered=ordered)
        pass_by(pool)
        for expected in (2, 3, 4, 5):
            assert begun == list(range(expected))
            time.pass_(1.0)
            pass_by(pool)
        assert list(results) == [None] * 5


def test_closing_a_map_takes_its_items_out_of_the_line(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0))
    with closing(pool):
        results = pool.map(abs, [-1, -2, -3], buffersize=3)
        assert next(results) == 1
        pass_by(pool)
        assert pool.snapshot().waiting == 2
        results.close()
        assert pool.snapshot().waiting == 0
        late = pool.submit(abs, -9)
        time.pass_(1.0)
        assert late.result(PATIENCE) == 9


@pytest.mark.parametrize("asks", ["result", "wait", "as_completed", "map"])
def test_what_a_task_of_the_same_pool_waits_for_begins_at_once(time: Time, asks: str) -> None:
    rate = Rate(1.0)
    pool = Pool(1)
    view = pool.options(rate=rate)

    def outer() -> list[int]:
        if asks == "map":
            return list(view.map(abs, [-1, -2, -3]))
        futures = [view.submit(abs, -number) for number in (1, 2, 3)]
        if asks == "wait":
            assert not treadle.wait(futures).not_done
        if asks == "as_completed":
            assert set(treadle.as_completed(futures)) == set(futures)
        return [future.result() for future in futures]

    with closing(pool):
        assert pool.submit(outer).result(PATIENCE) == [1, 2, 3]
        assert rate._bucket._tokens == -2.0, "and those after them wait the longer"
        (late,) = put_aside(view)
        time.pass_(2.5)
        pass_by(pool)
        assert not late.done()
        time.pass_(0.5)
        assert late.result(PATIENCE) == 0


def test_what_waits_for_its_turn_begins_at_once_when_a_task_of_its_pool_asks_for_it(time: Time) -> None:
    pool = Pool(1)
    with closing(pool):
        view = pool.options(rate=Rate(1.0))
        view.submit(int).result(PATIENCE)
        first, second = put_aside(view, 2, fn=lambda: threading.current_thread().name)
        assert pool.submit(second.result).result(PATIENCE) == f"{pool._task_dispatcher.setup.prefix}0"
        assert not first.done()
        assert pool.snapshot().waiting == 1
        time.pass_(2.0)
        assert first.done() or first.result(PATIENCE)


def test_awaited_tasks_wait_for_their_turn_and_leave_the_line_when_the_await_is_cancelled(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0))

    async def main() -> int:
        assert await pool.run(abs, -1) == 1
        late = asyncio.ensure_future(pool.run(abs, -2))
        last = asyncio.ensure_future(pool.options().run(abs, -3))
        while len(pool._task_dispatcher.queue.throttled) < 2:  # one whose rate is asked is not cancelled
            await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert pool.snapshot().waiting == 1
        time.pass_(1.0)
        return await asyncio.wait_for(last, PATIENCE)

    with closing(pool):
        assert asyncio.run(main()) == 3


# -- what becomes of those that wait -------------------------------------------------------------------------------


def test_a_snapshot_counts_a_task_that_waits_for_its_turn_once_and_as_waiting(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        (late,) = put_aside(pool)
        time.clock.pass_(0.5)
        wait_until(lambda: pool.snapshot().busy == 0)
        seen = pool.snapshot()
        assert (seen.waiting, seen.longest_wait) == (1, 0.5)
        assert (seen.submitted, seen.finished, seen.cancelled) == (2, 1, 0)
        time.pass_(0.5)
        late.result(PATIENCE)
        seen = pool.snapshot()
        assert (seen.submitted, seen.finished, seen.waiting) == (2, 2, 0)
        assert seen.workers[0].finished == 2


def test_one_that_is_cancelled_never_runs_and_the_next_has_its_turn(time: Time) -> None:
    ran: list[int] = []
    pool = Pool(1, rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        first, second = (pool.submit(ran.append, number) for number in (1, 2))
        pass_by(pool)
        assert first.cancel()
        assert pool.snapshot().waiting == 1
        time.pass_(1.0)
        second.result(PATIENCE)
        assert pool.snapshot().cancelled == 1
    assert ran == [2]


def test_one_that_was_called_and_is_cancelled_in_the_queue_leaves_its_token_to_the_next(time: Time) -> None:
    ran: list[int] = []
    rate = Rate(1.0)
    pool = Pool(1)
    with closing(pool):
        view = pool.options(rate=rate)
        view.submit(int).result(PATIENCE)
        first, second = (view.submit(ran.append, number) for number in (1, 2))
        pass_by(pool)
        hold = Hold(pool)
        time.pass_(1.0)
        assert first.cancel()
        time.pass_(0.0)
        hold.let_go()
        second.result(PATIENCE)
    assert ran == [2]


def test_one_whose_deadline_passes_fails_then_and_the_next_has_its_turn(time: Time) -> None:
    ran: list[int] = []
    pool = Pool(1, rate=Rate(0.125))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        with treadle.deadline(5.0):
            late = pool.submit(ran.append, 1)
        after = pool.submit(ran.append, 2)
        pass_by(pool)
        time.pass_(4.0)
        assert not late.done()
        time.pass_(1.0)
        assert isinstance(late.exception(0), DeadlineExceeded)
        assert pool.snapshot().waiting == 1
        time.pass_(3.0)
        after.result(PATIENCE)
    assert ran == [2]


def test_a_deadline_that_passes_just_before_the_task_is_put_aside_fails_it_for_good(time: Time) -> None:
    class Late(Bucket):
        """Time passes between its refusal and what the worker makes of that."""

        def admit(self, task: Future[Any]) -> bool:
            admitted = super().admit(task)
            if not admitted:
                time.pass_(6.0)
            return admitted

    called: list[object] = []
    rate = Rate(0.0078125)
    rate._bucket = Late(0.0078125, 1.0, 1)
    pool = Pool(1, rate=rate)
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        hold = Hold(pool)
        with treadle.deadline(5.0):
            late = pool.submit(int)
        late.add_done_callback(called.append)
        hold.let_go()
        pass_by(pool)
        assert late.done(), "it was, and is not any more"
        assert isinstance(late.exception(0), DeadlineExceeded)
        assert pool.snapshot().waiting == 0
    assert called == [late]


def test_tasks_of_a_group_wait_for_their_turn_and_leave_the_line_with_it(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0, burst=2))
    with closing(pool):
        with TaskGroup(pool) as group:
            futures = [group.submit(abs, -number) for number in range(4)]
            pass_by(pool)
            assert [future.done() for future in futures] == [True, True, False, False]
            group.cancel()
        assert all(future.cancelled() for future in futures[2:])
        assert pool.snapshot().waiting == 0


def test_observers_are_told_once_of_each_thing_that_happens(time: Time) -> None:
    class Told(Observer):
        def __init__(self) -> None:
            self.events: list[tuple[str, str]] = []

        def submitted(self, event: TaskEvent) -> None:
            self.events.append(("submitted", event.name))

        def started(self, event: TaskEvent) -> None:
            self.events.append(("started", event.name))

        def finished(self, event: TaskEvent) -> None:
            self.events.append(("finished", event.name))

        def cancelled(self, event: TaskEvent) -> None:
            self.events.append(("cancelled", event.name))

    told = Told()
    pool = Pool(1, observers=[told])
    with closing(pool):
        rate = Rate(1.0)
        views = [pool.options(name=name, rate=rate) for name in ("first", "late", "dropped", "asked")]
        futures = [view.submit(int) for view in views]
        pool.options(name="between").submit(int).result(PATIENCE)
        futures[2].cancel()
        pool.options(name="asks").submit(futures[3].result).result(PATIENCE)
        time.pass_(2.0)
        futures[1].result(PATIENCE)
    names = ("first", "late", "dropped", "asked")
    of = {name: [what for what, whose in told.events if whose == name] for name in names}
    assert of == {
        "first": ["submitted", "started", "finished"],
        "late": ["submitted", "started", "finished"],
        "dropped": ["submitted", "cancelled"],
        "asked": ["submitted", "started", "finished"],
    }


# -- room -----------------------------------------------------------------------------------------------------------


def test_they_take_up_room_as_those_in_the_queue_do(time: Time) -> None:
    pool = Pool(1, queue_size=2, when_full="reject", rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        futures = put_aside(pool, 3)  # and one that the free thread could take
        with pytest.raises(PoolFull):
            pool.submit(int)
        hold = futures.pop()
        assert hold.cancel()
        futures += put_aside(pool)
        time.pass_(1.0)
        assert futures[0].result(PATIENCE) == 0
        assert pool.snapshot().waiting == 2


def test_one_that_is_called_makes_no_room_for_it_goes_on_waiting(time: Time) -> None:
    """It leaves its place beside the queue for one in it."""
    pool = Pool(1, queue_size=2)
    with closing(pool):
        view = pool.options(rate=Rate(1.0, burst=2))
        for _ in range(2):
            view.submit(int).result(PATIENCE)
        called = put_aside(view, 2)
        hold = Hold(pool)
        blocked = [blocked_submit(pool, int) for _ in range(2)]
        assert pool.snapshot().waiting == 2
        time.pass_(2.0)
        seen = pool.snapshot()
        hold.let_go()
        assert [future.result(PATIENCE) for future in called] == [0, 0]
        for thread, _ in blocked:
            thread.join(PATIENCE)
        assert (seen.waiting, seen.blocked) == (2, 2)


@pytest.mark.parametrize("queue_size", [0, 1, 2])
def test_a_caller_who_waits_for_room_gets_that_of_one_that_is_cancelled_and_a_thread(
    time: Time, queue_size: int
) -> None:
    """The pool is idle all the while, so nobody comes by of himself to let the caller in, or to run its task."""
    pool = Pool(1, queue_size=queue_size)
    with closing(pool):
        view = pool.options(rate=Rate(1.0))
        view.submit(int).result(PATIENCE)
        late = put_aside(view, queue_size + 1)
        thread, got = blocked_submit(pool, abs, -3)
        for future in late:
            assert future.cancel()
        thread.join(PATIENCE / 4)
        assert got, "it waits for room in an idle pool"
        thread.join(PATIENCE)
        assert got[0].result(PATIENCE / 4) == 3


def test_the_policy_that_discards_the_oldest_discards_one_that_waits_for_its_turn(time: Time) -> None:
    pool = Pool(1, queue_size=1, when_full="discard_oldest", rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        oldest, newer = put_aside(pool, 2)
        newest = pool.submit(int)
        assert isinstance(oldest.exception(0), Shed)
        assert not newer.done()
        assert not newest.done()
        assert pool.snapshot().shed == 1
        assert pool.snapshot().waiting == 2


def test_the_ceiling_of_a_key_counts_those_that_wait_for_their_turn(time: Time) -> None:
    pool = Pool(1, order=Fair(max_waiting=2), when_full="reject")
    with closing(pool):
        view = pool.options(key="a", rate=Rate(1.0))
        view.submit(int).result(PATIENCE)
        put_aside(view, 2)
        with pytest.raises(PoolFull, match="key 'a'"):
            view.submit(int)
        assert pool.options(key="b").submit(abs, -1).result(PATIENCE) == 1


# -- the end ----------------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_those_whose_turn_has_not_come(time: Time) -> None:
    ran: list[int] = []

    def await_count(count: int) -> None:
        wait_until(lambda: len(ran) == count)

    pool = Pool(2, rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        for number in range(3):
            pool.submit(ran.append, number)
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 3)
        assert len(pool.shutdown(timeout=0)) == 3
        for count in (1, 2, 3):
            time.pass_(1.0)
            await_count(count)
        assert pool.shutdown(timeout=PATIENCE) == ()
    assert sorted(ran) == [0, 1, 2], "two threads may bring them in another order"


def test_shutdown_waits_for_them_though_every_thread_had_left(time: Time) -> None:
    pool = Pool(1, idle_timeout=0.0, rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        (late,) = put_aside(pool)
        wait_until(lambda: pool.snapshot().threads == 0)
        closed: list[tuple[Future[Any], ...]] = []
        thread = threading.Thread(target=lambda: closed.append(pool.shutdown()))
        thread.start()
        wait_until(lambda: pool.snapshot().closed)
        time.pass_(1.0)
        thread.join(PATIENCE)
        assert closed == [()]
        assert late.result(0) == 0


def test_threads_of_a_closed_pool_are_not_idle_for_too_long_while_tasks_wait_for_their_turn(time: Time) -> None:
    pool = Pool(1, idle_timeout=0.001, rate=Rate(1.0))
    with closing(pool):
        hold = Hold(pool)
        first, late = pool.submit(int), pool.submit(int)
        closed: list[tuple[Future[Any], ...]] = []
        thread = threading.Thread(target=lambda: closed.append(pool.shutdown()))
        thread.start()
        wait_until(lambda: pool.snapshot().closed)
        hold.let_go()
        first.result(PATIENCE)
        thread.join(0.1)  # many times the idle time-out; a pool that is right goes on waiting, however long
        time.pass_(1.0)
        thread.join(PATIENCE)
        assert closed == [()]
        assert late.result(0) == 0


def test_shutdown_cancels_them_if_asked_and_a_shared_rate_goes_on(time: Time) -> None:
    rate = Rate(1.0)
    pool, other = Pool(1, rate=rate), Pool(1, rate=rate)
    with closing(pool, other):
        pool.submit(int).result(PATIENCE)
        dropped = put_aside(pool, 2)
        (kept,) = put_aside(other)
        pool.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in dropped)
        assert pool.snapshot().cancelled == 2
        time.pass_(1.0)
        assert kept.result(PATIENCE) == 0


def test_a_dropped_pool_runs_those_whose_turn_has_not_come(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0))
    pool.submit(int).result(PATIENCE)
    (late,) = put_aside(pool, fn=lambda: 7)
    threads = pool._threads
    del pool
    time.pass_(1.0)
    assert late.result(PATIENCE) == 7
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_pool_that_breaks_fails_them_and_a_shared_rate_goes_on(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    threads: list[str] = []

    def initialize() -> None:
        threads.append(threading.current_thread().name)
        if len(threads) == 2:
            raise ValueError("no database")

    rate = Rate(1.0)
    pool, other = Pool(2, initializer=initialize), Pool(1, rate=rate)
    with closing(pool, other), caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        view = pool.options(rate=rate)
        view.submit(int).result(PATIENCE)
        (late,) = put_aside(view)
        hold = Hold(pool)
        with pytest.raises(PoolBroken):
            pool.submit(int).result(PATIENCE)
        assert isinstance(late.exception(PATIENCE), PoolBroken)
        hold.let_go()
        (kept,) = put_aside(other)
        for _ in range(3):
            time.pass_(1.0)
        assert kept.result(PATIENCE / 4) == 0


def test_tasks_that_are_refused_or_fail_before_they_begin_are_not_kept(time: Time) -> None:
    """A task that has a rate is known to the scope of such tasks until something becomes of it."""
    before = len(FREE._members)
    pool = Pool(1, queue_size=0, rate=Rate(1.0))

    async def refused_by_a_closed_pool() -> None:
        run = asyncio.ensure_future(pool.run(int))
        while not pool.snapshot().blocked:
            await asyncio.sleep(0)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(PoolClosed):
            await run

    with closing(pool):
        pool.submit(int).result(PATIENCE)
        put_aside(pool)
        with pytest.raises(PoolFull):
            pool.options(when_full="reject").submit(int)
        with pytest.raises(PoolFull):
            pool.options(block_timeout=0.0).submit(int)
        asyncio.run(refused_by_a_closed_pool())
        assert len(FREE._members) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_empty_pools_and_a_rate_that_works() -> None:
    done = script("""
        from treadle import Pool, Rate
        rate = Rate(20.0)
        pool, other = Pool(1, rate=rate), Pool(1, rate=rate)
        futures = [door.submit(abs, -n) for n in range(10) for door in (pool, other)]
        futures[0].result()
        def child():
            for future in futures:
                assert future.done()
            assert "0 waiting" in repr(rate), rate
            mine = [door.submit(abs, -n) for n in range(3) for door in (pool, other)]
            assert [future.result() for future in mine] == [0, 0, 1, 1, 2, 2]
            assert pool.snapshot().waiting == other.snapshot().waiting == 0
            pool.shutdown()
            other.shutdown()
        statuses = {fork(child) for _ in range(10)}
        assert [future.result() for future in futures] == [n for n in range(10) for _ in range(2)]
        print(statuses)
    """)
    assert done.stdout.strip() == "{0}", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_is_safe_whatever_rates_are_doing() -> None:
    done = script("""
        from treadle import Pool, Rate
        rate = Rate(5000.0, burst=2)
        pool, other, stop = Pool(2, rate=rate), Pool(1), threading.Event()
        def submits():
            for future in [door.submit(int) for _ in range(5) for door in (pool, other.options(rate=rate))]:
                future.result()
        def cancels():
            for future in [pool.submit(int) for _ in range(5)]:
                future.cancel()
        def forever(fn):
            while not stop.is_set():
                fn()
        threads = [threading.Thread(target=forever, args=(fn,)) for fn in (submits, submits, cancels)]
        for thread in threads:
            thread.start()
        def child():
            submits()
            pool.shutdown()
            other.shutdown()
        try:
            statuses = {fork(child) for _ in range(40)}
        finally:
            stop.set()
        for thread in threads:
            thread.join()
        print(statuses)
    """)
    assert done.stdout.strip() == "{0}", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_in_a_forked_child_futures_that_wait_for_their_turn_are_done() -> None:
    done = script("""
        from concurrent.futures import CancelledError
        from treadle import Pool, Rate
        from treadle.errors import WorkerLost
        pool = Pool(1, rate=Rate(0.001))
        pool.submit(int).result()
        late = pool.submit(int)
        while not pool._task_dispatcher.queue.throttled:
            threading.Event().wait(0.001)
        def child():
            try:
                late.result()
            except (CancelledError, WorkerLost) as error:
                print(type(error).__name__, pool.snapshot().waiting)
        assert fork(child) == 0
        pool.shutdown(cancel_futures=True)
    """)
    assert done.stdout.split() in (["CancelledError", "0"], [WorkerLost.__name__, "0"]), done.stderr


@pytest.mark.parametrize("idle_timeout", ["60.0", "0.0"])
def test_a_program_does_not_end_before_they_have_run(idle_timeout: str) -> None:
    done = script(f"""
        from treadle import Pool, Rate
        pool = Pool(1, rate=Rate(10.0), idle_timeout={idle_timeout})
        for number in range(3):
            pool.submit(print, number)
    """)
    assert done.stdout.split() == ["0", "1", "2"], done.stderr


def test_cancelled_ones_raise_as_others_do(time: Time) -> None:
    pool = Pool(1, rate=Rate(1.0))
    with closing(pool):
        pool.submit(int).result(PATIENCE)
        (late,) = put_aside(pool)
        assert late.request_cancel()
        with pytest.raises(CancelledError):
            late.result(0)


@pytest.mark.parametrize("order", ["fifo", "priority", "fair", "adaptive"])
def test_a_task_whose_turn_has_come_waits_in_the_queue_no_second_time(order: OrderName, time: Time) -> None:
    """Or a queue that is never empty would stretch the rate, to a third and less."""
    gate, began, ran = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Pool(1, order=order) as pool:
        rated = pool.options(rate=Rate(1.0))
        futures = [rated.submit(ran.append, name) for name in ("first", "second", "third")]
        futures[0].result(PATIENCE)
        pool.submit(hold)
        assert began.wait(PATIENCE)
        assert len(pool._task_dispatcher.queue.throttled) == 2, "they have come to a thread, too early"
        others = [pool.submit(ran.append, f"other {number}") for number in range(3)]
        time.pass_(1.0)
        gate.set()
        for future in others:
            future.result(PATIENCE)
        time.pass_(1.0)
        assert futures[2].result(PATIENCE) is None
    assert ran == ["first", "second", "other 0", "other 1", "other 2", "third"]

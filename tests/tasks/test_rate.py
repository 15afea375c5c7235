"""Rate: at most so many tasks begin in a second."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle
from clocks import FakeClock
from treadle import Future, Pool, Rate
from treadle._base import timer as alarm_module
from treadle._base.timer import TIMERS, TimerThread
from treadle._tasks import rate as rate_module
from treadle._tasks.rate import Bucket, bucket_of
from treadle.errors import DeadlineExceeded, PoolFull

PATIENCE = 30.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def wait_until(condition: Any) -> None:
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not happen in time")


class Owner:
    """A pool that tries each task again at once when it is called."""

    def __init__(self, rate: Bucket) -> None:
        self.rate = rate
        self.begun: list[Future[Any]] = []

    def submit(self) -> Future[Any]:
        task: Future[Any] = Future()
        task._owner = self  # type: ignore[assignment]  # as much of one as a rate asks for
        self.resume(task)
        return task

    def resume(self, task: Future[Any]) -> None:
        if self.rate.admit(task):
            self.begun.append(task)
        else:
            self.rate.arm()


STEPS = st.lists(st.one_of(st.integers(1, 4), st.sampled_from([0.01, 0.1, 0.5, 3.0])), max_size=60)


@given(steps=STEPS, per_second=st.sampled_from([0.5, 2.0, 10.0]), burst=st.integers(1, 5))
def test_it_is_a_token_bucket_and_first_come_first_served(steps: list[Any], per_second: float, burst: int) -> None:
    """The model: tokens fill up steadily to `burst`; each task takes one, as soon as there is one, in turn."""
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch)
        timers = TimerThread()  # without a thread: it is called by hand
        patch.setattr(alarm_module, "start_thread", lambda target, name: None)
        patch.setattr(rate_module, "TIMERS", timers)
        home = Owner(Bucket(per_second, 1.0, burst))
        tokens, submitted, begun = float(burst), [], 0
        for step in steps:
            if isinstance(step, int):
                submitted += [home.submit() for _ in range(step)]
            else:
                clock.pass_(step)
                tokens = min(float(burst), tokens + step * per_second)
                timers.call_due()
            while tokens >= 1 - 1e-6 and begun < len(submitted):
                tokens, begun = tokens - 1, begun + 1
            assert abs(len(home.begun) - begun) <= (abs(tokens - round(tokens)) < 1e-5)  # rounding may decide
            begun, tokens = len(home.begun), tokens + begun - len(home.begun)
            assert home.begun == submitted[:begun]


def test_nobody_overtakes_a_task_that_was_called_and_has_not_come_to_a_thread_yet(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = TimerThread()  # without a thread: it is called by hand
    monkeypatch.setattr(alarm_module, "start_thread", lambda target, name: None)
    monkeypatch.setattr(rate_module, "TIMERS", timers)
    bucket, resumed = Bucket(1.0, 1.0, 1), list[Future[Any]]()

    class Slow:
        def resume(self, task: Future[Any]) -> None:
            resumed.append(task)

    first, second, third = Future[int](), Future[int](), Future[int]()
    second._owner = third._owner = Slow()  # type: ignore[assignment]  # as much of one as a rate asks for
    assert bucket.admit(first)
    assert not bucket.admit(second)
    bucket.arm()
    clock.pass_(1.0)
    timers.call_due()
    assert resumed == [second]
    assert not bucket.admit(third)
    assert bucket.admit(second)
    bucket.forget(third)


def test_tasks_that_wait_hold_no_thread_and_count_as_waiting(clock: FakeClock) -> None:
    rate = Rate(1.0)
    with Pool(1, queue_size=2, when_full="reject") as pool:
        view = pool.options(rate=rate)
        assert view.submit(abs, -1).result(PATIENCE) == 1
        second = view.submit(abs, -2)
        wait_until(lambda: pool._task_dispatcher.queue.throttled)
        assert pool.submit(abs, -5).result(PATIENCE) == 5  # the thread is free
        third = view.submit(abs, -3)
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 2)
        assert pool.snapshot().waiting == 2
        fourth = view.submit(abs, -4)  # the free thread could have taken it
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 3)
        with pytest.raises(PoolFull):
            view.submit(abs, -5)
        assert not second.done()
        third.cancel()
        fourth.cancel()
        clock.pass_(1.0)
        TIMERS.call_due()
        assert second.result(PATIENCE) == 2
        pool.shutdown(cancel_futures=True)


def test_closing_a_pool_waits_for_those_whose_turn_has_not_come() -> None:
    with Pool(2, rate=Rate(200.0)) as pool:
        futures = [pool.submit(abs, -n) for n in range(10)]
    assert [future.result(0) for future in futures] == list(range(10))


def test_closing_a_pool_may_cancel_them(clock: FakeClock) -> None:
    pool = Pool(1, rate=Rate(1.0))
    pool.submit(int).result(PATIENCE)
    late = pool.submit(int)
    wait_until(lambda: pool._task_dispatcher.queue.throttled)
    pool.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        late.result(PATIENCE)
    assert pool.snapshot().cancelled == 1


def test_a_deadline_comes_first(clock: FakeClock) -> None:
    with Pool(1, rate=Rate(0.001)) as pool:
        pool.submit(int).result(PATIENCE)
        with treadle.deadline(5.0):
            late = pool.submit(int)
        wait_until(lambda: pool._task_dispatcher.queue.throttled)
        clock.pass_(6.0)
        TIMERS.call_due()
        with pytest.raises(DeadlineExceeded):
            late.result(PATIENCE)
        assert pool.snapshot().waiting == 0


def test_no_alarm_is_left_for_a_line_that_is_empty(clock: FakeClock) -> None:
    with Pool(1, rate=Rate(0.001)) as pool:
        others = [bell for bell in TIMERS._handles if bell.is_due]  # of pools that other tests have left to themselves
        pool.submit(int).result(PATIENCE)
        late, later = pool.submit(int), pool.submit(int)
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 2)
        late.cancel()
        assert [bell for bell in TIMERS._handles if bell.is_due and bell not in others]
        later.cancel()
        assert not [bell for bell in TIMERS._handles if bell.is_due and bell not in others]


def test_a_task_that_another_waits_for_begins_at_once_and_the_next_waits_the_longer(clock: FakeClock) -> None:
    rate = Rate(1.0)
    with Pool(1) as pool:
        view = pool.options(rate=rate)

        def outer() -> int:
            return sum(view.submit(abs, -n).result() for n in (1, 2, 3))

        assert pool.submit(outer).result(PATIENCE) == 6
    assert rate._bucket._tokens == -2.0


def test_several_pools_may_share_one() -> None:
    rate = Rate(1000.0, burst=2)
    with Pool(1, rate=rate) as first, Pool(1, rate=rate) as second:
        futures = [pool.submit(abs, -n) for n in range(5) for pool in (first, second)]
        assert sum(future.result(PATIENCE) for future in futures) == 20


def test_map_keeps_to_it(clock: FakeClock) -> None:
    with Pool(1, rate=Rate(1.0, burst=3)) as pool:  # two threads may come to it in either order
        results = pool.map(abs, [-1, -2, -3, -4], buffersize=4)
        assert [next(results) for _ in range(3)] == [1, 2, 3]
        wait_until(lambda: pool._task_dispatcher.queue.throttled)
        clock.pass_(1.0)
        TIMERS.call_due()
        assert list(results) == [4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "n=0; allowed: a number of more than 0"),
        (("1",), "n='1' is str; allowed: a number of more than 0"),
        ((True,), "n=True is bool"),
        ((float("inf"),), "n=inf"),
        ((1, 0), "per=0; allowed: a number of more than 0"),
        ((1, None), "per=None is NoneType"),
        ((1, 1, 0), "burst=0: burst must be greater than 0"),
        ((1, 1, 1.5), "burst=1.5 is float; allowed: an integer"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        Rate(*arguments)


def begun_after(rate: Rate, tasks: int, *pauses: float, clock: FakeClock, alarm: TimerThread) -> list[int]:
    """Return how many of the tasks have begun at first, and after each pause in seconds."""
    home = Owner(bucket_of(rate))
    for _ in range(tasks):
        home.submit()
    counts = [len(home.begun)]
    for pause in pauses:
        clock.pass_(pause)
        alarm.call_due()
        counts.append(len(home.begun))
    for task in list(home.rate._line):
        home.rate.forget(task)
    return counts


def test_n_tasks_begin_each_so_many_seconds_evenly_spread(clock: FakeClock, alarm: TimerThread) -> None:
    assert begun_after(Rate(2), 9, 0.49, 0.02, 0.5, clock=clock, alarm=alarm) == [1, 1, 2, 3]
    assert begun_after(Rate(100, per=60), 9, 0.59, 0.02, 0.6, clock=clock, alarm=alarm) == [1, 1, 2, 3]
    assert begun_after(Rate(0.5, 2), 9, 3.9, 0.2, clock=clock, alarm=alarm) == [1, 1, 2]


def test_a_burst_begins_at_once_at_first_and_after_a_pause(clock: FakeClock, alarm: TimerThread) -> None:
    rate = Rate(10, per=5.0, burst=3)
    assert begun_after(rate, 4, 0.4, 0.2, clock=clock, alarm=alarm) == [3, 3, 4]
    clock.pass_(1.6)
    assert begun_after(rate, 4, clock=clock, alarm=alarm) == [3]


@pytest.mark.parametrize(("n", "per"), [(1e308, 1e-308), (5e-324, 1e308), (1e-300, 1e300), (1e300, 5e-324)])
def test_rates_may_be_as_fast_and_as_slow_as_numbers_go(
    n: float, per: float, clock: FakeClock, alarm: TimerThread
) -> None:
    assert begun_after(Rate(n, per), 2, 1.0, clock=clock, alarm=alarm)[-1] == (2 if n > 1 else 1)


def test_it_tells_what_it_was_made_with_and_how_many_wait() -> None:
    rate = Rate(1_234_567, per=60, burst=10)
    assert (rate.n, rate.per, rate.burst) == (1_234_567.0, 60.0, 10)
    assert repr(rate) == "Rate(1234567, per=60, burst=10; 0 waiting)"
    bucket_of(rate)._line.append(Future())
    assert repr(rate) == "Rate(1234567, per=60, burst=10; 1 waiting)"
    for name in ("n", "per", "burst"):
        with pytest.raises(AttributeError):
            setattr(rate, name, 3)


def test_it_shows_users_nothing_but_what_is_theirs() -> None:
    assert [name for name in dir(Rate) if not name.startswith("_")] == ["burst", "n", "per"]


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda rate: pickle.loads(pickle.dumps(rate))])
def test_a_copy_is_another_one_with_the_same_numbers(twin_of: Any, clock: FakeClock) -> None:
    """Whatever the clock showed where it was made: that may be another computer's."""
    rate = Rate(2, per=3, burst=4)
    bucket_of(rate)._line.append(Future())
    bucket_of(rate)._filled = clock.time + 1e6
    twin = twin_of(rate)
    assert repr(twin) == "Rate(2, per=3, burst=4; 0 waiting)"
    assert bucket_of(twin)._filled == clock.time


def test_views_made_on_the_fly_share_a_rate(clock: FakeClock) -> None:
    """With a number in its place each would have a bucket of its own, and nothing be limited."""
    politely, done = Rate(2), 0
    with Pool(4) as pool:
        futures = [pool.options(rate=politely).submit(int) for _ in range(10)]
        wait_until(lambda: len(pool._task_dispatcher.queue.throttled) == 9)
        for begun in range(1, 11):
            wait_until(lambda begun=begun: sum(future.done() for future in futures) == begun)
            done += 1
            clock.pass_(0.5)
            TIMERS.call_due()
    assert done == 10


class Absent:
    """A pool whose tasks do not come back when they are called; it notes whether the lock of rates is held then."""

    def __init__(self) -> None:
        self.locked: list[bool] = []

    def resume(self, task: Future[Any]) -> None:
        self.locked.append(rate_module._lock._is_owned())  # type: ignore[attr-defined]  # of an RLock


def in_line(rate: Bucket, tasks: int) -> list[Future[Any]]:
    """Return tasks that wait for their turn, and will not come when it is there."""
    rate._tokens = 0.0
    waiting = [Future[Any]() for _ in range(tasks)]
    for task in waiting:
        task._owner = Absent()  # type: ignore[assignment]  # as much of one as a rate asks for
        assert not rate.admit(task)
    return waiting


@pytest.fixture
def alarm(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> TimerThread:
    """The rates' timers, without a thread: they are called by hand."""
    made = TimerThread()
    monkeypatch.setattr(alarm_module, "start_thread", lambda target, name: threading.current_thread())
    monkeypatch.setattr(rate_module, "TIMERS", made)
    return made


def test_a_pool_is_told_of_its_tasks_without_the_lock_of_rates(clock: FakeClock, alarm: TimerThread) -> None:
    """It takes its own, and that goes first."""
    rate = Bucket(1.0, 1.0, 1)
    (task,) = in_line(rate, 1)
    rate.arm()
    clock.pass_(1.0)
    alarm.call_due()
    assert task._owner.locked == [False]  # type: ignore[attr-defined]  # of an Absent
    rate.forget(task)


def test_the_token_of_a_task_that_was_called_and_will_not_run_is_the_next_ones_at_once(
    clock: FakeClock, alarm: TimerThread
) -> None:
    rate = Bucket(1.0, 1.0, 1)
    first, second = in_line(rate, 2)
    rate.arm()
    clock.pass_(1.0)
    alarm.call_due()
    assert rate.has_called(first)
    assert rate._timer is not None
    assert rate._timer.when == clock.now() + 1.0, "when there is a token for each"
    rate.forget(first)
    assert rate._timer.when == clock.now()
    rate.forget(second)


def test_a_task_that_was_called_and_does_not_come_holds_up_the_next_until_the_bucket_is_full(
    clock: FakeClock, alarm: TimerThread
) -> None:
    """It may be held up by what waits for the next in line."""
    rate = Bucket(1.0, 1.0, 1)
    tasks, called = in_line(rate, 2), []
    rate.arm()
    for _ in range(2):
        clock.pass_(1.0)
        alarm.call_due()
        called.append([rate.has_called(task) for task in tasks])
    assert called == [[True, False], [True, True]]
    for task in tasks:
        rate.forget(task)

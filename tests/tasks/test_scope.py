"""Scope: deadlines and cancellation as the context carries them, which scope is current, and who is woken."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle
from clocks import FakeClock
from treadle import Pool
from treadle._base import timer as alarm_module
from treadle._base.locks import closed_latch
from treadle._base.timer import TimerThread
from treadle._tasks import scope as scope_module
from treadle._tasks.scope import HERE, SCOPE, Scope, current
from treadle.errors import Cancelled, DeadlineExceeded

PATIENCE = 30.0  # seconds for what must happen
LONG = 600.0  # seconds that no test waits for


@pytest.fixture(autouse=True)
def alarm(monkeypatch: pytest.MonkeyPatch) -> TimerThread:
    """Timers of the test's own, without a thread: who wants it to call what is due calls `call_due`."""
    monkeypatch.setattr(alarm_module, "start_thread", lambda target, name: None)
    made = TimerThread()
    monkeypatch.setattr(scope_module, "TIMERS", made)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


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
        self.context, self.function, self.args = contextvars.copy_context(), function, args
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


class Member:
    """A task of a scope, and the errors that it was failed with."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._owner = None
        self.errors: list[DeadlineExceeded] = []

    def _expire(self, error: DeadlineExceeded) -> None:
        self.errors.append(error)


# -- deadlines ------------------------------------------------------------------------------------------------------


def test_without_a_deadline_there_is_no_end(clock: FakeClock) -> None:
    scope = Scope(None)
    clock.pass_(1e9)
    assert scope.over() is None
    assert scope.left() is None
    assert scope.left(3) == 3
    scope.check()


def test_time_left_goes_down_to_nothing_and_no_further(clock: FakeClock) -> None:
    scope = Scope(None, 2.0)
    assert scope.left() == 2.0
    assert scope.left(0.5) == 0.5
    clock.pass_(1.75)
    assert scope.left(0.5) == 0.25
    clock.pass_(100)
    assert scope.left() == scope.left(7) == 0


@pytest.mark.parametrize(("passed", "over"), [(0.0, False), (1.999, False), (2.0, True), (2.001, True), (1e6, True)])
def test_a_deadline_has_passed_from_its_very_instant_on(clock: FakeClock, passed: float, over: bool) -> None:
    scope = Scope(None, 2.0)
    clock.pass_(passed)
    assert (scope.over() is not None) is over
    if over:
        with pytest.raises(DeadlineExceeded, match="the deadline of 2 s has passed") as caught:
            scope.check()
        assert caught.value.seconds == 2.0


@given(st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=6), st.floats(0, 200))
def test_of_nested_deadlines_the_nearest_holds_and_is_the_one_that_is_named(
    seconds: list[float | None], passed: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch, start=0.0)
        scope: Scope | None = None
        for given_seconds in seconds:
            scope = Scope(scope, given_seconds)
        assert scope is not None
        nearest = min((each for each in seconds if each is not None), default=math.inf)
        clock.pass_(passed)
        error = scope.over()
        assert (error is not None) is (passed >= nearest)
        if isinstance(error, DeadlineExceeded):
            assert error.seconds == nearest
        assert scope.left() == (None if nearest == math.inf else max(0.0, nearest - passed))


def test_an_outer_deadline_that_is_nearer_by_the_clock_holds_though_its_number_is_larger(clock: FakeClock) -> None:
    outer = Scope(None, 3.0)
    clock.pass_(2.5)
    inner = Scope(outer, 1.0)
    assert inner.left() == 0.5
    clock.pass_(0.5)
    error = inner.over()
    assert isinstance(error, DeadlineExceeded)
    assert error.seconds == 3.0


# -- cancellation ---------------------------------------------------------------------------------------------------


def test_cancellation_goes_down_and_not_up() -> None:
    outer = Scope(None)
    middle = Scope(outer)
    inner, sibling = Scope(middle), Scope(outer)
    middle.cancel()
    assert isinstance(inner.over(), Cancelled)
    assert isinstance(middle.over(), Cancelled)
    assert outer.over() is None
    assert sibling.over() is None


def test_who_is_cancelled_and_late_is_told_of_the_cancellation(clock: FakeClock) -> None:
    """A deadline that nobody can meet any more is no news to who was asked to stop."""
    scope = Scope(None, 1.0)
    scope.cancel()
    clock.pass_(2)
    with pytest.raises(Cancelled):
        scope.check()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_whoever_waits_is_woken_by_any_scope_around(which: int) -> None:
    chain = [Scope(None)]
    chain.append(Scope(chain[0]))
    chain.append(Scope(chain[1]))
    woken: list[int] = []
    with chain[2].waking(lambda: woken.append(1)):
        assert woken == []
        chain[which].cancel()
        assert woken == [1]
    assert [scope.wakers for scope in chain] == [{}, {}, {}]
    chain[which].cancel()
    assert woken == [1], "who waits no longer is left alone"


@pytest.mark.parametrize("which", [0, 1])
def test_who_begins_to_wait_too_late_is_woken_at_once(which: int) -> None:
    outer = Scope(None)
    inner = Scope(outer)
    (outer, inner)[which].cancel()
    woken: list[int] = []
    with inner.waking(lambda: woken.append(1)):
        assert woken
    assert not outer.wakers
    assert not inner.wakers


def test_a_scope_below_wakes_nobody_above() -> None:
    outer = Scope(None)
    woken: list[int] = []
    with outer.waking(lambda: woken.append(1)):
        Scope(outer).cancel()
    assert woken == []


def test_an_exception_while_waiting_leaves_no_waker_behind() -> None:
    outer = Scope(None)
    inner = Scope(outer)
    with pytest.raises(KeyboardInterrupt), inner.waking(int):
        raise KeyboardInterrupt
    assert (outer.wakers, inner.wakers) == ({}, {})


def test_a_waker_runs_with_no_lock_held() -> None:
    """Another thread may cancel the scope, and begin to wait in it, while one is woken."""
    scope = Scope(None)
    outcomes: list[Any] = []  # of what other threads did

    def wake() -> None:
        if not outcomes:
            outcomes.append("begun")
            outcomes.append(Doing(scope.cancel).outcome())
            outcomes.append(Doing(scope.over).outcome())

    with scope.waking(wake):
        Doing(scope.cancel).outcome()
    begun, cancelled, over = outcomes
    assert (begun, cancelled) == ("begun", None)
    assert isinstance(over, Cancelled)


# -- tasks of a scope -----------------------------------------------------------------------------------------------


def test_members_are_failed_at_the_deadline_and_not_before(clock: FakeClock, alarm: TimerThread) -> None:
    scope, stays, leaves = Scope(None, 5.0), Member(), Member()
    scope.join(stays)
    scope.join(leaves)
    assert scope.leave(leaves) is True
    clock.pass_(4.999)
    assert alarm.call_due() == 0
    assert stays.errors == []
    clock.pass_(0.001)
    assert alarm.call_due() == 1
    assert [error.seconds for error in stays.errors] == [5.0]
    assert leaves.errors == []
    assert scope.leave(stays) is False, "it is too late to decide otherwise"
    assert scope.leave(leaves) is False
    assert not scope._members


def test_however_many_members_there_are_there_is_one_bell_and_none_after_the_last(
    clock: FakeClock, alarm: TimerThread
) -> None:
    scope, members = Scope(None, 5.0), [Member() for _ in range(10)]
    for member in members:
        scope.join(member)
    assert [bell.is_due is False for bell in alarm._handles] == [False]
    for member in members:
        scope.leave(member)
    assert all(bell.is_due is False for bell in alarm._handles)
    scope.join(members[0])
    assert sum(bell.is_due for bell in alarm._handles) == 1
    clock.pass_(5)
    alarm.call_due()
    assert len(members[0].errors) == 1


def test_without_a_deadline_no_bell_is_set(alarm: TimerThread) -> None:
    scope = Scope(None)
    scope.join(Member())
    assert alarm._handles == []


def test_a_member_that_joins_too_late_is_failed_too(clock: FakeClock, alarm: TimerThread) -> None:
    scope, first, late = Scope(None, 1.0), Member(), Member()
    scope.join(first)
    clock.pass_(1)
    alarm.call_due()
    scope.join(late)
    alarm.call_due()
    assert (len(first.errors), len(late.errors)) == (1, 1)


def test_after_a_fork_the_alarm_is_set_anew(clock: FakeClock, alarm: TimerThread) -> None:
    """The timer of the parent will not be called in the child."""
    scope, parents, childs = Scope(None, 1.0), Member(), Member()
    scope.join(parents)
    alarm.start_afresh()
    scope.join(childs)
    clock.pass_(1)
    alarm.call_due()
    assert len(childs.errors) == 1


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "pass"]), st.integers(0, 4)), max_size=60))
def test_each_member_is_either_failed_or_let_go_and_exactly_once(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock, alarm = FakeClock(patch, start=0.0), TimerThread()
        patch.setattr(alarm_module, "start_thread", lambda target, name: None)
        patch.setattr(scope_module, "TIMERS", alarm)
        scope = Scope(None, 10.0)
        inside: dict[int, Member] = {}
        failed: list[Member] = []
        for step, number in steps:
            if step == "join" and number not in inside:
                inside[number] = Member()
                scope.join(inside[number])
            elif step == "leave" and number in inside:
                assert scope.leave(inside[number]) is True
                assert scope.leave(inside.pop(number)) is False
            elif step == "pass":
                clock.pass_(number)
                alarm.call_due()
            if clock.now() >= 10.0:
                alarm.call_due()
                failed += inside.values()
                inside.clear()
            assert set(scope._members) == set(inside.values())
            assert sum(bell.is_due for bell in alarm._handles) == bool(inside)
        assert all(len(member.errors) == 1 for member in failed)
        assert all(not member.errors for member in inside.values())


def test_who_waits_for_idleness_is_told_at_once_and_whenever_the_last_has_ended() -> None:
    scope = Scope(None)
    told: list[int] = []
    scope.begin("one")
    scope.begin("two")
    scope.when_idle(lambda: told.append(scope.running))
    assert told == [2]
    scope.end("two")
    assert told == [2]
    scope.end("one")
    assert told == [2, 0]
    scope.begin("one")
    scope.end("one")
    assert told == [2, 0, 0]


def test_what_has_ended_may_end_again_and_counts_once() -> None:
    """As whoever was interrupted does, and cannot know how far it came."""
    scope = Scope(None)
    scope.begin("one")
    scope.begin("one")
    scope.begin("two")
    scope.end("one")
    scope.end("one")
    assert scope.running == 1


def test_what_runs_in_a_scope_runs_in_those_around_it() -> None:
    outer = Scope(None)
    inner, told = Scope(Scope(outer)), list[str]()
    outer.when_idle(lambda: told.append("outer"))
    inner.when_idle(lambda: told.append("inner"))
    inner.begin("one")
    outer.begin("two")
    assert (inner.running, outer.running) == (1, 2)
    inner.end("one")
    assert (inner.running, outer.running) == (0, 1)
    outer.end("two")
    assert told == ["outer", "inner", "inner", "outer"]


def test_what_ran_when_the_process_forked_is_not_counted_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = Scope(None)
    scope.begin("one")
    scope.begin("two")
    monkeypatch.setattr("treadle._tasks.scope.os.getpid", lambda: -1)
    assert scope.running == 0
    scope.begin("the child's")
    scope.end("one")  # the function that forked has returned in the child
    assert scope.running == 1
    scope.end("the child's")
    assert scope.running == 0


@pytest.mark.parametrize(
    ("own", "others", "bound"), [(None, None, None), (None, 3, 3), (5, None, 5), (5, 3, 3), (5, 5, 5), (5, 8, 5)]
)
def test_the_nearer_deadline_bounds_what_belongs_to_one_scope_and_is_submitted_in_another(
    clock: FakeClock, own: float | None, others: float | None, bound: float | None
) -> None:
    scope, other = Scope(None, own), Scope(None, others)
    bounded = scope.bounded_by(other)
    assert bounded.left() == bounded.seconds == bound
    assert scope in (bounded, bounded.parent), "it is cancelled with its own"
    assert scope.bounded_by(None) is scope.bounded_by(scope) is scope
    inside = Scope(Scope(scope), 1)
    assert scope.bounded_by(inside) is inside


# -- which scope is current -----------------------------------------------------------------------------------------


def test_outside_of_everything_there_is_none() -> None:
    assert current() is None
    assert SCOPE.get() is None
    assert treadle.time_left() is None
    assert not treadle.should_stop()
    treadle.checkpoint()


def test_inside_a_block_it_is_the_blocks_and_afterwards_what_was_before(clock: FakeClock) -> None:
    with treadle.deadline(5):
        outer = current()
        with treadle.deadline(3):
            inner = current()
            assert inner is not None
            assert inner.parent is outer
            assert treadle.time_left() == 3
        assert current() is outer
        assert treadle.time_left() == 5
        with treadle.deadline(9):
            assert treadle.time_left() == 5
    assert current() is None


def test_a_block_that_raises_ends_its_deadline_too() -> None:
    with pytest.raises(ZeroDivisionError), treadle.deadline(5):
        _ = 1 / 0
    assert current() is None


def test_leaving_a_block_late_raises_nothing(clock: FakeClock) -> None:
    with treadle.deadline(1):
        clock.pass_(2)
        assert treadle.should_stop()
    assert not treadle.should_stop()


def test_the_time_begins_when_the_block_is_entered_each_time(clock: FakeClock) -> None:
    block = treadle.deadline(5)
    clock.pass_(100)
    for _ in range(2):
        with block:
            assert treadle.time_left() == 5
            clock.pass_(3)
            with block:
                assert treadle.time_left() == 2, "the outer one is nearer"
            assert treadle.time_left() == 2
    assert current() is None


def test_a_deadline_of_no_time_has_passed(clock: FakeClock) -> None:
    with treadle.deadline(0):
        assert treadle.time_left() == 0
        assert treadle.should_stop()
        with pytest.raises(DeadlineExceeded, match="the deadline of 0 s"):
            treadle.checkpoint()


def test_a_task_has_a_scope_of_its_own_below_the_one_it_was_submitted_in() -> None:
    with Pool(1) as pool:
        assert pool.submit(lambda: current() is current()).result(PATIENCE)
        assert pool.submit(lambda: current().parent).result(PATIENCE) is None  # type: ignore[union-attr]  # it has one
        with treadle.deadline(LONG):
            outer = current()
            first = pool.submit(current)
            second = pool.submit(current)
            assert first.result(PATIENCE).parent is outer  # type: ignore[union-attr]  # it has one
            assert second.result(PATIENCE).parent is outer  # type: ignore[union-attr]  # it has one
            assert first.result() is not second.result()


def test_a_block_inside_a_task_lies_within_the_tasks_own_scope() -> None:
    def task() -> bool:
        own = current()
        with treadle.deadline(LONG):
            inner = current()
            return inner is not None and inner is not own and inner.parent is own

    with Pool(1) as pool:
        assert pool.submit(task).result(PATIENCE)


def test_a_task_that_is_run_inside_another_has_its_own_scope_and_gives_way_again() -> None:
    def outer() -> list[Scope | None]:
        before = current()
        inner = pool.submit(current).result()
        return [before, inner, current()]

    with Pool(1) as pool:
        before, inner, after = pool.submit(outer).result(PATIENCE)
        assert before is after
        assert inner is not before


def test_a_task_that_its_submitter_runs_itself_has_its_own_scope_and_leaves_no_trace() -> None:
    gate = threading.Event()
    with Pool(1, queue_size=0, when_full="caller_runs") as pool:
        holding = pool.submit(gate.wait, PATIENCE)
        ident, scope = pool.submit(lambda: (threading.get_ident(), current())).result(PATIENCE)
        gate.set()
        assert holding.result(PATIENCE)
    assert ident == threading.get_ident()
    assert scope is not None
    assert HERE.tasks == ()
    assert current() is None


def test_a_task_run_inside_anothers_block_in_a_pool_without_contexts_has_its_own_scope() -> None:
    """What was submitted outside of the block does not run under the block's deadline, wherever it runs."""
    gate = threading.Event()
    lefts: list[float | None] = []

    def outer() -> None:
        assert gate.wait(PATIENCE)
        with treadle.deadline(LONG):
            stranger.result()  # is run here, since the only thread is this one

    with Pool(1, context=False) as pool:
        first = pool.submit(outer)
        stranger = pool.submit(lambda: lefts.append(treadle.time_left()))
        gate.set()
        first.result(PATIENCE)
    assert lefts == [None]


def test_a_callback_does_not_run_under_the_deadline_of_the_task_before_it() -> None:
    """It is nobody's task: whether it may wait has nothing to do with the time its future had."""
    gate = threading.Event()
    seen: list[tuple[float | None, bool]] = []
    with Pool(1) as pool:
        with treadle.deadline(LONG):
            future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(lambda _: seen.append((treadle.time_left(), treadle.should_stop())))
        assert future.request_cancel()
        gate.set()
    assert future.result(PATIENCE) is True
    assert seen == [(None, False)]


# -- sleep ----------------------------------------------------------------------------------------------------------


def test_sleep_outside_of_everything_is_an_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("treadle._base.clock.pause", slept.append)
    treadle.sleep(3)
    treadle.sleep(0)
    assert slept == [3, 0]


def test_sleep_sleeps_as_long_as_it_was_told() -> None:
    before = monotonic()
    with treadle.deadline(LONG):
        treadle.sleep(0.02)
    assert monotonic() - before >= 0.02


def test_sleep_ends_at_the_deadline() -> None:
    with treadle.deadline(0.02):
        outcome = Doing(treadle.sleep, LONG).outcome()
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.seconds == 0.02


def test_sleep_ends_when_it_is_cancelled() -> None:
    with treadle.deadline(LONG):
        scope = current()
        assert scope is not None
        sleeper = Doing(treadle.sleep, LONG)
        until(lambda: bool(scope.wakers))
        scope.cancel()
        assert isinstance(sleeper.outcome(), Cancelled)
        assert not scope.wakers


@pytest.mark.parametrize("seconds", [0, LONG])
def test_sleep_does_not_begin_when_there_is_no_point(clock: FakeClock, seconds: float) -> None:
    with treadle.deadline(1):
        clock.pass_(1)
        assert isinstance(Doing(treadle.sleep, seconds).outcome(), DeadlineExceeded)
    with treadle.deadline(LONG):
        scope = current()
        assert scope is not None
        scope.cancel()
        assert isinstance(Doing(treadle.sleep, seconds).outcome(), Cancelled)


def test_sleep_that_is_to_end_much_later_than_the_system_can_wait_goes_to_sleep() -> None:
    with treadle.deadline(1e12):
        scope = current()
        assert scope is not None
        sleeper = Doing(treadle.sleep, 1e12)
        until(lambda: bool(scope.wakers) or not sleeper.is_alive())
        scope.cancel()
        assert isinstance(sleeper.outcome(), Cancelled)


def test_two_that_cancel_one_sleeper_at_once_do_not_hurt_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes in when the first is about to wake the sleeper."""
    scope = Scope(None)

    class Scripted:
        def __init__(self) -> None:
            self.lock, self.overtaken = closed_latch(), False

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            return self.lock.acquire(blocking, timeout)

        def release(self) -> None:
            if not self.overtaken:
                self.overtaken = True
                scope.cancel()
            self.lock.release()

    monkeypatch.setattr(scope_module, "closed_latch", Scripted)

    def sleep() -> None:
        SCOPE.set(scope)
        treadle.sleep(LONG)

    sleeper = Doing(sleep)
    until(lambda: bool(scope.wakers))
    scope.cancel()
    assert isinstance(sleeper.outcome(), Cancelled)


# -- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [treadle.deadline, treadle.sleep])
@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (-1, ValueError),
        (-0.001, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_bad_seconds_are_named_with_what_is_allowed(
    function: Callable[[Any], object], seconds: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"seconds=.*allowed: .*seconds"):
        function(seconds)


def test_a_sleep_has_to_end_some_time() -> None:
    with pytest.raises(TypeError, match="seconds=None"):
        treadle.sleep(None)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("none", [None, math.inf])
def test_no_deadline_is_the_surrounding_one_if_there_is_any(clock: FakeClock, none: float | None) -> None:
    with treadle.deadline(none):
        assert treadle.time_left() is None
        assert not treadle.should_stop()
        with treadle.deadline(3.0), treadle.deadline(none):
            assert treadle.time_left() == 3.0
            clock.pass_(4.0)
            assert treadle.should_stop()
        assert not treadle.should_stop()


def test_the_repr_of_a_deadline_tells_its_seconds() -> None:
    assert repr(treadle.deadline(2)) == "deadline(2.0)"
    assert repr(treadle.deadline(None)) == "deadline(None)"

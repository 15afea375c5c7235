"""Adaptive: first in, first out; under standing delay newest first, and the rest is shed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import FakeClock
from orders.tasks import task_of
from treadle._tasks.future import CANCELLED_AND_NOTIFIED
from treadle.orders import Adaptive


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def put(order: Adaptive, clock: FakeClock, count: int = 1) -> list[Any]:
    tasks = [task_of(submitted=clock.now()) for _ in range(count)]
    for task in tasks:
        order.put(task)
    return tasks


def take(order: Adaptive) -> tuple[list[Any], Any]:
    """What is shed, and what is taken, when a worker comes."""
    return list(order.stale()), order.take() if order.ready() else None


def test_while_the_head_is_in_time_it_is_first_in_first_out_and_nothing_is_shed(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    for _ in range(1000):  # a hundred times the interval, and never empty
        tasks = put(order, clock, 3)
        clock.pass_(0.004)
        assert [take(order) for _ in range(2)] == [([], tasks[0]), ([], tasks[1])]
        order.purge(lambda task: False)


def test_a_burst_that_is_over_within_the_interval_is_served_whole(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    tasks = put(order, clock, 90)
    for task in tasks:
        assert take(order) == ([], task)
        clock.pass_(0.001)


def test_when_the_head_was_late_for_an_interval_the_newest_runs_and_the_late_are_shed(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    order.threads = 2
    old = put(order, clock, 10)
    clock.pass_(0.006)
    assert take(order) == ([], old[0])
    clock.pass_(0.101)
    fresh = put(order, clock, 3)
    assert take(order) == (old[1:], fresh[2])
    assert take(order) == ([], fresh[1])


def test_as_many_of_the_newest_as_there_are_threads_are_kept_however_old(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.0)
    order.threads = 4
    old = put(order, clock, 10)
    clock.pass_(1.0)
    assert take(order) == ([], old[0])
    clock.pass_(1.0)
    assert take(order) == (old[1:6], old[9])
    assert list(order._tasks) == old[6:9]


def test_when_it_has_been_empty_it_is_first_in_first_out_again(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    for _ in range(3):
        put(order, clock)
        clock.pass_(0.2)
    take(order)
    clock.pass_(0.2)
    take(order)
    assert not order._tasks
    clock.pass_(100.0)
    fresh = put(order, clock, 3)
    assert [take(order) for _ in fresh] == [([], task) for task in fresh]


def test_a_queue_that_stood_lately_stands_again_after_a_short_delay(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    put(order, clock, 5)
    clock.pass_(0.2)
    take(order)
    clock.pass_(0.2)
    take(order)
    while order._tasks:
        take(order)
    late = put(order, clock, 5)
    clock.pass_(0.006)
    assert take(order) == ([], late[0])
    clock.pass_(0.006)  # much less than the interval
    assert take(order) == (late[1:4], late[4])


STEPS = st.lists(st.one_of(st.integers(1, 5), st.sampled_from([0.0, 0.001, 0.01, 0.2])), max_size=80)


@given(steps=STEPS, threads=st.integers(1, 4))
def test_only_late_tasks_are_shed_from_the_old_end_and_never_the_last_ones(steps: list[Any], threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch)
        order = Adaptive(target=0.005, interval=0.1)
        order.threads = threads
        model: list[Any] = []
        for step in steps:
            if isinstance(step, int):
                model += put(order, clock, step)
            else:
                clock.pass_(step)
            shed, taken = take(order)
            assert shed == model[: len(shed)]
            assert all(clock.now() - task._submitted > order._target for task in shed)
            model = model[len(shed) :]
            if shed:
                assert len(model) >= threads
            if taken is not None:
                assert taken is model[-1] or not (shed or order.standing)
                assert taken in (model[0], model[-1])
                model.remove(taken)
            assert list(order._tasks) == model


def test_what_goes_on_later_goes_behind_the_others(clock: FakeClock) -> None:
    order = Adaptive()
    first, second = put(order, clock, 2)
    order.put_again(again := task_of(submitted=clock.now()))
    assert [order.take(), order.take(), order.take()] == [first, second, again]
    put(order, clock, 2)
    order._standing = True
    order.put_again(again)
    assert order._tasks[0] is again  # behind, where the newest comes first


@pytest.mark.parametrize("arguments", [{"target": -1}, {"interval": "1"}, {"target": float("inf")}])
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        Adaptive(**arguments)


@given(steps=st.lists(st.one_of(st.integers(1, 5), st.just("take"), st.floats(0, 0.05)), min_size=20, max_size=60))
def test_in_less_than_an_interval_nothing_is_shed_and_the_first_comes_first(steps: list[Any]) -> None:
    """No head can be late for an interval then, though a target of 0 makes each one late at once."""
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch)
        order = Adaptive(target=0.0, interval=1.0)
        model: list[Any] = []
        passed = 0.0
        for step in steps:
            if isinstance(step, int):
                model += put(order, clock, step)
            elif step == "take":
                assert take(order) == ([], model.pop(0) if model else None)
            elif passed + step < 0.99:
                clock.pass_(step)
                passed += step
            assert list(order._tasks) == model
            assert order.ready() == bool(model)


class Rule:
    """The rule written out over all the looks there were, instead of step by step."""

    def __init__(self, target: float, interval: float, threads: int) -> None:
        self.target, self.interval, self.threads = target, interval, threads
        self.tasks: list[Any] = []
        self.looks: list[tuple[float, bool]] = []  # when, and whether the head was late; since it was last in time
        self.standing = False
        self.stood_until: list[float] = []

    def stop(self, now: float) -> None:
        self.looks.clear()
        if self.standing:
            self.standing = False
            self.stood_until.append(now)

    def look(self, now: float) -> list[Any]:
        """What is to be shed."""
        if len(self.tasks) <= 1:  # there is no queue once that one is taken
            self.stop(now)
            return []
        self.looks.append((now, now - self.target > self.tasks[0]._submitted))
        if not self.standing:
            while self.looks and not self.looks[-1][1]:
                self.looks.clear()
            lately = any(now - until < 16 * self.interval for until in self.stood_until)
            long = min(self.target, self.interval) if lately else self.interval
            self.standing = bool(self.looks) and now - self.looks[0][0] > long
        if not self.standing:
            return []
        late = [task for task in self.tasks[: -self.threads] if now - self.target > task._submitted]
        self.tasks = [task for task in self.tasks if task not in late]
        return late

    def take(self, now: float) -> Any:
        if not self.standing:
            return self.tasks.pop(0)
        task = self.tasks.pop()
        if not self.tasks:
            self.stop(now)
        return task


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(1, 3)),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([1, 2, 4, 16, 100])),
        st.tuples(st.just("evict"), st.just(0)),
        st.tuples(st.just("purge"), st.integers(0, 99)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
    ),
    min_size=30,  # else hypothesis makes them about five long, and little ever meets
    max_size=100,
)


@given(
    steps=CHANGES,
    target=st.sampled_from([0, 1, 8]),
    interval=st.sampled_from([0, 4, 16]),
    threads=st.integers(1, 4),
)
def test_it_does_what_the_rule_says(steps: list[Any], target: int, interval: int, threads: int) -> None:
    """In sixteenths of a second, so that all sums are exact. What empties the queue at a blow has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch)
        order, rule = Adaptive(target / 16, interval / 16), Rule(target / 16, interval / 16, threads)
        order.threads = threads
        for step, value in steps:
            if step == "put":
                rule.tasks += put(order, clock, value)
            elif step == "pass":
                clock.pass_(value / 16)
            elif step == "take":
                for _ in range(value):
                    assert list(order.stale()) == rule.look(clock.now())
                    if rule.tasks:
                        assert order.take() is rule.take(clock.now())
            elif step == "look":  # at a full queue
                assert list(order.stale()) == rule.look(clock.now())
            elif step == "cancel" and rule.tasks:
                rule.tasks[value % len(rule.tasks)]._state = CANCELLED_AND_NOTIFIED  # it stays where it is
            elif step == "evict" and len(rule.tasks) > 1:
                assert order.evict(task_of()) is rule.tasks.pop(0)
            elif step == "purge" and len(rule.tasks) > 1:
                doomed = rule.tasks.pop(value % len(rule.tasks))
                order.purge(lambda task, doomed=doomed: task is not doomed)  # type: ignore[misc]  # a default
            assert list(order._tasks) == rule.tasks
            assert len(order) == len(rule.tasks)
            assert order.ready() == bool(rule.tasks)


def make_it_stand(order: Adaptive, clock: FakeClock, count: int) -> list[Any]:
    """Put `count` tasks and have them look at long enough, before anything is shed."""
    tasks = put(order, clock, count)
    clock.pass_(order._target + 1.0)
    assert list(order.stale()) == []
    clock.pass_(order._interval + 1.0)
    return tasks


@pytest.mark.parametrize("how", ["purged", "evicted"])
def test_a_queue_that_was_emptied_at_a_blow_is_first_in_first_out_again(how: str, clock: FakeClock) -> None:
    """Once the queue has been empty, all is as before: also if those who waited have cancelled, or were discarded."""
    order = Adaptive(target=0.005, interval=0.1)
    old = make_it_stand(order, clock, 5)
    assert take(order) == (old[:4], old[4])
    old = make_it_stand(order, clock, 5)
    order.stale()
    assert order.standing
    if how == "purged":
        order.purge(lambda task: False)
    else:
        while order._tasks:
            order.evict(task_of())
    clock.pass_(100.0)
    fresh = put(order, clock, 5)
    assert [take(order) for _ in fresh] == [([], task) for task in fresh]


def test_it_keeps_the_newest_of_those_that_are_late_and_takes_the_newest_first(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    order.threads = 3
    old = make_it_stand(order, clock, 9)
    assert take(order) == (old[:6], old[8])
    assert take(order) == ([], old[7])
    assert take(order) == ([], old[6])
    assert not order.standing


def test_a_task_that_was_put_again_at_the_old_end_keeps_no_other_from_being_shed(clock: FakeClock) -> None:
    """A map's turn goes there when it makes way, and has not waited long; it is taken when nothing else is left."""
    order = Adaptive(target=0.005, interval=0.0)
    order.threads = 2
    put(order, clock, 3)
    clock.pass_(1.0)
    take(order)
    put(order, clock, 5)
    clock.pass_(1.0)
    _, turn = take(order)
    assert order.standing
    waiting = put(order, clock, 3)
    clock.pass_(1.0)
    turn._submitted = clock.now()
    order.put_again(turn)
    newest = put(order, clock)
    shed, taken = take(order)
    assert set(waiting) <= set(shed)
    assert [taken] == newest
    assert order.take() is turn


def test_what_was_taken_before_its_time_runs_next_and_is_not_stale(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    (early,) = put(order, clock)
    assert take(order) == ([], early)
    others = put(order, clock, 5)
    clock.pass_(1.0)
    order.put_first(early)
    assert take(order) == ([], early)
    clock.pass_(0.2)
    order.put_first(early)
    shed, taken = take(order)
    assert taken is early, "also as the queue is found to stand"
    assert shed == others
    others = put(order, clock, 5)
    order._standing = True
    clock.pass_(1.0)
    order.put_first(early)
    assert take(order) == (others, early)


def test_what_is_put_first_over_and_over_does_not_hide_that_the_queue_stands(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    others, dropped = put(order, clock, 20), list[Any]()
    early = task_of()
    for _ in range(10):
        clock.pass_(0.02)
        order.put_first(early)
        shed, taken = take(order)
        assert taken is early
        dropped += shed
    assert dropped == others


def test_the_delay_is_over_when_the_queue_is_empty_though_nobody_looked(clock: FakeClock) -> None:
    """As when its last tasks were cancelled, or run elsewhere: those are taken without asking what is stale."""
    order = Adaptive(target=0.005, interval=0.1)
    put(order, clock, 3)
    clock.pass_(0.01)
    take(order)
    assert order._late_since is not None
    order.take()
    order.take()
    clock.pass_(1.0)
    put(order, clock, 3)
    clock.pass_(0.01)
    assert take(order)[0] == []
    assert not order.standing

"""Priority: the most urgent first, and whatever waits grows more urgent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.tasks import task_of
from treadle._tasks.future import CANCELLED_AND_NOTIFIED, PENDING
from treadle.orders import Priority

ARRIVALS = st.lists(st.tuples(st.integers(-5, 5), st.floats(0, 3), st.booleans()), max_size=80)


@given(arrivals=ARRIVALS, age=st.sampled_from([0.1, 1.0, 10.0]))
def test_it_is_a_sorted_list_of_due_times(arrivals: list[Any], age: float) -> None:
    order, model, now = Priority(age), [], 0.0
    for number, (priority, passing, take) in enumerate(arrivals):
        now += passing
        task = task_of(priority=priority, submitted=now)
        order.put(task)
        model.append((now - priority * age, -priority, number, task))
        if take:
            first = min(model, key=lambda entry: entry[:3])
            model.remove(first)
            assert order.take() is first[3]
    for *_, task in sorted(model, key=lambda entry: entry[:3]):
        assert order.take() is task
    assert not order.ready()


def test_equals_come_out_in_the_order_they_came() -> None:
    order = Priority()
    tasks = [task_of(priority=3, submitted=7.0) for _ in range(5)]
    for task in tasks:
        order.put(task)
    assert [order.take() for _ in tasks] == tasks


def test_the_lowest_runs_before_what_was_submitted_later_than_the_bound_says() -> None:
    order = Priority(age=2.0)
    lowest = task_of(priority=-1, submitted=0.0)
    order.put(lowest)
    just_before = task_of(priority=4, submitted=9.9)
    after = task_of(priority=4, submitted=10.1)
    order.put(just_before)
    order.put(after)
    assert [order.take() for _ in range(3)] == [just_before, lowest, after]


def test_of_the_least_urgent_the_oldest_is_given_up() -> None:
    order = Priority()
    tasks = [task_of(priority=priority, submitted=float(number)) for number, priority in enumerate([5, -2, -2, 0])]
    for task in tasks:
        order.put(task)
    assert [order.evict(task_of(priority=9)) for _ in tasks] == [tasks[1], tasks[2], tasks[3], tasks[0]]


@pytest.mark.parametrize("age", [0, -1, float("inf"), float("nan"), "1", True])
def test_age_is_a_number_of_more_than_0(age: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"age=.* more than 0"):
        Priority(age)


# Quarters of seconds, and ages that are powers of two: all sums are exact, so nothing hangs on rounding.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(-3, 3)),
        st.tuples(st.just("pass"), st.integers(0, 12)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("evict"), st.integers(-3, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
        st.tuples(st.just("purge"), st.integers(-3, 3)),
    ),
    min_size=30,  # else hypothesis makes them about five long, and little ever meets
    max_size=100,
)


def goes_before(task: Any, other: Any, age: float) -> bool:
    """The bound as the class states it, and of equals the one that came first (tasks are listed as they came)."""
    later = other._submitted - task._submitted
    return bool(later > (other.priority - task.priority) * age)


@given(steps=STEPS, age=st.sampled_from([0.25, 1.0, 4.0]))
def test_whatever_happens_nobody_is_passed_over_beyond_the_bound(steps: list[Any], age: float) -> None:
    order, waiting, now = Priority(age), [], 0.0
    for step, value in steps:
        if step == "put":
            order.put(task := task_of(priority=value, submitted=now))
            waiting.append(task)
        elif step == "pass":
            now += value / 4
        elif step == "take" and order.ready():
            taken: Any = order.take()
            assert not [task for task in waiting if goes_before(task, taken, age)]
            assert taken is next(task for task in waiting if task._options == taken._options), "the first of its equals"
            waiting.remove(taken)
        elif step == "evict" and waiting:
            lowest = min(task.priority for task in waiting)
            victim = next(task for task in waiting if task.priority == lowest)
            assert order.evict(task_of(priority=value)) is victim
            waiting.remove(victim)
        elif step == "cancel" and waiting:
            waiting[value % len(waiting)]._state = CANCELLED_AND_NOTIFIED  # it stays where it is until it is purged
        elif step == "purge":
            order.purge(lambda task, value=value: task._state is PENDING and task.priority != value)  # type: ignore[misc]  # a default
            waiting = [task for task in waiting if task._state is PENDING and task.priority != value]
        assert len(order) == len(waiting)
        assert sorted(map(id, order._tasks)) == sorted(map(id, waiting))
        assert order.ready() == bool(waiting)


def test_the_least_urgent_of_all_waits_no_longer_than_the_bound_in_a_flood_of_the_most_urgent() -> None:
    """It is 2000 priorities lower, so it goes before all that came more than 2000 times `age` after it."""
    order = Priority(age=0.5)
    order.put(lowest := task_of(priority=-1000, submitted=0.0))
    now, before = 0.0, 0
    while True:
        now += 1.0
        order.put(task_of(priority=1000, submitted=now))
        order.put(task_of(priority=1000, submitted=now))
        if order.take() is lowest:
            break
        before += 1
    # Two a second came and one a second ran, so when those of the first 1000 s have gone, 2000 s have passed.
    assert before == 2000


def test_one_priority_alone_that_goes_on_for_long_does_not_lose_its_place() -> None:
    """When a level stands alone nobody asks when it is due; that must be found out when another comes."""
    order = Priority(age=1.0)
    for number in range(100):
        order.put(task_of(priority=1, submitted=float(number)))
        if number >= 10:
            order.take()
    order.put(other := task_of(priority=5, submitted=92.5))  # due at 87.5; those of 1 that are left at 89.0, 90.0, ...
    assert order.take() is other


def test_what_was_taken_before_its_time_is_due_when_it_was() -> None:
    """Or what came after it, and is as urgent, would run before it: the bound on waiting would not hold."""
    order = Priority(age=1.0)
    order.put(first := task_of(submitted=1.0))
    assert order.take() is first
    order.put(urgent := task_of(priority=2, submitted=2.5))
    order.put(equal := task_of(submitted=2.0))
    order.put(late := task_of(priority=2, submitted=4.5))
    order.put_first(first)
    assert [order.take() for _ in range(4)] == [urgent, first, equal, late]

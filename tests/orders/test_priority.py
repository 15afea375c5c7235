"""Priority: the most urgent first, and whatever waits grows more urgent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.tasks import task_of
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
    assert not order.ready


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

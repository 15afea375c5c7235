"""What every order owes a pool, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import FakeClock
from orders.tasks import task_of
from treadle.orders import Adaptive, Fair, Fifo, Priority
from treadle.orders._order import Own

KINDS: list[Callable[[], Own]] = [
    Fifo,
    Priority,
    Fair,
    Adaptive,
    lambda: Fair({1: 2.5}, max_running=2, max_waiting=3),
]
STEPS = st.lists(st.tuples(st.sampled_from(["put", "take", "evict", "purge"]), st.integers(0, 3)), max_size=60)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS)
def test_what_goes_in_comes_out_once_and_the_length_is_right(kind: Callable[[], Any], steps: list[Any]) -> None:
    order = kind()
    inside: set[Any] = set()
    for number, (step, value) in enumerate(steps):
        if step == "put":
            task = task_of(priority=value, key=value, submitted=float(number))
            order.put(task)
            inside.add(task)
        elif step == "take" and order.ready():
            task = order.take()
            inside.remove(task)
            if value:
                order.ended(task)
        elif step == "evict" and order._tasks:
            inside.remove(order.evict(task_of(key=value)))
        elif step == "purge":
            order.purge(lambda task, value=value: task.key != value)
            inside = {task for task in inside if task.key != value}
        assert len(order) == len(inside)
        assert set(order._tasks) == inside
        assert bool(inside) >= order.ready()


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing_to_evict_in_an_empty_one(kind: Callable[[], Any]) -> None:
    with pytest.raises(IndexError):
        kind().evict(task_of())


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_how_many_wait(kind: Callable[[], Any]) -> None:
    order = kind()
    order.put(task_of())
    assert "1 waiting" in repr(order)


# Else hypothesis makes them about five long, and little ever meets.
LONG_STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "take", "evict", "purge"]), st.integers(0, 3)),
    min_size=30,
    max_size=100,
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_taken_before_its_time_runs_before_what_came_after_it(
    kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those among each other as they came, in whatever order they may begin."""
    FakeClock(monkeypatch)
    order = kind()
    tasks = [task_of(submitted=1000.0 + number / 1000, name=str(number)) for number in range(8)]
    for task in tasks[:6]:
        order.put(task)
    early = [order.take() for _ in range(2)]
    for task in early:
        order.ended(task)
    for task in tasks[6:]:
        order.put(task)
    for task in early if isinstance(order, Adaptive) else reversed(early):
        order.put_first(task)
    taken = []
    while order.ready():
        taken.append(order.take())
        order.ended(taken[-1])
    assert [task.name for task in taken] == [task.name for task in tasks]
    order.put_first(early[0])
    assert (len(order), order.take()) == (1, early[0])


@pytest.mark.parametrize("kind", KINDS)
@given(steps=LONG_STEPS)
def test_of_equals_the_first_comes_first_whatever_was_evicted_or_purged(
    kind: Callable[[], Any], steps: list[Any]
) -> None:
    """For `purge` leaves the others in their order, and `evict` gives up the oldest."""
    order = kind()
    inside: list[Any] = []

    def is_first_of_its_equals(task: Any) -> bool:
        return task is next(other for other in inside if other._traits == task._traits)

    for number, (step, value) in enumerate(steps):
        if step == "put":
            order.put(task := task_of(priority=value, key=value, submitted=float(number)))
            inside.append(task)
        elif step == "take" and order.ready():
            task = order.take()
            assert is_first_of_its_equals(task)
            inside.remove(task)
        elif step == "evict" and inside:
            task = order.evict(task_of(key=value))
            assert is_first_of_its_equals(task)
            inside.remove(task)
        elif step == "purge" and inside:
            doomed = inside.pop(value % len(inside))
            order.purge(lambda task, doomed=doomed: task is not doomed)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=LONG_STEPS)
def test_what_the_pool_has_kept_of_it_stays_true(kind: Callable[[], Own], steps: list[Any]) -> None:
    """A pool asks once for `tasks`, `ready`, `put` and `take`, for they are needed for every task."""
    order = kind()
    tasks, ready, put, take = order._handles()
    for step, value in steps:
        if step == "put":
            put(task_of(priority=value, key=value))
        elif step == "take" and ready:
            take()
        elif step == "evict" and tasks:
            order.evict(task_of(key=value))
        elif step == "purge":
            order.purge(lambda task, value=value: task.key == value)  # type: ignore[misc]  # a default
        assert order._handles()[:2] == (tasks, ready)
        assert order.ready() == bool(ready)
        assert len(order) == len(tasks) == len(list(tasks))

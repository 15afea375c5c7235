"""Fair: one key's tasks after another's."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.tasks import task_of
from treadle.futures import RUNNING
from treadle.orders import Fair

STEPS = st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=100)


@given(steps=STEPS, weights=st.dictionaries(st.integers(0, 3), st.sampled_from([1, 1.5, 2, 3.25])))
def test_it_goes_round_by_round(steps: list[Any], weights: dict[Any, float]) -> None:
    """The model: keys in a ring; at its turn each gets its weight added to what it has left, and runs whole tasks."""
    order = Fair(weights)
    ring: deque[int] = deque()
    credit: dict[int, float] = {}
    waiting: dict[int, deque[Any]] = {}
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            task = task_of(key=step)
            order.put(task)
            if step not in waiting:
                waiting[step] = deque()
                ring.append(step)
                credit[step] = weights.get(step, 1)
            waiting[step].append(task)
        elif ring:
            key = ring[0]
            credit[key] -= 1
            assert order.take() is waiting[key].popleft()
            if not waiting[key]:
                del waiting[ring.popleft()]
            elif credit[key] < 1:
                credit[key] += weights.get(key, 1)
                ring.rotate(-1)
    assert bool(order.ready) == bool(ring)


def test_ten_thousand_tasks_of_one_delay_the_first_of_another_by_one_round() -> None:
    order = Fair({"third": 2})
    for _ in range(10_000):
        order.put(task_of(key="flood"))
    for _ in range(5):
        order.put(task_of(key="third"))
    late = task_of(key="other")
    order.put(late)
    before = []
    while (task := order.take()) is not late:
        before.append(task._traits.key)
    assert before == ["flood", "third", "third"]


def test_no_key_runs_more_at_once_than_allowed_and_the_others_go_on() -> None:
    order = Fair(max_running=2)
    for _ in range(3):
        order.put(task_of(key="a"))
    order.put(task_of(key="b"))
    running = [order.take() for _ in range(3)]
    assert sorted(str(task._traits.key) for task in running) == ["a", "a", "b"]
    assert len(order.tasks) == 1
    assert not order.ready
    assert order.ended is not None
    order.ended(next(task for task in running if task._traits.key == "b"))
    assert not order.ready
    order.ended(next(task for task in running if task._traits.key == "a"))
    assert order.take()._traits.key == "a"


def test_a_task_that_is_not_run_when_it_is_taken_holds_no_place() -> None:
    order = Fair(max_running=1)
    dead, alive = task_of(key="a"), task_of(key="a")
    order.put(dead)
    order.put(alive)
    dead._state = RUNNING  # somewhere else
    assert [order.take(), order.take()] == [dead, alive]
    assert order.ended is not None
    order.ended(dead)
    order.ended(alive)
    assert not order.flows


def test_a_key_is_full_at_its_own_ceiling_and_gives_up_its_own_oldest() -> None:
    order = Fair(max_waiting=2)
    first, second = task_of(key="a"), task_of(key="a")
    others = [task_of(key="b") for _ in range(2)]
    for task in (first, second, *others[:1]):
        order.put(task)
    assert order.full is not None
    assert order.full(task_of(key="a"))
    assert not order.full(task_of(key="b"))
    assert not order.full(task_of(key="c"))
    assert order.evict(task_of(key="a")) is first
    assert order.evict(task_of(key="c")) in (second, others[0])


def test_the_longest_queue_gives_up_its_oldest_for_a_newcomer() -> None:
    order = Fair()
    first = task_of(key="flood")
    order.put(task_of(key="quiet"))
    order.put(first)
    order.put(task_of(key="flood"))
    assert order.evict(task_of(key="quiet")) is first


@pytest.mark.parametrize(
    "arguments", [{"weights": {"a": 0.5}}, {"weights": {"a": "2"}}, {"max_running": 0}, {"max_waiting": -1}]
)
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        Fair(**arguments)

"""What every order owes a pool, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.tasks import task_of
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority

KINDS: list[Callable[[], Order]] = [
    Fifo,
    Priority,
    Fair,
    Adaptive,
    lambda: Fair({1: 2.5}, max_running=2, max_waiting=3),
]
STEPS = st.lists(st.tuples(st.sampled_from(["put", "take", "evict", "purge"]), st.integers(0, 3)), max_size=60)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS)
def test_what_goes_in_comes_out_once_and_the_length_is_right(kind: Callable[[], Order], steps: list[Any]) -> None:
    order = kind()
    inside: set[Any] = set()
    for number, (step, value) in enumerate(steps):
        if step == "put":
            task = task_of(priority=value, key=value, submitted=float(number))
            order.put(task)
            inside.add(task)
        elif step == "take" and order.ready:
            task = order.take()
            inside.remove(task)
            if hasattr(order, "ended") and value:
                order.ended and order.ended(task)
        elif step == "evict" and order.tasks:
            inside.remove(order.evict(task_of(key=value)))
        elif step == "purge":
            order.purge(lambda task, value=value: task._traits.key != value)  # type: ignore[misc]  # a default
            inside = {task for task in inside if task._traits.key != value}
        assert len(order.tasks) == len(inside)
        assert set(order.tasks) == inside
        assert bool(inside) >= bool(order.ready)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing_to_evict_in_an_empty_one(kind: Callable[[], Order]) -> None:
    with pytest.raises(IndexError):
        kind().evict(task_of())


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_how_many_wait(kind: Callable[[], Order]) -> None:
    order = kind()
    order.put(task_of())
    assert "1 waiting" in repr(order)

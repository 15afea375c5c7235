"""Fifo: first in, first out."""

from __future__ import annotations

import pytest

from treadle import Future
from treadle.orders import Fifo


def test_tasks_come_out_in_the_order_they_came() -> None:
    order = Fifo()
    tasks: list[Future[None]] = [Future() for _ in range(4)]
    for task in tasks:
        order.put(task)
    assert order.take() is tasks[0]
    assert order.evict(Future()) is tasks[1]
    order.purge(lambda task: task is not tasks[2])
    assert list(order._tasks) == [tasks[3]]
    order.take()
    with pytest.raises(IndexError):
        order.take()


def test_a_victim_that_was_taken_before_it_is_dropped_takes_nobody_with_it() -> None:
    """A signal handler may wait just then for those that take tasks."""
    order = Fifo()
    tasks: list[Future[None]] = [Future() for _ in range(2)]
    for task in tasks:
        order.put(task)
    victim = order._victim(Future())
    assert order.take() is victim
    order._drop(victim)
    assert list(order._tasks) == tasks[1:]
    assert order.take() is tasks[1]
    order._drop(victim)

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

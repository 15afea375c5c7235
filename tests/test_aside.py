"""Aside: tasks of a pool that wait beside its order."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from clocks import FakeClock
from orders.tasks import task_of
from treadle import Pool, Rate
from treadle.governed import Governed, new_task
from treadle.traits import PLAIN


def test_a_task_without_a_rate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        dispatcher = pool._dispatcher
        task = new_task(dispatcher, int, (), pool.options()._task(int, (), {})._context, PLAIN)
        with dispatcher.lock:
            assert not dispatcher.aside.park(task)
            assert not dispatcher.aside.leave(task)
        task._forget_call()


def test_a_task_that_waits_takes_up_room_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch)
    rate = Rate(1.0)
    with Pool(1, queue_size=3) as pool:
        dispatcher = pool._dispatcher
        task = pool.options(rate=rate)._task(int, (), {})
        assert isinstance(task, Governed)
        rate._tokens = 0.0
        assert not task._ready()
        room = dispatcher.room
        with dispatcher.lock:
            assert dispatcher.aside.park(task)
            assert (dispatcher.room, dispatcher.waiting()) == (room - 1, 1)
            assert dispatcher.aside.leave(task)
            assert (dispatcher.room, dispatcher.waiting()) == (room, 0)
        task._forget_call()


def test_a_task_that_was_called_before_it_came_goes_back_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate may call it between the moment it is refused and the moment it is put aside."""
    FakeClock(monkeypatch)
    rate = Rate(1.0)
    with Pool(1) as pool:
        task = pool.options(rate=rate)._task(int, (), {})
        assert isinstance(task, Governed)
        rate._tokens = 0.0
        assert not task._ready()
        rate._tokens = 1.0
        rate._call()
        order: deque[Any] = pool._dispatcher.order.tasks  # type: ignore[assignment]  # Fifo's
        with pool._dispatcher.lock:
            order.append(newer := task_of(submitted=task._submitted + 1))
            assert pool._dispatcher.aside.park(task)
            assert list(order) == [task, newer]
            order.clear()
        task._forget_call()

"""Aside: tasks of a pool that wait beside its order."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

import treadle
from blocked import until_noted
from clocks import FakeClock
from orders.tasks import task_of
from treadle import Future, Pool, Rate, TaskGroup
from treadle._dispatch.workers import Workers
from treadle._tasks.options import PLAIN
from treadle._tasks.rate import Bucket
from treadle._tasks.scoped import ScopedTask, new_task


def test_a_task_without_a_rate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        task = new_task(dispatcher, int, (), pool.options()._task_made(int, (), {})._context, PLAIN)
        with dispatcher.lock:
            assert not dispatcher.aside.park(task)
            assert not dispatcher.aside.leave(task)
        task._forget_call()


def test_a_task_that_waits_takes_up_room_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch)
    rate = Rate(1.0)
    with Pool(1, queue_size=3) as pool:
        dispatcher = pool._task_dispatcher
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        rate._bucket._tokens = 0.0
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
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        rate._bucket._tokens = 0.0
        assert not task._ready()
        rate._bucket._tokens = 1.0
        rate._bucket._call()
        order: deque[Any] = pool._task_dispatcher.order._tasks  # type: ignore[attr-defined]  # Fifo's
        with pool._task_dispatcher.lock:
            order.append(newer := task_of(submitted=task._submitted + 1))
            assert pool._task_dispatcher.aside.park(task)
            assert list(order) == [task, newer]
            order.clear()
        task._forget_call()


class Asked(Rate):
    """One task in a thousand seconds, of which the first is gone; it answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(0.001)
        self._bucket.admit = self.admit  # type: ignore[method-assign]  # that is the point
        self.asked, self.answer = threading.Event(), threading.Event()
        self._bucket._tokens = 0.0

    def admit(self, task: Future[Any]) -> bool:
        self.asked.set()
        assert self.answer.wait(30)
        return Bucket.admit(self._bucket, task)


@pytest.mark.parametrize("how", ["result", "wait", "group"])
def test_a_task_that_a_worker_came_to_run_while_its_rate_was_asked_is_not_kept(how: str) -> None:
    """A worker that comes a moment earlier, or later, runs it itself, whatever its rate."""
    rate, pool = Asked(), Pool(2)
    view = pool.options(rate=rate)

    def outer() -> int:
        if how == "group":
            with TaskGroup(view) as group:
                inner = group.submit(abs, -1)
                assert rate.asked.wait(30)
        else:
            inner = view.submit(abs, -1)
            assert rate.asked.wait(30)
        if how == "wait":
            treadle.wait([inner])
        return inner.result()

    task = pool.submit(outer)
    try:
        until_noted(1)
        rate.answer.set()
        assert task.result(10) == 1
    finally:
        task.request_cancel()  # or the pool would wait for its rate
        pool.shutdown(cancel_futures=True)


def test_a_task_that_is_called_when_no_thread_can_start_is_back_in_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the alarm goes on with the next, for whose turn it is as well."""
    FakeClock(monkeypatch)
    rate = Rate(1.0)

    def refuse(staff: Workers, first: Any = None) -> None:
        raise RuntimeError("can't start new thread")

    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        rate._bucket._tokens = 0.0
        assert not task._ready()
        try:
            with dispatcher.lock:
                assert dispatcher.aside.park(task)
                with monkeypatch.context() as patch:
                    patch.setattr(Workers, "start_worker", refuse)
                    dispatcher.aside.resume(task)
                assert list(dispatcher.queue.tasks) == [task]
        finally:
            task.cancel()


def test_a_closed_pool_lets_its_threads_go_when_the_last_task_that_waits_for_its_rate_is_cancelled() -> None:
    pool = Pool(1, rate=Rate(0.001), idle_timeout=None)
    pool.submit(int).result(30)
    late = pool.submit(int)
    (thread,) = pool._threads
    try:
        while not pool._task_dispatcher.queue.throttled or not pool._task_dispatcher.entrance.idle:
            threading.Event().wait(0.001)
        pool.shutdown(wait=False)
        while not pool._task_dispatcher.entrance.idle:  # it was woken, and stays for what waits
            threading.Event().wait(0.001)
        assert late.cancel()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        with pool._task_dispatcher.lock:
            pool._task_dispatcher.workers.wake_all()


def test_a_closed_pool_lets_every_thread_go_when_the_last_task_that_waited_for_its_rate_comes() -> None:
    """One of them runs it, and the others have nothing to stay for."""
    rate, together = Rate(0.001), threading.Barrier(2)
    rate._bucket._tokens = 0.0
    pool = Pool(2, idle_timeout=None)
    for future in [pool.submit(together.wait, 30) for _ in range(2)]:
        future.result(30)
    dispatcher, threads = pool._task_dispatcher, pool._threads
    try:
        late = pool.options(rate=rate).submit(int)
        while not dispatcher.queue.throttled or len(dispatcher.entrance.idle) < 2:
            threading.Event().wait(0.001)
        pool.shutdown(wait=False)
        while len(dispatcher.entrance.idle) < 2:  # they were woken, and stay for what waits
            threading.Event().wait(0.001)
        rate._bucket._disarm()
        rate._bucket._tokens = 1.0
        rate._bucket._call()
        assert late.result(30) == 0
        for thread in threads:
            thread.join(20)
        assert not [thread for thread in threads if thread.is_alive()]
    finally:
        with dispatcher.lock:
            dispatcher.workers.wake_all()

"""The queue: what waits in the order, beside it, or in the hands of strangers."""

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
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.queue import TaskQueue
from treadle._tasks.future import CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from treadle._tasks.options import PLAIN
from treadle._tasks.rate import Bucket
from treadle._tasks.scoped import ScopedTask, new_task
from treadle.orders import Fifo


def made() -> tuple[TaskQueue, list[Future[int]]]:
    """Return a queue, and four tasks that wait in it."""
    queue, tasks = TaskQueue(Fifo()), [Future[int]() for _ in range(4)]
    for task in tasks:
        queue.put(task)
    return queue, tasks


class Hands:
    """Somebody who takes tasks."""

    task: Any = None


def test_tombstones_are_buried_in_their_turn_and_are_not_claimed() -> None:
    queue, tasks = made()
    queue.leave(tasks[0], CANCELLED_AND_NOTIFIED)
    queue.leave(tasks[1], RUNNING)
    assert (queue.waiting(), queue.tombstones, len(queue.tasks)) == (2, 2, 4)
    hands = Hands()
    assert queue.claim_next(hands) is tasks[2]
    assert hands.task is tasks[2]
    assert tasks[2].running()
    assert (queue.waiting(), queue.tombstones, list(queue.tasks)) == (1, 0, [tasks[3]])
    assert queue.debris == tasks[:2], "they may be the last that hold a result, to be let go of with no lock held"
    assert queue.claim_next(hands) is tasks[3]
    assert queue.claim_next(hands) is None


def test_nothing_is_in_the_hands_of_whoever_finds_tombstones_alone() -> None:
    queue, tasks = made()
    for task in tasks:
        queue.leave(task, CANCELLED_AND_NOTIFIED)
    hands = Hands()
    assert queue.claim_next(hands) is None
    assert hands.task is None


def test_what_was_run_elsewhere_is_let_go_of_later_when_it_is_purged() -> None:
    queue, tasks = made()
    queue.leave(tasks[0], CANCELLED_AND_NOTIFIED)
    queue.leave(tasks[1], RUNNING)
    tasks[1]._state = FINISHED
    queue.purge(tasks[2])
    assert list(queue.tasks) == [tasks[3]]
    assert (queue.tombstones, queue.debris) == (0, tasks[:2])


def test_a_task_leaves_wherever_it_waits() -> None:
    queue, tasks = made()
    token = object()
    queue.take_out(tasks[0], token)
    assert queue.claim_next(Hands()) is tasks[1]
    queue.throttle(tasks[1])
    assert (list(queue.out), list(queue.throttled), list(queue.tasks)) == ([tasks[0]], [tasks[1]], tasks[2:])
    assert all(queue.has(task) for task in tasks)
    assert queue.everything() == [*tasks[2:], tasks[1], tasks[0]]
    assert queue.waiting() == 3
    for task in tasks[:3]:
        queue.leave(task, CANCELLED_AND_NOTIFIED)
        assert task.cancelled()
    assert (dict(queue.out), dict(queue.throttled), queue.tombstones, queue.waiting()) == ({}, {}, 1, 1)
    assert queue.first() is tasks[3]


def test_a_throttled_task_may_be_taken_out_and_is_resumed_in_its_place() -> None:
    queue, tasks = made()
    for _ in range(2):
        task = queue.claim_next(Hands())
        assert task is not None
        queue.throttle(task)
    queue.take_out(tasks[0], object())
    assert list(queue.throttled) == [tasks[1]]
    queue.resume(tasks[1])
    assert (dict(queue.throttled), list(queue.tasks)) == ({}, tasks[1:])
    assert queue.first() is tasks[1]


def test_what_an_exception_has_left_half_done_is_found_anew() -> None:
    """A task that was put back, and is still among the throttled; one that left, and was not counted."""
    queue, tasks = made()
    assert queue.claim_next(Hands()) is tasks[0]
    queue.throttle(tasks[0])
    queue.order.put_first(tasks[0])
    tasks[1]._state = CANCELLED_AND_NOTIFIED
    queue.mend()
    assert dict(queue.throttled) == {}
    assert (queue.tombstones, queue.waiting()) == (1, 3)


def test_a_task_without_a_rate_that_is_put_back_is_not_throttled() -> None:
    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        task = new_task(dispatcher, int, (), pool.options()._task_made(int, (), {})._context, PLAIN)
        task._state, claims = RUNNING, dispatcher.state.claims()
        with dispatcher.lock:
            dispatcher.put_back(claims, task)
            assert (list(dispatcher.queue.tasks), dict(dispatcher.queue.throttled)) == ([task], {})
        assert claims.mine == []
        assert task.cancel()


def test_a_task_that_waits_takes_up_room_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch)
    rate = Rate(1.0)
    with Pool(1, queue_size=3) as pool:
        dispatcher = pool._task_dispatcher
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        rate._bucket._tokens = 0.0
        assert not task._ready()
        entrance, queue, room = dispatcher.entrance, dispatcher.queue, dispatcher.entrance.room
        task._state = RUNNING
        with dispatcher.lock:
            dispatcher.put_back(dispatcher.state.claims(), task)
        assert (entrance.room, queue.waiting()) == (room - 1, 1)
        assert task.cancel()
        assert (entrance.room, queue.waiting()) == (room, 0)


def test_a_task_that_was_called_before_it_came_goes_back_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate may call it between the moment it is refused and the moment it is throttled."""
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
            task._state = RUNNING
            pool._task_dispatcher.put_back(pool._task_dispatcher.state.claims(), task)
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
    """And the timers go on with the next, for whose turn it is as well."""
    FakeClock(monkeypatch)
    rate = Rate(1.0)

    def refuse(dispatcher: Dispatcher, **options: bool) -> None:
        raise RuntimeError("can't start new thread")

    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        task = pool.options(rate=rate)._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        rate._bucket._tokens = 0.0
        assert not task._ready()
        task._state = RUNNING
        with dispatcher.lock:
            dispatcher.put_back(dispatcher.state.claims(), task)
        assert list(dispatcher.queue.throttled) == [task]
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Dispatcher, "_start_worker", refuse)
                dispatcher.resume(task)
            assert (list(dispatcher.queue.tasks), dict(dispatcher.queue.throttled)) == ([task], {})
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


def test_a_task_that_a_signal_handler_has_ended_is_not_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is cancelled before, or a worker that is waited for takes it as the tombstones are purged."""
    queue, tasks = made()
    assert queue.leave(tasks[0], CANCELLED_AND_NOTIFIED)
    assert not queue.take_out(tasks[0], object())

    def run_meanwhile(leaving: Future[int]) -> None:
        leaving._state = FINISHED

    monkeypatch.setattr(TaskQueue, "purge", lambda _, leaving: run_meanwhile(leaving))
    assert not queue.take_out(tasks[1], object())
    assert not queue.out

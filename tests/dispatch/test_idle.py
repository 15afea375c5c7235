"""Idle tasks: work beside the queue, from which workers are called back."""

from __future__ import annotations

import logging
import threading

import pytest

from treadle import Pool
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.idle import IdleTask, IdleTasks
from treadle.errors import PoolClosed, PoolFull, WorkerLost
from treadle.events import Observer, TaskEvent
from treadle.orders import Fair, OrderName

PATIENCE = 30.0


class Post(IdleTask):
    """Such work, which lasts until it is preempted, or told to fail."""

    __slots__ = ("began", "ended", "preemptions", "told")

    def __init__(self, dispatcher: Dispatcher, error: BaseException | None = None) -> None:
        super().__init__(dispatcher)
        self.began, self.told, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.preemptions = 0
        self._fn = error

    def run_idle(self) -> None:
        self.began.set()
        try:
            if self._fn is not None:
                raise self._fn
            assert self.told.wait(PATIENCE)
        finally:
            self.ended.set()

    def preempt(self) -> None:
        self.preemptions += 1
        self.told.set()


class Hands:
    """Somebody who takes tasks."""

    task: object = None


def test_a_worker_with_nothing_else_to_do_does_it_and_it_takes_no_room() -> None:
    with Pool(2, queue_size=1, when_full="reject") as pool:
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        assert pool.snapshot().waiting == 0
        for _ in range(20):
            assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.preemptions == 0  # the other thread was free, or could be started


def test_nobody_is_taken_or_preempted_where_a_signal_handler_was_faster() -> None:
    idle_tasks, hands = IdleTasks(), Hands()
    assert idle_tasks.take(hands) is None
    idle_tasks.preempt_one()
    assert not idle_tasks.running
    assert hands.task is None


def test_it_is_preempted_once_when_a_task_waits_that_nobody_is_free_for() -> None:
    with Pool(1, queue_size=0, when_full="reject") as pool:
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.preemptions == 1
        assert pool.submit(abs, -2).result(PATIENCE) == 2
        assert post.preemptions == 1


def test_one_task_preempts_one_of_several() -> None:
    with Pool(2) as pool:
        posts = [Post(pool._task_dispatcher), Post(pool._task_dispatcher)]
        for post in posts:
            assert pool._task_dispatcher.add_idle(post)
            assert post.began.wait(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert sum(post.preemptions for post in posts) == 1
        held = threading.Event()
        blocked = pool.submit(held.wait, PATIENCE)
        assert pool.submit(abs, -2).result(PATIENCE) == 2
        assert [post.preemptions for post in posts] == [1, 1]
        held.set()
        assert blocked.result(PATIENCE)


def test_it_is_left_alone_while_an_idle_worker_can_take_the_task() -> None:
    with Pool(2) as pool:
        both = threading.Barrier(2)
        for future in [pool.submit(both.wait, PATIENCE) for _ in range(2)]:
            future.result(PATIENCE)
        assert pool.snapshot().idle == 2
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        for _ in range(50):
            assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.preemptions == 0


def test_it_is_left_alone_while_a_worker_that_was_woken_is_on_its_way() -> None:
    with Pool(2) as pool:
        both = threading.Barrier(2)
        for future in [pool.submit(both.wait, PATIENCE) for _ in range(2)]:
            future.result(PATIENCE)
        post, next_one = Post(pool._task_dispatcher), Post(pool._task_dispatcher)
        pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        with pool._task_dispatcher.lock:  # so that it cannot arrive
            assert pool._task_dispatcher.add_idle(next_one)
            future = pool.submit(abs, -1)
        assert future.result(PATIENCE) == 1
        assert next_one.began.wait(PATIENCE)
        assert (post.preemptions, next_one.preemptions) == (0, 0)


@pytest.mark.parametrize("order", ["fifo", "fair", "priority"])
def test_it_is_preempted_for_a_task_beyond_those_that_idle_workers_come_for(
    order: OrderName,
) -> None:
    with Pool(3, order=order) as pool:
        there, at_once = threading.Barrier(3), threading.Barrier(4)
        for future in [pool.submit(there.wait, PATIENCE) for _ in range(3)]:
            future.result(PATIENCE)
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        woken = pool._task_dispatcher.entrance.idle[-1]
        wakeup, woken.wakeup = woken.wakeup, threading.Lock()  # so that it does not come yet
        woken.wakeup.acquire()
        futures = [pool.submit(at_once.wait, PATIENCE) for _ in range(3)]
        assert not woken.wakeup.locked()
        woken.wakeup = wakeup
        wakeup.release()
        at_once.wait(PATIENCE)
        assert len([future.result(PATIENCE) for future in futures]) == 3
        assert post.preemptions == 1


def test_it_is_left_alone_where_a_worker_takes_the_one_task_that_its_own_end_lets_run() -> None:
    with Pool(2, order=Fair(max_running=1)) as pool:
        view, gate = pool.options(key="a"), threading.Event()
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        inside = threading.Barrier(2)
        futures = [view.submit(lambda: inside.wait(PATIENCE) >= 0 and gate.wait(PATIENCE))]
        inside.wait(PATIENCE)
        futures += [view.submit(gate.wait, PATIENCE) for _ in range(5)]
        gate.set()
        assert all(future.result(PATIENCE) for future in futures)
        assert post.preemptions == 0


def test_a_snapshot_counts_its_worker_as_busy_and_nothing_as_waiting() -> None:
    with Pool(1) as pool:
        post = Post(pool._task_dispatcher)
        pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        during = pool.snapshot()
        assert (during.threads, during.busy, during.idle, during.waiting) == (1, 1, 0, 0)
        assert (during.submitted, during.finished) == (0, 0)
        pool.submit(int).result(PATIENCE)
        after = pool.snapshot()
        assert (after.threads, after.busy, after.idle, after.waiting) == (1, 0, 1, 0)
        assert (after.submitted, after.finished) == (1, 1)


def test_while_all_are_busy_it_waits_and_is_taken_up_by_the_first_that_is_free() -> None:
    gate, inside = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Pool(1) as pool:
        pool.submit(block)
        assert inside.wait(PATIENCE)
        queued = pool.submit(abs, -1)
        post = Post(pool._task_dispatcher)
        assert not pool._task_dispatcher.add_idle(post)
        gate.set()
        assert post.began.wait(PATIENCE)
        assert queued.done()  # tasks come first


def test_no_thread_beyond_the_limit_is_started_for_it() -> None:
    with Pool(1) as pool:
        first, second = Post(pool._task_dispatcher), Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(first)
        assert first.began.wait(PATIENCE)
        assert not pool._task_dispatcher.add_idle(second)
        assert pool.snapshot().threads == 1
        assert not second.began.is_set()


def test_shutdown_preempts_it_and_forgets_what_nobody_does() -> None:
    pool = Pool(1)
    done, left = Post(pool._task_dispatcher), Post(pool._task_dispatcher)
    pool._task_dispatcher.add_idle(done)
    assert done.began.wait(PATIENCE)
    pool._task_dispatcher.add_idle(left)
    pool.shutdown()
    assert (done.preemptions, left.preemptions) == (1, 0)
    assert not left.began.is_set()
    with pytest.raises(PoolClosed):
        pool._task_dispatcher.add_idle(left)


def test_an_error_in_it_is_logged_and_the_worker_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        post = Post(pool._task_dispatcher, ValueError("scripted"))
        pool._task_dispatcher.add_idle(post)
        assert post.ended.wait(PATIENCE)
        name = pool.submit(lambda: threading.current_thread().name).result(PATIENCE)
        assert name.endswith("_0")
        assert pool.snapshot().threads == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "scripted" in caplog.text


def test_one_that_is_over_is_not_preempted() -> None:
    with Pool(1) as pool:
        post, gate = Post(pool._task_dispatcher), threading.Event()
        pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        post.told.set()
        assert post.result(PATIENCE) is None
        futures = [pool.submit(gate.wait, PATIENCE) for _ in range(2)]  # the second finds nobody free
        gate.set()
        assert all(future.result(PATIENCE) for future in futures)
        assert post.preemptions == 0


def test_a_worker_that_is_killed_in_it_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        post = Post(pool._task_dispatcher, SystemExit("scripted"))
        pool._task_dispatcher.add_idle(post)
        with pytest.raises(WorkerLost):
            post.result(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.preemptions == 0
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


def test_observers_are_not_told_of_it() -> None:
    told: list[str] = []

    class Listener(Observer):
        def started(self, event: TaskEvent) -> None:
            told.append(event.name)

    with Pool(1, observers=[Listener()]) as pool:
        post = Post(pool._task_dispatcher)
        pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert told == ["abs"]


def test_a_worker_that_is_tied_up_in_it_no_longer_counts_as_free() -> None:
    with Pool(1, queue_size=0, when_full="reject") as pool:
        post = Post(pool._task_dispatcher)
        pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        pool._task_dispatcher.idle_is_lost(post)
        with pytest.raises(PoolFull):
            pool.submit(abs, -1)
        assert post.preemptions == 0
        post.told.set()


def test_another_is_preempted_where_the_worker_that_was_called_back_is_tied_up() -> None:
    """It was so before it was called, as a leader that has just begun to run a handler."""

    class Tied(Post):
        __slots__ = ()

        def preempt(self) -> None:
            self.preemptions += 1

    with Pool(2) as pool:
        free, tied = Post(pool._task_dispatcher), Tied(pool._task_dispatcher)
        for post in (free, tied):
            assert pool._task_dispatcher.add_idle(post)
            assert post.began.wait(PATIENCE)
        waits = pool.submit(abs, -1)
        assert (free.preemptions, tied.preemptions) == (0, 1)
        pool._task_dispatcher.idle_is_lost(tied)
        try:
            assert waits.result(PATIENCE) == 1
        finally:
            free.told.set()
            tied.told.set()
        assert (free.preemptions, tied.preemptions) == (1, 1)


def test_a_worker_survives_that_comes_back_because_it_was_preempted(caplog: pytest.LogCaptureFixture) -> None:
    """Its task is not among those that run any more, which are struck out when they end by themselves."""
    with Pool(1) as pool:
        post = Post(pool._task_dispatcher)
        assert pool._task_dispatcher.add_idle(post)
        assert post.began.wait(PATIENCE)
        (thread,) = pool._threads
        assert pool.submit(threading.current_thread).result(PATIENCE) is thread
    assert not caplog.records


def test_one_that_waits_is_taken_up_by_the_thread_that_comes_for_one_that_was_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()

    def fatal(_: object) -> None:
        raise SystemExit

    with Pool(1) as pool:
        doomed = pool.submit(gate.wait, PATIENCE)
        doomed.add_done_callback(fatal)
        post = Post(pool._task_dispatcher)
        assert not pool._task_dispatcher.add_idle(post)
        gate.set()
        assert post.began.wait(PATIENCE)
    assert "was killed" in caplog.text

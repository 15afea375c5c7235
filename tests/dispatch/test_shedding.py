"""Shedding: what becomes of waiting tasks that an order gives up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from scripted import ScriptedLock
from treadle import Pool, Rate
from treadle._dispatch.shedding import shed_error
from treadle._dispatch.worker import current_worker
from treadle._tasks.future import RUNNING
from treadle._tasks.scoped import ScopedTask
from treadle.errors import Shed
from treadle.events import Observer, TaskEvent
from treadle.orders import Adaptive

PATIENCE = 30.0


class Told(Observer):
    """Remembers what was shed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def shed(self, event: TaskEvent) -> None:
        self.names.append(event.name)


def overloaded(**options: Any) -> tuple[Pool, threading.Event]:
    """A pool of one thread, which is held, and whose queue stands as soon as something waits."""
    pool = Pool(1, order=Adaptive(0.0, 0.0), name="loom", **options)
    gate, inside = threading.Event(), threading.Event()
    pool.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
    assert inside.wait(PATIENCE)
    return pool, gate


def test_shed_futures_say_by_whom_and_after_how_long_and_are_counted() -> None:
    told = Told()
    pool, gate = overloaded(observers=[told])
    futures = [pool.options(name=f"weft {number}").submit(int, number) for number in range(5)]
    gate.set()
    pool.shutdown()
    assert [future.exception() is None for future in futures] == [True, False, False, False, True]
    error = futures[1].exception()
    assert isinstance(error, Shed)
    assert (error.pool, error.task_name) == ("loom", "weft 1")
    assert error.waited >= 0
    assert "pool 'loom' shed task weft 1" in str(error)
    seen = pool.snapshot()
    assert (seen.shed, seen.finished, seen.submitted) == (3, 3, 6)
    assert told.names == ["weft 1", "weft 2", "weft 3"]


def test_callbacks_of_shed_futures_may_use_the_pool_and_wait_for_it() -> None:
    pool, gate = overloaded()
    answers: list[object] = []

    def again(_: object) -> None:
        answers.append(pool.submit(abs, -7).result(PATIENCE))

    futures = [pool.submit(int, number) for number in range(3)]
    futures[1].add_done_callback(again)
    gate.set()
    while not answers:
        threading.Event().wait(0.005)
    pool.shutdown()
    assert isinstance(futures[1].exception(), Shed)
    assert answers == [7]


def test_a_callback_that_ends_the_thread_keeps_no_other_future_waiting(caplog: pytest.LogCaptureFixture) -> None:
    pool, gate = overloaded()
    futures = [pool.submit(int, number) for number in range(6)]

    def leave(_: object) -> None:
        raise SystemExit

    futures[1].add_done_callback(leave)
    gate.set()
    for future in futures:
        future.exception(PATIENCE)
    pool.shutdown()
    assert "was killed" in caplog.text


def test_a_full_queue_sheds_before_it_refuses() -> None:
    pool, gate = overloaded(queue_size=2, when_full="reject")
    pool._task_dispatcher.order._standing = True  # type: ignore[attr-defined]  # as after a look that found the head late
    futures = [pool.submit(int, number) for number in range(6)]
    gate.set()
    pool.shutdown()
    assert [future.exception() is None for future in futures][-1]
    assert pool.snapshot().rejected == 0
    assert pool.snapshot().shed >= 3


def test_a_map_whose_turn_is_shed_raises_it_where_the_results_are_taken() -> None:
    pool, gate = overloaded()
    results = pool.map(abs, [-1, -2, -3])
    pool.submit(int)
    pool.submit(int)
    gate.set()
    values: list[object] = []
    for _ in range(3):
        try:
            values.append(next(results))
        except Shed as error:
            values.append(type(error))
    assert values in ([1, 2, 3], [Shed] * 3)
    pool.shutdown()


def test_what_a_closing_pool_seizes_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, gate = overloaded()
    futures = [pool.submit(int) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.set()
    pool.shutdown()


@pytest.mark.parametrize("policy", ["discard_oldest", "block"])
def test_what_a_callback_raises_is_not_raised_by_the_submit_whose_task_is_in(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be taken for a refusal."""

    def leave(_: object) -> None:
        raise SystemExit

    pool, gate = overloaded(queue_size=2, when_full=policy)
    first = pool.submit(int)
    first.add_done_callback(leave)
    pool.submit(int)
    if policy == "block":
        pool._task_dispatcher.order._standing = True  # type: ignore[attr-defined]  # as after a look that found the head late
    assert not pool.submit(int).cancelled()
    assert first.done()
    assert "a callback of a task that was shed raised" in caplog.text
    gate.set()
    pool.shutdown()


def test_a_worker_that_is_killed_before_it_tells_those_that_it_sheds_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, killed = threading.Event(), threading.Event()
    with Pool(1, order=Adaptive(0.0, 0.0)) as pool:

        def die_once() -> None:
            worker = current_worker()
            if worker is not None and worker.claims is not None and worker.claims.mine and not killed.is_set():
                killed.set()
                raise SystemExit

        ScriptedLock(pool._task_dispatcher, after=die_once)
        try:
            pool.submit(gate.wait, PATIENCE)
            (thread,) = pool._threads
            futures = [pool.submit(int, number) for number in range(5)]
        finally:
            gate.set()
        thread.join(PATIENCE)
        assert killed.is_set()
        assert any(isinstance(future.exception(PATIENCE), Shed) for future in futures)
        assert all(future.exception(PATIENCE) is None or future.done() for future in futures)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_caller_that_sheds_tells_all_whatever_a_callback_raises(error: type[BaseException]) -> None:
    """Ctrl-C is its own, and is raised when all are told; the rest is logged, for its task is in."""

    def leave(_: object) -> None:
        raise error

    with Pool(1) as pool:
        victims = [pool._task_made(int, (), {}) for _ in range(3)]
        dispatcher, claims = pool._task_dispatcher, pool._task_dispatcher.state.claims()
        with dispatcher.lock:
            for victim in victims:
                claims.add(victim, "too_old")
        victims[0].add_done_callback(leave)
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                dispatcher.end_claimed(claims, log_only=True)
        else:
            dispatcher.end_claimed(claims, log_only=True)
        assert [type(future.exception(0)) for future in victims] == [Shed] * 3
        assert claims.mine == []
        assert not dispatcher.state.claimed


def test_what_is_seized_or_was_cancelled_already_waits_nowhere_any_more() -> None:
    """Neither beside the queue, nor in the count of those that the order still holds."""
    rate = Rate(0.001)
    rate._bucket._tokens = 0.0
    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        task = pool.options(rate=rate)._task_made(int, (), {})
        cancelled = pool._task_made(int, (), {})
        assert isinstance(task, ScopedTask)
        assert not task._ready()
        task._state, queue, claims = RUNNING, dispatcher.queue, dispatcher.state.claims()
        with dispatcher.lock:
            dispatcher.put_back(claims, task)
            assert list(queue.throttled) == [task]
            dispatcher._claim_all(claims, "closed")
            assert claims.mine == [task]
            assert not queue.throttled
            queue.put(cancelled)
            assert cancelled.cancel()
            assert queue.waiting() == 0
            queue.claimer_of_stale(claims)(queue.order.take())  # as an order does that gives it up
            assert claims.mine == [task]
            assert (queue.waiting(), queue.tombstones) == (0, 0)
        dispatcher.end_claimed(claims)
        assert task.cancelled()


def test_the_error_says_of_which_task_whose_it_was_and_why() -> None:
    with Pool(1, name="loom", order="fair") as pool:
        task = pool.options(name="weft", key="k")._task_made(int, (), {})
        error = shed_error("loom", task, "discarded")
        assert (error.pool, error.task_name, error.reason, error.key) == ("loom", "weft", "discarded", "k")
        assert error.waited >= 0
        task._forget_call()

"""Waits that could never end are resolved, or reported."""

from __future__ import annotations

import logging
import threading
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

import pytest

from blocked import until_blocked, until_noted
from treadle import Future, Pool, TaskGroup, as_completed, wait
from treadle._dispatch import deadlock
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.worker import current_worker
from treadle.errors import PoolDeadlock
from treadle.orders import Fair


@pytest.mark.parametrize("threads", [1, 2])
def test_two_pools_whose_tasks_call_each_other_end(threads: int) -> None:
    with Pool(threads, name="a") as a, Pool(threads, name="b") as b:

        def ping(depth: int) -> int:
            return 0 if depth == 0 else 1 + b.submit(pong, depth - 1).result()

        def pong(depth: int) -> int:
            return 0 if depth == 0 else 1 + a.submit(ping, depth - 1).result()

        assert [f.result(30) for f in [a.submit(ping, 20), b.submit(pong, 20)]] == [20, 20]


def test_two_pools_that_wait_by_wait_map_and_as_completed_end() -> None:
    with Pool(1, name="a") as a, Pool(1, name="b") as b:

        def ping(depth: int) -> int:
            if depth == 0:
                return 0
            done = wait([b.submit(pong, depth - 1)]).done
            return 1 + done.pop().result()

        def pong(depth: int) -> int:
            if depth == 0:
                return 0
            return 1 + next(as_completed([a.submit(pang, depth - 1)])).result()

        def pang(depth: int) -> int:
            return 0 if depth == 0 else 1 + next(b.map(pong, [depth - 1]))

        assert a.submit(ping, 6).result(30) == 6


def test_full_pools_that_submit_to_each_other_end() -> None:
    with Pool(1, name="a", queue_size=0) as a, Pool(1, name="b", queue_size=0) as b:

        def ping(depth: int) -> int:
            return 0 if depth == 0 else 1 + b.submit(pong, depth - 1).result()

        def pong(depth: int) -> int:
            return 0 if depth == 0 else 1 + a.submit(ping, depth - 1).result()

        assert a.submit(ping, 8).result(30) == 8


def test_tasks_that_wait_for_each_other_get_an_error() -> None:
    futures: list[Future[Any]] = []
    ready = threading.Event()

    def wait_for(number: int) -> Any:
        assert ready.wait(30)
        return futures[number].result()

    with Pool(2, name="knot") as pool:
        futures += [pool.submit(wait_for, 1), pool.submit(wait_for, 0)]
        ready.set()
        errors = [future.exception(30) for future in futures]
    assert all(isinstance(error, PoolDeadlock) for error in errors)
    assert "'knot'" in str(errors[0])


def test_a_wait_with_a_timeout_is_no_deadlock() -> None:
    futures: list[Future[Any]] = []
    ready = threading.Event()

    def wait_for_itself() -> str:
        assert ready.wait(30)
        try:
            futures[0].result(timeout=0.01)
        except TimeoutError:
            return "timed out"
        return "never"

    with Pool(1) as pool:
        futures.append(pool.submit(wait_for_itself))
        ready.set()
        assert futures[0].result(30) == "timed out"


def test_a_wait_for_a_thread_that_works_is_no_deadlock() -> None:
    gate = threading.Event()
    with Pool(1, name="a") as a, Pool(1, name="b") as b:
        slow = b.submit(gate.wait, 30)
        waits = a.submit(slow.result)
        behind = a.submit(int)
        gate.set()
        assert waits.result(30) is True
        assert behind.result(30) == 0


def test_a_knot_through_the_ceiling_of_a_key_is_found() -> None:
    """The only task of the key that may run waits for the other pool, whose thread waits for one more of the key."""
    with Pool(4, order=Fair(max_running=1), name="a") as a, Pool(1, name="b") as b:
        view = a.options(key="k")
        outer = view.submit(lambda: b.submit(lambda: view.submit(abs, -3).result()).result())
        assert outer.result(30) == 3


def test_a_wait_that_was_ended_just_before_is_no_knot_to_untie() -> None:
    """Its gate is open: nothing is run for it."""
    gate = allocate_lock()

    def parent() -> bool:
        child = pool.submit(ran.append, 1)
        assert deadlock.wait(gate, current_worker(), lambda: [child], None)
        return not ran

    ran: list[int] = []
    with Pool(1) as pool:
        assert pool.submit(parent).result(30)


def test_who_unties_a_knot_is_not_taken_for_one_that_waits() -> None:
    """It runs a task, and another worker that waits for what it runs may well go on."""
    seen: list[bool] = []

    def rescued() -> None:
        seen.append(current_worker() in deadlock._waits)

    with Pool(1, name="a") as a, Pool(1, name="b") as b:
        both = threading.Barrier(2)

        def cross(other: Pool) -> None:
            both.wait(30)
            other.submit(rescued).result()

        for future in [a.submit(cross, b), b.submit(cross, a)]:
            future.result(30)
    assert seen == [False, False]
    assert deadlock._waits == {}


def test_a_task_that_somebody_else_begins_just_then_is_not_run_to_untie_a_knot(monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead, gate, children = Dispatcher.run_instead, allocate_lock(), list[Future[Any]]()

    def run_too_late(dispatcher: Dispatcher, task: Future[Any], say: Callable[[], object] | None = None) -> bool:
        if task in children:
            children.remove(task)

            def begin_first() -> None:
                assert run_instead(dispatcher, task)
                gate.release()

            other = threading.Thread(target=begin_first)
            other.start()
            other.join(30)
        return run_instead(dispatcher, task, say)

    def parent() -> Future[Any]:
        child = pool.submit(ran.append, 1)
        children.append(child)
        assert deadlock.wait(gate, current_worker(), lambda: [child], None)
        return child

    ran: list[int] = []
    gate.acquire()
    monkeypatch.setattr(Dispatcher, "run_instead", run_too_late)
    with Pool(1) as pool:
        assert pool.submit(parent).result(30).exception(0) is None
    assert ran == [1]


def test_a_wait_of_which_all_came_just_now_is_no_knot() -> None:
    """There is nothing left that it waits for, and its thread is about to wake."""
    for every in (True, False):
        assert not deadlock._hopeless(deadlock._Wait(list, every), {}, {})


# -- whoever others may wait for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["closer", "task"])
def test_a_task_that_shuts_down_a_pool_runs_what_that_waits_for(first: str) -> None:
    go = threading.Event()
    with Pool(1, name="a") as a, Pool(1, name="b") as b:

        def in_b() -> int:
            if first == "closer":
                until_noted(1)
            child = a.submit(abs, -3)
            go.set()
            return child.result()

        def in_a() -> int:
            waits = b.submit(in_b)
            if first == "task":
                assert go.wait(30)
                until_noted(1)
            b.shutdown()
            return waits.result(0)

        assert a.submit(in_a).result(30) == 3


def test_tasks_that_shut_down_each_others_pools_get_an_error_once() -> None:
    both = threading.Barrier(2)

    def shut_down(pool: Pool) -> None:
        both.wait(30)
        pool.shutdown()

    a, b = Pool(1, name="a"), Pool(1, name="b")
    errors = [future.exception(30) for future in (a.submit(shut_down, b), b.submit(shut_down, a))]
    a.shutdown()
    b.shutdown()
    assert [type(error) for error in errors if error is not None] == [PoolDeadlock]


def test_a_task_that_is_run_by_another_pool_to_untie_a_knot_does_not_wait_for_its_own() -> None:
    """It shuts that down, and one of its threads waits for the very thread that runs it."""
    futures: list[Future[Any]] = []
    with Pool(1, name="a") as a, Pool(1, name="b") as b:

        def in_b() -> object:
            child = a.submit(lambda: a.shutdown())
            until_noted(1)
            return child.result()

        def in_a() -> object:
            futures.append(b.submit(in_b))
            return futures[0].result()

        a.submit(in_a).result(30)


@pytest.mark.parametrize("policy", ["block", "caller_runs"])
def test_a_group_that_waits_for_a_submit_runs_what_is_in_its_way(policy: str) -> None:
    """Its block is left by the only thread of the pool, in which a submit of another thread waits for room."""
    entered, inside, futures = threading.Event(), threading.Event(), list[Future[int]]()

    def leave() -> None:
        with group:
            entered.set()
            if policy == "caller_runs":
                assert inside.wait(30)
            until_blocked(pool, 1)

    def child() -> int:
        inside.set()
        return pool.submit(abs, -5).result()

    def submit() -> None:
        futures.append(group.submit(abs, -5) if policy == "block" else group.submit(child))

    with Pool(1, queue_size=1) as pool:
        group = TaskGroup(pool if policy == "block" else pool.options(when_full="caller_runs"))
        left = pool.submit(leave)
        assert entered.wait(30)
        pool.submit(int)
        other = threading.Thread(target=submit)
        other.start()
        left.result(30)
        other.join(30)
        assert futures[0].result(30) == 5


def test_a_future_that_is_not_its_pools_to_run_is_not_taken_to_untie_a_knot() -> None:
    """There is one that can be run."""
    foreign: list[Future[int]] = [Future() for _ in range(30)]
    with Pool(1, name="a") as a, Pool(1, name="b") as b:

        def in_b() -> int:
            child = a.submit(abs, -3)
            child.add_done_callback(settle)
            until_noted(1)
            wait([*foreign, child])
            return child.result(0)

        def settle(_: object) -> None:
            for future in foreign:
                future.set_result(0)

        assert a.submit(lambda: b.submit(in_b).result()).result(30) == 3


def test_that_a_task_is_run_elsewhere_is_logged_once_for_its_pool(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG, "treadle"),
        Pool(1, name="a", queue_size=0) as a,
        Pool(1, name="b", queue_size=0) as b,
    ):

        def ping(depth: int) -> int:
            return 0 if depth == 0 else 1 + b.submit(pong, depth - 1).result()

        def pong(depth: int) -> int:
            return 0 if depth == 0 else 1 + a.submit(ping, depth - 1).result()

        assert a.submit(ping, 20).result(30) == 20
    lines = [record for record in caplog.records if "every thread that could run task" in record.getMessage()]
    warnings = [record.getMessage() for record in lines if record.levelno == logging.WARNING]
    assert len(lines) > len(warnings)
    assert 1 <= len(warnings) <= 2
    assert all("logged at DEBUG level" in line for line in warnings)

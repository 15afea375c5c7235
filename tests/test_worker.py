"""Workers: what they hold, whom they tell, and what kills them."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import weakref
from typing import Any

import pytest

from treadle import Future, Pool
from treadle.errors import WorkerLost
from treadle.worker import current_worker


class Thing:
    """Something to hold a reference to."""


def test_a_task_knows_its_worker_and_others_have_none() -> None:
    with Pool(1, name="db") as pool:
        worker = pool.submit(current_worker).result(30)
        assert worker is not None
        assert worker.thread.name == "db-0"
    assert current_worker() is None


def test_nothing_of_a_task_is_held_when_it_is_done() -> None:
    with Pool(1) as pool:
        argument, result = Thing(), Thing()
        references = [weakref.ref(argument), weakref.ref(result)]
        box = [result]
        future = pool.submit(lambda thing: box.pop(), argument)
        assert future.result(30) is result
        del argument, result, future
        pool.submit(int).result(30)
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_a_callback_that_kills_its_worker_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fatal(future: Future[Any]) -> None:
        raise SystemExit

    others: list[Future[Any]] = []
    gate = threading.Event()
    with caplog.at_level(logging.CRITICAL, "treadle"), Pool(1) as pool:
        doomed = pool.submit(gate.wait, 30)
        doomed.add_done_callback(fatal)
        doomed.add_done_callback(others.append)
        after = [pool.submit(abs, -n) for n in range(10)]
        gate.set()
        assert [future.result(30) for future in after] == list(range(10))
        assert doomed.result(30) is True
        pool.shutdown()
    assert others == [doomed], "the callbacks behind the fatal one are called too"
    assert "was killed" in caplog.text


def test_a_worker_killed_in_the_middle_of_a_task_says_so_and_is_replaced() -> None:
    began = threading.Event()
    forever = threading.Event()

    def victim() -> None:
        began.set()
        while not forever.is_set():
            pass

    with Pool(1) as pool:
        future = pool.submit(victim)
        assert began.wait(30)
        (thread,) = pool._threads
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        assert isinstance(future.exception(30), SystemExit | WorkerLost)
        assert pool.submit(abs, -1).result(30) == 1


def test_callbacks_may_wait_for_tasks_of_the_pool() -> None:
    """The worker claims nothing while it runs callbacks, so what they wait for is not in its own hands."""
    seen: list[Any] = []
    gate, called = threading.Event(), threading.Event()
    with Pool(2) as pool:
        first = pool.submit(gate.wait, 30)
        second: list[Future[str]] = []

        def callback(future: Future[Any]) -> None:
            seen.append(second[0].result(30))
            called.set()

        first.add_done_callback(callback)
        holding = pool.submit(gate.wait, 30)
        second.append(pool.submit(lambda: "second"))
        gate.set()
        assert called.wait(30)
        holding.result(30)
    assert seen == ["second"]


def test_a_lone_task_after_another_needs_no_second_thread() -> None:
    """A worker is idle before it delivers a result."""
    with Pool(8) as pool:
        for _ in range(2000):
            pool.submit(int).result(30)
        assert pool.snapshot().threads == 1

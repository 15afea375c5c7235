"""Whatever a signal handler or a finalizer does with a pool, at any instant of another of its operations, is done.

`make stress` sweeps all; here is a slice of each operation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from behaviour.handlers import (
    AFTER_A_TEST,
    DEEDS,
    VISITED,
    WORKERS,
    Deed,
    Visits,
    chosen,
    run,
    run_in_workers,
    shut_down,
    shut_down_and_wait,
)
from behaviour.sweep import PATIENCE
from orders.lifo import Lifo
from treadle import Pool
from treadle.errors import PoolDeadlock
from treadle.orders import Task

SLICE = 8  # instants of each operation


def visit(visits: Callable[..., Visits], scenes: dict[str, Any], name: str) -> None:
    """Do one deed or another at some instants of one operation."""
    total = visits(*scenes[name], None, DEEDS[0]).count
    for at, deed in chosen(total, SLICE, list(scenes).index(name)):
        visits(*scenes[name], at, deed)


@pytest.mark.parametrize("name", VISITED)
def test_a_signal_handler_may_call_the_pool_at_any_instant(name: str) -> None:
    visit(run, VISITED, name)


@pytest.mark.parametrize("deed", [shut_down, shut_down_and_wait])
@pytest.mark.parametrize("name", ["discard, fifo", "shutdown of idle threads"])
def test_a_signal_handler_may_take_away_what_a_loop_has_just_found(name: str, deed: Deed) -> None:
    for at in range(1, run(*VISITED[name], None, deed, AFTER_A_TEST).count + 1):
        run(*VISITED[name], at, deed, AFTER_A_TEST)


@pytest.mark.parametrize("name", WORKERS)
def test_a_finalizer_may_call_the_pool_at_any_instant_of_its_threads(name: str) -> None:
    visit(run_in_workers, WORKERS, name)


class Interrupted(Lifo):
    """An order amid whose next `put` a signal handler comes."""

    def __init__(self) -> None:
        super().__init__()
        self.handler: Callable[[], object] | None = None
        self.calls = self.deepest = 0

    def put(self, task: Task) -> None:
        self.calls += 1
        self.deepest = max(self.deepest, self.calls)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        super().put(task)
        self.calls -= 1


def busy_pool(order: Interrupted, **options: object) -> tuple[Pool, threading.Event]:
    pool, gate, began = Pool(1, order=order, **options), threading.Event(), threading.Event()  # type: ignore[arg-type]

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool.submit(hold)
    assert began.wait(PATIENCE)
    return pool, gate


def test_an_order_of_the_users_is_not_called_amid_a_call() -> None:
    order = Interrupted()
    pool, gate = busy_pool(order)
    futures = []

    def handler() -> None:
        futures.append(pool.submit(abs, -1))
        futures.append(pool.submit(abs, -2))
        assert futures[0].cancel()
        pool.resize(2)

    order.handler = handler
    futures.append(pool.submit(abs, -3))
    gate.set()
    assert [future.result(PATIENCE) for future in futures[1:]] == [2, 3]
    assert futures[0].cancelled()
    assert order.deepest == 1
    assert order.threads == 2
    pool.shutdown()
    assert pool.snapshot().waiting == 0


def test_a_wait_amid_a_call_of_the_users_order_is_refused() -> None:
    """The others wait for that call, and so for the handler."""
    order = Interrupted()
    pool, gate = busy_pool(order)
    raised: list[PoolDeadlock] = []

    def handler() -> None:
        for wait in (pool.submit(abs, -1).result, pool.shutdown):
            try:
                wait()
            except PoolDeadlock as error:
                raised.append(error)

    order.handler = handler
    future = pool.submit(abs, -2)
    gate.set()
    assert [error.pools for error in raised] == [(pool.name,)] * 2
    assert future.result(PATIENCE) == 2
    pool.shutdown()


@pytest.mark.parametrize("policy", ["block", "caller_runs"])
def test_what_is_submitted_amid_a_call_does_not_wait_for_room(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    order = Interrupted()
    pool, gate = busy_pool(order, queue_size=1, when_full=policy)
    futures = []

    def handler() -> None:
        for number in range(3):
            futures.append(pool.submit(threading.get_ident))
            assert pool.snapshot().waiting == number + 2  # with the one that it came amid

    order.handler = handler
    with caplog.at_level(logging.WARNING, logger="treadle"):
        futures.append(pool.submit(threading.get_ident))
    gate.set()
    assert threading.get_ident() not in [future.result(PATIENCE) for future in futures]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a signal handler, or a finalizer, that comes amid another call" in caplog.text
    pool.shutdown()

"""Exceptions that nobody asks for: each is logged once, and with none of treadle's locks held."""

from __future__ import annotations

import gc
import logging
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from programs import run
from treadle import Pool, TaskGroup
from treadle._base import locks
from treadle._base.locks import is_held, locked, new_lock
from treadle._tasks.unretrieved import LOST, Unretrieved, log_living
from treadle.orders import Fair

PATIENCE = 30.0


class Handler(logging.Handler):
    """Notes what is logged, and whether any of treadle's locks is held by the thread that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.held: list[str] = []
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        living = [reference() for reference in list(locks._locks)]
        if any(lock is not None and is_held(lock) for lock in living):
            self.held.append(record.getMessage())
        if record.msg == LOST:
            self.told.append(record.getMessage())
            self.came.set()


@pytest.fixture
def handler() -> Iterator[Handler]:
    made, log = Handler(), logging.getLogger("treadle")
    log.addHandler(made)
    yield made
    log.removeHandler(made)


class Cycle:
    """What the garbage collector frees, and nobody else: an exception that nobody has asked for."""

    def __init__(self, name: str) -> None:
        self.itself = self
        self.unretrieved = Unretrieved(name, ValueError(name))


def collect_amid(name: str) -> None:
    """Have the garbage collector come by just now, as it may at any line, and find one."""
    Cycle(name)
    gc.collect()


def test_an_exception_is_logged_once_when_its_future_vanishes_unasked(caplog: pytest.LogCaptureFixture) -> None:
    unretrieved = Unretrieved("work", ValueError("lost"))
    with caplog.at_level(logging.ERROR, "treadle"):
        unretrieved.log()
        del unretrieved
    (record,) = caplog.records
    assert "task work failed, and nobody asked" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost"


def test_an_exception_that_was_asked_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    unretrieved = Unretrieved("work", error := ValueError("seen"), "in item 3")
    assert unretrieved.see() is error
    assert error.__notes__ == ["in item 3"]
    del unretrieved
    assert not caplog.records


def test_what_is_left_when_python_exits_is_logged_and_ctrl_c_is_raised_when_all_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Unretrieved("first", ValueError()), Unretrieved("second", ValueError())
    log = Unretrieved.log

    def interrupted(self: Unretrieved) -> None:
        log(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Unretrieved, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log_living()
    monkeypatch.undo()
    assert {"first", "second"} <= {str(record.args[0]) for record in caplog.records if record.args}  # type: ignore[index]
    assert first.error is second.error is None


def test_a_program_that_ends_tells_of_those_that_still_live() -> None:
    program = """
        from treadle import Pool
        pool = Pool(1)
        future = pool.submit(int, "x")
        pool.shutdown()
    """
    status, out, err = run(sys.executable, "-c", textwrap.dedent(program))
    assert (status, out) == (0, "")
    assert err.count("task int failed, and nobody asked for its result") == 1


# -- no lock is held --------------------------------------------------------------------------------------------------


def test_amid_a_section_it_is_logged_when_the_lock_is_let_go(handler: Handler) -> None:
    lock = new_lock()

    def section() -> int:
        collect_amid("amid")
        assert not handler.told
        return 3

    assert locked(lock, section) == 3
    assert (handler.told, handler.held) == ([LOST % "amid"], [])


def amid(owner: Any, name: str) -> None:
    """Have the collector come by, once, as a method is called that is called with a lock held."""
    method = getattr(owner, name)

    def amid_it(*args: Any) -> Any:
        setattr(owner, name, method)
        collect_amid(name)
        return method(*args)

    setattr(owner, name, amid_it)


def by_submit(pool: Pool) -> None:
    """Amid the section that `submit` spells out, and amid that of a submit that does not go the plain way."""
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    amid(pool._task_entrance, "put")
    amid(pool._task_dispatcher.queue, "put")
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    with TaskGroup(pool) as group:
        group.submit(abs, -1)


def by_cancel(pool: Pool) -> None:
    gate, began = threading.Event(), threading.Event()
    pool.submit(lambda: began.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
    assert began.wait(PATIENCE)
    future = pool.submit(int)
    try:
        amid(pool._task_dispatcher.queue.order, "purge")
        locked(pool._task_dispatcher.lock, pool._task_dispatcher.queue.purge)
        assert future.cancel()
    finally:
        gate.set()


def by_shutdown(pool: Pool) -> None:
    pool.submit(int)
    amid(pool._task_dispatcher.queue.order, "purge")
    pool.shutdown(cancel_futures=True)


def test_a_submit_amid_which_the_collector_comes_by_has_told_of_it_when_it_returns(handler: Handler) -> None:
    """It spells its section out; and the thread of the pool is busy, and tells of nothing."""
    gate, began = threading.Event(), threading.Event()
    with Pool(1) as pool:
        pool.submit(lambda: began.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert began.wait(PATIENCE)
        amid(pool._task_entrance, "put")
        try:
            future = pool.submit(abs, -1)
            assert (handler.told, handler.held) == ([LOST % "put"], [])
        finally:
            gate.set()
        assert future.result(PATIENCE) == 1


@pytest.mark.parametrize("use", [by_submit, by_cancel, by_shutdown])
def test_whatever_section_the_collector_comes_by_in_no_lock_is_held_when_it_is_logged(
    use: Callable[[Pool], None], handler: Handler
) -> None:
    with Pool(1, order=Fair()) as pool:
        use(pool)
        assert handler.told, "it is told of at once, and not when somebody next takes a lock"
    assert handler.held == []


def test_a_worker_that_comes_by_one_amid_its_own_section_tells_of_it(handler: Handler) -> None:
    """It spells its sections out, and nobody may take a lock after it for a long time."""
    with Pool(1, order=Fair()) as pool:
        dispatcher, gate = pool._task_dispatcher, threading.Event()
        give, calls = dispatcher.queue.give, list[str]()

        def collect_and_give(hands: Any) -> None:
            if threading.current_thread().name.startswith(dispatcher.setup.prefix) and not calls:
                calls.append("here")
                collect_amid("its own")
            give(hands)

        dispatcher.queue.give = collect_and_give
        first = pool.submit(gate.wait, PATIENCE)
        second = pool.submit(abs, -2)
        gate.set()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == (True, 2)
        assert handler.came.wait(PATIENCE)
        assert calls == ["here"]
    assert (handler.told, handler.held) == ([LOST % "its own"], [])


def test_a_handler_may_use_the_pool() -> None:
    """And wait for what another thread does that needs the lock."""
    results: list[int] = []

    class Uses(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            thread = threading.Thread(target=lambda: results.append(pool.submit(abs, -5).result(PATIENCE)))
            thread.start()
            thread.join(PATIENCE)

    made, log = Uses(), logging.getLogger("treadle")
    log.addHandler(made)
    try:
        with Pool(2, order=Fair()) as pool:
            assert pool.submit(abs, -1).result(PATIENCE) == 1
            amid(pool._task_entrance, "put")
            assert pool.submit(abs, -2).result(PATIENCE) == 2
    finally:
        log.removeHandler(made)
    assert results == [5]

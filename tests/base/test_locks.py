"""Locks that an exception cannot take away, latches, and calls that wait until no lock is held."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest

from behaviour.sweep import Instants
from treadle._base.locks import (
    _take_again,
    closed_latch,
    defer,
    is_held,
    locked,
    new_lock,
    open_latch,
    unheld,
)

PATIENCE = 20.0  # seconds for what must happen


def free(lock: threading.RLock) -> bool:
    """Whether another thread could take the lock."""
    got: list[bool] = []

    def take() -> None:
        got.append(lock.acquire(False))
        if got[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(PATIENCE)
    return got == [True]


def instants_of(call: Callable[[], object]) -> int:
    counting = Instants(None)
    with counting.here():
        call()
    return counting.count


def test_a_section_is_called_with_the_lock_held_and_its_result_returned() -> None:
    lock = new_lock()
    assert locked(lock, lambda number: (is_held(lock), number), 3) == (True, 3)
    assert free(lock)


def test_what_a_section_raises_is_raised_and_the_lock_let_go() -> None:
    lock = new_lock()
    with pytest.raises(ZeroDivisionError):
        locked(lock, lambda: 1 // 0)
    assert free(lock)


@pytest.mark.parametrize("before", [0, 1, 2], ids=["free", "held", "held twice"])
def test_an_exception_at_any_instant_leaves_the_lock_as_it_was_before(before: int) -> None:
    """A signal handler may call it in the midst of a section of its own thread, which holds the lock still."""
    lock = new_lock()
    for _ in range(before):
        lock.acquire()
    raised = 0
    for at in range(1, instants_of(lambda: locked(lock, int)) + 1):
        instants = Instants(at)
        with pytest.raises(KeyboardInterrupt), instants.here():
            locked(lock, int)
        raised += 1
        assert is_held(lock) is (before > 0), instants.where
    assert raised >= 3, "as it begins, and as it takes and lets go the lock"
    for _ in range(before):
        lock.release()
    assert free(lock)
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_latch_is_closed_until_it_is_opened_and_may_be_opened_again() -> None:
    latch = closed_latch()
    assert not latch.acquire(False)
    open_latch(latch)
    open_latch(latch)
    assert latch.acquire(False)


def test_a_deferred_call_is_made_at_once_where_no_lock_is_held() -> None:
    calls: list[int] = []
    defer(lambda: calls.append(1))
    assert calls == [1]


def test_amid_a_section_it_waits_until_the_lock_is_let_go() -> None:
    lock, other, calls = new_lock(), new_lock(), list[bool]()

    def section() -> None:
        defer(lambda: calls.append(is_held(lock) or is_held(other)))
        locked(other, int)
        assert not calls

    locked(lock, locked, other, section)
    assert calls == [False]


def test_each_deferred_call_is_made_once_however_many_threads_let_go_of_locks() -> None:
    calls: list[int] = []
    together = threading.Barrier(4)

    def thread(number: int) -> None:
        lock = new_lock()
        together.wait(PATIENCE)
        for each in range(200):
            locked(lock, lambda each=each: defer(lambda: calls.append(number * 1000 + each)))  # type: ignore[misc]

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    locked(new_lock(), int)
    assert sorted(calls) == sorted(number * 1000 + each for number in range(4) for each in range(200))


def test_what_a_deferred_call_raises_is_logged_and_not_raised_to_whoever_makes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def section() -> int:
        defer(lambda: 1 // 0)
        defer(lambda: calls.append(1))
        return 3

    with caplog.at_level(logging.ERROR, "treadle"):
        assert locked(new_lock(), section) == 3
    assert calls == [1]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_locks_may_be_made_while_calls_are_deferred_in_other_threads() -> None:
    """As when one thread makes pools, and another lets go of results that nobody has asked for."""
    over, made = threading.Event(), list[threading.RLock]()

    def make() -> None:
        while not over.is_set():
            made.append(new_lock())
            if len(made) > 300:
                del made[:]

    thread = threading.Thread(target=make)
    thread.start()
    calls: list[int] = []
    try:
        for number in range(1000):
            defer(partial(calls.append, number))
    finally:
        over.set()
        thread.join(PATIENCE)
    assert calls == list(range(1000))


def test_a_wait_amid_sections_holds_no_lock_however_often_it_was_taken_and_has_them_again() -> None:
    lock, other = new_lock(), new_lock()
    during: list[bool] = []

    def wait() -> str:
        during.extend((free(lock), free(other)))
        return "over"

    def amid() -> None:
        defer(lambda: during.append(is_held(lock) or is_held(other)))
        assert unheld(wait) == "over"
        assert (is_held(lock), is_held(other)) == (True, True)

    for _ in range(3):
        lock.acquire()
    locked(other, amid)
    assert during == [False, True, True]
    for _ in range(3):
        assert not free(lock)
        lock.release()
    assert (free(lock), free(other)) == (True, True)


def test_a_wait_with_no_lock_held_is_a_call() -> None:
    assert unheld(len, "four") == 4


def test_what_such_a_wait_raises_is_raised_with_the_locks_held_again() -> None:
    lock = new_lock()

    def amid() -> None:
        with pytest.raises(ZeroDivisionError):
            unheld(divmod, 1, 0)
        assert is_held(lock)

    locked(lock, amid)
    assert free(lock)


def test_two_waits_that_take_two_locks_again_in_opposite_orders_do_not_wait_for_each_other() -> None:
    one, other = new_lock(), new_lock()
    ended: list[int] = []

    def thread(first: threading.RLock, second: threading.RLock) -> None:
        for _ in range(300):
            _take_again([first, second])
            second.release()
            first.release()
        ended.append(1)

    threads = [threading.Thread(target=thread, args=pair, daemon=True) for pair in ((one, other), (other, one))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert ended == [1, 1]


def test_an_exception_at_any_instant_of_such_a_wait_leaves_no_lock_taken() -> None:
    def call(lock: threading.RLock) -> None:
        locked(lock, lambda: locked(lock, lambda: unheld(int)))

    for at in range(1, instants_of(lambda: call(new_lock())) + 1):
        lock, instants = new_lock(), Instants(at)
        with contextlib.suppress(KeyboardInterrupt), instants.here():
            call(lock)
        assert free(lock), instants.where

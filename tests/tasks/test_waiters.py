"""treadle._tasks.waiters: latches, callbacks and the standard library's waiters of one future, each told once."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from treadle import Future
from treadle._base import clock
from treadle._base.locks import closed_latch
from treadle._base.timer import TIMERS
from treadle._tasks.waiters import ColdFields, InternalCallback, Waiters, run_callbacks, why_dropped


def tell(waiters: Waiters, future: Future[Any] | None = None) -> None:
    future = Future() if future is None else future
    waiters.tell(future, future._owner.lock)


class Waiter:
    """What the standard library installs in a future, and what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def add_result(self, future: Any) -> None:
        self.told.append("result")

    def add_exception(self, future: Any) -> None:
        self.told.append("exception")

    def add_cancelled(self, future: Any) -> None:
        self.told.append("cancelled")


def test_telling_opens_every_latch_and_keeps_none() -> None:
    waiters, gates = Waiters(), [closed_latch() for _ in range(5)]
    waiters.latches.extend(gates)
    tell(waiters)
    assert not any(gate.locked() for gate in gates)
    assert waiters.latches == []


def test_telling_runs_the_callbacks_in_order_and_once() -> None:
    waiters, future = Waiters(), Future[int]()
    calls: list[tuple[str, object]] = []

    def callback(name: str) -> Callable[[object], None]:
        return lambda told: calls.append((name, told))

    waiters.callbacks.extend(map(callback, "abc"))
    tell(waiters, future)
    tell(waiters, future)
    assert calls == [("a", future), ("b", future), ("c", future)]
    assert waiters.callbacks == []


def test_latches_are_open_when_callbacks_run() -> None:
    """A callback may take long, and who waits for the result is not to wait for it."""
    waiters, gate = Waiters(), closed_latch()
    waiters.latches.append(gate)
    states: list[bool] = []
    waiters.callbacks.append(lambda _: states.append(gate.locked()))
    tell(waiters)
    assert states == [False]


def test_a_second_call_ends_what_a_killed_thread_began() -> None:
    """The first thread dies as it has opened one of two latches."""
    waiters, first, last = Waiters(), closed_latch(), closed_latch()

    class Killed:
        def release(self) -> None:
            if not first.locked():
                raise RuntimeError("release unlocked lock")
            first.release()
            raise SystemExit

    calls: list[object] = []
    waiters.latches.extend([Killed(), last])  # type: ignore[list-item]  # scripted
    waiters.callbacks.append(calls.append)
    future: Future[int] = Future()
    with pytest.raises(SystemExit):
        tell(waiters, future)
    assert (first.locked(), last.locked(), calls) == (False, True, [])
    tell(waiters, future)
    assert (last.locked(), calls) == (False, [future])


def test_two_threads_may_tell_at_once_and_each_latch_is_opened() -> None:
    """The timers' thread fails a future at its deadline, and its worker comes back from the task just then: both tell.

    The second comes in as the first is about to open the latch.
    """
    waiters, gate = Waiters(), closed_latch()
    future: Future[int] = Future()

    class Scripted:
        overtaken = False

        def release(self) -> None:
            if not self.overtaken:
                self.overtaken = True
                tell(waiters, future)
            gate.release()

    waiters.latches.append(Scripted())  # type: ignore[arg-type]  # it is one, as far as it is used
    tell(waiters, future)
    assert not gate.locked()
    assert waiters.latches == []


def test_two_threads_that_tell_at_once_call_each_callback_once() -> None:
    for _ in range(300):
        waiters, both, calls = Waiters(), threading.Barrier(2), []  # type: ignore[var-annotated]  # of futures
        future: Future[int] = Future()
        gates = [closed_latch() for _ in range(20)]
        waiters.latches.extend(gates)
        waiters.callbacks.extend([calls.append] * 5)
        failures: list[Exception] = []

        def come(
            waiters: Waiters = waiters,
            future: Future[int] = future,
            both: threading.Barrier = both,
            failures: list[Exception] = failures,
        ) -> None:
            both.wait(30)
            try:
                tell(waiters, future)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=come) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        assert not any(gate.locked() for gate in gates)
        assert len(calls) == 5


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda future: future.set_result(1), "result"),
        (lambda future: future.set_exception(ValueError()), "exception"),
        (lambda future: (future.cancel(), future.set_running_or_notify_cancel()), "cancelled"),
    ],
)
def test_waiters_of_the_standard_library_are_told_how_it_ended(end: Any, told: str) -> None:
    future: Future[int] = Future()
    waiter = Waiter()
    with future._condition:
        future._waiters.append(waiter)  # type: ignore[arg-type]  # scripted
    end(future)
    assert waiter.told == [told]


def test_waiters_are_not_told_of_a_cancellation_that_its_maker_has_not_noted() -> None:
    """As in the standard library: `wait` goes on until then."""
    future: Future[int] = Future()
    waiter = Waiter()
    with future._condition:
        future._waiters.append(waiter)  # type: ignore[arg-type]  # scripted
    assert future.cancel()
    assert waiter.told == []
    assert concurrent.futures.wait([future], 0).not_done == {future}


def test_who_sleeps_at_the_condition_is_woken() -> None:
    future: Future[int] = Future()
    condition, asleep, woken = future._condition, threading.Event(), threading.Event()

    def sleep() -> None:
        with condition:
            asleep.set()
            if condition.wait_for(future.done, 60):
                woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    assert asleep.wait(30)
    future.set_result(1)
    thread.join(20)
    assert woken.is_set(), "it sleeps, though nobody tells it any more"


def test_every_callback_is_called_whatever_the_one_before_it_raised(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[object] = []
    future: Future[int] = Future()

    def fail(_: object) -> None:
        raise ValueError("in a callback")

    def exit_(_: object) -> None:
        raise SystemExit(3)

    with caplog.at_level(logging.ERROR, "concurrent.futures"), pytest.raises(SystemExit):
        run_callbacks(future, [fail, calls.append, exit_, calls.append])
    assert calls == [future, future]
    assert "in a callback" in caplog.text
    assert [record.name for record in caplog.records] == ["concurrent.futures"]


def test_what_is_rare_is_made_when_it_is_needed() -> None:
    future: Future[int] = Future()
    assert not hasattr(future, "_cold")
    cold = future._get_cold()
    assert (cold.serial, cold.unretrieved, cold.scope) == (0, None, None)
    assert future._get_cold() is cold
    assert isinstance(cold, ColdFields)


def test_the_alarm_takes_its_own_notes_and_leaves_the_users_callbacks_to_another_thread() -> None:
    """A callback that blocks must hold up neither the timers' thread nor a group, which waits for such a note."""
    gate, told, noted = threading.Event(), threading.Event(), threading.Event()
    waiters, names = Waiters(), dict[str, str]()

    def users(_: object) -> None:
        names["user's"] = threading.current_thread().name
        told.set()
        assert gate.wait(30)

    def note(_: object) -> None:
        names["note"] = threading.current_thread().name
        noted.set()

    waiters.callbacks.extend([users, InternalCallback(note)])
    TIMERS.call_at(clock.now(), lambda: tell(waiters))
    try:
        assert told.wait(30)
        assert noted.wait(30)
    finally:
        gate.set()
    assert names == {"note": "treadle-timers", "user's": "treadle-callbacks"}


def test_only_a_future_that_its_pool_has_cancelled_says_why() -> None:
    dropped: Future[int] = Future()
    dropped._get_cold()
    assert why_dropped(dropped) is None
    dropped._abandon(error := LookupError())
    assert why_dropped(dropped) is error
    by_hand: Future[int] = Future()
    by_hand.cancel()
    assert why_dropped(by_hand) is why_dropped(concurrent.futures.Future()) is None


def test_a_callback_that_another_thread_is_about_to_run_is_left_to_that_and_one_of_its_own_is_run() -> None:
    """As where it was interrupted between the two."""
    waiters, calls = Waiters(), list[object]()
    future: Future[int] = Future()
    waiters.taken, waiters.taker = calls.append, threading.get_ident() + 1
    tell(waiters, future)
    assert calls == []
    waiters.taker = threading.get_ident()
    tell(waiters, future)
    tell(waiters, future)
    assert calls == [future]

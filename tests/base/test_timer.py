"""TimerThread: calls functions at given times."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from behaviour.scripts import script
from clocks import FakeClock
from treadle._base import clock, timer
from treadle._base import threads as threads_module
from treadle._base.timer import TIMERS, TimerHandle, TimerThread, run_user_code

PATIENCE = 30.0


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> TimerThread:
    """Timers without a thread: they are called by hand."""
    monkeypatch.setattr("treadle._base.timer.start_thread", lambda target, name: threading.current_thread())
    return TimerThread()


def test_bells_ring_in_the_order_of_their_times_when_these_have_come(alarm: TimerThread, still: FakeClock) -> None:
    rang: list[int] = []
    for seconds in (3, 1, 2):
        alarm.call_at(still.now() + seconds, lambda seconds=seconds: rang.append(seconds))  # type: ignore[misc]
    assert alarm.call_due() == 0
    still.pass_(2)
    assert alarm.call_due() == 2
    still.pass_(1)
    alarm.call_due()
    assert rang == [1, 2, 3]


def test_a_cancelled_bell_does_not_ring_and_may_be_cancelled_again(alarm: TimerThread, still: FakeClock) -> None:
    rang: list[int] = []
    bell = alarm.call_at(still.now() + 1, lambda: rang.append(1))
    bell.cancel()
    bell.cancel()
    still.pass_(2)
    assert alarm.call_due() == 0
    assert not rang


def test_bells_that_are_set_and_cancelled_do_not_pile_up(alarm: TimerThread, still: FakeClock) -> None:
    kept = [alarm.call_at(still.now() + 60, int) for _ in range(10)]
    for _ in range(10_000):
        alarm.call_at(still.now() + 60, int).cancel()
        assert len(alarm._handles) <= 2 * (len(kept) + 64) + 1
    still.pass_(60)
    assert alarm.call_due() == len(kept)


def test_a_bell_that_raises_is_logged_and_the_next_one_rings(
    alarm: TimerThread, still: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    rang: list[int] = []

    def fail() -> None:
        raise ValueError("from a bell")

    alarm.call_at(still.now(), fail)
    alarm.call_at(still.now(), lambda: rang.append(1))
    with caplog.at_level(logging.ERROR, "treadle"):
        assert alarm.call_due() == 2
    assert rang == [1]
    assert "from a bell" in caplog.text


def test_its_thread_rings_and_ends_when_there_is_nothing_more_to_do() -> None:
    alarm, rang = TimerThread(), threading.Event()
    alarm.call_at(clock.now() + 3600, int)
    early = alarm.call_at(clock.now() + 0.01, rang.set)  # before the one that it sleeps for
    assert rang.wait(PATIENCE)
    assert early.is_due is False
    for bell in list(alarm._handles):
        bell.cancel()
    thread = alarm._thread
    assert thread is not None
    alarm.call_at(clock.now(), int)  # so that it looks
    thread.join(PATIENCE)
    assert not thread.is_alive()
    again = threading.Event()
    alarm.call_at(clock.now(), again.set)
    assert again.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_nothing_of_the_parents_rings_after_a_fresh_start(alarm: TimerThread, still: FakeClock) -> None:
    bell = alarm.call_at(still.now(), int)
    alarm.start_afresh()  # as in a forked child
    assert bell.is_due is False
    assert alarm.call_due() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_what_a_destructor_of_a_parents_call_sets_in_the_child_rings_there() -> None:
    done = script("""
        from functools import partial
        from treadle._base import clock
        from treadle._base.timer import CALLBACKS, TIMERS
        parent, rung = os.getpid(), [threading.Event() for _ in range(4)]
        class Frees:
            def __del__(self):
                if os.getpid() != parent:
                    for timers in CALLBACKS, TIMERS:
                        timers.call_at(clock.now(), rung.pop().set)
        for timers in CALLBACKS, TIMERS:
            timers.call_at(clock.now() + 1000, partial(print, Frees()))
        events = list(rung)
        def child():
            assert not rung
            assert all([each.wait(20) for each in events])
        print(fork(child))
    """)
    assert done.stdout.splitlines() == ["0"], done.stderr


# -- as the thread rings --------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells, such as another thread being asleep."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


def asleep(alarm: TimerThread) -> bool:
    """Whether its thread waits for the next bell."""
    return bool(alarm._changed._waiters)  # type: ignore[attr-defined]  # of threading.Condition


class Interrupted(deque[Any]):
    """Those who wait for a condition: Ctrl-C comes once, as the one who was told is to leave, and is awake."""

    told: Any = None

    def remove(self, waiter: Any) -> None:
        """Take who was told out of the list, unless Ctrl-C comes."""
        if self.told is None:
            self.told = waiter
            until(waiter.locked)  # its thread has it again
            raise KeyboardInterrupt
        super().remove(waiter)

    def is_anybody_asleep(self) -> bool:
        """Whether somebody waits but for who was told."""
        return any(waiter is not self.told for waiter in list(self))


@pytest.mark.parametrize(
    "tell",
    [lambda alarm, first: first.cancel(), lambda alarm, first: alarm.call_at(first.when - 500, int)],
    ids=["cancel", "call_at"],
)
def test_it_rings_in_time_though_ctrl_c_came_as_it_was_told_of_another_bell(
    tell: Callable[[TimerThread, TimerHandle], object],
) -> None:
    alarm, rang = TimerThread(), threading.Event()
    alarm.call_at(clock.now() + 2000, int)
    first = alarm.call_at(clock.now() + 1000, int)
    until(lambda: asleep(alarm))
    with alarm._changed:
        waiting = Interrupted(alarm._changed._waiters)  # type: ignore[attr-defined]
        alarm._changed._waiters = waiting  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        tell(alarm, first)
    until(waiting.is_anybody_asleep)
    alarm.call_at(clock.now() + 0.001, rang.set)
    assert rang.wait(PATIENCE)
    for bell in list(alarm._handles):
        bell.cancel()


def test_its_thread_ends_when_the_last_bell_was_cancelled_however_far_that_is() -> None:
    alarm = TimerThread()
    bell = alarm.call_at(clock.now() + 3600, int)
    thread = alarm._thread
    assert thread is not None
    until(lambda: asleep(alarm))
    bell.cancel()
    thread.join(PATIENCE)
    ended = not thread.is_alive()
    alarm.call_at(0.0, int)  # so that it looks
    thread.join(PATIENCE)
    assert ended


def test_its_thread_does_not_sleep_for_a_bell_that_is_cancelled_as_it_goes_to_sleep() -> None:
    """It rang what was due, and has not looked yet for how long it may sleep."""
    bells: list[TimerHandle] = []
    is_set = threading.Event()

    class Muting(TimerThread):
        def call_due(self) -> int:
            rang = super().call_due()
            assert is_set.wait(PATIENCE)
            if bells:
                bells.pop().cancel()
            return rang

    alarm = Muting()
    bells.append(alarm.call_at(clock.now() + 3600, int))
    is_set.set()
    thread = alarm._thread
    assert thread is not None
    thread.join(PATIENCE)
    ended = not thread.is_alive()
    alarm.call_at(0.0, int)  # so that it looks
    thread.join(PATIENCE)
    assert ended


def test_its_thread_rings_on_though_the_log_raises() -> None:
    """As a handler or a filter of the user's may."""

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise ValueError("from a filter")

    def fail() -> None:
        raise ValueError("from a bell")

    alarm, rang, broken = TimerThread(), threading.Event(), Broken()
    log = logging.getLogger("treadle")
    log.addFilter(broken)
    try:
        alarm.call_at(clock.now(), fail)
        alarm.call_at(clock.now(), rang.set)
        assert rang.wait(PATIENCE)
    finally:
        log.removeFilter(broken)


def test_a_thread_that_something_has_ended_is_replaced() -> None:
    alarm, rang = TimerThread(), threading.Event()
    alarm._thread = threading.Thread(target=int)
    alarm._thread.start()
    alarm._thread.join(PATIENCE)
    alarm.call_at(clock.now(), rang.set)
    assert rang.wait(PATIENCE)


def test_what_is_the_users_runs_elsewhere_and_holds_up_no_bell() -> None:
    gate, called, rang = threading.Event(), threading.Event(), threading.Event()
    threads: list[str] = []

    def users(name: str) -> None:
        threads.append(threading.current_thread().name)
        called.set()
        assert gate.wait(PATIENCE)

    TIMERS.call_at(clock.now(), lambda: run_user_code(users, "blocks"))
    assert called.wait(PATIENCE)
    TIMERS.call_at(clock.now(), rang.set)
    on_time = rang.wait(PATIENCE)
    gate.set()
    assert on_time
    assert threads == ["treadle-callbacks"]
    run_user_code(users, "at once, in another thread than the alarm's")
    assert threads[1:] == [threading.current_thread().name]


def test_what_is_the_users_is_called_in_order_and_by_the_alarm_itself_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Threadless(TimerThread):
        def call_at(self, when: float, callback: Callable[[], object]) -> TimerHandle:
            super().call_at(when, callback)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr("treadle._base.timer.start_thread", lambda target, name: threading.current_thread())
    here, elsewhere, called = TimerThread(), Threadless(), list[int]()
    here.call_at(inf, int)  # it takes this thread for its own now
    monkeypatch.setattr("treadle._base.timer.TIMERS", here)
    monkeypatch.setattr("treadle._base.timer.CALLBACKS", elsewhere)
    for number in range(3):
        run_user_code(called.append, number)
    assert called == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_a_bell_raises_its_thread_rings_on(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("from a bell")

    alarm, rang = TimerThread(), threading.Event()
    far = alarm.call_at(clock.now() + 3600, int)
    alarm.call_at(clock.now(), fail)
    alarm.call_at(clock.now(), rang.set)
    came = rang.wait(3)
    far.cancel()
    alarm.call_at(0.0, int)
    assert came
    assert "from a bell" in caplog.text


def test_a_bell_may_set_and_cancel_others_and_is_rung_with_no_lock_held() -> None:
    alarm = TimerThread()
    rang: list[str] = []
    done = threading.Event()
    doomed = alarm.call_at(clock.now() + 3600, lambda: rang.append("doomed"))

    def first() -> None:
        doomed.cancel()
        other = threading.Thread(target=alarm.call_at, args=(clock.now(), done.set))
        alarm.call_at(clock.now(), lambda: rang.append("second"))
        other.start()
        other.join(PATIENCE)
        rang.append("stuck" if other.is_alive() else "first")

    alarm.call_at(clock.now(), first)
    assert done.wait(PATIENCE)
    until(lambda: len(rang) == 2)
    assert rang == ["first", "second"]


def test_there_is_one_thread_however_many_set_at_once() -> None:
    alarm, together = TimerThread(), threading.Barrier(8)
    threads: set[int] = set()
    rang = threading.Semaphore(0)

    def ring() -> None:
        threads.add(threading.get_ident())
        rang.release()

    def set_many() -> None:
        together.wait(PATIENCE)
        for _ in range(50):
            alarm.call_at(clock.now() + 0.05, ring)

    setters = [threading.Thread(target=set_many) for _ in range(8)]
    for setter in setters:
        setter.start()
    for _ in range(400):
        assert rang.acquire(timeout=PATIENCE)
    for setter in setters:
        setter.join(PATIENCE)
    assert len(threads) == 1


def test_a_bell_further_away_than_the_system_can_wait_is_no_fault() -> None:
    alarm, rang = TimerThread(), threading.Event()
    far = alarm.call_at(1e300, int)
    until(lambda: asleep(alarm))
    alarm.call_at(clock.now(), rang.set)
    assert rang.wait(PATIENCE)
    far.cancel()
    alarm.call_at(0.0, int)


def test_muting_against_ringing_each_bell_rings_at_most_once_and_the_count_is_kept() -> None:
    alarm = TimerThread()
    for _ in range(300):
        rang: list[int] = []
        bells = [alarm.call_at(clock.now() + 0.0002, lambda rang=rang: rang.append(1)) for _ in range(5)]  # type: ignore[misc]
        for bell in bells:
            bell.cancel()
        assert len(rang) <= 5
        assert all(bell.is_due is False for bell in bells)
    with alarm._changed:
        assert alarm._cancelled == sum(bell.is_due is False for bell in alarm._handles)


def test_a_thread_that_cannot_be_started_is_told_and_the_next_set_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: object, name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    alarm, rang = TimerThread(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("treadle._base.timer.start_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            alarm.call_at(clock.now(), int)
    alarm.call_at(clock.now(), rang.set)
    assert rang.wait(PATIENCE)


# -- against a model ------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_that_are_set_and_cancelled_leave_a_handful(alarm: TimerThread, still: FakeClock) -> None:
    """In any order: each at once, or all of them and then all of them again."""
    for number in range(100_000):
        alarm.call_at(still.now() + number % 97, int).cancel()
    assert len(alarm._handles) <= 65
    bells = [alarm.call_at(still.now() + number % 97, int) for number in range(100_000)]
    for bell in bells[1:]:
        bell.cancel()
    assert len(alarm._handles) <= 66
    still.pass_(100)
    assert alarm.call_due() == 1
    assert alarm._handles == []
    assert alarm._cancelled == 0


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "pass"]), st.integers(0, 40)), max_size=400))
def test_what_is_set_and_not_cancelled_rings_in_time_and_in_order(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock_, alarm = FakeClock(patch, start=0.0), TimerThread()
        patch.setattr("treadle._base.timer.start_thread", lambda target, name: threading.current_thread())
        live: dict[int, tuple[float, TimerHandle]] = {}
        rang: list[int] = []
        for serial, (step, number) in enumerate(steps):
            if step == "set":
                when = clock_.now() + number
                live[serial] = when, alarm.call_at(when, lambda serial=serial: rang.append(serial))  # type: ignore[misc]
            elif step == "cancel" and live:
                _, bell = live.pop(sorted(live)[number % len(live)])
                bell.cancel()
                bell.cancel()
            elif step == "pass":
                clock_.pass_(number)
                due = {each for each, (when, _) in live.items() if when <= clock_.now()}
                rang.clear()
                assert alarm.call_due() == len(due)
                assert set(rang) == due
                assert [live[each][0] for each in rang] == sorted(live[each][0] for each in rang)
                for each in due:
                    del live[each]
            assert alarm._cancelled == sum(bell.is_due is False for bell in alarm._handles)
            assert len(alarm._handles) - alarm._cancelled == len(live)
            assert alarm._cancelled <= max(64, len(live))


# -- whole programs -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_no_fork_comes_between_the_moments_a_bell_leaves_the_heap_and_is_noted_as_rung() -> None:
    """Or in the child it would be in no heap and yet look set; who waits for it there would never set it again."""
    done = script("""
        from treadle._base import clock, timer
        heappop, popped, go_on = timer.heappop, threading.Event(), threading.Event()
        class Lock:  # which says when the main thread asks for it
            def __init__(self, lock):
                self.lock = lock
            def acquire(self, *args):
                if popped.is_set() and threading.current_thread() is threading.main_thread():
                    go_on.set()
                return self.lock.acquire(*args)
            def release(self):
                self.lock.release()
            def locked(self):
                return self.lock.locked()
            def __enter__(self):
                return self.acquire()
            def __exit__(self, *_):
                self.release()
        def slow(heap):
            bell = heappop(heap)
            popped.set()
            assert go_on.wait(20)
            return bell
        timer.TIMERS._changed = threading.Condition(Lock(threading.Lock()))
        timer.heappop = slow
        later = timer.TIMERS.call_at(clock.now() + 60, int)  # it has the thread started, for which that lock is taken
        bell = timer.TIMERS.call_at(clock.now(), int)
        assert popped.wait(20)
        def child():
            assert bell.is_due is False, "it looks set"
        print(fork(child))
    """)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_in_a_forked_child_it_rings_what_is_set_there_and_nothing_of_the_parents() -> None:
    done = script("""
        from treadle._base import clock
        from treadle._base.timer import TIMERS
        rang = threading.Event()
        parents = TIMERS.call_at(clock.now() + 0.5, lambda: (print("the parent's"), rang.set()))
        far = TIMERS.call_at(clock.now() + 600, int)
        def child():
            childs = threading.Event()
            TIMERS.call_at(clock.now() + 1.0, childs.set)
            assert childs.wait(20)
            parents.cancel()
            far.cancel()
            print("the child's")
        print(fork(child))
        assert rang.wait(20)
    """)
    assert sorted(done.stdout.splitlines()) == sorted(["the child's", "0", "the parent's"]), done.stderr


def test_a_bell_that_is_set_as_the_threads_time_is_up_rings() -> None:
    """It comes between the end of the thread's last wait and its taking of the lock; the thread is there, and stays."""
    alarm, rang, times_out = TimerThread("test-alarm"), threading.Event(), list[threading.Thread]()
    wait = alarm._changed.wait

    def wait_too_long(timeout: float | None = None) -> bool:
        if times_out:
            return wait(timeout)
        times_out.append(threading.current_thread())
        alarm.call_at(-inf, rang.set)
        return False

    alarm._changed.wait = wait_too_long  # type: ignore[method-assign]  # scripted
    alarm.call_at(-inf, int)
    assert rang.wait(PATIENCE)
    times_out[0].join(PATIENCE)


def test_a_thread_that_has_ended_before_its_starter_goes_on_is_not_taken_to_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collection of garbage may hold the starter up for longer than the thread lingers."""
    alarm, start, called, threads = (
        TimerThread(),
        threads_module.start_thread,
        threading.Event(),
        list[threading.Thread](),
    )

    class Ending(threading.Thread):
        def is_alive(self) -> bool:
            return True  # as long as it has not come to its very end

    def start_late(target: Callable[[], object], name: str) -> threading.Thread:
        if threads:
            return start(target, name)
        threads.append(Ending(target=target, name=name))
        threads[0].start()
        threads[0].join(30)
        return threads[0]

    monkeypatch.setattr(timer, "start_thread", start_late)
    alarm.call_at(-inf, int)
    alarm.call_at(-inf, called.set)
    assert called.wait(30)

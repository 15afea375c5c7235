"""treadle._tasks.scoped: tasks of a scope, which are settled once: by their worker, or by the timers' thread."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from time import monotonic
from typing import Any

import pytest

import treadle
from blocked import until_blocked
from clocks import FakeClock
from treadle import Future, Pool, Rate
from treadle._base import timer as alarm_module
from treadle._base.timer import TimerThread
from treadle._pool import submit as submitter_module
from treadle._pool.submit import BARE, WhenFull
from treadle._tasks import scope as scope_module
from treadle._tasks.future import PENDING
from treadle._tasks.options import PLAIN
from treadle._tasks.scope import SCOPE, Scope
from treadle._tasks.scoped import FREE, ScopedTask, new_task
from treadle.errors import Cancelled, DeadlineExceeded, PoolClosed, PoolFull, Shed
from treadle.events import Observer, TaskEvent

PATIENCE = 30.0  # seconds for what must happen


@pytest.fixture(autouse=True)
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[TimerThread]:
    """Timers of the test's own, without a thread: who wants it to call what is due calls `call_due`."""
    monkeypatch.setattr(alarm_module, "start_thread", lambda target, name: None)
    made = TimerThread()
    monkeypatch.setattr(scope_module, "TIMERS", made)
    yield made
    assert all(bell.is_due is False for bell in made._handles), "no bell is left when no task is"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, alarm: TimerThread) -> FakeClock:
    return FakeClock(monkeypatch)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells, such as another thread being asleep."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


def scope_of(future: Future[Any]) -> Scope:
    assert isinstance(future, ScopedTask)
    return future._scope


class Held:
    """A pool of one thread that is busy with a task without a deadline, until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.pool, self.gate, began = Pool(1, **options), threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(PATIENCE)

        self.running = self.pool.submit(hold)
        assert began.wait(PATIENCE)

    def let_go(self) -> None:
        self.gate.set()
        self.pool.shutdown()


@pytest.fixture
def held(clock: FakeClock) -> Iterator[Held]:
    made = Held()
    yield made
    made.let_go()


def is_sound(pool: Pool) -> None:
    """Check what holds for the counts of a pool in which nothing waits or runs."""
    now = pool.snapshot()
    assert (now.waiting, now.blocked) == (0, 0), now
    assert now.submitted == now.finished + now.cancelled + now.shed, now
    assert pool._task_dispatcher.queue.tombstones == len(pool._task_dispatcher.queue.tasks)


# -- which tasks are scoped --------------------------------------------------------------------------------------------


def test_only_tasks_of_a_scope_are_governed() -> None:
    """The others go the plain way, which is faster."""
    with Pool(1) as pool:
        assert type(pool.submit(int)) is Future
        with treadle.deadline(60):
            future = pool.submit(int)
            assert type(future) is ScopedTask
            assert future._inherited() is SCOPE.get()
        assert future.result(PATIENCE) == 0
        assert type(pool.options(rate=Rate(1000)).submit(int)) is ScopedTask
    assert FREE._members == {}


def test_to_the_user_a_governed_task_is_a_future_like_any_other() -> None:
    with Pool(1) as pool, treadle.deadline(60):
        assert isinstance(pool.submit(int), Future)
        assert pool.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        assert pool.submit(int, "11", base=2).result(PATIENCE) == 3
        assert isinstance(pool.submit(int, "x").exception(PATIENCE), ValueError)


def test_a_task_is_made_in_its_scope_or_not_at_all(clock: FakeClock) -> None:
    with Pool(1) as pool:
        with treadle.deadline(1):
            clock.pass_(1)
            with pytest.raises(DeadlineExceeded):
                new_task(pool._task_dispatcher, int, (), BARE, PLAIN)
            scope = SCOPE.get()
        assert scope is not None
        assert scope._members == {}
        token = SCOPE.set(Scope(None))
        try:
            stopped = SCOPE.get()
            assert stopped is not None
            stopped.cancel()
            with pytest.raises(Cancelled):
                pool.submit(int)
            assert stopped._members == {}
        finally:
            SCOPE.reset(token)
        assert pool.snapshot().submitted == 0


# -- settled once ---------------------------------------------------------------------------------------------------


def test_a_waiting_task_fails_at_its_deadline_and_is_never_run(
    held: Held, clock: FakeClock, alarm: TimerThread
) -> None:
    ran: list[int] = []
    with treadle.deadline(5):
        future = held.pool.submit(ran.append, 1)
    clock.pass_(4.9)
    alarm.call_due()
    assert not future.done()
    clock.pass_(0.1)
    alarm.call_due()
    assert future.done()
    assert not future.cancelled()
    with pytest.raises(DeadlineExceeded, match="the deadline of 5 s has passed") as caught:
        future.result(0)
    assert caught.value.seconds == 5
    assert isinstance(caught.value, TimeoutError)
    assert held.pool.snapshot().waiting == 0
    held.let_go()
    assert ran == []
    is_sound(held.pool)


def test_a_task_whose_worker_comes_before_the_alarm_is_not_run_either(held: Held, clock: FakeClock) -> None:
    """The timers' thread is one among others, and may be late."""
    ran: list[int] = []
    with treadle.deadline(5):
        future = held.pool.submit(ran.append, 1)
    clock.pass_(5)
    held.let_go()
    assert isinstance(future.exception(0), DeadlineExceeded)
    assert ran == []
    is_sound(held.pool)


def test_a_task_whose_scope_was_cancelled_is_not_run(held: Held) -> None:
    ran: list[int] = []
    with treadle.deadline(60):
        future = held.pool.submit(ran.append, 1)
    scope_of(future).cancel()
    held.let_go()
    assert isinstance(future.exception(0), Cancelled)
    assert ran == []


class Running:
    """A task that runs until it is let go, and then returns or raises what it is told."""

    def __init__(self, pool: Pool, seconds: float) -> None:
        self.began, self.gate = threading.Event(), threading.Event()
        self.outcome: Any = None
        self.left = threading.Event()
        with treadle.deadline(seconds):
            self.future = pool.submit(self._run)
        assert self.began.wait(PATIENCE)

    def _run(self) -> Any:
        self.began.set()
        assert self.gate.wait(PATIENCE)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def let_go(self, outcome: Any) -> None:
        self.outcome = outcome
        self.gate.set()


def test_a_running_task_fails_on_time_and_its_thread_is_overdue_until_it_returns(
    clock: FakeClock, alarm: TimerThread
) -> None:
    with Pool(1) as pool:
        task = Running(pool, 5)
        (worker,) = pool.snapshot().workers
        assert (worker.task, worker.seconds, worker.overdue) == ("Running._run", 0, 0)
        clock.pass_(4)
        assert pool.snapshot().workers[0].overdue == 0
        clock.pass_(1)
        alarm.call_due()
        assert isinstance(task.future.exception(0), DeadlineExceeded)
        assert not task.future.running()
        clock.pass_(2.5)
        (worker,) = pool.snapshot().workers
        assert (worker.seconds, worker.overdue) == (7.5, 2.5)
        assert pool.snapshot().busy == 1
        task.let_go("late")
        pool.submit(int).result(PATIENCE)
        until(lambda: pool.snapshot().busy == 0)
        assert pool.snapshot().workers[0].overdue == 0
        assert pool.snapshot().workers[0].finished == 2
        is_sound(pool)


@pytest.mark.parametrize("alarm_first", [True, False])
def test_a_late_result_changes_nothing(
    clock: FakeClock, alarm: TimerThread, alarm_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []
    with Pool(1) as pool:
        task = Running(pool, 5)
        task.future.add_done_callback(calls.append)
        clock.pass_(5)
        if alarm_first:
            alarm.call_due()
            error = task.future.exception(0)
            task.let_go("late")
            pool.submit(int).result(PATIENCE)
            assert task.future.exception(0) is error
        else:
            # Nobody has failed it: what it returns is its result, as that of a task with a moment to spare.
            task.let_go("late")
            assert task.future.result(PATIENCE) == "late"
            alarm.call_due()
            assert task.future.result(0) == "late"
    assert calls == [task.future]
    assert not caplog.records
    is_sound(pool)


def test_a_late_exception_changes_nothing_and_is_logged_once(
    clock: FakeClock, alarm: TimerThread, caplog: pytest.LogCaptureFixture
) -> None:
    with Pool(1) as pool:
        task = Running(pool, 5)
        clock.pass_(5)
        alarm.call_due()
        task.let_go(ValueError("much too late"))
        pool.submit(int).result(PATIENCE)
        assert isinstance(task.future.exception(0), DeadlineExceeded)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("treadle", logging.ERROR)
    assert record.getMessage() == "task Running._run failed after its deadline"
    assert "much too late" in caplog.text


@pytest.mark.parametrize("error", [Cancelled(), DeadlineExceeded(5)])
def test_a_late_task_that_stops_as_it_was_told_is_no_failure(
    clock: FakeClock, alarm: TimerThread, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with Pool(1) as pool:
        task = Running(pool, 5)
        clock.pass_(5)
        alarm.call_due()
        task.let_go(error)
        pool.submit(int).result(PATIENCE)
        assert isinstance(task.future.exception(0), DeadlineExceeded)
    assert not caplog.records


def test_a_result_in_time_is_not_touched_by_the_alarm(clock: FakeClock, alarm: TimerThread) -> None:
    with Pool(1) as pool:
        with treadle.deadline(5):
            future = pool.submit(abs, -3)
        assert future.result(PATIENCE) == 3
        assert scope_of(future)._members == {}
        clock.pass_(6)
        assert alarm.call_due() == 0
        assert future.result(0) == 3


def test_an_exception_in_time_that_nobody_asks_for_is_logged_with_the_name(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        with treadle.deadline(60):
            pool.options(name="doomed").submit(int, "x")
        pool.submit(int).result(PATIENCE)
    gc.collect()
    (record,) = caplog.records
    assert "task doomed failed, and nobody asked" in record.getMessage()


def test_an_expired_task_that_nobody_asks_for_is_not_logged(
    held: Held, clock: FakeClock, alarm: TimerThread, caplog: pytest.LogCaptureFixture
) -> None:
    with treadle.deadline(5):
        held.pool.submit(int)
    clock.pass_(5)
    alarm.call_due()
    gc.collect()
    assert not caplog.records


def test_a_cancelled_task_leaves_its_scope(held: Held, clock: FakeClock, alarm: TimerThread) -> None:
    with treadle.deadline(5):
        future = held.pool.submit(int)
    assert future.cancel()
    assert scope_of(future)._members == {}
    clock.pass_(5)
    assert alarm.call_due() == 0
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(0)


def test_an_expired_task_cannot_be_cancelled(held: Held, clock: FakeClock, alarm: TimerThread) -> None:
    with treadle.deadline(5):
        future = held.pool.submit(int)
    clock.pass_(5)
    alarm.call_due()
    assert not future.cancel()
    assert not future.request_cancel()
    assert isinstance(future.exception(0), DeadlineExceeded)


def test_an_expired_task_holds_neither_its_function_nor_its_arguments(
    held: Held, clock: FakeClock, alarm: TimerThread
) -> None:
    class Thing:
        def __call__(self, *_: object) -> None: ...

    function, argument = Thing(), Thing()
    references = [weakref.ref(function), weakref.ref(argument)]
    with treadle.deadline(5):
        future = held.pool.submit(function, argument)
    clock.pass_(5)
    alarm.call_due()
    assert future.done()
    del function, argument
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_all_tasks_of_a_deadline_fail_when_it_passes_and_none_of_the_next(
    held: Held, clock: FakeClock, alarm: TimerThread
) -> None:
    with treadle.deadline(5):
        near = [held.pool.submit(int) for _ in range(20)]
    with treadle.deadline(6):
        far = [held.pool.submit(int) for _ in range(20)]
    plain = held.pool.submit(int)
    near[7].cancel()
    clock.pass_(5)
    alarm.call_due()
    assert all(future.done() for future in near)
    assert not any(future.done() for future in (*far, plain))
    assert held.pool.snapshot().waiting == 21
    held.gate.set()
    assert [future.result(PATIENCE) for future in far] == [0] * 20
    until(lambda: held.pool.snapshot().busy == 0)
    is_sound(held.pool)


@pytest.mark.parametrize("first", ["the alarm", "the worker"])
def test_observers_are_told_of_a_task_that_expired_before_it_began(
    first: str, clock: FakeClock, alarm: TimerThread
) -> None:
    told: list[tuple[str, str]] = []

    class Listener(Observer):
        def submitted(self, event: TaskEvent) -> None:
            told.append(("submitted", event.name))

        def started(self, event: TaskEvent) -> None:
            told.append(("started", event.name))

        def finished(self, event: TaskEvent) -> None:
            told.append(("finished", event.name))

        def cancelled(self, event: TaskEvent) -> None:
            told.append(("cancelled", event.name))

    held = Held(observers=[Listener()])
    with treadle.deadline(5):
        held.pool.options(name="late").submit(int)
    clock.pass_(5)
    if first == "the alarm":
        alarm.call_due()
    held.let_go()
    assert [what for what, name in told if name == "late"] == ["submitted", "cancelled"]


# -- not admitted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [0, 3])
def test_a_task_that_is_refused_leaves_its_scope(clock: FakeClock, alarm: TimerThread, queue_size: int) -> None:
    held = Held(queue_size=queue_size, when_full="reject")
    with treadle.deadline(5):
        waiting = [held.pool.submit(int) for _ in range(queue_size)]
        scope = SCOPE.get()
        assert scope is not None
        with pytest.raises(PoolFull):
            held.pool.submit(int)
        assert [id(member) for member in scope._members] == [id(future) for future in waiting]
        clock.pass_(5)
        alarm.call_due()
    held.let_go()
    with treadle.deadline(5):
        closed = SCOPE.get()
        assert closed is not None
        with pytest.raises(PoolClosed):
            held.pool.submit(int)
        assert closed._members == {}
    is_sound(held.pool)


def test_a_task_that_is_shed_for_another_leaves_its_scope(clock: FakeClock) -> None:
    held = Held(queue_size=1, when_full="discard_oldest")
    with treadle.deadline(5):
        victim = held.pool.submit(int)
        newcomer = held.pool.submit(int)
    assert isinstance(victim.exception(0), Shed)
    assert [id(member) for member in scope_of(victim)._members] == [id(newcomer)]
    held.let_go()
    assert newcomer.result(0) == 0


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("when_full", ["block", "reject", "caller_runs", "discard_oldest"])
def test_a_deadline_that_passes_while_a_task_is_submitted_leaves_the_pool_sound(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, alarm: TimerThread, used: bool, when_full: WhenFull
) -> None:
    """It is a member of its scope before it is in the queue, and the timers' thread may come in between."""
    ran: list[int] = []

    def new_task_and_ring(*args: Any, **options: Any) -> Any:
        task = new_task(*args, **options)
        clock.pass_(5)
        alarm.call_due()
        return task

    with Pool(1, when_full=when_full) as pool:
        if used:
            pool.submit(int).result(PATIENCE)
        future: Future[None] | None = None
        with monkeypatch.context() as patch, treadle.deadline(5):
            patch.setattr(submitter_module, "new_task", new_task_and_ring)
            try:
                future = pool.submit(ran.append, 1)
            except DeadlineExceeded:
                pass
        assert future is None or isinstance(future.exception(PATIENCE), DeadlineExceeded)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        until(lambda: pool.snapshot().busy == 0)
        assert pool.snapshot().waiting == 0
    assert ran == []
    is_sound(pool)


def test_ctrl_c_before_a_task_is_queued_leaves_nothing_for_the_alarm(clock: FakeClock, alarm: TimerThread) -> None:
    """Nobody has its future, and it is in no queue; so it must not be counted out of one at its deadline."""
    with Pool(1) as pool:
        pool.submit(int).result(PATIENCE)
        dispatcher = pool._task_dispatcher
        put = dispatcher.queue.put

        def interrupt(task: Future[Any]) -> None:
            raise KeyboardInterrupt

        dispatcher.queue.put = interrupt
        with treadle.deadline(5):
            with pytest.raises(KeyboardInterrupt):
                pool.submit(int)
            scope = SCOPE.get()
        dispatcher.queue.put = put
        clock.pass_(5)
        alarm.call_due()
        assert scope is not None
        assert scope._members == {}
        assert pool.snapshot().waiting == 0
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    is_sound(pool)


def test_ctrl_c_just_after_a_task_was_queued_takes_it_out_of_its_scope(clock: FakeClock, alarm: TimerThread) -> None:
    ran: list[int] = []
    with Pool(1) as pool:
        pool.submit(int).result(PATIENCE)
        dispatcher = pool._task_dispatcher
        put = dispatcher.queue.put

        def put_and_interrupt(task: Future[Any]) -> None:
            put(task)
            raise KeyboardInterrupt

        dispatcher.queue.put = put_and_interrupt
        with treadle.deadline(5):
            with pytest.raises(KeyboardInterrupt):
                pool.submit(ran.append, 1)
            scope = SCOPE.get()
        dispatcher.queue.put = put
        assert scope is not None
        assert scope._members == {}
        clock.pass_(5)
        assert alarm.call_due() == 0
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert ran == []


# -- races, each forced ---------------------------------------------------------------------------------------------


def test_a_task_claimed_as_its_deadline_passes_is_failed_by_the_alarm_and_not_run(
    clock: FakeClock, alarm: TimerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer is called between the claim of a worker and its look at the scope."""
    ran: list[int] = []
    calls: list[Any] = []
    begin = Scope.begin

    def ring_and_begin(self: Scope, runner: object) -> None:
        clock.pass_(5)
        alarm.call_due()
        begin(self, runner)

    held = Held()
    with treadle.deadline(5):
        future = held.pool.submit(ran.append, 1)
    future.add_done_callback(calls.append)
    monkeypatch.setattr(Scope, "begin", ring_and_begin)
    held.let_go()
    assert isinstance(future.exception(0), DeadlineExceeded)
    assert (ran, calls) == ([], [future])
    assert scope_of(future).running == 0
    is_sound(held.pool)


def test_a_task_that_returns_as_the_alarm_fails_it_is_settled_by_one_of_them(
    clock: FakeClock, alarm: TimerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timers' thread has taken it out of its scope, and its worker comes back before it is settled."""
    returned = threading.Event()
    expire = ScopedTask._expire
    with Pool(1) as pool:
        task = Running(pool, 5)

        def expire_late(self: ScopedTask, error: DeadlineExceeded) -> None:
            task.let_go("late")
            self.exception(PATIENCE)
            returned.set()
            expire(self, error)

        monkeypatch.setattr(ScopedTask, "_expire", expire_late)
        clock.pass_(5)
        alarm.call_due()
        assert returned.is_set()
        assert isinstance(task.future.exception(0), DeadlineExceeded)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    is_sound(pool)


def test_a_task_cancelled_as_the_alarm_fails_it_is_settled_by_one_of_them(
    held: Held, clock: FakeClock, alarm: TimerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire = ScopedTask._expire

    def cancel_and_expire(self: ScopedTask, error: DeadlineExceeded) -> None:
        assert self._state == PENDING
        assert self.cancel()
        expire(self, error)

    calls: list[Any] = []
    with treadle.deadline(5):
        future = held.pool.submit(int)
    future.add_done_callback(calls.append)
    monkeypatch.setattr(ScopedTask, "_expire", cancel_and_expire)
    clock.pass_(5)
    alarm.call_due()
    assert future.cancelled()
    assert calls == [future]
    held.let_go()
    is_sound(held.pool)


def test_a_callback_that_raises_anything_keeps_no_other_task_from_failing_on_time(
    held: Held, clock: FakeClock, alarm: TimerThread, caplog: pytest.LogCaptureFixture
) -> None:
    """The timers' thread runs the callbacks of what it fails."""

    def fatal(_: object) -> None:
        raise SystemExit

    with treadle.deadline(5):
        futures = [held.pool.submit(int) for _ in range(3)]
    futures[0].add_done_callback(fatal)
    clock.pass_(5)
    try:
        alarm.call_due()
    except SystemExit:
        alarm.call_due()
    assert [future.done() for future in futures] == [True] * 3


@pytest.mark.parametrize("before", [True, False])
def test_a_deadline_that_passes_while_a_task_is_handed_over_fails_it_afterwards(
    alarm: TimerThread, before: bool
) -> None:
    """The timer is called just before the put, or between that and the note that the pool has the task; never again."""
    held = Held()
    dispatcher = held.pool._task_dispatcher
    put = dispatcher.queue.put

    def put_late(task: Future[Any]) -> None:
        if not before:
            put(task)
        scope = scope_of(task)
        assert scope._timer is not None
        scope._timer.cancel()
        scope._expire()
        if before:
            assert not task.done(), "nothing becomes of a task that no pool has"
            put(task)

    dispatcher.queue.put = put_late
    try:
        with treadle.deadline(600):
            future = held.pool.submit(int)
        assert future.done()
        assert isinstance(future.exception(), DeadlineExceeded)
        now = held.pool.snapshot()
        assert (now.waiting, now.cancelled) == (0, 1)
    finally:
        dispatcher.queue.put = put
        held.gate.set()
        held.pool.shutdown()


def test_a_task_that_returns_after_its_deadline_and_before_the_alarm_rings_is_late(clock: FakeClock) -> None:
    with Pool(1) as pool:
        with treadle.deadline(1.0):
            future = pool.submit(clock.pass_, 2.0)
        assert isinstance(future.exception(PATIENCE), DeadlineExceeded)


def test_a_task_that_is_done_does_not_count_as_running() -> None:
    """Or a group would wait for it for ever."""
    with Pool(1) as pool:
        with treadle.deadline(600):
            futures = [pool.submit(int), pool.submit(int, "x")]
        for future in futures:  # both are of one scope
            future.exception(PATIENCE)
        assert [scope_of(future).running for future in futures] == [0, 0]


# -- what the errors tell -------------------------------------------------------------------------------------------


Stopped = Cancelled | DeadlineExceeded


def facts_of(error: BaseException | None) -> tuple[str | None, str | None]:
    assert isinstance(error, Stopped)
    return error.task_name, error.pool


def test_a_deadline_tells_the_task_that_it_has_failed(alarm: TimerThread, clock: FakeClock) -> None:
    held = Held(name="db")
    with treadle.deadline(5):
        waits = held.pool.options(name="query").submit(int)
    clock.pass_(5)
    alarm.call_due()
    assert facts_of(waits.exception(PATIENCE)) == ("query", "db")
    held.let_go()


def test_a_task_whose_deadline_has_passed_when_its_turn_comes_is_told_too(clock: FakeClock) -> None:
    held = Held(name="db")
    with treadle.deadline(5):
        waits = held.pool.options(name="query").submit(int)
    clock.pass_(5)
    held.let_go()
    assert facts_of(waits.exception(PATIENCE)) == ("query", "db")


@pytest.mark.parametrize("ordered", [True, False])
def test_the_items_of_a_map_whose_deadline_has_passed_tell_its_name(ordered: bool, clock: FakeClock) -> None:
    held = Held(name="db")
    with treadle.deadline(5):
        rows = held.pool.map(abs, [1, 2], ordered=ordered)
    clock.pass_(5)
    held.let_go()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded) as caught:
            next(rows)
        assert facts_of(caught.value) == ("abs", "db")


def test_who_should_stop_is_told_by_its_name_wherever_it_looks_or_waits() -> None:
    """The name is that of the task that runs there, and not of what it waits for, or of who has cancelled it."""
    seen: list[BaseException] = []
    channel: treadle.Channel[int] = treadle.Channel()

    def note(wait: Callable[[], object]) -> None:
        with pytest.raises((Cancelled, DeadlineExceeded)) as caught:
            wait()
        seen.append(caught.value)

    other = Held(name="other", queue_size=0)

    def work() -> None:
        note(lambda: other.pool.submit(int))  # waits for room, until it is cancelled
        for wait in (treadle.checkpoint, lambda: treadle.sleep(PATIENCE), channel.get, other.running.result):
            note(wait)
        note(lambda: treadle.wait([other.running]))

    with Pool(1, name="db") as pool:
        future = pool.options(name="query").submit(work)
        until_blocked(other.pool, 1)
        future.request_cancel()
        future.result(PATIENCE)
    other.let_go()
    assert [facts_of(error) for error in seen] == [("query", "db")] * 6


def test_code_that_is_no_task_has_no_name() -> None:
    with treadle.deadline(0), pytest.raises(DeadlineExceeded) as caught:
        treadle.checkpoint()
    assert facts_of(caught.value) == (None, None)


@pytest.mark.parametrize("observers", [[], [Observer()]])
@pytest.mark.parametrize("options", [{"rate": Rate(1e6)}, {"deadline": 1e6}])
def test_a_task_that_failed_makes_no_cycle(observers: list[Observer], options: dict[str, Any]) -> None:
    class Raised(Exception):
        def __init__(self) -> None:
            kept.append(weakref.ref(self))

    def fail() -> None:
        raise Raised

    kept: list[weakref.ref[Raised]] = []
    gc.collect()
    gc.disable()
    try:
        with Pool(1, observers=observers) as pool:
            future = pool.options(**options).submit(fail)
            assert type(future.exception(PATIENCE)) is Raised
            pool.submit(int).result(PATIENCE)
            assert kept[0]() is not None
            del future
            # Without the GIL an object that another thread lets go of last is freed when its maker comes by.
            assert kept[0]() is None or not getattr(sys, "_is_gil_enabled", lambda: True)()
    finally:
        gc.enable()

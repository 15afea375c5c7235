"""treadle._flow.groups: no task outlives its group, one failure ends them all, and nothing that was raised is lost."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import copy_context
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from behaviour.scripts import script
from clocks import LeapingClock
from treadle import Channel, Future, Pool, TaskGroup, wait
from treadle._base import timer as alarm_module
from treadle._base.timer import TimerThread
from treadle._dispatch import deadlock
from treadle._flow import groups as groups_module
from treadle._tasks import scope as scope_module
from treadle._tasks import waiters as watchers_module
from treadle._tasks.scope import SCOPE, Scope, current
from treadle._tasks.scoped import ScopedTask
from treadle.errors import Cancelled, DeadlineExceeded, PoolClosed, PoolFull, Shed, WorkerLost

PATIENCE = 30.0  # seconds for what must happen
LONG = 600.0  # seconds that no test waits for


@pytest.fixture(autouse=True)
def _alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test timers of its own, whose thread is gone when the test is."""
    made = TimerThread()
    monkeypatch.setattr(alarm_module, "LINGER", 0.0)
    for module in (alarm_module, scope_module, watchers_module):
        monkeypatch.setattr(module, "TIMERS", made)
    yield
    assert all(bell.is_due is False for bell in made._handles), "no bell is left when no task is"
    made.call_at(0.0, int)  # so that its thread looks, and finds nothing more to do


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


@pytest.fixture(name="pool", params=[1, 3])
def _pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(request.param) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells, such as another thread being asleep."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


class Doing(threading.Thread):
    """A thread that does one thing, in a copy of its maker's context, and gives what came of it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.context, self.function, self.args = copy_context(), function, args
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function, *self.args)
        except BaseException as error:
            self.result = error

    def outcome(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "it did not end"
        return self.result


@contextmanager
def opened_at_the_end(gate: threading.Event) -> Iterator[None]:
    """Let what waits at `gate` go on, however the block ends."""
    try:
        yield
    finally:
        gate.set()


def pass_deadline_of(future: Future[Any]) -> None:
    """Have the timers' thread find that the deadline of a task has passed, however far it is."""
    scope: Scope = future._scope  # type: ignore[attr-defined]  # it was submitted under one
    assert scope._timer is not None
    scope._timer.cancel()
    alarm_module.TIMERS.call_at(0.0, scope._expire)


def fail(error: BaseException) -> None:
    raise error


def until_told() -> None:
    """Run until the task is asked to stop."""
    treadle.sleep(PATIENCE)


class Raising:
    """As pytest.raises, around a block of which several lines may be where it comes from: a group's."""

    value: BaseException

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __enter__(self) -> Raising:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        assert error is not None, f"{self.kind.__name__} was not raised"
        self.value = error
        return isinstance(error, self.kind)


def raised(error: BaseException) -> list[BaseException]:
    """Return what an exception group holds."""
    assert isinstance(error, BaseExceptionGroup), error
    return list(error.exceptions)


# -- the block ------------------------------------------------------------------------------------------------------


def test_results_are_there_when_the_block_is_left(pool: Pool) -> None:
    with TaskGroup(pool) as group:
        futures = [group.submit(pow, 2, n) for n in range(50)]
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == [2**n for n in range(50)]


def test_submit_passes_keywords_to_the_function(pool: Pool) -> None:
    with TaskGroup(pool) as group:
        future = group.submit(int, "11", base=2)
    assert future.result(0) == 3


def test_an_empty_group_is_left_at_once(pool: Pool) -> None:
    with TaskGroup(pool):
        pass
    assert current() is None


def test_a_group_of_options_uses_them() -> None:
    with Pool(1) as pool:
        with TaskGroup(pool.options(name="page")) as group:
            assert group.submit(int).name == "page"


def test_the_block_is_left_only_when_every_function_has_returned() -> None:
    gate, running, left = threading.Event(), threading.Semaphore(0), threading.Event()
    ended: list[int] = []

    def task(number: int) -> None:
        running.release()
        assert gate.wait(PATIENCE)
        ended.append(number)

    def block() -> list[int]:
        with TaskGroup(pool) as group:
            for number in range(3):
                group.submit(task, number)
        left.set()
        return sorted(ended)

    with Pool(3) as pool:
        doing = Doing(block)
        for _ in range(3):
            assert running.acquire(timeout=PATIENCE)
        assert not left.is_set()
        gate.set()
        assert doing.outcome() == [0, 1, 2]


def test_the_block_is_not_left_while_a_function_runs_on_after_its_deadline(leaping: LeapingClock) -> None:
    """Its future has failed long ago."""
    gate, began, failed = threading.Event(), threading.Event(), threading.Event()
    ended: list[bool] = []

    def stubborn() -> None:
        began.set()
        assert gate.wait(PATIENCE)
        ended.append(True)

    def block() -> Any:
        try:
            with treadle.deadline(LONG), TaskGroup(pool) as group:
                future = group.submit(stubborn)
                future.add_done_callback(lambda _: failed.set())
        except BaseExceptionGroup as error:
            return raised(error), list(ended)

    with Pool(1) as pool:
        doing = Doing(block)
        assert began.wait(PATIENCE)
        leaping.leap(LONG)
        assert failed.wait(PATIENCE)
        assert doing.is_alive()
        assert pool.snapshot().workers[0].overdue > 0
        gate.set()
        errors, ended_at_the_end = doing.outcome()
        assert [type(error) for error in errors] == [DeadlineExceeded]
        assert ended_at_the_end == [True]


def test_the_block_is_left_when_what_was_submitted_there_in_another_way_has_returned() -> None:
    """It is not the group's, but runs in its scope, and there is no task of the group that would tell."""
    gate, began = threading.Event(), threading.Event()

    def task() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    def block(group: TaskGroup) -> bool:
        with group:
            pool.submit(task)
            assert began.wait(PATIENCE)
        return gate.is_set()

    with Pool(1) as pool, opened_at_the_end(gate):
        group = TaskGroup(pool)
        doing = Doing(block, group)
        until(lambda: group._latch is not None)
        gate.set()
        assert doing.outcome()


def test_what_a_task_submits_to_its_own_group_is_waited_for_too(pool: Pool) -> None:
    ran: list[int] = []

    def branch(depth: int) -> None:
        ran.append(depth)
        if depth:
            for _ in range(2):
                group.submit(branch, depth - 1)

    with TaskGroup(pool) as group:
        group.submit(branch, 6)
    assert len(ran) == 2**7 - 1


def test_other_threads_may_submit_to_a_group(pool: Pool) -> None:
    with TaskGroup(pool) as group:
        threads = [Doing(lambda: [group.submit(abs, -n) for n in range(50)]) for _ in range(4)]
        futures: list[Future[int]] = sum((thread.outcome() for thread in threads), [])
    assert sorted(future.result(0) for future in futures) == sorted(list(range(50)) * 4)


def test_submitting_is_for_the_inside_of_the_block(pool: Pool) -> None:
    group = TaskGroup(pool)
    with pytest.raises(RuntimeError, match=r"group that is new; submit inside its `with` block"):
        group.submit(int)
    with group:
        assert group.submit(int) is not None
        with pytest.raises(RuntimeError, match="cannot enter a group that is open"):
            group.__enter__()
    with pytest.raises(RuntimeError, match="group that is closed"):
        group.submit(int)
    with pytest.raises(RuntimeError, match="cannot enter a group that is closed; make a new one"):
        group.__enter__()
    assert current() is None


@pytest.mark.parametrize("argument", [None, 3, "pool", Pool])
def test_a_group_needs_a_pool(argument: Any) -> None:
    with pytest.raises(TypeError, match=r"allowed: a treadle\.Pool, or its options"):
        TaskGroup(argument)


def test_collect_is_yes_or_no(pool: Pool) -> None:
    with pytest.raises(TypeError, match="keep_going=1 is int"):
        TaskGroup(pool, keep_going=1)  # type: ignore[arg-type]  # that is the point


# -- failures -------------------------------------------------------------------------------------------------------


def test_the_first_failure_cancels_what_waits_and_asks_what_runs_to_stop() -> None:
    together, ran = threading.Barrier(3), []  # type: ignore[var-annotated]  # of numbers

    def sleeper() -> None:
        together.wait(PATIENCE)
        until_told()

    def failing() -> None:
        together.wait(PATIENCE)
        raise ValueError("first")

    with Pool(2) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                asleep = group.submit(sleeper)
                group.submit(failing)
                waiting = [group.submit(ran.append, n) for n in range(20)]
                together.wait(PATIENCE)
    assert str(caught.value).startswith("tasks of a group failed")
    assert [str(error) for error in raised(caught.value)] == ["first"]
    assert isinstance(asleep.exception(0), Cancelled)
    assert all(future.cancelled() or isinstance(future.exception(0), Cancelled) for future in waiting)
    assert ran == []


def test_every_failure_is_raised(pool: Pool) -> None:
    both = threading.Barrier(2)

    def failing(number: int) -> None:
        both.wait(PATIENCE)
        raise ValueError(number)

    with Pool(2) as two:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(two) as group:
                for number in (1, 2):
                    group.submit(failing, number)
    assert sorted(error.args for error in raised(caught.value)) == [(1,), (2,)]


def test_the_blocks_own_exception_ends_the_tasks_and_comes_first() -> None:
    began = threading.Event()

    def task() -> None:
        began.set()
        try:
            until_told()
        except Cancelled:
            raise KeyError("while it ended") from None

    with Pool(2) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                group.submit(task)
                assert began.wait(PATIENCE)
                raise ValueError("from the block")
    assert [type(error) for error in raised(caught.value)] == [ValueError, KeyError]


def test_the_blocks_own_exception_alone_is_a_group_too(pool: Pool) -> None:
    with Raising(ExceptionGroup) as caught:
        with TaskGroup(pool) as group:
            future = group.submit(until_told)
            raise ValueError("from the block")
    assert [str(error) for error in raised(caught.value)] == ["from the block"]
    assert future.done()


def test_a_failure_wakes_the_block_and_is_all_that_is_raised() -> None:
    """The block that waits for something else is told to stop, and what it raises for that is no failure."""
    channel: Channel[int] = Channel()
    with Pool(1) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                group.submit(fail, ValueError("first"))
                channel.get(PATIENCE)
    assert [str(error) for error in raised(caught.value)] == ["first"]
    assert not channel._getters


def test_submitting_to_a_group_that_has_failed_says_so_and_adds_nothing() -> None:
    with Pool(1) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                failed = group.submit(fail, ValueError("first"))
                until(failed.done)
                until(treadle.should_stop)
                with pytest.raises(Cancelled):
                    group.submit(int)
        assert len(raised(caught.value)) == 1
        assert pool.snapshot().submitted == 1


def test_the_exceptions_of_tasks_are_seen_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()  # what other tests have left
    caplog.clear()
    with Pool(1) as pool:
        with Raising(ExceptionGroup):
            with TaskGroup(pool) as group:
                group.submit(fail, ValueError("first"))
    gc.collect()
    assert not caplog.records


def test_an_exception_of_a_task_that_is_no_exception_proper_is_raised_too() -> None:
    with Pool(1) as pool:
        with Raising(BaseExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                group.submit(fail, SystemExit(3))
    assert not isinstance(caught.value, ExceptionGroup)
    assert [error.args for error in raised(caught.value)] == [(3,)]


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelling_a_group_is_no_failure(pool: Pool) -> None:
    ran: list[int] = []
    began = threading.Event()

    def task() -> None:
        began.set()
        until_told()

    with TaskGroup(pool) as group:
        running = group.submit(task)
        assert began.wait(PATIENCE)
        waiting = group.submit(ran.append, 1) if pool._max_workers == 1 else None
        group.cancel()
        group.cancel()
    assert isinstance(running.exception(0), Cancelled)
    # Or the thread has come to it first, and found that the group is over.
    assert waiting is None or waiting.cancelled() or isinstance(waiting.exception(0), Cancelled)
    assert ran == []


def test_a_block_that_asks_for_a_task_it_has_cancelled_ends_quietly() -> None:
    """That the task was cancelled is what it asked for."""
    gate = threading.Event()
    with Pool(1) as pool, opened_at_the_end(gate):
        holding = pool.submit(gate.wait, PATIENCE)
        with TaskGroup(pool) as group:
            waiting = group.submit(int)
            group.cancel()
            gate.set()
            waiting.result()
        assert waiting.cancelled()
        assert holding.result(PATIENCE)


def test_a_block_that_waits_for_a_task_as_the_group_is_cancelled_ends_quietly() -> None:
    """Over and over: it may be woken by the scope, or by the task that is cancelled."""
    gate = threading.Event()
    with Pool(1) as pool, opened_at_the_end(gate):
        holding = pool.submit(gate.wait, PATIENCE)
        for _ in range(100):
            entered = threading.Event()
            groups: list[TaskGroup] = []

            def cancel(entered: threading.Event = entered, groups: list[TaskGroup] = groups) -> None:
                assert entered.wait(PATIENCE)
                groups[0].cancel()

            other = Doing(cancel)
            with TaskGroup(pool) as group:
                groups.append(group)
                waiting = group.submit(int)
                entered.set()
                waiting.result()
            assert other.outcome() is None
            assert waiting.cancelled()
        gate.set()
        assert holding.result(PATIENCE)


def test_a_task_that_waits_for_another_of_the_group_is_not_its_failure_when_both_are_cancelled() -> None:
    gate, began = threading.Event(), threading.Event()

    def dependent(other: Future[Any]) -> None:
        began.set()
        other.result()

    with Pool(1) as first, Pool(1) as second, opened_at_the_end(gate):
        holding = second.submit(gate.wait, PATIENCE)
        for _ in range(50):
            began.clear()
            with TaskGroup(first) as group:
                with TaskGroup(second) as inner:
                    waiting = inner.submit(int)
                    group.submit(dependent, waiting)
                    assert began.wait(PATIENCE)
                    group.cancel()
        gate.set()
        assert holding.result(PATIENCE)


def test_a_group_that_is_cancelled_before_its_block_takes_no_task(pool: Pool) -> None:
    group, ran = TaskGroup(pool), list[int]()
    group.cancel()
    with group:
        assert treadle.should_stop()
        group.submit(ran.append, 1)
        ran.append(2)
    assert ran == []


def test_a_task_that_looks_sees_that_its_group_was_cancelled() -> None:
    looks = threading.Event()

    def task() -> bool:
        looks.set()
        while not treadle.should_stop():
            threading.Event().wait(0.001)
        with pytest.raises(Cancelled):
            treadle.checkpoint()
        return True

    with Pool(1) as pool, TaskGroup(pool) as group:
        future = group.submit(task)
        assert looks.wait(PATIENCE)
        group.cancel()
    assert future.result(0) is True


def test_a_group_is_sound_whatever_thread_cancels_it_and_when() -> None:
    for _ in range(100):
        with Pool(2) as pool:
            start = threading.Barrier(2)
            with TaskGroup(pool) as group:

                def cancel(start: threading.Barrier = start, group: TaskGroup = group) -> None:
                    start.wait(PATIENCE)
                    group.cancel()

                other = Doing(cancel)
                start.wait(PATIENCE)
                futures: list[Future[None]] = []
                try:
                    for _ in range(20):
                        futures.append(group.submit(treadle.sleep, LONG))
                except Cancelled:
                    pass
                if len(futures) == 20:
                    assert other.outcome() is None
            assert all(future.done() for future in futures)
            assert other.outcome() is None
            assert group._waiting == {}
            assert group._scope._members == {}
            assert group._scope.wakers == {}


# -- nested, and inside tasks ---------------------------------------------------------------------------------------


def test_groups_can_be_nested(pool: Pool) -> None:
    with TaskGroup(pool) as outer:
        first = outer.submit(abs, -1)
        with TaskGroup(pool) as inner:
            second = inner.submit(abs, -2)
        assert second.result(0) == 2
        third = outer.submit(abs, -3)
    assert [first.result(0), third.result(0)] == [1, 3]


def test_a_failure_inside_ends_the_group_outside_and_is_nested() -> None:
    began = threading.Event()

    def sleeper() -> None:
        began.set()
        until_told()

    with Pool(3) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as outer:
                asleep = outer.submit(sleeper)
                assert began.wait(PATIENCE)
                with TaskGroup(pool) as inner:
                    inner.submit(fail, ValueError("inside"))
    (error,) = raised(caught.value)
    assert [str(each) for each in raised(error)] == ["inside"]
    assert isinstance(asleep.exception(0), Cancelled)


def test_a_failure_outside_ends_the_group_inside_and_is_raised_once() -> None:
    began = threading.Event()

    def sleeper() -> None:
        began.set()
        until_told()

    with Pool(3) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as outer:
                with TaskGroup(pool) as inner:
                    asleep = inner.submit(sleeper)
                    assert began.wait(PATIENCE)
                    outer.submit(fail, ValueError("outside"))
    assert [str(error) for error in raised(caught.value)] == ["outside"]
    assert isinstance(asleep.exception(0), Cancelled)
    assert outer._scope.wakers == {}


def test_a_group_inside_the_only_thread_of_its_pool_runs_there() -> None:
    def task(depth: int) -> int:
        if not depth:
            return 1
        with TaskGroup(pool) as group:
            futures = [group.submit(task, depth - 1) for _ in range(2)]
        return sum(future.result(0) for future in futures)

    with Pool(1) as pool:
        assert pool.submit(task, 5).result(PATIENCE) == 32
        assert pool.snapshot().threads == 1


def test_a_group_inside_the_only_thread_of_a_full_pool_runs_there() -> None:
    def task() -> list[int]:
        with TaskGroup(pool) as group:
            futures = [group.submit(abs, -n) for n in range(20)]
        return [future.result(0) for future in futures]

    with Pool(1, queue_size=1) as pool:
        assert pool.submit(task).result(PATIENCE) == list(range(20))


def test_a_failure_inside_the_only_thread_cancels_the_rest() -> None:
    ran: list[int] = []

    def task() -> list[BaseException]:
        try:
            with TaskGroup(pool) as group:
                group.submit(fail, ValueError("first"))
                for number in range(5):
                    group.submit(ran.append, number)
        except ExceptionGroup as error:
            return raised(error)
        return []

    with Pool(1) as pool:
        assert [str(error) for error in pool.submit(task).result(PATIENCE)] == ["first"]
    assert ran == []


def test_groups_of_two_pools_that_use_each_other_do_not_hang() -> None:
    both = threading.Barrier(2)

    def task(other: Pool) -> int:
        both.wait(PATIENCE)
        with TaskGroup(other) as group:
            future = group.submit(abs, -1)
        return future.result(0)

    with Pool(1) as first, Pool(1) as second:
        for _ in range(20):
            futures = [first.submit(task, second), second.submit(task, first)]
            assert [future.result(PATIENCE) for future in futures] == [1, 1]


def test_asking_the_task_around_a_group_to_stop_stops_the_group(pool: Pool) -> None:
    began = threading.Event()
    inner: list[Future[None]] = []

    def sleeper() -> None:
        began.set()
        until_told()

    def task() -> None:
        with TaskGroup(pool) as group:
            inner.extend(group.submit(sleeper) for _ in range(3))

    outer = pool.submit(task)
    assert began.wait(PATIENCE)
    assert outer.request_cancel()
    assert isinstance(outer.exception(PATIENCE), Cancelled)
    assert all(future.cancelled() or isinstance(future.exception(0), Cancelled) for future in inner)
    assert outer._own_scope().wakers == {}


def test_the_deadline_around_a_group_ends_it(pool: Pool, leaping: LeapingClock) -> None:
    late = threading.Event()

    def task() -> None:
        assert late.wait(PATIENCE)
        treadle.checkpoint()

    with Raising(ExceptionGroup) as caught:
        with treadle.deadline(LONG), TaskGroup(pool) as group:
            futures = [group.submit(task) for _ in range(5)]
            leaping.leap(LONG)
            late.set()
    assert {type(error) for error in raised(caught.value)} == {DeadlineExceeded}
    assert any(isinstance(future.exception(0), DeadlineExceeded) for future in futures if not future.cancelled())
    assert all(future.done() for future in futures)


def test_the_deadline_around_a_group_whose_tasks_all_stopped_quietly_is_raised_as_it_is() -> None:
    with Pool(1) as pool:
        with Raising(DeadlineExceeded):
            with treadle.deadline(0.05), TaskGroup(pool):
                try:
                    treadle.sleep(PATIENCE)
                except DeadlineExceeded:
                    pass


def test_a_deadline_inside_the_block_bounds_what_is_submitted_through_the_pool_there() -> None:
    with Pool(1) as pool:
        with TaskGroup(pool):
            with treadle.deadline(LONG):
                future = pool.submit(treadle.time_left)
        assert future.result(PATIENCE) is not None


@pytest.mark.parametrize("context", [True, False])
def test_a_deadline_inside_the_block_bounds_the_tasks_that_are_submitted_there(context: bool) -> None:
    with Pool(1, context=context) as pool:
        with TaskGroup(pool) as group:
            with treadle.deadline(LONG):
                bounded = group.submit(treadle.time_left)
                nested = group.submit(lambda: group.submit(treadle.time_left).result(PATIENCE))
            plain = group.submit(treadle.time_left)
        assert bounded.result(0) is not None
        assert nested.result(0) is not None
        assert plain.result(0) is None


def test_a_nearer_deadline_of_another_thread_that_submits_is_the_tasks_too() -> None:
    def submit(seconds: float) -> float | None:
        with treadle.deadline(seconds):
            return group.submit(treadle.time_left).result(PATIENCE)

    with Pool(1) as pool, treadle.deadline(LONG):
        with TaskGroup(pool) as group:
            strangers = [threading.Thread(target=lambda s=s: seen.append(submit(s))) for s in (LONG / 2, LONG * 2)]
            seen: list[float | None] = []
            for stranger in strangers:
                stranger.start()
                stranger.join(PATIENCE)
            left = [each or 0.0 for each in seen]
        assert LONG / 2 - PATIENCE < left[0] <= LONG / 2
        assert LONG - PATIENCE < left[1] <= LONG, "the group's own"


def test_a_task_under_a_deadline_inside_the_block_belongs_to_the_group() -> None:
    """It is cancelled with it, and the block is left only when its function has returned."""
    began, ended = threading.Event(), list[str]()

    def task() -> None:
        began.set()
        try:
            until_told()
        finally:
            ended.append("stopped")

    with Pool(1) as pool:
        with TaskGroup(pool) as group:
            with treadle.deadline(LONG):
                running, waiting = group.submit(task), group.submit(int)
            assert began.wait(PATIENCE)
            group.cancel()
        assert ended == ["stopped"]
        assert isinstance(running.exception(0), Cancelled)
        assert waiting.cancelled()


def test_the_block_is_not_left_while_a_function_runs_on_after_a_deadline_inside_it() -> None:
    gate, failed, entered, submitted = threading.Event(), threading.Event(), threading.Event(), threading.Event()
    futures: list[Future[bool]] = []

    def stubborn() -> bool:
        entered.set()
        return gate.wait(PATIENCE)

    def block() -> Any:
        with Raising(ExceptionGroup) as caught, TaskGroup(pool) as group:
            with treadle.deadline(LONG):
                futures.append(group.submit(stubborn))
            submitted.set()
        return caught.value, gate.is_set()

    with Pool(1) as pool, opened_at_the_end(gate):
        doing = Doing(block)
        assert entered.wait(PATIENCE)
        assert submitted.wait(PATIENCE)
        futures[0].add_done_callback(lambda _: failed.set())
        pass_deadline_of(futures[0])
        assert failed.wait(PATIENCE)
        doing.join(0.01)
        assert doing.is_alive()
        gate.set()
        error, was_open = doing.outcome()
        assert was_open
        assert [type(each) for each in raised(error)] == [DeadlineExceeded]


# -- collecting -----------------------------------------------------------------------------------------------------


def test_collecting_lets_all_go_on_and_tells_what_came_of_each(pool: Pool) -> None:
    with TaskGroup(pool, keep_going=True) as group:
        futures = [group.submit(abs, -1), group.submit(fail, ValueError("second")), group.submit(ValueError, "third")]
        with pytest.raises(RuntimeError, match="is not left yet"):
            _ = group.outcomes
    first, second, third = group.outcomes
    assert (first.value, first.error) == (1, None)
    assert (second.value, str(second.error)) == (None, "second")
    assert isinstance(third.value, ValueError), "which was returned, and not raised"
    assert third.error is None
    assert [outcome.item for outcome in group.outcomes] == futures


def test_collecting_tells_of_what_was_cancelled_too() -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> bool:
        began.set()
        return gate.wait(PATIENCE)

    with Pool(1) as pool:
        with TaskGroup(pool, keep_going=True) as group:
            group.submit(hold)
            group.submit(int)
            assert began.wait(PATIENCE)
            group.cancel()
            gate.set()
    first, second = group.outcomes
    assert first.value is True
    assert isinstance(second.error, CancelledError)


def test_collecting_under_a_deadline_tells_which_were_late(leaping: LeapingClock) -> None:
    late = threading.Event()
    with Pool(2) as pool:
        with Raising(DeadlineExceeded):
            with treadle.deadline(LONG), TaskGroup(pool, keep_going=True) as group:
                assert group.submit(abs, -1).result(PATIENCE) == 1
                group.submit(late.wait, PATIENCE)
                leaping.leap(LONG)
                late.set()
    first, second = group.outcomes
    assert first.value == 1
    assert isinstance(second.error, DeadlineExceeded)


def test_the_blocks_own_exception_is_raised_when_collecting_too(pool: Pool) -> None:
    with Raising(ExceptionGroup) as caught:
        with TaskGroup(pool, keep_going=True) as group:
            group.submit(until_told)
            raise ValueError("from the block")
    assert [str(error) for error in raised(caught.value)] == ["from the block"]
    assert isinstance(group.outcomes[0].error, CancelledError)


def test_an_outcome_tells_why_the_pool_dropped_the_task() -> None:
    gate = threading.Event()
    with Pool(1) as pool:
        with TaskGroup(pool, keep_going=True) as group:
            group.submit(gate.wait, PATIENCE)
            group.submit(int)
            pool.shutdown(wait=False, cancel_futures=True)
            gate.set()
    assert isinstance(group.outcomes[1].error, PoolClosed)


def test_outcomes_are_for_groups_that_collect(pool: Pool) -> None:
    with TaskGroup(pool) as group:
        group.submit(int)
    with pytest.raises(RuntimeError, match="was not made with keep_going=True"):
        _ = group.outcomes


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["return", "raise", "stop", "submit"]), max_size=12),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
def test_whatever_tasks_do_the_group_accounts_for_each_of_them(
    kinds: list[str], threads: int, keep_going: bool, queue_size: int | None
) -> None:
    began: list[str] = []
    ended: list[str] = []

    def task(kind: str) -> str:
        began.append(kind)
        try:
            if kind == "raise":
                raise ValueError(kind)
            if kind == "stop":
                raise Cancelled
            if kind == "submit":
                try:
                    group.submit(task, "return")
                except Cancelled:
                    pass
            return kind
        finally:
            ended.append(kind)

    failures: list[BaseException] = []
    with Pool(threads, queue_size=queue_size, when_full="block") as pool:
        group = TaskGroup(pool, keep_going=keep_going)
        try:
            with group:
                for kind in kinds:
                    group.submit(task, kind)
        except ExceptionGroup as error:
            failures = raised(error)
        assert sorted(began) == sorted(ended), "all that began has ended"
        assert len(failures) == (0 if keep_going else began.count("raise"))
        if keep_going:
            assert len(group.outcomes) == len(began) == len(kinds) + kinds.count("submit")
            assert sum(isinstance(each.error, ValueError) for each in group.outcomes) == kinds.count("raise")
    now = pool.snapshot()
    assert now.waiting == 0
    assert now.submitted == now.finished + now.cancelled


# -- a pool that takes no more --------------------------------------------------------------------------------------


def test_a_task_that_the_pool_refuses_does_not_keep_the_block_from_ending() -> None:
    gate = threading.Event()
    with Pool(1, queue_size=1, when_full="reject") as pool:
        with TaskGroup(pool) as group:
            futures: list[Future[Any]] = [group.submit(gate.wait, PATIENCE), group.submit(int)]
            for _ in range(3):
                with pytest.raises(PoolFull):
                    group.submit(int)
            assert set(group._waiting) == set(futures)
            gate.set()
        assert [future.result(0) for future in futures] == [True, 0]
        assert group._scope._members == {}


def test_a_refusal_that_the_block_lets_pass_ends_the_group() -> None:
    gate, began = threading.Event(), threading.Event()

    def task() -> None:
        began.set()
        until_told()

    with Pool(1, queue_size=0, when_full="reject") as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                running = group.submit(task)
                assert began.wait(PATIENCE)
                group.submit(int)
        gate.set()
    assert [type(error) for error in raised(caught.value)] == [PoolFull]
    assert isinstance(running.exception(0), Cancelled)


def test_a_pool_that_is_closed_in_the_block_takes_no_more_and_the_rest_is_run() -> None:
    gate = threading.Event()
    pool = Pool(1)
    with TaskGroup(pool) as group:
        futures: list[Future[Any]] = [group.submit(gate.wait, PATIENCE), group.submit(int)]
        pool.shutdown(wait=False)
        with pytest.raises(PoolClosed):
            group.submit(int)
        gate.set()
    assert [future.result(0) for future in futures] == [True, 0]
    pool.shutdown()


def test_work_that_the_pool_drops_at_its_end_is_not_lost_silently() -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> bool:
        began.set()
        return gate.wait(PATIENCE)

    pool = Pool(1, name="dropping")
    with Raising(ExceptionGroup) as caught, opened_at_the_end(gate):
        with TaskGroup(pool) as group:
            running, waiting = group.submit(hold), group.submit(int)
            assert began.wait(PATIENCE)
            pool.shutdown(wait=False, cancel_futures=True)
            gate.set()
    assert running.result(0) is True
    assert waiting.cancelled()
    (error,) = raised(caught.value)
    assert isinstance(error, PoolClosed)
    assert error.pool == "dropping"
    pool.shutdown()


def test_work_that_the_pool_discards_for_newer_is_not_lost_silently() -> None:
    gate, began, ran = threading.Event(), threading.Event(), []  # type: ignore[var-annotated]  # of numbers

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Pool(1, queue_size=1, when_full="discard_oldest") as pool:
        with Raising(ExceptionGroup) as caught, opened_at_the_end(gate):
            with TaskGroup(pool) as group:
                group.submit(hold)
                assert began.wait(PATIENCE)
                discarded = group.submit(ran.append, 1)
                group.submit(ran.append, 2)
                with pytest.raises(Cancelled):
                    group.submit(ran.append, 3)
                gate.set()
    assert raised(caught.value) == [discarded.exception(0)]
    assert isinstance(discarded.exception(0), Shed)
    assert ran == []


def test_what_the_program_cancels_itself_is_no_failure() -> None:
    gate = threading.Event()
    with Pool(1) as pool, opened_at_the_end(gate):
        holding = pool.submit(gate.wait, PATIENCE)
        with TaskGroup(pool) as group:
            cancelled, kept = group.submit(int), group.submit(int)
            assert cancelled.cancel()
            gate.set()
        assert kept.result(0) == 0
        assert holding.result(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_leaves_a_block_whose_tasks_stayed_in_the_parent() -> None:
    """Also when, as the process forked, another thread was submitting to the group, or held its lock."""
    done = script("""
        import treadle._flow.groups
        from treadle import Pool, TaskGroup
        pool, began, gate, stop = Pool(1, queue_size=1), threading.Event(), threading.Event(), threading.Event()
        def running():
            began.set()
            assert gate.wait(60)
        def knocks():
            while not stop.is_set():
                group._knock()
        status = None
        group = TaskGroup(pool)
        try:
            with group:
                group.submit(running)
                assert began.wait(20)
                waiting = group.submit(int)
                blocked = threading.Thread(target=group.submit, args=(int,))
                knocking = threading.Thread(target=knocks)
                blocked.start(), knocking.start()
                while not pool.snapshot().blocked:
                    pass
                pid = os.fork()
                if not pid:
                    signal.alarm(20)
                gate.set()
        except BaseException as error:
            if pid:
                raise
            print("child:", *sorted(str(each)[-60:] for each in error.exceptions))
            assert pool.submit(abs, -1).result() == 1
            os._exit(0)
        finally:
            stop.set()
        blocked.join(), knocking.join()
        print("parent:", os.waitpid(pid, 0)[1], waiting.result())
    """)
    lines = done.stdout.splitlines()
    assert lines[-1] == "parent: 0 0", done.stderr
    assert lines[0].startswith("child:")
    assert lines[0].endswith("submit the task again if it may run twice"), done.stdout


def test_a_group_whose_tasks_wait_for_room_is_cancelled_at_once() -> None:
    began, gate = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Pool(1, queue_size=0) as pool:
        holding = pool.submit(hold)
        assert began.wait(PATIENCE)
        groups: list[TaskGroup] = []

        def block() -> str:
            with TaskGroup(pool) as group:
                groups.append(group)
                group.submit(int)
                return "was let in"
            return "ended quietly"

        doing = Doing(block)
        until(lambda: pool.snapshot().blocked == 1)
        groups[0].cancel()
        assert doing.outcome() == "ended quietly"
        assert pool.snapshot().blocked == 0
        gate.set()
        holding.result(PATIENCE)
    assert groups[0]._scope.wakers == {}


def test_tasks_that_the_submitter_runs_itself_belong_to_the_group() -> None:
    gate = threading.Event()
    me = threading.get_ident()
    with Pool(1, queue_size=0, when_full="caller_runs") as pool:
        holding = pool.submit(gate.wait, PATIENCE)
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                assert group.submit(threading.get_ident).result(0) == me
                assert group.submit(lambda: current().parent is group._scope).result(0)  # type: ignore[union-attr]
                assert isinstance(group.submit(fail, ValueError("here")).exception(0), ValueError)
                with pytest.raises(Cancelled):
                    group.submit(int)
        gate.set()
        assert holding.result(PATIENCE)
    assert [str(error) for error in raised(caught.value)] == ["here"]


# -- Ctrl-C, and threads that are killed ----------------------------------------------------------------------------


def test_what_waits_is_cancelled_before_what_runs_can_see_that_it_should_stop() -> None:
    """Else the thread of a task that looks, and ends, takes one of those that wait."""
    began, over = threading.Event(), threading.Event()

    def look() -> None:
        began.set()
        while not treadle.should_stop():
            never.wait(0.001)
        over.set()

    never = threading.Event()
    with Pool(1) as pool:
        with TaskGroup(pool) as group:
            group.submit(look)
            first, second = group.submit(int), group.submit(int)
            assert began.wait(PATIENCE)
            first.add_done_callback(lambda _: over.wait(0.2))  # the time that it would have to see it
            group.cancel()
        assert first.cancelled()
        assert second.cancelled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_ctrl_c_in_the_block_stops_the_tasks_and_is_raised_as_it_is(error: type[BaseException]) -> None:
    began, ran = threading.Event(), []  # type: ignore[var-annotated]  # of numbers

    def task() -> None:
        began.set()
        until_told()

    with Pool(1) as pool:
        with Raising(error):
            with TaskGroup(pool) as group:
                running = group.submit(task)
                waiting = group.submit(ran.append, 1)
                assert began.wait(PATIENCE)
                raise error
    assert isinstance(running.exception(0), Cancelled)
    assert waiting.cancelled()
    assert ran == []
    assert current() is None


def test_ctrl_c_while_the_end_waits_cancels_the_group_and_waits_for_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    began, waits_again, waits = threading.Event(), threading.Event(), []
    wait = deadlock.wait

    def interrupt_first(gate: Any, *args: Any, **options: Any) -> bool:
        waits.append(gate)
        if len(waits) == 1:
            assert began.wait(PATIENCE)
            raise KeyboardInterrupt
        waits_again.set()
        return bool(wait(gate, *args, **options))

    def task() -> None:
        began.set()
        try:
            until_told()
        finally:
            assert waits_again.wait(PATIENCE)

    with Pool(1) as pool:
        group = TaskGroup(pool)
        with Raising(KeyboardInterrupt):
            with group:
                running = group.submit(task)
                monkeypatch.setattr("treadle._flow.groups.deadlock.wait", interrupt_first)
        monkeypatch.undo()
        assert isinstance(running.exception(0), Cancelled)
    assert len(waits) == 2
    assert group._scope.wakers == {}


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_inside_submit_does_not_keep_the_block_from_ending(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """Just after the pool has taken the task, and before the group is told when it is done."""
    gate = threading.Event()

    def interrupt(self: Future[Any], fn: Any) -> None:
        raise KeyboardInterrupt

    groups: list[TaskGroup] = []

    def block() -> None:
        with TaskGroup(pool) as group:
            groups.append(group)
            with monkeypatch.context() as patch:
                patch.setattr(Future, "add_done_callback", interrupt)
                group.submit(int)

    with Pool(1) as pool:
        holding = None if begun else pool.submit(gate.wait, PATIENCE)
        doing = Doing(block)
        doing.join(3)
        hung = doing.is_alive()
        if hung:  # end it for the tests that follow
            groups[0]._waiting.clear()
            groups[0]._wake_if_over()
        gate.set()
        assert holding is None or holding.result(PATIENCE)
        assert not hung
        assert isinstance(doing.outcome(), KeyboardInterrupt)


def test_a_submit_that_ctrl_c_ends_when_its_task_has_begun_does_not_keep_the_block_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task goes on, and nobody was to tell the group when it is done."""
    gate, began = threading.Event(), threading.Event()
    groups: list[TaskGroup] = []

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    def interrupt(self: Future[Any], fn: Any) -> None:
        assert began.wait(PATIENCE)
        raise KeyboardInterrupt

    def block() -> None:
        with TaskGroup(pool) as group:
            groups.append(group)
            with monkeypatch.context() as patch:
                patch.setattr(Future, "add_done_callback", interrupt)
                group.submit(hold)

    with Pool(1) as pool, opened_at_the_end(gate):
        doing = Doing(block)
        until(lambda: bool(groups) and groups[0]._latch is not None)
        gate.set()
        assert isinstance(doing.outcome(), KeyboardInterrupt)


def test_a_task_whose_thread_is_killed_fails_and_ends_the_group() -> None:
    began, forever = threading.Event(), threading.Event()

    def victim() -> None:
        began.set()
        while not forever.is_set():
            pass

    with Pool(2) as pool:
        with Raising(BaseExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                lost = group.submit(victim)
                assert began.wait(PATIENCE)
                (thread,) = pool._threads
                assert thread.ident is not None
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        assert isinstance(lost.exception(0), SystemExit | WorkerLost)
        assert raised(caught.value) == [lost.exception(0)]
        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_a_thread_killed_before_it_settles_a_task_lets_the_group_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task has not run; its thread ends between the claim and the call."""
    invoke, kills = ScopedTask._invoke, [SystemExit("scripted")]

    def die_once(self: ScopedTask) -> bool:
        if kills:
            raise kills.pop()
        return invoke(self)

    monkeypatch.setattr(ScopedTask, "_invoke", die_once)
    with Pool(1) as pool:
        with Raising(ExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                group.submit(int)
        assert [type(error) for error in raised(caught.value)] == [WorkerLost]
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert group._scope.running == 0
    assert group._scope._members == {}
    assert "was killed" in caplog.text


def test_no_trace_of_a_group_is_left_in_the_context(pool: Pool) -> None:
    for error in (None, ValueError(), Cancelled(), KeyboardInterrupt()):
        try:
            with TaskGroup(pool) as group:
                group.submit(int)
                if error is not None:
                    raise error
        except (Cancelled, KeyboardInterrupt, ExceptionGroup):
            pass
        assert SCOPE.get() is None
        assert group._waiting == {}
        assert group._scope._members == {}


def open_when_the_block_waits(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Open `gate` when the end of a block begins to wait; return a list of whether it was woken each time."""
    woken, waiting = list[bool](), deadlock.wait

    def wait(at: Any, worker: Any, targets: Any, timeout: float | None) -> bool:
        if timeout is not None:  # it is another wait
            return waiting(at, worker, targets, timeout)
        gate.set()
        woken.append(waiting(at, worker, targets, PATIENCE))
        return woken[-1]

    monkeypatch.setattr(deadlock, "wait", wait)
    return woken


def test_the_block_is_not_left_while_a_submit_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is in no list yet, and would outlive the group; here the block waits before the submit goes on."""
    begun, gate = threading.Event(), threading.Event()

    class Slow(Pool):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            begun.set()
            assert gate.wait(PATIENCE)
            future = super().submit(fn, *args, **kwargs)
            future.exception(PATIENCE)  # so that nobody but the end of the submit can tell the block
            return future

    with Slow(1) as pool, opened_at_the_end(gate):
        woken = open_when_the_block_waits(gate, monkeypatch)
        with TaskGroup(pool) as group:
            caller = Doing(group.submit, abs, -3)
            assert begun.wait(PATIENCE)
        assert woken == [True], "the block waits until the submit is over, and is told of it"
        assert caller.outcome().result(0) == 3


def test_a_failure_that_is_told_twice_is_raised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a submit that raised, the block asks once more to be told of every task."""
    gate = threading.Event()

    def fail_at_last() -> None:
        assert gate.wait(PATIENCE)
        raise KeyError("told twice")

    with Pool(1) as pool, opened_at_the_end(gate):
        open_when_the_block_waits(gate, monkeypatch)
        with Raising(BaseExceptionGroup) as caught:
            with TaskGroup(pool) as group:
                group.submit(fail_at_last)
                with pytest.raises(TypeError):
                    group.submit(None)  # type: ignore[arg-type]  # on purpose
        assert [type(error) for error in raised(caught.value)] == [KeyError]


def test_the_repr_tells_the_state_and_what_is_not_done() -> None:
    gate = threading.Event()
    with Pool(1) as pool:
        group = TaskGroup(pool)
        assert repr(group) == "<TaskGroup: new, 0 tasks not done>"
        with group:
            group.submit(gate.wait, PATIENCE)
            assert repr(group) == "<TaskGroup: open, 1 task not done>"
            group.cancel()
            assert repr(group) == "<TaskGroup: open, 1 task not done, cancelled>"
            gate.set()
        assert repr(group) == "<TaskGroup: closed, 0 tasks not done, cancelled>"


def test_what_a_block_waits_for_is_told_though_a_fork_holds_the_groups() -> None:
    """A fork takes their lock, and then that of `deadlock`, which is held where this is asked."""
    with Pool(1) as pool, TaskGroup(pool) as group:
        task, told = group.submit(abs, -1), list[object]()
        wait([task])
        asking = threading.Thread(target=lambda: told.append(group._targets()))
        groups_module._lock.acquire()
        try:
            asking.start()
            asking.join(PATIENCE)
        finally:
            groups_module._lock.release()
    assert told == [[]]

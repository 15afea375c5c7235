"""A view is an executor: what takes one may have it, and may shut it down, which leaves the pool as it was."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor
from typing import Any

import pytest

import treadle
from treadle import Future, Pool, PoolView, Rate, TaskGroup
from treadle._pool.mapping import feed
from treadle.errors import DeadlineExceeded, PoolClosed, PoolDeadlock

PATIENCE = 30.0


class Gate:
    """A task that has begun and holds a thread until it is opened."""

    def __init__(self, door: Pool | PoolView) -> None:
        self._open, inside = threading.Event(), threading.Event()
        self.task = door.submit(lambda: inside.set() or self._open.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


class Shutdown(threading.Thread):
    """A thread that shuts a view down."""

    def __init__(self, view: PoolView, **options: Any) -> None:
        super().__init__(daemon=True)
        self.view, self.options, self.left = view, options, ("not done",)
        self.start()

    def run(self) -> None:
        self.left = self.view.shutdown(**self.options)  # type: ignore[assignment]  # whatever it is

    def asleep(self) -> Shutdown:
        """Return when the view takes no more."""
        for _ in range(10_000):
            if self.view.closed:
                return self
            threading.Event().wait(0.001)
        raise AssertionError("the view is not closed")

    def outcome(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "shutdown did not return"
        return self.left


def leave(
    view: PoolView, error: BaseException | None, fill: Callable[[PoolView], Any]
) -> tuple[Any, BaseException | None]:
    """Leave a view's block, after `fill`, by `error`; return what that returned, and what came out of the block."""
    try:
        with view:
            filled = fill(view)
            if error is not None:
                raise error
    except BaseException as raised:
        return filled, raised
    return filled, None


def rest_of(results: Iterator[Any]) -> tuple[list[Any], list[type[Exception]]]:
    """Take the results that are left; return them, and what was raised in the place of others."""
    values: list[Any] = []
    errors: list[type[Exception]] = []
    for _ in range(1000):
        try:
            values.append(next(results))
        except StopIteration:
            return values, errors
        except Exception as error:
            errors.append(type(error))
    raise AssertionError("the map does not end")


# -- an executor ----------------------------------------------------------------------------------------------------


def test_a_view_is_an_executor_and_tells_of_its_pool() -> None:
    with Pool(3) as pool:
        view = pool.options(name="a")
        assert isinstance(view, Executor)
        assert isinstance(view, PoolView)
        assert (view.pool, view.max_workers, view.closed) == (pool, 3, False)
        for attribute in ("pool", "max_workers", "closed"):
            with pytest.raises(AttributeError):
                setattr(view, attribute, 1)
    assert view.closed


def test_an_event_loop_runs_in_a_view() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pool.options(name="a", deadline=PATIENCE) as view:
            return await loop.run_in_executor(view, abs, -1)

    with Pool(1) as pool:
        assert asyncio.run(main()) == 1


def test_the_standard_librarys_functions_take_its_futures() -> None:
    with Pool(2) as pool, pool.options() as view:
        futures = [view.submit(abs, -number) for number in range(5)]
        assert concurrent.futures.wait(futures, PATIENCE).not_done == set()
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == list(range(5))


# -- what a shutdown ends -------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[PoolView], Any]] = {
    "submit": lambda view: view.submit(int),
    "map": lambda view: view.map(abs, [1]),
    "map of nothing": lambda view: view.map(abs, []),
    "run": lambda view: asyncio.run(view.run(int)),
    "group": lambda view: group_of(view),
    "with": lambda view: view.__enter__(),
}


def group_of(view: PoolView) -> None:
    try:
        with TaskGroup(view) as group:
            group.submit(int)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@pytest.mark.parametrize("options", [{}, {"deadline": PATIENCE}, {"rate": Rate(1e6)}])
@pytest.mark.parametrize("way", WAYS)
def test_a_view_that_was_shut_down_takes_no_more_and_its_pool_and_other_views_do(
    way: str, options: dict[str, Any]
) -> None:
    with Pool(1, name="loom") as pool:
        view = pool.options(**options)
        assert view.submit(abs, -1).result(PATIENCE) == 1
        child = view.options(name="child")
        assert view.shutdown() == ()
        assert view.shutdown() == ()  # again
        assert view.closed
        assert ", closed>" in repr(view)
        with pytest.raises(PoolClosed, match="a view of pool 'loom' is closed; make another"):
            WAYS[way](view)
        assert not pool.closed
        for other in (pool, child, pool.options(**options), view.options()):
            assert other.submit(abs, -2).result(PATIENCE) == 2


def test_a_shut_view_of_a_closed_pool_says_that_the_pool_is_closed() -> None:
    pool = Pool(1, name="loom")
    view = pool.options()
    view.shutdown()
    pool.shutdown()
    with pytest.raises(PoolClosed, match="pool 'loom' is closed; submit before"):
        view.submit(int)


# -- what it waits for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"deadline": PATIENCE}, {"rate": Rate(1e6)}, {"name": "a", "priority": 3}])
def test_it_waits_for_the_tasks_of_the_view_and_for_no_others(options: dict[str, Any]) -> None:
    with Pool(2, order="priority") as pool:
        other = Gate(pool)
        view = pool.options(**options)
        gate = Gate(view)
        waits = view.submit(abs, -1)
        later = pool.options(priority=-1).submit(abs, -2)
        down = Shutdown(view).asleep()
        assert down.is_alive()
        assert not waits.done()
        gate.open()
        assert down.outcome() == ()
        assert gate.task.done()
        assert waits.result(0) == 1
        assert not other.task.done()
        other.open()
        assert later.result(PATIENCE) == 2


def test_tasks_of_the_same_options_given_to_another_view_are_not_its_own() -> None:
    with Pool(1) as pool:
        gate = Gate(pool.options())
        assert pool.options().shutdown() == ()
        gate.open()


@pytest.mark.parametrize("error", [None, ValueError("of the block")])
def test_leaving_its_block_waits_and_keeps_what_the_block_raised(error: Exception | None) -> None:
    ran: list[int] = []
    with Pool(2) as pool:
        assert (
            leave(pool.options(), error, lambda view: [view.submit(ran.append, number) for number in range(99)])[1]
            is error
        )
        assert sorted(ran) == list(range(99))


def test_after_ctrl_c_in_its_block_what_waits_is_cancelled_and_what_runs_is_not_waited_for() -> None:
    with Pool(1) as pool:
        ctrl_c = KeyboardInterrupt()
        (gate, waits, other), raised = leave(
            pool.options(), ctrl_c, lambda view: (Gate(view), view.submit(int), pool.submit(int))
        )
        assert raised is ctrl_c
        assert waits.cancelled()
        assert not gate.task.done()
        assert not other.done()
        gate.open()


def test_it_can_leave_what_is_left_and_says_what_that_is() -> None:
    with Pool(1) as pool:
        view = pool.options()
        gate = Gate(view)
        waits, other = view.submit(abs, -1), pool.submit(int)
        assert set(view.shutdown(wait=False)) == {gate.task, waits}
        assert set(view.shutdown(timeout=0.01)) == {gate.task, waits}
        assert set(view.shutdown(timeout=-1)) == {gate.task, waits}
        assert set(view.shutdown(cancel_futures=True, timeout=0)) == {gate.task}
        assert waits.cancelled()
        gate.open()
        assert view.shutdown() == ()
        assert other.result(PATIENCE) == 0
    with pytest.raises(TypeError, match="timeout='x'"):
        view.shutdown(timeout="x")  # type: ignore[arg-type]  # that is the point


def test_callers_that_wait_for_room_get_in() -> None:
    """They have called before."""
    with Pool(1, queue_size=0) as pool:
        view = pool.options()
        gate = Gate(pool)
        got: list[Future[int]] = []
        caller = threading.Thread(target=lambda: got.append(view.submit(abs, -1)))
        caller.start()
        while pool.snapshot().blocked == 0:
            threading.Event().wait(0.001)
        assert len(view.shutdown(wait=False)) == 1
        down = Shutdown(view).asleep()
        gate.open()
        assert down.outcome() == ()
        caller.join(PATIENCE)
        assert [future.result(0) for future in got] == [1]


def test_a_task_may_use_a_view_of_its_own_pool_to_the_end() -> None:
    """Even the only thread: it runs what it waits for."""

    def fan_out() -> list[int]:
        with pool.options(name="part") as view:
            parts = [view.submit(abs, -number) for number in range(5)]
        return [part.result(0) for part in parts]

    with Pool(1) as pool:
        assert pool.submit(fan_out).result(PATIENCE) == list(range(5))


def test_a_task_of_the_view_does_not_wait_for_itself() -> None:
    with Pool(1) as pool:
        view = pool.options()
        task = view.submit(lambda: len(view.shutdown()))
        assert task.result(PATIENCE) == 1  # itself
        assert view.closed


def test_tasks_that_the_tasks_have_submitted_are_waited_for_too() -> None:
    for _ in range(30):
        ran: list[int] = []

        def grow(left: int, view: PoolView, ran: list[int] = ran) -> None:
            ran.append(left)
            if left:
                view.submit(grow, left - 1, view)

        with Pool(2) as pool:
            view = pool.options()
            last = view.submit(grow, 5, view)
            view.shutdown()
            assert last.done()
            before = list(ran)
            pool.submit(int).result(PATIENCE)
            assert ran == before


def test_a_caller_whose_time_is_up_waits_no_longer_and_the_view_is_shut() -> None:
    with Pool(1) as pool:
        view = pool.options()
        gate = Gate(view)
        with treadle.deadline(0.01), pytest.raises(DeadlineExceeded):
            view.shutdown()
        assert view.closed
        gate.open()


def test_a_wait_that_could_never_end_is_reported() -> None:
    def shuts_down() -> None:
        begun.wait(PATIENCE)
        view.shutdown()

    begun = threading.Event()
    with Pool(1, name="a") as a, Pool(1, name="b") as b:
        view = a.options()
        other = b.submit(shuts_down)
        task = view.submit(lambda: begun.set() or other.exception())  # type: ignore[func-returns-value]  # it is falsy
        ends = [other.exception(PATIENCE), task.exception(PATIENCE) or task.result()]
        assert any(isinstance(end, PoolDeadlock) for end in ends)


# -- maps -----------------------------------------------------------------------------------------------------------

MAPS: dict[str, dict[str, Any]] = {"plain": {}, "rate": {"rate": Rate(1e6)}, "deadline": {"deadline": PATIENCE}}


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("taken", [0, 1])
def test_a_map_whose_results_nobody_takes_runs_to_its_end(taken: int, options: dict[str, Any]) -> None:
    ran: list[int] = []
    with Pool(2, queue_size=3) as pool:
        with pool.options(**options) as view:
            results = view.map(ran.append, range(200))
            for _ in range(taken):
                next(results)
        assert sorted(ran) == list(range(200))


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
def test_the_results_of_a_map_can_be_taken_after_it(options: dict[str, Any]) -> None:
    with Pool(2, queue_size=3) as pool:
        view = pool.options(**options)
        results = view.map(abs, range(-100, 0))
        assert next(results) == 100
        view.shutdown()
        assert list(results) == list(range(99, 0, -1))


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
def test_what_a_map_with_a_buffersize_has_not_read_is_refused(options: dict[str, Any]) -> None:
    with Pool(2) as pool:
        view = pool.options(**options)
        results = view.map(abs, itertools.count(), buffersize=3)
        assert next(results) == 0
        view.shutdown()
        values, errors = rest_of(results)
        assert values == list(range(1, 1 + len(values)))
        assert len(values) < 5
        assert errors == [PoolClosed]
        assert next(pool.map(abs, itertools.count(), buffersize=3)) == 0


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("begun", [False, True])
def test_cancelling_cancels_the_rest_of_a_map(begun: bool, options: dict[str, Any]) -> None:
    with Pool(1, queue_size=3) as pool:
        view = pool.options(**options)
        gate = Gate(pool)
        results: Iterator[int] = view.map(abs, itertools.count())
        if begun:
            gate.open()
            assert next(results) == 0
            gate = Gate(pool)
        view.shutdown(wait=False, cancel_futures=True)
        gate.open()
        values, errors = rest_of(results)
        assert len(values) < 10  # of what ran before
        assert set(errors) == {CancelledError}
        assert not pool._task_dispatcher.maps
        assert view.shutdown() == ()
        assert pool.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
def test_cancelling_lets_the_item_end_that_runs_and_no_other_begin(options: dict[str, Any]) -> None:
    ran: list[int] = []
    gate, inside = threading.Event(), threading.Event()

    def work(number: int) -> int:
        ran.append(number)
        inside.set()
        assert gate.wait(PATIENCE)
        return number

    with Pool(1) as pool:
        view = pool.options(**options)
        results = view.map(work, range(5))
        assert inside.wait(PATIENCE)
        view.shutdown(wait=False, cancel_futures=True)
        gate.set()
        values, errors = rest_of(results)
        assert values == ran == [0]
        assert errors == [CancelledError] * 4


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
def test_the_thread_that_waits_reads_the_input(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be bound to that, as a database's cursor is."""
    monkeypatch.setattr(feed, "PATIENCE", 600.0)  # no worker comes in between, however busy the machine is
    readers: set[int] = set()

    def rows() -> Iterator[int]:
        for number in range(100):
            readers.add(threading.get_ident())
            yield number

    with Pool(2, queue_size=3) as pool:
        with pool.options(**options) as view:
            view.map(abs, rows())
    assert readers == {threading.get_ident()}


# -- others' wrappers -----------------------------------------------------------------------------------------------


def test_tasks_that_came_through_a_wrapper_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Sentry and OpenTelemetry replace the standard library's method."""
    standard = concurrent.futures.ThreadPoolExecutor.submit

    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return standard(self, lambda: fn(*args, **kwargs))

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", submit)
    with Pool(1) as pool:
        view = pool.options()
        gate = Gate(view)
        waits = view.submit(abs, -1)
        assert set(view.shutdown(wait=False)) == {gate.task, waits}
        gate.open()
        assert view.shutdown() == ()
        assert waits.result(0) == 1
        with pytest.raises(PoolClosed):
            view.submit(int)

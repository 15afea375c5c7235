"""wait and as_completed, from outside a pool and from inside its tasks."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator

import pytest

from clocks import FakeClock
from treadle import FIRST_COMPLETED, FIRST_EXCEPTION, Future, Pool, as_completed, deadline, wait
from treadle.errors import Cancelled, DeadlineExceeded


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(1) as made:
        yield made


def test_outside_a_pool_they_are_the_standard_librarys(pool: Pool) -> None:
    futures = [pool.submit(abs, n) for n in range(5)]
    assert wait(futures, 30).not_done == set()
    assert set(as_completed([*futures, futures[0]], 30)) == set(futures)


def test_inside_a_task_all_that_has_not_begun_is_run_there(pool: Pool) -> None:
    def task() -> int:
        futures = [pool.submit(abs, n) for n in range(5)]
        assert wait(futures).not_done == set()
        return sum(future.result() for future in as_completed([pool.submit(abs, n) for n in range(5)]))

    assert pool.submit(task).result(30) == 10


def test_inside_a_task_the_first_is_enough(pool: Pool) -> None:
    def task() -> tuple[int, int]:
        futures = [pool.submit(abs, n) for n in range(5)]
        outcome = wait(futures, return_when=FIRST_COMPLETED)
        return len(outcome.done), len(outcome.not_done)

    assert pool.submit(task).result(30) == (1, 4)


def test_inside_a_task_the_first_exception_is_enough(pool: Pool) -> None:
    def task() -> int:
        futures = {pool.submit(int, "x") for _ in range(3)}
        outcome = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        return len([future for future in outcome.done if future.exception()])

    assert pool.submit(task).result(30) == 1


def test_inside_a_task_foreign_futures_are_waited_for(pool: Pool) -> None:
    made: Future[int] = Future()
    gate = threading.Event()

    def task() -> int:
        gate.set()
        return wait([made]).done.pop().result()

    result = pool.submit(task)
    assert gate.wait(30)
    made.set_result(3)
    assert result.result(30) == 3


def test_inside_a_task_a_timeout_ends_the_wait(pool: Pool) -> None:
    made: Future[int] = Future()

    def task() -> str:
        assert wait([made], 0.01).not_done == {made}
        with pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 1\) futures unfinished"):
            next(as_completed([made], 0.01))
        return "went on"

    assert pool.submit(task).result(30) == "went on"


def take_all(children: list[Future[None]], way: str) -> None:
    """Wait for all, in one of the ways there are."""
    if way == "wait":
        wait(children)
    for future in as_completed(children) if way == "as_completed" else children:
        assert (future.exception() if way == "exception" else future.result()) is None


@pytest.mark.parametrize("way", ["result", "exception", "wait", "as_completed"])
def test_a_worker_begins_nothing_more_for_a_task_that_was_asked_to_stop(way: str) -> None:
    """The first of those that it waits for, and runs, asks it to stop."""
    ran: list[int] = []
    when_it_stopped: list[int] = []

    def parent() -> None:
        children = [pool.submit(child, number) for number in range(5)]
        try:
            take_all(children, way)
        finally:
            when_it_stopped.append(len(ran))

    def child(number: int) -> None:
        ran.append(number)
        parents.result(30).request_cancel()

    parents: Future[Future[None]] = Future()
    with Pool(1) as pool:
        future = pool.submit(parent)
        parents.set_result(future)
        with pytest.raises(Cancelled):
            future.result(30)
    assert when_it_stopped == [1]
    assert len(ran) == 5, "the others are the pool's, which runs them"


@pytest.mark.parametrize("way", ["result", "exception", "wait", "as_completed"])
def test_a_worker_begins_nothing_more_for_a_block_whose_deadline_has_passed(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ran, when_it_stopped = FakeClock(monkeypatch), list[int](), list[int]()

    def parent() -> None:
        children = [pool.submit(child, number) for number in range(5)]
        try:
            with deadline(5):
                take_all(children, way)
        finally:
            when_it_stopped.append(len(ran))

    def child(number: int) -> None:
        ran.append(number)
        clock.pass_(6)

    with Pool(1) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(parent).result(30)
    assert when_it_stopped == [1]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("timeout", [-1, -0.001, 0])
def test_a_negative_timeout_means_that_no_time_is_left(pool: Pool, inside: bool, timeout: float) -> None:
    done: Future[int] = Future()
    done.set_result(1)
    never: Future[int] = Future()

    def look() -> None:
        assert wait([done, never], timeout) == ({done}, {never})
        assert wait([done], timeout).done == {done}
        found = as_completed([done, never], timeout)
        assert next(found) is done
        with pytest.raises(TimeoutError, match="1 \\(of 2\\) futures unfinished"):
            next(found)

    if inside:
        pool.submit(look).result(30)
    else:
        look()


def test_bad_arguments_are_named(pool: Pool) -> None:
    with pytest.raises(ValueError, match="return_when='x'"):
        wait([], return_when="x")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="timeout='x'"):
        as_completed([], timeout="x")  # type: ignore[arg-type]  # that is the point
    for waits in (wait, as_completed):
        with pytest.raises(TypeError, match=r"fs holds 1, which is int; allowed: what submit\(\) returned"):
            waits([1])  # type: ignore[type-var]  # that is the point
        with pytest.raises(TypeError, match=r"fs=<Future .* allowed: an iterable of futures, as in \[future\]"):
            waits(pool.submit(int))  # type: ignore[arg-type]  # that is the point


# -- in a pool's thread, outside of its tasks -------------------------------------------------------------------------


WAITS: dict[str, Callable[[Future[int]], int]] = {
    "wait": lambda future: wait([future]).done.pop().result(),
    "as_completed": lambda future: next(as_completed([future])).result(),
    "result": lambda future: future.result(),
}


@pytest.mark.parametrize("how", WAITS)
def test_a_callback_runs_what_it_waits_for_when_its_thread_is_the_only_one(how: str) -> None:
    gate, got = threading.Event(), list[int]()
    with Pool(1) as pool:
        future = pool.submit(gate.wait, 30)
        future.add_done_callback(lambda _: got.append(WAITS[how](pool.submit(abs, -3))))
        gate.set()
        assert future.result(30)
        pool.submit(int).result(30)
    assert got == [3]


@pytest.mark.parametrize("how", WAITS)
def test_an_initializer_of_a_thread_that_is_kept_warm_runs_what_it_waits_for(how: str) -> None:
    pools: list[Pool] = []
    made, got = threading.Event(), list[int]()

    def initialize() -> None:
        assert made.wait(30)
        got.append(WAITS[how](pools[0].submit(abs, -3)))

    with Pool(1, min_workers=1, initializer=initialize) as pool:
        pools.append(pool)
        made.set()
        assert pool.submit(abs, -2).result(30) == 2
    assert got == [3]

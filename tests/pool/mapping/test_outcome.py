"""Outcomes: what came of each call, told and not raised; of pools in every way in which they map, and of futures."""

from __future__ import annotations

import gc
import logging
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import FrozenInstanceError
from itertools import count
from typing import Any

import pytest

import treadle
from clocks import LeapingClock
from treadle import Outcome, Pool, PoolView, Rate
from treadle._pool.mapping.outcome import outcome_of
from treadle.errors import Cancelled, DeadlineExceeded, PoolBroken, PoolClosed, PoolFull
from treadle.events import Observer

SOON = 30.0  # seconds in which what is sure to happen does
LONG = 600.0  # seconds that no test waits for


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


class Mine(Pool):
    """Each item of its maps is a task of its own."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *args, **kwargs)


WAYS: dict[str, Callable[[Pool], Pool | PoolView]] = {
    "pool": lambda pool: pool,
    "view": lambda pool: pool.options(name="named"),
    "rated view": lambda pool: pool.options(rate=Rate(1e6)),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
each_kind = pytest.mark.parametrize("kind", [Pool, Mine])
in_order_or_not = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as ready"])


def invert(number: int) -> float:
    return 1 / number


# -- of a pool ----------------------------------------------------------------------------------------------------


@each_way
@each_kind
@in_order_or_not
@pytest.mark.parametrize("observed", [False, True])
def test_each_item_has_an_outcome_and_nothing_is_raised(
    way: Callable[[Pool], Pool | PoolView], kind: type[Pool], ordered: bool, observed: bool
) -> None:
    with kind(3, observers=[Observer()] if observed else []) as pool:
        told = list(way(pool).outcomes(invert, [1, 0, 2, 0, 4], ordered=ordered))
    items = [outcome.item for outcome in told]
    assert (items if ordered else sorted(items)) == ([1, 0, 2, 0, 4] if ordered else [0, 0, 1, 2, 4])
    for outcome in told:
        if outcome.item:
            assert (outcome.value, outcome.error) == (1 / outcome.item, None)
            assert outcome.result() == 1 / outcome.item
        else:
            assert outcome.value is None
            assert isinstance(outcome.error, ZeroDivisionError)


@each_kind
def test_in_order_they_come_as_the_items_do(kind: type[Pool]) -> None:
    with kind(3) as pool:
        assert [outcome.item for outcome in pool.outcomes(invert, range(50), ordered=True)] == list(range(50))


@each_kind
def test_they_come_as_they_are_ready_unless_order_is_asked_for(kind: type[Pool]) -> None:
    gates = [threading.Event(), threading.Event()]
    with kind(2) as pool:
        told = pool.outcomes(lambda number: gates[number].wait(SOON), range(2))
        gates[1].set()
        assert next(told).item == 1
        gates[0].set()
        assert next(told).item == 0


@each_kind
@in_order_or_not
def test_an_exception_that_is_returned_is_a_value(kind: type[Pool], ordered: bool) -> None:
    with kind(1) as pool:
        (outcome,) = pool.outcomes(ValueError, ["x"], ordered=ordered)
    assert isinstance(outcome.value, ValueError)
    assert outcome.error is None


@each_kind
@pytest.mark.parametrize("error", [StopIteration("x"), SystemExit(3), CancelledError(), Cancelled()])
def test_whatever_is_raised_is_told_as_it_is(kind: type[Pool], error: BaseException) -> None:
    def fail(item: int) -> None:
        raise error

    with kind(1) as pool:
        told = list(pool.outcomes(fail, [1, 2]))
    assert [outcome.error for outcome in told] == [error, error]


@each_kind
def test_input_is_read_as_far_ahead_as_buffersize_says(kind: type[Pool]) -> None:
    read = []

    def source() -> Iterator[int]:
        for number in count():
            read.append(number)
            yield number

    with kind(2) as pool:
        told = pool.outcomes(invert, source(), buffersize=5, ordered=True)
        assert [next(told).item for _ in range(3)] == [0, 1, 2]
        assert len(read) <= 8
        told.close()
        assert list(told) == []


@each_kind
def test_what_the_input_raises_is_raised_after_the_outcomes_before(kind: type[Pool]) -> None:
    def source() -> Iterator[int]:
        yield from (0, 0)
        raise OSError("the input")

    with kind(1) as pool:
        told = pool.outcomes(invert, source())
        assert [type(next(told).error) for _ in range(2)] == [ZeroDivisionError] * 2
        with pytest.raises(OSError, match="the input"):
            next(told)


def held_up(pool: Pool, **options: Any) -> tuple[Any, threading.Event]:
    """Return the outcomes of a call that is under way, and of some that were not begun; and what ends that."""
    gate, began = threading.Event(), threading.Event()

    def wait(item: int) -> int:
        began.set()
        assert gate.wait(SOON)
        return item

    told = pool.outcomes(wait, range(4), **options)
    assert began.wait(SOON)
    return told, gate


@each_kind
@in_order_or_not
def test_items_that_a_shutdown_has_cancelled_say_so(kind: type[Pool], ordered: bool) -> None:
    pool = kind(1)
    told, gate = held_up(pool, ordered=ordered)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    outcomes = sorted(told, key=lambda outcome: outcome.item)
    assert [(outcome.item, outcome.value) for outcome in outcomes] == [(0, 0), (1, None), (2, None), (3, None)]
    assert all(isinstance(outcome.error, (CancelledError, PoolClosed)) for outcome in outcomes[1:])
    pool.shutdown()


@in_order_or_not
def test_items_that_were_discarded_for_newer_tasks_say_so(ordered: bool) -> None:
    with Pool(1, queue_size=1, when_full="discard_oldest") as pool:
        gate = threading.Event()
        pool.submit(gate.wait, SOON)
        told = pool.outcomes(abs, [-1, -2], ordered=ordered, buffersize=2)
        newer = pool.submit(int)
        gate.set()
        newer.result(SOON)
        outcomes = list(told)
    assert sorted(outcome.item for outcome in outcomes) == [-2, -1]
    assert all(outcome.error is not None and outcome.value is None for outcome in outcomes)


def test_items_that_are_refused_say_so() -> None:
    gate, began = threading.Event(), threading.Event()

    def wait(item: int) -> int:
        began.set()
        assert gate.wait(SOON)
        return item

    with Mine(1, queue_size=1, when_full="reject") as pool:
        told = pool.outcomes(wait, range(4), buffersize=4, ordered=True)
        gate.set()
        outcomes = list(told)
    assert [outcome.item for outcome in outcomes] == [0, 1, 2, 3]
    assert isinstance(outcomes[3].error, PoolFull)


@each_kind
@in_order_or_not
def test_items_of_a_pool_that_broke_say_so(kind: type[Pool], ordered: bool) -> None:
    with kind(1, initializer=divmod, initargs=(1, 0)) as pool:
        try:
            outcomes = list(pool.outcomes(abs, range(3), ordered=ordered))
        except PoolBroken:  # it broke before the first was submitted
            return
    assert sorted(outcome.item for outcome in outcomes) == list(range(3))
    assert all(isinstance(outcome.error, PoolBroken) for outcome in outcomes)


@each_kind
@in_order_or_not
def test_items_that_had_not_begun_at_the_deadline_say_so(
    kind: type[Pool], ordered: bool, leaping: LeapingClock
) -> None:
    """The caller, whose deadline it is not, waits for what runs, and is told all."""
    with kind(1) as pool:
        with treadle.deadline(LONG):
            told, gate = held_up(pool, ordered=ordered)
        leaping.leap(LONG)
        outcomes = [] if ordered else [next(told) for _ in range(3)]
        gate.set()
        outcomes = sorted([*outcomes, *told], key=lambda outcome: outcome.item)
    assert [outcome.item for outcome in outcomes] == [0, 1, 2, 3]
    assert outcomes[0].value == 0 or isinstance(outcomes[0].error, DeadlineExceeded)
    assert all(isinstance(outcome.error, DeadlineExceeded) for outcome in outcomes[1:])


@each_kind
@in_order_or_not
def test_the_callers_own_deadline_is_raised_and_ends_it(kind: type[Pool], ordered: bool) -> None:
    with kind(1) as pool:
        told, gate = held_up(pool, ordered=ordered)
        with treadle.deadline(0.05), pytest.raises(DeadlineExceeded):
            next(told)
        gate.set()
        assert list(told) == []


@each_kind
def test_dropped_before_next_every_item_runs_and_what_nobody_saw_is_logged(
    kind: type[Pool], caplog: pytest.LogCaptureFixture
) -> None:
    ran = []

    def run(item: int) -> None:
        ran.append(item)
        raise OSError(f"item {item}")

    with caplog.at_level(logging.ERROR, "treadle"):
        with kind(2) as pool:
            pool.outcomes(run, range(20))
        gc.collect()
    assert sorted(ran) == list(range(20))
    if getattr(sys, "_is_gil_enabled", lambda: True)():  # else some objects go later, or never
        assert len(caplog.records) == 20


@each_kind
def test_what_was_seen_is_not_logged(kind: type[Pool], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "treadle"), kind(2) as pool:
        for outcome in pool.outcomes(invert, [0, 0, 0]):
            assert outcome.error is not None
            del outcome
        gc.collect()
    assert not caplog.records


@each_kind
@in_order_or_not
def test_items_live_no_longer_than_their_outcomes(kind: type[Pool], ordered: bool) -> None:
    class Thing:
        pass

    with kind(1) as pool:
        things = [Thing(), Thing()]
        references = [weakref.ref(thing) for thing in things]
        told = pool.outcomes(lambda thing: None, iter(things), ordered=ordered)
        del things
        while True:
            try:
                next(told)
            except StopIteration:
                break
        pool.submit(int).result(SOON)  # the worker has let go of the last of them
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_bad_arguments_are_refused_at_the_call() -> None:
    with Pool(1) as pool:
        with pytest.raises(TypeError, match="fn=3"):
            pool.outcomes(3, [])  # type: ignore[arg-type]  # that is the point
        with pytest.raises(ValueError, match="buffersize=0"):
            pool.outcomes(abs, [], buffersize=0)
        with pytest.raises(TypeError, match="ordered=1"):
            pool.outcomes(abs, [], ordered=1)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(PoolClosed):
        pool.outcomes(abs, [1])


# -- itself -------------------------------------------------------------------------------------------------------


def test_it_returns_its_value_or_raises_its_error() -> None:
    assert Outcome("x", 3, None).result() == 3
    assert Outcome("x", None, None).result() is None
    with pytest.raises(ZeroDivisionError):
        Outcome("x", None, ZeroDivisionError()).result()


def test_it_is_frozen_compares_shows_and_travels() -> None:
    outcome = Outcome("x", 3, None)
    with pytest.raises(FrozenInstanceError):
        outcome.value = 4  # type: ignore[misc]  # that is the point
    assert outcome == Outcome("x", 3, None)
    assert repr(outcome) == "Outcome(item='x', value=3, error=None)"
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_raising_it_makes_no_cycle_of_error_and_traceback() -> None:
    class Mine(Exception):
        pass

    gc.disable()
    try:
        error = Mine()
        gone, outcome = weakref.ref(error), Outcome[str, int]("x", None, error)
        del error
        try:
            outcome.result()
        except Mine:
            pass
        del outcome
        assert gone() is None
    finally:
        gc.enable()


def test_a_future_that_is_done_has_an_outcome() -> None:
    returned, failed, cancelled = Future[int](), Future[int](), Future[int]()
    returned.set_result(3)
    failed.set_exception(ValueError("x"))
    cancelled.cancel()
    assert outcome_of("a", returned) == Outcome("a", 3, None)
    assert str(outcome_of("b", failed).error) == "x"
    assert isinstance(outcome_of("c", cancelled).error, CancelledError)

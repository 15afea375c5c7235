"""Notes on errors (PEP 678): which item of a map it was, which task of a group, which stage and item of a pipeline."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import pytest

import treadle
from orders.lifo import Lifo
from treadle import Pipeline, Pool, TaskGroup
from treadle.errors import Shed
from treadle.events import Observer


class Mine(Pool):
    """Each item of its maps is a task of its own, which does not know its item when it is done."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *args, **kwargs)


def notes(error: BaseException | None) -> list[str]:
    return getattr(error, "__notes__", [])


def errors_of(results: Any) -> list[BaseException]:
    found: list[BaseException] = []
    while True:
        try:
            next(results)
        except StopIteration:
            return found
        except BaseException as error:
            found.append(error)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("observed", [True, False])
def test_an_error_of_a_map_says_which_item_it_was(ordered: bool, observed: bool) -> None:
    with Pool(2, observers=[Observer()] if observed else []) as pool:
        errors = errors_of(pool.map(int, ["0", "x", "2", "y"], ordered=ordered))
    assert sorted(sum(map(notes, errors), [])) == ["in item 1 of map(int): 'x'", "in item 3 of map(int): 'y'"]


@pytest.mark.parametrize("ordered", [True, False])
def test_where_each_item_is_a_task_it_says_the_number(ordered: bool) -> None:
    with Mine(2) as pool:
        errors = errors_of(pool.map(int, ["0", "x", "2", "y"], ordered=ordered))
    assert sorted(sum(map(notes, errors), [])) == ["in item 1 of map(int)", "in item 3 of map(int)"]


def test_all_that_the_function_was_called_with_is_told() -> None:
    with Pool(1) as pool:
        (error,) = errors_of(pool.map(divmod, [1], [0]))
    assert notes(error) == ["in item 0 of map(divmod): 1, 0"]


def test_one_that_nobody_asked_for_is_logged_with_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "treadle"):
        with Pool(1) as pool:
            pool.map(int, ["x"])
        gc.collect()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert notes(record.exc_info[1]) == ["in item 0 of map(int): 'x'"]


def test_maps_inside_of_maps_each_say_theirs() -> None:
    with Pool(1) as pool:

        def walk(depth: int) -> list[object]:
            return list(pool.map(walk, [depth - 1])) if depth else [1 / 0]

        (error,) = errors_of(pool.map(walk, [2]))
    assert notes(error) == [f"in item 0 of map({walk.__qualname__}): {depth}" for depth in range(3)]


@pytest.mark.parametrize("kind", [Pool, Mine])
def test_an_error_that_many_items_share_does_not_gather_notes_and_the_last_is_right(kind: type[Pool]) -> None:
    error = ValueError("shared")
    error.add_note("the user's")

    def fail(item: int) -> None:
        raise error

    with kind(1) as pool:
        assert errors_of(pool.map(fail, range(100))) == [error] * 100
    assert len(notes(error)) == 9
    assert notes(error)[0] == "the user's"
    assert "in item 99 of map" in notes(error)[-1]


@pytest.mark.parametrize("kind", [Pool, Mine])
@pytest.mark.parametrize("ordered", [True, False])
def test_of_an_error_that_many_items_share_the_last_note_is_that_of_the_item_it_is_raised_for(
    kind: type[Pool], ordered: bool
) -> None:
    """Though all of them have run by then."""
    error = ValueError("shared")

    def fail(item: int) -> None:
        raise error

    with kind(1) as pool:
        results = pool.map(fail, range(20), buffersize=20, ordered=ordered)
        pool.submit(int).result(30)
        for number in range(20):
            with pytest.raises(ValueError, match="shared"):
                next(results)
            assert f"in item {number} of map" in notes(error)[-1]


@pytest.mark.parametrize("kind", [Pool, Mine])
@pytest.mark.parametrize("ordered", [True, False])
def test_each_item_that_did_not_run_has_an_error_of_its_own(kind: type[Pool], ordered: bool) -> None:
    """Else one error that tells of many has the traceback of each raise, one after the other."""
    began, gate = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        gate.wait(30)

    with kind(1, queue_size=20, when_full="discard_oldest") as pool:
        pool.submit(hold)
        assert began.wait(30)
        results = pool.map(abs, range(20), buffersize=20, ordered=ordered)
        outcomes = pool.outcomes(abs, range(2), buffersize=2, ordered=ordered)
        for _ in range(20):
            pool.submit(int)
        errors = errors_of(results)
        told = [outcome.error for outcome in outcomes]
        gate.set()
    assert [(type(error), notes(error)) for error in errors] == [
        (Shed, [f"in item {n} of map(abs)"]) for n in range(20)
    ]
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1
    assert [type(error) for error in told] == [Shed] * 2
    assert len({id(error) for error in [*errors, *told]}) == 22


def test_each_item_of_a_pool_that_broke_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Lifo):
        def take(self) -> Any:
            raise LookupError("of the order")

    with caplog.at_level(logging.CRITICAL, "treadle"):
        pool = Pool(1, order=Broken())
        errors = errors_of(pool.map(abs, range(3)))
        pool.shutdown()
    assert [type(error.__cause__) for error in errors] == [LookupError] * 3


@dataclass(frozen=True)
class FrozenError(Exception):
    what: str


class Unwilling(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


class Told(Exception):
    __notes__ = 3  # type: ignore[assignment]  # that is the point


@pytest.mark.parametrize("kind", [Pool, Mine])
@pytest.mark.parametrize("made", [FrozenError, Unwilling, Told])
def test_an_error_that_takes_no_note_is_told_without_one(kind: type[Pool], made: type[Exception]) -> None:
    error = made("x")

    def fail(item: int) -> None:
        raise error

    with kind(1) as pool:
        (found,) = errors_of(pool.map(fail, [1]))
        assert found is error
        with pytest.raises(ExceptionGroup) as caught, TaskGroup(pool) as group:
            group.submit(fail, 1)
        assert caught.value.exceptions[0] is error
    with pytest.raises(made):
        list(Pipeline().stage(fail).run([1]))


class Nasty:
    def __repr__(self) -> str:
        raise SystemExit("repr")


def test_an_item_that_cannot_be_shown_costs_nothing_and_a_large_one_is_cut() -> None:
    with Pool(1) as pool:
        items: list[Any] = [Nasty(), list(range(10**6)), "x" * 10**6]
        nasty, large, long = errors_of(pool.map(int, items))
    assert notes(nasty) == ["in item 0 of map(int): <Nasty, whose repr raised SystemExit>"]
    assert notes(large) == ["in item 1 of map(int): [0, 1, 2, 3, 4, 5, ...]"]
    assert len(notes(long)[0]) < 150


def test_what_did_not_run_says_which_item_it_was_and_not_what_it_held() -> None:
    with Pool(1, initializer=divmod, initargs=(1, 0)) as pool:
        try:
            errors = errors_of(pool.map(int, ["x", "y"]))
        except treadle.errors.PoolBroken as error:
            errors = [error]
    assert all(notes(error) in ([], [f"in item {n} of map(int)"]) for n, error in enumerate(errors))


def test_an_outcome_has_its_item_and_no_note() -> None:
    with Pool(1) as pool:
        (outcome,) = pool.outcomes(int, ["x"])
    assert notes(outcome.error) == []


def test_errors_of_a_group_say_which_tasks_they_are_of() -> None:
    with Pool(1) as pool:
        with pytest.raises(ExceptionGroup) as caught, TaskGroup(pool) as group:
            group.submit(int, "x")
        assert [notes(error) for error in caught.value.exceptions] == [["in task int"]]
        with pytest.raises(ExceptionGroup) as caught, TaskGroup(pool.options(name="page 7")) as group:
            group.submit(int, "x")
    assert [notes(error) for error in caught.value.exceptions] == [["in task page 7"]]


def test_an_error_of_a_groups_block_is_of_no_task() -> None:
    with Pool(1) as pool, pytest.raises(ExceptionGroup) as caught, TaskGroup(pool):
        raise ValueError("block")
    assert notes(caught.value.exceptions[0]) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_of_a_pipeline_says_which_stage_and_item(ordered: bool) -> None:
    plan = Pipeline(name="books").stage(str.strip, workers=2).stage(int, name="count")
    with pytest.raises(ValueError, match="'x'") as caught:
        list(plan.run(["0 ", " 1", " x "], ordered=ordered))
    assert notes(caught.value) == ["in stage count of pipeline 'books', item 2: 'x'"]

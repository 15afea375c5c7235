"""map through a `submit` that somebody has replaced."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any

import pytest

from treadle import Future, Pool, Rate
from treadle._pool.mapping.submitted import FutureMap
from treadle.errors import PoolClosed


class Counting(Pool):
    """A pool whose submit notes what passes through it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[Any] = []
        super().__init__(*args, **kwargs)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.seen.append(args)
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def pool() -> Iterator[Counting]:
    with Counting(2) as made:
        yield made


def test_every_call_passes_through_a_submit_that_a_subclass_overrides(pool: Counting) -> None:
    assert list(pool.map(divmod, [7, 8], [2, 3])) == [(3, 1), (2, 2)]
    assert pool.seen == [(7, 2), (8, 3)]


def test_every_call_passes_through_a_submit_that_was_set_on_the_pool() -> None:
    seen = []
    with Pool(2) as plain:
        submit = plain.submit

        def noting(fn: Any, *args: Any) -> Future[Any]:
            seen.append(args)
            return submit(fn, *args)

        plain.submit = noting  # type: ignore[method-assign,assignment]  # as progress bars do
        assert sorted(plain.map(abs, [-1, -2], ordered=False)) == [1, 2]
    assert seen == [(-1,), (-2,)]


def test_a_pool_whose_submit_is_its_own_uses_turns() -> None:
    with Pool(1) as plain:
        assert not isinstance(plain.map(abs, []), FutureMap)


def test_the_input_is_read_no_further_than_allowed(pool: Counting) -> None:
    numbers = itertools.count()
    results = pool.map(str, numbers, buffersize=3)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(pool.seen) == 3 + 4, "three ahead of the fifth, which was asked for when four had been taken"
    results.close()
    assert list(results) == []


def test_the_iteration_goes_on_after_an_exception(pool: Counting) -> None:
    results = pool.map(lambda n: 1 // n, [1, 0, -1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [-1]


def test_results_that_are_late_end_it_and_cancel_the_rest(pool: Counting) -> None:
    gate = threading.Event()
    results = pool.map(lambda n: gate.wait(30), range(10), timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    gate.set()
    assert list(results) == []


@pytest.mark.parametrize("buffersize", [None, 2])
@pytest.mark.parametrize("cancel", [False, True])
def test_a_pool_that_was_shut_down_refuses_the_call_itself(buffersize: int | None, cancel: bool) -> None:
    """Or a map that is called for its effects would be lost without a word."""
    for pool in (Counting(1), Pool(1, rate=Rate(1000))):
        pool.shutdown(cancel_futures=cancel)
        with pytest.raises(PoolClosed):
            pool.map(abs, [-1, -2], buffersize=buffersize)
        assert list(pool.map(abs, [], buffersize=buffersize)) == [], "nothing was submitted, as in the standard library"


def test_reprs_tell_the_function_and_how_far_its_input_was_read(pool: Counting) -> None:
    results, outcomes = pool.map(abs, range(3)), pool.outcomes(abs, range(1))
    assert repr(results) == "<Results of map(abs): 3 items read>"
    assert repr(outcomes) == "<Outcomes of map(abs): 1 item read>"
    results.close()
    assert repr(results) == "<Results of map(abs): 3 items read, closed>"

"""ConcurrencyLimit: a ceiling on tasks in flight that finds itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle import ConcurrencyLimit, Pool
from treadle._base.limit import Gradient, gradient_of


def limited(most: int = 64, **arguments: Any) -> Gradient:
    limit = gradient_of(ConcurrencyLimit(**arguments))
    limit.serve(most)
    return limit


def work(limit: Gradient, runs: int, *, slots: int, seconds: float) -> None:
    """Run tasks on a backend that serves so many at once, in so many seconds each, with the ceiling fully used."""
    for _ in range(runs):
        in_flight = limit.ceiling
        limit.observe_run(seconds * max(1.0, in_flight / slots), in_flight)


@given(runs=st.lists(st.tuples(st.floats(1e-6, 100), st.integers(0, 70)), max_size=200), least=st.integers(1, 5))
def test_the_ceiling_stays_between_its_bounds(runs: list[Any], least: int) -> None:
    limit = limited(64, min_limit=least)
    for seconds, in_flight in runs:
        assert least <= limit.observe_run(seconds, in_flight) <= 64


def test_it_begins_with_few_or_what_the_pool_allows_or_what_it_is_told() -> None:
    assert limited(64).ceiling == 6
    assert limited(4).ceiling == 4
    assert limited(64, initial=3).ceiling == 3


def test_it_rises_while_runs_take_no_longer() -> None:
    limit = limited()
    work(limit, 2000, slots=1000, seconds=0.01)
    assert limit.ceiling == 64


def test_it_does_not_rise_while_it_is_hardly_used() -> None:
    limit = limited()
    for _ in range(300):
        limit.observe_run(0.01, 2)
    assert limit.ceiling == 6


@pytest.mark.parametrize("slots", [4, 30, 200])
def test_it_finds_about_what_the_backend_serves_at_once_and_stays_there(slots: int) -> None:
    limit = limited(1000)
    work(limit, 30_000, slots=slots, seconds=0.01)
    for _ in range(30):
        work(limit, 1000, slots=slots, seconds=0.01)
        assert slots <= limit.ceiling <= 2 * slots + 10


def test_it_falls_when_everything_takes_ten_times_as_long_and_is_back_when_that_is_how_it_stays() -> None:
    limit = limited()
    work(limit, 5000, slots=30, seconds=0.01)
    settled, lowest = limit.ceiling, 64
    for _ in range(4000):
        work(limit, 1, slots=30, seconds=0.1)
        lowest = min(lowest, limit.ceiling)
    assert lowest <= 6
    assert limit.ceiling >= 0.8 * settled
    work(limit, 2000, slots=30, seconds=0.01)
    assert limit.ceiling >= 0.8 * settled


def test_tasks_of_several_kinds_do_not_look_like_a_backend_that_slows_down() -> None:
    limit = limited()
    for _ in range(2000):
        for seconds in (0.001, 0.001, 0.001, 0.2):
            limit.observe_run(seconds, limit.ceiling)
    assert limit.ceiling > 40


def test_it_does_not_fall_by_more_than_a_tenth_a_step() -> None:
    limit = limited()
    work(limit, 2000, slots=1000, seconds=0.01)
    before = limit._ceiling
    work(limit, 64, slots=1000, seconds=1000.0)
    assert before > limit._ceiling >= before * 0.8  # in two steps


def test_a_pool_has_as_many_threads_as_the_ceiling_says() -> None:
    limit = ConcurrencyLimit(initial=2)
    with Pool(8, limit=limit) as pool:
        assert pool.snapshot().limit == limit.current == 2
        list(pool.map(abs, range(100)))
        assert [pool.submit(abs, n).result() for n in range(3)] == [0, 1, 2]
        assert pool.snapshot().limit in range(1, 9)
        assert pool.snapshot().max_workers == 8
        pool.resize(1)
        assert (pool.snapshot().limit, limit.current, pool.snapshot().max_workers) == (1, 1, 1)
    with Pool(8) as pool:
        assert pool.snapshot().limit is None


def test_it_tells_what_it_was_made_with_and_where_it_is() -> None:
    limit = ConcurrencyLimit(3, min_limit=2, tolerance=2)
    assert (limit.current, limit.min_limit, limit.tolerance) == (0, 2, 2.0)
    assert repr(limit) == "ConcurrencyLimit(0 at once, 2 to any)"
    with Pool(8, limit=limit):
        assert limit.current == 3
        assert repr(limit) == "ConcurrencyLimit(3 at once, 2 to 8)"
    for name in ("current", "min_limit", "tolerance"):
        with pytest.raises(AttributeError):
            setattr(limit, name, 3)


def test_it_shows_users_nothing_but_what_is_theirs() -> None:
    assert [name for name in dir(ConcurrencyLimit) if not name.startswith("_")] == ["current", "min_limit", "tolerance"]


def test_one_limit_serves_one_pool() -> None:
    limit = ConcurrencyLimit()
    with Pool(2, limit=limit), pytest.raises(ValueError, match="limits another pool"):
        Pool(2, limit=limit)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"initial": 0}, "initial"),
        ({"min_limit": 0}, "min_limit=0"),
        ({"initial": 2, "min_limit": 3}, "initial=2: initial must be 3 or more"),
        ({"tolerance": 0.5}, "tolerance"),
        ({"initial": "3"}, "initial"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        ConcurrencyLimit(**arguments)


def test_what_is_no_limit_and_one_that_does_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match="limit=5"):
        Pool(8, limit=5)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="min_limit=10"):
        Pool(8, limit=ConcurrencyLimit(min_limit=10))


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda limit: pickle.loads(pickle.dumps(limit))])
def test_a_copy_has_its_settings_and_neither_its_pool_nor_what_it_has_found(twin_of: Any) -> None:
    limit = ConcurrencyLimit(3, min_limit=2, tolerance=2)
    with Pool(8, limit=limit), Pool(4, limit=twin_of(limit)) as pool:
        assert repr(limit) == "ConcurrencyLimit(3 at once, 2 to 8)"
        assert (pool.snapshot().limit, pool.max_workers) == (3, 4)
        assert twin_of(limit).tolerance == 2.0

"""Counted: how many tasks an order holds."""

from __future__ import annotations

from orders.tasks import task_of
from treadle import Future
from treadle.orders._counted import Counted


def test_its_length_is_what_was_counted_and_it_iterates_over_what_the_order_says() -> None:
    kept = [task_of(), task_of()]
    census = Counted(lambda: kept)
    assert not census
    census.append(None)
    census.append(None)
    assert len(census) == 2
    assert [*census] == list(census) == kept
    assert kept[0] in census
    assert Future() not in census
    census.pop()
    assert len(census) == 1


def test_setting_the_count_at_once_touches_no_task() -> None:
    kept = [task_of() for _ in range(3)]
    census = Counted(lambda: kept)
    census[:] = [None] * 3
    assert len(census) == 3
    assert list(census) == kept
    census[:] = []
    assert not census


def test_what_it_iterates_over_is_asked_for_each_time() -> None:
    kept = [task_of()]
    census = Counted(lambda: kept)
    first = list(census)
    kept.append(task_of())
    assert list(census) == kept != first
    assert kept[1] in census

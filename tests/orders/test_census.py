"""Census: how many tasks an order holds."""

from __future__ import annotations

from orders.tasks import task_of
from treadle import Future
from treadle.orders.census import Census


def test_its_length_is_what_was_counted_and_it_iterates_over_what_the_order_says() -> None:
    kept = [task_of(), task_of()]
    census = Census(lambda: kept)
    assert not census
    census.append(None)
    census.append(None)
    assert len(census) == 2
    assert [*census] == list(census) == kept
    assert kept[0] in census
    assert Future() not in census
    census.pop()
    assert len(census) == 1

"""What `Pool(order=...)` accepts."""

from __future__ import annotations

import pytest

from treadle import Future, Pool
from treadle.orders import Fifo, order_named


def test_a_name_makes_a_fresh_order_and_an_object_is_taken_as_it_is() -> None:
    assert order_named("fifo") is not order_named("fifo")
    order = Fifo()
    assert order_named(order) is order


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"order='lifo' is unknown; allowed: 'fifo', 'priority', 'fair', 'adaptive'"):
        Pool(1, order="lifo")


def test_what_is_no_order_says_what_it_lacks() -> None:
    with pytest.raises(TypeError, match=r"order=3 is no order: it lacks tasks, ready, put"):
        Pool(1, order=3)  # type: ignore[arg-type]  # that is the point


def test_a_class_is_no_order() -> None:
    with pytest.raises(TypeError, match=r"order=<class '.*Fifo'> is a class; pass an object of it, as in Fifo\(\)"):
        Pool(1, order=Fifo)  # type: ignore[arg-type]  # that is the point


def test_an_order_that_is_in_use_is_refused() -> None:
    order = Fifo()
    order.put(Future())
    with pytest.raises(ValueError, match="holds tasks already"):
        Pool(1, order=order)

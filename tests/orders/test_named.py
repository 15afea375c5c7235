"""What `Pool(order=...)` accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treadle import Future, Pool
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority, order_named


def test_a_name_makes_a_fresh_order_and_an_object_is_taken_as_it_is() -> None:
    assert order_named("fifo") is not order_named("fifo")
    order = Fifo()
    assert order_named(order) is order


class Own:
    """An order of the user's own, which holds a Fifo."""

    def __init__(self) -> None:
        self.inner = Fifo()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    __hash__ = None  # type: ignore[assignment]  # as of a class with __eq__


@pytest.mark.parametrize("make", [Adaptive, Fair, Fifo, Priority, Own])
def test_an_order_serves_one_pool_only(make: Callable[[], Order]) -> None:
    """Each pool calls it with its own lock, and the tasks of one would run on the threads of the other."""
    order = make()
    with Pool(1, order=order) as pool:
        assert pool.submit(abs, -1).result() == 1
        with pytest.raises(ValueError, match=r"order=.* serves another pool; give each pool an order of its own"):
            Pool(1, order=order)
    with Pool(1, order=make()) as pool:
        assert pool.submit(abs, -1).result() == 1


def test_an_order_is_free_for_the_next_try_when_another_argument_was_wrong() -> None:
    order = Fifo()
    with pytest.raises(TypeError, match="idle_timeout"):
        Pool(1, order=order, idle_timeout="1")  # type: ignore[arg-type]  # that is the point
    with Pool(1, order=order):
        pass


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

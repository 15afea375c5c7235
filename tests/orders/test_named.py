"""What `Pool(order=...)` accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from orders.lifo import Lifo
from treadle import Future, Pool
from treadle.orders import Adaptive, Fair, Fifo, Order, OrderName, Priority
from treadle.orders._named import order_named


def test_a_name_makes_a_fresh_order_and_an_object_is_taken_as_it_is() -> None:
    assert order_named("fifo") is not order_named("fifo")
    order = Fifo()
    assert order_named(order) is order


class Unhashable(Lifo):
    """As a class with __eq__."""

    __hash__ = None  # type: ignore[assignment]  # that is the point


@pytest.mark.parametrize("make", [Adaptive, Fair, Fifo, Lifo, Priority, Unhashable])
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
        Pool(1, order="lifo")  # type: ignore[arg-type]  # that is the point


def test_what_is_no_order_is_told_what_to_subclass() -> None:
    class Duck:
        """All methods of an order, and none."""

        tasks = ready = ()
        put = take = evict = purge = __len__ = lambda *_: 0

    for order in (3, None, Duck()):
        with pytest.raises(TypeError, match=r"order=.* and no order; pass a name, .* subclass treadle\.orders\.Order"):
            Pool(1, order=order)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("looks", "error", "words"),
    [
        (frozenset({"keys"}), ValueError, r"Lifo\.looks_at has 'keys'; allowed: 'priority' and 'key'"),
        ("key", TypeError, r"Lifo\.looks_at='key' is str; it must be a frozenset"),
    ],
)
def test_an_order_can_look_only_at_what_a_task_has(looks: Any, error: type[Exception], words: str) -> None:
    order = Lifo()
    order.looks_at = looks
    with pytest.raises(error, match=words):
        Pool(1, order=order)


def test_a_name_is_one_of_those_that_types_allow() -> None:
    for name in get_args(OrderName):
        with Pool(1, order=name) as pool:
            assert pool.submit(abs, -1).result(30) == 1


def test_a_class_is_no_order() -> None:
    with pytest.raises(TypeError, match=r"order=<class '.*Fifo'> is a class; pass an object of it, as in Fifo\(\)"):
        Pool(1, order=Fifo)  # type: ignore[arg-type]  # that is the point


def test_an_order_that_is_in_use_is_refused() -> None:
    order = Fifo()
    order.put(Future())
    with pytest.raises(ValueError, match="holds tasks already"):
        Pool(1, order=order)

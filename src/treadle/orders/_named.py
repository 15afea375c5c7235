"""What `Pool(order=...)` accepts: a name, or an order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast
from weakref import WeakValueDictionary

from treadle._words import is_a, show
from treadle.orders._adaptive import Adaptive
from treadle.orders._fair import Fair
from treadle.orders._fifo import Fifo
from treadle.orders._order import Order
from treadle.orders._priority import Priority

__all__ = ["order_named"]

_NAMED: dict[str, Callable[[], Order]] = {"fifo": Fifo, "priority": Priority, "fair": Fair, "adaptive": Adaptive}


_serving: WeakValueDictionary[int, Order] = WeakValueDictionary()  # by id: an order need not be hashable


def order_named(order: str | Order) -> Order:
    """Return the order that `order` names, or `order` itself if it is one, for a pool to have from now on.

    Two pools that shared one would run each other's tasks, and call it with two locks that know nothing of each other.

    Raises:
        ValueError: the name is unknown, or the order has a pool already, or holds tasks.
        TypeError: `order` is neither a name nor an order.
    """
    if is_a(order, str):
        if order not in _NAMED:
            names = ", ".join(map(repr, _NAMED))
            raise ValueError(f"order={show(order)} is unknown; allowed: {names}, or an order object")
        return _NAMED[order]()
    order = cast(Order, order)
    if is_a(order, type):
        raise TypeError(f"order={show(order)} is a class; pass an object of it, as in {order.__name__}()")
    missing = [name for name in ("tasks", "ready", "put", "take", "evict", "purge") if not hasattr(order, name)]
    if missing:
        raise TypeError(
            f"order={show(order)} is no order: it lacks {', '.join(missing)}; pass a name or an object like Fifo()"
        )
    if len(order.tasks):
        raise ValueError(f"order={show(order)} holds tasks already; give each pool an order of its own")
    if _serving.get(id(order)) is order:
        raise ValueError(f"order={show(order)} serves another pool; give each pool an order of its own")
    with suppress(TypeError):  # of one whose __slots__ leave out __weakref__ nothing is remembered
        _serving[id(order)] = order
    return order

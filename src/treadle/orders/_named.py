"""What `Pool(order=...)` accepts: a name, or an order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args
from weakref import WeakValueDictionary

from treadle._base.late import Late
from treadle._base.words import is_a, show, type_name
from treadle.orders._fifo import Fifo
from treadle.orders._order import Look, Order, OrderName

if TYPE_CHECKING:
    from treadle.orders import _adaptive, _fair, _priority
else:
    _adaptive, _fair = Late("treadle.orders._adaptive"), Late("treadle.orders._fair")
    _priority = Late("treadle.orders._priority")

__all__ = ["order_named"]

_NAMED: dict[str, Callable[[], Order]] = {
    "fifo": Fifo,
    "priority": lambda: _priority.Priority(),
    "fair": lambda: _fair.Fair(),
    "adaptive": lambda: _adaptive.Adaptive(),
}
_LOOKS = get_args(Look)

_serving: WeakValueDictionary[int, Order] = WeakValueDictionary()  # by id: an order need not be hashable


def order_named(order: OrderName | Order) -> Order:
    """Return the order that `order` names, or `order` itself if it is one, for a pool to have from now on.

    Two pools that shared one would run each other's tasks, and call it with two locks that know nothing of each other.

    Raises:
        ValueError: the name is unknown, or the order has a pool already, or holds tasks, or says that it looks at what
            no task has.
        TypeError: `order` is neither a name nor an order, or its `looks_at` is no set.
    """
    if is_a(order, str):
        if order not in _NAMED:
            names = ", ".join(map(repr, _NAMED))
            raise ValueError(f"order={show(order)} is unknown; allowed: {names}, or an order object")
        return _NAMED[order]()
    if is_a(order, type):
        raise TypeError(f"order={show(order)} is a class; pass an object of it, as in {order.__name__}()")
    if not is_a(order, Order):
        raise TypeError(
            f"order={show(order)} is {type_name(order)}, and no order; pass a name, or an object like Fifo(); for an "
            "order of your own subclass treadle.orders.Order"
        )
    _check_looks(order)
    if len(order):
        raise ValueError(f"order={show(order)} holds tasks already; give each pool an order of its own")
    if _serving.get(id(order)) is order:
        raise ValueError(f"order={show(order)} serves another pool; give each pool an order of its own")
    _serving[id(order)] = order
    return order


def _check_looks(order: Order) -> None:
    looks = order.looks_at
    if not is_a(looks, (frozenset, set)):
        raise TypeError(f"{type_name(order)}.looks_at={show(looks)} is {type_name(looks)}; it must be a frozenset")
    for look in looks:
        if look not in _LOOKS:
            allowed = " and ".join(map(repr, _LOOKS))
            raise ValueError(f"{type_name(order)}.looks_at has {show(look)}; allowed: {allowed}")

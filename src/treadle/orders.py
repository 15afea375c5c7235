"""The order in which waiting tasks run.

An order is an object that holds a pool's waiting tasks; a name is its shorthand. It has no lock of its own: the pool
calls it with the pool's lock held, and never calls one order from two pools.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

from treadle.futures import Future

__all__ = ["Fifo", "Order", "order_named"]

Task = Future[Any]


class Order(Protocol):
    """What a pool asks of an order. Every call is made with the pool's lock held, so none may block or call out."""

    @property
    def tasks(self) -> Collection[Task]:
        """The tasks that wait; its length is read for every task, so it should be a plain container."""

    @property
    def put(self) -> Callable[[Task], object]:
        """Add a task."""

    @property
    def take(self) -> Callable[[], Task]:
        """Remove and return the task to run next. Raises IndexError when none waits."""

    @property
    def take_oldest(self) -> Callable[[], Task]:
        """Remove and return the task that has waited longest. Raises IndexError when none waits."""

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses, leaving the others in their order."""


class Fifo:
    """First in, first out."""

    __slots__ = ("put", "take", "take_oldest", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        # The deque's own methods: at a million tasks a second a Python frame around each would show.
        self.put = self.tasks.append
        self.take = self.tasks.popleft
        self.take_oldest = self.tasks.popleft

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses."""
        kept = [task for task in self.tasks if keep(task)]
        self.tasks.clear()
        self.tasks.extend(kept)

    def __repr__(self) -> str:
        return f"Fifo({len(self.tasks)} waiting)"


_NAMED: dict[str, Callable[[], Order]] = {"fifo": Fifo}


def order_named(order: str | Order) -> Order:
    """Return the order that `order` names, or `order` itself if it is one.

    Raises:
        ValueError: the name is unknown, or the order already holds tasks.
        TypeError: `order` is neither a name nor an order.
    """
    if isinstance(order, str):
        if order not in _NAMED:
            raise ValueError(f"order={order!r} is unknown; allowed: {', '.join(map(repr, _NAMED))}, or an order object")
        return _NAMED[order]()
    missing = [name for name in ("tasks", "put", "take", "take_oldest", "purge") if not hasattr(order, name)]
    if missing:
        raise TypeError(
            f"order={order!r} is no order: it lacks {', '.join(missing)}; pass a name or an object like Fifo()"
        )
    if len(order.tasks):
        raise ValueError(f"order={order!r} holds tasks already; give each pool an order of its own")
    return order

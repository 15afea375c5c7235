"""Lifo: an order as users write them, with nothing of treadle's but what is public."""

from __future__ import annotations

from collections.abc import Callable

from treadle.orders import Order, Task

__all__ = ["Keyed", "Lifo"]


class Lifo(Order):
    """Last in, first out."""

    def __init__(self) -> None:
        self.waiting: list[Task] = []

    def put(self, task: Task) -> None:
        self.waiting.append(task)

    def take(self) -> Task:
        return self.waiting.pop()

    def evict(self, newcomer: Task) -> Task:
        return self.waiting.pop(0)

    def purge(self, keep: Callable[[Task], bool]) -> None:
        self.waiting[:] = filter(keep, self.waiting)

    def __len__(self) -> int:
        return len(self.waiting)

    def ready(self) -> bool:
        return bool(self.waiting)


class Keyed(Lifo):
    """The same, and it notes the keys of what comes."""

    looks_at = frozenset({"key"})

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[object] = []

    def put(self, task: Task) -> None:
        self.keys.append(task.key)
        super().put(task)

"""Counted: how many tasks an order holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from treadle.orders._order import Task

__all__ = ["Counted"]


class Counted(list[Any]):
    """Counts the tasks of an order that keeps them in several places, and iterates over them.

    Its length is read several times for every task, so it is a list's: `append(None)` counts one more and `pop()` one
    less, with no Python frame, and no hash of a task, in between.
    """

    __slots__ = ("_walk",)

    def __init__(self, walk: Callable[[], Iterable[Task]]) -> None:
        super().__init__()
        self._walk = walk

    def recount(self, held: Callable[[], int]) -> None:
        """Count anew what there is, of which `held` tells; a signal handler may add some meanwhile."""
        while len(self) != (length := held()):
            self[:] = [None] * length

    def __iter__(self) -> Iterator[Task]:
        return iter(self._walk())

    def __contains__(self, task: object) -> bool:
        return any(task is other for other in self._walk())

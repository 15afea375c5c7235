"""Fifo: first in, first out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from treadle.orders._order import Handles, Hands, Own, Task, put_in_place

__all__ = ["Fifo"]


class Fifo(Own):
    """First in, first out: for tasks that all matter alike, in a pool that keeps up with them."""

    _tasks: deque[Task]

    def __init__(self) -> None:
        self._tasks = self._ready = deque()

    def _handles(self) -> Handles:
        # The deque's own methods: at a million tasks a second a Python frame around each would show.
        return Handles(self._tasks, self._tasks, self._tasks.append, self._give, self._tasks)

    def put(self, task: Task, /) -> None:
        """Add a task."""
        self._tasks.append(task)

    def _give(self, hands: Hands, /) -> None:
        """Move the task that has waited longest into `hands`."""
        if self._tasks:  # since the look, a signal handler may have waited for those that take them
            hands.task = self._tasks[0]
            del self._tasks[0]

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time: before those that came after it."""
        put_in_place(self._tasks, task)

    def _victim(self, newcomer: Task) -> Task:
        return self._tasks[0]

    def _drop(self, victim: Task) -> None:
        if self._tasks and self._tasks[0] is victim:  # as in `_give`
            del self._tasks[0]

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses."""
        self._purge(self._tasks, keep)

    def __repr__(self) -> str:
        return f"Fifo({len(self._tasks)} waiting)"

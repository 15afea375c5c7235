"""Fifo: first in, first out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from treadle.orders._order import Task, put_in_place

__all__ = ["Fifo"]


class Fifo:
    """First in, first out: for tasks that all matter alike, in a pool that keeps up with them."""

    __slots__ = ("__weakref__", "put", "ready", "take", "tasks")

    def __init__(self) -> None:
        self.tasks = self.ready = deque[Task]()
        # The deque's own methods: at a million tasks a second a Python frame around each would show.
        self.put = self.tasks.append
        self.take = self.tasks.popleft

    def put_first(self, task: Task) -> None:
        """Add a task that was taken before its time: before those that came after it."""
        put_in_place(self.tasks, task)

    def evict(self, newcomer: Task) -> Task:
        """Remove and return the task that has waited longest."""
        return self.tasks.popleft()

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses."""
        kept = [task for task in self.tasks if keep(task)]
        self.tasks.clear()
        self.tasks.extend(kept)

    def __repr__(self) -> str:
        return f"Fifo({len(self.tasks)} waiting)"

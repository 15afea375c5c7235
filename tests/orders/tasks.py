"""Tasks for orders to keep, that no pool knows of."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from treadle import Future
from treadle._tasks.options import TaskOptions

__all__ = ["Hands", "task_of"]


class Hands:
    """Those of whoever takes a task."""

    task: Any = None


class LevelledTask(Future[Any]):
    """A task as a server's are."""

    __slots__ = ("level",)
    level: int


def task_of(
    *,
    priority: int = 0,
    key: Hashable = None,
    submitted: float = 0.0,
    name: str | None = None,
    level: int | None = None,
) -> Future[Any]:
    """Return a task that waits, of a level of slowness or of none."""
    task: Future[Any] = Future()
    if level is not None:
        task = slow = LevelledTask()
        slow.level = level
    task._options = TaskOptions(name, priority, key)
    task._submitted = submitted
    return task

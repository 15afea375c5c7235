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


def task_of(*, priority: int = 0, key: Hashable = None, submitted: float = 0.0, name: str | None = None) -> Future[Any]:
    """Return a task that waits."""
    task: Future[Any] = Future()
    task._options = TaskOptions(name, priority, key)
    task._submitted = submitted
    return task

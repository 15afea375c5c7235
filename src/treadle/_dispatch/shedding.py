"""Shedding: the error of a waiting task that its pool gives up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from treadle._base import clock
from treadle._tasks.future import options_of, submitted_at
from treadle.errors import Shed

if TYPE_CHECKING:
    from treadle._dispatch.state import Task

__all__ = ["shed_error"]

Reason = Literal["too_old", "discarded"]


def shed_error(pool: str, task: Task, reason: str) -> Shed:
    """Return the error that says that `task` was given up; no lock is held, for it shows the task's name and key."""
    return Shed(pool, task.name, clock.now() - submitted_at(task), cast(Reason, reason), key=options_of(task).key)

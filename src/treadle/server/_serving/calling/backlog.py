"""Backlog: how long messages wait for a thread, and which of them will wait for too long.

A protocol may say how long that may be (`queue_timeout`, see `Protocol`). Whoever would wait longer is better told so
at once than when that time is over: so when those that wait are more than can be begun with in that time, as it went
lately, the one that has waited longest is told, for in a pool whose order takes the newest first while the queue
stands it would wait for ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from treadle.orders._levels import SLOWEST

__all__ = ["Backlog"]

WEIGHT = 1 / 32  # of a message in the mean time between two that are begun with; a guess: several times the threads


class Waiting(Hashable, Protocol):
    """A task that waits for a thread."""

    level: int


W = TypeVar("W", bound=Waiting)


class Backlog(Generic[W]):
    """What waits of one event loop's messages, by their levels of slowness. The loop's lock is held.

    Args:
        timeout: seconds that a message may wait.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._levels = [_Level[W]() for _ in range(SLOWEST + 1)]

    def enter(self, task: W, now: float) -> W | None:
        """`task` waits from now on; return who is to be told that it waits for too long; None: nobody is."""
        level = self._levels[task.level]
        if not level.waiting:
            level.moved = now
        level.waiting[task] = None
        return next(iter(level.waiting)) if level.wait(now) > self.timeout else None

    def leave(self, task: W, now: float | None) -> None:
        """`task` waits no more: it has begun at `now`; None: it never will. Nothing is done if it did not wait."""
        for level in self._levels:
            if level.waiting.pop(task, self) is None and now is not None:
                level.mean += (now - level.moved - level.mean) * WEIGHT
                level.moved = now

    def wait(self, now: float) -> float:
        """Return the seconds that one more message of the level of which most wait would do so."""
        return max(self._levels, key=lambda level: len(level.waiting)).wait(now, more=1)


class _Level(Generic[W]):
    """The messages of one level.

    Attributes:
        waiting: in the order in which they came.
        mean: seconds between two that were begun with, while others waited.
        moved: when one was last, or began to wait when none did.
    """

    __slots__ = ("mean", "moved", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[W, None] = {}
        self.mean = self.moved = 0.0

    def wait(self, now: float, more: int = 0) -> float:
        """Return the seconds until all that wait, and so many more, have begun, as it went lately.

        That is at least as long as nothing has; 0 if none waits.
        """
        return max((len(self.waiting) + more) * self.mean, now - self.moved) if self.waiting else 0.0

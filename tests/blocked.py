"""Waiting until callers wait for room in a pool."""

from __future__ import annotations

import threading

from treadle import Pool

__all__ = ["until_blocked"]


def until_blocked(pool: Pool, callers: int) -> None:
    """Return when so many callers wait for room; they are counted under the lock that they take to wait."""
    tick = threading.Event()
    for _ in range(3000):
        if pool.snapshot().blocked == callers:
            return
        tick.wait(0.01)
    raise AssertionError(f"{pool.snapshot().blocked} callers wait, not {callers}")

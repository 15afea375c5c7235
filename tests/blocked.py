"""Waiting until others wait."""

from __future__ import annotations

import threading

from treadle import Pool
from treadle._dispatch import deadlock

__all__ = ["until_blocked", "until_noted"]


def until_blocked(pool: Pool, callers: int) -> None:
    """Return when so many callers wait for room; they are counted under the lock that they take to wait."""
    tick = threading.Event()
    for _ in range(3000):
        if pool.snapshot().blocked == callers:
            return
        tick.wait(0.01)
    raise AssertionError(f"{pool.snapshot().blocked} callers wait, not {callers}")


def until_noted(threads: int) -> None:
    """Return when so many threads wait where `treadle._dispatch.deadlock` sees them."""
    tick = threading.Event()
    for _ in range(3000):
        if len(deadlock._waits) == threads:
            return
        tick.wait(0.01)
    raise AssertionError(f"{len(deadlock._waits)} threads wait, not {threads}")

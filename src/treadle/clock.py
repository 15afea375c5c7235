"""Monotonic time, and the seam through which tests replace it."""

from __future__ import annotations

import time
from threading import get_ident
from time import monotonic as now
from time import monotonic_ns as now_ns
from time import sleep as pause

__all__ = ["now", "now_ns", "pause", "read_clock", "thread_clock"]


def thread_clock() -> int | None:
    """Return the clock of the processor time that this thread uses; None where the platform has none."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    return None if clock_of is None else int(clock_of(get_ident()))


def read_clock(clock: int) -> float | None:
    """Return the seconds on a thread's clock; None if the thread has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return None

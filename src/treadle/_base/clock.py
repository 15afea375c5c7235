"""Time, monotonic and the world's, and the seam through which tests replace it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import get_ident
from time import sleep as pause

from treadle._base.threads import GREENLETS, made_anew

__all__ = ["now", "now_ns", "pause", "read_clock", "thread_clock", "wall"]


# Where a test freezes time, as freezegun does, every name for a function of the module is given a fake, in all modules,
# also in those that are imported meanwhile; rates, deadlines and time-outs would stand still for ever. The functions of
# this one cost what the others do.
_time = made_anew(time)
now: Callable[[], float] = _time.monotonic
now_ns: Callable[[], int] = _time.monotonic_ns
wall: Callable[[], float] = _time.time


def thread_clock() -> int | None:
    """Return the clock of the processor time that this thread uses; None where the platform has none."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    # Greenlets have none; their numbers are no threads'.
    return None if GREENLETS or clock_of is None else int(clock_of(get_ident()))


def read_clock(clock: int) -> float | None:
    """Return the seconds on a thread's clock; None if the thread has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return None

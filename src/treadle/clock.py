"""Monotonic time, and the seam through which tests replace it."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from threading import get_ident
from time import sleep as pause
from types import BuiltinFunctionType, ModuleType

__all__ = ["now", "now_ns", "pause", "read_clock", "thread_clock"]


def _another_time() -> ModuleType:
    """Return the module `time`, made once more.

    Where a test freezes time, as freezegun does, every name for a function of the module is given a fake, in all
    modules, also in those that are imported meanwhile; rates, deadlines and time-outs would stand still for ever.
    Nobody knows the functions of this one, and they cost what the others do.
    """
    spec = find_spec("time")
    if spec is None or spec.loader is None:
        return time
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_time = _another_time()
now: Callable[[], float] = _time.monotonic
now_ns: Callable[[], int] = _time.monotonic_ns


def thread_clock() -> int | None:
    """Return the clock of the processor time that this thread uses; None where the platform has none."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    # Greenlets, which gevent and eventlet put in the place of threads, have none; their numbers are no threads'.
    real = isinstance(get_ident, BuiltinFunctionType)
    return int(clock_of(get_ident())) if real and clock_of is not None else None


def read_clock(clock: int) -> float | None:
    """Return the seconds on a thread's clock; None if the thread has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return None

"""Stopping on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(stop: Callable[[], None], wakeup_fd: int) -> Iterator[None]:
    """Call `stop` when SIGINT or SIGTERM arrives, for as long as the block lasts. Main thread only.

    Args:
        stop: must not block, for it runs between any two instructions of the main thread.
        wakeup_fd: a non-blocking socket's descriptor that the main thread's selector watches the other end of. A Python
            handler runs only between instructions; a signal that arrives just before the selector goes to sleep would
            otherwise be heard at its next time-out (PEP 475; signal.set_wakeup_fd).
    """

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    old_fd = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    old_handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)

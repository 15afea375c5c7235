"""Signals: how the main thread of a server hears of them, whichever thread the system hands them to."""

from __future__ import annotations

import selectors
import signal
import socket
from types import FrameType, TracebackType
from typing import Any

__all__ = ["CHILD", "END", "HANGUP", "LOST", "ORDERS", "Signals"]

END = 0  # what `hear` returns when nobody sent a signal, and yet it is over
LOST = -1  # what it returns when the parent process is gone
ORDERS = frozenset((signal.SIGINT, signal.SIGTERM))  # to stop
CHILD: int | None = getattr(signal, "SIGCHLD", None)
HANGUP: int | None = getattr(signal, "SIGHUP", None)
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")


class Signals:
    """Hears SIGINT, SIGTERM, SIGHUP and SIGCHLD for as long as the block lasts. For the main thread; `end` for any.

    A Python handler runs in the main thread, between instructions, so a thread that sleeps in a lock may not hear one
    that the system handed to another thread. So the interpreter writes the number of each signal to a socket
    (signal.set_wakeup_fd), and the main thread sleeps until that is readable.

    Args:
        lifeline: a descriptor that becomes readable, at its end, when the parent process is gone.
    """

    def __init__(self, lifeline: int | None = None) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reader, selectors.EVENT_READ)
        if lifeline is not None:
            self._selector.register(lifeline, selectors.EVENT_READ)
        self._before: dict[int, Any] = {}
        self._old_fd = -1
        self._left = False

    def hear(self, timeout: float | None) -> int | None:
        """Return the number of the next signal, END, LOST (once), or None when `timeout` seconds have passed."""
        try:
            ready = [key.fd for key, _ in self._selector.select(timeout)]
        except (OSError, ValueError):
            if not self._left:
                raise
            return END
        if self._reader.fileno() in ready:
            return self._reader.recv(1)[0]
        if not ready:
            return None
        self._selector.unregister(ready[0])  # it stays readable
        return LOST

    def end(self) -> None:
        """Make `hear` return END. Callable from any thread, also after the block."""
        try:
            self._writer.send(bytes([END]))
        except OSError:
            pass  # closed; or full of signals, the second of which ends it anyway

    def leave_to_parent(self) -> None:
        """Hear nothing any more, in a forked child; the parent is not to be told of the child's signals either."""
        if not self._left:
            self.__exit__(None, None, None)

    def __enter__(self) -> Signals:
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for name in NAMES:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, _ignore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._left:  # in a forked child, whose signals are its own
            return
        self._left = True
        for number, handler in self._before.items():
            # None: what stood there was not set by Python, and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_fd)
        self._selector.close()
        self._reader.close()
        self._writer.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """What counts is the byte that the interpreter has written."""

"""Signals: how the main thread of a server hears of them, whichever thread the system hands them to."""

from __future__ import annotations

import atexit
import errno
import os
import selectors
import signal
import socket
from contextlib import suppress
from threading import Lock, get_ident
from types import FrameType, TracebackType
from typing import Any, cast

from treadle._base.clock import now

__all__ = ["CHILD", "GONE", "HANGUP", "HUNG_UP", "LOST", "ORDERS", "WOKEN", "Signals", "reason"]

WOKEN = 0  # what `hear` returns after `wake`
LOST = -1  # what it returns when the parent process is gone
HUNG_UP = -2  # and when the terminal is, at which the program was started
ORDERS = frozenset((signal.SIGINT, signal.SIGTERM))  # to stop
CHILD: int | None = getattr(signal, "SIGCHLD", None)
HANGUP: int | None = getattr(signal, "SIGHUP", None)
GONE = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))  # of what is no longer ours
CAN_BLOCK = hasattr(signal, "pthread_sigmask")
IGNORABLE = {signal.SIGINT, HANGUP}
SOON = 2.0  # seconds after the end in which an order is taken for the same one, given again; a guess


class Signals:
    """Hears SIGINT, SIGTERM and SIGHUP for as long as the block lasts. For the main thread; `wake` for any.

    SIGHUP has two meanings: somebody asks a service to read its files anew; or the terminal is closed, at which the
    program was started, and nobody could stop it any more. It is the second where there was a terminal, and is none.

    SIGINT and SIGHUP that are ignored when it begins stay so: `nohup` asks for that, and shells do, for what they start
    in the background. (SIGTERM is not sent by terminals, so nobody needs to be kept from it.)

    What is heard is also let through: whoever starts a program may have blocked signals, and it inherits that. The mask
    is the calling thread's, and those that were blocked are again at the end.

    After an order, to stop, the same one may come again: service managers and people send it until the process is gone.
    It is passed over for a moment, or the process would be killed by it, though it ends in order; see `Late`.

    A Python handler runs in the main thread, between instructions, so a thread that sleeps in a lock may not hear one
    that the system handed to another thread. So the interpreter writes the number of each signal to a socket
    (signal.set_wakeup_fd), and the main thread sleeps until that is readable.

    Args:
        lifeline: a descriptor that becomes readable, at its end, when the parent process is gone.
        children: whether to hear SIGCHLD, too. It is the program's, which may ignore it to have no zombies.
    """

    def __init__(self, lifeline: int | None = None, *, children: bool = False) -> None:
        self._numbers = [signal.SIGINT, signal.SIGTERM, HANGUP, CHILD if children else None]
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reader, selectors.EVENT_READ)
        if lifeline is not None:
            self._selector.register(lifeline, selectors.EVENT_READ)
        self._before: dict[int, Any] = {}
        self._blocked: set[int] = set()  # of them, those that were
        self._old_fd = -1
        self._ordered = False
        self._terminal: bool | None = HANGUP is not None and _has_terminal()  # None: it was closed
        self._left = False  # written with the lock held
        self._lock = Lock()
        self._thread = get_ident()

    def hear(self, timeout: float | None) -> int | None:
        """Return the number of the next signal, WOKEN, LOST or HUNG_UP (once), None when `timeout` seconds have passed.

        Raises:
            OSError: somebody has closed what it waits for, behind our back (GONE).
            As the signal handlers of the program do.
        """
        try:
            ready = self._ready(timeout)
            if ready and self._reader.fileno() not in ready:
                # A signal from before the end of the lifeline is written only as that system call returns.
                ready = self._ready(0) or ready
        except (OSError, ValueError):
            if not self._left:
                raise
            return WOKEN
        if self._reader.fileno() in ready:
            number = self._reader.recv(1)[0]
            self._ordered = self._ordered or number in ORDERS
            return self._meaning_of_hangup() if number == HANGUP else number
        if not ready:
            return None
        self._selector.unregister(ready[0])  # it stays readable
        return LOST

    def _ready(self, timeout: float | None) -> list[int]:
        return [key.fd for key, _ in self._selector.select(timeout)]

    def _meaning_of_hangup(self) -> int:
        """Return HANGUP, or HUNG_UP; WOKEN for a further one, as a shell sends to its jobs when the system has."""
        if not self._terminal:
            return WOKEN if self._terminal is None else cast(int, HANGUP)
        if _has_terminal():
            return cast(int, HANGUP)
        self._terminal = None
        return HUNG_UP

    def wake(self) -> None:
        """Make `hear` return. Callable from any thread, also after the block."""
        try:
            self._writer.send(bytes([WOKEN]))
        except BlockingIOError:
            pass  # full of signals, which wake it anyway
        except OSError:  # closed; if by others, behind our back, `hear` is not told, but finds out when it is disturbed
            with self._lock:
                if not self._left and CAN_BLOCK:
                    signal.pthread_kill(self._thread, signal.SIGTERM)

    def leave_to_parent(self) -> None:
        """Hear nothing any more, in a forked child; the parent is not to be told of the child's signals either."""
        self._lock = Lock()  # another thread may have had the old one
        if not self._left:
            self.__exit__(None, None, None)

    def __enter__(self) -> Signals:
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            if number is not None and (number not in IGNORABLE or signal.getsignal(number) != signal.SIG_IGN):
                self._before[number] = signal.signal(number, _ignore)
        if CAN_BLOCK:
            self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before) & self._before.keys()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._left:  # in a forked child, whose signals are its own
            return
        with self._lock:
            self._left = True
        if self._blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)
        for number, handler in self._before.items():
            # None: what stood there was not set by Python, and cannot be put back by it.
            handler = signal.SIG_DFL if handler is None else handler
            late = self._ordered and number in ORDERS and handler in (signal.SIG_DFL, signal.default_int_handler)
            signal.signal(number, Late(handler) if late else handler)
        signal.set_wakeup_fd(self._old_fd)
        for ours in (self._selector, self._reader, self._writer):
            with suppress(OSError):  # somebody has closed it behind our back
                ours.close()


def reason(number: int) -> str:
    """Return what a log says to whoever wonders why a server stops, for what `hear` has returned."""
    if number == HUNG_UP:
        return "the terminal is closed"
    if number == LOST:
        return "the parent process is gone"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have numbers only


def _has_terminal() -> bool:
    """Return whether the process has a terminal that controls it, which lets it go when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def _ignore(number: int, frame: FrameType | None) -> None:
    """What counts is the byte that the interpreter has written."""


class Late:
    """A handler for orders that come after the end: passes over those that come soon.

    What comes later meets the handler that was there before, which would have ended the process.
    """

    def __init__(self, before: Any) -> None:
        self.before = before
        self.until = now() + SOON

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if now() >= self.until:
            signal.signal(number, self.before)
            signal.raise_signal(number)


@atexit.register
def _pass_over_to_the_end() -> None:
    """Have orders that came late ignored until the process is gone: Python lays its own handlers down before that."""
    for number in ORDERS:
        handler = signal.getsignal(number)
        if isinstance(handler, Late):
            signal.signal(number, signal.SIG_IGN if now() < handler.until else handler.before)

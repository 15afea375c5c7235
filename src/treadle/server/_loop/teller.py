"""Teller: says what is to be said, in a thread of its own, so that nobody else waits for whoever reads it.

A log handler, a stream, a function of the user's may block for as long as it likes: standard output is a pipe that
nobody reads, a terminal is held by Ctrl-S, a handler's lock is held by a thread that waits for something else. Those
who hear signals and keep deadlines must not wait for that; so they have it said here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread, current_thread

from treadle._base.threads import start_thread
from treadle._base.words import log

__all__ = ["Teller"]

_log = logging.getLogger("treadle.server")

MOST = 100  # things that wait to be said, by default; a guess


class Teller:
    """Calls what it is given, one after the other. Safe to use from any thread.

    Its thread lives only while there is something to say: a process that forks is to have no other threads.

    Args:
        most: things that wait to be said while one is not taken; what comes then is left out.

    Attributes:
        thread: that of who said something last; None: nobody did. [guarded]
    """

    def __init__(self, most: float = MOST) -> None:
        self._most = most
        self._changed = Condition()  # guards what follows
        self._waiting: deque[Callable[[], object]] = deque()
        self._busy = False  # somebody says what waits, or is about to
        self.thread: Thread | None = None  # who did so last

    def tell(self, say: Callable[[], object]) -> None:
        """Have `say` called soon. Never blocks; what it raises is logged."""
        with self._changed:
            if len(self._waiting) < self._most:
                self._waiting.append(say)
            if self._busy:
                return
            self._busy = True
        try:
            start_thread(self._say_all, "teller")
        except RuntimeError:  # no thread can be had: better unsaid than waited for
            with self._changed:
                self._waiting.clear()
                self._busy = False
            return

    def quiet(self, timeout: float) -> bool:
        """Wait until all is said and the thread has ended; False if `timeout` seconds passed first."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy, timeout):
                return False
            thread = self.thread
        if thread is not None:
            thread.join()  # it has nothing left to do
        return True

    def _say_all(self) -> None:
        with self._changed:
            self.thread = current_thread()
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                say = self._waiting.popleft()
            try:
                say()
            except BaseException as error:
                log(_log, logging.ERROR, "a failure while something was said", error=error)

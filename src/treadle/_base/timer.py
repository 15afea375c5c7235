"""Alarm: calls functions at given times, from one thread for the whole process.

For what must happen on time though nobody waits for it, such as failing a future at its deadline. The thread lives
while bells are set, and a moment longer. It runs nothing of the user's, for that may block, and every deadline of the
process would be late, or never come if the user's code waits for one: `call_out` gives that to a second thread.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from threading import TIMEOUT_MAX, Condition, Thread, get_ident

from treadle._base import clock
from treadle._base.threads import start_thread
from treadle._base.words import log, show

__all__ = ["ALARM", "CALLBACKS", "Alarm", "Bell", "call_later", "call_out"]

_log = logging.getLogger("treadle")

LINGER = 0.1  # seconds that the thread waits for another bell; a guess: starting one takes 0.1 ms
_numbers = itertools.count()

FEW = 64  # bells that are not worth tidying up


class Bell(list[float]):
    """A function that is to be called at a time.

    A list of that time and a number, so that bells are compared in C: a signal handler that sets one must not come in
    the middle of a change of the heap.
    """

    __slots__ = ("ring",)

    def __init__(self, when: float, ring: Callable[[], object]) -> None:
        super().__init__((when, next(_numbers)))
        self.ring: Callable[[], object] | None = ring  # None once it rang, or was muted

    @property
    def when(self) -> float:
        """The time, on the clock."""
        return self[0]


class Alarm:
    """Bells in the order of their times. All methods may be called from any thread, and from signal handlers."""

    def __init__(self, name: str = "treadle-alarm") -> None:
        self._name = name  # its thread's
        self._bells: list[Bell] = []  # a heap
        self._start_afresh()

    def _start_afresh(self) -> None:
        for bell in self._bells:
            bell.ring = None
        self._changed = Condition()  # its lock, which is re-entrant, guards what follows
        self._bells = []
        self._muted = 0  # bells in it that will not ring
        self._thread: Thread | None = None

    def _hold(self) -> None:
        self._changed.acquire()

    def _let_go(self) -> None:
        self._changed.release()

    def set(self, when: float, ring: Callable[[], object]) -> Bell:
        """Call `ring` when the clock says `when`, or soon after; it must not block, for it holds up all others.

        Raises:
            RuntimeError: no thread can be started.
        """
        bell = Bell(when, ring)
        with self._changed:
            heappush(self._bells, bell)
            if self._thread is None or not self._thread.is_alive():  # whatever may have ended it
                self._thread = start_thread(self._run, self._name)
            elif self._bells[0] is bell:
                self._changed.notify()
        return bell

    def mute(self, bell: Bell) -> None:
        """See that `bell` does not ring, if it has not rung. The bells that are kept are at most twice those set."""
        with self._changed:
            if bell.ring is None:
                return
            bell.ring = None
            self._muted += 1
            if self._bells and self._bells[0] is bell:
                self._changed.notify()  # the thread sleeps until it
            if self._muted > FEW and self._muted * 2 > len(self._bells):
                self._bells = [bell for bell in self._bells if bell.ring is not None]
                heapify(self._bells)
                self._muted = 0

    def ring_due(self) -> int:
        """Ring what is due, in this thread; return how many rang."""
        rang = 0
        while True:
            with self._changed:
                ring = self._take_due()
            if ring is None:
                return rang
            rang += 1
            try:
                ring()
            except BaseException as error:  # of the user's, perhaps; the others must ring nevertheless
                log(_log, logging.ERROR, "%s: %s failed", self._name, show(ring), error=error)

    def is_here(self) -> bool:
        """Whether this is its thread."""
        thread = self._thread
        return thread is not None and thread.ident == get_ident()

    def _take_due(self) -> Callable[[], object] | None:
        """Return what is to be called now; the lock is held."""
        while self._bells and (self._bells[0].ring is None or self._bells[0].when <= clock.now()):
            bell = heappop(self._bells)
            ring, bell.ring = bell.ring, None
            if ring is not None:
                return ring
            self._muted -= 1
        return None

    def _run(self) -> None:
        while True:
            self.ring_due()
            with self._changed:
                if self._bells:
                    wait = self._bells[0].when - clock.now()
                    if wait > 0 and self._bells[0].ring is not None:  # or it was muted just now
                        self._changed.wait(min(wait, TIMEOUT_MAX))
                elif not self._changed.wait(LINGER) and not self._bells:
                    self._thread = None
                    return


ALARM = Alarm()
CALLBACKS = Alarm("treadle-callbacks")  # what it rings may block; that holds up only other callbacks


def call_out(fn: Callable[..., object], *args: object) -> None:
    """Call `fn(*args)`, which is the user's, or calls what is, with no lock held; not in the alarm's own thread.

    What it raises is raised here, or logged if it is called elsewhere.
    """
    if not ALARM.is_here():
        fn(*args)
        return
    try:
        CALLBACKS.set(-inf, partial(fn, *args))
    except RuntimeError:  # can't start new thread: better late alarms than a callback that never comes
        CALLBACKS.ring_due()


def call_later(fn: Callable[[], object]) -> None:
    """Call `fn`, which is the user's or lets go of what is, soon and in another thread, for the caller holds a lock."""
    with suppress(RuntimeError):  # can't start new thread: it is called with the next
        CALLBACKS.set(-inf, fn)


if hasattr(os, "register_at_fork"):
    # The lock is held across the fork, or a bell might be caught between the heap and the note that it rang: in the
    # child it would look set, and never ring. It is the last to be taken, after those of pools, rates and scopes, as
    # their handlers come from modules above this one. What was set is the parent's, and so is the thread.
    for _alarm in (ALARM, CALLBACKS):
        os.register_at_fork(before=_alarm._hold, after_in_parent=_alarm._let_go, after_in_child=_alarm._start_afresh)

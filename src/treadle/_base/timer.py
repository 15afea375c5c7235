"""TimerThread: calls functions at given times, from one thread for the whole process.

For what must happen on time though nobody waits for it, such as failing a future at its deadline. The thread lives
while calls are due, and a moment longer. It runs nothing of the user's, for that may block, and every deadline of the
process would be late, or never come if the user's code waits for one: `run_user_code` gives that to a second thread.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from threading import TIMEOUT_MAX, Condition, Thread, current_thread, get_ident

from treadle._base import clock
from treadle._base.fork import at_fork, at_last
from treadle._base.locks import locked
from treadle._base.threads import start_thread
from treadle._base.words import log, show

__all__ = ["CALLBACKS", "TIMERS", "TimerHandle", "TimerThread", "run_later", "run_user_code"]

_log = logging.getLogger("treadle")

LINGER = 0.1  # seconds that the thread waits for another call; a guess: starting one takes 0.1 ms
_numbers = itertools.count()

FEW = 64  # cancelled handles that are not worth tidying up


class TimerHandle(list[float]):
    """A call that is due at a time. All methods may be called from any thread, and from signal handlers.

    A list of that time and a number, so that handles are compared in C: a signal handler that sets one must not come in
    the middle of a change of the heap.
    """

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: TimerThread, when: float, callback: Callable[[], object]) -> None:
        super().__init__((when, next(_numbers)))
        self._timers = timers
        self.callback: Callable[[], object] | None = callback  # None once it is called, or cancelled

    @property
    def when(self) -> float:
        """The time, on the clock."""
        return self[0]

    @property
    def is_due(self) -> bool:
        """Whether it is still to be called; in a forked child, what was due in the parent is not."""
        return self.callback is not None

    def cancel(self) -> None:
        """See that it is not called, if it was not."""
        self._timers.forget(self)


class TimerThread:
    """Calls in the order of their times. All methods may be called from any thread, and from signal handlers."""

    def __init__(self, name: str = "treadle-timers") -> None:
        self._name = name  # its thread's
        self._handles: list[TimerHandle] = []  # a heap
        self.start_afresh()

    def leave_to_parent(self) -> None:
        """In a forked child, start afresh; the calls are let go of last, for destructors are the user's."""
        callbacks = [handle.callback for handle in self._handles]
        at_last(callbacks.clear)
        self.start_afresh()

    def start_afresh(self) -> None:
        """Have no thread, and nothing that is due: in a forked child, both are the parent's."""
        for handle in self._handles:
            handle.callback = None
        self._changed = Condition()  # its lock, which is re-entrant, guards what follows
        self._handles = []
        self._cancelled = 0  # handles in it that will not be called
        self._thread: Thread | None = None
        self._starting: TimerHandle | None = None  # for which a thread is being started, that has not come up

    def hold(self) -> None:
        """Keep all other threads out, while the process forks."""
        self._changed.acquire()

    def let_go(self) -> None:
        """End `hold`."""
        self._changed.release()

    def call_at(self, when: float, callback: Callable[[], object]) -> TimerHandle:
        """Call `callback` when the clock says `when`, or soon after; it must not block, for it holds up all others.

        Raises:
            RuntimeError: no thread can be started.
        """
        handle, thread = TimerHandle(self, when, callback), None
        try:
            if locked(self._changed, self._push, handle):
                # The lock is not held, for a finalizer that sets a timer may run in it at once.
                thread = start_thread(self._run, self._name)
                locked(self._changed, self._note_start, handle, thread)
        except BaseException:  # none can be started; or Ctrl-C, and the next who comes is to start one
            locked(self._changed, self._note_start, handle, thread)
            locked(self._changed, self._notify)  # or those that come after this one would tell it nothing
            raise
        return handle

    def _push(self, handle: TimerHandle) -> bool:
        """Put it in the heap; return whether a thread is to be started for it. The lock is held."""
        heappush(self._handles, handle)
        thread = self._thread
        absent = self._starting is None and (thread is None or not thread.is_alive())  # whatever has ended it
        if absent:
            self._starting = handle
        elif self._handles[0] is handle:
            self._notify()
        return absent

    def _notify(self) -> None:
        """Have the thread look what is due; the lock is held.

        Ctrl-C may come amid it, when the thread is told and still in the list of those that are to be: it would be what
        is told in place of the thread the next time, which then slept on, and so would all that is due after that.
        """
        try:
            self._changed.notify()
        except BaseException:
            self._changed.notify()
            raise

    def _note_start(self, handle: TimerHandle, thread: Thread | None) -> None:
        """Note that the thread for `handle` was started, or cannot be; it may be called again. The lock is held."""
        if self._starting is handle:  # else it has come up, and may have ended already
            self._thread, self._starting = thread, None

    def forget(self, handle: TimerHandle) -> None:
        """See that it is not called. The handles that are kept are at most twice those that are due."""
        locked(self._changed, self._forget, handle)

    def _forget(self, handle: TimerHandle) -> None:
        if handle.callback is None:
            return
        handle.callback = None
        self._cancelled += 1
        if self._handles and self._handles[0] is handle:
            self._notify()  # the thread sleeps until it
        if self._cancelled > FEW and self._cancelled * 2 > len(self._handles):
            self._handles = [handle for handle in self._handles if handle.callback is not None]
            heapify(self._handles)
            self._cancelled = 0

    def call_due(self) -> int:
        """Call what is due, in this thread; return how many calls that were."""
        called = 0
        while True:
            callback = locked(self._changed, self._take_due)
            if callback is None:
                return called
            called += 1
            try:
                callback()
            except BaseException as error:  # of the user's, perhaps; the others must be called nevertheless
                log(_log, logging.ERROR, "%s: %s failed", self._name, show(callback), error=error)

    def is_here(self) -> bool:
        """Whether this is its thread."""
        thread = self._thread
        return thread is not None and thread.ident == get_ident()

    def _take_due(self) -> Callable[[], object] | None:
        """Return what is to be called now; the lock is held."""
        while self._handles and (self._handles[0].callback is None or self._handles[0].when <= clock.now()):
            handle = heappop(self._handles)
            callback, handle.callback = handle.callback, None
            if callback is not None:
                return callback
            self._cancelled -= 1
        return None

    def _begin(self) -> bool:
        """Note that this is the thread; False if there is another one, for its start was interrupted."""
        here, thread = current_thread(), self._thread
        if thread is not None and thread is not here and thread.is_alive():
            return False
        self._thread, self._starting = here, None
        return True

    def _run(self) -> None:
        if not locked(self._changed, self._begin):
            return
        while True:
            self.call_due()
            with self._changed:
                if self._handles:
                    wait = self._handles[0].when - clock.now()
                    if wait > 0 and self._handles[0].callback is not None:  # or it was cancelled just now
                        self._changed.wait(min(wait, TIMEOUT_MAX))
                elif not self._changed.wait(LINGER) and not self._handles:
                    self._thread = None
                    return


TIMERS = TimerThread()
CALLBACKS = TimerThread("treadle-callbacks")  # what it calls may block; that holds up only other callbacks


def run_user_code(fn: Callable[..., object], *args: object) -> None:
    """Call `fn(*args)`, which is the user's, or calls what is, with no lock held; not in the timers' own thread.

    What it raises is raised here, or logged if it is called elsewhere.
    """
    if not TIMERS.is_here():
        fn(*args)
        return
    try:
        CALLBACKS.call_at(-inf, partial(fn, *args))
    except RuntimeError:  # can't start new thread: better late timers than a callback that never comes
        CALLBACKS.call_due()


def run_later(fn: Callable[[], object]) -> None:
    """Call `fn`, which is the user's or lets go of what is, soon and in another thread, for the caller holds a lock."""
    with suppress(RuntimeError):  # can't start new thread: it is called with the next
        CALLBACKS.call_at(-inf, fn)


# The locks are held across a fork, or a handle might be caught between the heap and the note that it was called: in the
# child it would look due, and never be called. What was due is the parent's, and so is the thread.
at_fork("timers", TIMERS.hold, TIMERS.let_go, TIMERS.leave_to_parent)
at_fork("callbacks", CALLBACKS.hold, CALLBACKS.let_go, CALLBACKS.leave_to_parent)

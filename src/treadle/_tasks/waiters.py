"""What few futures have: somebody who waits, a number, an exception that nobody has seen, a scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, _base
from threading import Condition, RLock, get_ident
from typing import TYPE_CHECKING, Any, cast

from treadle._base.locks import locked
from treadle._base.timer import TIMERS, run_user_code
from treadle._base.words import log, show

if TYPE_CHECKING:
    from _thread import LockType

    from treadle._tasks.scope import Scope
    from treadle._tasks.unretrieved import Unretrieved

__all__ = ["ColdFields", "InternalCallback", "Waiters", "run_callbacks", "why_dropped"]

_standard_log = logging.getLogger("concurrent.futures")


class InternalCallback:
    """A callback of treadle's own, which neither blocks nor calls what is the user's: the timers may call it.

    It is called again if Ctrl-C, or what kills a thread, may have come before it had taken note.
    """

    __slots__ = ("note",)

    def __init__(self, note: Callable[[Any], object]) -> None:
        self.note = note

    def __call__(self, future: Future[Any]) -> None:
        """Take note of `future`, which is done."""
        self.note(future)


class Waiters:
    """Who waits for one future; made when the first of them comes. Guarded as the future's state is.

    Once the future is done nobody is added any more: those who would see, under the lock, that it is. Two threads may
    tell them then, and the work of one that was interrupted can be ended by another call.
    """

    __slots__ = ("callbacks", "condition", "latches", "taken", "taker", "waiters")

    def __init__(self) -> None:
        self.latches: list[LockType] = []
        self.callbacks: list[Callable[[Any], object]] = []
        self.waiters: list[Any] = []  # the standard library's
        self.condition: Condition | None = None
        self.taken: Callable[[Any], object] | None = None  # the callback that is about to be run,
        self.taker = 0  # by this thread

    def notify(self, future: Future[Any], *, failed: bool, again: bool = False) -> None:
        """Tell the standard library's waiters of the new state of `future`; the condition is held.

        Args:
            future: the future.
            failed: whether it ended with an exception.
            again: whether some may have been told, for an exception came meanwhile.
        """
        cast(Condition, self.condition).notify_all()
        for waiter in self.waiters:
            if again and future in waiter.finished_futures:
                continue
            if future._state == _base.CANCELLED_AND_NOTIFIED:  # and not when its maker has yet to take note
                waiter.add_cancelled(future)
            elif future._state == _base.FINISHED:
                (waiter.add_exception if failed else waiter.add_result)(future)

    def tell(self, future: Future[Any], lock: RLock) -> None:
        """Open the latches and run the callbacks of `future`, which is done; its `lock` is not held.

        The timers' thread runs none that is the user's: another one does.
        """
        for latch in list(self.latches):
            try:
                latch.release()
            except RuntimeError:  # somebody else was faster
                pass
        self.latches.clear()
        if not self.callbacks and self.taken is None:
            return
        fatal: BaseException | None = None
        elsewhere = TIMERS.is_here()
        try:
            while locked(lock, self._take_next):
                # No exception comes between these lines: what is taken is run.
                callback, self.taken = self.taken, None
                try:
                    if elsewhere and type(callback) is not InternalCallback:
                        run_user_code(run_callbacks, future, [callback])
                    else:
                        cast("Callable[[Any], object]", callback)(future)
                except Exception as error:
                    _log_failure(future, error)
                except BaseException as error:
                    fatal = error
                    if type(callback) is InternalCallback:
                        callback(future)
            if fatal is not None:
                raise fatal
        finally:
            fatal = None  # its traceback holds this frame: no cycle

    def _take_next(self) -> bool:
        """Take the next callback, to be run by this thread; False if there is none, or another one runs them."""
        here = get_ident()
        if self.taken is not None:
            return self.taker == here
        if not self.callbacks:
            return False
        self.taker = here
        self.taken = self.callbacks[0]
        del self.callbacks[0]
        return True


def run_callbacks(future: Future[Any], callbacks: Iterable[Callable[[Any], object]]) -> None:
    """Run every callback, whatever the one before it raised."""
    fatal: BaseException | None = None
    for callback in callbacks:
        try:
            callback(future)
        except Exception as error:
            _log_failure(future, error)
        except BaseException as error:
            fatal = error
    try:
        if fatal is not None:
            raise fatal
    finally:
        fatal = None  # as above


def _log_failure(future: Future[Any], error: Exception) -> None:
    log(_standard_log, logging.ERROR, "exception calling callback for %s", show(future), error=error)


class ColdFields:
    """What observers were told, an exception that nobody has asked for, and what a task asks whether it should stop."""

    __slots__ = ("began", "dropped", "ended", "left", "scope", "serial", "settled", "submitted", "unretrieved")

    # Unset until observers are told of it: monotonic nanoseconds.
    submitted: int
    began: int | None

    def __init__(self) -> None:
        self.serial = 0  # its number for observers; 0 until they are told of it
        self.ended = False  # whether observers were told of its end
        self.dropped: BaseException | None = None  # why its pool cancelled it
        self.unretrieved: Unretrieved | None = None
        self.scope: Scope | None = None
        self.left = False  # whether others settle it, and not who runs it
        self.settled: Future[Any] | None = None  # what it was settled with by hand, while its pool ran it

    def end(self) -> bool:
        """Note that observers are told of its end; return whether they were before. The lock is held."""
        ended = self.ended
        self.ended = True
        return ended


def why_dropped(future: object) -> BaseException | None:
    """Return why its pool has cancelled a future; None if somebody else has, or it was not cancelled."""
    cold: ColdFields | None = getattr(future, "_cold", None)
    return None if cold is None else cold.dropped

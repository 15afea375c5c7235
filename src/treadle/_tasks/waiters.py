"""What few futures have: somebody who waits, a number, an exception that nobody has seen, a scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import _base
from contextlib import contextmanager, suppress
from threading import Condition
from typing import TYPE_CHECKING, Any, TypeVar, cast

from treadle._base.timer import TIMERS, run_user_code
from treadle._base.words import log, show

if TYPE_CHECKING:
    from _thread import LockType

    from treadle._tasks.call import Unretrieved
    from treadle._tasks.future import Future
    from treadle._tasks.scope import Scope

__all__ = ["ColdFields", "InternalCallback", "Waiters", "changing", "run_callbacks", "why_dropped"]

T = TypeVar("T")

_standard_log = logging.getLogger("concurrent.futures")


class InternalCallback:
    """A callback of treadle's own, which neither blocks nor calls what is the user's: the timers may call it."""

    __slots__ = ("note",)

    def __init__(self, note: Callable[[Future[Any]], object]) -> None:
        self.note = note

    def __call__(self, future: Future[Any]) -> None:
        """Take note of `future`, which is done."""
        self.note(future)


class Waiters:
    """Who waits for one future; made when the first of them comes. Guarded as the future's state is."""

    __slots__ = ("callbacks", "condition", "gates", "waiters")

    def __init__(self) -> None:
        self.gates: list[LockType] = []
        self.callbacks: list[Callable[[Any], object]] = []
        self.waiters: list[Any] = []
        self.condition: Condition | None = None

    def notify(self, future: Future[Any]) -> None:
        """Tell the standard library's waiters of a new state; the condition is held."""
        cast(Condition, self.condition).notify_all()
        for waiter in self.waiters:
            if future._state == _base.CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(future)
            elif future._state == _base.FINISHED:
                (waiter.add_result if future._final()._exception is None else waiter.add_exception)(future)

    def tell(self, future: Future[Any]) -> None:
        """Open the gates and run the callbacks of `future`, which is done; no lock is held. The timers only see to it.

        Nobody adds to either list any more: those who would see, under the lock, that the future is done. Each entry is
        taken out as it is served, so two threads may be in here, and the work of one that is killed can be ended by
        another call.
        """
        for gate in _taken_from(self.gates, -1):
            gate.release()
        if self.callbacks and TIMERS.is_here():
            self._tell_elsewhere(future)
        elif self.callbacks:
            run_callbacks(future, _taken_from(self.callbacks, 0))

    def _tell_elsewhere(self, future: Future[Any]) -> None:
        """Have the user's callbacks run in another thread, for this one must not be held up."""
        users = []
        for callback in _taken_from(self.callbacks, 0):
            if isinstance(callback, InternalCallback):
                callback(future)
            else:
                users.append(callback)
        if users:
            run_user_code(run_callbacks, future, users)


@contextmanager
def changing(future: Future[Any]) -> Iterator[None]:
    """Hold what guards the state of `future`, and tell those who wait through the condition before it is let go."""
    lock = future._owner.lock
    with lock:
        condition = None if future._awaited_by is None else future._awaited_by.condition
        if condition is None:
            yield
            return
    with condition:
        with lock:
            before = future._state
            yield
        if future._state != before:
            cast(Waiters, future._awaited_by).notify(future)


def _taken_from(entries: list[T], place: int) -> Iterator[T]:
    """Take the entries out one by one; whoever takes one, nobody else does."""
    with suppress(IndexError):
        while True:
            yield entries.pop(place)


def run_callbacks(future: Future[Any], callbacks: Iterable[Callable[[Any], object]]) -> None:
    """Run every callback, whatever the one before it raised."""
    fatal: BaseException | None = None
    for callback in callbacks:
        try:
            callback(future)
        except Exception as error:
            log(_standard_log, logging.ERROR, "exception calling callback for %s", show(future), error=error)
        except BaseException as error:
            fatal = error
    if fatal is not None:
        raise fatal


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


def why_dropped(future: object) -> BaseException | None:
    """Return why its pool has cancelled a future; None if somebody else has, or it was not cancelled."""
    cold: ColdFields | None = getattr(future, "_cold", None)
    return None if cold is None else cold.dropped

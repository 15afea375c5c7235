"""Outcome: what came of one call, as a value that can be looked at, and is not raised."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from treadle._tasks.waiters import why_dropped

__all__ = ["Outcome", "outcome_of"]

I = TypeVar("I")  # noqa: E741  # of an item
I_co = TypeVar("I_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)  # no slots: on Python 3.11 `Outcome[str, int](...)` fails with them
class Outcome(Generic[I_co, T_co]):
    """What came of one call: it has succeeded if `error` is None.

    Attributes:
        item: what it is the outcome of: for `Pool.outcomes` the item, for a `TaskGroup` the future of the task.
        value: what the function returned, be that None or an exception; None if there is an `error`.
        error: what the function raised, or why it was not called; None if it returned.
    """

    item: I_co
    value: T_co | None
    error: BaseException | None

    def result(self) -> T_co:
        """Return the value; raise the error if there is one."""
        if self.error is None:
            return cast("T_co", self.value)
        try:
            raise self.error
        finally:
            del self  # the traceback holds this frame: no cycle through it


def outcome_of(item: I, future: Future[Any]) -> Outcome[I, Any]:
    """Return what came of a future that is done."""
    if future.cancelled():
        return Outcome(item, None, why_dropped(future) or CancelledError())
    error = future.exception()
    return Outcome(item, future.result() if error is None else None, error)

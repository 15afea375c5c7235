"""Observers: whether they can be told all that there is to tell, and how they are told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from treadle._base import checks
from treadle._base.words import log_first, show, type_name
from treadle.events import Observer, TaskEvent

__all__ = ["ENDS", "observers_in", "observers_like", "tell"]

ENDS = ("finished", "cancelled", "rejected", "shed")  # of which each task has exactly one
T = TypeVar("T")
TOLD = ("submitted", "started", *ENDS)  # the methods of an Observer

_log = logging.getLogger("treadle")


def observers_in(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Return `observers`, which can be told all that there is to tell.

    Raises:
        TypeError: they are not iterable, or one of them is no Observer, and nothing like it, or has methods that are
            async, generators, or take other arguments.
    """
    return observers_like(observers, TOLD, "treadle.events.Observer")


def observers_like(observers: Iterable[T], told: Sequence[str], kind: str) -> tuple[T, ...]:
    """Return `observers`, which have the methods that are `told`, as those of `kind` do; raise as `observers_in`."""
    found = checks.several("observers", observers, "an iterable of Observers, as in [MyObserver()]")
    for observer in found:
        if issubclass(type(observer), type):
            example = f"{cast(type, observer).__name__}()"
            raise TypeError(f"observers holds {show(observer)}, a class; pass an object of it, as in {example}")
        methods = {what: _method(observer, what) for what in told}
        missing = [what for what, method in methods.items() if method is None]
        if missing:
            raise TypeError(
                f"observers holds {show(observer)}, which is no observer: it lacks {', '.join(missing)}; "
                f"make it a subclass of {kind}"
            )
        for what, method in methods.items():
            instead = f"{what}(self, event), as of {kind}"
            checks.handler(f"{type_name(observer)}.{what}", method, "event", instead=instead)
    return found


def _method(observer: object, name: str) -> Any:
    """Return a method of `observer`; None if it has none of that name."""
    try:
        method = getattr(observer, name, None)
        return method if callable(method) else None
    except Exception:
        return None


def tell(observers: Sequence[Observer], what: str, event: TaskEvent, told: dict[object, object]) -> None:
    """Call the method `what` of every observer with `event`, whatever the one before it raised, which is logged.

    Of one method of one observer it is logged once in a pool, which has `told`; then at DEBUG level.
    """
    fatal: BaseException | None = None
    for observer in observers:
        try:
            getattr(observer, what)(event)
        except Exception as error:
            message = "observer %s failed in %s of task %s; further failures there are logged at DEBUG level"
            key = what, id(observer)
            log_first(told, key, _log, logging.ERROR, message, show(observer), what, event.name, error=error)
        except BaseException as error:  # it ends the thread, once the others were told
            fatal = error
    try:
        if fatal is not None:
            raise fatal
    finally:
        fatal = None  # its traceback holds this frame: no cycle

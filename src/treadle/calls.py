"""Calls: what a task is called in logs, in what it runs, and what becomes of an exception that nobody asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Bare", "Unseen", "name_of"]

_log = logging.getLogger("treadle")


def name_of(fn: object) -> str:
    """Return the name by which logs and snapshots call a task that runs `fn`."""
    target = getattr(fn, "func", fn)  # functools.partial
    return str(getattr(target, "__qualname__", type(target).__name__))


class Bare:
    """Runs a call in no context of its own; what a task has instead of a Context in a pool without contexts."""

    @staticmethod
    def run(fn: Callable[..., Any], *args: Any) -> Any:
        """Return `fn(*args)`."""
        return fn(*args)

    def copy(self) -> Bare:
        """Return what the next call is to run in."""
        return self


class Unseen:
    """Logs an exception, once, if its future vanishes before anybody asked for it."""

    __slots__ = ("error", "name")

    def __init__(self, name: str, error: BaseException) -> None:
        self.name = name
        self.error: BaseException | None = error

    def __del__(self) -> None:
        error = self.error
        if error is not None:
            _log.error(
                "task %s failed, and nobody asked for its result",
                self.name,
                exc_info=(type(error), error, error.__traceback__),
            )

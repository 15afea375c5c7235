"""A lock of a pool that lets something happen just before it is taken, or just after it was let go."""

from __future__ import annotations

from collections.abc import Callable

from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["ScriptedLock", "nothing"]


def nothing() -> None:
    """Let it pass."""


class ScriptedLock:
    """Takes the place of the lock of `dispatcher`, for workers that are to come; `submit` takes the old one."""

    def __init__(
        self, dispatcher: Dispatcher, *, before: Callable[[], object] = nothing, after: Callable[[], object] = nothing
    ) -> None:
        self.lock, self.before, self.after = dispatcher.lock, before, after
        self._is_owned = self.lock._is_owned  # type: ignore[attr-defined]  # threading.Condition relies on it too
        dispatcher.lock = self  # type: ignore[assignment]  # it behaves like one

    def acquire(self) -> bool:
        """Do what is to be done, and take it."""
        self.before()
        return self.lock.acquire()

    def release(self) -> None:
        """Let it go, and do what is to be done."""
        self.lock.release()
        self.after()

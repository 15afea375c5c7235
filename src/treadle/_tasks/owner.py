"""Owner: what a future needs of whoever runs it; a pool's dispatcher, or nobody."""

from __future__ import annotations

from collections.abc import Container
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from treadle._tasks.scope import current

if TYPE_CHECKING:
    from treadle._tasks.future import Future

__all__ = ["Owner", "Unowned"]


class Owner(Protocol):
    """What a future needs of whoever runs it."""

    lock: RLock

    @property
    def told(self) -> dict[object, object]:
        """What was logged of its tasks, see `treadle._base.words.log_first`."""

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Block until `future` is done; False when `timeout` seconds passed first."""

    def withdraw(self, future: Future[Any]) -> bool:
        """Note, under the lock, that a pending future will not be run. True: nobody else must be told of it."""

    def claim(self, future: Future[Any]) -> bool:
        """Set a future that has not begun to running, for the caller to run; False when it is too late."""

    def run_here(self, future: Future[Any]) -> None:
        """Run a claimed future in this thread."""

    def notify_observers(self, what: str, task: Future[Any], error: BaseException | None = None, /) -> None:
        """Tell observers, if there are any, what happened to `task`."""

    def never_began(self, future: Future[Any], error: BaseException) -> None:
        """Count, and tell of, a claimed task that fails before it begins; whoever claimed it counts it as failed."""

    def resume(self, future: Future[Any]) -> None:
        """Put a task back in the queue that waited outside it."""

    def never_runs(self, task: Future[Any], stuck: Container[object], running: Container[object]) -> bool:
        """Whether `task`, which waits, could never be run, if the workers in `stuck`, with `running`, never went on."""


class Unowned:
    """The home of a future that was made by hand, in no pool."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = RLock()

    @property
    def told(self) -> dict[object, object]:
        """Nothing, since no task is run here."""
        return {}

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Block through the condition, as the standard library does: who writes `_state` by hand notifies only that."""
        condition, scope = future._condition, current()
        if scope is None:
            with condition:
                return condition.wait_for(future.done, timeout)

        def wake() -> None:
            with condition:
                condition.notify_all()

        with scope.waking(wake), condition:
            condition.wait_for(lambda: future.done() or scope.over(), scope.left(timeout))
            return future.done()

    def withdraw(self, future: Future[Any]) -> bool:
        """Return False: its maker is to be told."""
        return False

    def claim(self, future: Future[Any]) -> bool:
        """Return False: its maker runs it."""
        return False

    def run_here(self, future: Future[Any]) -> None:
        """Never called, since nothing can be claimed."""
        raise AssertionError("a future made by hand is run by whoever made it")

    def notify_observers(self, what: str, task: Future[Any], error: BaseException | None = None, /) -> None:
        """Tell nobody."""

    def never_began(self, future: Future[Any], error: BaseException) -> None:
        """Never called, since nothing can be claimed."""

    def resume(self, future: Future[Any]) -> None:
        """Never called, since there is no queue."""

    def never_runs(self, task: Future[Any], stuck: Container[object], running: Container[object]) -> bool:
        """Return False: nobody knows who settles it."""
        return False

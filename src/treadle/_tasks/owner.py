"""Owner: what a future needs of whoever runs it; a pool's dispatcher, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Container
from concurrent.futures import Future as AnyFuture
from concurrent.futures._base import CANCELLED
from threading import RLock
from typing import Any, Protocol, TypeVar

from treadle._base.locks import locked
from treadle._tasks.scope import current

__all__ = ["Owner", "Unowned"]

F = TypeVar("F", contravariant=True)


class Owner(Protocol[F]):
    """What a future, of the type F, needs of whoever runs it."""

    lock: RLock
    cancelled_state: str  # of its futures that are cancelled: whether nobody else is to take note of that

    @property
    def name(self) -> str:
        """What errors call the pool."""

    @property
    def pool(self) -> Callable[[], Any] | None:
        """What returns the user's handle of the pool, or None; None: no user has one."""

    @property
    def told(self) -> dict[object, object]:
        """What was logged of its tasks, see `treadle._base.words.log_first`."""

    def wait(self, future: F, timeout: float | None) -> bool:
        """Block until `future` is done; False when `timeout` seconds passed first."""

    def withdraw(self, future: F, state: str) -> None:
        """Give a pending future another state, for it will not be run; what guards the state is held."""

    def withdrawn(self, future: F) -> None:
        """Do what follows from that; nothing is held."""

    def run_instead(self, future: F, say: Callable[[], object] | None = None) -> bool:
        """Run a future in this thread, which would wait for it, if it has not begun; `say` so before."""

    def notify_observers(self, what: str, task: F, error: BaseException | None = None, /) -> None:
        """Tell observers, if there are any, what happened to `task`."""

    def never_began(self, future: F, error: BaseException) -> None:
        """Count, and tell of, a claimed task that fails before it begins; whoever claimed it counts it as failed."""

    def resume(self, future: F) -> None:
        """Put a task back in the queue that waited outside it."""

    def never_runs(self, task: F, stuck: Container[object], running: Container[object]) -> bool:
        """Whether `task`, which waits, could never be run, if the workers in `stuck`, with `running`, never went on."""


class Unowned:
    """The owner of a future that was made by hand, in no pool."""

    __slots__ = ("lock",)
    cancelled_state = CANCELLED
    name = ""
    pool = None

    def __init__(self) -> None:
        self.lock = RLock()

    @property
    def told(self) -> dict[object, object]:
        """Nothing, since no task is run here."""
        return {}

    def wait(self, future: AnyFuture[Any], timeout: float | None) -> bool:
        """Block through the condition, as the standard library does: who writes `_state` by hand notifies only that."""
        condition, scope = future._condition, current()
        if scope is None:
            return locked(condition, condition.wait_for, future.done, timeout)
        with scope.waking(lambda: locked(condition, condition.notify_all)):
            locked(condition, condition.wait_for, lambda: future.done() or scope.over(), scope.left(timeout))
        return future.done()

    def withdraw(self, future: AnyFuture[Any], state: str) -> None:
        """Set the state."""
        future._state = state

    def withdrawn(self, future: AnyFuture[Any]) -> None:
        """Do nothing."""

    def run_instead(self, future: AnyFuture[Any], say: Callable[[], object] | None = None) -> bool:
        """Return False: its maker runs it."""
        return False

    def notify_observers(self, what: str, task: AnyFuture[Any], error: BaseException | None = None, /) -> None:
        """Tell nobody."""

    def never_began(self, future: AnyFuture[Any], error: BaseException) -> None:
        """Never called, since nothing can be claimed."""

    def resume(self, future: AnyFuture[Any]) -> None:
        """Never called, since there is no queue."""

    def never_runs(self, task: AnyFuture[Any], stuck: Container[object], running: Container[object]) -> bool:
        """Return False: nobody knows who settles it."""
        return False

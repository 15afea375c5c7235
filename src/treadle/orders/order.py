"""Order: what a pool asks of the object that holds its waiting tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sized
from typing import Any, Protocol

from treadle.futures import Future

__all__ = ["Order", "Task"]

Task = Future[Any]


class Order(Protocol):
    """Holds a pool's waiting tasks, and says which is next.

    It has no lock of its own: every call is made with the pool's lock held, so none may block or call out, and an order
    serves one pool only. Tasks that were cancelled or run elsewhere stay in it until they are taken or purged.

    An order may have more:

    - `put_again(task)` adds a task that was taken and is to go on later.
    - `stale()` returns the tasks that are to be shed now, taken out. It is asked before each `take`, and while
      `standing` is true before each `put` too.
    - `full(task, beside)` says whether the order itself has no room for `task`, when `beside` tasks with its key wait
      for their rate.
    - `holds(task)` says whether it would hold back `task` though a thread were free; and `holders(task)` returns the
      tasks, among those taken, of which one has to end before it lets `task` be taken.
    - `ended(task)` is told of each task that was taken, once it has run or was put back.
    - `threads` is set to the pool's ceiling on threads.
    """

    @property
    def tasks(self) -> Collection[Task]:
        """The tasks that wait; its length is read for every task, so it should be a plain container."""

    @property
    def ready(self) -> Sized:
        """True as long as there is a task that may be taken: `tasks` itself, unless some are held back."""

    @property
    def put(self) -> Callable[[Task], object]:
        """Add a task."""

    @property
    def take(self) -> Callable[[], Task]:
        """Remove and return the task to run next. Called only while `ready` is true."""

    @property
    def evict(self) -> Callable[[Task], Task]:
        """Remove and return the task to give up for a newcomer. Raises IndexError when there is none."""

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses, leaving the others in their order."""

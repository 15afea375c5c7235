"""Order: what a pool asks of the object that holds its waiting tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sized
from typing import Any, Protocol

from treadle._futures import Future

__all__ = ["Order", "Task", "put_in_place"]

Task = Future[Any]


class Order(Protocol):
    """Holds a pool's waiting tasks, and says which is next.

    It has no lock of its own: every call is made with the pool's lock held, so none may block or call out, and an order
    serves one pool only. Tasks that were cancelled or run elsewhere stay in it until they are taken or purged.

    An order may have more:

    - `put_again(task)` adds a task that was taken and is to go on later.
    - `put_first(task)` adds one that was taken and could not begin, for its rate did not let it, and may now: it has
      waited for its turn already. Without it such a task is put like a new one, and waits a second time.
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


def put_in_place(tasks: deque[Task], task: Task) -> None:
    """Put a task that was taken before its time back among others in the order of their submission.

    It is one of the oldest: only a few may come before it, which were taken before it and put back likewise. Where the
    clock is too coarse to tell, those are known by their rate.
    """
    place, time = 0, task._submitted
    for other in tasks:
        tied = other._submitted == time and getattr(other, "_rate", None) is not None
        if not tied and other._submitted >= time:
            break
        place += 1
    tasks.insert(place, task)

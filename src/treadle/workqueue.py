"""WorkQueue: the tasks that wait in a pool, as strangers see them who look into a ThreadPoolExecutor.

Metrics ask for `qsize()`, back-pressure of one's own too; and there are shutdowns that empty the queue themselves, as
the standard library taught before it had `cancel_futures`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle import clock
from treadle.passage import bare_call, hand_over

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher, Task
    from treadle.pool import Pool

__all__ = ["WorkItem", "WorkQueue"]


class WorkItem(NamedTuple):
    """A call that was taken out of a pool: it can be made elsewhere, with a future of that place."""

    future: Task  # is cancelled, so nobody waits for what nobody runs
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def task(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The call, as the standard library's items have it since Python 3.14."""
        return self.fn, self.args, self.kwargs


class WorkQueue:
    """The waiting tasks of a pool, with the methods of a `queue.SimpleQueue`. All may be called from any thread."""

    __slots__ = ("_dispatcher", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._dispatcher: Dispatcher = pool._dispatcher

    def qsize(self) -> int:
        """Return how many tasks wait."""
        with self._dispatcher.lock:
            return self._dispatcher.waiting()

    def empty(self) -> bool:
        """Return whether no task waits."""
        return self.qsize() == 0

    def get(self, block: bool = True, timeout: float | None = None) -> WorkItem | None:
        """Take the task out whose turn is next. Its future is cancelled.

        Args:
            block: whether to wait for one, if there is none. The pool's threads come for it, too.
            timeout: seconds to wait, none left if negative; None: as long as it takes.

        Returns:
            The call; None where it would wait without end, for the pool is closed.

        Raises:
            queue.Empty: there was none, in time; or the pool is closed, and there is none.
        """
        deadline = None if timeout is None else clock.now() + timeout
        while True:
            with self._dispatcher.lock:
                task = self._dispatcher.take_out()
                closed = self._dispatcher.closed is not None
            if task is not None:
                item = WorkItem(task, *_call_of(task))
                self._dispatcher.announce("cancelled", task)
                task._abandon(None)
                return item
            if closed and block and deadline is None:
                return None
            left = None if deadline is None else deadline - clock.now()
            if closed or not block or (left is not None and left <= 0):
                raise Empty
            self._dispatcher.admission.wait_for_task(left)

    def get_nowait(self) -> WorkItem | None:
        """As `get`, without waiting."""
        return self.get(block=False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Submit the call of an item that has a future, as those of the standard library; None does nothing.

        There it wakes a thread that is to end. As with the standard library's, the arguments but the first are without
        effect: whether it waits for room is the pool's `when_full`.

        Raises:
            As `Pool.submit`.
        """
        hand_over(self._pool, item)

    def put_nowait(self, item: Any) -> None:
        """As `put`."""
        hand_over(self._pool, item)

    def __repr__(self) -> str:
        return f"<WorkQueue of {self._pool!r}>"


def _call_of(task: Task) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return function, arguments and keywords of a task that has not begun."""
    fn, args = bare_call(task._fn, task._args)
    # As Submitter.submit binds keywords. One of the user's own that looks like it makes the same call.
    if type(fn) is partial and fn.keywords and not fn.args:
        return fn.func, args, fn.keywords
    return fn, args, {}

"""WorkQueue: the tasks that wait in a pool, as strangers see them who look into a ThreadPoolExecutor.

Metrics ask for `qsize()`, back-pressure of one's own too; there are shutdowns that empty the queue themselves, as the
standard library taught before it had `cancel_futures`; and there are callers that help, by running what they find.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, cast

from treadle._base import checks, clock
from treadle._base.locks import defer, locked
from treadle._base.timer import run_later
from treadle._pool.passage import bare_call, hand_over
from treadle._tasks.future import InternalTask, call_of, owner_of

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher, Task
    from treadle._pool.passage import Way

__all__ = ["WorkItem", "WorkQueue"]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class WorkItem:
    """A task that was taken out of its pool, and still waits, for whoever has this.

    It can be run here, put back, or settled through its future. It is cancelled when nobody has this any more, so that
    nobody waits for what nobody runs. And what begins elsewhere meanwhile, for a worker that waits for it, begins once.
    """

    future: Task
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    _token: object = field(repr=False)  # by which its pool knows that it is out

    @property
    def task(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The call, as the standard library's items have it since Python 3.14."""
        return self.fn, self.args, self.kwargs

    def run(self, context: object = None) -> None:
        """Run the task in this thread, unless it was cancelled.

        Args:
            context: what the standard library gives since Python 3.14: a thread's, of which a pool has none.

        Raises:
            RuntimeError: it has begun already, or is done.
        """
        _run(self.future)

    def bring_back(self, dispatcher: Dispatcher) -> bool:
        """Put the task back into its pool, which has that `dispatcher`; as `Dispatcher.bring_back`."""
        return dispatcher.bring_back(self.future, self._token)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():
            dispatcher = cast("Dispatcher", owner_of(self.future))
            if dispatcher.queue.out.get(self.future) is self._token:
                defer(partial(run_later, self.future.cancel))  # for callbacks, which are the user's, may not run here


class WorkQueue:
    """The waiting tasks of a pool, with the methods of a `queue.SimpleQueue`. All may be called from any thread."""

    __slots__ = ("_dispatcher", "_way")

    def __init__(self, way: Way) -> None:
        self._way = way
        self._dispatcher = way.dispatcher

    def qsize(self) -> int:
        """Return how many tasks wait."""
        return locked(self._dispatcher.lock, self._dispatcher.queue.waiting)

    def empty(self) -> bool:
        """Return whether no task waits."""
        return self.qsize() == 0

    def get(self, block: bool = True, timeout: float | None = None) -> WorkItem | None:
        """Take the task out whose turn is next. It still waits, and ends as whoever has it decides: see `WorkItem`.

        Args:
            block: whether to wait for one, if there is none. The pool's threads come for it, too.
            timeout: seconds to wait, none left if negative; None: as long as it takes.

        Returns:
            The task; None where it would wait without end, for the pool is closed.

        Raises:
            queue.Empty: there was none, in time; or the pool is closed, and there is none.
            TypeError, ValueError: `timeout` is no number of seconds.
        """
        timeout = checks.time_left("timeout", timeout) if block else None
        deadline = None if timeout is None else clock.now() + timeout
        while True:
            token = object()
            try:
                task, closed = self._dispatcher.take_out(token)
                if task is not None:
                    return WorkItem(task, *_call_of(task), token)
            except BaseException:  # Ctrl-C: nobody has it
                out = self._dispatcher.queue.out
                for task in [task for task in list(out) if out.get(task) is token]:
                    task.cancel()
                raise
            if closed and block and deadline is None:
                return None
            left = None if deadline is None else deadline - clock.now()
            if closed or not block or (left is not None and left <= 0):
                raise Empty
            self._dispatcher.wait_for_task(left)

    def get_nowait(self) -> WorkItem | None:
        """As `get`, without waiting."""
        return self.get(block=False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put back what was taken out, behind the others; one that was cancelled meanwhile is forgotten.

        Of any other item that has a future, as those of the standard library, the call is submitted; None does nothing:
        there it wakes a thread that is to end. As with the standard library's, the arguments but the first are without
        effect: what is put back needs no room, and for other items it is the pool's `when_full` that says what happens.

        Raises:
            InvalidStateError: the item was put back before, or its task has begun, or is done.
            PoolClosed, PoolBroken: the pool takes nothing more; whoever has the item still has it.
            For other items as `Pool.submit`.
        """
        if not isinstance(item, WorkItem):
            hand_over(self._way, item)
        elif owner_of(item.future) is not self._dispatcher:  # of another pool, which keeps the count of it
            self._way.pool.submit(item.run)
        elif not item.bring_back(self._dispatcher) and not item.future.cancelled():
            raise InvalidStateError(
                f"what was taken out of pool {self._dispatcher.name!r} was put back, run or settled since, and cannot "
                f"be put back again: {item.future!r}"
            )

    def put_nowait(self, item: Any) -> None:
        """As `put`."""
        self.put(item)

    def __repr__(self) -> str:
        return f"<WorkQueue of {self._way.pool!r}>"


def _call_of(task: Task) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return function, arguments and keywords of a task that has not begun."""
    fn, args = call_of(task)
    if isinstance(task, InternalTask) or args is None:  # work of treadle's own, which is no call
        return _run, (task,), {}
    fn, args = bare_call(fn, args)
    # As Submitter.submit binds keywords. One of the user's own that looks like it makes the same call.
    if type(fn) is partial and fn.keywords and not fn.args:
        return fn.func, args, fn.keywords
    return fn, args, {}


def _run(task: Task) -> None:
    """Run a task in this thread, unless it was cancelled; RuntimeError if it has begun already, or is done."""
    if not owner_of(task).run_instead(task) and not task.cancelled():
        task.set_running_or_notify_cancel()  # says why not

"""Current: which pool, and which of its tasks, the code runs for that asks.

Threads, and the tasks that run in them, know the dispatcher alone. That holds the user's pool by a weak reference, so
that asking keeps none: see treadle._dispatch.dispatcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from treadle._dispatch.worker import current_worker, tasks_here
from treadle._tasks.future import Future, owner_of
from treadle._tasks.scoped import ScopedTask

if TYPE_CHECKING:
    from treadle._pool.pool import Pool

__all__ = ["current_pool", "current_task"]

OF_USERS = (Future, ScopedTask)  # other kinds do work of treadle's own: items of a map, messages of a server


def current_pool() -> Pool | None:
    """Return the pool whose work the caller is: that of the innermost task that runs in this thread.

    Also in an item of a `map`, in the handler of a server, whose pool that is, and in whatever else a thread of the
    pool calls: its initializer, and the callbacks of its futures. A task that is run inside of another one, or by its
    caller, is its own pool's.

    Returns:
        The pool, which this does not keep alive. None: the caller runs in no pool's thread and in no task; in a crew's
        or a pipeline's, whose threads take no tasks; or nobody holds the pool any more, which only runs what it has.
    """
    for task in tasks_here():
        pool = owner_of(task).pool
        if pool is not None:
            return cast("Pool | None", pool())
    worker = current_worker()
    pool = None if worker is None else worker.owner.pool
    return None if pool is None else pool()


def current_task() -> Future[Any] | None:
    """Return the future of the innermost task whose function runs in this thread.

    A task that waits for another one of its pool may run that inside of itself (see `Future`): there the inner one is
    returned.

    Returns:
        The future that `submit` has returned, or is about to. None: the caller runs in no task. What has no future of
        its own is no task: an item of a `map`, a message of a server, what a crew or a pipeline calls; nor is the
        callback of a future, whose task is over. Where one of these runs inside of a task, that is returned.
    """
    for task in tasks_here():
        if type(task) in OF_USERS and owner_of(task).pool is not None:
            return task
    return None

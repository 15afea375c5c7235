"""Inline: tasks that are run in a caller's thread, inside whatever runs there already.

So a worker never waits for its own pool: it runs what it would wait for. And so does a caller whose policy is
"caller_runs".
"""

from __future__ import annotations

from threading import current_thread
from typing import TYPE_CHECKING

from treadle._dispatch.worker import current_worker, lent_here, settle_lost
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import taken
from treadle._tasks.scope import HERE, SCOPE

if TYPE_CHECKING:
    from contextvars import Context

    from treadle._dispatch.dispatcher import Dispatcher, Task

__all__ = ["context_inside", "run_inline", "running_here"]

BARE = NoContext()


def run_inline(dispatcher: Dispatcher, task: Task) -> None:
    """Run a claimed task of `dispatcher` in this thread."""
    worker = current_worker()
    if worker is None:
        HERE.tasks = (*HERE.tasks, task)
    elif worker.task is not task:  # else it was noted as it was claimed
        worker.push(task)
    task._skip_rate()
    outer = SCOPE.set(task._inherited())  # or a task without a context would see the one that we are in
    try:
        task._context = context_inside(dispatcher, task._context)
        while dispatcher.observe(task) if dispatcher.observers else task._invoke():
            pass
    except BaseException as error:  # of an observer, which would end a thread: the task is not to go on for ever
        settle_lost(dispatcher, task, current_thread().name, error)
        raise
    finally:
        SCOPE.reset(outer)
        with dispatcher.lock:
            if worker is None:
                HERE.tasks = HERE.tasks[:-1]
            else:
                worker.pop()
            dispatcher.inline -= not task._silent
            dispatcher.ended += not task._silent
            dispatcher.failed += not task._silent and task._has_raised()
    context_inside(dispatcher, BARE).run(task._finish)  # and so its callbacks
    if worker is None and issubclass(type(task._exception), KeyboardInterrupt):
        raise task._see()  # Ctrl-C was meant for the program, whose own thread this is


def running_here(dispatcher: Dispatcher) -> int:
    """Return how many tasks of `dispatcher` are run like that in this thread."""
    worker = current_worker()
    tasks = HERE.tasks if worker is None else worker.stack()[1:]
    return sum(task._owner is dispatcher and not task._silent for task in tasks)


def context_inside(dispatcher: Dispatcher, context: Context | NoContext) -> Context:
    """Return in what a call of `dispatcher`'s runs here, inside of another: always a context, for that one goes on."""
    if isinstance(context, NoContext):
        context = taken()
    lent = lent_here(dispatcher)
    return context if lent is None else lent.to(context)

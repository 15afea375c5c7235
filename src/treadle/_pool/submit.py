"""Submitter: how a pool, and every view of it, makes tasks and hands them over."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args

from treadle._base import checks
from treadle._base.clock import now
from treadle._base.locks import deferred, make_deferred_calls
from treadle._pool.passage import STANDARD, Way, pass_through, untouched
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import EMPTY, detached, taken
from treadle._tasks.future import PENDING, Future
from treadle._tasks.scope import HERE, SCOPE
from treadle._tasks.scoped import new_task

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle._dispatch.workers import Entrance
    from treadle._tasks.options import TaskOptions
    from treadle._tasks.rate import Rate

    # What a view has as its pool has it, unless it is made with something else: in the order of `settings_of`.
    Settings = tuple[Dispatcher, Entrance, bool, str, float | None, TaskOptions, Rate | None]

__all__ = ["BARE", "POLICIES", "Submitter", "WhenFull", "dispatcher_of", "keeps_context", "settings_of"]

P = ParamSpec("P")
T = TypeVar("T")

WhenFull = Literal["block", "reject", "caller_runs", "discard_oldest"]

POLICIES: tuple[WhenFull, ...] = get_args(WhenFull)
BARE = NoContext()
scope_here = SCOPE.get
_new = object.__new__


class Submitter:
    """What tasks are submitted to: a pool, or a view of it with other options."""

    __slots__ = ()

    # Not called what subclasses of a pool may call what is theirs.
    _task_pool: Any  # itself, or of which it is a view
    _task_dispatcher: Dispatcher
    _task_entrance: Entrance  # its
    _task_context: bool  # whether tasks run in a copy of their submitter's context
    _task_when_full: str
    _task_block_timeout: float | None  # seconds to wait for room
    _task_options: TaskOptions
    _task_rate: Rate | None
    _task_vetted: checks.Vetted  # what was submitted before; to look at each anew takes a fourth of a submit

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a thread of the pool.

        In the thread of a running event loop it neither waits for room nor runs the task: it takes it beyond the bound.

        All keywords are the function's; for options of the task itself see `Pool.options`.

        Returns:
            The future of its result.

        Raises:
            TypeError: `fn` cannot be called, or is a coroutine function: those belong to an event loop.
            PoolFull: there was no room and the policy is "reject", or none within the `block_timeout` of a view.
            PoolClosed: the pool was shut down; or Python began to exit while the caller waited for room.
            PoolBroken: an initializer failed, or the pool's order.
            PoolDeadlock: waiting for room could never end (see `treadle.errors.PoolDeadlock`).
            DeadlineExceeded, Cancelled: the caller's deadline has passed, or its group was cancelled.
            RuntimeError: Python is exiting; or no thread can be started, and the pool has none. The task will not run.
            PatchedTooLate: no thread can be started, for threads are greenlets now; the task will not run.
        """
        if self._task_vetted.known() is not fn or fn is None:  # a dead reference returns None
            self._task_vetted.check("fn", fn)
        if ThreadPoolExecutor.submit is not STANDARD:  # somebody has replaced it, and is to have a say here
            return pass_through(self._task_way(), fn, args, kwargs)  # type: ignore[no-any-return]  # whatever it is
        context: Any
        if self._task_context:
            context = copy_context()
        elif untouched(context=False):
            context = BARE
        else:
            return pass_through(self._task_way(), fn, args, kwargs)  # type: ignore[no-any-return]
        rate = self._task_rate
        if not context and rate is None:  # nothing is set where this is called, no scope either
            context = EMPTY
        elif scope_here() is not None or rate is not None or (context is BARE and HERE.worker is not None):
            task = self._task_made(fn, args, kwargs)
            try:
                self._task_dispatcher.enter(task, self._task_when_full, self._task_block_timeout)
                return task
            finally:
                del task  # what it raises, if it is run here, leads to this frame: no cycle through it
        elif context is not BARE:
            context = detached(context)
        # As new_task() and Dispatcher.enter() do; spelled out because this is the path of every task.
        entrance = self._task_entrance
        task = _new(Future)
        task._owner = self._task_dispatcher
        task._state = PENDING
        task._awaited_by = None
        task._fn = fn if not kwargs else partial(fn, **kwargs)
        task._args = args
        task._context = context
        task._submitted = now()
        task._options = self._task_options
        held = True  # whether the lock is, or is about to be (see `treadle._base.locks.locked`)
        try:
            entrance.acquire()
            if len(entrance.tasks) < entrance.room and (
                not entrance.growing or len(entrance.tasks) < len(entrance.idle)
            ):
                entrance.put(task)
                if entrance.idle and not entrance.waking:  # as Workers.wake_one
                    worker = entrance.idle[-1]
                    del entrance.idle[-1]
                    entrance.waking = True
                    worker.wakeup.release()
                held = False
                entrance.release()
                if deferred:
                    make_deferred_calls()
                return task
            held = False
            entrance.release()
        except BaseException as error:
            self._task_dispatcher.take_back_submitted(task, error, held)
            raise
        try:
            self._task_dispatcher.enter(task, self._task_when_full, self._task_block_timeout)
            return task
        finally:
            del task  # as above

    def _task_way(self, enter: Callable[[Future[Any]], object] | None = None) -> Way:
        """Return the way in for a call that has passed through what others have put in the place of `submit`."""
        return Way(self._task_pool, self._task_dispatcher, self._task_made, enter or self._task_enter)

    def _task_enter(self, task: Future[Any]) -> None:
        """Admit a task."""
        try:
            self._task_dispatcher.enter(task, self._task_when_full, self._task_block_timeout)
        finally:
            del task  # as in `submit`

    def _task_made(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None
    ) -> Future[T]:
        """Return a task that has not been admitted; it is called `name` if the options say nothing else."""
        context = taken() if self._task_context else BARE
        call = fn if not kwargs else partial(fn, **kwargs)
        options = self._task_options
        if name is not None and options.name is None:
            options = options.named(name)
        return new_task(self._task_dispatcher, call, args, context, options, Future, self._task_rate)


# What others may ask of a pool, or a view of one, whose own names are its user's to choose.
dispatcher_of: Callable[[Any], Dispatcher] = attrgetter("_task_dispatcher")
keeps_context: Callable[[Any], bool] = attrgetter("_task_context")  # whether tasks run in their submitter's
settings_of: Callable[[Any], tuple[Dispatcher, Entrance, bool, str, float | None, TaskOptions, Rate | None]] = (
    attrgetter(
        "_task_dispatcher",
        "_task_entrance",
        "_task_context",
        "_task_when_full",
        "_task_block_timeout",
        "_task_options",
        "_task_rate",
    )
)

"""ScopedTask: tasks that were submitted under a deadline or in a group; and how tasks are made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from treadle._base.threads import check_unpatched
from treadle._base.words import log
from treadle._tasks.call import Gone, NoContext
from treadle._tasks.contexts import EMPTY
from treadle._tasks.future import FINISHED, Future
from treadle._tasks.rate import bucket_of
from treadle._tasks.scope import HERE, SCOPE, Scope
from treadle._tasks.unretrieved import Unretrieved
from treadle.errors import Cancelled, DeadlineExceeded

if TYPE_CHECKING:
    from treadle._tasks.options import TaskOptions
    from treadle._tasks.owner import Owner
    from treadle._tasks.rate import Bucket, Rate

__all__ = [
    "ScopedTask",
    "is_wanted",
    "new_task",
    "note_entered",
    "rate_left",
    "scope_around",
    "scope_of",
    "step_out_of_line",
    "wait_for_rate",
    "want",
]

FREE = Scope(None)  # of tasks that are submitted in no scope, but at a rate

_log = logging.getLogger("treadle")


class ScopedTask(Future[Any]):
    """A task that belongs to a scope: not started when that is over, and failed on time when its deadline passes.

    Who takes it out of the scope has decided what becomes of it: the timers at the deadline, or its worker afterwards.
    """

    __slots__ = ("_entered", "_late", "_rate", "_scope", "_wanted")

    _scope: Scope
    _entered: bool  # whether a pool has it; before, nothing may become of it but a refusal
    _late: bool  # its deadline passed before that
    _rate: Bucket | None  # that it is still to be admitted by
    _wanted: bool  # whether a worker came to run it, and had to wait for it instead

    def __init__(self, scope: Scope, rate: Rate | None) -> None:
        self._scope = scope
        self._rate = None if rate is None else bucket_of(rate)
        self._entered = self._late = self._wanted = False

    def _inherited(self) -> Scope:
        return self._scope

    def _ready(self) -> bool:
        """Whether it may begin now; if not, it is in line for that."""
        if self._rate is None or self._scope.over() is not None:
            return True
        if self._wanted:
            self._skip_rate()
            return True
        if not self._rate.admit(self):
            return False
        self._rate = None
        return True

    def _invoke(self) -> bool:
        if not self._ready():
            return True
        scope = self._scope
        try:
            scope.begin(self)
            self._run(scope.over(self))
        finally:
            try:
                scope.end(self)
            except BaseException:  # Ctrl-C, perhaps, as it was about to
                scope.end(self)
                raise
            finally:
                del self  # the traceback leads to this frame: no cycle through it
        return False

    def _run(self, error: BaseException | None) -> None:
        """Run the function, unless there is an error already, and keep what comes of it."""
        result, started, context = None, error is None, None
        if started:
            self._owner.notify_observers("started", self)
            try:
                context = Context() if self._context is EMPTY else self._context
                result = context.run(self._fn, *self._args)
            except BaseException as raised:
                error = raised
        elif error is not None:
            self._owner.never_began(self, error)
        if self._scope.leave(self) and not self._scope.overdue():
            if error is not None and started and not issubclass(type(error), Cancelled):
                self._get_cold().unretrieved = Unretrieved(self.name, error)
            self._result, self._exception = result, error
        else:
            self._settle_once(None, self._scope.exceeded(self))  # unless the timers have, or somebody by hand
            if self._state is not FINISHED:
                self._result, self._exception = result, error
            if error is not None and not issubclass(type(error), (Cancelled, DeadlineExceeded)):
                when = "in a forked child" if isinstance(self._context, Gone) else "after its deadline"
                log(_log, logging.ERROR, "task %s failed %s", self.name, when, error=error)
        if started:
            self._owner.notify_observers("finished", self, self._exception)
        self._args = self._context = None
        self._keep_name()
        self._leave_line()
        self = result = error = context = None  # type: ignore[assignment]  # tracebacks hold this frame: no cycle

    def _skip_rate(self) -> None:
        if self._rate is not None:
            self._rate.charge(self)
            self._rate = None

    def _leave_scope(self) -> None:
        self._scope.leave(self)
        self._leave_line()

    def _want(self) -> None:
        """Note that a worker waits for it, which had come to run it itself."""
        self._wanted = True

    def _leave_line(self) -> None:
        """Let those behind it go on, for it will not begin any more, or has."""
        step_out_of_line(self)
        self._rate = None

    def _expire(self, error: DeadlineExceeded) -> None:
        """Fail, for the deadline has passed."""
        self._late = True  # before the look: see `_enter`
        if self._entered:
            self._settle_once(None, error)

    def _enter(self) -> None:
        """Note that the pool has it; no lock is held."""
        self._entered = True  # before the look: one of the two sees the other
        if self._late:
            self._expire(self._scope.exceeded(self))

    def _overdue(self) -> float:
        return self._scope.overdue()


# -- what the packages above may ask of such a task, and do with it ----------------------------------------------------

scope_of: Callable[[ScopedTask], Scope] = attrgetter("_scope")
rate_left: Callable[[ScopedTask], Bucket | None] = attrgetter("_rate")  # that it is still to be admitted by
is_wanted: Callable[[ScopedTask], bool] = attrgetter("_wanted")  # whether a worker waits for it
note_entered = ScopedTask._enter
want = ScopedTask._want


def wait_for_rate(task: Future[Any]) -> None:
    """See that `task` is resumed when its rate lets it begin; no lock is held, for a thread may be started."""
    rate = rate_left(task) if isinstance(task, ScopedTask) else None
    if rate is not None:
        rate.arm()


def step_out_of_line(task: Future[Any]) -> None:
    """Have `task` wait for no turn any more, until it comes to a worker again."""
    rate = rate_left(task) if isinstance(task, ScopedTask) else None
    if rate is not None:
        rate.forget(task)


def scope_around(context: Context | NoContext | None) -> Scope | None:
    """Return the scope that a task belongs to which is made here; one without a context asks the task that makes it."""
    scope = SCOPE.get()
    if scope is None and isinstance(context, NoContext) and HERE.worker is not None and HERE.worker.task is not None:
        inherited: Scope | None = HERE.worker.task._inherited()
        return inherited
    return scope


def new_task(
    home: Owner[Any],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    context: Context | NoContext,
    options: TaskOptions,
    kind: type[Future[Any]] = Future,
    rate: Rate | None = None,
) -> Future[Any]:
    """Return a task that has not been admitted. A plain one belongs to the scope in which it is made, if there is one.

    Raises:
        Cancelled, DeadlineExceeded: that scope is over.
        PatchedTooLate: threads are greenlets now.
    """
    scope = scope_around(context) if kind is Future else None
    if scope is None and rate is not None:
        scope = FREE
    if scope is None:
        task = object.__new__(kind)
    else:
        scope.check()
        check_unpatched()  # for the timers may need a thread, and a worker that calls it cannot be told
        task = ScopedTask(scope, rate)
    task._fill(home, fn, args, context, options)
    return task

"""Scope: the deadline and the cancellation that code runs under, carried from task to task by the context.

    with treadle.deadline(2.0):                  everything in here, and every task submitted in here, has two seconds
        future = pool.submit(work)               fails with DeadlineExceeded when they are over

    def work():
        while not treadle.should_stop():           the other half of cancellation: tasks have to look
            treadle.sleep(0.1)                   wakes at once when the deadline passes, or the task is cancelled

Scopes are nested: each has the nearer deadline of its own and its parent's, and is cancelled when its parent is. Which
one is current is found in two places. A `deadline` or a group sets a context variable, which travels with the tasks
that are submitted inside. And each task that asks, or is asked to stop, has one of its own, found through its thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, Token
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from treadle._base import checks, clock
from treadle._base.fork import at_fork
from treadle._base.locks import closed_latch, locked, new_lock, open_latch
from treadle._base.timer import TIMERS, TimerHandle
from treadle._base.words import log
from treadle._tasks.contexts import taken
from treadle.errors import Cancelled, DeadlineExceeded

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "HERE",
    "SCOPE",
    "Scope",
    "checkpoint",
    "current",
    "deadline",
    "should_stop",
    "sleep",
    "task_here",
    "time_left",
    "unscoped",
    "within",
]


_log = logging.getLogger("treadle")

P = ParamSpec("P")
T = TypeVar("T")

_lock = new_lock()  # of every scope: held for an instant, and across a fork; taken after a pool's lock
at_fork("scopes", _lock.acquire, _lock.release, _lock.release)


class Member(Protocol):
    """A task of a scope."""

    def _expire(self, error: DeadlineExceeded) -> None:
        """Fail, for the deadline has passed."""


class Scope:
    """One deadline, or none, and whether cancellation was asked for. All methods may be called from any thread."""

    __slots__ = (
        "_members",
        "_timer",
        "deadline",
        "idle",
        "parent",
        "process",
        "runners",
        "seconds",
        "stopped",
        "wakers",
    )

    def __init__(self, parent: Scope | None, seconds: float | None = None) -> None:
        self.parent = parent
        self.seconds = seconds  # that were given; the parent's if those end earlier
        self.deadline = None if seconds is None else clock.now() + seconds  # on the clock
        nearer = None if parent is None else parent.deadline
        if parent is not None and nearer is not None and (self.deadline is None or nearer <= self.deadline):
            self.deadline, self.seconds = nearer, parent.seconds
        self.stopped = False
        # _lock guards what follows.
        self.wakers: dict[object, Callable[[], object]] = {}
        self._members: dict[Member, None] = {}  # tasks that are not done
        self._timer: TimerHandle | None = None  # set while there are any, and a deadline
        self.runners: set[object] = set()  # whose functions have not returned, of its tasks and those inside it,
        self.process = 0  # in this process; a forked child has none of them
        self.idle: Callable[[], object] | None = None  # called when none is left of them

    # -- asking ---------------------------------------------------------------------------------------------------

    def over(self, task: Any = None) -> Cancelled | DeadlineExceeded | None:
        """Return why there is no point in going on, as an error to raise; None if there is.

        Args:
            task: the one that is not to go on, for the error to tell its name; no lock is held then, see `Future.name`.
        """
        scope: Scope | None = self
        while scope is not None:  # as `outward`, which would take twice as long
            if scope.stopped:
                return Cancelled(*_facts_of(task))
            scope = scope.parent
        if self.deadline is not None and clock.now() >= self.deadline:
            return self.exceeded(task)
        return None

    def exceeded(self, task: Any = None) -> DeadlineExceeded:
        """Return the error that says the deadline has passed; as `over`."""
        return DeadlineExceeded(self.seconds or 0.0, *_facts_of(task))

    def check(self) -> None:
        """Raise what `over` returns, if it does, in the task that runs here."""
        error = self.over(task_here())
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no cycle through it

    def left(self, timeout: float | None = None) -> float | None:
        """Return the seconds until the deadline, 0 if it has passed; at most `timeout`, where that is not None."""
        if self.deadline is None:
            return timeout
        left = min(max(0.0, self.deadline - clock.now()), threading.TIMEOUT_MAX)
        return left if timeout is None else min(left, timeout)

    def overdue(self) -> float:
        """Return the seconds since the deadline; 0 before it, or without one."""
        return 0.0 if self.deadline is None else max(0.0, clock.now() - self.deadline)

    def bounded_by(self, other: Scope | None) -> Scope:
        """Return the scope for a task that belongs to this one, and is submitted in `other`.

        That is `other` if it lies inside this one; or else this one, with the deadline of `other` if that is nearer.
        """
        if other is None or self in other.outward():
            return other or self
        if other.deadline is None or (self.deadline is not None and self.deadline <= other.deadline):
            return self
        bounded = Scope(self)
        bounded.deadline, bounded.seconds = other.deadline, other.seconds
        return bounded

    def outward(self) -> Iterator[Scope]:
        """Yield this scope and all around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    # -- ending it ------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask whatever runs here to stop, and wake it if it waits."""
        self.stopped = True
        for wake in locked(_lock, list, self.wakers.values()):
            wake()

    def waking(self, wake: Callable[[], object]) -> _Waking:
        """Return a context manager that has `wake` called when this scope, or one around it, is cancelled.

        `wake` may be called more than once, and also if that was before; it must neither block nor raise. The deadline
        wakes nobody: who waits is to wait no longer than `left`.
        """
        return _Waking(self, wake)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """Fail `member` when the deadline passes, unless it leaves before."""
        locked(_lock, self._join, member)
        if self.deadline is not None and not self._is_timed():  # or the process forked
            timer = TIMERS.call_at(self.deadline, self._expire)
            if not locked(_lock, self._set_timer, timer):
                timer.cancel()

    def _join(self, member: Member) -> None:
        self._members[member] = None

    def _is_timed(self) -> bool:
        return self._timer is not None and self._timer.is_due

    def _set_timer(self, timer: TimerHandle) -> bool:
        if not self._members or self._is_timed():
            return False
        self._timer = timer
        return True

    def leave(self, member: Member) -> bool:
        """Let `member` go; False: too late, it was failed. Whoever takes it out has decided what becomes of it."""
        return locked(_lock, self._leave, member)

    def _leave(self, member: Member) -> bool:
        if member not in self._members:
            return False
        del self._members[member]
        if not self._members and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    @property
    def running(self) -> int:
        """How many functions of its tasks, and of those in scopes inside it, have not returned."""
        return len(self.runners) if self.process == os.getpid() else 0

    def begin(self, runner: object) -> None:
        """`runner`, a task, is about to look whether it may run its function; it is to `end`, whatever is raised."""
        locked(_lock, self._begin, runner, os.getpid())

    def _begin(self, runner: object, process: int) -> object:
        """Note it; return what is to be let go of with no lock held."""
        stale: object = None
        for scope in self.outward():
            if scope.process != process:
                stale = stale, scope.runners
                scope.runners, scope.process = set(), process
            scope.runners.add(runner)
        return stale

    def end(self, runner: object) -> None:
        """That function has returned, or was not run. It may be called again."""
        if self.process != os.getpid():  # it began before this process was forked, and is not counted here
            return
        for call in locked(_lock, self._end, runner):
            if call is not None:
                call()

    def _end(self, runner: object) -> list[Callable[[], object] | None]:
        for scope in self.outward():
            scope.runners.discard(runner)
        return [scope.idle for scope in self.outward() if not scope.runners]

    def when_idle(self, idle: Callable[[], object]) -> None:
        """Call `idle` now, and whenever the last function that runs has returned, until `forget_idle`."""
        self.idle = idle
        idle()

    def forget_idle(self) -> None:
        """Let go of what `when_idle` was given: futures and contexts hold the scope for as long as they are kept."""
        self.idle = None

    def _expire(self) -> None:
        """Fail all that are left, for the deadline has passed."""
        for member in locked(_lock, self._leave_all):
            try:
                member._expire(self.exceeded(member))
            except BaseException as raised:  # as of an order's own: the others are not to wait for ever
                log(_log, logging.ERROR, "a task could not be failed at its deadline", error=raised)

    def _leave_all(self) -> list[Member]:
        members, self._members, self._timer = self._members, {}, None
        return list(members)


class _Waking:
    """See `Scope.waking`."""

    __slots__ = ("_scope", "_wake")

    def __init__(self, scope: Scope, wake: Callable[[], object]) -> None:
        self._scope = scope
        self._wake = wake

    def __enter__(self) -> None:
        scope: Scope | None = self._scope
        stopped = False
        while scope is not None:
            locked(_lock, scope.wakers.__setitem__, self, self._wake)
            stopped = stopped or scope.stopped
            scope = scope.parent
        if stopped:
            self._wake()

    def __exit__(self, *_: object) -> None:
        scope: Scope | None = self._scope
        while scope is not None:
            locked(_lock, scope.wakers.pop, self, None)
            scope = scope.parent


# -- which scope is current ---------------------------------------------------------------------------------------

SCOPE: ContextVar[Scope | None] = ContextVar("treadle._tasks.scope", default=None)
"""The innermost scope that a `deadline` block or a group has opened, here or where the running task was submitted."""


class _Here(threading.local):
    """What runs in this thread."""

    worker: Any = None  # treadle._dispatch.worker.Worker, if it is one's thread
    leaving: Any = None  # the treadle._dispatch.state.State of the pool whose worker it was, and is no more
    starting: Any = None  # another one, whose thread is being started here
    tasks: tuple[Any, ...] = ()  # those that run in a thread of nobody's, by the caller itself; the innermost last
    # While the input is read of maps that they have accepted: the dispatchers of pools, and the doors of their views.
    reading: tuple[Any, ...] = ()
    # treadle._dispatch.deadlock.Errand: what others may wait for that the thread is to bring.
    errands: tuple[Any, ...] = ()


HERE = _Here()


def task_here() -> Any:
    """Return the innermost task that runs in this thread; None if there is none."""
    task = HERE.worker.task if HERE.worker is not None else HERE.tasks[-1] if HERE.tasks else None
    if task is None or task._context is None:  # it has run, and this is a callback of its future
        return None
    return task


def _facts_of(task: Any) -> tuple[str | None, str | None]:
    """Return the names of a task and its pool, for an error; none for the loop of a crew or a pipeline."""
    owner: Any = None if task is None else task._owner
    return (None, None) if getattr(owner, "pool", None) is None else (task.name, owner.name)


def current() -> Scope | None:
    """Return the innermost scope that the caller runs in; None if it runs in none."""
    inner, task = SCOPE.get(), task_here()
    if task is None:
        return inner
    own: Scope = task._own_scope()
    return own if inner is None or inner is own.parent else inner


def unscoped() -> Context:
    """Return a copy of the caller's context, as `taken`, without its scope: for what lives on when that is over."""
    context = taken()
    context.run(SCOPE.set, None)
    return context


def within(scope: Scope, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `call(*args)`, made in `scope`; the caller is left in its own, whatever is raised, wherever."""
    outer, token = SCOPE.get(), None
    try:
        token = SCOPE.set(scope)
        return call(*args, **kwargs)
    finally:
        try:
            SCOPE.set(outer) if token is None else SCOPE.reset(token)
        except BaseException:  # Ctrl-C, perhaps
            SCOPE.set(outer)
            raise
        finally:
            del args, kwargs  # what a task raises that is run here leads to this frame: no cycle through it


# -- the public names ---------------------------------------------------------------------------------------------


class deadline:  # it is used as a function
    """Bound everything in a `with` block, and every task submitted there, to `seconds` from the entry of the block.

    Inherited by what tasks submit in turn, through `submit`, `map`, `run` and groups; of nested deadlines the nearer
    one holds. A task whose deadline has passed is never started. A future fails with `DeadlineExceeded` when its
    deadline passes, also while its task runs; the task itself is not killed, for no Python thread can be: it sees the
    deadline through `time_left`, `should_stop` or `checkpoint`, its waits in `treadle.sleep`, `Channel`, `treadle.wait`
    and `Future.result` end there, and until it returns its thread is shown as overdue in `Pool.snapshot`. Leaving the
    block late raises nothing.

    Args:
        seconds: 0 or more. None, `math.inf`, and whatever is longer than a lock can be waited for, is no deadline but
            the surrounding one, if there is any.

    Raises:
        TypeError, ValueError: `seconds` is neither such a number nor None.
    """

    __slots__ = ("_seconds", "_tokens")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = checks.seconds("seconds", seconds)
        self._tokens: list[Token[Scope | None]] = []

    def __enter__(self) -> None:
        outer = SCOPE.get()
        scope = Scope(current(), self._seconds)
        try:
            token = SCOPE.set(scope)
        except BaseException:  # Ctrl-C, as it returned
            SCOPE.set(outer)
            raise
        self._tokens += [token]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        SCOPE.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"deadline({self._seconds})"


def time_left() -> float | None:
    """Return the seconds until the deadline that the caller runs under, 0 if it has passed; None if there is none."""
    scope = current()
    return None if scope is None else scope.left()


def should_stop() -> bool:
    """Return whether the caller should stop, for one of two reasons; `checkpoint` raises which.

    It was asked to: by `Future.request_cancel` on its task, by the cancelled await of a `run`, or because its group was
    cancelled. Or the deadline that it runs under has passed, though nobody has cancelled anything.
    """
    scope = current()
    return scope is not None and scope.over() is not None


def checkpoint() -> None:
    """Stop here if the caller should stop.

    Raises:
        Cancelled: it was asked to.
        DeadlineExceeded: its deadline has passed.
    """
    scope = current()
    if scope is not None:
        scope.check()


def sleep(seconds: float) -> None:
    """Sleep as `time.sleep` does, but wake at once when the caller should stop.

    Args:
        seconds: 0 or more; `math.inf` for as long as it takes.

    Raises:
        Cancelled, DeadlineExceeded: as `checkpoint`, also if that is so when it is called.
        TypeError, ValueError: `seconds` is not such a number.
    """
    seconds = min(checks.duration("seconds", seconds), threading.TIMEOUT_MAX)
    scope = current()
    if scope is None:
        clock.pause(seconds)
        return
    latch = closed_latch()
    with scope.waking(lambda: open_latch(latch)):
        latch.acquire(True, scope.left(seconds) or 0.0)
    scope.check()

"""TaskGroup: tasks that belong together, none of which outlives the block that they are submitted in."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextvars import Token
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from treadle._base import checks
from treadle._base.fork import at_fork
from treadle._base.locks import closed_latch, locked, new_lock, open_latch
from treadle._base.words import counted, is_a, note, show, type_name
from treadle._dispatch import deadlock
from treadle._dispatch.deadlock import Errand
from treadle._dispatch.worker import current_worker
from treadle._pool.mapping.outcome import Outcome, outcome_of
from treadle._pool.pool import Pool
from treadle._pool.submit import BARE, dispatcher_of, keeps_context
from treadle._pool.view import PoolView
from treadle._tasks.future import Future, owner_of
from treadle._tasks.scope import SCOPE, Scope, current
from treadle._tasks.scoped import scope_around
from treadle._tasks.waiters import InternalCallback, why_dropped
from treadle.errors import Cancelled

if TYPE_CHECKING:
    from _thread import LockType
    from types import TracebackType


__all__ = ["TaskGroup"]

P = ParamSpec("P")
T = TypeVar("T")

NEW, OPEN, CLOSED = "new", "open", "closed"

_lock = new_lock()  # of every group: held for an instant, and across a fork; taken before a pool's lock, never after
at_fork("groups", _lock.acquire, _lock.release, _lock.release)


class TaskGroup:
    """Run tasks of a pool that belong together, and leave the `with` block only when all of them are done.

    When one fails, or the block raises, the others are cancelled: what has not begun never will, and what runs is asked
    to stop (see `treadle.should_stop`). The block is left when every function has returned, also one whose future has
    failed at its deadline before; so no task outlives the group. All methods may be called from any thread; tasks may
    submit more to their group. Groups can be nested, and used inside tasks of the same pool, whose thread then runs
    what has not begun.

    At the end of the block it raises an ExceptionGroup of whatever the tasks, and the block, have raised; those that
    stopped because they were asked to are left out, and so are those that the program cancelled itself. A task that its
    pool dropped has failed: with Shed, if that was to make room for another, or with PoolClosed, by a shutdown.
    KeyboardInterrupt and SystemExit of the block are raised as they are. If nothing failed, but the group's own
    surroundings should stop, that is raised: Cancelled or DeadlineExceeded. Ctrl-C while it waits cancels the group;
    another one leaves the block at once, whatever runs.

    Args:
        pool: a Pool, or a view of one, which its `options` returns.
        keep_going: whether to let all tasks go on when one fails, and raise nothing for them; see `outcomes`.

    Raises:
        TypeError: `pool` or `keep_going` is something else.
    """

    def __init__(self, pool: Pool | PoolView, *, keep_going: bool = False) -> None:
        if not is_a(pool, (Pool, PoolView)):
            raise TypeError(f"pool={show(pool)} is {type_name(pool)}; allowed: a treadle.Pool, or its options(...)")
        self._pool: Pool | PoolView | None = pool  # until the block is left
        self._keep_going = checks.boolean("keep_going", keep_going)
        # _lock guards what follows.
        self._state = NEW
        self._waiting: dict[Future[Any], None] = {}  # tasks that are not done
        self._interrupted = False  # whether a submit was, anywhere
        self._cancelling = False  # whether it was cancelled; its scope is stopped a moment later
        self._submitting: defaultdict[int, list[Errand]] = defaultdict(list)  # that are under way, in each process
        self._futures: list[Future[Any]] = []  # all of them, if they are to be collected
        self._failed: list[tuple[Future[Any], BaseException]] = []  # and what to raise for it
        self._latch: LockType | None = None  # where the end of the block waits
        self._scope = Scope(None)
        self._token: Token[Scope | None] | None = None
        self._note: Any = None  # an InternalCallback while the block is open: it leads back to the group

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a thread of the pool, as a task of the group; as `Pool.submit`.

        A nearer deadline that is open where it is called, in the block or anywhere, is the task's too.

        Raises:
            RuntimeError: the group's block was not entered, or is left.
            Cancelled, DeadlineExceeded: the group was cancelled, or its deadline has passed.
            PoolFull, PoolClosed, PoolBroken, PoolDeadlock, TypeError: as `Pool.submit`.
        """
        errand, outer = Errand("a submit to the group"), SCOPE.get()
        future: Future[T] | None = None
        token = None
        try:
            pool = locked(_lock, self._begin_submit, errand)
            token = SCOPE.set(self._scope.bounded_by(scope_around(None if keeps_context(pool) else BARE)))
            with errand:
                future = pool.submit(fn, *args, **kwargs)
            call_back = future.add_done_callback  # first: a `submit` that was replaced may return what has none
            locked(_lock, self._note_submit, future)
            call_back(self._note)
            return future
        except BaseException as error:  # Ctrl-C: perhaps nobody will tell of it
            self._interrupted = True
            if future is not None:
                self._take_back(future, error)
            raise
        finally:
            try:
                if token is not None:
                    SCOPE.reset(token)
                self._end_submit(errand)
            except BaseException:
                SCOPE.set(outer)
                self._end_submit(errand)
                raise

    def _begin_submit(self, errand: Errand) -> Pool | PoolView:
        if self._state != OPEN:
            raise RuntimeError(f"cannot submit to a group that is {self._state}; submit inside its `with` block")
        self._submitting[os.getpid()].append(errand)
        return cast("Pool | PoolView", self._pool)

    def _note_submit(self, future: Future[Any]) -> None:
        self._waiting[future] = None
        if self._keep_going:
            self._futures.append(future)

    def _take_back(self, future: Future[Any], error: BaseException) -> None:
        """Let a task go whose submit is to raise."""
        pool = self._pool
        if pool is not None and isinstance(future, Future):
            dispatcher_of(pool).take_back(future, error)
        if future.cancelled():
            locked(_lock, self._forget, future)

    def _forget(self, future: Future[Any]) -> None:
        self._waiting.pop(future, None)
        if future in self._futures:
            self._futures.remove(future)

    def _end_submit(self, errand: Errand) -> None:
        """Note that a submit is over; it may be called again."""
        locked(_lock, self._forget_submit, errand)
        self._wake_if_over()

    def _forget_submit(self, errand: Errand) -> None:
        submitting = self._submitting[os.getpid()]
        if errand in submitting:
            submitting.remove(errand)

    def cancel(self) -> None:
        """Cancel what has not begun, and ask what runs to stop. Leaving the block raises nothing for that.

        A group that is cancelled before its block is entered takes no task.
        """
        self._cancelling = True
        # What waits goes first: a task that sees that it should stop ends, and its thread would take one of these.
        for future in self._submitted():
            future.cancel()
        self._scope.stopped = True  # none joins any more
        for future in self._submitted():
            future.cancel()
        self._scope.cancel()  # wakes those that run

    def _submitted(self) -> list[Future[Any]]:
        return locked(_lock, list, self._waiting)

    @property
    def outcomes(self) -> tuple[Outcome[Future[Any], Any], ...]:
        """What each task returned, or raised, in the order of their submission; once the block is left.

        The `item` of each Outcome is the future of its task, as `submit` returned it.

        Raises:
            RuntimeError: it is not left yet, or the group was not made with `keep_going=True`.
        """
        if not self._keep_going or self._state != CLOSED:
            why = "is not left yet" if self._keep_going else "was not made with keep_going=True"
            raise RuntimeError(f"no outcomes: the group {why}")
        return tuple(outcome_of(future, future) for future in self._futures)

    # -- the block ------------------------------------------------------------------------------------------------

    def __enter__(self) -> TaskGroup:
        scope = Scope(current())
        scope.when_idle(self._wake_if_over)  # of what is submitted here in other ways, too
        locked(_lock, self._open, scope)
        outer = SCOPE.get()
        try:
            token = SCOPE.set(scope)
        except BaseException:  # Ctrl-C, as it returned
            SCOPE.set(outer)
            raise
        self._token = token
        return self

    def _open(self, scope: Scope) -> None:
        if self._state != NEW:
            raise RuntimeError(f"cannot enter a group that is {self._state}; make a new one for each block")
        scope.stopped = self._scope.stopped  # it may be cancelled already
        self._scope, self._state = scope, OPEN
        self._note = InternalCallback(self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._token is not None:
            SCOPE.reset(self._token)
        told_to_stop = issubclass(type(error), CancelledError) and self._cancelling
        if error is not None:
            self.cancel()
        try:
            self._join()
        except KeyboardInterrupt:
            self.cancel()
            self._join()
            raise
        finally:  # who keeps a future, or the group for its outcomes, does not keep the pool
            self._scope.forget_idle()
            if self._state == CLOSED:
                self._pool = self._note = None
        self._raise(error)
        return told_to_stop  # because the group was to, and nobody else

    def _join(self) -> None:
        """Wait until every task is done, and every function has returned."""
        around, worker = self._scope.parent, current_worker()
        for future in list(self._waiting):
            if self._interrupted or future.done():  # or nobody tells of it, for the process forked
                future.add_done_callback(self._note)
        while True:
            latch = closed_latch()
            waiting = locked(_lock, self._close_or_wait, latch)
            if waiting is None:
                future = None  # type: ignore[assignment]  # what one raises that was run here leads to this frame
                return
            home = None if worker is None else worker.owner
            for future in waiting if home is not None else ():
                # A `submit` that was replaced may return what it likes.
                if isinstance(future, Future) and owner_of(future) is home:
                    home.run_instead(future)
            self._wake_if_over()
            if around is None:
                deadlock.wait(latch, worker, self._targets, None)
            else:
                with around.waking(self.cancel):
                    deadlock.wait(latch, worker, self._targets, None)

    def _close_or_wait(self, latch: LockType) -> list[Future[Any]] | None:
        """Close the group, if it is over: None. Else have `latch` opened when it is; return what is not done."""
        if self._is_over():
            self._state = CLOSED
            return None
        self._latch = latch
        return list(self._waiting)

    def _targets(self) -> list[Future[Any] | Errand]:
        # Without the lock, which a fork takes before that of `deadlock`, who asks; in this order, for what is submitted
        # is in both for a moment.
        submitting = list(self._submitting[os.getpid()])
        waiting = list(self._waiting)
        return [*(future for future in waiting if isinstance(future, Future) and not future.done()), *submitting]

    def _is_over(self) -> bool:
        return not self._waiting and not self._submitting[os.getpid()] and not self._scope.running

    def _wake_if_over(self) -> None:
        """Let the end of the block go on, if there is nothing more to wait for."""
        locked(_lock, self._open_latch_if_over)

    def _open_latch_if_over(self) -> None:
        if self._latch is not None and self._is_over():
            open_latch(self._latch)

    def _done(self, future: Future[Any]) -> None:
        """A task is done, though its function may still run. It may be told again."""
        failure = why_dropped(future) if future.cancelled() else future.exception()
        asked = future.cancelled() or issubclass(type(failure), CancelledError)
        stopped = issubclass(type(failure), Cancelled) or (asked and self._cancelling)
        failed = not self._keep_going and failure is not None and not stopped
        locked(_lock, self._note_done, future, failure if failed else None)
        # Also if it was told before: perhaps that was cut in two here.
        if failed:
            self.cancel()
        self._wake_if_over()

    def _note_done(self, future: Future[Any], failure: BaseException | None) -> None:
        if future not in self._waiting:
            return
        # No exception comes between these lines.
        if failure is not None:
            self._failed += [(future, failure)]
        del self._waiting[future]

    def _raise(self, error: BaseException | None) -> None:
        """Raise what went wrong, in the tasks and in the block."""
        if issubclass(type(error), (KeyboardInterrupt, SystemExit, GeneratorExit)):
            return
        failed, self._failed = self._failed, []  # the block's frame has the group, and what they raise may lead there
        for future, failure in failed:
            note(failure, f"in task {getattr(future, 'name', 'of another kind')}")
        errors = [failure for _, failure in failed]
        if error is not None and not issubclass(type(error), CancelledError):
            errors.insert(0, error)
        if errors:
            raise BaseExceptionGroup("tasks of a group failed", errors)
        if self._scope.parent is not None:
            self._scope.parent.check()

    def __repr__(self) -> str:
        cancelled = ", cancelled" if self._cancelling else ""
        return f"<TaskGroup: {self._state}, {counted(len(self._waiting), 'task')} not done{cancelled}>"

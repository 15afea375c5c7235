"""Future: the result of a task that may not have run yet.

To `isinstance`, `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future` it is a
`concurrent.futures.Future`, at a fifth of the cost: its fields are slots, it borrows its pool's lock, and the
condition that the base class makes eagerly is made only when somebody waits through it.

States and legal transitions (guarded by `owner.lock`, and by the condition once there is one):

    PENDING -> RUNNING -> FINISHED             a worker claimed it, then settled it
    PENDING -> CANCELLED_AND_NOTIFIED          cancelled while it waited in a pool
    PENDING -> CANCELLED -> CANCELLED_AND_NOTIFIED    cancelled by hand; its maker then took note
    PENDING -> FINISHED                        settled by hand, or refused by a closed or broken pool
    PENDING -> RUNNING                         begun by hand: a pool lets go of it
    RUNNING -> SETTLED                         settled by hand, while its pool may run it; to others it is FINISHED

By hand: by whoever calls `set_running_or_notify_cancel`, `set_result` or `set_exception`. A task that runs goes on
then, and writes what comes of it to `_result` and `_exception`, without the lock; so what its future was settled with
is kept elsewhere (ColdFields.settled), and its state, which `result` finds not to be *the* FINISHED, leads there.

Who waits: `result()` on a pool's future sleeps at a latch, a raw lock that is released once. The standard library's
functions hold `_condition` while they look at `_state` and install themselves in `_waiters`, so a change of state must
hold that condition too. Order of locks: condition, then `owner.lock`, never the reverse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, InvalidStateError, TimeoutError, _base
from contextvars import Context
from functools import partial
from operator import attrgetter
from threading import Condition
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from treadle._base import checks, clock
from treadle._base.locks import locked
from treadle._base.timer import run_user_code
from treadle._base.words import LONGEST_NAME, cut, type_name
from treadle._tasks.call import Gone, NoContext, name_of
from treadle._tasks.contexts import EMPTY
from treadle._tasks.options import PLAIN, KeySlot, TaskOptions
from treadle._tasks.owner import Owner, Unowned
from treadle._tasks.scope import SCOPE, Scope, checkpoint
from treadle._tasks.unretrieved import Unretrieved
from treadle._tasks.waiters import ColdFields, InternalCallback, Waiters, run_callbacks
from treadle.errors import Cancelled, WorkerLost

__all__ = [
    "CANCELLED",
    "CANCELLED_AND_NOTIFIED",
    "DONE",
    "FINISHED",
    "PENDING",
    "RUNNING",
    "Future",
    "InternalTask",
    "call_of",
    "cold_fields_of",
    "context_of",
    "end_unrun",
    "final_of",
    "finish",
    "go_inside",
    "key_slot_of",
    "leave_to_others",
    "look_at",
    "options_of",
    "orphan",
    "owner_of",
    "see",
    "submitted_at",
    "wait_anew",
    "waiters_of",
]

T = TypeVar("T")
R = TypeVar("R")

_standard_log = logging.getLogger("concurrent.futures")

PENDING = _base.PENDING
RUNNING = _base.RUNNING
CANCELLED = _base.CANCELLED
CANCELLED_AND_NOTIFIED = _base.CANCELLED_AND_NOTIFIED
FINISHED = _base.FINISHED
DONE = (FINISHED, CANCELLED_AND_NOTIFIED, CANCELLED)


class _State(str):
    """A state that equals another, and is not the same object."""

    __slots__ = ()


SETTLED = _State(FINISHED)

DESCRIPTIONS = {CANCELLED_AND_NOTIFIED: "cancelled"}  # as the standard library shows states

GONE = Gone()


class Future(_base.Future[T]):
    """The result of a task: wait for it, ask for it, cancel it, be called when it is there.

    Everything that `concurrent.futures.Future` promises holds. A pool makes futures; make one by hand only to settle
    it yourself. All methods may be called from any thread.

    `result()` and `exception()`, called by a task of the same pool on a task that has not begun, run it there and
    then: a worker never waits for its own pool.
    """

    __slots__ = (
        "_args",
        "_awaited_by",
        "_cold",
        "_context",
        "_exception",
        "_fn",
        "_options",
        "_owner",
        "_result",
        "_state",
        "_submitted",
    )

    # Filled in by hand (see Submitter.submit), without calling __init__; what is not listed there stays unset.
    _owner: Owner[Any]
    _state: str
    _awaited_by: Waiters | None
    _result: Any
    _exception: BaseException | None
    _fn: Any  # Callable; once it has run or will not, its name
    _args: Any  # tuple, or None once it has run
    _context: Any  # Runner, or None once it has run
    _submitted: float  # clock.now() when it was submitted
    _options: TaskOptions
    _cold: ColdFields  # unset in most tasks

    def __init__(self) -> None:
        self._owner = Unowned()
        self._state = PENDING
        self._awaited_by = None
        self._result = None
        self._exception = None
        self._fn = self._args = self._context = None
        self._options = PLAIN
        self._submitted = clock.now()

    # -- asking ---------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned; raise what it raised.

        Args:
            timeout: seconds to wait for it, none left if negative; None waits as long as it takes. A task that is run
                here (see the class) is not interrupted when they have passed.

        Raises:
            TimeoutError: the task was not done in time.
            TypeError, ValueError: the task is not done, and `timeout` is no number of seconds.
            CancelledError: the task was cancelled.
            Shed: its pool dropped the task.
            DeadlineExceeded, Cancelled: the task's, or the caller's, deadline passed; or either was asked to stop.
            PoolDeadlock: the wait could never end (see `treadle.errors.PoolDeadlock`).
        """
        if self._state is FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]  # cast() would be a call
        try:
            if self._state is not FINISHED:
                self = self._wait(timeout)
            if self._exception is None:
                return self._result  # type: ignore[no-any-return]
            raise see(self)
        finally:
            self = None  # type: ignore[assignment]  # tracebacks hold this frame: no cycle through it

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, or None if it returned.

        Args:
            timeout: as for `result`.

        Raises:
            TimeoutError: the task was not done in time.
            TypeError, ValueError: as `result`.
            CancelledError: the task was cancelled.
            PoolDeadlock: the wait could never end.
        """
        try:
            if self._state is not FINISHED:
                self = self._wait(timeout)
            return None if self._exception is None else see(self)
        finally:
            self = None  # type: ignore[assignment]  # as in `result`

    def cancelled(self) -> bool:
        """Return whether the task was cancelled before it began."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Return whether the task runs now."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Return whether the task finished, failed or was cancelled."""
        return self._state in DONE

    @property
    def name(self) -> str:
        """What logs and snapshots call the task: the name given, else that of its function; also when it is done."""
        return self._name_for(self._fn)

    @property
    def priority(self) -> int:
        """How urgent the task is, higher is more; 0 if `Pool.options` did not say."""
        return self._options.priority

    @property
    def key(self) -> Hashable:
        """Whose the task is; None if `Pool.options` did not say."""
        return self._options.key

    @property
    def submitted(self) -> float:
        """When the task was submitted, or let in, or made if that was by hand: seconds on `time.monotonic`'s clock."""
        return self._submitted

    def _name_for(self, fn: Any) -> str:
        """Return the name of this task, which runs, or ran, `fn`; no lock is held, for that is the user's."""
        if self._options.name is not None:
            return self._options.name
        if type(fn) is str:
            return cut(fn, LONGEST_NAME)
        return "future" if fn is None else name_of(fn)

    def _keep_name(self) -> None:
        """Keep only the name of a function that will not be called; no lock is held, for that is the user's to tell."""
        if self._fn is not None and type(self._fn) is not str:
            self._fn = name_of(self._fn)

    def _get_cold(self) -> ColdFields:
        try:
            return self._cold
        except AttributeError:
            cold = ColdFields()
        try:  # again, as in `_get_waiters`
            return self._cold
        except AttributeError:
            self._cold = cold
            return cold

    def _wait(self, timeout: float | None) -> Future[T]:
        """Block until it is done, and return as `final_of`."""
        try:
            left = None if timeout is None else checks.time_left("timeout", timeout)
            if not self.done() and not self._owner.wait(self, left):
                checkpoint()  # the caller's own deadline may have been nearer
                raise TimeoutError
            if self.cancelled():
                raise CancelledError
            return final_of(self)
        finally:
            del self  # as in `result`

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Return (done, cancelled, result, exception) at one instant; asyncio of Python 3.15 asks for it."""
        if self._state == FINISHED:  # and so it stays
            final = final_of(self)
            return True, False, final._result, None if final._exception is None else see(final)
        return locked(self._owner.lock, lambda: (self.done(), self.cancelled(), None, None))

    # -- changing state -------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the task if it has not begun.

        Returns:
            True if it is cancelled (now, or already), False if it runs or is done.
        """
        try:
            if self._transit(self._withdraw, self._owner.cancelled_state):
                self._after_cancel()
        except BaseException:  # Ctrl-C, perhaps: what it has cut in two is done anew
            if self.cancelled():
                self._after_cancel()
            raise
        return self.cancelled()

    def _withdraw(self, state: str) -> bool:
        """Give it a state in the place of PENDING, if it has that; what guards the state is held."""
        if self._state != PENDING:
            return False
        self._owner.withdraw(self, state)
        return True

    def _after_cancel(self) -> None:
        """Let go of the call of a future that is cancelled, and tell who is to know. It may be called again."""
        self._after_withdrawal()
        try:
            self._owner.notify_observers("cancelled", self)
        finally:
            self._tell()

    def _after_withdrawal(self) -> None:
        self._let_go([self._forget_call()])
        self._owner.withdrawn(self)

    def request_cancel(self) -> bool:
        """Cancel the task if it has not begun; else ask it to stop.

        A running task sees that in `treadle.should_stop` and `treadle.checkpoint`, and is woken from `treadle.sleep`,
        `Channel`, `treadle.wait` and `Future.result`, which raise Cancelled. It goes on if it does not look. What it
        has submitted under a `deadline` or in a group is asked to stop too.

        Returns:
            True if it is cancelled, or was asked; False if it is done.
        """
        if self.cancel():
            return True
        if self.done():
            return False
        self._own_scope().cancel()
        return True

    def _own_scope(self) -> Scope:
        """Return what the task itself runs under; made when it is first asked for."""
        return locked(self._owner.lock, self._make_scope)

    def _make_scope(self) -> Scope:
        cold = self._get_cold()
        if cold.scope is None:
            scope = Scope(self._inherited())
            if cold.scope is None:  # as in `_get_waiters`
                cold.scope = scope
        return cold.scope

    def _inherited(self) -> Scope | None:
        """Return the scope that the task was submitted in."""
        return None

    def _skip_rate(self) -> None:
        """Let nothing hold the task up any more: somebody runs it now."""

    def _overdue(self) -> float:
        """Return the seconds that have passed since the task's deadline."""
        return 0.0

    def _look(self) -> tuple[Callable[[], str], float]:
        """Return what tells its name, with no lock held, for that is the user's; and how long it is overdue."""
        return partial(self._name_for, self._fn), self._overdue()

    def _wait_anew(self) -> None:
        """Note that it waits since now."""
        self._submitted = clock.now()

    def set_running_or_notify_cancel(self) -> bool:
        """Begin a future, to settle it by hand; a pool in which it waits lets go of it.

        Returns:
            True: run it. False: it was cancelled, and whoever waits has been told.

        Raises:
            RuntimeError: it had begun, or was done. That is logged too, as in the standard library.
            InvalidStateError: it is a task of treadle's own, of a map say.
        """
        self._check_by_hand()
        state = self._transit(self._begin_by_hand)
        if state == PENDING:
            self._after_withdrawal()
            self._owner.notify_observers("cancelled", self)
            return True
        if state == CANCELLED or (state == CANCELLED_AND_NOTIFIED and self._in_pool()):  # which has told them itself
            return False
        _standard_log.critical("Future %s in unexpected state: %s", id(self), state)
        raise RuntimeError(f"Future in unexpected state: it is {state.lower()}, and cannot begin again: {self!r}")

    def _begin_by_hand(self) -> str:
        """Begin it, or take note that it was cancelled; return the state before. What guards that is held."""
        state = self._state
        if state == CANCELLED:
            self._state = CANCELLED_AND_NOTIFIED
        self._withdraw(RUNNING)
        return self._state if state == PENDING and self.done() else state  # a signal handler may have cancelled it

    def set_result(self, result: T) -> None:
        """Settle the future with `result`. A pool in which it waits lets go of it; if it runs, what it returns is lost.

        Raises:
            InvalidStateError: it was done already; or it is a task of treadle's own, of a map say.
        """
        self._settle(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Settle the future with `exception`; as `set_result`.

        Raises:
            InvalidStateError: it was done already; or it is a task of treadle's own, of a map say.
        """
        self._settle(None, exception)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(future)` once, when the future is done; at once if it is.

        The callback runs in the thread that settles the future; when that fails at its deadline, in one that runs all
        such callbacks of the process, one after another. What it raises is logged and harms nobody.

        Raises:
            TypeError: `fn` is a coroutine function, which a call would not run.
        """
        if type(fn) is not InternalCallback and callable(fn):  # else it is logged later, as in the standard library
            checks.callback("fn", fn)
        if not locked(self._owner.lock, self._add_callback, fn):
            run_callbacks(self, [fn])

    def _add_callback(self, fn: Callable[[Future[T]], object]) -> bool:
        waiters = self._get_waiters()
        # No exception comes between these lines, nor a signal handler, which may settle it.
        if self._state in DONE:
            return False
        waiters.callbacks += [fn]
        return True

    def _settle(self, result: Any, error: BaseException | None) -> None:
        """Finish the future by hand and tell whoever waits."""
        self._check_by_hand()
        if not self._settle_once(result, error, by_hand=True):
            raise InvalidStateError(f"{self._state}: {self!r}")

    def _settle_once(self, result: Any, error: BaseException | None, *, by_hand: bool = False) -> bool:
        """Finish the future and tell whoever waits; False if it was done already."""
        before: list[str] = []
        try:
            if not self._transit(self._settle_now, result, error, by_hand, before):
                return False
            self._after_settling(before)
        except BaseException:  # Ctrl-C, perhaps: what it has cut in two is done anew
            if before and self.done():
                self._after_settling(before)
            raise
        return True

    def _settle_now(self, result: Any, error: BaseException | None, by_hand: bool, before: list[str]) -> bool:
        """Finish it, noting the state that it had `before`; what guards that is held."""
        if self.done():
            return False
        before += [self._state]
        if self._state == RUNNING and by_hand and self._in_pool():
            settled: Future[T] = Future()
            settled._result, settled._exception, settled._state = result, error, FINISHED
            self._get_cold().settled = settled
            self._end_early(SETTLED)
            return True
        self._result, self._exception = result, error
        if not self._withdraw(FINISHED) and not self.done():
            self._state = FINISHED
        return self._state == FINISHED  # unless a signal handler has cancelled it, just now

    def _after_settling(self, before: list[str]) -> None:
        """Tell that it is done, whose state was `before`; it may be called again."""
        if before[0] == PENDING:
            run_user_code(self._after_withdrawal)
        try:
            self._tell()  # first: an observer may block
        finally:
            if before[0] == PENDING:
                self._owner.notify_observers("cancelled", self)

    def _check_by_hand(self) -> None:
        """Raise InvalidStateError if what becomes of it is not for others to say."""

    def _in_pool(self) -> bool:
        return not isinstance(self._owner, Unowned)

    def _end_early(self, state: str) -> None:
        """Set the state of a future that a pool has claimed, and may be running; the lock is held."""
        self._get_condition()  # for whose sake a worker looks at the state before it sets it
        self._state = state

    def _get_condition(self) -> Condition:
        """Return the condition, made if there was none; the lock is held."""
        waiters = self._get_waiters()
        if waiters.condition is None:
            condition = Condition()
            if waiters.condition is None:  # as in `_get_waiters`
                waiters.condition = condition
        return waiters.condition

    def _leave_to_others(self, *, cancelled: bool) -> None:
        """Have a claimed future `cancelled`; or else settled by others, and not when its call returns."""
        if not cancelled:
            self._get_cold().left = True
        self._transit(self._end_early_unless_done, CANCELLED_AND_NOTIFIED if cancelled else RUNNING)
        if self.cancelled():
            self._tell()

    def _end_early_unless_done(self, state: str) -> None:
        if not self.done():
            self._end_early(state)

    def _abandon(self, why: BaseException | None) -> None:
        """Cancel a future that was claimed and will not be run, because its pool drops it. It may be called again."""
        self._let_go([self._forget_call()])
        self._transit(self._abandon_now, why)
        if self.cancelled():  # else it has failed meanwhile, at its deadline
            self._tell()

    def _abandon_now(self, why: BaseException | None) -> None:
        if not self.done():
            cold = self._get_cold()
            cold.dropped = why
            self._state = CANCELLED_AND_NOTIFIED

    def _refuse(self, error: BaseException) -> None:
        """Let go of the call of a future that its pool has not taken, because of `error`."""
        self._let_go([self._forget_call()])

    def _drop(self, error: BaseException) -> None:
        """Fail a future that was claimed and will not be run. It may be called again."""
        self._let_go([self._forget_call()])
        self._settle_once(None, error)

    def _end_unrun(
        self, what: str, error: BaseException, how: Literal["fail", "cancel", "refuse", "turn away"] = "fail"
    ) -> None:
        """Tell the observers `what` becomes of a future that will not be run, and end it. It may be called again.

        Args:
            what: the observers' method.
            error: why.
            how: "fail": with the error. "cancel". "refuse": its caller is told, and nobody has it. "turn away": its
                caller awaits it, so it fails as well.
        """
        try:
            self._owner.notify_observers(what, self, error)
        finally:
            if how == "fail":
                self._drop(error)
            elif how == "cancel":
                self._abandon(error)
            else:
                try:
                    self._refuse(error)
                finally:
                    if how == "turn away":
                        self._drop(error)

    def _orphan(self, left: list[object], *, begun: bool) -> Callable[[], object]:
        """In a forked child, settle what the parent goes on with; no lock is held, and no other thread lives.

        Args:
            left: where it leaves what is the user's, to be let go of last, for a destructor may ask for other futures.
            begun: whether it has.

        Returns:
            What is to be called once all are settled.
        """
        lost = WorkerLost(None, self.name, "the process forked")
        cold = self._get_cold()
        cold.ended = True  # observers are told nothing more
        left += [self._fn, getattr(self, "_result", None), getattr(self, "_exception", None), self._forget_call()]
        self._keep_name()
        if begun:
            self._args, self._context = (), GONE  # this thread may have claimed it, and be about to run it
            self._result, self._exception = None, lost
            self._state = FINISHED
        else:
            cold.dropped = lost
            self._state = CANCELLED_AND_NOTIFIED
        return self._after_orphan

    def _after_orphan(self) -> None:
        """Do what else is to be done once all are settled."""

    def _transit(self, section: Callable[..., R], *args: Any) -> R:
        """Return `section(*args)`, called with what guards the state held; tell those who wait for the condition."""
        condition, came = locked(self._owner.lock, self._without_condition, section, args)
        if condition is None:
            return cast(R, came)
        return locked(condition, self._with_condition, section, args)

    def _with_condition(self, section: Callable[..., R], args: tuple[Any, ...]) -> R:
        before = self._state
        try:
            came = locked(self._owner.lock, section, *args)
            if self._state != before:
                self._notify_waiters()
        except BaseException:  # Ctrl-C, perhaps: what it has cut in two is done anew
            if self._state != before:
                self._notify_waiters(again=True)
            raise
        return came

    def _notify_waiters(self, *, again: bool = False) -> None:
        self._get_waiters().notify(self, failed=self._has_failed(), again=again)

    def _has_failed(self) -> bool:
        return self._state == FINISHED and final_of(self)._exception is not None

    def _without_condition(self, section: Callable[..., R], args: tuple[Any, ...]) -> tuple[Condition | None, R | None]:
        """Call `section`, unless there is a condition, which is to be held then; return that, or what it returned."""
        condition = None if self._awaited_by is None else self._awaited_by.condition
        return condition, (section(*args) if condition is None else None)

    def _tell(self) -> None:
        """Open the latches and run the callbacks of a future that is done; no lock is held."""
        if self._awaited_by is not None:
            self._awaited_by.tell(self, self._owner.lock)

    # -- running --------------------------------------------------------------------------------------------------

    def _fill(
        self, owner: Owner[Any], fn: Callable[..., Any], args: tuple[Any, ...], context: Any, options: TaskOptions
    ) -> None:
        """Be a task that has not been admitted, of a pool."""
        self._owner = owner
        self._state = PENDING
        self._awaited_by = None
        self._fn = fn
        self._args = args
        self._context = context or EMPTY  # each that waits would hold one
        self._submitted = clock.now()
        self._options = options

    def _go_inside(self, inside: Callable[[Any], Context]) -> None:
        """Be run inside of what runs in this thread: held up by nothing, in what `inside` returns for its context."""
        self._skip_rate()
        bare = isinstance(self._context, NoContext)
        context = self._context = inside(self._context)
        if bare:  # or it would see the scope that we are in
            context.run(SCOPE.set, self._inherited())

    def _invoke(self) -> bool:
        """Run the call in its context, keep what comes of it, and forget the call. It is not settled yet.

        Returns:
            Whether the task is to go back to the queue instead of being settled.
        """
        context: Any = self._context
        fn: Any = self._fn
        args: Any = self._args
        try:
            if context is EMPTY:
                context = Context()
            if not args:  # `*args` would do for all, and take a tenth of what a task takes
                self._result = context.run(fn)
            elif len(args) == 1:
                self._result = context.run(fn, args[0])
            else:
                self._result = context.run(fn, *args)
            self._exception = None
        except Cancelled as error:  # as it was told
            self._result, self._exception = None, error
        except BaseException as error:
            self._get_cold().unretrieved = Unretrieved(self.name, error)
            self._result, self._exception = None, error
        self._args = self._context = None
        if type(fn) is FunctionType:  # nearly always, and this is the path of every task
            self._fn = fn.__qualname__
        else:
            self._keep_name()
        del self, context, fn, args  # tracebacks hold this frame: no cycle
        return False

    def _finish(self) -> None:
        """Settle a future whose call was run, unless others have done so, or will; and tell whoever waits."""
        if self._state is not FINISHED:
            self._transit(self._finish_now)
            if not self.done():
                return
        if self._awaited_by is not None:  # as `_tell`, spelled out because this is the path of many tasks
            self._awaited_by.tell(self, self._owner.lock)

    def _finish_now(self) -> None:
        cold = getattr(self, "_cold", None)
        if not self.done() and (cold is None or not cold.left):
            self._state = FINISHED

    def _forget_call(self) -> object:
        """Return the call, for whoever holds a lock to let go of it afterwards: destructors are the user's."""
        call = self._args, self._context
        self._args = self._context = None
        self._leave_scope()
        return call

    def _leave_scope(self) -> None:
        """Have nobody wait for it any more but those who hold it, for it will not run."""

    def _let_go(self, call: list[object]) -> None:
        """Let go of what `_forget_call` has returned, and of the function; no lock is held."""
        call.clear()
        self._keep_name()

    # -- for the standard library ---------------------------------------------------------------------------------

    def _get_waiters(self) -> Waiters:
        """Return the waiters, made if there were none; the lock is held."""
        if self._awaited_by is None:
            waiters = Waiters()
            if self._awaited_by is None:  # still, and no signal handler was faster
                self._awaited_by = waiters
        return self._awaited_by

    if not TYPE_CHECKING:  # to type checkers they are the attributes that the base class has, which others expect

        @property
        def _condition(self) -> Condition:
            return locked(self._owner.lock, self._get_condition)

        @property
        def _waiters(self) -> list[Any]:
            return locked(self._owner.lock, self._get_waiters).waiters

        @property
        def _done_callbacks(self) -> list[Callable[[Future[T]], object]]:
            """Those that are still to be called: the list itself, which others look into, and take from."""
            return locked(self._owner.lock, self._get_waiters).callbacks

        @_done_callbacks.setter
        def _done_callbacks(self, callbacks: list[Callable[[Future[T]], object]]) -> None:
            locked(self._owner.lock, self._get_waiters).callbacks = callbacks

    def __repr__(self) -> str:
        state, outcome = self._state, ""
        if state == FINISHED:  # and so it stays
            final = final_of(self)
            error, result = final._exception, final._result
            outcome = f" returned {type_name(result)}" if error is None else f" raised {type_name(error)}"
        kind = type(self)
        shown = "Future" if kind.__module__.startswith("treadle.") else kind.__name__  # the name that is public
        if self._fn is not None or self._options.name is not None:  # else it was made by hand, of nothing
            shown += f" of {self.name}"
        return f"<{shown} at {id(self):#x} state={DESCRIPTIONS.get(state, state.lower())}{outcome}>"


class InternalTask(Future[Any]):
    """Work of treadle's own. Observers are not told of it, nor is it counted; it can be cancelled, but not settled."""

    __slots__ = ()

    def _check_by_hand(self) -> None:
        raise InvalidStateError(f"{self!r} does work of treadle's own, which can be cancelled, but not settled")

    def _forget_call(self) -> object:
        """Nothing: what it does is not the user's to be let go of."""


# -- what the packages above may ask of a task, and do with it: its own names are its user's to choose ----------------

# In C, for what is asked for every task.
owner_of: Callable[[Future[Any]], Owner[Any]] = attrgetter("_owner")
options_of: Callable[[Any], TaskOptions] = attrgetter("_options")
key_slot_of: Callable[[Any], KeySlot] = attrgetter("_options.slot")
submitted_at: Callable[[Any], float] = attrgetter("_submitted")  # since when it waits
context_of: Callable[[Any], Any] = attrgetter("_context")  # in what it runs; None once it has run
call_of: Callable[[Any], tuple[Any, Any]] = attrgetter("_fn", "_args")  # the latter None if it is not to be made

# What it does itself.
cold_fields_of = Future._get_cold
end_unrun = Future._end_unrun
finish = Future._finish
go_inside = Future._go_inside
orphan = Future._orphan
leave_to_others = Future._leave_to_others
look_at = Future._look
wait_anew = Future._wait_anew
waiters_of = Future._get_waiters


def final_of(task: Future[T]) -> Future[T]:
    """Return what has the outcome of a future that is finished: itself, or what it was settled with by hand."""
    return cast("Future[T]", cold_fields_of(task).settled) if task._state is SETTLED else task


def see(task: Future[Any]) -> BaseException:
    """Return the exception of `task`, which from now on is not lost any more."""
    cold: ColdFields | None = getattr(task, "_cold", None)
    if cold is not None and cold.unretrieved is not None:
        cold.unretrieved.see()
    return cast(BaseException, task._exception)

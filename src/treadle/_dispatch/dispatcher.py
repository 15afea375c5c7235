"""Dispatcher: brings a pool's tasks to its threads. Each transition of a task stands here, or in its parts, once.

The pool is the user's handle and may be dropped at any time; its workers hold the dispatcher, never the pool, so a
dropped pool is noticed and its threads end. None of the parts holds the dispatcher: so it is freed with the pool.

    submit -> Admission judges -> TaskQueue -> a worker of Workers claims it -> settled
                    `-> callers that wait for room -^

What becomes of a task, and where it is then. Each line but the first changes state and place with the lock held; who
ends a task, or runs it, elsewhere counts it by itself; whoever is to be told is told after it.

    PENDING    made                                               its submitter's; a map's turn is RUNNING till then
               _put, _enter_plainly, _let_in, bring_back          TaskQueue.tasks
               _decide: WAIT                                      Admission.waiting
               put_back, unclaim, _give_back, _keep_unclaimed     TaskQueue.tasks: it has not begun, or goes on later
               _wait_again: by its rate                           TaskQueue.throttled; `resume` puts it back
               take_out: by strangers                             TaskQueue.out
    RUNNING    TaskQueue.claim_next, _serve, _hand_over           Worker.task
               _claim_for_caller, _decide: RUN_HERE               Worker.task, or HERE.tasks; INLINE until it begins
               Claims.add: to be ended                            State.claimed, with the reason
               _stop_waiting, _refuse_all, _let_in                State.claimed: REFUSED, which its caller raises
               withdraw: begun by hand                            nowhere; in the order a tombstone
    FINISHED   _serve, Future._finish: it has run                 Worker.last until that is told; then nowhere
               _end: it was given up                              nowhere
               withdraw: by its deadline, or by hand              nowhere; in the order a tombstone
               Future._settle_once: by its deadline, as it runs   Worker.task, until its function returns
    SETTLED    as it runs, by hand                                likewise
    CANCELLED_AND_NOTIFIED
               withdraw: before it began                          nowhere; in the order a tombstone
               _end: closed; _take_back: refused; a fork          nowhere

Guarantees: at most `max_workers` threads, and at most `queue_size` waiting tasks beyond those that free workers are
about to take, what an event loop submits, and what goes on later; a task that was admitted is run, cancelled, or failed
with a reason. No user's code runs while the lock is held, but an order of the user's own: no call, no logging, no
destructor, no hash of a key; no thread is started. An exception that comes between any two lines loses nothing: what is
claimed is in somebody's hands, where the next who comes finds it; what else was half done is found anew (`_mend`).

A signal handler, or a finalizer that the garbage collector runs, may call amid a section of its own thread. It is told
what is so: its task is in, or refused; what it cancels is cancelled. But it waits for no room, starts no thread, and
takes nothing from where the section that it came amid may look for it: what follows from it is found when that is over
(`_after_visit`).
"""

from __future__ import annotations

import itertools
import logging
import sys
from _thread import allocate_lock
from collections.abc import Callable, Collection, Container
from concurrent.futures import CancelledError
from functools import partial
from threading import current_thread, get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from treadle._base import clock
from treadle._base.late import Late
from treadle._base.locks import (
    at_waits,
    closed_latch,
    defer,
    deferred,
    is_held,
    locked,
    make_deferred_calls,
    open_latch,
)
from treadle._base.threads import has_ended
from treadle._base.timer import run_user_code
from treadle._base.words import log, log_first
from treadle._dispatch import deadlock
from treadle._dispatch.admission import Admission, Verdict, WaitingSubmitter
from treadle._dispatch.idle import IdleTask
from treadle._dispatch.queue import TaskQueue
from treadle._dispatch.shedding import shed_error
from treadle._dispatch.state import AT_EXIT, INLINE, REFUSED, Claims, State, Task
from treadle._dispatch.worker import FREE, ThreadSetup, Worker, current_worker, lent_here
from treadle._dispatch.workers import Entrance, Workers
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import taken
from treadle._tasks.future import (
    CANCELLED_AND_NOTIFIED,
    DONE,
    PENDING,
    RUNNING,
    InternalTask,
    cold_fields_of,
    context_of,
    end_unrun,
    final_of,
    finish,
    go_inside,
    options_of,
    owner_of,
    see,
    wait_anew,
    waiters_of,
)
from treadle._tasks.scope import HERE, current, task_here
from treadle._tasks.scoped import (
    ScopedTask,
    is_wanted,
    note_entered,
    rate_left,
    scope_of,
    step_out_of_line,
    wait_for_rate,
    want,
)
from treadle.errors import PatchedTooLate, PoolBroken, PoolClosed, PoolDeadlock, PoolFull, WorkerLost
from treadle.orders import Order
from treadle.orders._guard import guarded

if TYPE_CHECKING:
    from _thread import LockType
    from contextvars import Context
    from threading import Thread
    from weakref import ref

    from treadle import events
    from treadle._base.limit import Gradient
    from treadle._tasks import observers as watching
    from treadle._tasks.scope import Scope
    from treadle.events import Observer

if not TYPE_CHECKING:  # needed by those who observe
    events, watching = Late("treadle.events"), Late("treadle._tasks.observers")

__all__ = ["Dispatcher", "Inheritance", "Task"]

_log = logging.getLogger("treadle")

_serial = itertools.count(1)

P = ParamSpec("P")
T = TypeVar("T")

BARE = NoContext()

SINGLE_DIGIT = 2**30 - 1  # the highest integer of one digit: such compare fastest, and submit() compares for each task

BEYOND = (
    "pool %r is full; an event loop must not wait for room, so what its thread submits is taken beyond the bound; "
    "await pool.run(...) instead, or hold a semaphore around to_thread"
)
BEYOND_AMID = (
    "pool %r is full; a signal handler, or a finalizer, that comes amid another call of the pool cannot wait for room, "
    "so what it submits is taken beyond the bound; submit by a view whose policy is another one"
)


def running_loop() -> object:
    """Return the event loop that runs in this thread, if any."""
    # Where nobody has imported asyncio, none runs. Without the GIL `get` would take the dictionary's lock, which all
    # threads would wait for; and CPython 3.13 may fork while one of them has it, so that the child waits for ever.
    try:
        return sys.modules["asyncio.events"]._get_running_loop() if "asyncio.events" in sys.modules else None
    except (KeyError, AttributeError):  # it was taken out just now, or is being imported
        return None


class Input(Protocol):
    """The input of a map that was accepted, and is to be read to its end."""

    door: Any  # of the view that the map was called on

    def read_to_end(self, deadline: float | None, *, wait: bool) -> None:
        """Read it in this thread, until `deadline` at most; where another one reads, `wait` for that, or leave it."""

    def leave(self) -> None:
        """Have the workers read what is left."""

    def give_up(self) -> None:
        """Have nobody but the consumer read on."""

    def forget_readers(self) -> None:
        """In a forked child, leave it to the parent."""


class Inheritance(NamedTuple):
    """What a forked child finds of a pool of its parent's, and is to settle, or let go of, with no lock held."""

    tasks: list[Task]  # that were not done
    pending: set[Task]  # of them, those that had not begun
    maps: list[Input]
    rest: list[object]


class Dispatcher:
    """Admits tasks, keeps them in order, and brings them to workers. One a pool. Any thread may call any method."""

    __slots__ = (
        "__weakref__",
        "admission",
        "entrance",
        "limit",
        "lock",
        "maps",
        "name",
        "order",
        "pool",
        "queue",
        "setup",
        "state",
        "workers",
    )
    cancelled_state = CANCELLED_AND_NOTIFIED

    def __init__(
        self,
        *,
        name: str,
        setup: ThreadSetup,
        max_workers: int,
        min_workers: int,
        queue_size: int | None,
        order: Order,
        observers: tuple[Observer, ...],
        limit: Gradient | None,
    ) -> None:
        self.name = name
        self.setup = setup
        self.state = State(name, observers)
        self.lock = self.state.lock
        self.order = order  # as it was given
        order.threads = max_workers  # with no guard yet: what that raises is the caller's to know
        self.queue = TaskQueue(guarded(order, self.state))
        self.entrance = Entrance(self.lock, self.queue.tasks, self.queue.put)
        self.workers = Workers(self.entrance, max_workers, min_workers)
        self.admission = Admission(self.state, self.queue, self.workers, queue_size)
        self.limit = limit
        at_waits(self.lock, self._leave_amid, self._note_visit)
        self.maps: dict[Input, None] = {}  # of which every item is to run, and not all was read; the oldest first
        self.pool: ref[Any] | None = None  # the user's handle; None: one that no user has
        self._make_room()

    # -- asking -----------------------------------------------------------------------------------------------------

    @property
    def told(self) -> dict[object, object]:
        """What was logged of the pool, see `treadle._base.words.log_first`."""
        return self.state.told

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who is told what happens to tasks."""
        return self.state.observers

    @property
    def max_workers(self) -> int:
        """The ceiling on threads that the pool was given; what a limit has found is below it."""
        return self.workers.max_workers if self.limit is None else self.limit.most

    @property
    def closed(self) -> str | None:
        """After what the pool was closed; None while it is open."""
        return self.state.closed

    @property
    def broken(self) -> PoolBroken | None:
        """Why the pool is broken; None if it is not."""
        return self.state.broken

    @property
    def abandoned(self) -> bool:
        """Whether Ctrl-C ended its `with` block: nobody waits for what still runs."""
        return self.state.abandoned

    @property
    def has_more(self) -> bool:
        """Whether a task waits that a free thread would take."""
        return bool(self.queue.ready)

    @property
    def dropping(self) -> bool:
        """Whether it is closed, and what had not begun was cancelled."""
        return self.state.dropping

    def free_threads(self) -> int:
        """Return how many tasks could be taken at once."""
        return self._do(self.workers.free)

    def is_ours(self) -> bool:
        """Return whether this thread is one of the pool's workers."""
        worker = current_worker()
        return worker is not None and worker.owner is self and worker is not self.workers.stray

    def is_inside(self) -> bool:
        """Return whether this thread is one of the pool's, from its first line to its last, or runs a task of it."""
        worker = current_worker()
        if worker is not None and worker.owner is self:
            return self.is_ours()
        if worker is None and (HERE.leaving is self.state or self._do(self.workers.has_here)):
            return True
        return any(owner_of(task) is self for task in (HERE.tasks if worker is None else worker.stack()))

    def check_open(self) -> None:
        """Raise why the pool takes no more, if so: PoolClosed, PoolBroken, or RuntimeError when Python exits."""
        state = self.state
        if state.broken is not None:
            raise state.why_broken()
        if state.closed is not None:
            raise state.why_closed()

    # -- submitting -------------------------------------------------------------------------------------------------

    def enter(self, task: Task, when_full: str, timeout: float | None = None) -> None:
        """Admit `task`, or do what `when_full` says, unless that would hold up an event loop, whose thread this is.

        Then the task is taken beyond the bound: what makes room may need that very loop.

        Raises:
            PoolFull, PoolClosed, PoolBroken: the task was not taken, and will not run.
            RuntimeError: no thread could be started, and none lives; or the interpreter exits.
            PatchedTooLate: none could be started, for threads are greenlets now.
        """
        would_block = when_full == "caller_runs" or (when_full == "block" and timeout != 0)
        on_loop = would_block and running_loop() is not None
        if when_full == "block" and timeout == 0:
            when_full = "block" if self.is_ours() else "reject"
        try:
            if isinstance(task, ScopedTask):
                scope_of(task).join(task)  # from which its end takes it out again
            self.notify_observers("submitted", task)
            verdict = Verdict.ENTER
            if not (self._may_enter_plainly() and self._do(self._enter_plainly, task)):
                verdict = self._admit(task, when_full, on_loop=on_loop)
            if verdict is Verdict.ENTER_BEYOND:
                message = BEYOND if on_loop else BEYOND_AMID
                defer(partial(log_first, self.told, message, _log, logging.WARNING, message, self.name))
            elif verdict is Verdict.RUN_HERE:
                self.run_here(task)
            elif verdict is Verdict.WAIT:
                self._wait_for_room(task, timeout)
            if isinstance(task, ScopedTask):
                note_entered(task)
        except BaseException as error:
            try:
                self.take_back(task, error)
            except BaseException:  # Ctrl-C, perhaps as that began, where it cannot see it
                self.take_back(task, error)
                raise
            raise
        finally:
            del task  # what it raises, if it is run here, leads to this frame: no cycle through it

    def _may_enter_plainly(self) -> bool:
        """Return whether a task may enter as most do: there is room, and a worker comes."""
        entrance = self.entrance
        waiting = len(entrance.tasks)
        return waiting < entrance.room and (not entrance.growing or waiting < len(entrance.idle))

    def _enter_plainly(self, task: Task) -> bool:
        if not self._may_enter_plainly():
            return False
        try:
            task._state = PENDING  # that of a map is not, until here
            self.queue.put(task)
            self.workers.wake_one()
        except BaseException:  # Ctrl-C: before anybody else can claim it
            self._take_back(task)
            raise
        return True

    def enter_later(self, task: Task, when_full: str) -> bool:
        """Admit `task` without blocking: at once, or, if the policy is to wait or to run, when there is room.

        Returns:
            True if it is in, False if it waits for room. `give_up_waiting` takes it out again.

        Raises:
            As `enter`.
        """
        policy = when_full if when_full in ("reject", "discard_oldest") else "later"
        try:
            if isinstance(task, ScopedTask):
                scope_of(task).join(task)  # from which its end takes it out again
            self.notify_observers("submitted", task)
            verdict = self._admit(task, policy, on_loop=False)
            if isinstance(task, ScopedTask):
                note_entered(task)
        except BaseException as error:
            try:
                self.take_back(task, error)
            except BaseException:  # Ctrl-C, perhaps as that began, where it cannot see it
                self.take_back(task, error)
                raise
            raise
        return verdict is not Verdict.WAIT

    def offer(self, task: Task) -> bool:
        """Admit `task`, a turn of a map, if there is room now."""
        try:
            return self._admit(task, "offer", on_loop=False) is Verdict.ENTER
        except RuntimeError:  # the pool is broken, or closed; or no thread can be started
            return False

    def carry_on(self, task: Task) -> None:
        """Admit `task`, of a map that was accepted, whether there is room or not; raise as `enter`."""
        self._admit(task, "carry_on", on_loop=False)

    def _admit(self, task: Task, when_full: str, *, on_loop: bool) -> Verdict:
        """Do what admission decides, as far as it is done with the lock held; return what it is.

        Raises:
            As `enter`.
        """
        try:
            return self._admit_at_last(task, when_full, self.is_ours(), on_loop)
        except BaseException:  # the thread that was started for it is to leave again
            self.expect_nothing()
            raise

    def _admit_at_last(self, task: Task, when_full: str, inside: bool, on_loop: bool) -> Verdict:
        started: Worker | bool | None = None  # False: none is to be started
        while True:
            verdict = self._do_and_end(self._try_to_admit, task, when_full, on_loop, inside, started, log_only=True)
            if isinstance(verdict, Exception):
                try:
                    raise verdict
                finally:
                    del verdict  # its traceback holds this frame: no cycle
            if not isinstance(verdict, Verdict):
                raise verdict()
            if verdict is not Verdict.START_THREAD:
                return verdict
            started = self._start_worker(needed=True, expected=get_ident()) or False

    def _try_to_admit(
        self, claims: Claims, task: Task, when_full: str, on_loop: bool, inside: bool, started: Worker | bool | None
    ) -> Verdict | Exception | Callable[[], PoolFull]:
        """Decide, and act on it; the lock is held. Return what was decided, or why it is refused."""
        try:
            verdict = self._decide(claims, task, when_full, on_loop, inside, started)
            if isinstance(started, Worker):
                self.workers.expect_no_more(started)
            return verdict
        except BaseException:  # Ctrl-C: before anybody else can claim it
            self._take_back(task)
            raise

    def _decide(
        self, claims: Claims, task: Task, when_full: str, on_loop: bool, inside: bool, started: Worker | bool | None
    ) -> Verdict | Exception | Callable[[], PoolFull]:
        admission = self.admission
        refusal = admission.refusal(task, self)
        if refusal is not None:
            if self.state.broken is None or not isinstance(started, Worker):
                return refusal
            claims.add(task, "broken")  # the thread could not be set up that was to run it: so its future fails
            return Verdict.ENTER
        if when_full == "carry_on" or admission.is_late(task, self):
            verdict = Verdict.ENTER
        elif when_full == "offer":
            verdict = Verdict.ENTER if admission.has_room(task) else Verdict.REFUSE
        else:
            stood = self.queue.standing
            verdict = admission.judge(task, when_full, on_loop=on_loop, inside=inside, claims=claims)
            if claims.mine or stood != self.queue.standing:
                self._make_room()
                self._let_in()
            self._look_for_debris()
            refusal = admission.refusal(task, self)  # anew, for a signal handler may have shut the pool down meanwhile
            if refusal is not None:
                return refusal
        if verdict is Verdict.ENTER or verdict is Verdict.ENTER_BEYOND:
            # Asked anew, for the one that was started comes for what others have let in meanwhile, relying on it.
            if started is not False and admission.wants_thread(task):
                return Verdict.START_THREAD
            if isinstance(started, Worker) and not self.entrance.tasks and self.workers.is_free(started):
                self._hand_over(claims, task, started)
            else:
                self._put(task)
        elif verdict is Verdict.RUN_HERE:
            self._take_in_hand(task)
            task._state = RUNNING
        elif verdict is Verdict.WAIT:
            submitter = WaitingSubmitter(blocking=when_full != "later")
            task._state = PENDING
            admission.waiting[task] = submitter
        elif when_full != "offer":
            return admission.full(task)
        return verdict

    def _put(self, task: Task) -> None:
        """Put a task in the order, and see that a worker comes for it; the lock is held."""
        task._state = PENDING  # that of a map is not, until here
        self.queue.put(task)
        self._see_to_it()
        self.admission.tell_taker()

    def _hand_over(self, claims: Claims, task: Task, worker: Worker) -> None:
        """Have the worker that was started for a task claim it: so it has begun when its submit returns.

        It comes by the order, which may hold it back, and is to know of it.
        """
        task._state = PENDING  # as in `_put`
        self.queue.put(task)
        if self.queue.claim_next(worker) is None:  # it is held back, or the order has failed
            self._see_to_it()
        elif self.workers.is_known(worker):
            self.workers.wake(worker)
        else:  # it has left, for a signal handler has waited for that just now
            self.put_back(claims, task, True)
            worker.task = None

    def _see_to_it(self) -> None:
        """See that somebody comes for the tasks that wait, as far as no thread is to be started; the lock is held."""
        workers, entrance = self.workers, self.entrance
        if entrance.idle:
            workers.wake_one()
        elif workers.idle_tasks.running and self.queue.ready and len(entrance.tasks) > entrance.waking:
            workers.idle_tasks.preempt_one()
            workers.recount()

    def _wait_for_room(self, task: Task, timeout: float | None) -> None:
        """Block until `task` is in, or refused; raise why, also when `timeout` seconds have passed."""
        submitter = self.admission.waiting.get(task)
        if submitter is None:  # it is in already, or the pool was closed meanwhile
            if self.state.claimed.get(task) is REFUSED:
                raise self._why_no_more()
            return
        latch, worker = cast("LockType", submitter.latch), current_worker()
        scope, caller, error, full = current(), task_here(), None, None
        targets: deadlock.Targets = partial(list, (task,))  # no lambda, of which a cell would keep the task
        try:
            if scope is None:
                came = deadlock.wait(latch, worker, targets, timeout)
            else:
                with scope.waking(partial(self._stop_waiting_in, scope, task, caller)):
                    came = deadlock.wait(latch, worker, targets, scope.left(timeout))
            error = submitter.refusal
            if not came and error is None:
                full = self._do(self._stop_waiting, task, None, timeout or 0.0)
                if full is None:  # it is in, or refused, just now
                    error = submitter.refusal
                else:
                    error = (None if scope is None else scope.over(caller)) or full()
            if error is not None:
                raise error
        finally:  # as in `enter`, and of what is raised here
            task = targets = submitter = error = full = None  # type: ignore[assignment]

    def _stop_waiting_in(self, scope: Scope, task: Task, caller: Any) -> None:
        self.stop_waiting(task, scope.over(caller))

    def stop_waiting(self, task: Task, error: BaseException | None) -> None:
        """Let the caller of `task` wait for room no longer, and have it raise `error`, for it was asked to stop."""
        self._do(self._stop_waiting, task, error)

    def give_up_waiting(self, task: Task, waited: float) -> None:
        """Fail a task that has waited for room so many seconds, and whose caller awaits it; not if it is in."""
        if task in self.admission.waiting:
            error = self._do(self.admission.full, task, waited)()  # with no lock held, for it shows the key
            self._do_and_end(self._give_up_waiting, task, error)

    def _give_up_waiting(self, claims: Claims, task: Task, error: PoolFull) -> None:
        if task in self.admission.waiting:
            claims.add_waiting(task, error)
            self.admission.let_go(task)

    def _stop_waiting(
        self, task: Task, error: BaseException | None, waited: float = 0.0
    ) -> Callable[[], PoolFull] | None:
        """Claim a task that waits for room, for its caller to refuse; the lock is held. None: too late, it is in."""
        full = self.admission.full(task, waited)
        # No exception comes between these lines.
        if task not in self.admission.waiting or task._state is not PENDING:
            return None
        self.admission.waiting[task].refusal = error
        self.state.claimed[task] = REFUSED
        task._state = RUNNING
        self.admission.let_go(task)
        return full

    def take_back_submitted(self, task: Task, error: BaseException, held: bool) -> None:
        """As `take_back`, for a section that is spelled out: whether the lock is `held`, or was about to be."""
        try:
            if held and is_held(self.lock):
                self._mend()  # before anybody else sees it, or can claim the task
                self._take_back(task)
        finally:
            try:
                self.mend(held)
            finally:
                self.take_back(task, error)

    def take_back(self, task: Task, error: BaseException) -> None:
        """Refuse a task whose submit `error` ended, at whichever line; unless it has begun.

        Args:
            task: not admitted, admitted, or whatever became of it since.
            error: what the submit is to raise.
        """
        try:
            self._take_back_and_refuse(task, error)
        except BaseException:  # Ctrl-C, before it was refused
            self._take_back_and_refuse(task, error)
            raise

    def _take_back_and_refuse(self, task: Task, error: BaseException) -> None:
        if self._do(self._take_back, task) or task.done():
            end_unrun(task, "rejected", error, "refuse")

    def _take_back(self, task: Task) -> bool:
        """Take a task that has not begun from wherever it is; the lock is held. False: it has, or is done."""
        state, counts = self.state, self.state.counts
        loud = not isinstance(task, InternalTask)
        if self._was_handed_over(task):
            counts.rejected += loud
            if self.queue.has(task):
                self.queue.leave(task, CANCELLED_AND_NOTIFIED)
            else:
                task._state = CANCELLED_AND_NOTIFIED
            return True
        if task._state is PENDING:
            counts.rejected += loud
            if task in self.admission.waiting:
                task._state = CANCELLED_AND_NOTIFIED
                self.admission.let_go(task)
            elif self.queue.has(task):
                self.queue.leave(task, CANCELLED_AND_NOTIFIED)
                self._tidy(task)
            else:
                task._state = CANCELLED_AND_NOTIFIED
            return True
        if self._put_down(task) or state.claimed.get(task) is REFUSED:  # its caller has it
            state.claimed.pop(task, None)
            counts.rejected += loud
            task._state = CANCELLED_AND_NOTIFIED
            return True
        if task._state is not RUNNING:
            return False
        if not loud and not self._is_in_hands(task):  # of a map, and never got in
            task._state = CANCELLED_AND_NOTIFIED
            return True
        return False

    def _was_handed_over(self, task: Task) -> bool:
        """Take `task` from the worker that it was handed over to, if that has not come for it; the lock is held."""
        for worker in self.workers.everybody_to_come():
            if worker.task is task and worker.phase in FREE and not task.done():
                worker.task = None
                if self.queue.observe_end is not None:
                    self.queue.observe_end(task)
                return True
        return False

    def _is_in_hands(self, task: Task) -> bool:
        """Return whether a worker has `task`; the lock is held."""
        return any(task in worker.stack() for worker in list(self.workers.present))

    # -- tasks that others take from the queue ----------------------------------------------------------------------

    def take_out(self, token: object) -> tuple[Task | None, bool]:
        """Take the task away whose turn is next: whoever has `token` sees to it.

        It stays pending, and so may be cancelled, settled, or run for a worker that waits for it, as others may.

        Returns:
            The task, or None; and whether the pool is closed.
        """
        task = self._do(self._take_out, token)
        if task is not None:
            step_out_of_line(task)
        self.grow()
        return task, self.state.closed is not None

    def _take_out(self, token: object) -> Task | None:
        if self.state.inside:
            return None
        while (task := self.queue.first()) is not None and not self.queue.take_out(task, token):
            pass  # a signal handler has cancelled it just now
        if task is None:
            return None
        self._look_for_debris()
        self._make_room()
        self._let_in()
        return task

    def bring_back(self, task: Task, token: object) -> bool:
        """Put a task back that was taken out, whether there is room or not, for it was admitted once.

        Returns:
            False if it is not out any more, or not by `token`.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool takes nothing more; the task stays out.
        """
        came = self._do(self._bring_back, task, token)
        if isinstance(came, Exception):
            try:
                raise came
            finally:
                del came  # its traceback holds this frame: no cycle
        self.grow()
        return came

    def _bring_back(self, task: Task, token: object) -> bool | Exception:
        if self.queue.out.get(task) is not token:
            return False
        refusal = self.admission.refusal(task, self)
        if refusal is not None:
            return refusal
        wait_anew(task)
        self.queue.put(task)
        del self.queue.out[task]
        self._see_to_it()
        self.admission.tell_taker()
        return True

    def wait_for_task(self, timeout: float | None) -> None:
        """Block until a task waits, the pool is closed, or `timeout` seconds have passed."""
        latch = closed_latch()
        try:
            if self._do(self._watch_queue, latch):
                latch.acquire(True, -1 if timeout is None else timeout)
        finally:
            self._do(self._unwatch_queue, latch)

    def _watch_queue(self, latch: LockType) -> bool:
        self.admission.takers.append(latch)  # before the look: a signal handler may submit just after that
        self._make_room()  # for none: in the plain way nobody is told of a task
        return not self.queue.waiting() and self.state.closed is None

    def _unwatch_queue(self, latch: LockType) -> None:
        if latch in self.admission.takers:
            self.admission.takers.remove(latch)
        self._make_room()

    # -- for futures (see Owner) ------------------------------------------------------------------------------------

    def wait(self, future: Task, timeout: float | None) -> bool:
        """Block until `future` is done; if it has not begun and this is one of our workers, run it here instead."""
        worker, scope = current_worker(), current()
        try:
            if scope is not None and scope.over() is not None:  # begin nothing for a caller that should stop
                return future.done()
            if worker is not None and worker.owner is self and self.run_instead(future):
                return True
            latch = allocate_lock()
            latch.acquire()  # closed
            targets: deadlock.Targets = partial(list, (future,))  # as there
            try:
                if self._do(self._watch, future, latch):
                    return True
                if scope is None:
                    return deadlock.wait(latch, worker, targets, timeout) or future.done()
                with scope.waking(partial(self._do, self._unwatch, future, latch)):
                    deadlock.wait(latch, worker, targets, scope.left(timeout))
                return future.done()
            finally:
                if not future.done():
                    self._do(self._unwatch, future, latch)
        finally:
            future = targets = None  # type: ignore[assignment]  # as in `enter`

    def _watch(self, future: Task, latch: LockType) -> bool:
        """Have `latch` opened when `future` is done; return whether it is. The lock is held."""
        waiters = waiters_of(future)
        # No exception comes between these lines, nor a signal handler, which may settle it.
        if future._state in DONE:
            return True
        waiters.latches += [latch]
        return False

    def _unwatch(self, future: Task, latch: LockType) -> None:
        """Let nobody wait at `latch` for `future` any more; the lock is held."""
        if not future.done() and latch in (latches := waiters_of(future).latches):
            latches.remove(latch)
            open_latch(latch)

    def run_instead(self, task: Task, say: Callable[[], object] | None = None) -> bool:
        """Run `task` in this thread, which would wait for it, if it has not begun; False if it has; `say` so before."""
        try:
            if not self._do(self._claim_for_caller, task):
                return False
            self.follow_up()
            if say is not None:
                say()
            self.run_here(task)
        except BaseException:
            self._do(self._give_back, task)
            raise
        finally:
            del task  # as in `enter`
        return True

    def _claim_for_caller(self, task: Task) -> bool:
        """Claim a task to be run in this thread; the lock is held."""
        if task._state != PENDING:
            if isinstance(task, ScopedTask):  # a thread may have it only to ask its rate
                want(task)
            return False
        self._take_in_hand(task)
        if task in self.admission.waiting and task._state is PENDING:
            task._state = RUNNING
            self.admission.let_go(task)
        elif self.queue.leave(task, RUNNING):
            self._tidy(task)
        else:  # it was cancelled just now
            self._put_down(task)
            return False
        return True

    def _give_back(self, task: Task) -> None:
        """Put a task back that was claimed to be run in this thread, and was not begun; the lock is held."""
        if self.state.claimed.get(task) is INLINE:
            self.queue.give_back(task)
            self._put_down(task)
            self._see_to_it()

    def _take_in_hand(self, task: Task) -> None:
        """Have this thread hold a task that it is to run inside of others; the lock is held."""
        worker, since, loud = current_worker(), clock.now(), not isinstance(task, InternalTask)
        # No exception comes between these lines.
        self.state.claimed[task] = INLINE
        self.state.counts.inline += loud
        if worker is None:
            HERE.tasks = (*HERE.tasks, task)
        else:
            worker.outer += [(worker.task, worker.since)]
            worker.task = task
            worker.since = since

    def _put_down(self, task: Task) -> bool:
        """Take a task out of this thread's hands; the lock is held. False: it has begun, or is not there."""
        worker, loud = current_worker(), not isinstance(task, InternalTask)
        if self.state.claimed.get(task) is not INLINE:
            return False
        # No exception comes between these lines.
        if worker is None:
            HERE.tasks = HERE.tasks[:-1]
        else:
            worker.task, worker.since = worker.outer[-1]
            del worker.outer[-1]
        self.state.counts.inline -= loud
        del self.state.claimed[task]
        return True

    def run_here(self, task: Task) -> None:
        """Run a task that was claimed for it in this thread, inside whatever runs there already."""
        worker = current_worker()
        try:
            try:
                self.state.claimed.pop(task, None)  # it begins
                go_inside(task, partial(context_inside, self))
                while self.run(task):
                    pass
            except BaseException as error:  # of an observer, which would end a thread; or Ctrl-C between two lines
                if task not in self.state.claimed:  # it is in this thread's hands
                    self.settle_lost(task, current_thread().name, error)
                raise
            finally:
                try:
                    self._do(self._end_here, task, worker)
                except BaseException:
                    self._do(self._end_here, task, worker)
                    if context_of(task) is None:  # it has run
                        finish(task)
                    raise
            try:
                context_inside(self, BARE).run(finish, task)  # and so its callbacks
            except BaseException:
                finish(task)  # it may be called again
                raise
            if worker is None and issubclass(type(task._exception), KeyboardInterrupt):
                raise see(task)  # Ctrl-C was meant for the program, whose own thread this is
        finally:
            del task  # as in `enter`

    def _end_here(self, task: Task, worker: Worker | None) -> None:
        """Count a task that has run in this thread, unless that was done; the lock is held."""
        counts, loud = self.state.counts, not isinstance(task, InternalTask)
        failed = getattr(task, "_exception", None) is not None
        if task in self.state.claimed:  # it has not begun
            return
        # No exception comes between these lines.
        if worker is None:
            if not HERE.tasks or HERE.tasks[-1] is not task:
                return
            HERE.tasks = HERE.tasks[:-1]
        else:
            if worker.task is not task or not worker.outer:
                return
            worker.task, worker.since = worker.outer[-1]
            del worker.outer[-1]
        counts.inline -= loud
        counts.ended += loud
        counts.failed += loud and failed

    def run(self, task: Task) -> bool:
        """Run a claimed task, and tell the observers before and after; return as `Future._invoke`."""
        told = bool(self.state.observers) and not isinstance(task, ScopedTask)  # which alone knows whether it begins
        name = task.name if told else None
        try:
            if told:
                self.notify_observers("started", task, name=name)
            again = task._invoke()
            if told and not again:
                self.notify_observers("finished", task, task._exception, name)
            return again
        finally:
            del task  # the traceback leads to this frame: no cycle through it

    def settle_lost(self, task: Task, thread: str, reason: BaseException | None) -> None:
        """Settle a claimed task that `reason` ended between any two lines, in the thread of that name."""
        if self.queue.observe_end is not None:
            self._do(self.queue.observe_end, task)
        if task.done() or (context_of(task) is None and hasattr(task, "_exception")):  # it has run
            finish(task)
        else:
            end_unrun(task, "finished", WorkerLost(thread, task.name, reason))

    def withdraw(self, task: Task, state: str) -> None:
        """Give a pending task another state, for it is cancelled or settled by hand; the lock is held."""
        counts = None if isinstance(task, InternalTask) else self.state.counts
        try:
            if task in self.admission.waiting and task._state is PENDING:
                if counts is not None:
                    counts.cancelled += 1
                task._state = state
                self.admission.let_go(task)
            else:
                self.queue.leave(task, state, counts)
        except BaseException:  # Ctrl-C: before anybody else sees it
            self._mend()
            raise

    def withdrawn(self, task: Task) -> None:
        """Use the room that a task has left."""
        if is_held(self.lock):  # this is amid another section
            self._do(self._tidy, task)
            return
        pending = self.admission.waiting or self.queue.debris or self.queue.is_crowded() or self.entrance.growing
        if pending or isinstance(task, ScopedTask):  # which was throttled, perhaps
            self._do(self._tidy, task)
            self.follow_up()

    def _tidy(self, task: Task | None = None) -> None:
        """After a task has left out of its turn, purge the tombstones if they are many, and use its room."""
        if self.state.inside:
            return
        queue = self.queue
        if queue.is_crowded() or (queue.tombstones and queue.may_be_full and self.admission.waiting):
            queue.purge(task)
            self._look_for_debris()
        self._make_room()
        self._let_in(self.workers.free())
        if queue.ready:
            self.workers.wake_one()
        self._let_threads_go()

    def never_runs(self, task: Task, stuck: Container[object], running: Container[object]) -> bool:
        """Return whether `task`, which waits, could never be run, if `stuck` workers, with `running`, never went on."""
        return self._do(self._never_runs, task, stuck, running)

    def _never_runs(self, task: Task, stuck: Container[object], running: Container[object]) -> bool:
        if self.workers.all_among(stuck):
            return True
        holders: Collection[Task] = () if self.queue.holders is None else self.queue.holders(task)
        return bool(holders) and all(holder in running for holder in holders)

    def never_began(self, task: Task, error: BaseException) -> None:
        """Count, and tell of, a claimed task that fails before it begins; whoever claimed it counts it as failed."""
        self._do(self._count_never_began)
        self.notify_observers("cancelled", task, error)

    def _count_never_began(self) -> None:
        counts = self.state.counts
        counts.cancelled += 1
        counts.ended -= 1
        counts.failed -= 1

    def resume(self, task: Task) -> None:
        """Put a throttled task back in the order, for its rate has called it."""
        self._do_and_end(self._resume, task)
        self.follow_up()

    def _resume(self, claims: Claims, task: Task) -> None:
        if task not in self.queue.throttled:
            return
        try:
            self.queue.resume(task)
        except PoolBroken as error:  # of an order: the task fails, and not who is to call the next one
            claims.add(task, error)
            self.queue.forget_throttled(task)
        else:
            self._see_to_it()
        self._make_room()
        self._let_threads_go()

    def _let_threads_go(self) -> None:
        """Let the threads of a closed pool go that were kept for throttled tasks; the lock is held."""
        if self.state.closed is not None and not self.queue.throttled:
            self.workers.wake_all()

    # -- for workers (see `treadle._dispatch.work`) -------------------------------------------------------------------

    def let_in(self, free: int = 0) -> None:
        """Admit callers that wait for the room there is, and for `free` threads; the lock is held."""
        self._let_in(free)

    def _let_in(self, free: int = 0) -> None:
        admission = self.admission
        if self.state.inside:
            return
        while admission.waiting and (task := admission.next_submitter(free)) is not None:
            wait_anew(task)
            try:
                self.queue.put(task)
            except PoolBroken as error:  # its caller is told, not who made the room
                if task in admission.waiting and task._state is PENDING:
                    admission.waiting[task].refusal = error
                    self.state.claimed[task] = REFUSED
                    task._state = RUNNING
            admission.let_go(task)

    def after_claim(self) -> None:
        """Use the room that a claim has made, and have somebody come if tasks remain; the lock is held."""
        if self.admission.waiting:
            self._let_in()
        if self.queue.ready:
            self._see_to_it()

    def after_shedding(self) -> None:
        """Use the room of those that were given up, and leave the rest to others; the lock is held."""
        self.queue.look_whether_it_stands()
        self._make_room()
        self.after_claim()

    def come(self, worker: Worker) -> bool:
        """Note that a worker which has no task comes for one; return whether it was given one. The lock is held."""
        entrance = self.entrance
        if worker.phase == "idle":
            entrance.waking = False
            if entrance.growing and len(entrance.tasks) > 1:  # two may have relied on this one to be idle
                self.state.attention = True
        worker.phase = "busy"
        if worker.task is None:
            return False
        self.after_claim()
        return True

    def claim_after(self, worker: Worker) -> Task | None:
        """As `claim_or_rest`, after the worker has taken a tombstone, or the order has failed; the lock is held.

        If tasks were too old, which are claimed to be ended, none is claimed to be run.
        """
        tombstone: Task | None = worker.task
        if tombstone is not None:
            self.queue.bury_given(tombstone)
            worker.task = None
        if worker.claims.mine:
            self.after_shedding()
            return None
        return self.claim_or_rest(worker)

    def claim_or_rest(self, worker: Worker) -> Task | None:
        """Claim the next task for `worker`, else mark it idle, or ready to leave; the lock is held."""
        workers, queue, state = self.workers, self.queue, self.state
        worker.task = None
        if workers.surplus and self._lets_go(worker):
            worker.phase = "leaving"
            self.after_claim()
            return None
        if self.admission.waiting:
            self._let_in(free=1)
        task = queue.claim_next(worker)
        if task is not None:
            self.after_claim()
            return task
        wanted = state.closed is None or bool(worker.expected) or bool(queue.throttled)
        stays = wanted and state.broken is None and worker in workers.present
        if stays and workers.idle_tasks.waiting:
            task = workers.idle_tasks.take(worker)
            workers.recount()
            if task is not None:
                return task
        worker.phase = "idle" if stays else "leaving"
        if stays:
            self.entrance.idle.append(worker)
            if queue.ready:  # a finalizer has submitted since the look
                workers.wake_one()
        return None

    def _lets_go(self, worker: Worker) -> bool:
        """Count out `worker`, which is free, if there are more than there may be; the lock is held."""
        workers = self.workers
        if worker is workers.stray:
            return True
        if worker not in workers.present or len(workers.present) <= workers.max_workers:
            return False
        if self.queue.waiting() and deadlock.all_wait(workers.present - {worker}):
            return False  # they did not come to run what they wait for while this one had it, and put it back
        self._remove(worker)
        return True

    def _remove(self, worker: Worker) -> None:
        counts = self.state.counts
        counts.ended += worker.ended
        counts.failed += worker.failed
        worker.ended = worker.failed = 0
        self.workers.remove(worker)

    def observe_end(self, task: Task, worker: Worker) -> None:
        """Tell the order, and the limit, that a task has run; the lock is held."""
        if self.queue.observe_end is not None:
            self.queue.observe_end(task)
        limit = self.limit
        if limit is not None and not isinstance(task, InternalTask):
            ceiling = limit.observe_run(clock.now() - worker.since, self.workers.busy())
            if ceiling != self.workers.max_workers:
                self._resize(ceiling)

    def keep_unclaimed(self, task: Task, worker: Worker) -> bool:
        """See that a task waits that a killed thread has in its hands, and has not claimed; False if it has."""
        kept = self._do(self._keep_unclaimed, task, worker)
        if kept:
            wait_for_rate(task)
        return kept

    def _keep_unclaimed(self, task: Task, worker: Worker) -> bool:
        if task._state is not PENDING:  # perhaps another thread has it, for it was put back before
            return any(task in other.stack() for other in list(self.workers.present) if other is not worker)
        if not self.queue.has(task):
            if self.queue.observe_end is not None:  # the order has given it out
                self.queue.observe_end(task)
            self.queue.resume(task)
        self._see_to_it()
        return True

    def unclaim(self, task: Task) -> None:
        """Have a task wait again that a thread has claimed, which is about to end."""
        self._do_and_end(self.put_back, task, True)

    def put_back(self, claims: Claims, task: Task, unasked: bool = False, /) -> None:
        """Have a claimed task wait again, for it has not begun, or is to go on later; the lock is held.

        If it cannot wait any more, it is claimed to be ended: at its deadline, in a pool that broke or was closed.

        Args:
            claims: where that is noted.
            task: the task.
            unasked: whether its rate, if it has one, was not asked, and so will not call it.
        """
        queue, state = self.queue, self.state
        if queue.observe_end is not None:
            queue.observe_end(task)
        why: str | BaseException
        if task.done():
            why = getattr(final_of(task), "_exception", None) or CancelledError()  # it has none if others have ended it
        elif state.broken is not None:
            why = "broken"
        elif state.dropping:
            why = "closed"
        else:
            try:
                self._wait_again(task, unasked)
                return
            except PoolBroken as error:
                why = error
        claims.add(task, why)

    def _wait_again(self, task: Task, unasked: bool) -> None:
        if unasked or not isinstance(task, ScopedTask) or (rate := rate_left(task)) is None:
            self.queue.put_back(task)
        elif is_wanted(task) or rate.has_called(task):  # a worker waits for it, which had come to run it itself
            self.queue.resume(task)
        else:
            self.queue.throttle(task)
            self._make_room()

    def count_items(
        self, *, ended: int = 0, failed: int = 0, cancelled: int = 0, shed: int = 0, rejected: int = 0
    ) -> None:
        """Count items of a map, which are no tasks of their own."""
        self._do(self._count_items, ended, failed, cancelled, shed, rejected)

    def _count_items(self, ended: int, failed: int, cancelled: int, shed: int, rejected: int) -> None:
        counts = self.state.counts
        counts.ended += ended
        counts.failed += failed
        counts.cancelled += cancelled
        counts.shed += shed
        counts.rejected += rejected

    # -- telling ----------------------------------------------------------------------------------------------------

    def notify_observers(
        self, what: str, task: Task, error: BaseException | None = None, name: str | None = None
    ) -> None:
        """Tell the observers, if there are any, what happened to `task`; of its beginning and its end but once.

        No lock is held.
        """
        if self.state.observers and not isinstance(task, InternalTask):
            cold, now = cold_fields_of(task), clock.now_ns()
            if what in watching.ENDS and self._do(cold.end):
                return
            if not cold.serial:  # it is submitted, of which they are told first
                cold.serial, cold.submitted, cold.began = next(_serial), now, None
            if what == "started":
                if cold.began is not None:  # it goes on, after others have had its thread
                    return
                cold.began = now
            began, options = cold.began, options_of(task)
            event = events.TaskEvent(
                pool=self.name,
                task_id=cold.serial,
                name=name or task.name,
                time_ns=now,
                thread=current_thread().name,
                error=error,
                key=options.key,
                priority=options.priority,
                waited=None if began is None else (began - cold.submitted) / 1e9,
                ran=None if began is None or what != "finished" else (now - began) / 1e9,
            )
            run_user_code(watching.tell, self.state.observers, what, event, self.told)

    def end_claimed(self, claims: Claims, *, log_only: bool = False) -> None:
        """End what an operation has claimed, and tell who waits for it; no lock is held.

        Args:
            claims: which is empty afterwards.
            log_only: whether what callbacks raise that would end a thread is logged; Ctrl-C is raised.
        """
        fatal = self._end_all(claims)
        try:
            if fatal is not None:
                if not log_only or issubclass(type(fatal), KeyboardInterrupt):
                    raise fatal
                log(_log, logging.ERROR, "a callback of a task that was shed raised", error=fatal)
        finally:
            fatal = None  # its traceback holds this frame: no cycle

    def _end_all(self, claims: Claims) -> BaseException | None:
        """End what was claimed; return what one of the callbacks raised that would end the thread."""
        fatal: BaseException | None = None
        try:
            while claims.mine:
                task = claims.mine[0]
                for _ in range(2):  # what was begun, and cut in two, is ended by doing it anew
                    try:
                        self._end(task, self.state.claimed.get(task))
                        break
                    except BaseException as error:  # the others are told before it is raised
                        fatal = error
                self.state.claimed.pop(task, None)
                del claims.mine[0]
            return fatal
        finally:
            fatal = None  # its traceback holds this frame: no cycle

    def _end(self, task: Task, why: str | float | BaseException | None) -> None:
        """End a claimed task, for the reason `why`. It may be called again, by whoever finds that half done."""
        if why == "too_old" or why == "discarded":
            end_unrun(task, "shed", shed_error(self.name, task, why))
        elif why == "closed":
            end_unrun(task, "cancelled", PoolClosed(self.name, str(self.state.closed)), "cancel")
        elif why == "broken":
            end_unrun(task, "cancelled", self.state.why_broken())
        elif why == "turned away":
            end_unrun(task, "rejected", self._why_no_more(), "turn away")
        elif isinstance(why, PoolFull):
            end_unrun(task, "rejected", why, "turn away")
        elif isinstance(why, BaseException):
            end_unrun(task, "cancelled", why)

    # -- threads ----------------------------------------------------------------------------------------------------

    def grow(self) -> None:
        """Start the threads that are missing, as far as they can be had; if not, the next submit tries again."""
        while self.entrance.growing and self._do(self._misses_thread):
            try:
                if not self._start_worker(if_missing=True):
                    return
            except RuntimeError:  # can't start new thread
                return

    def _misses_thread(self) -> bool:
        """Return whether a task waits that nobody comes for, or fewer are kept than are to be; the lock is held."""
        workers, queue = self.workers, self.queue
        if not workers.may_grow() or self.state.broken is not None:
            return False
        # In a forked child that uses no pool, none is kept warm: the process ends with the thread that has forked.
        if workers.stray is None and len(workers.present) + len(workers.seats) < self._kept():
            return True
        coming = workers.coming()
        if workers.idle_tasks.waiting and not coming:
            return True
        return bool(queue.ready) and len(queue.tasks) - queue.tombstones > coming

    def _kept(self) -> int:
        """Return how many workers there are to be though they have nothing to do; the lock is held."""
        if self.state.closed is None:
            return min(self.workers.min_workers, self.workers.max_workers)  # a limit may be lower at first
        return min(1, len(self.queue.throttled))  # who closed the pool waits for them

    def _start_worker(
        self, *, needed: bool = False, beside_others: bool = False, expected: int = 0, if_missing: bool = False
    ) -> Worker | None:
        """Start one more worker; None if there may be none, or it cannot be had and others live.

        The thread has taken its seat before it comes up, and comes for nothing that a submit has not let in by then: so
        a task whose submit is interrupted meanwhile does not run. In the midst of a section, as a signal handler or a
        finalizer may be, none is started: a finalizer in it may want the lock that we hold; who holds it sees to it.

        Args:
            needed: whether it is raised that none can be had, where none lives,
            beside_others: and where others live.
            expected: the thread that starts it for a task, before which is let in it is not to leave; 0: none.
            if_missing: whether it is started only if one is missing still: several threads may have found that at once.

        Raises:
            RuntimeError: no thread can be started.
            PatchedTooLate: none can be started, nor ever will.
        """
        if is_held(self.lock):
            self.state.attention = True
            return None
        worker = Worker(self, self.state.claims(), partial(self.setup.main, self), self.exited, self.setup.prefix)
        before, HERE.starting = HERE.starting, worker
        try:
            if not self._do(self._take_seat, worker, expected, if_missing):
                del worker.thread  # never to be started, it would lead back to the worker
                return None
            worker.thread.start()
            self.arrive(worker)  # or who looks now would not know of it, nor of the task that it is given
        except BaseException as error:
            self._do(self.workers.give_up_seat, worker)
            mere = isinstance(error, RuntimeError) and not isinstance(error, PatchedTooLate)
            if mere:
                del worker.thread  # likewise
                if not needed or (self.workers.present and not beside_others):
                    return None
            raise
        finally:
            HERE.starting = before
        return worker

    def _take_seat(self, worker: Worker, expected: int, if_missing: bool) -> bool:
        if not self.workers.may_grow() or self.state.broken is not None:
            return False
        if if_missing and not self._misses_thread():
            return False
        self.workers.take_seat(worker)
        worker.thread.name = f"{self.setup.prefix}{worker.number}"
        worker.expected = expected
        return True

    def expect_nothing(self) -> None:
        """Let a thread leave again that this one has started for a task that is not let in."""
        self._do(self.workers.expect_nothing_of, get_ident())

    def warm_up(self) -> None:
        """Start the threads that are to be kept warm; raise as `enter`."""
        while self._do(self._misses_thread) and self._start_worker(needed=True, beside_others=True, if_missing=True):
            pass

    def arrive(self, worker: Worker) -> bool:
        """Note that the thread of `worker` was started, or has come up; False if it is to leave again."""
        return self._do(self.workers.arrive, worker)

    def may_leave(self, worker: Worker) -> bool:
        """Count out `worker`, idle for long; False if there is work for it, or it is to be kept."""
        return self._do(self._may_leave, worker)

    def _may_leave(self, worker: Worker) -> bool:
        if worker not in self.entrance.idle or worker.expected or len(self.workers.present) <= self._kept():
            return False
        self._remove(worker)
        return True

    def hand_nothing_over(self, worker: Worker) -> None:
        """See that nobody hands a task over any more to a worker whose thread was killed."""
        self._do(self._hand_nothing_over, worker)

    def _hand_nothing_over(self, worker: Worker) -> None:
        worker.phase = "leaving"

    def begin_to_leave(self, worker: Worker) -> None:
        """Count out a worker that has a lifespan to leave, which may take long."""
        self._do(self._step_out, worker)
        self.grow()

    def _step_out(self, worker: Worker) -> None:
        """Count out a worker that will come for nothing more; the lock is held."""
        if worker in self.workers.present:  # neither idle for long nor, in a forked child, the parent's
            self._remove(worker)
            self.entrance.waking = False  # it may have been on its way
        if self.queue.ready:
            self.workers.wake_one()

    def exited(self, worker: Worker) -> None:
        """Count out a worker whose thread is about to end, and replace it if it is missed. It may be called again."""
        stray = worker is self.workers.stray
        departed = self._do_and_end(self._exited, worker, log_only=True)
        if not stray or self.queue.ready or self.workers.idle_tasks.waiting:
            self.grow()
        if departed is not None and departed is not worker.thread:
            departed.join()  # so that at any time at most one ended thread is not joined

    def count_out_the_dead(self) -> None:
        """Count out workers whose threads have ended, and could not do so, for they were killed over and over."""
        for worker in self._do(self.workers.everybody):
            if has_ended(worker.thread) and not worker.gone:
                self.exited(worker)

    def _exited(self, claims: Claims, worker: Worker) -> Thread | None:
        task = worker.task
        if task is not None:  # handed over to a thread that was killed before its first line
            self.put_back(claims, task, True)
            worker.task = None
        self.workers.give_up_seat(worker)
        self._step_out(worker)
        departed = self.workers.exited(worker)
        worker.gone = True
        self._let_in(self.workers.free())
        return departed

    def resize(self, max_workers: int) -> None:
        """Have at most `max_workers` threads from now on, or, with a limit, allow it as many."""
        self._do(self._resize, max_workers if self.limit is None else self.limit.change(max_workers))
        self.follow_up()

    def _resize(self, max_workers: int) -> None:
        self.workers.resize(max_workers)
        self.queue.order.threads = max_workers
        self._let_in(self.workers.free())
        self.state.attention = self.entrance.growing and bool(self.queue.ready)  # there may be threads to be started

    # -- idle tasks -------------------------------------------------------------------------------------------------

    def add_idle(self, task: IdleTask) -> bool:
        """Keep `task` until a worker has nothing else to do; return whether one is on its way to it.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool takes no more tasks.
        """
        came = self._do(self._add_idle, task)
        if isinstance(came, Exception):
            try:
                raise came
            finally:
                del came  # its traceback holds this frame: no cycle
        if came is None:
            try:
                return self._start_worker() is not None
            except RuntimeError:  # can't start new thread
                return False
        return came

    def _add_idle(self, task: IdleTask) -> bool | Exception | None:
        """Keep it; return what `add_idle` does, or None: if a thread can be started."""
        state = self.state
        if state.broken is not None:
            return state.why_broken()
        if state.closed is not None:
            return state.why_closed()
        self.workers.idle_tasks.waiting.append(task)
        if self.queue.ready:
            return False
        if self.entrance.idle:
            self.workers.wake_one()
            return True
        return None if self.workers.may_grow() else False

    def idle_is_over(self, task: IdleTask) -> None:
        """Note that `task` is over."""
        self._do(self._idle_is_over, task)

    def _idle_is_over(self, task: IdleTask) -> None:
        self.workers.idle_tasks.is_over(task)
        self.workers.recount()

    def idle_is_lost(self, task: IdleTask) -> None:
        """Note that the worker of `task` is tied up in it; if it was called back, another one is in its place."""
        self._do(self._idle_is_lost, task)

    def _idle_is_lost(self, task: IdleTask) -> None:
        called = task not in self.workers.idle_tasks.running  # for a task that waits for it
        self._idle_is_over(task)
        if called:
            self._see_to_it()

    def look_again(self) -> None:
        """Look whether a task may be taken, for there are orders that let some be taken after a time."""
        self._do(self._see_to_it)
        self.grow()

    # -- the end ----------------------------------------------------------------------------------------------------

    def why_broken(self) -> PoolBroken:
        """Return an error that says why the pool is broken, for one caller or future alone."""
        return self.state.why_broken()

    def break_down(self, worker: Worker | None = None, reason: str = "", cause: BaseException | None = None) -> None:
        """Fail all that waits, and take nothing more: the order failed.

        Or what was to set up a `worker` did, for which there are a `reason` and a `cause`; then also what that was to
        begin with.
        """
        try:
            self._do_and_end(self._break_down, worker, reason, cause)
        except BaseException:  # as in `close`
            self._do_and_end(self._break_down, worker, reason, cause)
            raise

    def _break_down(self, claims: Claims, worker: Worker | None, reason: str, cause: BaseException | None) -> None:
        state = self.state
        if state.broken is None:
            state.broken = PoolBroken(self.name, reason)
            state.broken.__cause__ = cause
        self._make_room()
        self._claim_all(claims, "broken")
        if worker is not None and worker.task is not None:
            claims.add(worker.task, "broken")
            worker.task = None
        self._refuse_all(claims, self.state.why_broken)
        self._preempt_all()
        self.workers.wake_all()

    def _claim_all(self, claims: Claims, why: str) -> None:
        """Claim all that waits, to be ended; the lock is held."""
        for task in self.queue.everything_here():
            if claims.add_waiting(task, why):
                self.queue.forget_throttled(task)
        if not self.state.inside:
            self.queue.forget_all_throttled()
            self.queue.purge()
        self._look_for_debris()

    def _refuse_all(self, claims: Claims, why: Callable[[], Exception]) -> None:
        """Turn away the callers that wait for room, each with an error of its own; the lock is held."""
        for task in list(self.admission.waiting):
            submitter = self.admission.waiting.get(task)
            if submitter is None:
                continue
            if submitter.latch is None:
                claims.add_waiting(task, "turned away")
            else:
                refusal = why()
                if task._state is PENDING:
                    submitter.refusal = refusal
                    self.state.claimed[task] = REFUSED
                    task._state = RUNNING
            self.admission.let_go(task)

    def read_maps(self, deadline: float | None = None, *, wait: bool) -> None:
        """Read the input of the maps of a closed pool to the end, in this thread, until `deadline` at most.

        Where another thread reads, `wait` for it; or leave that map to the workers.
        """
        for feed in self.inputs():
            feed.read_to_end(deadline, wait=wait)

    def leave_maps(self) -> None:
        """Have the workers of a closed pool read what is left of the input of its maps."""
        for feed in self.inputs():
            feed.leave()

    def inputs(self) -> list[Input]:
        """Return the input that is to be read to its end; the oldest first."""
        return self._do(list, self.maps)

    def add_input(self, feed: Input) -> None:
        """Note that `feed` is to be read to its end."""
        self.maps[feed] = None

    def forget_input(self, feed: Input) -> None:
        """Note that `feed` is read, or not to be read any more."""
        self.maps.pop(feed, None)

    def drop(self) -> None:
        """Close the pool, for nobody holds it any more. What was accepted runs."""
        self.close("the pool was dropped", cancel=False)
        self.leave_maps()

    def abandon(self) -> None:
        """Close the pool, for Ctrl-C ended its block; cancel what has not begun, and let nobody wait for what has."""
        self.state.abandoned = True
        self.close("Ctrl-C", cancel=True)

    def close(self, after: str, *, cancel: bool) -> None:
        """Take no more tasks; cancel what has not begun, if `cancel`. Idempotent. Waits for nothing."""
        try:
            self._do_and_end(self._close, after, cancel)
        except BaseException:  # Ctrl-C: what it has not come to would run, or wait for ever
            self._do_and_end(self._close, after, cancel)
            raise
        finally:
            for feed in self.inputs() if cancel else ():
                feed.give_up()
            self.grow()

    def _close(self, claims: Claims, after: str, cancel: bool) -> None:
        state = self.state
        if state.closed is None:
            state.closed = after
        state.dropping = state.dropping or cancel
        self._make_room()
        if cancel or state.broken is not None:
            self._claim_all(claims, "closed" if state.broken is None else "broken")
        self._refuse_all(claims, self._why_no_more)
        self._preempt_all()
        self.workers.wake_all()
        while self.admission.takers:
            self.admission.tell_taker()

    def _preempt_all(self) -> None:
        """Call every worker back from its idle task, and let those go that nobody does; the lock is held."""
        self.queue.debris += self.workers.idle_tasks.waiting
        self.workers.preempt_all()
        self._look_for_debris()

    def _why_no_more(self) -> Exception:
        state = self.state
        return PoolClosed(self.name, str(state.closed)) if state.broken is None else state.why_broken()

    def reopen(self) -> None:
        """Take tasks again, if only Python's exit closed the pool."""
        self._do(self._reopen)

    def _reopen(self) -> None:
        if self.state.closed == AT_EXIT and not self.state.dropping:
            self.state.closed = None
            self._make_room()

    # -- a fork -----------------------------------------------------------------------------------------------------

    def everything(self) -> list[Task]:
        """Return all tasks that the pool has, wherever they are; the lock is held."""
        running = [task for worker in list(self.workers.present) for task in (worker.last, *worker.stack())]
        everywhere = (*running, *self.queue.everything(), *self.admission.waiting, *self.state.claimed)
        return list(dict.fromkeys(task for task in everywhere if task is not None))

    def undone(self) -> list[Task]:
        """Return the tasks that run here, or wait for that; the lock is held."""
        running = [task for worker in list(self.workers.present) for task in worker.stack()]
        return [*running, *self.queue.everything_here(), *self.state.claimed]

    def start_afresh(self) -> Inheritance:
        """In a forked child, have an empty pool: the threads stayed in the parent, and what they held is theirs.

        The lock is held. So nothing is let go of here that may be the user's, and no task is settled: until that is
        done, all count as claimed.
        """
        undone = [task for task in self.everything() if not task.done()]
        pending = {task for task in undone if task._state == PENDING}
        inheritance = Inheritance(undone, pending, list(self.maps), [self._everything_else(), self.maps])
        for task in pending:
            task._state = RUNNING
        self.maps = {}
        if self.queue.observe_end is not None:
            for task in [task for worker in list(self.workers.present) for task in worker.stack()]:
                self.queue.observe_end(task)
        self.queue.clear()
        for container in (self.admission.waiting, self.admission.takers, self.state.claimed):
            container.clear()
        self.queue.debris = []
        self.state.attention = self.state.order_failed is not None  # threads are started for those who use it here
        self.workers.forget_all(self, keep=self.setup.lifespan is not None)
        counts = self.state.counts  # the child's own
        counts.ended = counts.failed = counts.cancelled = counts.rejected = counts.shed = 0
        counts.inline = running_here(self)  # they go on in the child
        self._make_room()
        return inheritance

    def _everything_else(self) -> list[object]:
        """Return all that the pool has, but for what is the order's alone; the lock is held."""
        queue, workers, idle_tasks = self.queue, self.workers, self.workers.idle_tasks
        containers = (queue.everything(), queue.debris, workers.everybody(), idle_tasks.waiting, idle_tasks.running)
        everything = [each for container in containers for each in container]
        dictionaries: tuple[dict[Any, Any], ...] = (queue.out, self.admission.waiting, self.state.claimed)
        return [*everything, *(dict(each) for each in dictionaries), *workers.seats, workers.departed, workers.stray]

    # -- sections ---------------------------------------------------------------------------------------------------

    def _do(self, section: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `section(*args)`, called with the lock held. What an exception has cut in two there is put right."""
        held, lock = True, self.lock  # as in `locked`, spelled out, for a frame less
        if is_held(lock):
            return self._do_inside(section, *args, **kwargs)
        try:
            lock.acquire()
            result = section(*args, **kwargs)
            held = False
            lock.release()
        except BaseException:
            try:
                self.mend(held)
            except BaseException:  # another one
                self.mend(held)
                raise
            finally:
                if self.state.attention:
                    self.attend()
            raise
        if deferred:
            make_deferred_calls()
        if self.state.attention:
            self.attend()
        return result

    def _do_inside(self, section: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `_do`, amid another section, for a signal handler or a finalizer."""
        state = self.state
        outer, state.inside = state.inside, True
        try:
            return section(*args, **kwargs)
        except BaseException:
            deferred.append(partial(self._do, self._mend))
            raise
        finally:
            state.inside = outer
            self._note_visit()

    def _note_visit(self) -> None:
        """See that what follows from what is done amid a section is found out once that is over."""
        if not self.state.visited:
            self.state.visited = True
            deferred.append(self._after_visits)

    def _leave_amid(self) -> None:
        """Put right what others are to see who come amid a section, as long as who came amid it waits for them.

        Raises:
            PoolDeadlock: they must not, for the order is written in Python, and may be amid a change.
        """
        if self.queue.line is None:
            raise PoolDeadlock([self.name], [f"thread {worker.thread.name}" for worker in self.workers.everybody()])
        self._mend()
        self._note_visit()

    def _after_visits(self) -> None:
        """Find out what follows from what was done amid a section, which is over."""
        self._do_and_end(self._after_visit)

    def _after_visit(self, claims: Claims) -> None:
        state = self.state
        state.visited = False
        self.queue.mend()
        self.admission.mend()
        if state.closed is not None:  # for what came after the look at that
            self._close(claims, state.closed, state.dropping)
        self.workers.recount()
        self._tidy()
        self._see_to_it()
        state.attention = True

    def _do_and_end(self, section: Callable[..., T], *args: Any, log_only: bool = False) -> T:
        """Return `section(claims, *args)`, called likewise; then end what it has claimed, whatever it raised."""
        claims = self.state.claims()
        try:
            return self._do(section, claims, *args)
        finally:
            try:
                self.end_claimed(claims, log_only=log_only)
            except BaseException:  # Ctrl-C, perhaps: the others are ended before it is raised
                self.end_claimed(claims, log_only=True)
                raise

    def mend(self, held: bool) -> None:
        """As `_do`, where a section is spelled out: put right what an exception has cut in two. May be called again.

        Args:
            held: whether the lock is, or was about to be.
        """
        try:
            if held and is_held(self.lock):
                self._mend()  # before anybody else sees it
        finally:
            try:
                if held:
                    self.lock.release()
            except RuntimeError:  # as in `locked`
                pass
            finally:
                locked(self.lock, self._mend)  # another one may have come as that was put right

    def _mend(self) -> None:
        """Find anew what follows from the tasks' states and places, and see that somebody comes; the lock is held."""
        if self.state.inside:  # that is done when the section is over that this is amid
            return
        self.queue.mend()
        self.workers.mend()
        self.admission.mend()
        self._make_room()
        self._let_in()
        self._see_to_it()
        self.state.attention = True

    def _make_room(self) -> None:
        """Find out how many may wait where submit() goes the plain way; the lock is held."""
        state, queue, admission = self.state, self.queue, self.admission
        special = state.closed is not None or state.broken is not None or queue.standing or admission.takers
        plain = not (special or state.observers or queue.may_be_full)
        self.entrance.room = min(admission.limit, SINGLE_DIGIT) - len(queue.throttled) if plain else -1

    def follow_up(self) -> None:
        """Do what the last section has left to be done, unless this is the midst of another one."""
        if self.state.attention or self.queue.debris or self.entrance.growing:
            self.attend()

    def _look_for_debris(self) -> None:
        """See that what the queue has put aside is let go of soon; the lock is held."""
        if self.queue.debris:
            self.state.attention = True

    def attend(self) -> None:
        """Do what cannot be done while the lock is held: start threads, end tasks, let go of results."""
        if is_held(self.lock):
            self.state.attention = True
            return
        self.state.attention = False
        self.queue.debris = []
        if self.state.order_failed is not None:
            where, self.state.order_failed = self.state.order_failed, None
            error = None if self.state.broken is None else self.state.broken.__cause__
            log(_log, logging.CRITICAL, "pool %r is broken: its order failed in %s", self.name, where, error=error)
            if error is not None:
                BaseException.with_traceback(error, None)  # which the log has: its frames hold tasks that get the error
            error = None
            self.break_down()
        self.grow()


def context_inside(owner: Dispatcher, context: Context | NoContext) -> Context:
    """Return in what a call of `owner` runs here, inside of another: always a context, for that one goes on."""
    if isinstance(context, NoContext):
        context = taken()
    lent = lent_here(owner)
    return context if lent is None else lent.to(context)


def running_here(dispatcher: Dispatcher) -> int:
    """Return how many tasks of `dispatcher` are run inside of others in this thread."""
    worker = current_worker()
    tasks = HERE.tasks if worker is None else worker.stack()[1:]
    return sum(owner_of(task) is dispatcher and not isinstance(task, InternalTask) for task in tasks)

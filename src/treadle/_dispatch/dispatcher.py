"""Dispatcher: what a pool, its workers and its futures share.

The pool is the user's handle and may be dropped at any time; its workers hold the dispatcher, never the pool, so a
dropped pool is noticed and its threads end.

    submit -> Admission -> order.tasks -> a worker of Workers claims it -> settled
                  `-> entrants (callers waiting for room) -^

Guarantees: at most `max_workers` threads, and at most `queue_size` waiting tasks beyond those that free workers are
about to take; a task that was admitted is run, cancelled, or failed with a reason. Assumptions: one lock guards every
field that is not fixed, here and in the two parts. The lock is re-entrant, because a signal handler or a finalizer may
submit in the middle of a critical section; so each section leaves the fields sound between any two of its lines.
Nothing is called out while it is held: no user code, no logging, no destructor of a user's object.
"""

from __future__ import annotations

import itertools
import logging
from _thread import allocate_lock
from collections.abc import Callable, Collection, Container
from concurrent.futures import CancelledError
from functools import partial
from threading import RLock, current_thread
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.timer import run_later, run_user_code
from treadle._base.words import log, pass_on
from treadle._dispatch import deadlock
from treadle._dispatch.admission import AT_EXIT, Admission
from treadle._dispatch.shedding import Shedding
from treadle._dispatch.throttled import Aside
from treadle._dispatch.work import run_inline
from treadle._dispatch.worker import Worker, current_worker
from treadle._dispatch.workers import Workers
from treadle._tasks.future import FINISHED, PENDING, RUNNING, Future
from treadle._tasks.observers import ENDS, tell
from treadle._tasks.scope import HERE, current
from treadle._tasks.scoped import ScopedTask
from treadle.errors import PoolBroken, PoolClosed
from treadle.events import Observer, TaskEvent
from treadle.orders import Order
from treadle.orders._guard import guarded
from treadle.orders._order import hook_of

if TYPE_CHECKING:
    from _thread import LockType
    from contextlib import AbstractContextManager
    from weakref import ref

    from treadle._base.limit import Gradient
    from treadle._pool.mapping.feed import Feed
    from treadle._pool.pool import Pool

__all__ = ["Dispatcher", "Task"]

_log = logging.getLogger("treadle")

_serial = itertools.count(1)

Task = Future[Any]


class Dispatcher:
    """Admits tasks, keeps them in order, and brings them to workers. One a pool."""

    __slots__ = (
        "__weakref__",
        "abandoned",
        "acquire",
        "admission",
        "after",
        "aside",
        "broken",
        "cancelled",
        "closed",
        "dead",
        "dropping",
        "ended",
        "ended_in_order",
        "failed",
        "holders",
        "idle_timeout",
        "initargs",
        "initializer",
        "inline",
        "kept",
        "limit",
        "lock",
        "maps",
        "name",
        "observers",
        "order",
        "out",
        "plain",
        "pool",
        "put",
        "queue_size",
        "ready",
        "release",
        "room",
        "shedding",
        "staff",
        "take",
        "tasks",
        "thread_lifespan",
        "thread_prefix",
        "told",
    )

    def __init__(
        self,
        *,
        name: str,
        thread_prefix: str,
        max_workers: int,
        min_workers: int,
        queue_size: int | None,
        order: Order,
        idle_timeout: float | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        thread_lifespan: Callable[[], AbstractContextManager[object]] | None,
        observers: tuple[Observer, ...],
        limit: Gradient | None,
    ) -> None:
        self.lock = RLock()
        # Half the cost of `with`. Whoever uses them keeps `acquire` inside the `try`, see Submitter.submit.
        self.acquire = self.lock.acquire
        self.release = self.lock.release
        # Fixed for life, unless strangers set one (see Pool), so read without the lock.
        self.name = name
        self.thread_prefix = thread_prefix
        self.queue_size = queue_size
        self.idle_timeout = idle_timeout
        self.initializer = initializer
        self.initargs = initargs
        self.thread_lifespan = thread_lifespan
        self.observers = observers
        self.order = order  # as it was given,
        order.threads = max_workers  # with no guard yet: what that raises is the caller's to know
        self.kept = guarded(order, self)  # and as it is used
        self.tasks: Collection[Task]
        self.take: Callable[[], Task]
        self.tasks, self.ready, self.put, self.take = self.kept._handles()
        self.shedding = Shedding(self)
        self.limit = limit
        self.ended_in_order: Callable[[Task], object] | None = hook_of(self.kept, "ended")
        self.holders: Callable[[Task], Collection[Task]] | None = hook_of(self.kept, "holders")
        self.staff = Workers(self, max_workers, min_workers)
        self.after = self.ended_in_order if limit is None else self.staff.observe_run
        self.admission = Admission(self, queue_size)
        self.aside = Aside(self)
        self.out: dict[Task, object] = {}  # tasks that strangers have taken out of their turn; and a token of each
        self.maps: dict[Feed, None] = {}  # of which every item is to run, and not all was read; the oldest first
        self.pool: ref[Pool] | None = None  # the user's handle; None: one that no user has
        self.plain = not observers and self.admission.blocks is None
        self.room = self.admission.limit if self.plain else -1  # how many may wait where submit() goes the plain way
        self.dead = 0  # tasks still in the order that were cancelled or claimed there
        self.closed: str | None = None  # after what it was closed ("shutdown", ...), None while it is open
        self.dropping = False  # closed, and what had not begun was cancelled
        self.abandoned = False  # Ctrl-C ended its `with` block: nobody waits for what still runs
        self.broken: PoolBroken | None = None
        self.ended = 0  # tasks ended by workers that left, and by callers; `Worker.ended` counts the others
        self.failed = 0  # of them, those that raised
        self.inline = 0  # tasks that were claimed to be run in a caller's thread, and have not ended
        self.cancelled = 0
        self.told: dict[object, object] = {}  # what was logged of it, see `treadle._base.words.log_first`

    @property
    def max_workers(self) -> int:
        """The ceiling on threads that the pool was given; what a limit has found is below it."""
        return self.staff.max_workers if self.limit is None else self.limit.most

    def release_if_held(self) -> None:
        """Let the lock go if this thread has it: for a critical section that an exception ended anywhere."""
        if self.lock._is_owned():  # type: ignore[attr-defined]  # threading.Condition relies on it too
            self.release()

    # -- for futures (futures.Owner) -------------------------------------------------------------------------------

    def wait(self, future: Task, timeout: float | None) -> bool:
        """Block until `future` is done; if it has not begun and this is one of our workers, run it here instead."""
        worker, scope = current_worker(), current()
        if scope is not None and scope.over() is not None:  # begin nothing for a caller that should stop
            return future.done()
        if worker is not None and worker.dispatcher is self and self.claim(future):
            self.run_here(future)
            return True
        gate = allocate_lock()
        gate.acquire()
        with self.lock:
            if future.done():
                return True
            future._get_waiters().gates.append(gate)
        try:
            if scope is None:
                return deadlock.wait(gate, worker, lambda: [future], timeout) or future.done()
            with scope.waking(lambda: self.open(future, gate)):
                deadlock.wait(gate, worker, lambda: [future], scope.left(timeout))
            return future.done()
        finally:
            self.open(future, gate)

    def open(self, future: Task, gate: LockType) -> None:
        """Let nobody wait at `gate` for `future` any more."""
        with self.lock:
            if not future.done() and gate in future._get_waiters().gates:
                future._get_waiters().gates.remove(gate)
                gate.release()

    def withdraw(self, future: Task) -> bool:
        """Forget a pending task; the lock is held."""
        self.cancelled += not future._silent
        self.leave(future)
        return True

    def claim(self, future: Task) -> bool:
        """Set a pending task to running, for the caller to run; False when somebody was faster."""
        worker = current_worker()
        with self.lock:
            if future._state != PENDING:
                if isinstance(future, ScopedTask):  # a thread may have it only to ask its rate
                    future._wanted = True
                return False
            future._state = RUNNING
            if worker is not None:
                worker.push(future)  # at once, so that a snapshot finds it here or there
            self.leave(future)
            self.inline += not future._silent
            return True

    def leave(self, task: Task) -> None:
        """Take a task that waits somewhere out of turn; the lock is held. In the order it stays as a dead entry."""
        if self.admission.leave(task) or self.aside.leave(task) or self.out.pop(task, None) is not None:
            return
        self.dead += 1
        crowded = self.admission.blocks is not None and bool(self.admission.entrants)
        if crowded or (self.dead > 64 and self.dead * 2 > len(self.tasks)):  # half: a purge costs no more than it frees
            self.purge(task)
        self.admission.let_in()
        self.staff.nudge()

    def take_out(self, token: object) -> Task | None:
        """Take the task away whose turn is next: whoever has `token` sees to it. The lock is held.

        It stays pending, and so may be cancelled, settled, or run for a worker that waits for it, as others may.
        """
        task = self.claim_next()
        if task is not None:
            self.taken_over(task)
            task._state = PENDING
            self.after_claim()
        else:  # the order holds those back that it has, or they wait beside it
            task = next((task for task in (*self.tasks, *self.aside.tasks) if task._state == PENDING), None)
            if task is None:
                return None
            if not self.aside.leave(task):
                self.purge(task)
                self.admission.let_in()
        if isinstance(task, ScopedTask):
            task._step_out_of_line()
        self.out[task] = token
        return task

    def bring_back(self, task: Task, token: object) -> bool:
        """Put a task back that was taken out, whether there is room or not, for it was admitted once.

        Returns:
            False if it is not out any more, or not by `token`.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool takes nothing more; the task stays out.
        """
        with self.lock:
            if self.out.get(task) is not token:
                return False
            self.admission.check_open(task)
            task._submitted = clock.now()  # that it waits since
            self.put(task)
            del self.out[task]
            self.staff.summon(task, keep=True)
            if self.admission.takers:
                self.admission.takers.pop().release()
            return True

    def purge(self, leaving: Task | None = None) -> None:
        """Drop the dead entries from the order; the lock is held."""

        def keep(task: Any) -> bool:
            return task is not leaving and task._state == PENDING

        husks = [task for task in self.tasks if task._state == FINISHED]  # run elsewhere: results are the user's
        self.kept.purge(keep)
        self.dead = 0
        if husks:
            run_later(husks.clear)

    def enter(self, task: Task, when_full: str, timeout: float | None) -> None:
        """Admit `task`, the plain way if possible; as Submitter.submit does, and raising what it raises."""
        try:
            self.acquire()
            if len(self.tasks) < self.room:
                self.put(task)
                if self.staff.growing or (self.staff.idle and not self.staff.waking):
                    self.staff.summon(task)
                self.release()
            else:
                self.release()
                self.admission.enter(task, when_full, timeout)
        except BaseException as error:
            self.admission.recover(task, error)
            raise
        if isinstance(task, ScopedTask):
            task._enter()

    def run_here(self, task: Task) -> None:
        """Run a task that was claimed for it in this thread, inside whatever runs there already."""
        run_inline(self, task)

    def never_runs(self, task: Task, stuck: Container[object], running: Container[object]) -> bool:
        """Whether `task`, which waits, could never be run, if the workers in `stuck`, with `running`, never went on."""
        with self.lock:
            if self.staff.all_among(stuck):
                return True
            try:
                holders = [] if self.holders is None else self.holders(task)
            except BaseException as error:  # of its key: nobody knows
                pass_on(error)
                return False
            return bool(holders) and all(holder in running for holder in holders)

    def observe(self, task: Task) -> bool:
        """Run a claimed task, and tell the observers before and after; return as `Future._invoke`."""
        if isinstance(task, ScopedTask):  # which alone knows whether it begins, and tells of it
            try:
                return task._invoke()
            finally:
                del task  # the traceback leads to this frame: no cycle through it
        name = task.name
        self.notify_observers("started", task, name=name)
        again = task._invoke()
        if not again:
            self.notify_observers("finished", task, task._exception, name)
        task = None  # type: ignore[assignment]  # the traceback holds this frame: no cycle through it
        return again

    def never_began(self, task: Task, error: BaseException) -> None:
        """Count, and tell of, a claimed task that fails before it begins; whoever claimed it counts it as failed."""
        with self.lock:
            self.cancelled += 1
            self.ended -= 1
            self.failed -= 1
        self.notify_observers("cancelled", task, error)

    def notify_observers(
        self, what: str, task: Task, error: BaseException | None = None, name: str | None = None
    ) -> None:
        """Tell the observers, if there are any, what happened to `task`; of its beginning and its end but once.

        No lock is held.
        """
        if self.observers and not task._silent:
            cold, now = task._get_cold(), clock.now_ns()
            if what in ENDS:
                with self.lock:
                    ended, cold.ended = cold.ended, True
                if ended:
                    return
            if not cold.serial:  # it is submitted, of which they are told first
                cold.serial, cold.submitted, cold.began = next(_serial), now, None
            if what == "started":
                if cold.began is not None:  # it goes on, after others have had its thread
                    return
                cold.began = now
            began = cold.began
            event = TaskEvent(
                pool=self.name,
                task_id=cold.serial,
                name=name or task.name,
                time_ns=now,
                thread=current_thread().name,
                error=error,
                key=task._options.key,
                priority=task._options.priority,
                waited=None if began is None else (began - cold.submitted) / 1e9,
                ran=None if began is None or what != "finished" else (now - began) / 1e9,
            )
            run_user_code(tell, self.observers, what, event, self.told)

    # -- for workers ----------------------------------------------------------------------------------------------

    def after_claim(self) -> None:
        """Use the room that a claim has made, and wake the next worker if tasks remain; the lock is held."""
        self.admission.let_in()
        if self.staff.idle and self.ready and not self.staff.waking:
            self.staff.wake_one()

    def claim_next(self) -> Task | None:
        """Claim the next task that is alive; None if none may run now. The lock is held."""
        while self.ready:
            task = self.take()
            if task._state == PENDING:
                task._state = RUNNING
                return task
            self.dead -= 1
        return None

    def skip_dead(self, worker: Worker, husk: Task) -> None:
        """Have `worker` let go of a dead task that it took from the order, and come again; the lock is held.

        It may be the last to hold that, and its result, whose destructor is the user's.
        """
        self.dead -= 1
        worker.husk = husk

    def claim_or_rest(self, worker: Worker) -> Task | None:
        """Claim the next task for `worker`, else mark it idle, or ready to leave; the lock is held."""
        if self.staff.surplus and self.staff.lets_go(worker):
            worker.resting = False
            self.after_claim()
            return None
        self.admission.let_in(free=1)
        task = self.claim_next()
        if task is not None:
            self.after_claim()
            return task
        wanted = self.closed is None or bool(self.aside.tasks)
        worker.resting = wanted and self.broken is None and worker in self.staff.workers
        if worker.resting:
            if self.staff.standing:
                return self.staff.take_stand()
            self.staff.idle.append(worker)
        return None

    def taken_over(self, task: Task) -> None:
        """Tell the order that a task it gave out runs no more; the lock is held."""
        if self.ended_in_order is not None:
            self.ended_in_order(task)

    def resume(self, task: Task) -> None:
        """Put a task back in the order that waits beside it."""
        self.aside.resume(task)

    def make_room(self) -> None:
        """Find out how many may wait where submit() goes the plain way; the lock is held."""
        plain = self.plain and self.closed is None and self.broken is None and not self.shedding.standing
        plain = plain and not self.admission.takers
        self.room = self.admission.limit - len(self.aside.tasks) if plain else -1

    def put_back(self, task: Task) -> BaseException | None:
        """Return a claimed task to the order, for it has not begun, or is to go on later; the lock is held.

        Returns:
            None; or why it cannot wait any more, for `give_up`: at its deadline, in a pool that broke or was closed, or
            because the order does not take it.
        """
        self.taken_over(task)
        why: BaseException | None = None
        if task.done():
            why = getattr(task._final(), "_exception", None) or CancelledError()  # it has none if others have ended it
        elif self.broken is not None:
            why = self.why_broken()
        elif self.dropping:
            why = PoolClosed(self.name, str(self.closed))
        else:
            task._state = PENDING
            try:
                if not self.aside.park(task):
                    self.kept.put_again(task)
                return None
            except BaseException as error:  # of a key's __hash__ or __eq__: the task fails, and not its worker
                pass_on(error)
                task._state, why = RUNNING, error
        self.cancelled += not task._silent
        return why

    def give_up(self, task: Task, why: BaseException) -> None:
        """Settle a claimed task that never begins, and was counted as cancelled; no lock is held."""
        try:
            self.notify_observers("cancelled", task, why)
        finally:
            if issubclass(type(why), PoolClosed):
                task._abandon(why)
            else:
                task._drop(why)

    # -- the end --------------------------------------------------------------------------------------------------

    def why_broken(self) -> PoolBroken:
        """Return an error that says why the pool is broken, for one caller or future alone."""
        broken = cast(PoolBroken, self.broken)
        error = PoolBroken(broken.pool, broken.reason)
        error.__cause__ = broken.__cause__
        return error

    def break_off(self, where: str, error: BaseException) -> None:
        """Take nothing more, for the order has raised `error`, and see that all that waits fails soon.

        The lock is held, in the middle of whatever asked the order; so that is done in another thread.
        """
        if self.broken is None:
            self.broken = PoolBroken(self.name, f"The order failed in {where}")
            self.broken.__cause__ = error
            self.make_room()

        def tell() -> None:
            log(_log, logging.CRITICAL, "pool %r is broken: its order failed in %s", self.name, where, error=error)
            self.break_down()

        run_later(tell)

    def break_down(self, worker: Worker | None = None, reason: str = "", cause: BaseException | None = None) -> None:
        """Fail all that waits, and take nothing more: the order failed.

        Or what was to set up a `worker` did, for which there are a `reason` and a `cause`; then also what that was to
        begin with.
        """
        with self.lock:
            if self.broken is None:
                self.broken = PoolBroken(self.name, reason)
                self.broken.__cause__ = cause
            self.make_room()
            victims = self.shedding.claim_all()
            if worker is not None and worker.task is not None:
                victims.append(worker.task)
                worker.task = None
            self.cancelled += sum(not task._silent for task in victims)
            self.staff.recall_all()
            self.staff.wake_all()
            late = self.admission.refuse_all(self.why_broken)
        self.settle(late, victims, self.why_broken)

    def settle(self, late: list[Task], victims: list[Task], why: Callable[[], PoolBroken | PoolClosed]) -> None:
        """Refuse the tasks that came too `late`, and give up the `victims`, each for an error of its own."""
        fatal: BaseException | None = None
        for do, tasks in ((self.admission.turn_away, late), (self.give_up, victims)):
            for task in tasks:
                try:
                    do(task, why())
                except BaseException as error:  # of a callback that would end the thread: the others are told before
                    fatal = error
        if fatal is not None:
            raise fatal

    def read_maps(self, deadline: float | None = None, *, wait: bool) -> None:
        """Read the input of the maps of a closed pool to the end, in this thread, until `deadline` at most.

        Where another thread reads, `wait` for it; or leave that map to the workers.
        """
        with self.lock:
            feeds = list(self.maps)
        for feed in feeds:
            feed.read_to_end(deadline, wait=wait)

    def leave_maps(self) -> None:
        """Have the workers of a closed pool read what is left of the input of its maps."""
        with self.lock:
            feeds = list(self.maps)
        for feed in feeds:
            feed.leave()

    def drop(self) -> None:
        """Close the pool, for nobody holds it any more. What was accepted runs."""
        self.close("the pool was dropped", cancel=False)
        self.leave_maps()

    def abandon(self) -> None:
        """Close the pool, for Ctrl-C ended its block; cancel what has not begun, and let nobody wait for what has."""
        self.abandoned = True
        self.close("Ctrl-C", cancel=True)

    def close(self, after: str, *, cancel: bool) -> None:
        """Take no more tasks; cancel what has not begun, if `cancel`. Idempotent. Waits for nothing."""
        with self.lock:
            if self.closed is None:
                self.closed = after
                self.make_room()
            why = partial(PoolClosed, self.name, self.closed) if self.broken is None else self.why_broken
            late = self.admission.refuse_all(why)
            victims = self.shedding.claim_all() if cancel or self.broken is not None else []
            feeds = list(self.maps) if cancel else []
            self.dropping = self.dropping or cancel
            self.cancelled += sum(not task._silent for task in victims)
            self.staff.recall_all()
            self.staff.wake_all()
            while self.admission.takers:
                self.admission.takers.pop().release()
            if (self.tasks or self.aside.tasks) and not self.staff.workers and self.staff.may_grow():
                self.staff.try_to_start()
        try:
            self.settle(late, victims, why)
        finally:
            for feed in feeds:
                feed.give_up()

    def reopen(self) -> None:
        """Take tasks again, if only Python's exit closed the pool."""
        with self.lock:
            if self.closed == AT_EXIT and not self.dropping:
                self.closed = None
                self.make_room()

    def is_ours(self) -> bool:
        """Whether this thread is one of the pool's workers."""
        worker = current_worker()
        return worker is not None and worker.dispatcher is self and worker is not self.staff.stray

    def is_inside(self) -> bool:
        """Whether this thread is one of the pool's workers, or runs one of its tasks."""
        worker = current_worker()
        if worker is not None and worker.dispatcher is self:
            return self.is_ours()
        return any(task._owner is self for task in (HERE.tasks if worker is None else worker.stack()))

    def waiting(self) -> int:
        """How many tasks wait; the lock is held."""
        return len(self.tasks) - self.dead + len(self.aside.tasks)

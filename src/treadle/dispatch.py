"""Dispatcher: what a pool, its workers and its futures share.

The pool is the user's handle and may be dropped at any time; its workers hold the dispatcher, never the pool, so a
dropped pool is noticed and its threads end.

    submit -> enter -> order.tasks -> a worker claims it -> settled
                 `-> entrants (callers waiting for room) -^

Guarantees: at most `max_workers` threads and at most `queue_size` waiting tasks, beyond those that free workers are
about to take; callers waiting for room enter in the order they came; a task that was admitted is run, cancelled, or
failed with a reason. Assumptions: one lock guards every field below unless its comment says otherwise. The lock is
re-entrant, because a signal handler or a finalizer may submit in the middle of a critical section; so each section
leaves the fields sound between any two of its lines. Nothing is called out while it is held: no user code, no
logging, no destructor of a user's object.
"""

from __future__ import annotations

import itertools
import logging
import sys
from _thread import allocate_lock
from collections import OrderedDict
from contextlib import suppress
from threading import RLock, Thread, current_thread
from typing import TYPE_CHECKING, Any, cast

from treadle import clock, deadlock
from treadle.errors import PoolBroken, PoolClosed, PoolFull
from treadle.events import Observer, TaskEvent, tell
from treadle.futures import PENDING, RUNNING, Bare, Future
from treadle.orders import Order
from treadle.worker import Worker, current_worker

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Container
    from contextvars import Context

__all__ = ["Dispatcher"]

_log = logging.getLogger("treadle")
_serial = itertools.count(1)

Task = Future[Any]


class Entrant:
    """A caller that waits for room. The caller of `run` sleeps in its event loop and has no gate."""

    __slots__ = ("gate", "refusal")

    def __init__(self, *, blocking: bool) -> None:
        self.gate: LockType | None = None
        self.refusal: Exception | None = None
        if blocking:
            self.gate = allocate_lock()
            self.gate.acquire()


class Dispatcher:
    """Admits tasks, keeps them in order, and brings them to workers. One a pool."""

    __slots__ = (  # a plain instance has too many attributes for Python to find them fast
        "__weakref__",
        "abandoned",
        "acquire",
        "broken",
        "cancelled",
        "closed",
        "dead",
        "departed",
        "dropping",
        "ended",
        "entrants",
        "growing",
        "idle",
        "idle_timeout",
        "initargs",
        "initializer",
        "inline",
        "limit",
        "room",
        "lock",
        "max_workers",
        "min_workers",
        "name",
        "numbers",
        "observers",
        "order",
        "put",
        "queue_size",
        "rejected",
        "release",
        "shed",
        "take",
        "tasks",
        "thread_prefix",
        "waking",
        "workers",
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
        observers: tuple[Observer, ...],
    ) -> None:
        # Fixed for life, so read without the lock.
        self.name = name
        self.thread_prefix = thread_prefix
        self.max_workers = max_workers
        self.min_workers = min_workers
        self.queue_size = queue_size
        self.limit: int = sys.maxsize if queue_size is None else queue_size
        self.room = -1 if observers else self.limit  # tasks that may wait and be entered the plain way, see Pool.submit
        self.idle_timeout = idle_timeout
        self.initializer = initializer
        self.initargs = initargs
        self.observers = observers
        self.order = order
        self.tasks = order.tasks
        self.put = order.put
        self.take = order.take

        self.renew_lock()
        self.workers: set[Worker] = set()
        self.idle: list[Worker] = []  # newest last, so the longest idle is left alone until its time is up
        self.growing = True  # fewer workers than max_workers
        self.waking = False  # a worker was woken and has not claimed yet; it wakes the next one if tasks remain
        self.entrants: OrderedDict[Task, Entrant] = OrderedDict()
        self.dead = 0  # tasks still in the order that were cancelled or settled there
        self.closed: str | None = None  # after what it was closed ("shutdown", ...), None while it is open
        self.dropping = False  # closed, and what had not begun was cancelled
        self.abandoned = False  # Ctrl-C ended its `with` block: nobody waits for what still runs
        self.broken: PoolBroken | None = None
        self.departed: Thread | None = None  # the last thread that left; the next one to leave joins it
        self.numbers: list[int] = []  # of workers that left, to be given again
        self.ended = 0  # tasks ended by workers that left, and by callers; `Worker.ended` counts the others
        self.inline = 0  # tasks running in threads that are no workers
        self.cancelled = 0
        self.rejected = 0
        self.shed = 0

    def start_afresh(self) -> None:
        """Be empty, in a forked child: the threads stayed in the parent, and what they held is theirs."""
        self.renew_lock()
        self.order.purge(lambda task: False)
        for container in (self.workers, self.idle, self.entrants, self.numbers):
            container.clear()
        self.growing, self.waking, self.dead, self.inline, self.departed = True, False, 0, 0, None

    def renew_lock(self) -> None:
        """Start with a fresh lock: at birth, and in a forked child."""
        self.lock = RLock()
        # Half the cost of `with`. Whoever uses them keeps `acquire` inside the `try`, see Pool.submit.
        self.acquire = self.lock.acquire
        self.release = self.lock.release

    def release_if_held(self) -> None:
        """Let the lock go if this thread has it: for a critical section that an exception ended anywhere."""
        if self.lock._is_owned():  # type: ignore[attr-defined]  # threading.Condition relies on it too
            self.release()

    def new_task(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context | Bare,
        name: str | None,
        kind: type[Task] = Future,
    ) -> Task:
        """Return a task that has not been admitted."""
        task = object.__new__(kind)
        task._home = self
        task._state = PENDING
        task._watchers = None
        task._fn = fn
        task._args = args
        task._context = context
        task._submitted = clock.now()
        if name is not None:
            task._get_rare().name = name
        return task

    def warm_up(self) -> None:
        """Start the threads that are to be kept warm."""
        with self.lock:
            while len(self.workers) < self.min_workers:
                self.start_worker()

    # -- admission ------------------------------------------------------------------------------------------------

    def enter(self, task: Task, when_full: str, timeout: float | None = None) -> None:
        """Admit `task`, or do what `when_full` says; the way for all that is not plain.

        Raises:
            PoolFull, PoolClosed, PoolBroken: the task was not taken, and will not run.
            RuntimeError: no thread could be started, and none lives.
        """
        try:
            victim = entrant = None
            with self.lock:
                self.check_open()
                if self.has_room():
                    self.admit(task)
                    when_full = ""
                elif when_full == "wait":
                    if self.is_ours():
                        when_full = "run"
                    else:
                        entrant = self.entrants[task] = Entrant(blocking=True)
                elif when_full == "discard_oldest":
                    victim = self.evict()
                    if victim is not None:
                        self.admit(task)
                if when_full == "run":
                    task._state = RUNNING
                elif when_full and entrant is None and victim is None:
                    raise PoolFull(self.name, self.limit, self.waiting())
        except Exception as error:
            self.refuse(task, error)
            raise
        if when_full == "run":
            self.run_here(task)
        elif victim is not None:
            self.announce("shed", victim)
            victim._abandon()
        elif entrant is not None:
            self.wait_for_room(task, entrant, timeout)
        self.announce("submitted", task)

    def enter_later(self, task: Task, when_full: str) -> bool:
        """Admit `task` without blocking: at once, or, if the policy is to wait, when there is room.

        Returns:
            True if it is in, False if it waits for room. `give_up` takes it out again.

        Raises:
            As `enter`.
        """
        if when_full in ("reject", "discard_oldest"):
            self.enter(task, when_full)
            return True
        try:
            with self.lock:
                self.check_open()
                if self.has_room():
                    self.admit(task)
                    return True
                self.entrants[task] = Entrant(blocking=False)
                return False
        except Exception as error:
            self.refuse(task, error)
            raise

    def offer(self, task: Task) -> bool:
        """Admit `task` if there is room now."""
        with self.lock:
            if self.closed is None and self.broken is None and self.has_room():
                self.admit(task)
                return True
            return False

    def give_up(self, task: Task, waited: float) -> PoolFull | None:
        """Stop waiting for room. None: too late, the task is in."""
        with self.lock:
            if self.entrants.pop(task, None) is None:
                return None
            error = PoolFull(self.name, self.limit, self.waiting(), waited)
        self.refuse(task, error)
        return error

    def check_open(self) -> None:
        """Raise unless tasks are taken; the lock is held."""
        if self.broken is not None:
            raise PoolBroken(self.name)
        if self.closed is not None:
            if self.closed == "interpreter shutdown":  # by this name, for whoever looks for the standard library's words
                raise RuntimeError(str(PoolClosed(self.name, self.closed)))
            raise PoolClosed(self.name, self.closed)

    def has_room(self) -> bool:
        """Whether one more task may wait, or a worker is free to take it; the lock is held."""
        if len(self.tasks) < self.limit:
            return True
        if self.dead:
            self.purge()
        busy = sum(worker.task is not None for worker in self.workers)
        return len(self.tasks) < self.limit + self.max_workers - busy

    def admit(self, task: Task) -> None:
        """Put `task` in the order and see that a worker comes; the lock is held."""
        self.put(task)
        if self.idle or self.growing:
            self.summon(task)

    def summon(self, task: Task) -> None:
        """Wake or start a worker; the lock is held. With none to be had, take `task` out again and raise."""
        if self.idle:
            if not self.waking:
                self.wake_one()
            if len(self.tasks) <= len(self.idle) + 1:
                return
        if len(self.workers) < self.max_workers:
            try:
                self.start_worker()
            except RuntimeError:  # can't start new thread
                if not self.workers:
                    self.discard(task)
                    raise

    def wake_one(self) -> None:
        """Wake the worker that fell idle last; the lock is held."""
        self.waking = True
        self.idle.pop().mail.release()

    def start_worker(self) -> None:
        """Start one more worker, with the next task in its hands.

        The lock is held, so that a start that fails (RuntimeError: can't start new thread) leaves no trace for anybody. The
        worker needs no lock before its first task has run; so that task has begun when its submit returns, and no
        shutdown comes between.
        """
        number = min(self.numbers) if self.numbers else len(self.workers)
        first = self.claim_next()
        worker = Worker(self, number, first)
        try:
            worker.thread.start()
        except RuntimeError:
            if first is not None:
                self.put_back(first)
            raise
        if self.numbers:
            self.numbers.remove(number)
        self.workers.add(worker)
        self.growing = len(self.workers) < self.max_workers

    def wait_for_room(self, task: Task, entrant: Entrant, timeout: float | None) -> None:
        """Block until `task` is in, refused, or `timeout` seconds have passed."""
        try:
            came = deadlock.wait(cast("LockType", entrant.gate), current_worker(), lambda: [task], timeout)
        except BaseException:  # Ctrl-C: a submit that raises must not run its task later
            task.cancel()
            raise
        if not came:
            error = self.give_up(task, timeout or 0.0)
            if error is not None:
                raise error
        if entrant.refusal is not None:
            self.refuse(task, entrant.refusal)
            raise entrant.refusal

    def let_in(self, room: int) -> None:
        """Admit callers that wait, until `room` tasks wait; the lock is held."""
        while self.entrants and len(self.tasks) - self.dead < room:
            task, entrant = self.entrants.popitem(last=False)
            self.put(task)
            if entrant.gate is not None:
                entrant.gate.release()

    def evict(self) -> Task | None:
        """Claim the task that has waited longest, to be abandoned; the lock is held."""
        while self.tasks:
            task = self.order.take_oldest()
            if task._state == PENDING:
                task._state = RUNNING
                self.shed += 1
                return task
            self.dead -= 1
        return None

    def refuse(self, task: Task, error: Exception) -> None:
        """Count and announce a task that was not taken; no lock is held."""
        with self.lock:
            self.rejected += 1
        self.announce("rejected", task, error)
        task._forget_call()

    # -- for futures (futures.Home) -------------------------------------------------------------------------------

    def wait(self, future: Task, timeout: float | None) -> bool:
        """Block until `future` is done; if it has not begun and this is one of our workers, run it here instead."""
        worker = current_worker()
        if worker is not None and worker.dispatcher is self and self.claim(future):
            self.run_here(future)
            return True
        gate = allocate_lock()
        gate.acquire()
        with self.lock:
            if future.done():
                return True
            future._watch().gates.append(gate)
        try:
            return deadlock.wait(gate, worker, lambda: [future], timeout) or future.done()
        finally:
            with self.lock:
                if not future.done():
                    future._watch().gates.remove(gate)

    def withdraw(self, future: Task) -> bool:
        """Forget a pending task; the lock is held."""
        self.cancelled += not future._silent
        self.leave(future)
        return True

    def claim(self, future: Task) -> bool:
        """Set a pending task to running, for the caller to run; False when somebody was faster."""
        with self.lock:
            if future._state != PENDING:
                return False
            future._state = RUNNING
            self.leave(future)
            return True

    def leave(self, task: Task) -> None:
        """Take a task that waits out of turn; the lock is held. In the order it stays as a dead entry for a while."""
        entrant = self.entrants.pop(task, None)
        if entrant is not None:
            if entrant.gate is not None:
                entrant.gate.release()
            return
        self.dead += 1
        if self.dead > 64 and self.dead * 2 > len(self.tasks):  # half of them: so a purge costs no more than it frees
            self.purge(task)
        self.let_in(self.limit)

    def purge(self, leaving: Task | None = None) -> None:
        """Drop the dead entries from the order; the lock is held."""
        self.order.purge(lambda task: task is not leaving and task._state == PENDING)
        self.dead = 0

    def run_here(self, task: Task) -> None:
        """Run a claimed task in this thread, inside whatever runs there already."""
        worker = current_worker()
        self.count_inline(worker, task, +1)
        try:
            while self.observe(task) if self.observers else task._invoke():
                pass
        finally:
            self.count_inline(worker, task, -1)
        task._finish()

    def count_inline(self, worker: Worker | None, task: Task, change: int) -> None:
        """Note that `task` begins (+1) or ends (-1) inside what runs in this thread, `worker`'s or nobody's."""
        if worker is not None:
            if change > 0:
                worker.push(task)
            else:
                worker.pop()
        with self.lock:
            if worker is None:
                self.inline += change
            if change < 0:
                self.ended += 1

    def never_runs(self, stuck: Container[Worker]) -> bool:
        """Whether a waiting task could never be run, if the workers in `stuck` never went on."""
        with self.lock:
            return len(self.workers) >= self.max_workers and all(worker in stuck for worker in self.workers)

    def observe(self, task: Task) -> bool:
        """Run a claimed task, and tell the observers before and after; return as `Future._invoke`."""
        name = task.name
        self.announce("started", task, name=name)
        again = task._invoke()
        self.announce("finished", task, task._exception, name)
        return again

    def announce(self, what: str, task: Task, error: BaseException | None = None, name: str | None = None) -> None:
        """Tell the observers, if there are any, what happened to `task`; no lock is held."""
        if self.observers and not task._silent:
            rare = task._get_rare()
            rare.serial = rare.serial or next(_serial)
            event = TaskEvent(self.name, rare.serial, name or task.name, clock.now_ns(), current_thread().name, error)
            tell(self.observers, what, event)

    # -- for workers ----------------------------------------------------------------------------------------------

    def after_claim(self) -> None:
        """Use the room that a claim has made, and wake the next worker if tasks remain; the lock is held."""
        self.let_in(self.limit)
        if self.idle and self.tasks and not self.waking:
            self.wake_one()

    def claim_next(self) -> Task | None:
        """Claim the next task that is alive; None if none waits. The lock is held."""
        while self.tasks:
            task = self.take()
            if task._state == PENDING:
                task._state = RUNNING
                return task
            self.dead -= 1
        return None

    def skip_dead(self, worker: Worker) -> Task | None:
        """Go on to a task that is alive, for `worker`, which took a dead one from the order; the lock is held."""
        self.dead -= 1
        return self.claim_or_rest(worker)

    def claim_or_rest(self, worker: Worker) -> Task | None:
        """Claim the next task for `worker`, else mark it idle, or ready to leave; the lock is held."""
        self.let_in(self.limit + 1)
        task = self.claim_next()
        if task is not None:
            self.after_claim()
            return task
        worker.resting = self.closed is None and self.broken is None and worker in self.workers
        if worker.resting:
            self.idle.append(worker)
        return None

    def put_back(self, task: Task) -> None:
        """Return a claimed task to the order; the lock is held."""
        task._state = PENDING
        self.put(task)

    def may_leave(self, worker: Worker) -> bool:
        """Whether `worker`, idle for long, ends; False if there is work for it, or it is to be kept warm."""
        with self.lock:
            if worker not in self.idle or len(self.workers) <= self.min_workers:
                return False
            self.idle.remove(worker)
            return True

    def depart(self, worker: Worker) -> None:
        """Strike out a worker whose thread is about to end, and replace it if it is missed."""
        with self.lock:
            if worker not in self.workers:  # this is a forked child, and the worker its parent's
                return
            self.workers.remove(worker)
            self.growing = True
            self.numbers.append(worker.number)
            self.ended += worker.ended
            if worker in self.idle:
                self.idle.remove(worker)
            self.waking = False
            missed = self.tasks or (self.closed is None and len(self.workers) < self.min_workers)
            if missed and self.broken is None:
                with suppress(RuntimeError):  # can't start new thread: the next submit tries again
                    self.start_worker()
            predecessor, self.departed = self.departed, worker.thread
        if predecessor is not None:
            predecessor.join()  # so that at any time at most one ended thread is not joined

    # -- the end --------------------------------------------------------------------------------------------------

    def break_down(self) -> None:
        """Fail all that waits, and take nothing more: an initializer failed."""
        with self.lock:
            self.broken = PoolBroken(self.name)
            self.room = -1
            victims = self.seize()
            self.wake_all()
            late = self.refuse_entrants(self.broken)
        for task in (*victims, *late):
            task._settle(None, PoolBroken(self.name))

    def close(self, after: str, *, cancel: bool) -> None:
        """Take no more tasks; cancel what has not begun, if `cancel`. Idempotent. Waits for nothing."""
        with self.lock:
            if self.closed is None:
                self.closed = after
                self.room = -1
            late = self.refuse_entrants(PoolClosed(self.name, self.closed))
            victims = self.seize() if cancel else []
            self.dropping = self.dropping or cancel
            self.cancelled += len(victims)
            self.wake_all()
            if self.tasks and not self.workers:
                with suppress(RuntimeError):
                    self.start_worker()
        for task in late:
            task._settle(None, PoolClosed(self.name, after))
        for task in victims:
            self.announce("cancelled", task)
            task._abandon()

    def undone(self) -> tuple[Task, ...]:
        """Return the futures of the tasks that run or wait."""
        with self.lock:
            running = [task for worker in self.workers for task in worker.stack()]
            return tuple(task for task in (*running, *self.tasks) if not task.done())

    def report_undone(self, timeout: float) -> None:
        """Log what a shutdown left undone."""
        undone = self.undone()
        names = ", ".join(sorted({task.name for task in undone})[:10])
        _log.warning("pool %r: %d tasks were not done %g s after shutdown: %s", self.name, len(undone), timeout, names)

    def seize(self) -> list[Task]:
        """Claim all that waits in the order, for it will not run; the lock is held."""
        victims = [task for task in self.tasks if task._state == PENDING]
        for task in victims:
            task._state = RUNNING
        self.purge()
        return victims

    def refuse_entrants(self, error: Exception) -> list[Task]:
        """Turn away the callers that wait for room, and return the tasks of those that have no gate; the lock is held."""
        late = []
        while self.entrants:
            task, entrant = self.entrants.popitem(last=False)
            entrant.refusal = error
            if entrant.gate is not None:
                entrant.gate.release()
            else:
                task._state = RUNNING
                late.append(task)
        return late

    def wake_all(self) -> None:
        """Wake every idle worker, to find out that it is time to leave; the lock is held."""
        while self.idle:
            self.idle.pop().mail.release()

    def is_ours(self) -> bool:
        """Whether this thread is one of the pool's workers."""
        worker = current_worker()
        return worker is not None and worker.dispatcher is self

    def waiting(self) -> int:
        """How many tasks wait; the lock is held."""
        return len(self.tasks) - self.dead

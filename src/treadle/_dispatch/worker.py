"""Worker: a thread that runs tasks until there is none left for it."""

from __future__ import annotations

import logging
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.threads import new_thread
from treadle._base.words import log, show, traceback_of, type_name
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import Lent
from treadle._tasks.future import FINISHED, PENDING, RUNNING, Future
from treadle._tasks.scope import HERE
from treadle.errors import WorkerLost

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["Worker", "current_worker", "lent_here", "settle_lost"]

_log = logging.getLogger("treadle")
_standard_log = logging.getLogger("concurrent.futures")

Task = Future[Any]


def current_worker() -> Worker | None:
    """Return the worker whose thread this is, of whatever pool; None for a thread of nobody's."""
    worker: Worker | None = HERE.worker
    return worker


def lent_here(dispatcher: Dispatcher) -> Lent | None:
    """Return what its initializer has set in this thread; None if nothing, or if it is none of the pool's."""
    worker = current_worker()
    return worker.lent if worker is not None and worker.dispatcher is dispatcher else None


def settle_lost(dispatcher: Dispatcher, task: Task, thread: str, reason: BaseException | None) -> None:
    """Settle a claimed task that `reason` ended between any two lines, in the thread of that name."""
    with dispatcher.lock:
        dispatcher.taken_over(task)
    if task.done():
        task._tell()
    elif task._context is None:  # it has run
        task._finish()
    else:
        lost = WorkerLost(thread, task.name, reason)
        try:
            dispatcher.notify_observers("finished", task, lost)
        finally:
            task._drop(lost)


class Worker:
    """One thread of a pool.

    It marks itself idle before it delivers a result: else a submit in between would start a surplus thread. So it
    settles one task and claims the next in one critical section, which also halves the locking.
    """

    __slots__ = (
        "calling",
        "dispatcher",
        "ended",
        "failed",
        "husk",
        "last",
        "lent",
        "lifespan",
        "mail",
        "number",
        "outer",
        "resting",
        "since",
        "task",
        "thread",
        "victims",
    )

    def __init__(self, dispatcher: Dispatcher, number: int, first: Task | None) -> None:
        self.dispatcher = dispatcher
        self.number = number
        self.thread = new_thread(self._main, f"{dispatcher.thread_prefix}{number}")
        self.mail = allocate_lock()  # released once to wake the worker from idleness
        self.mail.acquire()
        self.resting = False  # whether it fell idle, or found no reason to stay; guarded by the dispatcher's lock
        # Written by the worker's thread alone; snapshots read them as they are.
        self.task = first  # claimed for it already
        self.last: Task | None = None  # the one before, while it is settled
        self.lent: Lent | None = None  # what the initializer has set in the thread's context
        self.lifespan: AbstractContextManager[object] | None = None  # entered, and not left
        self.outer: list[tuple[Task | None, float]] = []  # tasks that wait, further out in this thread, for `task`
        self.since = clock.now()
        self.ended = 0  # tasks that it has run
        self.failed = 0  # of them, those that raised
        self.calling = False  # whether the last of them is over, and its callbacks run
        self.victims: list[Task] | None = None  # tasks that it has claimed to shed them
        self.husk: Task | None = None  # that was cancelled, or run elsewhere, and came to it in its turn

    def push(self, task: Task) -> None:
        """Note that `task` now runs inside the present one."""
        self.outer.append((self.task, self.since))
        self.task = task
        self.since = clock.now()

    def pop(self) -> None:
        """Note that the innermost task is over."""
        self.task, self.since = self.outer.pop()

    def stack(self) -> list[Task]:
        """Return the tasks that run in this thread, the innermost last."""
        tasks = [*(task for task, _ in list(self.outer)), self.task]
        return [task for task in tasks if task is not None]

    def turn(self) -> Task | None:
        """Return the outermost task that runs in this thread, and is not counted as ended; the lock is held."""
        return None if self.calling else next((task for task, _ in self.outer), self.task)

    def _main(self) -> None:
        HERE.worker = self
        dispatcher = self.dispatcher
        reason: BaseException | None = None
        try:
            if self._initialize():
                self._serve()
        except BaseException as error:
            reason = error
            message = "worker %s of pool %r was killed"
            log(_log, logging.CRITICAL, message, self.thread.name, dispatcher.name, error=error)
        finally:
            HERE.worker = None
            try:
                self._leave_nothing(reason)
                self._leave_lifespan(reason)
            finally:
                dispatcher.staff.depart(self)

    def _leave_nothing(self, reason: BaseException | None) -> None:
        """Settle what a thread that was killed, between any two lines, had in its hands."""
        for task in (self.last, *self.stack()):
            if task is not None:
                try:
                    settle_lost(self.dispatcher, task, self.thread.name, reason)
                except BaseException as error:  # of a callback, which cannot end this thread twice
                    log(_log, logging.ERROR, "a callback of task %s raised", task.name, error=error)
        self.task = self.last = None
        if self.victims is not None:
            self.dispatcher.shedding.shed(self.victims)

    def _initialize(self) -> bool:
        """Set the thread up; False if that failed, here or meanwhile in another thread: nothing begins any more."""
        dispatcher, what, cause = self.dispatcher, "initializer", None
        initializer, lifespan = dispatcher.initializer, dispatcher.thread_lifespan
        if initializer is None and lifespan is None:
            return True
        try:
            if initializer is not None:
                initializer(*dispatcher.initargs)
            if lifespan is not None and self is not dispatcher.staff.stray:
                what = "thread_lifespan"
                self._enter(lifespan())
        except BaseException as error:
            log(_standard_log, logging.CRITICAL, "Exception in %s:", what, error=error)
            cause = BaseException.with_traceback(error, None)  # which the log has: its frames lead back to the pool
        else:
            self.lent = Lent.by_this_thread()
            if dispatcher.broken is None:
                return self is not dispatcher.staff.stray  # one of them has forked, and returned here in the child
        reason = "A thread initializer failed" if what == "initializer" else f"A {what} failed"
        dispatcher.break_down(self, reason, cause)
        return False

    def _enter(self, lifespan: AbstractContextManager[object]) -> None:
        """Begin what lasts as long as the thread."""
        kind = type(lifespan)
        if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
            raise TypeError(
                f"thread_lifespan() returned {show(lifespan)}, which is {type_name(lifespan)}; allowed: a context "
                "manager (not an async one), as a function returns that is decorated with contextlib.contextmanager"
            )
        kind.__enter__(lifespan)
        self.lifespan = lifespan

    def _leave_lifespan(self, reason: BaseException | None) -> None:
        """End what was to last as long as the thread; `reason` has killed that, if it is not None.

        Until then it is one of the pool's to whatever is called, which may use the pool as a task may.
        """
        lifespan = self.lifespan
        if lifespan is None or self is self.dispatcher.staff.stray:  # in a forked child it is the parent's
            return
        HERE.worker = self
        self.dispatcher.staff.begin_to_leave(self)
        try:
            trace = None if reason is None else traceback_of(reason)
            type(lifespan).__exit__(lifespan, None if reason is None else type(reason), reason, trace)
        except BaseException as error:
            message = "thread_lifespan of %s raised when it was left, as the thread ended"
            log(_log, logging.ERROR, message, self.thread.name, error=error)
        finally:
            HERE.worker = None
            self.lifespan = None  # the thread departs next, and counts as long as it has one

    def _serve(self) -> None:
        """Settle, claim, run, over and over."""
        dispatcher = self.dispatcher
        acquire, release = dispatcher.acquire, dispatcher.release
        staff, entrants = dispatcher.staff, dispatcher.admission.entrants
        ready, take, idle = dispatcher.ready, dispatcher.take, staff.idle
        stale, after = dispatcher.shedding.stale, dispatcher.after
        now, plain, lent = clock.now, not dispatcher.observers, self.lent
        task, waiters = self.task, None
        why: BaseException | None = None  # the last task went back to the queue, and cannot wait there
        while True:
            done = self.last = task  # is run, not settled; the last reference to the one before goes here, unlocked
            if done is not None:
                self.since = now()
                try:
                    if lent is not None and not isinstance(done._context, NoContext):
                        done._context = lent.to(done._context)
                    again = done._invoke() if plain else dispatcher.observe(done)
                except BaseException:  # the thread is killed
                    if not done._silent:
                        self.ended += 1
                        self.failed += done._context is not None or done._has_raised()  # it is lost, or has run
                    raise
            acquire()
            try:
                if done is not None:
                    waiters = done._awaited_by
                    if again:
                        waiters = None
                        why = dispatcher.put_back(done)
                    else:
                        if not done._silent:
                            self.ended += 1  # as it is replaced below: a snapshot counts it once
                            if done._exception is not None:
                                self.failed += 1
                        if waiters is None or waiters.condition is None:
                            done._state = FINISHED
                        if after is not None:
                            after(done)
                            dispatcher.after_claim()
                if waiters is not None and waiters.callbacks:
                    task = done  # claim nothing while callbacks run: who knows how long, and whom they wait for
                    self.calling = True
                elif stale is not None and ready and (victims := stale()):
                    self.victims, task = dispatcher.shedding.take_over(victims), None
                elif ready and not staff.surplus:
                    task = take()
                    if task._state is PENDING:
                        task._state = RUNNING
                        if entrants or (idle and not staff.waking):
                            dispatcher.after_claim()
                    else:
                        dispatcher.skip_dead(self, task)
                        task = None
                else:
                    task = dispatcher.claim_or_rest(self)
                self.task = task
            finally:
                release()
            if done is not None and why is not None:
                dispatcher.give_up(done, why)
                why = None
            if waiters is not None:
                self._deliver(done)
                waiters = None
                if task is done:
                    self.calling = False
                    task = self.task = None
                    continue
            if task is None:
                done = self.last = None  # an idle worker holds no task
                if not self._rest():
                    return

    def _deliver(self, done: Any) -> None:
        """Tell those who wait for the last task. The next one is claimed, and must not go down with a callback."""
        try:
            if done._state is FINISHED:
                done._tell()
            else:
                done._finish()
        except BaseException:
            dispatcher, why = self.dispatcher, None
            with dispatcher.lock:
                task, self.task = self.task, None
                if task is not None and task is not done:
                    why = dispatcher.put_back(task)
            if task is not None and why is not None:
                dispatcher.give_up(task, why)
            raise

    def _rest(self) -> bool:
        """Tell those whose tasks were shed, or sleep until there is work. False: it is time to leave."""
        dispatcher = self.dispatcher
        if self.husk is not None:
            self.husk = None
            return True
        if self.victims is not None:
            dispatcher.shedding.shed(self.victims)
            self.victims = None
            return True
        if not self.resting:
            return False
        timeout = -1.0 if dispatcher.idle_timeout is None else dispatcher.idle_timeout
        while not self.mail.acquire(True, timeout):
            if dispatcher.staff.may_leave(self):
                return False
            timeout = -1  # kept for as long as it takes
        with dispatcher.lock:
            dispatcher.staff.waking = False
        return True

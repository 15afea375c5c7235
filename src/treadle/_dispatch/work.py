"""Work: what a thread of a pool does, from its first line to its last.

    arrive -> set up -> [settle the last task, claim the next -> run it, or rest] ... -> leave what it was set up with

It marks itself idle before it delivers a result: else a submit in between would start a surplus thread. So it settles
one task and claims the next in one section, which also halves the locking.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.locks import deferred, make_deferred_calls
from treadle._base.words import log, show, traceback_of, type_name
from treadle._dispatch.worker import Worker
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import Lent
from treadle._tasks.future import FINISHED, PENDING, RUNNING, Future, InternalTask, context_of, finish
from treadle._tasks.scope import HERE
from treadle._tasks.scoped import ScopedTask, wait_for_rate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from treadle._dispatch.dispatcher import Dispatcher
    from treadle._dispatch.state import Task

__all__ = ["work"]

_log = logging.getLogger("treadle")
_standard_log = logging.getLogger("concurrent.futures")


def work(dispatcher: Dispatcher, worker: Worker) -> None:
    """Be a worker, in its thread."""
    reason: BaseException | None = None
    try:
        HERE.worker = worker
        if dispatcher.arrive(worker) and _set_up(dispatcher, worker):
            _serve(dispatcher, worker)
    except BaseException as error:
        reason = error
        log(_log, logging.CRITICAL, "worker %s of pool %r was killed", worker.thread.name, dispatcher.name, error=error)
    finally:
        HERE.worker, HERE.leaving = None, dispatcher.state  # for finalizers: the next to leave waits for this thread
        try:
            _leave_nothing(dispatcher, worker, reason)
        except BaseException:  # it is killed once more
            _leave_nothing(dispatcher, worker, reason)
        try:
            _leave_lifespan(dispatcher, worker, reason)
        finally:
            reason = None  # its traceback holds this frame: no cycle
            try:
                dispatcher.exited(worker)
            except BaseException:  # it is killed once more
                dispatcher.exited(worker)
                raise


def _leave_nothing(dispatcher: Dispatcher, worker: Worker, reason: BaseException | None) -> None:
    """Settle what a thread that was killed, between any two lines, had in its hands."""
    if reason is not None:
        dispatcher.hand_nothing_over(worker)  # or what a submit does just now, after the look, would be lost
    for task in dict.fromkeys((worker.last, *worker.stack())):
        if task is not None:
            try:
                if not dispatcher.keep_unclaimed(task, worker):
                    dispatcher.settle_lost(task, worker.thread.name, reason)
            except BaseException as error:  # of a callback, which cannot end this thread twice
                if not task.done():  # it is killed once more
                    raise
                log(_log, logging.ERROR, "a callback of task %s raised", task.name, error=error)
                finish(task)  # or it was killed once more, and there are others
    worker.task = worker.last = None
    dispatcher.end_claimed(worker.claims, log_only=True)


# -- set up, and left -------------------------------------------------------------------------------------------------


def _set_up(dispatcher: Dispatcher, worker: Worker) -> bool:
    """Set the thread up; False if that failed, here or meanwhile in another thread: nothing begins any more."""
    setup, what, cause = dispatcher.setup, "initializer", None
    if setup.initializer is None and setup.lifespan is None:
        return True
    try:
        if setup.initializer is not None:
            setup.initializer(*setup.initargs)
        if setup.lifespan is not None and worker is not dispatcher.workers.stray:
            what = "thread_lifespan"
            _enter(worker, setup.lifespan())
    except BaseException as error:
        log(_standard_log, logging.CRITICAL, "Exception in %s:", what, error=error)
        cause = BaseException.with_traceback(error, None)  # which the log has: its frames lead back to the pool
    else:
        worker.lent = Lent.by_this_thread()
        if dispatcher.broken is None:
            return worker is not dispatcher.workers.stray  # one of them has forked, and returned here in the child
    dispatcher.break_down(worker, "A thread initializer failed" if what == "initializer" else f"A {what} failed", cause)
    return False


def _enter(worker: Worker, lifespan: AbstractContextManager[object]) -> None:
    """Begin what lasts as long as the thread."""
    kind = type(lifespan)
    if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
        raise TypeError(
            f"thread_lifespan() returned {show(lifespan)}, which is {type_name(lifespan)}; allowed: a context "
            "manager (not an async one), as a function returns that is decorated with contextlib.contextmanager"
        )
    kind.__enter__(lifespan)
    worker.lifespan = lifespan


def _leave_lifespan(dispatcher: Dispatcher, worker: Worker, reason: BaseException | None) -> None:
    """End what was to last as long as the thread; `reason` has killed that, if it is not None.

    Until then it is one of the pool's to whatever is called, which may use the pool as a task may.
    """
    lifespan = worker.lifespan
    if lifespan is None or worker is dispatcher.workers.stray:  # in a forked child it is the parent's
        return
    HERE.worker = worker
    dispatcher.begin_to_leave(worker)
    try:
        trace = None if reason is None else traceback_of(reason)
        type(lifespan).__exit__(lifespan, None if reason is None else type(reason), reason, trace)
    except BaseException as error:
        message = "thread_lifespan of %s raised when it was left, as the thread ended"
        log(_log, logging.ERROR, message, worker.thread.name, error=error)
    finally:
        HERE.worker = None
        worker.lifespan = None  # the thread departs next, and counts as long as it has one


# -- tasks ------------------------------------------------------------------------------------------------------------


def _serve(dispatcher: Dispatcher, worker: Worker) -> None:
    """Run a task; settle it and claim the next; over and over."""
    acquire, release, state = dispatcher.lock.acquire, dispatcher.lock.release, dispatcher.state
    queue, workers, submitters = dispatcher.queue, dispatcher.workers, dispatcher.admission.waiting
    ready, give, line, shed = queue.ready, queue.give, queue.line, queue.shed
    claims, claim_stale = worker.claims, queue.claimer_of_stale(worker.claims)
    observe = None
    if queue.observe_end is not None or dispatcher.limit is not None:
        observe = dispatcher.observe_end
    now, run = clock.now, None
    if worker.lent is not None or state.observers:
        run = partial(_run, dispatcher, worker)
    task: Any = None
    done: Any = None
    waiters = None
    again = rare = False  # whether the task is to go on later; whether more is left to be done than is usual
    while True:
        if rare:
            rare = False
            if again and isinstance(done, ScopedTask):
                wait_for_rate(done)
            if claims.mine:
                dispatcher.end_claimed(claims)
            if state.attention or queue.debris:
                dispatcher.attend()
        if deferred:
            make_deferred_calls()
        done = worker.last = task  # is run, not settled; the last reference to the one before goes here, unlocked
        if done is None:
            again = False
            if worker.phase == "leaving" or (worker.phase == "idle" and not _rest(dispatcher, worker)):
                return
        else:
            worker.since = now()
            try:
                again = done._invoke() if run is None else run(done)
            except BaseException:  # the thread is killed
                if not isinstance(done, InternalTask):
                    lost = context_of(done) is not None  # or it has run
                    worker.ended += 1
                    worker.failed += lost or getattr(done, "_exception", None) is not None
                raise
        held = True  # or about to be (see `treadle._base.locks.locked`)
        try:
            acquire()
            if done is None:
                rare = True
                if dispatcher.come(worker):
                    task, held = worker.task, False
                    release()
                    continue
            elif again:
                rare = True
                dispatcher.put_back(claims, done)
            else:
                waiters = done._awaited_by
                if waiters is None or waiters.condition is None:
                    done._state = FINISHED
                if type(done) is Future or not isinstance(done, InternalTask):  # the first for speed
                    worker.ended += 1  # as it is replaced below: a snapshot counts it once
                    if done._exception is not None:
                        worker.failed += 1
                if observe is not None:
                    observe(done, worker)
                    rare = True  # the order may let more be taken now than this worker claims
            if waiters is not None and waiters.callbacks:
                worker.calling = True  # claim nothing while callbacks run: who knows how long, and whom they wait for
                if rare:
                    dispatcher.after_claim()
            elif not ready or workers.surplus:
                task, rare = dispatcher.claim_or_rest(worker), True
            elif line is not None:  # as `Fifo._give`, spelled out because this is the path of every task
                worker.task = task = line[0]
                if task._state is PENDING:
                    task._state = RUNNING
                    line.popleft()  # with the task in hand: an exception may come as it returns
                    if submitters or rare:
                        dispatcher.after_claim()
                        rare = True
                else:
                    task, rare = dispatcher.claim_or_rest(worker), True
            elif shed is not None and (shed(claim_stale) or claims.mine):
                worker.task = None
                task, rare = dispatcher.claim_after(worker), True
            else:
                give(worker)
                task = worker.task
                if task is not None and task._state is PENDING:
                    task._state = RUNNING
                    if submitters or rare:
                        dispatcher.after_claim()
                        rare = True
                else:
                    task, rare = dispatcher.claim_after(worker), True
            held = False
            release()
        except BaseException:
            try:
                dispatcher.mend(held)
            except BaseException:  # it is killed once more
                dispatcher.mend(held)
            raise
        if waiters is not None:
            waiters = None
            _deliver(dispatcher, worker, done)
            if worker.calling:
                worker.calling = False
                task = worker.task = None


def _run(dispatcher: Dispatcher, worker: Worker, task: Task) -> bool:
    """Run a task in what the thread was set up with, and tell the observers; return as `Future._invoke`."""
    try:
        if worker.lent is not None and not isinstance(context_of(task), NoContext):
            task._context = worker.lent.to(context_of(task))
        return dispatcher.run(task)
    finally:
        del task  # the traceback leads to this frame: no cycle through it


def _deliver(dispatcher: Dispatcher, worker: Worker, done: Any) -> None:
    """Tell those who wait for the last task. The next one is claimed, and must not go down with a callback."""
    try:
        finish(done)
    except BaseException:
        task = worker.task
        if task is not None and task is not done:
            dispatcher.unclaim(task)
            worker.task = None
        raise


def _rest(dispatcher: Dispatcher, worker: Worker) -> bool:
    """Sleep until there is work. False: it is time to leave."""
    timeout = dispatcher.setup.idle_timeout
    if timeout is None or worker.expected:  # or a submit that has started it could find it gone
        timeout = -1.0
    while not worker.wakeup.acquire(True, timeout):
        if dispatcher.may_leave(worker):
            return False
        timeout = -1  # kept for as long as it takes
    return True

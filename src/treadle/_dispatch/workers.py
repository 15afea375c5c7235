"""Workers: the workers of one pool; who is idle, who is on the way, who comes and goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from treadle._base import clock
from treadle._base.timer import run_later
from treadle._dispatch import deadlock
from treadle._dispatch.worker import Worker, current_worker
from treadle._tasks.future import RUNNING
from treadle.errors import PatchedTooLate

if TYPE_CHECKING:
    from threading import Thread

    from treadle._dispatch.dispatcher import Dispatcher, Task
    from treadle._dispatch.idle import Standing

__all__ = ["Workers"]

_in_parent: list[Worker] = []  # in a forked child: if they went, so would their lifespans, and do what is the parent's


class Workers:
    """At most `max_workers` threads, started when they are needed. The dispatcher's lock guards every field.

    A waiting task always has somebody coming for it: a submit wakes an idle worker or starts one, and a worker that
    was woken wakes the next one when it claims and leaves tasks waiting. So at most one is on its way at a time, and
    a burst of tasks that take no time wakes no more threads than it can use.
    """

    __slots__ = (
        "departed",
        "dispatcher",
        "growing",
        "idle",
        "leaving",
        "max_workers",
        "min_workers",
        "numbers",
        "on_stand",
        "standing",
        "stray",
        "surplus",
        "waking",
        "workers",
    )

    def __init__(self, dispatcher: Dispatcher, max_workers: int, min_workers: int) -> None:
        self.dispatcher = dispatcher
        self.max_workers = max_workers  # changes with `resize`
        self.min_workers = min_workers
        self.workers: set[Worker] = set()
        self.leaving: set[Worker] = set()  # struck out, and in what they have to leave; no task comes to them any more
        self.idle: list[Worker] = []  # newest last, so the longest idle is left alone until its time is up
        self.growing = True  # a worker may be started, or recalled from standing work
        self.surplus = False  # there are more workers than there may be, and the next to come by is to leave
        self.waking = False  # one was woken and has not claimed yet
        self.numbers: list[int] = []  # of workers that left, to be given again
        self.departed: Thread | None = None  # the last thread that left; the next one to leave joins it
        self.stray: Worker | None = None  # in a forked child, the parent's worker that forked, until it leaves
        self.standing: deque[Standing] = deque()  # that nobody does
        self.on_stand: list[Standing] = []  # that workers do, and that were not recalled

    def clear(self) -> None:
        """Forget everybody, in a forked child. If this thread was a worker, it is to leave once its task returns."""
        if self.dispatcher.thread_lifespan is not None:
            _in_parent.extend(self.everybody())
        for container in (self.workers, self.leaving, self.idle, self.numbers, self.standing, self.on_stand):
            container.clear()
        worker = current_worker()
        self.stray = worker if worker is not None and worker.dispatcher is self.dispatcher else None
        if self.stray is not None:
            self.stray.resting = False
        self.waking, self.departed = False, None
        self.recount()

    def recount(self) -> None:
        """Find out whether there may be more workers, or should be fewer; the lock is held."""
        self.growing = bool(self.on_stand) or self.may_grow()
        self.surplus = self.stray is not None or len(self.workers) > self.max_workers

    def may_grow(self) -> bool:
        """Whether one more thread may be started; the lock is held."""
        return len(self.workers) + len(self.leaving) < self.max_workers

    def everybody(self) -> list[Worker]:
        """Return the workers, with those that are leaving; the lock is held."""
        return [*self.workers, *self.leaving]

    def resize(self, max_workers: int) -> None:
        """Have at most `max_workers` from now on; those beyond leave as soon as they are free. The lock is held."""
        self.max_workers = max_workers
        self.dispatcher.kept.threads = max_workers
        self.recount()
        for _ in range(min(len(self.idle), len(self.workers) - max_workers)):
            worker = self.idle[0]  # idle longest
            del self.idle[0]
            worker.mail.release()
        self.dispatcher.admission.let_in(self.free())
        coming = sum(worker.task is None for worker in self.workers)  # idle, or on their way
        waiting = len(self.dispatcher.tasks) - self.dispatcher.dead
        for _ in range(min(waiting - coming, max_workers - len(self.everybody())) if self.dispatcher.ready else 0):
            if not self.try_to_start():
                break

    def observe_run(self, task: Task) -> None:
        """Have the limit learn from a task that this worker has run; the lock is held."""
        self.dispatcher.taken_over(task)
        worker, limit = current_worker(), self.dispatcher.limit
        if worker is not None and limit is not None and not task._silent:
            ceiling = limit.observe_run(clock.now() - worker.since, self.busy())
            if ceiling != self.max_workers:
                self.resize(ceiling)

    def warm_up(self) -> None:
        """Start the threads that are to be kept warm."""
        with self.dispatcher.lock:
            while len(self.workers) < min(self.min_workers, self.max_workers):  # a limit may be lower at first
                self.start_worker()

    def summon(self, task: Task, *, keep: bool = False) -> None:
        """See that somebody comes for the tasks, of which `task` is the newest; the lock is held.

        Args:
            task: it may be taken out again, if it is not to be kept.
            keep: whether it is, though no thread can be started; another one, or the next submit, then sees to it.

        Raises:
            RuntimeError: no thread can be started, and there is none; `task` was taken out.
            PatchedTooLate: none can be started, nor ever will; `task` was taken out.
        """
        if self.idle:
            if not self.waking:
                self.wake_one()
            if len(self.dispatcher.tasks) <= len(self.idle) + 1:
                return
        if not self.dispatcher.ready:  # the order holds it back, until a task ends that is running
            return
        if self.may_grow():
            try:
                self.start_worker(task if len(self.dispatcher.tasks) == 1 else None)
                return
            except RuntimeError as error:  # can't start new thread
                if not keep and (not self.workers or isinstance(error, PatchedTooLate)):
                    self.dispatcher.admission.take_back(task)
                    raise
        if self.on_stand and len(self.dispatcher.tasks) > self.waking:
            self.recall_one()

    # -- standing work --------------------------------------------------------------------------------------------

    def stand(self, task: Standing) -> bool:
        """Keep `task` until a worker has nothing else to do; return whether one is on its way to it.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool takes no more tasks.
        """
        with self.dispatcher.lock:
            self.dispatcher.admission.check_open()
            self.standing.append(task)
            if self.dispatcher.ready:
                return False
            if self.idle:
                self.wake_one()
                return True
            return self.may_grow() and self.try_to_start()

    def take_stand(self) -> Task:
        """Claim a standing task, for a worker that has nothing else to do; the lock is held."""
        task = self.standing.popleft()
        self.on_stand.append(task)
        task._state = RUNNING
        self.growing = True
        return task

    def recall_one(self) -> None:
        """Recall a worker from standing work; the lock is held."""
        task = self.on_stand.pop()
        self.recount()
        task.recall()

    def recall_all(self) -> None:
        """Recall every worker from standing work, and forget what nobody does; the lock is held."""
        self.standing.clear()
        while self.on_stand:
            self.recall_one()

    def stood_down(self, task: Standing) -> None:
        """Note that `task` is over, or that its worker is tied up in it and no longer counts as free."""
        with self.dispatcher.lock:
            if task in self.on_stand:
                self.on_stand.remove(task)
                self.recount()

    # -- coming and going -----------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """See that somebody comes if a task may run, though nobody was summoned for it; the lock is held."""
        if self.dispatcher.ready and not self.waking:
            if self.idle:
                self.wake_one()
            elif self.may_grow():
                self.try_to_start()

    def wake_one(self) -> None:
        """Wake the worker that fell idle last; the lock is held."""
        if not self.idle:  # a signal handler has submitted since the caller looked
            return
        # Ctrl-C is raised after calls, so these lines are not cut in two, and the call comes last.
        worker = self.idle[-1]
        del self.idle[-1]
        self.waking = True
        worker.mail.release()

    def wake_all(self) -> None:
        """Wake every idle worker, to find out that it is time to leave; the lock is held."""
        while self.idle:
            worker = self.idle[-1]
            del self.idle[-1]
            worker.mail.release()

    def start_worker(self, first: Task | None = None) -> None:
        """Start one more worker, with the task `first` in its hands: the only one that waits.

        The lock is held, so that a start that fails (RuntimeError: can't start new thread) leaves no trace for anybody.
        The worker needs no lock before its first task has run; so that task has begun when its submit returns, and
        no shutdown comes between.
        """
        number = min(self.numbers) if self.numbers else len(self.everybody())
        worker = Worker(self.dispatcher, number, first)
        if first is not None:
            worker.task = first = self.dispatcher.claim_next()  # another one, if a signal handler has submitted since
        try:
            worker.thread.start()
        except BaseException:
            if worker.thread.is_alive():  # Ctrl-C, while we waited for it to come up
                self.add(worker)
            elif first is not None:
                why = self.dispatcher.put_back(first)
                if why is not None:
                    run_later(partial(self.dispatcher.give_up, first, why))
            raise
        self.add(worker)

    def add(self, worker: Worker) -> None:
        """Count in a worker whose thread was started; the lock is held."""
        if worker.number in self.numbers:
            self.numbers.remove(worker.number)
        self.workers.add(worker)
        self.recount()

    def may_leave(self, worker: Worker) -> bool:
        """Strike out `worker`, idle for long; False if there is work for it, or it is to be kept warm."""
        with self.dispatcher.lock:
            if worker not in self.idle or len(self.workers) <= self.wanted():
                return False
            self.strike_out(worker)
            return True

    def wanted(self) -> int:
        """How many workers there are to be though they have nothing to do; the lock is held."""
        if self.dispatcher.closed is None:
            return self.min_workers
        return min(1, len(self.dispatcher.aside.tasks))  # who closed the pool waits for them

    def lets_go(self, worker: Worker) -> bool:
        """Strike out `worker`, which is free, if there are more than there may be; the lock is held."""
        if worker is self.stray:
            return True
        if worker not in self.workers or len(self.workers) <= self.max_workers:
            return False
        if self.dispatcher.waiting() and deadlock.all_wait(self.workers - {worker}):
            return False  # they did not come to run what they wait for while this one had it, and put it back
        self.strike_out(worker)
        return True

    def strike_out(self, worker: Worker) -> None:
        """Count out a worker; the lock is held. One that has a lifespan to leave is still a thread, until it has."""
        self.workers.discard(worker)
        if worker.lifespan is None:
            self.numbers.append(worker.number)
        else:
            self.leaving.add(worker)
        self.recount()
        self.dispatcher.ended += worker.ended
        self.dispatcher.failed += worker.failed
        if worker in self.idle:
            self.idle.remove(worker)

    def step_out(self, worker: Worker) -> None:
        """Strike out a worker that will come for nothing more; the lock is held."""
        if worker in self.workers:  # neither idle for long nor, in a forked child, the parent's
            self.strike_out(worker)
            self.waking = False  # it may have been on its way

    def begin_to_leave(self, worker: Worker) -> None:
        """Count out a worker that has a lifespan to leave, which may take long."""
        with self.dispatcher.lock:
            self.step_out(worker)
            self.nudge()

    def depart(self, worker: Worker) -> None:
        """Strike out a worker whose thread is about to end, and replace it if it is missed."""
        dispatcher = self.dispatcher
        with dispatcher.lock:
            self.step_out(worker)
            if worker in self.leaving:
                self.leaving.discard(worker)
                self.numbers.append(worker.number)
                self.recount()
                dispatcher.admission.let_in(self.free())
            # In a forked child that uses no pool, none is kept warm: the process ends with this thread.
            missed = bool(dispatcher.ready) or (worker is not self.stray and len(self.workers) < self.wanted())
            missed = missed or bool(self.standing)
            if missed and dispatcher.broken is None and self.may_grow():
                self.try_to_start()
            if worker is self.stray:
                # It is not to be joined: where glibc forgets in the child whom to tell of its end, that never returns.
                self.stray = predecessor = None
                self.recount()
            else:
                predecessor, self.departed = self.departed, worker.thread
        if predecessor is not None:
            predecessor.join()  # so that at any time at most one ended thread is not joined

    def try_to_start(self) -> bool:
        """Start a worker if a thread can be had; if not, the next submit tries again. The lock is held."""
        with suppress(RuntimeError):
            self.start_worker()
            return True
        return False

    def free(self) -> int:
        """How many tasks could be taken at once; the lock is held."""
        return max(0, self.max_workers - self.busy() - len(self.leaving))

    def busy(self) -> int:
        """How many workers have a task that they cannot be recalled from; the lock is held."""
        return sum(worker.task is not None for worker in self.workers) - len(self.on_stand)

    def all_among(self, stuck: Container[object]) -> bool:
        """Whether no more workers may come, and all there are, are in `stuck`; the lock is held."""
        return len(self.workers) >= self.max_workers and all(worker in stuck for worker in self.workers)

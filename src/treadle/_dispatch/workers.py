"""Workers: the threads of one pool; who is idle, who is on the way, who comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Container
from threading import get_ident
from typing import TYPE_CHECKING, Any

from treadle._base.threads import has_ended
from treadle._dispatch.idle import IdleTasks
from treadle._dispatch.worker import FREE, Worker, current_worker

if TYPE_CHECKING:
    from threading import RLock, Thread

    from treadle._tasks.owner import Owner

__all__ = ["Entrance", "Workers"]

_in_parent: list[Worker] = []  # in a forked child: if they went, so would their lifespans, and do what is the parent's


class Entrance:
    """What `submit` looks at for every task, without a call. The pool's lock guards it."""

    __slots__ = ("acquire", "growing", "idle", "put", "release", "room", "tasks", "waking")

    def __init__(self, lock: RLock, tasks: Any, put: Callable[[Any], object]) -> None:
        self.acquire = lock.acquire  # half the cost of `with`
        self.release = lock.release
        self.tasks = tasks  # what the order holds; its length is all that is asked
        self.put = put
        self.room: float = -1  # as long as it holds fewer, a task may be put without more ado
        self.idle: list[Worker] = []  # newest last, so the longest idle is left alone until its time is up
        self.growing = True  # a worker may be started, or called back from an idle task
        self.waking = False  # one was woken and has not claimed yet


class Workers:
    """At most `max_workers` threads, started when they are needed.

    A waiting task always has somebody coming for it: a submit wakes an idle worker, has one started, or calls one back
    from an idle task, and a worker that was woken does so too when it claims and leaves tasks waiting. So at most one
    is on its way at a time, and a burst of tasks that take no time wakes no more threads than it can use.

    Every method is called with the pool's lock held, and calls nobody. A thread is started by whoever holds no lock,
    for a seat that was taken before: a finalizer that submits may run in it before it has come up.
    """

    __slots__ = (
        "departed",
        "entrance",
        "idle_tasks",
        "leaving",
        "max_workers",
        "min_workers",
        "present",
        "seats",
        "stray",
        "surplus",
    )

    def __init__(self, entrance: Entrance, max_workers: int, min_workers: int) -> None:
        self.entrance = entrance  # which says who is idle
        self.max_workers = max_workers  # changes with `resize`
        self.min_workers = min_workers
        self.present: set[Worker] = set()
        self.seats: set[Worker] = set()  # of those whose threads are being started
        self.leaving: set[Worker] = set()  # removed, and in what they have to leave; no task comes to them any more
        self.surplus = False  # there are more workers than there may be, and the next to come by is to leave
        self.departed: Thread | None = None  # the last thread that left; the next one to leave joins it
        self.stray: Worker | None = None  # in a forked child, the parent's worker that forked, until it leaves
        self.idle_tasks = IdleTasks()

    # -- asking -----------------------------------------------------------------------------------------------------

    def everybody(self) -> list[Worker]:
        """Return the workers, with those that are leaving."""
        return [*self.present, *self.leaving]

    def threads(self) -> tuple[list[Thread], Thread | None]:
        """Return their threads, and the last one that left; whoever has these lets them go with no lock held."""
        return [worker.thread for worker in self.everybody()], self.departed

    def has_here(self) -> bool:
        """Return whether this thread is that of a worker, which may be about to begin."""
        # Not `current_thread`, which makes a thread none of Python's known, and takes a lock of Python's for that.
        threads = [worker.thread for worker in (*self.seats, *self.everybody())]
        return any(thread.ident == get_ident() and not has_ended(thread) for thread in threads)

    def is_started_elsewhere(self) -> bool:
        """Return whether another thread is starting one, other than this, for whose end nobody can wait yet."""
        return any(get_ident() not in (worker.starter, worker.thread.ident) for worker in list(self.seats))

    def may_grow(self) -> bool:
        """Return whether one more thread may be started."""
        return len(self.present) + len(self.seats) + len(self.leaving) < self.max_workers

    def everybody_to_come(self) -> list[Worker]:
        """Return the workers, with those whose threads are being started."""
        return [*self.present, *self.seats]

    def is_known(self, worker: Worker) -> bool:
        """Return whether `worker` is one of those that come for tasks, or is about to be."""
        return worker in self.present or worker in self.seats

    def is_free(self, worker: Worker) -> bool:
        """Return whether a task may be handed over to `worker`, which was started for it."""
        return self.is_known(worker) and worker.phase in FREE and worker.task is None

    def coming(self) -> int:
        """Return how many workers are about to look for a task: they are coming up, or on their way."""
        return len(self.seats) + sum(worker.task is None for worker in list(self.present))

    def busy(self) -> int:
        """Return how many workers have a task that they cannot be called back from."""
        return sum(worker.task is not None for worker in list(self.present)) - len(self.idle_tasks.running)

    def free(self) -> int:
        """Return how many tasks could be taken at once."""
        return max(0, self.max_workers - self.busy() - len(self.leaving))

    def all_among(self, stuck: Container[object]) -> bool:
        """Return whether no more workers may come, and all there are, are in `stuck`."""
        return len(self.present) >= self.max_workers and all(worker in stuck for worker in list(self.present))

    # -- coming -----------------------------------------------------------------------------------------------------

    def take_seat(self, worker: Worker) -> None:
        """Count in a worker whose thread is about to be started."""
        worker.number = self.next_number()
        self.seats.add(worker)
        self.recount()

    def next_number(self) -> int:
        """Return the number of the next worker: the lowest that none has, so those of workers that left come again."""
        taken = {worker.number for worker in (*self.everybody(), *self.seats)}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def give_up_seat(self, worker: Worker) -> None:
        """Count out a worker whose thread was not seen to start; should it come up, it leaves at once."""
        if worker in self.seats:
            worker.cancelled = True
            self.seats.discard(worker)
            self.recount()
        elif worker.expected:
            self.expect_no_more(worker)

    def arrive(self, worker: Worker) -> bool:
        """Note that the thread of `worker` was started, or has come up; False if it is to leave again."""
        if worker in self.seats:
            self.present.add(worker)
            self.seats.discard(worker)
            self.recount()
        return not worker.cancelled

    def expect_no_more(self, worker: Worker) -> None:
        """Let a worker leave again that was started for a task, once that is in; it looks whether it is to."""
        worker.expected = 0
        self.wake(worker)

    def expect_nothing_of(self, thread: int) -> None:
        """Let those leave again that a thread has started for a task that is not let in."""
        for worker in self.everybody_to_come():
            if worker.expected == thread:
                self.expect_no_more(worker)

    # -- being idle -------------------------------------------------------------------------------------------------

    def wake_one(self) -> None:
        """Wake the worker that fell idle last, if there is one, and none is on its way."""
        entrance = self.entrance
        if entrance.idle and not entrance.waking:
            # No exception comes between these lines, and the call is the last of them.
            worker = entrance.idle[-1]
            del entrance.idle[-1]
            entrance.waking = True
            worker.wakeup.release()

    def wake(self, worker: Worker) -> None:
        """Wake `worker`, if it is idle."""
        idle = self.entrance.idle
        if worker in idle:
            place = idle.index(worker)
            if idle[place : place + 1] == [worker]:  # a signal handler may have woken it just now
                del idle[place]
                worker.wakeup.release()

    def wake_all(self) -> None:
        """Wake every idle worker, to find out that it is time to leave."""
        idle = self.entrance.idle
        while idle:
            if idle:  # still: a signal handler that wakes some may come as this loops
                worker = idle[-1]
                del idle[-1]
                worker.wakeup.release()

    def preempt_all(self) -> None:
        """Call every worker back from its idle task, and forget those that nobody does."""
        self.idle_tasks.waiting.clear()
        while self.idle_tasks.running:
            self.idle_tasks.preempt_one()
        self.recount()

    # -- going ------------------------------------------------------------------------------------------------------

    def resize(self, max_workers: int) -> None:
        """Have at most `max_workers` from now on; those beyond leave as soon as they are free."""
        self.max_workers = max_workers
        self.recount()
        idle = self.entrance.idle
        for _ in range(min(len(idle), len(self.present) - max_workers)):
            if idle:  # a signal handler may have woken some
                worker = idle[0]  # idle longest
                del idle[0]
                worker.wakeup.release()

    def recount(self) -> None:
        """Find out whether there may be more workers, or should be fewer."""
        self.entrance.growing = bool(self.idle_tasks.running) or self.may_grow()
        self.surplus = self.stray is not None or len(self.present) > self.max_workers

    def remove(self, worker: Worker) -> None:
        """Count out a worker. One that has a lifespan to leave is still a thread, until it has."""
        if worker.lifespan is not None:
            self.leaving.add(worker)
        self.present.discard(worker)
        if worker in self.entrance.idle:
            self.entrance.idle.remove(worker)
        self.recount()

    def exited(self, worker: Worker) -> Thread | None:
        """Note that the thread of `worker` is about to end; return the one that left before, to be joined."""
        if worker in self.leaving:
            self.leaving.discard(worker)
            self.recount()
        if worker is self.stray:
            # It is not to be joined: where glibc forgets in the child whom to tell of its end, that never returns.
            self.stray = None
            self.recount()
            return None
        if worker.gone:  # another one may have left since, and join this one
            return None
        # No exception comes between these lines.
        departed, self.departed, worker.gone = self.departed, worker.thread, True
        return departed

    def mend(self) -> None:
        """After an exception that came between any two lines: find anew what follows from the rest."""
        self.entrance.waking = False  # at worst, one more is woken than needs be
        self.seats.difference_update(self.present)
        for worker in self.everybody_to_come():
            if worker.expected:
                self.expect_no_more(worker)
        self.recount()

    def forget_all(self, owner: Owner[Any], *, keep: bool) -> None:
        """In a forked child, forget all. If this thread was a worker, it is to leave once its task returns.

        Args:
            owner: whose workers they are.
            keep: whether they have lifespans, which are not to end here.
        """
        if keep:
            _in_parent.extend(self.everybody())
        for container in (self.present, self.seats, self.leaving, self.entrance.idle):
            container.clear()
        worker = current_worker()
        self.stray = worker if worker is not None and worker.owner is owner else None
        if self.stray is not None:
            self.stray.phase = "leaving"
        self.idle_tasks.clear()
        self.entrance.waking, self.departed = False, None
        self.recount()

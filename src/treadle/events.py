"""What a pool tells the outside: events to observers as they happen, and a snapshot when asked."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Observer", "PoolSnapshot", "TaskEvent", "WorkerSnapshot"]


@dataclass(frozen=True)
class TaskEvent:
    """One thing that happened to one task.

    Attributes:
        pool: the pool's name.
        task_id: a number that is the task's own within its process; an item of `map` counts as a task.
        name: the task's name.
        time_ns: when it happened, monotonic nanoseconds.
        thread: the name of the thread in which it happened.
        error: what the task raised (finished); why it was not taken (rejected), or dropped (shed); or why its pool gave
            it up (cancelled), such as PoolBroken or PoolClosed, and None if that was its caller's wish.
        key: whose task it is, as `options(key=)` said, or a server of a client's message; None if nobody did.
        priority: how urgent it is, as `options(priority=)` said; 0 if nobody did.
        waited: the seconds between `submitted` and `started`: for room, in the queue, and for its rate. None in
            `submitted`, `rejected`, `shed` and `cancelled`, for it has not begun; and in `finished` if its thread was
            lost before it began.
        ran: the seconds between `started` and `finished`. None in all but `finished`, and there where `waited` is.
    """

    pool: str
    task_id: int
    name: str
    time_ns: int
    thread: str
    error: BaseException | None = None
    key: Hashable = None
    priority: int = 0
    waited: float | None = None
    ran: float | None = None


class Observer:
    """Is told what happens to each task of a pool; override what you need.

    Each task is submitted once, and ends once: it is finished, cancelled, rejected or shed. (A forked child is told
    nothing more of the tasks that its parent goes on with.)

    Called in the thread in which it happens, with no lock held, so it may be called from many threads at once; of what
    the timers do, a task that is cancelled at its deadline, in the thread that runs callbacks for it. What it raises
    is logged and harms nobody. Slow observers slow the pool.
    """

    def submitted(self, event: TaskEvent) -> None:
        """A task was submitted; it is told before it is admitted, and so before all else."""

    def started(self, event: TaskEvent) -> None:
        """A task is about to run."""

    def finished(self, event: TaskEvent) -> None:
        """A task returned, or raised `event.error`; its future is settled just after."""

    def cancelled(self, event: TaskEvent) -> None:
        """A task was cancelled, or failed, before it began: also at its deadline, or because its pool broke."""

    def rejected(self, event: TaskEvent) -> None:
        """A task was not taken, because of `event.error`."""

    def shed(self, event: TaskEvent) -> None:
        """A waiting task was dropped: to make room for another, or because it had waited too long."""


@dataclass(frozen=True)
class WorkerSnapshot:
    """What one worker does.

    Attributes:
        name: its thread's name.
        task: the name of the task it runs, or None when it is idle.
        seconds: how long that task has run; 0 when idle.
        overdue: seconds since that task's deadline; its future has failed, and its thread is free when it returns.
        nested: how many tasks further out wait in this thread for the one that runs.
        finished: how many tasks it has ended, well or badly; not those that it ran inside of another, nor items of a
            map, which only the pool counts.
    """

    name: str
    task: str | None
    seconds: float
    overdue: float
    nested: int
    finished: int


@dataclass(frozen=True)
class PoolSnapshot:
    """A pool at one instant.

    Attributes:
        name: the pool's name.
        max_workers: the ceiling on threads, as the pool was made with, or resized to.
        limit: the ceiling below it that a ConcurrencyLimit has found so far; None without one.
        threads: threads alive; `busy` of them run a task, `idle` wait for one. One that leaves its `thread_lifespan` is
            not counted: it takes no more tasks.
        waiting: tasks admitted and not begun.
        queue_size: the ceiling on them, not counting those that free threads are about to take; None if there is none.
        blocked: callers that wait for room.
        submitted: tasks admitted so far; `finished` have ended, well or badly; `cancelled` never began, because their
            callers, a deadline, a shutdown, or an initializer that failed kept them from it.
        failed: of those that have finished, how many raised, were still running at their deadline, or were lost with
            their thread; items of `map` count too.
        rejected: tasks refused so far.
        shed: tasks dropped so far to make room for others, or because they had waited too long.
        longest_wait: seconds that the task at the head of the queue has waited; 0 when none waits.
        closed: whether it takes no more tasks, for it was shut down, or is broken.
        workers: what each thread does.
    """

    name: str
    max_workers: int
    limit: int | None
    threads: int
    busy: int
    idle: int
    waiting: int
    queue_size: int | None
    blocked: int
    submitted: int
    finished: int
    failed: int
    cancelled: int
    rejected: int
    shed: int
    longest_wait: float
    closed: bool
    workers: tuple[WorkerSnapshot, ...]


def __dir__() -> list[str]:
    return list(__all__)

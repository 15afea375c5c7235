"""How a snapshot of a pool is taken, and what a shutdown has left."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from treadle._base import clock
from treadle._base.words import counted, log
from treadle._tasks.future import PENDING
from treadle.events import PoolSnapshot, WorkerSnapshot

if TYPE_CHECKING:
    from types import FrameType

    from treadle._dispatch.dispatcher import Dispatcher, Task
    from treadle._dispatch.worker import Worker

__all__ = ["names_of", "report_leaving", "report_undone", "snapshot_of", "stacks_of", "undone"]

_log = logging.getLogger("treadle")


def snapshot_of(dispatcher: Dispatcher) -> PoolSnapshot:
    """Return what the pool does now. The lock is held only while its fields are copied."""
    with dispatcher.lock:
        tasks = [*dispatcher.tasks, *dispatcher.aside.tasks]
        looks = _look_at(dispatcher)
        waiting, inline = dispatcher.waiting(), dispatcher.inline
        blocked = len(dispatcher.admission.entrants)
        cancelled, rejected, shed = dispatcher.cancelled, dispatcher.admission.rejected, dispatcher.shedding.count
        ended = dispatcher.ended + sum(worker.ended for worker in dispatcher.staff.workers)
        failed = dispatcher.failed + sum(worker.failed for worker in dispatcher.staff.workers)
        max_workers, limit = dispatcher.staff.max_workers, None
        if dispatcher.limit is not None:
            max_workers, limit = dispatcher.limit.most, dispatcher.limit.ceiling
        closed = dispatcher.closed is not None or dispatcher.broken is not None
        turns = [worker.turn() for worker in dispatcher.staff.workers]
        told = waiting - sum(task._silent and task._state is PENDING for task in tasks)
        told += sum(not task._silent for task in dispatcher.out)
    workers = tuple(look() for look in looks)
    busy = sum(worker.task is not None for worker in workers)
    running = inline + sum(task is not None and not task._silent for task in turns)
    now = clock.now()
    return PoolSnapshot(
        name=dispatcher.name,
        max_workers=max_workers,
        limit=limit,
        threads=len(workers),
        busy=busy,
        idle=len(workers) - busy,
        waiting=waiting,
        queue_size=dispatcher.queue_size,
        blocked=blocked,
        submitted=ended + running + told + cancelled + shed,
        finished=ended,
        failed=failed,
        cancelled=cancelled,
        rejected=rejected,
        shed=shed,
        longest_wait=max((now - task._submitted for task in tasks if task._state == PENDING), default=0.0),
        closed=closed,
        workers=workers,
    )


def _look_at(dispatcher: Dispatcher) -> list[Callable[[], WorkerSnapshot]]:
    """Return what makes the snapshot of each worker, with no lock held, for it asks the user's functions for names."""
    return [_look(worker) for worker in sorted(dispatcher.staff.workers, key=lambda worker: worker.number)]


def _look(worker: Worker) -> Callable[[], WorkerSnapshot]:
    task, since, thread, nested, ended = worker.task, worker.since, worker.thread.name, len(worker.outer), worker.ended
    if task is None:
        return lambda: WorkerSnapshot(thread, None, 0.0, 0.0, 0, ended)
    fn, seconds, overdue = task._fn, max(0.0, clock.now() - since), task._overdue()
    return lambda: WorkerSnapshot(thread, task._name_for(fn), seconds, overdue, nested, ended)


def stacks_of(dispatcher: Dispatcher) -> str:
    """Return what each thread of the pool does now, with its task and its stack."""
    with dispatcher.lock:
        looks = _look_at(dispatcher)
        idents = {worker.thread.name: worker.thread.ident for worker in dispatcher.staff.everybody()}
        leaving = _names_of_leaving(dispatcher)
    frames = sys._current_frames()
    parts = []
    for look in [look() for look in looks]:
        if look.task is None:
            parts.append(f"{look.name}: idle\n")
            continue
        overdue = f", overdue for {look.overdue:.3f} s" if look.overdue else ""
        stack = _stack_in(frames, idents[look.name])
        parts.append(f"{look.name}: {look.task} for {look.seconds:.3f} s{overdue}\n{stack}")
    parts += [f"{name}: leaving its thread_lifespan\n{_stack_in(frames, idents[name])}" for name in leaving]
    return "".join(parts)


def _stack_in(frames: dict[int, FrameType], ident: int | None) -> str:
    frame = frames.get(ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def _names_of_leaving(dispatcher: Dispatcher) -> list[str]:
    """Return the names of the threads that leave what lasts as long as they; the lock is held."""
    return sorted(worker.thread.name for worker in dispatcher.staff.leaving)


def undone(dispatcher: Dispatcher) -> tuple[Task, ...]:
    """Return the futures of the tasks that run or wait."""
    with dispatcher.lock:
        running = [task for worker in dispatcher.staff.workers for task in worker.stack()]
        waiting = (*dispatcher.tasks, *dispatcher.aside.tasks)
        return tuple(task for task in (*running, *waiting) if not task.done())


def report_undone(dispatcher: Dispatcher, timeout: float) -> None:
    """Log what a shutdown left undone."""
    left = undone(dispatcher)
    if report_leaving(dispatcher, timeout) and not left:
        return
    what = counted(len(left), "task was", "tasks were")
    message = "pool %r: %s not done %g s after shutdown: %s"
    log(_log, logging.WARNING, message, dispatcher.name, what, timeout, names_of(left))


def names_of(tasks: Iterable[Task]) -> str:
    """Return the names of tasks, each once, or of ten of them, for a line of a log."""
    return ", ".join(sorted({task.name for task in tasks})[:10])


def report_leaving(dispatcher: Dispatcher, timeout: float) -> bool:
    """Log which threads have not left their lifespan at a shutdown; False if all have."""
    with dispatcher.lock:
        leaving = _names_of_leaving(dispatcher)
    if leaving:
        what = counted(len(leaving), "thread was still leaving its", "threads were still leaving their")
        message = "pool %r: %s thread_lifespan %g s after shutdown: %s"
        log(_log, logging.WARNING, message, dispatcher.name, what, timeout, ", ".join(leaving[:10]))
    return bool(leaving)

"""How a snapshot of a pool is taken, and what a shutdown has left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.locks import locked
from treadle._base.threads import stacks_of as stacks_of_threads
from treadle._base.words import counted, log
from treadle._tasks.future import PENDING, InternalTask, look_at
from treadle.events import PoolSnapshot, WorkerSnapshot

if TYPE_CHECKING:
    from traceback import StackSummary

    from treadle._dispatch.dispatcher import Dispatcher, Task
    from treadle._dispatch.worker import Worker

__all__ = ["names_of", "report_leaving", "report_undone", "snapshot_of", "stacks_of", "undone"]

_log = logging.getLogger("treadle")


def snapshot_of(dispatcher: Dispatcher) -> PoolSnapshot:
    """Return what the pool does now. The lock is held only while its fields are copied."""
    return locked(dispatcher.lock, _copy_of, dispatcher)()


def _copy_of(dispatcher: Dispatcher) -> Callable[[], PoolSnapshot]:
    """Copy what is needed, with the lock held; return what makes the snapshot, without."""
    state, counts, queue = dispatcher.state, dispatcher.state.counts, dispatcher.queue
    present = dispatcher.workers.everybody_to_come()
    tasks = queue.everything_here()
    looks, waiting = _look_at(dispatcher), sum(task._state is PENDING for task in tasks)
    told = waiting - sum(isinstance(task, InternalTask) and task._state is PENDING for task in tasks)
    told += sum(not isinstance(task, InternalTask) for task in queue.out)
    ended = counts.ended + sum(worker.ended for worker in present)
    turns = [worker.turn() for worker in present]
    running = counts.inline + sum(task is not None and not isinstance(task, InternalTask) for task in turns)
    limit = dispatcher.limit
    facts: dict[str, Any] = {
        "name": dispatcher.name,
        "max_workers": dispatcher.max_workers,
        "limit": None if limit is None else limit.ceiling,
        "threads": len(looks),
        "waiting": waiting,
        "queue_size": dispatcher.admission.queue_size,
        "blocked": len(dispatcher.admission.waiting),
        "submitted": ended + running + told + counts.cancelled + counts.shed,
        "finished": ended,
        "failed": counts.failed + sum(worker.failed for worker in present),
        "cancelled": counts.cancelled,
        "rejected": counts.rejected,
        "shed": counts.shed,
        "closed": state.closed is not None or state.broken is not None,
    }

    def make() -> PoolSnapshot:
        workers = tuple(look() for look in looks)
        busy, now = sum(worker.task is not None for worker in workers), clock.now()
        longest = max((now - task.submitted for task in tasks if task._state == PENDING), default=0.0)
        return PoolSnapshot(**facts, busy=busy, idle=len(workers) - busy, longest_wait=longest, workers=workers)

    return make


def _look_at(dispatcher: Dispatcher) -> list[Callable[[], WorkerSnapshot]]:
    """Return what makes the snapshot of each worker, with no lock held, for it asks the user's functions for names."""
    return [
        _look(worker) for worker in sorted(dispatcher.workers.everybody_to_come(), key=lambda worker: worker.number)
    ]


def _look(worker: Worker) -> Callable[[], WorkerSnapshot]:
    task, since, thread, nested, ended = worker.task, worker.since, worker.thread.name, len(worker.outer), worker.ended
    if task is None:
        return lambda: WorkerSnapshot(thread, None, 0.0, 0.0, 0, ended)
    (name, overdue), seconds = look_at(task), max(0.0, clock.now() - since)
    return lambda: WorkerSnapshot(thread, name(), seconds, overdue, nested, ended)


def stacks_of(dispatcher: Dispatcher) -> str:
    """Return what each thread of the pool does now, with its task and its stack."""
    looks, idents, leaving = locked(dispatcher.lock, _copy_for_stacks, dispatcher)
    stacks = stacks_of_threads(idents.values())
    parts = []
    for look in [look() for look in looks]:
        if look.task is None:
            parts.append(f"{look.name}: idle\n")
            continue
        overdue = f", overdue for {look.overdue:.3f} s" if look.overdue else ""
        stack = _text_in(stacks, idents[look.name])
        parts.append(f"{look.name}: {look.task} for {look.seconds:.3f} s{overdue}\n{stack}")
    parts += [f"{name}: leaving its thread_lifespan\n{_text_in(stacks, idents[name])}" for name in leaving]
    return "".join(parts)


def _copy_for_stacks(
    dispatcher: Dispatcher,
) -> tuple[list[Callable[[], WorkerSnapshot]], dict[str, int | None], list[str]]:
    workers = dispatcher.workers
    idents = {worker.thread.name: worker.thread.ident for worker in (*workers.everybody(), *workers.seats)}
    return _look_at(dispatcher), idents, _names_of_leaving(dispatcher)


def _text_in(stacks: dict[int | None, StackSummary], ident: int | None) -> str:
    return "".join(stacks[ident].format()) if ident in stacks else ""


def _names_of_leaving(dispatcher: Dispatcher) -> list[str]:
    """Return the names of the threads that leave what lasts as long as they; the lock is held."""
    return sorted(worker.thread.name for worker in dispatcher.workers.leaving)


def undone(dispatcher: Dispatcher) -> tuple[Task, ...]:
    """Return the futures of the tasks that run or wait."""
    tasks = locked(dispatcher.lock, dispatcher.undone)
    return tuple(task for task in tasks if not task.done())


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
    leaving = locked(dispatcher.lock, _names_of_leaving, dispatcher)
    if leaving:
        what = counted(len(leaving), "thread was still leaving its", "threads were still leaving their")
        message = "pool %r: %s thread_lifespan %g s after shutdown: %s"
        log(_log, logging.WARNING, message, dispatcher.name, what, timeout, ", ".join(leaving[:10]))
    return bool(leaving)

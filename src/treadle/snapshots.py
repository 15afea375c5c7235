"""How a snapshot of a pool is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle import clock
from treadle.events import Snapshot, WorkerSnapshot
from treadle.futures import PENDING
from treadle.standing import Standing

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher
    from treadle.worker import Worker

__all__ = ["snapshot_of"]


def snapshot_of(dispatcher: Dispatcher) -> Snapshot:
    """Return what the pool does now. The lock is held only while its fields are copied."""
    with dispatcher.lock:
        tasks = list(dispatcher.tasks)
        workers = tuple(_look(worker) for worker in sorted(dispatcher.staff.workers, key=lambda worker: worker.number))
        waiting, ended, inline = dispatcher.waiting(), dispatcher.ended, dispatcher.inline
        blocked = len(dispatcher.admission.entrants)
        cancelled, rejected, shed = dispatcher.cancelled, dispatcher.admission.rejected, dispatcher.shed
        ended += sum(worker.ended for worker in dispatcher.staff.workers)
        closed = dispatcher.closed is not None
        standing = sum(isinstance(worker.task, Standing) for worker in dispatcher.staff.workers)
    busy = sum(worker.task is not None for worker in workers)
    running = inline + sum(worker.nested + (worker.task is not None) for worker in workers) - standing
    now = clock.now()
    return Snapshot(
        name=dispatcher.name,
        max_workers=dispatcher.staff.max_workers,
        threads=len(workers),
        busy=busy,
        idle=len(workers) - busy,
        waiting=waiting,
        queue_size=dispatcher.queue_size,
        blocked=blocked,
        submitted=ended + running + waiting + cancelled + shed,
        finished=ended,
        cancelled=cancelled,
        rejected=rejected,
        shed=shed,
        longest_wait=max((now - task._submitted for task in tasks if task._state == PENDING), default=0.0),
        closed=closed,
        workers=workers,
    )


def _look(worker: Worker) -> WorkerSnapshot:
    task, since = worker.task, worker.since
    if task is None:
        return WorkerSnapshot(worker.thread.name, None, 0.0, 0, worker.ended)
    return WorkerSnapshot(worker.thread.name, task.name, max(0.0, clock.now() - since), len(worker.outer), worker.ended)

"""Waits that could never end: found when the last worker joins them, and resolved or reported.

A worker never waits for its own pool, for it runs what it waits for. But two pools may wait for each other: every
thread of one for tasks of the other, and the reverse. Each worker that is about to wait without a timeout is noted
here with what it waits for, and whoever comes last finds the knot:

    a worker is stuck if what it waits for is running in a stuck worker,
    or is waiting in a pool that may start no more threads and whose threads are all stuck.

That is a greatest fixpoint: suppose all that wait to be stuck, and strike out those that are not, until none is left
to strike. If the last comer is stuck, it runs one of the waiting tasks itself, and the knot is gone; if none of them
is waiting (two tasks that wait for each other), it gets PoolDeadlock, because the alternative is to hang for ever.

Waits with a timeout end by themselves and are not noted. Waits for locks and events of the user's own cannot be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import TIMEOUT_MAX, Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from treadle.errors import PoolDeadlock
from treadle.futures import PENDING, RUNNING, Future
from treadle.words import log

if TYPE_CHECKING:
    from treadle.worker import Worker

__all__ = ["hold", "let_go", "wait"]

_log = logging.getLogger("treadle")

Task = Future[Any]
Targets = Callable[[], Sequence[Task]]  # asked again at every look, for what a map waits for changes


class Gate(Protocol):
    """What a thread sleeps on: a lock, or something that behaves like one."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it opens; False when `timeout` seconds, if not negative, passed first."""


class _Wait(NamedTuple):
    targets: Targets
    every: bool  # it ends when all targets are done; else when any is


_lock = Lock()  # taken before a pool's lock, never while one is held
_waits: dict[Worker, _Wait] = {}  # guarded by _lock


def wait(gate: Gate, worker: Worker | None, targets: Targets, timeout: float | None, *, every: bool = True) -> bool:
    """Sleep at `gate` until it opens, or until `timeout` seconds have passed (then return False).

    Args:
        gate: opens when the wait is over.
        worker: the worker whose thread this is; None for a thread of nobody's.
        targets: returns what the gate's opening depends on now: all of them, or, if not `every`, any.
        timeout: seconds; None for no limit.

    Raises:
        PoolDeadlock: it could never open.
    """
    if timeout is not None:
        return gate.acquire(True, min(max(timeout, 0.0), TIMEOUT_MAX))
    if worker is None:
        return gate.acquire()
    while not gate.acquire(True, 0):  # or what wakes a caller that should stop would come after a task is run for it
        rescue = _enter(worker, _Wait(targets, every))
        if rescue is None:
            try:
                return gate.acquire()
            finally:
                with _lock:
                    _waits.pop(worker, None)  # gone already in a forked child
        if rescue._home.claim(rescue):
            message = "every thread that could run task %s waits; running it in %s"
            log(_log, logging.WARNING, message, rescue.name, worker.thread.name)
            rescue._home.run_here(rescue)
    return True


def hold() -> None:
    """Keep everybody from noting a wait, while the process forks."""
    _lock.acquire()


def let_go(*, forget: bool = False) -> None:
    """End `hold`; in a forked child, `forget` the waits, whose threads stayed in the parent."""
    if forget:
        _waits.clear()
    _lock.release()


def _enter(worker: Worker, wait: _Wait) -> Task | None:
    """Note the wait; if it could never end, note nothing and return the task to run first."""
    with _lock:
        _waits[worker] = wait
        stuck = _stuck()
        if worker not in stuck:
            return None
        del _waits[worker]
    waits = [wait, *(stuck[other] for other in stuck if other is not worker)]
    for target in (target for each in waits for target in each.targets()):
        if target._state == PENDING:
            return target
    pools = sorted({other.dispatcher.name for other in stuck})
    raise PoolDeadlock(pools, [target.name for target in wait.targets()])


def _stuck() -> dict[Worker, _Wait]:
    """Return the workers that could never go on; `_lock` is held."""
    stuck = dict(_waits)
    while True:
        runner = {task: worker for worker in stuck for task in worker.stack()}
        free = [worker for worker, wait in stuck.items() if not _hopeless(wait, stuck, runner)]
        if not free:
            return stuck
        for worker in free:
            del stuck[worker]


def _hopeless(wait: _Wait, stuck: dict[Worker, _Wait], runner: dict[Task, Worker]) -> bool:
    verdicts = [_never(target, stuck, runner) for target in wait.targets()]
    if not verdicts:  # all came just now, and the thread is about to wake
        return False
    return any(verdicts) if wait.every else all(verdicts)


def _never(target: Task, stuck: dict[Worker, _Wait], runner: dict[Task, Worker]) -> bool:
    """Whether `target` could never be done, if the workers in `stuck` never went on."""
    if target._state == RUNNING:
        return target in runner
    return target._state == PENDING and target._home.never_runs(target, stuck, runner)

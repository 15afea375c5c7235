"""Waits that could never end: found when the last worker joins them, and resolved or reported.

A worker never waits for its own pool, for it runs what it waits for. But two pools may wait for each other: every
thread of one for tasks of the other, and the reverse. Each thread that others may wait for, and that is about to wait
without a timeout, is noted here with what it waits for, and whoever comes last finds the knot. A thread is stuck if
what it waits for can never be done, because it is

    in the hands of a stuck thread, or the end of that thread,
    or a task that waits in a pool that may start no more threads and whose threads are all stuck,
    or a task that its pool's order holds back until one of certain others has ended (see `Order.holders`; Fair does,
    for `max_running`), and all of these are in the hands of stuck threads.

Who waits for several is stuck if one of them can never be done, or, where any of them will do, if none can.

That is a greatest fixpoint: suppose all that wait to be stuck, and strike out those that are not, until none is left
to strike. If the last comer is stuck, it runs one of the waiting tasks itself, and the knot is gone; if none of them
is waiting (two tasks that wait for each other), it gets PoolDeadlock, because the alternative is to hang for ever.

What a thread has in its hands are the tasks that it runs and its *errands*: that it reads the input of a map, say. So
those that others may wait for are the workers, and of all other threads those few that run a task or are on an errand.

Waits with a timeout end by themselves and are not noted. Waits for locks and events of the user's own cannot be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from threading import TIMEOUT_MAX, Thread, current_thread
from typing import TYPE_CHECKING, Any, Protocol

from treadle._base.locks import holds_any, locked, new_lock
from treadle._base.words import log_first
from treadle._dispatch.worker import Worker, current_worker
from treadle._tasks.future import PENDING, RUNNING, Future, owner_of
from treadle._tasks.scope import HERE
from treadle.errors import PoolDeadlock

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Errand", "all_wait", "hold", "is_awaited", "let_go", "wait"]

_log = logging.getLogger("treadle")

MESSAGE = (
    "every thread that could run task %s waits; running it in %s; "
    "for further tasks of its pool this is logged at DEBUG level"
)

# Seconds after which a wait looks whether it has come amid a section, or as a thread is about to be started: as in a
# signal handler, for which that waits. To look before every wait would cost more.
SOON = 0.5

Task = Future[Any]


class Errand:
    """Something that others may wait for, and that the thread brings which is in its `with` block."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name  # what errors call it

    def __enter__(self) -> None:
        HERE.errands = (*HERE.errands, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        HERE.errands = HERE.errands[:-1]


Target = Task | Worker | Errand  # that the task is done, the worker's thread has ended, somebody has been on the errand
Targets = Callable[[], Sequence[Target]]  # asked again at every look, for what a map waits for changes


class Gate(Protocol):
    """What a thread sleeps on: a lock, or something that behaves like one."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it opens; False when `timeout` seconds, if not negative, passed first."""


class _Wait:
    __slots__ = ("every", "hands", "targets")

    def __init__(self, targets: Targets, every: bool, hands: Sequence[Target] = ()) -> None:
        self.targets = targets
        self.every = every  # it ends when all targets are done; else when any is
        self.hands = hands  # what the thread has in them


_lock = new_lock()  # taken before a pool's lock, never while one is held
_waits: dict[Worker | Thread, _Wait] = {}  # guarded by _lock as one is added


def is_awaited() -> bool:
    """Whether others may wait for what this thread does."""
    return current_worker() is not None or bool(HERE.errands) or bool(HERE.tasks)


def all_wait(workers: Iterable[Worker]) -> bool:
    """Whether all of them sleep until what they wait for is done, however long that takes.

    Who has asked that under the lock of their pool, and let go what they may wait for, is seen by whoever comes later.
    """
    return all(worker in _waits for worker in workers)


def wait(
    gate: Gate, worker: Worker | None, targets: Targets | None, timeout: float | None, *, every: bool = True
) -> bool:
    """Sleep at `gate` until it opens, or until `timeout` seconds have passed (then return False).

    Args:
        gate: opens when the wait is over.
        worker: the worker whose thread this is; None for a thread of nobody's.
        targets: returns what the gate's opening depends on now: all of them, or, if not `every`, any. None: nobody
            knows.
        timeout: seconds; None for no limit.

    Raises:
        PoolDeadlock: it could never open.
    """
    if timeout is not None:
        return gate.acquire(True, min(max(timeout, 0.0), TIMEOUT_MAX))
    if targets is None or (worker is None and not HERE.errands and not HERE.tasks):  # as is_awaited(), at less cost
        return _sleep(gate, targets)
    thread = current_thread()
    waiter, tasks = (thread, HERE.tasks) if worker is None else (worker, worker.stack())
    mine = _Wait(targets, every, [*tasks, *HERE.errands])
    try:
        while not gate.acquire(True, 0):  # or what wakes a caller that should stop would come after a task is run
            try:
                rescue = _enter(waiter, mine)
                if rescue is None:
                    return _sleep(gate, targets)
            finally:
                _waits.pop(waiter, None)  # atomic; and gone already in a forked child
            owner = owner_of(rescue)
            say = partial(log_first, owner.told, MESSAGE, _log, logging.WARNING, MESSAGE, rescue.name, thread.name)
            owner.run_instead(rescue, say)
        return True
    finally:  # what a task raises that is run here leads to this frame: no cycle through it
        rescue = mine = targets = tasks = None  # type: ignore[assignment]


def _sleep(gate: Gate, targets: Targets | None) -> bool:
    """Sleep at `gate` until it opens, unless this comes amid what its opening may depend on."""
    if gate.acquire(True, SOON):
        return True
    starting = HERE.starting
    if holds_any() or (starting is not None and starting.thread.ident is None):
        waited = [] if targets is None else [target for target in targets() if isinstance(target, Future)]
        raise PoolDeadlock(sorted({owner_of(task).name for task in waited}), [_name_of(task) for task in waited])
    return gate.acquire()


def hold() -> None:
    """Keep everybody from noting a wait, while the process forks."""
    _lock.acquire()


def let_go(*, forget: bool = False) -> list[object]:
    """End `hold`; in a forked child, `forget` the waits, whose threads stayed in the parent.

    Returns:
        What is forgotten, to be let go of with no lock held.
    """
    forgotten: list[object] = []
    if forget:
        forgotten += _waits.items()
        _waits.clear()
    _lock.release()
    return forgotten


def _enter(waiter: Worker | Thread, wait: _Wait) -> Task | None:
    """Note the wait; if it could never end, note nothing and return the task to run first."""
    seen: list[_Wait] = []  # to be let go with no lock held: what they have in their hands is the user's
    stuck = locked(_lock, _note, waiter, wait, seen)
    if stuck is None:
        return None
    held = _held(stuck)
    waits = [wait, *(stuck[other] for other in stuck if other is not waiter)]
    for target in (target for each in waits for target in each.targets()):
        if isinstance(target, Future) and target._state == PENDING and _never(target, stuck, held):
            return target
    pools = sorted({other.owner.name for other in stuck if isinstance(other, Worker)})
    raise PoolDeadlock(pools, [_name_of(target) for target in wait.targets()])


def _note(waiter: Worker | Thread, wait: _Wait, seen: list[_Wait]) -> dict[Worker | Thread, _Wait] | None:
    """Note the wait, unless it could never end: return the threads that are stuck then. `_lock` is held.

    The waits that are looked at are added to what was `seen`, for their threads may let go of them meanwhile.
    """
    _waits[waiter] = wait
    stuck = _stuck(seen)
    if waiter not in stuck:
        return None
    del _waits[waiter]
    return stuck


def _stuck(seen: list[_Wait]) -> dict[Worker | Thread, _Wait]:
    """Return the threads that could never go on; `_lock` is held."""
    stuck = dict(_waits)
    seen += stuck.values()
    while True:
        held = _held(stuck)
        free = [waiter for waiter, wait in stuck.items() if not _hopeless(wait, stuck, held)]
        if not free:
            return stuck
        for waiter in free:
            del stuck[waiter]


def _held(stuck: dict[Worker | Thread, _Wait]) -> set[object]:
    """Return what would never be done, if the threads in `stuck` never went on: they themselves, and what they hold."""
    return {*stuck, *(target for wait in stuck.values() for target in wait.hands)}


def _hopeless(wait: _Wait, stuck: Container[object], held: Container[object]) -> bool:
    verdicts = [_never(target, stuck, held) for target in wait.targets()]
    if not verdicts:  # all came just now, and the thread is about to wake
        return False
    return any(verdicts) if wait.every else all(verdicts)


def _never(target: Target, stuck: Container[object], held: Container[object]) -> bool:
    """Whether `target` could never be done, if the threads in `stuck`, and what they hold, never were."""
    if not isinstance(target, Future) or target._state == RUNNING:
        return target in held
    return target._state == PENDING and owner_of(target).never_runs(target, stuck, held)


def _name_of(target: Target) -> str:
    return f"thread {target.thread.name}" if isinstance(target, Worker) else target.name

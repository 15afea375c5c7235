"""Fair: one key's tasks after another's, so that nobody can crowd out the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from treadle import _checks as checks
from treadle._futures import PENDING
from treadle._words import pass_on, show, type_name
from treadle.orders._census import Census
from treadle.orders._order import Task, put_in_place

__all__ = ["Fair"]


# Making a queue takes longer than a turn.
KEPT = 64  # keys beyond which those without tasks are forgotten
SPARE = 64  # queues of forgotten ones that are kept for other keys


class _Flow:
    """The tasks of one key."""

    __slots__ = ("credit", "key", "running", "waiting", "weight")

    key: Hashable
    weight: float

    def __init__(self) -> None:
        self.credit: float = 0  # tasks that it may still run in this round, less than one of them left over
        self.waiting: deque[Task] = deque()
        self.running = 0  # of its tasks, that were taken; counted only where `max_running` is set


class Fair:
    """Deficit round robin: in each round every key that waits runs one task, or as many as its weight says.

    A task's key, say the customer it is run for, is given by `pool.options(key=...)`; None if none is given. However
    many tasks one key has waiting, another key's first task waits at most one round: one task for each key that waits
    (or their weights). A part of a task that a weight leaves over is carried to the next round, as long as tasks wait.

    Keys are served by number of tasks, not by how long they take; where some are slow, bound the threads a key may
    hold with `max_running`, and one that is stuck cannot take the pool with it (a bulkhead). At a full queue,
    "discard_oldest" discards the oldest task of the key that has most waiting, or of the newcomer's key where that is
    at `max_waiting`.

    Source: Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM 1995, with a task as
    the unit of cost.

    Args:
        weights: for some keys, how many tasks they run in a round, 1 or more, whole or not; 1 for all others.
        max_running: the ceiling on threads that run tasks of one key, 1 or more; None: none of its own. Tasks that run
            inside other tasks, because a thread of the pool waits for them, are not counted.
        max_waiting: the ceiling on waiting tasks of one key, 1 or more; None: none of its own. What happens there is
            the pool's `when_full`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    __slots__ = (
        "__weakref__",
        "ended",
        "flows",
        "full",
        "holders",
        "holds",
        "max_running",
        "max_waiting",
        "ready",
        "spare",
        "taken",
        "tasks",
        "weights",
    )

    def __init__(
        self,
        weights: Mapping[Any, float] | None = None,
        *,
        max_running: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        if weights is not None and not isinstance(weights, Mapping):
            raise TypeError(f"weights={show(weights)} is {type_name(weights)}; allowed: a dict of keys and numbers")
        self.weights = {
            key: checks.number(f"weights[{show(key)}]", weight, least=1) for key, weight in (weights or {}).items()
        }
        self.max_running = checks.integer_or_none("max_running", max_running, least=1)
        self.max_waiting = checks.integer_or_none("max_waiting", max_waiting, least=1)
        self.tasks = Census(lambda: [task for flow in self.flows.values() for task in flow.waiting])
        self.flows: dict[Hashable, _Flow] = {}  # that have tasks waiting, or counted as running, and a few others
        self.spare: list[_Flow] = []  # a few that are free for any key
        self.ready: deque[_Flow] = deque()  # that have tasks waiting and may run one; the first has its turn
        self.taken: dict[Task, _Flow] = {}  # tasks that run, and count
        self.ended = None if self.max_running is None else self._ended
        self.holds = None if self.max_running is None else self._holds
        self.holders = None if self.max_running is None else self._holders
        self.full = None if self.max_waiting is None else self._full

    def put(self, task: Task) -> None:
        """Add a task."""
        flow = self.flows.get(task._traits.key) or self._new_flow(task._traits.key)
        self.tasks.append(None)
        waiting = flow.waiting
        waiting.append(task)
        if waiting[0] is task and (self.max_running is None or flow.running < self.max_running):
            flow.credit = flow.weight
            self.ready.append(flow)

    def _new_flow(self, key: Hashable) -> _Flow:
        weight = self.weights.get(key, 1) if self.weights else 1  # first: it may raise, and so may the next line
        flow = self.flows[key] = self.spare.pop() if self.spare else _Flow()
        flow.key = key
        flow.weight = weight
        return flow

    def put_first(self, task: Task) -> None:
        """Add a task that was taken before its time: before those of its key that came after it.

        And with the turn that it has taken for nothing: at once, if it is the only one of its key.
        """
        flow = self.flows.get(task._traits.key) or self._new_flow(task._traits.key)
        self.tasks.append(None)
        put_in_place(flow.waiting, task)
        if len(flow.waiting) > 1:
            flow.credit += 1
        elif self.max_running is None or flow.running < self.max_running:
            flow.credit = flow.weight
            self.ready.appendleft(flow)

    def take(self) -> Task:
        """Remove and return the next task of the key whose turn it is."""
        flow = self.ready[0]
        waiting, most = flow.waiting, self.max_running
        task = waiting.popleft()
        self.tasks.pop()
        if task._state is PENDING:  # others were run elsewhere, or cancelled, and take no turn
            flow.credit -= 1
            if most is not None:
                flow.running += 1
                self.taken[task] = flow
        if not waiting or (most is not None and flow.running >= most):
            self.ready.popleft()
            if not waiting and not flow.running and len(self.flows) > KEPT:
                self._forget(flow)
        elif flow.credit < 1:
            flow.credit += flow.weight
            self.ready.rotate(-1)
        return task

    def evict(self, newcomer: Task) -> Task:
        """Remove and return the oldest task of the key that has most waiting, or of the newcomer's, if that is full."""
        flow = self.flows.get(newcomer._traits.key)
        if flow is None or self.full is None or not self.full(newcomer, 0):
            flow = max(self.flows.values(), key=lambda flow: len(flow.waiting), default=None)
        if flow is None or not flow.waiting:
            raise IndexError("no task waits")
        task = flow.waiting.popleft()
        self.tasks.pop()
        self._leave_if_empty(flow)
        return task

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses."""
        for flow in list(self.flows.values()):
            flow.waiting = deque(task for task in flow.waiting if keep(task))
            self._leave_if_empty(flow)
        self.tasks[:] = [None] * sum(len(flow.waiting) for flow in self.flows.values())

    def _leave_if_empty(self, flow: _Flow) -> None:
        if not flow.waiting:
            if flow in self.ready:
                self.ready.remove(flow)
            if not flow.running:
                self._forget(flow)

    def _forget(self, flow: _Flow) -> None:
        try:
            del self.flows[flow.key]
        except BaseException as error:  # of a key that worked once: it must not end who took its last task
            pass_on(error)
            return
        if len(self.spare) < SPARE:
            self.spare.append(flow)

    def _ended(self, task: Task) -> None:
        """Note that a task that was taken has run."""
        flow = self.taken.pop(task, None)
        if flow is None:
            return
        flow.running -= 1
        if not flow.waiting:
            if not flow.running:
                self._forget(flow)
        elif flow.running == (self.max_running or 0) - 1:
            if flow.credit >= 1:  # its turn is not over
                self.ready.appendleft(flow)
            else:
                flow.credit += flow.weight
                self.ready.append(flow)

    def _full(self, task: Task, beside: int) -> bool:
        """Whether the key of `task`, which has so many waiting elsewhere, has no room for one more."""
        flow = self.flows.get(task._traits.key)
        return (0 if flow is None else len(flow.waiting)) + beside >= (self.max_waiting or 0)

    def _holds(self, task: Task) -> bool:
        """Whether `task`, if it came now, would have to wait for others of its key."""
        flow = self.flows.get(task._traits.key)
        return flow is not None and len(flow.waiting) + flow.running >= (self.max_running or 0)

    def _holders(self, task: Task) -> list[Task]:
        """Return the tasks of which one has to end before `task` may run; none, if it may."""
        flow = self.flows.get(task._traits.key)
        if flow is None or flow.running < (self.max_running or 0):
            return []
        return [taken for taken, its_flow in self.taken.items() if its_flow is flow]

    def __repr__(self) -> str:
        keys = sum(1 for flow in self.flows.values() if flow.waiting)
        return f"Fair({len(self.tasks)} waiting, of {keys} keys)"

"""Priority: the most urgent first, and whatever waits grows more urgent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain
from typing import Any

from treadle._base import checks
from treadle._tasks.future import submitted_at
from treadle.orders._counted import Counted
from treadle.orders._order import Hands, Look, Own, Task, put_in_place

__all__ = ["Priority"]


class Priority(Own):
    """The most urgent task first; of equals the one that came first.

    A task's priority is given by `pool.options(priority=...)`: an integer, higher is more urgent, 0 if none is given.
    Waiting counts as well: each `age` seconds are worth one priority. So the bound on waiting is this: a task of
    priority p runs before every task of priority q that was submitted more than (q - p) * age seconds after it.

    At a full queue, "discard_oldest" discards of the least urgent tasks the one that came first.

    Args:
        age: seconds of waiting that are worth one priority, more than 0.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    # One queue a priority, so that only their heads are to be compared. When a task is due never changes: it is the
    # time of its submission less `age` for each priority. A queue that is empty is kept: priorities are but few.

    looks_at: frozenset[Look] = frozenset({"priority"})
    _tasks: Counted

    def __init__(self, age: float = 1.0) -> None:
        self._age = checks.number("age", age, more_than=0)
        self._levels: dict[int, deque[Any]] = {}
        # A heap: of each level that is not empty, when its head is due, its priority negated, and itself. Where there
        # is but one, nobody asks when it is due, and it may say anything.
        self._ready = self._heads = list[tuple[float, int, deque[Any]]]()
        self._tasks = Counted(lambda: chain.from_iterable(list(self._levels.values())))
        self._amid = False  # whether the heap is being changed
        self._missed = False  # whether a signal handler has begun a level meanwhile, which is not in the heap

    def put(self, task: Task, /) -> None:
        """Add a task."""
        priority = task.priority
        self._tasks.append(None)
        try:
            level = self._levels[priority]
        except KeyError:
            level = self._levels.setdefault(priority, deque())
        level.append(task)
        if level[0] is task:
            if self._amid:
                self._missed = True
                return
            self._amid, heads = True, self._heads
            if len(heads) == 1:
                _, negated, other = heads[0]
                heads[0] = (submitted_at(other[0]) + negated * self._age, negated, other)
            heappush(heads, (submitted_at(task) - priority * self._age, -priority, level))
            self._amid = False
            if self._missed:
                self._set_up()

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time: it is due when it was."""
        self._tasks.append(None)
        put_in_place(self._levels.setdefault(task.priority, deque()), task)
        self._set_up()

    def _give(self, hands: Hands, /) -> None:
        """Move the task that is due first into `hands`."""
        heads = self._heads
        _, negated, level = heads[0]
        hands.task = level[0]
        del level[0]
        del self._tasks[-1]
        if not level:
            heappop(heads)
        elif len(heads) > 1:
            self._amid = True
            if heads[0][2] is level:  # else a signal handler has begun another one, just now
                heapreplace(heads, (submitted_at(level[0]) + negated * self._age, negated, level))
            self._amid = False
            if self._missed:
                self._set_up()

    def _victim(self, newcomer: Task) -> Task:
        """Return, of the least urgent tasks, the one that came first."""
        if not self._heads:
            raise IndexError("no task waits")
        victim: Task = max(self._heads, key=lambda head: head[1])[2][0]
        return victim

    def _drop(self, victim: Task) -> None:
        level = self._levels[victim.priority]
        del level[0]
        del self._tasks[-1]
        self._set_up()

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses."""
        self._amid = True
        for level in list(self._levels.values()):
            self._purge(level, keep)
        self._mend()

    def _mend(self) -> None:
        self._mend_purge()
        self._tasks.recount(lambda: sum(map(len, list(self._levels.values()))))
        self._set_up()

    def _set_up(self) -> None:
        """Find the heads anew."""
        self._amid = self._missed = True
        while self._missed:
            self._missed = False
            self._heads[:] = [
                (submitted_at(level[0]) - priority * self._age, -priority, level)
                for priority in list(self._levels)
                if (level := self._levels[priority])
            ]
            heapify(self._heads)
        self._amid = False

    def __repr__(self) -> str:
        return f"Priority(age={self._age:g}, {len(self._tasks)} waiting)"

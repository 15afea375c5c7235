"""Priority: the most urgent first, and whatever waits grows more urgent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

from treadle import checks
from treadle.orders.census import Census
from treadle.orders.order import Task

__all__ = ["Priority"]


class Priority:
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
    # time of its submission less `age` for each priority.

    __slots__ = ("age", "heads", "levels", "ready", "tasks")

    def __init__(self, age: float = 1.0) -> None:
        self.age = checks.number("age", age, more_than=0)
        self.levels: dict[int, deque[Task]] = {}  # none of them empty
        # A heap: of each level, when its head is due, its priority negated, and itself. Where there is but one level,
        # nobody asks when it is due, and it may say anything.
        self.ready = self.heads = list[tuple[float, int, deque[Task]]]()
        self.tasks = Census(lambda: [task for level in self.levels.values() for task in level])

    def put(self, task: Task) -> None:
        """Add a task."""
        priority = task._traits.priority
        self.tasks.append(None)
        level = self.levels.get(priority)
        if level is not None:
            level.append(task)
            return
        if len(self.heads) == 1:
            _, negated, other = self.heads[0]
            self.heads[0] = (self._due(other[0], -negated), negated, other)
        level = self.levels[priority] = deque((task,))
        heappush(self.heads, (self._due(task, priority), -priority, level))

    def take(self) -> Task:
        """Remove and return the task that is due first."""
        heads = self.heads
        _, negated, level = heads[0]
        task = level.popleft()
        self.tasks.pop()
        if not level:
            heappop(heads)
            del self.levels[-negated]
        elif len(heads) > 1:
            heapreplace(heads, (level[0]._submitted + negated * self.age, negated, level))
        return task

    def evict(self, newcomer: Task) -> Task:
        """Remove and return, of the least urgent tasks, the one that came first."""
        if not self.levels:
            raise IndexError("no task waits")
        task = self.levels[min(self.levels)].popleft()
        self.tasks.pop()
        self._set_up()
        return task

    def purge(self, keep: Callable[[Task], bool]) -> None:
        """Drop every task that `keep` refuses."""
        for priority, level in self.levels.items():
            self.levels[priority] = deque(task for task in level if keep(task))
        self.tasks[:] = [None] * sum(map(len, self.levels.values()))
        self._set_up()

    def _due(self, task: Task, priority: int) -> float:
        return task._submitted - priority * self.age

    def _set_up(self) -> None:
        """Forget empty levels, and find the heads anew."""
        for priority in [priority for priority, level in self.levels.items() if not level]:
            del self.levels[priority]
        self.heads[:] = [(self._due(level[0], priority), -priority, level) for priority, level in self.levels.items()]
        heapify(self.heads)

    def __repr__(self) -> str:
        return f"Priority(age={self.age:g}, {len(self.tasks)} waiting)"

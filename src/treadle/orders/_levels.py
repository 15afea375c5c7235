"""Levels: an order for each level of slowness, so that slow tasks never hold all threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any, cast

from treadle._base import checks, clock
from treadle._base.words import is_a, show, type_name
from treadle._tasks.future import PENDING, Future
from treadle.orders._named import order_named
from treadle.orders._order import (
    Handles,
    Hands,
    Look,
    Order,
    OrderName,
    Own,
    RareHandles,
    Task,
    handles_of,
    hook_of,
    own,
)

__all__ = ["SLOWEST", "Levels"]

SLOWEST = 2  # the highest level there is
STEP = 10  # times as slow is a level as the one below
RECENT = 1.0  # seconds for which a level that had tasks is taken to have some again soon; a guess


class _Level:
    """The tasks of one level."""

    __slots__ = ("ended", "full", "give", "holders", "holds", "order", "put", "rare", "ready", "tasks")

    def __init__(self, order: Order) -> None:
        inner = own(order)
        self.order = order
        self.tasks: Any = order
        self.ready: object = _Ready(order.ready)
        self.put: Callable[[Any], object] = order.put
        self.give: Callable[[Any], object] = partial(_give_of, order)
        self.rare = None if inner is None else RareHandles(inner)  # None: it is somebody else's
        if inner is not None:
            handles = handles_of(inner)
            self.tasks, self.ready, self.put, self.give = handles.tasks, handles.ready, handles.put, handles.give
        # What few orders have.
        self.ended: Callable[[Task], object] | None = hook_of(order, "ended")
        self.full: Callable[[Task, int], bool] | None = hook_of(order, "full")
        self.holds: Callable[[Task], bool] | None = hook_of(order, "holds")
        self.holders: Callable[[Task], Collection[Task]] | None = hook_of(order, "holders")

    def shed(self, claim: Callable[[Any], object]) -> None:
        """Remove the tasks to shed, each with a call of `claim`."""
        if self.rare is not None:
            self.rare.shed(claim)
            return
        for task in self.order.stale():
            claim(task)


class Levels(Own):
    """Quick tasks stay quick beside slow ones: those that are known to be slow never hold all threads.

    There are three levels, 0 for quick tasks, 1 for slow ones, and 2 for those that are ten times as slow, and an order
    for each. Where several have tasks they share the threads' time: level 1 has ten turns for each of level 2, and
    level 0 ten for each of those. Together levels 1 and 2 hold as many threads as the pool has but for a
    reserve, and level 2 one reserve fewer as long as level 1 has tasks, or had some within the last second; but at
    least one each.

    A task's level is its attribute `level`; one that has none is quick. A server gives its messages levels, see
    `treadle.server.Messages`. At a full queue, "discard_oldest" discards from the level that has most waiting, what the
    order of that level says; "adaptive" sheds each level by itself.

    Args:
        order: of each level, as for `treadle.Pool`: "fifo", "priority", "fair", "adaptive"; or what makes one, as in
            Levels(order=Priority) or Levels(order=lambda: Adaptive(target=0.1)), which is called once for each level.
        reserve: threads that slow tasks leave to others, 0 or more. In a pool of fewer threads one is left to the slow:
            of a single thread none is reserved.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range; `order` is an order, and not what
            makes one, or makes what is no order, or the same one twice.
    """

    _tasks: _All
    _look_at = inf  # when somebody is to look whether a task may be taken, for by then the time alone may have let it

    def __init__(self, order: OrderName | Callable[[], Order] = "fifo", *, reserve: int = 1) -> None:
        make = _maker(order)
        self._reserve = checks.integer("reserve", reserve, least=0)
        self._levels = [_Level(order_named(make())) for _ in range(SLOWEST + 1)]
        self.looks_at = frozenset[Look](self._levels[0].order.looks_at)
        self._sound = all(level.rare is not None for level in self._levels)
        self._tasks = _All(self._levels)
        self._now = 0.0  # a clock that only their turns move: a task takes as long as those of its level do, about
        self._due = [0.0] * len(self._levels)  # when each has its next turn
        self._taken: dict[Task, int] = {}  # slow tasks that run, and their level
        self._had_some = -inf  # when level 1 last had a task
        self._threads = 1
        self.threads = 1

    # -- ceilings -------------------------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """The pool's ceiling on threads."""
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        """Have the levels share so many."""
        self._threads = threads
        for number, level in enumerate(self._levels):
            level.order.threads = self._most(self._reserve) if number else threads

    @property
    def reserve(self) -> int:
        """Threads that slow tasks leave to others. Set with the pool's lock held."""
        return self._reserve

    @reserve.setter
    def reserve(self, reserve: int) -> None:
        """Have slow tasks leave so many."""
        self._reserve = reserve
        self.threads = self._threads

    def _most(self, reserve: int) -> int:
        return max(1, self._threads - reserve)

    def _room(self, level: int) -> float:
        """Return how many more tasks of `level` may run."""
        if level == 0:
            return inf
        room = self._most(self._reserve) - len(self._taken)
        if level == SLOWEST:
            running = list(self._taken.values())
            fewer = self._most(self._reserve * 2) - running.count(SLOWEST)
            if fewer < room:
                until = self._had_some + RECENT
                if self._levels[1].tasks or 1 in running:
                    return fewer
                if clock.now() < until:
                    self._look_at = until
                    return fewer
        return room

    def hold(self, task: Task, level: int, /) -> None:
        """Count a task that this has not given out as one of `level`, unless it is done; `ended` counts it out."""
        if level and not task.done():
            self._taken[task] = level

    def is_to_look(self) -> bool:
        """Whether somebody is to have the pool look, now or soon, whether a task may be taken. From any thread."""
        return self._look_at < inf

    def look_is_due(self, now: float, /) -> bool:
        """Whether the time for that has come; said once. From any thread."""
        due = now >= self._look_at
        if due:
            self._look_at = inf
        return due

    # -- tasks ----------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Return whether there is a task that may be taken."""
        return any(level.ready and self._room(number) > 0 for number, level in enumerate(self._levels))

    def _level_of(self, task: Task) -> _Level:
        number = level_of(task)
        if number == 1:
            self._had_some = clock.now()
        return self._levels[number]

    def put(self, task: Task, /) -> None:
        """Add a task."""
        self._level_of(task).put(task)

    def put_again(self, task: Task, /) -> None:
        """Add a task that is to go on later."""
        self._level_of(task).order.put_again(task)

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time."""
        self._level_of(task).order.put_first(task)

    def _give(self, hands: Hands, /) -> None:
        """Move a task of the next level that has one, and may run it, into `hands`."""
        now, due, next_ = self._now, self._due, -1
        for number, level in enumerate(self._levels):
            if level.ready and self._room(number) > 0 and (next_ < 0 or max(now, due[number]) < max(now, due[next_])):
                next_ = number
        if next_ < 0:
            return
        self._now = max(now, due[next_])
        due[next_] = self._now + STEP**next_
        self._levels[next_].give(hands)
        task: Future[Any] | None = hands.task
        if next_ and task is not None and task._state is PENDING:  # else it was cancelled, and holds no thread
            self._taken[task] = next_

    def take(self) -> Any:
        """Remove and return the task to run next."""
        if not self.ready():
            raise IndexError("no task may be taken")
        return super().take()

    def ended(self, task: Task, /) -> None:
        """Note that a task that was taken has run."""
        number = self._taken.get(task, 0)
        if number == 1:
            self._had_some = clock.now()
        ended = self._levels[number].ended
        if ended is not None:
            ended(task)
        self._taken.pop(task, None)  # last: until then it is found again after an exception

    def holds(self, task: Task, /) -> bool:
        """Return whether `task`, if it came now, would have to wait for others of its level."""
        number = level_of(task)
        level = self._levels[number]
        if level.holds is not None and level.holds(task):
            return True
        return number > 0 and len(level.tasks) >= self._room(number)

    def holders(self, task: Task, /) -> list[Task]:
        """Return the tasks of which one has to end before `task` may run; none, if it may."""
        number = level_of(task)
        level = self._levels[number]
        theirs = [] if level.holders is None else list(level.holders(task))
        if theirs or self._room(number) > 0:
            return theirs
        return list(self._taken)

    def full(self, task: Task, beside: int, /) -> bool:
        """Return whether the order of its level has no room for `task`."""
        full = self._levels[level_of(task)].full
        return full is not None and full(task, beside)

    # -- tasks to give up -----------------------------------------------------------------------------------------

    @property
    def standing(self) -> bool:
        """Whether callers that submit are to look for stale tasks too."""
        return any(level.order.standing for level in self._levels)

    def stale(self) -> Sequence[Task]:
        """Remove and return the tasks to shed, of every level."""
        shed: list[Task] = []
        self._shed(shed.append)
        return shed

    def _shed(self, claim: Callable[[Any], object]) -> None:
        for level in self._levels:
            level.shed(claim)

    def evict(self, newcomer: Task, /) -> Any:
        """Remove and return the task to give up for a newcomer."""
        level = self._crowded(newcomer)
        return level.order.evict(newcomer)

    def _victim(self, newcomer: Task) -> Task:
        rare = self._crowded(newcomer).rare
        return cast("Task", cast(RareHandles, rare).victim(newcomer))

    def _crowded(self, newcomer: Task) -> _Level:
        """Return the level that has most waiting, of several the slowest; or the newcomer's, if that is full for it."""
        if self.full(newcomer, 0):
            return self._levels[level_of(newcomer)]
        return max(reversed(self._levels), key=lambda level: len(level.tasks))

    def _drop(self, victim: Task) -> None:
        cast(RareHandles, self._levels[level_of(victim)].rare).drop(victim)

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses."""
        for level in self._levels:
            level.order.purge(keep)

    # -- as the pool uses it --------------------------------------------------------------------------------------

    def _mend(self) -> None:
        for level in self._levels:
            if level.rare is not None:
                level.rare.mend()

    def _idle(self) -> tuple[object, ...]:
        stale = any(hook_of(level.order, "stale") is not None for level in self._levels)
        full = any(level.full is not None for level in self._levels)
        return (*(() if stale else (Levels.stale,)), *(() if full else (Levels.full,)))

    def _handles(self) -> Handles:
        return Handles(self._tasks, _Ready(self.ready), self.put, self._give)  # no field of its own: no cycle

    def __repr__(self) -> str:
        waiting = " + ".join(str(len(level.tasks)) for level in self._levels)
        kind = type(self._levels[0].order).__name__
        return f"Levels({kind}, reserve={self._reserve}, {waiting} waiting, {len(self._taken)} slow taken)"


class _All(Collection[Any]):
    """The tasks of all levels. None is counted twice or left out, whoever comes in the midst of a change."""

    __slots__ = ("_levels",)

    def __init__(self, levels: list[_Level]) -> None:
        self._levels = levels

    def __len__(self) -> int:
        return sum([len(level.tasks) for level in self._levels])

    def __iter__(self) -> Iterator[Any]:
        return iter([task for level in self._levels for task in list(level.tasks)])

    def __contains__(self, task: object) -> bool:
        return any(task in level.tasks for level in self._levels)


class _Ready:
    """True while an order says that there is a task to take."""

    __slots__ = ("ask",)

    def __init__(self, ask: Callable[[], bool]) -> None:
        self.ask = ask

    def __bool__(self) -> bool:
        return bool(self.ask())


def level_of(task: Task) -> int:
    """Return the level of a task, which does not change while it waits."""
    level: int = getattr(task, "level", 0)
    return level


def _give_of(order: Order, hands: Hands) -> None:
    hands.task = order.take()


def _maker(order: object) -> Callable[[], Order]:
    """Return what makes the order of one level."""
    if is_a(order, str):
        return partial(order_named, cast(OrderName, order))
    if is_a(order, Order) or not callable(order):
        raise TypeError(
            f"order={show(order)} is {type_name(order)}, and each level needs an order of its own; allowed: a name, or "
            "what makes one, as in Levels(order=Priority) or Levels(order=lambda: Adaptive(target=0.1))"
        )
    return cast("Callable[[], Order]", order)

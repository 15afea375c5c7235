"""Adaptive: first in, first out, until more is offered than can be done; then newest first, and the rest is shed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, cast

from treadle._base import checks, clock
from treadle._tasks.future import Future, submitted_at, wait_anew
from treadle.orders._order import Handles, Hands, Own, Task

__all__ = ["Adaptive"]

RECENT = 16  # intervals for which a queue that stood is taken to stand again soon, as in controlled delay (RFC 8289)


class Adaptive(Own):
    """First in, first out while the pool keeps up; under standing delay newest first, and what is too old is shed.

    A queue whose head has waited longer than `target` at every look for `interval` is a standing one: it delays
    everything and helps nobody, for what it holds has waited so long that whoever asked has gone. Then the newest task
    runs first, and whatever waited longer than `target`, or `shed_after`, is shed: its future fails with `Shed`, so
    whoever waits can do something else. As many of the newest as the pool has threads are kept whatever their age, so
    that threads which come free together find something to do. Once the queue has been empty, all is as before; but for
    a while, a delay of `target` is enough to make it a standing one again, since the load has hardly gone.

    Tasks are shed when a thread comes to take one, or when the queue is full, and while the queue stands also by
    whoever submits: so those who offer too much do that work. `queue_size` bounds how many wait.

    Sources: controlled delay (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012), with the simple rule
    and the adaptive order of Maurer, "Fail at Scale", ACM Queue 2015.

    Args:
        target: seconds that a task may wait while the queue stands, 0 or more; about as long as tasks take.
        interval: seconds of delay after which the queue stands, 0 or more; longer than a burst that the pool is to take
            in its stride.
        shed_after: seconds after which a task is shed while the queue stands, 0 or more; None: `target`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    _tasks: deque[Any]

    def __init__(self, target: float = 0.005, interval: float = 0.1, *, shed_after: float | None = None) -> None:
        self._target = checks.number("target", target, least=0)
        self._interval = checks.number("interval", interval, least=0)
        self._shed_after = self._target if shed_after is None else checks.number("shed_after", shed_after, least=0)
        self._tasks = self._ready = deque()  # the oldest first
        self._standing = False
        # Tasks at the old end that were put there and are not judged by their age: while the queue stands, those that
        # are to go on later; else those that are to run next.
        self._apart = 0
        self._late_since: float | None = None  # since when the head has been late at every look
        self._stood_until = -inf  # when it last stopped standing

    def _handles(self) -> Handles:
        return Handles(self._tasks, self._tasks, self._tasks.append, self._give)

    def put(self, task: Task, /) -> None:
        """Add a task."""
        self._tasks.append(task)

    @property
    def standing(self) -> bool:
        """Whether the queue stands."""
        return self._standing

    def put_again(self, task: Task, /) -> None:
        """Add a task that was taken, and is to go on later: behind the others, in whichever order they are."""
        if self._standing:
            self._tasks.appendleft(task)
            self._apart += 1
        else:
            self._tasks.append(task)

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time, to run next: as the newest, for it has not waited here so long."""
        wait_anew(cast(Future[Any], task))
        if self._standing:
            self._tasks.append(task)
        else:
            self._tasks.insert(self._apart, task)
            self._apart += 1

    def _give(self, hands: Hands, /) -> None:
        """Move the oldest task, or, while the queue stands, the newest, into `hands`."""
        tasks = self._tasks
        if not self._standing:
            hands.task = tasks[0]
            del tasks[0]
            if self._apart:
                self._apart -= 1
            if not tasks:  # also if that was no live task, and nobody looks: the delay is over
                self._late_since = None
            return
        hands.task = tasks[-1]
        del tasks[-1]
        self._count_apart()

    def stale(self) -> Sequence[Task]:
        """Remove and return the tasks to shed, if the queue stands."""
        shed: list[Task] = []
        self._shed(shed.append)
        return shed

    def _shed(self, claim: Callable[[Any], object]) -> None:
        tasks = self._tasks
        if len(tasks) < 2:
            self._relax()
            return
        now = clock.now()
        latest = now - self._target
        if not self._standing:
            if len(tasks) <= self._apart or submitted_at(tasks[self._apart]) >= latest:
                self._late_since = None
                return
            if not self._stands(now):
                return
            tasks.rotate(-self._apart)  # to the new end, where tasks run first from now on
            self._apart = 0
        shed, others = 0, len(tasks) - self._apart
        tasks.rotate(-self._apart)  # to the new end, for they have not waited long
        oldest = now - self._shed_after
        while len(tasks) > self.threads and submitted_at(tasks[0]) < oldest:
            claim(tasks[0])
            del tasks[0]
            shed += 1
        self._apart -= max(0, shed - others)
        tasks.rotate(self._apart)

    def _relax(self) -> None:
        """Note that the queue does not stand any more."""
        if self._standing:
            self._stood_until = clock.now()
        self._standing, self._late_since, self._apart = False, None, 0

    def _count_apart(self) -> None:
        """Note that some tasks may have been the last, or that all have gone."""
        self._apart = min(self._apart, len(self._tasks))
        if not self._tasks:
            self._relax()

    def _stands(self, now: float) -> bool:
        """Find out whether the queue stands, at a look that found its head late."""
        if self._late_since is None:
            self._late_since = now
        else:
            again = now - self._stood_until < RECENT * self._interval
            self._standing = now - self._late_since > (min(self._target, self._interval) if again else self._interval)
        return self._standing

    def _victim(self, newcomer: Task) -> Task:
        victim: Task = self._tasks[0]
        return victim

    def _drop(self, victim: Task) -> None:
        del self._tasks[0]
        self._apart = max(0, self._apart - 1)
        self._count_apart()

    def _mend(self) -> None:
        self._mend_purge()
        self._count_apart()

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses."""
        apart = sum(map(keep, list(self._tasks)[: self._apart]))
        self._purge(self._tasks, keep)
        self._apart = apart
        self._count_apart()

    def __repr__(self) -> str:
        shed_after = "" if self._shed_after == self._target else f"shed_after={self._shed_after:g}, "
        times = f"target={self._target:g}, interval={self._interval:g}"
        return f"Adaptive({times}, {shed_after}{len(self._tasks)} waiting)"

"""Timers: one heap for all connections of a lane.

Each connection has one entry, and arming one of its deadlines is writing an attribute. That works because every
connection is looked at once a `period`, the shortest time-out there is: whatever was armed since then is not due yet.
Only an end that is brought nearer by other means (closing) costs a second entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

__all__ = ["Timed", "Timers"]

SLACK = 64  # entries of the dead that are not worth a sweep


class Timed(Protocol):
    """What a timer looks after."""

    due: float  # when it is to be looked at; inf: never

    def attend(self, event: int) -> None:
        """It is to be looked at (event 0). Never called for connections."""


class Timers:
    """When to look at which connection. For the leader alone.

    Args:
        period: seconds between two looks at one connection, at most.
    """

    __slots__ = ("dead", "heap", "next", "period", "serial")

    def __init__(self, period: float) -> None:
        self.period = period
        self.next = inf  # when the first entry is due; read for every turn of the leader
        self.heap: list[tuple[float, int, Timed]] = []
        self.dead = 0  # entries that no longer are what their connection's `due` says
        self.serial = count()  # so that connections are never compared

    def look_at(self, timed: Timed, due: float, now: float) -> None:
        """Look at `timed` when `due` comes, and once a period anyway."""
        timed.due = due = min(due, now + self.period)
        heappush(self.heap, (due, next(self.serial), timed))
        self.next = self.heap[0][0]

    def hasten(self, timed: Timed, due: float) -> None:
        """Look at `timed` no later than `due`."""
        if due < timed.due:
            self.forget(timed)
            timed.due = due
            heappush(self.heap, (due, next(self.serial), timed))
            self.next = self.heap[0][0]

    def forget(self, timed: Timed) -> None:
        """Never look at `timed` again."""
        if timed.due == inf:
            return
        timed.due = inf
        self.dead += 1
        if self.dead > SLACK and self.dead * 2 > len(self.heap):  # so a sweep costs no more than it frees
            self.heap = [entry for entry in self.heap if entry[0] == entry[2].due]
            heapify(self.heap)
            self.dead = 0
            self.next = self.heap[0][0] if self.heap else inf

    def expired(self, now: float) -> Iterator[Timed]:
        """Take out, one by one, what is to be looked at now; each is to be given back to `look_at`, or forgotten."""
        while self.heap and self.heap[0][0] <= now:
            due, _, timed = heappop(self.heap)
            self.next = self.heap[0][0] if self.heap else inf
            if due == timed.due:
                timed.due = inf
                yield timed
            else:
                self.dead -= 1

"""Timers: one heap for all connections of an event loop.

Each connection has one entry, and arming one of its deadlines is writing an attribute. That works because every
connection is looked at once a `period`, the shortest time-out there is: whatever was armed since then is not due yet.
Only an end that is brought nearer by other means (closing) costs a second entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any, Protocol

__all__ = ["Entry", "Timed", "Timers"]

SLACK = 64  # entries of the dead that are not worth a sweep


Entry = list[Any]  # when to look, a number, and at what; None: at nothing any more, so that who has left is let go of


class Timed(Protocol):
    """What a timer looks after."""

    due: float  # when it is to be looked at; inf: never
    entry: Entry | None  # the timer's own

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
        self.heap: list[Entry] = []
        self.dead = 0  # entries of what was forgotten, or hastened
        self.serial = count()  # so that connections are never compared

    def look_at(self, timed: Timed, due: float, now: float) -> None:
        """Look at `timed` when `due` comes, and once a period anyway."""
        self._push(timed, min(due, now + self.period))

    def hasten(self, timed: Timed, due: float) -> None:
        """Look at `timed` no later than `due`."""
        if due < timed.due:
            self.forget(timed)
            self._push(timed, due)

    def _push(self, timed: Timed, due: float) -> None:
        timed.due = due
        timed.entry = [due, next(self.serial), timed]
        heappush(self.heap, timed.entry)
        self.next = self.heap[0][0]

    def forget(self, timed: Timed) -> None:
        """Never look at `timed` again."""
        if timed.entry is None:
            return
        timed.entry[2] = None
        timed.entry = None
        timed.due = inf
        self.dead += 1
        if self.dead > SLACK and self.dead * 2 > len(self.heap):  # so a sweep costs no more than it frees
            self.heap = [entry for entry in self.heap if entry[2] is not None]
            heapify(self.heap)
            self.dead = 0
            self.next = self.heap[0][0] if self.heap else inf

    def expired(self, now: float) -> Iterator[Timed]:
        """Take out, one by one, what is to be looked at now; each is to be given back to `look_at`, or forgotten."""
        while self.heap and self.heap[0][0] <= now:
            timed = heappop(self.heap)[2]
            self.next = self.heap[0][0] if self.heap else inf
            if timed is None:
                self.dead -= 1
            else:
                timed.due, timed.entry = inf, None
                yield timed

"""What is measured of pools and servers that are offered more than they can do, and what is promised of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overload_limit import WITHIN as PATIENT
from overload_limit import limit
from overload_load import Rows, Settings
from overload_pools import PROMISED, cost, goodput, tenants
from overload_tally import MILLI, WITHIN
from overload_tcp import tcp

__all__ = ["Case", "Goal", "cases", "promised"]


@dataclass(frozen=True)
class Goal:
    """What is promised of one value.

    Attributes:
        row: of whom, as in `adaptive@5x`.
        value: its name.
        what: in words.
        least, most: what it has to be; exactly one is given.
    """

    row: str
    value: str
    what: str
    least: float | None = None
    most: float | None = None

    def reached(self, measured: float | None) -> bool:
        """Whether it is what was promised; what could not be measured is not."""
        if measured is None:
            return False
        return measured >= self.least if self.least is not None else measured <= (self.most or 0.0)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: its name in files.
        title: what the chart is called.
        first: the values that stand before others.
        measure: does it once; is told the number of the round, from 0.
        goals: what is promised.
    """

    name: str
    title: str
    first: Sequence[str]
    measure: Callable[[Settings, int], Rows]
    goals: Sequence[Goal]


def promised() -> bool:
    """Whether the targets are promised for this Python."""
    return sys.version_info >= (3, 13)


def cases(settings: Settings) -> list[Case]:
    """Return what is measured."""
    return [_goodput(settings), _tenants(), _limit(settings), _cost(settings), _tcp()]


def _goodput(settings: Settings) -> Case:
    goals = []
    for load in settings.loads:
        row = f"adaptive@{load:g}x"
        if load > 1:
            goals.append(Goal(row, "kept", f"{load:g}x: answers in time, to capacity", least=0.95))
            goals.append(Goal(row, "p99", f"{load:g}x: p99 of the answers, milliseconds", most=100.0))
        else:
            goals.append(Goal(row, "refused", f"{load:g}x: shed a second", most=0.0))
    title = f"Answers within {WITHIN * MILLI:g} ms, when more is offered than can be done"
    return Case("goodput", title, ("kept", "p99"), goodput, goals)


def _tenants() -> Case:
    goals = [Goal("fair", "p99 to alone", "p99 beside a flood, to that alone", most=2.0)]
    title = "A tenant that asks for 20 % of capacity, beside one that floods the queue"
    return Case("tenants", title, ("p99", "p99 to alone"), tenants, goals)


def _limit(settings: Settings) -> Case:
    goals = [
        Goal("limit@before", "kept", "before: answers in time, to capacity", least=0.9),
        Goal("limit@slowed", "kept", "slowed: the same, to what is left of it", least=0.9),
        Goal("limit@recovered", "to before", "recovered: answers in time, to before", least=0.9),
    ]
    title = f"A backend takes ten times as long for {settings.slowed:g} s: answers within {PATIENT * MILLI:g} ms"
    return Case("limit", title, ("kept", "in flight"), limit, goals)


def _cost(settings: Settings) -> Case:
    goals = [
        Goal(f"{kind}@{depth}", "to fifo", f"{kind}, {depth:,} waiting: tasks/s to fifo's", least=0.6)
        for depth in settings.depths
        for kind in PROMISED
    ]
    title = "What an order costs: tasks that do nothing, in a pool of one thread"
    return Case("cost", title, ("rate", "to fifo"), cost, goals)


def _tcp() -> Case:
    goals = [
        Goal("adaptive", "kept", "answers in time, to capacity", least=0.9),
        Goal("adaptive", "refused p99", "p99 of refusals, milliseconds", most=WITHIN * MILLI),
        Goal("adaptive", "misplaced", "answers out of order", most=0.0),
        Goal("adaptive", "lost", "neither answered nor refused", most=0.0),
    ]
    title = f"A TCP server offered 5 times its capacity: answers within {WITHIN * MILLI:g} ms"
    return Case("tcp", title, ("kept", "p99"), tcp, goals)

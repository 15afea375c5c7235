"""What is counted of an open loop: how much of what was answered was still of use, and how late it came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["WITHIN", "Tally", "Values", "percentile", "punctuality"]

Values = dict[str, float]  # by name; one that is missing could not be measured, as the latency of no answers

WITHIN = 0.15  # seconds from when a task is due to its result, after which nobody waits for it any more
MILLI = 1e3  # milliseconds in a second


def percentile(values: Sequence[float], rank: float) -> float:
    """Return the smallest of `values` that at least `rank` percent of them do not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, and so no percentile")
    return sorted(values)[max(0, math.ceil(len(values) * rank / 100) - 1)]


def punctuality(late: Sequence[float], seconds: float) -> Values:
    """Return how an open loop did that ran for so many seconds, and was late by these at each of its calls.

    Returns:
        "offered", how many calls a second it did make, and "behind", the 99th percentile of how late these were, in
        milliseconds.
    """
    values = {"offered": len(late) / seconds}
    if late:
        values["behind"] = percentile(late, 99) * MILLI
    return values


@dataclass
class Tally:
    """What became of tasks, each with the instant at which it was due, and the one at which it was over.

    Any thread may append; the values are for when nobody does any more.

    Attributes:
        answers: tasks that have a result, in time or not.
        refusals: tasks that were shed, or for which there was no room.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[tuple[float, float]] = field(default_factory=list)

    def values(self, begin: float, end: float, within: float = WITHIN) -> Values:
        """Return what happened from `begin` until `end`.

        Returns:
            A second: "rate", answers within `within` seconds, "late", answers after that, and "refused". In
            milliseconds: "p99" of the answers, late ones too, and "refused p99", each missing if there were none.
        """
        answered = [at - due for due, at in self.answers if begin <= at < end]
        refused = [at - due for due, at in self.refusals if begin <= at < end]
        seconds, good = end - begin, sum(latency <= within for latency in answered)
        values = {
            "rate": good / seconds,
            "late": (len(answered) - good) / seconds,
            "refused": len(refused) / seconds,
        }
        if answered:
            values["p99"] = percentile(answered, 99) * MILLI
        if refused:
            values["refused p99"] = percentile(refused, 99) * MILLI
        return values

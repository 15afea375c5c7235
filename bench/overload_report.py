"""What a run of bench/overload.py leaves: medians, verdicts, a record with every sample, and charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from draw import save
from overload_cases import Case, Goal
from overload_load import THREADS, Rows

# How values are shown.
FORMS = {
    "kept": "{:.1%}",
    "p99 to alone": "{:.2f}x alone",
    "answered": "{:.1%} in time",
    "to before": "{:.1%} of before",
    "to fifo": "{:.2f}x fifo",
    "CPU to fifo": "by CPU time {:.2f}x",
    "in flight": "{:.0f} in flight",
    "p99": "p99 {:,.1f} ms",
    "rate": "{:,.0f}/s",
    "late": "{:,.0f}/s late",
    "refused": "{:,.0f}/s refused",
    "refused p99": "refusals p99 {:,.1f} ms",
    "misplaced": "{:,.0f} out of order",
    "lost": "{:,.0f} unanswered",
    "offered": "offered {:,.0f}/s",
    "behind": "load {:,.1f} ms behind",
}


@dataclass
class Outcome:
    """What was measured of a case, round by round.

    `failed` says why there are no more rounds; `judged` whether the targets are promised for what was run.
    """

    case: Case
    rounds: list[Rows] = field(default_factory=list)
    failed: str = ""
    judged: bool = True

    def samples(self, row: str, value: str) -> list[float | None]:
        """Return a value of each round; None where it could not be measured, as the latency of no answers."""
        return [rows.get(row, {}).get(value) for rows in self.rounds]

    def median(self, row: str, value: str) -> float | None:
        """Return the median of a value over all rounds; None if one of them has none."""
        samples = [sample for sample in self.samples(row, value) if sample is not None]
        return statistics.median(samples) if samples and len(samples) == len(self.rounds) else None

    def rows(self) -> list[str]:
        """Return who was measured, and at what."""
        return list(self.rounds[0]) if self.rounds else []

    def values(self, row: str) -> dict[str, float]:
        """Return the medians of a row, those of the case first."""
        names = (*self.case.first, *(name for name in FORMS if name not in self.case.first))
        medians = {name: self.median(row, name) for name in names}
        return {name: median for name, median in medians.items() if median is not None}


def label(row: str) -> str:
    """Return what a row is called where people read."""
    return row.replace("@", ", ")


def table(outcome: Outcome) -> str:
    """Return a line for each row, with its medians."""
    lines = [outcome.case.title]
    for row in outcome.rows():
        values = [FORMS[name].format(value) for name, value in outcome.values(row).items()]
        lines.append(f"  {label(row):22}{', '.join(values)}")
    if outcome.failed:
        lines.append(f"  failed: {outcome.failed}")
    return "\n".join(lines)


def verdict(outcome: Outcome, goal: Goal) -> str:
    """Return PASS or FAIL, or nothing where there is nothing to judge."""
    if not outcome.judged:
        return ""
    return "PASS" if goal.reached(outcome.median(goal.row, goal.value)) else "FAIL"


def status(outcomes: Iterable[Outcome], *, forgiving: bool) -> int:
    """Return the exit status: 1 if a target was missed and that is not forgiven, or something failed."""
    for outcome in outcomes:
        missed = any(verdict(outcome, goal) == "FAIL" for goal in outcome.case.goals)
        if outcome.failed or (missed and not forgiving):
            return 1
    return 0


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line for each target: what was measured, the target, the verdict, and the rounds' extremes."""
    lines = [f"{'treadle':60}{'measured':>10}{'target':>10}{'':8}rounds"]
    for outcome in outcomes:
        for goal in outcome.case.goals:
            measured = outcome.median(goal.row, goal.value)
            samples = [sample for sample in outcome.samples(goal.row, goal.value) if sample is not None]
            line = f"  {outcome.case.name:9}{goal.what:49}{'-' if measured is None else f'{measured:.3f}':>10}"
            line += f"{goal!s:>10}  {verdict(outcome, goal):6}"
            lines.append(line + (f"({min(samples):.3f} to {max(samples):.3f})" if samples else ""))
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Return what somebody needs to know to judge the numbers, or to repeat them."""
    return {**report.environment(), "workers": THREADS, "versions": {"treadle": report.version("treadle")}}


def record(outcome: Outcome, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return all that was measured, as JSON takes it.

    Rates are a second; what is called `p99`, and how far the load was `behind`, are milliseconds. The medians of all
    rounds are named as in `adaptive@5x.kept`.
    """
    rows = outcome.rows()
    return {
        "case": outcome.case.name,
        "title": outcome.case.title,
        "environment": surroundings,
        "targets": [
            {
                "row": goal.row,
                "what": goal.what,
                "target": str(goal),
                "measured": outcome.median(goal.row, goal.value),
                "verdict": verdict(outcome, goal) or None,
            }
            for goal in outcome.case.goals
        ],
        "failed": outcome.failed or None,
        "medians": {
            f"{row}.{name.replace(' ', '_')}": median for row in rows for name, median in outcome.values(row).items()
        },
        "samples": outcome.rounds,
    }


def write(outcomes: Sequence[Outcome], surroundings: dict[str, Any], folder: Path) -> None:
    """Write record and chart of each case into `folder`, as `<case>.<python>.json` and `.svg`."""
    for outcome in outcomes:
        save(record(outcome, surroundings), folder, f"{outcome.case.name}.{report.python_tag()}")

"""What a run of bench/echo.py leaves: medians, ratios, verdicts, a record with every sample, and charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from draw import save
from echo_cases import Goal, Scenario, Values
from echo_peers import LABELS, OURS, PACKAGES

# How values are shown; those that are not here are for the record only.
FORMS = {
    "cpu": "{:.1f} µs CPU",
    "kept": "keeps {:.2f}x",
    "p50": "p50 {:,.2f} ms",
    "p99": "p99 {:,.2f} ms",
    "p999": "p99.9 {:,.2f} ms",
    "wait": "longest {:,.1f} ms",
    "m": "those of 5 ms {:,.0f}/s",
    "m_p50": "p50 {:,.0f} ms",
    "m_p99": "p99 {:,.0f} ms",
    "slow": "slow ones {:,.0f}/s",
    "slow_p50": "p50 {:,.0f} ms",
    "memory": "{:,.1f} MiB",
    "threads": "{:+.0f} threads",
    "descriptors": "{:+.0f} descriptors",
    "disk": "{:,.1f} MiB on disk",
    "busy": "busy threads {:.0f} (median)",
    "busy_most": "{:.0f} (most)",
    "made": "made after {:.2f} s",
    "taken": "taken after {:.2f} s",
    "clients": "{:,.0f} clients",
    "answer": "{:.3g} MiB each",
    "read": "{:,.0f} MiB/s in all",
    "left": "{:.0f} left",
    "late": "{:.2f} s late",
}
MAIN = "rate"  # the value that is compared: replies a second


@dataclass
class Outcome:
    """The samples of a scenario by peer, in order of rounds; `absent` says why a peer has none.

    Those that are absent because they did not do as they should are in `failed`.
    `judged` says whether the targets are promised for what was run.
    """

    scenario: Scenario
    samples: dict[str, list[Values]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    judged: bool = True

    def median(self, peer: str, value: str = MAIN) -> float:
        """Return the median of a value, by default of the rate, over all rounds."""
        return statistics.median(sample[value] for sample in self.samples[peer])

    def ratios(self, peer: str, value: str = MAIN) -> list[float]:
        """Return for each round treadle's value divided by the peer's."""
        pairs = zip(self.samples[OURS], self.samples[peer], strict=True)
        return [ours[value] / theirs[value] for ours, theirs in pairs if theirs[value]]

    def ratio(self, peer: str, value: str = MAIN) -> float | None:
        """Return the median of the rounds' ratios, or None if there are none.

        Not the ratio of the medians: the two of a round ran within seconds of each other, so what slowed the machine
        for a while slowed both.
        """
        if OURS not in self.samples or peer not in self.samples:
            return None
        ratios = self.ratios(peer, value)
        return statistics.median(ratios) if ratios else None

    def measured(self, goal: Goal) -> float | None:
        """Return what there is to be compared with a goal; None: treadle, or the peer, was not measured."""
        if OURS not in self.samples:
            return None
        return self.median(OURS, goal.value) if goal.to is None else self.ratio(goal.to, goal.value)

    def spread(self, goal: Goal) -> tuple[float, float]:
        """Return the lowest and the highest round of what `measured` gives."""
        values = (
            [sample[goal.value] for sample in self.samples[OURS]]
            if goal.to is None
            else self.ratios(goal.to, goal.value)
        )
        return min(values), max(values)


def best_first(outcome: Outcome) -> list[str]:
    """Return the names of the peers that were measured."""
    return sorted(outcome.samples, key=outcome.median, reverse=True)


def label(peer: str) -> str:
    """Return what a peer is called where people read."""
    return LABELS.get(peer, peer)


def details(outcome: Outcome, peer: str) -> list[str]:
    """Return the values of a peer beside the main one, in words."""
    names = [name for name in FORMS if name in outcome.samples[peer][0]]
    return [FORMS[name].format(outcome.median(peer, name)) for name in names]


def table(outcome: Outcome) -> str:
    """Return the peers of a scenario, best first: medians, and how many times as good treadle is."""
    lines = [outcome.scenario.title]
    for peer in best_first(outcome):
        ratio = outcome.ratio(peer)
        times = "" if ratio is None or peer == OURS else f"{OURS} {ratio:,.{2 if ratio < 100 else 0}f}x"
        rate = f"{outcome.median(peer):,.0f}/s"
        lines.append(f"  {label(peer):26}{rate:>12}  {times:17}{', '.join(details(outcome, peer))}")
    lines += [f"  {label(peer):26}{'-':>12}  {reason}" for peer, reason in outcome.absent.items()]
    return "\n".join(lines)


def verdict(outcome: Outcome, goal: Goal) -> str:
    """Return PASS or FAIL, or nothing where there is nothing to judge."""
    measured = outcome.measured(goal)
    return "" if measured is None or not outcome.judged else "PASS" if goal.reached(measured) else "FAIL"


def missed(outcome: Outcome) -> bool:
    """Return whether a target was missed."""
    return any(verdict(outcome, goal) == "FAIL" for goal in outcome.scenario.goals)


def status(outcomes: Iterable[Outcome], *, forgiving: bool) -> int:
    """Return the exit status: 1 if a target was missed and that is not forgiven, or treadle failed."""
    return int(any(OURS in outcome.failed or (missed(outcome) and not forgiving) for outcome in outcomes))


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line for each target: what was measured, the target, the verdict, and the rounds' extremes."""
    lines = [f"{'treadle':50}{'measured':>10}{'target':>12}{'':8}rounds"]
    for outcome in outcomes:
        for goal in outcome.scenario.goals:
            measured = outcome.measured(goal)
            name = f"  {outcome.scenario.name:15}{goal.what}"
            if measured is None:
                lines.append(f"{name:50}{'-':>10}{goal!s:>12}")
                continue
            low, high = outcome.spread(goal)
            lines.append(f"{name:50}{measured:10.2f}{goal!s:>12}  {verdict(outcome, goal):6}({low:.2f} to {high:.2f})")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Return what somebody needs to know to judge the numbers, or to repeat them."""
    found = report.environment()
    del found["workers"]
    return {**found, "versions": {peer: report.version(package) for peer, package in PACKAGES.items()}}


def record(outcome: Outcome, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return all that was measured, as JSON takes it.

    `ratios` say how many times the peer's median treadle's is. In `samples` rates are replies a second, `cpu`
    microseconds, `p50`, `p99`, `p999` and `max` milliseconds, memory MiB, `kept` a part of the rate without what
    disturbs, `slow_kept` a part of what all threads can do.
    """
    names = best_first(outcome)
    ratios = {peer: outcome.ratio(peer) for peer in names}
    return {
        "scenario": outcome.scenario.name,
        "title": outcome.scenario.title,
        "environment": surroundings,
        "targets": [
            {
                "what": goal.what,
                "target": str(goal),
                "measured": outcome.measured(goal),
                "verdict": verdict(outcome, goal) or None,
            }
            for goal in outcome.scenario.goals
        ],
        "medians": {peer: outcome.median(peer) for peer in names},
        "ratios": {peer: round(ratio, 3) for peer, ratio in ratios.items() if ratio is not None},
        "values": {peer: {value: outcome.median(peer, value) for value in outcome.samples[peer][0]} for peer in names},
        "absent": outcome.absent,
        "samples": {peer: outcome.samples[peer] for peer in names},
    }


def write(outcomes: Sequence[Outcome], surroundings: dict[str, Any], folder: Path) -> None:
    """Write record and chart of each scenario into `folder`, as `<scenario>.<python>.json` and `.svg`."""
    for outcome in outcomes:
        save(record(outcome, surroundings), folder, f"{outcome.scenario.name}.{report.python_tag()}")

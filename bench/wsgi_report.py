"""What a run of bench/wsgi.py leaves: tables, verdicts, a record with every sample, and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import echo_report
import report
from draw import save
from echo_peers import OURS
from echo_report import Outcome, details, status, summary, verdict

__all__ = ["Outcome", "environment", "record", "status", "summary", "table", "verdict", "write"]

PACKAGES = ("treadle", "granian", "gunicorn", "waitress", "cheroot", "flask")


def compared(outcome: Outcome) -> str:
    """Return the value by which servers are compared: their processor time, or the wait of the quick."""
    return "p99" if len(outcome.scenario.requests) > 1 else "cpu"


def best_first(outcome: Outcome) -> list[str]:
    """Return the names of the servers that were measured."""
    value = compared(outcome)
    return sorted(outcome.samples, key=lambda peer: outcome.median(peer, value))


def table(outcome: Outcome) -> str:
    """Return the servers, best first: medians, and what part of each one's is treadle's."""
    value = compared(outcome)
    lines = [outcome.scenario.title]
    for peer in best_first(outcome):
        ratio = outcome.ratio(peer, value)
        part = "" if ratio is None or peer == OURS else f"{OURS} {ratio:.2f} of its {value}"
        rest = ", ".join(details(outcome, peer))
        lines.append(f"  {peer:12}{part:26}{outcome.median(peer):>9,.0f}/s  {rest}")
    lines += [f"  {peer:12}{'-':26}{reason}" for peer, reason in outcome.absent.items()]
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Return what somebody needs to know to judge the numbers, or to repeat them."""
    found = report.environment()
    del found["workers"]
    return {**found, "versions": {package: report.version(package) for package in PACKAGES}}


def record(outcome: Outcome, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return all that was measured, as `echo_report.record` has it.

    `compared` is the value by which servers are compared. `ratios` say for each value how many times the peer's
    treadle's is. `cpu` is the processor time of a request in microseconds.
    """
    names = best_first(outcome)
    found = echo_report.record(outcome, surroundings)
    ratios = {
        peer: {value: outcome.ratio(peer, value) for value in outcome.samples[peer][0]}
        for peer in names
        if outcome.ratio(peer) is not None
    }
    return {
        **found,
        "scenario": f"wsgi_{outcome.scenario.name}",
        "compared": compared(outcome),
        "medians": {peer: found["medians"][peer] for peer in names},
        "ratios": {
            peer: {value: round(ratio, 3) for value, ratio in each.items() if ratio is not None}
            for peer, each in ratios.items()
        },
        "values": {peer: found["values"][peer] for peer in names},
        "samples": {peer: found["samples"][peer] for peer in names},
    }


def write(outcomes: Sequence[Outcome] | Iterable[Outcome], surroundings: dict[str, Any], folder: Path) -> None:
    """Write record and chart of each case into `folder`, as `wsgi_<case>.<python>.json` and `.svg`."""
    for outcome in outcomes:
        save(record(outcome, surroundings), folder, f"wsgi_{outcome.scenario.name}.{report.python_tag()}")

"""Pools and servers that are offered more than they can do: what is answered in time, and what that costs.

Run by `make bench`. Prints tables, writes bench/results/<case>.<python>.json and .svg, and exits with status 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import overload_report
import report
from overload_cases import Case, cases, promised
from overload_load import QUICK, THREADS, Settings
from overload_report import Outcome
from overload_tcp import ClientsFailed

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3


def options_from(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench/overload.py", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"measure only these, of: {' '.join(names)}")
    parser.add_argument("--rounds", type=int, help=f"rounds a case, for medians (default {ROUNDS}; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="little of all, no targets: only shows that it runs")
    parser.add_argument("--no-targets", action="store_true", help="exit with status 0 even if a target is missed")
    parser.add_argument("--output", type=Path, help=f"where to write (default {RESULTS}; quick: nowhere)")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(names):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are: {' '.join(names)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds has to be 1 or more, not {options.rounds}")
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def run(case: Case, rounds: int, settings: Settings, *, judged: bool) -> Outcome:
    """Measure `case` so many times."""
    outcome = Outcome(case, judged=judged)
    try:
        for number in range(rounds):
            outcome.rounds.append(case.measure(settings, number))
    except ClientsFailed as reason:
        outcome.failed = str(reason)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit status."""
    options = options_from(arguments, [case.name for case in cases(Settings())])
    settings = QUICK if options.quick else Settings()
    # The servers warn that they refuse messages, and that clients were cut: both are what is measured.
    logging.getLogger("treadle").setLevel(logging.ERROR)
    surroundings = overload_report.environment()
    print(f"{report.python_name()}, {THREADS} threads, {surroundings['processors']} processors")
    print(f"medians of {options.rounds} rounds; standard: concurrent.futures.ThreadPoolExecutor, the others: treadle")
    print(report.busy(surroundings))
    start, outcomes = perf_counter(), list[Outcome]()
    for case in cases(settings):
        if case.name in options.cases or not options.cases:
            outcomes.append(run(case, options.rounds, settings, judged=promised() and not options.quick))
            print(overload_report.table(outcomes[-1]), end="\n\n", flush=True)
    print(overload_report.summary(outcomes))
    print(f"took {perf_counter() - start:.0f} seconds")
    if options.output is not None:
        overload_report.write(outcomes, surroundings, options.output)
        print(f"wrote {options.output}")
    return overload_report.status(outcomes, forgiving=options.no_targets)


if __name__ == "__main__":
    sys.exit(main())

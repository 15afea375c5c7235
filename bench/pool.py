"""The pool beside its peers: throughput, latency and memory, as ratios to the standard library's pool.

Run by `make bench`. Prints tables, writes bench/results/<case>.<python>.json and .svg, and exits with status 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import report
from cases import cases
from measure import run
from peers import PEERS, WORKERS

RESULTS = Path(__file__).parent / "results"
QUICK = 0.02  # of the usual number of tasks


def options_from(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench/pool.py", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"measure only these, of: {' '.join(names)}")
    parser.add_argument("--rounds", type=int, help="rounds a case, of which medians are taken (default 9; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="few tasks, no targets: only shows that it runs")
    parser.add_argument("--no-targets", action="store_true", help="exit with status 0 even if a target is missed")
    parser.add_argument("--output", type=Path, help=f"where to write (default {RESULTS}; quick: nowhere)")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(names):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are: {' '.join(names)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds has to be 1 or more, not {options.rounds}")
    options.rounds = options.rounds or (1 if options.quick else 9)
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit status."""
    gil = report.has_gil()
    options = options_from(arguments, [case.name for case in cases(1.0, gil=gil)])
    everything = cases(QUICK if options.quick else 1.0, gil=gil)
    surroundings = report.environment()
    print(f"{report.python_name()}, {WORKERS} workers, {surroundings['processors']} processors")
    print(f"medians of {options.rounds} rounds; ratios to {report.BASE}, with the lowest and the highest of a round")
    print(report.busy(surroundings))
    start, outcomes = perf_counter(), []
    for case in everything:
        if case.name in options.cases or not options.cases:
            outcomes.append(run(case, (*PEERS, *case.also), options.rounds))
            print(report.table(outcomes[-1]), end="\n\n", flush=True)
    print(report.summary(outcomes))
    print(f"took {perf_counter() - start:.0f} seconds")
    if options.output is not None:
        report.write(outcomes, surroundings, options.output)
        print(f"wrote {options.output}")
    return report.status(outcomes, forgiving=options.no_targets or options.quick)


if __name__ == "__main__":
    sys.exit(main())

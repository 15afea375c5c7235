"""treadle's web server beside its peers: processor time a request, requests a second, files, and slow routes.

Run by `make bench`. Prints tables, writes bench/results/wsgi_<case>.<python>.json and .svg, and exits with status 1 if
a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import report
import wsgi_report
from echo import RESULTS, ROUNDS, UNAVAILABLE, run
from load import NoClients
from wsgi_cases import MIB, NAMES, Settings, cases
from wsgi_load import wrk

QUICK = Settings(seconds=1, warmup=0, connections=8, takers=2, judged=False)
FILE = 100 * MIB


def options_from(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench/wsgi.py", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=lambda text: text.split(","), help=f"only these, of: {','.join(names)}")
    parser.add_argument("--peers", type=lambda text: text.split(","), help=f"only these, of: {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help=f"rounds, for medians (default {ROUNDS}; quick: 1)")
    parser.add_argument("--seconds", type=int, help="measured of each server in a round (default 2; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="few of everything, no targets: only shows that it runs")
    parser.add_argument("--no-targets", action="store_true", help="exit with status 0 even if a target is missed")
    parser.add_argument("--output", type=Path, help=f"where to write (default {RESULTS}; quick: nowhere)")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases or ()) - set(names):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are: {','.join(names)}")
    if unknown := set(options.peers or ()) - set(NAMES):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; there are: {','.join(NAMES)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds has to be 1 or more, not {options.rounds}")
    if options.seconds is not None and not 1 <= options.seconds <= 3600:
        parser.error(f"--seconds has to be 1 or more, and 3600 at most, not {options.seconds}")
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.settings = QUICK if options.quick else Settings()
    if options.seconds is not None:
        options.settings = replace(options.settings, seconds=options.seconds)
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit status."""
    everything = cases()
    options = options_from(arguments, [case.name for case in everything])
    try:
        wrk()
    except NoClients as reason:
        print(f"bench/wsgi.py: nothing is measured: {reason}", file=sys.stderr)
        return UNAVAILABLE
    surroundings = wsgi_report.environment()
    settings, start, outcomes = options.settings, perf_counter(), list[wsgi_report.Outcome]()
    peers = [peer for peer in NAMES if peer in (options.peers or NAMES)]
    print(f"{report.python_name()}, {settings.connections} connections, {settings.threads} threads, one process")
    print(f"medians of {options.rounds} rounds of {settings.seconds} s; CPU is processor time a request")
    print(report.busy(surroundings))
    with tempfile.TemporaryDirectory(prefix="treadle-bench-") as folder:
        settings = replace(settings, file=Path(folder, "file"))
        settings.file.write_bytes(bytes(FILE))
        for case in everything:
            if case.name in (options.cases or [case.name]):
                outcomes.append(run(case, peers, options.rounds, settings))
                print(wsgi_report.table(outcomes[-1]), end="\n\n", flush=True)
    print(wsgi_report.summary(outcomes))
    print(f"took {perf_counter() - start:.0f} seconds")
    if options.output is not None:
        wsgi_report.write(outcomes, surroundings, options.output)
        print(f"wrote {options.output}")
    return wsgi_report.status(outcomes, forgiving=options.no_targets)


if __name__ == "__main__":
    sys.exit(main())

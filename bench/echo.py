"""The echo server beside its peers: replies a second, CPU time, slow handlers, idle and hostile clients.

Run by `make bench`. Prints tables, writes bench/results/<scenario>.<python>.json and .svg, and exits with status 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import echo_report
import report
from echo_cases import QUICK, Measure, Scenario, Settings, promised, scenarios
from echo_peers import NAMES, ServerFailed
from echo_report import Outcome
from echo_servers import Unavailable
from load import LoadFailed, NoClients, compiled

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
ALL = "all"  # the word for variants
UNAVAILABLE = 69  # the exit status where there can be no clients; EX_UNAVAILABLE of sysexits.h


def options_from(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench/echo.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"only these, of: {' '.join(names)}; with the word {ALL} also the variants of these, or of all",
    )
    parser.add_argument("--rounds", type=int, help=f"rounds at most, for medians (default {ROUNDS}; quick: 1)")
    parser.add_argument("--seconds", type=float, help="measured of each server in a round (default 1; quick: 0.1)")
    parser.add_argument("--peers", type=lambda text: text.split(","), help=f"only these, of: {','.join(NAMES)}")
    parser.add_argument("--clients", type=int, help="trickle: clients that read slowly (default 1,000; quick: 20)")
    parser.add_argument("--mib", type=float, help="trickle: MiB that each asks for (default 10; quick: 0.5)")
    parser.add_argument("--pace", type=float, help="trickle: MiB a second that each reads (default 1)")
    parser.add_argument("--quick", action="store_true", help="few of everything, no targets: only shows that it runs")
    parser.add_argument("--no-targets", action="store_true", help="exit with status 0 even if a target is missed")
    parser.add_argument("--output", type=Path, help=f"where to write (default {RESULTS}; quick: nowhere)")
    options = parser.parse_args(arguments)
    if unknown := set(options.scenarios) - {*names, ALL}:
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; there are: {' '.join(names)}")
    if unknown := set(options.peers or ()) - set(NAMES):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; there are: {','.join(NAMES)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds has to be 1 or more, not {options.rounds}")
    if options.seconds is not None and not 0 < options.seconds <= 3600:
        parser.error(f"--seconds has to be more than 0, and 3600 at most, not {options.seconds}")
    sizes = {"trickling": options.clients, "answer": options.mib, "pace": options.pace}
    for name, flag in (("trickling", "--clients"), ("answer", "--mib"), ("pace", "--pace")):
        if sizes[name] is not None and not 0 < sizes[name] <= 1_000_000:
            parser.error(f"{flag} has to be more than 0, and 1,000,000 at most, not {sizes[name]}")
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.settings = QUICK if options.quick else Settings()
    if options.seconds is not None:
        options.settings = replace(options.settings, seconds=options.seconds)
    given = {name: value for name, value in sizes.items() if value is not None}
    options.settings = replace(options.settings, **given)
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def chosen(everything: Sequence[Scenario], words: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of these names, or all; variants only if they are named, or the word is among the names."""
    named = set(words) - {ALL}
    if ALL in words:
        return [one for one in everything if not named or not named.isdisjoint((one.name, one.variant_of))]
    return [one for one in everything if (one.name in named if named else one.variant_of is None)]


def run(scenario: Scenario, peers: Sequence[str], rounds: int, settings: Settings) -> Outcome:
    """Measure `scenario` with every peer in turn, `rounds` times; the order moves on by one each time."""
    outcome = Outcome(scenario, judged=promised() and settings.judged)
    for number in range(min(rounds, scenario.rounds or rounds)):
        with ExitStack() as stack:
            measures = dict[str, Measure]()
            for peer in peers:
                if peer in outcome.absent:
                    continue
                with absence(outcome, peer):
                    measures[peer] = stack.enter_context(scenario.opened(peer, settings))
            for turn in range(number, number + scenario.slices):
                shift = turn % len(peers)
                for peer in (*peers[shift:], *peers[:shift]):
                    if peer in measures and peer not in outcome.absent:
                        with absence(outcome, peer):
                            outcome.samples.setdefault(peer, []).append(measures[peer]())
    return outcome


@contextmanager
def absence(outcome: Outcome, peer: str) -> Iterator[None]:
    """Note why a peer cannot be measured, or not any more; then it has no samples, for a ratio wants one a turn."""
    try:
        yield
    except (Unavailable, ServerFailed, LoadFailed) as reason:
        outcome.absent[peer] = str(reason)
        outcome.samples.pop(peer, None)
        if not isinstance(reason, Unavailable):
            outcome.failed.add(peer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit status."""
    everything = scenarios()
    options = options_from(arguments, [scenario.name for scenario in everything])
    try:
        compiled()
    except NoClients as reason:
        print(f"bench/echo.py: nothing is measured: {reason}", file=sys.stderr)
        return UNAVAILABLE
    surroundings = echo_report.environment()
    settings, start, outcomes = options.settings, perf_counter(), list[Outcome]()
    print(f"{report.python_name()}, {settings.connections} connections, {surroundings['processors']} processors")
    print(f"medians of at most {options.rounds} rounds of {settings.seconds:g} s, each server in a process of its own")
    print(report.busy(surroundings))
    for scenario in chosen(everything, options.scenarios):
        peers = [peer for peer in scenario.peers if peer in (options.peers or NAMES)]
        if peers:
            outcomes.append(run(scenario, peers, options.rounds, settings))
            print(echo_report.table(outcomes[-1]), end="\n\n", flush=True)
    print(echo_report.summary(outcomes))
    print(f"took {perf_counter() - start:.0f} seconds")
    if options.output is not None:
        echo_report.write(outcomes, surroundings, options.output)
        print(f"wrote {options.output}")
    return echo_report.status(outcomes, forgiving=options.no_targets)


if __name__ == "__main__":
    sys.exit(main())

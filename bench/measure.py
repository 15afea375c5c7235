"""How pools are measured side by side: in one process, in turn, and compared round by round."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from peers import Peer, Unavailable, opened


class Sample(NamedTuple):
    """What one round cost: less is better. `tail` is the 99th percentile, where single calls were timed."""

    cost: float
    tail: float | None = None


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: its name in files.
        title: what the chart is called.
        unit: of the numbers shown: "tasks/s" or "items/s" (more is better), "µs" or "bytes" (less is better).
        measure: does it once with a fresh peer.
        target: how many times as good as the standard library treadle is to be; None: nothing is promised.
        room: how many tasks have to fit into a bounded queue; None: the peer's default is enough.
        also: peers that are measured in this case only.
    """

    name: str
    title: str
    unit: str
    measure: Callable[[Peer], Sample]
    target: float | None = None
    room: int | None = None
    also: tuple[type[Peer], ...] = ()

    @property
    def more_is_better(self) -> bool:
        """Whether the unit is a rate."""
        return self.unit.endswith("/s")


@dataclass
class Outcome:
    """The samples of a case by peer, in order of rounds; `absent` says why a peer has none."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        """Return the median cost over all rounds."""
        return statistics.median(sample.cost for sample in self.samples[peer])

    def tail(self, peer: str) -> float | None:
        """Return the median of the rounds' 99th percentiles, or None if single calls were not timed."""
        tails = [sample.tail for sample in self.samples[peer] if sample.tail is not None]
        return statistics.median(tails) if tails else None

    def ratios(self, peer: str, base: str) -> list[float]:
        """Return for each round how many times as good as `base` the peer was."""
        pairs = zip(self.samples[base], self.samples[peer], strict=True)
        return [theirs.cost / ours.cost for theirs, ours in pairs]

    def ratio(self, peer: str, base: str) -> float:
        """Return the median of the rounds' ratios.

        Not the ratio of the medians: the two of a round ran within a second of each other, so what slowed the machine
        for a while slowed both.
        """
        return statistics.median(self.ratios(peer, base))

    def tail_ratio(self, peer: str, base: str) -> float | None:
        """Return the median of the rounds' ratios of 99th percentiles, or None if there are none."""
        pairs = zip(self.samples[base], self.samples[peer], strict=True)
        ratios = [theirs.tail / ours.tail for theirs, ours in pairs if theirs.tail and ours.tail]
        return statistics.median(ratios) if ratios else None


def run(case: Case, kinds: Sequence[type[Peer]], rounds: int) -> Outcome:
    """Measure `case` with every peer, `rounds` times in turn, after one round that is not counted.

    The order moves on by one each round, so that nobody always follows the same one, and what one peer leaves to the
    garbage collector is collected before the next begins. Each turn has a fresh pool, warmed by the measure itself: the
    threads of those that wait for their turn would disturb.
    """
    outcome = Outcome(case)
    for number in range(rounds + 1):
        shift = number % len(kinds)
        for kind in (*kinds[shift:], *kinds[:shift]):
            if kind.name in outcome.absent:
                continue
            try:
                sample = _turn(case, kind)
            except Unavailable as reason:
                outcome.absent[kind.name] = str(reason)
            else:
                if number:
                    outcome.samples.setdefault(kind.name, []).append(sample)
    return outcome


def _turn(case: Case, kind: type[Peer]) -> Sample:
    with opened(kind, case.room) as peer:
        gc.collect()
        return case.measure(peer)

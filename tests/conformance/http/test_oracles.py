"""The corpus and thousands of mutations of it, as two parsers of others read them: each difference has a reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from conformance.http.corpus import ENTRIES
from conformance.http.corpus.entry import get
from conformance.http.decoding import LARGE, Outcome, of_h11, of_httptools, ours
from conformance.http.differences import BOTH, H11, HTTPTOOLS, difference, has_reason, mutated

BEHIND = get(target="/behind")
MUTATIONS = 3000
LONGEST = 2000  # bytes of an entry that is mutated


def inputs() -> Iterator[bytes]:
    """Generate the corpus, and the same mutations of it every time."""
    random_one = random.Random(20220601)
    short = [entry.raw for entry in ENTRIES if len(entry.raw) <= LONGEST]
    yield from (raw + BEHIND for raw in short)
    for _ in range(MUTATIONS):
        yield mutated(random_one.choice(short), random_one) + BEHIND


@pytest.mark.parametrize(
    ("name", "read", "reasons"),
    [("h11", of_h11, BOTH | H11), ("httptools", of_httptools, BOTH | HTTPTOOLS)],
    ids=["h11", "httptools"],
)
def test_each_difference_has_a_reason(name: str, read: Callable[[bytes], Outcome], reasons: dict[str, str]) -> None:
    pytest.importorskip(name)
    without = []
    for raw in inputs():
        we, it = ours([raw], LARGE), read(raw)
        told = difference(we, it)
        if not has_reason(told, reasons):
            without.append(f"{told}: {raw[:500]!r}; we: {we.requests} {we.refused}; {name}: {it.requests} {it.refused}")
    assert not without, "\n".join([f"{len(without)} differences", *without[:20]])

"""The corpus in pieces: wherever what is sent is cut, the decoder makes the same of it.

On the wire nobody knows which bytes arrive together; here it is known. Whole, a plain request goes the quick way, and
cut in two the careful one, so this holds the two equal as well.
"""

from __future__ import annotations

from conformance.http.corpus import ENTRIES
from conformance.http.corpus.entry import get
from conformance.http.decoding import Outcome, ours

BEHIND = get(target="/behind")
MOST = 12_000  # bytes of an entry that are fed one by one
CUTS = 12  # of each entry, evenly


def outcome_of(*pieces: bytes) -> Outcome:
    """Return what becomes of them; not by which rule it is refused, for the first that is seen to be broken counts."""
    outcome = ours(pieces)
    outcome.refused = "refused" if outcome.refused else ""
    return outcome


def bytes_of(raw: bytes) -> list[bytes]:
    """Return the first bytes one by one, and the rest."""
    return [*(raw[at : at + 1] for at in range(min(len(raw), MOST))), raw[MOST:]]


def test_byte_by_byte_and_whole_are_the_same_with_another_behind() -> None:
    faults = []
    for entry in ENTRIES:
        raw = entry.raw + BEHIND
        whole, bytewise = outcome_of(raw), outcome_of(*bytes_of(raw))
        if whole != bytewise:
            faults.append(f"{entry.name}: whole {whole}, byte by byte {bytewise}"[:2000])
    assert not faults, "\n".join(faults)


def test_byte_by_byte_and_whole_are_the_same_alone() -> None:
    """What is wrong may be refused sooner in pieces, or with what comes next; but no request is made of it."""
    faults = []
    for entry in ENTRIES:
        whole, bytewise = ours([entry.raw]), ours(bytes_of(entry.raw))
        if (whole.requests, whole.environs) != (bytewise.requests, bytewise.environs):
            faults.append(f"{entry.name}: whole {whole}, byte by byte {bytewise}"[:2000])
    assert not faults, "\n".join(faults)


def test_cut_in_two_and_whole_are_the_same() -> None:
    faults = []
    for entry in ENTRIES:
        raw = entry.raw + BEHIND
        whole = outcome_of(raw)
        for at in range(1, len(entry.raw) + 1, max(1, len(entry.raw) // CUTS)):
            if (two := outcome_of(raw[:at], raw[at:])) != whole:
                faults.append(f"{entry.name}: whole {whole}, cut at {at} {two}"[:2000])
                break
    assert not faults, "\n".join(faults)

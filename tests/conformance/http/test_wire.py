"""The corpus over the wire: each request whole, byte by byte, and in one packet between two others.

Whatever is right is answered by the app, which sees what was sent. Whatever is wrong is refused, and what stands behind
it is never answered: where one request ends nobody can say any more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.http.corpus import ENTRIES, REFUSED, VALID
from conformance.http.corpus.entry import BODY, FIELDS, HEAD, LINE, Entry
from conformance.http.wire import WAYS, Recorder, faults_of
from treadle.server import WSGI, Server

SECTION = re.compile(r"RFC (9110|9112|6585), [1-9][0-9]?(\.[1-9][0-9]?)*")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Recorder]]:
    """One server for all; where it listens, and what its app saw."""
    recorder = Recorder()
    protocol = WSGI(recorder, max_line=LINE, max_head=HEAD, max_fields=FIELDS, max_body=BODY)
    with Server(protocol, "127.0.0.1:0", max_workers=2) as server:
        yield server.address, recorder
        recorder.seen.clear()
    assert not recorder.seen, "a call came when its connection was over"


@pytest.mark.leaves_behind("the module's server, which may still be closing what the client has closed")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_becomes_of_it(entry: Entry, served: tuple[Any, Recorder]) -> None:
    address, recorder = served
    faults = [fault for way in WAYS for fault in faults_of(entry, way, address, recorder)]
    assert not faults, "\n".join([*faults, f"sent: {entry.raw[:1000]!r}", f"note: {entry.note or '-'}"])


def test_every_entry_has_a_name_of_its_own_and_a_section() -> None:
    names = Counter(entry.name for entry in ENTRIES)
    assert [name for name, count in names.items() if count > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z0-9.-]+", name)] == []
    assert [entry.name for entry in ENTRIES if not SECTION.fullmatch(entry.rfc)] == []


def test_no_two_entries_are_the_same_bytes() -> None:
    sent = Counter(entry.raw for entry in ENTRIES)
    assert [entry.name for entry in ENTRIES if sent[entry.raw] > 1] == []


def test_where_there_is_a_choice_the_note_says_which() -> None:
    assert [entry.name for entry in ENTRIES if entry.may_refuse and not entry.note] == []
    assert [entry.name for entry in ENTRIES if entry.keeps is None and not entry.note] == []


def test_there_are_enough() -> None:
    assert len(VALID) >= 330
    assert len(REFUSED) >= 740


def test_the_document_has_each_rule_by_which_something_is_refused_and_no_other() -> None:
    root = Path(__file__).parents[3]
    sources = "".join(path.read_text() for path in (root / "src/treadle/server/_protocols/http").glob("*.py"))
    page = (root / "docs" / "conformance.md").read_text()
    rule = r"(RFC \d+, section [\d.]*\d)"
    rows = re.findall(rf"^\| (\d{{3}}) \| .* \| {rule} \|$", page, re.MULTILINE)
    assert set(re.findall(rf"Refused\((\d{{3}}), f?\"[^\"]*\({rule}\)", sources)) == set(rows)

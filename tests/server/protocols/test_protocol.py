"""Protocol: what is one. Any object with the same attributes can be served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tcp import ask, client
from treadle.server import Limits, Messages, Peer, Server, Session
from treadle.server._protocols.protocol import MEMBERS, Protocol, missing_from, phases_of
from treadle.server._transport.limits import Phase


class Numbers:
    """A protocol of one's own: whole messages are single bytes, and arrive as numbers."""

    name, greeting, speaks_first, converse = "numbers", b"", False, None
    held = 0

    def decoder(self, limits: Limits, peer: Peer) -> Numbers:
        return self

    def feed(self, data: bytes) -> Sequence[int]:
        return list(data)

    def finish(self) -> Sequence[int]:
        return ()

    def handle(self, message: int, peer: Peer) -> bytes:
        return b"%d " % message


def test_an_object_of_ones_own_is_served() -> None:
    with Server(Numbers(), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"ABC", 9) == b"65 66 67 "


def test_what_there_is_already_lacks_nothing() -> None:
    for protocol in (Numbers(), Messages(lambda data, peer: data), Session(lambda conn: None)):
        assert missing_from(protocol) == []
    assert missing_from(object()) == list(MEMBERS)


@pytest.mark.parametrize("page", ["server.md", "server.zh.md"])
def test_the_page_on_protocols_tells_what_one_has_and_may_have(page: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text[: text.index("class Parcels")], re.MULTILINE)[-2:]
    told = [set(re.findall(r"`(\w+)", " ".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))) for table in tables]
    may_have = set(re.findall(r"^ {4}(\w+)", inspect.getdoc(Protocol) or "", re.MULTILINE))
    assert told == [set(MEMBERS), may_have]


@pytest.mark.parametrize("name", MEMBERS)
def test_an_object_that_lacks_something_of_a_protocol_is_refused_and_told_what(name: str) -> None:
    """When the server is made, and not when the first client comes."""
    members = {other: getattr(Numbers(), other) for other in MEMBERS if other != name}
    with pytest.raises(TypeError, match=f"of your own that has {name} as well"):
        Server(type("Half", (), members)(), "127.0.0.1:0")


@pytest.mark.parametrize(
    ("phases", "error", "words"),
    [
        ([], TypeError, "phases=\\[\\] is list; allowed: a mapping"),
        ({"head": 3.0}, TypeError, "phases\\['head'\\]=3.0 is float; allowed: Phase"),
        ({"the head": Phase(3)}, ValueError, "phases has 'the head'; allowed: names that are identifiers"),
        ({3: Phase(3)}, ValueError, "phases has 3"),
    ],
)
def test_phases_that_are_none_are_refused_when_the_server_is_made(
    phases: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Server(type("Phased", (Numbers,), {"phases": phases})(), "127.0.0.1:0")


def test_phases_are_of_protocols_that_are_served_message_by_message() -> None:
    phased = {"phases": {"head": Phase(3)}}
    assert phases_of(type("Phased", (Numbers,), phased)()) == {"head": Phase(3)}
    assert phases_of(type("Phased", (Numbers,), {**phased, "converse": print})()) == {}
    assert phases_of(Numbers()) == phases_of(type("Phased", (Numbers,), {"phases": None})()) == {}

"""Protocol: what is one. Any object with the same attributes can be served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tcp import ask, client
from treadle.server import Limits, Messages, Peer, Protocol, Server, Session
from treadle.server._protocols.protocol import MAY_HAVE, MEMBERS, check, lacking, missing_from, phases_of
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


class Derived(Protocol):
    """Numbers again, of a class that says that it is a protocol; the name is of the object."""

    greeting, speaks_first, converse = b"", False, None

    def __init__(self, name: str) -> None:
        self.name = name

    def decoder(self, limits: Limits, peer: Peer) -> Numbers:
        return Numbers()

    def handle(self, message: int, peer: Peer) -> bytes:
        return b"%d " % message


def test_a_class_may_be_derived_from_protocol() -> None:
    with Server(Derived("derived"), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"ABC", 9) == b"65 66 67 "
        assert server.snapshot().name == "derived"


def test_a_class_that_is_derived_from_protocol_has_nothing_of_its_own_accord() -> None:
    class Half(Protocol):
        name = "half"

        def decoder(self, limits: Limits, peer: Peer) -> Numbers:
            return Numbers()

    with pytest.raises(TypeError, match=r"abstract.*handle"):
        Half()  # type: ignore[abstract]  # that is the point
    whole: Any = type("Quiet", (Half,), {"handle": Numbers.handle})
    with pytest.raises(TypeError, match="of your own that has converse, greeting, speaks_first as well"):
        Server(whole(), "127.0.0.1:0")


def test_what_there_is_already_lacks_nothing() -> None:
    for protocol in (Numbers(), Messages(lambda data, peer: data), Session(lambda conn: None)):
        assert missing_from(protocol) == []
    assert missing_from(object()) == list(MEMBERS)
    assert lacking(["name", "handle"]).endswith("an object of your own that has name, handle as well")


@pytest.mark.parametrize("page", ["server.md", "server.zh.md"])
def test_the_page_on_protocols_tells_what_one_has_and_may_have(page: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text[: text.index("class Parcels")], re.MULTILINE)[-2:]
    told = [set(re.findall(r"`(\w+)", " ".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))) for table in tables]
    doc, _, attributes = (inspect.getdoc(Protocol) or "").partition("Attributes:")
    may_have = set(re.findall(r"^ {4}(\w+)", doc, re.MULTILINE))
    assert told == [set(MEMBERS), may_have]
    assert set(re.findall(r"^ {4}(\w+):", attributes, re.MULTILINE)) == set(MEMBERS) - {"decoder", "handle"}
    for name, arguments in MAY_HAVE.items():
        assert f"    {name}({', '.join(arguments)})" in doc


@pytest.mark.parametrize("name", MEMBERS)
def test_an_object_that_lacks_something_of_a_protocol_is_refused_and_told_what(name: str) -> None:
    """When the server is made, and not when the first client comes."""
    members = {other: getattr(Numbers(), other) for other in MEMBERS if other != name}
    with pytest.raises(TypeError, match=f"of your own that has {name} as well"):
        Server(type("Half", (), members)(), "127.0.0.1:0")


@pytest.mark.parametrize("protocol", [Numbers, Messages, Derived])
def test_a_class_is_no_protocol(protocol: Any) -> None:
    with pytest.raises(TypeError, match=f"protocol=<class .* is a class; allowed: .* as in {protocol.__name__}"):
        Server(protocol, "127.0.0.1:0")


async def later(*arguments: Any) -> None: ...


def pieces(*arguments: Any) -> Iterator[bytes]:
    yield b""


ARGUMENTS = {"decoder": ("limits", "peer"), "handle": ("message", "peer"), **MAY_HAVE}


def has(name: str, value: object, **others: object) -> Any:
    """Return a protocol that has `value`."""
    protocol: Any = type("Having", (Numbers,), others)()
    setattr(protocol, name, value)
    return protocol


def takes(number: int) -> Callable[..., object]:
    """Return a function of so many arguments."""
    function: Callable[..., object] = eval(f"lambda {', '.join('abcd'[:number])}: None")
    return function


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_cannot_be_called_as_it_will_be_is_refused_when_the_server_is_made(name: str) -> None:
    called = f"and is called with \\({', '.join(ARGUMENTS[name])}\\); give it such arguments$"
    number = len(ARGUMENTS[name])
    for value, words in (
        (3, f"{name}=3 is int; {name} must be a callable"),
        (later, f"{name}=<function later at .* is a coroutine function; {name} must be an ordinary one"),
        (takes(number - 1), f"{name}=<function <lambda> at .* takes .*, {called}"),
        (takes(number + 1), called),
    ):
        with pytest.raises(TypeError, match=f"^{words}" if words is not called else words):
            Server(has(name, value), "127.0.0.1:0")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_can_be_called_so_or_does_not_say_is_taken(name: str) -> None:
    """What the parameters are called is nobody's business."""
    for value in (takes(len(ARGUMENTS[name])), lambda *all: None, max):
        check(has(name, value))
    if name in MAY_HAVE:
        check(has(name, None))


def test_only_a_handler_may_be_a_generator_function() -> None:
    check(has("handle", pieces))
    for name in ARGUMENTS.keys() - {"handle"}:
        with pytest.raises(TypeError, match=f"{name}=<function pieces at .* is a generator function"):
            check(has(name, pieces))


def test_of_a_protocol_that_converses_the_handler_is_not_called() -> None:
    check(has("handle", None, converse=staticmethod(lambda connection, limits: False)))
    with pytest.raises(TypeError, match=r"converse=.*, and is called with \(connection, limits\)"):
        check(has("converse", takes(1)))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("greeting", "hi", "greeting='hi' is str; allowed: bytes"), ("name", 3, "name=3 is int; allowed: a string")],
)
def test_what_a_protocol_says_of_itself_is_of_the_right_type(name: str, value: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Server(has(name, value), "127.0.0.1:0")


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

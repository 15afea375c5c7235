"""Messages and CloseConnection: what they take. What they do is in test_server.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tcp import ask, client
from treadle.server import Limits, Lines, Messages, Peer, Raw, Server


def handle(data: bytes, peer: Peer) -> bytes:
    return data


def test_the_default_framing_is_raw() -> None:
    assert isinstance(Messages(handle).framing, Raw)
    assert repr(Messages(handle, Lines())) == "Messages(handle, Lines())"


def test_messages_are_limited_by_the_servers_limits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        decoder = Messages(handle, Lines()).decoder(Limits(max_message=3), Peer("", ours))
    assert decoder.feed(b"abc\nabcd") == [b"abc"]


async def answer_later(data: bytes, peer: Peer) -> bytes:
    return data


def stream(data: bytes, peer: Peer) -> Iterator[bytes]:
    yield data


class Shout:
    def __init__(self, data: bytes, peer: Peer) -> None:
        """Take a message."""

    def __call__(self, data: bytes, peer: Peer) -> bytes:
        return data.upper()


class Text(bytes):
    def __new__(cls, data: bytes, peer: Peer) -> Text:
        return super().__new__(cls, data)


def test_whatever_may_be_called_with_a_message_and_a_peer_is_a_handler() -> None:
    for handler in (Shout(b"", None), Shout(b"", None).__call__, Text, lambda *all: None):  # type: ignore[arg-type]  # no peer is asked for
        Messages(handler)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((3,), {}, "handler=3 is int; handler must be a callable"),
        (
            (answer_later,),
            {},
            "handler=<function answer_later at .*> is a coroutine function; handler must be",
        ),
        ((handle, "lines"), {}, "framing='lines' is no framing; allowed: an object like Raw"),
        ((handle, Lines), {}, "framing=.* is no framing"),
        ((handle,), {"greeting": "hi"}, "greeting='hi' is str; allowed: bytes"),
        ((handle,), {"kind": "GET"}, "kind='GET' is str; kind must be"),
        ((handle,), {"instant": "GET"}, "instant='GET' is str; instant must be"),
        ((handle,), {"key": answer_later}, "key=.* is a coroutine function"),
        *[
            ((handle,), {name: handle}, rf"{name}=<function handle.* takes .*, and is called with \(message\)")
            for name in ("kind", "instant", "key")
        ],
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], options: dict[str, object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Messages(*arguments, **options)  # type: ignore[call-overload]


def test_a_generator_function_is_a_handler_whose_pieces_are_the_answer() -> None:
    def pieces(line: bytes, peer: Peer) -> Iterator[bytes]:
        yield line
        yield b" again\n"

    with Server(Messages(pieces, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"once\n", 11) == b"once again\n"

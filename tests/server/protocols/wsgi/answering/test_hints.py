"""Hints: what is sent ahead of an answer, and what is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from browsers import browsing
from treadle.server._protocols.wsgi.answering.hints import Hints, no_hints
from treadle.server._protocols.wsgi.answering.names import Names
from treadle.server._transport.peer import Peer, foretell


class Outlook:
    """Keeps what is sent ahead."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []

    def is_near(self) -> bool:
        return False

    def is_stopping(self) -> bool:
        return False

    def send_ahead(self, fd: int, data: bytes, *, whole: bool) -> None:
        self.sent.append((data, whole))

    def open_answer(self, fd: int) -> Any:
        raise AssertionError("no answer begins with hints")


@pytest.fixture
def outlook() -> Outlook:
    return Outlook()


@pytest.fixture
def peer(outlook: Outlook) -> Iterator[Peer]:
    with socket.socket() as sock:
        peer = Peer(("127.0.0.1", 5000), sock)
        foretell(peer, outlook)
        yield peer


def test_hints_go_ahead_as_an_interim_answer(peer: Peer, outlook: Outlook) -> None:
    hints = Hints(peer, Names())
    hints([("Link", "</a.css>; rel=preload"), ("link", "</b.js>")])
    hints(iter([("Link", "</c>")]))
    hints([])
    assert outlook.sent == [
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>\r\n\r\n", False),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </c>\r\n\r\n", False),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", False),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [("Link", "</a>"), ("Link", "</b>\r\nSet-Cookie: a=b")],
        [("Link", "\u0100")],
        [("Li nk", "a")],
        [("Connection", "close")],
        [("Link", b"a")],
        [("Link",)],
        ["Link: a"],
        None,
    ],
)
def test_nothing_is_sent_of_hints_that_are_not_what_wsgi_wants(peer: Peer, outlook: Outlook, headers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Hints(peer, Names())(headers)
    assert outlook.sent == []


def test_hints_to_nobody_are_nothing() -> None:
    with socket.socket() as sock:
        Hints(Peer("", sock), Names())([("Link", "</a>")])


def test_old_client_gets_no_hints() -> None:
    no_hints([("Link", "</a>")])


def test_hints_behind_the_beginning_of_an_answer_are_an_error_and_not_in_the_next_ones_place() -> None:
    raised: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        try:
            environ["wsgi.early_hints"]([("Link", "</a>")])
        except RuntimeError as error:
            raised.append(error)
        yield b"last"

    with browsing(app) as browser:
        for _ in range(2):
            assert browser.ask("GET", "/").body == b"firstlast"
    assert [str(error) for error in raised] == ["the answer has begun; nothing can be sent ahead of it"] * 2

"""ConnectionFactory: what becomes of a socket that was accepted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from treadle._base.log_throttle import LogThrottles
from treadle.server import Decoder, Limits, Lines, Messages, Peer
from treadle.server._factory import ConnectionFactory
from treadle.server._transport.causes import NO_HANDSHAKE

ADDRESS = ("192.0.2.1", 5)


class Wrong:
    """A framing that makes no decoder."""

    def decoder(self, limit: int) -> Any:
        return "no decoder"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def factory(framing: Any, failures: list[tuple[Any, str]]) -> ConnectionFactory:
    protocol = Messages(lambda line, peer: line, framing)
    return ConnectionFactory(
        protocol, Limits(), None, LogThrottles(), lambda address, why: failures.append((address, why))
    )


def test_a_socket_becomes_a_connection_that_does_not_block(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    conn = factory(Lines(), []).make(ours, ADDRESS)
    assert conn is not None
    assert conn.sock is ours
    assert conn.peer.address == ADDRESS
    assert ours.gettimeout() == 0.0
    assert not conn.secure


def test_a_decoder_is_made_with_the_peer_that_the_handler_is_given(ends: tuple[socket.socket, socket.socket]) -> None:
    """With TLS one that knows the socket of TLS, for what was agreed on is asked of that."""
    ours, _ = ends
    known: list[Peer] = []

    class Knowing(Messages[bytes]):
        def decoder(self, limits: Limits, peer: Peer) -> Decoder[bytes]:
            known.append(peer)
            return super().decoder(limits, peer)

    made = ConnectionFactory(Knowing(lambda line, peer: line), Limits(), None, LogThrottles(), lambda *_: None)
    made.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    conn = made.make(ours, ADDRESS)
    assert conn is not None
    with conn.sock:
        assert known == [conn.peer]
        assert known[0].alpn is None


def test_a_framing_that_fails_closes_its_client_and_is_told(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = ends
    failures: list[tuple[Any, str]] = []
    assert factory(Wrong(), failures).make(ours, ADDRESS) is None
    assert failures == [(ADDRESS, "framing")]
    assert theirs.recv(1) == b""
    assert "decoder() returned str; allowed: an object with feed" in caplog.text


def test_a_context_that_cannot_wrap_closes_the_client_as_a_failed_handshake(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = ends
    failures: list[tuple[Any, str]] = []
    made = factory(Lines(), failures)
    made.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which wants the name of a server
    assert made.make(ours, ADDRESS) is None
    assert failures == [(ADDRESS, NO_HANDSHAKE)]
    assert theirs.recv(1) == b""
    assert "TLS fails before the handshake" in caplog.text


def test_a_client_that_left_before_is_closed_by_what_the_system_says(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, _ = ends
    failures: list[tuple[Any, str]] = []
    ours.close()
    assert factory(Lines(), failures).make(ours, ADDRESS) is None
    assert failures == [(ADDRESS, "Bad file descriptor")]
    assert not caplog.records

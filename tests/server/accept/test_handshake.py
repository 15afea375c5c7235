"""One step of a handshake: what it waits for, and what failures have in common."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from certificates import Authority
from socketservers import secure_context
from treadle.server._accept.handshake import reason_of, shake_hands
from treadle.server._loop.poller import READ, WRITE


@contextmanager
def halves(authority: Authority) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Give a server's socket, and its client's, that have not shaken hands; neither blocks."""
    mine, other = socket.socketpair()
    mine.setblocking(False)
    other.setblocking(False)
    with mine, other:
        served = secure_context(authority).wrap_socket(mine, server_side=True, do_handshake_on_connect=False)
        client = authority.client_context().wrap_socket(
            other, server_hostname="127.0.0.1", do_handshake_on_connect=False
        )
        with served, client:
            yield served, client


def test_it_waits_for_the_client_step_by_step_until_it_is_done(authority: Authority) -> None:
    with halves(authority) as (served, client):
        assert shake_hands(served) == READ
        assert shake_hands(client) == READ  # it has said hello
        assert shake_hands(served) == READ
        assert shake_hands(client) == 0
        assert shake_hands(served) == 0


@pytest.mark.parametrize(
    ("error", "wants"), [(ssl.SSLWantReadError(), READ), (BlockingIOError(), READ), (ssl.SSLWantWriteError(), WRITE)]
)
def test_it_says_what_it_waits_for(error: OSError, wants: int) -> None:
    class Blocked:
        def do_handshake(self) -> None:
            raise error

    blocked: Any = Blocked()
    assert shake_hands(blocked) == wants


def test_a_failure_is_raised_and_like_ones_have_their_reason_in_common(authority: Authority) -> None:
    reasons = []
    for hello in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /other HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x02\x01\x00" + b"x" * 50,
    ):
        with halves(authority) as (served, client):
            socket.socket.send(client, hello)
            with pytest.raises(ssl.SSLError) as caught:
                shake_hands(served)
            reasons.append(reason_of(caught.value))
    assert reasons[0] == reasons[1] != reasons[2]
    assert reason_of(ConnectionResetError(errno.ECONNRESET, "")) == (
        "ConnectionResetError",
        errno.ECONNRESET,
        None,
        None,
    )

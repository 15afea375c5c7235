"""ServerSnapshot: what a server shows of itself, at each stage."""

from __future__ import annotations

import dataclasses

import pytest

from tcp import ask, client
from treadle.server import Messages, Server


def echo(data: bytes, peer: object) -> bytes:
    return data


def test_before_during_and_after() -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=3)
    before = server.snapshot()
    assert (before.state, before.address, before.messages, before.pool.max_workers) == ("new", "", 0, 3)
    with server, client(server) as sock:
        ask(sock, b"x")
        during = server.snapshot()
        assert (during.state, during.address, during.connections) == ("serving", server.address, 1)
    after = server.snapshot()
    assert (after.state, after.connections, after.closed, after.messages) == ("stopped", 0, 1, 1)
    assert after.pool.closed


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Server(Messages(echo), pool=None).snapshot().messages = 3  # type: ignore[misc]

"""Eviction: who has to leave for a newcomer."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tcp import PATIENCE, ask, client, driver_of, receive_all
from treadle.server import Limits, Messages, Server
from treadle.server import _group as groups
from treadle.server._transport.connection import ClientConnection


def test_the_longest_idle_are_evicted_first_and_a_search_serves_several() -> None:
    limits = Limits(max_connections=100, at_max_connections="evict_idle")
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with ExitStack() as stack:
            socks = [stack.enter_context(client(server)) for _ in range(100)]
            for sock in socks:
                assert ask(sock, b"x") == b"x"
            for sock in socks[10:]:
                assert ask(sock, b"x") == b"x"
            for _ in range(10):
                assert ask(stack.enter_context(client(server)), b"y") == b"y"
            assert [receive_all(sock) for sock in socks[:10]] == [b""] * 10
            for sock in socks[10:]:
                assert ask(sock, b"x") == b"x"
            assert server.snapshot().closed_by == {"evicted": 10}


def test_when_nobody_is_idle_the_new_one_is_refused() -> None:
    limits = Limits(max_connections=2, at_max_connections="evict_idle", reject_connections_with=b"busy")
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as one, client(server) as two:
            assert ask(one, b"x") == b"x"
            assert ask(two, b"x") == b"x"
            for conn in driver_of(server).io.connections():
                conn.intake.held = 1  # in mid-message
            with client(server) as three:
                assert receive_all(three) == b"busy"
            for conn in driver_of(server).io.connections():
                conn.intake.held = 0


def test_the_longest_idle_of_all_loops_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of a loop that does not accept: its own leader closes it, and only then the newcomer is let in."""
    monkeypatch.setattr(groups, "_loops_wanted", lambda dispatcher: 3)
    limits = Limits(max_connections=6, at_max_connections="evict_idle")
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=6, limits=limits) as server:
        with ExitStack() as stack:
            socks = [stack.enter_context(client(server)) for _ in range(6)]
            for sock in socks:
                assert ask(sock, b"x") == b"x"
            for evicted in range(6):
                assert ask(stack.enter_context(client(server)), b"y") == b"y"
                assert receive_all(socks[evicted]) == b""
            assert server.snapshot().closed_by == {"evicted": 6}
            assert server.snapshot().rejected_connections == 0


def test_where_all_have_something_in_the_kernel_the_new_one_is_refused_however_many_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Event loops ask one another for the longest idle; nobody is asked about twice."""
    monkeypatch.setattr(groups, "_loops_wanted", lambda dispatcher: 3)
    limits = Limits(max_connections=6, at_max_connections="evict_idle", reject_connections_with=b"busy")
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=6, limits=limits) as server:
        with ExitStack() as stack:
            for _ in range(6):
                assert ask(stack.enter_context(client(server)), b"x") == b"x"
            monkeypatch.setattr(ClientConnection, "is_silent", lambda conn: False)
            assert receive_all(stack.enter_context(client(server))) == b"busy"


def test_nobody_is_evicted_for_a_client_that_may_not_come_in_anyway() -> None:
    limits = Limits(
        max_connections=2, max_connections_per_host=1, at_max_connections="evict_idle", reject_connections_with=b"no"
    )
    with Server(Messages(lambda data, peer: data), "0.0.0.0:0", max_workers=1, limits=limits) as server:
        port = server.address[1]
        with client(server, to=("127.0.0.1", port)) as innocent:
            assert ask(innocent, b"x") == b"x"
            with socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.2", 0)) as other:
                assert ask(other, b"x") == b"x"
                with socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.2", 0)) as again:
                    assert receive_all(again) == b"no"
                assert ask(innocent, b"x") == b"x"

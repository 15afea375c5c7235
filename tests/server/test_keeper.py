"""Keeper: who has to leave, and in which order. The deadlines themselves are in test_deadlines.py."""

from __future__ import annotations

from contextlib import ExitStack

from tcp import ask, client, lane_of, receive_all
from treadle.server import Limits, Messages, Server


def test_the_longest_idle_are_evicted_first_and_a_search_serves_several() -> None:
    limits = Limits(max_connections=100, when_full="evict_idle")
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
    limits = Limits(max_connections=2, when_full="evict_idle", rejection=b"busy")
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as one, client(server) as two:
            assert ask(one, b"x") == b"x"
            assert ask(two, b"x") == b"x"
            for conn in lane_of(server).connections():
                conn.begun = 1e18  # in mid-message
            with client(server) as three:
                assert receive_all(three) == b"busy"
            for conn in lane_of(server).connections():
                conn.begun = 0.0

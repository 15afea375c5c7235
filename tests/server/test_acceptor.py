"""Acceptor: what the system may do to it. How clients are counted is in test_gate.py."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, lane_of
from treadle.server import Limits, Messages, Server
from treadle.server.acceptor import FIRST_PAUSE, LONGEST_PAUSE
from treadle.server.listen import Listener


class Scripted(socket.socket):
    """A listener whose accept fails as told before it does what it should."""

    def __init__(self, *failures: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.accepts = 0
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


def serving(sock: Scripted, **limits: object) -> Server:
    protocol = Messages(lambda data, peer: data)
    return Server(protocol, [Listener(sock, inherited=False)], max_workers=1, limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_rule_5_when_the_system_is_out_of_something_it_pauses_says_so_once_and_goes_on(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Scripted(number, number, number, number)
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert listener.accepts < 20, "it spins"
        assert not listener.failures
    assert caplog.text.count("cannot accept") == 1


def test_rule_5_pauses_grow_to_a_second_and_begin_anew_after_a_success() -> None:
    listener = Scripted()
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert server._fleet is not None
        (acceptor,) = server._fleet.acceptors
        pauses = []

        def fail() -> None:
            for _ in range(7):
                pauses.append(acceptor.pause)
                acceptor.out_of_it(OSError(errno.ENOBUFS, "scripted"))
            acceptor.resume()

        lane_of(server).post(fail)
        with client(server) as other:
            assert ask(other, b"y") == b"y"
        assert pauses == [FIRST_PAUSE, 0.1, 0.2, 0.4, 0.8, LONGEST_PAUSE, LONGEST_PAUSE]
        assert acceptor.pause == FIRST_PAUSE


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT])
def test_rule_5_a_client_that_left_while_it_waited_is_passed_over(number: int) -> None:
    listener = Scripted(number, number)
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert listener.accepts >= 3


def test_rule_5_it_resumes_at_once_when_a_connection_leaves() -> None:
    listener = Scripted()
    with serving(listener) as server:
        assert server._fleet is not None
        (acceptor,) = server._fleet.acceptors
        with client(server) as first:
            assert ask(first, b"x") == b"x"
            acceptor.pause = 3600.0
            listener.failures = [errno.ENOMEM]
            with client(server) as second:
                while listener.failures:
                    assert ask(first, b"x") == b"x"
                first.close()
                assert ask(second, b"y") == b"y"


def test_rule_5_the_reserve_lets_a_client_know_that_there_is_no_place() -> None:
    listener = Scripted()
    with serving(listener) as server, client(server) as first:
        assert ask(first, b"x") == b"x"
        assert server._fleet is not None
        (acceptor,) = server._fleet.acceptors
        assert acceptor.reserve >= 0
        listener.failures = [errno.EMFILE]
        with client(server) as second:
            assert second.recv(1) == b""
        settled = threading.Event()
        lane_of(server).post(settled.set)  # after what the leader is about
        assert settled.wait(PATIENCE)
        assert acceptor.reserve >= 0
        assert server.snapshot().refused == 1


def test_several_are_accepted_in_one_turn() -> None:
    listener = Scripted()
    with serving(listener) as server:
        socks = [socket.create_connection(listener.getsockname()) for _ in range(40)]
        for sock in socks:
            with sock:
                assert ask(sock, b"x") == b"x"
        assert server.snapshot().accepted == 40

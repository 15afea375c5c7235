"""Request: what comes of one that waits, and how one ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from socketservers import ANYWHERE, TCP, Echo, manager_of
from treadle._base import clock
from treadle.server._loop.poller import READ
from treadle.server._socketserver.request import Request

# -- the end ------------------------------------------------------------------------------------------------------


def test_cut_shows_the_client_as_gone_unless_the_owner_is_closing_it() -> None:
    """By then its descriptor may be another's."""
    mine, other = socket.socketpair()
    with mine, other, TCP(ANYWHERE, Echo) as server:
        request = Request(manager_of(server), server, mine, None, polled=True)
        request.ending = True
        request.cut()
        mine.sendall(b"x")
        assert other.recv(1) == b"x"
        request.ending = False
        request.cut()
        assert mine.recv(1) == other.recv(1) == b""


# -- waiting ------------------------------------------------------------------------------------------------------


class Managed:
    """Notes what a request asks of its manager, which does nothing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.server: Any = TCP(ANYWHERE, Echo)

    def stop_waiting(self, request: Request) -> None:
        self.asked.append("stop waiting")

    def give_back(self, request: Request) -> None:
        self.asked.append("give back")

    def hand_over(self, request: Request) -> None:
        self.asked.append("hand over")

    def forget(self, request: Request) -> None:
        self.asked.append("forget")

    def tell_failed_handshake(self, request: Request, error: OSError) -> None:
        self.asked.append(f"tell {error}")


@pytest.fixture
def manager() -> Iterator[Managed]:
    manager = Managed()
    with manager.server:
        yield manager


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, other = socket.socketpair()
    with mine, other:
        yield mine, other


Ends = tuple[socket.socket, socket.socket]


def waiting(manager: Managed, sock: socket.socket) -> Request:
    request = Request(manager, manager.server, sock, None, polled=True)
    assert request.waits()
    request.fd = request.fileno()
    return request


def test_a_client_that_was_on_time_is_served_though_nobody_has_looked(manager: Managed, ends: Ends) -> None:
    request = waiting(manager, ends[0])
    ends[1].send(b"x")
    request.attend(0)
    assert manager.asked == ["stop waiting", "hand over"]
    assert request.wants == READ


def test_a_client_that_is_late_is_closed(manager: Managed, ends: Ends) -> None:
    waiting(manager, ends[0]).attend(0)
    assert manager.asked == ["stop waiting", "forget"]
    assert ends[1].recv(1) == b""


def test_a_late_clients_handler_says_farewell_on_a_thread(manager: Managed, ends: Ends) -> None:
    request = waiting(manager, ends[0])
    request.conversation.handler = SimpleNamespace(connection=ends[0])
    request.attend(0)
    assert manager.asked == ["stop waiting", "hand over"]
    assert request.wants == 0


def test_in_a_forked_child_nothing_comes_of_it(manager: Managed, ends: Ends) -> None:
    request = waiting(manager, ends[0])
    request.orphaned = True
    request.attend(READ)
    assert manager.asked == []


def test_patience_ends_with_what_it_waits_for(manager: Managed, ends: Ends) -> None:
    request = waiting(manager, ends[0])
    manager.server.idle_timeout = 5.0
    assert 0 < request.patience_ends() - clock.now() <= 5.0
    request.conversation.head_by = 7.0
    assert request.patience_ends() == 7.0
    request.conversation.head_by = manager.server.idle_timeout = None
    assert request.patience_ends() == inf


def test_a_datagram_has_nothing_to_wait_for(manager: Managed, ends: Ends) -> None:
    request = Request(manager, manager.server, (b"x", ends[0]), None, polled=True)
    assert request.fileno() == -1
    assert not request.waits()
    assert not request.converses()

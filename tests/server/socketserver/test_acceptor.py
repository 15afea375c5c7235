"""RequestAcceptor: what happens when the system is out of something, and to listeners that somebody broke."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from socketservers import (
    ANYWHERE,
    PATIENCE,
    TCP,
    UDP,
    Echo,
    connect,
    manager_of,
    serving,
    until,
)
from tcp import ask, receive_all
from treadle._base import clock
from treadle._base.log_throttle import LogThrottles
from treadle.server._accept.backoff import FIRST_PAUSE, LONGEST_PAUSE
from treadle.server._loop.event_loop import EventLoop
from treadle.server._loop.poller import READ
from treadle.server._socketserver.acceptor import RequestAcceptor
from treadle.server._socketserver.mixin import PoolMixIn

UNKNOWN = [errno.EINVAL, errno.EBADF, errno.EIO]  # while the listener is as it should be


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, *UNKNOWN])
def test_out_of_something_it_pauses_ever_longer_and_says_so_once(number: int, caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        def __init__(self) -> None:
            super().__init__(ANYWHERE, Echo)
            self.tries: list[float] = []

        def get_request(self) -> Any:
            self.tries.append(clock.now())
            if len(self.tries) <= 3:
                raise OSError(number, os.strerror(number))
            return super().get_request()

    with caplog.at_level(logging.INFO, "treadle.server"):
        with serving(Server()) as server, connect(server) as sock:
            assert ask(sock, b"x\n") == b"x\n"
            gaps = [later - sooner for sooner, later in pairwise(server.tries)]
            assert [gap >= FIRST_PAUSE * 2**number for number, gap in enumerate(gaps)] == [True] * 3
            assert manager_of(server).acceptor.backoff.pause == FIRST_PAUSE  # for the next time
    assert [(record.levelname, os.strerror(number) in record.message) for record in caplog.records] == [("ERROR", True)]


def test_pauses_end_with_the_longest_and_when_a_client_leaves() -> None:
    class Server(TCP):
        out = False

        def get_request(self) -> Any:
            if self.out:
                self.out = False
                manager_of(self).acceptor.backoff.pause = 3600.0  # longer than any test
                raise OSError(errno.EMFILE, "Too many open files")
            return super().get_request()

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as first:
        assert ask(first, b"x\n") == b"x\n"
        server.out = True
        with connect(server) as second:
            until(lambda: manager_of(server).acceptor.resume_at > clock.now() + 1800)
            assert manager_of(server).acceptor.backoff.pause == LONGEST_PAUSE
            first.close()
            assert ask(second, b"y\n") == b"y\n"


# -- listeners that somebody broke --------------------------------------------------------------------------------


class UNIX(PoolMixIn, socketserver.UnixStreamServer):
    pass


BREAKS: dict[str, Callable[[socket.socket], object]] = {
    "shut down": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "closed": lambda sock: sock.close(),
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("kind", [TCP, UDP, UNIX])
def test_a_broken_listener_is_told_of_once_and_watched_no_more(
    kind: Any, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(kind):  # type: ignore[misc]
        tries = 0
        turns = 0

        def get_request(self) -> Any:
            self.tries += 1
            return super().get_request()

        def service_actions(self) -> None:
            self.turns += 1

        def verify_request(self, request: Any, client_address: Any) -> bool:
            assert client_address is not None
            return True

    server = Server(str(tmp_path / "socket") if kind is UNIX else ANYWHERE, Echo)
    with serving(server, poll_interval=0.01):
        until(lambda: server.turns)
        with suppress(OSError):  # of datagrams it fails, and is done nevertheless
            BREAKS[how](server.socket)
        until(lambda: manager_of(server).acceptor.deaf)
        turns = server.turns
        until(lambda: server.turns > turns + 3)
        assert server.tries <= 2
    told = [(record.levelname, "nobody is let in any more" in record.message) for record in caplog.records]
    assert told == [("ERROR", True)]


def test_whoever_is_in_when_the_listener_breaks_is_served_on() -> None:
    with serving(TCP(ANYWHERE, Echo), poll_interval=0.01) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        server.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: manager_of(server).acceptor.deaf)
        assert ask(sock, b"y\n") == b"y\n"


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError(errno.EPROTO, ""), OSError("mine")])
def test_an_error_of_one_client_makes_no_other_wait(error: OSError, caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        failures = 3

        def get_request(self) -> Any:
            request, address = super().get_request()
            if self.failures:
                self.failures -= 1
                request.close()
                raise error
            return request, address

    with serving(Server(ANYWHERE, Echo)) as server:
        for _ in range(3):
            with connect(server) as sock:
                assert receive_all(sock) == b""
        assert manager_of(server).acceptor.resume_at == 0.0
        with connect(server) as sock:
            assert ask(sock, b"x\n") == b"x\n"
    assert not caplog.records


def test_handle_request_pauses_as_well() -> None:
    tries: list[float] = []

    class Server(TCP):
        def get_request(self) -> Any:
            tries.append(clock.now())
            raise OSError(errno.EMFILE, "Too many open files")

    with Server(ANYWHERE, Echo) as server, connect(server):
        for _ in range(3):
            server.handle_request()
    assert [later - sooner >= FIRST_PAUSE for sooner, later in pairwise(tries)] == [True] * 2


def test_a_client_that_left_before_it_was_accepted_harms_nobody() -> None:
    class Server(TCP):
        failures = 2

        def get_request(self) -> Any:
            self.failures -= 1
            if self.failures >= 0:
                raise ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
            return super().get_request()

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"


# -- watching -----------------------------------------------------------------------------------------------------


class Door:
    """A listener, an acceptor of it that lets nobody in, and a loop."""

    def __init__(self) -> None:
        self.sock = socket.create_server(ANYWHERE)
        self.loop = EventLoop("door")
        self.acceptor = RequestAcceptor(self.sock, "door", LogThrottles(), lambda: None)

    def watch(self, *, room: bool = True) -> float:
        return self.acceptor.watch(self.loop, lambda: room)

    def turn(self) -> bool:
        self.loop.turn(clock.now())
        return self.acceptor.knocked


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    with door.sock:
        yield door
    door.loop.close()


def test_the_listener_is_polled_only_while_it_is_watched(door: Door) -> None:
    with socket.create_connection(door.sock.getsockname(), PATIENCE):
        assert not door.turn()
        for _ in range(2):
            assert door.watch() == inf
        assert door.turn()
        assert door.watch(room=False) == inf
        assert not door.turn()  # nor does it remember
        door.watch()
        for _ in range(2):
            door.acceptor.unwatch(door.loop)
        assert not door.turn()
        assert door.loop.is_empty()


def test_during_a_pause_it_is_not_watched_and_looked_at_when_that_ends(door: Door) -> None:
    door.watch()
    door.acceptor.pause(OSError(errno.EMFILE, "scripted"))
    assert clock.now() < door.watch() == door.acceptor.resume_at <= clock.now() + FIRST_PAUSE
    assert door.loop.is_empty()
    assert door.acceptor.resume()
    assert not door.acceptor.resume()
    assert door.watch() == inf
    assert not door.loop.is_empty()


def test_a_clients_descriptor_that_was_the_listeners_is_the_clients(door: Door) -> None:
    """Somebody has closed the listener behind its back, and the kernel gave the number anew."""
    number = door.sock.fileno()
    door.watch()
    mine, other = socket.socketpair()
    door.sock.close()
    os.dup2(mine.fileno(), number)
    attended: list[int] = []
    with mine, other, socket.socket(fileno=number):
        door.loop.add(number, SimpleNamespace(attend=attended.append), READ)
        other.send(b"x")
        assert not door.turn()
        door.acceptor.unwatch(door.loop)
        assert not door.turn()
        assert attended == [READ, READ]

"""EventLoop: what was posted, and its waker."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, driver_of
from treadle.errors import MessageTooLong
from treadle.server import (
    Lines,
    Messages,
    Server,
)

RESET = struct.pack("ii", 1, 0)


def settled(server: Server) -> None:
    """Wait until the leader has done what it was about."""
    done = threading.Event()
    driver_of(server).loop.post(done.set)
    assert done.wait(PATIENCE)


class Words:
    """A framing of a test's own, which ends at a word that it does not like, in one of several ways."""

    held = 0

    def __init__(self, error: BaseException, way: str) -> None:
        self.error = error
        self.way = way
        self.bad = False

    def decoder(self, limit: int) -> Words:
        return Words(self.error, self.way)

    def words(self, data: bytes) -> Iterator[bytes]:
        for word in data.split():
            if word == b"bad":
                raise self.error
            yield word

    def feed(self, data: bytes) -> Any:
        if self.way == "iterating":
            return self.words(data)
        if self.bad:
            raise self.error
        before, bad, _ = data.partition(b"bad")
        self.bad = bool(bad)
        if self.bad and self.way == "at once" and not before.split():
            raise self.error
        return before.split()

    def finish(self) -> list[bytes]:
        if self.bad:
            raise self.error
        return []


class Numbers:
    """Words that are numbers; one of more than `limit` digits is too long."""

    held = 0

    def __repr__(self) -> str:
        return "Numbers()"

    def decoder(self, limit: int) -> Numbers:
        self.limit = limit
        return self

    def feed(self, data: bytes) -> Iterator[bytes]:
        for word in data.split():
            if len(word) > self.limit:
                raise MessageTooLong(self.limit)
            yield word

    def finish(self) -> list[bytes]:
        return []


def fail(*args: object) -> bool:
    raise RuntimeError("a fault of ours")


def test_a_fault_in_what_was_posted_keeps_nobody_from_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1) as server:
        driver_of(server).loop.inbox.append(fail)
        settled(server)
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize("end", ["reader", "writer"])
def test_a_waker_that_somebody_shut_down_is_replaced_and_the_server_stops_as_ever(end: str) -> None:
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        poller = driver_of(server).loop.poller
        broken = poller.waker
        getattr(broken, end).shutdown(socket.SHUT_RDWR)
        until(lambda: poller.waker is not broken)
        assert ask(sock, b"y") == b"y"
        sock.close()
        assert server.stop(PATIENCE) == 0

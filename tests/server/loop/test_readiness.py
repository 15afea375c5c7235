"""Readiness: what a descriptor is ready for now, and whether a listener is none any more."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

import pytest

from treadle.server._loop.poller import READ, WRITE
from treadle.server._loop.readiness import has_ended, ready_now

ANYWHERE = ("127.0.0.1", 0)


@pytest.mark.parametrize("can_poll", [True, False])
def test_a_look_tells_what_a_descriptor_is_ready_for(can_poll: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.server._loop.readiness.CAN_POLL", can_poll and hasattr(select, "poll"))
    mine, other = socket.socketpair()
    with mine, other:
        mine.setblocking(False)
        assert ready_now(mine.fileno(), READ) == 0
        assert ready_now(mine.fileno(), WRITE) == WRITE
        with suppress(BlockingIOError):
            while True:
                mine.send(b"x" * 65536)
        assert ready_now(mine.fileno(), WRITE) == 0
        other.close()
        assert ready_now(mine.fileno(), READ) == READ  # an end is something to read


@pytest.mark.skipif(not hasattr(select, "poll"), reason="without poll() nobody can tell")
def test_a_listener_has_ended_when_it_is_closed_or_shut_down() -> None:
    for listener in (socket.create_server(ANYWHERE), socket.socket(type=socket.SOCK_DGRAM)):
        with listener:
            if listener.type == socket.SOCK_DGRAM:
                listener.bind(ANYWHERE)
            assert not has_ended(listener.fileno())
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                assert listener.type == socket.SOCK_DGRAM  # it is nevertheless
            assert has_ended(listener.fileno())
            number = listener.fileno()
        assert has_ended(number)
    assert has_ended(-1)

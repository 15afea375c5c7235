"""Stopping on signals: heard at once, and only while the block lasts."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from treadle.cli.signals import stop_on_signals


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(10)
        writer.setblocking(False)
        yield reader, writer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_calls_stop_and_wakes_the_selector(
    number: signal.Signals, ends: tuple[socket.socket, socket.socket]
) -> None:
    reader, writer = ends
    calls = []
    with stop_on_signals(lambda: calls.append(number), writer.fileno()):
        os.kill(os.getpid(), number)
        assert reader.recv(10) == bytes([number])
    assert calls == [number]


def test_handlers_and_descriptor_are_put_back(ends: tuple[socket.socket, socket.socket]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_on_signals(lambda: None, ends[1].fileno()):
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    old = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(old)
    assert old != ends[1].fileno()

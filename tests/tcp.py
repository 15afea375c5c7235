"""Clients of a server under test, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from treadle.server import Server
from treadle.server._serving.driver import Lane, Lead

PATIENCE = 30.0  # seconds after which a test that waits for the other side has failed


@contextmanager
def client(server: Server, *, to: Any = None) -> Iterator[socket.socket]:
    """Connect to `server`, at an address that the socket module gives, its first by default.

    A thread of the pool that is on its way to lead is waited for: what came before it would be the watchdog's to read,
    who runs no handler, and whom nobody deposes.
    """
    if server._fleet is not None:  # else the server is other processes, or is no more
        for lane in server._fleet.lanes:
            until_led(lane)
    with socket.create_connection((to or server.address)[:2], PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def lane_of(server: Server) -> Lane:
    """Return the first lane of a server that was started."""
    assert server._fleet is not None
    return server._fleet.lanes[0]


def until_led(lane: Lane) -> None:
    """Wait until somebody leads `lane` for good: a thread of the pool, or, if all are taken, the watchdog."""
    deadline = monotonic() + PATIENCE
    while not _is_led(lane):
        assert monotonic() < deadline, f"nobody comes to lead {lane.name}"
        sleep(0.001)  # why: the lead changes hands without telling anybody


def _is_led(lane: Lane) -> bool:
    dispatcher, workers = lane.dispatcher, lane.dispatcher.workers
    idle = dispatcher.entrance.idle
    with dispatcher.lock:
        if lane.lead is not None or lane.over or dispatcher.closed is not None or dispatcher.broken is not None:
            return True
        offered = any(isinstance(task, Lead) and task.lane is lane for task in workers.idle_tasks.waiting)
        return offered and all(worker.task is not None or worker in idle for worker in workers.present)


def receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes, or what came before the end."""
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return bytes(data)


def receive_all(sock: socket.socket) -> bytes:
    """Return everything up to the end; a reset is an end, too."""
    data = bytearray()
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


def ask(sock: socket.socket, message: bytes, answer: int | None = None) -> bytes:
    """Send a message and return the answer, by default as long as the message."""
    sock.sendall(message)
    return receive(sock, len(message) if answer is None else answer)

"""Clients of a server under test, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from treadle.server import Server
from treadle.server._serving.driver import Driver
from treadle.server._serving.leadership import Lead

PATIENCE = 30.0  # seconds after which a test that waits for the other side has failed


@contextmanager
def client(server: Server, *, to: Any = None) -> Iterator[socket.socket]:
    """Connect to `server`, at an address that the socket module gives, its first by default.

    A thread of the pool that is on its way to lead is waited for: what came before it would be the watchdog's to read,
    who runs no handler, and whom nobody takes the lead from.
    """
    if server._group is not None:  # else the server is other processes, or is no more
        for driver in server._group.drivers:
            until_led(driver)
    with socket.create_connection((to or server.address)[:2], PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def driver_of(server: Server) -> Driver:
    """Return the first event loop's driver of a server that was started."""
    assert server._group is not None
    return server._group.drivers[0]


def until_led(driver: Driver) -> None:
    """Wait until somebody leads it for good: a thread of the pool, or, if all are taken, the watchdog."""
    deadline = monotonic() + PATIENCE
    while not _is_led(driver):
        assert monotonic() < deadline, f"nobody comes to lead {driver.loop.name}"
        sleep(0.001)  # why: the lead changes hands without telling anybody


def _is_led(driver: Driver) -> bool:
    leadership, dispatcher = driver.leadership, driver.leadership.dispatcher
    workers, idle = dispatcher.workers, dispatcher.entrance.idle
    with dispatcher.lock:
        if leadership.lead is not None or driver.loop.over:
            return True
        if dispatcher.closed is not None or dispatcher.broken is not None:
            return True
        offered = any(isinstance(task, Lead) and task.leadership is leadership for task in workers.idle_tasks.waiting)
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

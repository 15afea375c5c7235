"""examples/handmade_pool.py, run as a user runs it."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from programs import PATIENCE, Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "handmade_pool.py"
WORKERS = 8


@pytest.fixture
def server() -> Iterator[Program]:
    with Program([sys.executable, str(EXAMPLE), "127.0.0.1", "0"]) as program:
        yield program


def connected(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


def assert_echo(client: socket.socket, text: bytes) -> None:
    client.sendall(text)
    assert client.recv(100) == text


def test_more_clients_than_workers_are_served_in_turn(server: Program) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(WORKERS)]
        for client in clients:
            assert_echo(client, b"held")  # answered, so it holds a worker
        late = [stack.enter_context(connected(server)) for _ in range(2 * WORKERS)]
        for client in late:
            client.sendall(b"late")
        assert not select.select(late, [], [], 0.3)[0], "served while all workers were taken"
        for client in clients:
            client.close()
        for client in late:
            assert client.recv(100) == b"late"
            client.close()


def test_worker_serves_one_client_after_another(server: Program) -> None:
    """The classic version serves one client and dies. Here one worker is left, and 50 clients come."""
    with ExitStack() as stack:
        for _ in range(WORKERS - 1):
            assert_echo(stack.enter_context(connected(server)), b"held")
        for number in range(50):
            with connected(server) as client:
                assert_echo(client, b"client %d" % number)


def test_clients_that_reset_cost_no_worker(server: Program) -> None:
    for _ in range(2 * WORKERS):
        with connected(server) as rude:
            assert_echo(rude, b"served")  # so a worker waits for more, and meets the reset
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends RST
    with ExitStack() as stack:
        for _ in range(WORKERS):
            assert_echo(stack.enter_context(connected(server)), b"still served")
    server.wait_for("a client failed, and its thread goes on: .*reset")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_while_clients_are_served_and_wait(server: Program, number: signal.Signals) -> None:
    with ExitStack() as stack:
        for _ in range(WORKERS):
            assert_echo(stack.enter_context(connected(server)), b"held")
        for _ in range(3):
            stack.enter_context(connected(server))
        server.send(number)
        assert server.wait() == 0
    assert "stopped" in server.output
    assert "Traceback" not in server.output


def test_it_is_under_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40

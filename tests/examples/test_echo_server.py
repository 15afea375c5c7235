"""examples/echo_server.py, run as a user runs it."""

from __future__ import annotations

import select
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from programs import PATIENCE, Program
from socketservers import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "echo_server.py"
THREADS = 128


def test_client_129_waits_its_turn_and_is_then_served() -> None:
    with Program([sys.executable, str(EXAMPLE), "0"]) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.wait_for_port())
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(THREADS)]
        for number, client in enumerate(clients):
            client.sendall(b"client %d" % number)
            assert client.recv(100) == b"client %d" % number  # answered, so it holds a thread
        late = stack.enter_context(socket.create_connection(address, PATIENCE))
        late.sendall(b"client 129")
        assert not select.select([late], [], [], 0.3)[0], "client 129 was served while 128 threads were taken"
        clients[7].close()
        assert late.recv(100) == b"client 129"


def test_client_that_resets_harms_no_other() -> None:
    with Program([sys.executable, str(EXAMPLE), "0"]) as server:
        address = ("127.0.0.1", server.wait_for_port())
        for _ in range(5):
            with socket.create_connection(address, PATIENCE) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends RST
                rude.sendall(b"unread")
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"


def accepts(pid: int) -> bool:
    """Whether the main thread sleeps, in `accept` where the system says in what.

    Before that CPython may lose a signal: one that comes after its last look, and before the call that sleeps.
    """
    place = Path(f"/proc/{pid}/task/{pid}/wchan")
    return not place.exists() or place.read_text() in ("inet_csk_accept", "0", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_clients_are_connected(number: signal.Signals) -> None:
    with Program([sys.executable, "-W", "error", "-X", "dev", str(EXAMPLE), "0"]) as server:
        with socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE) as client:
            for _ in range(50):
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
            until(lambda: accepts(server.pid))
            server.send(number)
            assert server.wait() == 0
        assert "Traceback" not in server.output
        assert "Warning" not in server.output


def test_it_is_under_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40

"""Servers in processes of their own: signals, restarts, exits."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading

import pytest

from programs import PATIENCE, Program, run
from tcp import ask, receive_all

SERVER = """
import logging, sys, threading
from treadle.server import Lines, Messages, Server
logging.basicConfig(level=logging.INFO, stream=sys.stdout)

def handle(line, peer):
    if line == b"block":
        print("blocked", flush=True)
        threading.Event().wait(60)
    return line + b"\\n"

server = Server(Messages(handle, Lines()), sys.argv[1], max_workers=2)
sys.exit(server.run(drain=30.0))
"""


def served(bind: str = "127.0.0.1:0", **options: object) -> Program:
    return Program([sys.executable, "-c", SERVER, bind], **options)  # type: ignore[arg-type]


def connect(server: Program) -> socket.socket:
    port = int(server.wait_for(r"on 127\.0\.0\.1:(\d+)\n").group(1))
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_rule_9_a_signal_finishes_what_was_begun_and_ends_with_status_0() -> None:
    with served() as server, connect(server) as half, connect(server) as idle:
        assert ask(idle, b"x\n") == b"x\n"
        half.sendall(b"beg")
        assert ask(idle, b"y\n") == b"y\n"
        server.send(signal.SIGTERM)
        assert receive_all(idle) == b""
        half.sendall(b"un\n")
        assert receive_all(half) == b"begun\n"
        idle.close()
        half.close()
        assert server.wait() == 0, server.output


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_rule_9_a_second_signal_cuts_at_once_and_the_status_says_so(second: signal.Signals) -> None:
    with served() as server, connect(server) as sock:
        sock.sendall(b"block\n")
        server.wait_for("blocked")
        server.send(signal.SIGTERM)
        server.wait_for("SIGTERM: stopping; a second signal cuts at once")
        server.send(second)
        assert receive_all(sock) == b""
        assert server.wait() == 1, server.output  # though its handler would run for a minute
        assert "1 connections were not done in time, and are cut" in server.output


def test_rule_9_a_restart_on_an_inherited_socket_loses_no_connection() -> None:
    """As systemd restarts a service that it has given its socket."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        address, wrong, stop = listener.getsockname(), [], threading.Event()

        def keep_asking() -> None:
            asked = 0
            while not stop.is_set() or asked < 20:
                asked += 1
                with socket.create_connection(address, PATIENCE) as sock:
                    sock.sendall(b"hello\n")
                    if (answer := sock.recv(100)) != b"hello\n":
                        wrong.append(answer)

        askers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for generation in range(4):
            command = [sys.executable, "-c", SERVER, f"fd://{listener.fileno()}"]
            process = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL)
            try:
                if generation == 0:
                    for asker in askers:
                        asker.start()
                with socket.create_connection(address, PATIENCE) as sock:
                    assert ask(sock, b"up?\n") == b"up?\n"
                if generation == 3:
                    stop.set()
                    for asker in askers:
                        asker.join(PATIENCE)
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()
                process.wait()
        assert not wrong


EXIT = """
import threading
from treadle.server import Lines, Messages, Server

inside = threading.Event()

def handle(line, peer):
    inside.set()
    threading.Event().wait(0.2)
    return line + b"\\n"

server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
host, port = server.address.split(":")
print("on 127.0.0.1:" + port, flush=True)
assert inside.wait(30)
"""


def test_a_server_that_was_never_stopped_finishes_what_was_begun_when_python_exits() -> None:
    with Program([sys.executable, "-c", EXIT]) as server, connect(server) as sock:
        sock.sendall(b"hello\n")
        assert receive_all(sock) == b"hello\n"
        assert server.wait() == 0, server.output


FORK = """
import os, socket
from treadle.server import Messages, Server

def handle(data, peer):
    child = os.fork()
    if child == 0:
        os._exit(7)
    return b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as sock:
        for _ in range(3):
            sock.sendall(b"x")
            print(sock.recv(100))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no fork")
def test_a_handler_may_fork() -> None:
    status, out, _ = run(sys.executable, "-W", "ignore", "-c", FORK)
    assert (status, out) == (0, "b'7'\n" * 3)

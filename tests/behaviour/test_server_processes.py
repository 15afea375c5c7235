"""Servers in processes of their own: signals, restarts, exits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

from programs import PATIENCE, TREADLE, Program, run
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
sys.exit(server.run(drain_timeout=30.0))
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
        assert "1 connection was not done in time, and cut" in server.output


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


def storm(server: Program, number: signal.Signals) -> int:
    """Send a signal again and again until the program has ended; return its status."""
    deadline = monotonic() + PATIENCE
    while server._process.poll() is None:
        assert monotonic() < deadline, server.output
        server.send(number)
        sleep(0.0005)
    return server.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_signals_in_a_row_end_a_program_with_status_0(number: signal.Signals) -> None:
    """Also those that come when it has stopped, and Python ends."""
    with served() as server:
        server.wait_for("on 127")
        assert storm(server, number) == 0, server.output
        assert "Traceback" not in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_many_signals_in_a_row_end_the_command_with_status_0(number: signal.Signals, processes: str) -> None:
    """From the moment that it says where it listens."""
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", "--processes", processes]) as server:
        server.wait_for("listens on")
        assert storm(server, number) == 0, server.output
        assert "Traceback" not in server.output


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_command_that_was_started_with_its_signals_blocked_hears_them(number: signal.Signals, processes: str) -> None:
    command = (*TREADLE[1:], "echo", "--bind", "127.0.0.1:0", "--processes", processes)
    with Program([TREADLE[0], "-c", BLOCKED, *command]) as server:
        port = server.wait_for_port()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            assert ask(sock, b"x\n") == b"x\n"
        server.send(number)
        assert server.wait() == 0, server.output


KEEPS_SIGCHLD = """
import os, signal, socket, sys, threading, time
from treadle.server import Lines, Messages, Server

def handle(line, peer):
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.01)  # why: the kernel tells nobody that a process is gone
    return b"%d\\n" % os.path.exists(f"/proc/{pid}")

def ask():
    while server._group is None or not server._group.watchdogs:
        time.sleep(0.01)  # why: `run` holds the main thread, and tells nobody that it serves
    with socket.create_connection(server.address, 40) as sock:
        sock.sendall(b"x\\n")
        print("zombies:", sock.makefile().readline(), end="", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2)
threading.Thread(target=ask).start()
sys.exit(server.run())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_program_that_ignores_sigchld_has_no_zombies_while_it_serves() -> None:
    status, out, err = run(sys.executable, "-c", KEEPS_SIGCHLD)
    assert (status, out) == (0, "zombies: 0\n"), err


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the writing end of a pipe that is full, and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while os.write(writer, bytes(size)):
                pass
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def connect_to(path: Path) -> socket.socket:
    """Connect to a UNIX socket, as soon as somebody listens there."""
    deadline = monotonic() + PATIENCE
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            sock.settimeout(PATIENCE)
            return sock
        except OSError:
            sock.close()
            assert monotonic() < deadline
            sleep(0.01)


HANDLERS = """
def handle(line, peer):
    if line == b"print":
        print("x")
    if line == b"fail":
        raise ValueError
    return line + b"\\n"
"""


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no UNIX sockets")
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("line", "status"), [(b"", 0), (b"fail\n", 1), (b"print\n", 1)])
def test_a_command_whose_output_nobody_reads_ends_by_a_signal(
    line: bytes, status: int, processes: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(HANDLERS)
    path = tmp_path / "socket"
    drain = "0.2" if status else "30"
    options = ("--framing", "lines", "--bind", f"unix:{path}", "--drain-timeout", drain, "--processes", processes)
    with full_pipe() as pipe:
        command = [*TREADLE, "tcp", "app:handle", *options]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, env=environment)
        try:
            with connect_to(path) as quick, connect_to(path) as slow:
                assert ask(quick, b"x\n") == b"x\n"
                slow.sendall(line)
                assert ask(quick, b"y\n") == b"y\n"
                process.send_signal(signal.SIGTERM)
                for sock in (quick, slow):
                    assert receive_all(sock) == b""
                    sock.close()  # or the server would await our end
            assert process.wait(PATIENCE) == status
        finally:
            process.kill()
            process.wait()


WATCHES = """
import logging, os, sys
from treadle.server import Lines, Messages, Server

stuck = open(int(sys.argv[2]), "w", buffering=1)
logging.basicConfig(level=logging.DEBUG, stream=stuck)

def watch(now):
    print("watched", file=stuck)
    return 0.0

server = Server(Messages(lambda line, peer: line + b"\\n", Lines()), sys.argv[1], max_workers=2)
server._watch = watch
os._exit(server.run(30.0))
"""


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no UNIX sockets")
def test_run_obeys_though_its_log_and_its_watch_are_stuck(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with full_pipe() as pipe:
        command = [sys.executable, "-c", WATCHES, f"unix:{path}", str(pipe)]
        process = subprocess.Popen(command, pass_fds=[pipe])
        try:
            with connect_to(path) as sock:
                assert ask(sock, b"x\n") == b"x\n"
                process.send_signal(signal.SIGHUP)
                process.send_signal(signal.SIGTERM)
                assert receive_all(sock) == b""
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


EXIT = """
import threading
from treadle.server import Lines, Messages, Server

inside = threading.Event()

def handle(line, peer):
    inside.set()
    threading.Event().wait(0.2)
    return line + b"\\n"

server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
print(f"on {server}", flush=True)
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
    with socket.create_connection(server.address) as sock:
        for _ in range(3):
            sock.sendall(b"x")
            print(sock.recv(100))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no fork")
def test_a_handler_may_fork() -> None:
    status, out, _ = run(sys.executable, "-W", "ignore", "-c", FORK)
    assert (status, out) == (0, "b'7'\n" * 3)

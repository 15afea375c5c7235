"""`treadle echo`, as a real process: what it says, what it answers, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from programs import PATIENCE, TREADLE, Program, run
from socketservers import until


def echo(*options: str, **settings: object) -> Program:
    return Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", *options], **settings)  # type: ignore[arg-type]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def talk(client: socket.socket, data: bytes = b"hello\n") -> None:
    client.sendall(data)
    assert client.recv(100) == data


def test_it_says_where_it_listens_how_to_talk_to_it_and_its_ceilings() -> None:
    with echo("--threads", "5", "--max-connections", "9") as server:
        port = server.wait_for_port()
        server.wait_for(rf"talk to it: .*create_connection\(\('127\.0\.0\.1', {port}\)\).*hello")
        server.wait_for("5 threads, 9 connections")
        with connect(port) as client:
            client.sendall(b"hello\n")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"hello\n"
            assert client.recv(100) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0_though_clients_are_connected(number: signal.Signals) -> None:
    with echo("--threads", "1", "--idle-timeout", "3600") as server:
        port = server.wait_for_port()
        with connect(port) as client, connect(port) as silent:
            talk(client)
            server.send(number)
            assert client.recv(1) == b""
            client.close()
            assert silent.recv(1) == b""
            silent.close()
            assert server.wait() == 0, server.output
        assert "stopped: 1 message, 2 connections, 0 rejected, 0 cut" in server.output
        assert "Traceback" not in server.output


DEAF = """
import signal, sys, threading
from treadle._cli import status
from treadle._cli.main import main
status.PLAIN_EVERY = 3600.0
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
sys.argv = ["treadle", "echo", "--bind", "127.0.0.1:0"]
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signal masks")
def test_a_signal_that_does_not_interrupt_the_main_thread_is_heard_at_once() -> None:
    """The system may hand a signal to any thread. Here another takes it, while the main one sleeps for an hour."""
    with Program([sys.executable, "-c", DEAF]) as server:
        server.wait_for_port()
        server.wait_for(r"threads \d/128")
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_elsewhere_than_on_a_terminal_it_logs_plain_lines() -> None:
    with echo("--threads", "2") as server:
        server.wait_for(
            r"(?m)^\d{4}-\d\d-\d\d [\d:,]+ threads \d/2  connections 0  messages 0  handed over 0  closed 0"
        )
        with connect(server.wait_for_port()) as client:
            talk(client)
            server.wait_for("connections 1  messages 1")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert "\x1b" not in server.output


def test_on_a_terminal_it_keeps_a_live_line_with_log_lines_above() -> None:
    options = ("--threads", "2", "--max-connections", "2", "--at-max-connections", "reject")
    with echo(*options, terminal=True) as server:
        port = server.wait_for_port()
        server.wait_for("connections 0  messages 0  handed over 0  closed 0  rejected 0")
        with connect(port) as client, connect(port), connect(port) as refused:
            talk(client)
            assert refused.recv(1) == b""
            server.wait_for("clients are rejected: all 2 connections are taken")
            server.wait_for("connections 2 .* rejected 1")
        server.wait_for("connections 0  messages 1 .* closed 2  rejected 1")
        server.send(signal.SIGINT)
        assert server.wait() == 0
        assert re.search(r"\x1b\[(1A\x1b\[)?2K", server.output), "the line was not rewritten in place"
        assert server.output.rindex("\x1b[?25h") > server.output.rindex("\x1b[?25l"), "the cursor stayed hidden"


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with echo(terminal=True, env={"TERM": "dumb"}) as server:
        server.wait_for(r"threads \d/128  connections 0")
        assert "\x1b" not in server.output


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on open files to run into")
def test_rule_5_running_out_of_descriptors_ends_nothing_and_is_said_once() -> None:
    with echo(descriptors=40) as server:
        server.wait_for("the limit on open files, 40, comes before 10000 connections")
        port = server.wait_for_port()
        descriptors = Path(f"/proc/{server.pid}/fd")
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(42)]
            talk(clients[0])
            server.wait_for("cannot accept: Too many open files")
            talk(clients[0])
        # While it is short of descriptors, some are turned away. With these it is not any more, for fewer clients than
        # that can still be in the kernel's queue.
        until(lambda: len(list(descriptors.iterdir())) <= 20)
        with connect(port) as client:
            talk(client)
        used = sum(map(int, Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        assert used < 300, "it spins: that many hundredths of a second of a processor"
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.count("cannot accept") == 1


def test_nobody_need_read_what_it_says() -> None:
    """As behind `| head -1`: it serves on, and says nothing of what it cannot say."""
    command = (*TREADLE, "echo", "--bind", "127.0.0.1:0", "--max-connections", "1", "--at-max-connections", "reject")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        server.stdout.close()
        with connect(port) as client, connect(port) as refused:
            talk(client)
            assert refused.recv(1) == b""  # which is logged
            talk(client)
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.communicate(timeout=PATIENCE)[1]
        assert server.returncode == 0


def test_a_port_in_use_is_named_with_status_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        status, out, error = run(*TREADLE, "echo", "--bind", f"127.0.0.1:{port}")
    assert (status, out) == (69, "")
    assert f"cannot listen on 127.0.0.1:{port}: it is in use; stop the other server, or choose another port" in error


@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_serves_every_address_that_it_was_given_and_names_them(processes: str, tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s")  # that of tmp_path may be too long
    with echo("--bind", f"unix:{path}", "--bind", "127.0.0.1:0", "--processes", processes) as server:
        said = server.wait_for(rf"listens on 127\.0\.0\.1:(\d+), unix:{path}, 127\.0\.0\.1:(\d+)\n")
        server.wait_for(rf"talk to it: .* {said[1]}\)")
        for port in map(int, said.groups()):
            with connect(port) as client:
                talk(client)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            talk(client)
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.output
    assert not os.path.exists(path)


def test_if_one_of_its_addresses_cannot_be_had_it_is_named_and_nothing_stays(tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = f"127.0.0.1:{owner.getsockname()[1]}"
        status, out, error = run(*TREADLE, "echo", "--bind", f"unix:{path}", "--bind", taken)
    assert (status, out) == (69, "")
    assert f"cannot listen on {taken}: it is in use" in error
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal to send")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_without_a_limit_on_what_was_begun_a_second_signal_cuts(processes: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import threading\ndef hold(conn):\n    conn.sendall(b'in')\n    threading.Event().wait()\n"
    )
    options = ("--bind", "127.0.0.1:0", "--processes", processes, "--drain-timeout", "none")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with Program([*TREADLE, "tcp", "app:hold", "--session", *options], env=env) as server:
        with connect(server.wait_for_port()) as client:
            client.sendall(b"x")
            assert client.recv(2) == b"in"
            server.send(signal.SIGTERM)
            server.wait_for("SIGTERM: stopping; a second signal cuts at once")
            server.send(signal.SIGTERM)
            assert client.recv(1) == b""
        assert server.wait() == 1, server.output
        assert "1 cut" in server.output


@pytest.mark.parametrize("processes", [1, 2])
def test_when_somebody_shuts_its_socket_down_it_ends_with_status_69(processes: int) -> None:
    """Also if several processes share it: those that are started anew have no better one."""
    with socket.create_server(("127.0.0.1", 0)) as owner:
        command = (*TREADLE, "echo", "--bind", "fd://0", "--processes", str(processes))
        with subprocess.Popen(
            command, stdin=owner.fileno(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as server:
            with connect(owner.getsockname()[1]) as client:
                talk(client)
                owner.shutdown(socket.SHUT_RDWR)
                assert client.recv(1) == b""
            output, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 69
    assert "no more clients are accepted here" in output
    assert "it was shut down or closed by somebody else" in output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--thread", "5"), "'--threads'"),
        (("--threads", "0"), "'0' is out of range; allowed: more than 0"),
        (("--threads", "many"), "'many' is not a whole number"),
        (("--max-connections", "-1"), "'-1' is out of range; allowed: more than 0"),
        (("--max-connections", "none"), "'none' is not a whole number"),
        (("--idle-timeout", "0"), "'0' is out of range; allowed: more than 0 seconds, or none for no limit"),
        (("--accept-rate", "fast"), "'fast' is not a rate"),
        (("--at-max-connections", "panic"), "'panic' is not one of"),
        (("--bind", "5000"), "'5000' is not HOST:PORT"),
        (("--bind", "127.0.0.1:http"), "'http' is no port"),
        (("--bind", "127.0.0.1:9", "--bind", "127.0.0.1:9"), "--bind: '127.0.0.1:9' is there twice; once is enough"),
        (("--keyfile", "x"), "of no use without --certfile"),
        (("extra",), "unexpected extra argument"),
    ],
)
def test_bad_options_are_status_2(options: tuple[str, ...], complaint: str) -> None:
    status, out, error = run(*TREADLE, "echo", *options)
    assert (status, out) == (2, "")
    assert complaint in error
    assert "Traceback" not in error


def test_its_table_of_a_file_and_its_variables_set_it(tmp_path: Path) -> None:
    path = tmp_path / "treadle.toml"
    path.write_text('[echo]\nbind = "127.0.0.1:0"\nthreads = 7\nmax-connections = 8\nidle-timeout = 5\n')
    with Program([*TREADLE, "echo", "--config", str(path)], env={"TREADLE_ECHO_MAX_CONNECTIONS": "9"}) as server:
        server.wait_for("7 threads, 9 connections")
    path.write_text("[echo]\nbind = []\n")
    status, _, error = run(*TREADLE, "echo", "--config", str(path))
    assert status == 2
    assert f"{path}: [echo] bind names no address to listen at" in error
    path.write_text("[echo]\nthread = 7\n")
    status, _, error = run(*TREADLE, "echo", "--config", str(path))
    assert status == 2
    assert f"{path}: [echo] has no key 'thread'; did you mean 'threads'?" in error

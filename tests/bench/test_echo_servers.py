"""The servers that are measured: each echoes, sleeps where it is told to, and ends when it is ended."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack
from select import select
from types import ModuleType, SimpleNamespace

import pytest

Import = Callable[[str], ModuleType]
NAMES = ("treadle", "uvloop", "asyncio", "loop", "gevent", "socketserver", "pool", "go")
PATIENCE = 60.0
STUCK = 0.3  # seconds in which nothing more can be sent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark is for Linux only")


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send, and return as many bytes as come back."""
    connection.sendall(data)
    got = b""
    while len(got) < len(data) and (more := connection.recv(1 << 16)):
        got += more
    return got


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flags", [(), ("--slow",)])
def test_each_server_echoes(bench: Import, name: str, flags: tuple[str, ...]) -> None:
    peers = bench("echo_peers")
    try:
        with peers.serving(name, *flags) as server:
            (pid,) = server.pids
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                assert exchange(connection, b"hello") == b"hello"
                assert exchange(connection, b"Slow") == b"Slow"
                big = os.urandom(300_000)
                assert exchange(connection, big) == big
    except peers.Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("flags", [(), ("--slow",)])
def test_the_bare_loop_keeps_what_a_client_does_not_take_yet_and_others_are_served(
    bench: Import, flags: tuple[str, ...]
) -> None:
    """So much is sent before anything is read that the server cannot send it on; it must not wait for that."""
    with bench("echo_peers").serving("loop", *flags) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        deaf, other = (stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(2))
        deaf.setblocking(False)
        sent = bytearray()
        while select([], [deaf], [], STUCK)[1]:
            piece = os.urandom(1 << 16)
            sent += piece[: deaf.send(piece)]
        assert exchange(other, b"hello") == b"hello"
        deaf.settimeout(PATIENCE)
        got = bytearray()
        while len(got) < len(sent) and (more := deaf.recv(1 << 16)):
            got += more
        assert hash(bytes(got)) == hash(bytes(sent))  # or pytest would show where megabytes differ
        assert exchange(deaf, b"hello") == b"hello"
        deaf.close()
        assert exchange(other, b"hello") == b"hello"


def test_treadle_serves_lines(bench: Import) -> None:
    with bench("echo_peers").serving("treadle", "--lines") as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            assert exchange(connection, b"one\ntwo\n") == b"one\ntwo\n"


@pytest.mark.parametrize("flags", [(), ("--threads", "2", "--queue-size", "8")])
def test_treadle_serves_routes(bench: Import, flags: tuple[str, ...]) -> None:
    with bench("echo_peers").serving("treadle", "--routes", *flags) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            for line in (b"q one\n", b"m two\n", b"s three\n", b"v four\n", b"v Some\n", b"\n"):
                assert exchange(connection, line) == line
    assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (b"q some", []),
        (b"m some", [0.005]),
        (b"s some", [0.1]),
        (b"v some", []),
        (b"v Some", [0.1]),
        (b"some", []),
        (b"sS", []),
        (b"", []),
    ],
)
def test_the_first_word_says_how_long_a_line_takes(
    bench: Import, monkeypatch: pytest.MonkeyPatch, line: bytes, seconds: list[float]
) -> None:
    servers, slept = bench("echo_servers"), list[float]()
    monkeypatch.setattr(servers, "time", SimpleNamespace(sleep=slept.append))
    assert servers.echo_by_route(line) == line + b"\n"
    assert slept == seconds


def test_the_queue_of_treadle_is_as_long_as_is_said(bench: Import) -> None:
    """A length that the pool refuses shows that it is told."""
    with bench("echo_peers").serving("treadle", "--queue-size", "-7") as server:
        assert server.process.wait(PATIENCE) == 1
        server.errors.seek(0)
        assert "ValueError: queue_size" in server.errors.read()


def test_treadle_serves_tls(bench: Import) -> None:
    certificate = bench("echo_cases").certificate
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    try:
        path = certificate()
    except bench("echo_servers").Unavailable as reason:
        pytest.skip(str(reason))
    with bench("echo_peers").serving("treadle", "--cert", path) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain:
            with trusting.wrap_socket(plain) as connection:
                assert exchange(connection, b"hello") == b"hello"


def test_two_processes_serve_one_port(bench: Import) -> None:
    with bench("echo_peers").serving("treadle", "--processes", "2", children=2) as server:
        assert len(set(server.pids)) == 2
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            assert exchange(connection, b"hello") == b"hello"


def test_a_server_that_cannot_begin_says_why(bench: Import) -> None:
    peers = bench("echo_peers")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(peers.ServerFailed, match="in use"):
        with peers.serving("asyncio", "--port", str(taken.getsockname()[1])):
            pass


def test_what_is_not_installed_is_unavailable(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = bench("echo_peers")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(peers.Unavailable, match="no go compiler"), peers.serving("go"):
        pass

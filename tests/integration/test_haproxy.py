"""A server behind the real haproxy, which says who the client is by the PROXY protocol."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, receive, receive_all
from treadle.server import Certificates, Connection, Limits, Lines, Messages, Peer, Server, Session

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])  # where Debian puts it
HAPROXY = shutil.which("haproxy", path=PATH)

pytestmark = pytest.mark.skipif(
    HAPROXY is None, reason="haproxy is not installed; on Debian and Ubuntu: sudo apt-get install haproxy"
)

CONFIG = """
defaults
    mode tcp
    timeout connect 30s
    timeout client 30s
    timeout server 30s
listen proxy
    bind fd@{fd}
    server server {to} {options}
"""
SENDS = {
    "1": "send-proxy",
    "2": "send-proxy-v2",
    "2 with a checksum and more": "send-proxy-v2 proxy-v2-options crc32c,authority",
}


@contextmanager
def haproxy(server: Server, options: str, folder: Path, host: str = "127.0.0.1") -> Iterator[Callable[[], Any]]:
    """Put haproxy in front of `server`; give what makes clients of it."""
    made = ExitStack()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))  # a port of the system's choice, and haproxy is given the socket
        listener.listen()
        address = listener.getsockname()
        to = str(server).replace("unix:", "unix@")
        config = folder / "haproxy.cfg"
        config.write_text(CONFIG.format(fd=listener.fileno(), to=to, options=options))
        command = [str(HAPROXY), "-db", "-f", str(config)]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
    try:
        yield lambda: made.enter_context(socket.create_connection(address[:2], PATIENCE))
    finally:
        made.close()
        process.kill()
        process.wait(PATIENCE)


def who(line: bytes, peer: Peer) -> bytes:
    return f"{peer} by {peer.proxy and peer.proxy[0]}\n".encode()


def greet(conn: Connection) -> None:
    conn.sendall(b"hello\n")
    while conn.readline():
        conn.sendall(f"{conn.peer}\n".encode())


def name_of(sock: socket.socket) -> bytes:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()


def serving(protocol: Any = None, bind: str = "127.0.0.1:0", *, proxy: Any = "127.0.0.1", **options: Any) -> Server:
    options = {"max_workers": 2, **options}
    return Server(protocol or Messages(who, Lines()), bind, proxy=proxy, **options)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens by itself."""
    never = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        never.wait(0.01)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize("version", SENDS)
def test_the_peer_is_the_client_and_not_haproxy(version: str, tmp_path: Path) -> None:
    with serving() as server, haproxy(server, SENDS[version], tmp_path) as connect:
        for _ in range(3):
            sock = connect()
            expected = name_of(sock) + b" by 127.0.0.1\n"
            assert ask(sock, b"a\nb\n", 2 * len(expected)) == 2 * expected


@pytest.mark.parametrize("version", SENDS)
def test_a_server_that_speaks_first_knows_the_client(version: str, tmp_path: Path) -> None:
    with serving(Session(greet, speaks_first=True)) as server, haproxy(server, SENDS[version], tmp_path) as connect:
        sock = connect()
        assert receive(sock, 6) == b"hello\n"
        assert ask(sock, b"?\n", len(name_of(sock)) + 1) == name_of(sock) + b"\n"


@pytest.mark.parametrize("version", SENDS)
def test_tls_that_haproxy_passes_through_is_ended_here(
    version: str, tmp_path: Path, authority: Authority, certificates: Certificates
) -> None:
    with serving(tls=certificates) as server, haproxy(server, SENDS[version], tmp_path) as connect:
        sock = connect()
        expected = name_of(sock) + b" by 127.0.0.1\n"
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            assert ask(secure, b"a\n", len(expected)) == expected


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
@pytest.mark.parametrize("version", SENDS)
def test_a_client_with_an_ipv6_address_is_known_though_haproxy_comes_by_ipv4(version: str, tmp_path: Path) -> None:
    with serving() as server, haproxy(server, SENDS[version], tmp_path, "::1") as connect:
        sock = connect()
        expected = name_of(sock) + b" by 127.0.0.1\n"
        assert ask(sock, b"a\n", len(expected)) == expected


@pytest.mark.parametrize("version", SENDS)
def test_haproxy_may_come_by_a_unix_socket(version: str, tmp_path: Path) -> None:
    protocol = Messages(lambda line, peer: f"{peer}\n".encode(), Lines())
    with serving(protocol, f"unix:{tmp_path / 's'}", proxy="unix") as server:
        with haproxy(server, SENDS[version], tmp_path) as connect:
            sock = connect()
            assert ask(sock, b"a\n", len(name_of(sock)) + 1) == name_of(sock) + b"\n"


# What wrap_socket of Python 3.11 leaves behind when a client is gone that early.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("kind", ["messages", "session", "speaks first", "tls"])
@pytest.mark.parametrize("version", SENDS)
def test_health_checks_are_let_in_and_leave_no_line_in_the_log(
    version: str, kind: str, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tls = certificates if kind == "tls" else None
    protocols = {"session": Session(greet), "speaks first": Session(greet, speaks_first=True)}
    room = 10  # haproxy does not wait until the server is done with one check before the next: some may overlap
    limits = Limits(max_connections_per_host=room)
    with serving(protocols.get(kind), tls=tls, limits=limits, max_workers=room) as server:
        with haproxy(server, f"{SENDS[version]} check inter 20ms", tmp_path):
            wait_until(lambda: server.snapshot().accepted >= room + 2)
        wait_until(lambda: server.snapshot().connections == 0)
        now = server.snapshot()
        assert (now.failures, now.rejected_connections) == (0, 0)
        assert not set(now.closed_by) & {"proxy_header", "tls_handshake"}
    told = [record.getMessage() for record in caplog.records if record.name == "treadle.server"]
    assert [text for text in told if not text.startswith("serving ")] == []


def test_the_ceiling_of_one_address_is_the_clients(tmp_path: Path) -> None:
    limits = Limits(max_connections_per_host=2, reject_connections_with=b"enough\n")
    with serving(limits=limits) as server, haproxy(server, "send-proxy-v2", tmp_path) as connect:
        for _ in range(2):
            assert ask(connect(), b"a\n", 9) == b"127.0.0.1"
        assert receive(connect(), 7) == b"enough\n"
        wait_until(lambda: server.snapshot().rejected_connections == 1)


def test_haproxy_that_sends_no_header_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, haproxy(server, "", tmp_path) as connect:
        sock = connect()
        sock.sendall(b"hello\n")
        assert receive_all(sock) == b""
    assert "there is none; does the proxy send it (in HAProxy: send-proxy-v2)?; it begins with b'hello" in caplog.text


def test_haproxy_that_is_not_trusted_is_told_of_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(proxy="::1") as server, haproxy(server, "send-proxy-v2", tmp_path) as connect:
        sock = connect()
        sock.sendall(b"hello\n")
        assert receive_all(sock) == b""
    assert "to trust it: Server(proxy='127.0.0.1'), --proxy-trust 127.0.0.1" in caplog.text

"""However a connection ends, its client sees that at once, though somebody else has the socket too.

A child of a handler has it, forked by whatever means, as long as it lives. Here a copy plays its part.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, driver_of, receive, receive_all
from treadle.server import Certificates, CloseConnection, Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server._accept.listen import Listener

BIG = b"x" * 20_000_000


class Held(socket.socket):
    """A listener that keeps a copy of each socket that it accepts."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.copies: list[socket.socket] = []
        self.failures: list[int] = []
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, os.strerror(number))
        sock, address = super().accept()
        self.copies.append(sock.dup())
        return sock, address


def handle(line: bytes, peer: Peer) -> bytes:
    if line == b"close":
        raise CloseConnection(b"closed")
    if line == b"fail":
        raise ValueError(line)
    return BIG if line == b"big" else line


def converse(conn: Connection) -> None:
    conn.sendall(handle(conn.readline().strip(), conn.peer))


@contextmanager
def holding(protocol: Any = None, *, tls: Any = None, **limits: Any) -> Iterator[tuple[Server, Held]]:
    listener = Held()
    protocol = Messages(handle, Lines()) if protocol is None else protocol
    server = Server(protocol, [Listener(listener, inherited=False)], max_workers=2, tls=tls, limits=Limits(**limits))
    try:
        with server:
            yield server, listener
    finally:
        for copy in listener.copies:
            copy.close()


def connected(server: Server, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(server.address, PATIENCE)
    sock.sendall(data)
    return sock


ENDS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "the handler closes": (b"close\n", {}),
    "the handler fails": (b"fail\n", {}),
    "what it sends makes no message": (b"y" * 1000, {"max_message": 100}),
    "it is idle for too long": (b"a\n", {"idle_timeout": 0.05}),
    "its message is late": (b"a", {"read_timeout": 0.05}),
    "it is too old": (b"a\n", {"max_age": 0.05}),
}


@pytest.mark.parametrize(("sends", "limits"), ENDS.values(), ids=list(ENDS))
def test_the_client_sees_that_the_server_has_closed(sends: bytes, limits: dict[str, Any]) -> None:
    with holding(**limits) as (server, _), connected(server, sends) as sock:
        assert receive_all(sock) in (b"closed", b"a", b"")


def closed(server: Server) -> None:
    """Wait until a connection was closed."""
    while not server.snapshot().closed_connections:
        threading.Event().wait(0.001)
    settled = threading.Event()
    driver_of(server).loop.post(settled.set)
    assert settled.wait(PATIENCE)


def test_a_client_that_does_not_take_its_answer_sees_the_end_behind_what_was_sent() -> None:
    with holding(write_timeout=0.05) as (server, _), connected(server, b"big\n") as sock:
        closed(server)
        assert len(receive_all(sock)) < len(BIG)


def test_a_client_that_has_ended_sees_its_answer_and_the_end() -> None:
    """Whole, though the server closed before the client had read any of it: a close takes back nothing."""
    for protocol in (None, Session(converse)):
        with holding(protocol) as (server, _), connected(server, b"big\n") as sock:
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == BIG


@pytest.mark.parametrize("sends", [b"close\n", b"fail\n", b"a\n"])
def test_the_end_of_a_conversation_is_seen(sends: bytes) -> None:
    with holding(Session(converse)) as (server, _), connected(server, sends) as sock:
        assert receive_all(sock) in (b"closed", b"", b"a")


def test_with_tls_the_end_is_seen_and_nothing_in_plain_text(authority: Authority, certificates: Certificates) -> None:
    with holding(tls=certificates, idle_timeout=0.1) as (server, _):
        for sends, answer in ((b"close\n", b"closed"), (b"a\n", b"a")):
            raw = connected(server)
            with authority.client_context().wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                sock.sendall(sends)
                assert receive_all(sock) == answer
        with connected(server, b"this is no TLS\n") as raw:
            receive_all(raw)


@pytest.mark.parametrize("message", [b"", b"a\n"], ids=["idle", "in the middle"])
def test_what_is_cut_at_the_end_of_a_stop_is_seen(message: bytes) -> None:
    with holding() as (server, listener), connected(server, message + b"half") as sock:
        assert receive(sock, len(message) // 2) == message[:1]
        while not listener.copies:
            threading.Event().wait(0.001)
        server.stop(0.0)
        assert receive_all(sock) == b""


def test_a_handler_that_is_cut_gives_back_what_is_seen_as_closed() -> None:
    inside, go = threading.Event(), threading.Event()

    def waits(line: bytes, peer: Peer) -> bytes:
        inside.set()
        assert go.wait(PATIENCE)
        return line

    try:
        with holding(Messages(waits, Lines())) as (server, _), connected(server, b"a\n") as sock:
            assert inside.wait(PATIENCE)
            server.stop(0.0)
            assert receive_all(sock) == b""
    finally:
        go.set()


def turned_away(server: Server, listener: Held) -> None:
    """All places are taken; see the limits."""


def out_of_files(server: Server, listener: Held) -> None:
    listener.failures += [errno.EMFILE, errno.EMFILE]  # the second after a pause in which nobody left


@pytest.mark.parametrize(
    ("prepare", "limits"),
    [
        (turned_away, {"max_connections": 1, "at_max_connections": "reject", "reject_connections_with": b"full"}),
        (out_of_files, {}),
    ],
)
def test_a_client_that_is_turned_away_sees_it(prepare: Callable[[Server, Held], None], limits: dict[str, Any]) -> None:
    with holding(**limits) as (server, listener), connected(server, b"a\n") as first:
        assert receive(first, 1) == b"a"
        prepare(server, listener)
        with connected(server) as second:
            assert receive_all(second) == limits.get("reject_connections_with", b"")


def test_a_client_that_was_evicted_sees_it() -> None:
    with holding(max_connections=1, at_max_connections="evict_idle") as (server, _), connected(server, b"a\n") as first:
        assert receive(first, 1) == b"a"
        with connected(server, b"b\n") as second:
            assert receive(second, 1) == b"b"
            assert receive_all(first) == b""


def test_who_waits_at_a_listener_until_the_end_of_a_stop_sees_it() -> None:
    with holding(max_connections=1) as (server, _), connected(server, b"a\n") as first:
        assert receive(first, 1) == b"a"
        first.sendall(b"half")
        with connected(server) as waits:
            server.stop(0.0)
            assert receive_all(waits) == b""


def test_a_client_that_takes_no_more_is_reset_when_nobody_else_has_its_socket() -> None:
    """So that what it misses does not look like the end of the answer."""
    limits = Limits(write_timeout=0.05)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with connected(server, b"big\n") as sock:
            closed(server)
            with pytest.raises(ConnectionResetError):
                receive(sock, len(BIG))

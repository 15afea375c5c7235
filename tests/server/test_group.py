"""EventLoopGroup: the event loops of a server."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import struct
import sys
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, receive_all, until_led
from treadle import Pool
from treadle.server import Connection, Lines, Messages, Server, Session
from treadle.server import _group as group
from treadle.server import _server as servers
from treadle.server._protocols.framing import Framing
from treadle.server._transport.decoder import RawDecoder


def echo(line: bytes, peer: object) -> bytes:
    return line + b"\n"


def test_there_is_one_leader_unless_threads_run_python_at_the_same_time() -> None:
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=8) as server:
        assert server._group is not None
        free = not getattr(sys, "_is_gil_enabled", lambda: True)()
        assert (len(server._group.drivers) > 1) is (free and len(server._group.drivers) > 1)
        assert len(server._group.watchdogs) == len(server._group.drivers)
        if not free:
            assert len(server._group.drivers) == 1


@pytest.mark.parametrize("loops", [2, 3])
def test_connections_are_dealt_out_to_the_loops(loops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_loops_wanted", lambda dispatcher: loops)
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=2 * loops) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(2 * loops)]
        for sock in socks:
            burst = b"".join(b"%d\n" % number for number in range(200))
            assert ask(sock, burst) == burst
        assert server._group is not None
        assert [len(driver.io.connections()) for driver in server._group.drivers] == [2] * loops
        assert server.snapshot().messages == 2 * loops * 200
        assert server.snapshot().pool.threads <= 2 * loops


@pytest.mark.parametrize("kind", [OSError, ssl.SSLError])
def test_a_peer_that_is_gone_when_it_is_taken_in_is_counted_out_again(
    kind: type[OSError], caplog: pytest.LogCaptureFixture
) -> None:
    """That is ordinary, also where it has sent something before, which ssl has an error of its own for."""
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1) as server:
        assert server._group is not None
        server._group.factory.context = Broken(kind)  # type: ignore[assignment]
        with client(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert sock.recv(1) == b""
        seen = server.snapshot()
    assert (seen.connections, seen.closed_connections) == (0, 1)
    assert seen.closed_by == {"connection_lost": 1}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


class Fails:
    """A framing that fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def decoder(self, limit: int) -> RawDecoder:
        raise self.error


class Featureless:
    """A framing whose decoders cut nothing."""

    def decoder(self, limit: int) -> object:
        return self


@pytest.mark.parametrize(
    ("framing", "said"),
    [
        (Fails(ValueError("no decoder today")), "ValueError: no decoder today"),
        (Featureless(), "returned Featureless; allowed: an object with feed, held and"),
    ],
)
def test_clients_whose_framing_makes_no_decoder_are_counted_and_the_reason_is_said_once(
    framing: Framing[Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(Messages(echo, framing), "127.0.0.1:0", max_workers=1) as server:
        for _ in range(3):
            with client(server) as sock:
                assert receive_all(sock) == b""
        seen = server.snapshot()
    assert (seen.connections, seen.closed_connections, seen.closed_by) == (0, 3, {"framing": 3})
    assert caplog.text.count("clients are closed, for the framing fails") == caplog.text.count(said) == 1


def test_clients_whom_the_tls_context_fails_are_counted_and_the_reason_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1, tls=context) as server:
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True  # by its owner, later; wrap_socket then wants the name of a server
        for _ in range(3):
            with client(server) as sock:
                assert receive_all(sock) == b""
        seen = server.snapshot()
    assert (seen.connections, seen.closed_connections, seen.closed_by) == (0, 3, {"tls_handshake": 3})
    assert caplog.text.count("for TLS fails before the handshake") == 1
    assert "ValueError: check_hostname requires server_hostname" in caplog.text


def test_clients_that_are_cut_amid_a_handler_are_counted_by_what_has_cut_them_first() -> None:
    inside, gate = threading.Semaphore(0), threading.Event()

    def handle(line: bytes, peer: object) -> None:
        inside.release()
        assert gate.wait(PATIENCE)

    pool = Pool(2)
    server = Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool).start()
    with client(server) as first, client(server) as second:
        for sock in (first, second):
            sock.sendall(b"x\n")
            assert inside.acquire(timeout=PATIENCE)
        assert server._group is not None
        conns = [conn for driver in server._group.drivers for conn in driver.io.connections()]
        until(lambda: all(conn.busy for conn in conns))
        conns[0].ending.error = "handler_timeout"  # as if that had cut it, and its handler went on nevertheless
        assert server.stop(0.0) == 2
        seen = server.snapshot()
        gate.set()
        pool.shutdown()
    assert (seen.connections, seen.closed_connections) == (0, 2)
    assert seen.closed_by == {"handler_timeout": 1, "drain_timeout": 1}
    assert server.snapshot().closed_by == seen.closed_by


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt(), GeneratorExit()])
def test_a_framing_that_fails_to_begin_closes_its_client_however_it_fails(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(Messages(echo, Fails(error)), "127.0.0.1:0", max_workers=1) as server:
        for _ in range(2):
            with client(server) as sock:
                assert sock.recv(1) == b""
        assert server.snapshot().connections == 0
        assert server._group is not None
        assert server._group.limiter.connections == 0
    assert "was killed" not in caplog.text


class Broken:
    """A TLS context that finds the peer gone."""

    def __init__(self, kind: type[OSError]) -> None:
        self.kind = kind

    def wrap_socket(self, sock: socket.socket, **options: object) -> socket.socket:
        raise self.kind(errno.ENOTCONN, "gone")


def test_without_a_thread_for_the_watchdog_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(group, "Watchdog", refuse)
    server = Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        server.start()
    assert server.snapshot().state == "stopped"


def test_a_client_that_is_dealt_and_cut_because_the_leaders_are_stuck_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group, "_loops_wanted", lambda dispatcher: 2)
    monkeypatch.setattr(servers, "GRACE", 0.05)
    stuck, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        stuck.set()
        assert go_on.wait(PATIENCE)

    server = Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=4).start()
    found = server._group
    assert found is not None
    until_led(found.drivers[1])
    found.drivers[1].loop.post(wait)
    assert stuck.wait(PATIENCE)
    with client(server) as first, client(server) as late:  # they are dealt in turn
        assert ask(first, b"x\n") == b"x\n"
        until(lambda: found.drivers[1].dealt == 1)
        found.abandon()
        assert found.tally.cut == 2
        go_on.set()
        assert receive_all(late) == b""
    assert server.stop(0) == 2


def test_a_client_that_is_dealt_to_a_loop_whose_time_is_over_is_closed_once_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one whose conversation would have begun at once."""
    monkeypatch.setattr(group, "_loops_wanted", lambda dispatcher: 2)
    begun = []

    def talk(conn: Connection) -> None:
        begun.append(conn.peer)
        conn.recv()

    server = Server(Session(talk, speaks_first=True), "127.0.0.1:0", max_workers=4).start()
    assert server._group is not None
    server._group.drivers[1].emptied.set()
    with client(server), client(server) as late:  # they are dealt in turn
        assert receive_all(late) == b""
        assert server.snapshot().closed_by == {"drain_timeout": 1}
        assert server.snapshot().connections == 1
    assert server.stop() == 1
    assert len(begun) == 1


def test_who_is_cut_by_a_leader_that_gets_stuck_over_it_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "GRACE", 0.05)
    go_on = threading.Event()
    server = Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1).start()
    assert server._group is not None
    with client(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        for driver in server._group.drivers:
            monkeypatch.setattr(driver.reaper, "cut_all", lambda why: go_on.wait(PATIENCE))
        try:
            assert server.stop(0) == 1
        finally:
            go_on.set()
        assert receive_all(sock) == b""


def test_a_signal_handler_may_look_at_a_server_whatever_it_has_interrupted() -> None:
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1) as server:
        assert server._group is not None
        with server._group._lock:  # as where it counts, in this thread
            assert server.snapshot().closed_by == {}

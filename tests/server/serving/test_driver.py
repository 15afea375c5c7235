"""Driver: what goes wrong in the middle of a turn, and what is left at the end."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle.server import (
    CloseConnection,
    Lines,
    Messages,
    Peer,
    Server,
)
from treadle.server._loop.poller import READ
from treadle.server._serving import driver as drivers
from treadle.server._serving.driver import Driver
from treadle.server._serving.handlers import TURN, Handlers
from treadle.server._transport.connection import CHUNK, ClientConnection
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.sending.outbox import UNTOLD


def fail(*args: object) -> bool:
    raise RuntimeError("a fault of ours")


def test_each_connection_has_context_variables_of_its_own() -> None:
    user: ContextVar[bytes] = ContextVar("user", default=b"nobody")

    def handle(line: bytes, peer: Peer) -> bytes:
        before = user.get()
        if line:
            user.set(line)
        return before + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as one, client(server) as two:
            assert ask(one, b"alice\n", 7) == b"nobody\n"
            assert ask(two, b"bob\n", 7) == b"nobody\n"
            assert ask(one, b"\n", 6) == b"alice\n"
            assert ask(two, b"\n", 4) == b"bob\n"


@pytest.mark.usefixtures("blind_watchdog")
@pytest.mark.parametrize(("step", "message"), [("linger", b"bye\n"), ("go_on", b"x\n" * 1000)])
def test_a_fault_over_one_connection_ends_that_one_and_is_told_once(
    step: str, message: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"bye":
            raise CloseConnection(b"bye")
        return line

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as other:
        with client(server) as sock, monkeypatch.context() as patch:
            patch.setattr(ConnectionIO if step == "linger" else Driver, step, fail)
            sock.sendall(message)
            assert receive(sock, 3)
            sock.sendall(b"more\n")
            until(lambda: server.snapshot().connections == 1)
        assert ask(other, b"y\n", 1) == b"y"
        assert server.snapshot().closed_by == {"internal_error": 1}
    assert caplog.text.count("a fault in treadle itself") == 1
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize("message", [b"x\n" * 3, b"half"])
def test_a_fault_over_what_is_read_in_the_short_way_ends_that_connection_and_not_the_lead(
    message: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock, monkeypatch.context() as patch:
            assert ask(sock, b"x\n", 1) == b"x"
            patch.setattr(Driver, "proceed", fail)
            sock.sendall(message)
            assert receive_all(sock) == b""
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().closed_by == {"internal_error": 1}
    assert caplog.text.count("a fault in treadle itself") == 1


def test_a_fault_behind_a_hand_over_leaves_the_connection_to_whom_it_was_handed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulted, delegate, fault = threading.Event(), Handlers.delegate, Driver.fault

    def delegates(handlers: Handlers, conn: ClientConnection) -> None:
        delegate(handlers, conn)
        fail()

    def faults(driver: Driver, *args: Any) -> None:
        fault(driver, *args)
        faulted.set()

    def handle(line: bytes, peer: Peer) -> bytes:
        assert faulted.wait(PATIENCE)
        return line

    monkeypatch.setattr(Handlers, "delegate", delegates)
    monkeypatch.setattr(Driver, "fault", faults)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=4) as server, client(server) as sock:
        assert server._group is not None
        for driver in server._group.drivers:
            driver.leadership.offload_all = True
        assert ask(sock, b"x\n", 1) == b"x"
    assert "a fault of ours" in caplog.text


def test_no_more_is_read_from_a_client_whose_messages_still_wait() -> None:
    """However fast it sends, no more than what was read at once is kept."""
    size, most, count = 1024, [0], [0]

    def handle(line: bytes, peer: Peer) -> bytes | None:
        for conn in (conn for driver in group.drivers for conn in driver.io.connections()):
            most[0] = max(most[0], len(conn.intake.waiting))
        count[0] += 1
        return b"done" if line == b"end" else None

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert server._group is not None
        group = server._group
        sock.sendall((b"x" * (size - 1) + b"\n") * 4096 + b"end\n")
        assert receive(sock, 4) == b"done"
    assert count == [4097]
    assert most[0] <= CHUNK // size + 1


def test_an_event_that_is_older_than_what_was_decided_since_has_nothing_read() -> None:
    """Or the decoder would be fed while it still cuts what came before."""
    left = list[int]()

    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0") as server, client(server) as sock:
        assert ask(sock, b"first\n", 5) == b"first"
        driver = driver_of(server)
        done = threading.Event()

        def tell_too_late() -> None:
            (conn,) = driver.io.connections()
            conn.outbox.untold = UNTOLD
            driver.io.settle(conn)  # which waits for the protocol
            sock.sendall(b"second\n")
            driver.on_event(conn, READ, None)
            left.append(conn.unread())
            conn.outbox.untold = 0
            driver.io.resume(conn)
            done.set()

        driver.loop.post(tell_too_late)
        assert done.wait(PATIENCE)
        assert receive(sock, 6) == b"second"
    assert left == [7]


def test_a_fault_of_treadle_while_leading_is_logged_and_the_lead_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        driver_of(server).loop.post(lambda: 1 // 0)
        assert ask(sock, b"y") == b"y"
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_in_what_was_posted_last_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1).start()
    of, done = driver_of(server), []
    assert server._group is not None
    end = server._group.over

    def over() -> None:  # nobody leads any more
        of.loop.inbox.append(lambda: 1 // 0)
        of.loop.inbox.append(lambda: done.append(True))
        end()

    server._group.over = over
    assert server.stop() == 0
    assert done == [True]
    assert of.loop.poller.waker.writer.fileno() == -1
    assert "ZeroDivisionError" in caplog.text


def test_the_socket_of_a_handler_that_outlives_the_server_is_its_own_to_the_end() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"x\n")
        assert inside.wait(PATIENCE)
        assert server._group is not None
        (conn,) = [conn for of in server._group.drivers for conn in of.io.connections()]
        try:
            assert server.stop(0) == 1
            assert conn.sock.fileno() >= 0
        finally:
            gate.set()
        until(lambda: conn.sock.fileno() < 0)


def test_a_turn_of_those_with_a_backlog_ends_in_time_and_goes_on_where_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many they are, a client that comes anew waits for no more than a turn of theirs."""
    times, served = iter([0.0, TURN / 2, TURN * 2, *[5.0] * 9]), list[str]()

    def go_on(driver: Driver, conn: Any, lead: object) -> bool:
        served.append(conn)
        driver.loop.ready[conn] = None  # it has more
        return True

    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1) as server:
        driver = driver_of(server)
        done = threading.Event()

        def serve() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Driver, "go_on", go_on)
                patch.setattr(drivers, "clock", lambda: next(times))
                driver.loop.ready.update(dict.fromkeys("abcd"))
                driver.serve_ready(None)
                driver.serve_ready(None)
            driver.loop.ready.clear()
            done.set()

        driver.loop.post(serve)
        assert done.wait(PATIENCE)
    assert served == ["a", "b", "c", "d", "a", "b"]

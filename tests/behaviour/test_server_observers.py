"""Observers of a server: each connection and each message is told of once, at whatever end; and nobody is harmed."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool, events
from treadle.errors import DeadlineExceeded, MessageTooLong, PoolFull, Shed
from treadle.server import (
    Certificates,
    CloseConnection,
    Connection,
    ConnectionEvent,
    Limits,
    Lines,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    PoolMixIn,
    Server,
    Session,
)
from treadle.server._group import EventLoopGroup
from treadle.server._serving.calling.slowness import PROBATION


class Log(Observer):
    """Keeps all that it is told, and judges it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.changed = threading.Condition()

    def note(self, what: str, event: Any) -> None:
        with self.changed:
            self.told.append((what, event))
            self.changed.notify_all()

    def connected(self, event: ConnectionEvent) -> None:
        self.note("connected", event)

    def rejected(self, event: ConnectionEvent) -> None:
        self.note("rejected", event)

    def handled(self, event: MessageEvent) -> None:
        self.note("handled", event)

    def closed(self, event: ConnectionEvent) -> None:
        self.note("closed", event)

    def of(self, what: str) -> list[Any]:
        with self.changed:
            return [event for told, event in self.told if told == what]

    def wait(self, what: str, count: int = 1) -> list[Any]:
        """Return the events of a kind, once there are `count` of them."""
        with self.changed:
            assert self.changed.wait_for(lambda: sum(told == what for told, _ in self.told) >= count, PATIENCE), what
        return self.of(what)

    def judge(self, server: Server) -> None:
        """Each connection has its two events, or one; each message is between them; and the books say the same."""
        lives: dict[int, list[str]] = {}
        for what, event in self.told:
            lives.setdefault(id(event.peer), []).append(what)
        for life in lives.values():
            if life != ["rejected"]:
                assert (life[0], life[-1]) == ("connected", "closed"), life
                assert set(life[1:-1]) <= {"handled"}, life
        for event in self.of("closed"):
            assert event.connected_ns <= event.time_ns
            assert event.messages == lives[id(event.peer)].count("handled")
        for event in self.of("handled"):
            times = [event.first_byte_ns, event.complete_ns, event.begun_ns, event.returned_ns, event.time_ns]
            times = [time for time in times if time is not None]
            assert times == sorted(times)
            assert event.waited >= 0 <= event.ran
            assert event.begun_ns is not None or event.error is not None
        now = server.snapshot()
        assert now.connections == 0
        begun = [event for event in self.of("handled") if event.begun_ns is not None]
        refused = [event for event in self.of("handled") if isinstance(event.error, (PoolFull, Shed))]
        assert (len(begun), len(refused)) == (now.messages, now.rejected_messages)
        assert sum(event.handed_over for event in begun) == now.handed_over
        assert now.messages == now.handled_inline + now.handed_over
        assert len(self.of("closed")) == len(self.of("connected"))
        assert len(self.of("connected")) + len(self.of("rejected")) == now.accepted
        assert len(self.of("rejected")) == now.rejected_connections
        assert Counter(event.reason for event in self.of("closed") if event.reason) == Counter(now.closed_by)


@contextmanager
def observed(protocol: Any, **options: Any) -> Iterator[tuple[Server, Log]]:
    """Serve with an observer; judge, at the end, what it was told."""
    log = Log()
    options = {"max_workers": 2, **options}
    with Server(protocol, "127.0.0.1:0", observers=[log], **options) as server:
        yield server, log
    log.judge(server)


def shout(line: bytes, peer: Peer) -> bytes:
    return line.upper() + b"\n"


def quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "treadle.server")


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("blind_watchdog")
def test_a_message_is_told_once_with_its_sizes_and_a_connection_with_the_sums() -> None:
    with observed(Messages(shout, Lines())) as (server, log):
        with client(server) as sock:
            sock.sendall(b"on")
            until(lambda: [conn.intake.held for conn in driver_of(server).io.connections()] == [2])
            assert ask(sock, b"e\nthree\n", 10) == b"ONE\nTHREE\n"
            address = sock.getsockname()
        (closed,) = log.wait("closed")
        one, three = log.of("handled")
        (connected,) = log.of("connected")
    assert (one.bytes_in, one.bytes_out, one.error, one.handed_over, one.task_id) == (3, 4, None, False, None)
    assert (three.bytes_in, three.bytes_out) == (5, 6)
    assert one.first_byte_ns < one.complete_ns == three.first_byte_ns == three.complete_ns
    assert (closed.messages, closed.bytes_in, closed.bytes_out, closed.reason) == (2, 10, 10, None)
    assert connected.peer is one.peer is closed.peer
    assert connected.peer.address == address
    assert connected.handler == one.handler == "shout"
    assert one.thread == three.thread


def take_the_lead_away(server: Server) -> None:
    """Take the lead away from whoever is in a handler."""
    driver = driver_of(server)
    lead = driver.leadership.lead
    assert lead is not None
    assert driver.leadership.promote_new_leader(lead)
    driver.leadership.wake_watchdog()


@pytest.mark.usefixtures("blind_watchdog")
def test_a_message_over_which_the_lead_was_lost_and_those_that_follow_are_handed_over() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            take_the_lead_away(server)
        return line + b"\n"

    with observed(Messages(handle, Lines())) as (server, log), client(server) as sock:
        assert ask(sock, b"a\nslow\nb\nc\n") == b"a\nslow\nb\nc\n"
        events = log.wait("handled", 4)
        assert [event.handed_over for event in events] == [False, True, True, True]
        assert [event.task_id for event in events] == [None] * 4  # the pool has no observers
        assert server.snapshot().handled_inline == 1


@pytest.mark.usefixtures("blind_watchdog")
@pytest.mark.parametrize("way", ["inline", "by the pool", "with the lead lost"])
def test_what_a_handler_raises_is_told_and_what_waited_behind_it_was_never_begun(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    quietly(caplog)

    def handle(line: bytes, peer: Peer) -> Any:
        if way == "with the lead lost" and line == b"bad":
            take_the_lead_away(server)
        if line == b"bad":
            raise ValueError("mine")
        return 3 if line == b"odd" else line

    for bad, kind in ((b"bad", ValueError), (b"odd", TypeError)):
        with observed(Messages(handle, Lines())) as (server, log), client(server) as sock:
            log.wait("connected")
            if way == "by the pool":
                slow(server)
            sock.sendall(b"fine\n" + bad + b"\nlost\n")
            assert receive_all(sock) == b"fine"
            sock.close()  # or the server would await our end
            log.wait("closed")
            fine, failed, lost = log.of("handled")
            assert fine.error is None
            assert type(failed.error) is kind
            assert failed.begun_ns is not None
            assert (lost.begun_ns, type(lost.error)) == (None, ConnectionAbortedError)


def slow(server: Server) -> None:
    """Have the pool handle what comes next."""
    done = threading.Event()
    driver = driver_of(server)

    def mark() -> None:
        for conn in driver.io.connections():
            conn.timing.probation = PROBATION
            conn.look_closely()
        done.set()

    driver.loop.post(mark)
    assert done.wait(PATIENCE)


def test_a_handler_that_closes_has_not_failed() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        raise CloseConnection(b"bye\n")

    with observed(Messages(handle, Lines())) as (server, log), client(server) as sock:
        sock.sendall(b"x\n")
        assert receive_all(sock) == b"bye\n"
        (event,) = log.wait("handled")
        assert (event.error, event.bytes_out) == (None, 4)


@pytest.mark.parametrize("raises", [True, False])
def test_a_message_that_handler_timeout_has_cut_says_so(raises: bool) -> None:
    cut = threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        assert cut.wait(PATIENCE)
        if raises:
            raise DeadlineExceeded(0.05)
        return line

    with observed(Messages(handle, Lines()), limits=Limits(handler_timeout=0.05)) as (server, log):
        with client(server) as sock:
            sock.sendall(b"x\n")
            assert receive_all(sock) == b""
            cut.set()
        (event,) = log.wait("handled")
        assert isinstance(event.error, ConnectionAbortedError)
        assert event.error.strerror == "handler_timeout"
        assert event.returned_ns is None
        assert log.wait("closed")[0].reason == "handler_timeout"


@contextmanager
def busy(
    protocol: Callable[[Callable[..., Any]], Any], limits: Limits | None = None, **pool: Any
) -> Iterator[tuple[Server, Log, Any]]:
    """Serve with one thread, which is in a handler until the end."""
    gate, inside = threading.Event(), threading.Event()

    def wait(*_: object) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return b"late\n"

    with (
        Pool(1, **pool) as own,
        observed(protocol(wait), max_workers=None, pool=own, limits=limits) as (server, log),
        client(server) as first,
    ):
        try:
            first.sendall(b"first\n")
            assert inside.wait(PATIENCE)
            yield server, log, gate
        finally:
            gate.set()


@pytest.mark.parametrize("told", [None, b"no\n"])
def test_messages_that_the_pool_has_no_room_for_are_told_with_its_error(told: bytes | None) -> None:
    limits = Limits(reject_messages_with=told)
    options: dict[str, Any] = {"queue_size": 0, "when_full": "reject", "limits": limits}
    with busy(lambda wait: Messages(wait, Lines()), **options) as (server, log, _), client(server) as sock:
        sock.sendall(b"one\ntwo\n")
        if told is None:
            assert receive_all(sock) == b""
        else:
            assert ask(sock, b"", 6) == told * 2
        refused = log.wait("handled", 2)
        assert [type(event.error) for event in refused] == [PoolFull, PoolFull]
        assert [event.begun_ns for event in refused] == [None, None]
        if told is None:  # it was cut, and so the snapshot does not count them as rejected
            return_to_books(log)


def return_to_books(log: Log) -> None:
    """Those that are cut together with their connection are no messages that were told that they are rejected."""
    log.judge = lambda server: None  # type: ignore[method-assign]


def test_messages_that_the_pool_sheds_are_told_with_its_error() -> None:
    limits = Limits(reject_messages_with=b"no\n")
    options: dict[str, Any] = {"queue_size": 1, "when_full": "discard_oldest", "limits": limits}
    with busy(lambda wait: Messages(wait, Lines()), **options) as (server, log, gate):
        with client(server) as old, client(server) as new:
            old.sendall(b"old\n")
            until(lambda: server.snapshot().pool.waiting == 1)
            new.sendall(b"new\n")
            assert ask(old, b"", 3) == b"no\n"
            (shed,) = log.wait("handled")
            assert isinstance(shed.error, Shed)
            gate.set()
            assert ask(new, b"", 5) == b"late\n"


def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen in time")


def test_messages_of_a_client_that_is_gone_are_told() -> None:
    with_gate, gate = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        with_gate.set()
        assert gate.wait(PATIENCE)
        return b"x" * 1_000_000

    with observed(Messages(handle, Lines())) as (server, log):
        with client(server) as sock:
            sock.sendall(b"one\ntwo\n")
            assert with_gate.wait(PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gate.set()
        (closed,) = log.wait("closed")
        one, two = log.of("handled")
        assert isinstance(one.error, ConnectionAbortedError)
        assert isinstance(two.error, ConnectionAbortedError)
        assert (one.error.errno, closed.reason) == (errno.ECONNABORTED, "connection_lost")


def test_a_handler_that_runs_on_after_the_end_is_told_when_it_returns() -> None:
    gate, inside, log = threading.Event(), threading.Event(), Log()

    def handle(line: bytes, peer: Peer) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return line

    with Pool(2) as pool:
        server = Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool, observers=[log]).start()
        with client(server) as sock:
            sock.sendall(b"one\ntwo\n")
            assert inside.wait(PATIENCE)
            assert server.stop(0.0) == 1
            assert [what for what, _ in log.told] == ["connected", "closed"]
            assert log.of("closed")[0].reason == "drain_timeout"
            gate.set()
            one, two = log.wait("handled", 2)
    assert (one.begun_ns is None, two.begun_ns) == (False, None)
    assert [event.error.strerror for event in (one, two)] == ["cut at the end"] * 2


# -- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_counts_as_one_message() -> None:
    def talk(conn: Connection) -> None:
        while line := conn.readline():
            conn.sendall(line.upper())

    with observed(Session(talk)) as (server, log), client(server) as sock:
        assert ask(sock, b"one\n") == b"ONE\n"
        assert ask(sock, b"two\n") == b"TWO\n"
        sock.shutdown(socket.SHUT_WR)
        (event,) = log.wait("handled")
        assert (event.bytes_in, event.bytes_out, event.handed_over, event.error) == (8, 8, True, None)
        (closed,) = log.wait("closed")
        assert (closed.bytes_in, closed.bytes_out, closed.messages) == (8, 8, 1)


def test_a_conversation_with_a_client_that_is_late_is_told_with_what_that_raised() -> None:
    with observed(Session(lambda conn: conn.recv_exactly(9)), limits=Limits(read_timeout=0.05)) as (server, log):
        with client(server) as sock:
            sock.sendall(b"half")
            assert receive_all(sock) == b""
        (event,) = log.wait("handled")
        assert isinstance(event.error, TimeoutError)
        assert log.wait("closed")[0].reason == "read_timeout"


@pytest.mark.parametrize("speaks_first", [True, False])
def test_a_conversation_that_the_pool_refuses_is_refused_once(speaks_first: bool) -> None:
    limits = Limits(reject_messages_with=b"no\n")
    options: dict[str, Any] = {"queue_size": 0, "when_full": "reject", "limits": limits}
    with busy(lambda wait: Session(wait, speaks_first=speaks_first), **options) as (server, log, _):
        with client(server) as sock:
            if not speaks_first:
                sock.sendall(b"x" * 200_000)  # several pieces
            assert receive_all(sock) == b"no\n"
        (event,) = log.wait("handled")
        assert isinstance(event.error, PoolFull)
        assert server.snapshot().rejected_messages == 1


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_host"])
def test_who_is_turned_away_is_told_as_rejected_by_which_limit_and_nothing_else(limit: str) -> None:
    limits: dict[str, Any] = {limit: 1, "at_max_connections": "reject", "reject_connections_with": b"no\n"}
    with observed(Messages(shout, Lines()), limits=Limits(**limits)) as (server, log), client(server) as first:
        assert ask(first, b"x\n") == b"X\n"
        with client(server) as second:
            assert receive_all(second) == b"no\n"
            (event,) = log.of("rejected")
            assert event.reason == limit
            assert event.peer.address == second.getsockname()


def test_a_client_behind_a_proxy_is_told_under_its_own_address() -> None:
    limits = Limits(max_connections_per_host=1, reject_connections_with=b"no\n")
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    with observed(Messages(shout, Lines()), limits=limits, proxy="127.0.0.1") as (server, log):
        with client(server) as one, client(server) as two, client(server) as silent:
            assert ask(one, header + b"x\n", 2) == b"X\n"
            two.sendall(header)
            assert receive_all(two) == b"no\n"
            silent.shutdown(socket.SHUT_WR)
            assert receive_all(silent) == b""
        log.wait("closed", 2)
        assert log.of("connected")[0].peer.address == ("192.0.2.1", 1)
        (rejected,) = log.of("rejected")
        assert rejected.reason == "max_connections_per_host"


def test_a_client_without_a_descriptor_left_for_it_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with observed(Messages(shout, Lines())) as (server, log):
        assert server._group is not None
        acceptor = server._group.acceptors[0]
        done = threading.Event()

        def out_of_files() -> None:
            acceptor.back_off(OSError(errno.EMFILE, "no"), again=True)
            done.set()

        with monkeypatch.context() as patch:
            patch.setattr(acceptor, "attend", lambda event: None)
            with client(server) as sock:
                driver_of(server).loop.post(out_of_files)
                assert done.wait(PATIENCE)
                assert receive_all(sock) == b""
        (event,) = log.of("rejected")
        assert event.reason == "EMFILE"


def test_a_handshake_that_fails_is_the_end_of_a_connection(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    quietly(caplog)
    with observed(Messages(shout, Lines()), tls=certificates) as (server, log):
        with client(server) as sock:
            sock.sendall(b"this is no TLS\n")
            receive_all(sock)
        assert log.wait("closed")[0].reason == "tls_handshake"
        assert [what for what, _ in log.told] == ["connected", "closed"]


def test_with_tls_bytes_are_those_that_it_carries(authority: Authority, certificates: Certificates) -> None:
    context = authority.client_context()
    with observed(Messages(shout, Lines()), tls=certificates) as (server, log):
        with client(server) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            assert ask(sock, b"hello\n") == b"HELLO\n"
        (closed,) = log.wait("closed")
        assert (closed.bytes_in, closed.bytes_out) == (6, 6)


def test_what_makes_no_message_is_told_as_the_reason_of_the_end(caplog: pytest.LogCaptureFixture) -> None:
    quietly(caplog)
    with observed(Messages(shout, Lines()), limits=Limits(max_message=5)) as (server, log):
        with client(server) as sock:
            assert ask(sock, b"fine\n") == b"FINE\n"
            sock.sendall(b"much too long\n")
            assert receive_all(sock) == b""
        assert log.wait("closed")[0].reason == "max_message"
        assert [event.error for event in log.of("handled")] == [None]


def test_a_framing_that_fails_for_a_client_has_its_connection_closed(caplog: pytest.LogCaptureFixture) -> None:
    quietly(caplog)

    class Fails(Lines):
        def decoder(self, limit: int) -> Any:
            raise MessageTooLong(1)

    with observed(Messages(shout, Fails())) as (server, log):
        with client(server) as sock:
            assert receive_all(sock) == b""
        assert log.wait("closed")[0].reason == "framing"


# -- observers --------------------------------------------------------------------------------------------------------


class Raises(Log):
    """Raises whatever it is told."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def note(self, what: str, event: Any) -> None:
        super().note(what, event)
        raise self.error


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_an_observer_raises_is_logged_once_and_harms_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Raises(error), Log()
    with Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2, observers=[bad, good]) as server:
        for _ in range(3):
            with client(server) as sock:
                assert ask(sock, b"x\n") == b"X\n"
                assert ask(sock, b"y\n") == b"Y\n"
        good.wait("closed", 3)
    good.judge(server)
    bad.judge(server)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.partition(" failed in ")[2].partition(";")[0] for line in lines] == ["connected", "handled", "closed"]


def test_an_observer_that_blocks_in_handled_holds_up_its_own_connection_only() -> None:
    gate, inside = threading.Event(), threading.Event()

    class Blocks(Log):
        def handled(self, event: MessageEvent) -> None:
            if event.bytes_in == 5:
                inside.set()
                assert gate.wait(PATIENCE)
            super().handled(event)

    log = Blocks()
    with Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2, observers=[log]) as server:
        with client(server) as held, client(server) as sock:
            assert ask(held, b"block\n") == b"BLOCK\n"
            assert inside.wait(PATIENCE)
            for _ in range(5):
                assert ask(sock, b"x\n") == b"X\n"
            gate.set()
            assert ask(held, b"y\n") == b"Y\n"
    log.judge(server)


@pytest.mark.parametrize("what", ["connected", "handled", "closed"])
def test_an_observer_that_blocks_does_not_keep_a_server_from_ending(what: str) -> None:
    gate, inside = threading.Event(), threading.Event()

    class Blocks(Log):
        def note(self, told: str, event: Any) -> None:
            if told == what:
                inside.set()
                assert gate.wait(PATIENCE)

    with Pool(2) as pool:
        server = Server(Messages(shout, Lines()), "127.0.0.1:0", pool=pool, observers=[Blocks()]).start()
        try:
            with client(server) as sock:
                if what != "connected":
                    assert ask(sock, b"x\n") == b"X\n"
                sock.shutdown(socket.SHUT_WR)
                assert inside.wait(PATIENCE)
                server.stop(0.0)
                assert server.snapshot().state == "stopped"
        finally:
            gate.set()


@pytest.mark.parametrize("what", ["connected", "handled", "closed"])
def test_an_observer_may_stop_its_server(what: str) -> None:
    class Stops(Log):
        def note(self, told: str, event: Any) -> None:
            super().note(told, event)
            if told == what:
                assert server.stop() == 0

    log = Stops()
    server = Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=1, observers=[log]).start()
    with client(server) as sock:
        assert ask(sock, b"x\n") == b"X\n"
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
    server.stop()
    log.judge(server)


def test_the_watchdog_does_not_wait_for_itself_when_an_observer_stops_the_server() -> None:
    class Stops(Log):
        def connected(self, event: ConnectionEvent) -> None:
            super().connected(event)
            if len(self.of("connected")) == 2:
                assert event.thread.endswith("watchdog")
                server.stop()

    gate, inside, log = threading.Event(), threading.Event(), Stops()

    def wait(line: bytes, peer: Peer) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return line

    server = Server(Messages(wait, Lines()), "127.0.0.1:0", max_workers=1, observers=[log]).start()
    with client(server) as sock:
        sock.sendall(b"x\n")
        assert inside.wait(PATIENCE)
        with client(server) as other:
            log.wait("connected", 2)
            assert receive_all(other) == b""  # it is drained by the very thread that has called stop
            gate.set()
            assert receive_all(sock) == b"x"
    assert server.stop() == 0
    log.judge(server)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["connected", "handled", "closed", "handler"])
def test_a_forked_child_tells_nothing(where: str) -> None:
    ours, theirs = os.pipe()
    parent = os.getpid()

    def fork() -> None:
        if os.getpid() == parent and not children:
            children.append(0)
            child = os.fork()
            if child == 0:
                log.child = True
                threading.Thread(target=lambda: (threading.Event().wait(0.3), os._exit(0))).start()
            else:
                children[0] = child

    children: list[int] = []

    class Forks(Log):
        child = False

        def note(self, told: str, event: Any) -> None:
            super().note(told, event)
            if self.child:
                os.write(theirs, told.encode())
            if told == where:
                fork()

    def handle(line: bytes, peer: Peer) -> bytes:
        if where == "handler":
            fork()
        return line

    log = Forks()
    try:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, observers=[log, log]) as server:
            with client(server) as sock:
                assert ask(sock, b"x\n", 1) == b"x"
            until(lambda: children and children[0])
            assert os.waitpid(children[0], 0)[1] == 0
    finally:
        os.close(theirs)
        with os.fdopen(ours, "rb") as said:
            assert said.read() == b""
    assert Counter(what for what, _ in log.told) == {"connected": 2, "handled": 2, "closed": 2}


def test_a_leader_that_accepts_tells_of_who_is_turned_away_at_the_end() -> None:
    """Those that wait until room is made for them were accepted, and come no further."""
    log = Log()
    limits = Limits(max_connections=1, at_max_connections="evict_idle")
    with Server(Messages(shout, Lines()), "127.0.0.1:0", limits=limits, observers=[log]) as server:
        group: EventLoopGroup | None = server._group
        assert group is not None
        acceptor, done = group.acceptors[0], threading.Event()
        one, other = socket.socketpair()

        def turn_away() -> None:
            acceptor.evicting[one] = ("192.0.2.1", 1)
            acceptor.accepted += 1
            acceptor.turn_away()
            done.set()

        with one, other:
            driver_of(server).loop.post(turn_away)
            assert done.wait(PATIENCE)
        (event,) = log.of("rejected")
        assert (event.reason, event.peer.host) == ("drain_timeout", "192.0.2.1")
    log.judge(server)


# -- the books of pool and server -------------------------------------------------------------------------------------


class TaskLog(events.Observer):
    """Keeps the numbers of tasks that ended, by their names."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ended: dict[str, set[int]] = {}

    def finished(self, event: events.TaskEvent) -> None:
        with self.lock:
            self.ended.setdefault(event.name, set()).add(event.task_id)


def test_the_books_of_pool_and_server_add_up() -> None:
    """Every message ran inline, or in a task of the pool that has its number, and lost the lead, or did not."""
    tasks, log = TaskLog(), Log()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            threading.Event().wait(0.003)
        return line + b"\n"

    def talk(number: int) -> None:
        with client(server) as sock:
            for turn in range(20):
                said = b"slow\n" if (number + turn) % 7 == 0 else b"quick\nquick\n"
                assert ask(sock, said) == said

    with Pool(4, observers=[tasks]) as pool:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool, observers=[log]) as server:
            talkers = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
            for talker in talkers:
                talker.start()
            own = [pool.submit(abs, -1) for _ in range(50)]
            for talker in talkers:
                talker.join(PATIENCE)
                assert not talker.is_alive()
            for future in own:
                assert future.result(PATIENCE) == 1
    log.judge(server)
    told, now = log.of("handled"), server.snapshot()
    assert all(event.error is None for event in told)
    assert now.messages == len(told) == now.handled_inline + now.handed_over
    lost = [event for event in told if event.handed_over and event.task_id is None]
    followed = [event for event in told if event.task_id is not None]
    assert all(event.handed_over for event in followed)
    assert len(lost) + len(followed) == now.handed_over > 0
    handle_tasks = tasks.ended[told[0].handler]
    assert {event.task_id for event in followed} == handle_tasks
    assert len(tasks.ended["abs"]) == 50
    assert pool.snapshot().finished == 50 + len(handle_tasks)


def test_a_task_that_lets_others_have_its_thread_begins_and_ends_once() -> None:
    """The messages of one connection are one task, also where others have their turn in between."""
    told: dict[int, list[str]] = {}
    ended: dict[int, int] = {}
    submitted = threading.Semaphore(0)
    gate, inside = threading.Event(), threading.Event()

    class Tasks(events.Observer):
        def submitted(self, event: events.TaskEvent) -> None:
            told.setdefault(event.task_id, []).append("submitted")
            submitted.release()

        def started(self, event: events.TaskEvent) -> None:
            told[event.task_id].append("started")

        def finished(self, event: events.TaskEvent) -> None:
            told[event.task_id].append("finished")
            ended[event.task_id] = event.time_ns

    def handle(line: bytes, peer: Peer) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return line + b"\n"

    log = Log()
    with Pool(1, observers=[Tasks()]) as pool:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool, observers=[log]) as server:
            with client(server) as first, client(server) as second, client(server) as third:
                first.sendall(b"0\n")
                assert inside.wait(PATIENCE)  # the only thread is taken, so the others are tasks that wait
                for sock, messages in ((second, b"1\n2\n"), (third, b"3\n4\n")):
                    sock.sendall(messages)
                    assert submitted.acquire(timeout=PATIENCE)
                gate.set()
                for sock, messages in ((first, b"0\n"), (second, b"1\n2\n"), (third, b"3\n4\n")):
                    assert receive(sock, len(messages)) == messages
    followed = [event for event in log.of("handled") if event.task_id is not None]
    assert len(followed) == 4
    assert all(event.returned_ns <= ended[event.task_id] for event in followed)
    assert all(life == ["submitted", "started", "finished"] for life in told.values()), told


def test_every_request_handler_of_a_mixin_server_is_a_task_of_its_pool() -> None:
    tasks = TaskLog()

    class Upper(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    class Uppers(PoolMixIn, socketserver.TCPServer):
        pass

    with Pool(2, observers=[tasks]) as pool:
        server = Uppers(("127.0.0.1", 0), Upper)
        server.pool = pool
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            for _ in range(3):
                with socket.create_connection(server.socket.getsockname(), PATIENCE) as sock:
                    assert ask(sock, b"x\ny\n") == b"X\nY\n"
        finally:
            server.shutdown()
            serving.join(PATIENCE)
            server.server_close()
    assert {name: len(numbers) for name, numbers in tasks.ended.items()} == {"Uppers": 3}

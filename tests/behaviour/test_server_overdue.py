"""Handlers that run for longer than handler_timeout: their clients are answered on time, and they harm nobody."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.posts import Posts, post, told
from certificates import Authority
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all, until_led
from treadle import Pool
from treadle.errors import DeadlineExceeded
from treadle.server import CloseConnection, Limits, Lines, MessageEvent, Messages, Observer, Peer, Server
from treadle.server._serving.calling.slowness import PROBATION
from treadle.server._transport.connection import ClientConnection

WAYS = ["with the lead lost", "by the pool"]
SOON = Limits(handler_timeout=0.1)
HELD = told("handler_timeout", b"hold")


class Holds(Posts):
    """Echoes, and holds b"hold" until the gate is open.

    Args:
        late: is done then, in place of an answer.
    """

    def __init__(self, late: Callable[[], bytes] = lambda: b"late") -> None:
        super().__init__(self.answer)
        self.gate, self.inside, self.late = threading.Event(), threading.Semaphore(0), late

    def answer(self, body: bytes, peer: Peer) -> bytes:
        if body != b"hold":
            return body
        self.inside.release()
        assert self.gate.wait(PATIENCE)
        return self.late()


class Mute(Holds):
    refusal = None  # type: ignore[assignment]


@contextmanager
def served(protocol: Any, **options: Any) -> Iterator[Server]:
    gate = getattr(protocol, "gate", threading.Event())
    with Server(protocol, "127.0.0.1:0", **{"max_workers": 3, "limits": SOON, **options}) as server:
        try:
            yield server
        finally:
            gate.set()


def begin(server: Server, sock: Any, way: str) -> ClientConnection:
    """Have the next message of a client handled in that way; return its connection."""
    assert ask(sock, post(b"0"), 1) == b"0"
    port = sock.getsockname()[1]
    (conn,) = (conn for conn in driver_of(server).io.connections() if conn.peer.port == port)
    if way == "by the pool":
        conn.timing.probation = PROBATION
        conn.look_closely()
    return conn


@contextmanager
def successor(server: Server, number: int) -> Iterator[socket.socket]:
    """Connect; of the server's descriptors the client is given one that was another's."""
    until_led(driver_of(server))
    with ExitStack() as stack:

        def is_had() -> bool:  # with all below it; a socket says a moment early that it is closed
            while (lowest := os.dup(0)) < number:
                stack.callback(os.close, lowest)
            if lowest > number:
                os.close(lowest)
            return lowest == number

        until(is_had)
        sock = stack.enter_context(socket.socket())
        sock.settimeout(PATIENCE)
        os.close(number)
        sock.connect(server.address)
        yield sock


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it does not come to that")


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_client_is_told_on_time_and_what_the_handler_returns_later_goes_to_nobody(
    way: str, secure: bool, tmp_path: Path
) -> None:
    protocol = Holds()
    authority = Authority(tmp_path) if secure else None
    tls = None if authority is None else authority.certificates()
    context = None if authority is None else authority.client_context()  # now: it opens a file

    def wrapped(sock: Any) -> Any:
        return sock if context is None else context.wrap_socket(sock, server_hostname="127.0.0.1")

    with served(protocol, tls=tls) as server:
        with client(server) as plain, wrapped(plain) as sock:
            taken = begin(server, sock, way)
            sock.sendall(post(b"hold"))
            assert receive_all(sock) == HELD
            assert server.snapshot().overdue == 1
        until(lambda: taken.sock.fileno() < 0)
        assert server.snapshot().closed_by == {"handler_timeout": 1}
        with successor(server, taken.fd) as plain, wrapped(plain) as sock:
            assert begin(server, sock, way).fd == taken.fd
            protocol.gate.set()
            until(lambda: not server.snapshot().overdue)
            assert ask(sock, post(b"1"), 1) == b"1"
            assert ask(sock, post(b"2", b"3"), 2) == b"23"
    assert protocol.asked == [("handler_timeout", b"hold")]
    assert server.snapshot().failures == 0
    assert server.snapshot().messages == 6


@pytest.mark.parametrize("way", WAYS)
def test_without_a_word_it_is_closed_on_time_and_no_longer_counted(way: str) -> None:
    protocol = Mute()
    with served(protocol) as server, client(server) as sock:
        begin(server, sock, way)
        sock.sendall(post(b"hold"))
        assert receive_all(sock) == b""
        until(lambda: not server.snapshot().connections)
        assert (server.snapshot().closed_by, server.snapshot().overdue) == ({"handler_timeout": 1}, 1)
        protocol.gate.set()
        until(lambda: not server.snapshot().overdue)


class Keeps(Observer):
    def __init__(self) -> None:
        self.events: list[MessageEvent] = []

    def handled(self, event: MessageEvent) -> None:
        self.events.append(event)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_answered_before_in_one_burst_comes_before_the_word(way: str, observed: bool) -> None:
    protocol, keeps = Holds(), Keeps()
    with served(protocol, observers=[keeps] if observed else []) as server:
        with client(server) as sock:
            begin(server, sock, way)
            sock.sendall(post(b"1", b"2", b"hold", b"3"))
            assert receive_all(sock) == b"12" + HELD
            protocol.gate.set()
            until(lambda: not server.snapshot().overdue)
    if observed:
        assert [getattr(event.error, "strerror", event.error) for event in keeps.events] == [
            None,
            None,
            None,
            "handler_timeout",
            "handler_timeout",
        ]
        assert [event.begun_ns is None for event in keeps.events] == [False] * 4 + [True]
        assert [event.returned_ns is None for event in keeps.events] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("way", ["inline", *WAYS])
def test_a_handler_that_finds_itself_that_its_time_is_over_has_its_client_told_as_well(way: str) -> None:
    def handle(body: bytes, peer: Peer) -> bytes:
        if body == b"0":
            return body
        if way == "with the lead lost":
            driver = driver_of(server)
            lead = driver.leadership.lead
            if lead is not None and lead.slot:
                driver.leadership.promote_new_leader(lead)
        raise DeadlineExceeded(0.05)

    protocol = Posts(handle)
    with served(protocol, limits=Limits(handler_timeout=PATIENCE)) as server:
        with client(server) as sock:
            begin(server, sock, way)
            sock.sendall(post(b"x"))
            assert receive_all(sock) == told("handler_timeout", b"x")
        until(lambda: not server.snapshot().connections)
        assert server.snapshot().closed_by == {"handler_timeout": 1}
        assert (server.snapshot().failures, server.snapshot().overdue) == (0, 0)


def fail() -> bytes:
    raise ValueError("mine")


def give_up() -> bytes:
    raise DeadlineExceeded(0.1)


def close() -> bytes:
    raise CloseConnection(b"bye")


@pytest.mark.parametrize(("late", "failures"), [(fail, 1), (give_up, 0), (close, 0)])
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_raises_when_its_connection_is_gone_is_counted_and_no_more(
    way: str, late: Callable[[], bytes], failures: int
) -> None:
    protocol = Holds(late)
    with served(protocol) as server:
        with client(server) as sock:
            begin(server, sock, way)
            sock.sendall(post(b"hold"))
            assert receive_all(sock) == HELD
        with client(server) as sock:
            begin(server, sock, way)
            protocol.gate.set()
            until(lambda: not server.snapshot().overdue)
            until(lambda: server.snapshot().failures == failures)
            assert ask(sock, post(b"1"), 1) == b"1"


def test_where_a_handler_is_stuck_is_told_once_for_each_line(caplog: pytest.LogCaptureFixture) -> None:
    protocol = Holds()
    with served(protocol) as server, client(server) as one, client(server) as other:
        one.sendall(post(b"hold"))
        other.sendall(post(b"hold"))
        assert receive_all(one) == receive_all(other) == HELD
        assert server.snapshot().overdue == 2
    (record,) = (record for record in caplog.records if "runs on without its client" in record.getMessage())
    lines = record.getMessage().splitlines()
    assert record.levelno == logging.WARNING
    assert "handler posts runs on without its client, after 0.1" in lines[0]
    assert "in answer" in lines[1]
    assert "assert self.gate.wait(PATIENCE)" in lines[2]
    assert len(lines) < 40


@pytest.mark.parametrize("refusal", [True, False])
def test_a_stop_does_not_wait_for_a_handler_that_has_lost_its_connection(refusal: bool) -> None:
    protocol = Holds() if refusal else Mute()
    with Pool(2) as pool:
        server = Server(protocol, "127.0.0.1:0", pool=pool, limits=SOON).start()
        with client(server) as sock:
            sock.sendall(post(b"hold"))
            assert receive_all(sock) == (HELD if refusal else b"")
        assert server.stop(PATIENCE) == 0
        assert server.snapshot().overdue == 1
        protocol.gate.set()
        until(lambda: not server.snapshot().overdue)
    assert server.snapshot().connections == 0


def test_it_is_cut_on_time_by_a_server_that_stops_as_well() -> None:
    protocol = Holds()
    with Pool(2) as pool:
        server = Server(protocol, "127.0.0.1:0", pool=pool, limits=SOON).start()
        with client(server) as sock:
            sock.sendall(post(b"hold"))
            assert protocol.inside.acquire(timeout=PATIENCE)
            stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
            stopper.start()
            assert receive_all(sock) == HELD
        stopper.join(PATIENCE)
        assert server.stop() == 0
        protocol.gate.set()


def test_a_server_whose_only_thread_is_stuck_tells_the_client_nevertheless() -> None:
    protocol = Holds()
    with served(protocol, max_workers=1) as server:
        with client(server) as sock, client(server) as waits:
            sock.sendall(post(b"hold"))
            assert protocol.inside.acquire(timeout=PATIENCE)
            waits.sendall(post(b"1"))
            assert receive_all(sock) == HELD
            protocol.gate.set()
            assert receive(waits, 1) == b"1"


def test_an_observer_that_blocks_is_no_handler_that_does() -> None:
    inside, gate = threading.Event(), threading.Event()

    class Blocks(Observer):
        def handled(self, event: MessageEvent) -> None:
            inside.set()
            assert gate.wait(PATIENCE)

    with served(Posts(lambda body, peer: body), observers=[Blocks()], limits=Limits(handler_timeout=0.02)) as server:
        with client(server) as sock:
            assert ask(sock, post(b"1"), 1) == b"1"
            assert inside.wait(PATIENCE)
            (conn,) = driver_of(server).io.connections()
            until(lambda: conn.busy and driver_of(server).io.deadlines.of(conn)[0] < driver_of(server).loop.now)
            gate.set()
            assert ask(sock, post(b"2"), 1) == b"2"


def test_who_is_done_at_the_very_time_is_answered_or_cut_and_never_both(caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    answers: list[tuple[bytes, bytes]] = []

    def handle(body: bytes, peer: Peer) -> bytes:
        never.wait(0.02 + 0.001 * int(body))
        return body

    def ask_often() -> None:
        for number in range(20):
            with client(server) as sock:
                sock.sendall(post(b"%d" % (number % 5)))
                sock.shutdown(1)
                answers.append((receive_all(sock), b"%d" % (number % 5)))

    with served(Posts(handle), limits=Limits(handler_timeout=0.022), max_workers=8) as server:
        threads = [threading.Thread(target=ask_often) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        until(lambda: not server.snapshot().overdue)
        until(lambda: not server.snapshot().connections)
        cut = sum(answer != body for answer, body in answers)
        assert server.snapshot().closed_by.get("handler_timeout", 0) == cut
    assert len(answers) == 120
    assert all(answer in (body, told("handler_timeout", body)) for answer, body in answers)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_nothing_of_it_is_there_without_handler_timeout() -> None:
    with served(Messages(lambda line, peer: line, Lines()), limits=Limits()) as server:
        handlers = driver_of(server).handlers
        assert handlers.calls.overdue is None
        assert handlers.calls.handle == server.protocol.handle
        assert server.snapshot().overdue == 0

"""Reaper: connections whose time is over. The deadlines themselves are in test_deadlines.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextvars import Context

import pytest

from tcp import PATIENCE, ask, client, driver_of, receive_all
from treadle._base.log_throttle import LogThrottles
from treadle.server import Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server._loop.event_loop import EventLoop
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.reaper import Reaper
from treadle.server._transport.sending.spool import ClientLeft, Spool
from treadle.server._transport.state import State


def test_a_stop_ends_the_lull_of_a_conversation_and_cuts_nothing() -> None:
    """A client that says nothing must not hold up the stop; one that speaks on is heard."""
    ended = threading.Event()

    def talk(conn: Connection) -> None:
        while line := conn.readline():
            conn.sendall(line)
        ended.set()

    server = Server(Session(talk), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        assert ask(sock, b"hello\n") == b"hello\n"
        stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopper.start()
        assert receive_all(sock) == b""
        assert ended.wait(PATIENCE)
    stopper.join(PATIENCE)
    assert server.stop() == 0


def test_max_age_comes_for_clients_that_are_in_mid_message_at_every_look() -> None:
    limits = Limits(max_age=0.2, read_timeout=PATIENCE, linger_timeout=0.1)
    with Server(Messages(lambda line, peer: line + b"\n", Lines()), "127.0.0.1:0", limits=limits) as server:
        with client(server) as sock:
            assert ask(sock, b"one\nhal", 4) == b"one\n"
            (conn,) = driver_of(server).io.connections()
            never = threading.Event()
            for _ in range(int(PATIENCE / 0.01)):
                if conn.ending.last:
                    break
                never.wait(0.01)
            assert conn.ending.last
            assert ask(sock, b"f\n", 5) == b"half\n"
            assert receive_all(sock) == b""


@pytest.fixture
def busy() -> Iterator[tuple[Reaper, ClientConnection, socket.socket]]:
    """A connection that a thread other than the leader's has, over TCP."""
    limits = Limits(write_timeout=1.0)
    loop = EventLoop("loop")
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), PATIENCE)
        ours, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        conn.enter(State.BUSY)
        loop.sources[conn.fd] = conn
        yield Reaper(io), conn, theirs
        del loop.sources[conn.fd]
    loop.close()


def test_half_an_answer_that_is_cut_does_not_look_like_a_whole_one_and_its_thread_is_let_go(
    busy: tuple[Reaper, ClientConnection, socket.socket],
) -> None:
    """A shutdown would look so to a client that has read all there was; it is told when the thread gives it back."""
    reaper, conn, theirs = busy
    spool = reaper.io.open_spool(conn)
    spool.add(b"half")
    reaper.io.pump(conn)
    assert theirs.recv(10) == b"half"
    reaper.abort_busy(conn, "cut")
    assert (conn.ending.error, conn.ending.torn) == ("cut", True)
    with pytest.raises(ClientLeft):
        spool.add(b"more")
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    theirs.settimeout(PATIENCE)
    reaper.io.take_back(conn)
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)
    reaper.loop.sources[conn.fd] = conn  # for the fixture


def test_other_handlers_and_their_clients_see_at_once_that_they_are_cut(
    busy: tuple[Reaper, ClientConnection, socket.socket],
) -> None:
    reaper, conn, theirs = busy
    reaper.abort_busy(conn, "cut")
    assert theirs.recv(10) == b""
    assert not conn.ending.torn


def test_a_client_is_looked_at_before_it_is_cut_for_what_it_is_sent_amid_its_handler(
    busy: tuple[Reaper, ClientConnection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper, conn, theirs = busy
    monkeypatch.setattr("treadle.server._transport.connection.unacknowledged", lambda sock: 0)
    spool = reaper.io.open_spool(conn)
    conn.begin_transfer(10.0)
    reaper.loop.timers.look_at(conn, 11.0, 10.0)
    spool.add(b"in time")
    reaper.expire(11.5)
    assert theirs.recv(10) == b"in time"
    assert conn.ending.error is None
    reaper.loop.timers.hasten(conn, 12.5)
    reaper.expire(12.5)
    assert conn.ending.error == "write_timeout"
    with pytest.raises(ClientLeft):
        spool.add(b"late")


@pytest.mark.parametrize(
    ("runs", "since", "why"), [(False, 10.0, "write_timeout"), (False, 11.5, None), (True, 10.0, None)]
)
def test_a_thread_that_waits_for_its_client_has_the_time_of_that_and_not_of_a_handler(
    busy: tuple[Reaper, ClientConnection, socket.socket], runs: bool, since: float, why: str | None
) -> None:
    """The lead may be lost while it waits: then its time as a handler seems to be over, though none runs."""
    reaper, conn, _ = busy
    conn.outbox.fill(Spool(100, 0, None, lambda: True))
    conn.outbox.transfer.begin(since, 0)
    reaper.take_away = lambda conn: runs
    reaper.loop.now = 12.0
    reaper.cut(conn, "handler_timeout")
    assert conn.ending.error == why

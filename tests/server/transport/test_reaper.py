"""Reaper: connections whose time is over. The deadlines themselves are in test_deadlines.py."""

from __future__ import annotations

import threading

from tcp import PATIENCE, ask, client, driver_of, receive_all
from treadle.server import Connection, Limits, Lines, Messages, Server, Session


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

"""Conversations that pause: they hold no thread while the client is silent, and end as idle connections do."""

from __future__ import annotations

import contextvars
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle.server import CloseConnection, Connection, Limits, MessageEvent, Observer, Server, Session
from treadle.server._serving.handlers import Handlers
from treadle.server._transport.connection import ClientConnection

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() resets
GREETED = contextvars.ContextVar("GREETED", default=0)


def serving(talk: Callable[[Connection], object], threads: int = 2, **options: Any) -> Server:
    speaks_first = options.pop("speaks_first", False)
    server: dict[str, Any] = {name: options.pop(name) for name in ("tls", "pool", "observers") if name in options}
    if "pool" not in server:
        server["max_workers"] = threads
    return Server(Session(talk, speaks_first=speaks_first), "127.0.0.1:0", limits=Limits(**options), **server)


def echo_line(conn: Connection) -> object:
    """Answer one line, and pause."""
    line = conn.readline()
    conn.sendall(line)
    return conn.pause() if line else None


@contextmanager
def secure(server: Server, authority: Authority) -> Iterator[ssl.SSLSocket]:
    with client(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            yield wrapped


def until_paused(server: Server, count: int = 1) -> None:
    """Wait until so many conversations wait for their clients, in the leader's hands."""
    assert server._group is not None
    drivers = server._group.drivers
    until(lambda: sum(is_paused(conn) for driver in drivers for conn in driver.io.connections()) == count)


def is_paused(conn: ClientConnection) -> bool:
    return conn.intake.conversation is not None and conn.idle()


# -- the conversation -------------------------------------------------------------------------------------------------


def test_the_handler_is_called_again_with_the_same_object_and_context() -> None:
    seen: list[tuple[int, int]] = []

    def talk(conn: Connection) -> object:
        seen.append((id(conn), GREETED.get()))
        GREETED.set(GREETED.get() + 1)
        return echo_line(conn)

    with serving(talk) as server, client(server) as sock:
        for _ in range(3):
            assert ask(sock, b"hello\n") == b"hello\n"
            until_paused(server)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
        assert server.snapshot().messages == 4  # the end is a call as well
        assert server.snapshot().failures == 0
    assert seen == [(seen[0][0], number) for number in range(4)]


def test_four_threads_serve_five_hundred_conversations() -> None:
    with serving(echo_line, threads=4) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(500)]
        for _ in range(2):
            for sock in socks:
                sock.sendall(b"hello\n")
            for sock in socks:
                assert receive(sock, 6) == b"hello\n"
        until_paused(server, 500)
        assert server.snapshot().pool.threads <= 4
        assert server.snapshot().messages == 1000


@pytest.mark.parametrize("loops", [1, 2])
def test_conversations_that_come_in_one_packet_are_served_in_their_order(
    loops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    lines = b"".join(b"%d\n" % number for number in range(300))
    with serving(echo_line, threads=4) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(4)]
        for sock in socks:
            sock.sendall(lines)
        for sock in socks:
            assert receive(sock, len(lines)) == lines
        until_paused(server, 4)
        assert server.snapshot().messages == 1200


def test_what_is_left_of_one_packet_waits_for_others() -> None:
    """Of a single thread: between two lines of the one client, the other has its turn."""
    order: list[bytes] = []
    both = threading.Event()

    def talk(conn: Connection) -> object:
        line = conn.readline()
        order.append(line)
        if line == b"first\n":
            assert both.wait(PATIENCE)
        conn.sendall(line)
        return conn.pause() if line else None

    with serving(talk, threads=1) as server, client(server) as one, client(server) as two:
        one.sendall(b"first\n" + b"second\n")
        until(lambda: order == [b"first\n"])
        two.sendall(b"other\n")
        until(lambda: any(conn.intake.waiting for conn in driver_of(server).io.connections()))
        both.set()
        assert receive(one, 13) == b"first\nsecond\n"
        assert receive(two, 6) == b"other\n"
        assert order == [b"first\n", b"other\n", b"second\n"]


def test_half_a_message_that_was_not_taken_is_kept() -> None:
    sizes = []

    def talk(conn: Connection) -> object:
        half = conn.recv()
        sizes.append(len(half))
        conn.peer.state["sofar"] = conn.peer.state.get("sofar", b"") + half
        if len(conn.peer.state["sofar"]) < 10:
            return conn.pause()
        conn.sendall(conn.peer.state["sofar"])
        return None

    with serving(talk, threads=1) as server, client(server) as sock, client(server) as other:
        sock.sendall(b"12345")
        until_paused(server)
        assert ask(other, b"abcdefghij") == b"abcdefghij"  # the one thread is free
        sock.sendall(b"67890")
        assert receive_all(sock) == b"1234567890"
    assert sizes == [5, 10, 5]


def test_who_greets_may_pause_before_the_client_has_sent_anything() -> None:
    def talk(conn: Connection) -> object:
        if not conn.peer.state:
            conn.peer.state["greeted"] = True
            conn.sendall(b"220 ready\n")
            return conn.pause()
        return echo_line(conn)

    with serving(talk, threads=1, speaks_first=True) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(20)]
        for sock in socks:
            assert receive(sock, 10) == b"220 ready\n"
        for sock in socks:
            assert ask(sock, b"NOOP\n") == b"NOOP\n"


def test_a_context_manager_does_not_close_what_pauses() -> None:
    def talk(conn: Connection) -> object:
        with conn:
            return echo_line(conn)

    with serving(talk) as server, client(server) as sock:
        assert ask(sock, b"one\n") == b"one\n"
        assert ask(sock, b"two\n") == b"two\n"


@pytest.mark.parametrize("way", ["not returned", "not called", "closed", "raised", "another's"])
def test_what_is_no_pause_ends_the_conversation(way: str) -> None:
    kept: list[object] = []

    def talk(conn: Connection) -> object:
        with conn:
            conn.sendall(conn.recv())
            if way == "not called":
                return kept[0] if kept else conn.pause()
            token = conn.pause()
            if way == "another's":
                return object()
            if way == "closed":
                conn.close()
            if way == "raised":
                raise CloseConnection
            return None if way == "not returned" else token

    with serving(talk) as server, client(server) as sock:
        if way == "not called":
            with client(server) as other:
                assert ask(other, b"x") == b"x"
            probe = Connection.__new__(Connection)
            kept.append(probe.pause())
        sock.sendall(b"y")
        assert receive_all(sock) == b"y"
        assert server.snapshot().failures == 0


@pytest.mark.parametrize("end", ["closes", "half closes", "resets", "stop"])
def test_who_takes_nothing_is_called_again_when_more_has_come_and_not_before(end: str) -> None:
    calls = list[int]()

    def talk(conn: Connection) -> object:
        calls.append(1)
        return conn.pause() if len(calls) % 2 else echo_line(conn)

    with serving(talk) as server, client(server) as sock:
        for count in (1, 3):
            sock.sendall(b"on")
            until(lambda: len(calls) == count)  # noqa: B023
            until_paused(server)
            assert ask(sock, b"e\n", 4) == b"one\n"
        sock.sendall(b"x")
        until(lambda: len(calls) == 5)
        until_paused(server)
        if end == "stop":
            assert server.stop() == 0
        elif end == "half closes":
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"x"
        else:
            if end == "resets":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        until(lambda: server.snapshot().connections == 0)
    assert len(calls) == (5 if end == "stop" else 6)


def test_what_a_handler_does_not_take_is_bounded() -> None:
    with serving(lambda conn: conn.pause(), max_message=1000) as server, client(server) as sock:
        sock.sendall(b"x" * 1000)
        until_paused(server)
        sock.sendall(b"x")
        assert receive_all(sock) == b""
        until(lambda: server.snapshot().closed_by == {"max_message": 1})
        assert server.snapshot().failures == 0


# -- its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("way", ["ended", "cut short", "reset"])
def test_the_end_is_read_once(way: str, secret: bool, authority: Authority) -> None:
    """Also where the handler pauses again, or the client is gone without a word."""
    read: list[bytes] = []
    over = threading.Event()

    def talk(conn: Connection) -> object:
        read.append(conn.recv())
        assert read[-1] or not conn.recv()
        if not read[-1]:
            over.set()
        return conn.pause()

    options: dict[str, Any] = {"tls": authority.certificates()} if secret else {}
    with serving(talk, **options) as server, secure(server, authority) if secret else client(server) as sock:
        sock.sendall(b"x")
        until_paused(server)
        if way == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        elif way == "ended" and isinstance(sock, ssl.SSLSocket):
            sock.unwrap()
        else:
            socket.socket.shutdown(sock, socket.SHUT_WR)
        assert over.wait(PATIENCE)
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().failures == 0
        if way != "reset":
            assert server.snapshot().closed_by == {}
        elif not secret:  # the ssl module of Python 3.11.2 tells no reset from an end
            assert server.snapshot().closed_by == {"connection_lost": 1}
    assert read == [b"x", b""]


def test_a_handler_that_does_not_read_to_the_end_is_not_called_for_ever() -> None:
    calls: list[bytes] = []

    def talk(conn: Connection) -> object:
        calls.append(conn.recv(1) if len(calls) < 2 else b"")
        if len(calls) == 1:
            with pytest.raises(EOFError):
                conn.recv_exactly(100)
        return conn.pause()

    with serving(talk) as server, client(server) as sock:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
    assert calls == [b"a", b"b", b""]


def test_a_handler_that_raises_after_a_pause_ends_its_conversation_only(caplog: pytest.LogCaptureFixture) -> None:
    def talk(conn: Connection) -> object:
        if conn.readline() == b"raise\n":
            raise ValueError("no")
        conn.sendall(b"ok\n")
        return conn.pause()

    with serving(talk) as server, client(server) as sock, client(server) as other:
        assert ask(other, b"one\n", 3) == b"ok\n"
        assert ask(sock, b"one\n", 3) == b"ok\n"
        assert ask(sock, b"two\n", 3) == b"ok\n"
        sock.sendall(b"raise\n")
        assert receive_all(sock) == b""
        assert ask(other, b"two\n", 3) == b"ok\n"
        assert server.snapshot().failures == 1
    assert [record.args[2] for record in caplog.records if record.levelno == logging.ERROR] == [3]  # type: ignore[index]


@pytest.mark.parametrize("limit", ["idle_timeout", "max_age"])
def test_a_conversation_that_pauses_is_closed_as_an_idle_connection(limit: str) -> None:
    calls: list[bytes] = []

    def talk(conn: Connection) -> object:
        calls.append(conn.readline())
        conn.sendall(b"ok\n")
        return conn.pause()

    limits: dict[str, Any] = {limit: 0.5}
    with serving(talk, **limits) as server, client(server) as sock:
        assert ask(sock, b"one\n", 3) == b"ok\n"
        assert receive_all(sock) == b""
        sock.close()
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().closed_by == {limit: 1}
    assert calls == [b"one\n"]  # nobody was told


def test_a_stop_closes_those_that_pause_and_answers_what_has_come() -> None:
    calls: list[bytes] = []
    begun, on = threading.Event(), threading.Event()

    def talk(conn: Connection) -> object:
        line = conn.readline()
        calls.append(line)
        if line == b"wait\n":
            begun.set()
            assert on.wait(PATIENCE)
        conn.sendall(line)
        return conn.pause()

    with serving(talk) as server, client(server) as idle, client(server) as busy:
        assert ask(idle, b"idle\n") == b"idle\n"
        until_paused(server)
        busy.sendall(b"wait\nbehind\n")
        assert begun.wait(PATIENCE)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert receive_all(idle) == b""
        on.set()
        assert receive_all(busy) == b"wait\nbehind\n"
        stopping.join(PATIENCE)
    assert sorted(calls) == [b"behind\n", b"idle\n", b"wait\n"]


def test_a_conversation_that_pauses_may_be_evicted() -> None:
    with serving(echo_line, max_connections=2, at_max_connections="evict_idle") as server, ExitStack() as stack:
        one, two = (stack.enter_context(client(server)) for _ in range(2))
        assert ask(one, b"1\n") == b"1\n"
        until_paused(server)
        assert ask(two, b"2\n") == b"2\n"
        until_paused(server, 2)
        three = stack.enter_context(client(server))
        assert ask(three, b"3\n") == b"3\n"
        assert receive_all(one) == b""
        assert ask(two, b"2\n") == b"2\n"
        assert server.snapshot().closed_by == {"evicted": 1}


def test_a_pool_that_has_no_room_for_the_next_call_ends_the_conversation() -> None:
    begun, on = threading.Event(), threading.Event()

    def talk(conn: Connection) -> object:
        line = conn.readline()
        if line == b"wait\n":
            begun.set()
            assert on.wait(PATIENCE)
        conn.sendall(line)
        return conn.pause()

    with Pool(max_workers=1, queue_size=1, when_full="reject") as pool, serving(talk, pool=pool) as server:
        with client(server) as held, client(server) as refused:
            assert ask(refused, b"one\n") == b"one\n"
            until_paused(server)
            held.sendall(b"wait\n")
            assert begun.wait(PATIENCE)
            waits = pool.submit(len, b"")
            refused.sendall(b"two\n")
            assert receive_all(refused) == b""
            on.set()
            assert receive(held, 5) == b"wait\n"
            assert waits.result(PATIENCE) == 0
        refused.close()
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().closed_by == {"message_rejected": 1}


def test_that_all_threads_talk_is_not_said_of_conversations_that_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first, of which nobody knows that it will."""
    told: list[None] = []
    monkeypatch.setattr(Handlers, "tell_if_all_talk", lambda handlers: told.append(None))
    with serving(echo_line, threads=1) as server, client(server) as sock, client(server) as other:
        assert ask(sock, b"x\n") == b"x\n"
        until_paused(server)
        assert ask(other, b"x\n") == ask(sock, b"x\n") == b"x\n"
    assert len(told) == 1


# -- with TLS, and observed -------------------------------------------------------------------------------------------


def test_what_tls_has_deciphered_already_is_seen(authority: Authority) -> None:
    """Of one record, read in two: the poller has nothing to tell of the second half."""
    with serving(echo_line, tls=authority.certificates()) as server, secure(server, authority) as sock:
        for lines in (b"one\n", b"two\nthree\n" * 20):
            sock.sendall(lines)
            assert receive(sock, len(lines)) == lines
        until_paused(server)


def test_what_stays_with_tls_when_the_handler_pauses_is_seen(authority: Authority) -> None:
    def talk(conn: Connection) -> object:
        data = conn.recv(5)
        if conn.peer.state.setdefault("calls", 0) == 0:
            data += conn.recv_exactly(10)  # reads the record in part
        conn.peer.state["calls"] += 1
        conn.sendall(data)
        return conn.pause()

    with serving(talk, tls=authority.certificates()) as server, secure(server, authority) as sock:
        sock.sendall(b"01234")
        sock.sendall(b"x" * 16000)
        assert receive(sock, 16005) == b"01234" + b"x" * 16000


class Recorder(Observer):
    """Keeps what became of the messages."""

    def __init__(self) -> None:
        self.handled_events: list[MessageEvent] = []

    def handled(self, event: MessageEvent) -> None:
        self.handled_events.append(event)


def test_observers_are_told_of_each_call() -> None:
    recorder = Recorder()
    with serving(echo_line, observers=[recorder]) as server, client(server) as sock:
        for line in (b"one\n", b"three\n"):
            assert ask(sock, line) == line
            until_paused(server)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
        assert server.snapshot().messages == 3
    assert [(event.bytes_in, event.bytes_out) for event in recorder.handled_events] == [(4, 4), (6, 6), (0, 0)]
    assert all(event.error is None for event in recorder.handled_events)
    begun = [event.begun_ns for event in recorder.handled_events]
    assert begun == sorted(begun)  # type: ignore[type-var]


def test_what_comes_first_after_a_pause_is_no_forged_header() -> None:
    """Where proxies are trusted, though the handler has greeted without reading."""

    def talk(conn: Connection) -> object:
        conn.sendall(b".")
        return conn.pause()

    server = Server(Session(talk, speaks_first=True), "127.0.0.1:0", max_workers=1, proxy="192.0.2.1")
    with server, client(server) as sock, client(server) as other:
        assert receive(sock, 1) == receive(other, 1) == b"."
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5 80\r\n")
        assert receive_all(sock) == b""
        assert ask(other, b"x") == b"."
        assert server.snapshot().closed_by == {"proxy_untrusted": 1}

"""TakeOver: a connection whose messages end, and that goes on as a conversation."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Future, Pool
from treadle.errors import PoolFull
from treadle.server import (
    Certificates,
    Connection,
    Limits,
    Lines,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    Server,
    TakeOver,
)


def shout(conn: Connection) -> object:
    """Answer a line in capitals, and pause."""
    line = conn.readline()
    conn.sendall(line.upper())
    return conn.pause() if line else None


def handle(line: bytes, peer: Peer) -> bytes | TakeOver:
    return TakeOver(shout, b"over\n") if line == b"take over" else line + b"\n"


def serving(threads: int = 2, **options: Any) -> Server:
    server = {"pool": options["pool"]} if "pool" in options else {"max_workers": threads}
    return Server(Messages(handle, Lines()), "127.0.0.1:0", **{**server, **options})


def test_messages_end_and_a_conversation_begins_that_may_pause() -> None:
    with serving() as server, client(server) as sock, client(server) as other:
        assert ask(sock, b"one\n") == b"one\n"
        assert ask(sock, b"take over\n", 5) == b"over\n"
        for _ in range(2):
            assert ask(sock, b"hello\n") == b"HELLO\n"
        assert ask(other, b"hello\n") == b"hello\n"
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
        assert server.snapshot().failures == 0
        assert server.snapshot().messages == 6  # two, three calls of the conversation's handler, and the other's


def test_what_the_framing_holds_is_what_the_conversation_reads_first() -> None:
    with serving() as server, client(server) as sock:
        sock.sendall(b"one\ntwo\ntake over\nhal")
        assert receive(sock, 13) == b"one\ntwo\nover\n"
        assert ask(sock, b"f\nnext\n", 10) == b"HALF\nNEXT\n"


def test_the_handler_is_called_at_once_and_not_by_the_thread_that_leads() -> None:
    called, on = threading.Event(), threading.Event()

    def talk(conn: Connection) -> None:
        called.set()
        assert on.wait(PATIENCE)
        conn.sendall(b"done")

    def takes_over(line: bytes, peer: Peer) -> bytes | TakeOver:
        return TakeOver(talk) if line == b"go" else line

    with Server(Messages(takes_over, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as sock, client(server) as other:
            sock.sendall(b"go\n")
            assert called.wait(PATIENCE)
            assert ask(other, b"x\n", 1) == b"x"
            on.set()
            assert receive_all(sock) == b"done"


def test_what_is_sent_first_is_sent_before_the_conversation_begins() -> None:
    """However long it is, and however slow the client; and also where the lead was lost over the message."""
    first = bytes(4 << 20)

    def takes_over(line: bytes, peer: Peer) -> TakeOver:
        if line == b"slow":
            lead = driver_of(server).leadership.lead
            until(lambda: driver_of(server).leadership.lead is not lead)
        return TakeOver(lambda conn: conn.sendall(b"behind"), first)

    for line in (b"quick\n", b"slow\n"):
        with Server(Messages(takes_over, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
            sock.sendall(line)
            until(lambda: any(conn.outbox.pieces for conn in driver_of(server).io.connections()))
            assert receive_all(sock) == first + b"behind"


def test_messages_that_were_cut_already_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        for _ in range(2):
            with client(server) as sock:
                sock.sendall(b"one\ntake over\nbehind\n")
                assert receive_all(sock) == b"one\n"
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().closed_by == {"framing": 2}
        assert server.snapshot().failures == 0
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "has sent messages behind the one that was answered with a TakeOver" in told[0]


class Once:
    """A framing of one's own: a line, and nothing after "take over" is cut."""

    def __init__(self, rest: Any = None) -> None:
        self.buffer, self.over = b"", False
        if rest is not None:
            self.take_rest = rest

    def decoder(self, limit: int) -> Once:
        return self

    @property
    def held(self) -> int:
        return len(self.buffer)

    def feed(self, data: bytes) -> Sequence[bytes]:
        self.buffer += data
        messages = []
        while not self.over and b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            self.over = line == b"take over"
            messages.append(line)
        return messages

    def finish(self) -> Sequence[bytes]:
        return ()


class Giving(Once):
    """One that gives back what it holds."""

    def take_rest(self) -> bytes:
        rest, self.buffer = self.buffer, b""
        return rest


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("ended", [False, True])
def test_a_framing_that_stops_cutting_gives_the_rest_back(
    loops: int, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    with Server(Messages(handle, Giving()), "127.0.0.1:0", max_workers=4) as server, client(server) as sock:
        sock.sendall(b"one\ntake over\na\nb\n")
        if ended:
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"one\nover\nA\nB\n"
        else:
            assert receive(sock, 13) == b"one\nover\nA\nB\n"


def test_a_framing_that_holds_something_and_cannot_give_it_back_ends_the_connection() -> None:
    with Server(Messages(handle, Once()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"take over\nrest")
        assert receive_all(sock) == b""
        sock.close()
        until(lambda: server.snapshot().closed_by == {"framing": 1})


def test_a_framing_that_fails_at_that_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    with Server(Messages(handle, Once(rest=lambda: 1 / 0)), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"take over\nrest")
            assert receive_all(sock) == b""
        assert server.snapshot().failures == 1
    assert "ZeroDivisionError" in caplog.text


def test_kinds_and_keys_are_of_messages_only() -> None:
    seen: list[tuple[str, bytes]] = []

    def kind(line: bytes) -> bytes:
        seen.append(("kind", line))
        return line

    def key(line: bytes) -> bytes:
        seen.append(("key", line))
        return line

    protocol = Messages(handle, Giving(), kind=kind, key=key)
    with Pool(max_workers=2, order="fair") as pool, Server(protocol, "127.0.0.1:0", pool=pool) as server:
        with client(server) as sock:
            sock.sendall(b"take over\na\n")
            assert receive(sock, 7) == b"over\nA\n"
            assert ask(sock, b"b\n") == b"B\n"
    assert {line for _, line in seen} == {b"take over"}


def test_a_pool_without_room_ends_the_conversation_before_it_begins() -> None:
    on = threading.Event()
    tasks: list[Future[bool]] = []

    def takes_over(line: bytes, peer: Peer) -> TakeOver:
        with suppress(PoolFull):
            while True:
                tasks.append(pool.submit(on.wait, PATIENCE))
        return TakeOver(shout, b"first\n")

    limits = Limits(reject_messages_with=b"no room\n")
    with Pool(max_workers=2, queue_size=1, when_full="reject") as pool:
        with Server(Messages(takes_over, Lines()), "127.0.0.1:0", pool=pool, limits=limits) as server:
            with client(server) as sock:
                sock.sendall(b"x\n")
                assert receive_all(sock) == b"first\nno room\n"
            on.set()
            assert all(task.result(PATIENCE) for task in tasks)
            assert server.snapshot().rejected_messages == 1


class Recorder(Observer):
    """Keeps what became of the messages."""

    def __init__(self) -> None:
        self.handled_events: list[MessageEvent] = []

    def handled(self, event: MessageEvent) -> None:
        self.handled_events.append(event)


def test_observers_are_told_of_messages_and_then_of_calls() -> None:
    recorder = Recorder()
    with Server(Messages(handle, Giving()), "127.0.0.1:0", max_workers=2, observers=[recorder]) as server:
        with client(server) as sock:
            assert ask(sock, b"one\n") == b"one\n"
            sock.sendall(b"take over\nfirst\n")
            assert receive(sock, 11) == b"over\nFIRST\n"
            assert ask(sock, b"no\n") == b"NO\n"
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b""
    sizes = [(event.bytes_in, event.bytes_out) for event in recorder.handled_events]
    assert sizes == [(3, 4), (9, 0), (6, 11), (3, 3), (0, 0)]
    assert all(event.error is None for event in recorder.handled_events)


def test_with_tls_too(authority: Authority, certificates: Certificates) -> None:
    with serving(tls=certificates) as server, client(server) as plain:
        with authority.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(b"take over\nhal")
            assert receive(sock, 5) == b"over\n"
            assert ask(sock, b"f\n", 5) == b"HALF\n"


def test_a_stop_lets_the_conversation_have_its_say_and_closes_it_when_it_pauses() -> None:
    limits = Limits(linger_timeout=0.1)
    with serving(limits=limits) as server, client(server) as sock, client(server) as idle:
        for each in (sock, idle):
            assert ask(each, b"take over\n", 5) == b"over\n"
            assert ask(each, b"x\n") == b"X\n"
        sock.sendall(b"last\n")
        server.stop()
        assert receive_all(sock) == b"LAST\n"
        assert receive_all(idle) == b""


async def asleep(conn: Connection) -> None:
    pass


@pytest.mark.parametrize(("handler", "first"), [(asleep, b""), (lambda: None, b""), (shout, "text"), (shout, None)])
def test_bad_arguments_are_named(handler: Any, first: Any) -> None:
    with pytest.raises(TypeError, match="first=" if handler is shout else "handler="):
        TakeOver(handler, first)
    assert repr(TakeOver(shout)) == "TakeOver(shout)"

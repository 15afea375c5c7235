"""What one client, or bad timing, could once do to a server."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle.server import Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server._serving.calling.early import AT_ONCE
from treadle.server._transport.connection import CHUNK


def echo(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


def wait_until(condition: Callable[[], Any]) -> None:
    never = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        never.wait(0.005)
    raise AssertionError("it did not happen in time")


# -- one client that sends without end ------------------------------------------------------------------------------


def test_a_client_that_pipelines_without_end_is_read_from_only_when_its_messages_are_handled() -> None:
    most = 0

    def handle(line: bytes, peer: Peer) -> None:
        nonlocal most
        most = max(most, len(conn.intake.waiting))

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        wait_until(lambda: driver_of(server).io.connections())
        (conn,) = driver_of(server).io.connections()
        for _ in range(20):
            sock.sendall(b"\n" * CHUNK)
        wait_until(lambda: server.snapshot().messages == 20 * CHUNK)
        assert most < CHUNK
        assert not driver_of(server).loop.ready


def test_others_have_their_turn_between_the_messages_of_one() -> None:
    order: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> None:
        if not order:
            other.sendall(b"other\n")
        if len(order) == AT_ONCE and b"other" not in order:  # on a busy machine ten thousand are over in no time
            wait_until(lambda: driver_of(server).leadership.dispatcher.has_more)
        order.append(line)

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock, client(server) as other:
            wait_until(lambda: len(driver_of(server).io.connections()) == 2)
            sock.sendall(b"one\n" * 10_000)
            wait_until(lambda: len(order) == 10_001)
            assert order.index(b"other") <= 3 * AT_ONCE


def test_refusals_are_bounded_for_a_client_that_does_not_take_them() -> None:
    gate, inside = threading.Event(), threading.Event()

    def block(line: bytes, peer: Peer) -> bytes:
        inside.set()
        gate.wait(PATIENCE)
        return line

    refusal = b"-BUSY " + b"." * 500 + b"\n"
    pool, limits = Pool(1, queue_size=0, when_full="reject"), Limits(reject_messages_with=refusal)
    server = Server(Messages(block, Lines()), "127.0.0.1:0", pool=pool, limits=limits)
    with pool, server, client(server) as busy, client(server) as flood:
        busy.sendall(b"x\n")
        assert inside.wait(PATIENCE)
        wait_until(lambda: driver_of(server).leadership.lead is None)  # the watchdog leads, and no thread is free
        count = 50_000
        flood.sendall(b"\n" * count)
        wait_until(lambda: any(conn.outbox.unsent for conn in driver_of(server).io.connections()))
        for _ in range(100):
            most = max(conn.outbox.unsent for conn in driver_of(server).io.connections())
            assert most <= server.limits.max_unsent + len(refusal)
        assert receive(flood, count * len(refusal)) == refusal * count  # each is refused when it can be told
        assert server.snapshot().rejected_messages == count
        gate.set()


def test_a_client_that_sends_on_while_its_handler_runs_costs_nothing() -> None:
    gate, inside = threading.Event(), threading.Event()

    def block(line: bytes, peer: Peer) -> bytes:
        inside.set()
        gate.wait(PATIENCE)
        return line + b"\n"

    with Server(Messages(block, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"1\n")
        assert inside.wait(PATIENCE)
        sock.sendall(b"2\n")
        wait_until(lambda: driver_of(server).leadership.lead is not None)
        (conn,) = driver_of(server).io.connections()
        wait_until(lambda: not conn.watched)  # or its bytes would wake the leader again and again
        gate.set()
        assert receive(sock, 4) == b"1\n2\n"


# -- half a message behind a whole one --------------------------------------------------------------------------------


def test_half_a_message_behind_a_whole_one_is_finished_by_a_stop() -> None:
    server = Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1).start()
    with client(server) as sock:
        assert ask(sock, b"one\ntw", 4) == b"one\n"
        stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopper.start()
        wait_until(lambda: driver_of(server).loop.draining and not driver_of(server).loop.ready)
        assert ask(sock, b"o\n", 4) == b"two\n"
        assert receive_all(sock) == b""
    stopper.join(PATIENCE)
    assert server.stop() == 0


def test_who_is_in_the_middle_of_a_message_behind_a_whole_one_is_not_evicted() -> None:
    limits = Limits(max_connections=1, at_max_connections="evict_idle", reject_connections_with=b"full\n")
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as sock:
            assert ask(sock, b"one\ntw", 4) == b"one\n"
            with client(server) as newcomer:
                assert receive_all(newcomer) == b"full\n"
            assert ask(sock, b"o\n", 4) == b"two\n"


def test_a_client_is_not_charged_with_the_time_that_its_handler_takes() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            inside.set()
            gate.wait(PATIENCE)
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"slow\nhal")
        assert inside.wait(PATIENCE)
        (conn,) = driver_of(server).io.connections()
        began = conn.intake.begun
        assert began
        wait_until(lambda: conn.busy)  # another thread leads
        gate.set()
        assert receive(sock, 5) == b"slow\n"
        wait_until(lambda: not conn.busy)
        assert conn.intake.begun > began  # read_timeout counts from when the server could read again
        assert ask(sock, b"f\n", 5) == b"half\n"


def test_a_client_is_not_charged_with_the_time_in_which_it_is_not_read_from() -> None:
    big = b"x" * (8 << 20)
    with Server(Messages(lambda line, peer: big, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"big\nhal")
            wait_until(lambda: any(conn.outbox.pieces for conn in driver_of(server).io.connections()))
            (conn,) = driver_of(server).io.connections()
            began = conn.intake.begun
            assert began
            assert receive(sock, len(big)) == big
            wait_until(lambda: not conn.outbox.pieces and conn.watched == 1)
            assert conn.intake.begun > began


# -- the end of a server --------------------------------------------------------------------------------------------


def test_a_message_behind_one_that_is_handled_when_the_server_stops_is_answered() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        inside.set()
        gate.wait(PATIENCE)
        return line + b"\n"

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"first\n")
        assert inside.wait(PATIENCE)
        wait_until(lambda: driver_of(server).io.connections()[0].busy)
        sock.sendall(b"second\n")
        stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopper.start()
        wait_until(lambda: driver_of(server).loop.draining)
        gate.set()
        assert receive_all(sock) == b"first\nsecond\n"
    stopper.join(PATIENCE)
    assert server.stop() == 0


def test_run_of_a_server_that_was_stopped_says_so() -> None:
    server = Server(Messages(echo, Lines()), "127.0.0.1:0").start()
    server.stop()
    with pytest.raises(RuntimeError, match="stopped; make a new one"):
        server.run()


# -- TLS ----------------------------------------------------------------------------------------------------------


def secure_server(authority: Authority, protocol: Any, **options: Any) -> Server:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority.issue("127.0.0.1")
    tls.load_cert_chain(files.certfile, files.keyfile)
    return Server(protocol, "127.0.0.1:0", tls=tls, **{"max_workers": 2, **options})


def strict(authority: Authority, sock: Any) -> ssl.SSLSocket:
    """A client that takes an end without close_notify for the attack that it may be."""
    context = authority.client_context()
    return context.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


def test_a_connection_that_is_cut_under_its_handler_stays_secure(authority: Authority) -> None:
    """SSLSocket.shutdown would make a plain socket of it, and the handler would go on in plain text."""
    gate, talks, outcome = threading.Event(), threading.Event(), []

    def talk(conn: Connection) -> None:
        conn.readline()
        talks.set()
        gate.wait(PATIENCE)
        sock: Any = conn._sock
        outcome.append(sock.version())
        try:
            conn.sendall(b"secret")
        except OSError as error:
            outcome.append(error)

    server = secure_server(authority, Session(talk)).start()
    with client(server) as plain, strict(authority, plain) as sock:
        sock.sendall(b"hello\n")
        assert talks.wait(PATIENCE)
        (conn,) = driver_of(server).io.connections()
        stopper = threading.Thread(target=server.stop, args=(0.0,))
        stopper.start()
        wait_until(lambda: conn.ending.error)
        gate.set()
        stopper.join(PATIENCE)
    wait_until(lambda: len(outcome) == 2)
    assert str(outcome[0]).startswith("TLS")
    assert isinstance(outcome[1], OSError)


def fail_to_shake_hands(authority: Authority, sock: Any) -> None:
    try:
        strict(authority, sock)
    except OSError:
        pass


def test_a_handshake_that_takes_too_long_is_not_closed_under_its_thread(authority: Authority) -> None:
    """Else the next client gets its descriptor, and what the handshake sends."""
    gate, inside = threading.Event(), threading.Event()
    server = secure_server(authority, Messages(echo, Lines()), limits=Limits(handshake_timeout=0.1))

    def choose(*_: object) -> None:
        inside.set()
        gate.wait(PATIENCE)

    server._tls.sni_callback = choose  # type: ignore[union-attr]
    with server, client(server) as plain:
        failed = threading.Thread(target=fail_to_shake_hands, args=(authority, plain))
        failed.start()
        assert inside.wait(PATIENCE)
        (conn,) = driver_of(server).io.connections()
        wait_until(lambda: conn.ending.error)
        assert conn.sock.fileno() == conn.fd
        gate.set()
        failed.join(PATIENCE)
        wait_until(lambda: server.snapshot().closed_by == {"handshake_timeout": 1})


def test_a_handshake_is_no_message(authority: Authority) -> None:
    with secure_server(authority, Messages(echo, Lines())) as server:
        with client(server) as plain, strict(authority, plain) as sock:
            assert ask(sock, b"x\n") == b"x\n"
            assert server.snapshot().messages == 1


def test_a_handshake_that_lost_the_lead_leaves_no_handler_deadline_behind(authority: Authority) -> None:
    gate, inside = threading.Event(), threading.Event()
    server = secure_server(authority, Messages(echo, Lines()), limits=Limits(handler_timeout=PATIENCE))

    def choose(*_: object) -> None:
        inside.set()
        gate.wait(PATIENCE)

    server._tls.sni_callback = choose  # type: ignore[union-attr]

    def let_go() -> None:
        assert inside.wait(PATIENCE)
        wait_until(lambda: any(conn.timing.handled for conn in driver_of(server).io.connections()))
        gate.set()

    helper = threading.Thread(target=let_go)
    with server, client(server) as plain:
        helper.start()
        with strict(authority, plain) as sock:
            assert ask(sock, b"x\n") == b"x\n"
            helper.join(PATIENCE)
            assert [conn.timing.handled for conn in driver_of(server).io.connections()] == [0.0]


class HalfClosing:
    """A TLS client that can end its half and go on reading, which ssl.SSLSocket cannot."""

    def __init__(self, authority: Authority, sock: Any) -> None:
        self.sock, self.coming, self.going = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        context = authority.client_context()
        self.tls = context.wrap_bio(self.coming, self.going, server_hostname="127.0.0.1")

    def do(self, call: Callable[..., Any], *arguments: Any, wait: bool = True) -> Any:
        while True:
            try:
                result = call(*arguments)
                self.sock.sendall(self.going.read())
                return result
            except ssl.SSLWantReadError:
                self.sock.sendall(self.going.read())
                if not wait:
                    return None
                if data := self.sock.recv(65536):
                    self.coming.write(data)
                else:
                    self.coming.write_eof()


def test_a_client_that_ended_its_half_is_told_the_end_of_ours(authority: Authority) -> None:
    with secure_server(authority, Messages(echo, Lines())) as server, client(server) as plain:
        half = HalfClosing(authority, plain)
        half.do(half.tls.do_handshake)
        half.do(half.tls.write, b"hello\n")
        half.do(half.tls.unwrap, wait=False)
        assert half.do(half.tls.read, 100) == b"hello\n"
        with pytest.raises(ssl.SSLZeroReturnError):  # and not SSLEOFError
            half.do(half.tls.read, 100)


@pytest.mark.parametrize("closes", [True, False])
def test_a_conversation_ends_with_a_goodbye(authority: Authority, closes: bool) -> None:
    after = []

    def talk(conn: Connection) -> None:
        conn.sendall(conn.readline())
        if closes:
            conn.close()
            after.append(conn.recv())

    with secure_server(authority, Session(talk)) as server, client(server) as plain:
        with strict(authority, plain) as sock:
            sock.sendall(b"hello\nmore\n")
            assert receive(sock, 6) == b"hello\n"
            assert sock.recv(100) == b""  # close_notify; without it, SSLEOFError
    assert after == [b"more\n"][: int(closes)]


# -- what is the user's ---------------------------------------------------------------------------------------------


class Faulty:
    """A framing, and its decoder, that fails."""

    def __init__(self, feed: Callable[[bytes], Any], held: Callable[[], int]) -> None:
        self.feed = feed
        self._held = held

    def decoder(self, limit: int) -> Any:
        return self

    @property
    def held(self) -> int:
        return self._held()

    def finish(self) -> Sequence[bytes]:
        return ()


@pytest.mark.parametrize(
    ("feed", "held", "answer"),
    [(lambda data: None, int, b""), (lambda data: 5, int, b""), (lambda data: [data], lambda: 1 // 0, b"x")],
)
def test_a_framing_that_is_none_closes_its_connection_and_harms_nobody(
    feed: Any, held: Any, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has found before it fails is answered."""
    server = Server(Messages(lambda data, peer: data, Faulty(feed, held)), "127.0.0.1:0", max_workers=1)
    with server, client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == answer
        assert server.snapshot().connections <= 1
    (record,) = (record for record in caplog.records if "its decoder failed" in record.getMessage())
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None  # whose bug it is, the traceback tells
    assert "lead of" not in caplog.text


def test_text_is_no_answer_of_a_conversation(caplog: pytest.LogCaptureFixture) -> None:
    def talk(conn: Connection) -> None:
        conn.readline()
        conn.sendall("text")  # type: ignore[arg-type]

    with Server(Session(talk), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"x\n")
        assert receive_all(sock) == b""
    assert "data='text' is str; allowed: bytes" in caplog.text


# -- what is said -----------------------------------------------------------------------------------------------------


def test_rule_6_clients_that_wait_because_all_threads_talk_are_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def talk(conn: Connection) -> None:
        conn.readline()
        gate.wait(PATIENCE)

    with Server(Session(talk), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as one, client(server) as two, client(server) as three:
            for sock in (one, two, three):
                sock.sendall(b"x\n")
            wait_until(lambda: "the only thread is taken by conversations" in caplog.text)
            gate.set()
    assert caplog.text.count("taken by conversations") == 1


def test_rule_6_what_a_limit_cuts_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    limits = Limits(idle_timeout=0.05, read_timeout=0.05)
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as idle, client(server) as also_idle, client(server) as slow:
            slow.sendall(b"half")
            for sock in (idle, also_idle, slow):
                assert receive_all(sock) == b""
        wait_until(lambda: server.snapshot().closed_by == {"idle_timeout": 2, "read_timeout": 1})
    assert caplog.text.count("cut by idle_timeout") == 1
    assert caplog.text.count("cut by read_timeout") == 1


@pytest.mark.parametrize("late", ["idle_timeout", "read_timeout", "write_timeout"])
def test_a_conversation_that_was_late_is_counted_by_its_limit(late: str) -> None:
    def talk(conn: Connection) -> None:
        conn.readline()
        if late == "write_timeout":
            conn.sendall(b"x" * (64 << 20))
        conn.readline()

    limits = replace(Limits(), **{late: 0.1})  # type: ignore[arg-type]  # it is one of those in seconds
    with Server(Session(talk), "127.0.0.1:0", max_workers=1, limits=limits) as server, client(server) as sock:
        sock.sendall(b"x\n" if late == "idle_timeout" else b"x\nhalf")
        wait_until(lambda: server.snapshot().closed_by == {late: 1})

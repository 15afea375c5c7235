"""ConnectionIO: reading, sending and closing in the middle of things. The rules it keeps are in tests/behaviour."""

from __future__ import annotations

import array
import ctypes
import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import Context
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle._base.log_throttle import LogThrottles
from treadle.errors import MessageTooLong
from treadle.server import (
    CloseConnection,
    Delimiter,
    LengthPrefix,
    Limits,
    Lines,
    Messages,
    Observer,
    Peer,
    Raw,
    Reply,
    Server,
)
from treadle.server._loop.event_loop import EventLoop
from treadle.server._loop.poller import WRITE
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.decoder import MOST
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.observing.observer import MessageEvent, Observers
from treadle.server._transport.observing.record import Record
from treadle.server._transport.sending.spool import ClientLeft, Spool
from treadle.server._transport.state import State

RESET = struct.pack("ii", 1, 0)


def settled(server: Server) -> None:
    """Wait until the leader has done what it was about."""
    done = threading.Event()
    driver_of(server).loop.post(done.set)
    assert done.wait(PATIENCE)


@pytest.mark.parametrize(
    "answer",
    [
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        memoryview(array.array("H", [1, 2])),
        ctypes.c_uint32(7),  # which has no length
        b"",
        None,
    ],
)
def test_answers_may_be_anything_like_bytes(answer: Any) -> None:
    size = 0 if answer is None else memoryview(answer).nbytes
    with Server(Messages(lambda line, peer: answer, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            assert ask(sock, b"1\n", size) == bytes(answer or b"")
            assert ask(sock, b"2\n3\n", 2 * size) == bytes(answer or b"") * 2
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b""


def test_a_large_answer_arrives_whole_and_in_order_behind_a_slow_reader() -> None:
    parts = [bytes([number]) * 300_000 for number in range(20)]
    server = Server(Messages(lambda line, peer: parts[int(line)], Lines()), "127.0.0.1:0", max_workers=1)
    with server, client(server) as sock:
        sock.sendall(b"".join(b"%d\n" % number for number in range(20)))
        for part in parts:
            assert receive(sock, len(part)) == part


def test_what_waits_for_a_client_is_bounded_by_the_buffer_and_one_answer() -> None:
    answer = b"x" * 100_000
    most: list[int] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        most.extend(conn.outbox.unsent for conn in driver_of(server).io.connections())
        return answer

    limits = Limits(max_unsent=150_000)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as sock:
            sock.sendall(b"\n" * 500)
            assert receive(sock, 500 * len(answer)) == 500 * answer
    assert max(most) <= 150_000


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_client_that_resets_around_its_answer_harms_nobody(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    inside, gate = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"reset":
            inside.set()
            assert gate.wait(PATIENCE)
            return b"x" * (8 << 20)
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as other:
        with client(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(b"reset\nand more\n")
            assert inside.wait(PATIENCE)
            if moment != "before":
                gate.set()
            if moment == "while":
                assert receive(sock, 100_000)
            if moment == "after":
                assert len(receive(sock, 8 << 20)) == 8 << 20
        gate.set()
        assert ask(other, b"hello\n") == b"hello\n"
        while server.snapshot().connections > 1:
            settled(server)
    assert not caplog.records


def test_an_answer_to_a_client_that_reads_no_more_ends_its_connection() -> None:
    with Server(Messages(lambda line, peer: b"x" * 1_000_000, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"\n" * 50)
            assert receive(sock, 1)
            sock.shutdown(socket.SHUT_RD)
            sock.close()
        while server.snapshot().connections:
            settled(server)


def test_a_framing_that_raises_closes_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    class Decoder:
        held = 0

        def feed(self, data: bytes) -> list[bytes]:
            return [b"%d" % int(data)]

        def finish(self) -> list[bytes]:
            return []

    class Framing:
        def decoder(self, limit: int) -> Decoder:
            return Decoder()

    with Server(Messages(lambda data, peer: data, Framing()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as good, client(server) as bad:
            assert ask(good, b"12") == b"12"
            bad.sendall(b"no number")
            assert receive_all(bad) == b""
            assert ask(good, b"34") == b"34"
    assert "what it sent makes no message: invalid literal for int" in caplog.text


@pytest.mark.parametrize("burst", [b"A\nB\n", b"A\n"])
def test_an_answer_is_what_the_handler_returned_whatever_it_does_with_the_object_later(burst: bytes) -> None:
    answer = bytearray()
    size = 4 << 20

    def handle(line: bytes, peer: Peer) -> Any:
        answer.clear()  # a BufferError, if the answer before were still in use
        answer.extend(line * size)
        return answer

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as slow, client(server) as other:
            slow.sendall(burst)
            settled(server)
            assert ask(other, b"C\n", size) == b"C" * size
            for line in burst.split():
                assert receive(slow, size) == line * size
    assert server.snapshot().failures == 0


class Words:
    """A framing of a test's own, which ends at a word that it does not like, in one of several ways."""

    held = 0

    def __init__(self, error: BaseException, way: str) -> None:
        self.error = error
        self.way = way
        self.bad = False

    def decoder(self, limit: int) -> Words:
        return Words(self.error, self.way)

    def words(self, data: bytes) -> Iterator[bytes]:
        for word in data.split():
            if word == b"bad":
                raise self.error
            yield word

    def feed(self, data: bytes) -> Any:
        if self.way == "iterating":
            return self.words(data)
        if self.bad:
            raise self.error
        before, bad, _ = data.partition(b"bad")
        self.bad = bool(bad)
        if self.bad and self.way == "at once" and not before.split():
            raise self.error
        return before.split()

    def finish(self) -> list[bytes]:
        if self.bad:
            raise self.error
        return []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("where", ["inline", "by the pool"])
@pytest.mark.parametrize("way", ["at once", "later", "iterating", "at the end"])
@pytest.mark.parametrize("error", [CloseConnection(b"bye"), ValueError("no word"), SystemExit("no word")])
def test_a_framing_that_ends_a_connection_ends_it_after_the_answers_to_what_came_before(
    authority: Authority, caplog: pytest.LogCaptureFixture, error: BaseException, way: str, where: str, tls: bool
) -> None:
    if tls and way == "at the end":
        pytest.skip("with TLS nothing can be sent after the client's end")
    certificates = authority.certificates() if tls else None
    protocol = Messages(lambda word, peer: word * 10_000 + b";", Words(error, way))
    with Server(protocol, "127.0.0.1:0", max_workers=2, tls=certificates) as server, ExitStack() as stack:
        sock = stack.enter_context(client(server))
        if tls:
            sock = stack.enter_context(authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1"))
        assert ask(sock, b"a", 10_001) == b"a" * 10_000 + b";"
        if where == "by the pool":
            assert server._group is not None
            for driver in server._group.drivers:
                driver.leadership.offload_all = True
        words = [] if way == "at once" else [b"%d" % number for number in range(200)]
        sock.sendall(b" ".join([*words, b"bad", *[b"unread"] * 1000]))
        if way == "at the end":
            socket.socket.shutdown(sock, socket.SHUT_WR)
        said = b"bye" if isinstance(error, CloseConnection) else b""
        expected = b"".join(word * 10_000 + b";" for word in words)
        assert receive(sock, len(expected)) == expected
        if way == "later":
            sock.sendall(b"more")
        assert receive(sock, len(said)) == said
        assert sock.recv(1) == b""
    assert ("makes no message: no word" in caplog.text) is isinstance(error, ValueError)
    assert ("its decoder failed" in caplog.text) is isinstance(error, SystemExit)


class Numbers:
    """Words that are numbers; one of more than `limit` digits is too long."""

    held = 0

    def __repr__(self) -> str:
        return "Numbers()"

    def decoder(self, limit: int) -> Numbers:
        self.limit = limit
        return self

    def feed(self, data: bytes) -> Iterator[bytes]:
        for word in data.split():
            if len(word) > self.limit:
                raise MessageTooLong(self.limit)
            yield word

    def finish(self) -> list[bytes]:
        return []


@pytest.mark.parametrize("where", ["inline", "by the pool", "before observers"])
@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        (Lines(), b"12345\r\n67\n1234567"),
        (Lines(), b"12345\r\n67\n123456\n8\n"),
        (Delimiter(b"--"), b"12345--67--1234567"),
        (Delimiter(b"--"), b"12345--67--123456--8--"),
        (LengthPrefix(1), b"\x0512345\x0267\x06"),
        (LengthPrefix(2, "little"), b"\5\x0012345\2\x0067\6\x00123456\1\x008"),
        (Numbers(), b"12345 67 123456 8"),
    ],
    ids=repr,
)
def test_a_message_that_is_too_long_ends_the_connection_after_the_answers_to_those_that_came_with_it(
    framing: Any, sent: bytes, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At once: the client sends nothing more, and does not end."""
    server = Server(
        Messages(lambda message, peer: message + b";", framing),
        "127.0.0.1:0",
        max_workers=2,
        limits=Limits(max_message=5, idle_timeout=None, read_timeout=None),
        observers=[Observer()] if where == "before observers" else [],
    )
    with server:
        if where == "by the pool":
            assert server._group is not None
            for driver in server._group.drivers:
                driver.leadership.offload_all = True
        with client(server) as sock:
            sock.sendall(sent)
            assert receive_all(sock) == b"12345;67;"
        until(lambda: server.snapshot().connections == 0)
        assert server.snapshot().closed_by == {"max_message": 1}
    assert caplog.text.count("makes no message: a message") == 1


def fail(*args: object) -> bool:
    raise RuntimeError("a fault of ours")


def test_a_connection_is_closed_though_it_cannot_be_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            assert ask(sock, b"x\n", 1) == b"x"
            monkeypatch.setattr(driver_of(server).io, "left", fail)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b""
    assert "a fault of ours" in caplog.text


def test_what_a_connection_is_closed_by_is_counted_whichever_limit_it_is_also_when_it_is_closed_gently() -> None:
    class Wrong:
        held = 0

        def decoder(self, limit: int) -> Wrong:
            return self

        def feed(self, data: bytes) -> list[bytes]:
            if data == b"wrong":
                raise ValueError
            return [data]

        def finish(self) -> list[bytes]:
            return []

    def echo(data: bytes, peer: Peer) -> bytes:
        if data == b"bye":
            raise CloseConnection(data)
        return data

    def closed_by(framing: Any, send: bytes, stays: bool = False, **limits: Any) -> dict[str, int]:
        with Server(Messages(echo, framing), "127.0.0.1:0", max_workers=1, limits=Limits(**limits)) as server:
            with client(server) as sock:
                sock.sendall(send)
                receive_all(sock)
                if not stays:
                    sock.close()
                while server.snapshot().connections:
                    settled(server)
            return dict(server.snapshot().closed_by)

    assert closed_by(Lines(), b"x" * 20, max_message=10) == {"max_message": 1}
    assert closed_by(Wrong(), b"wrong") == {"framing": 1}
    assert closed_by(Lines(), b"whole\n", max_age=0.1) == {"max_age": 1}
    assert closed_by(Raw(), b"bye") == {}
    assert closed_by(Raw(), b"bye", stays=True, linger_timeout=0.1) == {"linger_timeout": 1}
    assert closed_by(Lines(), b"x" * 20, stays=True, max_message=10, linger_timeout=0.1) == {"max_message": 1}


@pytest.mark.parametrize(
    ("framing", "message"), [(Lines(), b"x\n"), (LengthPrefix(1), b"\1x"), (Raw(), b"x")], ids=lambda value: repr(value)
)
def test_a_client_that_sends_many_small_messages_is_given_memory_for_few_of_them(framing: Any, message: bytes) -> None:
    """And is answered all of them, in order, whoever handles them, and however often the lead is lost over it."""
    inside, go_on, count = threading.Event(), threading.Event(), 30_000
    numbers = iter(range(10**9))

    def handle(data: bytes, peer: Peer) -> bytes:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(PATIENCE)
        return b"%d." % next(numbers)

    with Server(Messages(handle, framing), "127.0.0.1:0", max_workers=2, limits=Limits(max_message=1)) as server:
        with client(server) as sock:
            sock.sendall(message * count)
            assert inside.wait(PATIENCE)
            until(lambda: driver_of(server).leadership.lead is not None)
            with client(server) as other:  # whoever leads now has come so far
                go_on.set()
                assert ask(other, message, 1)
            (conn,) = (conn for each in (server._group,) if each for driver in each.drivers
                       for conn in driver.io.connections() if conn.peer.port == sock.getsockname()[1])  # fmt: skip
            assert len(conn.intake.waiting) <= 2 * MOST
            sock.shutdown(socket.SHUT_WR)
            answers = receive_all(sock).split(b".")[:-1]
    assert len(answers) == count
    assert [int(answer) for answer in answers] == sorted(map(int, answers))


class Keeps(Observer):
    def __init__(self) -> None:
        self.errors: list[str] = []

    def handled(self, event: MessageEvent) -> None:
        self.errors.append(str(event.error))


def test_what_waits_in_a_connection_that_is_closed_is_told_of_by_what_that_was_cut_for_first() -> None:
    loop, limits, keeps = EventLoop("loop"), Limits(), Keeps()
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        conn.observe(Record(Observers("handle", [keeps]), conn.peer))
        loop.sources[conn.fd] = conn
        conn.intake.waiting.extend(conn.intake.decoder.feed(b"one\ntwo\n"))
        conn.ending.error = "mine"
        io.close(conn, "another")
        assert keeps.errors == [f"[Errno {errno.ECONNABORTED}] mine"] * 2
    loop.close()


@pytest.mark.parametrize("state", [State.CLOSING, State.LINGERING, State.CLOSED])
def test_a_connection_that_was_taken_away_is_not_given_up_by_the_thread_that_had_it(state: State) -> None:
    loop, limits = EventLoop("loop"), Limits()
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        conn.state = state
        conn.outbox.add(memoryview(b"its last word"))
        io.give_up(conn, "its thread was killed")
        assert (conn.ending.error, conn.outbox.unsent, conn.state) == (None, 13, state)
    loop.close()


def test_whoever_keeps_the_peer_of_a_connection_that_is_closed_keeps_nothing_else_of_it() -> None:
    loop, limits = EventLoop("loop"), Limits()
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        loop.sources[conn.fd], conn.ending.loop = conn, loop
        assert not conn.peer.closing
        io.close(conn, "")
        assert conn.peer.closing
        assert (conn.ending.loop, conn.ending.intake) == (None, None)
    loop.close()


class Speaks:
    """Answers each "?" for now, and each "!" for good; the rest it holds, until "." makes a message of it."""

    def __init__(self) -> None:
        self.held = 0

    def feed(self, data: bytes) -> Iterator[bytes | Reply]:
        for byte in data:
            if byte in b"?!":
                self.held = self.held if byte == ord("?") else 0
                yield Reply(bytes([byte]), final=byte == ord("!"))
            elif byte == ord("."):
                self.held = 0
                yield b"message"
            else:
                self.held += 1

    def finish(self) -> tuple[bytes, ...]:
        return ()


@contextmanager
def cutting() -> Iterator[tuple[ConnectionIO, ClientConnection]]:
    loop, limits = EventLoop("loop"), Limits()
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield io, ClientConnection(ours, Peer("", ours), Speaks(), Context(), 0.0)
    loop.close()


def test_where_a_decoder_has_spoken_all_that_was_cut_waits() -> None:
    with cutting() as (io, conn):
        assert io.cut(conn, b"..") == [b"message"] * 2
        assert not conn.intake.waiting
        assert io.cut(conn, b".?.x") == ()
        assert [type(one) for one in conn.intake.waiting] == [bytes, Reply, bytes]
        assert conn.intake.held == 1


@pytest.mark.parametrize(
    ("data", "begun"),
    [(b"?", 3.0), (b"x?x?", 3.0), (b"?.", 0.0), (b".?", 0.0), (b"!", 0.0), (b"!x", 0.0), (b"?" * MOST * 3, 3.0)],
)
def test_an_interim_reply_gains_no_time_for_a_message_that_has_begun(data: bytes, begun: float) -> None:
    with cutting() as (io, conn):
        assert io.cut(conn, b"x") == []
        conn.intake.begun, conn.intake.received = 3.0, 1
        io.loop.now = 9.0
        assert io.cut(conn, data) == ()
        assert conn.intake.begun == begun
        while conn.intake.more is not None:
            assert len(conn.intake.waiting) == MOST
            conn.intake.waiting.clear()
            io.has_waiting(conn)
        assert conn.intake.begun == begun


def test_of_messages_and_replies_that_are_many_a_few_wait_at_a_time() -> None:
    with cutting() as (io, conn):
        assert io.cut(conn, b"?." * MOST * 2) == ()
        rounds = 0
        while conn.intake.waiting:
            rounds += 1
            assert len(conn.intake.waiting) == MOST
            conn.intake.waiting.clear()
            io.has_waiting(conn)
        assert rounds == 4


def test_who_was_answered_by_the_decoder_alone_has_been_served_when_the_server_stops() -> None:
    with cutting() as (io, conn):
        io.loop.draining = True
        assert not io.is_over(conn)
        conn.intake.spoken = True
        assert io.is_over(conn)


def test_where_the_protocol_has_a_grace_who_was_answered_has_that_long_when_the_server_stops() -> None:
    with cutting() as (io, conn):
        io.loop.draining = True
        io.deadlines.parting = 2.0
        io.deadlines.drained_at = conn.active = io.loop.now
        conn.intake.spoken = True
        assert not io.is_over(conn)
        io.loop.now += 1.9
        assert not io.is_over(conn)
        conn.active += 1.0
        io.loop.now += 0.2
        assert not io.is_over(conn)
        io.loop.now += 1.0
        assert io.is_over(conn)


@pytest.fixture
def being_made() -> Iterator[tuple[ConnectionIO, ClientConnection, socket.socket]]:
    """A connection of which another thread makes an answer."""
    limits = Limits(spool_memory=10_000_000, spool_file=0)
    loop = EventLoop("loop")
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(PATIENCE)
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        conn.enter(State.BUSY)
        loop.sources[conn.fd] = conn
        yield io, conn, theirs
    loop.close()


def test_what_is_made_is_sent_and_room_is_awaited_only_while_some_of_it_is_left(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket],
) -> None:
    io, conn, theirs = being_made
    spool = io.open_spool(conn)
    spool.add(b"small")
    io.loop.run_posted()
    assert theirs.recv(100) == b"small"
    assert (conn.watched, conn.outbox.transfer.since) == (0, 0.0)
    spool.add(b"x" * 5_000_000)
    io.loop.now = 7.0
    io.loop.run_posted()
    assert (conn.watched, conn.outbox.transfer.since) == (WRITE, 7.0)
    read = 0
    while read < 5_000_000:
        read += len(theirs.recv(1 << 20))
        io.pump(conn)
    assert (conn.watched, conn.outbox.transfer.since) == (0, 0.0)
    spool.complete()
    io.take_back(conn)
    assert conn.outbox.filling is None
    assert not conn.outbox.pieces


def test_a_thread_that_leads_sends_what_it_has_made_itself(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket],
) -> None:
    io, conn, _ = being_made
    conn.hand_back()
    io.open_spool(conn).add(b"x")
    assert not io.loop.inbox


def test_nobody_sends_what_is_made_once_the_loop_is_over_and_its_maker_is_told(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket],
) -> None:
    io, conn, _ = being_made
    spool = io.open_spool(conn)
    io.loop.over = True
    spool.add(b"x")
    with pytest.raises(ClientLeft):
        spool.add(b"y")
    assert not io.loop.inbox
    conn.outbox.fill(late := Spool(100, 0, None, lambda: True))
    conn.tear()
    io.give_back(conn, io.loop.wake)  # while the leader may be sending what was made
    assert conn.sock.fileno() == -1
    late.add(b"y")
    io.loop.unled = True
    io.give_back(conn, io.loop.wake)
    with pytest.raises(ClientLeft):
        late.add(b"z")
    del io.loop.sources[conn.fd]


def test_a_connection_that_was_cut_before_its_answer_began_has_none(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket],
) -> None:
    """Whoever cuts it notes that first, and looks then whether an answer is being made."""
    io, conn, _ = being_made
    conn.ending.error = "cut"
    with pytest.raises(ClientLeft):
        io.open_spool(conn).add(b"x")


def test_what_was_posted_for_an_answer_that_was_given_back_since_does_nothing(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket],
) -> None:
    io, conn, _ = being_made
    spool = io.open_spool(conn)
    spool.add(b"x" * 5_000_000)
    spool.complete()
    io.take_back(conn)
    watched = conn.watched
    io.loop.run_posted()
    assert conn.watched == watched == WRITE


def test_a_poller_that_fails_amid_an_answer_ends_that_connection(
    being_made: tuple[ConnectionIO, ClientConnection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    io, conn, _ = being_made

    def fails(conn: ClientConnection, events: int) -> None:
        raise OSError(errno.ENOSPC, "scripted")

    monkeypatch.setattr(io, "watch_for", fails)
    spool = io.open_spool(conn)
    spool.add(b"x" * 5_000_000)
    io.loop.run_posted()
    assert conn.ending.error == "scripted"
    with pytest.raises(ClientLeft):
        spool.add(b"more")

"""ClientConnection: what is kept when the kernel takes no more."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from math import inf
from pathlib import Path

import pytest

from tcp import PATIENCE
from treadle.server import FileRange, Lines, Peer, Raw
from treadle.server._loop.event_loop import EventLoop
from treadle.server._transport.causes import HALF
from treadle.server._transport.connection import CHUNK, PIECE, ClientConnection
from treadle.server._transport.sending.spool import ClientLeft, Spool
from treadle.server._transport.state import State


@pytest.fixture
def ends() -> Iterator[tuple[ClientConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0), theirs


def views_of(conn: ClientConnection) -> list[bytes]:
    return [bytes(view) for view in conn.outbox.pieces if isinstance(view, memoryview)]


def drained(conn: ClientConnection, theirs: socket.socket) -> bytes:
    """Flush and read until nothing is left."""
    data = b""
    while True:
        conn.flush()
        try:
            data += theirs.recv(1 << 20)
        except BlockingIOError:
            if not conn.outbox.pieces:
                return data


class Tls:
    """Sends as a TLS socket does: it says nothing before it has sent all, and then wants no less than the last time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent = b""
        self.least = 0

    def send(self, data: memoryview) -> int:
        assert len(data) >= self.least, "OpenSSL: bad write retry"
        if len(data) > self.room:
            self.least = len(data)
            raise ssl.SSLWantWriteError
        self.least = 0
        self.room -= len(data)
        self.sent += data
        return len(data)


def test_of_a_large_answer_over_tls_it_is_known_how_much_was_taken(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    """Or who takes it in good time would be slower than any rate, up to its last byte."""
    conn, _ = ends
    tls = Tls(room=3 * PIECE + 5)
    conn.secure, conn.send = True, tls.send
    answer = os.urandom(5 * PIECE + 7)
    conn.write(answer)
    assert conn.outbox.unsent == 2 * PIECE + 7
    conn.write(b"next")
    tls.room, conn.outbox.transfer.sent = PIECE, 0
    conn.flush()
    assert (conn.outbox.transfer.sent, conn.outbox.unsent) == (PIECE, PIECE + 11)
    tls.room = 2 * PIECE
    conn.flush()
    assert not conn.outbox.pieces
    assert tls.sent == answer + b"next"


def test_what_the_kernel_does_not_take_is_kept_in_order_and_counted(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    parts = [os.urandom(300_000) for _ in range(5)]
    for part in parts:
        conn.write(part)
    assert 0 < conn.outbox.unsent == sum(map(len, views_of(conn))) < 1_500_000
    assert drained(conn, theirs) == b"".join(parts)
    assert conn.outbox.unsent == 0


def test_an_answer_that_has_to_wait_is_counted_as_it_goes(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    conn.write(b"short")
    assert (conn.outbox.unsent, conn.outbox.transfer.sent) == (0, 0)
    conn.write(b"x" * 5_000_000)
    kept = conn.outbox.unsent
    assert kept
    theirs.recv(1 << 20)
    conn.flush()
    assert 0 < conn.outbox.transfer.sent == kept - conn.outbox.unsent
    drained(conn, theirs)
    assert (conn.outbox.transfer.sent, conn.outbox.unsent) == (kept, 0)


def test_after_a_fault_nothing_is_sent_any_more(ends: tuple[ClientConnection, socket.socket]) -> None:
    """Or the peer would get a later answer without the one before."""
    conn, theirs = ends
    conn.give_up("scripted")
    conn.give_up(OSError(5, "the first reason stays"))
    conn.write(b"more")
    assert conn.ending.error == "scripted"
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_an_answer_that_was_dropped_is_not_taken_for_sent(ends: tuple[ClientConnection, socket.socket]) -> None:
    """It has nothing left, as one that is sent; whoever is told of what is behind it would hear that all went well."""
    conn, _ = ends
    spool = Spool(100, 0, None, lambda: True)
    conn.ending.error = "cut"
    conn.outbox.fill(spool)
    spool.drop()
    spool.complete()
    conn.flush()
    assert list(conn.outbox.pieces) == [spool]


def test_an_answer_waits_whole_when_the_kernel_takes_nothing(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    before = 0
    with suppress(BlockingIOError):
        while True:
            before += conn.send(b"x")
    conn.write(b"late")
    assert (conn.outbox.unsent, views_of(conn)) == (4, [b"late"])
    assert drained(conn, theirs) == b"x" * before + b"late"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
        (ConnectionResetError(), "ConnectionResetError"),
        ("its thread was killed", "its thread was killed"),
    ],
)
def test_the_reason_for_giving_up_is_kept_in_words(
    ends: tuple[ClientConnection, socket.socket], error: OSError | str, words: str
) -> None:
    conn, _ = ends
    conn.outbox.add(memoryview(b"x"))
    conn.give_up(error)
    assert (conn.ending.error, conn.outbox.unsent, len(conn.outbox.pieces)) == (words, 0, 0)


def test_a_new_one_owes_nothing_and_came_now() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Raw().decoder(1), Context(), 7.0)
        assert (conn.fd, conn.state) == (ours.fileno(), State.OPEN)
        assert (conn.timing.since, conn.active, conn.due) == (7.0, 7.0, inf)
        assert (conn.watched, conn.timing.probation, conn.number) == (0, 0, 0)
        assert (conn.outbox.unsent, conn.outbox.transfer.sent, conn.intake.received) == (0, 0, 0)
        assert not any((conn.busy, conn.intake.ended, conn.intake.begun))
        assert not any((conn.ending.closing, conn.ending.last, conn.ending.error))


def test_it_is_idle_only_if_nothing_is_under_way(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, _ = ends
    assert conn.idle()
    conn.intake.held = 1
    assert not conn.idle()
    conn.intake.held = 0
    for state in set(State) - {State.READY, State.OPEN}:
        conn.state = state
        assert not conn.idle()
    conn.state = State.READY
    assert conn.idle()
    conn.outbox.add(memoryview(b"answer"))
    assert not conn.idle()
    conn.outbox.pieces.clear()
    assert conn.idle()
    conn.intake.waiting.append(b"message")
    assert not conn.idle()


def test_raw_bytes_that_need_no_cutting_are_not_cut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer("", ours)
        assert ClientConnection(ours, peer, Raw().decoder(CHUNK), Context(), 0.0).cuts is False
        for decoder in (Raw().decoder(CHUNK - 1), Lines().decoder(CHUNK)):
            assert ClientConnection(ours, peer, decoder, Context(), 0.0).cuts is True


def test_a_peer_that_is_gone_raises_nothing_and_drops_what_is_kept(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    conn.write(b"x" * 5_000_000)
    theirs.close()
    conn.flush()
    assert conn.ending.error is not None
    assert (conn.outbox.unsent, list(conn.outbox.pieces)) == (0, [])
    conn.write(b"more")
    assert not conn.outbox.pieces


def test_an_answer_to_a_peer_that_is_gone_raises_nothing(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    theirs.close()
    conn.write(b"x")
    assert conn.ending.error is not None
    assert (conn.outbox.unsent, list(conn.outbox.pieces)) == (0, [])


def test_an_end_is_near_when_it_is_decided_and_nothing_else_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        assert conn.peer.closing  # nobody looks after it
        conn.ending.loop = loop = EventLoop("test")
        assert not conn.peer.closing
        for owner, name, value in (
            (conn.ending, "closing", True),
            (conn.ending, "last", True),
            (conn.intake, "ended", True),
            (conn.intake, "farewell", b""),
            (loop, "draining", True),
        ):
            before = getattr(owner, name)
            setattr(owner, name, value)
            assert conn.peer.closing, name
            conn.intake.waiting.append(b"one more")
            assert not conn.peer.closing, name
            conn.intake.drop()
            conn.intake.more = iter([b"more"])
            assert not conn.peer.closing, name
            conn.intake.drop()
            setattr(owner, name, before)
        conn.intake.waiting.append(b"one more")
        conn.give_up("cut")
        assert conn.peer.closing
        conn.ending.error = None
        conn.ending.forget()
        assert conn.peer.closing
        loop.close()


def test_several_answers_are_sent_unjoined_and_what_is_left_is_kept(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    parts = [os.urandom(100_000) for _ in range(80)]
    conn.write_all([b"", *parts[:1], b""])
    assert not conn.outbox.pieces
    conn.write_all(parts[1:])
    assert 0 < conn.outbox.unsent < 7_900_000
    conn.write_all([b"behind", b"them"])
    assert drained(conn, theirs) == b"".join(parts) + b"behindthem"


def test_of_several_answers_none_is_sent_if_one_has_no_bytes(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    with pytest.raises(TypeError):
        conn.write_all([b"bytes", "text"])  # type: ignore[list-item]
    assert not conn.outbox.pieces
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_over_tls_views_are_given_in_one_piece_that_begins_the_same_and_gets_no_shorter(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, _ = ends
    tls = Tls(room=0)
    conn.secure, conn.send = True, tls.send
    parts = [os.urandom(PIECE // 3) for _ in range(10)]
    conn.write_all(parts[:1])
    assert tls.least == len(parts[0])
    conn.write_all(parts[1:])
    tls.room = 1 << 20
    conn.flush()
    assert tls.sent == b"".join(parts)


def test_a_file_is_sent_from_where_it_is_said_also_where_the_kernel_cannot_do_so_itself(
    ends: tuple[ClientConnection, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, theirs = ends
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def cannot(*args: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with path.open("rb") as file:
        assert conn.send_file(file, 2, 3) == 3
        assert conn.send_file(file, 10, 1) == 0
        monkeypatch.setattr(os, "sendfile", cannot, raising=False)
        assert conn.send_file(file, 5, 4) == 4
        assert conn.send_file(file, 10, 1) == 0
        assert theirs.recv(100) == b"2345678"
        for number, error in ((errno.EIO, OSError), (errno.EAGAIN, BlockingIOError)):

            def fails(*args: object, number: int = number) -> int:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, "sendfile", fails, raising=False)
            with pytest.raises(error):
                conn.send_file(file, 0, 1)


def test_a_file_for_a_connection_that_is_broken_is_closed_and_one_that_breaks_it_as_well(
    ends: tuple[ClientConnection, socket.socket], tmp_path: Path
) -> None:
    conn, _ = ends
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    first, second = path.open("rb"), path.open("rb")
    part = FileRange(first)
    os.truncate(path, 10)
    conn.write_all([b"head", part, b"tail"])
    assert conn.ending.torn
    assert conn.ending.error == HALF
    assert first.closed
    conn.write_all([b"head", FileRange(second)])
    assert second.closed
    assert not conn.outbox.pieces


def test_what_a_forked_child_abandons_is_dropped_without_a_lock_that_another_thread_may_have_had(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, _ = ends
    spool = Spool(100, 0, None, lambda: True)
    conn.outbox.fill(spool)
    with spool._lock:
        thread = threading.Thread(target=conn.abandon)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    with pytest.raises(ClientLeft):
        spool.add(b"x")

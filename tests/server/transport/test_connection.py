"""ClientConnection: what is kept when the kernel takes no more."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from math import inf

import pytest

from treadle.server import Lines, Peer, Raw
from treadle.server._transport.connection import CHUNK, PIECE, ClientConnection, Phase


@pytest.fixture
def ends() -> Iterator[tuple[ClientConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0), theirs


def drained(conn: ClientConnection, theirs: socket.socket) -> bytes:
    """Flush and read until nothing is left."""
    data = b""
    while True:
        conn.flush()
        try:
            data += theirs.recv(1 << 20)
        except BlockingIOError:
            if not conn.out:
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
    assert conn.unsent == 2 * PIECE + 7
    conn.write(b"next")
    tls.room, conn.sent = PIECE, 0
    assert conn.flush()
    assert (conn.sent, conn.unsent) == (PIECE, PIECE + 11)
    tls.room = 2 * PIECE
    assert conn.flush()
    assert not conn.out
    assert tls.sent == answer + b"next"


def test_what_the_kernel_does_not_take_is_kept_in_order_and_counted(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    parts = [os.urandom(300_000) for _ in range(5)]
    for part in parts:
        conn.write(part)
    assert 0 < conn.unsent == sum(map(len, conn.out)) < 1_500_000
    assert drained(conn, theirs) == b"".join(parts)
    assert conn.unsent == 0


def test_flush_tells_whether_it_got_anywhere(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    assert conn.flush()  # nothing to do
    conn.write(b"x" * 5_000_000)
    assert not conn.flush()
    theirs.recv(1 << 20)
    assert conn.flush()


def test_an_answer_that_has_to_wait_ends_the_calm_and_is_counted_as_it_goes(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    conn.calm = True
    conn.write(b"short")
    assert (conn.calm, conn.unsent, conn.sent) == (True, 0, 0)
    conn.write(b"x" * 5_000_000)
    kept = conn.unsent
    assert not conn.calm
    theirs.recv(1 << 20)
    conn.flush()
    assert 0 < conn.sent == kept - conn.unsent
    drained(conn, theirs)
    assert (conn.sent, conn.unsent) == (kept, 0)


def test_after_a_fault_nothing_is_sent_any_more(ends: tuple[ClientConnection, socket.socket]) -> None:
    """Or the peer would get a later answer without the one before."""
    conn, theirs = ends
    conn.give_up("scripted")
    conn.give_up(OSError(5, "the first reason stays"))
    conn.write(b"more")
    assert conn.error == "scripted"
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_an_answer_waits_whole_when_the_kernel_takes_nothing(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    before = 0
    with suppress(BlockingIOError):
        while True:
            before += conn.send(b"x")
    conn.write(b"late")
    assert (conn.unsent, [bytes(view) for view in conn.out]) == (4, [b"late"])
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
    conn.keep(memoryview(b"x"))
    conn.calm = True
    conn.give_up(error)
    assert (conn.error, conn.calm, conn.unsent, len(conn.out)) == (words, False, 0, 0)


def test_a_new_one_owes_nothing_and_came_now() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Raw().decoder(1), Context(), 7.0)
        assert (conn.fd, conn.phase, conn.since, conn.active, conn.due) == (ours.fileno(), Phase.OPEN, 7.0, 7.0, inf)
        assert (conn.watched, conn.slow, conn.number, conn.unsent, conn.sent, conn.received) == (0,) * 6
        assert not any((conn.calm, conn.busy, conn.ended, conn.closing, conn.last, conn.begun, conn.error))


def test_it_is_idle_only_if_nothing_is_under_way(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, _ = ends
    assert conn.idle()
    for name, value, back in (("busy", True, False), ("held", 1, 0), ("phase", Phase.CLOSING, Phase.OPEN)):
        setattr(conn, name, value)
        assert not conn.idle()
        setattr(conn, name, back)
    conn.keep(memoryview(b"answer"))
    assert not conn.idle()
    conn.out.clear()
    assert conn.idle()
    conn.waiting.append(b"message")
    assert not conn.idle()


def test_raw_bytes_that_need_no_cutting_are_not_cut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer("", ours)
        assert ClientConnection(ours, peer, Raw().decoder(CHUNK), Context(), 0.0).feed is None
        for decoder in (Raw().decoder(CHUNK - 1), Lines().decoder(CHUNK)):
            assert ClientConnection(ours, peer, decoder, Context(), 0.0).feed is not None


def test_a_peer_that_is_gone_raises_nothing_and_drops_what_is_kept(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    conn, theirs = ends
    conn.write(b"x" * 5_000_000)
    theirs.close()
    assert conn.flush()
    assert conn.error is not None
    assert (conn.unsent, list(conn.out)) == (0, [])
    conn.write(b"more")
    assert not conn.out


def test_an_answer_to_a_peer_that_is_gone_raises_nothing(ends: tuple[ClientConnection, socket.socket]) -> None:
    conn, theirs = ends
    conn.calm = True
    theirs.close()
    conn.write(b"x")
    assert conn.error is not None
    assert (conn.calm, conn.unsent, list(conn.out)) == (False, 0, [])

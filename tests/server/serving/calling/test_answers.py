"""Answers: what is sent together, and what gives its pieces one by one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from treadle.server import CloseConnection, FileRange, Lines, Peer
from treadle.server._serving.calling.answers import Answers, can_be_sent, is_made_in_pieces, pull, send, size_of
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.sending.outbox import Outbox
from treadle.server._transport.sending.spool import Spool


@pytest.fixture
def ends() -> Iterator[tuple[ClientConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0), theirs


class Sent:
    """Keeps what is sent."""

    def __init__(self, most: int = 100) -> None:
        self.answers: list[Any] = []
        conn: Any = SimpleNamespace(outbox=Outbox())
        self.together = Answers(conn, lambda conn, answer: self.answers.append(answer), most, None)

    def add(self, *answers: Any) -> Answers:
        for answer in answers:
            self.together.add(answer)
        return self.together


def test_short_answers_are_sent_together_and_once() -> None:
    sent = Sent()
    sent.add(b"one", None, bytearray(b"two"), b"").send()
    assert sent.answers == [b"onetwo"]
    sent.together.send()
    assert sent.answers == [b"onetwo"]


def test_what_may_be_changed_is_copied() -> None:
    sent, answer = Sent(), bytearray(b"old")
    together = sent.add(answer)
    answer[:] = b"new"
    together.send()
    assert sent.answers == [b"old"]


@pytest.mark.parametrize(
    ("answers", "enough"),
    [([], False), ([b"x" * 100], False), ([b"x" * 101], True), ([b"x" * 60] * 2, True), ([bytearray(10)], False)],
)
def test_they_are_enough_beyond_a_limit(answers: list[Any], enough: bool) -> None:
    assert Sent().add(*answers).are_enough() is enough


@pytest.mark.parametrize("last", [[b"list"], (b"tuple",), "text", 7])
def test_what_is_more_than_bytes_or_less_is_sent_by_itself_behind_those_before(last: Any) -> None:
    sent = Sent()
    together = sent.add(b"one", b"two", last)
    assert together.are_enough()
    together.send()
    assert sent.answers == [b"one", b"two", last]


def test_each_kind_of_answer_is_sent_in_its_way(ends: tuple[ClientConnection, socket.socket], tmp_path: Path) -> None:
    conn, theirs = ends
    path = tmp_path / "file"
    path.write_bytes(b"in a file")
    for answer in (b"bytes,", [b"a ", bytearray(b"list,")], (memoryview(b"tuple,"),), FileRange(path.open("rb")), b""):
        send(conn, answer)
    send(conn, [b", ", FileRange(path.open("rb"), 0, 2), b" ", FileRange(path.open("rb"), 5)])
    assert theirs.recv(100) == b"bytes,a list,tuple,in a file, in file"
    for other in ("text", 7, ["text"], object(), [[b"x"]]):
        with pytest.raises(TypeError):
            send(conn, other)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_bytes_can_be_sent_and_what_is_more_or_less_cannot(tmp_path: Path) -> None:
    assert all(map(can_be_sent, (b"", bytearray(), memoryview(b""))))
    assert not any(map(can_be_sent, ("", None, [b"x"])))


def test_an_iterator_makes_its_answer_in_pieces_and_what_can_only_be_iterated_does_not() -> None:
    assert is_made_in_pieces(iter([b"x"]))
    assert is_made_in_pieces(piece for piece in [b"x"])
    assert not any(map(is_made_in_pieces, (b"x", [b"x"], (b"x",), memoryview(b"x"), {b"x"}, None)))


class Pulled:
    """What was begun, and made."""

    def __init__(self) -> None:
        self.spools: list[Spool] = []

    def begin(self) -> Spool:
        self.spools.append(Spool(1 << 16, 0, None, lambda: True))
        return self.spools[-1]


def test_it_begins_with_the_first_piece_and_is_complete_with_the_last() -> None:
    pulled = Pulled()

    def pieces() -> Iterator[bytes]:
        assert not pulled.spools
        yield b"one"
        assert pulled.spools[0].made == 3
        yield b"two"

    pull(pieces(), pulled.begin)
    (spool,) = pulled.spools
    assert (spool.made, spool._complete, spool._failed) == (6, True, False)


def test_without_pieces_nothing_begins() -> None:
    pulled = Pulled()
    pull(iter([]), pulled.begin)
    assert not pulled.spools


class Made:
    """Pieces that note who closed them."""

    def __init__(self, pieces: Iterator[Any], error: Exception | None = None) -> None:
        self._pieces = pieces
        self.error = error
        self.closed: list[int] = []

    def __iter__(self) -> Made:
        return self

    def __next__(self) -> Any:
        return next(self._pieces)

    def close(self) -> None:
        self.closed.append(threading.get_ident())
        if self.error is not None:
            raise self.error


def failing(error: Exception, *pieces: bytes) -> Iterator[bytes]:
    yield from pieces
    raise error


@pytest.mark.parametrize("before", [(), (b"half",)])
def test_what_raises_is_closed_and_has_failed_if_it_had_begun(before: tuple[bytes, ...]) -> None:
    pulled, made = Pulled(), Made(failing(LookupError("no more"), *before))
    with pytest.raises(LookupError):
        pull(made, pulled.begin)
    assert made.closed == [threading.get_ident()]
    assert [(spool._complete, spool._failed) for spool in pulled.spools] == [(True, True)] * len(before)


def test_a_close_that_raises_leaves_a_whole_answer() -> None:
    pulled, made = Pulled(), Made(iter([b"all"]), OSError("scripted"))
    with pytest.raises(OSError, match="scripted"):
        pull(made, pulled.begin)
    assert (pulled.spools[0]._complete, pulled.spools[0]._failed) == (True, False)


def test_a_client_that_has_left_ends_it_without_an_error() -> None:
    pulled = Pulled()
    spool = pulled.begin()
    spool.drop()
    made = Made(iter([b"for", b"nobody"]))
    pull(made, lambda: spool)
    assert list(made) == [b"nobody"]
    assert made.closed


@pytest.mark.parametrize("gone", [False, True])
def test_close_connection_amid_the_pieces_has_its_answer_sent_behind_them(gone: bool) -> None:
    pulled = Pulled()

    def pieces() -> Iterator[bytes]:
        yield b"pieces"
        if gone:
            pulled.spools[0].drop()
        raise CloseConnection(b"bye")

    with pytest.raises(CloseConnection) as raised:
        pull(pieces(), pulled.begin)
    assert raised.value.answer == b""
    (spool,) = pulled.spools
    assert (spool.size, spool._complete, spool._failed) == (0 if gone else 9, True, False)


def test_close_connection_before_them_is_that_of_the_handler() -> None:
    pulled = Pulled()
    with pytest.raises(CloseConnection) as raised:
        pull(failing(CloseConnection(b"bye")), pulled.begin)
    assert (raised.value.answer, pulled.spools) == (b"bye", [])


def test_a_piece_is_not_kept_while_the_next_is_made() -> None:
    """It may be large."""

    class Piece(bytearray):
        pass

    gone = threading.Event()

    def pieces(make: Callable[[], Piece]) -> Iterator[Piece]:
        import weakref

        piece = make()
        weakref.finalize(piece, gone.set)
        yield piece
        del piece
        assert gone.is_set()
        yield make()

    pulled = Pulled()
    pull(pieces(lambda: Piece(b"x")), pulled.begin)


def test_the_size_of_an_answer_is_that_of_all_its_bytes_however_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        for answer, size in (
            (b"bytes", 5),
            ([b"a", bytearray(2)], 3),
            ((b"a", memoryview(b"bc")), 3),
            (FileRange(file, 10), 90),
            ([b"head", FileRange(file, 10), FileRange(file, 99)], 95),
            (None, 0),
            ("text", 0),
        ):
            assert size_of(answer) == size

"""Answers that are more than bytes: lists, ranges of files, and what is made piece by piece."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from behaviour.scripts import script
from certificates import Authority
from socketservers import until
from tcp import PATIENCE, driver_of, receive, until_led
from treadle import checkpoint
from treadle.errors import DeadlineExceeded
from treadle.server import (
    Certificates,
    CloseConnection,
    ConnectionEvent,
    FileRange,
    Limits,
    Lines,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    Server,
)
from treadle.server._serving.driver import Driver
from treadle.server._transport.connection import ClientConnection

MUCH = 20 << 20  # bytes that no kernel holds for one connection


class Told(Observer):
    """Counts what observers are told that was sent."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.errors: list[BaseException | None] = []
        self.sent: list[int] = []

    def handled(self, event: MessageEvent) -> None:
        self.answers.append(event.bytes_out)
        self.errors.append(event.error)

    def closed(self, event: ConnectionEvent) -> None:
        self.sent.append(event.bytes_out)


class Way:
    """How a server serves, and its clients come in."""

    def __init__(self, name: str, authority: Authority, certificates: Certificates) -> None:
        self.name = name
        self.told = Told()
        self._context = authority.client_context() if name == "tls" else None
        self._certificates = certificates

    @contextmanager
    def serve(self, handle: Callable[[bytes, Peer], Any], workers: int = 4, **limits: Any) -> Iterator[Server]:
        """Serve lines."""
        tls = None if self._context is None else self._certificates
        observers = [self.told] if self.name == "observed" else []
        given = Limits(**limits)
        protocol = Messages(handle, Lines())
        server = Server(protocol, "127.0.0.1:0", max_workers=workers, limits=given, tls=tls, observers=observers)
        with server:
            yield server

    @contextmanager
    def client(self, server: Server, holds: int | None = None) -> Iterator[socket.socket]:
        """Come in; the kernel holds about so many bytes for it that it has not read."""
        assert server._group is not None
        for driver in server._group.drivers:
            until_led(driver)
        with socket.socket() as sock:
            sock.settimeout(PATIENCE)
            if holds is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
            sock.connect(server.address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                yield sock
            else:
                with self._context.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secret:
                    yield secret


@pytest.fixture(params=["plain", "tls", "observed", "loops"])
def way(
    request: pytest.FixtureRequest, authority: Authority, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Way:
    loops = 2 if request.param == "loops" else 1
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    return Way(request.param, authority, certificates)


@pytest.fixture
def plain(authority: Authority, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Way:
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: 1)
    return Way("plain", authority, certificates)


def cut_off(sock: socket.socket) -> bytes:
    """Return what comes, up to the end, which must not look like one in order."""
    data = bytearray()
    try:
        while chunk := sock.recv(1 << 16):
            data += chunk
    except OSError:  # a reset, or with TLS an end without its goodbye
        return bytes(data)
    raise AssertionError("an end in order")


def numbers(count: int, size: int = 10) -> list[bytes]:
    """Return pieces, each of which tells where it belongs."""
    return [b"%*d" % (size, number) for number in range(count)]


def closed_by(server: Server, cause: str) -> None:
    """Wait until one connection was closed for `cause`, and none for another."""
    until(lambda: server.snapshot().closed_by == {cause: 1})


class Pieces:
    """An answer in pieces that tells in which thread it was made, and that it was closed."""

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self.threads: set[int] = set()
        self.closed = threading.Event()

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> Any:
        self.threads.add(threading.get_ident())
        return next(self._pieces)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed.set()


# -- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 65, 2500])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_sent_in_its_order_and_what_is_pipelined_behind_it(way: Way, kind: type, count: int) -> None:
    answer = kind(numbers(count))
    with way.serve(lambda line, peer: answer if line == b"list" else line) as server, way.client(server) as sock:
        for _ in range(2):
            sock.sendall(b"list\nnext\nlist\n")
            assert receive(sock, 20 * count + 4) == b"".join(answer) + b"next" + b"".join(answer)


def test_what_a_list_is_made_of_may_be_changed_once_it_was_returned(way: Way) -> None:
    parts = [bytearray(b"%07d\n" % number * 10_000) for number in range(300)]
    whole = b"".join(parts)

    def handle(line: bytes, peer: Peer) -> Any:
        if line == b"list":
            return [memoryview(part) for part in parts]
        for part in parts:
            part[:] = b"x" * len(part)
        return b"spoilt"

    with way.serve(handle) as server, way.client(server, 4096) as slow, way.client(server) as quick:
        slow.sendall(b"list\n")
        receive(slow, 8)
        quick.sendall(b"spoil\n")
        assert receive(quick, 6) == b"spoilt"
        same = receive(slow, len(whole) - 8) == whole[8:]
        assert same


@pytest.mark.parametrize("answer", [["text"], [b"bytes", None], ([],), [b"", 7]])
def test_a_list_of_what_has_no_bytes_is_a_failure_of_which_nothing_is_sent(plain: Way, answer: Any) -> None:
    with plain.serve(lambda line, peer: answer) as server, plain.client(server) as sock:
        sock.sendall(b"\n")
        assert sock.recv(100) == b""
        assert server.snapshot().failures == 1


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(b"".join(b"%07d\n" % number for number in range(MUCH // 8)))
    return path


@pytest.mark.parametrize(("offset", "size"), [(0, None), (5, None), (5, 70_000), (100, 0), (200_000, None), (3, 1)])
def test_a_range_of_a_file_is_sent_and_the_file_closed(way: Way, tmp_path: Path, offset: int, size: int | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(200_000))
    wanted = path.read_bytes()[offset : None if size is None else offset + size]
    files: list[Any] = []

    def handle(line: bytes, peer: Peer) -> Any:
        if line != b"file":
            return line
        files.append(path.open("rb"))
        return FileRange(files[-1], offset, size)

    with way.serve(handle) as server, way.client(server) as sock:
        sock.sendall(b"before\nfile\nbetween\nfile\nafter\n")
        expected = b"before" + wanted + b"between" + wanted + b"after"
        same = receive(sock, len(expected)) == expected
        assert same
        until(lambda: len(files) == 2 and all(file.closed for file in files))


def test_a_large_file_goes_at_its_clients_pace_and_others_are_served_meanwhile(way: Way, big: Path) -> None:
    def handle(line: bytes, peer: Peer) -> Any:
        return FileRange(big.open("rb")) if line == b"file" else line

    with way.serve(handle, workers=1) as server, way.client(server, 4096) as slow, way.client(server) as quick:
        slow.sendall(b"file\nnext\n")
        data = bytearray(receive(slow, 1))
        for _ in range(20):
            quick.sendall(b"quick\n")
            assert receive(quick, 5) == b"quick"
            data += receive(slow, 1 << 18)
        data += receive(slow, MUCH + 4 - len(data))
        same = data == big.read_bytes() + b"next"  # a difference would take minutes to be shown
        assert same


@pytest.mark.parametrize("holds", [None, 4096])
def test_a_head_and_files_are_one_answer(way: Way, big: Path, holds: int | None) -> None:
    files: list[Any] = []

    def handle(line: bytes, peer: Peer) -> Any:
        if line != b"file":
            return line
        files.extend(big.open("rb") for _ in range(2))
        return [b"head", FileRange(files[-2], 8), bytearray(b"amid"), FileRange(files[-1], MUCH - 16, 8), b"", b"tail"]

    data = big.read_bytes()
    expected = b"before" + b"".join([b"head", data[8:], b"amid", data[-16:-8], b"tail"]) * 2 + b"after"
    with way.serve(handle) as server, way.client(server, holds) as sock:
        sock.sendall(b"before\nfile\nfile\nafter\n")
        same = receive(sock, len(expected)) == expected
        assert same
        until(lambda: len(files) == 4 and all(file.closed for file in files))


@pytest.mark.parametrize("other", ["text", None, [b"bytes"]])
def test_the_files_of_a_list_that_cannot_be_sent_are_closed(plain: Way, big: Path, other: Any) -> None:
    file = big.open("rb")
    with plain.serve(lambda line, peer: [b"head", FileRange(file), other]) as server, plain.client(server) as sock:
        sock.sendall(b"\n")
        assert sock.recv(100) == b""
        assert server.snapshot().failures == 1
        until(lambda: file.closed)


def test_a_file_that_gets_shorter_meanwhile_is_seen_by_its_client(way: Way, big: Path) -> None:
    files: list[Any] = []

    def handle(line: bytes, peer: Peer) -> Any:
        files.append(big.open("rb"))
        return FileRange(files[0])

    with way.serve(handle) as server, way.client(server, 4096) as sock:
        sock.sendall(b"file\n")
        receive(sock, 1000)
        os.truncate(big, 1000)
        cut_off(sock)
        closed_by(server, "answer_failed")
        until(lambda: files[0].closed)


@pytest.mark.parametrize("end", ["client", "stop", "user"])
def test_a_file_that_is_not_sent_to_its_end_is_closed(way: Way, big: Path, end: str) -> None:
    files: list[Any] = []

    def handle(line: bytes, peer: Peer) -> Any:
        files.append(big.open("rb"))
        return FileRange(files[0])

    with way.serve(handle) as server, way.client(server, 4096) as sock:
        sock.sendall(b"file\n")
        receive(sock, 1000)
        if end == "client":
            sock.close()
        elif end == "stop":
            server.stop(0.0)
        else:
            files[0].close()
            cut_off(sock)
            closed_by(server, "answer_failed")
        until(lambda: files[0].closed)


def test_a_file_for_a_client_that_is_gone_is_closed(way: Way, big: Path) -> None:
    begun, gone, files = threading.Event(), threading.Event(), list[Any]()

    def handle(line: bytes, peer: Peer) -> Any:
        begun.set()
        assert gone.wait(PATIENCE)
        files.append(big.open("rb"))
        return FileRange(files[0])

    with way.serve(handle) as server:
        with way.client(server) as sock:
            sock.sendall(b"file\n")
            assert begun.wait(PATIENCE)  # until then the connection may be busy with its handshake
            until(lambda: any(conn.busy for driver in _drivers(server) for conn in driver.io.connections()))
        for driver in _drivers(server):
            for conn in driver.io.connections():
                conn.ending.error = "cut while the handler ran"
        gone.set()
        until(lambda: files and files[0].closed)


def test_a_client_that_pipelines_and_reads_nothing_has_one_file_open(plain: Way, big: Path) -> None:
    """Of ranges of one byte 65,536 would fit into what may wait for it."""
    files: list[Any] = []

    def handle(line: bytes, peer: Peer) -> Any:
        if line == b"fill":
            return b"x" * MUCH
        files.append(big.open("rb"))
        return FileRange(files[-1], 0, 1)

    with plain.serve(handle, max_unsent=2 * MUCH) as server, plain.client(server, 4096) as sock:
        sock.sendall(b"fill\n" + b"file\n" * 200)
        until(lambda: len(files) == 1)
        plain_ping(plain, server)
        assert sum(not file.closed for file in files) == 1
        same = receive(sock, MUCH + 200) == b"x" * MUCH + b"0" * 200
        assert same
        until(lambda: all(file.closed for file in files))


def plain_ping(way: Way, server: Server) -> None:
    """Wait until the leaders have done what they were about."""
    for driver in _drivers(server):
        done = threading.Event()
        driver.loop.post(done.set)
        assert done.wait(PATIENCE)


def _drivers(server: Server) -> list[Driver]:
    assert server._group is not None
    return server._group.drivers


def connection_of(server: Server) -> ClientConnection:
    """Return the only one, once it has come."""
    found: list[ClientConnection] = []

    def look() -> bool:
        found[:] = [conn for driver in _drivers(server) for conn in driver.io.connections()]
        return bool(found)

    until(look)
    (conn,) = found
    return conn


# -- pieces -----------------------------------------------------------------------------------------------------------

WHO = ["leader", "lost", "task"]  # runs the handler: the leader, to its end; it, until it loses the lead; the pool


@pytest.mark.parametrize("who", WHO)
def test_each_piece_arrives_while_the_next_is_made(way: Way, who: str) -> None:
    """Also what is pipelined behind it comes behind it, and in order."""
    let = [threading.Event() for _ in range(3)]
    held = threading.Event()
    answers: list[Pieces] = []

    def pieces() -> Iterator[Any]:
        yield b"first"
        if who == "lost":
            assert held.wait(PATIENCE)
        for number, event in enumerate(let):
            if who != "leader":
                assert event.wait(PATIENCE)
            yield bytearray(b"piece %d" % number)
        yield b""

    def handle(line: bytes, peer: Peer) -> Any:
        if line != b"pieces":
            return line
        answers.append(Pieces(pieces()))
        return answers[-1]

    with way.serve(handle) as server, way.client(server) as sock:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        sock.sendall(b"before\npieces\nafter\nmore\n")
        assert receive(sock, 11) == b"beforefirst"
        held.set()
        for number, event in enumerate(let):
            event.set()
            assert receive(sock, 7) == b"piece %d" % number
        assert receive(sock, 9) == b"aftermore"
        assert answers[0].closed.is_set()
        assert len(answers[0].threads) == 1


@pytest.mark.parametrize("who", WHO)
def test_a_generator_is_pulled_and_closed_in_the_thread_and_the_context_of_its_handler(way: Way, who: str) -> None:
    """As whoever sets a context variable in it, and resets that by its token, wants it."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[tuple[str, int]] = []
    begun, let, over = threading.Event(), threading.Event(), threading.Event()

    def pieces(first: Token[str]) -> Iterator[bytes]:
        seen.append((variable.get(), threading.get_ident()))
        token = variable.set("of the generator")
        seen.append((variable.get(), threading.get_ident()))
        try:
            yield b"x"
            begun.set()
            assert who == "leader" or let.wait(PATIENCE)
            yield b"y" * 1000
            while who != "leader":
                yield b"z" * 1000
        finally:
            seen.append((variable.get(), threading.get_ident()))
            variable.reset(token)
            variable.reset(first)  # in another context it could not be
            seen.append((variable.get(), threading.get_ident()))
            over.set()

    def handle(line: bytes, peer: Peer) -> Any:
        seen.append((variable.get(), threading.get_ident()))
        return pieces(variable.set("of the handler"))

    with way.serve(handle) as server:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        with way.client(server) as sock:
            sock.sendall(b"\n")
            assert receive(sock, 1) == b"x"
            assert begun.wait(PATIENCE)
        let.set()
        assert over.wait(PATIENCE)
        assert [value for value, _ in seen] == [
            "unset",
            "of the handler",
            "of the generator",
            "of the generator",
            "unset",
        ]
        assert len({thread for _, thread in seen}) == 1
        until(lambda: not any(driver.io.connections() for driver in _drivers(server)))
        assert server.snapshot().failures == 0


def test_an_error_before_the_first_piece_is_that_of_the_handler(way: Way) -> None:
    def pieces(what: str) -> Iterator[bytes]:
        if what == "bye":
            raise CloseConnection(b"bye")
        raise LookupError(what)
        yield b""

    with way.serve(lambda line, peer: line if line == b"ok" else pieces(line.decode())) as server:
        for what, last in (("bye", b"bye"), ("fault", b"")):
            with way.client(server) as sock:
                sock.sendall(b"ok\n" + what.encode() + b"\nok\n")
                assert receive(sock, 100) == b"ok" + last
        until(lambda: server.snapshot().failures == 1)
        assert not server.snapshot().closed_by


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("fault", ["raises", "text"])
def test_after_an_error_amid_the_pieces_the_client_sees_that_it_has_not_the_whole(
    way: Way, who: str, fault: str
) -> None:
    let = threading.Event()

    def pieces() -> Iterator[Any]:
        yield b"begun"
        assert who == "leader" or let.wait(PATIENCE)
        if fault == "text":
            yield "text"
        raise LookupError("no more")

    with way.serve(lambda line, peer: pieces() if line == b"pieces" else line) as server, way.client(server) as sock:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        sock.sendall(b"pieces\nnext\n")
        if who != "leader":
            assert receive(sock, 5) == b"begun"
        let.set()
        assert cut_off(sock) in (b"", b"begun")
        closed_by(server, "answer_failed")
        assert server.snapshot().failures == 1


@pytest.mark.parametrize("who", WHO)
def test_close_connection_amid_the_pieces_ends_them_in_order(way: Way, who: str) -> None:
    """Its last answer comes behind the pieces, not before those that wait."""
    let = threading.Event()

    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * 100_000
        assert who == "leader" or let.wait(PATIENCE)
        raise CloseConnection(b"bye")

    with way.serve(lambda line, peer: pieces() if line == b"pieces" else line) as server, way.client(server) as sock:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        sock.sendall(b"pieces\nnext\n")
        assert receive(sock, 100_000) == b"x" * 100_000
        let.set()
        assert receive(sock, 1_000_000) == b"x" * 900_000 + b"bye"
        assert server.snapshot().failures == 0


class Marks(NamedTuple):
    """How much of an answer is kept, and where."""

    spool_memory: int
    spool_file: int


@pytest.mark.parametrize("marks", [Marks(1 << 16, 0), Marks(0, 1 << 16), Marks(1000, 70_001), Marks(0, 0)])
@pytest.mark.parametrize("who", WHO)
def test_beyond_the_second_mark_the_thread_waits_and_goes_on_as_the_client_reads(
    way: Way, who: str, marks: Marks
) -> None:
    """And nothing that was sent changes over it, though the file is written anew while the client has not read it."""
    count, size = 4000, 3001
    made = [0]

    def pieces() -> Iterator[bytes]:
        for piece in numbers(count, size):
            made[0] += 1
            yield piece

    with way.serve(lambda line, peer: pieces() if line == b"pieces" else line, **marks._asdict()) as server:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        with way.client(server, 4096) as sock, way.client(server) as quick:
            sock.sendall(b"pieces\nnext\n")
            data = receive(sock, 1)
            quick.sendall(b"quick\n")
            assert receive(quick, 5) == b"quick"
            data += receive(sock, count * size - 1 + 4)
            same = data == b"".join(numbers(count, size)) + b"next"  # a difference would take minutes to be shown
            assert same
    assert made == [count]


def test_a_thread_waits_once_all_is_full(plain: Way) -> None:
    made: list[int] = []
    full = threading.Event()

    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            made.append(number)
            if number * 100_000 > MUCH:
                full.set()
            yield b"x" * 100_000

    with plain.serve(lambda line, peer: pieces(), spool_memory=100_100, spool_file=250_000) as server:
        with plain.client(server, 4096) as sock:
            sock.sendall(b"pieces\n")
            conn = connection_of(server)
            until(lambda: conn.outbox.filling is not None and conn.outbox.filling.size >= 350_000)
            assert not full.is_set()
            assert len(made) < 200
            assert conn.outbox.filling is not None
            assert conn.outbox.filling.size <= 350_000
            assert receive(sock, 100_000_000).count(b"x") == 100_000_000


def test_a_spool_that_was_emptied_just_as_the_turn_was_over_is_gone_on_with(plain: Way) -> None:
    """Whoever leads has given the kernel enough for one turn, and all there was: it is told of the next piece anew."""
    let = [threading.Event() for _ in range(4)]

    def pieces() -> Iterator[bytes]:
        for event in let:
            assert event.wait(PATIENCE)
            yield b"x" * (1 << 20)

    limits = {"spool_memory": 2 << 20, "spool_file": 0}
    with plain.serve(lambda line, peer: pieces(), **limits) as server, plain.client(server) as sock:
        sock.sendall(b"\n")
        for event in let:
            event.set()
            assert len(receive(sock, 1 << 20)) == 1 << 20


@pytest.mark.parametrize("waits", ["in the spool", "for itself"])
def test_write_timeout_cuts_a_client_that_takes_nothing_and_frees_the_thread(way: Way, waits: str) -> None:
    over, never = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            for _ in range(100):
                yield b"x" * 300_000
            if waits == "for itself":
                assert never.wait(PATIENCE)
                yield b"last"
        finally:
            over.set()

    much = 0 if waits == "in the spool" else 1 << 26
    limits: dict[str, Any] = {"write_timeout": 0.2, "spool_file": much}
    with way.serve(lambda line, peer: pieces(), **limits) as server, way.client(server, 4096) as sock:
        sock.sendall(b"pieces\n")
        conn = connection_of(server)
        until(lambda: conn.ending.error == "write_timeout")
        never.set()
        assert over.wait(PATIENCE)
        closed_by(server, "write_timeout")
        cut_off(sock)
        assert server.snapshot().failures == 0


@pytest.mark.parametrize("who", ["lost", "task"])
def test_an_answer_that_is_cut_while_its_client_has_read_all_so_far_does_not_look_whole(way: Way, who: str) -> None:
    let = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"half"
        assert let.wait(PATIENCE)
        yield b"a dozen"

    with way.serve(lambda line, peer: pieces(), handler_timeout=0.2) as server, way.client(server) as sock:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        sock.sendall(b"\n")
        assert receive(sock, 4) == b"half"
        conn = connection_of(server)
        until(lambda: conn.ending.error is not None)
        let.set()
        assert cut_off(sock) == b""
        closed_by(server, "handler_timeout")


@pytest.mark.parametrize("who", WHO)
def test_pieces_are_made_under_the_deadline_of_their_handler(way: Way, who: str) -> None:
    never, noticed = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        if who != "leader":
            yield b"half"
        try:
            for _ in range(int(PATIENCE / 0.001)):
                checkpoint()
                never.wait(0.001)
        except DeadlineExceeded:
            noticed.set()
            raise

    with way.serve(lambda line, peer: pieces(), handler_timeout=0.1) as server, way.client(server) as sock:
        if who == "task":
            for driver in _drivers(server):
                driver.handlers.slowness.offload()
        sock.sendall(b"\n")
        if who == "leader":  # nothing was sent
            with suppress(OSError):
                assert receive(sock, 1) == b""
        else:
            assert cut_off(sock) in (b"", b"half")
        closed_by(server, "handler_timeout")
        assert noticed.wait(PATIENCE)  # perhaps a moment after the connection was taken away


def test_a_stop_waits_for_an_answer_that_is_being_made(way: Way) -> None:
    let, begun = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"begun"
        begun.set()
        assert let.wait(PATIENCE)
        yield b"ended"

    with way.serve(lambda line, peer: pieces()) as server, way.client(server) as sock:
        sock.sendall(b"\n")
        assert begun.wait(PATIENCE)
        cut = list[int]()
        stopper = threading.Thread(target=lambda: cut.append(server.stop(PATIENCE)))
        stopper.start()
        until(lambda: all(driver.loop.draining for driver in _drivers(server)))
        let.set()
        assert receive(sock, 100) == b"begunended"
        sock.close()
        stopper.join(PATIENCE)
        assert cut == [0]


@pytest.mark.parametrize("waits", ["in the spool", "for itself"])
def test_a_stop_cuts_an_answer_that_is_not_made_in_time_and_frees_its_thread(way: Way, waits: str) -> None:
    let, over = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            yield b"begun"
            if waits == "for itself":
                assert let.wait(PATIENCE)
            while True:
                yield b"x" * 100_000
        finally:
            over.set()

    with way.serve(lambda line, peer: pieces(), spool_file=0) as server, way.client(server, 4096) as sock:
        sock.sendall(b"\n")
        assert receive(sock, 5) == b"begun"
        assert server.stop(0.1) == 1
        let.set()
        assert over.wait(PATIENCE)
        cut_off(sock)


def test_without_observers_and_with_a_fault_in_the_spool_only_that_answer_fails(plain: Way, tmp_path: Path) -> None:
    """The folder has gone since the server began."""
    folder = tmp_path / "spools"
    folder.mkdir()

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 100_000

    def handle(line: bytes, peer: Peer) -> Any:
        return pieces() if line == b"pieces" else line

    with plain.serve(handle, spool_memory=100, spool_folder=folder) as server:
        folder.rmdir()
        with plain.client(server, 4096) as sock, plain.client(server) as quick:
            sock.sendall(b"pieces\n")
            cut_off(sock)
            closed_by(server, "answer_failed")
            quick.sendall(b"ok\n")
            assert receive(quick, 2) == b"ok"
        assert server.snapshot().failures == 1


def test_a_full_disk_fails_the_answer_that_fills_it_and_no_other() -> None:
    done = script("""
        import resource, signal, socket, time
        from treadle.server import Limits, Lines, Messages, Server

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        def pieces():
            for _ in range(1000):
                yield b"x" * 100_000

        def handle(line, peer):
            return pieces() if line == b"pieces" else line

        limits = Limits(spool_memory=0)
        with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, limits=limits) as server:
            address = server.address
            with socket.create_connection(address, 20) as slow, socket.create_connection(address, 20) as quick:
                slow.sendall(b"pieces\\n")
                count = 0
                try:
                    while not server.snapshot().failures:
                        time.sleep(0.01)  # why: a snapshot tells nobody when it changes
                    while chunk := slow.recv(1 << 20):
                        count += len(chunk)
                    print("an end in order")
                except ConnectionResetError:
                    print("reset", count < 100_000_000)
                quick.sendall(b"ok\\n")
                print(quick.recv(10), server.snapshot().closed_by)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reset True\nb'ok' {'answer_failed': 1}\n", done.stderr
    assert "File too large" in done.stderr


def test_a_client_that_pipelines_answers_in_pieces_and_reads_nothing_takes_bounded_room(plain: Way) -> None:
    made: list[int] = []

    def pieces(number: int) -> Iterator[bytes]:
        made.append(number)
        for _ in range(30):
            yield b"%07d\n" % number * 1000

    limits = {"spool_memory": 10_000, "spool_file": 1 << 20, "max_unsent": 1 << 20}
    with plain.serve(lambda line, peer: pieces(int(line)), **limits) as server, plain.client(server, 4096) as sock:
        sock.sendall(b"".join(b"%d\n" % number for number in range(200)))
        conn = connection_of(server)
        until(lambda: conn.outbox.unsent)
        most, kept = 0, 0
        for number in range(200):
            assert receive(sock, 240_000) == b"%07d\n" % number * 30_000
            with suppress(RuntimeError):  # it is changed meanwhile
                kept = sum(not isinstance(piece, memoryview) for piece in conn.outbox.pieces)
            most = max(most, kept)
        assert most <= 1
        assert made == list(range(200))


def test_observers_are_told_how_many_bytes_an_answer_has(
    authority: Authority, certificates: Certificates, tmp_path: Path
) -> None:
    way = Way("observed", authority, certificates)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    answers: dict[bytes, Callable[[], Any]] = {
        b"list": lambda: [b"ab", bytearray(b"cde")],
        b"file": lambda: FileRange(path.open("rb"), 1000),
        b"pieces": lambda: iter([b"x" * 100_000, b"y" * 300_000]),
        b"bytes": lambda: b"bytes",
    }
    with way.serve(lambda line, peer: answers[line]()) as server:
        for offload in (False, True):
            if offload:
                driver_of(server).handlers.slowness.offload()
            with way.client(server) as sock:
                sock.sendall(b"list\nfile\npieces\nbytes\n")
                assert len(receive(sock, 404_010)) == 404_010
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
        until(lambda: len(way.told.sent) == 2)
    assert way.told.answers == [5, 4000, 400_000, 5] * 2
    assert way.told.errors == [None] * 8
    assert way.told.sent == [404_010] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_handler_that_forks_amid_its_pieces_ends_the_child_and_goes_on() -> None:
    done = script("""
        import socket
        from treadle.server import Limits, Lines, Messages, Server

        def pieces():
            yield b"before "
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                try:
                    yield b"of the child"
                finally:
                    os._exit(7)
            yield b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        server = Server(Messages(lambda line, peer: pieces(), Lines()), "127.0.0.1:0", max_workers=2)
        with server, socket.create_connection(server.address, 20) as sock:
            sock.sendall(b"\\n")
            data = b""
            while len(data) < 8:
                data += sock.recv(100)
            print(data)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "b'before 7'\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_answers_wait_for_their_clients_ends_the_child_and_tells_nobody_there() -> None:
    """Though another thread has the lock with which they are counted."""
    done = script("""
        import socket
        from treadle.server import Lines, Messages, Server

        class Told(Messages):
            def over(self, message, sent, error):
                print("told by", "the parent" if os.getpid() == me else "the child")

        me = os.getpid()
        def handle(line, peer):
            return bytes(10_000_000) if line else b"done"

        with Server(Told(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
            with socket.create_connection(server.address, 20) as sock:
                sock.sendall(b"large\\n")
                sock.recv(1)
                with socket.create_connection(server.address, 20) as other:
                    other.sendall(b"\\n")  # behind the other's, as far as its thread has to do with it
                    other.recv(4)
                held, leave = threading.Event(), threading.Event()
                lock = server._group.drivers[0].loop.lock

                def hold():
                    with lock:
                        held.set()
                        leave.wait(20)

                holder = threading.Thread(target=hold)
                holder.start()
                held.wait(20)
                status = fork(lambda: None)
                leave.set()
                holder.join()
                print("status", status)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "told by the parent\nstatus 0\ntold by the parent\n"


def test_a_client_that_takes_nothing_is_cut_though_the_handler_has_time_left(way: Way) -> None:
    """While the thread waits for room no handler runs, whose time could be over in place of the client's."""
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            for _ in range(1000):
                yield b"x" * (1 << 20)
        finally:
            closed.set()

    limits: dict[str, Any] = {
        "handler_timeout": 0.2,
        "write_timeout": 0.5,
        "spool_memory": 1 << 16,
        "spool_file": 1 << 16,
    }
    with way.serve(lambda line, peer: pieces(), **limits) as server, way.client(server) as sock:
        sock.sendall(b"\n")
        assert closed.wait(PATIENCE)
        closed_by(server, "write_timeout")


def test_a_last_answer_that_cannot_be_spooled_is_half_of_it(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise CloseConnection(b"x" * 1000)

    monkeypatch.setattr(os, "pwrite", full)
    with way.serve(lambda line, peer: pieces(), spool_memory=100) as server, way.client(server) as sock:
        sock.sendall(b"\n")
        assert b"x" not in cut_off(sock)
        closed_by(server, "answer_failed")

"""Rfile: what was gathered comes first, the rest is where it was, and a call ends when the client has had its time."""

from __future__ import annotations

import io
import socket
import socketserver
from collections.abc import Iterator
from typing import Any

import pytest

from clocks import FakeClock
from treadle.server._socketserver.rfile import STRIDE, Reader, Source, limit_receiving, take_over

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Handler(socketserver.StreamRequestHandler):
    """One that is set up, and handles nothing."""

    def __init__(self, request: socket.socket, buffering: int) -> None:
        self.request = request
        vars(self)["rbufsize"] = buffering
        self.setup()


@pytest.fixture(params=[-1, 0, 16], ids=["buffered", "unbuffered", "small"])
def buffering(request: Any) -> int:
    return int(request.param)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, other = socket.socketpair()
    with mine, other:
        yield mine, other


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def taken_over(sock: socket.socket, buffering: int, read_timeout: float | None = None) -> Any:
    handler = Handler(sock, buffering)
    take_over(handler, read_timeout)
    assert isinstance(handler.rfile, (Reader, Source))
    return handler


def test_a_head_is_gathered_as_it_comes_and_read_as_if_it_had_come_at_once(pair: Any, buffering: int) -> None:
    mine, other = pair
    handler = taken_over(mine, buffering)
    assert not handler.rfile.gather()
    assert not handler.rfile.started
    for number in range(len(HEAD) - 1):
        other.sendall(HEAD[number : number + 1])
        assert not handler.rfile.gather()
        assert handler.rfile.started
    other.sendall(HEAD[-1:] + b"body")
    assert handler.rfile.gather()
    assert [handler.rfile.readline() for _ in range(3)] == HEAD.splitlines(keepends=True)
    assert handler.rfile.read(4) == b"body"


def test_without_a_buffer_what_follows_the_head_stays_in_the_socket(pair: Any) -> None:
    """A child may be there to read it."""
    mine, other = pair
    handler = taken_over(mine, 0)
    other.sendall(HEAD[:20])
    assert not handler.rfile.gather()
    other.sendall(HEAD[20:] + b"body")
    assert handler.rfile.gather()
    assert mine.recv(100) == b"body"


def test_each_of_several_heads_sent_at_once_is_found(pair: Any, buffering: int) -> None:
    mine, other = pair
    handler = taken_over(mine, buffering)
    other.sendall(HEAD * 3 + HEAD[:9])
    for _ in range(3):
        assert handler.rfile.gather()
        assert [handler.rfile.readline() for _ in range(3)] == HEAD.splitlines(keepends=True)
    assert not handler.rfile.gather()
    assert handler.rfile.started
    other.sendall(HEAD[9:])
    assert handler.rfile.gather()
    assert handler.rfile.readline() == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("begun", [b"", HEAD[:9]])
def test_an_end_is_for_the_handler_to_meet(pair: Any, buffering: int, begun: bytes) -> None:
    mine, other = pair
    handler = taken_over(mine, buffering)
    other.sendall(begun)
    other.shutdown(socket.SHUT_WR)
    assert handler.rfile.gather()
    assert handler.rfile.read() == begun


def test_an_error_is_for_the_handler_to_meet(pair: Any, buffering: int) -> None:
    mine, other = pair
    handler = taken_over(mine, buffering)
    mine.sendall(b"x")
    other.close()  # unread, so it resets
    assert handler.rfile.gather()
    with pytest.raises(ConnectionResetError):
        handler.rfile.readline()


def test_a_closed_file_is_for_the_handler_to_meet(pair: Any, buffering: int) -> None:
    handler = taken_over(pair[0], buffering)
    handler.rfile.close()
    handler.connection.close()
    assert handler.rfile.gather()
    assert handler.connection.fileno() == -1


def test_gathering_leaves_the_sockets_own_time_out(pair: Any, buffering: int) -> None:
    mine, _ = pair
    mine.settimeout(12.0)
    handler = taken_over(mine, buffering)
    assert not handler.rfile.gather()
    assert mine.gettimeout() == 12.0


def test_what_setup_has_read_ahead_is_not_lost(pair: Any) -> None:
    class Proxied(Handler):
        def setup(self) -> None:
            super().setup()
            self.header = self.rfile.readline()

    mine, other = pair
    other.sendall(b"PROXY\r\nrest\r\n")
    handler = Proxied(mine, -1)
    take_over(handler, None)
    assert (handler.header, handler.rfile.readline()) == (b"PROXY\r\n", b"rest\r\n")


def test_a_file_of_the_handlers_own_is_left_alone(pair: Any) -> None:
    handler = Handler(pair[0], -1)
    handler.rfile.close()
    own = handler.rfile = io.BytesIO(b"own")
    take_over(handler, 1.0)
    assert handler.rfile is own
    no_handler = object()
    take_over(no_handler, 1.0)


def test_it_is_the_kind_of_file_that_it_was(pair: Any, buffering: int) -> None:
    before = Handler(pair[0], buffering).rfile
    after = taken_over(pair[0], buffering).rfile
    assert isinstance(after, io.BufferedReader if buffering else io.RawIOBase)
    for name in ("name", "mode", "closed"):
        assert getattr(after, name) == getattr(before, name)
    assert after.fileno() == before.fileno()
    assert after.readable()
    assert not after.writable()
    before.close()
    after.close()
    assert after.closed
    after.close()


# -- time-outs ----------------------------------------------------------------------------------------------------


CALLS = [
    lambda file: file.readline(),
    lambda file: file.read(50),
    lambda file: next(file),
    lambda file: file.readlines(),
    lambda file: file.readinto(bytearray(50)),
]


class Drip(io.RawIOBase):
    """A client who sends single bytes, ten seconds apart."""

    def __init__(self, clock: FakeClock, data: bytes) -> None:
        self.clock = clock
        self.data = io.BytesIO(data)
        self.size = 1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.clock.pass_(10.0)
        part = self.data.read(min(self.size, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


def dripping(sock: socket.socket, drip: Any, *, buffered: bool) -> Any:
    source = Source(drip, sock, 30.0, buffered=buffered)
    return Reader(source, 8192) if buffered else source


@pytest.mark.parametrize("call", CALLS)
def test_single_bytes_do_not_prolong_a_call(call: Any, pair: Any, clock: FakeClock) -> None:
    with pytest.raises(TimeoutError, match="read_timeout=30 s"):
        call(dripping(pair[0], Drip(clock, b"x" * 50), buffered=True))


@pytest.mark.parametrize("name", ["readline", "readall"])
def test_nor_one_without_a_buffer(name: str, pair: Any, clock: FakeClock) -> None:
    with pytest.raises(TimeoutError, match="read_timeout=30 s"):
        getattr(dripping(pair[0], Drip(clock, b"x" * 50), buffered=False), name)()


@pytest.mark.parametrize("buffered", [True, False])
def test_each_call_has_its_own_time(buffered: bool, pair: Any, clock: FakeClock) -> None:
    file = dripping(pair[0], Drip(clock, b"a\nb\n" * 10), buffered=buffered)
    assert [file.readline() for _ in range(20)] == [b"a\n", b"b\n"] * 10
    file = dripping(pair[0], Drip(clock, b"abcdefgh"), buffered=buffered)
    assert [file.read(1) for _ in range(8)] == [b"%c" % byte for byte in b"abcdefgh"]


@pytest.mark.parametrize("call", ["peek", "read1", "readinto1"])
def test_the_time_of_one_call_does_not_end_a_later_one(call: str, pair: Any, clock: FakeClock) -> None:
    file = dripping(pair[0], Drip(clock, b"abcdefgh"), buffered=True)
    file.read(1)
    clock.pass_(60.0)
    assert getattr(file, call)(bytearray(1) if call == "readinto1" else 1)


def test_who_sends_much_has_the_time_for_it(pair: Any, clock: FakeClock) -> None:
    drip = Drip(clock, b"x" * 10 * STRIDE)
    drip.size = STRIDE // 2
    assert len(dripping(pair[0], drip, buffered=True).read(10 * STRIDE)) == 10 * STRIDE


def test_a_longer_time_out_of_the_handlers_own_goes_before(pair: Any, clock: FakeClock) -> None:
    pair[0].settimeout(100.0)
    assert dripping(pair[0], Drip(clock, b"sixtysec\n"), buffered=True).readline() == b"sixtysec\n"


@pytest.mark.parametrize("buffered", [True, False])
def test_silence_ends_a_read_with_a_timeout_error(pair: Any, buffered: bool) -> None:
    mine, other = pair
    limit_receiving(mine, 0.01)
    handler = taken_over(mine, -1 if buffered else 0, 0.01)
    other.sendall(b"half a line")
    with pytest.raises(TimeoutError, match=r"nothing for read_timeout=0\.01 s"):
        handler.rfile.readline()


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_receiving_is_limited_and_sending_is_not(pair: Any, seconds: float) -> None:
    mine, _ = pair
    limit_receiving(mine, seconds)
    assert mine.gettimeout() is None
    with pytest.raises(BlockingIOError):
        mine.recv(1)
    limit_receiving(mine, 1e300)


@pytest.mark.parametrize("buffered", [True, False])
def test_the_lines_of_a_head_have_the_time_of_one_from_its_first_byte_on(
    buffered: bool, pair: Any, clock: FakeClock
) -> None:
    file = dripping(pair[0], Drip(clock, b"r\n" + b"h\n" * 20), buffered=buffered)
    assert file.readline() == b"r\n"  # after 10 s and 20 s
    file.begin_head()
    assert file.readline() == b"h\n"  # after 40 s, when 30 of them are over
    with pytest.raises(TimeoutError, match="read_timeout=30 s"):
        file.readline()
    file.end_head()
    assert file.readline() == b"\n"
    assert [file.readline() for _ in range(10)] == [b"h\n"] * 10  # whatever it reads then, each has its own


def test_a_head_whose_first_line_had_come_before_has_its_time_from_then_on(pair: Any, clock: FakeClock) -> None:
    drip = Drip(clock, b"b\nr\n" + b"h\n" * 20)
    drip.size = 4
    file = dripping(pair[0], drip, buffered=True)
    assert file.readline() == b"b\n"
    clock.pass_(100.0)  # in the handler
    assert file.readline() == b"r\n"
    file.begin_head()
    drip.size = 2
    assert [file.readline() for _ in range(3)] == [b"h\n"] * 3


def test_a_longer_time_out_of_the_handlers_own_is_for_each_head_too(pair: Any, clock: FakeClock) -> None:
    pair[0].settimeout(100.0)
    file = dripping(pair[0], Drip(clock, b"r\nh\nh\nh\n"), buffered=True)
    file.readline()
    file.begin_head()
    assert [file.readline() for _ in range(3)] == [b"h\n"] * 3


def test_without_read_timeout_a_head_has_no_limit(pair: Any, clock: FakeClock) -> None:
    file = Reader(Source(Drip(clock, b"r\n" + b"h\n" * 20), pair[0], None, buffered=True), 8192)  # type: ignore[arg-type]  # as good as one
    file.readline()
    file.begin_head()
    assert [file.readline() for _ in range(20)] == [b"h\n"] * 20

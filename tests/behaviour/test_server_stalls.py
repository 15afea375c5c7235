"""Stalls of the server's own: what clients sent in time is served, though we come to it when its time is over.

A stall is scripted: the leaders are held up in jobs of theirs, and the clock they read leaps.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle._base import clock
from treadle.server import Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server._serving import driver as drivers
from treadle.server._transport import io as connection_io

LIMIT = 60.0  # seconds of each limit under test: it comes by a leap only


class Leaps:
    """The machine's time, which leaps over every limit when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(clock, "now", self.now)
        monkeypatch.setattr(drivers, "clock", self.now)

    def now(self) -> float:
        return monotonic() + self.ahead

    def leap(self) -> None:
        self.ahead += 2 * LIMIT


@pytest.fixture
def leaps(monkeypatch: pytest.MonkeyPatch) -> Leaps:
    return Leaps(monkeypatch)


@contextmanager
def stall(server: Server, leaps: Leaps) -> Iterator[None]:
    """Serve nothing meanwhile, and come back when every limit is over."""
    assert server._group is not None
    held, gate = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        held.release()
        assert gate.wait(PATIENCE)

    settle(server)  # what was begun is done, in turns before this one
    for driver in server._group.drivers:
        driver.loop.post(hold)
    for _ in server._group.drivers:
        assert held.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        leaps.leap()
        gate.set()


def settle(server: Server) -> None:
    """Let every event loop have two turns."""
    assert server._group is not None
    for driver in [*server._group.drivers] * 2:
        done = threading.Event()
        driver.loop.post(done.set)
        assert done.wait(PATIENCE)


def echo(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


def lines(tls: object = None, workers: int = 2, **limits: Any) -> Server:
    limits = {"idle_timeout": None, "read_timeout": None, "write_timeout": None, "handshake_timeout": 1e6} | limits
    return Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=workers, limits=Limits(**limits), tls=tls)  # type: ignore[arg-type]


@contextmanager
def talking(server: Server, authority: Authority | None) -> Iterator[socket.socket]:
    """A client that has been answered once."""
    with client(server) as sock, ExitStack() as stack:
        if authority is not None:
            sock = stack.enter_context(authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1"))
        assert ask(sock, b"hello\n") == b"hello\n"
        yield sock


secure = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@secure
def test_who_spoke_in_time_is_not_idle_and_who_did_not_is(authority: Authority, leaps: Leaps, tls: bool) -> None:
    with lines(authority.certificates() if tls else None, idle_timeout=LIMIT) as server, ExitStack() as stack:
        trust = authority if tls else None
        silent = stack.enter_context(talking(server, trust))
        socks = [stack.enter_context(talking(server, trust)) for _ in range(20)]
        half = stack.enter_context(talking(server, trust))
        with stall(server, leaps):
            for sock in socks:
                sock.sendall(b"in time\nand more\n")
            half.sendall(b"half")
        for sock in socks:
            assert receive(sock, 17) == b"in time\nand more\n"
        assert receive_all_of(silent) == b""
        assert ask(half, b"way\n", 8) == b"halfway\n"
        assert server.snapshot().closed_by == {"idle_timeout": 1}


def receive_all_of(sock: socket.socket) -> bytes:
    """Return everything up to the end, however it comes."""
    try:
        return receive_all(sock)
    except OSError:  # with TLS a reset has many names
        return b""


@secure
@pytest.mark.parametrize("limits", [{"read_timeout": LIMIT}, {"min_read_rate": 1e6, "min_rate_grace": LIMIT}])
def test_a_message_whose_rest_came_in_time_is_served_and_one_that_drips_on_is_cut(
    authority: Authority, leaps: Leaps, monkeypatch: pytest.MonkeyPatch, tls: bool, limits: dict[str, Any]
) -> None:
    """Also one that takes many reads, as with TLS, where each gives one record."""
    if not tls:
        monkeypatch.setattr(connection_io, "CHUNK", 1000)
        monkeypatch.setattr(drivers, "CHUNK", 1000)
    rest = b"x" * 50_000 + b"\n"
    with lines(authority.certificates() if tls else None, **limits) as server, ExitStack() as stack:
        sock, drip = [stack.enter_context(talking(server, authority if tls else None)) for _ in range(2)]
        sock.sendall(b"half")
        drip.sendall(b"d")
        while not all(conn.intake.begun for conn in connections(server)):
            settle(server)
        with stall(server, leaps):
            sock.sendall(rest)
            drip.sendall(b"rip")
        assert receive(sock, 4 + len(rest)) == b"half" + rest
        assert receive_all_of(drip) == b""
        assert sum(server.snapshot().closed_by.values()) == 1


@secure
@pytest.mark.parametrize("limits", [{"read_timeout": LIMIT}, {"min_read_rate": 1e6, "min_rate_grace": LIMIT}])
def test_who_has_sent_all_that_the_kernel_holds_has_its_time_for_the_rest(
    authority: Authority, leaps: Leaps, tls: bool, limits: dict[str, Any]
) -> None:
    trust = authority if tls else None
    with lines(authority.certificates() if tls else None, **limits) as server, talking(server, trust) as sock:
        sock.sendall(b"half")
        while not connections(server)[0].intake.begun:
            settle(server)
        with stall(server, leaps):
            sock.sendall(b"x" * 50_000)
        settle(server)
        assert ask(sock, b"end\n", 50_008) == b"half" + b"x" * 50_000 + b"end\n"


def all_drivers(server: Server) -> list[drivers.Driver]:
    assert server._group is not None
    return server._group.drivers


def connections(server: Server) -> list[Any]:
    return [conn for driver in all_drivers(server) for conn in driver.io.connections()]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_goes_on_whose_hello_came_in_time_and_one_that_drips_on_is_cut(
    authority: Authority, leaps: Leaps, version: ssl.TLSVersion
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    with lines(authority.certificates(), handshake_timeout=LIMIT) as server, client(server) as silent:
        with client(server) as drip, client(server) as plain:
            sock = context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False)
            with sock:
                while len(connections(server)) < 3:
                    settle(server)
                drip.sendall(b"\x16\x03\x01")
                with stall(server, leaps):
                    sock.setblocking(False)
                    with pytest.raises(ssl.SSLWantReadError):
                        sock.do_handshake()
                    drip.sendall(b"\x01")
                sock.settimeout(PATIENCE)
                sock.do_handshake()
                assert ask(sock, b"hello\n") == b"hello\n"
                assert receive_all(silent) == receive_all(drip) == b""
                assert server.snapshot().closed_by == {"handshake_timeout": 2}


def test_a_handshake_goes_on_whose_hello_came_in_time_behind_a_proxys_header(
    authority: Authority, leaps: Leaps
) -> None:
    """Also if that was half there before; who sends the rest of a header only has its time over."""
    context, header = authority.client_context(), b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n"
    server = Server(
        Messages(lambda line, peer: peer.host.encode() + b"\n", Lines()),
        "127.0.0.1:0",
        max_workers=2,
        limits=Limits(handshake_timeout=LIMIT, idle_timeout=None),
        tls=authority.certificates(),
        proxy="127.0.0.1",
    )
    with server, client(server) as plain, client(server) as late:
        plain.sendall(header[:9])
        late.sendall(header[:9])
        while not all(conn.intake.header is not None and conn.intake.header.seen for conn in connections(server)) or (
            len(connections(server)) < 2
        ):
            settle(server)
        with stall(server, leaps):
            plain.sendall(header[9:])
            late.sendall(header[9:])
            sock = context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False)
            sock.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                sock.do_handshake()
        with sock:
            sock.settimeout(PATIENCE)
            sock.do_handshake()
            assert ask(sock, b"who\n", 10) == b"192.0.2.1\n"
            assert receive_all(late) == b""
            assert server.snapshot().closed_by == {"handshake_timeout": 1}


class Stuck:
    """Sends nothing until it is let go, as the kernel does whose peer reads nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tried, self.free = threading.Event(), threading.Event()

    def send(self, data: Any) -> int:
        self.tried.set()
        if not self.free.is_set():
            raise BlockingIOError
        return self.sock.send(data)


class Narrow(Stuck):
    """Sends a few bytes at a time, as the kernel does for whom a large answer is on its way."""

    def send(self, data: Any) -> int:
        return super().send(data[:3])


@pytest.mark.parametrize("kernel", [Stuck, Narrow])
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("limits", [{"write_timeout": LIMIT}, {"min_write_rate": 1.0, "min_rate_grace": LIMIT}])
def test_an_answer_that_was_taken_in_time_is_sent_to_its_end(
    leaps: Leaps, taken: bool, limits: dict[str, Any], kernel: type[Stuck]
) -> None:
    """Also if the kernel holds a part of it only: who has taken all of that has its time for the rest."""
    with lines(**limits) as server, talking(server, None) as sock:
        (conn,) = connections(server)
        stuck = kernel(conn.sock)
        conn.send = stuck.send
        sock.sendall(b"answer\n")
        assert stuck.tried.wait(PATIENCE)
        with stall(server, leaps):
            if taken:
                stuck.free.set()
        assert receive_all_or(sock, 7) == (b"answer\n" if taken else b"")


def receive_all_or(sock: socket.socket, size: int) -> bytes:
    """Return `size` bytes, or what came before the end."""
    try:
        return receive(sock, size)
    except ConnectionResetError:
        return b""


def test_who_is_served_in_a_turn_that_takes_too_long_is_idle_from_then_on(leaps: Leaps) -> None:
    """A handler that keeps the interpreter's lock: nobody can take the lead from it, and all is late after it."""

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"long":
            leaps.leap()
        return line + b"\n"

    limits = Limits(idle_timeout=LIMIT)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, limits=limits) as server:
        with talking(server, None) as sock:
            assert ask(sock, b"long\n") == b"long\n"
            settle(server)
            assert ask(sock, b"next\n") == b"next\n"


def test_messages_that_wait_for_their_turn_are_no_sign_of_an_idle_client(leaps: Leaps) -> None:
    """More messages in one packet than are handled at once, and a stall between."""

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"10":
            leaps.leap()
        return line + b"\n"

    throttle = b"".join(b"%d\n" % number for number in range(1000))
    limits = Limits(idle_timeout=LIMIT)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, limits=limits) as server:
        with talking(server, None) as sock:
            assert ask(sock, throttle) == throttle


def test_who_has_spoken_is_not_evicted_for_being_idle(leaps: Leaps) -> None:
    with lines(max_connections=2, at_max_connections="evict_idle") as server, ExitStack() as stack:
        speaks, silent = [stack.enter_context(talking(server, None)) for _ in range(2)]
        with stall(server, leaps):
            newcomer = stack.enter_context(client(server))
            speaks.sendall(b"in time\n")
        assert receive(speaks, 8) == b"in time\n"
        assert receive_all(silent) == b""
        assert ask(newcomer, b"hello\n") == b"hello\n"
        assert server.snapshot().closed_by == {"evicted": 1}


def test_when_all_have_spoken_nobody_is_evicted_and_the_newcomer_is_told(leaps: Leaps) -> None:
    with (
        lines(max_connections=3, at_max_connections="evict_idle", reject_connections_with=b"busy") as server,
        ExitStack() as stack,
    ):
        socks = [stack.enter_context(talking(server, None)) for _ in range(3)]
        with stall(server, leaps):
            newcomer = stack.enter_context(client(server))
            for sock in socks:
                sock.sendall(b"in time\n")
        for sock in socks:
            assert receive(sock, 8) == b"in time\n"
        assert receive_all(newcomer) in (b"busy", b"")  # where several loops are led, one may have become idle again


def test_the_first_message_of_a_client_counts_though_the_server_stops_and_its_grace_is_over(leaps: Leaps) -> None:
    server = lines().start()
    with client(server) as sock:
        while not connections(server):
            settle(server)
        stopper = threading.Thread(target=server.stop, args=(1e6,))
        stopper.start()
        while not all(driver.loop.draining for driver in all_drivers(server)):
            settle(server)
        settle(server)
        with stall(server, leaps):
            sock.sendall(b"in time\n")
        assert receive(sock, 8) == b"in time\n"
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


def late(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a socket that times out when it is called first."""
    times = [TimeoutError("timed out")]

    def once_late(*arguments: object) -> Any:
        if times:
            raise times.pop()
        return method(*arguments)

    return once_late


def test_a_conversation_looks_once_more_before_its_client_is_idle_or_takes_nothing() -> None:
    sent = threading.Event()

    def talk(conn: Connection) -> None:
        assert conn.recv() == b"hello"
        ours = conn._connection
        assert sent.wait(PATIENCE)
        ours.recv = late(ours.recv)
        assert conn.recv() == b"in time"
        ours.send = late(ours.send)
        conn.sendall(b"x" * 100_000)
        ours.recv = late(ours.recv)
        with pytest.raises(TimeoutError):
            conn.recv()
        conn.sendall(b"end")

    with Server(Session(talk), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"hello")
        while not connections(server) or not connections(server)[0].busy:
            settle(server)
        while server.snapshot().handed_over < 1:
            settle(server)
        sock.sendall(b"in time")
        sent.set()
        assert receive(sock, 100_003) == b"x" * 100_000 + b"end"
        assert server.snapshot().failures == 0


@secure
def test_a_conversation_reads_a_message_whose_rest_came_in_time_and_cuts_one_that_drips_on(
    authority: Authority, leaps: Leaps, tls: bool
) -> None:
    half, whole = threading.Semaphore(0), threading.Semaphore(0)

    def talk(conn: Connection) -> None:
        read = conn._read

        def held_up(*arguments: Any) -> bytes:
            if conn._rest:
                half.release()
                assert whole.acquire(timeout=PATIENCE)
            return read(*arguments)

        conn._read = held_up  # type: ignore[method-assign, assignment]
        conn.sendall(b"%d" % len(conn.readline()))

    limits = Limits(read_timeout=LIMIT, idle_timeout=None, write_timeout=None)
    made = Server(
        Session(talk), "127.0.0.1:0", max_workers=4, limits=limits, tls=authority.certificates() if tls else None
    )
    with made as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(2)]
        if tls:
            context = authority.client_context()
            socks = [stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1")) for sock in socks]
        for sock in socks:
            sock.sendall(b"half")
            assert half.acquire(timeout=PATIENCE)
        sock, drip = socks
        sock.sendall(b"x" * 50_000 + b"\n")
        drip.sendall(b"d")
        leaps.leap()
        for _ in range(10):
            whole.release()
        assert receive(sock, 5) == b"50005"
        assert receive_all_of(drip) == b""
        assert server.snapshot().closed_by == {"read_timeout": 1}


@secure
@pytest.mark.parametrize("limits", [{"read_timeout": LIMIT}, {"min_read_rate": 1e6, "min_rate_grace": LIMIT}])
def test_a_conversation_gives_who_has_sent_all_that_the_kernel_holds_its_time_for_the_rest(
    authority: Authority, leaps: Leaps, tls: bool, limits: dict[str, Any]
) -> None:
    half, whole, looked = threading.Event(), threading.Event(), threading.Event()

    def talk(conn: Connection) -> None:
        read = conn._read

        def held_up(*arguments: Any) -> bytes:
            if len(conn._rest) > 4:
                looked.set()
            elif conn._rest:
                half.set()
                assert whole.wait(PATIENCE)
            return read(*arguments)

        conn._read = held_up  # type: ignore[method-assign, assignment]
        conn.sendall(b"%d" % len(conn.readline()))

    limits = {"idle_timeout": None, "read_timeout": None, "write_timeout": None} | limits
    certificates = authority.certificates() if tls else None
    made = Server(Session(talk), "127.0.0.1:0", max_workers=2, limits=Limits(**limits), tls=certificates)
    with made as server, ExitStack() as stack:
        sock = stack.enter_context(client(server))
        if tls:
            context = authority.client_context()
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        sock.sendall(b"half")
        assert half.wait(PATIENCE)
        sock.sendall(b"x" * 50_000)
        leaps.leap()
        whole.set()
        assert looked.wait(PATIENCE)
        sock.sendall(b"end\n")
        assert receive(sock, 5) == b"50008"


class Leaping:
    """A socket whose client takes a few bytes while its server does not run, and later the rest."""

    def __init__(self, sock: socket.socket, leaps: Leaps) -> None:
        self.sock = sock
        self.leaps = leaps
        self.sends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def send(self, data: Any) -> int:
        self.sends += 1
        if self.sends == 1:
            self.leaps.leap()
            raise TimeoutError("timed out")
        if self.sends == 3:
            raise BlockingIOError
        return self.sock.send(data[:3] if self.sends == 2 else data)


@pytest.mark.parametrize("limits", [{"write_timeout": LIMIT}, {"min_write_rate": 1.0, "min_rate_grace": LIMIT}])
def test_a_conversation_gives_who_has_taken_all_that_the_kernel_held_its_time_for_the_rest(
    leaps: Leaps, limits: dict[str, Any]
) -> None:
    def talk(conn: Connection) -> None:
        conn.readline()
        conn._sock = Leaping(conn._sock, leaps)  # type: ignore[assignment]
        conn.sendall(b"large answer\n")

    limits = {"idle_timeout": None, "read_timeout": None, "write_timeout": None} | limits
    with Server(Session(talk), "127.0.0.1:0", max_workers=2, limits=Limits(**limits)) as server:
        with client(server) as sock:
            sock.sendall(b"hello\n")
            assert receive_all_or(sock, 13) == b"large answer\n"

"""Reception: what a server that trusts proxies does before, and after, a client is named."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle.server import Certificates, Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server import _group as group
from treadle.server._accept.proxy import Header
from treadle.server._transport import deadlines, reaper
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.state import State

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BLOCK = SIGNATURE + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 192, 0, 2, 1]) + struct.pack(">HH", 56324, 443)
LOCAL = SIGNATURE + b"\x20\x00\0\0"
NAMED = b"192.0.2.7:56324"


def line(number: int) -> bytes:
    """Return a header that names another client for each number."""
    return b"PROXY TCP4 192.0.2.%d 192.0.2.1 5 443\r\n" % number


def who(data: bytes, peer: Peer) -> bytes:
    return f"{peer} {data.decode()}\n".encode()


def talk_to(conn: Connection) -> None:
    while data := conn.readline():
        conn.sendall(f"{conn.peer} {data.decode()}".encode())


def greet(conn: Connection) -> None:
    conn.sendall(b"hello\n")
    talk_to(conn)


def serving(protocol: Any = None, *, proxy: Any = "127.0.0.1", tls: Any = None, **limits: Any) -> Server:
    protocol = protocol or Messages(who, Lines())
    return Server(protocol, "127.0.0.1:0", max_workers=2, limits=Limits(**limits), tls=tls, proxy=proxy)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def settled(server: Server, condition: Callable[[], bool]) -> None:
    """Wait for something that the server does by itself."""
    never = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        never.wait(0.01)
    raise AssertionError(f"it did not happen in time: {server.snapshot()}")


PROTOCOLS: dict[str, tuple[Any, bytes]] = {
    "messages": (Messages(who, Lines()), b""),
    "messages with a greeting": (Messages(who, Lines(), greeting=b"hello\n"), b"hello\n"),
    "session": (Session(talk_to), b""),
    "session that speaks first": (Session(greet, speaks_first=True), b"hello\n"),
}


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["1", "2"])
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_the_client_is_who_the_header_says_however_it_comes(kind: str, header: bytes) -> None:
    protocol, greeting = PROTOCOLS[kind]
    with serving(protocol) as server:
        for size in (1, 7, len(header)):
            with client(server) as sock:
                for start in range(0, len(header), size):
                    sock.sendall(header[start : start + size])
                assert receive(sock, len(greeting)) == greeting
                assert ask(sock, b"a\n", 18) == NAMED + b" a\n"
        with client(server) as sock:  # all at once
            assert ask(sock, header + b"a\nb\n", len(greeting) + 36) == greeting + NAMED + b" a\n" + NAMED + b" b\n"


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["1", "2"])
def test_the_header_comes_before_tls_and_takes_nothing_of_it(
    authority: Authority, certificates: Certificates, header: bytes
) -> None:
    with serving(tls=certificates) as server, ExitStack() as stack:
        for size in (1, len(header)):
            sock = stack.enter_context(client(server))
            for start in range(0, len(header), size):
                sock.sendall(header[start : start + size])
            secure = authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1")
            with secure:
                assert ask(secure, b"a\n", 18) == NAMED + b" a\n"
        at_once = hello(authority)
        sock = stack.enter_context(client(server))
        sock.sendall(header + at_once)  # header and ClientHello in one piece
        assert receive(sock, 1) == b"\x16", "it did not take the ClientHello for what it is"


def hello(authority: Authority) -> bytes:
    """Return a ClientHello."""
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        authority.client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1").do_handshake()
    return out.read()


def test_a_handler_sees_the_client_as_sockets_give_addresses_and_the_proxy_beside_it() -> None:
    seen: list[tuple[Any, Any]] = []

    def note(data: bytes, peer: Peer) -> bytes:
        seen.append((peer.address, peer.proxy))
        return b"."

    with serving(Messages(note, Lines())) as server:
        ours = []
        for header in (LINE, b"PROXY TCP6 2001:DB8::7 ::1 5 443\r\n", b"PROXY UNKNOWN\r\n", LOCAL):
            with client(server) as sock:
                ours.append(sock.getsockname())
                assert ask(sock, header + b"a\n", 1) == b"."
    assert seen == [
        (("192.0.2.7", 56324), ours[0]),
        (("2001:db8::7", 5, 0, 0), ours[1]),
        (ours[2], None),
        (ours[3], None),
    ]


def test_without_proxies_a_header_is_bytes_like_others() -> None:
    with serving(proxy=None) as server, client(server) as sock:
        assert ask(sock, LINE).startswith(b"127.0.0.1:")


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "there is none; does the proxy send it"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\nhello\n", "its line has 5 words"),
        (SIGNATURE + b"\x21\x11\xff\xff", "it is 65551 bytes long; allowed: 4096"),
    ],
)
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_malformed_header_closes_the_connection_with_one_log_line_and_nothing_is_handled(
    kind: str, wire: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(PROTOCOLS[kind][0]) as server:
        for _ in range(3):
            with client(server) as sock:
                sock.sendall(wire)
                assert receive_all(sock) == b""
        settled(server, lambda: server.snapshot().closed_by == {"proxy_header": 3})
        assert server.snapshot().messages == 0
    assert caplog.text.count("its PROXY header is not valid") == 1
    assert why in caplog.text
    assert "it begins with b" in caplog.text


def test_a_header_that_ends_in_the_middle_is_malformed(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, client(server) as sock:
        sock.sendall(LINE[:20])
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
        settled(server, lambda: server.snapshot().closed_by == {"proxy_header": 1})
    assert "it ends after 20 bytes; it begins with b'PROXY TCP4 192.0" in caplog.text


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["1", "2"])
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_who_is_not_trusted_is_closed_for_a_header_and_the_log_says_how_to_trust_it(
    kind: str, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    protocol, greeting = PROTOCOLS[kind]
    with serving(protocol, proxy="10.0.0.0/8") as server:
        for _ in range(3):
            with client(server) as sock:
                sock.sendall(header + b"a\n")
                assert receive_all(sock) in (b"", greeting)
        settled(server, lambda: server.snapshot().closed_by == {"proxy_untrusted": 3})
        assert server.snapshot().failures == 0
    assert caplog.text.count("it begins with a PROXY header: a forged one, or it is a proxy that is not trusted") == 1
    assert "to trust it: Server(proxy='127.0.0.1'), --proxy-trust 127.0.0.1" in caplog.text


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_who_is_not_trusted_is_served_at_once_under_its_own_address(kind: str) -> None:
    """Also one that waits for an answer to what might become a header."""
    protocol, greeting = PROTOCOLS[kind]
    with serving(protocol, proxy="10.0.0.0/8") as server, client(server) as sock:
        own = f"127.0.0.1:{sock.getsockname()[1]} ".encode()
        assert receive(sock, len(greeting)) == greeting
        answer = own + b"\n" if isinstance(protocol, Messages) else own + b"\r\n"
        assert ask(sock, b"\r\n", len(answer)) == answer
        assert ask(sock, b"PROXY \n", len(own) + 7) == own + b"PROXY \n"  # later it is a message like others


def test_who_is_not_trusted_is_served_with_tls_too_and_closed_for_a_header(
    authority: Authority, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(proxy="::1", tls=certificates) as server:
        with client(server) as sock:
            with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as secure:
                assert ask(secure, b"a\n", 10).startswith(b"127.0.0.1:")
        assert "PROXY" not in caplog.text
        with client(server) as sock:
            sock.sendall(BLOCK + hello(authority))
            assert receive_all(sock) == b""
        settled(server, lambda: server.snapshot().closed_by == {"proxy_untrusted": 1})
    assert "to trust it" in caplog.text
    assert "handshake" not in caplog.text


@pytest.mark.usefixtures("blind_watchdog")
def test_after_the_first_bytes_nothing_is_looked_at_any_more() -> None:
    """A client that is not trusted soon goes the short way, as any other."""
    with serving(proxy="10.0.0.0/8") as server, client(server) as sock:
        assert ask(sock, b"a\n", 5) == b"127.0"
        (conn,) = driver_of(server).io.connections()
        assert conn.intake.vet is None
        settled(server, lambda: conn.state is State.READY)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("end", [socket.socket.close, reset])
@pytest.mark.parametrize("header", [b"", LOCAL, b"PROXY UNKNOWN\r\n", LINE], ids=["none", "local", "unknown", "named"])
def test_a_health_check_leaves_no_line_in_the_log(
    header: bytes, end: Callable[[socket.socket], None], secure: bool, certificates: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    with serving(tls=certificates if secure else None) as server:
        with client(server) as sock:
            settled(server, lambda: len(driver_of(server).io.connections()) == 1)
            sock.sendall(header)
            end(sock)
        settled(server, lambda: server.snapshot().closed_connections == 1)
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if not text.startswith("serving ")] == []


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("wire", [b"", LINE[:9], BLOCK[:20]], ids=["nothing", "half of 1", "half of 2"])
def test_a_header_that_does_not_come_in_time_is_cut_and_stalls_nobody(
    wire: bytes, secure: bool, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tls=certificates if secure else None, handshake_timeout=0.3) as server, ExitStack() as stack:
        hostile = [stack.enter_context(client(server)) for _ in range(5)]
        for sock in hostile:
            with suppress(ConnectionError):  # this machine may be so slow that it is cut already
                sock.sendall(wire)
        for sock in hostile:
            assert receive_all(sock) == b""
        assert server.snapshot().closed_by == {"handshake_timeout": 5}
    assert "cut by handshake_timeout, for its PROXY header is not complete" in caplog.text


def test_header_and_handshake_have_one_deadline_together(certificates: Certificates) -> None:
    with serving(tls=certificates, handshake_timeout=5) as server, client(server) as sock:
        sock.sendall(LINE)
        settled(server, lambda: [c.state for c in driver_of(server).io.connections()] == [State.HANDSHAKE])
        (conn,) = driver_of(server).io.connections()
        assert driver_of(server).io.deadlines.of(conn) == (conn.timing.since + 5, "handshake_timeout")


def test_half_a_header_is_not_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of it is taken at once, or a level-triggered poller would tell of it for ever."""
    with serving() as server:
        driver = driver_of(server)
        heard: list[int] = []
        assert driver.reception is not None
        hear = driver.reception.hear

        def count(conn: ClientConnection, header: Header) -> None:
            heard.append(conn.fd)
            hear(conn, header)

        monkeypatch.setattr(driver.reception, "hear", count)
        with client(server) as half, client(server) as other:
            half.sendall(BLOCK[:14])
            assert ask(other, LINE + b"a\n", 18) == NAMED + b" a\n"
            for _ in range(50):
                assert ask(other, b"a\n", 18) == NAMED + b" a\n"
            assert len(heard) <= 4
            assert ask(half, BLOCK[14:] + b"a\n", 18) == NAMED + b" a\n"


def test_limits_of_one_address_count_the_client_and_never_the_proxy() -> None:
    with serving(max_connections_per_host=2, reject_connections_with=b"enough\n") as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(6)]
        for number, sock in enumerate(socks):
            assert ask(sock, line(number // 2) + b"a\n", 14) == b"192.0.2.%d:5 a\n" % (number // 2)
        for _ in range(2):
            with client(server) as third:
                third.sendall(line(1) + b"a\n")
                assert receive(third, 100) == b"enough\n"  # and no reset, which could take that back
        settled(server, lambda: server.snapshot().rejected_connections == 2)
        now = server.snapshot()
        assert (now.accepted, now.connections, now.closed_connections, now.messages) == (8, 6, 0, 6)
        checks = [stack.enter_context(client(server)) for _ in range(5)]
        for sock in checks:
            assert ask(sock, LOCAL + b"a\n", 5) == b"127.0"
        socks[2].close()
        settled(server, lambda: server.snapshot().connections == 10)
        again = stack.enter_context(client(server))
        assert ask(again, line(1) + b"a\n", 14) == b"192.0.2.1:5 a\n"
        assert server._group is not None
        limiter = server._group.limiter
        assert limiter._by_address == {"192.0.2.0": 2, "192.0.2.1": 2, "192.0.2.2": 2}
    assert limiter._by_address == {}
    assert limiter.connections == 0


def test_a_client_counts_though_its_own_address_is_one_that_is_trusted() -> None:
    with serving(proxy=["127.0.0.1", "192.0.2.0/24"], max_connections_per_host=1) as server:
        with client(server) as first, client(server) as second:
            assert ask(first, line(1) + b"a\n", 14) == b"192.0.2.1:5 a\n"
            second.sendall(line(1) + b"a\n")
            assert receive_all(second) == b""
        settled(server, lambda: server.snapshot().connections == 0)


def test_those_who_come_without_a_proxy_are_counted_at_the_door() -> None:
    with serving(proxy="10.0.0.0/8", max_connections_per_host=1, reject_connections_with=b"enough\n") as server:
        with client(server) as first, client(server) as second:
            assert ask(first, b"a\n", 5) == b"127.0"
            assert receive_all(second) == b"enough\n"
            assert server.snapshot().rejected_connections == 1


def test_what_is_refused_behind_a_proxy_is_told_nothing_in_plain_text_before_tls(certificates: Certificates) -> None:
    with serving(tls=certificates, max_connections_per_host=1, reject_connections_with=b"enough\n") as server:
        with client(server) as first, client(server) as second:
            first.sendall(LINE)
            settled(server, lambda: [c.state for c in driver_of(server).io.connections()].count(State.HANDSHAKE) == 1)
            second.sendall(LINE)
            assert receive_all(second) == b""
            settled(server, lambda: server.snapshot().rejected_connections == 1)


@pytest.mark.parametrize("wire", [b"", LINE[:9]], ids=["nothing", "half"])
def test_a_stop_waits_no_longer_for_a_header_than_for_a_first_message(
    wire: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (deadlines, reaper):
        monkeypatch.setattr(module, "GRACE", 0.1)
    server = serving(handshake_timeout=10 * PATIENCE).start()
    with client(server) as sock:
        sock.sendall(wire)
        settled(server, lambda: server.snapshot().connections == 1)
        assert server.stop(PATIENCE) == 0
        assert receive_all(sock) == b""
        assert server.snapshot().closed_by == {}


def test_what_comes_with_a_header_while_the_server_stops_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "GRACE", PATIENCE)  # this machine may be slow
    gate, inside = threading.Event(), threading.Event()

    def wait(data: bytes, peer: Peer) -> bytes:
        if data == b"wait":
            inside.set()
            assert gate.wait(PATIENCE)
        return who(data, peer)

    server = serving(Messages(wait, Lines()), linger_timeout=0.1).start()
    with client(server) as first, client(server) as second:
        first.sendall(LINE + b"wait\n")
        assert inside.wait(PATIENCE)
        second.sendall(LINE[:9])
        stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopper.start()
        second.sendall(LINE[9:] + b"a\n")
        assert receive_all(second) == NAMED + b" a\n"
        gate.set()
        assert receive_all(first) == NAMED + b" wait\n"
        stopper.join(PATIENCE)
    assert server.stop(0) == 0


def test_with_turns_for_each_address_the_client_is_the_key() -> None:
    keys: list[object] = []
    gate, inside = threading.Event(), threading.Event()

    def wait(data: bytes, peer: Peer) -> bytes:
        if data == b"wait":
            inside.set()
            assert gate.wait(PATIENCE)
        keys.append(data)
        return b"."

    pool = Pool(1, order="fair")
    server = Server(Messages(wait, Lines()), "127.0.0.1:0", pool=pool, proxy="127.0.0.1")
    with pool, server, ExitStack() as stack:
        first = stack.enter_context(client(server))
        first.sendall(line(9) + b"wait\n")
        assert inside.wait(PATIENCE)
        socks = []
        for number, (address, name) in enumerate([(1, b"a1"), (1, b"a2"), (1, b"a3"), (2, b"b1")]):
            sock = stack.enter_context(client(server))
            sock.sendall(line(address) + name + b"\n")
            socks.append(sock)
            settled(server, lambda number=number: server.snapshot().pool.waiting == number + 1)  # type: ignore[misc]
        gate.set()
        for sock in [first, *socks]:
            assert sock.recv(1) == b"."
    assert keys.index(b"b1") < keys.index(b"a3")  # taking turns, and all come by one proxy


@pytest.mark.parametrize("loops", [2, 3])
def test_each_loop_hears_its_own_headers(loops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_loops_wanted", lambda dispatcher: loops)
    with serving(max_connections_per_host=1) as server, ExitStack() as stack:
        for number in range(2 * loops):
            sock = stack.enter_context(client(server))
            assert ask(sock, line(number) + b"a\n", 14) == b"192.0.2.%d:5 a\n" % number
        with client(server) as sock:
            sock.sendall(line(0) + b"a\n")
            assert receive_all(sock) == b""
    assert server.snapshot().rejected_connections == 1


@pytest.mark.parametrize("trusted", ["unix", "127.0.0.1"])
def test_clients_of_a_unix_socket_are_trusted_as_unix(trusted: str, tmp_path: Path, caplog: Any) -> None:
    with Server(Messages(who, Lines()), f"unix:{tmp_path / 's'}", max_workers=1, proxy=trusted):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(tmp_path / "s"))
            sock.sendall(LINE + b"a\n")
            assert receive_all_but_end(sock) == (NAMED + b" a\n" if trusted == "unix" else b"")
    assert ("--proxy-trust unix" in caplog.text) is (trusted != "unix")


def receive_all_but_end(sock: socket.socket) -> bytes:
    """Return a line, or what there is of it."""
    try:
        return receive(sock, len(NAMED) + 3)
    except ConnectionResetError:
        return b""


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_a_proxy_of_ipv4_is_known_at_a_socket_for_both_families() -> None:
    with Server(Messages(who, Lines()), "[::]:0", max_workers=1, proxy="127.0.0.0/8") as server:
        port = server.address[1]
        with client(server, to=("127.0.0.1", port)) as sock:
            assert ask(sock, LINE + b"a\n", 18) == NAMED + b" a\n"
        with client(server, to=("::1", port)) as sock:
            assert ask(sock, b"a\n", 7) == b"[::1]:" + str(sock.getsockname()[1])[:1].encode()


def test_every_connection_of_a_proxy_counts_for_the_ceiling_and_the_rate() -> None:
    limits: dict[str, Any] = {
        "max_connections": 2,
        "at_max_connections": "reject",
        "reject_connections_with": b"full\n",
    }
    with serving(**limits) as server, client(server) as first, client(server) as second:
        assert ask(first, line(1) + b"a\n", 14)
        assert ask(second, line(2) + b"a\n", 14)
        with client(server) as third:
            assert receive_all(third) == b"full\n"


def test_log_lines_name_the_client(caplog: pytest.LogCaptureFixture) -> None:
    def fail(data: bytes, peer: Peer) -> bytes:
        raise ValueError("scripted")

    with serving(Messages(fail, Lines())) as server, client(server) as sock:
        sock.sendall(LINE + b"a\n")
        assert receive_all(sock) == b""
    assert "192.0.2.7:56324: handler" in caplog.text

"""Peer: what a handler sees of the other end, and how addresses are written."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from certificates import Authority
from tcp import PATIENCE, ask, client, receive_all
from treadle import sleep
from treadle.errors import DeadlineExceeded
from treadle.server import Certificates, Limits, Lines, Messages, Server
from treadle.server._transport import peer as module
from treadle.server._transport.peer import Peer, foretell, host_of, is_stopping, text_of


@pytest.mark.parametrize(
    ("address", "host", "text"),
    [
        (("192.0.2.1", 5000), "192.0.2.1", "192.0.2.1:5000"),
        (("::1", 5000, 0, 0), "::1", "[::1]:5000"),
        (("::ffff:192.0.2.1", 5000, 0, 0), "192.0.2.1", "192.0.2.1:5000"),
        (("::ffff:0:192.0.2.1", 5000, 0, 0), "::ffff:0:192.0.2.1", "[::ffff:0:192.0.2.1]:5000"),  # translated, RFC 2765
        (("fe80::1%eth0", 5000, 0, 2), "fe80::1%eth0", "[fe80::1%eth0]:5000"),
        (("fe80::1", 5000, 0, 98765432), "fe80::1%98765432", "[fe80::1%98765432]:5000"),  # its interface has gone
    ],
)
def test_an_address_is_written_so_that_it_can_be_used(address: Any, host: str, text: str) -> None:
    assert host_of(address) == host
    assert text_of(address) == text


def test_a_link_local_address_has_the_name_of_its_interface() -> None:
    number, name = socket.if_nameindex()[0]
    assert host_of(("fe80::1", 5000, 0, number)) == f"fe80::1%{name}"


def test_a_unix_socket_has_no_host() -> None:
    assert host_of("") == ""
    assert host_of("/run/app.sock") == ""


def test_a_peer_tells_who_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        four = Peer(("10.0.0.1", 5), ours)
        assert (four.host, four.port, str(four), repr(four)) == ("10.0.0.1", 5, "10.0.0.1:5", "<Peer 10.0.0.1:5>")
        six = Peer(("::1", 5, 0, 0), ours)
        assert (six.host, six.port, str(six)) == ("::1", 5, "[::1]:5")
        unix = Peer("", ours)
        assert (unix.host, unix.port, str(unix)) == ("", 0, "a UNIX socket")
        assert (unix.certificate, unix.alpn, unix.proxy) == (None, None, None)
        unix.state["a"] = 1
        assert unix.state == {"a": 1}


# -- our end, and theirs ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_peer_tells_of_our_end_and_when_it_came() -> None:
    seen: list[Peer] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        seen.append(peer)
        return b"%d" % (line == b"look" and peer.local == server.address)

    begun = monotonic()
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
        for line, known in ((b"look\n", b"1"), (b"no\n", b"0")):
            with client(server) as sock:
                assert ask(sock, line, 1) == known
        address = server.address
    one, two = seen
    assert (one.local, two.local) == (address, "")  # the latter was closed before anybody looked
    assert begun <= one.accepted <= two.accepted <= monotonic()
    assert (one.secure, one.closing, one.has_left()) == (False, True, True)


def test_our_address_is_kept_once_it_was_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        ours, address = listener.accept()
        peer = Peer(address, ours)
        assert peer.local == listener.getsockname()
        ours.close()
        assert peer.local == listener.getsockname() == sock.getpeername()


def test_a_unix_socket_has_no_address_of_ours(tmp_path: Path) -> None:
    with Server(Messages(lambda line, peer: repr(peer.local).encode()), f"unix:{tmp_path / 's'}", max_workers=1):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(tmp_path / "s"))
            assert ask(sock, b"x", 2) == b"''"


def test_a_peer_knows_whether_it_has_tls(authority: Authority, certificates: Certificates) -> None:
    protocol = Messages(lambda data, peer: b"%d" % peer.secure)
    with Server(protocol, "127.0.0.1:0", max_workers=1, tls=certificates) as server, client(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as secret:
            secret.sendall(b"?")
            assert secret.recv(1) == b"1"


# -- whether it has left ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["told by the poller", "looked for"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "looked for":
        monkeypatch.setattr(module, "GONE", 0)
    return bool(module.GONE)


def test_who_is_there_has_not_left(pair: tuple[socket.socket, socket.socket], told: bool) -> None:
    ours, theirs = pair
    peer = Peer("", ours)
    ours.settimeout(PATIENCE)  # for which a look must not wait
    assert not peer.has_left()
    theirs.sendall(b"data")
    assert not peer.has_left()
    assert ours.recv(9) == b"data"


@pytest.mark.parametrize("way", ["half", "closed", "ours"])
def test_who_has_ended_or_is_closed_has_left(pair: tuple[socket.socket, socket.socket], told: bool, way: str) -> None:
    ours, theirs = pair
    peer = Peer("", ours)
    if way == "half":
        theirs.shutdown(socket.SHUT_WR)
    else:
        (ours if way == "ours" else theirs).close()
    assert peer.has_left()


def test_who_has_left_behind_what_it_has_sent_is_seen_to_have(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"data")
    theirs.close()
    assert Peer("", ours).has_left() is bool(module.GONE)


def test_a_handler_may_end_when_its_client_has_left() -> None:
    began, left = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> None:
        began.set()
        while not peer.has_left():
            left.wait(0.001)
        left.set()

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"go\n")
            assert began.wait(PATIENCE)
        assert left.wait(PATIENCE)


# -- whether it is about to be closed ---------------------------------------------------------------------------------


class Near:
    """An end that is near."""

    def is_near(self) -> bool:
        return True

    def is_stopping(self) -> bool:
        return True

    def send_ahead(self, fd: int, data: bytes, *, whole: bool) -> None:
        raise NotImplementedError

    def open_answer(self, fd: int) -> Any:
        raise NotImplementedError


def test_who_was_turned_away_is_closing_and_others_as_is_foretold(pair: tuple[socket.socket, socket.socket]) -> None:
    peer = Peer("", pair[0])
    assert peer.closing
    foretell(peer, Near())
    assert peer.closing


def test_what_has_no_end_ends_where_nobody_is_served_any_more(pair: tuple[socket.socket, socket.socket]) -> None:
    peer = Peer("", pair[0])
    assert is_stopping(peer)
    foretell(peer, Near())
    assert is_stopping(peer)
    with Server(Messages(lambda line, peer: b"%d\n" % is_stopping(peer), Lines()), "127.0.0.1:0") as server:
        with client(server) as sock:
            assert ask(sock, b"a\n") == b"0\n"


def closing(line: bytes, peer: Peer) -> bytes:
    return b"%d\n" % peer.closing


def test_a_connection_that_goes_on_is_not_closing_and_one_whose_client_has_ended_is() -> None:
    with Server(Messages(closing, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"a\n") == b"0\n"
        assert ask(sock, b"a\nb\n") == b"0\n0\n"
        sock.sendall(b"last")  # which is a message with the end
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"1\n"


def test_a_connection_is_closing_when_the_server_stops() -> None:
    began = threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        before = peer.closing
        began.set()
        while not peer.closing:
            began.wait(0.001)
        return b"%d%d\n" % (before, peer.closing)

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"x\n")
        assert began.wait(PATIENCE)
        server.stop()
        assert receive_all(sock) == b"01\n"


def test_a_connection_that_was_cut_is_closing() -> None:
    seen: list[bool] = []

    def handle(line: bytes, peer: Peer) -> None:
        seen.append(peer.closing)
        try:
            sleep(PATIENCE)
        except DeadlineExceeded:
            while not peer.closing:
                pass
        seen.append(peer.closing)

    limits = Limits(handler_timeout=0.1)
    protocol = Messages(handle, Lines())
    with Server(protocol, "127.0.0.1:0", max_workers=1, limits=limits) as server, client(server) as sock:
        sock.sendall(b"x\n")
        assert receive_all(sock) == b""
    assert seen == [False, True]

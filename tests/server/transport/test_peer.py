"""Peer: what a handler sees of the other end, and how addresses are written."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from treadle.server._transport.peer import Peer, host_of, text_of


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

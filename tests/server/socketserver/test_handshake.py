"""Handshake: who does not shake hands, or does so badly, holds no thread, and learns why."""

from __future__ import annotations

import logging
import socketserver
import ssl
import threading
from contextlib import ExitStack, suppress
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from certificates import Authority
from socketservers import (
    ANYWHERE,
    PATIENCE,
    Echo,
    One,
    connect,
    manager_of,
    secretly,
    secure,
    secure_context,
    serving,
    until,
)
from tcp import ask, receive, receive_all
from treadle._base import log_throttle as throttle
from treadle.server._socketserver import handshake


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return secure_context(authority)


def test_clients_that_do_not_shake_hands_hold_no_thread_and_no_listener(
    authority: Authority, context: ssl.SSLContext
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(secure(One(ANYWHERE, Echo), context)))
        for number in range(20):
            silent = stack.enter_context(connect(server))
            silent.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])  # nothing, or the beginning of a ClientHello
        sock = stack.enter_context(secretly(server, authority))
        assert ask(sock, b"hello\n") == b"hello\n"


def test_who_has_shaken_hands_and_sends_nothing_holds_no_thread(authority: Authority, context: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(secure(One(ANYWHERE, Echo), context)))
        for _ in range(5):
            stack.enter_context(secretly(server, authority))
        sock = stack.enter_context(secretly(server, authority))
        assert ask(sock, b"hello\n") == b"hello\n"


def test_a_server_that_speaks_first_does_so_after_the_handshake(authority: Authority, context: ssl.SSLContext) -> None:
    class Server(One):
        wait_for_first_byte = False

    class Greeter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")
            self.wfile.write(self.rfile.readline())

    with ExitStack() as stack:
        server = stack.enter_context(serving(secure(Server(ANYWHERE, Greeter), context)))
        stack.enter_context(connect(server))  # waits for its handshake without a thread
        sock = stack.enter_context(secretly(server, authority))
        assert receive(sock, 11) == b"220 ready\r\n"
        assert ask(sock, b"QUIT\r\n") == b"QUIT\r\n"


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02"])
def test_who_does_not_finish_the_handshake_in_time_is_closed(beginning: bytes, context: ssl.SSLContext) -> None:
    class Server(One):
        handshake_timeout = 0.05
        idle_timeout = None

    with serving(secure(Server(ANYWHERE, Echo), context)) as server, connect(server) as sock:
        sock.sendall(beginning)
        assert receive_all(sock) == b""


def test_a_failed_handshake_is_one_line_of_the_log(
    authority: Authority, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(One):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pytest.fail("it is not the handler's error")

    with caplog.at_level(logging.INFO, "treadle.server"):
        with serving(secure(Server(ANYWHERE, Echo), context)) as server:
            for _ in range(3):
                with connect(server) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    receive_all(sock)
            with secretly(server, authority) as good:
                assert ask(good, b"hello\n") == b"hello\n"
    told = [record for record in caplog.records if "max_workers" not in record.getMessage()]  # that is true as well
    assert [record.levelname for record in told] == ["WARNING"]
    assert "TLS handshake" in told[0].getMessage()


def asking(authority: Authority) -> ssl.SSLContext:
    """Return a server's context that asks clients for a certificate."""
    files = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def be_refused(server: Any, authority: Authority, sends: int = 1) -> None:
    """Come without a certificate, and read why that will not do."""
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        send_secretly(server, authority, sends)


def send_secretly(server: Any, authority: Authority, times: int) -> None:
    """Send as soon as one takes oneself for connected, as TLS 1.3 has it."""
    with secretly(server, authority) as sock:
        for _ in range(times):
            sock.sendall(b"x" * 10_000)
        sock.recv(1)


def test_every_client_whose_handshake_fails_reads_why(authority: Authority) -> None:
    """A reset would take the alert back."""
    with serving(secure(One(ANYWHERE, Echo), asking(authority))) as server:
        for number in range(100):
            be_refused(server, authority, number % 4)
        until(lambda: not manager_of(server).requests)


def test_and_so_it_does_in_handle_request(authority: Authority) -> None:
    with secure(One(ANYWHERE, Echo), asking(authority)) as server:
        for number in range(20):
            client = threading.Thread(target=be_refused, args=(server, authority, number % 4))
            client.start()
            server.handle_request()
            client.join(PATIENCE)
            assert not client.is_alive()


@pytest.mark.parametrize("polled", [True, False])
def test_who_is_refused_and_does_not_leave_is_closed(
    polled: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "LINGER", 0.05)
    with ExitStack() as stack:
        server = secure(One(ANYWHERE, Echo), asking(authority))
        stack.enter_context(serving(server) if polled else server)
        sock = stack.enter_context(connect(server))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if not polled:
            server.handle_request()
        until(lambda: not manager_of(server).requests)


def test_who_is_refused_holds_no_thread_and_sends_no_more_than_so_much(
    authority: Authority, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "LINGER", 1e6)
    with serving(secure(One(ANYWHERE, Echo), context)) as server, ExitStack() as stack:
        refused = [stack.enter_context(connect(server)) for _ in range(4)]
        for sock in refused:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            receive_all(sock)  # our half is closed, and theirs is not
        with secretly(server, authority) as good:
            assert ask(good, b"hello\n") == b"hello\n"
        until(lambda: len(manager_of(server).requests) == 4)
        for sock in refused:
            with suppress(ConnectionError):
                for _ in range(2 * handshake.LINGER_BYTES // 1000):
                    sock.sendall(b"x" * 1000)
        until(lambda: not manager_of(server).requests)


def test_handshakes_that_fail_for_different_reasons_are_told_apart(
    authority: Authority, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line says how many like it were left out."""
    ahead = [0.0]
    monkeypatch.setattr(throttle, "clock", SimpleNamespace(now=lambda: monotonic() + ahead[0]))
    with serving(secure(One(ANYWHERE, Echo), context)) as server:
        for _ in range(2):
            for beginning in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00" + b"x" * 50) * 3:
                with connect(server) as sock:
                    sock.sendall(beginning)
                    receive_all(sock)
            until(lambda: not manager_of(server).requests)
            ahead[0] += 1000.0
    told = [record.getMessage() for record in caplog.records]
    assert [line.endswith("(2 more like it since the last such line)") for line in told] == [False, False, True, True]


def test_handle_request_shakes_hands_on_a_thread_of_the_pool(authority: Authority, context: ssl.SSLContext) -> None:
    def greet() -> None:
        with secretly(server, authority) as sock:
            answers.append(ask(sock, b"hello\n"))

    answers: list[bytes] = []
    with secure(One(ANYWHERE, Echo), context) as server:
        thread = threading.Thread(target=greet)
        thread.start()
        server.handle_request()
        thread.join(PATIENCE)
    assert answers == [b"hello\n"]

"""Visit: TLS handshakes, and which handlers can wait for the next request of a conversation without a thread."""

from __future__ import annotations

import functools
import http.client
import http.server
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler
from xmlrpc.server import SimpleXMLRPCRequestHandler

import pytest

from certificates import Authority
from socketservers import ANYWHERE, HTTP, PATIENCE, TCP, Echo, Hello, connect, lot_of, serving
from tcp import ask, receive, receive_all
from treadle.server.socketserver import PoolMixIn
from treadle.server.visit import Visit, keeping


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    files = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    return context


def secure(server: Any, context: ssl.SSLContext) -> Any:
    """Have a server speak TLS in the way that everybody uses."""
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@contextmanager
def secretly(server: Any, authority: Authority) -> Iterator[ssl.SSLSocket]:
    with connect(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            yield wrapped


class One(TCP):
    max_workers = 1


class OneHTTP(HTTP):
    max_workers = 1


# -- TLS ----------------------------------------------------------------------------------------------------------


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
        park = False

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
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "TLS handshake" in caplog.text


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


def test_secure_keep_alive_clients_hold_no_thread_between_requests(
    authority: Authority, context: ssl.SSLContext
) -> None:
    trust = authority.client_context()
    with serving(secure(OneHTTP(ANYWHERE, Hello), context)) as server:
        host, port = server.server_address
        clients = [http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=trust) for _ in range(5)]
        for number in b"123":
            for client in clients:
                client.request("GET", "/")
                assert client.getresponse().read() == b"%c /" % number
        for client in clients:
            client.close()


@pytest.mark.parametrize("size", [8191, 8192, 8193, 12000])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_two_requests_in_one_record_are_both_answered(
    size: int, buffering: int, authority: Authority, context: ssl.SSLContext
) -> None:
    """The second is in the TLS layer, where the poller does not see it: the handler's buffer holds 8192 bytes."""
    handler = type("Handler", (Hello,), {"rbufsize": buffering})
    first = b"GET / HTTP/1.1\r\nX-Fill: "
    first += b"x" * (size - len(first) - 4) + b"\r\n\r\n"
    with serving(secure(OneHTTP(ANYWHERE, handler), context)) as server, secretly(server, authority) as sock:
        sock.sendall(first + b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert receive_all(sock).endswith(b"2 /last")


def test_a_handler_that_wraps_its_own_connection_waits_without_a_thread(
    authority: Authority, context: ssl.SSLContext
) -> None:
    class Handler(Hello):
        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

    with ExitStack() as stack:
        server = stack.enter_context(serving(OneHTTP(ANYWHERE, Handler)))
        clients = []
        for _ in range(3):
            clients.append(stack.enter_context(secretly(server, authority)))
            ask_once(clients[-1], b"1 /")
        for number in b"23":
            for client in clients:
                ask_once(client, b"%c /" % number)


def ask_once(sock: socket.socket, expected: bytes) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    answer = b""
    while not answer.endswith(expected):
        answer += sock.recv(1000) or pytest.fail(f"it said no more than {answer!r}")


# -- the end ------------------------------------------------------------------------------------------------------


def test_cut_shows_the_client_as_gone_unless_the_owner_is_closing_it() -> None:
    """By then its descriptor may be another's."""
    mine, other = socket.socketpair()
    with mine, other, TCP(ANYWHERE, Echo) as server:
        visit = Visit(lot_of(server), mine, None, polled=True)
        visit.ending = True
        visit.cut()
        mine.sendall(b"x")
        assert other.recv(1) == b"x"
        visit.ending = False
        visit.cut()
        assert mine.recv(1) == other.recv(1) == b""


# -- which handlers -----------------------------------------------------------------------------------------------


class OwnHandle(Hello):
    def handle(self) -> None:
        super().handle()


class OwnInit(Hello):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)


@pytest.mark.parametrize(
    "handler", [Hello, http.server.SimpleHTTPRequestHandler, SimpleXMLRPCRequestHandler], ids=lambda cls: cls.__name__
)
def test_http_handlers_wait_without_a_thread_and_keep_their_names(handler: Any) -> None:
    kept = keeping(handler)
    assert kept is not handler
    assert issubclass(kept, handler)
    assert (kept.__name__, kept.__qualname__, kept.__module__) == (
        handler.__name__,
        handler.__qualname__,
        handler.__module__,
    )
    assert keeping(kept) is kept


@pytest.mark.parametrize("handler", [Echo, OwnHandle, OwnInit, WSGIRequestHandler, Hello.do_GET, lambda *args: None])
def test_all_others_are_left_as_they_are(handler: Any) -> None:
    assert keeping(handler) is handler


def test_a_partial_of_a_handler_keeps_its_arguments() -> None:
    handler: Any = http.server.SimpleHTTPRequestHandler
    kept = keeping(functools.partial(handler, 1, directory="/nowhere"))
    assert (kept.args, kept.keywords) == ((1,), {"directory": "/nowhere"})
    assert issubclass(kept.func, http.server.SimpleHTTPRequestHandler)


def test_a_kept_handler_works_in_a_server_without_the_mixin() -> None:
    with http.server.HTTPServer(ANYWHERE, keeping(Hello)) as server:
        with connect(server) as sock:
            sock.sendall(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.0\r\n\r\n")
            server.handle_request()
            answers = receive_all(sock)
    assert b"1 /a" in answers
    assert answers.endswith(b"2 /b")


def test_a_handler_that_closes_its_own_socket_harms_nobody() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(self.request.recv(100))
            self.request.close()

    class Rude(Hello):
        def do_GET(self) -> None:
            super().do_GET()
            self.connection.close()
            self.rfile.close()

    class Server(PoolMixIn, http.server.HTTPServer):
        max_workers = 1

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with serving(One(ANYWHERE, Handler)) as server:
        for _ in range(3):
            with connect(server) as sock:
                sock.sendall(b"x")
                assert receive_all(sock) == b"x"
    with serving(Server(ANYWHERE, Rude)) as server:
        for _ in range(3):
            with connect(server) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert receive_all(sock).endswith(b"1 /")

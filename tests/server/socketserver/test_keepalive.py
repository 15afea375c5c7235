"""Keep-alive: which handlers can wait for the next request of a conversation without a thread, and what is limited."""

from __future__ import annotations

import functools
import gc
import http.client
import http.server
import queue
import socket
import socketserver
import ssl
import sys
import threading
import weakref
from contextlib import ExitStack, suppress
from typing import Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler
from xmlrpc.server import SimpleXMLRPCRequestHandler

import pytest

from certificates import Authority
from socketservers import (
    ANYWHERE,
    HTTP,
    PATIENCE,
    Echo,
    Hello,
    One,
    OneHTTP,
    connect,
    manager_of,
    secretly,
    secure,
    secure_context,
    serving,
    until,
)
from tcp import ask, receive, receive_all
from treadle.server._socketserver.keepalive import can_wait
from treadle.server._socketserver.mixin import PoolMixIn


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return secure_context(authority)


# -- which handlers -----------------------------------------------------------------------------------------------


class OwnHandle(Hello):
    def handle(self) -> None:
        super().handle()


class OwnInit(Hello):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)


@pytest.mark.parametrize(
    "handler",
    [
        Hello,
        http.server.SimpleHTTPRequestHandler,
        SimpleXMLRPCRequestHandler,
        functools.partial(http.server.SimpleHTTPRequestHandler, directory="/nowhere"),
    ],
)
def test_http_handlers_can_wait_without_a_thread(handler: Any) -> None:
    assert can_wait(handler)


@pytest.mark.parametrize("handler", [Echo, OwnHandle, OwnInit, WSGIRequestHandler, Hello.do_GET, lambda *args: None])
def test_all_others_cannot(handler: Any) -> None:
    assert not can_wait(handler)


# -- what a handler finds -----------------------------------------------------------------------------------------


class Told(Hello):
    """Tells what its class, and it, look like from within."""

    hits = 0

    def setup(self) -> None:
        super().setup()
        self.found: list[Any] = [dict(vars(self))]

    def do_GET(self) -> None:
        type(self).hits += 1
        self.found.append(dict(vars(self)))
        super().do_GET()

    def finish(self) -> None:
        self.found.append(dict(vars(self)))
        super().finish()
        self.server.told.put((type(self), self.found))  # type: ignore[attr-defined]


class Telling(HTTP):
    max_workers = 1

    def __init__(self, handler: Any) -> None:
        self.told: queue.Queue[Any] = queue.Queue()
        super().__init__(ANYWHERE, handler)


def test_a_handler_is_of_the_class_that_was_given_and_has_no_attributes_of_ours() -> None:
    Told.hits = 0
    with serving(Telling(Told)) as server:
        assert server.RequestHandlerClass is Told
        with connect(server) as sock:
            for _ in range(3):
                sock.sendall(b"GET /a HTTP/1.1")
                sock.sendall(b"\r\nHost: x\r\n\r\n")
                receive_until(sock, b" /a")
        kind, found = server.told.get(timeout=PATIENCE)
    assert kind is Told
    assert Told.hits == 3
    assert [{"setup", "handle", "finish", "parse_request"} & set(attributes) for attributes in found] == [set()] * 5


class Registered(type):
    """Has a call of its own, which makes nothing but counts."""

    made = 0

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        Registered.made += 1
        return super().__call__(*args, **kwargs)


class MetaHello(Hello, metaclass=Registered):
    pass


class Slotted(Hello):
    __slots__ = ("request", "server")


class NewHello(Hello):
    def __new__(cls, *args: Any) -> Any:
        assert len(args) == 3
        return super().__new__(cls)


class Stepbrother(Hello):
    """Makes another kind of handler, which handles the request when it is made."""

    def __new__(cls, *args: Any) -> Any:
        return Hello(*args)


class Strict(Hello):
    """Lets nobody set an attribute that it does not know."""

    def __setattr__(self, name: str, value: Any) -> None:
        assert name not in {"setup", "handle", "finish"}
        super().__setattr__(name, value)


class Elsewhere(socketserver.StreamRequestHandler):
    """Sets up files of its own alone, and answers by them."""

    def setup(self) -> None:
        self.mine = self.request.makefile("rwb", 0)

    def handle(self) -> None:
        while line := self.mine.readline():
            self.mine.write(line)

    def finish(self) -> None:
        self.mine.close()


class Closed(Hello):
    """Turns its client away before it begins."""

    def setup(self) -> None:
        super().setup()
        self.request.shutdown(socket.SHUT_RDWR)
        self.request.close()
        self.rfile.close()

    def handle(self) -> None:
        pass


@pytest.mark.parametrize(("handler", "answer"), [(Elsewhere, b"x\n"), (Closed, b"")])
def test_a_setup_of_its_own_may_do_as_it_likes(handler: Any, answer: bytes) -> None:
    server = Impatient(handler)
    server.read_timeout = 1e300
    with serving(server):
        for _ in range(2):
            with connect(server) as sock:
                sock.sendall(b"x\n")
                with suppress(OSError):  # it has been turned away
                    sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == answer
        assert not server.errors


def made_by_a_function(*args: Any) -> Any:
    return Hello(*args)


@pytest.mark.parametrize(
    "handler",
    [
        MetaHello,
        Slotted,
        NewHello,
        Stepbrother,
        Strict,
        OwnInit,
        OwnHandle,
        made_by_a_function,
        functools.partial(Hello),
    ],
)
def test_however_a_handler_is_made_it_handles_all_requests(handler: Any) -> None:
    before = Registered.made
    with serving(OneHTTP(ANYWHERE, handler)) as server, connect(server) as sock:
        for number in b"12":
            ask_once(sock, b"%c /" % number)
    assert Registered.made - before == (handler is MetaHello)


def test_arguments_of_nested_partials_come_in_order() -> None:
    class Handler(Hello):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            given.append((args[:-3], keywords))
            super().__init__(*args[-3:])

    given: list[Any] = []
    inner = functools.partial(functools.partial(Handler, 1, a=1, b=1), 2, b=2)
    with serving(OneHTTP(ANYWHERE, inner)) as server, connect(server) as sock:
        ask_once(sock, b"1 /")
    assert given == [((1, 2), {"a": 1, "b": 2})]


# -- half requests ------------------------------------------------------------------------------------------------

HALF = b"GET /half HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("half", [HALF[:1], HALF[:-2], HALF, HALF + b"\r"])
def test_clients_in_the_middle_of_a_head_hold_no_thread(half: bytes, buffering: int) -> None:
    handler = type("Handler", (Hello,), {"rbufsize": buffering})
    with ExitStack() as stack:
        server = stack.enter_context(serving(OneHTTP(ANYWHERE, handler)))
        clients = [stack.enter_context(connect(server)) for _ in range(5)]
        for client in clients[:-1]:
            client.sendall(half)
        ask_once(clients[-1], b"1 /")
        for client in clients[:-1]:
            client.sendall((HALF + b"\r\n")[len(half) :])
            assert receive_until(client, b"1 /half")
            client.sendall(half)  # nor before a later request
        ask_once(clients[-1], b"2 /")
        for client in clients[:-1]:
            client.sendall((HALF + b"\r\n")[len(half) :])
            assert receive_until(client, b"2 /half")


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    answer = b""
    while not answer.endswith(end):
        answer += sock.recv(1000) or pytest.fail(f"it said no more than {answer!r}")
    return answer


def test_secure_clients_in_the_middle_of_a_head_hold_no_thread(authority: Authority, context: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(secure(OneHTTP(ANYWHERE, Hello), context)))
        half = [stack.enter_context(secretly(server, authority)) for _ in range(3)]
        for client in half:
            client.sendall(HALF[:9])
            client.sendall(HALF[9:])
        sock = stack.enter_context(secretly(server, authority))
        ask_once(sock, b"1 /")
        for client in half:
            client.sendall(b"\r\n")
            assert receive_until(client, b"1 /half")


def test_a_body_that_came_with_the_head_is_the_handlers() -> None:
    class Handler(Hello):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    post = b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + b"x" * 19999 + b"y"
    with serving(OneHTTP(ANYWHERE, Handler)) as server, connect(server) as sock:
        for cut in (10, 60, 9000, len(post)):
            sock.sendall(post[:cut])
            sock.sendall(post[cut:])
            assert receive_until(sock, b"xy").endswith(post[-20000:])


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"nonsense\r\n", b"400"), (b"GET /" + b"x" * 65536, b"414"), (HALF + b"x" * 65537, b"431")],
    ids=["nonsense", "long line", "long header"],
)
def test_what_makes_no_request_is_refused_at_once(request_: bytes, status: bytes) -> None:
    with serving(OneHTTP(ANYWHERE, Hello)) as server, connect(server) as sock:
        sock.sendall(request_)
        assert status in receive_all(sock)


@pytest.mark.parametrize("sent", [b"\r\n", b"", b"\n"])
def test_whose_first_line_is_empty_is_closed(sent: bytes) -> None:
    with serving(OneHTTP(ANYWHERE, Hello)) as server, connect(server) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""


def test_a_head_that_ends_with_the_client_is_the_handlers_as_it_is() -> None:
    """http.server takes the end for the empty line, and answers."""
    with serving(OneHTTP(ANYWHERE, Hello)) as server, connect(server) as sock:
        sock.sendall(HALF)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).endswith(b"1 /half")


# -- read_timeout -------------------------------------------------------------------------------------------------


class Impatient(HTTP):
    max_workers = 1
    read_timeout: float | None = 0.05
    idle_timeout = None

    def __init__(self, handler: Any) -> None:
        self.errors: list[BaseException | None] = []
        super().__init__(ANYWHERE, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors.append(sys.exc_info()[1])


class Noted(Hello):
    log: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        self.log.append(format % args)


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_head_that_is_not_whole_in_time_is_told_of_as_by_http_server_and_closed(first: bytes) -> None:
    handler: Any = type("Handler", (Noted,), {"log": []})
    with serving(Impatient(handler)) as server, connect(server) as sock:
        sock.sendall(first + HALF)
        received = receive_all(sock)
        assert received.endswith(b"1 /") if first else not received
        assert not server.errors
    assert [line for line in handler.log if "timed out" in line] == [
        "Request timed out: TimeoutError('its head took longer than read_timeout=0.05 s')"
    ]


def test_a_drip_does_not_prolong_the_time_for_a_head() -> None:
    with serving(Impatient(type("Handler", (Noted,), {"log": []}))) as server, connect(server) as sock:
        until_cut(sock, HALF + b"X: y\r\n" * 90)


class OnItsThread(Noted):
    log: ClassVar[list[str]] = []

    def handle(self) -> None:
        super().handle()


class OwnFinish(Impatient):
    def finish_request(self, request: Any, client_address: Any) -> None:
        super().finish_request(request, client_address)


HOLD_A_THREAD = [
    (Impatient, OnItsThread),
    (Impatient, WSGIRequestHandler),
    (Impatient, type("Unbuffered", (OnItsThread,), {"rbufsize": 0})),
    (OwnFinish, Noted),
    (type("Unparked", (Impatient,), {"wait_for_first_byte": False}), Noted),
]


@pytest.mark.parametrize(("kind", "handler"), HOLD_A_THREAD)
@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["first", "second"])
def test_lines_do_not_prolong_it_for_a_head_that_a_handler_waits_for_on_its_thread(
    before: bytes, kind: Any, handler: Any
) -> None:
    with serving(kind(type("Handler", (handler,), {"log": [], "log_message": lambda *args: None}))) as server:
        with connect(server) as sock:
            sock.sendall(before)
            until_cut(sock, HALF, b"X: y\r\n", lines=90)


def test_a_handler_that_waits_on_its_thread_is_let_go_when_it_ends() -> None:
    """Its hooks make no circle that keeps it until the garbage collector comes."""
    left: queue.Queue[Any] = queue.Queue()

    class Kept(OnItsThread):
        def handle(self) -> None:
            super().handle()
            left.put(weakref.ref(self))

    with serving(HTTP(ANYWHERE, Kept)) as server:
        gc.disable()
        try:
            with connect(server) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert receive_all(sock).endswith(b"1 /")
            kept = left.get(timeout=PATIENCE)
            until(lambda: kept() is None)
        finally:
            gc.enable()


def test_nor_for_a_line_of_any_other_handler() -> None:
    with serving(Impatient(Echo)) as server, connect(server) as sock:
        until_cut(sock, b"x" * 10_000)
        assert [type(error) for error in server.errors] == [TimeoutError]


def until_cut(sock: socket.socket, data: bytes, line: bytes = b"", lines: int = 0) -> None:
    """Send byte after byte, or line after line, at a leisurely pace, until the server has had enough."""
    sock.settimeout(0.005)
    for part in [data, *[line] * lines] if lines else [bytes([byte]) for byte in data]:
        try:
            sock.sendall(part)
            if not sock.recv(100):
                return
        except TimeoutError:
            pass
        except ConnectionError:
            return
    pytest.fail("it is never cut")


class Raw(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


class Direct(socketserver.StreamRequestHandler):
    handle = Raw.handle


class Body(Hello):
    def do_POST(self) -> None:
        self.rfile.read(100)


@pytest.mark.parametrize("secret", [False, True], ids=["plain", "secret"])
@pytest.mark.parametrize("handler", [Raw, Direct, Echo, OwnInit, WSGIRequestHandler])
def test_silence_on_a_thread_is_limited(
    handler: Any, secret: bool, authority: Authority, context: ssl.SSLContext
) -> None:
    handler = type("Handler", (handler,), {"log_message": lambda *args: None})
    with serving(secure(Impatient(handler), context) if secret else Impatient(handler)) as server:
        with secretly(server, authority) if secret else connect(server) as sock:
            sock.sendall(b"x")
            assert receive_all(sock) in (b"", b"x")
        # http.server logs this, and wsgiref does not know of it.
        assert {type(error) for error in server.errors} <= {TimeoutError}
        assert server.errors or handler.__base__ is OwnInit


def test_a_body_that_does_not_come_is_waited_for_no_longer() -> None:
    handler: Any = type("Handler", (Noted, Body), {"log": []})
    with serving(Impatient(handler)) as server, connect(server) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
        assert receive_all(sock) == b""
    assert "Request timed out: TimeoutError('the client has sent nothing for read_timeout=0.05 s')" in handler.log


@pytest.mark.parametrize("by", ["attribute", "call"])
@pytest.mark.parametrize("base", [Raw, Direct, Echo])
def test_a_handlers_own_time_out_goes_before(by: str, base: Any) -> None:
    found: list[Any] = []

    class Handler(base):  # type: ignore[misc]
        timeout = PATIENCE if by == "attribute" else None

        def handle(self) -> None:
            if by == "call" or base is Raw:
                self.request.settimeout(PATIENCE)
            threading.Event().wait(0.0)
            found.append(self.request.gettimeout())
            super().handle()

    with serving(Impatient(Handler)) as server, connect(server) as sock:
        sock.sendall(b"x")
        threading.Event().wait(0.15)  # a client that is slower than the server would have it
        assert ask(sock, b"y\n", 3 if base is Echo else 2)
    assert found == [PATIENCE]


def test_who_reads_slowly_is_not_cut_by_it() -> None:
    """It limits what is received: a download may take as long as it does."""
    size = 8 << 20

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"x" * size)

    with serving(Impatient(Handler)) as server, connect(server) as sock:
        sock.sendall(b"?\n")
        threading.Event().wait(0.15)
        assert len(receive_all(sock)) == size


class Flood(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline():
            self.wfile.write(b"x" * (64 << 20))


class WebFlood(Hello):
    def do_GET(self) -> None:
        super().do_GET()
        if self.count == self.server.floods:  # type: ignore[attr-defined]
            self.wfile.write(b"x" * (64 << 20))


class Worded(Impatient):
    """Keeps no traceback, and with that no handler, whose files a failed `finish` leaves open."""

    def __init__(self, handler: Any) -> None:
        self.words: list[str] = []
        super().__init__(handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.words.append(repr(sys.exc_info()[1]))


@pytest.mark.parametrize("buffering", [0, 100])
@pytest.mark.parametrize(("handler", "floods"), [(Flood, 0), (WebFlood, 1), (WebFlood, 2)])
def test_who_takes_nothing_of_an_answer_holds_no_thread_for_ever(handler: Any, floods: int, buffering: int) -> None:
    server: Any = Worded(type("Handler", (handler,), {"wbufsize": buffering}))
    server.read_timeout, server.write_timeout, server.floods = None, 0.05, floods
    with serving(server), connect(server) as greedy:
        greedy.sendall(b"GET / HTTP/1.1\r\n\r\n" * max(1, floods))
        until(lambda: server.words)
        until(lambda: not manager_of(server).requests)
    assert len(server.words) == 1
    assert server.words[0].startswith("TimeoutError")
    assert "taken nothing for write_timeout=0.05 s" in server.words[0]


@pytest.mark.parametrize("limit", [None, 0.05])
def test_a_handlers_own_time_out_goes_before_that_for_sending(limit: float | None) -> None:
    found: list[Any] = []

    class Handler(Hello):
        timeout = 12.0 if limit else None

        def do_GET(self) -> None:
            found.append(self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
            super().do_GET()

    server = HTTP(ANYWHERE, Handler)
    server.write_timeout = limit
    with serving(server), connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        receive_all(sock)
    assert found == [bytes(len(found[0]))]


@pytest.mark.parametrize("handler", [Raw, Echo, Hello])
def test_without_read_timeout_nothing_is_limited(handler: Any) -> None:
    found: list[Any] = []

    class Handler(handler):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            found.append((self.request.gettimeout(), type(self.request)))

    server = Impatient(Handler)
    server.read_timeout = None
    with serving(server), connect(server) as sock:
        sock.sendall(b"GET")
        until(lambda: found)
        if handler is Hello:
            sock.sendall(b" / HTTP/1.1\r\n\r\n")
            assert receive_until(sock, b"1 /")
        else:
            sock.sendall(b"\n")
            assert receive(sock, 4) == b"GET\n"
    assert found == [(None, socket.socket)]


def test_a_conversation_shows_as_such_when_it_holds_the_last_thread(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(One(ANYWHERE, Echo)))
        first = stack.enter_context(connect(server))
        assert ask(first, b"x\n") == b"x\n"
        second = stack.enter_context(connect(server))
        second.sendall(b"y\n")
        until(lambda: "the only thread is taken by conversations" in caplog.text)
        first.close()
        assert receive(second, 2) == b"y\n"
    assert len(caplog.records) == 1


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


# -- TLS ----------------------------------------------------------------------------------------------------------


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

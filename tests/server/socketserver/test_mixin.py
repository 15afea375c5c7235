"""PoolMixIn: servers of `socketserver` and `http.server`, unchanged but for the mixin."""

from __future__ import annotations

import functools
import http.server
import math
import select
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from socketservers import (
    ANYWHERE,
    HTTP,
    PATIENCE,
    TCP,
    UDP,
    Echo,
    Hello,
    connect,
    manager_of,
    pool_of,
    serving,
    until,
    web,
)
from tcp import ask, receive, receive_all
from treadle import Pool
from treadle.server._socketserver.mixin import PoolMixIn
from treadle.server._socketserver.request import Request


def get(connection: Any, path: str = "/") -> bytes:
    connection.request("GET", path)
    return bytes(connection.getresponse().read())


class Once(socketserver.BaseRequestHandler):
    """Tells the name of its thread."""

    def handle(self) -> None:
        self.request.recv(100)
        self.request.sendall(threading.current_thread().name.encode())


class ConnectionLimiter(socketserver.BaseRequestHandler):
    """Handlers wait at the server's gate, and say when they have come to it."""

    def handle(self) -> None:
        self.request.recv(1)
        self.server.entered.release()  # type: ignore[attr-defined]
        assert self.server.gate.wait(PATIENCE)  # type: ignore[attr-defined]
        self.request.sendall(b"done")


class Gated(TCP):
    def __init__(self, handler: Any = ConnectionLimiter) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        super().__init__(ANYWHERE, handler)


# -- threads ------------------------------------------------------------------------------------------------------


def test_handlers_run_on_threads_of_the_pool() -> None:
    with serving(TCP(ANYWHERE, Once)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b"TCP-0"


@pytest.mark.parametrize("kind", [socketserver.ThreadingTCPServer, http.server.ThreadingHTTPServer])
def test_before_a_server_with_threads_of_its_own_it_takes_their_place(kind: Any) -> None:
    server = type("Server", (PoolMixIn, kind), {})(ANYWHERE, Once)
    with serving(server), connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b"Server-0"
        pool = pool_of(server)
    assert pool.snapshot().closed
    assert server.socket.fileno() < 0


@pytest.mark.parametrize(
    "bases",
    [
        (http.server.HTTPServer, PoolMixIn),
        (http.server.ThreadingHTTPServer, PoolMixIn),
        (socketserver.ThreadingMixIn, PoolMixIn, socketserver.TCPServer),
    ],
)
def test_a_class_in_which_it_would_do_nothing_is_refused(bases: Any) -> None:
    with pytest.raises(TypeError, match=r"class Server: its process_request is .* name PoolMixIn first"):
        type("Server", bases, {})


def test_a_server_may_stand_before_a_class_that_has_it() -> None:
    class Special(socketserver.TCPServer):
        allow_reuse_address = True

    class Server(Special, TCP):
        pass

    with serving(Server(ANYWHERE, Once)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b"Server-0"


def test_no_more_threads_than_max_workers_and_no_other_thread() -> None:
    class Server(Gated):
        max_workers = 2

    with ExitStack() as stack:
        before = threading.active_count()
        server = stack.enter_context(serving(Server()))
        clients = [stack.enter_context(connect(server)) for _ in range(6)]
        for client in clients:
            client.sendall(b"?")
        for _ in range(2):
            assert server.entered.acquire(timeout=PATIENCE)
        assert threading.active_count() == before + 1 + 2  # the serving thread is the test's
        assert len(server._threads) == 2
        server.gate.set()
        assert [receive_all(client) for client in clients] == [b"done"] * 6


def test_clients_that_send_nothing_hold_no_thread() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(_with(TCP, max_workers=1)(ANYWHERE, Echo)))
        for _ in range(30):
            stack.enter_context(connect(server))
        sock = stack.enter_context(connect(server))
        assert ask(sock, b"hello\n") == b"hello\n"
        assert len(server._threads) == 1


def test_a_server_that_speaks_first_does_not_wait_for_the_client() -> None:
    class Greeter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")
            self.wfile.write(self.rfile.readline())

    with serving(_with(TCP, wait_for_first_byte=False)(ANYWHERE, Greeter)) as server, connect(server) as sock:
        assert receive(sock, 11) == b"220 ready\r\n"
        assert ask(sock, b"QUIT\r\n") == b"QUIT\r\n"


def test_a_shared_pool_is_left_open() -> None:
    with Pool(1, name="shared") as pool:
        with serving(_with(TCP, pool=pool)(ANYWHERE, Once)) as server, connect(server) as sock:
            sock.sendall(b"?")
            assert receive_all(sock) == b"shared-0"
        assert pool.submit(int).result(PATIENCE) == 0


def test_a_full_shared_pool_stops_neither_accepting_nor_shutdown() -> None:
    gate = threading.Event()
    with Pool(1, queue_size=1) as pool:
        with ExitStack() as stack:
            stack.callback(gate.set)
            server = stack.enter_context(serving(_with(TCP, pool=pool, drain_timeout=None)(ANYWHERE, Once)))
            others = [pool.submit(gate.wait, PATIENCE), pool.submit(gate.wait, PATIENCE)]
            clients = [stack.enter_context(connect(server)) for _ in range(5)]
            for client in clients:
                client.sendall(b"?")
            server.shutdown()
            gate.set()
            assert all(other.result(PATIENCE) for other in others)
            # Whose byte had come was handed over before serving ended; the others are served by a second spell.
            with serving(_Again(server)):
                assert all(receive_all(client) for client in clients)


class _Again:
    """A server to serve once more, but not to close."""

    def __init__(self, server: Any) -> None:
        self.serve_forever, self.shutdown = server.serve_forever, server.shutdown

    def server_close(self) -> None:
        pass


def test_a_client_is_closed_when_its_pool_drops_it() -> None:
    pool = Pool(1, queue_size=10)
    gate, begun = threading.Event(), threading.Semaphore(0)

    class Server(TCP):
        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            begun.release()

    server = _with(Server, pool=pool)(ANYWHERE, Once)
    with pool, serving(server), connect(server) as sock:
        running = pool.submit(gate.wait, PATIENCE)
        sock.sendall(b"?")
        until(lambda: pool.snapshot().waiting)
        pool.shutdown(wait=False, cancel_futures=True)
        assert receive_all(sock) == b""
        assert begun.acquire(timeout=PATIENCE)
        gate.set()
        assert running.result(PATIENCE)


def test_a_client_is_closed_and_told_of_when_the_pool_is_closed() -> None:
    errors: list[str] = []

    class Server(TCP):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(type(_current_error()).__name__)

    pool = Pool(1)
    pool.shutdown()
    with serving(_with(Server, pool=pool)(ANYWHERE, Once)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b""
    assert errors == ["PoolClosed"]


def test_a_client_that_is_read_while_the_server_closes_is_no_error() -> None:
    errors: list[str] = []

    class Server(TCP):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(type(_current_error()).__name__)

    server = _with(Server)(ANYWHERE, Once)
    with serving(server), connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock)
    ours, theirs = socket.socketpair()
    with theirs:
        manager = manager_of(server)
        assert manager.closed
        manager.hand_over(Request(manager, server, ours, "", polled=False))
        assert theirs.recv(1) == b""
    assert not errors


def _current_error() -> BaseException | None:
    return sys.exc_info()[1]


# -- HTTP ---------------------------------------------------------------------------------------------------------


def test_keep_alive_clients_hold_no_thread_between_requests() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(_with(HTTP, max_workers=1)(ANYWHERE, Hello)))
        clients = [stack.enter_context(web(server)) for _ in range(10)]
        for number in b"123":
            assert [get(client) for client in clients] == [b"%c /" % number] * 10


def test_a_conversation_has_one_handler_set_up_and_finished_once() -> None:
    calls: list[str] = []
    over = threading.Event()

    class Handler(Hello):
        def setup(self) -> None:
            calls.append("setup")
            super().setup()

        def finish(self) -> None:
            calls.append("finish")
            super().finish()
            over.set()

    with serving(HTTP(ANYWHERE, Handler)) as server, web(server) as client:
        assert (get(client), get(client), get(client)) == (b"1 /", b"2 /", b"3 /")
        assert calls == ["setup"]
        client.close()
        assert over.wait(PATIENCE)
    assert calls == ["setup", "finish"]


@pytest.mark.parametrize("buffering", [-1, 0])
def test_requests_sent_in_one_piece_are_all_answered(buffering: int) -> None:
    """The second is in the handler's buffer already, where the poller does not see it."""
    handler = _with(Hello, rbufsize=buffering)
    with serving(_with(HTTP, max_workers=1)(ANYWHERE, handler)) as server, connect(server) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\n\r\n" * 20 + b"GET /b HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = receive_all(sock)
    assert [b"%d /a" % number in answers for number in range(1, 21)] == [True] * 20
    assert answers.endswith(b"21 /b")


def test_a_client_that_pipelines_does_not_keep_others_from_their_turn() -> None:
    order: list[str] = []

    class Handler(Hello):
        def do_GET(self) -> None:
            order.append(self.path)
            if len(order) == 1:
                assert self.server.gate.wait(PATIENCE)  # type: ignore[attr-defined]
            super().do_GET()

    server = _with(HTTP, max_workers=1)(ANYWHERE, Handler)
    server.gate = threading.Event()
    with serving(server), connect(server) as greedy, connect(server) as modest:
        greedy.sendall(b"GET /greedy HTTP/1.1\r\n\r\n" * 9 + b"GET /greedy HTTP/1.0\r\n\r\n")
        until(lambda: order)
        modest.sendall(b"GET /modest HTTP/1.0\r\n\r\n")
        until(lambda: pool_of(server).snapshot().waiting)
        server.gate.set()
        assert receive_all(modest).endswith(b"1 /modest")
        assert receive_all(greedy).endswith(b"10 /greedy")
    assert order.index("/modest") == 1


def test_an_error_in_a_later_request_finishes_the_handler_and_closes_the_client() -> None:
    calls: list[str] = []

    class Handler(Hello):
        def do_FAIL(self) -> None:
            raise ValueError

        def finish(self) -> None:
            calls.append("finish")
            super().finish()

    class Server(HTTP):
        def handle_error(self, request: Any, client_address: Any) -> None:
            calls.append(type(_current_error()).__name__)

    with serving(Server(ANYWHERE, Handler)) as server, web(server) as good, web(server) as bad:
        assert get(good) == get(bad) == b"1 /"
        bad.request("FAIL", "/")
        with pytest.raises(ConnectionError):
            bad.getresponse()
        assert get(good) == b"2 /"
        assert calls == ["finish", "ValueError"]


def test_a_handler_or_server_with_an_end_of_its_own_keeps_its_thread() -> None:
    """What follows `super().__init__()`, or the call of the handler, belongs after the last request."""
    order: list[str] = []

    class Handler(Hello):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            order.append(f"after {self.count}")

    class Server(HTTP):
        def finish_request(self, request: Any, client_address: Any) -> None:
            super().finish_request(request, client_address)
            order.append("finished")

    class Base(http.server.HTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            Hello(request, client_address, self)
            order.append("finished")

    class Mixed(PoolMixIn, Base):
        pass

    for server, expected in (
        (HTTP(ANYWHERE, Handler), "after 2"),
        (Server(ANYWHERE, Hello), "finished"),
        (Mixed(ANYWHERE, Hello), "finished"),
    ):
        with serving(server), web(server) as client:
            assert (get(client), get(client)) == (b"1 /", b"2 /")
            assert len(server._threads) == 1
        assert order.pop() == expected
        assert not order


def test_a_partial_of_a_handler_can_wait_without_a_thread(tmp_path: Any) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    (tmp_path / "file").write_bytes(b"text")
    handler = functools.partial(Handler, directory=str(tmp_path))
    with serving(_with(HTTP, max_workers=1)(ANYWHERE, handler)) as server, web(server) as one, web(server) as two:
        assert [get(client, "/file") for client in (one, two, one, two)] == [b"text"] * 4


# -- hooks --------------------------------------------------------------------------------------------------------


def test_every_hook_is_called_as_by_the_standard_library() -> None:
    calls: list[str] = []
    over = threading.Event()

    def hook(name: str) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            calls.append(name)
            result = getattr(super(Server, self), name)(*args)
            if name == "close_request":
                over.set()
            return result

        return call

    names = ["get_request", "verify_request", "process_request", "finish_request", "shutdown_request", "close_request"]
    Server: type = type("Server", (TCP,), {name: hook(name) for name in names})
    with serving(Server(ANYWHERE, Once)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock)
        assert over.wait(PATIENCE)
    assert calls == names


def test_a_client_that_is_not_verified_is_closed() -> None:
    class Server(TCP):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    with serving(Server(ANYWHERE, Once)) as server, connect(server) as sock:
        assert receive_all(sock) == b""
        assert not manager_of(server).requests


def test_an_exception_of_a_handler_comes_to_handle_error() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError(self.request.recv(10))

    class Server(TCP):
        seen: Any = None

        def handle_error(self, request: Any, client_address: Any) -> None:
            self.seen = (repr(_current_error()), client_address, threading.current_thread().name)

    with serving(Server(ANYWHERE, Handler)) as server, connect(server) as sock:
        sock.sendall(b"bad")
        assert receive_all(sock) == b""
        assert server.seen == ("ValueError(b'bad')", sock.getsockname(), "Server-0")


def test_service_actions_are_called_every_poll_interval() -> None:
    class Server(TCP):
        calls = threading.Semaphore(0)

        def service_actions(self) -> None:
            self.calls.release()

    with serving(Server(ANYWHERE, Once), poll_interval=0.001) as server:
        for _ in range(3):
            assert server.calls.acquire(timeout=PATIENCE)


def test_handle_request_handles_one_request_and_minds_the_timeout() -> None:
    class Server(HTTP):
        timeout = 0.0
        late = 0

        def handle_timeout(self) -> None:
            self.late += 1

    with Server(ANYWHERE, Hello) as server:
        server.handle_request()
        assert server.late == 1
        server.timeout = PATIENCE
        with web(server) as client:
            client.connect()
            server.handle_request()
            assert (get(client), get(client)) == (b"1 /", b"2 /")  # nobody serves, so it keeps its thread
        assert server.late == 1


def test_handle_request_waits_for_room() -> None:
    class Server(Gated):
        max_connections = 1
        late = 0

        def handle_timeout(self) -> None:
            self.late += 1

    with Server() as server, connect(server) as first, connect(server) as second:
        server.handle_request()
        server.timeout = 0.0
        server.handle_request()
        assert server.late == 1
        first.sendall(b"?")
        server.gate.set()
        assert receive_all(first) == b"done"
        server.timeout = PATIENCE
        server.handle_request()
        second.sendall(b"?")
        assert receive_all(second) == b"done"


def test_subclasses_may_use_any_private_name() -> None:
    """As those of the standard library's own tests do, which set `_handler` before they call `__init__`."""

    class Server(TCP):
        def __init__(self) -> None:
            self._handler = self._manager = self._loop = self._pool = self._acceptor = "mine"
            socketserver.TCPServer.__init__(self, ANYWHERE, Echo)

    with serving(Server()) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        assert {server._handler, server._manager, server._loop, server._pool, server._acceptor} == {"mine"}


# -- datagrams ----------------------------------------------------------------------------------------------------


class EchoPacket(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read())


def test_datagrams_are_handled_by_the_pool() -> None:
    with serving(UDP(ANYWHERE, EchoPacket)) as server, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        for number in range(20):
            sock.sendto(b"%d" % number, server.server_address)
            assert sock.recv(100) == b"%d" % number
        assert {thread.name for thread in pool_of(server)._threads} <= {f"UDP-{n}" for n in range(20)}


def test_server_close_lets_datagram_handlers_answer() -> None:
    entered, gate = threading.Event(), threading.Event()

    class Handler(EchoPacket):
        def handle(self) -> None:
            super().handle()
            entered.set()
            assert gate.wait(PATIENCE)

    class Server(UDP):
        def server_close(self) -> None:
            gate.set()
            super().server_close()

    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        with serving(Server(ANYWHERE, Handler)) as server:
            sock.sendto(b"late", server.server_address)
            assert entered.wait(PATIENCE)
        assert sock.recv(100) == b"late"
        assert server.socket.fileno() == -1


# -- listening ----------------------------------------------------------------------------------------------------


def test_the_kernels_queue_is_as_long_as_it_allows_unless_a_class_says_otherwise() -> None:
    class Short(socketserver.TCPServer):
        request_queue_size = 7

    class Inherits(PoolMixIn, Short):
        pass

    class Own(TCP):
        request_queue_size = 5

    for kind, expected in ((TCP, 65535), (HTTP, 65535), (Inherits, 7), (Own, 5)):
        with kind(ANYWHERE, Echo) as server:
            assert server.request_queue_size == expected


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets")
def test_unix_sockets_are_served(tmp_path: Any) -> None:
    class Server(PoolMixIn, socketserver.UnixStreamServer):
        pass

    path = str(tmp_path / "socket")
    with serving(Server(path, Echo)), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        assert ask(sock, b"hello\n") == b"hello\n"


# -- shutdown -----------------------------------------------------------------------------------------------------


def test_shutdown_wakes_a_server_that_polls_once_an_hour() -> None:
    with serving(TCP(ANYWHERE, Echo), poll_interval=3600.0) as server:
        server.shutdown()


def test_shutdown_may_be_called_by_a_handler() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.server.shutdown()
            self.request.sendall(b"down")

    with serving(TCP(ANYWHERE, Handler)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b"down"


def test_shutdown_in_the_serving_thread_does_not_wait_for_itself() -> None:
    class Server(TCP):
        def service_actions(self) -> None:
            self.shutdown()

    with Server(ANYWHERE, Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.001,))
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_shutdown_before_serving_begins_ends_it_when_it_begins() -> None:
    with TCP(ANYWHERE, Echo) as server:
        server.shutdown()
        server.serve_forever()


def test_a_server_may_serve_again_and_keeps_its_clients() -> None:
    with TCP(ANYWHERE, Echo) as server, connect(server) as sock, connect(server) as probe:
        with serving(_Again(server)):
            assert ask(probe, b"x\n") == b"x\n"  # so the other one, which came first, is in too
        with serving(_Again(server)):
            assert ask(sock, b"hello\n") == b"hello\n"


def test_whose_request_has_come_when_serving_ends_is_answered() -> None:
    class Server(TCP):
        request: Any = None
        client: Any = None

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.request = request
            return True

        def service_actions(self) -> None:
            if self.request is not None:
                self.client.sendall(b"x\n")
                assert select.select([self.request], [], [], PATIENCE)[0]
                self.shutdown()

    with Server(ANYWHERE, Echo) as server, connect(server) as sock:
        server.client = sock
        server.serve_forever(0.001)
        assert receive(sock, 2) == b"x\n"


def test_only_one_thread_serves() -> None:
    with serving(TCP(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        with pytest.raises(RuntimeError, match="being served already"):
            server.serve_forever()


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"idle_timeout": -1}, ValueError),
        ({"read_timeout": -1}, ValueError),
        ({"read_timeout": "30"}, TypeError),
        ({"drain_timeout": "10"}, TypeError),
        ({"pool": "pool"}, TypeError),
    ],
)
def test_wrong_attributes_are_refused_before_serving(attributes: dict[str, Any], error: type[Exception]) -> None:
    with _with(TCP, **{"drain_timeout": 1.0, **attributes})(ANYWHERE, Echo) as server:
        with pytest.raises(error, match=next(iter(attributes))):
            server.serve_forever()
        server.drain_timeout = 1.0


# -- server_close -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drain_timeout", "error"), [("10", TypeError), (-1, ValueError), (math.nan, ValueError)])
def test_a_wrong_drain_timeout_is_refused_when_it_is_closed_too(drain_timeout: Any, error: type[Exception]) -> None:
    with _with(TCP, drain_timeout=1.0)(ANYWHERE, Echo) as server:
        server.drain_timeout = drain_timeout
        with pytest.raises(error, match="drain_timeout"):
            server.server_close()
        server.drain_timeout = 1.0


@pytest.mark.parametrize("drain_timeout", [math.inf, 1e10])
def test_more_than_can_be_waited_is_as_long_as_it_takes(drain_timeout: float) -> None:
    server = _with(Gated, drain_timeout=drain_timeout)()
    with serving(server), connect(server) as sock:
        sock.sendall(b"?")
        assert server.entered.acquire(timeout=PATIENCE)
        closing = threading.Thread(target=server.server_close)
        closing.start()
        server.gate.set()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert receive_all(sock) == b"done"


def test_server_close_waits_for_handlers_and_closes_those_that_wait() -> None:
    with ExitStack() as stack:
        server = Gated()
        with serving(server):
            idle = stack.enter_context(connect(server))
            busy = stack.enter_context(connect(server))
            busy.sendall(b"?")
            assert server.entered.acquire(timeout=PATIENCE)
            closing = threading.Thread(target=server.server_close)  # ends the serving as well
            closing.start()
            assert receive_all(idle) == b""
            assert closing.is_alive()
            server.gate.set()
            closing.join(PATIENCE)
            assert not closing.is_alive()
            assert server.socket.fileno() == -1
            assert receive_all(busy) == b"done"


def test_server_close_cuts_off_who_runs_for_longer_than_drain(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers that wait for their clients see them leave; one that waits for a thread never begins."""
    left = threading.Semaphore(0)

    class Handler(Echo):
        def finish(self) -> None:
            super().finish()
            left.release()

    server = _with(TCP, drain_timeout=0.0, max_workers=1)(ANYWHERE, Handler)
    with ExitStack() as stack:
        with serving(server):
            running = stack.enter_context(connect(server))
            assert ask(running, b"x\n") == b"x\n"
            waiting = stack.enter_context(connect(server))
            waiting.sendall(b"y\n")
            until(lambda: pool_of(server).snapshot().waiting)
        assert receive_all(running) == receive_all(waiting) == b""
        assert left.acquire(timeout=PATIENCE)
        assert not left.acquire(blocking=False)
    assert "2 requests are cut off" in caplog.text


def test_server_close_in_a_handler_waits_for_nothing() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.server.server_close()
            self.request.sendall(b"closed")

    with serving(_with(TCP, drain_timeout=None)(ANYWHERE, Handler)) as server, connect(server) as sock:
        sock.sendall(b"?")
        assert receive_all(sock) == b"closed"


def test_server_close_in_the_serving_thread_ends_the_serving() -> None:
    class Server(TCP):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.server_close()
            return True

    server = Server(ANYWHERE, Echo)
    with connect(server) as sock:
        server.serve_forever()
        assert receive_all(sock) == b""
    assert server.socket.fileno() == -1


@pytest.mark.parametrize("attribute", [{"block_on_close": False}, {"daemon_threads": True}])
def test_server_close_need_not_wait(attribute: dict[str, bool]) -> None:
    server = _with(Gated, drain_timeout=None, **attribute)()
    with ExitStack() as stack:
        with serving(server):
            sock = stack.enter_context(connect(server))
            sock.sendall(b"?")
            assert server.entered.acquire(timeout=PATIENCE)
        server.gate.set()
        assert receive_all(sock) == b"done"  # and it is not cut off


def test_server_close_may_be_called_twice_and_without_ever_serving() -> None:
    server = TCP(ANYWHERE, Echo)
    server.server_close()
    server.server_close()
    server.serve_forever()
    assert server.socket.fileno() == -1


def test_a_keep_alive_client_does_not_hold_up_server_close() -> None:
    """Nor does one whose request is under way when serving ends."""
    entered, gate = threading.Event(), threading.Event()

    class Handler(Hello):
        def do_GET(self) -> None:
            if self.path == "/slow":
                entered.set()
                assert gate.wait(PATIENCE)
            super().do_GET()

    server = _with(HTTP, drain_timeout=None)(ANYWHERE, Handler)
    with web(server) as idle, web(server) as busy:
        with serving(server):
            assert get(idle) == b"1 /"
            busy.request("GET", "/slow")
            assert entered.wait(PATIENCE)
            server.shutdown()
            gate.set()
        assert busy.getresponse().read() == b"1 /slow"


def test_every_client_gets_its_own_answers_while_descriptors_are_reused() -> None:
    """Threads close descriptors as others accept and poll the same numbers."""

    def converse(server: Any, name: bytes, wrong: list[bytes]) -> None:
        for number in range(60):
            with connect(server) as sock:
                for part in range(number % 3):
                    line = b"%s %d %d\n" % (name, number, part)
                    if ask(sock, line) != line:
                        wrong.append(line)

    wrong: list[bytes] = []
    with serving(_with(TCP, max_workers=4)(ANYWHERE, Echo)) as server:
        threads = [threading.Thread(target=converse, args=(server, b"%d" % number, wrong)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not wrong
        with connect(server) as sock:
            assert ask(sock, b"after all\n") == b"after all\n"


def _with(base: Any, **attributes: Any) -> Any:
    """Return a subclass with other attributes, and the same name."""
    return type(base.__name__, (base,), attributes)

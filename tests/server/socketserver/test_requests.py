"""RequestManager: how many requests there may be, how long they wait, and what is kept of them."""

from __future__ import annotations

import logging
import os
import select
import socket
import socketserver
import threading
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
    loop_of,
    manager_of,
    serving,
    until,
    waiting_of,
    web,
)
from tcp import ask, receive_all
from treadle._base import clock


def test_beyond_max_connections_clients_wait_for_one_to_leave(caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        max_connections = 3
        most = 0

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.most = max(self.most, len(manager_of(self).requests) + 1)
            return True

    with ExitStack() as stack:
        server = stack.enter_context(serving(Server(ANYWHERE, Echo)))
        clients = [stack.enter_context(connect(server)) for _ in range(9)]
        for first in (0, 3, 6):
            for client in clients[first : first + 3]:
                assert ask(client, b"x\n") == b"x\n"
            assert manager_of(server).acceptor.full or first == 6
            for client in clients[first : first + 3]:
                client.close()
        assert server.most == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # one line, not one a client
    assert "all 3 places are taken" in caplog.text


def test_the_only_place_is_told_of_in_the_singular(caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        max_connections = 1

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as client:
        assert ask(client, b"x\n") == b"x\n"
        until(lambda: manager_of(server).acceptor.full)
    assert "the only place is taken, so others wait (max_connections)" in caplog.text


def test_datagrams_are_bounded_like_connections() -> None:
    entered, gate = threading.Semaphore(0), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            entered.release()
            assert gate.wait(PATIENCE)

    class Server(UDP):
        max_connections = 2
        max_workers = 1

    with serving(Server(ANYWHERE, Handler)) as server:
        for _ in range(5):
            server.socket.sendto(b"x", server.server_address)
        assert entered.acquire(timeout=PATIENCE)
        until(lambda: manager_of(server).acceptor.full)
        assert len(manager_of(server).requests) == 2
        gate.set()
        for _ in range(4):
            assert entered.acquire(timeout=PATIENCE)


def test_who_sends_nothing_for_idle_timeout_is_closed() -> None:
    class Server(TCP):
        idle_timeout = 0.01

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert receive_all(sock) == b""
        assert not waiting_of(server)


def test_a_conversation_that_is_idle_for_idle_timeout_is_finished_and_closed() -> None:
    threads: list[str] = []

    class Handler(Hello):
        def finish(self) -> None:
            threads.append(threading.current_thread().name)
            super().finish()

    class Server(HTTP):
        idle_timeout = 0.01
        max_workers = 1

    with serving(Server(ANYWHERE, Handler)) as server, web(server) as client:
        client.connect()
        client.request("GET", "/")
        assert client.getresponse().read() == b"1 /"
        assert receive_all(client.sock) == b""
        until(lambda: not manager_of(server).requests)
    assert threads == ["Server-0"]  # the user's code, so not the thread that polls for everybody


class Stalled:
    """A server that stands still while a client sends: when it goes on, it has not seen that, and it is too late."""

    def __init__(self, server: Any, data: bytes) -> None:
        self.server = server
        self.data = data
        self.poller = loop_of(server).poller
        self.poll = self.poller.poll
        self.poller.poll = self  # type: ignore[method-assign]
        self.client: Any = None

    def __call__(self, timeout: float) -> list[tuple[int, int]]:
        waiting = waiting_of(self.server)
        if self.client is None or not waiting:
            return self.poll(min(timeout, 0.001))
        client, self.client = self.client, None
        client.sendall(self.data)
        assert select.select([waiting[0].fileno()], [], [], PATIENCE)[0]
        self.poller.poll = self.poll  # type: ignore[method-assign]
        until(lambda: clock.now() >= waiting[0].due)
        return []


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["at first", "between requests"])
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost"], ids=["idle", "in a head"])
def test_who_was_on_time_is_served_though_the_server_was_late(before: bytes, begun: bytes) -> None:
    class Server(HTTP):
        idle_timeout = 0.2
        read_timeout = 0.2

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.stalled = Stalled(self, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[len(begun) :])
            return True

    with serving(Server(ANYWHERE, Hello)) as server, connect(server) as sock:
        sock.sendall(before + begun)
        until(lambda: hasattr(server, "stalled"))
        server.stalled.client = sock
        loop_of(server).wake()
        answer = b""
        while not answer.endswith(b"2 /" if before else b"1 /"):
            answer += sock.recv(1000) or pytest.fail(f"it was cut after {answer!r}")


def test_who_was_on_time_but_not_to_the_end_is_cut() -> None:
    class Server(HTTP):
        read_timeout = 0.2

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.stalled = Stalled(self, b": x\r\n")
            return True

    with serving(Server(ANYWHERE, Hello)) as server, connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost")
        until(lambda: hasattr(server, "stalled"))
        until(lambda: any(request.conversation.head_by for request in waiting_of(server)))
        server.stalled.client = sock
        assert receive_all(sock) == b""


def test_who_is_served_is_not_idle() -> None:
    """A handler that takes its time is nobody's business but its own."""
    late = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            assert late.wait(PATIENCE)
            self.request.sendall(b"done")

    class Server(TCP):
        idle_timeout = 0.05

    with serving(Server(ANYWHERE, Handler)) as server, connect(server) as busy, connect(server) as idle:
        busy.sendall(b"?")
        assert receive_all(idle) == b""
        late.set()
        assert receive_all(busy) == b"done"


def test_without_idle_timeout_nothing_is_timed() -> None:
    class Server(TCP):
        idle_timeout = None

    with serving(Server(ANYWHERE, Echo)) as server, connect(server), connect(server) as probe:
        assert ask(probe, b"x\n") == b"x\n"
        assert len(waiting_of(server)) == 1
        assert not loop_of(server).timers.heap


def test_a_conversation_that_waits_again_has_its_new_deadline_only() -> None:
    class Server(HTTP):
        idle_timeout = 3600.0

    with serving(Server(ANYWHERE, Hello)) as server, web(server) as client:
        for _ in range(3):
            client.request("GET", "/")
            assert client.getresponse().read()
            until(lambda: waiting_of(server))
        timers = loop_of(server).timers
        assert [timed for _, _, timed in timers.heap if timed is not None] == waiting_of(server)


def test_what_ctrl_c_left_in_the_inbox_is_done_when_it_is_served_again() -> None:
    done = threading.Event()

    class Server(TCP):
        interrupted = False

        def service_actions(self) -> None:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt

    with Server(ANYWHERE, Echo) as server:
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever(0.0)
        loop_of(server).inbox.append(done.set)  # as if it had come between the end of a wait and its turn
        thread = threading.Thread(target=server.serve_forever, args=(3600.0,))
        thread.start()
        assert done.wait(PATIENCE)
        server.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_socket_closed_behind_its_back_makes_way_for_its_descriptors_next_owner() -> None:
    class Server(TCP):
        victim: socket.socket | None = None

        def get_request(self) -> Any:
            request, address = super().get_request()
            if self.victim is not None:
                number = self.victim.fileno()
                self.victim.close()
                os.dup2(request.fileno(), number)
                request.close()
                return socket.socket(fileno=number), address
            self.victim = request
            return request, address

    with serving(Server(ANYWHERE, Echo)) as server, connect(server), connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        assert len(manager_of(server).requests) == 1
    with serving(Server(ANYWHERE, Echo)) as server, connect(server):
        until(lambda: server.victim is not None and waiting_of(server))
        server.victim.close()  # and nobody takes its place


def test_requests_handed_in_from_another_thread_are_taken() -> None:
    class Server(TCP):
        def process_request(self, request: Any, client_address: Any) -> None:
            thread = threading.Thread(target=super().process_request, args=(request, client_address))
            thread.start()
            thread.join(PATIENCE)

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"


def test_a_request_that_comes_after_server_close_is_closed() -> None:
    with TCP(ANYWHERE, Echo) as server:
        server.server_close()
        with TCP(ANYWHERE, Echo) as other, connect(other) as sock:
            server.process_request(*other.get_request())
            assert receive_all(sock) == b""


def test_nothing_is_kept_of_clients_that_have_left() -> None:
    with serving(HTTP(ANYWHERE, Hello)) as server:
        for _ in range(300):
            with web(server) as client:
                client.request("GET", "/")
                client.getresponse().read()
        until(lambda: not manager_of(server).requests)
        assert not waiting_of(server)
        assert len(loop_of(server).timers.heap) < 100


def test_who_is_stuck_in_a_log_handler_is_cut_off_first_and_does_not_keep_server_close() -> None:
    gate, inside = threading.Event(), threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            inside.set()
            gate.wait(PATIENCE)

    class Logs(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            logging.getLogger("treadle.server").error("stuck")

    stuck, logger = Stuck(), logging.getLogger("treadle.server")
    server = TCP(ANYWHERE, Logs)
    server.drain_timeout = 0.0
    logger.addHandler(stuck)
    try:
        with serving(server), connect(server) as sock:
            sock.sendall(b"x")
            assert inside.wait(PATIENCE)
            server.shutdown()
            server.server_close()
            assert not gate.is_set()
            assert receive_all(sock) == b""
    finally:
        gate.set()
        logger.removeHandler(stuck)

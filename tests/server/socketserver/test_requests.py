"""RequestManager: how many requests may be there, how long they wait, and what happens when something runs out."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
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
    lot_of,
    parking_of,
    serving,
    until,
    web,
)
from tcp import ask, receive_all
from treadle._base import clock
from treadle.server._socketserver.mixin import PoolMixIn
from treadle.server._socketserver.requests import FIRST_PAUSE, LONGEST_PAUSE


def test_beyond_max_connections_clients_wait_for_one_to_leave(caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        max_connections = 3
        most = 0

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.most = max(self.most, len(lot_of(self).visits) + 1)
            return True

    with ExitStack() as stack:
        server = stack.enter_context(serving(Server(ANYWHERE, Echo)))
        clients = [stack.enter_context(connect(server)) for _ in range(9)]
        for first in (0, 3, 6):
            for client in clients[first : first + 3]:
                assert ask(client, b"x\n") == b"x\n"
            assert lot_of(server).full or first == 6
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
        until(lambda: lot_of(server).full)
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
        until(lambda: lot_of(server).full)
        assert len(lot_of(server).visits) == 2
        gate.set()
        for _ in range(4):
            assert entered.acquire(timeout=PATIENCE)


UNKNOWN = [errno.EINVAL, errno.EBADF, errno.EIO]  # while the listener is as it should be


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, *UNKNOWN])
def test_out_of_something_it_pauses_ever_longer_and_says_so_once(number: int, caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        def __init__(self) -> None:
            super().__init__(ANYWHERE, Echo)
            self.tries: list[float] = []

        def get_request(self) -> Any:
            self.tries.append(clock.now())
            if len(self.tries) <= 3:
                raise OSError(number, os.strerror(number))
            return super().get_request()

    with caplog.at_level(logging.INFO, "treadle.server"):
        with serving(Server()) as server, connect(server) as sock:
            assert ask(sock, b"x\n") == b"x\n"
            gaps = [later - sooner for sooner, later in pairwise(server.tries)]
            assert [gap >= FIRST_PAUSE * 2**number for number, gap in enumerate(gaps)] == [True] * 3
            assert lot_of(server).pause == FIRST_PAUSE  # for the next time
    assert [(record.levelname, os.strerror(number) in record.message) for record in caplog.records] == [("ERROR", True)]


def test_pauses_end_with_the_longest_and_when_a_client_leaves() -> None:
    class Server(TCP):
        out = False

        def get_request(self) -> Any:
            if self.out:
                self.out = False
                lot_of(self).pause = 3600.0  # longer than any test
                raise OSError(errno.EMFILE, "Too many open files")
            return super().get_request()

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as first:
        assert ask(first, b"x\n") == b"x\n"
        server.out = True
        with connect(server) as second:
            until(lambda: lot_of(server).resume_at > clock.now() + 1800)
            assert lot_of(server).pause == LONGEST_PAUSE
            first.close()
            assert ask(second, b"y\n") == b"y\n"


# -- listeners that somebody broke --------------------------------------------------------------------------------


class UNIX(PoolMixIn, socketserver.UnixStreamServer):
    pass


BREAKS: dict[str, Callable[[socket.socket], object]] = {
    "shut down": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "closed": lambda sock: sock.close(),
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("kind", [TCP, UDP, UNIX])
def test_a_broken_listener_is_told_of_once_and_watched_no_more(
    kind: Any, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(kind):  # type: ignore[misc]
        tries = 0
        turns = 0

        def get_request(self) -> Any:
            self.tries += 1
            return super().get_request()

        def service_actions(self) -> None:
            self.turns += 1

        def verify_request(self, request: Any, client_address: Any) -> bool:
            assert client_address is not None
            return True

    server = Server(str(tmp_path / "socket") if kind is UNIX else ANYWHERE, Echo)
    with serving(server, poll_interval=0.01):
        until(lambda: server.turns)
        with suppress(OSError):  # of datagrams it fails, and is done nevertheless
            BREAKS[how](server.socket)
        until(lambda: lot_of(server).deaf)
        turns = server.turns
        until(lambda: server.turns > turns + 3)
        assert server.tries <= 2
    told = [(record.levelname, "nobody is let in any more" in record.message) for record in caplog.records]
    assert told == [("ERROR", True)]


def test_whoever_is_in_when_the_listener_breaks_is_served_on() -> None:
    with serving(TCP(ANYWHERE, Echo), poll_interval=0.01) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        server.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: lot_of(server).deaf)
        assert ask(sock, b"y\n") == b"y\n"


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError(errno.EPROTO, ""), OSError("mine")])
def test_an_error_of_one_client_makes_no_other_wait(error: OSError, caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCP):
        failures = 3

        def get_request(self) -> Any:
            request, address = super().get_request()
            if self.failures:
                self.failures -= 1
                request.close()
                raise error
            return request, address

    with serving(Server(ANYWHERE, Echo)) as server:
        for _ in range(3):
            with connect(server) as sock:
                assert receive_all(sock) == b""
        assert lot_of(server).resume_at == 0.0
        with connect(server) as sock:
            assert ask(sock, b"x\n") == b"x\n"
    assert not caplog.records


def test_handle_request_pauses_as_well() -> None:
    tries: list[float] = []

    class Server(TCP):
        def get_request(self) -> Any:
            tries.append(clock.now())
            raise OSError(errno.EMFILE, "Too many open files")

    with Server(ANYWHERE, Echo) as server, connect(server):
        for _ in range(3):
            server.handle_request()
    assert [later - sooner >= FIRST_PAUSE for sooner, later in pairwise(tries)] == [True] * 2


def test_a_client_that_left_before_it_was_accepted_harms_nobody() -> None:
    class Server(TCP):
        failures = 2

        def get_request(self) -> Any:
            self.failures -= 1
            if self.failures >= 0:
                raise ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
            return super().get_request()

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert ask(sock, b"x\n") == b"x\n"


def test_who_sends_nothing_for_idle_timeout_is_closed() -> None:
    class Server(TCP):
        idle_timeout = 0.01

    with serving(Server(ANYWHERE, Echo)) as server, connect(server) as sock:
        assert receive_all(sock) == b""
        assert not parking_of(server).visits


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
        until(lambda: not lot_of(server).visits)
    assert threads == ["Server-0"]  # the user's code, so not the thread that polls for everybody


class Stalled:
    """A server that stands still while a client sends: when it goes on, it has not seen that, and it is too late."""

    def __init__(self, server: Any, data: bytes) -> None:
        self.parking = parking_of(server)
        self.data = data
        self.ready = self.parking.ready
        self.parking.ready = self  # type: ignore[method-assign, assignment]
        self.client: Any = None

    def __call__(self, until_: float) -> Any:
        visits = list(self.parking.visits.values())
        if self.client is None or not visits:
            yield from self.ready(min(until_, clock.now() + 0.001))
            return
        client, self.client = self.client, None
        client.sendall(self.data)
        assert select.select([visits[0].descriptor()], [], [], PATIENCE)[0]
        self.parking.ready = self.ready  # type: ignore[method-assign]
        until(lambda: clock.now() >= visits[0].due)


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
        parking_of(server).wake()
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
        until(lambda: any(visit.head_by for visit in parking_of(server).visits.values()))
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
        assert len(parking_of(server).visits) == 1
        assert not parking_of(server).timers.heap


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
        assert len(lot_of(server).visits) == 1
    with serving(Server(ANYWHERE, Echo)) as server, connect(server):
        until(lambda: server.victim is not None and parking_of(server).visits)
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
        until(lambda: not lot_of(server).visits)
        assert not parking_of(server).visits
        assert len(parking_of(server).timers.heap) < 100


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

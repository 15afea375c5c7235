"""Acceptor: what the system may do to it. How clients are counted is in test_gate.py."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive_all
from treadle.server import Certificates, Limits, Messages, Server
from treadle.server._accept.acceptor import AT_ONCE
from treadle.server._accept.backoff import FIRST_PAUSE, LONGEST_PAUSE
from treadle.server._accept.listen import Listener, open_listeners
from treadle.server._loop.poller import READ, EpollPoller, SelectorPoller

ERROR = 8  # EPOLLERR


class Scripted(socket.socket):
    """A listener whose accept fails as told before it does what it should."""

    def __init__(self, *failures: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.accepts = 0
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


def serving(sock: Scripted, **limits: object) -> Server:
    protocol = Messages(lambda data, peer: data)
    return Server(protocol, [Listener(sock, inherited=False)], max_workers=1, limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_rule_5_when_the_system_is_out_of_something_it_pauses_says_so_once_and_goes_on(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Scripted(number, number, number)
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert listener.accepts < 20, "it spins"
        assert not listener.failures
    assert caplog.text.count("cannot accept") == 1


def test_rule_5_pauses_grow_to_a_second_and_begin_anew_after_a_success() -> None:
    listener = Scripted()
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        pauses = []

        def fail() -> None:
            for _ in range(7):
                pauses.append(acceptor.backoff.pause)
                acceptor.back_off(OSError(errno.ENOBUFS, "scripted"))
            acceptor.resume()

        driver_of(server).loop.post(fail)
        with client(server) as other:
            assert ask(other, b"y") == b"y"
        assert pauses == [FIRST_PAUSE, 0.1, 0.2, 0.4, 0.8, LONGEST_PAUSE, LONGEST_PAUSE]
        assert acceptor.backoff.pause == FIRST_PAUSE


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EIO])
def test_rule_5_what_nobody_foresaw_is_tried_again_after_a_pause(number: int, caplog: pytest.LogCaptureFixture) -> None:
    listener = Scripted()
    with serving(listener) as server:
        listener.failures = [number] * 3
        with client(server) as sock:
            assert ask(sock, b"x") == b"x"
        assert listener.accepts < 10, "it spins"
    assert caplog.text.count("cannot accept") == 1


@pytest.mark.parametrize(
    "number",
    [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTUNREACH],
)
def test_rule_5_a_client_that_left_while_it_waited_is_passed_over(number: int) -> None:
    listener = Scripted(number, number)
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert listener.accepts >= 3


def test_rule_5_it_resumes_at_once_when_a_connection_leaves() -> None:
    listener = Scripted()
    with serving(listener) as server:
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        with client(server) as first:
            assert ask(first, b"x") == b"x"
            acceptor.backoff.pause = 3600.0
            listener.failures = [errno.ENOMEM]
            with client(server) as second:
                while listener.failures:
                    assert ask(first, b"x") == b"x"
                first.close()
                assert ask(second, b"y") == b"y"


def test_rule_5_an_error_of_the_listener_without_a_client_is_no_reason_to_spin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(Scripted()) as server:
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        watched: list[int] = []

        def tell_of_an_error() -> None:
            acceptor.attend(READ | ERROR)
            watched.append(acceptor.watched)

        driver_of(server).loop.post(tell_of_an_error)
        with client(server) as sock:
            assert ask(sock, b"x") == b"x"
        assert watched == [0]
    assert "cannot accept" in caplog.text


def test_rule_5_nobody_is_turned_away_before_a_pause_has_passed() -> None:
    """Others may be just leaving."""
    listener = Scripted()
    with serving(listener) as server, client(server) as first:
        assert ask(first, b"x") == b"x"
        listener.failures = [errno.EMFILE]
        with client(server) as second:
            assert ask(second, b"y") == b"y"
        assert server.snapshot().rejected_connections == 0


def test_rule_5_the_reserve_lets_a_client_know_that_there_is_no_place() -> None:
    listener = Scripted()
    with serving(listener) as server, client(server) as first:
        assert ask(first, b"x") == b"x"
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        assert acceptor.reserve >= 0
        listener.failures = [errno.EMFILE, errno.EMFILE]
        with client(server) as second:
            assert second.recv(1) == b""
        settled = threading.Event()
        driver_of(server).loop.post(settled.set)  # after what the leader is about
        assert settled.wait(PATIENCE)
        assert acceptor.reserve >= 0
        assert server.snapshot().rejected_connections == 1


def test_rule_9_a_stop_without_descriptors_ends_when_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Linux wants one before it looks whether somebody does."""
    listener = Scripted()
    with serving(listener) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        ends: list[int] = []
        listener.failures = [errno.EMFILE]
        stopping = threading.Thread(target=lambda: ends.append(server.stop(10 * PATIENCE)))
        stopping.start()
        assert sock.recv(1) == b""
        stopping.join(PATIENCE)
        assert ends == [0]
        assert not server.snapshot().rejected_connections
    assert "cannot accept" not in caplog.text


def test_several_are_accepted_in_one_turn() -> None:
    listener = Scripted()
    with serving(listener) as server:
        socks = [socket.create_connection(listener.getsockname()) for _ in range(40)]
        for sock in socks:
            with sock:
                assert ask(sock, b"x") == b"x"
        assert server.snapshot().accepted == 40


def test_rule_6_who_leaves_just_before_the_listener_is_paused_is_noticed() -> None:
    """Else a client would wait though there is room, until another one leaves: a limit that looks like a hang."""
    with serving(Scripted(), max_connections=2) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        full = acceptor.limiter.full
        looks: list[int] = []

        def full_at_the_first_look() -> bool:
            looks.append(len(looks))
            return len(looks) == 1 or full()  # the second one has left in between

        acceptor.limiter.full = full_at_the_first_look  # type: ignore[method-assign]
        with client(server) as other:
            assert ask(other, b"y") == b"y"
            assert len(looks) >= 2


@pytest.mark.parametrize("limits", [{"max_connections": 1}, {"accept_rate": 0.5}])
def test_rule_9_those_that_wait_at_a_ceiling_are_served_before_the_end(limits: dict[str, Any]) -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: object) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return data

    server = Server(Messages(handle), "127.0.0.1:0", max_workers=2, limits=Limits(linger_timeout=0.1, **limits)).start()
    with client(server) as first:
        first.sendall(b"x")
        assert inside.wait(PATIENCE)
        waiting = [socket.create_connection(first.getpeername(), PATIENCE) for _ in range(3)]
        for sock in waiting:
            sock.sendall(b"y")
        stopper = threading.Thread(target=server.stop, args=(100 * PATIENCE,))
        stopper.start()
        gate.set()
        assert receive_all(first) == b"x"
        for sock in waiting:
            assert receive_all(sock) == b"y"
            sock.close()
    stopper.join(PATIENCE)
    in_time = not stopper.is_alive()
    assert server.stop(0) == 0
    assert in_time, "it waited for nobody, until its time was over"
    stopper.join(PATIENCE)


@pytest.mark.parametrize("waiting", [AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE])
def test_rule_9_the_end_comes_when_all_that_waited_are_served_however_many_they_were(waiting: int) -> None:
    """After a full turn of accepting nobody waits any more, so the poller has nothing to tell."""
    listener = Scripted()
    listener.listen(100)
    server = serving(listener, linger_timeout=0.1).start()
    held, asleep = threading.Event(), threading.Event()

    def hold() -> None:
        asleep.set()
        assert held.wait(PATIENCE)

    driver_of(server).loop.post(hold)
    assert asleep.wait(PATIENCE)
    socks = [socket.create_connection(listener.getsockname(), PATIENCE) for _ in range(waiting)]
    stopper = threading.Thread(target=server.stop, args=(100 * PATIENCE,))
    stopper.start()
    while not driver_of(server).loop.inbox:  # which the stop is posted to
        stopper.join(0.001)
    held.set()
    for sock in socks:
        sock.sendall(b"x")
        assert receive_all(sock) == b"x"
        sock.close()
    stopper.join(PATIENCE)
    in_time = not stopper.is_alive()
    assert server.stop(0) == 0
    assert in_time, "it waited for nobody, until its time was over"


# -- a listener that somebody shut down, or closed ---------------------------------------------------------------------


def echo(data: bytes, peer: object) -> bytes:
    return data


# What a test closes behind the back of a socket is nobody's afterwards: epoll forgets it, and the leader is told so.


@pytest.mark.parametrize("kind", [SelectorPoller, *([EpollPoller] if hasattr(select, "epoll") else [])])
@pytest.mark.parametrize("how", ["shut down", "closed", "something else's"])
def test_a_listener_that_is_none_any_more_is_let_go_and_the_others_serve_on(
    how: str, kind: type[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would be tried again and again, for the poller tells of it for ever."""
    monkeypatch.setattr("treadle.server._loop.event_loop.new_poller", kind)
    ours, other = open_listeners("127.0.0.1:0") + open_listeners("127.0.0.1:0")
    server = Server(Messages(echo), [ours, other], max_workers=1).start()
    assert server._group is not None
    acceptor = server._group.acceptors[0]
    with client(server, to=ours.address) as sock:
        assert ask(sock, b"x") == b"x"
        if how == "shut down":
            ours.sock.shutdown(socket.SHUT_RDWR)
        elif how == "closed":
            os.close(ours.sock.fileno())
            driver_of(server).loop.post(partial(acceptor.attend, 0))
        else:
            os.dup2(sock.fileno(), ours.sock.fileno())
            driver_of(server).loop.post(partial(acceptor.attend, 0))
        until(lambda: acceptor.closed)
        assert ask(sock, b"y") == b"y"
        with client(server, to=other.address) as another:
            assert ask(another, b"z") == b"z"
        if how == "something else's":
            os.close(acceptor.fd)  # which it must not be: it was not the server's any more
    assert server.stop(PATIENCE) == 0
    assert caplog.text.count("no more clients are accepted here") == 1
    assert f"{ours}: no more clients" in caplog.text


@pytest.mark.parametrize("drain", [PATIENCE, 0.0])
def test_a_listener_whose_number_is_anothers_by_now_takes_no_client_of_that_one(drain: float) -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=1).start()
    assert server._group is not None
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(PATIENCE)
        os.dup2(other.fileno(), server._group.acceptors[0].fd)
        os.set_blocking(other.fileno(), True)
        with socket.create_connection(other.getsockname()):
            assert server.stop(drain) == 0
            other.accept()[0].close()
        os.close(server._group.acceptors[0].fd)


def test_a_listener_that_others_have_too_and_had_block_keeps_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        with Server(Messages(echo), shared, max_workers=1) as server:
            shared.settimeout(None)
            for _ in range(2):
                with client(server) as sock:
                    assert ask(sock, b"x") == b"x"


def test_rule_9_those_that_wait_at_a_ceiling_until_the_end_are_counted() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: object) -> bytes:
        inside.set()
        gate.wait(PATIENCE)
        return data

    server = Server(Messages(handle), "127.0.0.1:0", max_workers=2, limits=Limits(max_connections=1)).start()
    with client(server) as first, client(server), client(server):
        first.sendall(b"x")
        assert inside.wait(PATIENCE)
        threading.Timer(0.5, gate.set).start()  # the handler ends after the stop; the rest were never let in
        assert server.stop(0.0) == 3


def test_rejections_are_no_plain_text_on_a_secure_port(certificates: Certificates) -> None:
    limits = Limits(max_connections=1, at_max_connections="reject", reject_connections_with=b"busy")
    protocol = Messages(lambda data, peer: data)
    with Server(protocol, "127.0.0.1:0", max_workers=1, limits=limits, tls=certificates) as server:
        with client(server), client(server) as other:
            assert receive_all(other) == b""


def test_a_listener_that_was_closed_behind_our_back_takes_nobody_with_it() -> None:
    """Its number may be a connection's by then."""
    done = threading.Event()

    def close() -> None:
        driver.loop.sources[acceptor.fd] = somebody
        acceptor.close()
        found.append(driver.loop.sources.pop(acceptor.fd))
        done.set()

    found: list[object] = []
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1) as server:
        driver, somebody = driver_of(server), object()
        assert server._group is not None
        (acceptor,) = server._group.acceptors
        driver.loop.post(close)
        assert done.wait(PATIENCE)
    assert found == [somebody]


def test_who_waits_when_the_server_stops_is_let_in_at_once_however_slow_the_rate() -> None:
    limits = Limits(accept_rate=0.001)
    server = Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1, limits=limits).start()
    with ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in socks:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
        assert server.stop(PATIENCE) == 0
        assert [receive_all(sock) for sock in socks] == [b"x"] * 3


@pytest.mark.parametrize("listens", ["alone", "with others"])
def test_who_waits_for_room_when_the_server_stops_is_let_in_when_there_is_some(listens: str) -> None:
    room: list[Callable[[], object]] = []
    with client_waits_for_room(room, inherited=listens == "with others") as (server, first, second):
        second.sendall(b"y")
        stopping = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopping.start()
        first.close()
        until(lambda: server.snapshot().connections == 0)
        driver_of(server).loop.post(room.pop())
        assert receive_all(second) == b"y"
        second.close()
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_who_waits_for_room_that_nobody_makes_in_time_is_turned_away_and_counted() -> None:
    room: list[Callable[[], object]] = []
    with client_waits_for_room(room, inherited=False) as (server, _, second):
        assert server.stop(0.0) == 2
        assert receive_all(second) == b""
        room.pop()()  # too late


@contextmanager
def client_waits_for_room(
    room: list[Callable[[], object]], *, inherited: bool
) -> Iterator[tuple[Server, socket.socket, socket.socket]]:
    """A server at its ceiling, its only client, and one for which room is to be made, by what is put into `room`."""
    sock = socket.create_server(("127.0.0.1", 0))
    limits = Limits(max_connections=1, at_max_connections="evict_idle")
    protocol = Messages(lambda data, peer: data)
    listeners: Any = [Listener(sock, inherited=inherited)]
    with Server(protocol, listeners, max_workers=1, limits=limits) as server, ExitStack() as stack:
        assert server._group is not None
        server._group.acceptors[0].callbacks.evict = room.append
        first, second = (stack.enter_context(client(server)) for _ in range(2))
        assert ask(first, b"x") == b"x"
        until(lambda: bool(room))
        yield server, first, second

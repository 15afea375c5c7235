"""Limits of phases, and what clients are told that are refused, or cut."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.posts import Posts, post, told
from certificates import Authority
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle._base import clock
from treadle.errors import PoolFull
from treadle.server import Limits, MessageEvent, Observer, Peer, Phase, Server

SOON = Phase(0.2)


def echo(body: bytes, peer: Peer) -> bytes:
    return body


@contextmanager
def served(protocol: Any, **options: Any) -> Iterator[Server]:
    options.setdefault("max_workers", 2)
    with Server(protocol, "127.0.0.1:0", **options) as server:
        yield server


def drip(sock: socket.socket) -> bytes:
    """Send a byte now and then until something comes; return that, to the end."""
    while not select.select([sock], [], [], 0.01)[0]:
        sock.sendall(b"1")
    return receive_all(sock)


def closed_by(server: Server, why: str) -> int:
    """Return how many connections were closed by it, once all are closed."""
    while server.snapshot().connections:
        threading.Event().wait(0.005)
    return server.snapshot().closed_by.get(why, 0)


# -- phases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "phases", "why"),
    [
        (b"", {"head": SOON, "body": Phase(PATIENCE)}, "head_timeout"),
        (b"1000000\n", {"head": Phase(PATIENCE), "body": SOON}, "body_timeout"),
        (b"", {"body": SOON}, "read_timeout"),
    ],
)
def test_who_drips_is_told_which_phase_has_taken_too_long(begun: bytes, phases: dict[str, Phase], why: str) -> None:
    limits = Limits(read_timeout=0.2 if why == "read_timeout" else PATIENCE)
    with served(Posts(echo, **phases), limits=limits) as server:
        with client(server) as sock:
            sock.sendall(post(b"before") + begun)
            assert receive(sock, 6) == b"before"
            assert drip(sock) == told(why)
        assert closed_by(server, why) == 1


def test_a_phase_has_a_least_rate_and_its_own_bytes_count_for_it() -> None:
    head = b" " * 50_000 + b"1000000\n"  # as many bytes as the rate asks for in a hundred seconds
    limits = Limits(min_rate_grace=0.2, min_write_rate=None)
    with served(Posts(echo, body=Phase(None, 500)), limits=limits) as server:
        with client(server) as sock:
            assert ask(sock, post(b"a"), 1) == b"a"
            sock.sendall(head[:-1])
            (conn,) = driver_of(server).io.connections()
            while conn.intake.received < len(head) - 1:
                threading.Event().wait(0.005)
            sock.sendall(head[-1:])
            assert receive_all(sock) == told("min_body_rate")
        assert closed_by(server, "min_body_rate") == 1


def test_a_phase_cut_is_told_to_the_log_and_to_observers(caplog: pytest.LogCaptureFixture) -> None:
    reasons: list[str | None] = []

    class Watches(Observer):
        def closed(self, event: Any) -> None:
            reasons.append(event.reason)

    with served(Posts(echo, head=SOON), observers=[Watches()]) as server, client(server) as sock:
        sock.sendall(b"1")
        assert receive_all(sock) == told("head_timeout")
        sock.close()
        assert closed_by(server, "head_timeout") == 1
    assert reasons == ["head_timeout"]
    assert "cut by head_timeout; those that follow soon are only counted" in caplog.text


def test_idle_is_a_phase_between_messages_and_closes_without_a_word() -> None:
    protocol = Posts(echo, idle=SOON)
    with served(protocol, limits=Limits(idle_timeout=None)) as server:
        with client(server) as early, client(server) as sock:
            assert ask(sock, post(b"a"), 1) == b"a"
            assert receive_all(sock) == b""
            assert ask(early, post(b"late"), 4) == b"late"
        assert closed_by(server, "idle_timeout") == 1
    assert protocol.asked == []


def test_what_came_in_time_is_no_reason_to_cut_though_we_look_late() -> None:
    """A stall of ours, longer than the phases: the body was in the kernel."""
    inside, may_go_on = threading.Event(), threading.Event()
    with served(Posts(echo, head=SOON, body=SOON), max_workers=1) as server, client(server) as sock:
        assert ask(sock, post(b"a") + b"5\nab", 1) == b"a"
        (conn,) = driver_of(server).io.connections()
        while not conn.intake.begun:
            threading.Event().wait(0.005)

        def stall() -> None:
            inside.set()
            assert may_go_on.wait(PATIENCE)

        driver_of(server).loop.post(stall)
        assert inside.wait(PATIENCE)
        sock.sendall(b"cde")
        while driver_of(server).io.deadlines.of(conn)[0] > clock.now():
            threading.Event().wait(0.01)
        may_go_on.set()
        assert receive(sock, 5) == b"abcde"


def test_phases_of_a_decoder_that_has_none_are_a_fault_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Half(Posts):
        def decoder(self, limits: Limits, peer: Peer) -> Any:
            return type("Decoder", (), {"feed": list, "held": 0, "finish": tuple})()

    with served(Half(echo, head=SOON)) as server, client(server) as sock:
        assert receive_all(sock) == b""
    assert "the protocol has phases, and its decoder, Decoder, no phase" in caplog.text


# -- words --------------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_is_told_so_behind_the_answers_before_it() -> None:
    with served(Posts(echo), limits=Limits(max_message=5)) as server, client(server) as sock:
        sock.sendall(post(b"one", b"two") + b"6\n" + b"x" * 50_000)
        assert receive_all(sock) == b"onetwo" + told("max_message")


def test_a_client_that_is_cut_gets_the_word_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with served(Posts(echo, head=SOON), tls=authority.certificates()) as server, client(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"1")
            assert receive_all(secure) == told("head_timeout")


def holding(gate: threading.Event, inside: threading.Event) -> Callable[[bytes, Peer], bytes]:
    def handle(body: bytes, peer: Peer) -> bytes:
        if body == b"hold":
            inside.set()
            assert gate.wait(PATIENCE)
        return body

    return handle


class Handled(Observer):
    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []

    def handled(self, event: MessageEvent) -> None:
        self.errors.append(event.error)


@pytest.mark.parametrize("observed", [False, True])
def test_messages_that_the_pool_rejects_get_each_its_word_in_order_and_the_connection_goes_on(observed: bool) -> None:
    gate, inside, notes = threading.Event(), threading.Event(), Handled()
    options: dict[str, Any] = {"observers": [notes]} if observed else {}
    protocol = Posts(holding(gate, inside))
    with (
        Pool(1, queue_size=0, when_full="reject") as pool,
        served(protocol, pool=pool, max_workers=None, **options) as server,
    ):
        with client(server) as holder, client(server) as late:
            holder.sendall(post(b"hold"))
            assert inside.wait(PATIENCE)
            words = b"".join(told("message_rejected", body) for body in (b"a", b"b", b"c"))
            assert ask(late, post(b"a", b"b", b"c"), len(words)) == words
            assert server.snapshot().rejected_messages == 3
            gate.set()
            assert receive(holder, 4) == b"hold"
            while (answer := ask(late, post(b"d"), 1)) != b"d":  # until the thread is free
                assert answer == told("message_rejected", b"d")[:1]
                receive(late, len(told("message_rejected", b"d")) - 1)
    assert protocol.asked[:3] == [("message_rejected", body) for body in (b"a", b"b", b"c")]
    if observed:
        assert sum(type(error) is PoolFull for error in notes.errors) == server.snapshot().rejected_messages


def test_behind_a_message_without_a_word_the_connection_is_closed() -> None:
    gate, inside = threading.Event(), threading.Event()

    class Picky(Posts):
        def refusal(self, why: str, message: Any) -> bytes | None:
            return None if message == b"b" else super().refusal(why, message)

    protocol = Picky(holding(gate, inside))
    with Pool(1, queue_size=0, when_full="reject") as pool, served(protocol, pool=pool, max_workers=None) as server:
        with client(server) as holder, client(server) as late, client(server) as later:
            holder.sendall(post(b"hold"))
            assert inside.wait(PATIENCE)
            late.sendall(post(b"a", b"b", b"c"))
            assert receive_all(late) == told("message_rejected", b"a")
            later.sendall(post(b"b", b"c"))
            assert receive_all(later) == b""
            late.close()
            while server.snapshot().connections > 1:
                threading.Event().wait(0.005)
            assert server.snapshot().closed_by == {"message_rejected": 2}
            assert server.snapshot().rejected_messages == 1
            gate.set()


def test_what_the_users_limits_say_wins() -> None:
    gate, inside = threading.Event(), threading.Event()
    protocol = Posts(holding(gate, inside))
    limits = Limits(reject_messages_with=b"BUSY", reject_connections_with=b"FULL", max_connections_per_host=2)
    with Pool(1, queue_size=0, when_full="reject") as pool:
        with served(protocol, pool=pool, max_workers=None, limits=limits) as server:
            with client(server) as holder, client(server) as late, client(server) as last:
                assert receive_all(last) == b"FULL"
                holder.sendall(post(b"hold"))
                assert inside.wait(PATIENCE)
                assert ask(late, post(b"a", b"b"), 8) == b"BUSYBUSY"
                gate.set()
    assert protocol.asked == []


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(max_connections=1, at_max_connections="reject"), "max_connections"),
        (Limits(max_connections_per_host=1), "max_connections_per_host"),
    ],
)
def test_who_is_not_let_in_is_told_why_at_the_door(limits: Limits, why: str, tmp_path: Path) -> None:
    with served(Posts(echo), limits=limits) as server, client(server), client(server) as late:
        assert receive_all(late) == told(why)
    authority = Authority(tmp_path)
    secure = served(Posts(echo), limits=limits, tls=authority.certificates())
    with secure as server, client(server), client(server) as late:
        assert receive_all(late) == b""


def test_who_comes_by_a_proxy_is_told_at_the_door_as_well() -> None:
    def header(port: int) -> bytes:
        return b"PROXY TCP4 192.0.2.1 192.0.2.2 %d 80\r\n" % port

    limits = Limits(max_connections_per_host=1)
    with served(Posts(echo), limits=limits, proxy="127.0.0.1") as server, ExitStack() as stack:
        first, late = stack.enter_context(client(server)), stack.enter_context(client(server))
        assert ask(first, header(1) + post(b"a"), 1) == b"a"
        late.sendall(header(2))
        assert receive_all(late) == told("max_connections_per_host")


@pytest.mark.parametrize("fault", [ValueError("mine"), "text"])
def test_a_refusal_that_fails_is_told_once_and_counts_as_none(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Posts):
        def refusal(self, why: str, message: Any) -> Any:
            if isinstance(fault, str):
                return fault
            raise fault

    with served(Faulty(echo, head=SOON)) as server:
        with client(server) as sock, client(server) as other:
            sock.sendall(b"1")
            other.sendall(b"1")
            assert receive_all(sock) == receive_all(other) == b""
        assert closed_by(server, "head_timeout") == 2
    told_of = [record for record in caplog.records if "refusal() failed" in record.getMessage()]
    assert [record.levelno for record in told_of] == [logging.WARNING]

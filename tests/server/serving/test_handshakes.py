"""Handshakes: who takes their steps, once one has blocked, and what becomes of those that wait for the pool."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of
from treadle import Pool
from treadle.server import Limits, Lines, Messages, Peer, Server
from treadle.server._accept.handshake import shake_hands
from treadle.server._serving import handshakes as module
from treadle.server._serving.handshakes import BLOCKS, PROBATION
from treadle.server._transport.state import State

WORDS = b"line\n"


class Steps:
    """A TLS context whose callback for names blocks as often as it is told to, in time that is made up."""

    def __init__(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        self.context = authority.certificates()()
        self.context.sni_callback = self.named
        self.trusts = authority.client_context()
        self.trusts.check_hostname = False
        self.blocks = 0
        self.inline: list[bool] = []
        self.server: Server | None = None
        self.entered: Callable[[], object] = lambda: None
        self.now = 100.0
        monkeypatch.setattr(module, "clock", SimpleNamespace(now=lambda: self.now))

    def named(self, sock: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Be the callback; it is in the middle of a step that computes a key."""
        assert self.server is not None
        lead = driver_of(self.server).leadership.lead
        self.inline.append(lead is not None and bool(lead.slot))
        if self.blocks:
            self.blocks -= 1
            self.now += 2 * BLOCKS
        self.entered()

    @contextmanager
    def serving(self, handle: Callable[[bytes, Peer], bytes], **options: Any) -> Iterator[Server]:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", tls=self.context, **options) as self.server:
            yield self.server

    @contextmanager
    def client(self, server: Server) -> Iterator[ssl.SSLSocket]:
        with client(server) as sock, self.trusts.wrap_socket(sock, server_hostname="a.test") as wrapped:
            yield wrapped


@pytest.fixture
def steps(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(authority, monkeypatch)


def echo(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


@pytest.mark.usefixtures("blind_watchdog")
def test_quick_steps_are_the_leaders_and_after_one_that_blocked_they_are_the_pools_for_a_while(steps: Steps) -> None:
    with steps.serving(echo, max_workers=2) as server:
        for blocks in (0, 1, 0):
            steps.blocks = blocks
            with steps.client(server) as sock:
                assert ask(sock, WORDS) == WORDS
        assert steps.inline == [True, True, False]
        while driver_of(server).handshakes.probation:
            with steps.client(server) as sock:
                assert ask(sock, WORDS) == WORDS
        assert len(steps.inline) <= 3 + PROBATION
        steps.inline.clear()
        with steps.client(server) as sock:
            assert ask(sock, WORDS) == WORDS
        assert steps.inline == [True]


def wait_for_a_thread(server: Server, count: int) -> None:
    """Wait until so many handshakes are the pool's, which has no more threads; the fallback leader is not held up."""
    driver = driver_of(server)
    until(lambda: [conn.state for conn in driver.io.connections()].count(State.HANDSHAKE_BUSY) == count)
    turned = threading.Event()
    driver.loop.post(turned.set)
    assert turned.wait(PATIENCE), "the fallback leader is held up"


def test_while_all_threads_are_busy_a_step_that_calls_for_the_servers_name_waits_for_one(steps: Steps) -> None:
    """For it may block, also the first of all, and nobody would lead meanwhile."""
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            inside.set()
            assert gate.wait(PATIENCE)
        return line + b"\n"

    with steps.serving(handle, max_workers=1) as server, ExitStack() as stack:
        stack.callback(gate.set)
        busy = stack.enter_context(steps.client(server))
        busy.sendall(b"slow\n")
        assert inside.wait(PATIENCE)
        driver = driver_of(server)
        until(lambda: driver.leadership.lead is None)
        asked, answers = len(steps.inline), list[bytes]()

        def talk() -> None:
            with steps.client(server) as sock:
                answers.append(ask(sock, WORDS))

        late = threading.Thread(target=talk)
        late.start()
        wait_for_a_thread(server, 1)
        assert len(steps.inline) == asked
        gate.set()
        late.join(PATIENCE)
        assert answers == [WORDS]


def test_while_a_step_has_not_come_back_the_fallback_leader_takes_none(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it blocks in: a callback that nobody can see, say."""
    gate, inside, answers = threading.Event(), threading.Event(), list[bytes]()

    def step(sock: ssl.SSLSocket) -> int:
        if not inside.is_set():
            inside.set()
            assert gate.wait(PATIENCE)
        return shake_hands(sock)

    def talk() -> None:
        with client(server) as sock:
            with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
                answers.append(ask(wrapped, WORDS))

    monkeypatch.setattr(module, "shake_hands", step)
    with Server(Messages(echo, Lines()), "127.0.0.1:0", tls=authority.certificates(), max_workers=1) as server:
        talkers = [threading.Thread(target=talk) for _ in range(2)]
        try:
            talkers[0].start()
            assert inside.wait(PATIENCE)
            until(lambda: driver_of(server).leadership.lead is None)
            talkers[1].start()
            wait_for_a_thread(server, 2)
        finally:
            gate.set()
        for talker in talkers:
            talker.join(PATIENCE)
    assert answers == [WORDS] * 2


def test_a_step_that_the_pool_has_no_room_for_ends_its_connection(steps: Steps) -> None:
    gate = threading.Event()
    with (
        Pool(2, queue_size=1, when_full="reject") as pool,
        steps.serving(echo, pool=pool) as server,
    ):
        try:
            driver_of(server).handshakes.probation = PROBATION
            for _ in range(3):
                pool.options(when_full="block").submit(gate.wait, PATIENCE)
            with pytest.raises((ssl.SSLError, OSError)), steps.client(server):
                pass
            until(lambda: server.snapshot().closed_by == {"message_rejected": 1})
        finally:
            gate.set()


def test_the_time_that_a_step_waits_for_a_thread_is_not_the_clients(steps: Steps) -> None:
    def wait() -> None:
        steps.now += 1000.0

    steps.entered = wait
    limits = Limits(handshake_timeout=50)
    with steps.serving(echo, max_workers=2, limits=limits) as server:
        driver_of(server).handshakes.probation = PROBATION
        with steps.client(server) as sock:
            assert ask(sock, WORDS) == WORDS
            (conn,) = driver_of(server).io.connections()
            assert conn.timing.since > conn.active + 900.0


def test_a_client_whose_step_takes_too_long_is_cut_meanwhile(steps: Steps) -> None:
    gate = threading.Event()
    steps.entered = lambda: gate.wait(PATIENCE)
    with steps.serving(echo, max_workers=2, limits=Limits(handshake_timeout=0.1)) as server:
        driver_of(server).handshakes.probation = PROBATION
        try:
            with pytest.raises((ssl.SSLError, OSError)), steps.client(server):
                pass
        finally:
            gate.set()
        until(lambda: server.snapshot().closed_by == {"handshake_timeout": 1})


def test_what_a_step_raises_in_another_thread_is_told_as_ever(steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    with steps.serving(echo, max_workers=2) as server:
        driver_of(server).handshakes.probation = PROBATION
        with client(server) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            until(lambda: server.snapshot().closed_by == {"tls_handshake": 1})
    assert "TLS handshake failed" in caplog.text

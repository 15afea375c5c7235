"""What a protocol may have, over TLS and with several event loops: nobody is served otherwise than by one in plain."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any

import pytest

from behaviour.forms import FORMS, LARGE, Forms, answer_to, sent_for
from behaviour.posts import post, told
from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle.server import Certificates, Limits, Phase, Server
from treadle.server._transport.connection import ClientConnection

WAYS = {"tls": (True, 1), "loops": (False, 3), "tls and loops": (True, 2)}


class Scene:
    """Servers of one protocol, and their clients: a gate at which handlers wait, and what the protocol is told."""

    def __init__(self, loops: int, tls: Certificates | None, context: Any) -> None:
        self.loops = loops
        self.gate, self.inside = threading.Event(), threading.Semaphore(0)
        self.told: Queue[tuple[bytes, int, str]] = Queue()
        self._tls = tls
        self._context = context

    def hold(self, body: bytes) -> None:
        self.inside.release()
        assert self.gate.wait(PATIENCE)

    def tell(self, body: bytes, sent: int, error: BaseException | None) -> None:
        self.told.put((body, sent, "" if error is None else type(error).__name__))

    @contextmanager
    def serve(self, threads: int, fresh: bool = True, body: float = PATIENCE, **limits: Any) -> Iterator[Server]:
        """Serve with so many threads for each loop; at the end there is nothing that was told and not looked at."""
        protocol = Forms(self.hold, self.tell, body=Phase(body))
        protocol.fresh_context = fresh
        given = Limits(**limits)
        with Server(protocol, "127.0.0.1:0", max_workers=threads * self.loops, limits=given, tls=self._tls) as server:
            try:
                yield server
            finally:
                self.gate.set()
        assert self.told.empty(), "told twice, or of what was not asked"

    @contextmanager
    def clients(self, server: Server, each: int = 1) -> Iterator[list[Any]]:
        """Have so many clients of each loop come in; the first of each come first."""
        with ExitStack() as stack:
            socks: list[Any] = [stack.enter_context(client(server)) for _ in range(each * self.loops)]
            if self._context is not None:
                options = {"server_hostname": "127.0.0.1", "suppress_ragged_eofs": False}
                socks = [stack.enter_context(self._context.wrap_socket(sock, **options)) for sock in socks]
            for sock in socks:
                assert ask(sock, b"ping\n") == b"ping\n"
            assert server._group is not None
            assert [len(driver.io.connections()) for driver in server._group.drivers] == [each] * self.loops
            yield socks

    def until_inside(self, count: int) -> None:
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE)

    def next(self, count: int) -> list[tuple[bytes, int, str]]:
        """Return what was told of so many messages, in order of these."""
        return sorted(self.told.get(timeout=PATIENCE) for _ in range(count))


@pytest.fixture(params=WAYS)
def scene(
    request: pytest.FixtureRequest, authority: Authority, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    secure, loops = WAYS[request.param]
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    return Scene(loops, certificates if secure else None, authority.client_context() if secure else None)


def in_order(bodies: list[bytes]) -> list[tuple[bytes, int, str]]:
    """Return what is told of messages that were answered."""
    return sorted((body, len(answer_to(body)), "") for body in bodies if not body.startswith(b"ping"))


def conversations(server: Server) -> list[ClientConnection]:
    """Return the connections of conversations that wait for their clients."""
    assert server._group is not None
    every = [conn for driver in server._group.drivers for conn in driver.io.connections()]
    return [conn for conn in every if conn.intake.conversation is not None and conn.idle()]


def test_every_form_of_answer_comes_in_its_turn_and_is_told_of_once(scene: Scene) -> None:
    every = []
    with scene.serve(2) as server, scene.clients(server, 2) as socks:
        bursts = []
        for who, sock in enumerate(socks):
            dice = random.Random(who)
            bodies = [b"%s %d-%d" % (form.encode(), who, number) for form in FORMS for number in range(3)]
            dice.shuffle(bodies)
            burst = b"".join(map(sent_for, bodies))
            cuts = sorted(dice.sample(range(1, len(burst)), 4))
            for start, end in zip([0, *cuts], [*cuts, len(burst)], strict=True):
                sock.sendall(burst[start:end])
            bursts.append(bodies)
            every += bodies
        for sock, bodies in zip(socks, bursts, strict=True):
            for body in bodies:
                assert receive(sock, len(answer_to(body))) == answer_to(body), (body, bodies)
        expected = in_order(every)
        assert scene.next(len(expected)) == expected
        assert server.snapshot().failures == 0


@pytest.mark.parametrize("fresh", [True, False])
def test_a_context_is_that_of_one_message_or_of_one_connection(scene: Scene, fresh: bool) -> None:
    with scene.serve(2, fresh) as server, scene.clients(server, 2) as socks:
        for _ in range(2):
            for sock in socks:
                sock.sendall(post(b"fresh", b"fresh"))
        for sock in socks:
            assert receive(sock, 8) == (b"0\n" * 4 if fresh else b"0\n1\n2\n3\n")
        assert scene.next(4 * len(socks)) == [(b"fresh", 2, "")] * 4 * len(socks)


def test_who_leaves_amid_an_answer_is_told_of_and_the_others_have_theirs(scene: Scene) -> None:
    with scene.serve(2) as server, scene.clients(server, 2) as socks:
        leaving, others = socks[: scene.loops], socks[scene.loops :]
        for sock in leaving:
            sock.sendall(post(b"large", b"list"))
            assert receive(sock, 1000) == bytes(1000)
        for sock in others:
            assert ask(sock, post(b"pieces"), 7) == b"pieces\n"
        assert scene.next(len(others)) == in_order([b"pieces"] * len(others))
        for sock in leaving:
            sock.close()
        lost = scene.next(2 * len(leaving))
        assert [(body, error) for body, _, error in lost] == [
            (body, "ConnectionAbortedError") for body in (b"large", b"list") for _ in leaving
        ]
        assert all(1000 <= sent < LARGE if body == b"large" else not sent for body, sent, _ in lost)
        for sock in others:
            assert ask(sock, post(b"list"), 5) == b"list\n"
        assert scene.next(len(others)) == in_order([b"list"] * len(others))


def test_who_drips_is_told_so_and_the_others_are_answered(scene: Scene) -> None:
    with scene.serve(2, body=0.2) as server, scene.clients(server, 2) as socks:
        dripping, others = socks[: scene.loops], socks[scene.loops :]
        for sock in dripping:
            sock.sendall(post(b"bytes 1") + b"5\nlis")
        for sock in dripping:
            assert receive_all(sock) == b"bytes 1\n" + told("body_timeout")
            sock.close()
        for sock in others:
            assert ask(sock, post(b"list"), 5) == b"list\n"
        assert scene.next(2 * len(others)) == in_order([b"bytes 1", b"list"] * len(others))
        until(lambda: server.snapshot().connections == len(others))
        assert server.snapshot().closed_by == {"body_timeout": len(dripping)}


def test_handlers_that_run_for_too_long_lose_their_clients_and_harm_no_others(scene: Scene) -> None:
    with scene.serve(4, handler_timeout=0.3) as server, scene.clients(server, 3) as socks:
        overdue, amid, others = (socks[number * scene.loops :][: scene.loops] for number in range(3))
        for sock in overdue:
            sock.sendall(post(b"bytes", b"hold", b"list"))
        for sock in amid:
            sock.sendall(post(b"held"))
        scene.until_inside(2 * scene.loops)
        for sock in overdue:
            assert receive_all(sock) == b"bytes\n" + told("handler_timeout", b"hold")
            sock.close()
        for sock in amid:
            assert receive(sock, 2) == b"he"
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):  # no end in order
                sock.recv(1)
        assert server.snapshot().overdue == 2 * scene.loops
        for sock in others:
            assert ask(sock, post(b"list"), 5) == b"list\n"
        scene.gate.set()
        until(lambda: not server.snapshot().overdue)
        for sock in others:
            assert ask(sock, post(b"file"), 5) == b"file\n"
        lost = [(body, sent, "ConnectionAbortedError") for body, sent in ((b"hold", 0), (b"held", 2), (b"list", 0))]
        expected = in_order([b"bytes", b"list", b"file"]) + lost
        assert scene.next(6 * scene.loops) == sorted(expected * scene.loops)


def test_what_needs_no_handler_is_answered_while_every_thread_is_in_one(scene: Scene) -> None:
    with scene.serve(2) as server, scene.clients(server, 3) as socks:
        holding, others = socks[: 2 * scene.loops], socks[2 * scene.loops :]
        for sock in holding:
            sock.sendall(post(b"hold"))
            scene.until_inside(1)
        for sock in others:
            assert ask(sock, b"ping\n" + post(b"instant") + b"ping\n", 18) == b"ping\ninstant\nping\n"
            sock.sendall(post(b"bytes", b"instant"))
        scene.gate.set()
        for sock in others:
            assert receive(sock, 14) == b"bytes\ninstant\n"
        for sock in holding:
            assert receive(sock, 5) == b"hold\n"
        bodies = [b"instant", b"bytes", b"instant"] * len(others) + [b"hold"] * len(holding)
        assert scene.next(len(bodies)) == in_order(bodies)


def test_messages_become_conversations_that_pause(scene: Scene) -> None:
    with scene.serve(2) as server, scene.clients(server, 4) as socks:
        for sock in socks:
            sock.sendall(post(b"list", b"talk") + b"3\nbehind\n")
        for sock in socks:
            assert receive(sock, 19) == b"list\ntalk\n3\nBEHIND\n"
        for _ in range(2):
            until(lambda: len(conversations(server)) == len(socks))
            for sock in socks:
                sock.sendall(b"next\n")
            for sock in socks:
                assert receive(sock, 5) == b"NEXT\n"
        until(lambda: len(conversations(server)) == len(socks))
        assert server.snapshot().pool.threads <= 2 * scene.loops
        assert scene.next(2 * len(socks)) == in_order([b"list", b"talk"] * len(socks))


def test_a_stop_answers_what_was_begun_and_closes_what_is_idle(scene: Scene) -> None:
    with scene.serve(5) as server, scene.clients(server, 5) as socks:
        whole, amid, half, paused, idle = (socks[number * scene.loops :][: scene.loops] for number in range(5))
        for sock in paused:
            assert ask(sock, post(b"talk") + b"a\n", 7) == b"talk\nA\n"
        until(lambda: len(conversations(server)) == len(paused))
        for sock in half:
            assert ask(sock, post(b"list") + b"7\nin", 5) == b"list\n"
        for sock in whole:
            sock.sendall(post(b"hold", b"file"))
        for sock in amid:
            sock.sendall(post(b"held", b"file"))
        scene.until_inside(2 * scene.loops)
        cut: list[int] = []
        stopping = threading.Thread(target=lambda: cut.append(server.stop(PATIENCE)))
        stopping.start()
        for sock in paused + idle:
            assert receive_all(sock) == b""
            sock.close()
        scene.gate.set()
        for sock in half:
            sock.sendall(b"stant")
        for group, answers in ((whole, b"hold\nfile\n"), (amid, b"held\nfile\n"), (half, b"instant\n")):
            assert [receive_all(sock) for sock in group] == [answers] * scene.loops
        for sock in socks:
            sock.close()
        stopping.join(PATIENCE)
        assert cut == [0]
        bodies = [b"talk", b"list", b"instant", b"hold", b"file", b"held", b"file"] * scene.loops
        assert scene.next(len(bodies)) == in_order(bodies)

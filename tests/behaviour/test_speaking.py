"""Answers that need no handler: those of decoders that speak, and instant ones. Over real sockets, with gates."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.leads import depose
from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle.server import (
    Certificates,
    CloseConnection,
    Limits,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    Reply,
    Server,
    _group,
)
from treadle.server._serving.calling.answers import Answers
from treadle.server._serving.calling.early import Early
from treadle.server._serving.calling.slowness import Slowness
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.decoder import MOST

pytestmark = pytest.mark.usefixtures("blind_watchdog")  # who is deposed, and when, is for the tests to say

WATCHDOG = "Scene.handle-0-watchdog"
WAYS = ["inline", "deposed", "offloaded"]


class Expecting:
    """A framing of lines, but "EXPECT n" is answered "GO", and the message are the n bytes behind it."""

    def decoder(self, limit: int) -> ExpectingDecoder:
        return ExpectingDecoder()


class ExpectingDecoder:
    """Answers "PING" itself, and ends with "BAD"."""

    def __init__(self) -> None:
        self.rest = bytearray()
        self.need = self.head = 0

    @property
    def held(self) -> int:
        return self.head + len(self.rest)

    def feed(self, data: bytes) -> Iterator[bytes | Reply]:
        self.rest += data
        while True:
            end = self.need if self.head else self.rest.find(b"\n") + 1
            if not end or len(self.rest) < end:
                return
            taken = bytes(self.rest[:end])
            del self.rest[:end]
            line = taken[:-1]
            if self.head:
                self.head = 0
                yield taken
            elif line.startswith(b"EXPECT "):
                self.need, self.head = int(line[7:]), end
                yield Reply(b"GO\n")
            elif line == b"PING":
                yield Reply(b"PONG\n", final=True)
            elif line == b"BAD":
                raise CloseConnection(b"ERROR\n")
            else:
                yield line

    def finish(self) -> tuple[bytes, ...]:
        return ()


def instant(message: bytes) -> bytes | None:
    if message == b"page":
        return bytes(1000)
    return b"well\n" if message == b"health" else None


class Scene(Observer):
    """A server whose slow messages wait at a gate, and who handled what."""

    def __init__(self) -> None:
        self.gate, self.inside = threading.Event(), threading.Semaphore(0)
        self.deposes = True
        self.by: list[tuple[bytes, str]] = []
        self.events: list[MessageEvent] = []
        self.server: Any = None

    def handle(self, message: bytes, peer: Peer) -> bytes:
        self.by.append((message, threading.current_thread().name))
        if message == b"slow":
            if self.deposes:
                depose(self.server)
            self.inside.release()
            assert self.gate.wait(PATIENCE)
        return message + b"\n"

    def handled(self, event: MessageEvent) -> None:
        self.events.append(event)

    def until_inside(self, count: int) -> None:
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE)


@contextmanager
def served(scene: Scene, **options: Any) -> Iterator[Server]:
    scene.server = Server(Messages(scene.handle, Expecting(), instant=instant), "127.0.0.1:0", **options)
    with scene.server:
        try:
            yield scene.server
        finally:
            scene.gate.set()


def only_conn(server: Server) -> ClientConnection:
    (conn,) = driver_of(server).io.connections()
    return conn


def occupy(scene: Scene, stack: ExitStack, count: int) -> list[socket.socket]:
    """Have so many threads be in slow handlers, which lose the lead."""
    socks = []
    for _ in range(count):
        socks.append(stack.enter_context(client(scene.server)))
        socks[-1].sendall(b"slow\n")
        scene.until_inside(1)
    return socks


@pytest.fixture(autouse=True)
def one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one event loop."""
    monkeypatch.setattr(_group, "_loops_wanted", lambda dispatcher: 1)


@pytest.fixture(params=["plain", "tls"])
def wrapped(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Callable[[socket.socket], socket.socket]]:
    """What a server takes for TLS, and what a client's socket becomes; or no TLS."""
    if request.param == "plain":
        return None, lambda sock: sock
    authority = Authority(tmp_path)
    files = authority.issue("127.0.0.1")
    context = authority.client_context()

    def wrap(sock: socket.socket) -> socket.socket:
        made: socket.socket = context.wrap_socket(sock, server_hostname="127.0.0.1")
        return made

    return Certificates(files.certfile, files.keyfile), wrap


@pytest.mark.parametrize("observed", [False, True])
def test_a_decoder_speaks_while_its_message_is_incomplete(wrapped: Any, observed: bool) -> None:
    scene, (tls, wrap) = Scene(), wrapped
    with served(scene, max_workers=1, tls=tls, observers=[scene] if observed else ()) as server, client(server) as sock:
        with wrap(sock) as end:
            for _ in range(2):
                assert ask(end, b"EXPECT 4\n", 3) == b"GO\n"
                end.sendall(b"ab")
                assert ask(end, b"cd", 5) == b"abcd\n"
                assert ask(end, b"PING\n") == b"PONG\n"
                assert ask(end, b"health\n", 5) == b"well\n"
    assert [message for message, _ in scene.by] == [b"abcd"] * 2
    assert [event.bytes_in for event in scene.events] == ([4, 6] * 2 if observed else [])
    assert all(event.error is None and event.returned_ns is not None for event in scene.events)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_needs_no_handler_is_answered_in_its_turn(
    way: str, observed: bool, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slowness, "slow_pace", 1e9)  # never is it quick again
    scene, (tls, wrap) = Scene(), wrapped
    scene.deposes = way == "deposed"
    run = b"PING\nhealth\na\nPING\nPING\nslow\nhealth\nEXPECT 1\nbhealth\nPING\nc\nhealth\n"
    told = b"PONG\nwell\na\nPONG\nPONG\nslow\nwell\nGO\nb\nwell\nPONG\nc\nwell\n"
    with served(scene, max_workers=2, tls=tls, observers=[scene] if observed else ()) as server, client(server) as sock:
        if way == "offloaded":
            driver_of(server).handlers.slowness.offload()
        with wrap(sock) as end:
            for number in range(3):
                end.sendall(run * 30 if number else run)
                if not number:
                    scene.until_inside(1)
                    scene.gate.set()
                assert receive(end, len(told) * (30 if number else 1)) == told * (30 if number else 1)
        count = server.snapshot().messages
    assert count == 8 * 61
    assert len(scene.by) == 4 * 61
    if observed:
        assert [event.bytes_in for event in scene.events] == [6, 1, 4, 6, 1, 6, 1, 6] * 61
        assert not any(event.error for event in scene.events)


def test_with_all_threads_busy_the_fallback_leader_answers_at_once_what_needs_no_handler(wrapped: Any) -> None:
    scene, (tls, wrap) = Scene(), wrapped
    with served(scene, max_workers=2, tls=tls, observers=[scene]) as server, ExitStack() as stack:

        def come() -> socket.socket:
            sock: socket.socket = wrap(stack.enter_context(client(server)))
            return stack.enter_context(sock)

        end, other, *slow = [come() for _ in range(4)]
        for sock in slow:
            sock.sendall(b"slow\n")
            scene.until_inside(1)
        assert ask(end, b"health\n", 5) == b"well\n"
        assert ask(end, b"PING\nhealth\nEXPECT 4\n", 13) == b"PONG\nwell\nGO\n"
        until(lambda: len(scene.events) == 2)  # observers are told once the answer is sent
        assert {event.thread for event in scene.events} == {WATCHDOG}
        assert not any(event.handed_over for event in scene.events)
        end.sendall(b"bodyhealth\nPING\n")
        slow[0].sendall(b"health\nPING\nx\n")
        assert ask(other, b"health\n", 5) == b"well\n"
        assert server.snapshot().messages == 5
        scene.gate.set()
        assert receive(end, 15) == b"body\nwell\nPONG\n"
        assert receive(slow[0], 17) == b"slow\nwell\nPONG\nx\n"
    assert [message for message, _ in scene.by if message != b"slow"].count(b"body") == 1


@pytest.mark.parametrize("observed", [False, True])
def test_where_messages_are_rejected_those_that_need_no_handler_are_answered(observed: bool) -> None:
    scene = Scene()
    limits = Limits(reject_messages_with=b"BUSY\n")
    observers = [scene] if observed else ()
    with (
        Pool(1, queue_size=1, when_full="reject") as pool,
        served(scene, pool=pool, limits=limits, observers=observers) as server,
        ExitStack() as stack,
    ):
        occupy(scene, stack, 1)
        waits = pool.submit(int)
        end = stack.enter_context(client(server))
        run, told = b"health\nx\ny\nPING\nhealth\nz\nPING\n", b"well\nBUSY\nBUSY\nPONG\nwell\nBUSY\nPONG\n"
        assert ask(end, run * 30, len(told) * 30) == told * 30
        assert server.snapshot().rejected_messages == 90
        assert server.snapshot().messages == 61
        scene.gate.set()
        assert waits.result(PATIENCE) == 0
        assert ask(end, b"x\n") == b"x\n"


def test_where_the_queue_is_full_and_messages_wait_those_before_them_that_need_no_handler_do_not() -> None:
    scene = Scene()
    with Pool(1, queue_size=1, when_full="block") as pool, served(scene, pool=pool) as server, ExitStack() as stack:
        occupy(scene, stack, 1)
        waits = pool.submit(int)
        ends = [stack.enter_context(client(server)) for _ in range(3)]
        for end in ends:
            assert ask(end, b"PING\nhealth\nx\nPING\nhealth\n", 10) == b"PONG\nwell\n"
        scene.gate.set()
        for end in ends:
            assert receive(end, 12) == b"x\nPONG\nwell\n"
        assert waits.result(PATIENCE) == 0


def test_a_client_that_sends_no_more_is_answered_to_the_end() -> None:
    with served(Scene(), max_workers=1) as server, client(server) as sock:
        sock.sendall(b"PING\nhealth\nx\nPING\nEXPECT 5\nhalf")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"PONG\nwell\nx\nPONG\nGO\n"


def test_the_end_that_a_decoder_makes_comes_behind_what_it_has_said() -> None:
    with served(Scene(), max_workers=1) as server, client(server) as sock:
        sock.sendall(b"PING\nx\nPING\nBAD\nPING\nhealth\n")
        assert receive_all(sock) == b"PONG\nx\nPONG\nERROR\n"


def test_nothing_is_said_behind_the_end_that_a_handler_makes() -> None:
    def handle(message: bytes, peer: Peer) -> bytes:
        raise CloseConnection(b"bye\n")

    with Server(Messages(handle, Expecting(), instant=instant), "127.0.0.1:0", max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"PING\nhealth\nx\nPING\nhealth\n")
            assert receive_all(sock) == b"PONG\nwell\nbye\n"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_said_behind_what_is_no_answer(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Slowness, "slow_pace", 1e9)
    seen: list[Server] = []

    def handle(message: bytes, peer: Peer) -> Any:
        if way == "deposed":
            depose(seen[0])
        return "text" if message == b"x" else message + b"\n"

    scene = Scene()
    protocol = Messages(handle, Expecting(), instant=instant)
    with Server(protocol, "127.0.0.1:0", max_workers=2, observers=[scene]) as server, client(server) as sock:
        seen.append(server)
        if way == "offloaded":
            driver_of(server).handlers.slowness.offload()
        sock.sendall(b"health\na\nPING\nx\nPING\nhealth\ny\n")
        assert receive_all(sock) == b"well\na\nPONG\n"
    errors = [type(event.error).__name__ for event in scene.events]
    assert errors == ["NoneType", "NoneType", "TypeError", "ConnectionAbortedError", "ConnectionAbortedError"]
    assert caplog.text.count("returned str; allowed: bytes") == 1


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_mixed_and_whoever_answers_all_is_answered_once_in_order(
    seed: int, observed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slowness, "slow_pace", 1e9)
    dice, scene = random.Random(seed), Scene()
    kinds: dict[bytes, bytes] = {
        b"PING\n": b"PONG\n",
        b"health\n": b"well\n",
        b"EXPECT 3\nabc": b"GO\nabc\n",
        b"a\n": b"a\n",
        b"depose\n": b"depose\n",
        b"offload\n": b"offload\n",
        b"inline\n": b"inline\n",
        b"page\n": bytes(1000),
    }
    weights = [dice.random() ** 3 for _ in kinds]

    def handle(message: bytes, peer: Peer) -> bytes:
        if message == b"depose":
            depose(scene.server)
        elif message in (b"offload", b"inline"):
            driver_of(scene.server).leadership.offload_all = message == b"offload"
        return message + b"\n"

    def converse(sock: socket.socket, lines: list[bytes], sizes: Iterator[int]) -> None:
        said, told = b"".join(lines), b"".join(kinds[line] for line in lines)
        told = told.replace(b"GO\n", b"")
        sending = threading.Thread(target=send_in_pieces, args=(sock, said, sizes))
        sending.start()
        sock.settimeout(PATIENCE)
        got = b""
        while len(got.replace(b"GO\n", b"")) < len(told):
            chunk = sock.recv(65536)
            assert chunk, f"it ended after {got[-100:]!r}"
            got += chunk
        assert got.replace(b"GO\n", b"") == told
        sending.join(PATIENCE)

    protocol = Messages(handle, Expecting(), instant=instant, kind=(lambda line: line) if seed % 3 == 0 else None)
    observers = [scene] if observed else ()
    limits = Limits(max_unsent=dice.choice([500, 1 << 16]))
    scene.server = Server(protocol, "127.0.0.1:0", max_workers=dice.choice([1, 3]), observers=observers, limits=limits)
    with scene.server, ExitStack() as stack, ThreadPoolExecutor(4) as clients:
        done, messages = [], 0
        for _ in range(4):
            lines = dice.choices(list(kinds), weights, k=2000)
            messages += sum(line != b"PING\n" for line in lines)
            sizes = iter(dice.choices([1, 3, 10, 100, 5000], k=50_000))
            sock = stack.enter_context(client(scene.server))
            done.append(clients.submit(converse, sock, lines, sizes))
        for each in done:
            each.result(2 * PATIENCE)
    assert scene.server.snapshot().messages == messages
    assert len(scene.events) == (messages if observed else 0)
    assert not any(event.error for event in scene.events)


def send_in_pieces(sock: socket.socket, data: bytes, sizes: Iterator[int]) -> None:
    while data:
        size = next(sizes)
        sock.sendall(data[:size])
        data = data[size:]


def test_a_stop_waits_for_the_message_for_which_a_decoder_has_spoken() -> None:
    scene = Scene()
    with served(scene, max_workers=1) as server, client(server) as sock, client(server) as other:
        assert ask(other, b"PING\n") == b"PONG\n"
        assert ask(sock, b"EXPECT 4\n", 3) == b"GO\n"
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert receive_all(other) == b""
        other.close()
        sock.sendall(b"bodyPING\n")
        assert receive_all(sock) == b"body\nPONG\n"
        sock.close()
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("line", [b"PING\n", b"health\n", b"PING\nhealth\n", b"page\n"])
def test_who_asks_on_and_never_reads_is_bounded_and_harms_nobody(
    line: bytes, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, unsent, waiting, speak = 4096, [0], [0], Early.speak

    def speaks(early: Early, conn: ClientConnection, before: Answers) -> bool:
        waiting.append(len(conn.intake.waiting))
        assert conn.outbox.unsent <= most
        found = speak(early, conn, before)
        unsent.append(conn.outbox.unsent)
        return found

    monkeypatch.setattr(Early, "speak", speaks)
    scene = Scene()
    with served(scene, max_workers=1, limits=Limits(max_unsent=most)) as server, ExitStack() as stack:
        if busy:
            occupy(scene, stack, 1)
        sock = stack.enter_context(client(server))
        assert ask(sock, b"PING\n") == b"PONG\n"
        conn = next(conn for conn in driver_of(server).io.connections() if not conn.busy)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, most)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most)
        sending = threading.Thread(target=send_until_closed, args=(sock, line * 10_000))
        sending.start()
        until(lambda: any(unsent))
        assert ask(stack.enter_context(client(server)), b"health\n", 5) == b"well\n"
        sock.shutdown(socket.SHUT_RDWR)
        sending.join(PATIENCE)
        assert not sending.is_alive()
    assert max(unsent) <= most + 1000
    assert max(waiting) <= MOST


def send_until_closed(sock: socket.socket, data: bytes) -> None:
    try:
        while True:
            sock.sendall(data)
    except OSError:
        pass


def test_instant_answers_come_before_kinds_and_keys_are_asked_for() -> None:
    asked: list[bytes] = []

    def kind(message: bytes) -> bytes:
        asked.append(message)
        return message

    scene = Scene()
    protocol = Messages(scene.handle, Expecting(), kind=kind, key=kind, instant=instant)
    with Pool(2, order="fair") as pool, Server(protocol, "127.0.0.1:0", pool=pool) as server, client(server) as sock:
        scene.server = server
        assert ask(sock, b"health\n", 5) == b"well\n"
        assert ask(sock, b"health\nPING\nhealth\nx\nPING\nhealth\n", 27) == b"well\nPONG\nwell\nx\nPONG\nwell\n"
        assert set(asked) == {b"x"}
        known = driver_of(server).handlers.slowness.kinds
        assert known is not None
        known.find(b"x").level = 2
        assert ask(sock, b"health\nPING\nx\nPING\nhealth\n", 22) == b"well\nPONG\nx\nPONG\nwell\n"
        snapshot = server.snapshot()
    assert set(asked) == {b"x"}
    assert (snapshot.messages, snapshot.failures) == (8, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", ["raises", "text", "exits"])
def test_what_instant_does_wrong_is_told_and_the_message_is_the_handlers(
    wrong: str, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Slowness, "slow_pace", 1e9)
    caplog.set_level(logging.WARNING)

    def fails(message: bytes) -> Any:
        if wrong == "text":
            return "well"
        raise ValueError("mine") if wrong == "raises" else SystemExit

    protocol = Messages(lambda message, peer: message + b"\n", Expecting(), instant=fails)
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        if way == "offloaded":
            driver_of(server).handlers.slowness.offload()
        assert ask(sock, b"x\n") == b"x\n"
        assert ask(sock, b"x\nPING\ny\n", 9) == b"x\nPONG\ny\n"
        assert server.snapshot().failures == 0
    assert caplog.text.count("the message goes to the handler") == 1
    assert ("instant() returned str; allowed: bytes, or None" in caplog.text) == (wrong == "text")


def test_an_instant_answer_may_be_empty_and_is_sent_whole_however_long() -> None:
    answers = {b"none": b"", b"long": bytes(20_000_000)}
    protocol = Messages(lambda message, peer: b"x\n", Expecting(), instant=answers.get)
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"none\nlong\n", 20_000_000) == bytes(20_000_000)
        assert ask(sock, b"long\n", 20_000_000) == bytes(20_000_000)
        assert ask(sock, b"none\nother\n", 2) == b"x\n"
        assert server.snapshot().messages == 5


def test_behind_a_proxy_the_decoder_knows_the_client_by_the_time_that_bytes_are_fed() -> None:
    class Greeting(Messages[bytes]):
        def decoder(self, limits: Limits, peer: Peer) -> Any:
            class Decoder:
                held = 0

                def feed(self, data: bytes) -> Iterator[bytes | Reply]:
                    yield Reply(f"{peer.host}\n".encode())

                def finish(self) -> tuple[bytes, ...]:
                    return ()

            return Decoder()

    protocol = Greeting(lambda message, peer: None)
    with Server(protocol, "127.0.0.1:0", max_workers=1, proxy="127.0.0.1") as server, client(server) as sock:
        assert ask(sock, b"PROXY TCP4 192.0.2.7 192.0.2.8 5 6\r\nx", 10) == b"192.0.2.7\n"

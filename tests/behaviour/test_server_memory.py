"""What a server lets go of at once, without the garbage collector: messages, answers, and clients who have left."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle.server import Certificates, Connection, Limits, Lines, Messages, Peer, Server, Session


def until_gone(left: Callable[[], object]) -> None:
    """Wait until nothing is left; without the GIL an object may be let go of by its maker only, or the collector."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    until(lambda: (gil or gc.collect() >= 0) and not left())


class Bytes(bytearray):
    """Bytes that can be watched going."""


class Thing:
    """Something of a handler's."""


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watched(Lines):
    """Lines, as messages that can be watched going."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Any]] = []

    def decoder(self, limit: int) -> Any:
        decoder, seen = super().decoder(limit), self.seen

        class Decoder:
            @property
            def held(self) -> int:
                return decoder.held

            def feed(self, data: bytes) -> Sequence[Bytes]:
                messages = [Bytes(message) for message in decoder.feed(data)]
                seen.extend(map(weakref.ref, messages))
                return messages

            def finish(self) -> Sequence[bytes]:
                return decoder.finish()

        return Decoder()


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("slow", [False, True])
def test_a_server_that_waits_holds_neither_the_last_message_nor_its_answer(burst: int, slow: bool) -> None:
    framing = Watched()

    def handle(message: Bytes, peer: Peer) -> Any:
        if slow:
            threading.Event().wait(0.05)  # the lead goes to another thread
        answer = Bytes(message + b"\n")
        framing.seen.append(weakref.ref(answer))
        return answer

    with Server(Messages(handle, framing), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"x\n" * burst) == b"x\n" * burst
        assert len(framing.seen) == 2 * burst
        until_gone(lambda: any(ref() is not None for ref in framing.seen))


def served(kind: str, authority: Authority) -> tuple[Server, Callable[[], bytes], weakref.WeakSet[Thing]]:
    """Return a server that keeps something with each client, how a client talks to it, and what is there of those."""
    things: weakref.WeakSet[Thing] = weakref.WeakSet()
    limits, options, tls = Limits(), dict[str, Any](), kind == "tls"

    def keep(peer: Peer) -> None:
        things.add(peer.state.setdefault("thing", Thing()))

    def handle(message: bytes, peer: Peer) -> bytes:
        keep(peer)
        if kind == "failing" and message == b"y":
            raise ValueError(message)
        if kind == "slow":
            threading.Event().wait(0.02)
        return message + b"\n"

    def talk(conn: Connection) -> None:
        keep(conn.peer)
        while line := conn.readline():
            conn.sendall(line + b"\n" if line[-1:] != b"\n" else line)

    if kind == "idle":
        limits = Limits(idle_timeout=0.05)
    if tls:
        files = authority.issue("127.0.0.1")
        options["tls"] = Certificates(files.certfile, files.keyfile)
    protocol: Any = Session(talk) if kind == "session" else Messages(handle, Lines())
    server = Server(protocol, "127.0.0.1:0", max_workers=2, limits=limits, **options)

    def visit() -> bytes:
        with client(server) as sock:
            if tls:
                sock = authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1")
            with sock:
                said = ask(sock, b"x\n")
                if kind == "failing":
                    sock.sendall(b"y\n")
                if kind in ("failing", "idle"):
                    assert receive_all(sock) == b""
                return said

    return server, visit, things


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize("kind", ["plain", "failing", "idle", "slow", "session", "tls"])
@pytest.mark.parametrize("loops", [1, 2])
def test_what_a_handler_keeps_with_a_client_goes_with_it(
    kind: str, loops: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last client's, whose entries in the timers are not due for a while, and when nobody comes after it."""
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    monkeypatch.setattr(logging.getLogger("treadle.server"), "disabled", True)  # pytest keeps what is logged
    server, visit, things = served(kind, authority)
    with server:
        for _ in range(2):
            assert visit() == b"x\n"
        until(lambda: not server.snapshot().connections)
        until_gone(lambda: things)


def test_an_answer_is_let_go_of_while_the_next_client_s_handler_blocks() -> None:
    """The two are served in one turn, so the leader comes to the second with the first's in its hands."""
    gate, blocked, answers = threading.Event(), threading.Event(), list[weakref.ref[Bytes]]()
    held, holding = threading.Event(), threading.Event()

    def handle(message: bytes, peer: Peer) -> Any:
        if message == b"block":
            blocked.set()
            assert gate.wait(PATIENCE)
        answer = Bytes(message + b"\n")
        answers.append(weakref.ref(answer))
        return answer

    def hold() -> None:
        holding.set()
        assert held.wait(PATIENCE)

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=3) as server:
        with client(server) as one, client(server) as two:
            assert ask(one, b"a\n") + ask(two, b"b\n") == b"a\nb\n"
            assert server._group is not None
            server._group.drivers[0].loop.post(hold)
            assert holding.wait(PATIENCE)
            one.sendall(b"x\n")
            two.sendall(b"block\n")
            held.set()
            assert receive(one, 2) == b"x\n"
            assert blocked.wait(PATIENCE)
            until_gone(lambda: any(answer() is not None for answer in answers))
            gate.set()
            assert receive(two, 6) == b"block\n"

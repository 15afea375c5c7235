"""Messages of slow kinds never slow the others: over real sockets, with gates in place of sleeps."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.leads import depose
from certificates import Authority
from orders.lifo import Keyed, Lifo
from tcp import PATIENCE, ask, client, receive
from treadle import Pool
from treadle.orders import Levels, Order, Task
from treadle.server import Certificates, Lines, MessageEvent, Messages, Observer, Peer, Server, _group
from treadle.server._protocols.protocol import Protocol

pytestmark = pytest.mark.usefixtures("blind_watchdog")  # who is deposed, and when, is for the tests to say


def kind_of(line: bytes) -> bytes:
    return line.split(b" ", 1)[0]


class Scene:
    """A server whose slow messages wait at a gate, and who is told of each that has begun."""

    def __init__(self) -> None:
        self.gate, self.inside = threading.Event(), threading.Semaphore(0)
        self.by: dict[bytes, list[str]] = {}
        self.server: Any = None

    def handle(self, line: bytes, peer: Peer) -> bytes:
        self.by.setdefault(kind_of(line), []).append(threading.current_thread().name)
        if line.startswith(b"slow"):
            depose(self.server)
            self.inside.release()
            assert self.gate.wait(PATIENCE)
        return line + b"\n"

    def until_inside(self, count: int) -> None:
        """Return when so many slow messages have begun since the last call."""
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE)

    def nobody_else_is_inside(self) -> bool:
        return not self.inside.acquire(blocking=False)


def until_workers_lead(server: Server) -> None:
    """Wait until a thread of the pool leads each event loop, and not a watchdog."""
    assert server._group is not None
    tick = threading.Event()
    for driver in server._group.drivers:
        for _ in range(3000):
            if driver.leadership.lead is not None:
                break
            tick.wait(0.01)
        assert driver.leadership.lead is not None


def until_given_back(server: Server) -> None:
    """Wait until every connection is the leader's again."""
    tick = threading.Event()
    assert server._group is not None
    conns = [conn for driver in server._group.drivers for conn in driver.io.connections()]
    for _ in range(3000):
        if not any(conn.busy for conn in conns):
            return
        tick.wait(0.01)
    raise AssertionError("some are still handled")


@contextmanager
def served(scene: Scene, protocol: Protocol | None = None, **options: Any) -> Iterator[Server]:
    if protocol is None:
        protocol = Messages(scene.handle, Lines(), kind=kind_of)
    scene.server = Server(protocol, "127.0.0.1:0", **options)
    with scene.server:
        try:
            yield scene.server
        finally:
            scene.gate.set()


@pytest.fixture(autouse=True)
def one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one event loop, unless a test says otherwise: each learns by itself which kinds are slow."""
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


@pytest.mark.parametrize(("loops", "workers"), [(1, 2), (1, 5), (2, 5)])
def test_with_all_threads_but_the_reserve_in_slow_handlers_quick_messages_are_answered_inline(
    loops: int, workers: int, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_group, "_loops_wanted", lambda dispatcher: loops)
    scene, (tls, wrap) = Scene(), wrapped
    most = max(1, workers - loops)
    with served(scene, max_workers=workers, reserve=1, tls=tls) as server, ExitStack() as stack:

        def come() -> socket.socket:
            sock: socket.socket = wrap(stack.enter_context(client(server)))
            return stack.enter_context(sock)

        socks = [come() for _ in range(4 * loops)]
        for sock in socks:
            assert ask(sock, b"quick\n") == b"quick\n"
        slow = [come() for _ in range(3 * workers)]
        begun = 0
        for sock in slow:  # the first in each loop is found out there; they are dealt to the loops in turn
            if begun < most:
                until_workers_lead(server)
            sock.sendall(b"slow\n")
            if begun < most:
                scene.until_inside(1)
                begun += 1
        until_workers_lead(server)
        before = server.snapshot()
        for sock in socks * 20:
            assert ask(sock, b"quick\n") == b"quick\n"
        after = server.snapshot()
        assert after.handled_inline - before.handled_inline == 20 * len(socks)
        assert set(server.snapshot().slow_kinds) == {b"slow"}
        assert scene.nobody_else_is_inside()
        scene.gate.set()
        for sock in slow:
            assert receive(sock, 5) == b"slow\n"
    assert len(scene.by[b"slow"]) == len(slow)


def test_a_single_thread_has_no_reserve_and_serves_all_the_same() -> None:
    scene = Scene()
    with served(scene, max_workers=1) as server, ExitStack() as stack:
        slow = [stack.enter_context(client(server)) for _ in range(3)]
        slow[0].sendall(b"slow\n")
        scene.until_inside(1)
        for sock in slow[1:]:
            sock.sendall(b"slow\n")
        quick = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in quick:
            sock.sendall(b"quick\n")
        assert scene.nobody_else_is_inside()
        scene.gate.set()
        assert [receive(sock, 5) for sock in slow] == [b"slow\n"] * 3
        assert [receive(sock, 6) for sock in quick] == [b"quick\n"] * 3


@pytest.mark.parametrize("order", ["fifo", "priority", "fair", "adaptive", Lifo, Keyed])
def test_a_pool_with_levels_of_any_order_keeps_its_reserve(order: Any) -> None:
    scene = Scene()
    with Pool(4, order=Levels(order, reserve=2)) as pool, served(scene, pool=pool) as server, ExitStack() as stack:
        slow = [stack.enter_context(client(server)) for _ in range(6)]
        quick = stack.enter_context(client(server))
        assert ask(quick, b"quick\n") == b"quick\n"
        slow[0].sendall(b"slow\n")
        scene.until_inside(1)
        for sock in slow[1:]:
            sock.sendall(b"slow\n")
        scene.until_inside(1)
        for _ in range(20):
            assert ask(quick, b"quick\n") == b"quick\n"
        assert pool.submit(int).result(PATIENCE) == 0
        assert scene.nobody_else_is_inside()
        scene.gate.set()
        assert [receive(sock, 5) for sock in slow] == [b"slow\n"] * 6


@pytest.mark.parametrize("order", ["fifo", "adaptive", Lifo])
def test_in_a_pool_with_an_order_of_its_own_slow_messages_may_hold_all_threads(order: Any) -> None:
    scene = Scene()
    made: Any = order if isinstance(order, str) else order()
    with Pool(2, order=made) as pool, served(scene, pool=pool) as server, ExitStack() as stack:
        slow = [stack.enter_context(client(server)) for _ in range(2)]
        for sock in slow:
            sock.sendall(b"slow\n")
            scene.until_inside(1)
        quick = stack.enter_context(client(server))
        quick.sendall(b"quick\n")
        scene.gate.set()
        assert receive(quick, 6) == b"quick\n"
        assert [receive(sock, 5) for sock in slow] == [b"slow\n"] * 2


def test_with_a_reserve_slow_connections_leave_a_thread_to_the_others_where_messages_have_no_kinds() -> None:
    scene = Scene()
    with served(scene, Messages(scene.handle, Lines()), max_workers=3, reserve=1) as server, ExitStack() as stack:
        slow = [stack.enter_context(client(server)) for _ in range(4)]
        quick = stack.enter_context(client(server))
        assert ask(quick, b"quick\n") == b"quick\n"
        for sock in slow:
            assert ask(sock, b"quick\n") == b"quick\n"
        until_given_back(server)
        mark_slow(server, slow)
        for sock in slow:
            sock.sendall(b"slow\n")
        scene.until_inside(2)
        until_workers_lead(server)
        before = server.snapshot().handed_over
        for _ in range(20):
            assert ask(quick, b"quick\n") == b"quick\n"
        assert server.snapshot().handed_over == before
        assert scene.nobody_else_is_inside()
        assert server.snapshot().slow_kinds == {}


def test_who_is_held_back_for_a_time_is_let_in_by_the_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slowest leave one thread more to those that are slow, until none of these has come for a while."""
    monkeypatch.setattr("treadle.orders._levels.RECENT", 0.3)
    scene = Scene()
    with served(scene, max_workers=3, reserve=1) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        assert ask(socks[0], b"quick\n") == b"quick\n"
        set_level(server, b"slow", 2)
        set_level(server, b"less", 1)
        assert ask(socks[0], b"less\n") == b"less\n"
        for sock in socks:
            sock.sendall(b"slow\n")
        scene.until_inside(2)
        assert scene.nobody_else_is_inside()
        scene.gate.set()
        assert [receive(sock, 5) for sock in socks] == [b"slow\n"] * 3


def mark_slow(server: Server, socks: list[socket.socket]) -> None:
    """Have connections be known as slow."""
    ports = {sock.getsockname()[1] for sock in socks}
    for driver in server._group.drivers if server._group is not None else ():
        for conn in driver.io.connections():
            if conn.peer.port in ports:
                driver.handlers.slowness.mark_slow(conn, 0.005)
                conn.look_closely()


def set_level(server: Server, kind: bytes, level: int) -> None:
    """Have a kind be known as slow."""
    assert server._group is not None
    for driver in server._group.drivers:
        assert driver.handlers.slowness.kinds is not None
        record = driver.handlers.slowness.kinds.find(kind)
        record.level, record.mean = level, 0.003 * 10**level


@pytest.mark.parametrize("kind", [kind_of, None])
def test_quick_messages_behind_a_slow_one_of_their_connection_are_handled_inline_again(kind: Any) -> None:
    scene = Scene()
    protocol = Messages(scene.handle, Lines(), kind=kind)
    with served(scene, protocol, max_workers=4) as server, client(server) as sock:
        assert ask(sock, b"quick\n") == b"quick\n"
        sock.sendall(b"slow\n" + b"quick\n" * 1000)
        scene.until_inside(1)
        until_workers_lead(server)
        scene.gate.set()
        assert receive(sock, 5 + 6 * 1000) == b"slow\n" + b"quick\n" * 1000
        assert server.snapshot().handed_over <= 1 + 64  # of them, at most a few
        assert server.snapshot().messages == 1002


def test_messages_of_several_kinds_in_one_connection_are_answered_in_their_order() -> None:
    scene = Scene()
    scene.gate.set()
    with served(scene, max_workers=3, reserve=1) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        lines = [b"%s %d\n" % (kind, number) for number in range(50) for kind in (b"quick", b"slow", b"slower", b"q")]
        for sock in socks:
            sock.sendall(b"".join(lines))
        for sock in socks:
            assert receive(sock, len(b"".join(lines))) == b"".join(lines)
        snapshot = server.snapshot()
        assert snapshot.messages == snapshot.handled_inline + snapshot.handed_over == len(lines) * len(socks)


class Notes(Lifo):
    """An order that notes whose tasks come."""

    looks_at = frozenset({"key"})

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Any] = []

    def put(self, task: Task) -> None:
        self.keys.append(task.key)
        super().put(task)


@pytest.mark.parametrize(
    ("key", "expected"),
    [(lambda line: line.split()[1], b"alice"), (lambda line: [line], "127.0.0.1"), (None, "127.0.0.1")],
)
def test_a_message_is_whose_its_key_says_or_else_its_clients(key: Any, expected: Any) -> None:
    scene, order = Scene(), Notes()
    scene.gate.set()
    protocol = Messages(scene.handle, Lines(), kind=kind_of, key=key)
    with Pool(2, order=order) as pool, served(scene, protocol, pool=pool) as server, client(server) as sock:
        for _ in range(3):
            assert ask(sock, b"slow alice\n") == b"slow alice\n"
    assert set(order.keys) == {expected}


def test_what_no_kind_can_be_told_of_is_served_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    def kind(line: bytes) -> bytes:
        raise LookupError("no such route")

    protocol = Messages(scene.handle, Lines(), kind=kind)
    with served(scene, protocol, max_workers=2, reserve=1) as server, client(server) as sock:
        for _ in range(20):
            assert ask(sock, b"quick\n") == b"quick\n"
    assert sum("kind() failed" in record.getMessage() for record in caplog.records) == 1


def test_observers_are_told_of_messages_of_slow_kinds_as_of_others() -> None:
    scene = Scene()
    scene.gate.set()
    told: list[Any] = []
    protocol = Messages(scene.handle, Lines(), kind=kind_of)
    with (
        served(scene, protocol, max_workers=3, reserve=1, observers=[Watching(told)]) as server,
        client(server) as sock,
    ):
        for _ in range(3):
            assert ask(sock, b"quick\nslow\nquick\n") == b"quick\nslow\nquick\n"
        assert set(server.snapshot().slow_kinds) == {b"slow"}
    assert len(told) == 9
    assert any(event.handed_over for event in told)
    assert not all(event.handed_over for event in told)


class Watching(Observer):
    """Keeps what it is told of messages."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def handled(self, event: MessageEvent) -> None:
        self.told.append(event)


def test_orders_are_made_anew_for_each_level() -> None:
    made: list[Order] = []

    def make() -> Order:
        made.append(Lifo())
        return made[-1]

    with Pool(2, order=Levels(make)):
        assert len(made) == 3

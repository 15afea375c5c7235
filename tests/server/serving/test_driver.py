"""Lane: who leads, and how the lead moves. The races are scripted: the lead is taken away at chosen instants."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, lane_of, receive
from treadle import Pool
from treadle.server import Lines, Messages, Peer, Server
from treadle.server._serving import driver as lane


class Slot(list[Any]):
    """A slot that asks a script before each step whether the watchdog is to be faster."""

    def __init__(self, lead: lane.Lead, script: Callable[[str], bool]) -> None:
        super().__init__()
        self.lead = lead
        self.script = script

    def append(self, conn: Any) -> None:
        """The leader is about to run a handler; perhaps it is deposed before that has begun."""
        super().append(conn)
        if self.script("before the handler"):
            self.lead.lane.depose(self.lead)  # or the watchdog was faster
            self.lead.lane.rouse()

    def pop(self, *index: Any) -> Any:
        """Somebody takes the connection out; if it is the leader, it is perhaps deposed just then."""
        deposing = threading.current_thread().name.endswith("-watchdog") or self.lead.lane.lock.locked()
        if not deposing and self and self.script("after the handler"):
            self.lead.lane.depose(self.lead)  # or the watchdog was faster
            self.lead.lane.rouse()
        return super().pop(*index)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], bool]], None]:
    """Have every lead's slot follow a script."""

    def install(script: Callable[[str], bool]) -> None:
        plain = lane.Lead.__init__

        def init(self: lane.Lead, of: lane.Lane) -> None:
            plain(self, of)
            self.slot = Slot(self, script)

        monkeypatch.setattr(lane.Lead, "__init__", init)

    return install


Install = Callable[[Callable[[str], bool]], None]


@pytest.mark.parametrize("moment", ["before the handler", "after the handler"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_leader_that_is_deposed_each_time_loses_nothing(scripted: Install, moment: str, workers: int) -> None:
    seen: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        seen.append(line)
        return line + b"\n"

    scripted(lambda when: when == moment)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=workers) as server, client(server) as sock:
        for number in range(50):
            assert ask(sock, b"%d\n" % number) == b"%d\n" % number
        throttle = b"".join(b"%d\n" % number for number in range(50, 300))
        assert ask(sock, throttle) == throttle
        assert server.snapshot().pool.threads <= workers
    assert seen == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("seed", range(8))
def test_random_hand_overs_at_every_step_lose_repeat_and_reorder_nothing(scripted: Install, seed: int) -> None:
    dice = random.Random(seed)
    scripted(lambda when: dice.random() < 0.2)
    seen: dict[int, list[int]] = {}

    def handle(line: bytes, peer: Peer) -> bytes:
        who, number = map(int, line.split())
        seen.setdefault(who, []).append(number)
        return line + b"\n"

    def talk(who: int) -> None:
        with client(server) as sock:
            for number in range(0, 200, 5):
                throttle = b"".join(b"%d %d\n" % (who, n) for n in range(number, number + 5))
                sock.sendall(throttle)
                if receive(sock, len(throttle)) == throttle:
                    done[who] += 5

    done = [0] * 6
    workers = 1 + seed % 4
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=workers) as server:
        threads = [threading.Thread(target=talk, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert server.snapshot().pool.threads <= workers
    assert done == [200] * 6
    assert seen == {who: list(range(200)) for who in range(6)}


def test_a_deposed_leader_waits_until_the_watchdog_is_done_with_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the watchdog would mark as taken what has just been given back, and nobody would ever serve it again."""
    popped, inside = threading.Event(), threading.Event()

    class Paused(list[Any]):
        def pop(self, *index: Any) -> Any:
            if threading.current_thread().name.endswith("-watchdog"):
                conn = super().pop(*index)
                popped.set()
                threading.Event().wait(0.2)  # the time that the leader has to go too far
                return conn
            if inside.is_set():
                assert popped.wait(PATIENCE)
                inside.clear()
            return super().pop(*index)

    plain = lane.Lead.__init__

    def init(self: lane.Lead, of: lane.Lane) -> None:
        plain(self, of)
        self.slot = Paused()

    monkeypatch.setattr(lane.Lead, "__init__", init)

    def handle(data: bytes, peer: Peer) -> bytes:
        if data == b"slow":
            inside.set()
            assert popped.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"slow") == b"slow"
        assert ask(sock, b"next") == b"next"


def test_the_watchdog_sleeps_while_nothing_happens_and_wakes_for_the_first_handler_that_blocks() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: Peer) -> bytes:
        if data == b"wait":
            inside.set()
            assert gate.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server:
        of = lane_of(server)
        with client(server) as slow, client(server) as quick:
            assert ask(quick, b"x") == b"x"
            while not of.asleep:
                threading.Event().wait(0.01)  # it goes to sleep by itself; pytest's time-out bounds this loop
            slow.sendall(b"wait")
            assert inside.wait(PATIENCE)
            assert ask(quick, b"x") == b"x"  # though nobody but the watchdog could see to it
            gate.set()
            assert ask(slow, b"", 4) == b"wait"


def test_the_pool_recalls_a_leader_for_a_task_and_the_caretaker_goes_on_serving() -> None:
    gate, inside = threading.Event(), threading.Event()

    def task() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Pool(1) as pool:
        with Server(Messages(lambda data, peer: data), "127.0.0.1:0", pool=pool) as server, client(server) as sock:
            assert ask(sock, b"x") == b"x"
            future = pool.submit(task)
            assert inside.wait(PATIENCE)  # the only worker led, and has come back for the task
            sock.sendall(b"y")  # is read by the caretaker, and waits for the worker
            with client(server):
                gate.set()
                assert ask(sock, b"", 1) == b"y"
            assert future.result(PATIENCE) is None
            assert ask(sock, b"z") == b"z"


def test_a_fault_of_treadle_while_leading_is_logged_and_the_lead_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        lane_of(server).post(lambda: 1 // 0)
        assert ask(sock, b"y") == b"y"
    assert "ZeroDivisionError" in caplog.text


def test_a_worker_that_comes_to_lead_where_somebody_leads_goes_back_at_once() -> None:
    """One leads, and one more at most waits to; who waited behind them would be lost to the pool."""
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        of = lane_of(server)
        assert ask(sock, b"x") == b"x"
        while of.lead is None:
            threading.Event().wait(0.001)  # pytest's time-out bounds this loop
        surplus = threading.Thread(target=of.take_the_lead, args=(lane.Lead(of),))
        surplus.start()
        surplus.join(PATIENCE)
        assert not surplus.is_alive()
        assert of.heir is None


@pytest.mark.usefixtures("blind_watchdog")  # it is deposed here, in its second handler
def test_a_deposed_leader_keeps_its_connection_and_its_thread_and_not_the_lead() -> None:
    """Nobody else reads that connection, nobody counts that thread as free, and the next leader is left alone."""
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: Peer) -> bytes:
        if data == b"slow":
            inside.set()
            assert gate.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        of = lane_of(server)
        try:
            assert ask(sock, b"x") == b"x"
            old = of.lead
            assert old is not None
            sock.sendall(b"slow")
            assert inside.wait(PATIENCE)
            assert of.depose(old)
            of.rouse()
            conn = old.lost
            assert conn is not None
            assert conn.busy
            assert old not in of.dispatcher.workers.idle_tasks.running
            while (new := of.lead) is None:
                threading.Event().wait(0.001)  # pytest's time-out bounds this loop
            gate.set()
            assert ask(sock, b"", 4) == b"slow"
            assert old.exception(PATIENCE) is None
            assert of.lead is new
        finally:
            gate.set()


def test_a_worker_that_waits_to_lead_goes_on_when_the_lane_ends() -> None:
    with Pool(1) as pool:
        of = lane.Lane("lane", pool._task_dispatcher, 1.0)
        heir = threading.Thread(target=of.take_the_lead, args=(lane.Lead(of),))
        heir.start()
        try:
            while of.heir is None:
                threading.Event().wait(0.001)  # pytest's time-out bounds this loop
            of.end()
            heir.join(PATIENCE)
            assert not heir.is_alive()
        finally:
            if heir.is_alive():
                of.baton.release()
                heir.join(PATIENCE)
            of.close()


@pytest.mark.parametrize("end", ["reader", "writer"])
def test_a_waker_that_somebody_shut_down_is_replaced_and_the_server_stops_as_ever(end: str) -> None:
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        poller = lane_of(server).poller
        broken = poller.waker
        getattr(broken, end).shutdown(socket.SHUT_RDWR)
        until(lambda: poller.waker is not broken)
        assert ask(sock, b"y") == b"y"
        sock.close()
        assert server.stop(PATIENCE) == 0


def test_a_fault_in_what_was_posted_last_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1).start()
    of, done = lane_of(server), []
    assert server._fleet is not None
    end = server._fleet.over

    def over() -> None:  # nobody leads any more
        of.inbox.append(lambda: 1 // 0)
        of.inbox.append(lambda: done.append(True))
        end()

    server._fleet.over = over
    assert server.stop() == 0
    assert done == [True]
    assert of.poller.waker.writer.fileno() == -1
    assert "ZeroDivisionError" in caplog.text


def test_the_socket_of_a_handler_that_outlives_the_server_is_its_own_to_the_end() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"x\n")
        assert inside.wait(PATIENCE)
        assert server._fleet is not None
        (conn,) = [conn for of in server._fleet.lanes for conn in of.connections()]
        try:
            assert server.stop(0) == 1
            assert conn.sock.fileno() >= 0
        finally:
            gate.set()
        until(lambda: conn.sock.fileno() < 0)

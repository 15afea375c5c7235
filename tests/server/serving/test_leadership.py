"""Leadership: who leads, and how the lead moves. The races are scripted: the lead is taken away at chosen instants."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, driver_of, receive
from treadle import Pool
from treadle.server import Lines, Messages, Peer, Server
from treadle.server._loop.event_loop import EventLoop
from treadle.server._serving import leadership


class Slot(list[Any]):
    """A slot that asks a script before each step whether the watchdog is to be faster."""

    def __init__(self, lead: leadership.Lead, script: Callable[[str], bool]) -> None:
        super().__init__()
        self.lead = lead
        self.script = script

    def append(self, conn: Any) -> None:
        """The leader is about to run a handler; perhaps it loses the lead before that has begun."""
        super().append(conn)
        if self.script("before the handler"):
            self.lead.leadership.promote_new_leader(self.lead)  # or the watchdog was faster
            self.lead.leadership.wake_watchdog()

    def pop(self, *index: Any) -> Any:
        """Somebody takes the connection out; if it is the leader, it perhaps loses the lead just then."""
        promoting = threading.current_thread().name.endswith("-watchdog") or self.lead.leadership.loop.lock.locked()
        if not promoting and self and self.script("after the handler"):
            self.lead.leadership.promote_new_leader(self.lead)  # or the watchdog was faster
            self.lead.leadership.wake_watchdog()
        return super().pop(*index)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], bool]], None]:
    """Have every lead's slot follow a script."""

    def install(script: Callable[[str], bool]) -> None:
        plain = leadership.Lead.__init__

        def init(self: leadership.Lead, of: leadership.Leadership) -> None:
            plain(self, of)
            self.slot = Slot(self, script)

        monkeypatch.setattr(leadership.Lead, "__init__", init)

    return install


Install = Callable[[Callable[[str], bool]], None]


@pytest.mark.parametrize("moment", ["before the handler", "after the handler"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_leader_that_loses_the_lead_each_time_loses_no_message(scripted: Install, moment: str, workers: int) -> None:
    seen: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        seen.append(line)
        return line + b"\n"

    scripted(lambda when: when == moment)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=workers) as server, client(server) as sock:
        for number in range(50):
            assert ask(sock, b"%d\n" % number) == b"%d\n" % number
        burst = b"".join(b"%d\n" % number for number in range(50, 300))
        assert ask(sock, burst) == burst
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
                burst = b"".join(b"%d %d\n" % (who, n) for n in range(number, number + 5))
                sock.sendall(burst)
                if receive(sock, len(burst)) == burst:
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


def test_a_leader_that_lost_the_lead_waits_until_the_watchdog_is_done_with_its_connection(
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

    plain = leadership.Lead.__init__

    def init(self: leadership.Lead, of: leadership.Leadership) -> None:
        plain(self, of)
        self.slot = Paused()

    monkeypatch.setattr(leadership.Lead, "__init__", init)

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
        of = driver_of(server)
        with client(server) as slow, client(server) as quick:
            assert ask(quick, b"x") == b"x"
            while not of.leadership.watchdog_sleeps:
                threading.Event().wait(0.01)  # it goes to sleep by itself; pytest's time-out bounds this loop
            slow.sendall(b"wait")
            assert inside.wait(PATIENCE)
            assert ask(quick, b"x") == b"x"  # though nobody but the watchdog could see to it
            gate.set()
            assert ask(slow, b"", 4) == b"wait"


def test_the_pool_preempts_a_leader_for_a_task_and_the_fallback_leader_goes_on_serving() -> None:
    gate, inside = threading.Event(), threading.Event()

    def task() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Pool(1) as pool:
        with Server(Messages(lambda data, peer: data), "127.0.0.1:0", pool=pool) as server, client(server) as sock:
            assert ask(sock, b"x") == b"x"
            future = pool.submit(task)
            assert inside.wait(PATIENCE)  # the only worker led, and has come back for the task
            sock.sendall(b"y")  # is read by the fallback leader, and waits for the worker
            with client(server):
                gate.set()
                assert ask(sock, b"", 1) == b"y"
            assert future.result(PATIENCE) is None
            assert ask(sock, b"z") == b"z"


def test_a_worker_that_comes_to_lead_where_somebody_leads_goes_back_at_once() -> None:
    """One leads, and one more at most waits to; who waited behind them would be lost to the pool."""
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        of = driver_of(server)
        assert ask(sock, b"x") == b"x"
        while of.leadership.lead is None:
            threading.Event().wait(0.001)  # pytest's time-out bounds this loop
        surplus = threading.Thread(target=of.leadership.take_the_lead, args=(leadership.Lead(of.leadership),))
        surplus.start()
        surplus.join(PATIENCE)
        assert not surplus.is_alive()
        assert of.leadership.successor is None


@pytest.mark.usefixtures("blind_watchdog")  # it loses the lead here, in its second handler
def test_a_leader_that_lost_the_lead_keeps_its_connection_and_its_thread_and_not_the_lead() -> None:
    """Nobody else reads that connection, nobody counts that thread as free, and the next leader is left alone."""
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: Peer) -> bytes:
        if data == b"slow":
            inside.set()
            assert gate.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        of = driver_of(server)
        try:
            assert ask(sock, b"x") == b"x"
            old = of.leadership.lead
            assert old is not None
            sock.sendall(b"slow")
            assert inside.wait(PATIENCE)
            assert of.leadership.promote_new_leader(old)
            of.leadership.wake_watchdog()
            conn = old.lost
            assert conn is not None
            assert conn.busy
            assert old not in of.leadership.dispatcher.workers.idle_tasks.running
            while (new := of.leadership.lead) is None:
                threading.Event().wait(0.001)  # pytest's time-out bounds this loop
            gate.set()
            assert ask(sock, b"", 4) == b"slow"
            assert old.exception(PATIENCE) is None
            assert of.leadership.lead is new
        finally:
            gate.set()


def test_a_worker_that_waits_to_lead_goes_on_when_the_loop_ends() -> None:
    with Pool(1) as pool:
        of = leadership.Leadership(EventLoop("loop"), pool._task_dispatcher, "handler")
        successor = threading.Thread(target=of.take_the_lead, args=(leadership.Lead(of),))
        successor.start()
        try:
            while of.successor is None:
                threading.Event().wait(0.001)  # pytest's time-out bounds this loop
            of.end()
            successor.join(PATIENCE)
            assert not successor.is_alive()
        finally:
            if successor.is_alive():
                of.handoff.release()
                successor.join(PATIENCE)
            of.loop.close()

"""Handlers: whose thread runs a handler, and what is learnt from how long it took."""

from __future__ import annotations

import array
import ctypes
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, driver_of, receive_all
from treadle import Pool
from treadle._base import clock
from treadle.server import Lines, Messages, Peer, Reply, Server
from treadle.server._serving import handlers as module
from treadle.server._serving.calling.calls import Calls
from treadle.server._serving.calling.slowness import PROBATION
from treadle.server._serving.handlers import TURN, Handlers
from treadle.server._transport.connection import ClientConnection


def names_itself(line: bytes, peer: Peer) -> bytes:
    return threading.current_thread().name.encode() + b"\n"


def line_of(sock: object, message: bytes) -> bytes:
    return ask(sock, message, len(b"server-names_itself-0\n"))  # type: ignore[arg-type]


@pytest.mark.usefixtures("blind_watchdog")
def test_quick_handlers_all_run_in_the_thread_that_leads() -> None:
    with Server(Messages(names_itself, Lines()), "127.0.0.1:0", max_workers=4) as server, client(server) as sock:
        assert len({line_of(sock, b"quick\n") for _ in range(100)}) == 1
        assert server.snapshot().handed_over == 0


@pytest.mark.usefixtures("blind_watchdog")
def test_a_slow_connection_is_handed_over_beforehand_until_it_has_been_quick_for_a_while() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            take_the_lead_away(server)  # if it is its thread that leads
            time.sleep(0.02)  # why: a handler that blocks is what this is about
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=4) as server, client(server) as sock:
        ask(sock, b"slow\n")
        (conn,) = driver_of(server).io.connections()
        assert conn.timing.probation == PROBATION
        for _ in range(3):
            ask(sock, b"slow\n")
        before = server.snapshot().handed_over
        for _ in range(PROBATION):
            ask(sock, b"quick\n")
        after = server.snapshot().handed_over
        assert after - before == PROBATION
        while conn.timing.probation:  # a quick one that the system has held up counts as slow
            ask(sock, b"quick\n")
        handed_over = server.snapshot().handed_over
        for _ in range(20):
            ask(sock, b"quick\n")
        assert server.snapshot().handed_over == handed_over


def test_handlers_that_block_briefly_are_spread_over_the_threads_and_gathered_when_they_are_quick() -> None:
    block = threading.Event()
    block.set()
    seen: set[str] = set()

    def handle(line: bytes, peer: Peer) -> bytes:
        seen.add(threading.current_thread().name)
        if block.is_set():
            time.sleep(0.0005)  # why: it has to block, and for less than the watchdog would notice
        return b"\n"

    def keep_asking() -> None:
        with client(server) as sock:
            while not done.is_set():
                assert ask(sock, b"\n") == b"\n"

    done = threading.Event()
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=4) as server:
        askers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for asker in askers:
            asker.start()
        driver = driver_of(server)
        wait_for(lambda: driver.leadership.offload_all and len(seen) > 1)
        block.clear()
        wait_for(lambda: not driver.leadership.offload_all)
        done.set()
        for asker in askers:
            asker.join(PATIENCE)


def wait_for(condition: object) -> None:
    for _ in range(3000):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen in time")


def test_one_connection_with_many_messages_does_not_keep_a_thread_from_other_tasks() -> None:
    gates, inside = (threading.Event(), threading.Event()), threading.Semaphore(0)

    def handle(line: bytes, peer: Peer) -> bytes:
        if int(line) < 2:
            inside.release()
            assert gates[int(line)].wait(PATIENCE)
        order.append(line.decode())
        return line + b"\n"

    order: list[str] = []
    with Pool(1) as pool, Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool) as server:
        with client(server) as sock:
            sock.sendall(b"0\n1\n2\n3\n")
            assert inside.acquire(timeout=PATIENCE)
            group = server._group
            assert group is not None
            wait_for(lambda: group.watchdogs[0].promotions)
            gates[0].set()
            assert inside.acquire(timeout=PATIENCE)  # in the connection's task now
            future = pool.submit(order.append, "task")
            gates[1].set()
            assert ask(sock, b"", 8) == b"0\n1\n2\n3\n"
            future.result(PATIENCE)
    assert order == ["0", "1", "task", "2", "3"]


def test_a_pool_that_was_shut_down_cuts_connections_and_says_why(caplog: object) -> None:
    pool = Pool(1)
    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", pool=pool) as server:
        with client(server) as sock:
            assert ask(sock, b"quick\n", 5) == b"quick"
            pool.shutdown()
            sock.sendall(b"quick\n")
            assert sock.recv(1) == b""
        assert server.snapshot().closed_by == {"message_rejected": 1}


class Raises:
    """An answer that raises when it is asked for its truth."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __bool__(self) -> bool:
        raise self.error


class Unreadable:
    """An answer that raises when it is asked for its bytes."""

    def __buffer__(self, flags: int) -> memoryview:
        raise ValueError


def handed_over(server: Server) -> None:
    """Have the pool handle what comes next."""
    assert server._group is not None
    for driver in server._group.drivers:
        for conn in driver.io.connections():
            conn.timing.probation = PROBATION
            conn.look_closely()


def take_the_lead_away(server: Server) -> None:
    """Take the lead away from whoever is in a handler."""
    assert server._group is not None
    for driver in server._group.drivers:
        lead = driver.leadership.lead
        if lead is not None and lead.slot:
            driver.leadership.promote_new_leader(lead)
            driver.leadership.wake_watchdog()


WAYS = ["inline", "in a burst", "by the pool", "with the lead lost"]


def answered(way: str, answer: Any, caplog: pytest.LogCaptureFixture) -> tuple[bytes, int]:
    """Return what a client reads that is to get `answer`, and an answer behind it; and how many failures there were."""

    def handle(line: bytes, peer: Peer) -> Any:
        if line != b"odd":
            return line + b"\n"
        if way == "with the lead lost":
            take_the_lead_away(server)
        return answer

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"first\n") == b"first\n"
        if way == "by the pool":
            handed_over(server)
        sock.sendall(b"odd\n" if way == "inline" else b"odd\nlast\n")
        if way == "inline":
            sock.sendall(b"last\n")
        sock.shutdown(1)
        return receive_all(sock), server.snapshot().failures


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "answer",
    [
        *(0, "", False, 0.0, {}, "text", ["text"], [b"bytes", None]),
        *(Raises(ValueError()), Raises(BlockingIOError()), Raises(OSError()), Unreadable()),
    ],
)
def test_an_answer_that_is_neither_bytes_nor_none_is_a_failure_also_a_false_one(
    way: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert answered(way, answer, caplog) == (b"", 1)
    said = {"text": "returned list of str", "None": "returned list of NoneType, bytes"}
    what = said.get(str(answer[-1]) if isinstance(answer, list) else "", f"returned {type(answer).__name__}")
    assert f"{what}; allowed: bytes, a FileRange, a list of these" in caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [[], (), [b""], iter(())], ids=["list", "tuple", "empty", "iterator"])
def test_nothing_in_pieces_is_no_answer(way: str, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert answered(way, answer, caplog) == (b"last\n", 0)


def released() -> memoryview:
    view = memoryview(b"bytes")
    view.release()
    return view


@pytest.mark.parametrize("way", WAYS)
def test_a_view_that_was_released_is_no_answer(way: str, caplog: pytest.LogCaptureFixture) -> None:
    assert answered(way, released(), caplog) == (b"", 1)
    assert "fault in treadle" not in caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [ctypes.c_uint32(0x0A3B3B3B), memoryview(b";.;.;.\n")[::2]], ids=["c", "strided"])
def test_bytes_are_answered_once_though_they_have_no_length_or_lie_apart(
    way: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    once = bytes(answer)
    assert answered(way, answer, caplog) == (once + b"last\n", 0)


def test_of_an_answer_in_items_of_several_bytes_none_is_lost() -> None:
    """Also where the system takes as many bytes as it has items."""
    answer = array.array("I", [0x0A3B3B3B] * 8)

    def handle(line: bytes, peer: Peer) -> Any:
        assert server._group is not None
        (conn,) = (conn for driver in server._group.drivers for conn in driver.io.connections())
        send: Any = conn.send
        scarce: Any = lambda data: send(memoryview(data).cast("B")[:8])  # noqa: E731  # as many as it has items
        conn.send = scarce
        return answer

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"odd\n")
        sock.shutdown(1)
        assert receive_all(sock) == answer.tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [None, b"", bytearray(), memoryview(b""), array.array("H")])
def test_no_answer_and_an_empty_one_are_none(way: str, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert answered(way, answer, caplog) == (b"last\n", 0)


@pytest.mark.parametrize("way", ["inline", "by the pool"])
def test_a_handler_that_keeps_failing_is_told_of_once_for_each_way_of_failing_and_all_are_counted(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In whichever event loop and thread; the first one with its traceback."""

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"zero":
            return b"%d" % (1 // 0)
        return b"%d" % int(line)

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=8) as server:
        for driver in server._group.drivers if server._group is not None else ():
            driver.leadership.offload_all = way == "by the pool"
        for _ in range(50):
            for line in (b"zero\n", b"no number\n"):
                with client(server) as sock:
                    sock.sendall(line)
                    assert receive_all(sock) == b""
        assert server.snapshot().failures == 100
    told = [record for record in caplog.records if "failed on message" in record.getMessage()]
    assert [record.exc_info and record.exc_info[0] for record in told] == [ZeroDivisionError, ValueError]


def test_the_time_of_half_a_message_begins_when_the_handler_of_the_one_before_has_ended() -> None:
    """Nothing is read while it runs."""
    ended: list[float] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        take_the_lead_away(server)
        ended.append(clock.now())
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"whole\nhalf", 6) == b"whole\n"
        assert server._group is not None
        (conn,) = [conn for driver in server._group.drivers for conn in driver.io.connections()]
        wait_for(lambda: not conn.busy)
        assert conn.intake.begun >= ended[0]
        assert ask(sock, b"\n", 5) == b"half\n"


@pytest.mark.usefixtures("blind_watchdog")
@pytest.mark.parametrize("step", ["failed", "lost_the_lead"])
def test_a_thread_that_ends_amid_a_message_leaves_nobody_waiting(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"bad":
            if step == "lost_the_lead":
                take_the_lead_away(server)
            raise ValueError
        return line + b"\n"

    def fail(*args: object) -> None:
        raise RuntimeError("a fault of ours")

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as other:
        with client(server) as sock, monkeypatch.context() as patch:
            assert ask(sock, b"first\n") == b"first\n"
            patch.setattr(Calls if step == "failed" else Handlers, step, fail)
            sock.sendall(b"bad\nlast\n")
            assert receive_all(sock) == b""
        assert ask(other, b"line\n") == b"line\n"
        assert server.snapshot().closed_by == {"thread_killed": 1}


@pytest.mark.usefixtures("blind_watchdog")
@pytest.mark.parametrize(("takes", "most"), [(0.0, 60), (TURN / 4, 7)])
def test_a_turn_with_one_connection_ends_by_time_as_well_as_by_messages(
    takes: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers that take a little less than what makes them slow would keep the others waiting for dozens of them."""
    now, handled, plain = [100.0], list[int](), Handlers.work

    def handle(line: bytes, peer: Peer) -> bytes:
        now[0] += takes
        return line

    def work(handlers: Handlers, conn: ClientConnection, lead: Any) -> bool:
        before = conn.number
        on = plain(handlers, conn, lead)
        handled.append(conn.number - before)
        return on

    monkeypatch.setattr(module, "clock", SimpleNamespace(now=lambda: now[0]))
    monkeypatch.setattr(Handlers, "work", work)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"x\n" * 60, 60) == b"x" * 60
    assert max(handled) == most
    assert sum(handled) == 60


class Replies:
    """A framing of lines whose decoder answers those that say "reply"."""

    def decoder(self, limit: int) -> RepliesDecoder:
        return RepliesDecoder(Lines().decoder(limit))


class RepliesDecoder:
    held = 0

    def __init__(self, lines: Any) -> None:
        self.lines = lines

    def feed(self, data: bytes) -> Iterator[Any]:
        for line in self.lines.feed(data):
            yield Reply(b"replied") if line == b"reply" else line

    def finish(self) -> tuple[Any, ...]:
        return ()


@pytest.mark.parametrize("early", ["reply", "instant"])
def test_what_needs_no_handler_gets_to_none_either_behind_an_answer_that_its_client_does_not_take(early: str) -> None:
    seen: list[bytes] = []
    large = b"x" * 8_000_000  # bytes: more than the kernel takes at once

    def handle(line: bytes, peer: Peer) -> bytes:
        seen.append(line)
        return large if line == b"large" else b"first"

    protocol: Messages[bytes] = Messages(handle, Replies(), instant={b"instant": b"at once"}.get)
    with Server(protocol, "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"first\n", 5) == b"first"
        driver_of(server).leadership.offload_all = True
        sock.sendall(b"large\n" + early.encode() + b"\n")
        sock.shutdown(1)
        assert receive_all(sock) == large + {"reply": b"replied", "instant": b"at once"}[early]
    assert seen == [b"first", b"large"]

"""Exchanges: what a protocol is told of each message, once, by whom, and when."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, driver_of, receive, receive_all
from treadle import Pool
from treadle.server import (
    CloseConnection,
    FileRange,
    Limits,
    Lines,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    Server,
    TakeOver,
)
from treadle.server._protocols.protocol import Answer
from treadle.server._serving.calling.exchanges import Exchange
from treadle.server._transport.sending.outbox import UNTOLD

LARGE = b"x" * 8_000_000  # bytes: more than the kernel takes of one answer at once


class Told(Messages[bytes]):
    """Messages that are told of, and by whom."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler, Lines())
        self.told: Queue[tuple[bytes, int, BaseException | None]] = Queue()
        self.threads: list[int] = []

    def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
        self.threads.append(threading.get_ident())
        self.told.put((message, sent, error))

    def next(self) -> tuple[bytes, int, str]:
        message, sent, error = self.told.get(timeout=PATIENCE)
        return message, sent, "" if error is None else type(error).__name__


@contextmanager
def served(protocol: Told, **more: Any) -> Iterator[Server]:
    with Server(protocol, "127.0.0.1:0", max_workers=more.pop("max_workers", 2), **more) as server:
        yield server
    assert protocol.told.empty(), "told twice"


def take_the_lead_away(server: Server) -> None:
    driver = driver_of(server)
    lead = driver.leadership.lead
    if lead is not None and lead.slot:
        driver.leadership.promote_new_leader(lead)
        driver.leadership.wake_watchdog()


@pytest.mark.parametrize("way", ["inline", "with the lead lost"])
@pytest.mark.parametrize("kind", ["bytes", "view", "list", "pieces", "file", "none"])
@pytest.mark.parametrize("observed", [False, True])
def test_each_message_is_told_of_once_with_the_bytes_of_its_answer(
    way: str, kind: str, observed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "answer"
    path.write_bytes(b"answer\n")
    answers: dict[str, Callable[[], Answer]] = {
        "bytes": lambda: b"answer\n",
        "view": lambda: memoryview(bytearray(b"answer\n")),
        "list": lambda: [b"ans", b"wer\n"],
        "pieces": lambda: iter([b"ans", b"", b"wer\n"]),
        "file": lambda: FileRange(path.open("rb")),
        "none": lambda: None,
    }
    threads: list[int] = []

    def handle(line: bytes, peer: Peer) -> Any:
        threads.append(threading.get_ident())
        if way == "with the lead lost":
            take_the_lead_away(server)
        return answers[kind]()

    protocol = Told(handle)
    with served(protocol, observers=[Observer()] if observed else []) as server, client(server) as sock:
        size = 0 if kind == "none" else 7
        sock.sendall(b"one\ntwo\n")
        assert receive(sock, 2 * size) == b"answer\n" * 2 if size else not size
        told = sorted(protocol.next() for _ in range(2))  # as they are over, perhaps in two threads
        assert told == [(b"one", size, ""), (b"two", size, "")]
        if kind not in ("file", "pieces") or way == "inline":  # else another thread may have sent the last of it
            assert protocol.threads[0] == threads[0]


def test_a_slow_client_holds_no_thread_and_is_told_of_when_it_has_all() -> None:
    """By another thread of the pool: that which has handled it may be anywhere by then."""
    protocol = Told(lambda line, peer: LARGE if line == b"large" else line + b"\n")
    with served(protocol) as server, client(server) as slow, client(server) as other:
        slow.sendall(b"large\n")
        assert ask(other, b"quick\n") == b"quick\n"
        assert protocol.next() == (b"quick", 6, "")
        assert protocol.told.empty()
        assert receive(slow, len(LARGE)) == LARGE
        assert protocol.next() == (b"large", len(LARGE), "")
        pool = {worker.thread.ident for worker in driver_of(server).leadership.dispatcher.workers.present}
        assert set(protocol.threads) <= pool


def test_who_leaves_amid_an_answer_is_told_of_with_what_was_sent_and_those_behind_with_nothing() -> None:
    protocol = Told(lambda line, peer: LARGE)
    with served(protocol, max_workers=1) as server:
        with client(server) as sock:
            sock.sendall(b"first\nsecond\nthird\n")
            assert receive(sock, 1000)
        told = [protocol.next() for _ in range(3)]
    assert [(message, error) for message, _, error in told] == [
        (b"first", "ConnectionAbortedError"),
        (b"second", "ConnectionAbortedError"),
        (b"third", "ConnectionAbortedError"),
    ]
    assert 1000 <= told[0][1] < len(LARGE)
    assert told[1][1] == told[2][1] == 0


def test_what_the_handler_raised_is_told_and_closing_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def handle(line: bytes, peer: Peer) -> Any:
        if line == b"close":
            raise CloseConnection(b"bye")
        if line == b"half":
            return halves()
        if line == b"odd":
            return "text"
        raise ValueError(line)

    def halves() -> Iterator[bytes]:
        yield b"half"
        raise LookupError

    protocol = Told(handle)
    with served(protocol) as server:
        for message, sent, error in (
            (b"close", 3, ""),
            (b"half", 4, "LookupError"),
            (b"odd", 0, "TypeError"),
            (b"raise", 0, "ValueError"),
        ):
            with client(server) as sock:
                sock.sendall(message + b"\nbehind\n")
                receive_all(sock)
                told = [protocol.next(), protocol.next()]
                assert sorted(told) == sorted([(message, sent, error), (b"behind", 0, "ConnectionAbortedError")])


@pytest.mark.parametrize("refusal", [None, b"busy\n"])
def test_a_message_that_the_pool_refuses_is_told_of(refusal: bytes | None) -> None:
    entered, leave = Event(), Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"hold":
            entered.set()
            leave.wait(PATIENCE)
        return line + b"\n"

    protocol = Told(handle)
    pool = Pool(1, queue_size=1, when_full="reject")
    limits = Limits(reject_messages_with=refusal)
    with pool, served(protocol, pool=pool, limits=limits, max_workers=None) as server:
        with client(server) as holder, client(server) as waiter, client(server) as refused:
            holder.sendall(b"hold\n")
            assert entered.wait(PATIENCE)
            waiter.sendall(b"waits\n")
            while server.snapshot().pool.waiting < 1:
                time.sleep(0.001)  # why: the message is read by another thread, which tells nobody
            refused.sendall(b"refused\n")
            told = protocol if refusal is None else None
            assert receive(refused, 5) == (refusal or b"")
            leave.set()
            assert receive(waiter, 6) == b"waits\n"
            seen = {protocol.next() for _ in range(3)}
            assert (b"hold", 5, "") in seen
            assert (b"waits", 6, "") in seen
            assert any(message == b"refused" and error for message, _, error in seen), (seen, told)


def test_the_times_of_a_message_go_from_its_first_byte_to_its_last() -> None:
    exchanges: list[Exchange] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        exchanges.append(peer.exchange)
        return line + b"\n"

    protocol = Told(handle)
    with served(protocol) as server, client(server) as sock:
        sock.sendall(b"be")
        while not any(conn.intake.begun for conn in driver_of(server).io.connections()):
            time.sleep(0.001)  # why: as above
        conn = driver_of(server).io.connections()[0]
        assert ask(sock, b"gun\n", 6) == b"begun\n"
        assert protocol.next()[0] == b"begun"
        exchange = exchanges[0]
        times = [exchange.first_byte, exchange.complete, exchange.begun, exchange.made, exchange.sent]
        assert times == sorted(times)
        assert 0 < exchange.first_byte < exchange.complete
        assert (exchange.message, exchange.bytes_out, exchange.error) == (b"begun", 6, None)
        assert conn.peer.exchange is None  # or an idle client would keep its last message


def test_an_over_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Told):
        def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
            super().over(message, sent, error)
            raise ValueError("scripted")

    protocol = Raising(lambda line, peer: LARGE if line == b"large" else line + b"\n")
    with served(protocol) as server, client(server) as sock:
        assert ask(sock, b"one\n") == b"one\n"
        sock.sendall(b"large\ntwo\n")
        assert receive(sock, len(LARGE) + 4) == LARGE + b"two\n"
        assert sorted(protocol.next()[0] for _ in range(3)) == [b"large", b"one", b"two"]
        assert server.snapshot().failures == 0
    assert "over() failed" in caplog.text


def test_with_tls_an_answer_is_over_when_all_of_it_is_sent(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    protocol = Told(lambda line, peer: LARGE if line == b"large" else line + b"\n")
    with served(protocol, tls=authority.certificates()) as server, client(server) as plain:
        with authority.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(b"one\nlarge\ntwo\n")
            assert receive(sock, len(LARGE) + 8) == b"one\n" + LARGE + b"two\n"
            told = [(b"one", 4, ""), (b"large", len(LARGE), ""), (b"two", 4, "")]
            assert sorted(protocol.next() for _ in range(3)) == sorted(told)
            assert isinstance(sock, ssl.SSLSocket)


def test_what_over_blocks_with_is_not_waited_for_by_others() -> None:
    entered, leave = Event(), Event()

    class Blocking(Told):
        def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
            if message == b"block":
                entered.set()
                leave.wait(PATIENCE)
            super().over(message, sent, error)

    protocol = Blocking(lambda line, peer: line + b"\n")
    with served(protocol) as server, client(server) as first, client(server) as other:
        assert ask(first, b"block\n") == b"block\n"
        assert entered.wait(PATIENCE)
        assert ask(other, b"other\n") == b"other\n"
        assert protocol.next() == (b"other", 6, "")
        leave.set()
        assert protocol.next() == (b"block", 6, "")
        assert ask(first, b"again\n") == b"again\n"
        assert protocol.next() == (b"again", 6, "")


def test_at_the_end_of_a_server_each_message_was_told_of() -> None:
    entered = Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"hold":
            entered.set()
            Event().wait(0.5)  # why: longer than the server is given to end
        return LARGE

    protocol = Told(handle)
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server:
        with client(server) as slow, client(server) as holder:
            slow.sendall(b"slow\n")
            assert receive(slow, 10)
            holder.sendall(b"hold\nbehind\n")
            assert entered.wait(PATIENCE)
            server.stop(0.01)
            seen = {protocol.next()[0] for _ in range(3)}
    assert seen == {b"slow", b"hold", b"behind"}


VARIABLE: ContextVar[bytes] = ContextVar("VARIABLE", default=b"unset")


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("way", ["inline", "in a burst", "with the lead lost"])
def test_a_message_may_have_a_context_of_its_own(fresh: bool, way: str) -> None:
    """Or what one request sets is read by the next: that leaks data. What gives pieces sees the same as the handler."""

    class Fresh(Messages[bytes]):
        fresh_context = fresh

    def pieces(before: bytes) -> Iterator[bytes]:
        yield before + b" "
        yield VARIABLE.get() + b"\n"

    def handle(line: bytes, peer: Peer) -> Iterator[bytes]:
        before = VARIABLE.get()
        VARIABLE.set(line)
        if way == "with the lead lost":
            take_the_lead_away(server)
        return pieces(before)

    with Server(Fresh(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        told = [b"unset one\n", b"unset two\n"] if fresh else [b"unset one\n", b"one two\n"]
        if way == "in a burst":
            assert ask(sock, b"one\ntwo\n", sum(map(len, told))) == b"".join(told)
        else:
            assert ask(sock, b"one\n", len(told[0])) == told[0]
            assert ask(sock, b"two\n", len(told[1])) == told[1]


def test_observers_are_told_as_well() -> None:
    handled: Queue[MessageEvent] = Queue()

    class Watch(Observer):
        def handled(self, event: MessageEvent) -> None:
            handled.put(event)

    protocol = Told(lambda line, peer: iter([line, b"\n"]))
    with served(protocol, observers=[Watch()]) as server, client(server) as sock:
        assert ask(sock, b"one\n") == b"one\n"
        assert protocol.next() == (b"one", 4, "")
        event = handled.get(timeout=PATIENCE)
        assert (event.bytes_in, event.bytes_out) == (3, 4)


def test_of_messages_before_one_that_runs_too_long_is_told_as_well() -> None:
    leave = Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"hold":
            leave.wait(PATIENCE)
        return line + b"\n"

    protocol = Told(handle)
    limits = Limits(handler_timeout=0.5)  # more than the quick ones take on a machine that is busy
    with served(protocol, limits=limits) as server, client(server) as sock:
        sock.sendall(b"one\ntwo\nhold\nbehind\n")
        assert receive_all(sock) == b"one\ntwo\n"
        told = sorted(protocol.next() for _ in range(4))  # while the handler runs on, which may never return
        leave.set()
    gone = "ConnectionAbortedError"
    assert told == [(b"behind", 0, gone), (b"hold", 0, gone), (b"one", 4, ""), (b"two", 4, "")]


def test_who_tells_of_a_message_is_never_shed_by_the_pool() -> None:
    """It would be done by the thread that sheds, which may be the one that serves all."""
    entered, leave = Event(), Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"hold":
            entered.set()
            leave.wait(PATIENCE)
        return line + b"\n"

    protocol = Told(handle)
    protocol.instant = lambda line: b"pong\n" if line == b"ping" else None
    pool = Pool(1, queue_size=1, when_full="discard_oldest")
    limits = Limits(reject_messages_with=b"busy\n")
    with pool, served(protocol, pool=pool, limits=limits, max_workers=None) as server:
        with client(server) as holder, client(server) as other:
            holder.sendall(b"hold\n")
            assert entered.wait(PATIENCE)
            for _ in range(20):
                assert ask(other, b"ping\n") == b"pong\n"
            assert protocol.told.empty()
            leave.set()
            told = [protocol.next() for _ in range(21)]
        assert sorted(told) == [(b"hold", 5, ""), *[(b"ping", 5, "")] * 20]
        pool_threads = {worker.thread.ident for worker in driver_of(server).leadership.dispatcher.workers.present}
        assert set(protocol.threads) <= pool_threads


class Strange(list[bytes]):
    """A list that cannot be gone through, or is in itself."""

    def __iter__(self) -> Iterator[bytes]:
        raise ValueError


@pytest.mark.parametrize("answer", [Strange([b"x", b"\n"]), Strange([[]])], ids=["strange", "odd"])  # type: ignore[list-item]
def test_a_list_of_a_class_of_the_users_harms_nobody(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    protocol = Told(lambda line, peer: answer)
    with served(protocol) as server:
        for _ in range(3):
            with client(server) as sock:
                sock.sendall(b"x\n")
                sock.shutdown(1)
                receive_all(sock)
                assert protocol.next()[0] == b"x"
        assert server.snapshot().closed_by.get("thread_killed", 0) == 0


@pytest.mark.parametrize("pool", ["own", "given", "given, and full"])
@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_stop_waits_until_all_is_told(pool: str, timeout: float | None) -> None:
    """As it waits for handlers: what a program notes of each message is not lost when it ends."""
    entered, leave = Event(), Event()

    class Slow(Told):
        def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
            entered.set()
            leave.wait(PATIENCE)
            super().over(message, sent, error)

    protocol = Slow(lambda line, peer: LARGE)
    given = None if pool == "own" else Pool(1, queue_size=0 if "full" in pool else 100)
    server = Server(protocol, "127.0.0.1:0", pool=given, max_workers=1 if given is None else None).start()
    try:
        with client(server) as sock:
            sock.sendall(b"line\n" * 50)
            assert receive(sock, 1000)
        assert entered.wait(PATIENCE)
        stopper = threading.Thread(target=server.stop, args=(timeout,))
        stopper.start()
        until(lambda: server.snapshot().state == "stopped")
        leave.set()
        stopper.join(PATIENCE)
        assert not stopper.is_alive()
        assert protocol.told.qsize() == 50
    finally:
        leave.set()
        server.stop(0)
        if given is not None:
            given.shutdown()


def test_who_tells_may_stop_the_server_and_does_not_wait_for_it() -> None:
    taken = Queue[int]()

    class Stopping(Told):
        def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
            taken.put(server.stop(None))
            super().over(message, sent, error)

    protocol = Stopping(lambda line, peer: line)
    server = Server(protocol, "127.0.0.1:0", max_workers=1).start()
    driver = driver_of(server)
    with client(server) as sock:
        assert ask(sock, b"line\n", 4) == b"line"
        assert taken.get(timeout=PATIENCE) == 0
    exchanges = driver.handlers.calls.exchanges
    assert exchanges is not None
    exchanges.teller.tell(lambda: taken.put(server.stop(None)))  # when the pool is closed
    assert taken.get(timeout=PATIENCE) == 0
    server.stop()
    assert protocol.next() == (b"line", 4, "")


def test_a_takeover_that_is_refused_is_told_to_be() -> None:
    protocol = Told(lambda line, peer: TakeOver(lambda conn: None, b"first\n"))
    with served(protocol) as server, client(server) as sock:
        sock.sendall(b"take\nmore\n")
        assert receive_all(sock) == b""
        told = sorted(protocol.next() for _ in range(2))
    assert told == [(b"more", 0, "ConnectionAbortedError"), (b"take", 0, "ConnectionAbortedError")]


@pytest.mark.parametrize("last", ["large", "file"])
def test_an_answer_that_was_taken_whole_is_told_so_whatever_becomes_of_the_next(last: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)

    def handle(line: bytes, peer: Peer) -> Any:
        if line == b"small":
            return b"small\n"
        if last == "large":
            return LARGE
        answer = FileRange(path.open("rb"))
        os.truncate(path, 0)
        return answer

    protocol = Told(handle)
    with served(protocol) as server:
        with client(server) as sock:
            sock.sendall(b"small\nsmall\nlast\n")
            assert receive(sock, 12) == b"small\n" * 2
            first = [protocol.next() for _ in range(2)]  # while the last is under way
        assert protocol.next()[::2] == (b"last", "ConnectionAbortedError")
    assert first == [(b"small", 6, "")] * 2


def test_a_stop_does_not_wait_for_an_over_that_blocks() -> None:
    leave = Event()

    class Blocking(Told):
        def over(self, message: bytes, sent: int, error: BaseException | None) -> None:
            super().over(message, sent, error)
            leave.wait(PATIENCE)

    entered = Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        entered.set()
        leave.wait(PATIENCE)
        return line

    protocol = Blocking(handle)
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server, client(server) as holder, client(server) as other:
        holder.sendall(b"hold\n")
        assert entered.wait(PATIENCE)
        other.sendall(b"waits\n")
        while server.snapshot().pool.waiting < 1:
            time.sleep(0.001)  # why: the message is read by another thread, which tells nobody
        server.stop(0.01)
        assert not leave.is_set()
        leave.set()
        assert sorted(protocol.next()[0] for _ in range(2)) == [b"hold", b"waits"]


def test_a_client_waits_while_so_many_of_its_messages_are_not_told_of() -> None:
    """Or they would be more and more, where clients are answered faster than the protocol hears of it."""
    entered, leave = Event(), Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        entered.set()
        leave.wait(PATIENCE)
        return line + b"\n"

    protocol = Told(handle)
    protocol.instant = lambda line: b"pong\n" if line == b"ping" else None
    with served(protocol, max_workers=1) as server:
        with client(server) as holder, client(server) as eager, client(server) as other:
            holder.sendall(b"hold\n")
            assert entered.wait(PATIENCE)
            eager.sendall(b"ping\n" * 3 * UNTOLD)
            assert receive(eager, 5 * UNTOLD) == b"pong\n" * UNTOLD
            for _ in range(3):  # the others have their turn, and this one none
                assert ask(other, b"ping\n") == b"pong\n"
            assert driver_of(server).handlers.early.inline == UNTOLD + 3
            leave.set()
            assert receive(eager, 10 * UNTOLD) == b"pong\n" * 2 * UNTOLD
            told = [protocol.next()[0] for _ in range(3 * UNTOLD + 4)]
        assert sorted(told) == [b"hold", *[b"ping"] * (3 * UNTOLD + 3)]

"""The rules of the server: what no client may do to it. Each has a server that breaks it (see docs/server.md)."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, driver_of, receive, receive_all, until_led
from treadle.server import (
    CloseConnection,
    Connection,
    LengthPrefix,
    Limits,
    Lines,
    Messages,
    Peer,
    Raw,
    Server,
    Session,
)
from treadle.server._loop.poller import WRITE

GONE = r"reset|[Bb]roken pipe|abort"
MANY = 40  # hostile clients: more than any pool here has threads


def echo(data: bytes, peer: Peer) -> bytes:
    return data


def echo_line(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


def lines(**limits: object) -> Server:
    """A line server of one thread with these limits."""
    return Server(Messages(echo_line, Lines()), "127.0.0.1:0", max_workers=1, limits=Limits(**limits))  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that the server does by itself."""
    never = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        never.wait(0.01)
    raise AssertionError("it did not happen in time")


def for_ever(do: Callable[[], object]) -> None:
    """Do something steadily, until it raises."""
    never = threading.Event()
    while True:
        do()
        never.wait(0.01)


# -- 1. no thread for half a message ------------------------------------------------------------------------------


def test_rule_1_half_messages_hold_no_thread() -> None:
    with lines() as server, ExitStack() as stack:
        hostile = [stack.enter_context(client(server)) for _ in range(MANY)]
        for sock in hostile:
            sock.sendall(b"half a line")
        healthy = stack.enter_context(client(server))
        for _ in range(10):
            assert ask(healthy, b"hello\n") == b"hello\n"
        wait_until(lambda: sum(bool(conn.intake.decoder.held) for conn in driver_of(server).io.connections()) == MANY)
        assert server.snapshot().pool.threads == 1
        for sock in hostile:
            assert ask(sock, b"!\n", 13) == b"half a line!\n"


def test_rule_1_silent_clients_hold_no_thread_of_a_session() -> None:
    def talk(conn: Connection) -> None:
        conn.sendall(conn.readline())

    with Server(Session(talk), "127.0.0.1:0", max_workers=1) as server, ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(client(server))
        with client(server) as healthy:
            assert ask(healthy, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("split", [1, 100, 1000])
def test_rule_1_the_bytes_of_half_a_message_are_bounded(split: int) -> None:
    with lines(max_message=1000) as server, client(server) as sock:
        assert ask(sock, b"x" * 1000 + b"\n") == b"x" * 1000 + b"\n"
        try:
            for _ in range(0, 5000, split):
                sock.sendall(b"x" * split)
        except OSError:
            pass  # it was cut already
        assert receive_all(sock) == b""


def test_rule_1_an_announced_length_beyond_the_limit_is_refused_at_once() -> None:
    server = Server(Messages(echo, LengthPrefix(4)), "127.0.0.1:0", limits=Limits(max_message=1000))
    with server, client(server) as sock:
        sock.sendall((1001).to_bytes(4, "big"))
        assert receive_all(sock) == b""


# -- 2. deadlines -------------------------------------------------------------------------------------------------


def test_rule_2_a_message_has_a_deadline_however_steadily_its_bytes_come() -> None:
    with lines(read_timeout=0.3) as server, client(server) as sock:
        with pytest.raises(OSError, match=GONE):
            for_ever(lambda: sock.sendall(b"x"))
        wait_until(lambda: server.snapshot().closed_by == {"read_timeout": 1})


def test_rule_2_half_a_message_behind_a_whole_one_has_a_deadline_too() -> None:
    with lines(read_timeout=0.2) as server, client(server) as sock:
        assert ask(sock, b"whole\nhalf", 6) == b"whole\n"
        assert receive_all(sock) == b""
        wait_until(lambda: server.snapshot().closed_by == {"read_timeout": 1})


def test_rule_2_idle_connections_are_closed() -> None:
    with lines(idle_timeout=0.2) as server, client(server) as never_spoke, client(server) as spoke:
        assert ask(spoke, b"x\n") == b"x\n"
        assert receive_all(spoke) == b""
        assert receive_all(never_spoke) == b""
        wait_until(lambda: server.snapshot().closed_by == {"idle_timeout": 2})


def test_rule_2_old_connections_are_closed_between_messages() -> None:
    with lines(max_age=0.3, linger_timeout=0.1) as server, client(server) as sock:
        said = 0
        try:
            while ask(sock, b"x\n") == b"x\n":
                said += 1
        except OSError:
            pass
        assert said > 0
        wait_until(lambda: server.snapshot().connections == 0)


def taking(sock: Any, size: int, pace: float) -> int:
    """Take `size` bytes, some every so many seconds; return how many came."""
    taken = 0
    while taken < size and (data := sock.recv(1 << 18)):
        taken += len(data)
        threading.Event().wait(pace)
    return taken


@pytest.mark.parametrize("talks", [False, True])
def test_rule_2_an_answer_has_as_long_as_it_takes_if_it_is_taken_steadily(talks: bool) -> None:
    """A download over a slow line is in order: it is cut when it stands still, or is slower than the least rate."""
    size = 16 << 20
    big = b"x" * size

    def talk(conn: Connection) -> None:
        conn.recv()
        conn.sendall(big)

    protocol: Any = Session(talk) if talks else Messages(lambda data, peer: big)
    limits = Limits(write_timeout=0.5, min_rate_grace=0.1)
    with Server(protocol, "127.0.0.1:0", max_workers=1, limits=limits) as server, client(server) as sock:
        sock.sendall(b"go")
        assert taking(sock, size, 0.03) == size  # two seconds, in all
        assert server.snapshot().closed_by == {}


@pytest.mark.parametrize("talks", [False, True])
def test_rule_2_an_answer_that_is_not_taken_has_a_deadline(talks: bool) -> None:
    def talk(conn: Connection) -> None:
        conn.recv()
        conn.sendall(big)

    big = b"x" * (16 << 20)
    protocol: Any = Session(talk) if talks else Messages(lambda data, peer: big)
    server = Server(protocol, "127.0.0.1:0", max_workers=1, limits=Limits(write_timeout=0.3))
    with server, client(server) as sock:
        sock.sendall(b"go")
        wait_until(lambda: server.snapshot().closed_by == {"write_timeout": 1})


def test_rule_2_a_minimum_rate_cuts_those_who_send_too_slowly() -> None:
    with lines(min_read_rate=1_000_000, min_rate_grace=0.1) as server, client(server) as slow, client(server) as quick:
        slow.sendall(b"xx")
        assert receive_all(slow) == b""
        assert ask(quick, b"x\n") == b"x\n"
        wait_until(lambda: server.snapshot().closed_by == {"min_read_rate": 1})


def test_rule_2_a_minimum_rate_cuts_those_who_read_too_slowly() -> None:
    big = b"x" * (16 << 20)
    limits = Limits(min_write_rate=1_000_000_000, min_rate_grace=0.1)
    with Server(Messages(lambda data, peer: big), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as sock:
            sock.sendall(b"go")
            wait_until(lambda: server.snapshot().closed_by == {"min_write_rate": 1})


def test_rule_2_deadlines_of_a_session() -> None:
    heard: list[type[BaseException]] = []

    def talk(conn: Connection) -> None:
        try:
            conn.readline()
        except TimeoutError as error:
            heard.append(type(error))
            raise

    limits = Limits(read_timeout=0.2, idle_timeout=0.2)
    with Server(Session(talk), "127.0.0.1:0", max_workers=2, limits=limits) as server, client(server) as sock:
        sock.sendall(b"half a line")
        assert receive_all(sock) == b""
        assert heard == [TimeoutError]
        assert server.snapshot().failures == 0


def test_rule_2_one_entry_of_the_timers_for_each_connection() -> None:
    with lines() as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(10)]
        for _ in range(50):
            for sock in socks:
                sock.sendall(b"a\nhalf")
                assert ask(sock, b"\n", 7) == b"a\nhalf\n"
        assert len(driver_of(server).loop.timers.heap) == 10


# -- 3. nothing is forgotten in a buffer ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 63, 64, 65, 1000, 20_000])
def test_rule_3_no_pipelined_message_is_forgotten(count: int) -> None:
    burst = b"".join(b"%d\n" % number for number in range(count))
    with lines() as server, client(server) as sock:
        sender = threading.Thread(target=sock.sendall, args=(burst,))
        sender.start()
        assert ask(sock, b"", len(burst)) == burst
        sender.join(PATIENCE)


# -- 4. closing -----------------------------------------------------------------------------------------------------


def test_rule_4_a_descriptor_is_not_closed_under_a_handler() -> None:
    inside, gate = threading.Event(), threading.Event()
    statuses: list[os.stat_result] = []

    def handle(data: bytes, peer: Peer) -> bytes:
        (conn,) = [conn for conn in driver_of(server).io.connections() if conn.peer is peer]
        statuses.append(os.fstat(conn.fd))
        inside.set()
        assert gate.wait(PATIENCE)
        statuses.append(os.fstat(conn.fd))
        return data

    server = Server(Messages(handle), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"x")
        assert inside.wait(PATIENCE)
        stopper = threading.Thread(target=server.stop, args=(0.0,))
        stopper.start()
        assert receive_all(sock) == b""  # it is cut, though its handler runs
        gate.set()
        stopper.join(PATIENCE)
    assert server.stop() == 1
    before, after = statuses
    assert (before.st_ino, before.st_dev) == (after.st_ino, after.st_dev)


def test_rule_4_clients_that_vanish_in_mid_handler_never_get_at_each_other() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        if line.startswith(b"slow"):
            threading.Event().wait(0.002)  # long enough to lose the lead
        return line + b"\n"

    def come_and_go(who: int) -> None:
        for turn in range(60):
            with client(server) as sock:
                word = b"slow %d %d\n" % (who, turn)
                sock.sendall(word)
                if turn % 3:
                    if receive(sock, len(word)) != word:
                        faults.append((who, turn))
                elif turn % 2:  # gone, with a reset
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    faults: list[tuple[int, int]] = []
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=4) as server:
        threads = [threading.Thread(target=come_and_go, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not faults
        wait_until(lambda: server.snapshot().connections == 0)


# -- 5. accepting ---------------------------------------------------------------------------------------------------
# EMFILE needs a process of its own: tests/behaviour/test_server_processes.py


def test_rule_5_a_client_that_is_gone_before_it_is_accepted_is_ordinary(caplog: pytest.LogCaptureFixture) -> None:
    with lines() as server:
        for _ in range(50):
            with client(server) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with client(server) as sock:
            assert ask(sock, b"x\n") == b"x\n"
        wait_until(lambda: server.snapshot().connections == 0)
    assert not caplog.records


# -- 6. admission ---------------------------------------------------------------------------------------------------


def test_rule_6_at_the_ceiling_others_wait_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with lines(max_connections=2) as server, ExitStack() as stack:
        first, second = (stack.enter_context(client(server)) for _ in range(2))
        assert ask(first, b"1\n") == b"1\n"
        assert ask(second, b"2\n") == b"2\n"
        waiting = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in waiting:
            sock.sendall(b"w\n")
        wait_until(lambda: "max_connections" in caplog.text)
        assert ask(first, b"1\n") == b"1\n"
        assert server.snapshot().connections == 2
        first.close()
        assert ask(waiting[0], b"", 2) == b"w\n"
        waiting[0].close()
        second.close()
        for sock in waiting[1:]:
            assert ask(sock, b"", 2) == b"w\n"
        assert caplog.text.count("max_connections") == 1


def test_rule_6_at_the_ceiling_others_are_refused_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with (
        lines(max_connections=1, at_max_connections="reject", reject_connections_with=b"busy\n") as server,
        client(server) as first,
    ):
        assert ask(first, b"1\n") == b"1\n"
        for _ in range(5):
            with client(server) as sock:
                assert receive_all(sock) == b"busy\n"
        assert ask(first, b"1\n") == b"1\n"
        assert server.snapshot().rejected_connections == 5
    assert caplog.text.count("clients are rejected: the only connection is taken (max_connections)") == 1


def test_rule_6_at_the_ceiling_the_longest_idle_makes_room() -> None:
    with lines(max_connections=3, at_max_connections="evict_idle") as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in (socks[1], socks[2], socks[0]):
            assert ask(sock, b"x\n") == b"x\n"
        new = stack.enter_context(client(server))
        assert ask(new, b"x\n") == b"x\n"
        assert receive_all(socks[1]) == b""
        assert ask(socks[0], b"x\n") == b"x\n"
        assert server.snapshot().closed_by == {"evicted": 1}


def test_rule_6_one_address_has_a_ceiling_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with lines(max_connections_per_host=2, reject_connections_with=b"enough\n") as server, ExitStack() as stack:
        for _ in range(2):
            assert ask(stack.enter_context(client(server)), b"x\n") == b"x\n"
        assert receive_all(stack.enter_context(client(server))) == b"enough\n"
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.2", 0))
        other.connect(server.address)
        assert ask(other, b"x\n") == b"x\n"
    assert "127.0.0.1 has 2 connections already" in caplog.text


def test_rule_6_clients_come_in_no_faster_than_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    with lines(accept_rate=20) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(25)]
        for sock in socks:  # 20 at once, the others one by one
            assert ask(sock, b"x\n") == b"x\n"
        assert server.snapshot().connections == 25
    assert caplog.text.count("accept_rate") == 1


# -- 8. slow readers ------------------------------------------------------------------------------------------------


def test_rule_8_clients_that_never_read_hold_no_thread_and_are_read_from_no_more() -> None:
    big = b"x" * (8 << 20)
    handled: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        handled.append(line)
        return big if line == b"big" else line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, ExitStack() as stack:
        hostile = [stack.enter_context(client(server)) for _ in range(8)]
        for sock in hostile:
            sock.sendall(b"big\nnext\n")
        wait_until(lambda: handled.count(b"big") == len(hostile))
        with client(server) as healthy:
            for _ in range(10):
                assert ask(healthy, b"hello\n") == b"hello\n"
        assert b"next" not in handled
        # And nothing but their readiness is waited for, or the leader would be told for ever that there is more.
        stuck = [conn for conn in driver_of(server).io.connections() if conn.outbox.pieces]
        assert [conn.watched for conn in stuck] == [WRITE] * len(hostile)
        for sock in hostile:  # who reads in the end gets all of it
            assert ask(sock, b"", len(big) + 5) == big + b"next\n"


def test_rule_8_a_slow_handler_is_not_called_for_a_client_that_does_not_read() -> None:
    big = b"x" * (8 << 20)
    handled: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        handled.append(line)
        threading.Event().wait(0.01)
        return big if line == b"big" else line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"slow\n") == b"slow\n"
        sock.sendall(b"big\nnext\n")
        wait_until(lambda: any(conn.outbox.pieces and not conn.busy for conn in driver_of(server).io.connections()))
        assert handled == [b"slow", b"big"]
        assert ask(sock, b"", len(big) + 5) == big + b"next\n"


# -- 9. stopping ----------------------------------------------------------------------------------------------------


def test_rule_9_stop_finishes_what_was_begun() -> None:
    inside, gate = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"slow":
            inside.set()
            assert gate.wait(PATIENCE)
        return line + b"\n"

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2).start()
    with client(server) as busy, client(server) as idle, client(server) as half:
        busy.sendall(b"slow\n")
        assert inside.wait(PATIENCE)
        assert ask(idle, b"x\n") == b"x\n"
        half.sendall(b"begun ")
        wait_until(lambda: any(conn.intake.begun for conn in driver_of(server).io.connections()))
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert receive_all(idle) == b""
        assert ask(half, b"and ended\n", 16) == b"begun and ended\n"
        assert receive_all(half) == b""
        gate.set()
        assert receive_all(busy) == b"slow\n"
        for sock in (busy, idle, half):
            sock.close()
        stopper.join(PATIENCE)
    assert server.stop() == 0


def test_rule_9_stop_empties_the_kernels_queue_first() -> None:
    inside, gate = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    server = lines().start()
    until_led(driver_of(server))
    driver_of(server).loop.post(block)  # so that nobody accepts
    assert inside.wait(PATIENCE)
    with ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(50)]
        for sock in socks:
            sock.sendall(b"x\n")
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        wait_until(lambda: server.snapshot().state == "stopping")
        gate.set()
        for sock in socks:
            assert receive_all(sock) == b"x\n"
            sock.close()
        stopper.join(PATIENCE)
    assert server.stop() == 0


def test_rule_9_what_is_not_done_in_time_is_cut_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with lines() as server, client(server) as half:
        half.sendall(b"half")
        wait_until(lambda: any(conn.intake.begun for conn in driver_of(server).io.connections()))
        assert server.stop(0.1) == 1
        assert receive_all(half) == b""
    assert "1 connection was not done in time, and cut" in caplog.text


def test_rule_9_an_answer_is_not_lost_by_closing_while_the_client_still_sends() -> None:
    answer = b"x" * 3_000_000  # more than the client's kernel takes at once, so some of it is still in ours

    def handle(line: bytes, peer: Peer) -> bytes:
        raise CloseConnection(answer)

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"go\n" + b"never to be answered\n" * 1000)
        assert receive(sock, 1) == b"x"
        sock.sendall(b"never to be read\n" * 1000)
        assert receive_all(sock) == answer[1:]


def test_rule_9_a_client_that_sends_on_and_on_is_not_waited_for() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        raise CloseConnection(b"bye\n")

    limits = Limits(linger_timeout=3600.0, max_linger_bytes=10_000)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", limits=limits) as server:
        with client(server) as sock, pytest.raises(OSError, match=GONE):
            sock.sendall(b"on and on\n" * 2_000_000)


# -- 10. ordinary clients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Messages(echo_line, Lines()), Messages(echo, Raw())])
def test_rule_10_half_closed_clients_get_their_answer(protocol: Messages[bytes]) -> None:
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"one\ntwo\n")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"one\ntwo\n"


def test_rule_10_a_last_line_without_its_end_counts() -> None:
    with lines() as server, client(server) as sock:
        sock.sendall(b"one\ntwo")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"one\ntwo\n"


def test_rule_10_half_closed_clients_of_a_slow_handler_get_their_answers() -> None:
    def handle(line: bytes, peer: Peer) -> bytes:
        threading.Event().wait(0.005)
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"1\n2\n3\n4\n")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"1\n2\n3\n4\n"

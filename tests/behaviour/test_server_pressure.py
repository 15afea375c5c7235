"""A server that is asked more than it can do: what waits, what is refused, in which order, and until when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import treadle
from orders.lifo import Keyed, Lifo
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle import Pool
from treadle.orders import Adaptive, Fair
from treadle.server import Limits, Lines, Messages, Peer, Server, Session

BUSY = b"BUSY\n"


class Gate:
    """A handler that is held up by lines that say so, and answers every line with itself."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)
        self.seen: list[bytes] = []

    def __call__(self, line: bytes, peer: Peer) -> bytes:
        if line.startswith(b"hold"):
            self.inside.release()
            assert self.open.wait(PATIENCE)
        self.seen.append(line)
        return line + b"\n"

    def wait_inside(self, count: int = 1) -> None:
        """Wait until so many more lines are held up."""
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE)


@contextmanager
def gated(*, limits: Limits | None = None, **options: Any) -> Iterator[tuple[Gate, Server]]:
    """Serve on a pool of one thread and these options."""
    gate, limits = Gate(), limits or Limits(reject_messages_with=BUSY)
    with Pool(1, **options) as pool, Server(Messages(gate, Lines()), "127.0.0.1:0", pool=pool, limits=limits) as server:
        yield gate, server


def until_free(server: Server) -> None:
    """Wait until a thread is free: a moment after it has answered. Without a queue that is all the room there is."""
    dispatcher = server._pool._task_dispatcher
    while True:
        with dispatcher.lock:
            if dispatcher.workers.free():
                return
        threading.Event().wait(0.005)


def test_a_message_that_the_pool_has_no_room_for_is_refused_in_its_turn_and_the_connection_goes_on() -> None:
    with (
        gated(queue_size=1, when_full="reject") as (gate, server),
        client(server) as holder,
        client(server) as waiter,
        client(server) as late,
    ):
        holder.sendall(b"hold\n")
        gate.wait_inside()
        waiter.sendall(b"waits\n")
        while server.snapshot().pool.waiting == 0:
            threading.Event().wait(0.005)
        assert ask(late, b"late\n") == BUSY
        assert server.snapshot().rejected_messages == 1
        gate.open.set()
        assert receive(holder, 5) == b"hold\n"
        assert receive(waiter, 6) == b"waits\n"
        assert ask(late, b"again\n") == b"again\n"


def test_without_words_for_it_a_refused_message_closes_its_connection() -> None:
    with (
        gated(queue_size=0, when_full="reject", limits=Limits()) as (gate, server),
        client(server) as holder,
        client(server) as late,
    ):
        holder.sendall(b"hold\n")
        gate.wait_inside()
        late.sendall(b"late\n")
        assert receive_all(late) == b""
        gate.open.set()
        assert receive(holder, 5) == b"hold\n"


def test_the_oldest_waiting_message_is_refused_where_the_policy_says_so() -> None:
    with (
        gated(queue_size=1, when_full="discard_oldest") as (gate, server),
        client(server) as holder,
        client(server) as first,
        client(server) as second,
    ):
        holder.sendall(b"hold\n")
        gate.wait_inside()
        first.sendall(b"first\n")
        while server.snapshot().pool.waiting == 0:
            threading.Event().wait(0.005)
        second.sendall(b"second\n")
        assert receive(first, len(BUSY)) == BUSY
        gate.open.set()
        assert receive(second, 7) == b"second\n"


def test_under_standing_delay_the_newest_message_is_handled_and_older_ones_are_refused() -> None:
    with gated(order=Adaptive(target=0.0, interval=0.0), queue_size=None) as (gate, server), ExitStack() as stack:
        holder = stack.enter_context(client(server))
        holder.sendall(b"hold\n")
        gate.wait_inside()
        waiting = []
        for number in range(4):
            sock = stack.enter_context(client(server))
            sock.sendall(b"%d\n" % number)
            waiting.append(sock)
            while server.snapshot().pool.waiting <= number:
                threading.Event().wait(0.005)
        gate.open.set()
        answers = [receive(sock, 2) for sock in waiting]
        assert answers[0] == b"0\n"  # before it was known that the queue stands
        assert answers[1:3] == [BUSY[:2]] * 2
        assert answers[3] == b"3\n"
        assert server.snapshot().rejected_messages == 2
        assert server.snapshot().pool.shed == 2


def test_pipelined_messages_are_refused_each_and_answers_keep_their_order() -> None:
    with gated(queue_size=0, when_full="reject") as (gate, server), client(server) as holder, client(server) as eager:
        holder.sendall(b"hold\n")
        gate.wait_inside()
        eager.sendall(b"1\n2\n3\n")
        assert receive(eager, 3 * len(BUSY)) == 3 * BUSY
        gate.open.set()
        assert receive(holder, 5) == b"hold\n"
        until_free(server)
        assert ask(eager, b"4\n5\n") == b"4\n5\n"
    assert not {b"1", b"2", b"3"} & set(gate.seen)


def test_a_conversation_that_is_refused_is_told_so_and_closed() -> None:
    began, may_end = threading.Event(), threading.Event()

    def talk(conn: Any) -> None:
        began.set()
        assert may_end.wait(PATIENCE)

    protocol, limits = Session(talk), Limits(reject_messages_with=BUSY)
    pool = Pool(1, queue_size=0, when_full="reject")
    with pool, Server(protocol, "127.0.0.1:0", pool=pool, limits=limits) as server:
        with client(server) as holder, client(server) as late:
            holder.sendall(b"x")
            assert began.wait(PATIENCE)
            late.sendall(b"x")
            assert receive_all(late) == BUSY
            may_end.set()


def test_fair_servers_take_turns_between_addresses() -> None:
    with gated(order="fair", queue_size=None) as (gate, server), ExitStack() as stack:
        holder = stack.enter_context(client(server))
        holder.sendall(b"hold\n")
        gate.wait_inside()
        many = [stack.enter_context(client(server)) for _ in range(3)]
        for number, sock in enumerate(many):
            sock.sendall(b"many %d\n" % number)
            while server.snapshot().pool.waiting <= number:
                threading.Event().wait(0.005)
        tasks = list(server._pool._task_dispatcher.queue.tasks)
        assert {task._options.key for task in tasks} == {"127.0.0.1"}
        gate.open.set()
        for number, sock in enumerate(many):
            assert receive(sock, 7) == b"many %d\n" % number


@pytest.mark.parametrize("kind", [Keyed, lambda: Fair(order="priority")])
def test_an_order_that_looks_at_keys_is_given_the_addresses_of_clients(kind: Callable[[], Any]) -> None:
    order = kind()
    with Pool(1, order=order, queue_size=None) as pool:
        gate = Gate()
        server = Server(Messages(gate, Lines()), "127.0.0.1:0", pool=pool, limits=Limits(reject_messages_with=BUSY))
        with server, client(server) as holder, client(server) as late:
            holder.sendall(b"hold\n")
            gate.wait_inside()
            late.sendall(b"late\n")
            while server.snapshot().pool.waiting < 1:
                threading.Event().wait(0.005)
            with pool._task_dispatcher.lock:
                assert {task.key for task in pool._task_dispatcher.queue.tasks} == {"127.0.0.1"}
            gate.open.set()
            assert receive(late, 5) == b"late\n"


def test_an_order_that_looks_at_no_keys_is_given_none() -> None:
    with Pool(1, order=Lifo(), queue_size=None) as pool:
        gate = Gate()
        server = Server(Messages(gate, Lines()), "127.0.0.1:0", pool=pool)
        with server, client(server) as holder, client(server) as late:
            holder.sendall(b"hold\n")
            gate.wait_inside()
            late.sendall(b"late\n")
            while server.snapshot().pool.waiting < 1:
                threading.Event().wait(0.005)
            with pool._task_dispatcher.lock:
                assert {task.key for task in pool._task_dispatcher.queue.tasks} == {None}
            gate.open.set()
            assert receive(late, 5) == b"late\n"


def test_a_handler_has_a_deadline_that_it_and_its_tasks_see_and_its_connection_is_cut_on_time() -> None:
    left: list[float | None] = []
    woken = threading.Event()
    with Pool(1, name="backend") as backend:

        def handle(line: bytes, peer: Peer) -> bytes:
            left.append(treadle.time_left())
            left.append(backend.submit(treadle.time_left).result())
            if line == b"quick":
                return b"done\n"
            try:
                treadle.sleep(3600)
            finally:
                woken.set()
            return b"never\n"

        limits = Limits(handler_timeout=0.3)
        with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, limits=limits) as server:
            with client(server) as quick, client(server) as slow:
                assert ask(quick, b"quick\n", 5) == b"done\n"
                slow.sendall(b"slow\n")
                assert receive_all(slow) == b""
                assert woken.wait(PATIENCE)
                assert ask(quick, b"quick\n", 5) == b"done\n"
        assert server.snapshot().closed_by["handler_timeout"] == 1
    assert len(left) == 6
    assert all(seconds is not None and 0 < seconds <= 0.3 for seconds in left)


def test_a_handler_that_does_not_look_runs_on_without_its_connection() -> None:
    ended, may_end = threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        assert may_end.wait(PATIENCE)
        ended.set()
        return b"late\n"

    limits = Limits(handler_timeout=0.05)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1, limits=limits) as server:
        with client(server) as sock:
            sock.sendall(b"x\n")
            assert receive_all(sock) == b""
            assert not ended.is_set()
            may_end.set()
            assert ended.wait(PATIENCE)


def test_what_belongs_to_the_servers_own_pool_is_refused_beside_another() -> None:
    with Pool(1) as pool, pytest.raises(ValueError, match="both pool and max_workers are given"):
        Server(Messages(Gate(), Lines()), "127.0.0.1:0", pool=pool, max_workers=1)


@pytest.mark.parametrize(
    ("name", "value"), [("reject_messages_with", "text"), ("handler_timeout", 0), ("handler_timeout", "1")]
)
def test_bad_limits_are_named(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Limits(**{name: value})  # type: ignore[arg-type]

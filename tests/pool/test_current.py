"""current_pool and current_task: what is told of who runs the caller."""

from __future__ import annotations

import gc
import socket
import socketserver
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import tcp
import treadle
from treadle import Crew, Future, Pipeline, Pool, Rate, current_pool, current_task
from treadle.server import Connection, Messages, Peer, PoolMixIn, Server, Session

PATIENCE = 30.0

Here = tuple[Pool | None, Future[Any] | None]


def here() -> Here:
    return current_pool(), current_task()


def test_a_thread_of_nobodys_is_in_no_pool_and_no_task() -> None:
    assert here() == (None, None)


def test_a_task_is_told_its_pool_and_its_own_future() -> None:
    with Pool(1) as pool:
        future = pool.submit(here)
        assert future.result(PATIENCE) == (pool, future)
        governed = pool.options(rate=Rate(1e6), deadline=PATIENCE).submit(here)
        assert governed.result(PATIENCE) == (pool, governed)
    with Pool(1, context=False) as pool:
        future = pool.submit(here)
        assert future.result(PATIENCE) == (pool, future)


def test_a_task_that_runs_inside_another_one_is_the_current_one_until_it_returns() -> None:
    def outer() -> tuple[Here, Here, Future[Any]]:
        inner = pool.submit(here)
        return inner.result(), here(), inner

    with Pool(1) as pool:
        future = pool.submit(outer)
        within, after, inner = future.result(PATIENCE)
        assert within == (pool, inner)
        assert after == (pool, future)


def test_a_task_that_its_caller_runs_is_its_pools_and_not_the_callers() -> None:
    gate = threading.Event()
    with Pool(1, name="other") as other, Pool(1, queue_size=0, when_full="caller_runs") as pool:
        pool.submit(gate.wait, PATIENCE)
        mine = pool.submit(here)  # in this thread
        assert mine.result(0) == (pool, mine)
        assert here() == (None, None)
        theirs = other.submit(lambda: (pool.submit(here), here()))  # in a thread of the other's
        mine, after = theirs.result(PATIENCE)
        assert mine.result(0) == (pool, mine)
        assert after == (other, theirs)
        gate.set()


@pytest.mark.parametrize("options", [{}, {"rate": Rate(1e6)}])
def test_an_item_of_a_map_is_in_the_pool(options: dict[str, float]) -> None:
    with Pool(1) as pool:
        results = list(pool.options(**options).map(lambda _: here(), range(3)))  # type: ignore[arg-type]  # a number
        assert [found for found, _ in results] == [pool] * 3
        if not options:  # no item has a future
            assert [task for _, task in results] == [None] * 3


def test_in_an_item_that_the_task_runs_which_takes_the_results_that_is_the_current_one() -> None:
    with Pool(1) as pool:
        future = pool.submit(lambda: list(pool.map(lambda _: here(), range(3))))
        assert future.result(PATIENCE) == [(pool, future)] * 3


def test_an_initializer_and_a_callback_are_in_the_pool_and_in_no_task() -> None:
    seen: list[Here] = []
    gate = threading.Event()
    with Pool(1, initializer=lambda: seen.append(here())) as pool:
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(lambda _: seen.append(here()))
        after = pool.submit(int)
        gate.set()
        after.result(PATIENCE)
    assert seen == [(pool, None), (pool, None)]


def test_in_the_callback_of_a_task_that_ran_inside_another_one_the_other_one_is_the_current_one() -> None:
    seen: list[Here] = []

    def outer() -> None:
        inner = pool.submit(int)
        inner.add_done_callback(lambda _: seen.append(here()))
        inner.result()

    with Pool(1) as pool:
        future = pool.submit(outer)
        future.result(PATIENCE)
        assert seen == [(pool, future)]


@pytest.mark.parametrize("pause", [0.0, 0.02])
@pytest.mark.parametrize("kind", ["messages", "session"])
def test_a_servers_handler_is_in_the_servers_pool_and_in_no_task_however_long_it_takes(kind: str, pause: float) -> None:
    """The leader runs it, or a worker to which it was handed."""
    seen: list[Here] = []

    def handle(message: bytes, peer: Peer) -> bytes:
        time.sleep(pause)  # why: long enough in a handler that the leader is taken for stuck
        seen.append(here())
        return message

    def converse(connection: Connection) -> None:
        while data := connection.recv():
            connection.sendall(handle(data, connection.peer))

    protocol = Messages(handle) if kind == "messages" else Session(converse)
    with Pool(2) as pool, Server(protocol, "127.0.0.1:0", pool=pool) as server, tcp.client(server) as client:
        for _ in range(5):
            assert tcp.ask(client, b"a") == b"a"
    assert set(seen) == {(pool, None)}


def test_a_handler_of_socketserver_is_in_the_pool_of_its_server() -> None:
    seen: list[Pool | None] = []
    told = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(current_pool())
            told.set()

    class Mixed(PoolMixIn, socketserver.TCPServer):
        pass

    with Pool(1) as pool, Mixed(("127.0.0.1", 0), Handler) as server:
        server.pool = pool
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with socket.create_connection(("127.0.0.1", server.socket.getsockname()[1]), PATIENCE) as client:
            client.sendall(b"a")
            assert told.wait(PATIENCE)
        server.shutdown()
        thread.join(PATIENCE)
    assert seen == [pool]


def test_the_threads_of_a_crew_and_a_pipeline_take_no_tasks_and_are_in_no_pool() -> None:
    seen: list[Here] = []
    crew: Crew[int] = Crew(lambda _: seen.append(here()), 1)
    with crew:
        crew.put(1)
    assert list(Pipeline().stage(lambda _: here()).run([1])) == [(None, None)]
    assert seen == [(None, None)]
    with Pool(1) as pool:  # and in a task that such a thread runs, it is that one's
        gate = threading.Event()
        pool.submit(gate.wait, PATIENCE)
        view = pool.options(when_full="caller_runs")
        other: Crew[int] = Crew(lambda _: seen.append(view.submit(here).result(PATIENCE)), 1)
        with other:
            other.put(1)
            gate.set()
    assert seen[-1][0] is pool


def dropped_pool(fn: Callable[[threading.Event], Any]) -> tuple[Future[Any], weakref.ref[Pool], threading.Event]:
    """Submit a task to a pool that nobody else holds; return its future, and what tells when it may begin."""
    pool, gate = Pool(1), threading.Event()
    return pool.submit(fn, gate), weakref.ref(pool), gate


def test_a_pool_that_was_dropped_is_nobodys() -> None:
    future, pool, gate = dropped_pool(lambda gate: gate.wait(PATIENCE) and here())
    gc.collect()
    assert pool() is None
    gate.set()
    assert future.result(PATIENCE) == (None, future)


def test_who_asks_keeps_the_pool_for_as_long_as_it_holds_what_it_got() -> None:
    asked = threading.Event()

    def holds(gate: threading.Event) -> int:
        pool = current_pool()
        asked.set()
        assert gate.wait(PATIENCE)
        assert pool is not None
        return pool.submit(abs, -1).result()  # it is not closed

    pool: Pool | None = Pool(1)
    assert pool is not None
    gate, gone = threading.Event(), threading.Event()
    weakref.finalize(pool, gone.set)
    future = pool.submit(holds, gate)
    assert asked.wait(PATIENCE)
    thread = next(iter(pool._threads))
    pool = None
    gc.collect()
    assert not gone.is_set()
    gate.set()
    assert future.result(PATIENCE) == 1
    assert gone.wait(PATIENCE)  # in the pool's own thread, which then ends
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_task_can_ask_its_own_future_to_stop() -> None:
    def stops() -> bool:
        task = current_task()
        assert task is not None
        return task.request_cancel() and treadle.should_stop()

    with Pool(1) as pool:
        assert pool.submit(stops).result(PATIENCE) is True

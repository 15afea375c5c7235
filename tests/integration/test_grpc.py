"""grpc.server, with a Pool, and a real client over loopback. Generic handlers: no generated code is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from treadle import Pool

grpc = pytest.importorskip("grpc", reason="grpcio has no release for this Python, or is not installed")

# gRPC keeps its pollers, and the threads of its C core, for the life of the process.
pytestmark = pytest.mark.leaves_behind("grpc never closes its pollers")

PATIENCE = 30.0
THREADS = 4


@contextmanager
def serving(pool: Pool, handlers: dict[str, object], most: int | None = None) -> Iterator[Any]:
    """Serve `handlers` on `pool`, at most `most` calls at once, and give a channel to them."""
    server = grpc.server(pool, maximum_concurrent_rpcs=most)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        assert server.stop(None).wait(PATIENCE)
        pool.shutdown()
        assert pool.snapshot().threads == 0


def unary(function: Callable[[bytes, object], bytes]) -> object:
    return grpc.unary_unary_rpc_method_handler(function)


def test_calls_are_answered_on_threads_of_the_pool() -> None:
    names: set[str] = set()

    def echo(request: bytes, context: object) -> bytes:
        names.add(threading.current_thread().name)
        return request

    with serving(Pool(THREADS, name="rpc"), {"Echo": unary(echo)}) as channel:
        call = channel.unary_unary("/test.Test/Echo")
        for number in range(20):
            assert call(b"%d" % number, timeout=PATIENCE) == b"%d" % number
    assert names
    assert names <= {f"rpc-{number}" for number in range(THREADS)}


def test_more_calls_at_once_than_threads_are_all_answered_and_never_more_run_than_threads() -> None:
    """Every thread is held while ten times as many calls come in; so all of them wait at once."""
    lock, opened, full = threading.Lock(), threading.Event(), threading.Event()
    running = highest = 0

    def echo(request: bytes, context: object) -> bytes:
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
            if running == THREADS:
                full.set()
        assert opened.wait(PATIENCE)
        with lock:
            running -= 1
        return request

    with serving(Pool(THREADS), {"Echo": unary(echo)}) as channel:
        call = channel.unary_unary("/test.Test/Echo")
        futures = [call.future(b"%d" % number, timeout=PATIENCE) for number in range(10 * THREADS)]
        assert full.wait(PATIENCE)
        opened.set()
        assert [future.result(PATIENCE) for future in futures] == [b"%d" % number for number in range(10 * THREADS)]
    assert highest == THREADS


def test_maximum_concurrent_rpcs_bounds_a_pool_without_a_bound_of_its_own() -> None:
    """How to bound a gRPC server. It calls `submit` with its own lock held, which its done callbacks take too: a pool
    that made it wait for room could make it wait for ever."""
    opened, began = threading.Event(), threading.Semaphore(0)

    def echo(request: bytes, context: object) -> bytes:
        began.release()
        assert opened.wait(PATIENCE)
        return request

    pool = Pool(THREADS, queue_size=None)
    with serving(pool, {"Echo": unary(echo)}, most=THREADS + 8) as channel:
        call = channel.unary_unary("/test.Test/Echo")
        futures = [call.future(b"x", timeout=PATIENCE) for _ in range(10 * THREADS)]
        for _ in range(THREADS):
            assert began.acquire(timeout=PATIENCE)
        refused = 10 * THREADS - (THREADS + 8)
        codes = []
        turned_away = threading.Semaphore(0)
        for future in futures:
            future.add_done_callback(lambda _: turned_away.release())
        for _ in range(refused):
            assert turned_away.acquire(timeout=PATIENCE)
        assert pool.snapshot().waiting == 8
        opened.set()
        codes = [future.code() for future in futures]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == refused
    assert codes.count(grpc.StatusCode.OK) == THREADS + 8


def test_streams_flow_both_ways() -> None:
    def double(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        for request in requests:
            yield request * 2

    handlers = {"Double": grpc.stream_stream_rpc_method_handler(double)}
    with serving(Pool(THREADS), handlers) as channel:
        call = channel.stream_stream("/test.Test/Double")
        answers = list(call(iter([b"a", b"b", b"c"]), timeout=PATIENCE))
    assert answers == [b"aa", b"bb", b"cc"]


def test_handler_that_raises_fails_its_own_call_only() -> None:
    def fail(request: bytes, context: object) -> bytes:
        if request == b"bad":
            raise LookupError("from the handler")
        return request

    with serving(Pool(THREADS), {"Fail": unary(fail)}) as channel:
        call = channel.unary_unary("/test.Test/Fail")
        with pytest.raises(grpc.RpcError, match="from the handler") as caught:
            call(b"bad", timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNKNOWN
        assert call(b"good", timeout=PATIENCE) == b"good"

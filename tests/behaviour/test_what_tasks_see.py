"""What tasks see of their submitter's context variables and of their thread's, by every way into a pool."""

from __future__ import annotations

import asyncio
import decimal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar, copy_context
from decimal import Decimal
from typing import Any

import pytest

import treadle
from tcp import ask, client
from treadle import Crew, Pipeline, Pool, Rate, TaskGroup
from treadle.events import Observer
from treadle.server import Connection, Lines, Messages, Server, Session

PATIENCE = 30.0
NAME: ContextVar[str] = ContextVar("name", default="nobody's")
OTHER: ContextVar[str] = ContextVar("other", default="nobody's")

Call = Callable[[int], Any]
Way = Callable[[Pool, Call], list[Any]]


@pytest.fixture(autouse=True)
def _own_decimal_context() -> Iterator[None]:
    before = decimal.getcontext().copy()
    yield
    decimal.setcontext(before)


def in_own_context(test: Callable[..., None], *args: Any) -> None:
    copy_context().run(test, *args)


def by_submit(pool: Pool, fn: Call) -> list[Any]:
    return [future.result(PATIENCE) for future in [pool.submit(fn, number) for number in range(3)]]


def by_options(pool: Pool, fn: Call) -> list[Any]:
    view = pool.options(name="weft")
    return [future.result(PATIENCE) for future in [view.submit(fn, number) for number in range(3)]]


def by_rate(pool: Pool, fn: Call) -> list[Any]:
    view = pool.options(rate=Rate(1e6))
    return [future.result(PATIENCE) for future in [view.submit(fn, number) for number in range(3)]]


def under_a_deadline(pool: Pool, fn: Call) -> list[Any]:
    with treadle.deadline(PATIENCE):
        return by_submit(pool, fn)


def by_run(pool: Pool, fn: Call) -> list[Any]:
    async def gather() -> list[Any]:
        return list(await asyncio.gather(*(pool.run(fn, number) for number in range(3))))

    return asyncio.run(gather())


def by_executor_of_a_loop(pool: Pool, fn: Call) -> list[Any]:
    async def gather() -> list[Any]:
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(pool, fn, number) for number in range(3))))

    return asyncio.run(gather())


def by_map(pool: Pool, fn: Call) -> list[Any]:
    return list(pool.map(fn, range(3)))


def by_map_in_chunks(pool: Pool, fn: Call) -> list[Any]:
    return list(pool.map(fn, range(3), chunksize=3))


def by_map_unordered(pool: Pool, fn: Call) -> list[Any]:
    return list(pool.map(fn, range(3), ordered=False))


def by_map_at_a_rate(pool: Pool, fn: Call) -> list[Any]:
    return list(pool.options(rate=Rate(1e6)).map(fn, range(3)))


def by_group(pool: Pool, fn: Call) -> list[Any]:
    with TaskGroup(pool, keep_going=True) as group:
        for number in range(3):
            group.submit(fn, number)
    return [outcome.result() for outcome in group.outcomes]


def inside_a_task(pool: Pool, fn: Call) -> list[Any]:
    """On the one thread of the pool, in tasks of others, that wait for them."""

    def outer(number: int) -> Any:
        return pool.submit(fn, number).result(PATIENCE)

    return by_submit(pool, outer)


def submitted_here_and_run_inside_a_task(pool: Pool, fn: Call) -> list[Any]:
    gate = treadle.Channel[list["Future[Any]"]](1)
    outer = pool.submit(lambda: [future.result(PATIENCE) for future in gate.get()])
    gate.put([pool.submit(fn, number) for number in range(3)])
    results: list[Any] = outer.result(PATIENCE)
    return results


def mapped_inside_a_task(pool: Pool, fn: Call) -> list[Any]:
    results: list[Any] = pool.submit(lambda: list(pool.map(fn, range(3)))).result(PATIENCE)
    return results


IN_THE_POOL: list[Way] = [
    by_submit,
    by_options,
    by_rate,
    under_a_deadline,
    by_run,
    by_executor_of_a_loop,
    by_map,
    by_map_in_chunks,
    by_map_unordered,
    by_map_at_a_rate,
    by_group,
    inside_a_task,
    submitted_here_and_run_inside_a_task,
    mapped_inside_a_task,
]


@contextmanager
def full(pool: Pool) -> Iterator[None]:
    """Keep a pool with one thread, and room for one task to wait, full."""
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert gate.wait(PATIENCE)

    held = pool.submit(hold)
    assert begun.wait(PATIENCE)
    queued = pool.submit(int)
    try:
        yield
    finally:
        gate.set()
    held.result(PATIENCE)
    queued.result(PATIENCE)


def in_the_caller(pool: Pool, fn: Call) -> list[Any]:
    """The pool is full, and its policy is to run tasks in the caller's thread."""
    with full(pool):
        futures = [pool.options(when_full="caller_runs").submit(fn, number) for number in range(3)]
        assert all(future.done() for future in futures)
        return [future.result() for future in futures]


def mapped_in_the_caller(pool: Pool, fn: Call) -> list[Any]:
    with full(pool), closing(pool.options(when_full="caller_runs").map(fn, range(3))) as results:
        return [next(results)]  # which ran as it was read


EVERY_WAY: list[Way] = [*IN_THE_POOL, in_the_caller, mapped_in_the_caller]


class Silent(Observer):
    """Observed tasks go another way."""


# -- the submitter's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observers", [(), (Silent(),)], ids=["plain", "observed"])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_each_task_has_a_decimal_context_of_its_own(way: Way, observers: tuple[Observer, ...]) -> None:
    def task(number: int) -> tuple[int, str]:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = 10 + number
        return before, str(Decimal(1) / 3)

    decimal.getcontext().prec = 5
    with Pool(1, queue_size=1 if "caller" in way.__name__ else 100, observers=observers) as pool:
        for before, third in way(pool, task):
            assert before == 5
            assert len(third) > len("0.33333")
    assert decimal.getcontext().prec == 5


def test_a_decimal_context_is_copied_as_it_is_at_submit() -> None:
    gate = threading.Event()
    decimal.getcontext().prec = 5
    with Pool(1) as pool:
        held = pool.submit(gate.wait, PATIENCE)
        future = pool.submit(lambda: decimal.getcontext().prec)
        results = pool.map(lambda _: decimal.getcontext().prec, range(2))
        decimal.getcontext().prec = 6
        gate.set()
        assert held.result(PATIENCE)
        assert future.result(PATIENCE) == 5
        assert list(results) == [5, 5]


def test_tasks_that_run_at_once_do_not_set_each_others_precision() -> None:
    together = threading.Barrier(4, timeout=PATIENCE)

    def task(digits: int) -> str:
        decimal.getcontext().prec = digits
        together.wait()
        return str(Decimal(1) / 3)

    decimal.getcontext()  # used here first, so that all have got it from here
    with Pool(4) as pool:
        assert [len(third) - 2 for third in pool.map(task, [3, 5, 7, 9])] == [3, 5, 7, 9]
        futures = [pool.submit(task, digits) for digits in [3, 5, 7, 9]]
        assert [len(future.result(PATIENCE)) - 2 for future in futures] == [3, 5, 7, 9]


def test_a_crews_items_do_not_set_each_others_precision() -> None:
    seen: list[int] = []
    over = threading.Event()

    def handle(digits: int) -> None:
        seen.append(decimal.getcontext().prec)
        decimal.getcontext().prec = digits
        if digits == 10:
            crew.put(11)
            crew.put(12)  # for which there is no room: it is handled here, at once
            seen.append(decimal.getcontext().prec)
            over.set()

    decimal.getcontext().prec = 5
    with Crew(handle, 1, channel=1) as crew:
        crew.put(10)
        assert over.wait(PATIENCE)
    assert seen == [5, 5, 10, 5]
    assert decimal.getcontext().prec == 5


@pytest.mark.parametrize("width", [1, 3])
def test_a_pipelines_source_and_items_do_not_set_each_others_precision(width: int) -> None:
    def source() -> Iterator[int]:
        yield decimal.getcontext().prec
        for digits in range(10, 15):
            decimal.getcontext().prec = digits
            yield digits

    def stage(digits: int) -> tuple[int, int]:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = digits
        return digits, before

    decimal.getcontext().prec = 5
    pipeline = Pipeline().stage(stage, workers=width).stage(lambda pair: (*pair, decimal.getcontext().prec))
    assert list(pipeline.run(source())) == [(digits, 5, 5) for digits in (5, *range(10, 15))]
    assert decimal.getcontext().prec == 5


@pytest.mark.parametrize("context", [True, False])
def test_what_runs_inside_a_task_sets_nothing_of_that_tasks(context: bool) -> None:
    """Its callbacks, too; without contexts of their own, such tasks would set the outer one's in the middle of it."""

    def disturb(_: object) -> None:
        NAME.set("the inner task's")
        decimal.getcontext().prec = 3

    def outer() -> tuple[str, int]:
        NAME.set("the outer task's")
        decimal.getcontext().prec = 9
        inner = pool.submit(disturb, 0)
        inner.add_done_callback(disturb)
        inner.result(PATIENCE)
        list(pool.map(disturb, range(3)))
        return NAME.get(), decimal.getcontext().prec

    with Pool(1, context=context) as pool:
        assert pool.submit(outer).result(PATIENCE) == ("the outer task's", 9)


@pytest.mark.parametrize("way", [in_the_caller, mapped_in_the_caller])
@pytest.mark.parametrize("context", [True, False])
def test_what_runs_in_the_caller_sets_nothing_of_the_callers(way: Way, context: bool) -> None:
    def task(_: int) -> str:
        seen = NAME.get()
        NAME.set("the task's")
        decimal.getcontext().prec = 3
        return seen

    def caller() -> None:
        NAME.set("the caller's")
        decimal.getcontext().prec = 9
        with Pool(1, queue_size=1, context=context) as pool:
            assert set(way(pool, task)) == {"the caller's"}
        assert (NAME.get(), decimal.getcontext().prec) == ("the caller's", 9)

    in_own_context(caller)


def test_connections_do_not_set_each_others_precision() -> None:
    def handle(message: bytes, _: object) -> bytes:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = int(message)
        return b"%d\n" % before

    default = decimal.DefaultContext.prec
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as one, client(server) as two:
            assert int(ask(one, b"7\n", 1 + len(str(default)))) == default
            assert int(ask(two, b"9\n", 1 + len(str(default)))) == default
            assert ask(one, b"7\n", 2) == b"7\n"


# -- the thread's --------------------------------------------------------------------------------------------------


def initialize(name: str = "the thread's", digits: int = 50) -> None:
    NAME.set(name)
    decimal.setcontext(decimal.Context(prec=digits))


def look(_: object = None) -> tuple[str, int]:
    return NAME.get(), decimal.getcontext().prec


def look_and_set(_: object = None) -> tuple[str, int]:
    seen = look()
    initialize("another task's", 3)
    return seen


@pytest.mark.parametrize("observers", [(), (Silent(),)], ids=["plain", "observed"])
@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("way", IN_THE_POOL)
def test_a_task_sees_what_the_initializer_set(way: Way, context: bool, observers: tuple[Observer, ...]) -> None:
    assert Decimal(1) / 3  # whoever uses it here has set nothing
    with Pool(1, initializer=initialize, observers=observers, context=context) as pool:
        assert set(way(pool, look_and_set if context else look)) == {("the thread's", 50)}
        assert set(way(pool, look)) == {("the thread's", 50)}


@pytest.mark.parametrize("way", EVERY_WAY)
def test_what_the_submitter_set_goes_before_what_the_initializer_set(way: Way) -> None:
    def submitter() -> None:
        initialize("the submitter's", 5)
        with Pool(1, queue_size=1 if "caller" in way.__name__ else 100, initializer=initialize) as pool:
            assert set(way(pool, look)) == {("the submitter's", 5)}

    in_own_context(submitter)


@pytest.mark.parametrize("way", [in_the_caller, mapped_in_the_caller])
@pytest.mark.parametrize("context", [True, False])
def test_what_the_initializer_set_is_not_seen_in_a_callers_thread(way: Way, context: bool) -> None:
    with Pool(1, queue_size=1, initializer=initialize, context=context) as pool:
        assert set(way(pool, look)) == {("nobody's", decimal.getcontext().prec)}


@pytest.mark.parametrize("make", [ThreadPoolExecutor, lambda *args: Pool(*args, context=False)], ids=["std", "pool"])
def test_without_contexts_tasks_share_their_threads_as_in_the_standard_pool(make: Callable[..., Executor]) -> None:
    decimal.getcontext().prec = 5
    with make(1, "", initialize) as pool:
        assert pool.submit(look_and_set).result(PATIENCE) == ("the thread's", 50)
        assert pool.submit(look).result(PATIENCE) == ("another task's", 3)
        assert list(pool.map(look, range(2))) == [("another task's", 3)] * 2
    assert look() == ("nobody's", 5)


def test_a_task_does_not_pass_on_what_is_its_threads() -> None:
    """Where each thread has a value of its own, such as a connection, no other may use it."""

    def own() -> None:
        NAME.set(threading.current_thread().name)

    def outer() -> Future[tuple[str, str, str]]:
        OTHER.set("the outer task's")
        future = pool.submit(lambda: (NAME.get(), OTHER.get(), threading.current_thread().name))
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE)  # not `result`, which would run it here
        return future

    with Pool(2, initializer=own, min_workers=2) as pool:
        name, other, thread = pool.submit(outer).result(PATIENCE).result(PATIENCE)
        assert other == "the outer task's"
        assert name == thread


@pytest.mark.parametrize("inner_context", [True, False])
@pytest.mark.parametrize("outer_context", [True, False])
def test_another_pools_tasks_do_not_see_it(outer_context: bool, inner_context: bool) -> None:
    """Wherever they run: in their own threads, or, because those are busy, in the one that submits them."""
    seen = "nobody's", decimal.DefaultContext.prec
    with (
        Pool(1, initializer=initialize, context=outer_context) as one,
        Pool(1, queue_size=1, when_full="caller_runs", context=inner_context) as other,
    ):
        assert one.submit(lambda: other.submit(look).result(PATIENCE)).result(PATIENCE) == seen
        with full(other):
            assert one.submit(lambda: other.submit(look).result(PATIENCE)).result(PATIENCE) == seen
            assert one.submit(lambda: next(other.map(look, [0]))).result(PATIENCE) == seen


def test_a_task_that_a_callback_submits_sees_what_its_own_thread_has() -> None:
    futures = treadle.Channel[Any](1)
    with Pool(1, initializer=initialize) as pool, Pool(1) as other:
        gate = threading.Event()
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(lambda _: futures.put((pool.submit(look), other.submit(look))))
        gate.set()
        ours, others = futures.get(PATIENCE)
        assert ours.result(PATIENCE) == ("the thread's", 50)
        assert others.result(PATIENCE) == ("nobody's", decimal.DefaultContext.prec)


def test_a_callback_sets_nothing_of_the_tasks_after_it() -> None:
    done = threading.Event()
    with Pool(1, initializer=initialize) as pool:
        gate = threading.Event()
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(lambda _: initialize("the callback's", 3))
        future.add_done_callback(lambda _: done.set())
        gate.set()
        assert done.wait(PATIENCE)
        assert pool.submit(look).result(PATIENCE) == ("the thread's", 50)
        assert list(pool.map(look, [0])) == [("the thread's", 50)]


def test_a_worker_that_replaces_another_has_what_its_own_initializer_set(caplog: pytest.LogCaptureFixture) -> None:
    numbers = iter(range(10, 20))

    def kill(_: object) -> None:
        raise SystemExit

    with Pool(1, initializer=lambda: initialize("the thread's", next(numbers))) as pool:
        gate = threading.Event()
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(kill)
        after = pool.submit(look)
        gate.set()
        assert future.result(PATIENCE)
        assert after.result(PATIENCE) == ("the thread's", 11)
    assert "was killed" in caplog.text


def test_handlers_see_what_the_initializer_set_in_their_own_thread() -> None:
    """A connection's variables are its own, and stay so; what is a thread's does not come along to another."""

    def own() -> None:
        initialize(threading.current_thread().name)

    def answer() -> bytes:
        name, precision = look()
        seen = f"{OTHER.get()} {name == threading.current_thread().name} {precision}\n".encode()
        OTHER.set("connection's")
        return seen

    def converse(conn: Connection) -> None:
        while conn.readline():
            conn.sendall(answer())

    blocking = threading.Barrier(2, timeout=PATIENCE)

    def handle(message: bytes, _: object) -> bytes:
        if message == b"meet":
            blocking.wait()  # in two threads at once: one of them is not the leader
        return answer()

    first, later = b"nobody's True 50\n", b"connection's True 50\n"
    with Pool(3, initializer=own) as pool:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool) as server:
            with client(server) as one, client(server) as two:
                for expected in (first, *[later] * 5):
                    one.sendall(b"meet\n")
                    assert ask(two, b"meet\n", len(expected)) == expected
                    assert ask(one, b"", len(expected)) == expected
                    assert ask(one, b"alone\n", len(later)) == later
        with Server(Session(converse), "127.0.0.1:0", pool=pool) as server, client(server) as one:
            assert ask(one, b"\n", len(first)) == first
            assert ask(one, b"\n", len(later)) == later


def precision_and_name(_: int = 0) -> tuple[int, str]:
    return decimal.getcontext().prec, NAME.get()


@pytest.mark.parametrize("way", EVERY_WAY)
def test_what_the_submitter_set_goes_on_to_the_next_pool_though_the_first_ones_thread_has_the_same(way: Way) -> None:
    """Each of the pools has an initializer of its own."""

    def initializer(digits: int, name: str) -> None:
        decimal.setcontext(decimal.Context(prec=digits))
        NAME.set(name)

    def onward(_: int) -> tuple[int, str]:
        result: tuple[int, str] = other.submit(precision_and_name).result(PATIENCE)
        return result

    def submitter() -> None:
        initializer(50, "first")
        assert set(way(pool, onward)) == {(50, "first")}

    with (
        Pool(1, queue_size=10 if way in IN_THE_POOL else 1, initializer=initializer, initargs=(50, "first")) as pool,
        Pool(1, initializer=initializer, initargs=(9, "second")) as other,
    ):
        in_own_context(submitter)
        assert pool.submit(onward, 0).result(PATIENCE) == (9, "second")

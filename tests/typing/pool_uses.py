"""Uses of pools, futures and what stands on them. `assert_type` marks what is right, `# wrong` what is not.

Nothing here is run: type checkers read it (see test_uses.py).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from queue import Queue
from typing import Any, assert_type

import treadle
from treadle import (
    Channel,
    ConcurrencyLimit,
    Crew,
    Future,
    Outcome,
    Pipeline,
    Pool,
    PoolView,
    Rate,
    TaskGroup,
    as_completed,
    wait,
)
from treadle.errors import DeadlineExceeded, Overloaded, PoolFull, Shed, TreadleError
from treadle.events import Observer, PoolSnapshot, TaskEvent
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority


def query(customer: int, *, limit: int = 10) -> list[str]:
    return [str(customer)] * limit


def nothing() -> None: ...


async def coroutine() -> int:
    return 1


class Account:
    def balance(self, currency: str) -> float:
        return len(currency)

    @classmethod
    def all(cls) -> list[Account]:
        return []


def submit(pool: Pool, account: Account) -> None:
    assert_type(pool.submit(query, 7), Future[list[str]])
    assert_type(pool.submit(query, 7, limit=3), Future[list[str]])
    assert_type(pool.submit(query, customer=7), Future[list[str]])
    assert_type(pool.submit(query, 7).result(), list[str])
    assert_type(pool.submit(query, 7).result(timeout=2), list[str])
    assert_type(pool.submit(query, 7).exception(), BaseException | None)
    assert_type(pool.submit(nothing), Future[None])
    assert_type(pool.submit(lambda: 3), Future[int])
    assert_type(pool.submit(account.balance, "EUR"), Future[float])
    assert_type(pool.submit(Account.all), Future[list[Account]])
    assert_type(pool.submit(Account), Future[Account])
    assert_type(pool.submit(int, "7"), Future[int])
    assert_type(pool.submit(query, 7).done(), bool)
    assert_type(pool.submit(query, 7).cancel(), bool)
    assert_type(pool.submit(query, 7).request_cancel(), bool)
    assert_type(pool.submit(query, 7).name, str)
    pool.submit(query, "seven")  # wrong
    pool.submit(query)  # wrong
    pool.submit(query, 7, limit="3")  # wrong
    pool.submit(query, 7, most=3)  # wrong
    pool.submit(account.balance)  # wrong
    pool.submit()  # wrong
    pool.submit(3)  # wrong
    pool.submit(query, 7).result(timeout="2")  # wrong
    standard: concurrent.futures.Future[list[str]] = pool.submit(query, 7)
    wrong: Future[int] = pool.submit(query, 7)  # wrong
    pool.submit(query, 7).add_done_callback(lambda future: print(future.result()))


def pools(account: Account) -> None:
    executor: concurrent.futures.Executor = Pool(8)
    standard: concurrent.futures.ThreadPoolExecutor = Pool(8)
    with Pool(8) as pool:
        assert_type(pool, Pool)
    Pool(8, when_full="reject", order="adaptive", queue_size=None)
    Pool(8, when_full="wait")  # wrong
    Pool(8, order="lifo")  # wrong
    Pool("8")  # wrong
    Pool(8, rate=2)  # wrong
    Pool(8, rate=Rate(2, per=60.0, burst=5))
    Pool(8, limit=ConcurrencyLimit(4, min_limit=2))
    Pool(8, limit=4)  # wrong
    Pool(8, 16, queue_size="many")  # wrong
    Pool(8, observers=[Observer()])
    Pool(8, observers=[print])  # wrong
    Pool(8, initializer=account.balance, initargs=("EUR",))
    Pool(8, order=Fair(weights={"a": 2.0}))
    Pool(8, order=Priority())
    Pool(8, order=Fifo)  # wrong
    assert_type(Pool(8).name, str)
    assert_type(Pool(8).max_workers, int)
    assert_type(Pool(8).closed, bool)
    assert_type(Pool(8).snapshot(), PoolSnapshot)
    assert_type(Pool(8).snapshot().failed, int)
    assert_type(Pool(8).snapshot().limit, int | None)
    assert_type(treadle.current_pool(), Pool | None)
    assert_type(treadle.current_task(), Future[Any] | None)
    assert_type(treadle.__version__, str)


class Named(Pool):
    pass


def subclass() -> None:
    with Named(2) as pool:
        assert_type(pool, Named)


@contextmanager
def connection() -> Iterator[None]:
    yield


def lifespans() -> None:
    Pool(8, thread_lifespan=connection)
    Pool(8, thread_lifespan=nothing)  # wrong
    Pool(8, thread_lifespan=3)  # wrong


def views(pool: Pool) -> None:
    assert_type(pool.options(priority=3), PoolView)
    assert_type(pool.options(key="a").options(block_timeout=0.5, when_full="block"), PoolView)
    assert_type(pool.options(name="q").submit(query, 7), Future[list[str]])
    assert_type(pool.options(deadline=2).submit(query, 7), Future[list[str]])
    executor: concurrent.futures.Executor = pool.options(name="q")
    pool.options(timeout=2)  # wrong
    pool.options(when_full="drop")  # wrong
    pool.options(rate=2)  # wrong
    pool.options(priority="high")  # wrong
    pool.options(key=("a", 3), rate=Rate(3))
    pool.options(deadline="2")  # wrong


def halves(number: int, by: float) -> float:
    return number / by


def maps(pool: Pool) -> None:
    for text in pool.map(str, [1, 2]):
        assert_type(text, str)
    assert_type(list(pool.map(query, range(3))), list[list[str]])
    assert_type(list(pool.map(halves, [1, 2], [0.5, 0.25])), list[float])
    assert_type(list(pool.map(lambda item: item * 2, [1, 2])), list[int])
    assert_type(list(pool.options(name="x").map(query, range(3), buffersize=4, ordered=False)), list[list[str]])
    assert_type(sum(pool.map(abs, [1, -2])), int)
    pool.map(query, ["a"])  # wrong
    pool.map(halves, [1, 2])  # wrong
    pool.map(halves, [1], ["x"])  # wrong
    pool.map(query, range(3), chunksize="2")  # wrong
    pool.map(query, 3)  # wrong
    with closing(pool.map(query, range(3))) as results:
        assert_type(next(results), list[str])
    for outcome in pool.outcomes(query, range(3)):
        assert_type(outcome, Outcome[int, list[str]])
        assert_type(outcome.item, int)
        assert_type(outcome.error, BaseException | None)
    pool.outcomes(query, ["a"])  # wrong


async def loop(pool: Pool) -> None:
    assert_type(await pool.run(query, 7), list[str])
    assert_type(await pool.options(name="q").run(query, 7, limit=2), list[str])
    await pool.run(query, "7")  # wrong
    here = asyncio.get_running_loop()
    here.set_default_executor(pool)
    assert_type(await here.run_in_executor(pool, query, 7), list[str])
    await here.run_in_executor(pool.options(priority=1), query, 7)
    async with Pool(2) as other:
        assert_type(other, Pool)


def waits(pool: Pool, strange: concurrent.futures.Future[int]) -> None:
    futures = [pool.submit(query, number) for number in range(3)]
    for future in as_completed(futures):
        assert_type(future, Future[list[str]])
    done, _pending = wait(futures, timeout=1)
    assert_type(done, set[Future[list[str]]])
    assert_type(wait(futures, return_when=treadle.FIRST_COMPLETED).not_done, set[Future[list[str]]])
    assert_type(wait([strange]).done, set[concurrent.futures.Future[int]])
    wait([1])  # wrong
    wait(futures, return_when="first")  # wrong
    as_completed(futures, timeout="1")  # wrong


def groups(pool: Pool) -> None:
    with TaskGroup(pool) as group:
        assert_type(group.submit(query, 7), Future[list[str]])
        group.submit(query, "7")  # wrong
    with TaskGroup(pool.options(priority=1), keep_going=True) as group:
        group.submit(nothing)
    assert_type(group.outcomes[0].error, BaseException | None)
    TaskGroup(pool, collect=True)  # wrong
    TaskGroup(concurrent.futures.ThreadPoolExecutor())  # wrong


def deadlines() -> None:
    with treadle.deadline(2.0), treadle.deadline(None):
        assert_type(treadle.time_left(), float | None)
        assert_type(treadle.should_stop(), bool)
        treadle.checkpoint()
        treadle.sleep(0.1)
    treadle.deadline("2")  # wrong
    treadle.sleep(None)  # wrong


def channels() -> None:
    channel: Channel[int] = Channel(3)
    channel.put(3)
    channel.put("3")  # wrong
    assert_type(channel.get(), int)
    for item in channel:
        assert_type(item, int)
    with Channel[bytes](8) as other:
        assert_type(other.get(timeout=1), bytes)


def crews(queue: Queue[str]) -> None:
    def handle(item: str) -> None:
        queue.put(item)

    crew = Crew(handle, 2)
    assert_type(crew, Crew[str])
    crew.put("a")
    crew.put(3)  # wrong
    Crew(handle, 2, on_error=lambda item, error: print(item.upper(), error))
    Crew(handle, "2")  # wrong


def fetch(url: str) -> bytes:
    return url.encode()


def parse(page: bytes) -> list[str]:
    return [page.decode()]


def pipelines() -> None:
    pipeline = Pipeline().stage(fetch, workers=8).stage(parse)
    assert_type(pipeline, Pipeline[str, list[str]])
    assert_type(pipeline.run(["a"]), Generator[list[str], None, None])
    for words in pipeline.run(["a"], ordered=False):
        assert_type(words, list[str])
    pipeline.run([1])  # wrong
    Pipeline().stage(fetch).stage(query)  # wrong
    Pipeline().stage(parse).stage(parse)  # wrong
    Pipeline().stage(fetch, width=8)  # wrong
    assert_type(list(Pipeline().run([1, 2])), list[int])
    three = Pipeline().stage(lambda item: 3)
    assert_type(next(three.run(["a"])), int)  # mypy: it takes the lambda for Any


def errors(pool: Pool) -> None:
    try:
        pool.submit(query, 7).result()
    except PoolFull as full:
        assert_type(full.queue_size, int | None)
    except Shed as shed:
        assert_type(shed.waited, float)
        assert_type(shed.task_name, str)
    except Overloaded as overloaded:
        base: TreadleError = overloaded
    except DeadlineExceeded as late:
        standard: TimeoutError = late


class Metrics(Observer):
    def finished(self, event: TaskEvent) -> None:
        assert_type(event.ran, float | None)
        assert_type(event.waited, float | None)
        assert_type(event.time_ns, int)
        assert_type(event.task_id, int)
        assert_type(event.thread, str)

    def started(self, event: str) -> None: ...  # wrong


def policies(chosen: treadle.WhenFull) -> None:
    Pool(8, when_full=chosen)
    Pool(8).options(when_full=chosen)
    policies("reject")
    policies("wait")  # wrong


def orders() -> None:
    base: list[Order] = [Fifo(), Priority(), Fair(max_running=2), Adaptive()]
    Fair(max_running={"a": 1})
    Fair(max_running="a")  # wrong

"""Pool(thread_lifespan=...): entered in each new thread, and left there when that ends, whatever ends it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import pytest

from behaviour.scripts import script
from blocked import until_blocked
from treadle import Pool
from treadle._dispatch.idle import IdleTask
from treadle.errors import PoolBroken, PoolFull, WorkerLost
from treadle.events import Observer, TaskEvent

SOON = 30.0  # seconds in which what is sure to happen does

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Book:
    """Lifespans that note who enters them, and who leaves; and how many are open at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: list[str] = []  # names of threads
        self.entered: list[str] = []
        self.left: list[str] = []
        self.most = 0
        self.came = threading.Semaphore(0)  # released once for each that is left
        self.errors: list[BaseException | None] = []
        self.hold: threading.Event | None = None  # what leaving waits for
        self.leaving = threading.Semaphore(0)  # released once for each that begins to be left

    def __call__(self) -> Book:
        return self

    def __enter__(self) -> None:
        name = threading.current_thread().name
        with self.lock:
            self.entered.append(name)
            self.open.append(name)
            self.most = max(self.most, len(self.open))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert kind is (None if error is None else type(error))
        self.leaving.release()
        assert self.hold is None or self.hold.wait(SOON)
        name = threading.current_thread().name
        with self.lock:
            self.open.remove(name)
            self.left.append(name)
            self.errors.append(error)
        self.came.release()


def all_at_once(pool: Pool, threads: int) -> None:
    """Have so many threads."""
    barrier = threading.Barrier(threads)
    for future in [pool.submit(barrier.wait, SOON) for _ in range(threads)]:
        future.result(SOON)


def test_each_thread_enters_it_before_its_first_task_and_leaves_it_before_shutdown_returns() -> None:
    book = Book()
    with Pool(3, thread_lifespan=book, name="db") as pool:
        assert not book.entered
        assert pool.submit(lambda: threading.current_thread().name in book.open).result(SOON)
        all_at_once(pool, 3)
        assert sorted(book.entered) == ["db-0", "db-1", "db-2"]
        assert not book.left
    assert sorted(book.left) == ["db-0", "db-1", "db-2"]
    assert book.errors == [None] * 3


def test_it_is_entered_after_the_initializer_and_left_in_the_thread_that_entered_it() -> None:
    told: list[tuple[str, int]] = []

    @contextmanager
    def lifespan() -> Iterator[None]:
        told.append(("entered", threading.get_ident()))
        try:
            yield
        finally:
            told.append(("left", threading.get_ident()))

    def initialize() -> None:
        told.append(("initialized", threading.get_ident()))

    with Pool(1, initializer=initialize, thread_lifespan=lifespan) as pool:
        ident = pool.submit(threading.get_ident).result(SOON)
    assert told == [("initialized", ident), ("entered", ident), ("left", ident)]


def test_what_is_local_to_the_thread_is_still_there_when_it_is_left() -> None:
    here, told = threading.local(), []

    @contextmanager
    def lifespan() -> Iterator[None]:
        here.connection = "open"
        yield
        told.append(here.connection)

    with Pool(1, thread_lifespan=lifespan) as pool:
        assert pool.submit(lambda: here.connection).result(SOON) == "open"
    assert told == ["open"]


def drops(pool: list[Pool]) -> None:
    pool.clear()
    gc.collect()


ENDS: dict[str, Callable[[list[Pool]], object]] = {
    "shutdown": lambda pool: pool[0].shutdown(),
    "shutdown without waiting": lambda pool: pool[0].shutdown(wait=False),
    "shutdown that cancels": lambda pool: pool[0].shutdown(cancel_futures=True),
    "shutdown with a timeout": lambda pool: pool[0].shutdown(timeout=SOON),
    "dropped": drops,
    "resized down": lambda pool: pool[0].resize(1),
    "Ctrl-C in the block": lambda pool: pool[0].__exit__(KeyboardInterrupt, KeyboardInterrupt(), None),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_idle_threads_leave_it_whatever_ends_them(end: Callable[[list[Pool]], object]) -> None:
    book = Book()
    pools = [Pool(2, thread_lifespan=book)]
    all_at_once(pools[0], 2)
    end(pools)
    assert book.came.acquire(timeout=SOON)
    for pool in pools:
        pool.shutdown()
        assert len(book.left) == 2


def test_a_thread_that_was_idle_for_too_long_leaves_it_and_the_next_enters_its_own() -> None:
    book = Book()
    with Pool(1, idle_timeout=0.01, thread_lifespan=book) as pool:
        for number in range(1, 4):
            pool.submit(int).result(SOON)
            assert book.came.acquire(timeout=SOON)
            assert len(book.left) == number
    assert len(book.entered) == len(book.left)


def test_a_worker_that_is_killed_leaves_it_with_what_killed_it(caplog: pytest.LogCaptureFixture) -> None:
    book = Book()

    def kills(_: object) -> None:
        raise SystemExit("killed")

    gate = threading.Event()
    with caplog.at_level(logging.CRITICAL), Pool(1, thread_lifespan=book) as pool:
        task = pool.submit(gate.wait, SOON)
        task.add_done_callback(kills)
        after = pool.submit(abs, -3)
        gate.set()
        assert after.result(SOON) == 3, "another thread has taken its place"
    assert len(book.left) == 2
    assert [str(error) for error in book.errors] == ["killed", "None"]


def test_a_lifespan_that_fails_breaks_the_pool_as_an_initializer_does(caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    @contextmanager
    def lifespan() -> Iterator[None]:
        entered.wait(SOON)
        raise OSError("no connection")
        yield

    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), Pool(1, thread_lifespan=lifespan) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        entered.set()
        for future in futures:
            with pytest.raises(PoolBroken, match="A thread_lifespan failed"):
                future.result(SOON)
        with pytest.raises(PoolBroken, match="A thread_lifespan failed"):
            pool.submit(int)
    (record,) = caplog.records
    assert record.getMessage() == "Exception in thread_lifespan:"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no connection"


def test_the_threads_of_a_pool_that_breaks_leave_theirs(caplog: pytest.LogCaptureFixture) -> None:
    book, numbers = Book(), iter(range(10))

    class Second(Book):
        def __enter__(self) -> None:
            if next(numbers):
                raise OSError("the second")
            book.__enter__()

        def __exit__(self, *what: Any) -> None:
            book.__exit__(*what)

    pool = Pool(2, thread_lifespan=Second())
    gate, began = threading.Event(), threading.Event()

    def first_task() -> bool:
        began.set()
        return gate.wait(SOON)

    first = pool.submit(first_task)
    assert began.wait(SOON)
    with pytest.raises(PoolBroken):
        pool.submit(int).result(SOON)
    gate.set()
    assert first.result(SOON)
    pool.shutdown()
    assert len(book.left) == 1


async def coroutine_function() -> None: ...


def generator_function() -> Iterator[None]:
    yield


@asynccontextmanager
async def asynchronous() -> Any:
    yield


@pytest.mark.parametrize(
    ("lifespan", "words"),
    [
        (3, "must be a callable"),
        (coroutine_function, "coroutine function"),
        (generator_function, "decorate it with contextlib.contextmanager"),
        (lambda connection: connection, "is called without arguments"),
    ],
)
def test_what_cannot_make_a_lifespan_is_refused_at_once(lifespan: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        Pool(1, thread_lifespan=lifespan)
    assert str(caught.value).startswith("thread_lifespan=")


@pytest.mark.parametrize("lifespan", [lambda: None, asynchronous, lambda: 3], ids=["None", "async", "number"])
def test_what_is_no_context_manager_is_refused_when_it_is_first_seen(
    lifespan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), Pool(1, thread_lifespan=lifespan) as pool:
        with pytest.raises(PoolBroken):
            pool.submit(int).result(SOON)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert type(record.exc_info[1]) is TypeError
    assert "allowed: a context manager" in str(record.exc_info[1])


@pytest.mark.parametrize("error", [OSError("leaving"), SystemExit(3), KeyboardInterrupt()])
def test_one_that_raises_when_it_is_left_is_logged_once_and_harms_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Lifespan:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            raise error

    with (
        caplog.at_level(logging.DEBUG, "treadle"),
        Pool(1, idle_timeout=None, thread_lifespan=Lifespan, name="db") as pool,
    ):
        assert pool.submit(abs, -3).result(SOON) == 3
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "db-0" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("context", [True, False])
def test_context_variables_that_it_sets_hold_for_the_tasks_of_its_thread(context: bool) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    told = []

    @contextmanager
    def lifespan() -> Iterator[None]:
        token = variable.set(threading.current_thread().name)
        yield
        told.append(variable.get())
        variable.reset(token)

    with Pool(2, thread_lifespan=lifespan, context=context, name="db") as pool:
        barrier = threading.Barrier(2)

        def look() -> tuple[str, str]:
            barrier.wait(SOON)
            return variable.get(), threading.current_thread().name

        seen = [future.result(SOON) for future in [pool.submit(look) for _ in range(2)]]
    assert sorted(seen) == [("db-0", "db-0"), ("db-1", "db-1")]
    assert sorted(told) == ["db-0", "db-1"]


# -- leaving takes long -------------------------------------------------------------------------------------------


def test_a_thread_counts_until_it_has_left_so_there_are_never_more_than_there_may_be() -> None:
    book = Book()
    book.hold = threading.Event()
    with Pool(1, idle_timeout=0, thread_lifespan=book) as pool:
        pool.submit(int).result(SOON)
        assert book.leaving.acquire(timeout=SOON)
        waits = pool.submit(abs, -3)
        assert "leaving its thread_lifespan" in pool.stacks()
        assert [thread.is_alive() for thread in pool._threads] == [True]
        assert not waits.done()
        book.hold.set()
        assert waits.result(SOON) == 3, "the thread that comes after it runs what came meanwhile"
    assert book.most == 1


@pytest.mark.parametrize("repeat", range(5))
def test_threads_come_and_go_and_none_is_lost_or_too_many(repeat: int) -> None:
    book = Book()
    with Pool(3, idle_timeout=0, thread_lifespan=book) as pool:
        for number in range(60):
            for future in [pool.submit(abs, -n) for n in range(number % 5)]:
                future.result(SOON)
            pool.resize(1 + number % 3)
        assert sum(pool.map(abs, range(100))) == 4950
    assert book.most <= 3
    assert sorted(book.entered) == sorted(book.left)


def test_closing_the_pool_starts_no_thread_beyond_its_ceiling_while_others_leave() -> None:
    book = Book()
    book.hold = threading.Event()
    pool = Pool(1, idle_timeout=0, thread_lifespan=book)
    pool.submit(int).result(SOON)
    assert book.leaving.acquire(timeout=SOON)
    waits = pool.submit(abs, -3)
    pool.shutdown(wait=False)
    assert len(pool._threads) == 1
    book.hold.set()
    assert waits.result(SOON) == 3
    pool.shutdown()
    assert book.most == 1


def test_where_nothing_may_wait_a_task_is_taken_only_when_a_thread_has_left() -> None:
    book = Book()
    book.hold = threading.Event()
    with Pool(1, queue_size=0, idle_timeout=0, thread_lifespan=book) as pool:
        pool.submit(int).result(SOON)
        assert book.leaving.acquire(timeout=SOON)
        with pytest.raises(PoolFull):
            pool.options(when_full="reject").submit(abs, -3)
        caller = threading.Thread(target=pool.submit, args=(abs, -3))
        caller.start()
        until_blocked(pool, 1)
        book.hold.set()
        caller.join(SOON)
        assert not caller.is_alive()
    assert book.most == 1
    assert pool.snapshot().finished == 2


def test_the_other_threads_go_on_meanwhile() -> None:
    book = Book()
    book.hold = threading.Event()
    with Pool(2, thread_lifespan=book) as pool:
        all_at_once(pool, 2)
        pool.resize(1)
        assert book.leaving.acquire(timeout=SOON)
        assert list(pool.map(abs, range(5))) == [0, 1, 2, 3, 4]
        book.hold.set()


def test_the_timeout_of_shutdown_holds_while_threads_leave_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book()
    book.hold = threading.Event()
    pool = Pool(1, thread_lifespan=book, name="db")
    pool.submit(int).result(SOON)
    with caplog.at_level(logging.WARNING, "treadle"):
        assert pool.shutdown(timeout=0.01) == ()
    assert [record.getMessage() for record in caplog.records] == [
        "pool 'db': 1 thread was still leaving its thread_lifespan 0.01 s after shutdown: db-0"
    ]
    assert not book.left
    book.hold.set()
    pool.shutdown()
    assert book.left == ["db-0"]


def test_shutdown_waits_for_a_thread_that_had_begun_to_leave() -> None:
    book = Book()
    book.hold = threading.Event()
    pool = Pool(1, idle_timeout=0, thread_lifespan=book)
    pool.submit(int).result(SOON)
    assert book.leaving.acquire(timeout=SOON)
    closer = threading.Thread(target=pool.shutdown)
    closer.start()
    closer.join(0.01)
    assert closer.is_alive()
    book.hold.set()
    closer.join(SOON)
    assert not closer.is_alive()
    assert book.left


def test_standing_work_is_taken_up_by_the_thread_that_comes_after(caplog: pytest.LogCaptureFixture) -> None:
    book, stood = Book(), threading.Event()
    book.hold = threading.Event()

    class Stands(IdleTask):
        __slots__ = ()

        def run_idle(self) -> None:
            stood.set()

        def preempt(self) -> None: ...

    with Pool(1, idle_timeout=0, thread_lifespan=book) as pool:
        pool.submit(int).result(SOON)
        assert book.leaving.acquire(timeout=SOON)
        assert pool._task_dispatcher.add_idle(Stands(pool._task_dispatcher)) is False
        book.hold.set()
        assert stood.wait(SOON)


def test_another_thread_comes_for_what_one_was_woken_for_that_leaves() -> None:
    """It was killed before it claimed anything."""
    book = Book()
    with Pool(2, idle_timeout=None, thread_lifespan=book) as pool:
        all_at_once(pool, 2)
        entrance = pool._task_entrance
        while True:
            with pool._task_dispatcher.lock:
                if len(entrance.idle) == 2:
                    woken = entrance.idle.pop()
                    entrance.waking = True
                    break
        task = pool.submit(abs, -3)
        pool._task_dispatcher.begin_to_leave(woken)
        assert task.result(SOON) == 3
        woken.wakeup.release()


def test_leaving_may_use_the_pool_as_a_task_may() -> None:
    told: list[object] = []
    left = threading.Event()

    @contextmanager
    def lifespan() -> Iterator[None]:
        yield
        told.append(pool.submit(abs, -3).result(SOON))
        told.append(pool.shutdown())
        left.set()

    pool = Pool(1, idle_timeout=0, thread_lifespan=lifespan)
    pool.submit(int).result(SOON)
    assert left.wait(SOON)
    pool.shutdown()
    assert told == [3, ()]


def test_a_killed_worker_settles_its_task_before_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for the task does not wait for what is closed behind it."""
    book = Book()
    book.hold = threading.Event()

    class Kills(Observer):
        def started(self, event: TaskEvent) -> None:
            raise SystemExit

    with Pool(1, thread_lifespan=book, observers=[Kills()]) as pool:
        lost = pool.submit(int)
        with suppress(WorkerLost):
            lost.result(SOON)
        assert lost.done()
        book.hold.set()


# -- exit, Ctrl-C, fork -------------------------------------------------------------------------------------------

LIFESPAN = """
        from contextlib import contextmanager
        from treadle import Pool
        @contextmanager
        def lifespan():
            try:
                yield
            finally:
                print("left", threading.current_thread().name)
"""


@pytest.mark.parametrize("how", ["pool", "Pool(1, thread_lifespan=lifespan)"])
def test_it_is_left_when_python_exits(how: str) -> None:
    done = script(f"""{LIFESPAN}
        pool = Pool(1, thread_lifespan=lifespan, name="db")
        pool.submit(print, "task").result()
    """)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["task", "left db-0"], "")


def test_ctrl_c_does_not_hang_on_one_that_cannot_be_left() -> None:
    done = script("""
        from contextlib import contextmanager
        from treadle import Pool
        @contextmanager
        def lifespan():
            yield
            threading.Event().wait()
        with Pool(1, thread_lifespan=lifespan) as pool:
            pool.submit(int).result()
            signal.raise_signal(signal.SIGINT)
    """)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr


@forks
def test_a_forked_child_enters_its_own_and_leaves_none_of_its_parents() -> None:
    done = script(f"""{LIFESPAN}
        pool = Pool(2, thread_lifespan=lifespan, name="db")
        barrier = threading.Barrier(2)
        for future in [pool.submit(barrier.wait, 60) for _ in range(2)]:
            future.result()
        def child():
            import gc
            pool.submit(print, "child's task").result()
            pool.shutdown()
            gc.collect()
            print("end of the child")
        print(fork(child))
        pool.shutdown()
    """)
    lines = done.stdout.splitlines()
    assert lines[:4] == ["child's task", "left db-0", "end of the child", "0"], done.stderr
    assert sorted(lines[4:]) == ["left db-0", "left db-1"]
    assert not done.stderr


@forks
@pytest.mark.parametrize("where", ["task", "initializer", "entering"])
def test_a_child_that_a_thread_has_forked_does_not_leave_what_is_its_parents(where: str) -> None:
    done = script(f"""
        from contextlib import contextmanager
        from treadle import Pool
        forked, parent = [], os.getpid()
        def forks(here):
            if here == {where!r} and not forked:
                forked.append(os.fork())
                if forked != [0]:
                    os.waitpid(forked[0], 0)
        @contextmanager
        def lifespan():
            print("entered")
            forks("entering")
            try:
                yield
            finally:
                print("left", "in the parent" if os.getpid() == parent else "in the child")
        pool = Pool(1, thread_lifespan=lifespan, initializer=forks, initargs=("initializer",))
        pool.submit(forks, "task").result()
        pool.shutdown()
        print("end")
    """)
    assert done.stdout.splitlines() == ["entered", "left in the parent", "end"], done.stderr
    assert not done.stderr

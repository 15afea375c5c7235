"""The pool, as its user sees it."""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
import queue
import threading
from typing import Any

import pytest

import treadle
from treadle import Pool
from treadle.errors import PoolBroken, PoolClosed
from treadle.orders import Fifo


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, ("max_workers=0", "max_workers must be greater than 0")),
        ({"max_workers": "4"}, TypeError, ("max_workers='4'", "str", "integer")),
        ({"queue_size": -1}, ValueError, ("queue_size=-1", "None or >= 0")),
        ({"queue_size": 1.5}, TypeError, ("queue_size=1.5", "integer or None")),
        ({"when_full": "drop"}, ValueError, ("when_full='drop'", "'block', 'reject', 'caller_runs', 'discard_oldest'")),
        ({"order": "lifo"}, ValueError, ("order='lifo'", "'fifo'")),
        ({"min_workers": -1}, ValueError, ("min_workers=-1",)),
        ({"max_workers": 2, "min_workers": 3}, ValueError, ("min_workers=3", "max_workers=2")),
        ({"idle_timeout": -1}, ValueError, ("idle_timeout=-1",)),
        ({"context": None}, TypeError, ("context=None", "True or False")),
        ({"name": 3}, TypeError, ("name=3", "string")),
        ({"thread_name_prefix": 3}, TypeError, ("thread_name_prefix=3",)),
        ({"initializer": 3}, TypeError, ("initializer", "must be a callable")),
        ({"initargs": 3}, TypeError, ("initargs=3 is int", "an iterable of arguments, as in ('app.db', 30)")),
        ({"observers": print}, TypeError, ("observers=<built-in function print>", "Observers, as in [MyObserver()]")),
        ({"observers": [print]}, TypeError, ("observers holds <built-in function print>", "it lacks submitted")),
    ],
)
def test_a_bad_argument_is_named_with_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        Pool(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_called_is_refused_at_the_call() -> None:
    with Pool(1) as pool:
        for refuse in (pool.submit, pool.map, pool.options().submit):
            with pytest.raises(TypeError, match="fn=3 is int; fn must be a callable"):
                refuse(3)  # type: ignore[arg-type, call-overload]  # that is the point


def test_all_keywords_belong_to_the_function() -> None:
    with Pool(1) as pool:
        keywords = {"self": 1, "fn": 2, "timeout": 3}
        assert pool.submit(dict, **keywords).result(30) == keywords
        assert pool.options(block_timeout=1).submit(dict, **keywords).result(30) == keywords


def test_a_pool_is_a_thread_pool_executor_by_name() -> None:
    with Pool(3) as pool:
        assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
        assert pool._max_workers == 3
        assert pool._broken is False
        assert pool._threads == set()


def test_submitting_to_a_closed_pool_says_so() -> None:
    pool = Pool(1, name="db")
    assert pool.shutdown() == ()
    for refused in (pool.submit, pool.options().submit):
        with pytest.raises(
            PoolClosed, match="cannot schedule new futures after shutdown: pool 'db' is closed"
        ) as caught:
            refused(int)
        assert isinstance(caught.value, RuntimeError)
    with pytest.raises(PoolClosed):
        pool.map(abs, [1])


def test_a_closed_pool_is_not_entered() -> None:
    """Its block would fail at the first task, and say less well why."""
    pool = Pool(1, name="db")
    pool.shutdown()
    with pytest.raises(PoolClosed, match="pool 'db' is closed"), pool:
        pass


def test_leaving_the_block_drains() -> None:
    ran: list[int] = []
    with Pool(1) as pool:
        for number in range(100):
            pool.submit(ran.append, number)
    assert ran == list(range(100))


def test_shutdown_cancels_what_has_not_begun_if_asked() -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    pool = Pool(1)
    running = pool.submit(hold)
    waiting = [pool.submit(int) for _ in range(5)]
    assert began.wait(30)
    assert pool.shutdown(wait=False, cancel_futures=True) == (running,)
    assert all(future.cancelled() for future in waiting)
    gate.set()
    assert pool.shutdown() == ()
    assert running.done()


def test_a_shutdown_that_takes_too_long_tells_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    pool = Pool(1, name="db")
    running = pool.options(name="slow query").submit(gate.wait, 30)
    waiting = pool.submit(int)
    with caplog.at_level(logging.WARNING, "treadle"):
        assert set(pool.shutdown(timeout=0.01)) == {running, waiting}
    assert "pool 'db': 2 tasks were not done 0.01 s after shutdown" in caplog.text
    assert "slow query" in caplog.text
    gate.set()
    assert pool.shutdown(timeout=30) == ()


def test_a_task_may_shut_its_own_pool_down() -> None:
    pool = Pool(2)
    assert len(pool.submit(pool.shutdown).result(30)) == 1, "the task itself is not done"
    pool.shutdown()


def test_a_dropped_pool_runs_what_it_accepted_and_its_threads_end() -> None:
    ran: list[int] = []
    pool = Pool(1)
    for number in range(10):
        pool.submit(ran.append, number)
    threads = pool._threads
    del pool
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert ran == list(range(10))


def test_a_task_runs_in_a_copy_of_its_submitters_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def task() -> str:
        value = variable.get()
        variable.set("changed by the task")
        return value

    variable.set("the submitter's")
    with Pool(1) as pool:
        assert [pool.submit(task).result(30) for _ in range(3)] == ["the submitter's"] * 3
        assert pool.options(name="x").submit(task).result(30) == "the submitter's"
    assert variable.get() == "the submitter's"
    with Pool(1, context=False) as pool:
        assert pool.submit(task).result(30) == "none"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"name": "db"}, "db-0"),
        ({"thread_name_prefix": "db"}, "db_0"),
        ({"name": "db", "thread_name_prefix": "threads"}, "threads_0"),
    ],
)
def test_threads_are_named(arguments: dict[str, str], name: str) -> None:
    with Pool(1, **arguments) as pool:  # type: ignore[arg-type]  # a union of keywords
        assert pool.submit(lambda: threading.current_thread().name).result(30) == name


def test_none_for_a_prefix_or_arguments_is_as_if_they_were_not_given() -> None:
    """So it is in the standard library, and there are wrappers that hand on what they were not given."""
    with Pool(1, None, None, None) as pool:
        assert pool.submit(lambda: threading.current_thread().name).result(30) == f"{pool._task_dispatcher.name}_0"
    with Pool(1, initializer=int, initargs=None) as pool:
        assert pool.submit(abs, -1).result(30) == 1


def test_kept_warm_means_started_at_once() -> None:
    with Pool(4, min_workers=2) as pool:
        assert pool.snapshot().threads == 2
        assert pool.snapshot().idle in (0, 1, 2)


def test_the_initializer_runs_in_every_thread() -> None:
    local = threading.local()
    together = threading.Barrier(3)

    def initialize(value: str) -> None:
        local.value = value

    def task() -> str:
        together.wait(30)
        return str(local.value)

    with Pool(3, "", initialize, ("ready",)) as pool:
        assert [future.result(30) for future in [pool.submit(task) for _ in range(3)]] == ["ready"] * 3


def test_an_initializer_that_fails_breaks_the_pool(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def initialize() -> None:
        assert gate.wait(30)
        raise ValueError("no database")

    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), Pool(1, initializer=initialize, name="db") as pool:
        futures = [pool.submit(int) for _ in range(3)]
        gate.set()
        for future in futures:
            assert isinstance(future.exception(30), PoolBroken)
        with pytest.raises(PoolBroken, match="'db'"):
            pool.submit(int)
        assert pool._broken
    assert "no database" in caplog.text


def test_no_ceiling_is_what_none_writes_out() -> None:
    gate = threading.Event()
    with Pool(1, queue_size=None) as pool:
        futures = [pool.submit(gate.wait, 30) for _ in range(5000)]
        assert pool.snapshot().waiting >= 4999
        gate.set()
        assert all(future.result(30) for future in futures)


def test_never_more_threads_or_waiting_tasks_than_allowed() -> None:
    """Many submitters, a gate and high-water marks."""
    lock, running, highest, waiting = threading.Lock(), 0, 0, 0

    def task() -> None:
        nonlocal running, highest, waiting
        with lock:
            running += 1
            highest = max(highest, running)
        now = pool.snapshot()
        with lock:
            waiting = max(waiting, now.waiting - (now.max_workers - now.busy))  # free threads are about to take theirs
            running -= 1

    with Pool(3, queue_size=5) as pool:
        threads = [threading.Thread(target=lambda: [pool.submit(task) for _ in range(200)]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert highest <= 3
    assert waiting <= 5
    assert pool.snapshot().finished == 1200


# -- for those who look into a ThreadPoolExecutor ---------------------------------------------------------------------


def test_whether_it_is_shut_down_can_be_seen() -> None:
    """Many make a new executor where the old one is."""
    pool = Pool(1)
    assert pool._shutdown is False
    pool._shutdown = False
    with pool:
        pool.submit(int).result(30)
    assert pool._shutdown is True
    with pytest.raises(AttributeError, match="is closed and stays so; make a new Pool"):
        pool._shutdown = False


def test_who_sets_that_it_is_shut_down_closes_it() -> None:
    pool = Pool(1)
    with pool._shutdown_lock:
        pool._shutdown = True
        assert pool._shutdown is True
    with pytest.raises(PoolClosed):
        pool.submit(int)
    pool.shutdown()


@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [({}, "ThreadPoolExecutor-"), ({"thread_name_prefix": "io"}, "io"), ({"name": "weft"}, "weft")],
)
def test_the_prefix_of_its_threads_can_be_seen_and_set(arguments: dict[str, str], prefix: str) -> None:
    with Pool(2, **arguments) as pool:  # type: ignore[arg-type]  # mypy takes the names for any argument
        shown = str(pool._thread_name_prefix)
        assert shown.startswith(prefix)
        assert not shown.endswith(("_", "--"))
        assert pool.submit(lambda: threading.current_thread().name).result(30)[: len(shown)] == shown
    with Pool(1) as pool:
        pool._thread_name_prefix = "warp"
        assert pool.submit(lambda: threading.current_thread().name).result(30) == "warp_0"
        assert pool._thread_name_prefix == "warp"


def test_the_initializer_of_threads_to_come_can_be_seen_and_set() -> None:
    calls: list[int] = []
    with Pool(1, initializer=calls.append, initargs=(1,)) as pool:
        assert pool._initializer == calls.append
        assert pool._initargs == (1,)
        pool._initargs = (2,)
        pool.submit(int).result(30)
    with Pool(1) as pool:
        assert pool._initializer is None
        pool._initializer, pool._initargs = calls.extend, ([3],)
        pool.submit(int).result(30)
    assert calls == [2, 3]


def test_who_sets_the_ceiling_on_threads_resizes_it() -> None:
    both = threading.Barrier(2)
    with Pool(1) as pool:
        first = pool.submit(both.wait, 30)
        second = pool.submit(both.wait, 30)
        pool._max_workers = 2
        assert {first.result(30), second.result(30)} == {0, 1}
        assert pool._max_workers == 2
        with pytest.raises(ValueError, match="max_workers=0"):
            pool._max_workers = 0


def test_how_many_threads_are_idle_can_be_seen() -> None:
    with Pool(2, min_workers=2) as pool:
        while pool.snapshot().idle < 2 or pool._idle_semaphore._value < 2:
            treadle.sleep(0.001)
        gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert gate.wait(30)

        pool.submit(hold)
        assert began.wait(30)
        assert pool._idle_semaphore._value == 1
        gate.set()


def test_its_queue_cannot_be_replaced() -> None:
    """Many bound an executor so; here it would be a queue that nobody looks at."""
    pool: Any = Pool(1)
    with pool, pytest.raises(AttributeError, match=r"make it with Pool\(queue_size="):
        pool._work_queue = queue.Queue(10)


@pytest.mark.parametrize("timeout", [-1, -0.001, 0])
def test_a_negative_timeout_of_shutdown_means_that_no_time_is_left(
    timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    pool = Pool(1)
    task = pool.submit(gate.wait, 30)
    assert pool.shutdown(timeout=timeout) == (task,)
    assert "not done 0 s after shutdown" in caplog.text
    gate.set()
    assert pool.shutdown() == ()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"block_timeout": "x"}, TypeError, "block_timeout='x'"),
        ({"deadline": "x"}, TypeError, "deadline='x'"),
        ({"deadline": -1}, ValueError, "deadline=-1"),
        ({"when_full": "x"}, ValueError, "when_full='x'"),
        ({"name": 1}, TypeError, "name=1"),
        ({"priority": "1"}, TypeError, "priority='1'"),
        ({"priority": 1}, ValueError, "priority=1 has no effect"),
        ({"key": 1}, ValueError, "key=1 has no effect"),
        ({"weight": 1}, TypeError, "weight"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with Pool(1) as pool, pytest.raises(error, match=words):
        pool.options(**arguments)


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Limited(Pool):
        def __init__(self) -> None:
            super().__init__(2)
            self._rate = self._timeout = self._context = self._options = self._pool = self._when_full = object()
            self._dispatcher = self._task = self._enter = object()
            self.options: Any = {"of": "its own"}  # that is the point
            self.name, self.max_workers, self.closed = "mine", 99, "on Sundays"  # type: ignore[misc,assignment]

    with Limited() as pool:
        assert [pool.name, pool.max_workers, pool.closed] == ["mine", 99, "on Sundays"]
        assert pool.snapshot().max_workers == treadle.PoolView(pool).max_workers == 2
        assert pool.submit(abs, -1).result(30) == 1
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def test_what_is_private_is_called_as_in_the_standard_library_or_after_tasks() -> None:
    """So it gets in the way of no subclass."""
    with Pool(1) as pool, concurrent.futures.ThreadPoolExecutor(1) as theirs:
        private = {name for name in dir(pool) if name.startswith("_") and not name.startswith(("__", "_task_"))}
        until_3_14, since_3_14 = {"_initializer", "_initargs"}, {"_resolve_work_item_task"}
        assert private <= {*dir(theirs), *until_3_14, *since_3_14}


def test_a_subclass_may_have_methods_of_its_own() -> None:
    class Own(Pool):
        def snapshot(self) -> Any:  # what is typed here as another thing than the pool's: that is the point
            return {"mine": 1}

        def _abandon(self, reason: str) -> None:
            raise AssertionError(reason)

        def resize(self, width: int, height: int) -> None:  # type: ignore[override]
            raise AssertionError((width, height))

    pool = Own(1)
    assert repr(pool).endswith(" 0/1 threads busy, 0 waiting>")
    pool._max_workers = 2
    assert pool._max_workers == 2
    pool.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert pool._shutdown


def test_an_idle_time_beyond_what_a_lock_can_wait_is_as_long_as_that() -> None:
    with Pool(1, idle_timeout=1e10) as pool:
        threads = {pool.submit(threading.get_ident).result(30) for _ in range(3)}
    assert len(threads) == 1


def test_a_pool_tells_its_name_its_threads_and_whether_it_is_closed() -> None:
    pool = Pool(2, name="loom")
    assert (pool.name, pool.max_workers, pool.closed) == ("loom", 2, False)
    pool.resize(5)
    assert pool.max_workers == pool.snapshot().max_workers == 5
    for attribute in ("name", "max_workers", "closed"):
        with pytest.raises(AttributeError):
            setattr(pool, attribute, 1)
    pool.shutdown()
    assert pool.closed
    with Pool(64, limit=treadle.ConcurrencyLimit(3)) as limited:
        assert limited.max_workers == limited.snapshot().max_workers == 64


def test_a_pool_that_cannot_be_made_takes_neither_limit_nor_order() -> None:
    limit, order = treadle.ConcurrencyLimit(), Fifo()
    wrong: list[dict[str, Any]] = [{"idle_timeout": -1}, {"order": "lifo"}, {"limit": treadle.ConcurrencyLimit(9)}]
    with Pool(1, limit=wrong[2]["limit"]):
        for options in wrong:
            with pytest.raises(ValueError, match=r"idle_timeout|order|limit"):
                Pool(2, **{"limit": limit, "order": order, **options})
    with Pool(2, limit=limit, order=order) as pool:
        assert pool.submit(abs, -1).result(30) == 1

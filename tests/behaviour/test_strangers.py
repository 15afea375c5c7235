"""Strangers: what they do to the futures of a pool, with the standard library's own methods, is done and counted.

Each task waits, or runs; something is done to its future; and the outcome is the standard library's, while the pool
goes on with everything else: where that pool would lose a thread, or never end, this one does not.
"""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest

import treadle
from behaviour.books import Ledger
from clocks import LeapingClock
from orders.lifo import Lifo
from treadle import ConcurrencyLimit, Pool, Rate
from treadle._tasks.rate import Bucket
from treadle.errors import TreadleError
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority

PATIENCE = 30.0

Standard = concurrent.futures.Future[Any]


ORDERS: dict[str, Callable[[], Order]] = {
    "fifo": Fifo,
    "priority": Priority,
    "fair": Fair,
    "held back": lambda: Fair(max_running=1),
    "bounded": lambda: Fair(max_waiting=5),
    "adaptive": Adaptive,
    "their own": Lifo,
}

ERROR = ValueError("a stranger's")

# What is done to a future; what else is done to it afterwards, so all pairs are tried.
DEEDS: dict[str, Callable[[Standard], object]] = {
    "begin": lambda future: future.set_running_or_notify_cancel(),
    "result": lambda future: future.set_result("a stranger's"),
    "exception": lambda future: future.set_exception(ERROR),
    "cancel": lambda future: future.cancel(),
    "call back": lambda future: future.add_done_callback(lambda _: None),
    "look": lambda future: (future.running(), future.done(), future.cancelled()),
}


def what_comes_of(deed: Callable[[], object]) -> object:
    """Return what a deed returned, or of what kind its error was."""
    try:
        return deed()
    except RuntimeError:  # of which some versions have other words
        return RuntimeError
    except Exception as error:
        return type(error)


def state_of(future: Standard) -> object:
    """Return what everybody can see of a future."""
    if not future.done():
        return "running" if future.running() else "pending"
    return what_comes_of(lambda: future.result(0))


class Case:
    """A pool of one thread that is busy until it is let go, with a task that runs there and three that wait."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.gate, began = threading.Event(), threading.Event()

        def hold() -> str:
            began.set()
            assert self.gate.wait(PATIENCE)
            return "the task's"

        self.running: Standard = pool.submit(hold)
        assert began.wait(PATIENCE)
        self.tasks: list[Standard] = [pool.submit(str, number) for number in range(3)]

    def future(self, state: str) -> Standard:
        return {"waiting": self.tasks[1], "running": self.running}[state]


class Audited:
    """A case in a pool of treadle's, whose books are audited when it is over."""

    def __init__(self, order: str, queue_size: int | None, **options: Any) -> None:
        self.ledger = Ledger()
        self.pool: Any = Pool(1, order=ORDERS[order](), queue_size=queue_size, observers=[self.ledger], **options)
        self.case = Case(self.pool)

    def check(self, waiting: int) -> None:
        """The counts, while the tasks wait: so many of them."""
        now = self.pool.snapshot()
        assert (now.waiting, self.pool._work_queue.qsize()) == (waiting, waiting)
        assert now.submitted == self.ledger.count("submitted")

    def end(self) -> None:
        """Let everything run, close the pool, and look at the books."""
        self.case.gate.set()
        closer = threading.Thread(target=self.pool.shutdown, daemon=True)
        closer.start()
        closer.join(PATIENCE)
        assert not closer.is_alive(), "the pool does not close"
        dispatcher, now, ledger = self.pool._task_dispatcher, self.pool.snapshot(), self.ledger
        assert (now.waiting, now.threads, now.blocked, dispatcher.queue.tombstones) == (0, 0, 0, 0)
        assert not ledger.unsound(), ledger.unsound()
        assert (now.finished, now.cancelled, now.shed, now.rejected) == tuple(
            ledger.count(what) for what in ("finished", "cancelled", "shed", "rejected")
        )
        assert now.submitted == ledger.count("submitted") == now.finished + now.cancelled + now.shed


PAIRS = list(itertools.product(DEEDS, DEEDS))


@pytest.mark.parametrize("queue_size", [5, None])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_strangers_do_to_a_future_is_as_in_the_standard_library_and_counted(
    state: str, order: str, queue_size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    for deeds in PAIRS:
        standard, ours = Case(ThreadPoolExecutor(1)), Audited(order, queue_size)
        futures = (standard.future(state), ours.case.future(state))
        for name in deeds:
            expected, seen = (what_comes_of(partial(DEEDS[name], future)) for future in futures)
            assert seen == expected, (deeds, name)
            assert state_of(futures[1]) == state_of(futures[0]), (deeds, name)
        left = state == "waiting" and not set(deeds) <= {"call back", "look"}
        ours.check(waiting=2 if left else 3)
        told: list[Standard] = []
        futures[1].add_done_callback(told.append)
        after = [ours.pool.submit(str, "after") for _ in range(2)]
        before = state_of(futures[1])
        ours.end()
        assert all(task.done() for task in (*after, ours.case.tasks[0], ours.case.tasks[2])), deeds
        assert [task.result(0) for task in after] == ["after"] * 2
        if before not in ("pending", "running"):
            assert state_of(futures[1]) == before, (deeds, "the outcome of a future that is done has changed")
        elif not left:
            assert state_of(futures[1]) == ("1" if state == "waiting" else "the task's"), deeds
        else:  # it is a stranger's now
            assert before == "running"
            futures[1].set_result("at last")
            assert futures[1].result(0) == "at last"
        assert len(told) == 1
        standard.gate.set()  # its thread may be lost; whoever waits for it would wait for ever
        standard.pool.shutdown(wait=False)
    caplog.clear()  # of what the standard library's workers say as they go down


@pytest.mark.parametrize("queue_size", [5, None])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("deed", [*list(DEEDS)[:4], "run", "put back", "dropped", "spelled out"])
def test_what_is_taken_out_ends_as_whoever_has_it_decides(deed: str, order: str, queue_size: int | None) -> None:
    ours = Audited(order, queue_size)
    items = [ours.pool._work_queue.get_nowait() for _ in range(3)]
    with pytest.raises(queue.Empty):
        ours.pool._work_queue.get_nowait()
    ours.check(waiting=0)
    futures = [item.future for item in items]
    assert set(futures) == set(ours.case.tasks)
    for item in items:
        if deed == "run":
            item.run()
        elif deed == "put back":
            ours.pool._work_queue.put(item)
        elif deed == "spelled out":
            assert item.future.set_running_or_notify_cancel()
            item.future.set_result(item.fn(*item.args, **item.kwargs))
        elif deed != "dropped":
            DEEDS[deed](item.future)
    del item, items
    ours.end() if deed == "put back" else ours.case.gate.set()
    if deed == "begin":
        for future in futures:
            future.set_result(1)
    assert not concurrent.futures.wait(futures, PATIENCE).not_done
    expected = {"begin": 1, "result": "a stranger's", "exception": ValueError, "cancel": CancelledError}
    expected["dropped"] = CancelledError
    outcomes = [state_of(future) for future in ours.case.tasks]
    assert outcomes == ([expected[deed]] * 3 if deed in expected else ["0", "1", "2"])
    ours.end()


def test_a_task_that_waits_for_its_rate_or_has_a_deadline_can_be_settled() -> None:
    ledger = Ledger()
    with Pool(1, rate=Rate(0.001), observers=[ledger]) as pool:
        pool.submit(abs, -1).result(PATIENCE)
        tasks = [pool.submit(abs, -number) for number in range(3)]
        while len(pool._task_dispatcher.queue.throttled) < 3:
            treadle.sleep(0.001)
        tasks[0].set_result(10)
        assert tasks[1].set_running_or_notify_cancel()
        item = cast(Any, pool._work_queue.get())
        item.run()
        tasks[1].set_result(20)
        with treadle.deadline(PATIENCE):
            late = pool.submit(abs, -4)
        late.set_exception(ERROR)
        assert [task.result(0) for task in tasks] == [10, 20, 2]
        assert pool.snapshot().waiting == 0
    assert not ledger.unsound()
    assert pool._task_dispatcher.queue.tombstones == 0


def test_a_task_that_is_settled_as_it_is_about_to_wait_for_its_rate_has_one_end() -> None:
    class Settling(Bucket):
        def admit(self, task: Any) -> bool:
            task.set_result("a stranger's")
            return super().admit(task)

    ledger, rate = Ledger(), Rate(0.001)
    rate._bucket = Settling(0.001, 1.0, 1)
    with Pool(1, observers=[ledger]) as pool:
        tasks: list[Any] = [pool.options(rate=rate).submit(abs, -number) for number in range(3)]
        assert [task.result(PATIENCE) for task in tasks] == ["a stranger's"] * 3
    assert not ledger.unsound()
    assert (pool.snapshot().finished, pool.snapshot().cancelled) == (1, 2)


def test_a_task_with_a_deadline_that_is_settled_while_it_runs_keeps_that() -> None:
    with Pool(1) as pool:
        gate, began = threading.Event(), threading.Event()
        with treadle.deadline(PATIENCE):
            task: Any = pool.submit(lambda: began.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]
        assert began.wait(PATIENCE)
        task.set_result("a stranger's")
        gate.set()
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert task.result(0) == "a stranger's"


@pytest.mark.parametrize("observed", [False, True])
def test_a_task_that_is_settled_while_it_runs_and_then_late_costs_no_thread(
    monkeypatch: pytest.MonkeyPatch, *, observed: bool
) -> None:
    clock, ledger, gate, began = LeapingClock(monkeypatch), Ledger(), threading.Event(), threading.Event()
    with Pool(1, observers=[ledger] if observed else []) as pool:
        with treadle.deadline(600):
            task: Any = pool.submit(lambda: began.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]
        assert began.wait(PATIENCE)
        task.set_result("a stranger's")
        (worker,) = pool._threads
        clock.leap(600)
        gate.set()
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert pool._threads == {worker}
        assert task.result(0) == "a stranger's"
    assert (pool.snapshot().finished, pool.snapshot().failed) == (2, 0)
    assert not ledger.unsound()


def test_what_a_task_raises_that_was_settled_meanwhile_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        gate = threading.Event()

        def fail() -> None:
            assert gate.wait(PATIENCE)
            raise LookupError("nobody has asked for it")

        task = pool.submit(fail)
        task.set_exception(ERROR)
        assert task.exception(0) is ERROR
        gate.set()
    del task
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["nobody has asked for it"]


def test_what_a_running_task_was_settled_with_makes_no_cycle() -> None:
    class Marker(Exception):
        """Is to go when nobody has it any more."""

    ours = Audited("fifo", None)
    gc.collect()
    gc.disable()
    try:
        ours.case.running.set_exception(Marker())
        with suppress(Marker):
            ours.case.running.result(0)
        ours.end()
        del ours
        assert not [thing for thing in gc.get_objects() if issubclass(type(thing), Marker)]
    finally:
        gc.enable()


def tell(told: list[object], wait: Callable[[], object]) -> None:
    told.append(wait())


def test_all_who_wait_for_a_future_are_told_that_a_stranger_has_settled_it() -> None:
    for state, deed in itertools.product(("waiting", "running"), ("result", "exception")):
        ours = Audited("fifo", None)
        future = cast(Any, ours.case.future(state))
        told: list[object] = []
        waits: list[Callable[[], object]] = [
            partial(future.exception, PATIENCE),
            partial(concurrent.futures.wait, [future], PATIENCE),
            partial(treadle.wait, [future], PATIENCE),
            partial(next, concurrent.futures.as_completed([future], PATIENCE)),
        ]
        waiters = [threading.Thread(target=tell, args=(told, wait)) for wait in waits]
        for waiter in waiters:
            waiter.start()
        while len(future._get_waiters().latches) + len(future._waiters) < len(waiters):
            treadle.sleep(0.001)
        DEEDS[deed](future)
        for waiter in waiters:
            waiter.join(PATIENCE)
        assert len(told) == len(waiters), (state, deed)
        ours.end()


def test_strangers_and_workers_at_the_same_time_leave_true_counts_and_one_end_each() -> None:
    """And what a future was settled with by hand stays, whatever comes of the task that runs."""
    ledger, start = Ledger(), threading.Barrier(3)
    pool: Any = Pool(2, queue_size=None, observers=[ledger])
    futures: list[Standard] = [pool.submit(str, "the task's") for _ in range(400)]
    won: list[Standard] = []

    def settle(deed: Callable[[Standard], object], futures: list[Standard]) -> None:
        start.wait(PATIENCE)
        for future in futures:
            with suppress(InvalidStateError, RuntimeError):
                deed(future)
                won.append(future)
                assert future.result(0) == "a stranger's"

    def begin(future: Standard) -> None:
        future.set_running_or_notify_cancel()
        future.set_result("a stranger's")

    threads = [
        threading.Thread(target=settle, args=(begin, futures[::-1])),
        threading.Thread(target=settle, args=(DEEDS["result"], futures)),
    ]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE)
    for number in range(400):
        with suppress(TreadleError):
            futures.append(pool.submit(str, number))
    for thread in threads:
        thread.join(PATIENCE)
    pool.shutdown()
    assert {future.result(0) for future in won} <= {"a stranger's"}
    assert all(future.done() for future in futures)
    assert not ledger.unsound()
    now = pool.snapshot()
    assert (now.finished, now.cancelled) == (ledger.count("finished"), ledger.count("cancelled"))
    assert (now.submitted, pool._task_dispatcher.queue.tombstones) == (800, 0)


def test_a_pool_with_a_limit_learns_nothing_wrong_of_what_was_settled() -> None:
    ours = Audited("fifo", None, limit=ConcurrencyLimit())
    ours.case.running.set_result(1)
    ours.case.tasks[0].set_result(1)
    ours.end()

"""Pools that break, or are closed with cancellation: all that waits fails, and is counted, and told of, once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError
from contextlib import suppress
from typing import Any

import pytest

import treadle
from blocked import until_blocked
from socketservers import until
from treadle import Future, Pool, Rate
from treadle._tasks.rate import Bucket
from treadle.errors import DeadlineExceeded, PoolBroken, PoolClosed, WorkerLost
from treadle.events import Observer, TaskEvent
from treadle.orders import Fair, OrderName

PATIENCE = 30.0  # seconds for what must happen
ENDS = {"finished", "cancelled", "rejected", "shed"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "disabled", True)


class Notes(Observer):
    """Keeps what it is told, of each task."""

    def __init__(self) -> None:
        self.events: list[tuple[str, TaskEvent]] = []
        for what in ("submitted", "started", *ENDS):
            setattr(self, what, lambda event, what=what: self.events.append((what, event)))

    def of(self, name: str) -> list[str]:
        """Return what was told of the tasks of that name."""
        return [what for what, event in self.events if event.name == name]

    def check(self, pool: Pool) -> Counter[str]:
        """Check that each task was submitted once and ended once, as the snapshot has it; return the counts."""
        for number in {event.task_id for _, event in self.events}:
            told = [what for what, event in self.events if event.task_id == number]
            assert told[0] == "submitted"
            assert told.count("submitted") == 1
            assert len(ENDS.intersection(told)) == sum(what in ENDS for what in told) == 1, told
            assert told[-1] in ENDS
        counts = Counter(what for what, _ in self.events)
        now = pool.snapshot()
        assert now.submitted == counts["submitted"] - counts["rejected"]
        assert (now.finished, now.cancelled) == (counts["finished"], counts["cancelled"])
        assert (now.rejected, now.shed) == (counts["rejected"], counts["shed"])
        assert now.submitted == now.finished + now.cancelled + now.shed
        assert (now.busy, now.waiting, now.blocked) == (0, 0, 0)
        return counts


class Breaking:
    """An initializer that fails in the thread of that number, when it is told to."""

    def __init__(self, number: int) -> None:
        self.number, self.numbers = number, itertools.count(1)
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if next(self.numbers) == self.number:
            self.begun.set()
            assert self.go.wait(PATIENCE)
            raise ValueError("an initializer")


# -- what a broken pool says of itself ------------------------------------------------------------------------------


class Unhappy:
    """Fails when it is called, or entered."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self) -> Unhappy:
        return self

    def initialize(self) -> None:
        raise self.error

    def __enter__(self) -> None:
        raise self.error

    def __exit__(self, *_: object) -> None:
        raise AssertionError("it was not entered")


@pytest.mark.parametrize("what", ["initializer", "thread_lifespan"])
def test_a_broken_pool_looks_closed_and_says_that_it_is_broken_and_why(what: str) -> None:
    error = OSError("no database")
    fail = Unhappy(error)
    pool = Pool(1, initializer=fail.initialize) if what == "initializer" else Pool(1, thread_lifespan=fail)
    with pytest.raises(PoolBroken, match=what) as first:
        pool.submit(abs, 1).result(PATIENCE)
    with pytest.raises(PoolBroken) as second:
        pool.submit(abs, 1)
    assert first.value.__cause__ is second.value.__cause__ is error
    assert (pool.closed, pool.options().closed, pool.snapshot().closed) == (True, True, True)
    assert repr(pool).endswith(", broken>")
    pool.shutdown()
    assert repr(pool).endswith(", broken>")


def test_what_broke_a_pool_is_in_no_cycle_with_it() -> None:
    found: list[weakref.ref[object]] = []

    def initialize() -> None:
        local = Breaking(1)
        found.append(weakref.ref(local))
        raise OSError("no database")

    pool = Pool(1, initializer=initialize)
    pool.submit(abs, 1).exception(PATIENCE)
    pool.shutdown()
    gc.disable()
    try:
        del pool
        until(lambda: found[0]() is None)
    finally:
        gc.enable()


# -- what a broken pool does with what waits ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["fifo", "priority", "fair", "adaptive"])
def test_all_that_waits_in_a_pool_that_breaks_fails_and_is_counted_once(order: OrderName) -> None:
    notes, initialize = Notes(), Breaking(1)
    pool = Pool(1, initializer=initialize, order=order, observers=[notes])
    futures = [pool.submit(abs, -1) for _ in range(5)]
    assert initialize.begun.wait(PATIENCE)
    assert pool.snapshot().submitted == 5
    initialize.go.set()
    assert [type(future.exception(PATIENCE)) for future in futures] == [PoolBroken] * 5
    assert len({id(future.exception()) for future in futures}) == 5, "each has an error of its own"
    with pytest.raises(PoolBroken):
        pool.submit(int)
    pool.shutdown()
    counts = notes.check(pool)
    assert (counts["submitted"], counts["cancelled"], counts["rejected"]) == (6, 5, 1)
    assert all(type(event.error) is PoolBroken for what, event in notes.events if what in ENDS)


@pytest.mark.parametrize("awaits", [False, True])
def test_callers_that_wait_for_room_in_a_pool_that_breaks_are_refused(awaits: bool) -> None:
    notes, initialize, raised = Notes(), Breaking(1), list[BaseException]()
    pool = Pool(1, initializer=initialize, queue_size=0, observers=[notes])
    first = pool.submit(int)
    assert initialize.begun.wait(PATIENCE)

    def submit() -> None:
        try:
            asyncio.run(pool.run(abs, -1)) if awaits else pool.submit(abs, -1)
        except PoolBroken as error:
            raised.append(error)

    callers = [threading.Thread(target=submit) for _ in range(2)]
    for caller in callers:
        caller.start()
    until_blocked(pool, 2)
    initialize.go.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert len(raised) == 2
    assert isinstance(first.exception(PATIENCE), PoolBroken)
    pool.shutdown()
    counts = notes.check(pool)
    assert (counts["submitted"], counts["rejected"], counts["cancelled"]) == (3, 2, 1)


def test_a_thread_that_comes_up_in_a_broken_pool_begins_nothing() -> None:
    """Its own initializer was slower than the one that failed."""
    numbers, both, go, late = itertools.count(1), threading.Barrier(3), threading.Event(), threading.Event()

    def initialize() -> None:
        number = next(numbers)
        both.wait(PATIENCE)
        if number == 1:
            assert go.wait(PATIENCE)
            raise ValueError("an initializer")
        assert late.wait(PATIENCE)

    notes, ran = Notes(), list[int]()
    pool = Pool(2, initializer=initialize, observers=[notes])
    futures = [pool.submit(ran.append, n) for n in range(2)]
    both.wait(PATIENCE)
    go.set()
    assert treadle.wait(futures, PATIENCE, FIRST_COMPLETED).done
    late.set()
    assert [type(future.exception(PATIENCE)) for future in futures] == [PoolBroken] * 2
    pool.shutdown()
    assert ran == []
    assert notes.check(pool)["cancelled"] == 2


class Held(Rate):
    """A rate that holds up whoever asks it for a token, when it is told to: it came before its time."""

    def __init__(self) -> None:
        super().__init__(0.001)
        self._bucket.admit = self.admit  # type: ignore[method-assign]  # that is the point
        self.asked, self.go = threading.Event(), threading.Event()

    def admit(self, task: Future[Any]) -> bool:
        self.asked.set()
        assert self.go.wait(PATIENCE)
        return Bucket.admit(self._bucket, task)


def break_down(pool: Pool, initialize: Breaking) -> None:
    """Have a second thread start, and fail."""
    pool.resize(2)
    key = "another's" if isinstance(pool._task_dispatcher.order, Fair) else None  # whose tasks nothing holds back
    doomed = pool.options(key=key).submit(abs, -3)
    assert initialize.begun.wait(PATIENCE)
    initialize.go.set()
    assert isinstance(doomed.exception(PATIENCE), PoolBroken)


ORDERS: list[Callable[[], Any]] = [
    lambda: "fifo",
    lambda: "priority",
    lambda: "fair",
    lambda: Fair(max_running=1),
    lambda: Fair(max_waiting=9),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"min_workers": 1, "idle_timeout": None, "when_full": "caller_runs"}])
@pytest.mark.parametrize("observed", [False, True])
def test_a_task_that_its_rate_puts_aside_just_after_the_pool_broke_fails(
    order: Callable[[], Any], options: dict[str, Any], observed: bool
) -> None:
    """It was in a thread's hands when all that waited failed, and would wait for its rate with nobody to run it."""
    notes, rate, initialize = Notes(), Held(), Breaking(2)
    pool = Pool(1, initializer=initialize, order=order(), observers=[notes] if observed else [], **options)
    assert pool.submit(int).result(PATIENCE) == 0
    rate._bucket._tokens = 0.0
    future = pool.options(rate=rate).submit(int)
    assert rate.asked.wait(PATIENCE)
    break_down(pool, initialize)
    rate.go.set()
    assert isinstance(future.exception(PATIENCE), PoolBroken)
    pool.shutdown(timeout=PATIENCE)
    assert len(rate._bucket._line) == 0
    now = pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled, now.threads) == (3, 1, 2, 0)
    if observed:
        notes.check(pool)


def test_a_task_that_waits_for_its_rate_fails_when_the_pool_breaks() -> None:
    notes, rate, initialize = Notes(), Held(), Breaking(2)
    rate.go.set()
    pool = Pool(1, initializer=initialize, observers=[notes])
    assert pool.submit(int).result(PATIENCE) == 0
    rate._bucket._tokens = 0.0
    future = pool.options(rate=rate).submit(int)
    assert rate.asked.wait(PATIENCE)
    began, gate = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool.submit(hold)
    assert began.wait(PATIENCE)  # its thread has put the other one aside
    break_down(pool, initialize)
    assert isinstance(future.exception(PATIENCE), PoolBroken)
    rate._bucket._call()  # too late
    gate.set()
    pool.shutdown()
    notes.check(pool)


@pytest.mark.parametrize("observed", [False, True])
def test_a_task_that_its_rate_puts_aside_just_after_a_shutdown_with_cancellation_is_cancelled(observed: bool) -> None:
    notes, rate = Notes(), Held()
    pool = Pool(1, observers=[notes] if observed else [])
    rate._bucket._tokens = 0.0
    future = pool.options(rate=rate).submit(int)
    assert rate.asked.wait(PATIENCE)
    pool.shutdown(wait=False, cancel_futures=True)
    rate.go.set()
    pool.shutdown()
    assert future.cancelled()
    assert pool.snapshot().cancelled == pool.snapshot().submitted == 1
    if observed:
        notes.check(pool)


def test_a_task_whose_deadline_passes_while_its_rate_holds_it_up_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, rate = Notes(), Held()
    with Pool(1, observers=[notes]) as pool:
        rate._bucket._tokens = 0.0
        with treadle.deadline(600):
            future = pool.options(rate=rate).submit(int)
        assert rate.asked.wait(PATIENCE)
        future._expire(DeadlineExceeded(600))  # type: ignore[attr-defined]  # as the timers' thread does
        future._scope.leave(future)  # type: ignore[attr-defined]
        rate.go.set()
        assert isinstance(future.exception(PATIENCE), DeadlineExceeded)
    assert notes.check(pool)["cancelled"] == 1


def test_a_task_whose_deadline_has_passed_when_its_turn_comes_never_began() -> None:
    for observers in ([], [Notes()]):
        gate, began = threading.Event(), threading.Event()

        def hold(gate: threading.Event = gate, began: threading.Event = began) -> None:
            began.set()
            assert gate.wait(PATIENCE)

        with Pool(1, observers=observers) as pool:
            pool.submit(hold)
            assert began.wait(PATIENCE)
            with treadle.deadline(600):
                future = pool.submit(int)
            future._scope.cancel()  # type: ignore[attr-defined]  # as a group does
            gate.set()
            with pytest.raises(CancelledError):
                future.result(PATIENCE)
        now = pool.snapshot()
        assert (now.submitted, now.finished, now.cancelled) == (2, 1, 1)
        for notes in observers:
            notes.check(pool)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_items_of_a_map_fail_when_the_pool_breaks(ordered: bool) -> None:
    """Those that its turn, which runs in a living thread, has not begun."""
    initialize, gate, began = Breaking(2), threading.Event(), threading.Event()

    def call(n: int) -> int:
        if n == 1:
            began.set()
            assert gate.wait(PATIENCE)
        return n

    pool = Pool(1, initializer=initialize)
    results = pool.map(call, range(5), ordered=ordered)
    assert began.wait(PATIENCE)
    break_down(pool, initialize)
    gate.set()
    came: list[Any] = []
    while True:
        try:
            came.append(next(results))
        except StopIteration:
            break
        except PoolBroken:
            came.append(PoolBroken)
    assert came == [0, 1, PoolBroken, PoolBroken, PoolBroken]
    pool.shutdown()


# -- callbacks and observers that would end the thread --------------------------------------------------------------


class Fatal:
    """A callback that would end its thread."""

    def __call__(self, future: Future[Any]) -> None:
        raise SystemExit("of a callback")


def test_a_callback_that_would_end_the_thread_keeps_no_other_task_of_a_broken_pool_waiting() -> None:
    initialize = Breaking(1)
    pool = Pool(1, initializer=initialize)
    futures = [pool.submit(int) for _ in range(3)]
    assert initialize.begun.wait(PATIENCE)
    for future in futures:
        future.add_done_callback(Fatal())
    initialize.go.set()
    assert [type(future.exception(PATIENCE)) for future in futures] == [PoolBroken] * 3
    pool.shutdown()


def test_a_callback_that_would_end_the_thread_keeps_no_other_task_from_being_cancelled() -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool = Pool(1)
    pool.submit(hold)
    assert began.wait(PATIENCE)
    futures = [pool.submit(int) for _ in range(3)]
    for future in futures:
        future.add_done_callback(Fatal())
    with pytest.raises(SystemExit, match="of a callback"):
        pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    assert [future.cancelled() for future in futures] == [True] * 3


def test_what_an_observer_kills_is_told_of_and_counted_once() -> None:
    class Killing(Notes):
        """It would end the thread; the other observers are told before."""

        def __init__(self) -> None:
            super().__init__()
            note = self.started

            def started(event: TaskEvent) -> None:
                note(event)
                if event.name == "doomed":
                    raise SystemExit("of an observer")

            self.started = started  # type: ignore[method-assign]

    killing, notes = Killing(), Notes()
    with Pool(1, observers=[killing, notes]) as pool:
        doomed = pool.options(name="doomed").submit(int)
        assert isinstance(doomed.exception(PATIENCE), WorkerLost)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert notes.of("doomed") == ["submitted", "started", "finished"]
    assert notes.check(pool) == killing.check(pool)


class Ending(Notes):
    """What it is told of, it answers with what would end the thread."""

    def __init__(self, what: str) -> None:
        super().__init__()
        note = getattr(self, what)

        def end(event: TaskEvent) -> None:
            note(event)
            if event.name == "doomed":
                raise SystemExit("of an observer")

        setattr(self, what, end)


@pytest.mark.parametrize("what", ["started", "finished"])
def test_an_observer_that_ends_a_caller_leaves_its_task_settled(what: str) -> None:
    """As a worker's; here the thread is the caller's, which runs the task itself."""
    notes, gate, began = Ending(what), threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    done: list[Future[Any]] = []
    with Pool(1, queue_size=0, when_full="caller_runs", observers=[notes]) as pool:
        pool.submit(hold)
        assert began.wait(PATIENCE)
        task = pool.options(name="doomed")._task_made(int, (), {})
        task.add_done_callback(done.append)
        with pytest.raises(SystemExit):
            pool._task_dispatcher.enter(task, "caller_runs", None)
        gate.set()
    assert done == [task]
    assert notes.check(pool)["finished"] == 2


@pytest.mark.parametrize("way", ["broken", "shutdown", "cancel", "discard_oldest"])
def test_an_observer_that_ends_a_thread_leaves_no_cancelled_task_unsettled(way: str) -> None:
    notes, gate, began = (
        Ending("shed" if way == "discard_oldest" else "cancelled"),
        threading.Event(),
        threading.Event(),
    )
    initialize = Breaking(2)

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool = Pool(1, queue_size=2, initializer=initialize, observers=[notes])
    pool.submit(hold)
    assert began.wait(PATIENCE)
    told = threading.Barrier(2 if way in {"cancel", "discard_oldest"} else 3)
    doomed = [pool.options(name="doomed").submit(int) for _ in range(2)]
    for future in doomed[: told.parties - 1]:
        future.add_done_callback(lambda _: threading.Thread(target=told.wait, args=(PATIENCE,)).start())
    with suppress(SystemExit):
        if way == "broken":
            pool.resize(2)
            initialize.go.set()
        elif way == "shutdown":
            pool.shutdown(wait=False, cancel_futures=True)
        elif way == "cancel":
            doomed[0].cancel()
        else:
            pool.options(when_full="discard_oldest").submit(int)
    told.wait(PATIENCE)
    gate.set()
    pool.shutdown()
    assert all(future.done() for future in doomed)
    notes.check(pool)


# -- counts that are looked at meanwhile ----------------------------------------------------------------------------


def samples(pool: Pool, until: threading.Event) -> Iterator[int]:
    while not until.is_set():
        now = pool.snapshot()
        running = now.busy + sum(worker.nested for worker in now.workers)
        assert now.submitted == now.finished + now.cancelled + now.shed + now.waiting + running, now
        yield now.submitted


def test_the_count_of_tasks_never_falls() -> None:
    """Whoever takes a task from one place to another does so under the lock that the snapshot takes."""
    over, seen = threading.Event(), list[int]()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with Pool(2, queue_size=None) as pool:
        watcher = threading.Thread(target=lambda: seen.extend(samples(pool, over)))
        watcher.start()

        def parent() -> list[int]:
            return [future.result(PATIENCE) for future in [pool.submit(int) for _ in range(3)]]

        parents = [pool.submit(parent) for _ in range(100)]
        assert [future.result(PATIENCE) for future in parents] == [[0, 0, 0]] * 100
        over.set()
        watcher.join(PATIENCE)
    sys.setswitchinterval(usual)
    assert seen == sorted(seen)
    assert pool.snapshot().submitted == 400


def test_a_shutdown_with_cancellation_is_told_of_once_with_its_error() -> None:
    notes, gate, began = Notes(), threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    pool = Pool(1, observers=[notes])
    pool.submit(hold)
    assert began.wait(PATIENCE)
    pool.submit(int)
    mine = pool.submit(int)
    assert mine.cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    assert notes.check(pool)["cancelled"] == 2
    errors = [type(event.error) for what, event in notes.events if what == "cancelled"]
    assert errors == [type(None), PoolClosed]

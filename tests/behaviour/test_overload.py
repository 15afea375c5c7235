"""Pools under pressure: what is shed, refused, held back or let by, and that nothing is forgotten."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from behaviour.scripts import script
from blocked import until_blocked
from clocks import FakeClock
from orders.lifo import Lifo
from treadle import Future, Pool
from treadle._pool.submit import WhenFull
from treadle.errors import PoolClosed, PoolFull, Shed
from treadle.events import Observer, TaskEvent
from treadle.orders import Adaptive, Fair, Fifo, Order, OrderName, Priority, Task

LONG = 30.0  # seconds after which a wait that ought to end is taken to hang
PATIENCE = 10.0  # the same, for what holds up others that are waited for
ORDERS: list[Callable[[], Order]] = [Fifo, Priority, Fair, lambda: Fair(max_running=1), Adaptive]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


class Hold:
    """A task that runs until it is let go."""

    def __init__(self, pool: Pool, **options: Any) -> None:
        self.began, self.gate = threading.Event(), threading.Event()
        self.future = pool.options(**options).submit(self._run)

    def _run(self) -> str:
        self.began.set()
        assert self.gate.wait(LONG)
        return "held"

    def wait_for_it(self) -> None:
        assert self.began.wait(LONG)

    def let_go(self) -> None:
        self.gate.set()


@contextmanager
def held(pool: Pool, count: int = 1, **options: Any) -> Iterator[list[Hold]]:
    """Keep `count` threads busy; at the end let them go, and close the pool."""
    holds = [Hold(pool, **options) for _ in range(count)]
    try:
        for hold in holds:
            hold.wait_for_it()
        yield holds
    finally:
        for hold in holds:
            hold.let_go()
        pool.shutdown()


def was_shed(future: Future[Any]) -> bool:
    return future.done() and isinstance(future.exception(0), Shed)


class Caller:
    """A thread that submits, and may have to wait for room."""

    def __init__(self, submit: Callable[..., Future[Any]], *call: Any) -> None:
        self.future: Future[Any] | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(submit, *call))
        self._thread.start()

    def _run(self, submit: Callable[..., Future[Any]], *call: Any) -> None:
        try:
            self.future = submit(*call)
        except Exception as error:
            self.error = error

    def is_through(self, timeout: float = LONG) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()


# -- Adaptive -----------------------------------------------------------------------------------------------------


class Overload:
    """A pool of one thread whose queue is a standing one at the next look, made by a worker or at a full queue."""

    def __init__(self, clock: FakeClock, queue_size: int = 1000, observers: tuple[Observer, ...] = ()) -> None:
        self.clock = clock
        order = Adaptive(target=0.005, interval=0.1)
        self.pool = Pool(1, queue_size=queue_size, order=order, name="busy", observers=observers)
        self._first, self._second = Hold(self.pool), Hold(self.pool)
        self._first.wait_for_it()
        self.ran: list[Any] = []
        self.waiting: list[Future[None]] = []

    def add(self, count: int) -> None:
        """Let more tasks wait."""
        self.waiting += [self.pool.submit(self.ran.append, len(self.waiting) + number) for number in range(count)]

    def let_it_stand(self) -> None:
        """Let the worker look once and find the head late, and time go on."""
        self.clock.pass_(1.0)
        self._first.let_go()
        self._second.wait_for_it()
        self.clock.pass_(1.0)

    def let_go(self) -> None:
        """Let the thread come for the next task."""
        self._second.let_go()

    def __enter__(self) -> Overload:
        return self

    def __exit__(self, *_: object) -> None:
        self._first.let_go()
        self._second.let_go()
        self.pool.shutdown()


def test_what_is_shed_fails_with_where_what_and_how_long(clock: FakeClock) -> None:
    with Overload(clock) as busy:
        clock.pass_(0.5)
        shed = busy.pool.options(name="query").submit(int)
        busy.add(1)
        busy.let_it_stand()
        busy.let_go()
        with pytest.raises(Shed, match=r"pool 'busy' shed task query after 2\.000 s") as caught:
            shed.result(LONG)
        error = caught.value
        assert (error.pool, error.task_name, error.waited) == ("busy", "query", 2.0)
        assert shed.done()
        assert not shed.cancelled()
        assert busy.waiting[0].result(LONG) is None, "the newest is kept"
        assert busy.pool.snapshot().shed == 1


def test_the_oldest_are_shed_and_of_the_others_the_newest_runs_first(clock: FakeClock) -> None:
    with Overload(clock) as busy:
        busy.add(5)
        busy.let_it_stand()
        busy.add(3)
        busy.let_go()
        busy.pool.shutdown()
        errors = [future.exception() for future in busy.waiting]
        assert [type(error) for error in errors[:5]] == [Shed] * 5
        assert errors[5:] == [None] * 3
        assert busy.ran == [7, 6, 5]


def submit(pool: Pool) -> Future[int]:
    return pool.submit(abs, -1)


def submit_to_a_view(pool: Pool) -> Future[int]:
    return pool.options(name="view").submit(abs, -1)


def run(pool: Pool) -> Future[int]:
    """Submit as `Pool.run` does."""
    task = pool.options()._task_made(abs, (-1,), {})
    assert pool._task_dispatcher.enter_later(task, "block")
    return task


@pytest.mark.parametrize("enter", [submit, submit_to_a_view, run])
def test_while_the_queue_stands_whoever_submits_sheds(enter: Callable[[Pool], Future[int]], clock: FakeClock) -> None:
    """So that those who offer too much do that work, and not the threads, of which the only one is held here."""
    with Overload(clock) as busy:
        busy.add(3)
        busy.let_it_stand()
        busy.add(2)
        hold = Hold(busy.pool)
        busy.let_go()
        hold.wait_for_it()
        assert [future.done() for future in busy.waiting] == [True] * 3 + [False] * 2
        clock.pass_(1.0)
        last = enter(busy.pool)
        assert isinstance(busy.waiting[3].exception(0), Shed)
        assert not busy.waiting[4].done(), "the newest is kept"
        hold.let_go()
        assert last.result(LONG) == 1
        busy.waiting[4].exception(LONG)
        assert enter(busy.pool).result(LONG) == 1
        assert busy.pool._task_entrance.room == 1000, "submitting is not plain again, though the queue was empty"


@pytest.mark.parametrize("threads", [1, 4])
def test_as_many_of_the_newest_as_the_pool_has_threads_are_kept(threads: int, clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    pool = Pool(threads, order=order)
    with held(pool, threads) as holds:
        nexts = [Hold(pool) for _ in range(threads)]
        waiting = [pool.submit(int) for _ in range(20)]
        clock.pass_(1.0)
        for hold in holds:
            hold.let_go()
        for hold in nexts:
            hold.wait_for_it()
        clock.pass_(1.0)
        for hold in nexts:
            hold.let_go()
        pool.shutdown()
    kept = [future for future in waiting if future.exception() is None]
    assert kept == waiting[-threads:]


@pytest.mark.parametrize("who", ["worker", "caller"])
def test_who_sheds_holds_no_lock_while_callbacks_run(who: str, clock: FakeClock) -> None:
    """A callback may submit to the pool and wait for what it submitted; and others may use the pool meanwhile."""
    came: list[Any] = []
    called = threading.Event()
    with Overload(clock, queue_size=4) as busy:
        busy.add(3)

        def callback(_: Future[None]) -> None:
            others = Caller(busy.pool.submit, abs, -4)
            try:
                assert others.is_through(PATIENCE), "the lock is held"
                busy.let_go()
                assert others.future is not None
                came.append((busy.pool.submit(abs, -3).result(LONG), others.future.result(LONG)))
            finally:
                called.set()

        busy.waiting[0].add_done_callback(callback)
        busy.let_it_stand()
        if who == "caller":
            busy.add(1)
            assert not came
            busy.add(1)  # to a full queue
            assert called.is_set()
        else:
            busy.let_go()
        assert called.wait(LONG)
        assert isinstance(busy.waiting[0].exception(LONG), Shed)
    assert came == [(3, 4)]


def test_a_worker_that_sheds_leaves_what_waits_to_those_that_are_idle(clock: FakeClock) -> None:
    """It claims nothing while callbacks run: who knows how long. So somebody else must come, where there is one."""
    order = Adaptive(target=0.0, interval=0.0)
    ran, called, outcome = threading.Event(), threading.Event(), list[bool]()

    def callback(_: Future[Any]) -> None:
        outcome.append(ran.wait(PATIENCE))
        called.set()

    with Pool(3, order=order) as pool:
        meeting = threading.Barrier(3)
        for future in [pool.submit(meeting.wait, LONG) for _ in range(3)]:
            future.result(LONG)  # a worker is idle before its result is there
        with pool._task_dispatcher.lock:  # so that no worker comes before all of them wait
            doomed = pool.submit(ran.set)
            doomed.add_done_callback(callback)
            kept = [pool.submit(ran.set) for _ in range(9)]
            clock.pass_(1.0)
            order.stale()
            clock.pass_(1.0)
        assert called.wait(LONG)
        assert outcome == [True], "tasks waited although threads were idle"
        assert isinstance(doomed.exception(LONG), Shed)
        assert kept[-1].result(LONG) is None


@pytest.mark.parametrize("when_full", ["block", "reject", "caller_runs", "discard_oldest"])
def test_a_full_queue_sheds_before_it_refuses(when_full: WhenFull, clock: FakeClock) -> None:
    with Overload(clock, queue_size=5) as busy:
        busy.add(4)
        busy.let_it_stand()
        busy.add(1)  # now it is full
        newcomer = busy.pool.options(when_full=when_full).submit(threading.get_ident)
        now = busy.pool.snapshot()
        assert (now.shed, now.waiting, now.rejected, now.blocked, now.cancelled) == (4, 2, 0, 0, 0)
        assert [type(future.exception(0)) for future in busy.waiting[:4]] == [Shed] * 4
        assert not newcomer.done()
        busy.let_go()
        assert newcomer.result(LONG) != threading.get_ident()


@pytest.mark.parametrize("when_full", ["reject", "caller_runs", "discard_oldest"])
def test_a_full_queue_that_does_not_stand_does_what_the_policy_says(when_full: WhenFull, clock: FakeClock) -> None:
    """A burst is no overload: nothing is shed for having waited, and no more wait than the queue holds."""
    with Overload(clock, queue_size=5) as busy:
        busy.add(4)  # with the second task that is to be held
        policy = busy.pool.options(when_full=when_full)
        if when_full == "reject":
            with pytest.raises(PoolFull):
                policy.submit(int)
            assert busy.pool.snapshot().shed == 0
        elif when_full == "caller_runs":
            assert policy.submit(threading.get_ident).result(0) == threading.get_ident()
            assert busy.pool.snapshot().shed == 0
        else:
            policy.submit(int)
            error = busy._second.future.exception(0)
            assert isinstance(error, Shed)
            assert error.reason == "discarded"
        assert busy.pool.snapshot().waiting == 5
        assert not any(future.done() for future in busy.waiting)


def test_no_more_wait_than_the_queue_holds_however_many_come(clock: FakeClock) -> None:
    with Overload(clock, queue_size=5) as busy:
        busy.add(4)
        busy.let_it_stand()
        reject, refused = busy.pool.options(when_full="reject"), 0
        for number in range(100):
            try:
                busy.waiting.append(reject.submit(busy.ran.append, number))
            except PoolFull:
                refused += 1
                clock.pass_(0.002)
            assert busy.pool.snapshot().waiting <= 5
        assert 0 < refused < 100
        assert busy.pool.snapshot().rejected == refused
        busy.let_go()
        busy.pool.shutdown()
        now = busy.pool.snapshot()
        assert now.submitted == len(busy.waiting) + 2
        assert now.shed == sum(isinstance(future.exception(), Shed) for future in busy.waiting)


def test_room_that_a_caller_makes_by_shedding_is_for_those_who_waited_before(clock: FakeClock) -> None:
    """Callers enter in the order they came; and there is room for all of them."""
    order = Adaptive(target=0.005, interval=0.1)
    pool = Pool(1, queue_size=4, order=order)
    with held(pool):
        waiting = [pool.submit(int) for _ in range(4)]
        early = Caller(pool.submit, int)  # the queue is not late yet, so it waits
        until_blocked(pool, 1)
        clock.pass_(1.0)
        with pytest.raises(PoolFull):
            pool.options(when_full="reject").submit(int)  # the first look that finds it late
        clock.pass_(1.0)
        pool.options(when_full="reject").submit(int)  # sheds
        assert [type(future.exception(0)) for future in waiting[:3]] == [Shed] * 3
        assert early.is_through(PATIENCE), "it waits for room although there is some"


def test_what_a_snapshot_counts_adds_up(clock: FakeClock) -> None:
    """The snapshot makes up `submitted` from the others, so here the callers count."""
    with Overload(clock) as busy:
        busy.add(10)
        assert busy.waiting[3].cancel()
        assert busy.waiting[9].cancel()
        now = busy.pool.snapshot()
        assert (now.submitted, now.busy, now.waiting, now.cancelled, now.shed, now.finished) == (12, 1, 9, 2, 0, 0)
        busy.let_it_stand()
        busy.add(2)
        now = busy.pool.snapshot()
        assert (now.submitted, now.busy, now.waiting, now.cancelled, now.shed, now.finished) == (14, 1, 10, 2, 0, 1)
        busy.let_go()
        busy.pool.shutdown()
        now = busy.pool.snapshot()
        assert (now.submitted, now.busy, now.waiting, now.cancelled, now.shed, now.finished) == (14, 0, 0, 2, 8, 4)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_items_of_a_map_whose_turn_is_shed_raise_that(ordered: bool, clock: FakeClock) -> None:
    class Shedding(Observer):
        items = 0

        def shed(self, event: TaskEvent) -> None:
            self.items += event.name == "abs"

    observer = Shedding()
    with Overload(clock, observers=(observer,)) as busy:
        results = busy.pool.map(abs, [-1, -2, -3], ordered=ordered)
        busy.add(1)
        busy.let_it_stand()
        busy.let_go()
        for _ in range(3):
            with pytest.raises(Shed) as caught:
                next(results)
            assert (caught.value.pool, caught.value.task_name, caught.value.waited) == ("busy", "abs", 2.0)
        assert list(results) == []
        busy.pool.shutdown()
        now = busy.pool.snapshot()
        assert (now.shed, now.finished, now.submitted, observer.items) == (3, 3, 6, 3)


def fatal(_: object) -> None:
    """End the thread, from inside a callback."""
    raise SystemExit


@pytest.mark.parametrize("who", ["worker", "caller"])
def test_a_callback_that_ends_the_thread_takes_no_other_shed_task_with_it(who: str, clock: FakeClock) -> None:
    with Overload(clock, queue_size=5) as busy:
        busy.add(4)
        busy.waiting[1].add_done_callback(fatal)
        busy.let_it_stand()
        busy.add(1)
        if who == "caller":  # whose own task is in: the callback's end is logged, and is not the caller's
            assert not busy.pool.submit(int).cancelled()
        busy.let_go()
        busy.pool.shutdown()
        assert [future.done() for future in busy.waiting] == [True] * 5
        assert [type(future.exception(0)) for future in busy.waiting] == [Shed] * 4 + [type(None)]


def assert_struck_out(pool: Pool, threads: set[threading.Thread]) -> None:
    """Check that the pool does not count on threads that have ended; if it does, its shutdown would never return."""
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    workers = pool._task_dispatcher.workers.present
    counted = {worker for worker in workers if worker.thread in threads}
    workers -= counted  # so that this test ends, whatever it found
    assert not counted


def test_two_callbacks_that_end_the_thread_leave_a_pool_that_works(clock: FakeClock) -> None:
    """The second one is called while the worker sees to what the first one left behind."""
    with Overload(clock) as busy:
        busy.add(5)
        for future in busy.waiting[:3]:
            future.add_done_callback(fatal)
        busy.let_it_stand()
        threads = busy.pool._threads
        busy.let_go()
        assert_struck_out(busy.pool, threads)
        busy.waiting[-1].result(LONG)  # as the newest, it is kept; beside a newer one it would be shed
        assert busy.pool.submit(abs, -3).result(LONG) == 3
        busy.pool.shutdown()
        assert [type(future.exception(0)) for future in busy.waiting] == [Shed] * 4 + [type(None)]


class Killer(Observer):
    """Ends the thread in which a task with a deadly name does this."""

    def __init__(self, what: str) -> None:
        setattr(self, what, self.kill)

    def kill(self, event: TaskEvent) -> None:
        if event.name == "deadly":
            raise SystemExit


# -- Fair ---------------------------------------------------------------------------------------------------------


class Water:
    """How many tasks of each key run at once, and the high-water mark."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[Hashable] = Counter()
        self.mark: Counter[Hashable] = Counter()
        self.ran: Counter[Hashable] = Counter()

    @contextmanager
    def inside(self, key: Hashable) -> Iterator[None]:
        with self._lock:
            self._now[key] += 1
            self.ran[key] += 1
            self.mark[key] = max(self.mark[key], self._now[key])
        try:
            yield
        finally:
            with self._lock:
                self._now[key] -= 1


@pytest.mark.parametrize("how", ["return", "raise", "cancelled", "nested", "observer", "callback", "mapped"])
def test_never_two_tasks_of_one_key_at_once_and_all_are_done_in_the_end(how: str) -> None:
    """And while one key runs so do the others: their first tasks meet."""
    order, water, meeting = Fair(max_running=1), Water(), threading.Barrier(4)
    pool = Pool(4, order=order, queue_size=None, observers=[Killer("finished")] if how == "observer" else [])

    def task(key: str, number: int) -> int:
        with water.inside(key):
            if number == 0:
                meeting.wait(LONG)
            if how == "raise":
                raise ValueError(number)
            if how == "nested":
                return pool.options(key=key).submit(abs, -number).result(LONG)
            return number

    holds = [Hold(pool, key=f"hold {number}") for number in range(4)]
    for hold in holds:
        hold.wait_for_it()
    futures: list[Future[int]] = []
    maps = []
    for key in "abcd":
        if how == "mapped":
            maps.append(pool.options(key=key).map(task, [key] * 25, range(25)))
            continue
        for number in range(25):
            deadly = how == "observer" and number % 5 == 4
            view = pool.options(key=key, name="deadly" if deadly else "task")
            futures.append(future := view.submit(task, key, number))
            if how == "callback" and number % 5 == 4:
                future.add_done_callback(fatal)
    if how == "cancelled":
        for number, future in enumerate(futures):
            if number % 25 % 3 == 1:
                assert future.cancel()
    for hold in holds:
        hold.let_go()
    for results in maps:
        assert list(results) == list(range(25))
    for future in futures:
        if not future.cancelled():
            future.exception(LONG)  # before the pool is closed to what runs nested
    assert pool.shutdown() == ()
    assert water.mark == dict.fromkeys("abcd", 1)
    assert water.ran == dict.fromkeys("abcd", 17 if how == "cancelled" else 25)
    for number, future in enumerate(futures):
        assert future.done()
        if how == "raise":
            assert isinstance(future.exception(), ValueError)
        elif not future.cancelled():
            assert future.result() == number % 25
    assert not any(flow.waiting or flow.running for flow in order._flows.values())
    assert not order._taken


def test_a_key_at_its_ceiling_waits_while_other_keys_go_on() -> None:
    pool = Pool(4, order=Fair(max_running=1))
    with held(pool, key="a") as (hold,):
        second, third = (pool.options(key="a").submit(threading.get_ident) for _ in range(2))
        others = [pool.options(key=key).submit(abs, -number) for number in range(20) for key in "bcd"]
        assert [future.result(LONG) for future in others] == [number for number in range(20) for _ in "bcd"]
        assert (second.done(), third.done(), pool.snapshot().waiting) == (False, False, 2)
        assert not second.running()
        hold.let_go()
        assert second.result(LONG)
        assert third.result(LONG)


def test_two_of_a_key_may_run_where_that_is_its_ceiling_and_no_third() -> None:
    pool = Pool(4, order=Fair(max_running=2))
    with held(pool, 2, key="a") as holds:
        third = Hold(pool, key="a")
        pool.options(key="b").submit(int).result(LONG)
        assert not third.began.is_set()
        holds[1].let_go()
        third.wait_for_it()
        third.let_go()


def test_the_next_task_of_a_key_does_not_wait_for_the_callbacks_of_the_one_before() -> None:
    """Its thread claims nothing while they run; so one that is idle has to be woken."""
    ran, called, outcome = threading.Event(), threading.Event(), list[bool]()

    def callback(_: Future[Any]) -> None:
        outcome.append(ran.wait(PATIENCE))
        called.set()

    pool = Pool(2, order=Fair(max_running=1))
    with held(pool, key="a") as (hold,):
        hold.future.add_done_callback(callback)
        following = pool.options(key="a").submit(ran.set)
        pool.options(key="b").submit(int).result(LONG)  # when that is there, the other thread is idle
        assert not following.running()
        hold.let_go()
        assert called.wait(LONG)
        assert outcome == [True], "a task that might run waited although a thread was idle"


def test_ten_thousand_tasks_of_one_key_let_another_pass_after_one_of_theirs() -> None:
    ran: list[str] = []
    pool = Pool(1, order="fair", queue_size=None)
    with held(pool, key="flood") as (hold,):
        for _ in range(10_000):
            pool.options(key="flood").submit(ran.append, "flood")
        late = pool.options(key="late").submit(ran.append, "late")
        hold.let_go()
        late.result(LONG)
    assert ran.index("late") <= 1
    assert len(ran) == 10_001


def test_who_cancels_does_not_wait_longer_for_what_he_asks_for_next() -> None:
    ran: list[str] = []
    pool = Pool(1, order="fair", queue_size=None)
    with held(pool) as (hold,):
        for _ in range(1000):
            pool.options(key="flood").submit(ran.append, "flood")
        impatient = pool.options(key="impatient")
        for _ in range(400):
            assert impatient.submit(int).cancel()
        impatient.submit(ran.append, "late")
        hold.let_go()
    assert ran.index("late") <= 1


# -- max_waiting, with each policy --------------------------------------------------------------------------------


def test_wait_blocks_callers_of_the_key_that_is_full_and_no_others() -> None:
    ran: list[str] = []
    pool = Pool(1, order=Fair(max_waiting=1))
    with held(pool) as (hold,):
        a, b = pool.options(key="a"), pool.options(key="b")
        a.submit(ran.append, "a1")
        second, third = Caller(a.submit, ran.append, "a2"), None
        until_blocked(pool, 1)
        third = Caller(a.submit, ran.append, "a3")
        until_blocked(pool, 2)
        b.submit(ran.append, "b1")  # would block here
        assert (pool.snapshot().waiting, pool.snapshot().blocked) == (2, 2)
        hold.let_go()
        assert second.is_through()
        assert third.is_through()
    assert [name for name in ran if name[0] == "a"] == ["a1", "a2", "a3"], "callers enter in the order they came"
    assert ran.index("b1") <= 1


def test_callers_behind_one_whose_key_is_full_enter_when_there_is_room() -> None:
    pool = Pool(1, order=Fair(max_waiting=1), queue_size=2)
    with held(pool) as (hold,):
        first = Hold(pool, key="b")  # comes next
        pool.options(key="a").submit(int)
        blocked = Caller(pool.options(key="a").submit, int)
        until_blocked(pool, 1)
        behind = Caller(pool.options(key="c").submit, int)
        until_blocked(pool, 2)
        hold.let_go()
        first.wait_for_it()
        assert behind.is_through()
        assert pool.snapshot().blocked == 1, "of a there is one that waits already"
        first.let_go()
        assert blocked.is_through()


def test_cancelling_a_waiting_task_lets_the_next_caller_of_its_key_in() -> None:
    pool = Pool(1, order=Fair(max_waiting=1))
    with held(pool) as (hold,):
        waiting = pool.options(key="a").submit(int)
        caller = Caller(pool.options(key="a").submit, abs, -3)
        until_blocked(pool, 1)
        assert waiting.cancel()
        came = caller.is_through(PATIENCE)
        hold.let_go()
        assert caller.is_through()
        assert came, "the caller waits although its key has room"


def test_waiting_for_room_of_a_key_ends_when_the_time_allowed_is_over() -> None:
    pool = Pool(1, order=Fair(max_waiting=1))
    with held(pool):
        a = pool.options(key="a", block_timeout=0.01)
        a.submit(int)
        with pytest.raises(PoolFull, match=r"full for key 'a' after waiting 0\.01 s") as caught:
            a.submit(int)
        assert caught.value.key == "a"
        assert (pool.snapshot().blocked, pool.snapshot().waiting, pool.snapshot().rejected) == (0, 1, 1)


def test_reject_says_whose_ceiling_was_reached() -> None:
    pool = Pool(1, order=Fair(max_waiting=2), queue_size=3, when_full="reject", name="narrow")
    with held(pool):
        for _ in range(2):
            pool.options(key="a").submit(int)
        with pytest.raises(PoolFull, match=r"'narrow' is full for key 'a'.*max_waiting") as caught:
            pool.options(key="a").submit(int)
        assert (caught.value.key, caught.value.of_key, caught.value.pool, caught.value.waiting) == (
            "a",
            True,
            "narrow",
            2,
        )
        pool.options(key="b").submit(int)
        with pytest.raises(PoolFull, match=r"queue_size=3") as caught:
            pool.options(key="b").submit(int)
        assert (caught.value.key, caught.value.of_key, caught.value.waiting) == ("b", False, 3)


def test_reject_does_not_blame_the_queue_where_tasks_without_a_key_are_too_many() -> None:
    pool = Pool(1, order=Fair(max_waiting=1), when_full="reject")
    with held(pool):
        pool.submit(int)
        with pytest.raises(PoolFull, match="max_waiting"):
            pool.submit(int)


def test_discard_oldest_discards_of_the_key_that_is_full() -> None:
    pool = Pool(1, order=Fair(max_waiting=2), when_full="discard_oldest", queue_size=4)
    with held(pool):
        b = [pool.options(key="b").submit(int) for _ in range(2)]
        a = [pool.options(key="a").submit(int) for _ in range(2)]
        a.append(pool.options(key="a").submit(int))
        assert [was_shed(future) for future in (*a, *b)] == [True, False, False, False, False]
        newcomer = pool.options(key="c").submit(int)  # to a full queue: of whom most wait
        assert [was_shed(future) for future in (*a[1:], *b)].count(True) == 1
        assert not newcomer.done()
        assert (pool.snapshot().waiting, pool.snapshot().shed) == (4, 2)


def test_run_runs_what_has_no_room_in_the_caller() -> None:
    pool = Pool(1, order=Fair(max_waiting=1), when_full="caller_runs")
    with held(pool):
        pool.options(key="a").submit(int)
        assert pool.options(key="a").submit(threading.get_ident).result(0) == threading.get_ident()
        assert not pool.options(key="b").submit(int).done()


def test_a_task_that_submits_to_its_own_full_key_runs_that_itself() -> None:
    pool = Pool(1, order=Fair(max_waiting=1, max_running=1))

    def task() -> int:
        futures = [pool.options(key="a").submit(abs, -number) for number in range(5)]
        return sum(future.result(LONG) for future in futures)

    with pool:
        assert pool.options(key="a").submit(task).result(LONG) == 10


@pytest.mark.parametrize("when_full", ["block", "reject", "caller_runs", "discard_oldest"])
def test_of_no_key_more_wait_than_may_however_many_threads_submit(when_full: WhenFull) -> None:
    class Watched(Fair):
        mark = 0

        def put(self, task: Task) -> None:
            super().put(task)
            self.mark = max(self.mark, len(self._flows[task._options.slot].waiting))  # type: ignore[attr-defined]  # it is ours

    order, callers = Watched(max_waiting=2, max_running=1), []
    pool = Pool(2, order=order, when_full=when_full)
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def submit(key: str) -> None:
        for number in range(50):
            try:
                future = pool.options(key=key).submit(abs, -number)
            except PoolFull:
                future = None
            with lock:
                counts["refused" if future is None else "taken"] += 1

    for key in "aabb":
        callers.append(threading.Thread(target=submit, args=(key,)))
        callers[-1].start()
    for caller in callers:
        caller.join(LONG)
        assert not caller.is_alive()
    assert pool.shutdown() == ()
    now = pool.snapshot()
    assert 1 <= order.mark <= 2
    assert now.rejected == counts["refused"]
    assert now.finished + now.shed == counts["taken"] == now.submitted
    assert not any(flow.waiting or flow.running for flow in order._flows.values())


# -- Priority -----------------------------------------------------------------------------------------------------


def test_the_most_urgent_runs_first_and_of_equals_the_first(clock: FakeClock) -> None:
    ran: list[str] = []
    pool = Pool(1, order="priority")
    with held(pool) as (hold,):
        for name, priority in [("c1", 0), ("d1", -5), ("a1", 7), ("b1", 3), ("a2", 7), ("c2", 0), ("b2", 3)]:
            pool.options(priority=priority).submit(ran.append, name)
        hold.let_go()
    assert ran == ["a1", "a2", "b1", "b2", "c1", "c2", "d1"]


def test_what_waits_grows_more_urgent(clock: FakeClock) -> None:
    ran: list[str] = []
    pool = Pool(1, order=Priority(age=10.0))
    with held(pool) as (hold,):
        pool.options(priority=-1).submit(ran.append, "patient")
        clock.pass_(40.0)
        pool.options(priority=3).submit(ran.append, "as urgent by now, and first by rank")
        clock.pass_(0.001)
        pool.options(priority=3).submit(ran.append, "too late")
        hold.let_go()
    assert ran == ["as urgent by now, and first by rank", "patient", "too late"]


def test_a_map_is_as_urgent_as_its_view_says(clock: FakeClock) -> None:
    """Also after each of its items, when its turn goes back to the queue because others wait."""
    ran: list[Any] = []
    pool = Pool(1, order="priority")
    with held(pool) as (hold,):
        pool.options(priority=1).submit(ran.append, "low")
        results = pool.options(priority=5).map(ran.append, range(4))
        last = pool.options(priority=-5).map(ran.append, "xy")
        pool.submit(ran.append, "plain")
        pool.options(priority=9).submit(ran.append, "high")
        hold.let_go()
        assert list(results) == [None] * 4
        assert list(last) == [None] * 2
    assert ran == ["high", 0, 1, 2, 3, "low", "plain", "x", "y"]


def test_a_full_queue_discards_the_least_urgent() -> None:
    pool = Pool(1, order="priority", queue_size=3, when_full="discard_oldest")
    with held(pool):
        waiting = [pool.options(priority=priority).submit(int) for priority in (2, -1, -1)]
        pool.options(priority=5).submit(int)
        assert [was_shed(future) for future in waiting] == [False, True, False]


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "options", "error", "words"),
    [
        ("fifo", {"priority": 1}, ValueError, ("priority=1", "no effect", "Fifo", "order='priority'")),
        ("fifo", {"key": "a"}, ValueError, ("key='a'", "no effect", "order='fair'")),
        ("adaptive", {"priority": -1}, ValueError, ("priority=-1", "no effect", "Adaptive")),
        ("adaptive", {"key": 0}, ValueError, ("key=0", "no effect")),
        ("fair", {"priority": 1}, ValueError, ("priority=1", "no effect", "Fair")),
        ("priority", {"key": "a"}, ValueError, ("key='a'", "no effect", "Priority")),
        ("priority", {"priority": 1001}, ValueError, ("priority=1001", "-1000", "1000")),
        ("priority", {"priority": -1001}, ValueError, ("priority=-1001", "-1000")),
        ("priority", {"priority": 1.5}, TypeError, ("priority=1.5", "integer")),
        ("priority", {"priority": "1"}, TypeError, ("priority='1'", "integer")),
        ("fair", {"key": ["a"]}, TypeError, ("unhashable", "list")),
        ("fair", {"key": {}}, TypeError, ("unhashable", "dict")),
    ],
)
def test_an_option_that_the_order_does_not_look_at_or_that_is_out_of_range_is_refused(
    order: OrderName, options: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    with Pool(1, order=order) as pool:
        with pytest.raises(error) as caught:
            pool.options(**options)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("priority", [-1000, 1000])
def test_the_edges_of_the_range_of_priorities_are_allowed(priority: int) -> None:
    with Pool(1, order="priority") as pool:
        assert pool.options(priority=priority).submit(abs, -3).result(LONG) == 3


def test_an_order_of_somebody_elses_may_look_at_both() -> None:
    class Both(Lifo):
        looks_at = frozenset({"key", "priority"})

    with Pool(1, order=Both()) as pool:
        assert pool.options(priority=3, key="a").submit(abs, -3).result(LONG) == 3


# -- the end ------------------------------------------------------------------------------------------------------


def views(pool: Pool, order: Order) -> list[Any]:
    """Views of a pool with all that its order looks at."""
    if isinstance(order, Priority):
        return [pool.options(priority=priority) for priority in (-3, 0, 5)]
    if isinstance(order, Fair):
        return [pool.options(key=key) for key in (None, "a", "b")]
    return [pool.options()] * 3


@pytest.mark.usefixtures("clock")  # or an adaptive one would shed what a slow machine has not done in time
@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_order_drains(kind: Callable[[], Order], threads: int) -> None:
    order = kind()
    with Pool(threads, order=order) as pool:
        hold = Hold(pool)
        hold.wait_for_it()
        futures = [view.submit(abs, -number) for number in range(30) for view in views(pool, order)]
        pool.shutdown(wait=False)
        with pytest.raises(PoolClosed):
            pool.submit(int)
        hold.let_go()
    assert [future.result(0) for future in futures] == [number for number in range(30) for _ in range(3)]
    now = pool.snapshot()
    assert (now.submitted, now.finished, now.threads, now.waiting) == (91, 91, 0, 0)


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_shutdown_that_cancels_leaves_nothing_in_any_order(kind: Callable[[], Order], threads: int) -> None:
    order = kind()
    pool = Pool(threads, order=order)
    holds = [Hold(pool, **({"key": f"hold {n}"} if isinstance(order, Fair) else {})) for n in range(threads)]
    for hold in holds:
        hold.wait_for_it()
    called: list[Future[int]] = []
    futures = [view.submit(abs, -number) for number in range(30) for view in views(pool, order)]
    for future in futures:
        future.add_done_callback(called.append)
    left = pool.shutdown(wait=False, cancel_futures=True)
    assert set(left) == {hold.future for hold in holds}
    assert all(future.cancelled() for future in futures)
    assert Counter(called) == Counter(futures)
    for hold in holds:
        hold.let_go()
    assert pool.shutdown() == ()
    assert len(order) == 0
    assert not order.ready()
    now = pool.snapshot()
    assert (now.submitted, now.cancelled, now.finished) == (90 + threads, 90, threads)


@pytest.mark.usefixtures("clock")  # as above
@pytest.mark.parametrize("kind", ORDERS)
def test_a_dropped_pool_runs_what_waits_in_any_order(kind: Callable[[], Order]) -> None:
    order = kind()
    pool = Pool(2, order=order)
    hold = Hold(pool)
    hold.wait_for_it()
    futures = [view.submit(abs, -number) for number in range(10) for view in views(pool, order)]
    threads = pool._threads
    del pool
    hold.let_go()
    assert [future.result(LONG) for future in futures] == [number for number in range(10) for _ in range(3)]
    for thread in threads:
        thread.join(LONG)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("Fair(max_running=1)", "key='a'"),
        ("Fair(max_running=1, max_waiting=2)", "key='a'"),
        ("Priority()", "priority=3"),
        ("Adaptive(0.0, 0.0)", "name='x'"),
    ],
)
def test_a_forked_child_has_an_order_that_holds_nothing_back(order: str, options: str) -> None:
    """What ran and waited in the parent is the parent's; so it takes no key's place, and the ceilings hold anew."""
    done = script(f"""
        from treadle import Pool
        from treadle.orders import Adaptive, Fair, Priority
        order = {order}
        pool, gate, began = Pool(2, order=order), threading.Event(), threading.Event()
        view = pool.options({options})
        running = view.submit(lambda: began.set() or gate.wait(60))
        assert began.wait(60)
        waiting = [] if isinstance(order, Adaptive) else [view.submit(abs, -n) for n in range(2)]
        def child():
            now = pool.snapshot()
            assert (now.threads, now.busy, now.waiting) == (0, 0, 0), now
            assert (len(order), order.ready()) == (0, False)
            assert view.submit(abs, -3).result(20) == 3
            lock, inside, most = threading.Lock(), 0, 0
            def task(number):
                nonlocal inside, most
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                return number
            assert [future.result(20) for future in [view.submit(task, n) for n in range(2)]] == [0, 1]
            assert list(view.map(task, range(100))) == list(range(100))
            assert most == 1 or not isinstance(order, Fair), most
            pool.shutdown()
            assert len(order) == 0
            assert not getattr(order, "_taken", None)
            flows = getattr(order, "_flows", {{}}).values()  # a few may be kept that hold nothing
            assert not any(flow.waiting or flow.running for flow in flows)
        print(fork(child))
        gate.set()
        print(running.result(30), *(future.result(30) for future in waiting))
        pool.shutdown()
    """)
    ended = ["0", "True"] if "Adaptive" in order else ["0", "True 0 1"]
    assert done.stdout.splitlines() == ended, done.stderr

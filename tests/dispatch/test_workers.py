"""The workers of a pool: who comes, who goes, who is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from time import monotonic
from typing import Any, ClassVar

import pytest

from blocked import until_blocked, until_noted
from treadle import ConcurrencyLimit, Future, Pool, Rate, deadline
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.worker import Worker
from treadle._tasks.rate import Bucket
from treadle.errors import PatchedTooLate


class Refusing(threading.Thread):
    """A thread that the system has no room for."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class Late(threading.Thread):
    """A thread that has started, and not come up, when Ctrl-C comes; it does so when it is let."""

    made: ClassVar[list[Late]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.let = threading.Event()
        self.made.append(self)

    def start(self) -> None:
        super().start()
        raise KeyboardInterrupt

    def run(self) -> None:
        assert self.let.wait(30)
        super().run()


class Held:
    """Tasks that fill threads until `let_go`, which returns when they are done."""

    def __init__(self, gate: threading.Event, futures: list[Future[None]]) -> None:
        self.gate, self.futures = gate, futures

    def let_go(self) -> None:
        self.gate.set()
        for future in self.futures:
            future.result(30)


def hold(pool: Pool, tasks: int) -> Held:
    """Fill `tasks` threads of the pool."""
    gate, began = threading.Event(), threading.Barrier(tasks + 1)

    def task() -> None:
        began.wait(30)
        assert gate.wait(30)

    futures = [pool.submit(task) for _ in range(tasks)]
    began.wait(30)
    return Held(gate, futures)


def until_gone(pool: Pool) -> None:
    """Wait until the pool has no thread and a task waits."""
    deadline, pause = monotonic() + 30, threading.Event()
    while pool.snapshot().threads or not pool.snapshot().waiting:
        assert monotonic() < deadline
        pause.wait(0.001)


def test_threads_are_started_when_needed_and_not_before() -> None:
    with Pool(4) as pool:
        assert pool.snapshot().threads == 0
        for _ in range(50):
            pool.submit(int).result(30)
        assert pool.snapshot().threads == 1, "the idle one is taken, since it is idle before it delivers"
        hold(pool, 3).let_go()
        assert pool.snapshot().threads == 3


def test_the_newest_idle_thread_is_taken_first() -> None:
    with Pool(3) as pool:
        hold(pool, 3).let_go()
        names = {pool.submit(threading.current_thread).result(30).name for _ in range(20)}
        assert len(names) == 1


def test_a_thread_that_cannot_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    with Pool(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Refusing)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(ran.append, 1)
        assert pool.snapshot().waiting == 0
        pool.submit(ran.append, 2).result(30)
    assert ran == [2]


def test_a_thread_that_cannot_start_is_no_matter_while_another_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(2) as pool:
        held = hold(pool, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Refusing)
            future = pool.submit(int)
        held.let_go()
        assert future.result(30) == 0


def test_idle_threads_end_down_to_those_kept_warm_and_numbers_are_given_again() -> None:
    ended: list[Any] = []
    with Pool(3, min_workers=1, idle_timeout=0.01, name="crew") as pool:
        held = hold(pool, 3)
        threads = sorted(pool._threads, key=lambda thread: thread.name)
        assert [thread.name for thread in threads] == ["crew-0", "crew-1", "crew-2"]
        held.let_go()
        tick = threading.Event()
        for _ in range(3000):
            ended = [thread for thread in threads if not thread.is_alive()]
            if len(ended) == 2:
                break
            tick.wait(0.01)
        assert len(ended) == 2
        assert pool.snapshot().threads == 1
        hold(pool, 3).let_go()
        assert {thread.name for thread in pool._threads} <= {"crew-0", "crew-1", "crew-2"}


@pytest.mark.parametrize("where", ["woken by submit", "woken by enter", "started"])
def test_a_signal_handler_may_submit_just_before_a_thread_is_woken_or_given_its_first_task(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the thread that submits, in the middle of that; here as the call returns that puts, or starts."""
    handled: list[Future[int]] = []

    def and_handle(call: Callable[[Any], object]) -> Callable[[Any], None]:
        def handler(argument: Any) -> None:
            call(argument)
            if not handled:
                handled.append(Future())  # so that this happens once
                handled[0] = pool.options(priority=1).submit(abs, -1)

        return handler

    with Pool(2 if where == "started" else 1, order="priority") as pool:
        entrance, queue = pool._task_dispatcher.entrance, pool._task_dispatcher.queue
        if where == "started":
            monkeypatch.setattr(threading.Thread, "start", and_handle(threading.Thread.start))
        else:
            pool.submit(int).result(30)
            while not entrance.idle:
                threading.Event().wait(0.001)
            entrance.put = queue.put = and_handle(queue.put)  # of submit, and of all else
        with deadline(600) if where == "woken by enter" else nullcontext():
            assert pool.submit(abs, -2).result(30) == 2
        assert handled[0].result(30) == 1
        assert pool.snapshot().finished == pool.snapshot().submitted


def test_a_thread_that_is_kept_warm_sleeps_even_if_idle_threads_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    may_leave = Dispatcher.may_leave

    def counting(dispatcher: Dispatcher, worker: Worker) -> bool:
        asked.append(may_leave(dispatcher, worker))
        return asked[-1]

    monkeypatch.setattr(Dispatcher, "may_leave", counting)
    with Pool(1, min_workers=1, idle_timeout=0) as pool:
        for round_ in range(1, 4):
            assert pool.submit(abs, -round_).result(30) == round_
            threading.Event().wait(0.05)  # in which one that does not sleep would ask a thousand times
            assert len(asked) < 20 * round_
        assert len(pool._task_dispatcher.workers.present) == 1
    assert asked.count(False) >= 1


@pytest.mark.parametrize(("waiting", "threads"), [(0, 1), (1, 2), (3, 4), (20, 6)])
def test_more_threads_are_allowed_and_only_as_many_started_as_tasks_wait(waiting: int, threads: int) -> None:
    with Pool(1) as pool:
        held = hold(pool, 1)
        cancelled = [pool.submit(int) for _ in range(5)]
        tasks = [pool.submit(held.gate.wait, 30) for _ in range(waiting)]
        for future in cancelled:
            future.cancel()
        pool.resize(6)
        pool.resize(6)
        assert pool.snapshot().threads == threads
        held.let_go()
        assert all(task.result(30) for task in tasks)


def test_of_two_who_find_that_a_thread_is_missing_one_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start, entered = Dispatcher._start_worker, list[Dispatcher]()

    def start_late(self: Dispatcher, **options: Any) -> Any:
        if not entered:
            entered.append(self)
            self.grow()  # as another thread does meanwhile
        return start(self, **options)

    with Pool(1) as pool:
        held = hold(pool, 1)
        waits = pool.submit(held.gate.wait, 30)
        monkeypatch.setattr(Dispatcher, "_start_worker", start_late)
        pool.resize(6)
        assert entered == [pool._task_dispatcher]
        assert pool.snapshot().threads == 2
        held.let_go()
        assert waits.result(30)


@pytest.mark.parametrize("queue_size", [0, 2])
def test_more_threads_let_callers_in_that_wait_for_room(queue_size: int) -> None:
    with Pool(1, queue_size=queue_size) as pool:
        held = hold(pool, 1)
        queued = [pool.submit(int) for _ in range(queue_size)]
        together = threading.Barrier(3)
        callers = [threading.Thread(target=pool.submit, args=(together.wait, 30)) for _ in range(2)]
        for caller in callers:
            caller.start()
        until_blocked(pool, 2)
        pool.resize(3)
        try:
            together.wait(30)
        finally:
            held.let_go()
        for caller in callers:
            caller.join(30)
        assert [future.result(30) for future in queued] == [0] * queue_size


def test_threads_that_are_kept_warm_are_no_more_than_a_limit_allows() -> None:
    with Pool(16, limit=ConcurrencyLimit(initial=3), min_workers=8) as pool:
        assert pool.snapshot().threads == 3


def test_a_submit_that_needs_a_thread_says_at_once_that_there_will_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another thread would get to the task sooner or later."""
    ran: list[int] = []
    with Pool(2) as pool:
        held = hold(pool, 1)
        with monkeypatch.context() as patched:
            patched.setattr(threading, "_allocate_lock", lambda: threading.Lock())
            for submit in (pool.submit, pool.options(rate=Rate(100.0)).submit):
                with pytest.raises(PatchedTooLate):
                    submit(ran.append, 1)
            assert pool.snapshot().waiting == 0
        held.let_go()
    assert ran == []


def test_a_task_that_its_rate_calls_is_kept_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1, idle_timeout=0.0) as pool:
        late = pool.options(rate=Rate(0.001))
        late.submit(int).result(30)
        called = late.submit(int)
        until_gone(pool)
        with monkeypatch.context() as refusing:
            refusing.setattr(
                "treadle._dispatch.worker.new_thread", lambda target, name: Refusing(target=target, name=name)
            )
            pool._task_dispatcher.resume(called)
        assert not called.done()
        pool.submit(int).result(30)
        assert pool.snapshot().waiting == 1, "it was looked at again"
        called.cancel()


def test_a_burst_that_outnumbers_the_idle_threads_starts_another() -> None:
    """Two are idle and one is woken, who wakes the second; for the third task nobody would come."""
    together, awake = threading.Barrier(3), threading.Event()
    with Pool(3) as pool:
        workers, held = pool._task_dispatcher.workers, hold(pool, 2)
        for worker in workers.present:  # so that none takes a task before all are there
            worker.wakeup = Bed(worker, lambda: awake.wait(30))  # type: ignore[assignment]  # scripted
        held.let_go()
        try:
            while len(workers.entrance.idle) < 2:
                threading.Event().wait(0.001)
            futures = [pool.submit(together.wait, 30) for _ in range(3)]
            assert len(workers.present) == 3
            awake.set()
            assert sorted(future.result(30) for future in futures) == [0, 1, 2]
        finally:
            awake.set()
            together.abort()


class Bed:
    """The latch that an idle worker sleeps on; whoever was woken does something first."""

    def __init__(self, worker: Worker, act: Callable[[], object]) -> None:
        self.latch, self.act = worker.wakeup, act

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        came = self.latch.acquire(blocking, timeout)
        if came:
            self.act()
        return came

    def release(self) -> None:
        self.latch.release()


def test_a_worker_that_is_killed_on_its_way_keeps_nobody_asleep() -> None:
    """Nobody else is woken while one is on its way."""
    deadly = threading.Lock()

    def die_first() -> None:
        if deadly.acquire(False):
            raise SystemExit

    with Pool(2) as pool:
        workers, held = pool._task_dispatcher.workers, hold(pool, 2)
        for worker in workers.present:
            worker.wakeup = Bed(worker, die_first)  # type: ignore[assignment]  # scripted
        threads = pool._threads
        held.let_go()
        while len(workers.entrance.idle) < 2:
            threading.Event().wait(0.001)
        assert pool.submit(abs, -1).result(30) == 1
        (dead,) = threads - pool._threads
        dead.join(30)
        assert not workers.entrance.waking
        assert pool.submit(abs, -2).result(30) == 2


def test_a_map_whose_thread_cannot_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Refusing)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.map(abs, [-1])
        assert pool.snapshot().waiting == 0
        assert list(pool.map(abs, [-1])) == [1]


def test_a_thread_that_ctrl_c_finds_started_is_one_of_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or there would be one too many, that no shutdown waits for."""
    ran, gate = list[int](), threading.Event()

    def task() -> None:
        assert gate.wait(30)
        ran.append(1)

    class Counted(threading.Thread):
        def start(self) -> None:
            super().start()
            while not pool._task_dispatcher.workers.present:
                threading.Event().wait(0.001)
            raise KeyboardInterrupt

    with Pool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Counted)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(task)
        try:
            assert pool.snapshot().threads == 1
        finally:
            gate.set()
        assert pool.submit(abs, -1).result(30) == 1
        assert pool.snapshot().threads == 1
    assert len(ran) <= 1


def test_a_thread_that_comes_up_after_ctrl_c_has_ended_its_start_leaves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is another one in its place, and it is not to run beside that."""
    with Pool(1) as pool:
        monkeypatch.setattr(Late, "made", [])
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Late)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(int)
        (late,) = Late.made
        assert pool.snapshot().threads == 0
        held, waits = hold(pool, 1), pool.submit(abs, -1)
        try:
            late.let.set()
            late.join(30)
            assert not waits.done()
            assert pool.snapshot().threads == 1
        finally:
            held.let_go()
        assert waits.result(30) == 1


def test_a_thread_that_ends_waits_for_the_one_that_ended_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a shutdown, which waits for the last, leaves none behind. Here the first ends when somebody waits for it."""
    struck_out, gate, ends = threading.Event(), threading.Event(), list[threading.Thread]()
    exited = Dispatcher.exited

    def exit_slowly(dispatcher: Dispatcher, worker: Worker) -> None:
        exited(dispatcher, worker)
        if not ends:
            ends.append(worker.thread)
            worker.thread.join = join_first  # type: ignore[method-assign]  # scripted
            struck_out.set()
            assert gate.wait(30)

    def join_first(timeout: float | None = None) -> None:
        gate.set()
        threading.Thread.join(ends[0], timeout)

    monkeypatch.setattr(Dispatcher, "exited", exit_slowly)
    with Pool(2) as pool:
        try:
            hold(pool, 2).let_go()
            pool.resize(1)
            assert struck_out.wait(30)
            pool.shutdown()
            assert not ends[0].is_alive()
        finally:
            gate.set()


class Asked(Rate):
    """A rate that has been used up, and answers the first task when it is told to."""

    def __init__(self) -> None:
        super().__init__(50)
        self._bucket.admit = self.admit  # type: ignore[method-assign]  # that is the point
        self.asked, self.answer = threading.Event(), threading.Event()

    def admit(self, task: Future[Any]) -> bool:
        if not self.asked.is_set():
            self.asked.set()
            assert self.answer.wait(30)
            self._bucket._tokens, self._bucket._filled = 0.0, monotonic()
        return Bucket.admit(self._bucket, task)


def test_a_thread_too_many_stays_for_a_task_that_it_put_back_and_the_others_wait_for() -> None:
    """They could not run it themselves, for at that moment the thread asked its rate."""
    rate, pool = Asked(), Pool(2)
    view = pool.options(rate=rate)

    def outer() -> int:
        inner = view.submit(abs, -1)
        assert rate.asked.wait(30)
        return inner.result()

    task = pool.submit(outer)
    try:
        until_noted(1)
        pool.resize(1)
        rate.answer.set()
        assert task.result(10) == 1
    finally:
        task.request_cancel()  # or a pool that has no thread left would keep Python from exiting
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("others", [1, 2, 3])
def test_whose_thread_comes_for_what_others_have_let_in_starts_another(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, start, futures = threading.Barrier(others + 1), Dispatcher._start_worker, list[Future[int]]()
    begun: list[bool] = []

    def start_late(self: Dispatcher, **options: Any) -> Worker | None:
        worker = start(self, **options)
        if not begun:
            begun.append(True)
            futures.extend(pool.submit(together.wait, 30) for _ in range(others))
        return worker

    monkeypatch.setattr(Dispatcher, "_start_worker", start_late)
    with Pool(others + 1) as pool:
        futures.append(pool.submit(together.wait, 30))
        assert sorted(future.result(30) for future in futures) == list(range(others + 1))

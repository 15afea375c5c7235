"""Races, each forced by a scripted primitive that loses on purpose at the worst instant."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

import pytest

from treadle import Future, Pool, Rate
from treadle._base.locks import closed_latch
from treadle._dispatch import deadlock as deadlock_module
from treadle._dispatch import dispatcher as dispatch_module
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.state import Claims
from treadle._pool.mapping import job as job_module


class Held:
    """A pool of one thread that is busy until it is let go."""

    def __init__(self, queue_size: int) -> None:
        self.pool = Pool(1, queue_size=queue_size)
        self.gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(30)

        self.running = self.pool.submit(hold)
        assert began.wait(30)


def test_a_submit_that_is_let_in_as_its_time_runs_out_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(1)
    first = held.pool.submit(int)

    class Scripted:
        """Waits for room, gets it, and then says that the time is over."""

        @staticmethod
        def wait(gate: Any, worker: Any, targets: Any, timeout: float | None, **_: Any) -> bool:
            assert first.cancel(), "which makes room, and lets the caller in"
            return False

    monkeypatch.setattr(dispatch_module, "deadlock", Scripted)
    late = held.pool.options(block_timeout=5).submit(abs, -3)
    monkeypatch.undo()
    held.gate.set()
    assert late.result(30) == 3
    held.pool.shutdown()


def test_a_submit_whose_time_runs_out_before_it_is_let_in_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(0)
    ran: list[int] = []

    class Scripted:
        @staticmethod
        def wait(gate: Any, worker: Any, targets: Any, timeout: float | None, **_: Any) -> bool:
            return False

    monkeypatch.setattr(dispatch_module, "deadlock", Scripted)
    with pytest.raises(Exception, match="full after waiting 5 s"):
        held.pool.options(block_timeout=5).submit(ran.append, 1)
    held.gate.set()
    held.pool.shutdown()
    assert ran == []


class MailThatLoses:
    """An idle worker's lock: the wait times out just when a submit has chosen that worker and wakes it."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.lock, self.then, self.waits = allocate_lock(), then, 0
        self.lock.acquire()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.waits += 1
        if self.waits == 1:
            self.then()
            return False
        return self.lock.acquire(blocking, 30)

    def release(self) -> None:
        self.lock.release()


def test_a_worker_that_times_out_as_it_is_woken_stays_for_the_task() -> None:
    futures: list[Future[int]] = []
    with Pool(1, idle_timeout=0.001, min_workers=0) as pool:
        gate = threading.Event()
        busy = pool.submit(gate.wait, 30)
        (worker,) = pool._task_dispatcher.workers.present

        def submit_from_another_thread() -> None:
            thread = threading.Thread(target=lambda: futures.append(pool.submit(abs, -3)))
            thread.start()
            thread.join(30)

        worker.wakeup = MailThatLoses(submit_from_another_thread)  # type: ignore[assignment]  # scripted
        gate.set()
        assert busy.result(30) is True
        while not futures:
            threading.Event().wait(0.001)
        assert futures[0].result(30) == 3
        assert worker.wakeup.waits >= 2  # type: ignore[attr-defined]  # scripted
        assert pool.snapshot().threads <= 1


def test_a_result_that_comes_just_before_the_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is settled after result() has seen it running, and before it can be woken."""
    held = Held(1)

    def settle_first() -> Any:
        held.gate.set()
        while not held.running.done():
            threading.Event().wait(0.001)
        return allocate_lock()

    monkeypatch.setattr(dispatch_module, "allocate_lock", settle_first)
    assert held.running.result(30) is None
    held.pool.shutdown()


def test_an_item_that_is_done_just_before_the_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, began = threading.Event(), threading.Event()

    def item(_: int) -> bool:
        began.set()
        return gate.wait(30)

    with Pool(1) as pool:
        results: Any = pool.map(item, [0])
        assert began.wait(30)  # what follows holds the lock that a turn needs to begin

        def finish_first() -> Any:
            gate.set()
            while results._window[0].value is job_module.NOT_YET:
                threading.Event().wait(0.001)
            return closed_latch()

        monkeypatch.setattr(job_module, "closed_latch", finish_first)
        assert next(results) is True


def test_the_last_of_two_that_wait_for_each_other_finds_the_knot_whoever_is_last() -> None:
    """Both workers are held until both are about to wait, over and over."""
    for _ in range(50):
        with Pool(1, name="a") as a, Pool(1, name="b") as b:
            both = threading.Barrier(2)

            def cross(other: Pool, both: threading.Barrier = both) -> int:
                both.wait(30)
                return other.submit(abs, -1).result()

            assert [future.result(30) for future in (a.submit(cross, b), b.submit(cross, a))] == [1, 1]
    assert deadlock_module._waits == {}


def test_a_thousand_lone_tasks_need_one_thread_whoever_submits() -> None:
    """A worker is idle before it delivers, so whoever gets a result and submits again finds it free."""
    with Pool(8) as pool:
        for _ in range(1000):
            thread = pool.submit(threading.get_ident)
            assert thread.result(30)
        assert pool.snapshot().threads == 1


def test_ctrl_c_just_after_a_task_was_put_takes_it_out_again() -> None:
    ran: list[int] = []
    with Pool(1) as pool:
        pool.submit(int).result(30)  # so that there is an idle thread to wake
        entrance, queue = pool._task_entrance, pool._task_dispatcher.queue
        put = queue.put

        def put_and_interrupt(task: Future[Any]) -> None:
            put(task)
            raise KeyboardInterrupt

        entrance.put = queue.put = put_and_interrupt
        with pytest.raises(KeyboardInterrupt):
            pool.submit(ran.append, 1)
        with pytest.raises(KeyboardInterrupt):
            pool.options(rate=Rate(1e6)).submit(ran.append, 2)  # the other way in
        entrance.put = queue.put = put
        assert pool.snapshot().waiting == 0
        assert pool.submit(abs, -3).result(30) == 3
    assert ran == []


def test_a_worker_killed_between_settling_and_telling_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    waits, kill = threading.Event(), threading.Event()
    with Pool(1) as pool:
        lock = pool._task_dispatcher.lock

        class Scripted:
            """The pool's lock, after which the thread dies that lets it go."""

            acquire, _is_owned = lock.acquire, lock._is_owned  # type: ignore[attr-defined]  # see `is_held`

            def release(self) -> None:
                lock.release()
                if kill.is_set() and threading.current_thread() is not threading.main_thread():
                    kill.clear()
                    raise SystemExit

        pool._task_dispatcher.lock = Scripted()  # type: ignore[assignment]  # scripted; the thread is not there yet

        def task() -> str:
            assert waits.wait(30)
            kill.set()
            return "done"

        future = pool.submit(task)
        latch = closed_latch()
        with lock:  # the main thread is among those who wait before the task goes on
            future._get_waiters().latches.append(latch)
            waits.set()
        assert latch.acquire(True, 30)
        assert future.result(30) == "done"
        assert pool.submit(abs, -3).result(30) == 3
    assert "was killed" in caplog.text


def test_a_map_whose_only_queued_turn_is_dropped_while_another_is_offered_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, began = threading.Event(), threading.Barrier(3)

    def hold() -> None:
        began.wait(30)
        assert gate.wait(30)

    with Pool(2, queue_size=1) as pool:
        for _ in range(2):
            pool.submit(hold)
        began.wait(30)
        offers: list[Any] = []

        def offer(dispatcher: Dispatcher, turn: Any) -> bool:
            """Fail, just after somebody's discard_oldest has dropped the turn that was queued."""
            monkeypatch.undo()
            offers.append(turn)

            def discard(claims: Claims) -> None:
                assert dispatcher.queue.claim_victim(turn, claims)

            dispatcher._do_and_end(discard)
            return False

        monkeypatch.setattr(Dispatcher, "offer", offer)
        results = pool.map(abs, range(5))
        gate.set()
        assert list(results) == [0, 1, 2, 3, 4]
        assert offers

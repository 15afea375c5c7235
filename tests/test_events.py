"""Observers are told what happens to each task."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from notes import Notes
from orders.tasks import Hands
from treadle import Future, Pool, Rate, deadline
from treadle._base import clock as clock_module
from treadle._base.timer import run_later
from treadle._dispatch import deadlock
from treadle._tasks.rate import Bucket
from treadle._tasks.scoped import ScopedTask
from treadle.errors import DeadlineExceeded, PoolClosed, PoolFull
from treadle.events import Observer, TaskEvent


def test_a_task_is_submitted_started_and_finished_in_time() -> None:
    notes = Notes()
    with Pool(1, name="db", observers=[notes]) as pool:
        pool.submit(abs, -1).result(30)
    assert [what for what, _ in notes.events] == ["submitted", "started", "finished"]
    at = dict(notes.events)
    assert {event.pool for event in at.values()} == {"db"}
    assert len({event.task_id for event in at.values()}) == 1
    assert at["submitted"].time_ns <= at["started"].time_ns <= at["finished"].time_ns
    assert at["started"].thread == "db-0"
    assert at["finished"].error is None


def test_each_item_of_a_map_is_a_task() -> None:
    notes = Notes()
    with Pool(2, observers=[notes]) as pool:
        assert list(pool.map(abs, range(5))) == [0, 1, 2, 3, 4]
    for what in ("submitted", "started", "finished"):
        assert len({event.task_id for told, event in notes.events if told == what}) == 5


class Watch:
    """Time that observers are told, which passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 10**9
        monkeypatch.setattr(clock_module, "now_ns", lambda: self.ns)

    def pass_(self, seconds: float) -> None:
        self.ns += int(seconds * 10**9)


def times(notes: Notes, name: str) -> dict[str, tuple[float | None, float | None]]:
    """Return what each event of the tasks of that name says of how long it waited, and ran."""
    return {what: (event.waited, event.ran) for what, event in notes.events if event.name == name}


def test_an_event_tells_how_long_its_task_has_waited_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, watch = Notes(), Watch(monkeypatch)
    gate, began = threading.Event(), threading.Event()
    with Pool(1, observers=[notes]) as pool:
        pool.submit(lambda: began.set() or gate.wait(30))  # type: ignore[func-returns-value]  # it is falsy
        assert began.wait(30)
        task = pool.options(name="task").submit(watch.pass_, 0.25)
        watch.pass_(1.5)
        gate.set()
        task.result(30)
    assert times(notes, "task") == {"submitted": (None, None), "started": (1.5, None), "finished": (1.5, 0.25)}


def test_an_event_tells_that_of_a_task_that_raises_too(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, watch = Notes(), Watch(monkeypatch)

    def fail() -> None:
        watch.pass_(0.5)
        raise ZeroDivisionError

    with Pool(1, observers=[notes]) as pool:
        pool.options(name="task").submit(fail).exception(30)
    assert times(notes, "task")["finished"] == (0.0, 0.5)


def test_the_time_for_room_and_for_a_rate_is_waiting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, watch = Notes(), Watch(monkeypatch)
    gate, rate = threading.Event(), Rate(0.001)
    with Pool(1, queue_size=0, observers=[notes]) as pool:
        pool.submit(gate.wait, 30)
        entering = threading.Thread(target=pool.options(name="blocked").submit, args=(int,))
        entering.start()
        while not pool.snapshot().blocked:
            threading.Event().wait(0.001)
        watch.pass_(2.0)
        gate.set()
        entering.join(30)
    with Pool(1, observers=[notes]) as pool:
        pool.options(rate=rate).submit(int).result(30)
        late = pool.options(rate=rate, name="rated").submit(int)
        while not pool._task_dispatcher.queue.throttled:
            threading.Event().wait(0.001)
        watch.pass_(3.0)
        pool.submit(late.result).result(30)  # runs it
    assert times(notes, "blocked")["started"] == (2.0, None)
    assert times(notes, "rated")["started"] == (3.0, None)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_events_of_an_item_of_a_map_tell_all_that_a_tasks_do(
    monkeypatch: pytest.MonkeyPatch, *, ordered: bool
) -> None:
    notes, watch = Notes(), Watch(monkeypatch)
    gate = threading.Event()
    with Pool(1, order="priority", observers=[notes]) as pool:
        pool.submit(gate.wait, 30)
        results = pool.options(name="item", priority=7).map(watch.pass_, [0.5, 0.25], ordered=ordered)
        watch.pass_(2.0)
        gate.set()
        list(results)
    told = [(what, event.waited, event.ran) for what, event in notes.events if event.name == "item"]
    assert told == [
        ("submitted", None, None),
        ("submitted", None, None),
        ("started", 2.0, None),
        ("finished", 2.0, 0.5),
        ("started", 2.5, None),
        ("finished", 2.5, 0.25),
    ]
    assert {event.priority for _, event in notes.events if event.name == "item"} == {7}


def test_an_event_tells_whose_its_task_is_and_how_urgent() -> None:
    notes = Notes()
    with Pool(1, order="fair", observers=[notes]) as pool:
        pool.options(key="a", name="a's").submit(int).result(30)
        assert list(pool.options(key=("b", 2), name="b's").map(abs, [-1])) == [1]
        pool.options(name="nobody's").submit(int).result(30)
    with Pool(1, order="priority", observers=[notes]) as pool:
        pool.options(priority=-3, name="late").submit(int).result(30)
    for name, key, priority in (("a's", "a", 0), ("b's", ("b", 2), 0), ("nobody's", None, 0), ("late", None, -3)):
        said = [(what, event.key, event.priority) for what, event in notes.events if event.name == name]
        assert said == [(what, key, priority) for what in ("submitted", "started", "finished")]


def test_what_never_began_has_neither_waited_nor_run() -> None:
    notes, gate = Notes(), threading.Event()
    with Pool(1, queue_size=1, observers=[notes]) as pool:
        pool.submit(gate.wait, 30)
        pool.options(name="shed").submit(int)
        with pytest.raises(PoolFull):
            pool.options(name="rejected", when_full="reject").submit(int)
        pool.options(name="cancelled", when_full="discard_oldest").submit(int).cancel()
        with pool._task_dispatcher.lock:
            lost = pool.options(name="lost").submit(int)
            assert pool._task_dispatcher.queue.claim_next(Hands()) is lost
        pool._task_dispatcher.settle_lost(lost, "a thread", None)
        gate.set()
    for name in ("shed", "rejected", "cancelled"):
        assert times(notes, name) == {"submitted": (None, None), name: (None, None)}
    assert times(notes, "lost") == {"submitted": (None, None), "finished": (None, None)}


def test_nothing_is_kept_of_a_task_that_nobody_is_told_of() -> None:
    with Pool(1) as pool:
        task = pool.submit(int)
        assert task.result(30) == 0
        (failed,) = [future for future in [pool.submit(int, "x")] if future.exception(30)]
    assert not hasattr(task, "_cold")
    assert not hasattr(failed._cold, "submitted")


def test_what_is_refused_cancelled_or_shed_is_told() -> None:
    notes = Notes()
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    with Pool(1, queue_size=1, observers=[notes]) as pool:
        pool.submit(hold)
        assert began.wait(30)
        pool.options(name="old").submit(int)
        with pytest.raises(PoolFull):
            pool.options(name="refused", when_full="reject").submit(int)
        newest = pool.options(name="new", when_full="discard_oldest").submit(int)
        assert newest.cancel()
        gate.set()
    assert notes.of("old") == {"submitted", "shed"}
    assert notes.of("refused") == {"submitted", "rejected"}
    assert notes.of("new") == {"submitted", "cancelled"}


def test_what_a_task_raised_is_told() -> None:
    notes = Notes()
    with Pool(1, observers=[notes]) as pool:
        error = pool.submit(int, "x").exception(30)
    assert notes.events[-1][1].error is error


def test_an_observer_that_kills_its_worker_loses_that_task_only() -> None:
    class Killing(Observer):
        def started(self, event: TaskEvent) -> None:
            if event.name == "doomed":
                raise SystemExit

    with Pool(1, observers=[Killing()]) as pool:
        doomed = pool.options(name="doomed").submit(int)
        after = [pool.submit(abs, -n) for n in range(5)]
        assert "doomed" in str(doomed.exception(30))
        assert [future.result(30) for future in after] == [0, 1, 2, 3, 4]
    assert (pool.snapshot().submitted, pool.snapshot().finished) == (6, 6)


def ends(notes: Notes) -> dict[str, list[str]]:
    """Return what was told of each task, by its name."""
    told: dict[str, list[str]] = {}
    for what, event in notes.events:
        told.setdefault(event.name, []).append(what)
    return told


def test_what_waits_for_room_in_an_event_loop_is_rejected_when_the_pool_closes() -> None:
    notes, gate = Notes(), threading.Event()

    async def main() -> None:
        pool = Pool(1, queue_size=0, observers=[notes])
        pool.submit(gate.wait, 30)
        waiting = asyncio.ensure_future(pool.options(name="late").run(int))
        await asyncio.sleep(0)
        pool.shutdown(wait=False)
        gate.set()
        with pytest.raises(PoolClosed):
            await waiting
        pool.shutdown()
        assert pool.snapshot().rejected == 1

    asyncio.run(asyncio.wait_for(main(), 60))
    assert ends(notes)["late"] == ["submitted", "rejected"]


def test_a_submit_that_is_undone_is_told_as_rejected() -> None:
    """As one is in which Ctrl-C came after the task was in."""
    notes, gate = Notes(), threading.Event()
    with Pool(1, observers=[notes]) as pool:
        pool.submit(gate.wait, 30)
        undone = pool.options(name="undone").submit(int)
        pool._task_dispatcher.take_back(undone, KeyboardInterrupt())
        now = pool.snapshot()
        gate.set()
    assert (now.submitted, now.waiting, now.rejected) == (1, 0, 1)
    assert ends(notes)["undone"] == ["submitted", "rejected"]


def test_ctrl_c_while_a_refused_caller_wakes_leaves_its_task_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, gate = Notes(), threading.Event()
    pool = Pool(1, queue_size=0, observers=[notes])
    pool.submit(gate.wait, 30)

    def interrupted(*_: object) -> bool:
        pool.shutdown(wait=False)  # which refuses it
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deadlock, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.options(name="late").submit(int)
    gate.set()
    pool.shutdown()
    assert ends(notes)["late"] == ["submitted", "rejected"]


def test_a_task_whose_deadline_passes_while_its_rate_is_asked_is_told_as_cancelled() -> None:
    """Its thread had taken it, and the timers' thread takes it for one that runs."""

    class Slow(Bucket):
        def admit(self, task: Future[Any]) -> bool:
            admitted = super().admit(task)
            if not admitted and isinstance(task, ScopedTask):
                task._expire(task._scope.exceeded())
            return admitted

    notes, slow = Notes(), Rate(0.001)
    slow._bucket = Slow(0.001, 1.0, 1)
    with Pool(1, observers=[notes]) as pool, deadline(600):
        pool.options(rate=slow).submit(int).result(30)
        late = pool.options(rate=slow, name="late").submit(int)
        assert isinstance(late.exception(30), DeadlineExceeded)
    told = threading.Event()
    run_later(told.set)  # after what it is told in its turn
    assert told.wait(30)
    now = pool.snapshot()
    assert ends(notes)["late"] == ["submitted", "cancelled"]
    assert (now.submitted, now.finished, now.cancelled) == (2, 1, 1)

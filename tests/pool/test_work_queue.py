"""WorkQueue: what strangers see of the tasks that wait, and take out."""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from types import SimpleNamespace
from typing import Any, cast

import pytest

import treadle
from treadle import Pool, Rate, TaskGroup
from treadle._dispatch.queue import TaskQueue
from treadle._pool import work_queue as workqueue
from treadle._pool.work_queue import WorkItem, WorkQueue
from treadle.errors import PoolClosed
from treadle.orders import Fair

PATIENCE = 30.0


class Held:
    """A pool of one thread that is busy until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.pool: Any = Pool(1, **options)
        self.gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(PATIENCE)

        self.running = self.pool.submit(hold)
        assert began.wait(PATIENCE)
        self.queue = cast(WorkQueue, self.pool._work_queue)

    def let_go(self) -> None:
        self.gate.set()
        self.pool.shutdown()


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    made: list[Held] = []

    def make(**options: Any) -> Held:
        made.append(Held(**options))
        return made[-1]

    yield make
    for held in made:
        held.let_go()


def taken(held: Held) -> WorkItem:
    item = held.queue.get_nowait()
    assert item is not None
    return item


def test_who_waits_for_a_task_is_told_of_one_that_a_signal_handler_submits_just_now(
    hold: Callable[..., Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, waiting = hold(), TaskQueue.waiting

    def visited(queue: TaskQueue) -> int:
        found = waiting(queue)
        monkeypatch.undo()
        held.pool.submit(abs, -3)
        return found

    monkeypatch.setattr(TaskQueue, "waiting", visited)
    item = held.queue.get(timeout=PATIENCE)
    assert item is not None
    assert item.fn(*item.args) == 3
    item.future.cancel()


ORDERS = ["fifo", "priority", "fair", "adaptive"]


@pytest.mark.parametrize("order", ORDERS)
def test_it_counts_what_waits(hold: Callable[..., Held], order: str) -> None:
    held = hold(order=order)
    assert (held.queue.qsize(), held.queue.empty()) == (0, True)
    tasks = [held.pool.submit(abs, number) for number in range(3)]
    assert (held.queue.qsize(), held.queue.empty()) == (3, False)
    tasks[1].cancel()
    assert held.queue.qsize() == 2
    held.let_go()
    assert (held.queue.qsize(), held.queue.empty()) == (0, True)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_taken_out_waits_for_whoever_has_it_and_can_be_run_there(hold: Callable[..., Held], order: str) -> None:
    held = hold(order=order, queue_size=3)
    double = functools.partial(int, base=2)
    tasks = [held.pool.submit(divmod, 7, 2), held.pool.submit(int, "11", base=2), held.pool.submit(double, "1")]
    items = [taken(held) for _ in tasks]
    assert held.queue.empty()
    with pytest.raises(queue.Empty):
        held.queue.get_nowait()
    assert {item.future for item in items} == set(tasks)
    if order != "adaptive":
        assert [item.future for item in items] == tasks
        assert (items[0].fn, items[0].args, items[0].kwargs) == (divmod, (7, 2), {})
        assert items[1].task == (int, ("11",), {"base": 2})
    now = held.pool.snapshot()
    assert (now.waiting, now.cancelled, now.submitted) == (0, 0, 4)
    others = [held.pool.submit(abs, -number) for number in range(3)]  # there is room again
    for item in items:
        assert not item.future.done()
        item.run()
        with pytest.raises(RuntimeError, match="cannot begin again"):
            item.run()
    assert [task.result(0) for task in tasks] == [(3, 1), 3, 1]
    held.let_go()
    assert [task.result(PATIENCE) for task in others] == [0, 1, 2]
    assert (held.pool.snapshot().finished, held.pool.snapshot().submitted) == (7, 7)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_put_back_is_run_by_the_pool(hold: Callable[..., Held], order: str) -> None:
    held = hold(order=order, queue_size=3)
    tasks = [held.pool.submit(abs, -number) for number in range(3)]
    items = [taken(held) for _ in tasks]
    held.pool.submit(abs, -3)
    for item in items:
        held.queue.put(item)  # it needs no room
        with pytest.raises(InvalidStateError, match="cannot be put back again"):
            held.queue.put_nowait(item)
    del items, item
    assert held.queue.qsize() == 4
    held.let_go()
    assert [task.result(PATIENCE) for task in tasks] == [0, 1, 2]
    assert (held.pool.snapshot().finished, held.pool.snapshot().submitted) == (5, 5)


def test_what_is_put_back_into_a_closed_pool_is_still_whoever_has_its(hold: Callable[..., Held]) -> None:
    held = hold()
    task = held.pool.submit(abs, -1)
    item = taken(held)
    held.let_go()
    with pytest.raises(PoolClosed):
        held.queue.put(item)
    item.run()
    assert task.result(0) == 1


def test_what_was_cancelled_after_it_was_taken_out_is_neither_run_nor_put_back(hold: Callable[..., Held]) -> None:
    held = hold()
    task = held.pool.submit(abs, -1)
    item = taken(held)
    assert item.future.cancel()
    item.run()
    held.queue.put(item)
    assert task.cancelled()
    assert held.queue.empty()
    assert held.pool.snapshot().cancelled == 1


def test_what_is_put_into_another_pool_runs_there_and_counts_where_it_was_submitted(hold: Callable[..., Held]) -> None:
    held = hold()
    task = held.pool.submit(threading.current_thread)
    with Pool(1, name="other") as other:
        cast(Any, other)._work_queue.put(taken(held))
        assert task.result(PATIENCE).name == "other-0"
    assert held.pool.snapshot().submitted == 2
    task = held.pool.submit(threading.current_thread)
    with concurrent.futures.ThreadPoolExecutor(1, "standard") as standard:
        standard.submit(abs, -1).result(PATIENCE)
        cast(Any, standard)._work_queue.put(taken(held))
        assert task.result(PATIENCE).name == "standard_0"
    assert held.pool.snapshot().waiting == 0


def test_a_task_that_asks_for_what_was_taken_out_runs_it(hold: Callable[..., Held]) -> None:
    """Or it would wait for its own pool."""
    held = hold()
    asked: list[Any] = []
    waiting: Any
    later = held.pool.submit(lambda: asked.append(waiting.result(PATIENCE)))
    waiting = held.pool.submit(abs, -1)
    first, second = taken(held), taken(held)
    held.queue.put(first)
    held.gate.set()
    later.result(PATIENCE)
    assert asked == [1]
    with pytest.raises(InvalidStateError):
        held.queue.put(second)


def test_what_is_taken_out_when_ctrl_c_comes_is_cancelled(
    hold: Callable[..., Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has it."""
    held = hold()
    task = held.pool.submit(abs, -1)

    def interrupt(task: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workqueue, "_call_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        held.queue.get()
    assert task.cancelled()
    assert (held.pool.snapshot().cancelled, held.pool.snapshot().waiting) == (1, 0)


def test_what_is_taken_out_of_a_map_is_its_work(hold: Callable[..., Held]) -> None:
    held = hold()
    results = held.pool.map(abs, [-1, -2])
    item = taken(held)
    for settle in (
        lambda: item.future.set_result(1),
        lambda: item.future.set_exception(ValueError()),
        item.future.set_running_or_notify_cancel,
    ):
        with pytest.raises(InvalidStateError, match="which can be cancelled, but not settled"):
            settle()
    item.fn(*item.args)
    assert list(results) == [1, 2]
    results = held.pool.map(abs, [-3])
    held.queue.put(taken(held))
    held.gate.set()
    assert list(results) == [3]


def test_a_shutdown_that_empties_the_queue_itself_ends(hold: Callable[..., Held]) -> None:
    """As Google Cloud Pub/Sub's does."""
    held = hold()
    futures = [held.pool.submit(print, number) for number in range(200)]
    dropped: list[int] = []
    try:
        while True:
            item = held.queue.get(block=False)
            if item is None:
                continue
            dropped.append(item.args[0])
    except queue.Empty:
        pass
    item = None
    held.let_go()
    assert dropped == list(range(200))
    assert not concurrent.futures.wait(futures, PATIENCE).not_done
    assert all(future.cancelled() for future in futures)
    with pytest.raises(queue.Empty):
        held.queue.get(block=False)
    with pytest.raises(queue.Empty):
        held.queue.get(timeout=PATIENCE)
    assert held.queue.get() is None


def test_who_waits_for_what_is_taken_out_is_told(hold: Callable[..., Held]) -> None:
    held = hold()
    outcomes: list[BaseException | None] = []
    task = held.pool.submit(abs, -1)

    def wait() -> None:
        try:
            task.result(PATIENCE)
        except CancelledError as error:
            outcomes.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not (task._awaited_by and task._awaited_by.latches):
        treadle.sleep(0.001)
    held.queue.get()
    waiter.join(PATIENCE)
    assert len(outcomes) == 1


def test_what_is_taken_out_of_a_group_fails_nobody(hold: Callable[..., Held]) -> None:
    """For the program has cancelled it, and not its pool."""
    held = hold()
    with TaskGroup(held.pool) as group:
        group.submit(abs, -1)
        held.queue.get_nowait()


def test_what_the_order_holds_back_and_what_waits_for_its_rate_can_be_taken(hold: Callable[..., Held]) -> None:
    held = hold(order=Fair(max_running=1))
    back = held.pool.submit(abs, -1)  # its key runs in the only thread
    assert taken(held).future is back
    with Pool(1) as pool:
        slow = pool.options(rate=Rate(0.001))
        slow.submit(abs, -1).result(PATIENCE)
        aside = slow.submit(abs, -2)
        while not pool._task_dispatcher.queue.throttled:
            treadle.sleep(0.001)
        assert pool._work_queue.qsize() == 1
        item = pool._work_queue.get_nowait()
        assert (item.future, item.fn, item.args) == (aside, abs, (-2,))


def test_who_waits_for_room_comes_in_for_what_is_taken_out(hold: Callable[..., Held]) -> None:
    held = hold(queue_size=1)
    first = held.pool.submit(abs, -1)
    seconds: list[Any] = []
    caller = threading.Thread(target=lambda: seconds.append(held.pool.submit(abs, -2)))
    caller.start()
    while not held.pool.snapshot().blocked:
        treadle.sleep(0.001)
    assert taken(held).future is first
    caller.join(PATIENCE)
    held.gate.set()
    assert seconds[0].result(PATIENCE) == 2


@pytest.mark.parametrize("way", ["plain", "run", "map"])
def test_who_waits_for_a_task_gets_the_next_one(hold: Callable[..., Held], way: str) -> None:
    held = hold()
    items: list[Any] = []
    taker = threading.Thread(target=lambda: items.append(held.queue.get(timeout=PATIENCE)))
    taker.start()
    while not held.pool._task_dispatcher.admission.takers:
        treadle.sleep(0.001)
    results = None
    if way == "map":
        results = held.pool.map(abs, [-1])
    else:
        door = held.pool.options(name="a") if way == "run" else held.pool
        door.submit(abs, -1)
    taker.join(PATIENCE)
    items.clear()
    assert not held.pool._task_dispatcher.admission.takers
    if results is not None:
        with pytest.raises(CancelledError):
            next(results)
    last = held.pool.submit(abs, -2)
    held.gate.set()
    assert last.result(PATIENCE) == 2


@pytest.mark.parametrize("timeout", [-1, 0, 0.001])
def test_who_waits_for_a_task_gives_up_in_time(hold: Callable[..., Held], timeout: float) -> None:
    held = hold()
    with pytest.raises(queue.Empty):
        held.queue.get(timeout=timeout)
    with pytest.raises(queue.Empty):
        held.queue.get(True, timeout)
    assert not held.pool._task_dispatcher.admission.takers
    assert held.pool._task_dispatcher.entrance.room == 1000


def test_a_closed_pool_lets_those_go_that_wait_for_a_task(hold: Callable[..., Held]) -> None:
    held = hold()
    items: list[Any] = []
    taker = threading.Thread(target=lambda: items.append(held.queue.get()))
    taker.start()
    while not held.pool._task_dispatcher.admission.takers:
        treadle.sleep(0.001)
    held.let_go()
    taker.join(PATIENCE)
    assert items == [None]


def test_takers_and_workers_share_what_is_submitted() -> None:
    """Each task is run, or taken out; none is lost, and none is both."""
    ran: list[int] = []
    took: list[int] = []
    done = threading.Event()
    with Pool(2, queue_size=None) as pool:

        def take() -> None:
            while not done.is_set():
                try:
                    item: Any = pool._work_queue.get(timeout=0.001)
                except queue.Empty:
                    continue
                took.append(item.args[0])
                item.future.cancel()

        takers = [threading.Thread(target=take) for _ in range(2)]
        for taker in takers:
            taker.start()
        futures = [pool.submit(ran.append, number) for number in range(2000)]
        concurrent.futures.wait(futures, PATIENCE)
        done.set()
        for taker in takers:
            taker.join(PATIENCE)
    assert sorted(ran + took) == list(range(2000))
    assert sum(future.cancelled() for future in futures) == len(took)
    assert pool.snapshot().submitted == 2000
    assert pool._task_dispatcher.queue.tombstones == 0


def test_what_is_put_is_submitted(hold: Callable[..., Held]) -> None:
    held = hold(queue_size=2)
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    other: concurrent.futures.Future[Any] = concurrent.futures.Future()
    held.queue.put(SimpleNamespace(future=future, fn=divmod, args=(7, 2), kwargs={}))
    held.queue.put_nowait(SimpleNamespace(future=other, task=(int, ("11",), {"base": 2})))
    held.queue.put(None)
    assert held.queue.qsize() == 2
    assert taken(held).task == (divmod, (7, 2), {})
    assert concurrent.futures.wait([future], PATIENCE).done
    assert future.cancelled()
    held.gate.set()
    assert other.result(PATIENCE) == 3
    held.queue.put(SimpleNamespace(future=future, fn=divmod, args=(1, 0), kwargs={}))  # is cancelled, and not run
    held.pool.shutdown()
    with pytest.raises(PoolClosed):
        held.queue.put(SimpleNamespace(future=concurrent.futures.Future(), fn=abs, args=(1,), kwargs={}))


def test_it_says_whose_it_is(hold: Callable[..., Held]) -> None:
    assert repr(hold(name="weft").queue).startswith("<WorkQueue of <Pool 'weft'")

"""Guard: what stands between a pool and an order that is not treadle's own, and may do anything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from blocked import until_blocked
from orders.lifo import Lifo
from treadle import Future, Pool, Rate
from treadle._dispatch.dispatcher import Dispatcher
from treadle.errors import PoolBroken, PoolFull, Shed
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority, Task
from treadle.orders._guard import Guard

PATIENCE = 30.0


class Oops(Exception):
    """What an order raises."""


class Moody(Lifo):
    """Works until one of its methods is told to misbehave."""

    def __init__(self) -> None:
        super().__init__()
        self.moods: dict[str, Callable[[], Any]] = {}

    def _mood(self, name: str, usual: Callable[[], Any]) -> Any:
        return self.moods[name]() if name in self.moods else usual()

    def put(self, task: Task) -> None:
        self._mood("put", lambda: Lifo.put(self, task))

    def put_again(self, task: Task) -> None:
        self._mood("put_again", lambda: Lifo.put(self, task))

    def put_first(self, task: Task) -> None:
        self._mood("put_first", lambda: Lifo.put(self, task))

    def take(self) -> Task:
        return self._mood("take", lambda: Lifo.take(self))  # type: ignore[no-any-return]

    def evict(self, newcomer: Task) -> Task:
        return self._mood("evict", lambda: Lifo.evict(self, newcomer))  # type: ignore[no-any-return]

    def purge(self, keep: Callable[[Task], bool]) -> None:
        self._mood("purge", lambda: Lifo.purge(self, keep))

    def __len__(self) -> int:
        return self._mood("__len__", lambda: Lifo.__len__(self))  # type: ignore[no-any-return]

    def ready(self) -> bool:
        return self._mood("ready", lambda: Lifo.ready(self))  # type: ignore[no-any-return]

    def stale(self) -> Any:
        return self._mood("stale", tuple)

    @property
    def standing(self) -> bool:
        return self._mood("standing", bool)  # type: ignore[no-any-return]

    def full(self, task: Task, beside: int) -> bool:
        return self._mood("full", bool)  # type: ignore[no-any-return]

    def holds(self, task: Task) -> bool:
        return self._mood("holds", bool)  # type: ignore[no-any-return]

    def holders(self, task: Task) -> Any:
        return self._mood("holders", tuple)

    def ended(self, task: Task) -> None:
        self._mood("ended", lambda: None)


def oops() -> Any:
    raise Oops("of the order")


def ending() -> Any:
    raise SystemExit("of the order")


class Held:
    """A pool of one thread, which is held up until it is told to go on."""

    def __init__(self, order: Order, **options: Any) -> None:
        self.began, self.gate = threading.Event(), threading.Event()
        self.pool = Pool(1, order=order, name="loom", **options)
        self.first = self.pool.submit(self.hold)
        assert self.began.wait(PATIENCE)

    def hold(self) -> str:
        self.began.set()
        assert self.gate.wait(PATIENCE)
        return "held"


class Late:
    """Holds up a thread of the pool's as it is to see to what it has found with the lock held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.gate = threading.Event(), threading.Event()
        attend = Dispatcher.attend

        def attend_late(dispatcher: Dispatcher) -> None:
            if threading.current_thread().name.startswith("loom"):
                self.came.set()
                assert self.gate.wait(PATIENCE)
            attend(dispatcher)

        monkeypatch.setattr(Dispatcher, "attend", attend_late)


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "treadle"):
        yield caplog


def check_broken(pool: Pool, futures: list[Future[Any]], logs: pytest.LogCaptureFixture, cause: type = Oops) -> None:
    """Every future ends, each with an error of its own that says why; so does submit; and it is logged once."""
    errors = [future.exception(PATIENCE) for future in futures]
    for error in errors:
        assert type(error) is PoolBroken
        assert type(error.__cause__) is cause
        assert "The order failed in " in str(error)
        assert "'loom'" in str(error)
    assert len({id(error) for error in errors}) == len(errors)
    for _ in range(3):
        with pytest.raises(PoolBroken) as caught:
            pool.submit(int)
        assert type(caught.value.__cause__) is cause
    pool.shutdown(timeout=PATIENCE)
    assert all(future.done() for future in futures)
    now = pool.snapshot()
    assert (now.waiting, now.blocked, now.threads) == (0, 0, 0)
    assert now.submitted == now.finished + now.cancelled + now.shed
    tick = threading.Event()
    for _ in range(3000):
        if logs.records:
            break
        tick.wait(0.01)
    (record,) = logs.records
    assert record.message.startswith("pool 'loom' is broken: its order failed in ")
    assert record.name == "treadle"
    assert record.exc_info is not None
    assert record.exc_info[0] is cause


@pytest.mark.parametrize("raises", [oops, ending])
@pytest.mark.parametrize("name", ["take", "ready", "stale", "ended", "__len__"])
def test_what_a_worker_asks_and_raises_breaks_the_pool(
    name: str, raises: Callable[[], Any], logs: pytest.LogCaptureFixture
) -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(5)]
    order.moods[name] = raises
    held.gate.set()
    check_broken(held.pool, futures, logs, Oops if raises is oops else SystemExit)
    assert held.first.result(0) == "held"


@pytest.mark.parametrize("name", ["put", "full", "holds", "ready", "__len__"])
def test_what_a_submit_asks_and_raises_breaks_the_pool(name: str, logs: pytest.LogCaptureFixture) -> None:
    order = Moody()
    held = Held(order, queue_size=3, when_full="reject")
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    if name == "ready":
        held.pool.resize(2)
        futures = [future for future in futures if future.exception(PATIENCE) is not None]  # they have run
    elif name != "holds":
        futures.pop().cancel()
        held.pool._task_dispatcher.queue.purge()
    order.moods[name] = oops
    with suppress(PoolBroken, PoolFull):
        futures.append(held.pool.submit(abs, -1))
    held.gate.set()
    check_broken(held.pool, futures, logs)


@pytest.mark.parametrize("name", ["evict", "stale"])
def test_what_a_full_pool_asks_and_raises_breaks_it(name: str, logs: pytest.LogCaptureFixture) -> None:
    order = Moody()
    held = Held(order, queue_size=3, when_full="discard_oldest")
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    order.moods[name] = oops
    with pytest.raises(PoolBroken) as caught:
        held.pool.submit(abs, -1)
    assert type(caught.value.__cause__) is Oops
    held.gate.set()
    check_broken(held.pool, futures, logs)


def test_a_purge_that_raises_breaks_the_pool_and_cancels_what_was_cancelled(logs: pytest.LogCaptureFixture) -> None:
    order = Moody()
    held = Held(order, queue_size=None)
    futures = [held.pool.submit(abs, -1) for _ in range(200)]
    order.moods["purge"] = oops
    doomed, others = futures[:120], futures[120:]
    for future in doomed:
        with suppress(PoolBroken):
            future.cancel()
    for future in doomed:
        assert future.cancelled() or isinstance(future.exception(PATIENCE), PoolBroken)
    held.gate.set()
    check_broken(held.pool, others, logs)
    assert any(future.cancelled() for future in doomed)


def test_putting_a_map_back_that_raises_breaks_the_pool(logs: pytest.LogCaptureFixture) -> None:
    order = Moody()
    pool = Pool(1, order=order, name="loom")
    order.moods["put_again"] = oops
    began, gate = threading.Event(), threading.Event()

    def hold(number: int) -> int:
        began.set()
        assert gate.wait(PATIENCE)
        return number

    results = pool.map(hold, range(3))
    assert began.wait(PATIENCE)
    future = pool.submit(int)  # it makes way for this
    gate.set()
    check_broken(pool, [future], logs)
    got: list[object] = []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except PoolBroken as error:
            got.append(type(error))
    assert got == [0, PoolBroken, PoolBroken]


def test_putting_back_what_waited_for_its_rate_that_raises_breaks_the_pool(logs: pytest.LogCaptureFixture) -> None:
    order, rate = Moody(), Rate(0.001)
    rate._bucket._tokens = 0.0
    pool = Pool(1, order=order, name="loom")
    future = pool.options(rate=rate).submit(abs, -1)
    tick = threading.Event()
    for _ in range(3000):
        with pool._task_dispatcher.lock:  # in which it is throttled, and its rate sets a timer
            if pool._task_dispatcher.queue.throttled:
                break
        tick.wait(0.01)
    order.moods["put_first"] = oops
    rate._bucket._disarm()
    rate._bucket._tokens = 1.0
    rate._bucket._call()
    check_broken(pool, [future], logs)


def test_callers_that_wait_for_room_are_refused(logs: pytest.LogCaptureFixture) -> None:
    order, errors = Moody(), list[BaseException]()
    held = Held(order, queue_size=2)
    futures = [held.pool.submit(abs, -1) for _ in range(2)]

    def submit() -> None:
        try:
            held.pool.submit(abs, -1)
        except PoolBroken as error:
            errors.append(error)

    callers = [threading.Thread(target=submit) for _ in range(3)]
    for caller in callers:
        caller.start()
    until_blocked(held.pool, 3)
    order.moods["take"] = oops
    held.gate.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert [type(error.__cause__) for error in errors] == [Oops] * 3
    check_broken(held.pool, futures, logs)


def test_what_was_given_up_for_a_newcomer_that_the_order_does_not_take_is_shed(logs: pytest.LogCaptureFixture) -> None:
    order = Moody()
    held = Held(order, queue_size=1, when_full="discard_oldest")
    victim = held.pool.submit(abs, -1)
    order.moods["put"] = oops
    with pytest.raises(PoolBroken):
        held.pool.submit(abs, -2)
    assert type(victim.exception(PATIENCE)) is Shed
    held.gate.set()
    check_broken(held.pool, [], logs)
    assert (held.pool.snapshot().shed, held.pool.snapshot().rejected) == (1, 4)


def test_a_shutdown_returns_when_all_has_failed_that_waited_in_a_pool_that_broke_meanwhile(
    monkeypatch: pytest.MonkeyPatch, logs: pytest.LogCaptureFixture
) -> None:
    """The thread that found it broken, and is to fail it, may be late: here it comes afterwards."""
    order = Moody()
    held = Held(order)
    waits = [held.pool.submit(abs, -1) for _ in range(3)]
    late = Late(monkeypatch)
    order.moods["take"] = oops
    held.gate.set()
    assert late.came.wait(PATIENCE)
    assert held.pool.shutdown(wait=False) == ()
    assert all(future.done() for future in waits)
    late.gate.set()
    check_broken(held.pool, waits, logs)


# -- lies -----------------------------------------------------------------------------------------------------------


class Equal:
    """It equals every task."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __hash__(self) -> int:
        return hash(self.task)

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    "give",
    [
        lambda order: Future(),
        lambda order: None,
        lambda order: [],
        lambda order: order.waiting[-1],  # and keeps it
        lambda order: order.waiting.clear() or [].pop(),
    ],
)
def test_an_order_that_gives_out_what_is_not_in_it_or_loses_what_is_breaks_the_pool(
    give: Callable[[Moody], Any], logs: pytest.LogCaptureFixture
) -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(5)]
    order.moods["take"] = lambda: give(order)
    held.gate.set()
    pool, ran = held.pool, [future for future in futures if future.exception(PATIENCE) is None]
    assert not ran
    cause = type(futures[0].exception().__cause__)  # type: ignore[union-attr]
    check_broken(pool, futures, logs, cause)


def test_a_task_that_was_given_out_twice_runs_once(logs: pytest.LogCaptureFixture) -> None:
    order, ran = Moody(), list[int]()
    held = Held(order)
    futures = [held.pool.submit(ran.append, n) for n in range(3)]
    again = order.waiting[-1]
    order.moods["take"] = lambda: again if again not in order.waiting else Lifo.take(order)
    held.gate.set()
    assert futures[2].result(PATIENCE) is None
    check_broken(held.pool, futures[:2], logs, RuntimeError)
    assert ran == [2]


def test_what_equals_a_task_stands_for_that_task() -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -n) for n in range(3)]
    order.moods["take"] = lambda: Equal(Lifo.take(order))
    held.gate.set()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2]
    held.pool.shutdown()


@pytest.mark.parametrize("moods", [{"ready": lambda: True}, {"ready": lambda: True, "take": oops}])
def test_an_order_that_is_ready_and_has_nothing_breaks_the_pool_once(
    moods: dict[str, Any], logs: pytest.LogCaptureFixture
) -> None:
    """Else its workers would come, fail and be replaced for ever."""
    order = Moody()
    held = Held(order)
    order.moods = moods
    held.gate.set()
    assert held.first.result(PATIENCE) == "held"
    held.pool.shutdown(timeout=PATIENCE)
    with pytest.raises(PoolBroken):
        held.pool.submit(int)
    check_broken(held.pool, [], logs, IndexError if "take" not in moods else Oops)


@pytest.mark.parametrize("length", [lambda: 0, lambda: 7, lambda: -1, lambda: "3"])
def test_an_order_whose_length_is_not_what_it_was_given_breaks_the_pool(
    length: Callable[[], Any], logs: pytest.LogCaptureFixture
) -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    order.moods["__len__"] = length
    with pytest.raises(PoolBroken) as caught:
        held.pool.submit(int)
    held.gate.set()
    check_broken(held.pool, futures, logs, type(caught.value.__cause__))


def test_an_order_that_drops_what_it_was_given_is_found_out_at_once(logs: pytest.LogCaptureFixture) -> None:
    """Its future would never end."""
    order = Moody()
    held = Held(order)
    order.moods["put"] = lambda: None
    with pytest.raises(PoolBroken, match=r"The order failed in Moody\.put, ") as caught:
        held.pool.submit(int)
    assert "its length is 0, and it should hold 1 task" in str(caught.value.__cause__)
    assert not held.pool._task_dispatcher.queue.tasks
    held.gate.set()
    check_broken(held.pool, [], logs, RuntimeError)
    now = held.pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled) == (1, 1, 0), "it was refused, and nothing else"


def test_what_waits_in_a_pool_that_breaks_is_counted_and_a_shutdown_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the thread that is to tell of it has not come to that yet."""
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    late = Late(monkeypatch)
    order.moods["take"] = oops
    held.gate.set()
    assert late.came.wait(PATIENCE)
    assert held.first.result(PATIENCE) == "held"
    now = held.pool.snapshot()
    assert (now.submitted, now.waiting, now.finished) == (4, 3, 1)
    assert held.pool.shutdown(wait=False) == ()
    assert [type(future.exception(0)) for future in futures] == [PoolBroken] * 3
    late.gate.set()
    assert held.pool.shutdown(timeout=PATIENCE) == ()
    now = held.pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled) == (4, 1, 3)


@pytest.mark.parametrize("stale", [lambda: [Future()], lambda: 3, lambda: None])
def test_an_order_that_sheds_what_is_not_in_it_breaks_the_pool(
    stale: Callable[[], Any], logs: pytest.LogCaptureFixture
) -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    order.moods["stale"] = stale
    held.gate.set()
    error = futures[0].exception(PATIENCE)
    check_broken(held.pool, futures, logs, type(error.__cause__))  # type: ignore[union-attr]


# -- what is right --------------------------------------------------------------------------------------------------


def test_an_order_may_give_up_nothing_for_a_newcomer() -> None:
    order = Moody()
    held = Held(order, queue_size=1, when_full="discard_oldest")
    future = held.pool.submit(abs, -1)
    order.moods["evict"] = lambda: [].pop()  # IndexError
    with pytest.raises(Exception, match="is full"):
        held.pool.submit(abs, -1)
    held.gate.set()
    assert future.result(PATIENCE) == 1
    held.pool.shutdown()


def test_an_order_sheds_what_it_says() -> None:
    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -n) for n in range(3)]
    shed = iter([lambda: [order.waiting.pop(0)]])
    order.moods["stale"] = lambda: next(shed, tuple)()
    held.gate.set()
    assert isinstance(futures[0].exception(PATIENCE), Shed)
    assert [future.result(PATIENCE) for future in futures[1:]] == [1, 2]
    held.pool.shutdown()
    assert held.pool.snapshot().shed == 1


def test_an_order_is_told_of_threads_at_first_and_as_they_change() -> None:
    order = Lifo()
    with Pool(3, order=order) as pool:
        assert order.threads == 3
        pool.resize(5)
        assert order.threads == 5


def test_a_ceiling_that_the_order_does_not_take_breaks_the_pool(logs: pytest.LogCaptureFixture) -> None:
    class Fixed(Lifo):
        told = 0

        @property
        def threads(self) -> int:
            return 1

        @threads.setter
        def threads(self, threads: int) -> None:
            self.told += 1
            if self.told == 2:
                oops()

    held = Held(Fixed())
    future = held.pool.submit(int)
    held.pool.resize(2)
    held.gate.set()
    check_broken(held.pool, [future], logs)


def test_what_an_order_that_is_set_up_wrongly_raises_is_raised_by_the_pool() -> None:
    class Never(Lifo):
        threads = property(lambda self: 1)

    with pytest.raises(AttributeError):
        Pool(1, order=Never())


def test_a_submit_in_the_middle_of_a_put_is_no_lie() -> None:
    """As from a signal handler, or from a destructor that the garbage collector calls."""
    inner, left = list[Future[Any]](), iter(range(3))

    class Interrupted(Lifo):
        def put(self, task: Task) -> None:
            for _ in left:
                inner.append(pool.submit(abs, -3))
            super().put(task)

    pool = Pool(1, order=Interrupted())
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert [future.result(PATIENCE) for future in inner] == [3, 3, 3]
    pool.shutdown()


def test_treadles_own_orders_need_no_guard_and_a_subclass_of_them_does() -> None:
    class Mine(Fifo):
        pass

    for order in (Fifo(), Priority(), Adaptive(), Fair(), Fair(order="priority"), Fair(order=Priority)):
        with Pool(1, order=order) as pool:
            assert pool._task_dispatcher.queue.order is order
    others: list[Order] = [Mine(), Fair(order=Mine), Fair(order=lambda: Priority(age=10)), Lifo()]
    for other in others:
        with Pool(1, order=other) as pool:
            assert isinstance(pool._task_dispatcher.queue.order, Guard)
            assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_ctrl_c_in_the_middle_of_an_order_reaches_the_program_and_every_future_ends(
    logs: pytest.LogCaptureFixture,
) -> None:
    """Nobody knows what the order holds now."""

    def interrupt() -> Any:
        raise KeyboardInterrupt

    order = Moody()
    held = Held(order)
    futures = [held.pool.submit(abs, -1) for _ in range(3)]
    order.moods["put"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        held.pool.submit(int)
    held.gate.set()
    check_broken(held.pool, futures, logs, KeyboardInterrupt)


def test_an_order_is_told_of_each_task_that_it_has_given_that_it_runs_no_more_though_it_was_cancelled() -> None:
    """Or one that counts those that run would wait for it for ever."""

    class Counting(Lifo):
        def __init__(self) -> None:
            super().__init__()
            self.running = list[Task]()

        def take(self) -> Task:
            self.running.append(super().take())
            return self.running[-1]

        def ended(self, task: Task, /) -> None:
            self.running.remove(task)

    order, gate = Counting(), threading.Event()
    with Pool(1, order=order) as pool:
        pool.submit(gate.wait, PATIENCE)
        cancelled, *others = [pool.submit(abs, -number) for number in range(3)]
        assert cancelled.cancel()
        gate.set()
        assert [other.result(PATIENCE) for other in others] == [1, 2]
    assert order.running == []

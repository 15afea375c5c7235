"""Who reads the input of a map: every item runs, whether anybody takes the results or not."""

from __future__ import annotations

import contextvars
import gc
import logging
import threading
import weakref
from collections import Counter, OrderedDict, UserList, deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import closing, suppress
from typing import Any

import pytest

from blocked import until_noted
from clocks import LeapingClock
from treadle import Future, Pool, Rate, TaskGroup, as_completed, deadline, wait
from treadle._pool.mapping import feed
from treadle._pool.mapping.feed import PATIENCE
from treadle._pool.submit import WhenFull
from treadle.errors import PoolClosed, PoolDeadlock
from treadle.events import Observer

TOTAL = 150  # items; far more than are read ahead of the results
AHEAD = 4

Map = Callable[..., Any]


class Overriding(Pool):
    """A pool whose submit is a subclass's."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def replaced(pool: Pool) -> Map:
    submit = pool.submit
    pool.submit = lambda fn, *args: submit(fn, *args)  # type: ignore[method-assign,assignment]  # as progress bars do
    return pool.map


FORMS: dict[str, Callable[[Pool], Map]] = {
    "plain": lambda pool: pool.map,
    "unordered": lambda pool: lambda *a, **k: pool.map(*a, ordered=False, **k),
    "chunks": lambda pool: lambda *a, **k: pool.map(*a, chunksize=3, **k),
    "options": lambda pool: pool.options(name="named").map,
    "rate": lambda pool: pool.options(rate=Rate(1e6)).map,
    "unordered rate": lambda pool: lambda *a, **k: pool.options(rate=Rate(1e6)).map(*a, ordered=False, **k),
    "overridden submit": lambda pool: pool.map,
    "replaced submit": replaced,
}
each_form = pytest.mark.parametrize("form", FORMS)


def make(form: str, max_workers: int = 2, **options: Any) -> tuple[Pool, Map]:
    pool = (Overriding if form == "overridden submit" else Pool)(max_workers, queue_size=AHEAD, **options)
    return pool, FORMS[form](pool)


class Source:
    """An input that knows how far it was read, where, and by one thread at a time: a generator tells."""

    def __init__(self, total: int | None = TOTAL) -> None:
        self.total = total
        self.read = 0
        self.readers: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        while self.total is None or self.read < self.total:
            self.readers.add(threading.current_thread().name)
            self.read += 1
            yield self.read - 1


class Ran:
    """A function that notes what it was called with, and tells when it has been called so many times."""

    def __init__(self, total: int = TOTAL) -> None:
        self.numbers: list[int] = []
        self.total = total
        self.all = threading.Event()
        self.lock = threading.Lock()

    def __call__(self, number: int) -> int:
        with self.lock:
            self.numbers.append(number)
            if len(self.numbers) == self.total:
                self.all.set()
        return number


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


# -- every item runs ----------------------------------------------------------------------------------------------


@each_form
def test_every_item_of_a_map_that_is_dropped_runs(form: str) -> None:
    ran = Ran()
    pool, map_ = make(form)
    with pool:
        map_(ran, Source())
    assert sorted(ran.numbers) == list(range(TOTAL))


@each_form
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_results_that_are_taken_after_the_block_are_all_there(form: str, taken: int) -> None:
    pool, map_ = make(form)
    with pool:
        results = map_(str, Source())
        first = [next(results) for _ in range(taken)]
    rest = list(results)
    expected = [str(number) for number in range(TOTAL)]
    assert sorted(first + rest) == sorted(expected)
    if "unordered" not in form:
        assert first + rest == expected


@each_form
@pytest.mark.parametrize("held", [True, False])
def test_every_item_runs_while_the_pool_is_open_and_nobody_takes_results(form: str, held: bool) -> None:
    ran, source = Ran(), Source()
    pool, map_ = make(form)
    with pool:
        results = map_(ran, source)
        if not held:
            del results
        assert ran.all.wait(60)
        if held:
            assert sorted(results) == list(range(TOTAL))
    assert sorted(ran.numbers) == list(range(TOTAL))


@each_form
def test_one_thread_that_has_nothing_else_is_enough(form: str) -> None:
    ran = Ran()
    pool, map_ = make(form, max_workers=1)
    with pool:
        map_(ran, Source())
        assert ran.all.wait(60)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "replaced submit"])  # whose pool is a cycle
def test_every_item_runs_though_the_pool_is_dropped_too(form: str) -> None:
    ran, gone = Ran(), threading.Event()

    def drop() -> None:
        pool, map_ = make(form)
        weakref.finalize(pool, gone.set)
        map_(ran, Source())

    drop()
    assert ran.all.wait(60)
    for _ in range(6000):  # without the GIL, what a worker drops is gone when its maker's thread comes by
        gc.collect()
        if gone.wait(0.01):
            break
    assert gone.is_set()


@each_form
@pytest.mark.parametrize("begun", [True, False])
def test_a_shutdown_that_does_not_wait_reads_the_input_all_the_same(form: str, begun: bool) -> None:
    pool, map_ = make(form)
    results = map_(abs, Source())
    taken = [next(results)] if begun else []
    pool.shutdown(wait=False)
    assert sorted([*taken, *results]) == list(range(TOTAL))
    pool.shutdown()


@each_form
def test_a_task_may_shut_down_its_pool_while_a_map_waits_to_be_read(form: str) -> None:
    pool, map_ = make(form)
    results = map_(abs, Source())
    pool.submit(pool.shutdown).result(60)
    assert sorted(results) == list(range(TOTAL))
    pool.shutdown()


@each_form
@pytest.mark.parametrize("wait", [True, False])
def test_a_task_that_takes_results_goes_on_while_its_pool_is_shut_down(form: str, wait: bool) -> None:
    """It is the pool's only thread, and whoever shuts down reads in its place: neither may wait for the other."""
    pool, map_ = make(form, max_workers=1)
    results = map_(abs, Source())
    taken = pool.submit(lambda: list(results))
    pool.shutdown(wait=wait)
    assert sorted(taken.result(60)) == list(range(TOTAL))
    pool.shutdown()


@each_form
def test_a_closed_pool_takes_what_maps_submit_and_nothing_else(form: str) -> None:
    pool, map_ = make(form, max_workers=1)
    refused = []

    def item(number: int) -> int:
        if number == TOTAL - 1:
            try:
                pool.submit(int)
            except PoolClosed:
                refused.append(number)
        return number

    results = map_(item, Source())
    pool.shutdown(wait=False)
    assert sorted(results) == list(range(TOTAL))
    assert refused == [TOTAL - 1]
    pool.shutdown()


@each_form
def test_the_input_may_shut_down_the_pool(form: str) -> None:
    """It is read by the thread that closes the pool, then, and cannot be read by it once more."""
    pool, map_ = make(form)

    def source() -> Iterator[int]:
        yield from range(AHEAD + 2)
        pool.shutdown(wait=False)

    results = map_(abs, source())
    assert sorted(results) == list(range(AHEAD + 2))
    pool.shutdown()


def test_maps_of_a_busy_pool_run_to_their_end_when_their_turns_are_discarded() -> None:
    """What was read and waits is lost with the turn, as the policy says; what was not read is not."""
    ran, source = Ran(), Source()
    gate, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert gate.wait(60)

    pool = Pool(1, queue_size=2, when_full="discard_oldest")
    pool.map(ran, source)
    with pool:
        pool.submit(hold)
        assert held.wait(60)
        for _ in range(5):  # each discards the oldest: the turn among them, if it waits
            pool.submit(int)
        gate.set()
    assert source.read == TOTAL
    assert len(ran.numbers) >= TOTAL - 2 * pool._max_workers - 2


# -- what has begun, and is over ----------------------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("how", ["close", "drop"])
def test_an_iterator_that_was_begun_and_is_closed_or_dropped_cancels_the_rest(form: str, how: str) -> None:
    ran, source = Ran(), Source()
    pool, map_ = make(form)
    with pool:
        results = map_(ran, source)
        next(results)
        if how == "close":
            results.close()
        del results
        gc.collect()
        read = source.read
    assert source.read == read <= 1 + AHEAD
    assert len(ran.numbers) <= read


@each_form
def test_cancelling_what_has_not_begun_reads_no_further_and_the_rest_is_cancelled(form: str) -> None:
    source, gate, began = Source(), threading.Event(), threading.Event()

    def item(number: int) -> int:
        began.set()
        assert gate.wait(60)
        return number

    pool, map_ = make(form, max_workers=1)
    results = map_(item, source)
    assert began.wait(60)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    outcomes: list[object] = []
    while True:
        try:
            outcomes.append(next(results))
        except StopIteration:
            break
        except CancelledError:
            outcomes.append(None)
    assert set(outcomes) <= {None, *range(3)}, "one that ran, or those of a chunk"
    assert len(outcomes) == AHEAD + 1, "the items that were read, and once for the rest"
    assert source.read <= AHEAD + 1
    pool.shutdown()


@each_form
def test_a_map_that_was_dropped_reads_no_further_when_its_pool_cancels(form: str) -> None:
    source, ran = Source(None), Ran(20)
    pool, map_ = make(form)
    map_(ran, source)
    assert ran.all.wait(60)
    pool.shutdown(cancel_futures=True)
    assert len(ran.numbers) <= source.read


@each_form
def test_a_broken_pool_reads_no_further(form: str) -> None:
    source = Source(None)

    def fail() -> None:
        raise OSError("the initializer")

    pool, map_ = make(form, initializer=fail)
    with suppress(BrokenExecutor):  # it may be broken already
        map_(abs, source)
    pool.shutdown()


@each_form
def test_a_map_under_a_deadline_reads_no_further_than_that(form: str, leaping: LeapingClock) -> None:
    pool, map_ = make(form)
    with pool:
        with deadline(1000):
            map_(abs, Source(None))
        leaping.leap(2000)


def test_a_shutdown_with_a_timeout_ends_in_time_though_the_input_does_not(caplog: pytest.LogCaptureFixture) -> None:
    for form in "plain", "overridden submit":
        pool, map_ = make(form)
        results = map_(abs, Source(None))
        pool.shutdown(timeout=0.01)
        assert next(results) == 0
        results.close()
        pool.shutdown()
    caplog.clear()


# -- how far it is read, and by whom ------------------------------------------------------------------------------


@each_form
def test_while_results_are_taken_only_the_consumer_reads_and_only_so_far(form: str) -> None:
    source = Source(None)
    pool, map_ = make(form)
    with pool, closing(map_(abs, source)) as results:
        for taken in range(1, TOTAL):
            next(results)
            assert source.read <= taken + AHEAD
    assert source.readers == {threading.current_thread().name}


@each_form
def test_a_consumer_that_comes_late_takes_over(form: str) -> None:
    source, ran = Source(None), Ran(5 * AHEAD)
    pool, map_ = make(form)
    with pool, closing(map_(ran, source)) as results:
        assert ran.all.wait(60)
        got = [next(results)]
        source.readers.clear()
        most = source.read + 2 * AHEAD  # a worker that was reading goes on until there is no more room
        while threading.current_thread().name not in source.readers:
            assert source.read <= most
            got.append(next(results))
        source.readers.clear()  # we have had our turn, and so that worker's is over
        # As many as were read, and TOTAL more; not twice as many, which may be thousands: each of ours is waited for,
        # and on a busy machine that takes so long that the test seems to hang.
        got += [next(results) for _ in range(source.read + TOTAL - len(got))]
        assert source.readers == {threading.current_thread().name}
    if "unordered" not in form:
        assert got == list(range(len(got)))


@each_form
@pytest.mark.parametrize("buffersize", [1, 3])
def test_with_a_buffersize_nobody_reads_on(form: str, buffersize: int, leaping: LeapingClock) -> None:
    ran, source = Ran(), Source()
    pool, map_ = make(form)
    with pool:
        results = map_(ran, source, buffersize=buffersize)
        leaping.leap(2 * PATIENCE)
    assert sorted(ran.numbers) == list(range(buffersize))
    assert source.read == buffersize
    assert sorted(next(results) for _ in range(buffersize)) == list(range(buffersize)), "what was read is given"
    with pytest.raises(PoolClosed):
        next(results)
    assert list(results) == []


@each_form
def test_after_shutdown_input_that_has_ended_is_no_error(form: str) -> None:
    pool, map_ = make(form)
    with pool:
        results = map_(abs, range(3), buffersize=3)
    assert sorted(results) == [0, 1, 2]


number_of: contextvars.ContextVar[int] = contextvars.ContextVar("number_of", default=0)


@each_form
@pytest.mark.parametrize("who", ["worker", "closer"])
def test_the_input_is_read_and_items_run_in_the_context_of_the_map(form: str, who: str) -> None:
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def source() -> Iterator[tuple[int, int]]:
        for number in range(TOTAL):
            yield number, number_of.get()

    def item(row: tuple[int, int]) -> None:
        seen.add((row[1], number_of.get()))
        if row[0] == TOTAL - 1:
            done.set()

    pool, map_ = make(form)
    token = number_of.set(7)
    try:
        map_(item, source())
    finally:
        number_of.reset(token)
    if who == "worker":
        assert done.wait(60)
    pool.shutdown()
    assert seen == {(7, 7)}


# -- what the input raises ----------------------------------------------------------------------------------------


def failing() -> Iterator[int]:
    yield from range(TOTAL)
    raise OSError("the input")


@each_form
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("items", [0, 1, 2])
def test_what_the_input_raises_soon_comes_after_the_results_before_it_too(
    form: str, observed: bool, items: int
) -> None:
    """After one item it was taken for that item's refusal, and raised by `map` itself; the result was lost."""

    def source() -> Iterator[int]:
        yield from range(items)
        raise LookupError("the rest")

    pool, map_ = make(form, observers=[Observer()] if observed else [])
    with pool:
        if items == 0:
            with pytest.raises(LookupError):
                map_(abs, source())
            return
        results = map_(abs, source())
        assert {next(results) for _ in range(items)} == set(range(items))
        with pytest.raises(LookupError):
            next(results)


@each_form
def test_what_the_input_raises_comes_after_the_results_whoever_has_read_it(form: str) -> None:
    pool, map_ = make(form)
    with pool:
        results = map_(abs, failing())
    assert sorted(next(results) for _ in range(TOTAL)) == list(range(TOTAL))
    with pytest.raises(OSError, match="the input"):
        next(results)
    assert list(results) == []


@each_form
@pytest.mark.parametrize("open_", [True, False])
def test_what_the_input_raises_when_nobody_takes_results_is_logged_once(
    form: str, open_: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ran = Ran()
    pool, map_ = make(form)
    with caplog.at_level(logging.ERROR, "treadle"):
        map_(ran, failing())
        if open_:
            assert ran.all.wait(60)
        pool.shutdown()
        del map_
        gc.collect()
    (record,) = caplog.records
    assert "reading the input of map(" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the input"


def test_results_that_nobody_will_take_are_let_go_of_as_they_come() -> None:
    class Result:
        living = 0
        highest = 0
        lock = threading.RLock()  # a destructor may come in the midst of it

        def __init__(self) -> None:
            with self.lock:
                Result.living += 1
                Result.highest = max(Result.highest, Result.living)

        def __del__(self) -> None:
            with self.lock:
                Result.living -= 1

    total = 10 * TOTAL  # without the GIL, what another thread lets go of is gone when its maker comes by
    for form in FORMS:
        Result.living = Result.highest = 0
        done = threading.Event()

        def item(number: int, done: threading.Event = done) -> Result:
            if number == total - 1:
                done.set()
            return Result()

        pool, map_ = make(form)
        with pool:
            map_(item, Source(total))
            assert done.wait(60)
        assert Result.highest <= total // 2, form


# -- input that changes, or belongs to a thread -------------------------------------------------------------------


class Registered(list[int]):
    """One of the user's own."""


@pytest.mark.parametrize(
    "kind", [list, set, dict.fromkeys, bytearray, deque, OrderedDict.fromkeys, Counter, Registered, UserList]
)
def test_a_map_is_of_what_its_input_was_when_it_was_called(kind: Callable[[Any], Any]) -> None:
    source = kind(list(range(200)))
    with Pool(1, queue_size=5) as pool:
        results = pool.map(int, source)
        source.clear()
        assert sorted(results) == list(range(200))


class Unhashable(type):
    """Makes classes that are in no set, for whoever compares them does so in another way."""

    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]  # that is the point


class Odd(metaclass=Unhashable):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_the_class_of_an_input_need_not_be_hashable() -> None:
    with Pool(1) as pool:
        assert list(pool.map(int, Odd())) == [0, 1, 2]


class Bound:
    """An iterator that only the thread may use which made it, as a database's cursor."""

    def __init__(self, total: int) -> None:
        self.left, self.owner = iter(range(total)), threading.get_ident()
        self.refused = threading.Event()

    def __iter__(self) -> Bound:
        return self

    def __next__(self) -> int:
        if threading.get_ident() != self.owner:
            self.refused.set()
            raise LookupError("made in another thread")
        return next(self.left)


def test_input_that_is_bound_to_a_thread_is_read_by_that_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker tries, since nobody begins; what it was refused is no end of the input."""
    monkeypatch.setattr(feed, "PATIENCE", 0.0)
    taken, ran = Bound(200), list[int]()
    with Pool(1, queue_size=5) as pool:
        results = pool.map(int, taken)
        assert taken.refused.wait(30)
        assert list(results) == list(range(200))
        dropped = Bound(200)
        pool.map(ran.append, dropped)
        assert dropped.refused.wait(30)
    assert sorted(ran) == list(range(200))


def test_of_several_inputs_none_is_read_again_when_one_has_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or their rows would be paired wrongly."""
    monkeypatch.setattr(feed, "PATIENCE", 0.0)
    bound = Bound(200)
    with Pool(1, queue_size=5) as pool:
        results, rows = pool.map(lambda *row: row, range(200), bound), list[tuple[int, int]]()
        assert bound.refused.wait(30)
        with pytest.raises(LookupError):
            rows.extend(iter(results))
        rows.extend(iter(results))
    assert all(one == other for one, other in rows)


class Unkind(Exception):
    """Raises when it is asked for its class."""

    @property
    def __class__(self) -> Any:
        raise ValueError("asked for its class")

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise ValueError("asked for its class")


def test_whatever_the_input_raises_comes_out_as_it_is_and_keeps_no_pool_open() -> None:
    def source() -> Iterator[int]:
        yield from range(20)
        raise Unkind

    with Pool(1, queue_size=5) as pool:
        results = iter(pool.map(int, source()))
        assert [next(results) for _ in range(20)] == list(range(20))
        with pytest.raises(Unkind):
            next(results)


def test_what_the_input_submits_to_the_pool_runs_though_that_was_closed_meanwhile() -> None:
    with Pool(2, queue_size=5) as pool:
        results = pool.map(int, (pool.submit(int, number).result(30) for number in range(200)))
    assert list(results) == list(range(200))
    with pytest.raises(PoolClosed):
        pool.submit(int)


def test_closing_a_pool_without_waiting_does_not_wait_for_room_either() -> None:
    gate = threading.Event()
    pool = Pool(1, queue_size=5, rate=Rate(1e6))
    results = pool.map(lambda number: gate.wait(30) and number, range(100))
    pool.shutdown(wait=False)
    gate.set()
    assert list(results) == list(range(100))


@pytest.mark.parametrize("policy", ["reject", "discard_oldest"])
def test_the_calls_of_a_map_are_not_in_the_way_of_each_other(policy: WhenFull) -> None:
    gate = threading.Event()
    with Pool(2, queue_size=1, when_full=policy, rate=Rate(1e6)) as pool:
        results = pool.map(lambda number: (gate.wait(30), number)[1], range(100))  # none ends before all were tried
        gate.set()
        assert list(results) == list(range(100))


# -- who waits for whom -------------------------------------------------------------------------------------------


WAITS: dict[str, Callable[[Pool, int], int]] = {
    "result": lambda pool, number: pool.submit(abs, number).result(),
    "wait": lambda pool, number: wait([pool.submit(abs, number)]).done.pop().result(),
    "as_completed": lambda pool, number: next(as_completed([pool.submit(abs, number)])).result(),
    "map": lambda pool, number: next(pool.map(abs, [number])),
    "rate": lambda pool, number: next(pool.options(rate=Rate(1e6)).map(abs, [number])),
    "group": lambda pool, number: in_group(pool, number),
}


def in_group(pool: Pool, number: int) -> int:
    with TaskGroup(pool) as group:
        future = group.submit(abs, number)
    return future.result()


@each_form
@pytest.mark.parametrize("first", ["consumer", "closer"])
def test_a_task_that_takes_results_while_the_closer_reads_is_no_obstacle_to_what_the_input_needs(
    form: str, first: str
) -> None:
    """The pool's only thread waits for whoever reads, and the input for that thread."""
    check_that_a_task_takes_all(form, first, "result")


@pytest.mark.parametrize("how", WAITS)
def test_the_input_may_wait_for_the_pool_in_any_way_while_a_task_of_that_takes_results(how: str) -> None:
    check_that_a_task_takes_all("plain", "consumer", how)


def check_that_a_task_takes_all(form: str, first: str, how: str) -> None:
    closes = threading.Event()

    def source() -> Iterator[int]:
        for number in range(TOTAL):
            if threading.current_thread() is closer and not closes.is_set():
                closes.set()
                if first == "consumer":
                    until_noted(1)
            yield WAITS[how](pool, number)

    def take() -> list[int]:
        closer.start()
        assert closes.wait(60)
        return list(results)

    pool, map_ = make(form, max_workers=1)
    closer = threading.Thread(target=pool.shutdown)
    results = map_(abs, source())
    assert sorted(pool.submit(take).result(60)) == list(range(TOTAL))
    closer.join(60)
    assert not closer.is_alive()


@each_form
def test_a_map_over_a_map_ends_when_a_task_takes_its_results_and_the_pool_is_closed(form: str) -> None:
    for _ in range(10):
        pool, map_ = make(form, max_workers=1)
        with pool:
            results = map_(abs, map_(abs, range(TOTAL)))
            taken = pool.submit(sorted, results)
        assert taken.result(60) == list(range(TOTAL))


@each_form
def test_a_worker_that_reads_needs_the_very_thread_that_takes_results(form: str) -> None:
    """It is another pool's, and its only one."""
    reads = threading.Event()

    def source() -> Iterator[int]:
        for number in range(TOTAL):
            if threading.current_thread() is threading.main_thread():
                yield number
            else:
                reads.set()
                yield other.submit(abs, number).result()

    def take() -> list[int]:
        assert reads.wait(60)
        return sorted(results)

    pool, map_ = make(form, max_workers=1)
    with pool, Pool(1, name="other") as other:
        results = map_(abs, source())
        assert other.submit(take).result(60) == list(range(TOTAL))


def test_a_task_that_closes_another_pool_runs_what_the_input_of_its_maps_needs() -> None:
    """A thread of nobody's reads that, and needs the only thread, which waits for it."""
    late = threading.Event()
    got: list[int] = []

    def source() -> Iterator[int]:
        yield from range(2 * AHEAD)
        late.set()
        until_noted(1)
        yield other.submit(abs, 2 * AHEAD).result()

    def close() -> None:
        assert late.wait(60)
        pool.shutdown()

    with Pool(1, queue_size=AHEAD) as pool, Pool(1, name="other") as other:
        closed = other.submit(close)
        consumer = threading.Thread(target=lambda: got.extend(pool.map(abs, source())))
        consumer.start()
        closed.result(60)
        consumer.join(60)
    assert got == list(range(2 * AHEAD + 1))


def knot_of_an_input_and_its_consumer() -> None:
    tasks: list[Future[Any]] = []
    known, closes = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        for number in range(TOTAL):
            if threading.current_thread() is closer:
                closes.set()
                tasks[0].result()
            yield number

    def take() -> list[int]:
        assert known.wait(60)
        closer.start()
        assert closes.wait(60)
        return list(results)

    pool = Pool(1, queue_size=AHEAD, name="knot")
    closer = threading.Thread(target=pool.shutdown)
    results = pool.map(abs, source())
    tasks.append(pool.submit(take))
    known.set()
    with pytest.raises(PoolDeadlock, match="'knot'"):
        tasks[0].result(60)
    closer.join(60)
    assert not closer.is_alive()


def test_an_input_that_waits_for_the_task_that_takes_its_results_gets_an_error() -> None:
    knot_of_an_input_and_its_consumer()
    gc.collect()  # what the input raised may be left to nobody, and is logged here then, not in the next test


def test_what_the_input_of_an_input_submits_to_a_pool_that_was_closed_runs() -> None:
    """It is another pool's map that is read in between."""
    with Pool(1, name="between") as between:
        with Pool(1, queue_size=AHEAD) as pool:
            inner = between.map(abs, (pool.submit(abs, number).result() for number in range(TOTAL)), buffersize=1)
            next(inner)
            results = pool.map(abs, inner)
        assert list(results) == list(range(1, TOTAL))

"""map: lazy, bounded, in order or not, and going on after an exception."""

from __future__ import annotations

import contextvars
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import TimeoutError

import pytest

from treadle import Pool
from treadle.errors import PoolFull


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(3) as made:
        yield made


class Counted:
    """An endless input that knows how far it was read."""

    def __init__(self) -> None:
        self.read = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.threads.add(threading.get_ident())
            self.read += 1
            yield self.read


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 5, 1000])
def test_the_results_are_those_of_the_builtin(
    pool: Pool, ordered: bool, chunksize: int, buffersize: int | None
) -> None:
    results = list(
        pool.map(pow, range(60), itertools.repeat(2), ordered=ordered, chunksize=chunksize, buffersize=buffersize)
    )
    expected = list(map(pow, range(60), itertools.repeat(2)))
    assert (results if ordered else sorted(results)) == expected


def test_no_items_and_no_iterables_give_no_results(pool: Pool) -> None:
    assert list(pool.map(abs, [])) == list(pool.map(abs)) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_the_input_is_read_exactly_as_far_as_allowed_and_in_the_callers_thread(pool: Pool, ordered: bool) -> None:
    source = Counted()
    results = pool.map(abs, source, buffersize=4, ordered=ordered)
    assert source.read == 4
    for taken in range(1, 50):
        next(results)
        assert source.read <= taken + 4
    assert source.threads == {threading.get_ident()}
    results.close()


def test_no_more_are_under_way_than_allowed(pool: Pool) -> None:
    """A high-water mark of items that have begun and whose results are not taken."""
    lock, begun, taken, highest = threading.Lock(), 0, 0, 0

    def item(number: int) -> int:
        nonlocal begun, highest
        with lock:
            begun += 1
            highest = max(highest, begun - taken)
        return number

    results = pool.map(item, range(500), buffersize=6)
    for _ in results:
        with lock:
            taken += 1
    assert highest <= 7, "the one that is being taken, and those read ahead of it"


def test_by_default_as_many_are_read_as_may_wait() -> None:
    source = Counted()
    with Pool(2, queue_size=20) as pool:
        pool.map(abs, source).close()
    assert source.read == 20


def test_the_iteration_goes_on_after_an_exception(pool: Pool) -> None:
    results = pool.map(lambda n: 6 // n, [1, 0, 2, 0, 3])
    got: list[object] = []
    while True:
        try:
            got.append(next(results))
        except ZeroDivisionError:
            got.append("error")
        except StopIteration:
            break
    assert got == [6, "error", 3, "error", 2]
    assert next(results, "exhausted") == "exhausted"


def test_a_time_out_that_the_function_raises_is_its_own(pool: Pool) -> None:
    def item(number: int) -> int:
        if number == 1:
            raise TimeoutError("of the function")
        return number

    results = pool.map(item, range(3), timeout=60)
    assert next(results) == 0
    with pytest.raises(TimeoutError, match="of the function"):
        next(results)
    assert list(results) == [2]


def test_late_results_end_the_iteration_and_cancel_what_has_not_begun() -> None:
    gate, ran = threading.Event(), []

    def item(number: int) -> None:
        assert gate.wait(30)
        ran.append(number)

    with Pool(1) as pool:
        results = pool.map(item, range(10), timeout=0.01)
        with pytest.raises(TimeoutError, match="not there in time"):
            next(results)
        assert list(results) == []
        gate.set()
    assert ran == [0]


@pytest.mark.parametrize("how", ["close", "drop"])
def test_an_iterator_that_is_closed_or_dropped_cancels_what_has_not_begun(how: str) -> None:
    gate, second, ran = threading.Event(), threading.Event(), []

    def item(number: int) -> None:
        ran.append(number)
        if number == 1:
            second.set()
            assert gate.wait(30)

    with Pool(1) as pool:
        results = pool.map(item, range(100))
        next(results)
        assert second.wait(30)
        if how == "close":
            results.close()
            results.close()
            assert list(results) == []
        else:
            del results
            gc.collect()
        gate.set()
    assert ran == [0, 1]


def test_an_iterator_that_nobody_began_runs_for_its_effects() -> None:
    ran: list[int] = []
    with Pool(1) as pool:
        pool.map(ran.append, range(10))
    assert ran == list(range(10))


def test_what_the_input_raises_comes_after_the_results_before_it(pool: Pool) -> None:
    def source() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the input")

    results = pool.map(abs, source())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="the input"):
        next(results)
    assert list(results) == []


def test_what_is_no_iterable_is_refused_at_once(pool: Pool) -> None:
    with pytest.raises(TypeError, match="int"):
        pool.map(abs, 5)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 2.0}, TypeError, "buffersize must be an integer or None"),
        ({"chunksize": 0}, ValueError, "chunksize=0"),
        ({"ordered": 1}, TypeError, "ordered=1"),
    ],
)
def test_bad_arguments_are_named(pool: Pool, arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pool.map(abs, [1], **arguments)  # type: ignore[arg-type]  # that is the point


def test_a_pool_that_nobody_holds_lives_as_long_as_its_map_has_input() -> None:
    assert list(itertools.islice(Pool(2).map(abs, Counted(), buffersize=3), 100)) == list(range(1, 101))


def test_after_shutdown_what_was_read_is_given_and_the_rest_is_an_error() -> None:
    pool = Pool(1)
    results = pool.map(abs, Counted(), buffersize=3)
    pool.shutdown()
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(RuntimeError, match="closed"):
        next(results)


def test_each_item_runs_in_a_context_of_its_own() -> None:
    number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)
    number.set(7)

    def item(value: int) -> int:
        before = number.get()
        number.set(value)
        return before

    with Pool(1) as pool:
        assert set(pool.map(item, range(10))) == {7}
    with Pool(1, context=False) as pool:
        assert next(pool.map(lambda _: number.get(), [0])) == 0


def test_a_result_that_was_taken_is_not_held(pool: Pool) -> None:
    class Thing:
        pass

    for thing in pool.map(lambda _: Thing(), range(20)):
        reference = weakref.ref(thing)
        del thing
        gc.collect()
        assert reference() is None


def test_unordered_results_come_as_they_are_ready() -> None:
    gate = threading.Event()
    with Pool(2) as pool:
        results = pool.map(lambda n: gate.wait(30) if n == 0 else n, range(5), ordered=False)
        assert sorted(next(results) for _ in range(4)) == [1, 2, 3, 4]
        gate.set()
        assert next(results) is True


def test_a_task_may_map_in_its_own_pool() -> None:
    with Pool(1) as pool:
        total = pool.submit(lambda: sum(pool.map(lambda n: sum(pool.map(abs, range(n))), range(10)))).result(30)
    assert total == sum(sum(range(n)) for n in range(10))


def test_a_map_that_is_refused_says_so_once_at_its_start_or_item_by_item() -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    with Pool(1, queue_size=0, when_full="reject") as pool:
        results = pool.map(abs, itertools.count(), buffersize=1)
        assert next(results) == 0
        tick = threading.Event()
        while True:  # until the thread is free again
            try:
                pool.submit(hold)
                break
            except PoolFull:
                tick.wait(0.001)
        assert began.wait(30)
        with pytest.raises(PoolFull):
            pool.map(abs, [1])
        with pytest.raises(PoolFull):
            next(results)
        gate.set()
        pool.shutdown()
        with pytest.raises(RuntimeError, match="closed"):
            next(results)
        assert list(results) == []

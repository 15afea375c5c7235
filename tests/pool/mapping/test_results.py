"""map: lazy, bounded, in order or not, and going on after an exception."""

from __future__ import annotations

import contextvars
import gc
import itertools
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError
from functools import partial, partialmethod
from typing import Any

import pytest

import treadle
from clocks import LeapingClock
from treadle import Pool, Rate
from treadle.errors import DeadlineExceeded, PoolBroken, PoolClosed, PoolFull, Shed
from treadle.events import Observer, TaskEvent


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
    assert list(pool.map(abs, [])) == list(pool.map(abs)) == []  # type: ignore[call-overload]  # of no iterables


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


def test_late_results_end_the_iteration_and_cancel_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    leaping = LeapingClock(monkeypatch)
    began, gate, ran = threading.Event(), threading.Event(), []

    def item(number: int) -> None:
        began.set()
        assert gate.wait(30)
        ran.append(number)

    with Pool(1) as pool:
        results = pool.map(item, range(10), timeout=600)
        assert began.wait(30)
        leaping.leap(600)
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
        pool.map(abs, 5)  # type: ignore[call-overload]  # that is the point


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
        pool.map(abs, [1], **arguments)  # type: ignore[call-overload]  # that is the point


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


class Tally(Observer):
    """Notes for each task what it was told."""

    def __init__(self) -> None:
        self.told: dict[int, list[str]] = {}
        self.lock = threading.Lock()

    def note(self, what: str, event: TaskEvent) -> None:
        with self.lock:
            self.told.setdefault(event.task_id, []).append(what)

    submitted = partialmethod(note, "submitted")
    started = partialmethod(note, "started")
    finished = partialmethod(note, "finished")
    cancelled = partialmethod(note, "cancelled")
    rejected = partialmethod(note, "rejected")
    shed = partialmethod(note, "shed")

    def check(self, pool: Pool) -> dict[str, int]:
        """Every task was submitted, and ended once; return how many ended how, as the snapshot says, too."""
        ends: Counter[str] = Counter()
        for told in self.told.values():
            assert told[0] == "submitted"
            assert told[1:-1] == (["started"] if told[-1] == "finished" else [])
            ends[told[-1]] += 1
        now = pool.snapshot()
        counts = {what: getattr(now, what) for what in ("finished", "cancelled", "rejected", "shed")}
        assert {what: count for what, count in counts.items() if count} == ends
        assert now.submitted == now.finished + now.cancelled + now.shed
        return dict(ends)


class Busy:
    """A pool of one thread, which is held up."""

    def __init__(self, **options: Any) -> None:
        self.tally = Tally()
        self.gate, held = threading.Event(), threading.Event()
        self.pool = Pool(1, observers=[self.tally], **options)

        def hold() -> None:
            held.set()
            assert self.gate.wait(60)

        self.pool.submit(hold)
        assert held.wait(60)

    def end(self) -> dict[str, int]:
        self.gate.set()
        self.pool.shutdown()
        ends = self.tally.check(self.pool)
        ends["finished"] -= 1  # what held it up
        return {what: count for what, count in ends.items() if count}


@pytest.mark.parametrize("ordered", [True, False])
class TestEveryItemThatWasSubmittedHasOneEnd:
    def test_refused_at_the_start(self, ordered: bool) -> None:
        busy = Busy(queue_size=0, when_full="reject")
        with pytest.raises(PoolFull):
            busy.pool.map(abs, [1, 2, 3], ordered=ordered)
        assert busy.end() == {"rejected": 1}

    def test_refused_because_the_pool_is_closed(self, ordered: bool) -> None:
        busy = Busy()
        busy.pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="closed"):
            busy.pool.map(abs, [1, 2, 3], ordered=ordered)
        assert busy.end() == {}

    def test_refused_later(self, ordered: bool) -> None:
        busy = Busy(queue_size=1, when_full="reject")
        busy.pool.options(when_full="discard_oldest").map(abs, [1], buffersize=1).close()
        results = busy.pool.map(abs, range(4), buffersize=2, ordered=ordered)
        busy.pool.options(when_full="discard_oldest").submit(int)  # the turn goes
        for _ in range(2):
            with pytest.raises(Shed) as caught:
                next(results)
            assert (caught.value.reason, caught.value.task_name) == ("discarded", "abs")
        for _ in range(2):
            with pytest.raises(PoolFull):
                next(results)
        assert list(results) == []
        assert busy.end() == {"cancelled": 1, "finished": 1, "rejected": 2, "shed": 2}

    @pytest.mark.parametrize("how", ["close", "drop", "timeout", "cancel"])
    def test_over_before_they_began(self, ordered: bool, how: str) -> None:
        busy = Busy()
        results = busy.pool.map(abs, range(5), ordered=ordered, timeout=0.01 if how == "timeout" else None)
        if how == "close":
            results.close()
        elif how == "cancel":
            busy.pool.shutdown(wait=False, cancel_futures=True)
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                next(results)
        else:
            threading.Timer(0, busy.gate.set).start()
            next(results)
            del results
            busy.pool.shutdown()
            assert sum(busy.end().values()) == 5
            return
        assert busy.end() == {"cancelled": 5}

    def test_past_their_deadline(self, ordered: bool) -> None:
        busy = Busy()
        with treadle.deadline(0):
            results = busy.pool.map(abs, range(3), ordered=ordered)
        with pytest.raises(DeadlineExceeded):
            next(results)
        assert busy.end() == {"cancelled": 3}

    def test_in_a_pool_that_breaks(self, ordered: bool) -> None:
        gate, tally = threading.Event(), Tally()

        def fail() -> None:
            assert gate.wait(60)
            raise OSError("the initializer")

        pool = Pool(1, initializer=fail, observers=[tally])
        results = pool.map(abs, range(3), ordered=ordered)
        gate.set()
        for _ in range(3):
            with pytest.raises(PoolBroken):
                next(results)
        with pytest.raises(PoolBroken):
            pool.map(abs, range(3), ordered=ordered)
        pool.shutdown()
        assert tally.check(pool) == {"cancelled": 3}

    @pytest.mark.parametrize("how", ["closed", "open", "dropped"])
    def test_though_nobody_takes_them(self, ordered: bool, how: str) -> None:
        busy = Busy(queue_size=4)
        results = busy.pool.map(abs, range(100), ordered=ordered)
        if how == "dropped":
            del results
        elif how == "closed":
            busy.gate.set()
            next(results)
            results.close()
            ends = busy.end()
            assert set(ends) <= {"finished", "cancelled"}
            return
        assert busy.end() == {"finished": 100}

    def test_though_an_observer_is_interrupted(self, ordered: bool) -> None:
        class Interrupted(Tally):
            def submitted(self, event: TaskEvent) -> None:
                self.note("submitted", event)
                if len(self.told) == 3:
                    raise KeyboardInterrupt

        tally = Interrupted()
        with Pool(1, observers=[tally]) as pool:
            with pytest.raises(KeyboardInterrupt):
                pool.map(abs, range(5), ordered=ordered)
        assert sum(tally.check(pool).values()) == 3


FORMS: dict[str, Callable[[Pool], Any]] = {
    "plain": lambda pool: pool.map,
    "unordered": lambda pool: partial(pool.map, ordered=False),
    "chunks": lambda pool: partial(pool.map, chunksize=2),
    "options": lambda pool: pool.options(name="named").map,
    "rate": lambda pool: pool.options(rate=Rate(1e6)).map,
    "run by the caller": lambda pool: pool.options(when_full="caller_runs").map,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_stop_iteration_of_the_function_is_an_error_and_loses_no_results(
    form: str, observed: bool, nested: bool
) -> None:
    """PEP 479: as from a generator. It would end the loop of whoever takes the results."""

    pool: Pool

    def item(number: int) -> int:
        if number == 2:
            raise StopIteration("of the function")
        return number

    def take() -> list[object]:
        got: list[object] = []
        results = FORMS[form](pool)(item, range(5))
        while True:
            try:
                got.append(next(results))
            except RuntimeError as error:
                got.append(f"{error}: {error.__cause__!r}")
            except StopIteration:
                return got

    with Pool(2, observers=[Observer()] if observed else []) as made:
        pool = made
        got = pool.submit(take).result(60) if nested else take()
    stopped = "generator raised StopIteration: StopIteration('of the function')"
    assert sorted(map(str, got)) == ["0", "1", "3", "4", stopped]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("timeout", [-1, -0.5, float("-inf")])
def test_a_negative_timeout_is_no_time(form: str, timeout: float) -> None:
    """As in the standard library: what is there is given, what is not is late."""
    gate = threading.Event()

    with Pool(1) as pool:
        results = FORMS[form](pool)(lambda number: gate.wait(60), range(3), timeout=timeout)
        with pytest.raises(TimeoutError):
            next(results)
        gate.set()
    with Pool(1) as pool:
        results = FORMS[form](pool)(abs, range(3), timeout=timeout)
    assert sorted(results) == [0, 1, 2]


class Odd:
    """An iterator over Nones that is empty to whoever asks for its length or truth."""

    def __init__(self) -> None:
        self.left = 5

    def __iter__(self) -> Odd:
        return self

    def __len__(self) -> int:
        return 0

    def __next__(self) -> None:
        if not self.left:
            raise StopIteration
        self.left -= 1


@pytest.mark.parametrize("form", FORMS)
def test_an_input_is_neither_empty_nor_over_because_it_or_its_items_are_false(form: str, pool: Pool) -> None:
    assert list(FORMS[form](pool)(str, Odd())) == ["None"] * 5
    results = FORMS[form](pool)(str, Odd(), buffersize=2)
    assert next(results) == "None"
    pool.shutdown()
    with pytest.raises(PoolClosed):
        list(results)


class Mere:
    """An iterator that has no iterator itself, as `for` and the builtin's `map` need none."""

    def __init__(self) -> None:
        self.left = 5

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


class Anew(Mere):
    """An iterator that begins anew when it is asked for its iterator."""

    def __iter__(self) -> Anew:
        self.left = 5
        return self


class Once:
    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator
        self.asked = 0

    def __iter__(self) -> Any:
        self.asked += 1
        return iter(self.iterator) if isinstance(self.iterator, Anew) else self.iterator


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("buffersize", [None, 2])
@pytest.mark.parametrize("kind", [Mere, Anew])
@pytest.mark.parametrize("others", [(), (range(9),)])
def test_an_input_is_asked_for_its_iterator_once_however_often_it_is_read(
    form: str, buffersize: int | None, kind: type[Mere], others: tuple[Any, ...], pool: Pool
) -> None:
    source = Once(kind())
    results = FORMS[form](pool)(lambda item, *_: item, source, *others, buffersize=buffersize)
    assert sorted(itertools.islice(results, 9)) == [0, 1, 2, 3, 4]
    assert source.asked == 1


def test_outcomes_ask_their_input_for_its_iterator_once(pool: Pool) -> None:
    source = Once(Anew())
    told = pool.outcomes(abs, source, buffersize=2)
    assert sorted(outcome.item for outcome in itertools.islice(told, 9)) == [0, 1, 2, 3, 4]
    assert source.asked == 1


def test_what_is_no_input_is_refused_at_once(pool: Pool) -> None:
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        pool.map(abs, 5)  # type: ignore[call-overload]
    pool.shutdown()
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        pool.map(abs, 5)  # type: ignore[call-overload]


class Interrupting(deque[Any]):
    """Ctrl-C comes as the first is taken."""

    interrupts = True

    def popleft(self) -> Any:
        first = super().popleft()
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        return first


@pytest.mark.parametrize("ordered", [True, False])
def test_ctrl_c_as_a_result_is_taken_loses_that_one_and_the_iteration_still_ends(ordered: bool) -> None:
    with Pool(1) as pool:
        results: Any = pool.map(abs, range(3), ordered=ordered, chunksize=3)  # in one go, before the next task
        pool.submit(int).result(60)
        if ordered:
            results._window = Interrupting(results._window)
        else:
            results._job.results = Interrupting(results._job.results)
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert list(results) == [1, 2]


def test_reprs_tell_the_function_and_how_far_its_input_was_read(pool: Pool) -> None:
    results, outcomes = pool.map(abs, range(3)), pool.outcomes(abs, range(1))
    assert repr(results) == "<Results of map(abs): 3 items read>"
    assert repr(outcomes) == "<Outcomes of map(abs): 1 item read>"
    results.close()
    assert repr(results) == "<Results of map(abs): 3 items read, closed>"

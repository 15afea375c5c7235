"""Passage: what others put in the place of `ThreadPoolExecutor.submit` has its say, and takes nothing away."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import FunctionType, TracebackType
from typing import Any, cast
from unittest import mock

import pytest

import treadle
from behaviour.scripts import script
from programs import Program
from treadle import Future, Pool, Rate, TaskGroup
from treadle._pool import submit as submitter
from treadle._pool.passage import STANDARD, _standard
from treadle.errors import DeadlineExceeded, PoolBroken, PoolClosed, PoolFull
from treadle.events import Observer, TaskEvent

PATIENCE = 30.0

Standard = concurrent.futures.Future[Any]
Wrapper = Callable[..., Any]


class Patch:
    """Replaces `ThreadPoolExecutor.submit`, as Sentry does, until the block is left."""

    def __init__(self, make: Callable[[Wrapper], Wrapper]) -> None:
        self.make = make

    def __enter__(self) -> Patch:
        self.before = ThreadPoolExecutor.submit
        ThreadPoolExecutor.submit = self.make(self.before)  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ThreadPoolExecutor.submit = self.before  # type: ignore[method-assign]


def marking(mark: str) -> Patch:
    """Have each call return what it would, and `mark` around it."""

    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def marked(*args: Any, **kwargs: Any) -> Any:
                return mark, fn(*args, **kwargs)

            return original(self, marked, *args, **kwargs)

        return submit

    return Patch(make)


def keeping(kept: list[Standard]) -> Patch:
    """Keep the standard library's futures."""

    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            kept.append(original(self, fn, *args, **kwargs))
            return kept[-1]

        return submit

    return Patch(make)


@pytest.fixture
def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put other code into the method, as ddtrace does: each call returns what it would, and "mark" around it."""

    def submit(self: Pool, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return globals()["_marking"](self, fn, *args, **kwargs)  # of the module whose function this is the code of

    standard = cast(FunctionType, STANDARD)
    original = FunctionType(standard.__code__, standard.__globals__)
    monkeypatch.setattr(concurrent.futures.thread, "_marking", marking("mark").make(original), raising=False)
    monkeypatch.setattr(standard, "__code__", submit.__code__)


class Held:
    """A pool of one thread that is busy until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.pool: Any = Pool(1, **options)  # to type checkers, what a replacement makes of a call is anything
        self.gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(PATIENCE)

        self.running = self.pool.submit(hold)
        assert began.wait(PATIENCE)

    def let_go(self) -> None:
        self.gate.set()
        self.pool.shutdown()


@pytest.fixture
def pool() -> Iterator[Any]:
    with Pool(2) as pool:
        yield pool


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.let_go()


class Overriding(Pool):
    """Counts what is submitted."""

    count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(fn, *args, **kwargs)


def in_a_group(pool: Pool) -> Any:
    with TaskGroup(pool) as group:
        future = group.submit(abs, -1)
    return future.result(PATIENCE)


DOORS: dict[str, Callable[[Pool], Any]] = {
    "submit": lambda pool: pool.submit(abs, -1).result(PATIENCE),
    "a view": lambda pool: pool.options(name="a").submit(abs, -1).result(PATIENCE),
    "a rate": lambda pool: pool.options(rate=Rate(1000)).submit(abs, -1).result(PATIENCE),
    "map": lambda pool: next(pool.map(abs, [-1])),
    "a view's map": lambda pool: next(pool.options(name="a").map(abs, [-1])),
    "unordered map": lambda pool: next(pool.map(abs, [-1], ordered=False)),
    "run": lambda pool: asyncio.run(pool.run(abs, -1)),
    "a view's run": lambda pool: asyncio.run(pool.options(block_timeout=9, name="a").run(abs, -1)),
    "group": in_a_group,
    "the method itself": lambda pool: ThreadPoolExecutor.submit(pool, abs, -1).result(PATIENCE),
    "the standard map": lambda pool: next(ThreadPoolExecutor.map(pool, abs, [-1])),
}


@pytest.mark.parametrize("kind", [Pool, Overriding])
@pytest.mark.parametrize("door", DOORS)
def test_every_way_in_passes_through_what_replaces_submit(door: str, kind: type[Pool]) -> None:
    with kind(2) as pool:
        assert DOORS[door](pool) == 1
        with marking("outer"):
            assert DOORS[door](pool) == ("outer", 1)
        with marking("inner"), marking("outer"):
            assert DOORS[door](pool) == ("inner", ("outer", 1))
        assert DOORS[door](pool) == 1


def test_a_mock_in_its_place_is_called_as_one_would_be(pool: Any) -> None:
    with mock.patch.object(ThreadPoolExecutor, "submit") as submit:
        assert cast(Any, pool.submit(abs, -1)) is submit.return_value
    submit.assert_called_once_with(abs, -1)


def test_nothing_passes_through_where_nothing_is_replaced(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(*_: object) -> None:
        raise AssertionError("there is nothing to pass through")

    monkeypatch.setattr(submitter, "pass_through", astray)
    assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_the_standard_submit_is_found_beneath_what_was_there_before_treadle() -> None:
    assert ThreadPoolExecutor.submit is STANDARD
    assert _standard(STANDARD) is STANDARD
    assert _standard(functools.wraps(cast(Any, STANDARD))(lambda *args: None)) is STANDARD
    assert _standard(lambda *args: None) is None
    assert _standard(mock.MagicMock()) is None


def test_what_replaced_submit_before_treadle_was_imported_has_its_say_until_it_goes() -> None:
    source = """
from concurrent.futures import ThreadPoolExecutor
original = ThreadPoolExecutor.submit
def submit(self, fn, *args):
    return original(self, lambda *args: ("marked", fn(*args)), *args)
ThreadPoolExecutor.submit = submit
from treadle import Pool
pool = Pool(1)
print(pool.submit(abs, -1).result(30), list(pool.map(abs, [-2])))
ThreadPoolExecutor.submit = original
print(pool.submit(abs, -3).result(30), list(pool.map(abs, [-4])))
"""
    with Program((sys.executable, "-c", source)) as program:
        assert program.wait() == 0
        assert program.output.split("\n")[:2] == ["('marked', 1) [('marked', 2)]", "3 [4]"]


def test_keywords_of_any_name_are_the_functions(pool: Any) -> None:
    with marking("a"):
        assert pool.submit(dict, fn=1, self=2, x=3).result(PATIENCE) == ("a", {"fn": 1, "self": 2, "x": 3})
        assert asyncio.run(pool.run(dict, fn=1)) == ("a", {"fn": 1})


def test_a_task_keeps_its_name_its_context_and_its_options(held: Held) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    with marking("a"):
        variable.set("here")
        task = held.pool.submit(variable.get)
        assert held.pool.submit(abs, -1).name == "abs"
        assert held.pool.options(name="weft").submit(abs, -1).name == "weft"
        with treadle.deadline(0), pytest.raises(DeadlineExceeded):
            held.pool.submit(abs, -1)
    variable.set("there")
    held.gate.set()
    assert task.result(PATIENCE) == ("a", "here")
    with Pool(1, order="priority") as pool, marking("a"):
        assert pool.options(priority=3).submit(abs, -1)._options.priority == 3


# -- refusals -------------------------------------------------------------------------------------------------------


def seeing(errors: list[BaseException]) -> Patch:
    """Note what the original raises."""

    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, fn, *args, **kwargs)
            except BaseException as error:
                errors.append(error)
                raise

        return submit

    return Patch(make)


def test_a_refusal_is_treadles_and_is_seen_by_the_replacement_and_counted() -> None:
    seen: list[BaseException] = []
    full = Held(queue_size=0, when_full="reject")
    with seeing(seen), pytest.raises(PoolFull):
        full.pool.submit(abs, -1)
    with seeing(seen), pytest.raises(PoolFull):
        asyncio.run(full.pool.run(abs, -1))
    full.let_go()
    with seeing(seen), pytest.raises(PoolClosed):
        full.pool.submit(abs, -1)
    assert [type(error) for error in seen] == [PoolFull, PoolFull, PoolClosed]
    assert full.pool.snapshot().rejected == 3


def test_a_broken_pool_says_so_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1, initializer=divmod, initargs=(1, 0)) as pool, marking("a"):
        with pytest.raises(PoolBroken):
            pool.submit(abs, -1).result(PATIENCE)
        with pytest.raises(PoolBroken):
            pool.submit(abs, -1)
        assert pool._broken


def test_a_view_waits_for_room_no_longer_than_it_says() -> None:
    full = Held(queue_size=0)
    with marking("a"):
        with pytest.raises(PoolFull):
            full.pool.options(block_timeout=0).submit(abs, -1)
        with pytest.raises(PoolFull, match="after waiting"):
            asyncio.run(full.pool.options(block_timeout=0.01).run(abs, -1))
    full.let_go()


def test_who_waits_for_room_keeps_no_other_executor_from_anything() -> None:
    """The standard library's `submit` holds a lock of the process, under which nothing may wait."""
    full = Held(queue_size=0)
    results: list[Any] = []
    with marking("a"), cast(Any, ThreadPoolExecutor(1)) as other:
        waiter = threading.Thread(target=lambda: results.append(full.pool.submit(abs, -1).result(PATIENCE)))
        waiter.start()
        while not full.pool.snapshot().blocked:
            treadle.sleep(0.001)
        assert other.submit(abs, -2).result(PATIENCE) == ("a", 2)
        full.gate.set()
        waiter.join(PATIENCE)
    full.let_go()
    assert results == [("a", 1)]


def test_what_the_replacement_raises_is_raised_and_nothing_runs(pool: Any) -> None:
    def make(original: Wrapper) -> Wrapper:
        def submit(*_: Any, **__: Any) -> Any:
            raise LookupError("not today")

        return submit

    with Patch(make):
        with pytest.raises(LookupError, match="not today"):
            pool.submit(abs, -1)
        with pytest.raises(LookupError, match="not today"):
            next(pool.map(abs, [-1]))
    assert pool.snapshot().submitted == 0


# -- the standard library's future --------------------------------------------------------------------------------


def test_the_future_that_a_replacement_keeps_is_in_step_with_ours(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Standard] = []
    called: list[Standard] = []
    with keeping(kept):
        result, error, cancelled, cancelled_there = (
            held.pool.submit(fn, arg) for fn, arg in ((abs, -1), (int, "x"), (abs, -2), (abs, -3))
        )
    for future in kept:
        assert not future.done()
        future.add_done_callback(called.append)
    assert cancelled.cancel()
    assert kept[3].cancel()
    assert concurrent.futures.wait([kept[2], kept[3]], PATIENCE).not_done == set()
    assert kept[2].cancelled()
    assert cancelled_there.cancelled()
    assert held.pool._work_queue.qsize() == 2
    held.gate.set()
    assert concurrent.futures.wait(kept, PATIENCE).not_done == set()
    assert kept[0].result() == result.result(PATIENCE) == 1
    assert kept[1].exception() is error.exception(PATIENCE) is not None
    held.pool.shutdown()
    assert sorted(map(kept.index, called)) == [0, 1, 2, 3]
    assert not caplog.records


def test_the_future_that_a_replacement_keeps_cannot_be_cancelled_once_the_task_runs(pool: Any) -> None:
    kept: list[Standard] = []
    began, gate = threading.Event(), threading.Event()

    def work() -> int:
        began.set()
        assert gate.wait(PATIENCE)
        return 1

    with keeping(kept):
        task = pool.submit(work)
    assert began.wait(PATIENCE)
    assert kept[0].running()
    assert not kept[0].cancel()
    gate.set()
    assert task.result(PATIENCE) == kept[0].result(PATIENCE) == 1


def test_a_task_that_is_dropped_takes_its_other_future_with_it(held: Held) -> None:
    kept: list[Standard] = []
    with keeping(kept):
        held.pool.submit(abs, -1)
        with treadle.deadline(0.01):
            late = held.pool.submit(abs, -2)
    assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
    assert isinstance(kept[1].exception(PATIENCE), DeadlineExceeded)
    held.pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        kept[0].result(PATIENCE)


def test_a_replacement_may_wait_for_its_call(pool: Any) -> None:
    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
            future = original(self, fn, *args)
            assert future.result(PATIENCE) == 1
            return future

        return submit

    with Patch(make):
        assert pool.submit(abs, -1).done()


def test_a_replacement_may_submit_more(pool: Any) -> None:
    more: list[Future[Any]] = []

    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
            if fn is abs:
                more.append(pool.options(name="more").submit(int, "7"))
                original(self, str, *args)
            return original(self, fn, *args)

        return submit

    with Patch(make):
        task = pool.submit(abs, -1)
    assert (task.result(PATIENCE), task.name) == (1, "abs")
    assert (more[0].result(PATIENCE), more[0].name) == (7, "more")
    pool.shutdown()
    assert pool.snapshot().finished == 3


def of_its_own(original: Wrapper) -> Wrapper:
    """Return another future than the original does."""

    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        mine: Standard = concurrent.futures.Future()
        original(self, fn, *args).add_done_callback(lambda future: mine.set_result(("mine", future.exception())))
        return mine

    return submit


def test_a_future_of_the_replacements_own_is_returned(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And what its task raises is not lost, for it was asked for there."""
    with Patch(of_its_own):
        future = pool.submit(int, "x")
        assert type(future) is concurrent.futures.Future
        assert future.result(PATIENCE)[0] == "mine"
        assert asyncio.run(pool.run(abs, -1)) == ("mine", None)
        assert [what for what, _ in pool.map(int, "x1")] == ["mine", "mine"]

        def inner() -> Any:
            with TaskGroup(pool) as group:
                future = group.submit(abs, -1)
            return future.result(0)

        assert pool.submit(inner).result(PATIENCE) == ("mine", None)
    pool.shutdown()
    gc.collect()
    assert not caplog.records


def doing(deed: Callable[[Standard], object]) -> Patch:
    """Do something to the standard library's future as soon as it is there."""

    def make(original: Wrapper) -> Wrapper:
        def submit(self: Pool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            future = original(self, fn, *args, **kwargs)
            deed(future)
            return future

        return submit

    return Patch(make)


def by_the_book(future: Standard) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result("theirs")


def outcome(future: Any) -> object:
    try:
        return future.result(PATIENCE)
    except Exception as error:
        return type(error)


DEEDS: dict[str, tuple[Callable[[Standard], object], object]] = {
    "settled": (lambda future: future.set_result("theirs"), "theirs"),
    "failed": (lambda future: future.set_exception(LookupError()), LookupError),
    "begun and settled": (by_the_book, "theirs"),
    "cancelled": (lambda future: future.cancel(), CancelledError),
    "called back": (lambda future: future.add_done_callback(lambda _: None), None),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_a_replacement_does_to_the_standard_future_is_done_to_the_task(held: Held, deed: str) -> None:
    do, expected = DEEDS[deed]
    calls: list[int] = []

    def call(number: int) -> int:
        calls.append(number)
        return abs(number)

    with doing(do):
        tasks = [held.pool.submit(call, number) for number in (-1, -2)]
    ran = deed == "called back"
    assert held.pool._work_queue.qsize() == (2 if ran else 0)
    held.gate.set()
    assert [outcome(task) for task in tasks] == ([1, 2] if ran else [expected] * 2)
    assert tasks[0].cancelled() is (deed == "cancelled")
    held.pool.shutdown()
    assert calls == ([-1, -2] if ran else [])
    now = held.pool.snapshot()
    assert (now.submitted, now.waiting, held.pool._task_dispatcher.queue.tombstones) == (3, 0, 0)


@pytest.mark.parametrize("deed", [deed for deed in DEEDS if deed != "called back"])
def test_so_it_is_when_a_thread_has_the_task_already(deed: str) -> None:
    """The replacement is faster than the thread, by a hair: its call is not made, and the pool goes on."""
    do, expected = DEEDS[deed]
    kept: list[Standard] = []
    claimed, gate = threading.Event(), threading.Event()

    class Slow(Observer):
        def started(self, event: TaskEvent) -> None:  # its thread has the task, and has not begun the other future
            claimed.set()
            assert gate.wait(PATIENCE)

    with cast(Any, Pool(1, observers=[Slow()])) as pool:
        with keeping(kept):
            task = pool.submit(pytest.fail)
        assert claimed.wait(PATIENCE)
        if deed == "begun and settled":
            assert kept[0].set_running_or_notify_cancel()
            gate.set()
            assert pool.submit(abs, -1).result(PATIENCE) == 1
            assert task.running()
            kept[0].set_result("theirs")
        else:
            do(kept[0])
        gate.set()
        assert outcome(task) == outcome(kept[0]) == expected
        assert task.cancelled() is kept[0].cancelled() is (deed == "cancelled")
    assert pool.snapshot().finished == (2 if deed == "begun and settled" else 1)
    assert outcome(task) == expected


@pytest.mark.parametrize("deed", ["settled", "failed"])
def test_a_replacement_that_settles_the_standard_future_while_the_task_runs_has_the_last_word(deed: str) -> None:
    do, expected = DEEDS[deed]
    kept: list[Standard] = []
    began, gate = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        assert gate.wait(PATIENCE)
        return "the task's"

    with cast(Any, Pool(1)) as pool:
        with keeping(kept):
            task = pool.submit(work)
        assert began.wait(PATIENCE)
        do(kept[0])
        assert outcome(task) == outcome(kept[0]) == expected
        gate.set()
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert outcome(task) == expected


def twice(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        original(self, fn, *args)
        return original(self, fn, *args)

    return submit


def never(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        return "a ticket"

    return submit


def at_once(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        mine: Standard = concurrent.futures.Future()
        mine.set_result(("at once", fn(*args)))
        return mine

    return submit


def raising(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        original(self, fn, *args)
        raise LookupError("after it")

    return submit


def another(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        return original(self, lambda: ("another", *args))

    return submit


def nothing_to_call(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        return original(self, cast(Any, None), *args)

    return submit


def a_coroutine(original: Wrapper) -> Wrapper:
    async def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(original(self, fn, *args))

    return submit


def in_another_thread(original: Wrapper) -> Wrapper:
    def submit(self: Pool, fn: Callable[..., Any], *args: Any) -> Any:
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(original(self, fn, *args)))
        thread.start()
        thread.join(PATIENCE)
        return made[0]

    return submit


def result_of(returned: Any) -> object:
    """Return what comes of what a submit returned, of whatever kind that is."""
    if asyncio.iscoroutine(returned):

        async def main() -> Any:
            return await returned

        return asyncio.run(main())
    return outcome(returned) if isinstance(returned, concurrent.futures.Future) else returned


@pytest.mark.parametrize(
    ("make", "expected", "calls"),
    [
        (twice, 1, 2),
        (never, "a ticket", 0),
        (at_once, ("at once", 1), 1),
        (raising, LookupError, 1),
        (another, ("another", -1), 0),
        (nothing_to_call, TypeError, 0),
        (a_coroutine, 1, 1),
        (in_another_thread, 1, 1),
    ],
)
@pytest.mark.parametrize("kind", [ThreadPoolExecutor, Pool])
def test_whatever_a_replacement_makes_of_a_call_is_as_in_the_standard_library(
    kind: type[ThreadPoolExecutor], make: Callable[[Wrapper], Wrapper], expected: object, calls: int
) -> None:
    made: list[int] = []

    def call(number: int) -> int:
        made.append(number)
        return abs(number)

    with kind(1) as pool, Patch(make):
        try:
            result = result_of(pool.submit(call, -1))
        except LookupError as error:
            result = type(error)
        pool.shutdown()
    assert result == expected
    assert len(made) == calls


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, Pool])
def test_what_others_make_of_what_no_future_is_is_as_in_the_standard_library(kind: type[ThreadPoolExecutor]) -> None:
    with kind(1) as pool, Patch(never):
        with pytest.raises(AttributeError):
            next(pool.map(abs, [-1]))

        async def main() -> None:
            with pytest.raises(AssertionError):
                await asyncio.get_running_loop().run_in_executor(pool, abs, -1)

        asyncio.run(main())


def test_a_group_whose_submit_returns_what_is_no_future_waits_for_the_others_all_the_same(pool: Any) -> None:
    tasks: list[Future[Any]] = []
    began = threading.Event()

    def work() -> None:
        began.set()
        while not treadle.should_stop():
            treadle.sleep(PATIENCE)

    def block() -> None:
        with TaskGroup(pool) as group:
            tasks.append(group.submit(work))
            assert began.wait(PATIENCE)
            with Patch(never):
                group.submit(abs, -1)

    with pytest.raises(BaseExceptionGroup) as caught:
        block()
    assert tasks[0].done()
    assert isinstance(caught.value.exceptions[0], AttributeError)


def test_what_the_method_itself_is_called_with_fails_where_it_is_asked_for(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    future = ThreadPoolExecutor.submit(pool, int, "x")
    assert isinstance(future.exception(PATIENCE), ValueError)
    pool.shutdown()
    gc.collect()
    assert not caplog.records
    with pytest.raises(RuntimeError, match="after shutdown"):
        ThreadPoolExecutor.submit(pool, abs, -1)


def test_a_failure_that_nobody_asks_for_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool, marking("a"), caplog.at_level(logging.ERROR, "treadle"):
        pool.submit(int, "x")
        pool.shutdown()
        gc.collect()
    assert [record.args for record in caplog.records] == [("int",)]


def test_a_failure_makes_no_cycle(pool: Any) -> None:
    class Marker(Exception):
        """Is to go when nobody has it any more."""

    def fail() -> None:
        raise Marker

    gc.collect()
    gc.disable()
    try:
        with marking("a"):
            assert isinstance(pool.submit(fail).exception(PATIENCE), Marker)
        pool.shutdown()
        assert not [thing for thing in gc.get_objects() if issubclass(type(thing), Marker)]
    finally:
        gc.enable()


# -- in the midst of it -------------------------------------------------------------------------------------------


def test_a_signal_handler_may_submit_in_the_midst_of_the_standard_submit(pool: Any) -> None:
    """Which holds a lock that is not re-entrant: it passes by what it cannot pass through."""
    inside: list[Future[Any]] = []

    def interrupt() -> None:
        if not inside:
            inside.append(pool.submit(abs, -2))

    with marking("a"):
        vars(pool)["_adjust_thread_count"] = interrupt  # the standard library calls it with its locks held
        task = pool.submit(abs, -1)
        assert task.result(PATIENCE) == ("a", 1)
        assert inside[0].result(PATIENCE) == 2
        assert pool.submit(abs, -3).result(PATIENCE) == ("a", 3)


def test_ctrl_c_in_the_midst_of_it_leaves_no_trace(pool: Any) -> None:
    def interrupt() -> None:
        del vars(pool)["_adjust_thread_count"]
        pool._shutdown_lock.acquire()  # as if its block had been begun, and could not be left
        raise KeyboardInterrupt

    with marking("a"):
        vars(pool)["_adjust_thread_count"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            pool.submit(abs, -1)
        vars(pool)["_adjust_thread_count"] = lambda: None
        assert pool.submit(abs, -2).result(PATIENCE) == ("a", 2)
    pool.shutdown()
    assert pool.snapshot().submitted == 1


def test_a_subclass_that_starts_threads_of_its_own_starts_none() -> None:
    class Daemons(Pool):
        """As those that were written to have daemon threads, which a pool's are."""

        def _adjust_thread_count(self) -> None:
            raise AssertionError("it is never called")

    with cast(Any, Daemons(1)) as pool, marking("a"):
        assert pool.submit(abs, -1).result(PATIENCE) == ("a", 1)


def test_a_subclass_that_spells_out_the_standard_submit_works() -> None:
    class Copied(Pool):
        """Has what was copied from an older standard library."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            with self._shutdown_lock:
                if self._shutdown:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                future: Standard = concurrent.futures.Future()
                item = mock.Mock(
                    spec=["future", "fn", "args", "kwargs"], future=future, fn=fn, args=args, kwargs=kwargs
                )
                self._work_queue.put(item)
                self._adjust_thread_count()
                return future

    with Copied(1) as pool:
        assert pool.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(RuntimeError, match="cannot schedule"):
        pool.submit(abs, -1)


def test_the_lock_of_nobody_cannot_be_let_go(pool: Any) -> None:
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        pool._shutdown_lock.release()


def test_tasks_may_submit_until_python_has_run_what_was_accepted() -> None:
    """The standard library's `submit` takes nothing any more, before that."""
    source = """
import threading
from concurrent.futures import ThreadPoolExecutor, thread
from treadle import Pool
original = ThreadPoolExecutor.submit
ThreadPoolExecutor.submit = lambda self, fn, *args: original(self, fn, *args)
pool = Pool(1)
def late():
    while not thread._shutdown:
        threading.main_thread().join(0.001)
    print(pool.submit(abs, -1).result(30))
threading.Thread(target=late).start()
"""
    with Program((sys.executable, "-c", source)) as program:
        assert program.wait() == 0
        assert program.output == "1\n"


@pytest.mark.usefixtures("other_code")
def test_code_that_others_put_into_the_method_has_its_say_where_contexts_are_not_copied() -> None:
    """Where they are, they have what ddtrace puts into them."""
    for context, expected in ((False, ("mark", 1)), (True, 1)):
        with Pool(1, context=context) as pool:
            results: list[Any] = [
                pool.submit(abs, -1).result(PATIENCE),
                pool.options(name="named").submit(abs, -1).result(PATIENCE),
                *pool.map(abs, [-1], timeout=PATIENCE),
                asyncio.run(asyncio.wait_for(pool.run(abs, -1), PATIENCE)),
            ]
        assert results == [expected] * 4


def test_code_that_others_put_into_the_method_before_treadle_was_imported_has_its_say() -> None:
    done = script("""
        from concurrent.futures import ThreadPoolExecutor, thread
        from types import FunctionType
        standard = ThreadPoolExecutor.submit
        thread._original = FunctionType(standard.__code__, standard.__globals__)
        def submit(self, fn, /, *args, **kwargs):
            print("theirs")
            return globals()["_original"](self, fn, *args, **kwargs)
        thread.print = print
        standard.__code__ = submit.__code__
        from treadle import Pool
        with Pool(1, context=False) as pool:
            print(pool.submit(abs, -1).result(30))
    """)
    assert (done.stdout.splitlines(), done.stderr) == (["theirs", "1"], "")

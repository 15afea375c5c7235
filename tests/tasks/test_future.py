"""Futures: states, outcomes, who is told, and what they forget."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from functools import partial
from typing import Any

import pytest

import treadle
from treadle import Future, Pool
from treadle._tasks import future as future_module
from treadle._tasks.waiters import Waiters
from treadle.errors import DeadlineExceeded, Shed


class FalsyError(Exception):
    """An exception that is false, and empty."""

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0


class Held:
    """A pool of one thread that is busy until it is let go, and a task that waits behind."""

    def __init__(self) -> None:
        self.pool, self.gate, began = Pool(1), threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(30)

        self.running = self.pool.submit(hold)
        assert began.wait(30)
        self.waiting = self.pool.submit(abs, -3)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.gate.set()
    made.pool.shutdown()


@pytest.mark.parametrize("deed", ["cancel", "request_cancel", "set_result", "add_done_callback"])
def test_a_callback_is_called_once_whatever_a_signal_handler_does_as_it_is_added(
    deed: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def made() -> Waiters:
        monkeypatch.undo()
        if deed == "add_done_callback":
            held.waiting.add_done_callback(lambda _: calls.append("the handler's"))
        else:
            getattr(held.waiting, deed)(*([-1] if deed == "set_result" else []))
        return Waiters()

    monkeypatch.setattr(future_module, "Waiters", made)
    held.waiting.add_done_callback(lambda _: calls.append("ours"))
    held.gate.set()
    held.pool.shutdown()
    assert sorted(calls) == (["ours", "the handler's"] if deed == "add_done_callback" else ["ours"])


@pytest.mark.parametrize("made", ["ColdFields", "Condition", "Scope"])
def test_what_few_futures_have_is_made_once_if_a_signal_handler_is_faster(
    made: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, future = getattr(future_module, made), held.waiting
    look: dict[str, Callable[[], object]] = {
        "ColdFields": future._get_cold,
        "Condition": future._get_condition,
        "Scope": future._own_scope,
    }
    first: list[object] = []

    def meanwhile(*arguments: object) -> object:
        monkeypatch.undo()
        first.append(look[made]())
        return make(*arguments)

    monkeypatch.setattr(future_module, made, meanwhile)
    assert look[made]() is first[0]


def test_a_future_is_one_of_the_standard_librarys_and_lighter() -> None:
    assert issubclass(Future, concurrent.futures.Future)
    with Pool(1) as pool:
        assert isinstance(pool.submit(int), Future)


def test_the_states_of_a_task(held: Held) -> None:
    assert (held.running.running(), held.running.done(), held.running.cancelled()) == (True, False, False)
    assert (held.waiting.running(), held.waiting.done(), held.waiting.cancelled()) == (False, False, False)
    assert not held.running.cancel()
    held.gate.set()
    assert held.waiting.result(30) == 3
    assert (held.waiting.running(), held.waiting.done(), held.waiting.cancelled()) == (False, True, False)
    assert not held.waiting.cancel()


def test_a_cancelled_task_is_never_run_and_says_so_to_all(held: Held) -> None:
    told: list[Any] = []
    held.waiting.add_done_callback(told.append)
    assert held.waiting.cancel()
    assert held.waiting.cancel()
    assert told == [held.waiting]
    with pytest.raises(CancelledError):
        held.waiting.result()
    with pytest.raises(CancelledError):
        held.waiting.exception()
    assert concurrent.futures.wait([held.waiting], 30).done == {held.waiting}


@pytest.mark.parametrize("waiters", [1, 5])
def test_everybody_who_waits_is_woken(held: Held, waiters: int) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(held.waiting.result(30))) for _ in range(waiters)]
    threads.append(threading.Thread(target=lambda: concurrent.futures.wait([held.waiting], 30)))
    threads.append(threading.Thread(target=list, args=(concurrent.futures.as_completed([held.waiting], 30),)))
    for thread in threads:
        thread.start()
    held.gate.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert results == [3] * waiters


def test_a_wait_that_times_out_leaves_nothing_behind(held: Held) -> None:
    for _ in range(100):
        with pytest.raises(concurrent.futures.TimeoutError):
            held.waiting.result(0.0001)
    assert held.waiting._get_waiters().latches == []


def test_a_falsy_exception_is_raised(held: Held) -> None:
    def fail() -> None:
        raise FalsyError

    future = held.pool.submit(fail)
    held.gate.set()
    with pytest.raises(FalsyError):
        future.result(30)
    assert isinstance(future.exception(), FalsyError)
    assert concurrent.futures.wait([future], return_when="FIRST_EXCEPTION").done == {future}


def test_one_snapshot_tells_all_at_once(held: Held) -> None:
    assert held.running._get_snapshot() == (False, False, None, None)
    held.waiting.cancel()
    assert held.waiting._get_snapshot() == (True, True, None, None)
    error = held.pool.submit(int, "x")
    held.gate.set()
    assert error._get_snapshot() in ((False, False, None, None), (True, False, None, error.exception(30)))
    assert error._get_snapshot() == (True, False, None, error.exception())
    assert held.pool.submit(abs, -1).result(30) == 1


def test_a_future_made_by_hand_keeps_the_standard_two_steps() -> None:
    future: Future[int] = Future()
    assert future.cancel()
    assert future._state == "CANCELLED"
    assert not future.set_running_or_notify_cancel()
    assert future._state == "CANCELLED_AND_NOTIFIED"
    other: Future[int] = Future()
    assert other.set_running_or_notify_cancel()
    other.set_result(1)
    with pytest.raises(InvalidStateError):
        other.set_exception(ValueError())
    assert other.result() == 1


@pytest.mark.parametrize("kind", [Future, concurrent.futures.Future])
@pytest.mark.parametrize("state", ["RUNNING", "FINISHED", "CANCELLED_AND_NOTIFIED"])
def test_a_future_begins_once_as_in_the_standard_library(
    kind: type[concurrent.futures.Future[int]], state: str, caplog: pytest.LogCaptureFixture
) -> None:
    future = kind()
    if state == "CANCELLED_AND_NOTIFIED":
        assert future.cancel()
    future.set_running_or_notify_cancel()
    if state == "FINISHED":
        future.set_result(1)
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        future.set_running_or_notify_cancel()
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("concurrent.futures", "CRITICAL", f"Future {id(future)} in unexpected state: {state}")]


def test_the_log_that_a_future_began_twice_may_ask_it_anything() -> None:
    """No lock is held while it is written."""
    seen: list[bool] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other = threading.Thread(target=lambda: future.add_done_callback(lambda _: None))
            other.start()
            other.join(30)
            seen.append(other.is_alive())

    future: Future[int] = Future()
    future.set_running_or_notify_cancel()
    handler, log = Asking(), logging.getLogger("concurrent.futures")
    log.addHandler(handler)
    try:
        with pytest.raises(RuntimeError):
            future.set_running_or_notify_cancel()
    finally:
        log.removeHandler(handler)
    assert seen == [False]


@pytest.mark.parametrize("made", ["by hand", "in a pool"])
def test_callbacks_that_are_still_to_be_called_can_be_looked_at_and_changed(held: Held, made: str) -> None:
    """Others count them, take one out again, or put theirs first."""
    called: list[str] = []
    future: Any = held.waiting if made == "in a pool" else Future()
    assert future._done_callbacks == []
    first, second, third = (lambda _, name=name: called.append(name) for name in ("first", "second", "third"))
    for callback in (first, second):
        future.add_done_callback(callback)
    assert future._done_callbacks == [first, second]
    future._done_callbacks.remove(first)
    future._done_callbacks.insert(0, third)
    if made == "in a pool":
        held.gate.set()
        held.pool.shutdown()
    else:
        future.set_result(1)
    assert called == ["third", "second"]
    assert future._done_callbacks == []
    future._done_callbacks = True  # some mark a future so that they have seen
    assert future._done_callbacks is True


def test_callbacks_can_be_replaced_as_a_whole(held: Held) -> None:
    called: list[Any] = []
    waiting: Any = held.waiting
    waiting.add_done_callback(called.append)
    waiting._done_callbacks = []
    assert waiting.cancel()
    assert called == []


@pytest.mark.parametrize("timeout", [-1, -0.001, 0])
def test_a_negative_timeout_means_that_no_time_is_left(held: Held, timeout: float) -> None:
    by_hand: Future[int] = Future()
    for future in (held.waiting, by_hand):
        for ask in (future.result, future.exception):
            with pytest.raises(TimeoutError):
                ask(timeout)
            with treadle.deadline(30), pytest.raises(TimeoutError):
                ask(timeout)
    by_hand.set_result(1)
    assert by_hand.result(timeout) == 1


def test_callbacks_run_once_in_order_whatever_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def failing(future: Future[int]) -> None:
        calls.append("failing")
        raise ValueError("in a callback")

    future: Future[int] = Future()
    future.add_done_callback(failing)
    future.add_done_callback(lambda _: calls.append("next"))
    with caplog.at_level(logging.ERROR):
        future.set_result(1)
    future.add_done_callback(lambda _: calls.append("late"))
    assert calls == ["failing", "next", "late"]
    assert "in a callback" in caplog.text


def test_cancel_and_run_have_exactly_one_outcome() -> None:
    """Cancelling races with the claim of a worker, over and over."""
    with Pool(2) as pool:
        for _ in range(300):
            ran: list[int] = []
            futures = [pool.submit(ran.append, n) for n in range(20)]
            cancelled = [n for n, future in enumerate(futures) if future.cancel()]
            concurrent.futures.wait(futures, 30)
            assert sorted(ran + cancelled) == list(range(20))


def test_an_exception_nobody_asks_for_is_logged_once_with_the_name(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        pool.options(name="doomed").submit(int, "x")
        pool.submit(int).result(30)
    gc.collect()
    (record,) = caplog.records
    assert "task doomed failed" in record.getMessage()


@pytest.mark.parametrize("ask", ["result", "exception", "wrap_future"])
def test_an_exception_that_is_asked_for_is_not_logged(caplog: pytest.LogCaptureFixture, ask: str) -> None:
    with Pool(1) as pool:
        future = pool.submit(int, "x")
        if ask == "exception":
            assert future.exception(30) is not None
        elif ask == "result":
            with pytest.raises(ValueError, match="'x'"):
                future.result(30)
        else:

            async def main(held: Future[int]) -> None:
                with pytest.raises(ValueError, match="'x'"):
                    await asyncio.wrap_future(held)

            asyncio.run(main(future))
        del future
        pool.submit(int).result(30)
    gc.collect()
    assert not caplog.records


def test_raising_makes_no_cycle() -> None:
    """What an exception holds is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        with Pool(1) as pool:
            future = pool.submit(int, "x")
            with pytest.raises(ValueError, match="'x'") as caught:
                future.result(30)
            error = caught.value
            error.__traceback__ = None
            del caught
            pool.submit(int).result(30)
            count = sys.getrefcount(future)
            assert count <= 2
    finally:
        gc.enable()


def test_reprs_tell_the_state(held: Held) -> None:
    assert "state=running" in repr(held.running)
    assert "state=pending" in repr(held.waiting)
    held.waiting.cancel()
    assert "state=cancelled" in repr(held.waiting)
    failed, done = held.pool.submit(int, "x"), held.pool.submit(int)
    held.gate.set()
    assert failed.exception(30) is not None
    assert done.result(30) == 0
    assert "state=finished raised ValueError" in repr(failed)
    assert "state=finished returned int" in repr(done)


def test_reprs_tell_what_runs_by_the_name_of_the_public_class(held: Held) -> None:
    class Mine(Future[int]):
        pass

    with treadle.deadline(60):
        bounded = held.pool.submit(abs, 1)
    for future, begins in (
        (held.waiting, "<Future of abs at 0x"),
        (bounded, "<Future of abs at 0x"),
        (held.pool.options(name="page 7").submit(abs, 1), "<Future of page 7 at 0x"),
        (Future[int](), "<Future at 0x"),
        (Mine(), "<Mine at 0x"),
    ):
        assert repr(future).startswith(begins)


def test_a_task_is_called_by_its_given_name_or_its_function(held: Held) -> None:
    assert held.waiting.name == "abs"
    assert held.pool.options(name="page 7").submit(abs, 1).name == "page 7"
    assert Future().name == "future"


def runs(pool: Pool, fn: Any) -> Future[Any]:
    future = pool.submit(fn)
    future.exception(30)
    return future


def fails(pool: Pool, fn: Any) -> Future[Any]:
    return runs(pool, partial(fn, "unwanted"))


def runs_under_a_deadline(pool: Pool, fn: Any) -> Future[Any]:
    with treadle.deadline(30):
        return runs(pool, fn)


def runs_inside_another_task(pool: Pool, fn: Any) -> Future[Any]:
    return pool.submit(runs, pool, fn).result(30)


def waits(pool: Pool, fn: Any, end: Callable[[Future[Any]], object]) -> Future[Any]:
    """Submit to a busy pool, and end the task before it begins."""
    gate = threading.Event()
    busy = pool.submit(gate.wait, 30)
    future = pool.submit(fn)
    try:
        end(future)
        return future
    finally:
        gate.set()
        busy.exception(30)


def is_cancelled(pool: Pool, fn: Any) -> Future[Any]:
    return waits(pool, fn, lambda future: future.cancel())


def is_settled_by_hand(pool: Pool, fn: Any) -> Future[Any]:
    return waits(pool, fn, lambda future: future.set_result(1))


def is_begun_by_hand(pool: Pool, fn: Any) -> Future[Any]:
    return waits(pool, fn, lambda future: future.set_running_or_notify_cancel())


def is_dropped_at_a_shutdown(pool: Pool, fn: Any) -> Future[Any]:
    return waits(pool, fn, lambda future: pool.shutdown(wait=False, cancel_futures=True))


def is_discarded(pool: Pool, fn: Any) -> Future[Any]:
    view = pool.options(when_full="discard_oldest")
    return waits(pool, fn, lambda future: [view.submit(int) for _ in range(10)])


def is_late(pool: Pool, fn: Any) -> Future[Any]:
    gate = threading.Event()
    busy = pool.submit(gate.wait, 30)
    with treadle.deadline(0.5):
        future = pool.submit(fn)
    assert isinstance(future.exception(30), DeadlineExceeded)
    gate.set()
    busy.exception(30)
    return future


class Callable_:
    def __call__(self, *_: object) -> None: ...

    def method(self, *_: object) -> None: ...


class Set(set[object]):
    """One that can be referred to weakly."""


def make_function() -> Any:
    def function(*_: object) -> None: ...

    return function


CALLED: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (make_function, "make_function.<locals>.function"),
    "method": (lambda: Callable_().method, "Callable_.method"),
    "object": (Callable_, "Callable_"),
    "partial": (lambda: partial(Callable_()), "Callable_"),
    "builtin": (lambda: Set().copy, "Set.copy"),
}
WAYS = [
    runs,
    fails,
    runs_under_a_deadline,
    runs_inside_another_task,
    is_cancelled,
    is_settled_by_hand,
    is_begun_by_hand,
    is_dropped_at_a_shutdown,
    is_discarded,
    is_late,
]


@pytest.mark.parametrize(("make", "name"), CALLED.values(), ids=CALLED)
@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_is_done_keeps_its_name_and_nothing_of_its_function(
    way: Callable[[Pool, Any], Future[Any]], make: Callable[[], Any], name: str
) -> None:
    fn = make()
    gone = weakref.ref(getattr(fn, "__self__", fn))
    with Pool(1, queue_size=5) as pool:
        future = way(pool, fn)
        assert future.name == name
        del fn
    gc.collect()
    assert gone() is None
    assert future.name == name


def test_a_task_that_is_done_keeps_the_name_it_was_given(held: Held) -> None:
    named = held.pool.options(name="page 7").submit(abs, 1)
    held.gate.set()
    assert named.result(30) == 1
    assert named.name == "page 7"


def test_a_name_is_kept_that_its_function_tells_only_when_it_is_asked() -> None:
    class Proxy:
        def __call__(self) -> None: ...

        def __getattr__(self, name: str) -> str:
            if name != "__qualname__":
                raise AttributeError(name)
            return "what it stands for"

    with Pool(1) as pool:
        future = pool.submit(Proxy())
        assert future.result(30) is None
        assert future.name == "what it stands for"


def test_a_long_name_is_cut() -> None:
    def function() -> None: ...

    function.__qualname__ = "x" * 1000
    with Pool(1) as pool:
        future = pool.submit(function)
        assert future.result(30) is None
        assert len(future.name) < 300


def test_a_task_that_its_deadline_has_failed_is_not_cancelled_by_whoever_gives_it_up_just_then() -> None:
    """The pool has claimed it to make room, and the timers' thread was faster."""
    future: Future[int] = Future()
    calls: list[object] = []
    future.add_done_callback(calls.append)
    assert future.set_running_or_notify_cancel()
    future.set_exception(DeadlineExceeded(1.0))
    future._abandon(Shed("pool", "task", 1.0, "too_old"))
    assert not future.cancelled()
    assert isinstance(future.exception(0), DeadlineExceeded)
    assert calls == [future]


class Kept(Exception):
    """An exception that leaves a weak reference to itself in a list."""

    def __init__(self, kept: list[weakref.ref[Kept]]) -> None:
        super().__init__()
        kept.append(weakref.ref(self))


def test_a_future_and_its_exception_make_no_cycle() -> None:
    """The traceback holds every frame, and none of them the future."""

    def fail() -> None:
        raise Kept(kept)

    kept: list[weakref.ref[Kept]] = []
    gc.collect()
    gc.disable()
    try:
        with Pool(1) as pool:
            future = pool.submit(fail)
            assert isinstance(future.exception(30), Kept)
            del future
            pool.submit(int).result(30)
        # Without the GIL an object that another thread lets go of last is freed when its maker comes by.
        assert kept[0]() is None or not getattr(sys, "_is_gil_enabled", lambda: True)()
    finally:
        gc.enable()

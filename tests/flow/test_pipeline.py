"""treadle._flow.pipeline: order, bounds, errors and endings."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import queue
import signal
import sys
import textwrap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from clocks import FakeClock
from programs import run
from treadle._flow.pipeline import Pipeline, _InOrder
from treadle.errors import ChannelClosed, DeadlineExceeded

PATIENCE = 20.0  # seconds for what must happen

main_thread_only = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread"
)
both_orders = pytest.mark.parametrize("ordered", [True, False])


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


def threads_of_pipelines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pipeline-")]


def double(item: int) -> int:
    return 2 * item


def increment(item: int) -> int:
    return item + 1


class Gauge:
    """How many are inside at once, now and at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.high_water = 0

    def __enter__(self) -> Gauge:
        with self.lock:
            self.inside += 1
            self.high_water = max(self.high_water, self.inside)
        return self

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1


@contextmanager
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Give a function that presses Ctrl-C, from any thread, until the main thread has felt it.

    A signal between the main thread's last look for signals and its falling asleep is not seen until it wakes, whatever
    it sleeps on: so one may not be enough.
    """
    felt = threading.Event()

    def handle(number: int, frame: object) -> None:
        if not felt.is_set():
            felt.set()
            raise KeyboardInterrupt

    def press() -> None:
        deadline = monotonic() + PATIENCE
        while not felt.is_set():
            assert monotonic() < deadline, "the main thread did not feel Ctrl-C"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            felt.wait(0.01)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield press
    finally:
        signal.signal(signal.SIGINT, previous)


# -- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 7}, TypeError, "function=7 is int; function must be a callable"),
        ({"function": asyncio.sleep}, TypeError, "is a coroutine function; function must be an ordinary one"),
        ({"workers": 0}, ValueError, "workers=0: workers must be greater than 0"),
        ({"workers": None}, TypeError, "workers=None is NoneType; allowed: an integer, 1 or more"),
        ({"capacity": 0}, ValueError, "capacity=0: capacity must be greater than 0"),
        ({"capacity": 1.0}, TypeError, "capacity=1.0 is float"),
        ({"name": 7}, TypeError, "name=7 is int; allowed: a string"),
    ],
)
def test_bad_argument_of_a_stage_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Pipeline().stage(**{"function": double, **arguments})
    assert message in str(caught.value)


def test_bad_argument_of_a_run_fails_at_the_call() -> None:
    with pytest.raises(TypeError, match="source=7 is int; allowed: an iterable"):
        Pipeline().stage(double).run(7)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="ordered=1 is int; allowed: True or False"):
        Pipeline().stage(double).run([], ordered=1)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="name=7 is int"):
        Pipeline(name=7)  # type: ignore[arg-type]  # the mistake under test


def test_pipeline_is_a_plan_that_never_changes() -> None:
    doubling = Pipeline(name="mill").stage(double, workers=2, name="double")
    both = doubling.stage(increment, capacity=None)
    for _ in range(2):
        assert list(doubling.run(range(5))) == [0, 2, 4, 6, 8]
        assert list(both.run(range(5))) == [1, 3, 5, 7, 9]
    assert repr(both) == "<Pipeline 'mill': source -> double (workers 2, capacity 16) -> 2 (workers 1, capacity None)>"


# -- results and order ---------------------------------------------------------------------------------------------

stages = st.lists(
    st.tuples(
        st.sampled_from([double, increment, hash, int.bit_length]), st.integers(1, 5), st.none() | st.integers(1, 5)
    ),
    max_size=3,
)


@settings(max_examples=60)
@given(plan=stages, source=st.lists(st.integers(0, 100), max_size=60), ordered=st.booleans())
def test_result_is_that_of_the_functions_one_after_another(
    plan: list[tuple[Callable[[Any], Any], int, int | None]], source: list[int], ordered: bool
) -> None:
    pipeline, expected = Pipeline(), list(source)
    for function, workers, capacity in plan:
        pipeline = pipeline.stage(function, workers=workers, capacity=capacity)
        expected = [function(item) for item in expected]
    results = list(pipeline.run(source, ordered=ordered))
    if ordered:
        assert results == expected
    else:
        assert sorted(results) == sorted(expected)


def test_none_is_an_item() -> None:
    results: list[object] = list(Pipeline().stage(lambda item: None).stage(lambda item: (item,)).run([None, 1]))
    assert results == [(None,), (None,)]


@both_orders
def test_run_that_waits_keeps_nothing_of_the_items_that_passed(ordered: bool) -> None:
    class Item:
        pass

    gate = threading.Event()
    traces: list[weakref.ref[Item]] = []

    def source() -> Iterator[Item]:
        item = Item()
        traces.append(weakref.ref(item))
        yield item
        del item
        assert gate.wait(PATIENCE)
        yield Item()

    results = Pipeline().stage(lambda item: item, workers=2).stage(lambda item: item).run(source(), ordered=ordered)
    assert isinstance(next(results), Item)
    consumer = threading.Thread(target=list, args=(results,), daemon=True)
    consumer.start()
    until(lambda: gc.collect() >= 0 and traces[0]() is None)
    gate.set()
    consumer.join(PATIENCE)
    assert not consumer.is_alive()


def test_entry_that_was_early_wakes_one_more_thread_when_its_turn_comes() -> None:
    """Two threads wait for number 0. Number 1 comes first, and wakes nobody; so whoever takes 0 must wake the other."""
    channel, got = _InOrder(5), queue.SimpleQueue[tuple[int, Any]]()
    takers = [threading.Thread(target=lambda: got.put(next(channel)), daemon=True) for _ in range(2)]
    for taker in takers:
        taker.start()
    until(lambda: len(channel._came._waiters) == 2)  # type: ignore[attr-defined]  # of the Condition
    channel.put((1, "late"))
    channel.put((0, "early"))
    assert sorted(got.get(timeout=PATIENCE) for _ in takers) == [(0, "early"), (1, "late")]
    for taker in takers:
        taker.join(PATIENCE)


@both_orders
def test_stage_works_on_width_items_at_once_and_on_no_more(ordered: bool) -> None:
    together, gauges = threading.Barrier(4), (Gauge(), Gauge())

    def first(item: int) -> int:
        with gauges[0]:
            if item < 4:
                together.wait(PATIENCE)  # breaks unless all four are here at once
            return item

    def second(item: int) -> int:
        with gauges[1]:
            return item

    results = list(Pipeline().stage(first, workers=4).stage(second, workers=2).run(range(300), ordered=ordered))
    assert sorted(results) == list(range(300))
    assert gauges[0].high_water == 4
    assert gauges[1].high_water <= 2


def test_every_stage_of_an_ordered_run_gets_the_order_of_the_source() -> None:
    """Such as a last stage of one thread that writes a file."""
    turn = threading.Condition()
    begun: set[int] = set()
    seen: list[int] = []

    def swap_neighbours(item: int) -> int:
        """Return from 1 before 0, from 3 before 2, and so on."""
        with turn:
            begun.add(item)
            turn.notify_all()
            if item % 2 == 0:
                assert turn.wait_for(lambda: item + 1 in begun, PATIENCE)
        return item

    pipeline = Pipeline().stage(swap_neighbours, workers=2, capacity=2).stage(seen.append)
    assert list(pipeline.run(range(100))) == [None] * 100
    assert seen == list(range(100))


def test_reorder_window_behind_a_slow_item_is_full_but_bounded() -> None:
    """While item 0 is slow, `capacity` numbers have room, 0 among them; one thread more has a result in hand."""
    begun, lock, enough = [], threading.Lock(), threading.Event()

    def slow_first(item: int) -> int:
        with lock:
            begun.append(item)
        if item == 0:
            assert enough.wait(PATIENCE), "the window is smaller than promised"
            with lock:
                assert sorted(begun) == [0, 1, 2, 3, 4], "the window is larger than promised"
        elif item == 4:
            enough.set()
        return item

    assert list(Pipeline().stage(slow_first, workers=2, capacity=4).run(range(50))) == list(range(50))


def test_unordered_results_do_not_wait_for_a_slow_item() -> None:
    others_came = threading.Event()

    def slow_first(item: int) -> int:
        assert item > 0 or others_came.wait(PATIENCE)
        return item

    results = []
    for result in Pipeline().stage(slow_first, workers=2, capacity=3).run(range(100), ordered=False):
        results.append(result)
        if len(results) == 99:
            others_came.set()
    assert results[-1] == 0
    assert sorted(results) == list(range(100))


def test_functions_run_in_copies_of_the_context_of_the_run() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")

    def read_and_spoil(item: int) -> str:
        value = variable.get()
        variable.set(f"left by {item}")
        return value

    def source() -> Iterator[str]:
        yield variable.get()
        yield variable.get()

    variable.set("the caller's")
    results: Iterator[Any] = Pipeline().stage(lambda item: (item, read_and_spoil(item))).run(source())
    variable.set("changed later")
    assert list(results) == [("the caller's", "the caller's")] * 2


# -- the source ----------------------------------------------------------------------------------------------------


class Source:
    """An endless source that tells how far it was read, how far ahead of `taken` at most, and by whom."""

    def __init__(self) -> None:
        self.read = self.taken = self.furthest = 0
        self.readers: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.readers.add(threading.current_thread().name)
            self.furthest = max(self.furthest, self.read + 1 - self.taken)
            self.read += 1
            yield self.read - 1


@both_orders
@pytest.mark.parametrize("plan", [[(1, 1)], [(3, 2)], [(2, 5), (1, 1)], [(4, 1), (2, 3), (1, 2)]])
def test_source_is_read_lazily_exactly_as_far_as_the_bounds_allow(ordered: bool, plan: list[tuple[int, int]]) -> None:
    source = Source()
    pipeline: Any = Pipeline()
    for workers, capacity in plan:
        pipeline = pipeline.stage(increment, workers=workers, capacity=capacity)
    results = pipeline.run(source, ordered=ordered)
    assert source.read == 0, "nothing is read before the first next"
    ahead = 2 + sum(workers + capacity for workers, capacity in plan)
    for step in range(1, 60):
        source.taken = step  # before it is: so the mark can only be too low by what this step lets in
        next(results)
        until(lambda step=step: source.read >= step + ahead)  # type: ignore[misc]  # a default, not an argument
    assert source.furthest == ahead
    results.close()
    assert source.readers == {"pipeline-source-0"}, "the source is read in one thread"


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    source = Source()
    results = Pipeline().stage(double).run(source)
    assert not threads_of_pipelines()
    results.close()
    assert source.read == 0


# -- errors --------------------------------------------------------------------------------------------------------


@both_orders
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, ChannelClosed, KeyboardInterrupt])
def test_error_of_a_stage_or_the_source_stops_all_and_is_raised_once(
    ordered: bool, failing: int, kind: type[BaseException]
) -> None:
    """ChannelClosed too: it could be taken for the end of a channel of the pipeline's own."""
    source, error = Source(), kind("mine")

    def failing_at(place: int) -> Callable[[int], int]:
        def function(item: int) -> int:
            if place == failing and item == 30:
                raise error
            return item

        return function

    items = map(failing_at(0), source)
    pipeline = Pipeline().stage(failing_at(1), workers=3, capacity=2).stage(failing_at(2), workers=2, capacity=2)
    results = pipeline.run(items, ordered=ordered)
    taken: deque[int] = deque()  # which keeps what came before an error, as a list does not
    with pytest.raises(kind) as caught:
        taken.extend(results)
    assert caught.value is error
    assert list(results) == [], "it is raised once"
    assert len(set(taken)) == len(taken)
    assert 30 not in taken
    if ordered:
        assert list(taken) == list(range(len(taken)))
    until(lambda: not threads_of_pipelines())
    assert source.read <= len(taken) + 2 + (3 + 2) + (2 + 2)


@both_orders
def test_error_is_raised_at_once_whatever_else_blocks(ordered: bool) -> None:
    gate, stuck = threading.Event(), threading.Semaphore(0)

    def source() -> Iterator[int]:
        yield from range(2)
        stuck.release()
        assert gate.wait(PATIENCE)
        yield 2

    def fail_second(item: int) -> int:
        if item == 1:
            assert stuck.acquire(timeout=PATIENCE)
            assert stuck.acquire(timeout=PATIENCE)
            raise ValueError("the second")
        stuck.release()
        assert gate.wait(PATIENCE)
        return item

    with pytest.raises(ValueError, match="the second"):
        next(Pipeline().stage(fail_second, workers=2).run(source(), ordered=ordered))
    assert {thread.name for thread in threads_of_pipelines()} >= {"pipeline-source-0"}
    gate.set()
    until(lambda: not threads_of_pipelines())


def test_errors_after_the_first_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    together, gate = threading.Barrier(2), threading.Event()

    def fail(item: int) -> int:
        together.wait(PATIENCE)
        if item == 1:
            assert gate.wait(PATIENCE)
        raise ValueError(f"number {item}")

    with pytest.raises(ValueError, match="number 0"):
        list(Pipeline(name="pipeline-x").stage(fail, workers=2, name="failing").run(range(9)))
    assert not caplog.records
    gate.set()
    until(lambda: not threads_of_pipelines())
    assert len(caplog.records) == 1
    assert "pipeline 'pipeline-x': failing failed after the run was stopped" in caplog.text
    assert "number 1" in caplog.text


def test_stop_iteration_of_a_stage_is_an_error_and_not_the_end() -> None:
    def stop(item: int) -> int:
        raise StopIteration

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(Pipeline().stage(stop).run(range(3)))


def test_run_whose_threads_cannot_all_be_started_raises_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage without threads would stop all the others for ever."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_three(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    source = Source()
    monkeypatch.setattr(threading.Thread, "start", start_three)
    with pytest.raises(RuntimeError, match="can't start new thread") as caught:  # keeps the run alive, as a caller may
        next(Pipeline().stage(double, workers=2).stage(double).run(source))
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert source.read == 0
    assert caught.value.args


# -- ending early --------------------------------------------------------------------------------------------------


@both_orders
@pytest.mark.parametrize("taken", [1, 7])
def test_closing_early_stops_everything_and_leaves_no_thread(ordered: bool, taken: int) -> None:
    source = Source()
    pipeline = Pipeline().stage(double, workers=3, capacity=2).stage(increment, workers=2, capacity=1)
    results = pipeline.run(source, ordered=ordered)
    for _ in range(taken):
        next(results)
    until(lambda: len(threads_of_pipelines()) == 6)  # those of an earlier test may be on their way out
    results.close()
    assert not threads_of_pipelines()
    read = source.read
    results.close()
    assert list(results) == []
    assert source.read == read


def test_leaving_the_loop_is_closing() -> None:
    for result in Pipeline().stage(double, workers=3).run(itertools.count()):
        if result == 10:
            break
    until(lambda: not threads_of_pipelines())


def test_no_thread_is_left_after_the_last_result() -> None:
    assert sum(Pipeline().stage(double, workers=3).stage(increment, workers=3).run(range(100))) == 10_000
    assert not threads_of_pipelines()


def test_closing_waits_for_the_calls_under_way_and_logs_their_errors(caplog: pytest.LogCaptureFixture) -> None:
    gate, inside = threading.Event(), threading.Event()

    def fail_later(item: int) -> int:
        if item == 1:
            inside.set()
            assert gate.wait(PATIENCE)
            raise ValueError("too late")
        return item

    results = Pipeline().stage(fail_later, name="late").run(range(9))
    assert next(results) == 0
    assert inside.wait(PATIENCE)
    closer = threading.Thread(target=results.close, daemon=True)
    closer.start()
    until(lambda: "pipeline-source-0" not in {thread.name for thread in threads_of_pipelines()})
    assert closer.is_alive()
    gate.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    assert not threads_of_pipelines()
    assert "late failed after the run was stopped" in caplog.text
    assert "too late" in caplog.text


def test_error_that_nobody_took_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    taken = threading.Event()

    def fail_second(item: int) -> int:
        if item == 1:
            assert taken.wait(PATIENCE)
            raise ValueError("not taken")
        return item

    results = Pipeline().stage(fail_second).run(range(9))
    assert next(results) == 0
    taken.set()
    until(lambda: not threads_of_pipelines())
    results.close()
    assert len(caplog.records) == 1
    assert "pipeline 'pipeline': failed, and nobody took the error" in caplog.text
    assert "not taken" in caplog.text


@main_thread_only
def test_ctrl_c_ends_the_wait_for_a_result_and_waits_for_nobody() -> None:
    gate, seen = threading.Event(), []

    def interrupt(item: int) -> int:
        seen.append(item)
        press()
        assert gate.wait(PATIENCE)
        return item

    results = Pipeline().stage(interrupt).run(itertools.count())
    with ctrl_c() as press, pytest.raises(KeyboardInterrupt):
        next(results)
    assert threads_of_pipelines()
    gate.set()
    until(lambda: not threads_of_pipelines())
    assert seen == [0]
    assert list(results) == []


@pytest.mark.parametrize("end", ["", "raise ValueError('main')", "raise KeyboardInterrupt"])
def test_run_that_was_left_does_not_keep_python_from_exiting(end: str) -> None:
    program = """
        import threading
        from treadle._flow.pipeline import Pipeline
        def source():
            yield 1
            yield 2
            threading.Event().wait()  # for ever
        results = Pipeline().stage(str, workers=2, capacity=1).run(source())
        print(next(results), flush=True)
    """
    status, out, err = run(sys.executable, "-c", textwrap.dedent(program) + end)
    assert out == "1\n"
    assert status == {"": 0, "raise ValueError('main')": 1}.get(end, -signal.SIGINT)
    assert "treadle" not in err


def test_calls_under_way_when_a_run_failed_end_before_python_does() -> None:
    program = """
        import os, threading
        from treadle._dispatch import lifecycle
        from treadle._flow.pipeline import Pipeline
        begun = threading.Event()
        def function(item):
            if item:
                begun.wait()
                raise ValueError
            begun.set()
            while not lifecycle.exiting():
                threading.Event().wait(0.001)
            threading.Event().wait(0.3)  # give Python the time to end first, if it does not wait
            os.write(1, b"the call ended")
        try:
            list(Pipeline().stage(function, workers=2).run(range(2)))
        except ValueError:
            os.write(1, b"the run failed, ")
    """
    assert run(sys.executable, "-c", textwrap.dedent(program)) == (0, "the run failed, the call ended", "")


# -- under threads -------------------------------------------------------------------------------------------------


@both_orders
def test_many_runs_end_in_every_way(ordered: bool) -> None:
    """Full, closed at each length, and failed at each item: nothing hangs, and what came is right."""
    for number in range(60):
        source = list(range(number % 20))
        pipeline = Pipeline().stage(double, workers=1 + number % 4, capacity=1 + number % 3).stage(increment, workers=2)
        expected = [2 * item + 1 for item in source]
        results = pipeline.run(source, ordered=ordered)
        assert sorted(results) == expected
        partial = pipeline.run(source, ordered=ordered)
        came = list(itertools.islice(partial, number % 7))
        partial.close()
        assert set(came) <= set(expected)
        failing = Pipeline().stage(double, workers=2, capacity=1).stage(lambda item: 1 // (item - 20), workers=2)
        with pytest.raises(ZeroDivisionError):
            list(failing.run(itertools.count(), ordered=ordered))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_is_bounded_where_it_was_made_and_not_where_it_was_begun(
    ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch)
    results: Iterator[Any] = Pipeline().stage(lambda item: (item, treadle.time_left())).run(range(100), ordered=ordered)
    with treadle.deadline(5):
        assert next(results) == (0, None)
    clock.pass_(10)
    assert list(results) == [(item, None) for item in range(1, 100)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("inside", ["run", "next"])
def test_the_deadline_ends_a_run_that_waits_for_its_source(ordered: bool, inside: str) -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert gate.wait(PATIENCE)

    def made() -> Iterator[int]:
        return iter(Pipeline().stage(double).run(source(), ordered=ordered))

    results = made()
    with treadle.deadline(0.05):
        results = made() if inside == "run" else results
        with pytest.raises(DeadlineExceeded):
            list(results)
    gate.set()
    assert list(results) == [], "it is over"


def test_deadline_error_of_a_stage_names_no_task_of_the_runs_own() -> None:
    """The loop of a stage is a task to nobody: see treadle.current_task."""

    def stage(item: object) -> None:
        with treadle.deadline(0):
            treadle.checkpoint()

    with pytest.raises(DeadlineExceeded) as caught:
        list(Pipeline().stage(stage).run([1]))
    assert str(caught.value) == "the deadline of 0 s has passed; give more time, or do less"

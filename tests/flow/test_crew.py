"""treadle._flow.crew: workers that stay, survive and end when they should."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import signal
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest

import treadle
from clocks import FakeClock
from programs import run
from treadle import Pool
from treadle._base.timer import TIMERS
from treadle._flow.channel import Channel
from treadle._flow.crew import Crew, CrewSnapshot
from treadle.errors import ChannelClosed, ChannelFull

PATIENCE = 20.0  # seconds for what must happen

main_thread_only = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread"
)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


def invert(item: int) -> int:
    return 1 // item


def ignore(item: object) -> None:
    pass


def threads_named(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


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
        ({"handler": 7}, TypeError, "handler=7 is int; handler must be a callable"),
        ({"handler": asyncio.sleep}, TypeError, "is a coroutine function; handler must be an ordinary one"),
        ({"workers": 0}, ValueError, "workers=0: workers must be greater than 0"),
        ({"workers": 1.5}, TypeError, "workers=1.5 is float; allowed: an integer, 1 or more"),
        ({"channel": 0}, ValueError, "channel=0: channel must be greater than 0"),
        ({"channel": "x"}, TypeError, "channel='x' is str; allowed: a Channel, a capacity, or None"),
        ({"channel": True}, TypeError, "channel=True is bool; allowed: a Channel, a capacity, or None"),
        ({"name": 3}, TypeError, "name=3 is int; allowed: a string"),
        ({"on_error": 3}, TypeError, "on_error=3 is int; on_error must be a callable"),
    ],
)
def test_bad_argument_is_named_and_starts_no_thread(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = threading.active_count()
    with pytest.raises(error) as caught:
        Crew(**{"handler": print, "workers": 2, **arguments})
    assert message in str(caught.value)
    assert threading.active_count() == before


def test_crew_has_a_bounded_channel_of_its_own_or_the_one_it_is_given() -> None:
    with Crew(print, 1) as usual, Crew(print, 1, channel=7, name="small") as small:
        assert usual.channel.capacity == 1000
        assert (small.channel.capacity, small.channel.name) == (7, "small")
    given: Channel[object] = Channel(None)
    with Crew(print, 1, channel=given) as crew:
        assert crew.channel is given


def test_empty_channel_that_is_given_is_the_one_that_is_drained() -> None:
    """An empty channel has length 0, and is false."""
    channel: Channel[int] = Channel()
    seen: list[int] = []
    with Crew(seen.append, 1, channel=channel):
        channel.put(1)
    assert seen == [1]


# -- working -------------------------------------------------------------------------------------------------------


def test_leaving_the_block_handles_all_that_was_put() -> None:
    seen: list[int] = []
    with Crew(seen.append, 3, channel=2) as crew:
        for number in range(500):
            crew.put(number)
    assert sorted(seen) == list(range(500))
    assert crew.snapshot() == CrewSnapshot("crew", 0, 0, 0, 500, 0, True)
    assert not threads_named("crew-")


def test_all_workers_work_at_once_and_no_more_than_those() -> None:
    together = threading.Barrier(4)
    lock = threading.Lock()
    inside, high_water, threads = 0, 0, set()

    def handle(item: int) -> None:
        nonlocal inside, high_water
        with lock:
            inside += 1
            high_water = max(high_water, inside)
            threads.add(threading.current_thread().name)
        if item < 4:
            together.wait(PATIENCE)  # breaks unless all four are here at once
        with lock:
            inside -= 1

    with Crew(handle, 4, name="weavers") as crew:
        for number in range(400):
            crew.put(number)
    assert crew.snapshot().failed == 0
    assert high_water == 4
    assert threads == {f"weavers-{number}" for number in range(4)}


def test_one_crew_can_end_while_others_drain_the_same_channel() -> None:
    channel: Channel[int] = Channel(5)
    seen: list[int] = []
    first, second = Crew(seen.append, 2, channel=channel), Crew(seen.append, 2, channel=channel)
    for number in range(100):
        channel.put(number)
    channel.close()
    assert first.join(PATIENCE)
    assert second.join(PATIENCE)
    assert sorted(seen) == list(range(100))
    assert first.snapshot().handled + second.snapshot().handled == 100


def test_snapshot_tells_what_the_crew_does() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def handle(item: int) -> None:
        inside.release()
        assert gate.wait(PATIENCE)

    crew = Crew(handle, 2, channel=5, name="weavers")
    for number in range(6):
        crew.put(number, PATIENCE)
        if number < 2:
            assert inside.acquire(timeout=PATIENCE)
    assert crew.snapshot() == CrewSnapshot("weavers", 2, 2, 4, 0, 0, False)
    assert repr(crew) == "<Crew 'weavers': 2/2 workers busy, 4 waiting, 0 handled, 0 failed>"
    crew.close()
    assert crew.snapshot() == CrewSnapshot("weavers", 2, 2, 4, 0, 0, True)
    gate.set()
    assert crew.join(PATIENCE)
    assert crew.snapshot() == CrewSnapshot("weavers", 0, 0, 0, 6, 0, True)
    assert repr(crew) == "<Crew 'weavers': 0/0 workers busy, 0 waiting, 6 handled, 0 failed, closed>"


def test_full_crew_makes_the_caller_wait() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Crew(handle, 1, channel=1) as crew:
        crew.put(1)
        assert inside.wait(PATIENCE)
        crew.put(2)
        with pytest.raises(ChannelFull, match=r"'crew' is full after waiting 0.01 s for room: capacity=1"):
            crew.put(3, timeout=0.01)
        gate.set()
    assert crew.snapshot().handled == 2


def test_waiting_worker_keeps_nothing_of_its_last_item() -> None:
    class Item:
        pass

    with Crew(ignore, 1) as crew:
        item = Item()
        trace = weakref.ref(item)
        crew.put(item)
        del item
        until(lambda: crew.snapshot().handled == 1 and len(crew.channel._getters) == 1)
        gc.collect()
        assert trace() is None


def test_items_run_in_copies_of_the_makers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
    seen: list[str] = []

    def handle(item: int) -> None:
        seen.append(variable.get())
        variable.set(f"left by {item}")

    variable.set("the maker's")
    with Crew(handle, 1) as crew:
        variable.set("changed later")
        for number in range(3):
            crew.put(number)
    assert seen == ["the maker's"] * 3


# -- surviving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, ChannelClosed])
def test_worker_survives_whatever_a_handler_raises(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def handle(item: int) -> None:
        if item % 2:
            raise kind(f"about {item}")
        seen.append(item)

    with Crew(handle, 1, name="weavers") as crew:
        for number in range(4):
            crew.put(number)
    assert seen == [0, 2]
    now = crew.snapshot()
    assert (now.handled, now.failed) == (2, 2)
    records = [record for record in caplog.records if record.name == "treadle"]
    assert len(records) == 2, "each failure is logged once"
    assert records[0].levelno == logging.ERROR
    assert "crew 'weavers': handler" in records[0].getMessage()
    assert "handle" in records[0].getMessage()
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], kind)
    assert records[0].exc_info[2] is not None


def test_on_error_gets_the_item_and_the_error_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[object, BaseException]] = []
    with Crew(invert, 2, on_error=lambda item, error: told.append((item, error))) as crew:
        crew.put(0)
        crew.put(1)
    assert [(item, type(error)) for item, error in told] == [(0, ZeroDivisionError)]
    assert not caplog.records
    assert crew.snapshot().failed == 1


def test_worker_survives_an_on_error_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(item: int, error: BaseException) -> None:
        raise SystemExit("on_error's own")

    with Crew(invert, 1, on_error=on_error) as crew:
        crew.put(0)
        crew.put(1)
    assert (crew.snapshot().handled, crew.snapshot().failed) == (1, 1)
    assert "on_error failed" in caplog.text
    assert "on_error's own" in caplog.text
    assert "ZeroDivisionError" in caplog.text, "the handler's own error is shown too"


def test_worker_survives_a_log_that_raises() -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise SystemExit("broken filter")

    logger = logging.getLogger("treadle")
    logger.addFilter(broken)
    try:
        with Crew(invert, 1) as crew:
            crew.put(0)
            crew.put(1)
    finally:
        logger.removeFilter(broken)
    assert (crew.snapshot().handled, crew.snapshot().failed) == (1, 1)


# -- never waiting for itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_handler_that_puts_into_its_full_crew_handles_the_item_itself(workers: int) -> None:
    seen: list[int] = []

    def handle(item: int) -> None:
        seen.append(item)
        if item < 64:
            crew.put(2 * item)
            crew.put(2 * item + 1)

    crew = Crew(handle, workers, channel=1)
    crew.put(1)
    until(lambda: len(seen) == 127)
    crew.close()
    assert crew.join(PATIENCE)
    assert sorted(seen) == list(range(1, 128))
    assert (crew.snapshot().handled, crew.snapshot().failed) == (127, 0)


def test_handler_of_another_crew_waits_for_room() -> None:
    gate, inside, seen = threading.Event(), threading.Event(), set()

    def handle_slowly(item: int) -> None:
        seen.add(threading.current_thread().name)
        inside.set()
        assert gate.wait(PATIENCE)

    with Crew(handle_slowly, 1, channel=1, name="slow") as slow:
        slow.put(1)
        assert inside.wait(PATIENCE)
        slow.put(2)
        with Crew(slow.put, 1, name="fast") as fast:
            fast.put(3)
            until(lambda: len(slow.channel._putters) == 1)
            gate.set()
    assert seen == {"slow-0"}


def test_bad_timeout_is_refused_in_a_handler_too() -> None:
    told: list[BaseException] = []

    def handle(item: int) -> None:
        crew.put(2, timeout=-1)

    with Crew(handle, 1, on_error=lambda item, error: told.append(error)) as crew:
        crew.put(1)
        until(lambda: bool(told))
    assert "timeout=-1" in str(told[0])
    assert crew.snapshot().handled == 0


def test_handler_that_joins_its_own_crew_does_not_wait() -> None:
    answers: list[bool] = []

    def join(item: int) -> None:
        answers.append(crew.join(3 * PATIENCE))

    with Crew(join, 1) as crew:
        crew.put(1)
        until(lambda: bool(answers))
    assert answers == [False]


# -- ending --------------------------------------------------------------------------------------------------------


def test_workers_end_when_the_channel_is_closed_and_empty() -> None:
    gate, inside, seen = threading.Event(), threading.Event(), []

    def handle(item: int) -> None:
        inside.set()
        assert gate.wait(PATIENCE)
        seen.append(item)

    crew = Crew(handle, 1, name="weavers")
    for number in range(3):
        crew.put(number)
    assert inside.wait(PATIENCE)
    assert not crew.join(0.01), "not closed"
    crew.close()
    crew.close()
    assert not crew.join(0), "not empty"
    with pytest.raises(ChannelClosed):
        crew.put(4)
    gate.set()
    assert crew.join(PATIENCE)
    assert crew.join()
    assert not threads_named("weavers-")
    assert seen == [0, 1, 2]
    with pytest.raises(ValueError, match="timeout=-1"):
        crew.join(-1)


def test_join_leaves_no_thread() -> None:
    for _ in range(50):  # a thread lives on for an instant after its loop
        crew = Crew(ignore, 4, name="weavers")
        crew.close()
        assert crew.join(PATIENCE)
        assert not threads_named("weavers-")


def test_closing_can_drop_what_waits() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Crew(handle, 1) as crew:
        crew.put(0)
        assert inside.wait(PATIENCE)
        crew.put(1)
        crew.put(2)
        assert crew.close(discard=True) == [1, 2]
        gate.set()
    assert crew.snapshot().handled == 1


def test_error_in_the_block_drains_all_the_same() -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="the block's"), Crew(seen.append, 1) as crew:  # noqa: PT012  # the block is what is tested
        for number in range(50):
            crew.put(number)
        raise ValueError("the block's")
    assert seen == list(range(50))


def test_ctrl_c_in_the_block_drops_what_waits_and_waits_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    gate, inside, seen = threading.Event(), threading.Event(), []

    def handle(item: int) -> None:
        inside.set()
        assert gate.wait(PATIENCE)
        seen.append(item)

    crew = Crew(handle, 1, name="weavers")
    with pytest.raises(KeyboardInterrupt), crew:  # noqa: PT012  # the block is what is tested
        for number in range(3):
            crew.put(number)
        assert inside.wait(PATIENCE)
        raise KeyboardInterrupt
    assert crew.snapshot() == CrewSnapshot("weavers", 1, 1, 0, 0, 0, True)
    assert "crew 'weavers': interrupted; 2 waiting items were dropped" in caplog.text
    gate.set()
    assert crew.join(PATIENCE)
    assert seen == [0]


@main_thread_only
def test_ctrl_c_while_draining_drops_what_waits_and_waits_for_nobody() -> None:
    gate = threading.Event()
    seen: list[int] = []

    def handle(item: int) -> None:
        until(lambda: crew.channel.closed)  # so the block is being left
        press()
        assert gate.wait(PATIENCE)
        seen.append(item)

    crew = Crew(handle, 1)
    with ctrl_c() as press, pytest.raises(KeyboardInterrupt), crew:  # noqa: PT012  # the block is what is tested
        for number in range(3):
            crew.put(number)
    assert (crew.snapshot().workers, crew.snapshot().waiting) == (1, 0)
    gate.set()
    assert crew.join(PATIENCE)
    assert seen == [0]


def test_crew_whose_threads_cannot_all_be_started_raises_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Crew(print, 3)
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# -- when Python exits ---------------------------------------------------------------------------------------------


def test_crew_that_is_not_closed_handles_all_when_python_exits() -> None:
    program = """
        import os, threading
        from treadle._flow.crew import Crew
        def handle(item):
            while not crew.channel.closed:  # nobody but the exit closes it
                threading.Event().wait(0.001)
            os.write(1, b"handled %d\\n" % item)  # in one piece
        crew = Crew(handle, 2)
        for number in range(100):
            crew.put(number)
        os.write(1, b"main is over\\n")
    """
    status, out, err = run(sys.executable, "-c", textwrap.dedent(program))
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "main is over"
    assert sorted(out.splitlines()[1:]) == sorted(f"handled {number}" for number in range(100))


@pytest.mark.parametrize("caught", [True, False])
def test_ctrl_c_ends_the_program_whatever_its_handlers_wait_for(caught: bool) -> None:
    program = f"""
        import signal, threading
        from treadle._flow.crew import Crew
        inside = threading.Event()
        def handle(item):
            inside.set()
            threading.Event().wait()  # for ever
        try:
            with Crew(handle, 1) as crew:
                crew.put(1)
                crew.put(2)
                inside.wait()
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            if not {caught}:
                raise
    """
    status, out, _ = run(sys.executable, "-c", textwrap.dedent(program))
    assert out == "interrupted\n"
    assert status == (0 if caught else -signal.SIGINT)


@pytest.mark.parametrize("in_a_task", [False, True])
def test_a_crew_outlives_the_deadline_under_which_it_was_made(in_a_task: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = FakeClock(monkeypatch), list[tuple[int, float | None]]()

    def make() -> Crew[int]:
        with treadle.deadline(5):
            return Crew(lambda item: seen.append((item, treadle.time_left())), 1)

    with Pool(1, context=not in_a_task) as pool:
        if in_a_task:
            with treadle.deadline(5):
                crew = pool.submit(make).result(PATIENCE)
        else:
            crew = make()
        crew.put(1)
        clock.pass_(10)
        crew.put(2)
        crew.close()
        assert crew.join(PATIENCE)
    assert seen == [(1, None), (2, None)]
    assert TIMERS.call_due() == 0


@pytest.mark.parametrize("how", ["join", "block"])
def test_a_task_that_waits_for_a_crew_runs_what_the_handlers_wait_for(how: str) -> None:
    with Pool(1) as pool:

        def handle(number: int) -> None:
            got.append(pool.submit(abs, number).result())

        def task() -> bool:
            if how == "join":
                crew = Crew(handle, 1)
                crew.put(-3)
                crew.close()
                return crew.join()
            with Crew(handle, 1) as crew:
                crew.put(-3)
            return True

        got: list[int] = []
        assert pool.submit(task).result(30)
        assert got == [3]


def test_nothing_that_is_not_for_users_has_a_name_for_them() -> None:
    public = {name for name in dir(Crew) if not name.startswith("_")}
    assert public == {"channel", "close", "join", "name", "put", "snapshot"}


def test_deadline_error_in_a_handler_names_no_task_of_the_crews_own() -> None:
    """The loop that drains the channel is a task to nobody: see treadle.current_task."""
    errors: list[str] = []

    def handle(item: object) -> None:
        with treadle.deadline(0):
            treadle.checkpoint()

    with Crew(handle, 1, on_error=lambda item, error: errors.append(str(error))) as crew:
        crew.put("order")
    assert errors == ["the deadline of 0 s has passed; give more time, or do less"]

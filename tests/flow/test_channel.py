"""treadle._flow.channel: order, bounds, closing, time-outs and Ctrl-C, alone and under threads."""

from __future__ import annotations

import gc
import queue
import signal
import sys
import threading
import weakref
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle._base.checks
import treadle._flow.channel
from clocks import FakeClock
from treadle._flow.channel import Channel
from treadle.errors import ChannelClosed, ChannelEmpty, ChannelFull, DeadlineExceeded

PATIENCE = 20.0  # seconds for what must happen


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of which no event tells, such as another thread being asleep in a channel."""
    deadline, pause = monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not come to that"
        pause.wait(0.001)


class Doing(threading.Thread):
    """A thread that does one thing, and gives what came of it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function(*self.args)
        except Exception as error:
            self.result = error

    def outcome(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "it did not end"
        return self.result


def lined_up(channel: Channel[Any], function: Callable[..., Any], *args: Any) -> Doing:
    """Start a thread that puts or gets, and wait until it sleeps in line."""
    length = len(channel._getters) + len(channel._putters)
    thread = Doing(function, *args)
    until(lambda: len(channel._getters) + len(channel._putters) == length + 1)
    return thread


# -- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity=0: capacity must be greater than 0"),
        ({"capacity": -3}, ValueError, "capacity=-3"),
        ({"capacity": 2.5}, TypeError, "capacity=2.5 is float; allowed: an integer, 1 or more"),
        ({"capacity": True}, TypeError, "capacity=True is bool"),
        ({"capacity": "7"}, TypeError, "capacity='7' is str"),
        ({"name": 7}, TypeError, "name=7 is int; allowed: a string"),
    ],
)
def test_bad_argument_is_named_with_its_value_and_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Channel(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1", True])
def test_bad_timeout_is_refused_even_if_nobody_would_wait(timeout: Any) -> None:
    channel: Channel[int] = Channel()
    with pytest.raises((TypeError, ValueError), match="timeout="):
        channel.put(1, timeout)
    assert len(channel) == 0
    channel.put(1)
    with pytest.raises((TypeError, ValueError), match="timeout="):
        channel.get(timeout)
    assert len(channel) == 1


def test_channel_is_bounded_unless_none_is_written_out() -> None:
    assert Channel[int]().capacity == 1000
    unbounded: Channel[int] = Channel(None)
    for number in range(5000):
        unbounded.put_nowait(number)
    assert len(unbounded) == 5000
    assert unbounded.capacity is None


def test_endless_timeout_is_no_limit() -> None:
    """An infinite number of seconds is more than the operating system can wait."""
    channel: Channel[int] = Channel()
    getter = lined_up(channel, channel.get, float("inf"))
    channel.put(1)
    assert getter.outcome() == 1


def test_repr_counts() -> None:
    channel: Channel[int] = Channel(3, name="jobs")
    channel.put(1)
    assert repr(channel) == "<Channel 'jobs': 1 item, capacity 3>"
    channel.close()
    assert repr(channel) == "<Channel 'jobs': 1 item, capacity 3, closed>"
    assert repr(Channel(None)) == "<Channel 'channel': 0 items, unbounded>"


# -- order and bounds ----------------------------------------------------------------------------------------------


def test_an_empty_channel_is_as_true_as_a_full_one() -> None:
    """`if channel:` tells it from None; `len` counts its items."""
    channel: Channel[int] = Channel()
    assert bool(channel)
    assert len(channel) == 0
    channel.put(0)
    assert bool(channel)
    channel.close(discard=True)
    assert bool(channel)


def test_first_in_first_out_and_none_is_an_item() -> None:
    channel: Channel[Any] = Channel()
    items: list[Any] = [1, None, "", 0, False, [], NotImplemented]
    for item in items:
        channel.put(item)
    assert len(channel) == len(items)
    assert [channel.get() for _ in items] == items


def test_none_can_be_handed_to_a_get_that_waits() -> None:
    channel: Channel[None] = Channel()
    getter = lined_up(channel, channel.get)
    getter.result = "nothing yet"
    channel.put(None)
    assert getter.outcome() is None


def test_full_channel_says_its_name_limit_and_what_waits() -> None:
    channel: Channel[int] = Channel(2, name="jobs")
    channel.put(1)
    channel.put(2)
    with pytest.raises(ChannelFull, match=r"'jobs' is full: capacity=2; .* raise capacity") as caught:
        channel.put_nowait(3)
    assert (caught.value.channel, caught.value.capacity, caught.value.waited) == ("jobs", 2, 0)
    with pytest.raises(ChannelFull, match=r"'jobs' is full after waiting 0.01 s for room: capacity=2") as caught:
        channel.put(3, timeout=0.01)
    assert caught.value.waited == 0.01
    assert [channel.get_nowait(), channel.get_nowait()] == [1, 2]


def test_empty_channel_says_so() -> None:
    channel: Channel[int] = Channel(2, name="jobs")
    with pytest.raises(ChannelEmpty, match="'jobs' is empty; put items faster") as caught:
        channel.get_nowait()
    assert (caught.value.channel, caught.value.capacity, caught.value.waited) == ("jobs", 2, 0)
    with pytest.raises(ChannelEmpty, match=r"'jobs' is empty after waiting 0.01 s for an item") as caught:
        channel.get(timeout=0.01)
    assert caught.value.waited == 0.01


def test_puts_that_wait_go_in_by_turn() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    putters = [lined_up(channel, channel.put, number) for number in (1, 2, 3)]
    for number in range(4):
        assert len(channel) == 1
        assert channel.get_nowait() == number
    assert [putter.outcome() for putter in putters] == [None] * 3


def test_gets_that_wait_are_served_by_turn() -> None:
    channel: Channel[int] = Channel()
    getters = [lined_up(channel, channel.get) for _ in range(3)]
    for number in range(3):
        channel.put(number)
    assert [getter.outcome() for getter in getters] == [0, 1, 2]
    assert len(channel) == 0


def test_newcomer_cannot_take_the_room_of_a_put_that_waits() -> None:
    channel: Channel[str] = Channel(1)
    channel.put("first")
    putter = lined_up(channel, channel.put, "second")
    assert channel.get() == "first"
    with pytest.raises(ChannelFull):
        channel.put_nowait("newcomer")
    assert channel.get() == "second"
    assert putter.outcome() is None


def test_newcomer_cannot_take_the_item_of_a_get_that_waits() -> None:
    channel: Channel[str] = Channel(1)
    getter = lined_up(channel, channel.get)
    channel.put("item")
    with pytest.raises(ChannelEmpty):
        channel.get_nowait()
    assert getter.outcome() == "item"


def test_put_that_timed_out_did_not_put() -> None:
    channel: Channel[str] = Channel(1)
    channel.put("kept")
    with pytest.raises(ChannelFull):
        channel.put("late", timeout=0.001)
    assert channel.get_nowait() == "kept"
    with pytest.raises(ChannelEmpty):
        channel.get_nowait()


def test_get_that_timed_out_takes_nothing_later() -> None:
    channel: Channel[str] = Channel(1)
    with pytest.raises(ChannelEmpty):
        channel.get(timeout=0.001)
    channel.put("item")
    assert channel.get_nowait() == "item"


def test_channel_keeps_nothing_of_an_item_that_was_taken() -> None:
    class Item:
        pass

    channel: Channel[Item] = Channel(1)
    taken: list[weakref.ref[Item]] = []

    def take_two() -> None:
        taken.append(weakref.ref(channel.get()))
        channel.get()

    taker = lined_up(channel, take_two)
    channel.put(Item())
    until(lambda: len(channel._getters) == 1 and bool(taken))
    gc.collect()
    assert taken[0]() is None
    channel.put(Item())
    assert taker.outcome() is None


# -- closing -------------------------------------------------------------------------------------------------------


def test_closed_channel_takes_nothing_and_gives_what_is_left() -> None:
    channel: Channel[int] = Channel(name="jobs")
    channel.put(1)
    channel.put(2)
    assert not channel.closed
    assert channel.close() == []
    assert channel.close() == []
    assert channel.closed
    with pytest.raises(ChannelClosed, match="'jobs' is closed: it takes no more items"):
        channel.put(3)
    with pytest.raises(ChannelClosed):
        channel.put_nowait(3)
    assert channel.get() == 1
    assert channel.get_nowait() == 2
    for get in (channel.get, channel.get_nowait):
        with pytest.raises(ChannelClosed, match="'jobs' is closed and empty"):
            get()


@pytest.mark.parametrize("what", ["put", "get"])
def test_who_waited_when_it_was_closed_is_told_how_long(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    channel: Channel[int] = Channel(1, name="jobs")
    if what == "put":
        channel.put(1)
    errors: list[ChannelClosed] = []

    def wait() -> None:
        with pytest.raises(ChannelClosed) as caught:
            channel.put(2) if what == "put" else channel.get()
        errors.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: len(channel._putters) + len(channel._getters) == 1)
    clock.pass_(2.5)
    channel.close()
    thread.join(PATIENCE)
    assert [(error.channel, error.capacity, error.waited) for error in errors] == [("jobs", 1, 2.5)]


def test_what_catches_the_errors_of_queues_catches_those_of_channels() -> None:
    channel: Channel[int] = Channel(1)
    with pytest.raises(queue.Empty):
        channel.get_nowait()
    channel.put(1)
    with pytest.raises(queue.Full):
        channel.put_nowait(2)
    channel.close(discard=True)
    with pytest.raises(getattr(queue, "ShutDown", ChannelClosed)):
        channel.get_nowait()


def test_closing_wakes_every_put_and_keeps_its_item_out() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    putters = [lined_up(channel, channel.put, number) for number in (1, 2, 3)]
    channel.close()
    assert [type(putter.outcome()) for putter in putters] == [ChannelClosed] * 3
    assert list(channel) == [0]


def test_closing_wakes_every_get() -> None:
    channel: Channel[int] = Channel(1)
    getters = [lined_up(channel, channel.get) for _ in range(3)]
    channel.close()
    assert [type(getter.outcome()) for getter in getters] == [ChannelClosed] * 3


def test_closing_can_drop_what_is_left_and_tells() -> None:
    channel: Channel[int] = Channel()
    for number in range(3):
        channel.put(number)
    channel.close()
    assert channel.close(discard=True) == [0, 1, 2]
    assert channel.close(discard=True) == []
    with pytest.raises(ChannelClosed):
        channel.get()
    with pytest.raises(TypeError, match="discard=1 is int"):
        channel.close(discard=1)  # type: ignore[arg-type]  # the mistake under test


def test_iteration_ends_when_the_channel_is_closed_and_empty() -> None:
    channel: Channel[int] = Channel(2)
    readers = [Doing(list, channel) for _ in range(3)]
    for number in range(100):
        channel.put(number)
    channel.close()
    taken = [reader.outcome() for reader in readers]
    assert sorted(sum(taken, [])) == list(range(100))
    assert all(part == sorted(part) for part in taken)


def test_block_closes_at_its_end() -> None:
    with Channel[int]() as channel:
        channel.put(1)
    assert channel.closed
    assert list(channel) == [1]


# -- races, forced -------------------------------------------------------------------------------------------------


class ScriptedLock:
    """What a put or get sleeps on, except that `sleep` happens instead of sleeping."""

    def __init__(self, sleep: Callable[[], bool]) -> None:
        self.sleep = sleep

    def acquire(self, timeout: float | None = None) -> bool:
        return True if timeout is None else self.sleep()

    def release(self) -> None:
        pass


@contextmanager
def sleeping(sleep: Callable[[], bool]) -> Iterator[None]:
    """Let `sleep` happen where the next put or get of this thread would sleep."""
    scripts = [sleep]

    def allocate() -> Any:
        return ScriptedLock(scripts.pop()) if scripts else allocate_lock()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treadle._flow.channel, "allocate_lock", allocate)
        yield


def interrupt(*before: Callable[[], object]) -> Callable[[], bool]:
    def sleep() -> bool:
        for step in before:
            step()
        raise KeyboardInterrupt

    return sleep


def time_out(*before: Callable[[], object]) -> Callable[[], bool]:
    def sleep() -> bool:
        for step in before:
            step()
        return False

    return sleep


def test_item_that_comes_at_the_instant_of_the_timeout_is_taken() -> None:
    channel: Channel[str] = Channel()
    with sleeping(time_out(lambda: channel.put("just in time"))):
        assert channel.get(timeout=1) == "just in time"
    assert len(channel) == 0


def test_room_that_comes_at_the_instant_of_the_timeout_is_taken() -> None:
    channel: Channel[str] = Channel(1)
    channel.put("first")
    with sleeping(time_out(channel.get)):
        channel.put("just in time", timeout=1)
    assert channel.get_nowait() == "just in time"


def test_closing_at_the_instant_of_the_timeout_counts_as_closing() -> None:
    channel: Channel[str] = Channel(1)
    with sleeping(time_out(channel.close)), pytest.raises(ChannelClosed):
        channel.get(timeout=1)
    full: Channel[str] = Channel(1)
    full.put("first")
    with sleeping(time_out(full.close)), pytest.raises(ChannelClosed):
        full.put("second", timeout=1)
    assert list(full) == ["first"]


def test_interrupted_get_leaves_the_line() -> None:
    channel: Channel[str] = Channel()
    with sleeping(interrupt()), pytest.raises(KeyboardInterrupt):
        channel.get()
    channel.put("item")
    assert channel.get_nowait() == "item"


def test_interrupted_get_gives_back_to_the_head_what_it_was_handed() -> None:
    channel: Channel[str] = Channel(1)
    with sleeping(interrupt(lambda: channel.put("first"), lambda: channel.put("second"))):
        with pytest.raises(KeyboardInterrupt):
            channel.get()
    assert len(channel) == 2, "one over the capacity, until the next get"
    with pytest.raises(ChannelFull):
        channel.put_nowait("third")
    assert [channel.get_nowait(), channel.get_nowait()] == ["first", "second"]


def test_item_given_back_makes_no_room_for_puts_that_wait() -> None:
    """Else each interrupted get would leave the channel one item longer."""
    channel: Channel[int] = Channel(1)
    with sleeping(interrupt(lambda: channel.put(0), lambda: channel.put(1))), pytest.raises(KeyboardInterrupt):
        channel.get()
    putter = lined_up(channel, channel.put, 2)
    assert channel.get_nowait() == 0
    assert len(channel) == 1
    assert [channel.get_nowait(), channel.get_nowait()] == [1, 2]
    assert putter.outcome() is None


def test_interrupted_get_passes_its_item_to_the_next_in_line() -> None:
    channel: Channel[str] = Channel(1)
    others: list[Doing] = []
    steps = (lambda: others.append(lined_up(channel, channel.get)), lambda: channel.put("item"))
    with sleeping(interrupt(*steps)), pytest.raises(KeyboardInterrupt):
        channel.get()
    assert others[0].outcome() == "item"


def test_interrupted_put_leaves_the_line() -> None:
    channel: Channel[str] = Channel(1)
    channel.put("first")
    with sleeping(interrupt()), pytest.raises(KeyboardInterrupt):
        channel.put("second")
    assert channel.get_nowait() == "first"
    with pytest.raises(ChannelEmpty):
        channel.get_nowait()


# -- signals -------------------------------------------------------------------------------------------------------

main_thread_only = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread"
)


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


@main_thread_only
@pytest.mark.parametrize("full", [True, False])
def test_ctrl_c_ends_a_wait_of_the_main_thread(full: bool) -> None:
    channel: Channel[str] = Channel(1)
    if full:
        channel.put("first")

    def press_when_asleep(press: Callable[[], None]) -> None:
        until(lambda: bool(channel._getters or channel._putters))
        press()

    with ctrl_c() as press:
        presser = Doing(press_when_asleep, press)
        with pytest.raises(KeyboardInterrupt):
            channel.put("second", PATIENCE) if full else channel.get(PATIENCE)
        assert presser.outcome() is None
    assert not channel._getters
    assert not channel._putters
    channel.close()
    assert list(channel) == ["first"] * full


class Interrupted(BaseException):
    """What Ctrl-C would raise, at an instant that no other code is confused by."""


@contextmanager
def interruptions() -> Iterator[Callable[[], object]]:
    """Give a function that lets one signal come soon, which raises Interrupted if it finds a channel at work."""

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in places:  # in a finalizer, say, it would only be printed
            raise Interrupted

    places = {treadle._flow.channel.__file__, treadle._base.checks.__file__}
    previous = signal.signal(signal.SIGALRM, handle)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.00005)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@main_thread_only
def test_interrupted_gets_lose_no_item_and_keep_the_order() -> None:
    """Real signals, thousands of them, at whatever instruction they find."""
    channel: Channel[int] = Channel(3)
    count = 20_000

    def produce() -> None:
        for number in range(count):
            channel.put(number)
        channel.close()

    producer = Doing(produce)
    taken: list[int] = []
    with interruptions() as expect_one:
        while True:
            expect_one()
            try:
                while True:
                    taken.append(channel.get(PATIENCE))
            except Interrupted:
                continue
            except ChannelClosed:
                break
    assert producer.outcome() is None
    assert taken == list(range(count))


@main_thread_only
def test_interrupted_puts_strand_nobody() -> None:
    """An interrupted put may have put or not; every other item passes, in order, and once."""
    channel: Channel[int] = Channel(3)
    consumer = Doing(list, channel)
    sure: list[int] = []
    with interruptions() as expect_one:
        for number in range(20_000):
            if number % 5 == 0:
                expect_one()
            try:
                channel.put(number)
                sure.append(number)
            except Interrupted:
                pass
        signal.setitimer(signal.ITIMER_REAL, 0)
    channel.close()
    got = consumer.outcome()
    assert got == sorted(set(got))
    assert set(sure) <= set(got)


def test_signal_handler_may_use_the_channel_that_it_interrupts() -> None:
    """A handler may come in after any call that the channel makes, while this thread holds the channel's lock."""
    channel: Channel[str] = Channel(5)
    lengths: list[int] = []

    def handler(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return" and getattr(argument, "__name__", "") == "append" and not lengths:
            lengths.append(len(channel))
            channel.put_nowait("from the handler")
            channel.close()

    def put_under_signals() -> None:
        sys.setprofile(handler)
        try:
            channel.put("interrupted")
        finally:
            sys.setprofile(None)

    assert Doing(put_under_signals).outcome() is None
    assert lengths == [1]
    assert list(channel) == ["interrupted", "from the handler"]


# -- against a model -----------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers() | st.none()),
        st.tuples(st.just("get"), st.none()),
        st.tuples(st.just("close"), st.booleans() | st.just(False)),
    ),
    max_size=60,
)


@given(capacity=st.none() | st.integers(1, 4), script=steps)
def test_channel_behaves_as_a_bounded_deque(capacity: int | None, script: list[tuple[str, Any]]) -> None:
    channel: Channel[Any] = Channel(capacity)
    model: deque[Any] = deque()
    closed = False
    for step, value in script:
        expected: Any
        if step == "put":
            full = capacity is not None and len(model) == capacity
            expected = ChannelClosed if closed else ChannelFull if full else None
            if expected is None:
                model.append(value)
            assert outcome_of(channel.put_nowait, value) is expected
        elif step == "get":
            expected = model.popleft() if model else ChannelClosed if closed else ChannelEmpty
            got = outcome_of(channel.get_nowait)
            assert got == expected
        else:
            assert channel.close(discard=value) == (list(model) if value else [])
            closed = True
            if value:
                model.clear()
        assert (len(channel), channel.closed) == (len(model), closed)
    channel.close()
    assert list(channel) == list(model)


def outcome_of(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except (ChannelClosed, ChannelEmpty, ChannelFull) as error:
        return type(error)


# -- under threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "producers", "consumers"), [(1, 1, 1), (1, 4, 4), (3, 4, 2), (2, 2, 5)])
def test_each_item_arrives_once_and_the_bound_holds(capacity: int, producers: int, consumers: int) -> None:
    channel: Channel[tuple[int, int]] = Channel(capacity)
    high_water: list[int] = []

    def produce(producer: int) -> None:
        for number in range(500):
            channel.put((producer, number))
            high_water.append(len(channel))

    def consume() -> list[tuple[int, int]]:
        taken = []
        for item in channel:
            high_water.append(len(channel))
            taken.append(item)
        return taken

    sinks = [Doing(consume) for _ in range(consumers)]
    sources = [Doing(produce, producer) for producer in range(producers)]
    assert [source.outcome() for source in sources] == [None] * producers
    channel.close()
    taken = [sink.outcome() for sink in sinks]
    assert sorted(sum(taken, [])) == [(producer, number) for producer in range(producers) for number in range(500)]
    assert max(high_water) <= capacity
    for part in taken:
        for producer in range(producers):
            numbers = [number for origin, number in part if origin == producer]
            assert numbers == sorted(numbers), "items of one producer overtook each other"


@pytest.mark.parametrize("discard", [True, False])
def test_put_against_close_each_item_ends_in_exactly_one_place(discard: bool) -> None:
    for _ in range(150):
        channel: Channel[int] = Channel(2)
        start = threading.Barrier(5)

        def put(first: int, channel: Channel[int] = channel, start: threading.Barrier = start) -> list[int]:
            start.wait(PATIENCE)
            refused = []
            for number in range(first, first + 10):
                try:
                    channel.put(number)
                except ChannelClosed:
                    refused.append(number)
            return refused

        def get(channel: Channel[int] = channel, start: threading.Barrier = start) -> list[int]:
            start.wait(PATIENCE)
            return list(channel)

        def close(channel: Channel[int] = channel, start: threading.Barrier = start) -> list[int]:
            start.wait(PATIENCE)
            while len(channel) < 1:
                if channel.closed:
                    break
                channel.put(1000)
            return channel.close(discard=discard)

        threads = [Doing(put, 0), Doing(put, 10), Doing(get), Doing(get), Doing(close)]
        ends = [thread.outcome() for thread in threads]
        everything = sorted(number for end in ends for number in end if number < 1000)
        assert everything == list(range(20)), ends
        assert len(channel) == 0


def test_timeouts_against_puts_lose_and_double_nothing() -> None:
    channel: Channel[int] = Channel(1)

    def put_impatiently(first: int) -> None:
        for number in range(first, first + 300):
            while True:
                try:
                    channel.put(number, timeout=0.0001)
                    break
                except ChannelFull:
                    continue

    def get_impatiently() -> list[int]:
        taken = []
        while True:
            try:
                taken.append(channel.get(timeout=0.0001))
            except ChannelEmpty:
                continue
            except ChannelClosed:
                return taken

    getters = [Doing(get_impatiently) for _ in range(2)]
    putters = [Doing(put_impatiently, first) for first in (0, 300)]
    for putter in putters:
        assert putter.outcome() is None
    channel.close()
    assert sorted(sum((getter.outcome() for getter in getters), [])) == list(range(600))


def test_ctrl_c_after_a_get_has_moved_an_item_in_leaves_its_put_not_asleep() -> None:
    class Interrupting(deque[int]):
        def append(self, item: int) -> None:
            super().append(item)
            raise KeyboardInterrupt

    channel = Channel[int](1)
    channel.put(1)
    putter = lined_up(channel, channel.put, 2)
    channel._items = Interrupting(channel._items)
    try:
        with pytest.raises(KeyboardInterrupt):
            channel.get()
        assert putter.outcome() is None
        assert [channel.get(), channel.get()] == [1, 2]
    finally:
        channel.close()


def test_who_waits_when_the_deadline_passes_is_told_of_that_and_not_of_an_empty_channel() -> None:
    with treadle.deadline(0.01), pytest.raises(DeadlineExceeded):
        Channel[int]().get(timeout=PATIENCE)

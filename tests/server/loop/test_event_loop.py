"""EventLoop: whom a turn attends to, when it ends, and what is posted."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf

import pytest

from socketservers import until
from tcp import ask, client, driver_of
from treadle._base import clock
from treadle.server import Lines, Messages, Server
from treadle.server._loop.event_loop import Alarm, EventLoop
from treadle.server._loop.poller import READ

PATIENCE = 30.0


class Source:
    """Notes what it is told."""

    state = None

    def __init__(self, do: Callable[[], object] = lambda: None) -> None:
        self.events: list[int] = []
        self.do = do

    def attend(self, event: int) -> None:
        self.events.append(event)
        self.do()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop("loop")
    yield loop
    loop.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    return stack.enter_context(left), stack.enter_context(right)


def soon() -> float:
    return clock.now() + PATIENCE


def test_who_has_something_to_say_is_attended_to_until_it_is_removed(loop: EventLoop, stack: ExitStack) -> None:
    (mine, other), (silent, _) = pair(stack), pair(stack)
    source, quiet = Source(), Source()
    loop.add(mine.fileno(), source, READ)
    loop.add(silent.fileno(), quiet, READ)
    loop.turn(0.0)
    assert source.events == []
    other.send(b"x")
    loop.turn(soon())
    loop.turn(0.0)
    assert source.events == [READ, READ]
    loop.remove(mine.fileno(), READ)
    loop.turn(0.0)
    assert source.events == [READ, READ]
    assert quiet.events == []


def test_an_end_is_something_to_say(loop: EventLoop, stack: ExitStack) -> None:
    mine, other = pair(stack)
    source = Source()
    loop.add(mine.fileno(), source, READ)
    other.close()
    loop.turn(soon())
    assert len(source.events) == 1
    assert source.events[0]


def test_who_is_removed_while_others_are_attended_to_is_not(loop: EventLoop, stack: ExitStack) -> None:
    def remove_all() -> None:
        for mine, _ in pairs:
            loop.remove(mine.fileno(), READ)

    pairs = [pair(stack) for _ in range(3)]
    sources = [Source(remove_all) for _ in pairs]
    for source, (mine, other) in zip(sources, pairs, strict=True):
        loop.add(mine.fileno(), source, READ)
        other.send(b"x")
    loop.turn(soon())
    assert sum(len(source.events) for source in sources) == 1
    assert loop.is_empty()


def test_an_error_leaves_the_others_for_the_next_turn(loop: EventLoop, stack: ExitStack) -> None:
    def fail() -> None:
        raise LookupError

    sources = [Source(fail), Source(fail)]
    for source in sources:
        mine, other = pair(stack)
        loop.add(mine.fileno(), source, READ)
        other.send(b"x")
    loop.timers.hasten(Alarm(fail), clock.now())
    for _ in range(2):
        with pytest.raises(LookupError):
            loop.turn(soon())
        for source in sources:
            source.do = fail if not source.events else int
    assert [bool(source.events) for source in sources] == [True, True]
    with pytest.raises(LookupError):  # the alarm
        loop.turn(soon())
    loop.turn(0.0)


def test_late_are_those_whose_time_has_come_in_order_and_once(loop: EventLoop) -> None:
    now, done = clock.now(), list[str]()
    for name, due in ("second", now - 1), ("first", now - 2), ("not yet", now + 3600):
        loop.timers.hasten(Alarm(lambda name=name: done.append(name)), due)  # type: ignore[misc]  # a name of its own
    loop.turn(inf)
    loop.turn(0.0)
    assert done == ["first", "second"]
    assert loop.timers.next == now + 3600


def test_wake_ends_a_turn_once(loop: EventLoop) -> None:
    waker = threading.Thread(target=loop.wake)
    waker.start()
    loop.turn(soon())
    waker.join(PATIENCE)
    loop.wake()
    loop.wake()
    began = clock.now()
    loop.turn(soon())
    assert clock.now() < began + PATIENCE
    assert loop.poller.poll(0.0) == []


def test_what_is_posted_runs_in_order_though_one_fails(loop: EventLoop, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    for number in range(3):
        loop.post(lambda number=number: done.append(10 // number))  # type: ignore[misc]  # a number of its own
    loop.turn(soon())
    assert done == [10, 5]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "loop: a fault in treadle itself; serving goes on")
    ]


def test_what_is_posted_behind_others_wakes_nobody_and_is_done_in_the_same_turn(loop: EventLoop) -> None:
    """Also what comes while the others are being done."""
    done: list[str] = []

    def first() -> None:
        done.append("first")
        loop.post_coalesced(lambda: done.append("third"))

    loop.post_coalesced(first)
    loop.post_coalesced(lambda: done.append("second"))
    loop.turn(soon())
    assert done == ["first", "second", "third"]
    assert loop.poller.poll(0.0) == []


def test_a_descriptor_that_is_closed_behind_its_back_can_be_removed(loop: EventLoop, stack: ExitStack) -> None:
    mine, _ = pair(stack)
    number = mine.fileno()
    loop.add(number, Source(), READ)
    mine.close()
    loop.remove(number, READ)
    assert loop.is_empty()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="files can be polled on other platforms, in a way")
def test_what_cannot_be_polled_is_not_added(loop: EventLoop, stack: ExitStack) -> None:
    mine, _ = pair(stack)
    mine.close()
    with pytest.raises((OSError, ValueError)):
        loop.add(mine.fileno(), Source(), READ)
    assert loop.is_empty()


def test_a_fault_in_what_was_posted_keeps_nobody_from_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with Server(Messages(lambda line, peer: line, Lines()), "127.0.0.1:0", max_workers=1) as server:
        done = threading.Event()
        driver_of(server).loop.inbox.append(lambda: 1 // 0)
        driver_of(server).loop.post(done.set)
        assert done.wait(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("end", ["reader", "writer"])
def test_a_waker_that_somebody_shut_down_is_replaced_and_the_server_stops_as_ever(end: str) -> None:
    with Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"x") == b"x"
        poller = driver_of(server).loop.poller
        broken = poller.waker
        getattr(broken, end).shutdown(socket.SHUT_RDWR)
        until(lambda: poller.waker is not broken)
        assert ask(sock, b"y") == b"y"
        sock.close()
        assert server.stop(PATIENCE) == 0

"""Streams: how many threads answers without an end may hold, and which are taken for those."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clocks import FakeClock
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.wsgi.answering.streams import LONG, MOST, Streams

EVENTS, PLAIN = "text/event-stream", "text/plain"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def streams(most: int = 2) -> Streams:
    return Streams(lambda: most)


@pytest.mark.parametrize(
    "kind",
    [
        "text/event-stream",
        "text/event-stream; charset=utf-8",
        "Text/Event-Stream",
        "multipart/x-mixed-replace; boundary=frame",
    ],
)
def test_types_without_an_end_hold_a_thread_from_the_start(kind: str) -> None:
    table = streams(1)
    stream = table.begin("GET /", kind)
    assert table.held == 1
    with pytest.raises(Refused, match="503, answers without an end hold 1 thread, as many as max_streams allows"):
        table.begin("GET /other", kind)
    assert table.held == 1
    stream.end()
    assert table.held == 0
    table.begin("GET /", kind)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-ndjson", "x/text/event-stream"])
def test_other_answers_hold_none_however_many_they_are(kind: str) -> None:
    table = streams(1)
    begun = [table.begin("GET /", kind) for _ in range(5)]
    assert table.held == 0
    for stream in begun:
        stream.look()
        stream.end()
    assert table.held == 0


def test_answer_that_takes_long_counts_and_so_does_the_next_one_of_its_route(time: FakeClock) -> None:
    table = streams(1)
    first = table.begin("GET /feed", PLAIN)
    time.pass_(LONG)
    first.look()
    assert table.held == 0
    time.pass_(0.001)
    first.look()
    first.look()
    assert table.held == 1
    with pytest.raises(Refused):
        table.begin("GET /feed", PLAIN)
    table.begin("GET /quick", PLAIN)  # of another route
    first.end()
    assert table.held == 0
    second = table.begin("GET /feed", PLAIN)
    assert table.held == 1
    second.end()


def test_what_is_found_to_take_long_counts_beyond_the_ceiling(time: FakeClock) -> None:
    """It has its thread; who comes next is refused."""
    table = streams(1)
    begun = [table.begin(f"GET /{number}", PLAIN) for number in range(3)]
    time.pass_(LONG + 0.001)
    for stream in begun:
        stream.look()
    assert table.held == 3
    for stream in begun[:2]:
        stream.end()
    with pytest.raises(Refused):
        table.begin("GET /", EVENTS)
    begun[2].end()
    table.begin("GET /", EVENTS).end()
    assert table.held == 0


def test_route_whose_answers_are_short_again_is_forgotten(time: FakeClock) -> None:
    table = streams(1)
    first = table.begin("GET /feed", PLAIN)
    time.pass_(LONG + 0.001)
    first.look()
    first.end()
    second = table.begin("GET /feed", PLAIN)
    time.pass_(LONG - 0.001)
    second.end()
    third = table.begin("GET /feed", PLAIN)
    assert table.held == 0
    third.end()


def test_route_whose_answers_stay_long_is_not_forgotten(time: FakeClock) -> None:
    table = streams(1)
    for _ in range(3):
        stream = table.begin("GET /feed", PLAIN)
        time.pass_(LONG + 0.001)
        stream.look()
        assert table.held == 1
        stream.end()
    table.begin("GET /feed", PLAIN)
    assert table.held == 1


def test_end_counts_once() -> None:
    table = streams()
    one, other = table.begin("GET /", EVENTS), table.begin("GET /", EVENTS)
    one.end()
    one.end()
    assert table.held == 1
    other.end()
    assert table.held == 0


def test_routes_are_known_to_a_ceiling(time: FakeClock) -> None:
    table = streams(2 * MOST)
    begun = [table.begin(f"GET /{number}", PLAIN) for number in range(MOST + 1)]
    time.pass_(LONG + 0.001)
    for stream in begun:
        stream.look()
        stream.end()
    table.begin(f"GET /{MOST - 1}", PLAIN)
    assert table.held == 1
    table.begin(f"GET /{MOST}", PLAIN)
    assert table.held == 1


def test_ceiling_is_asked_for_each_time() -> None:
    most = [1]
    table = Streams(lambda: most[0])
    table.begin("GET /", EVENTS)
    most[0] = 2
    table.begin("GET /", EVENTS)
    with pytest.raises(Refused, match="hold 2 threads"):
        table.begin("GET /", EVENTS)


def test_threads_that_begin_together_never_hold_more_than_allowed() -> None:
    table, together = streams(3), threading.Barrier(8)

    def begin(_: int) -> bool:
        together.wait(30)
        try:
            table.begin("GET /", EVENTS)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        held = sum(threads.map(begin, range(8)))
    assert held == table.held <= 3

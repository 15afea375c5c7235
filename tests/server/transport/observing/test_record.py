"""Record: what is noted of a connection's bytes and messages, and told of each of them once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest

from treadle.server import Lines, MessageEvent, Observer, Peer, Reply
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.decoder import RawDecoder
from treadle.server._transport.observing import record as module
from treadle.server._transport.observing.observer import Observers
from treadle.server._transport.observing.record import Arrival, Record, TimedDecoder


class Keeps(Observer):
    def __init__(self) -> None:
        self.events: list[MessageEvent] = []

    def handled(self, event: MessageEvent) -> None:
        self.events.append(event)


class Clock:
    def __init__(self) -> None:
        self.time = 100

    def now_ns(self) -> int:
        self.time += 1
        return self.time


@pytest.fixture
def keeps() -> Keeps:
    return Keeps()


@pytest.fixture
def ends(keeps: Keeps, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ClientConnection, Record, socket.socket]]:
    monkeypatch.setattr(module, "clock", Clock())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        record = Record(Observers("handle", [keeps]), conn.peer)
        conn.observe(record)
        yield conn, record, theirs


def arrivals_of(conn: ClientConnection, data: bytes) -> list[Arrival]:
    found: Any = conn.intake.decoder.feed(data)
    return list(found)


def test_bytes_are_counted_both_ways(ends: tuple[ClientConnection, Record, socket.socket]) -> None:
    conn, record, theirs = ends
    theirs.sendall(b"hello")
    assert conn.recv(100) == b"hello"
    conn.write(b"hi")
    assert theirs.recv(100) == b"hi"
    assert (record.bytes_in, record.bytes_out) == (5, 2)


def test_a_message_begins_with_the_read_of_its_first_byte_and_is_complete_with_that_of_its_last(
    ends: tuple[ClientConnection, Record, socket.socket],
) -> None:
    conn, record, _ = ends
    record.read_ns = 1
    assert not arrivals_of(conn, b"on")
    assert conn.intake.decoder.held == 2
    record.read_ns = 2
    one, two = arrivals_of(conn, b"e\ntwo\nthr")
    record.read_ns = 3
    (three,) = arrivals_of(conn, b"ee\n")
    record.read_ns = 4
    (four,) = arrivals_of(conn, b"four\n")
    record.read_ns = 5
    assert not arrivals_of(conn, b"five")
    record.read_ns = 6
    found: Any = conn.intake.decoder.finish()
    (five,) = found
    times = [(arrival.message, arrival.first_byte_ns, arrival.complete_ns) for arrival in (one, two, three, four, five)]
    assert times == [(b"one", 1, 2), (b"two", 2, 2), (b"three", 2, 3), (b"four", 4, 4), (b"five", 5, 6)]


def test_messages_before_an_error_of_the_framing_are_kept() -> None:
    class Fails:
        held = 0

        def feed(self, data: bytes) -> Iterator[bytes]:
            yield data
            raise ValueError("mine")

    record = Record(Observers("handle", []), Peer("", None))  # type: ignore[arg-type]
    found: Iterator[Any] = TimedDecoder(Fails(), record).feed(b"x")  # type: ignore[arg-type]
    assert next(found).message == b"x"
    with pytest.raises(ValueError, match="mine"):
        next(found)


@pytest.mark.parametrize(
    ("message", "size"), [(b"abc", 3), (bytearray(4), 4), (memoryview(b"abcd").cast("I"), 4), (None, 0), ([1, 2], 0)]
)
def test_the_size_of_a_message_is_that_of_its_bytes(message: Any, size: int) -> None:
    assert Arrival(message, 1, 1).bytes_in == size


def test_what_is_over_is_told_of_once_in_order(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    conn, record, _ = ends
    conn.intake.waiting.extend(arrivals_of(conn, b"one\ntwo\n"))
    assert record.begin(conn.intake.waiting.popleft(), handed_over=False) == b"one"  # and its thread is killed
    record.lapse(conn.intake.waiting, "mine", str)
    record.lapse(conn.intake.waiting, "another", str)
    one, two = keeps.events
    assert (one.begun_ns is None, two.begun_ns is None) == (False, True)
    assert one.returned_ns is None
    assert [str(event.error) for event in keeps.events] == [f"[Errno {errno.ECONNABORTED}] mine"] * 2
    assert not conn.intake.waiting


def test_what_the_pool_has_dropped_is_told_with_its_error(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    conn, record, _ = ends
    conn.intake.waiting.extend(arrivals_of(conn, b"one\ntwo\nthree\n"))
    full, closed = ValueError("full"), ValueError("closed")
    record.refuse(conn.intake.waiting, 2, full)
    record.refusal = closed
    record.lapse(conn.intake.waiting, "another", str)
    assert [event.error for event in keeps.events] == [full, full, closed]


def test_what_the_pool_has_dropped_is_no_reason_for_what_comes_later(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    conn, record, _ = ends
    conn.intake.waiting.extend(arrivals_of(conn, b"one\ntwo\n"))
    record.refusal = full = ValueError("full")
    record.refuse(conn.intake.waiting, 1, full)
    record.lapse(conn.intake.waiting, "gone", str)
    assert [str(event.error) for event in keeps.events] == ["full", f"[Errno {errno.ECONNABORTED}] gone"]


def test_the_first_error_of_a_message_is_the_one_that_is_told(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    conn, record, _ = ends
    first = ValueError("first")
    record.fail(first)  # of none
    (arrival,) = arrivals_of(conn, b"one\n")
    record.begin(arrival, handed_over=False)
    record.fail(first)
    record.fail(ValueError("second"))
    record.end(6)
    record.tell_run("cut")
    (event,) = keeps.events
    assert (event.error, event.bytes_out) == (first, 6)


def test_what_was_run_before_a_handler_that_runs_too_long_was_answered(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    conn, record, _ = ends
    conn.intake.waiting.extend(arrivals_of(conn, b"one\ntwo\n"))
    record.begin(conn.intake.waiting.popleft(), handed_over=False)
    record.end(1)
    record.begin(conn.intake.waiting.popleft(), handed_over=False)
    record.overrun("handler_timeout", None)
    one, two = keeps.events
    assert (one.error, one.handed_over, str(two.error)) == (
        None,
        False,
        f"[Errno {errno.ECONNABORTED}] handler_timeout",
    )
    assert (two.handed_over, two.returned_ns) == (True, None)
    record.overrun("handler_timeout", None)
    record.lapse(conn.intake.waiting, "another", str)
    assert len(keeps.events) == 2


def test_each_call_of_a_conversation_has_the_bytes_since_the_one_before(
    ends: tuple[ClientConnection, Record, socket.socket], keeps: Keeps
) -> None:
    """Also of one that has begun with messages; what is theirs, they keep."""
    conn, record, theirs = ends
    theirs.sendall(b"one\nrest")
    record.begin(arrivals_of(conn, conn.recv(100))[0], handed_over=False)
    record.end(5)
    record.converse(len(b"rest"))
    conn.send(b"first")
    record.tell_run(None)
    for data in (b"", b"more"):
        if data:
            theirs.sendall(data)
            conn.recv(100)
        record.expect()
        record.begin(record.conversation.popleft(), handed_over=True)
        conn.send(b"answer")
        record.end()
        record.tell_run(None)
    assert [(event.bytes_in, event.bytes_out) for event in keeps.events] == [(3, 5), (4, 11), (4, 6)]


def test_what_the_framing_holds_can_be_had_from_under_the_record(
    ends: tuple[ClientConnection, Record, socket.socket],
) -> None:
    conn, record, _ = ends
    arrivals_of(conn, b"one\nrest")
    assert conn.intake.uncut() == b"rest"
    assert TimedDecoder(RawDecoder(10), record).take_rest is None


class Speaks:
    """Answers each "?" for now, and each "!" for good; "." ends a message, and with the stream one more reply comes."""

    def __init__(self) -> None:
        self.held = 0

    def feed(self, data: bytes) -> Iterator[bytes | Reply]:
        for byte in data:
            self.held = 0 if byte in b"!." else self.held + 1
            if byte == ord("."):
                yield b"message"
            elif byte in b"?!":
                yield Reply(bytes([byte]), final=byte == ord("!"))

    def finish(self) -> tuple[bytes | Reply, ...]:
        return (Reply(b"end"), b"last")


def test_what_a_decoder_says_is_no_message_and_an_interim_reply_begins_none() -> None:
    record = Record(Observers("handle", []), Peer("", None))  # type: ignore[arg-type]
    decoder = TimedDecoder(Speaks(), record)
    found: list[Any] = []
    for record.read_ns, data in enumerate((b"?", b"x?", b"x.", b"x", b"!x", b"?."), 1):
        found += decoder.feed(data)
    found += decoder.finish()
    replies = [one for one in found if type(one) is Reply]
    assert [reply.answer for reply in replies] == [b"?", b"?", b"!", b"?", b"end"]
    times = [(one.first_byte_ns, one.complete_ns) for one in found if type(one) is Arrival]
    assert times == [(1, 3), (5, 6), (6, 6)]


def test_what_a_decoder_would_have_said_is_not_told_of_when_all_is_over(
    keeps: Keeps, ends: tuple[ClientConnection, Record, socket.socket]
) -> None:
    conn, record, _ = ends
    conn.intake.waiting.extend([Reply(b"go"), Arrival(b"x", 1, 2), Reply(b"go"), Arrival(b"y", 2, 2)])
    lapsed = list[bytes]()
    record.lapse(conn.intake.waiting, "gone", lapsed.append)
    assert [event.bytes_in for event in keeps.events] == [1, 1]
    assert lapsed == [b"x", b"y"]
    assert not conn.intake.waiting

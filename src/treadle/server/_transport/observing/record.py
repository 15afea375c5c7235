"""Record: what observers are to be told of one connection, kept from its first byte to its last.

Only the connections of a server with observers have one. It stands between the connection and its socket, to count
bytes, and between the framing and the connection, to note when each message came; so nobody else pays for it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from threading import current_thread
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle.server._transport.causes import cause_of
from treadle.server._transport.decoder import Reply
from treadle.server._transport.observing.observer import ConnectionEvent, MessageEvent

if TYPE_CHECKING:
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.observing.observer import Observers
    from treadle.server._transport.peer import Peer

__all__ = ["Arrival", "Record", "TimedDecoder"]


class Arrival:
    """A message that has come, and what became of it so far."""

    __slots__ = (
        "begun_ns",
        "bytes_in",
        "bytes_out",
        "complete_ns",
        "error",
        "first_byte_ns",
        "handed_over",
        "message",
        "returned_ns",
        "task_id",
        "thread",
    )

    def __init__(self, message: Any, first_byte_ns: int, complete_ns: int) -> None:
        self.message = message
        self.first_byte_ns = first_byte_ns
        self.complete_ns = complete_ns
        self.begun_ns: int | None = None
        self.returned_ns: int | None = None
        self.thread: str | None = None
        self.handed_over = False
        self.task_id: int | None = None
        self.bytes_in = _size_of(message)
        self.bytes_out = 0
        self.error: BaseException | None = None


class Call(Arrival):
    """A call of a conversation's handler."""

    __slots__ = ()


class Record:
    """What is to be told of one connection. For the thread that has the connection, but for `lapse`.

    Args:
        observers: who is told.
        converses: whether the connection is one conversation, and not cut into messages.
    """

    __slots__ = (
        "_recv",
        "_send",
        "bytes_in",
        "bytes_out",
        "connected_ns",
        "conversation",
        "converses",
        "introduced",
        "messages",
        "observers",
        "peer",
        "read_ns",
        "refusal",
        "run",
        "task_id",
        "told",
    )

    def __init__(self, observers: Observers, peer: Peer, *, converses: bool = False) -> None:
        self.observers = observers
        self.peer = peer
        self.converses = converses
        self.connected_ns = self.read_ns = clock.now_ns()  # the latter: when something was read last
        self.introduced = False  # observers know of it
        self.messages = self.bytes_in = self.bytes_out = 0
        self.conversation: deque[Arrival] = deque()  # that is to begin, at most one
        self.run: deque[Arrival] = deque()  # messages whose handler was called, and that were not told of
        self.task_id: int | None = None  # of the task that has the connection
        self.refusal: BaseException | None = None  # why the pool would not have its messages
        self.told = (0, 0)  # of `bytes_in` and `bytes_out`, how many are those of calls that were told of

    def count(
        self, recv: Callable[[int], bytes], send: Callable[[Any], int]
    ) -> tuple[Callable[[int], bytes], Callable[[Any], int]]:
        """Return what to read and send with, so that bytes are counted."""
        self._recv, self._send = recv, send
        return self.recv, self.send

    def timed(self, decoder: Decoder[Any]) -> Decoder[Any]:
        """Return a decoder whose messages are Arrivals, where messages are cut."""
        return decoder if self.converses else TimedDecoder(decoder, self)

    def recv(self, most: int) -> bytes:
        """Read, and count."""
        data = self._recv(most)
        self.read_ns = clock.now_ns()
        self.bytes_in += len(data)
        return data

    def send(self, data: Any) -> int:
        """Send, and count."""
        sent = self._send(data)
        self.bytes_out += sent
        return sent

    # -- the connection -------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """The client was let in."""
        self.introduced = True
        self._tell("connected", self.connected_ns)

    def rejected(self, reason: str) -> None:
        """The client was turned away."""
        self._tell("rejected", clock.now_ns(), reason)

    def closed(self, reason: str) -> None:
        """The connection is over, for `reason`, in words; "": in order."""
        if not self.introduced:  # a proxy has left before it said for whom it came
            self.connected()
        self._tell(
            "closed", clock.now_ns(), cause_of(reason) if reason else None, self.messages, self.bytes_in, self.bytes_out
        )

    def _tell(self, what: str, time_ns: int, reason: str | None = None, *counts: int) -> None:
        thread, handler = current_thread().name, self.observers.handler
        event = ConnectionEvent(handler, self.peer, time_ns, thread, self.connected_ns, reason, *counts)
        self.observers.tell(what, event)

    # -- its messages ---------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """A conversation is to begin, or to go on after a pause: each call of its handler is told of."""
        self.conversation.append(Call(b"", self.read_ns, self.read_ns))

    def converse(self, unread: int) -> None:
        """What comes is cut into messages no more, and no such are waiting; `unread` bytes are the conversation's."""
        self.converses, self.told = True, (self.bytes_in - unread, self.bytes_out)

    def begin(self, arrival: Arrival, *, handed_over: bool) -> Any:
        """Return the message, for its handler is called now."""
        message, arrival.message = arrival.message, None
        arrival.handed_over = handed_over
        arrival.task_id = self.task_id if handed_over else None
        arrival.thread = current_thread().name
        self.run.append(arrival)
        arrival.begun_ns = clock.now_ns()
        return message

    def end(self, size: int = 0) -> None:
        """The handler of the last message has returned an answer of so many bytes, or raised."""
        arrival = self.run[-1]
        arrival.returned_ns = clock.now_ns()
        arrival.bytes_out += size  # to what was sent ahead

    def fail(self, error: BaseException) -> None:
        """The handler of the last message has raised `error`, or what it returned cannot be sent."""
        if self.run and self.run[-1].error is None:
            self.run[-1].error = error

    def lose_lead(self) -> None:
        """The lead was lost over the last message."""
        self.run[-1].handed_over = True

    def overrun(self, why: str, error: str | None) -> None:
        """Tell of the messages that were run, as `tell_run`; of the last, whose handler still runs, that it is cut."""
        last = self.run.pop() if self.run else None
        self.tell_run(error)
        if last is not None:
            last.handed_over, last.error = True, _aborted(why)
            self._tell_message(last)

    def tell_run(self, error: str | None) -> None:
        """Tell of the messages that were run; and answered, but for an `error`: why the connection is broken."""
        for arrival in taken_from(self.run):
            if error is not None and arrival.error is None:
                arrival.error = _aborted(error)
            self._tell_message(arrival)

    def refuse(self, waiting: deque[Any], count: int, why: BaseException | None) -> None:
        """Take out, and tell of, `count` of the messages that wait: the pool has refused them."""
        self.refusal = None  # it is none of what comes after them
        for arrival in islice(taken_from(self.conversation if self.converses else waiting), count):
            arrival.error = why
            self._tell_message(arrival)

    def lapse(self, waiting: deque[Any], why: str, also: Callable[[Any], object]) -> None:
        """Tell of all that was not told of yet: the connection is over. Safe from any thread, also from two at once.

        `also` is told of each such message before.
        """
        self.tell_run(why)
        for arrival in taken_from(self.conversation if self.converses else waiting):
            if type(arrival) is not Reply:
                also(arrival.message)
                arrival.error = self.refusal or _aborted(why)
                self._tell_message(arrival)

    def _tell_message(self, arrival: Arrival) -> None:
        arrival.message = None
        self.messages += 1
        if type(arrival) is Call:
            told, self.told = self.told, (self.bytes_in, self.bytes_out)
            arrival.bytes_in, arrival.bytes_out = self.bytes_in - told[0], self.bytes_out - told[1]
        event = MessageEvent(
            self.observers.handler,
            self.peer,
            arrival.first_byte_ns,
            arrival.complete_ns,
            arrival.begun_ns,
            arrival.returned_ns,
            clock.now_ns(),
            arrival.thread or current_thread().name,
            arrival.handed_over,
            arrival.task_id,
            arrival.bytes_in,
            arrival.bytes_out,
            arrival.error,
        )
        self.observers.tell("handled", event)


class TimedDecoder:
    """A connection's decoder whose messages are Arrivals. For one thread at a time."""

    def __init__(self, decoder: Decoder[Any], record: Record) -> None:
        self.decoder = decoder
        self.record = record
        self.first_byte_ns = 0  # of the message that is not complete; 0: none has begun

    @property
    def held(self) -> int:
        """Bytes of the message that is not complete yet."""
        return self.decoder.held

    @property
    def phase(self) -> str:
        """The phase of the message that is read, where the protocol has limits for phases."""
        phase: str = self.decoder.phase  # type: ignore[attr-defined]
        return phase

    def feed(self, data: bytes) -> Iterator[Arrival | Reply]:
        """Take what arrived; give the messages that are complete with it."""
        read_ns = self.record.read_ns
        first_byte_ns = self.first_byte_ns or read_ns
        for message in self.decoder.feed(data):
            if type(message) is Reply:
                yield message
                if not message.final:
                    continue
            else:
                yield Arrival(message, first_byte_ns, read_ns)
            first_byte_ns = read_ns
        self.first_byte_ns = first_byte_ns if self.decoder.held else 0

    @property
    def take_rest(self) -> Callable[[], bytes] | None:
        """Give back what is held, as it came; None if the framing cannot."""
        return getattr(self.decoder, "take_rest", None)

    def finish(self) -> Iterator[Arrival | Reply]:
        """Give what counts as a message though the peer has ended the stream after it."""
        for message in self.decoder.finish():
            if type(message) is Reply:
                yield message
            else:
                yield Arrival(message, self.first_byte_ns or self.record.read_ns, self.record.read_ns)


def taken_from(arrivals: deque[Any]) -> Iterator[Any]:
    """Take them out one by one; whoever takes one, nobody else does."""
    with suppress(IndexError):
        while True:
            yield arrivals.popleft()


def _aborted(why: str) -> ConnectionAbortedError:
    return ConnectionAbortedError(errno.ECONNABORTED, why or "the connection was closed")


def _size_of(message: Any) -> int:
    """Return the bytes of a message; 0 if it is nothing that has bytes."""
    if type(message) is bytes:
        return len(message)
    try:
        return memoryview(message).nbytes
    except Exception:
        return 0

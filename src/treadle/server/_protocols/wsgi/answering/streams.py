"""Streams: answers that may have no end, and hold their thread as long as they last."""

from __future__ import annotations

from collections.abc import Callable

from treadle._base import clock
from treadle._base.words import counted
from treadle.server._protocols.http.refused import Refused

__all__ = ["Stream", "Streams"]

LONG = 1.0  # seconds after which an answer that is still being made is taken for one of those; a guess
MOST = 256  # routes that are known to have them; a guess
ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")  # lines of JSON may be a table, which has an end


class Streams:
    """Keeps answers without an end from holding all threads: half of them, by default. From any thread.

    They are told by their type, as server-sent events are, or because an earlier one of their route took long.

    Args:
        most: returns how many threads they may hold, 1 or more.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._held: list[None] = []  # one for each; append and pop are atomic
        self._long: dict[str, None] = {}  # the routes

    @property
    def held(self) -> int:
        """How many threads they hold."""
        return len(self._held)

    def begin(self, route: str, kind: str) -> Stream:
        """Begin an answer whose length is not known, of the media type `kind`.

        Raises:
            Refused: it would hold one thread too many.
        """
        stream = Stream(self, route, endless=kind.lower().startswith(ENDLESS))
        if stream.endless or route in self._long:
            most = self._most()
            self._held.append(None)
            if len(self._held) > most:
                self._held.pop()
                raise Refused(
                    503, f"answers without an end hold {counted(most, 'thread')}, as many as max_streams allows"
                )
            stream.holds = True
        return stream

    def hold(self, stream: Stream) -> None:
        """`stream` takes long, as the next one of its route will."""
        stream.holds = True
        self._held.append(None)
        if len(self._long) < MOST:
            self._long[stream.route] = None

    def end(self, stream: Stream) -> None:
        """`stream` is over."""
        if stream.holds:
            self._held.pop()
        if clock.now() - stream.begun < LONG:
            self._long.pop(stream.route, None)


class Stream:
    """One answer whose length is not known. For the thread that makes it.

    Attributes:
        endless: it is of a type that has no end of its own, so that it may be ended at any piece. One that merely
            takes long, as a large table does, may not: its client would take the part for the whole.
    """

    __slots__ = ("_ended", "_streams", "begun", "endless", "holds", "route")

    def __init__(self, streams: Streams, route: str, *, endless: bool = False) -> None:
        self._streams = streams
        self.route = route
        self.endless = endless
        self.begun = clock.now()
        self.holds = False  # it counts
        self._ended = False

    def look(self) -> None:
        """Count if it takes long by now."""
        if not self.holds and clock.now() - self.begun > LONG:
            self._streams.hold(self)

    def end(self) -> None:
        """It is over."""
        if not self._ended:
            self._ended = True
            self._streams.end(self)

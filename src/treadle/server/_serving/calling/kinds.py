"""Kinds: which messages have been slow, by what a protocol calls their kind.

Whoever waits for a route that sleeps is not to hold up the others, which only the route tells apart. So a protocol may
say of a message what kind it is (see `Protocol`), and the kind has a record:

    level 0    quick: the leader handles it inline, and nothing is measured but how many there were
    level 1    slow: its mean is over 1 ms, or one in 48 is; handed over to the pool before it runs
    level 2    its mean is over 10 ms

A message is slow that takes more than 1 ms, or over which the watchdog takes the lead away: then it counts at that very
moment, and not 100 ms later. Those that were handed over are timed exactly. A mean alone would not do: one that takes
100 ms among 500 would mark the kind, and handing over the other 499 halves the throughput.

The table is bounded, whatever clients invent: newcomers are let go first, unless they come again (S3-FIFO: Yang et al.,
"FIFO queues are all you need for cache eviction", SOSP 2023). Their first messages, and those of no kind, share one
record.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from sys import getsizeof
from typing import Any

from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import brief, log

__all__ = ["MOST", "SLOW", "Kinds", "Record"]

_log = logging.getLogger("treadle.server")

SLOW = 0.001  # seconds in a handler that make a message a slow one: what the watchdog would notice too
MOST = 1024  # kinds that have a record; a guess
YOUNG = 128  # of them, those that came last, and are let go first; a guess, as in S3-FIFO: a tenth
LONGEST = 200  # bytes of a kind: so 1,024 of them take 200 KB at most
SHARE = 1 / 64  # weight of a message in the share of slow ones,
MEAN = 1 / 256  # and in the mean; with both, one of 100 ms among 500 marks nothing (measured)
OFTEN = 1 / 48  # of the messages that are slow make a kind slow; a guess
QUICK_AGAIN = 256  # quick messages in a row make it quick again; a guess
STEP = 10.0  # from one level to the next; down at half a step, in its logarithm
HALF_STEP = STEP**0.5


class Record:
    """What is known of one kind.

    `quick` is the leader's, who counts without a lock; if another thread takes the count at the same time, one message
    is lost, or counted twice. All else is changed with the loop's lock held.

    Attributes:
        level: of slowness, 0 to 2; may be read by any thread.
        quick: messages that were handled inline, and not slow, since a message was measured.
    """

    __slots__ = ("counted", "kind", "level", "looked", "mean", "quick", "row", "share")

    def __init__(self, kind: Hashable, level: int = 0) -> None:
        self.kind = kind
        self.level = level
        self.quick = 0
        self.counted = 0  # messages before those
        self.looked = 0  # messages when it was last looked at, to be let go
        self.share = 0.0  # of slow messages
        self.mean = -1.0  # seconds; less than 0: nothing was measured
        self.row = 0  # quick messages in a row, of those that were handed over

    @property
    def messages(self) -> int:
        """How many there were."""
        return self.counted + self.quick

    def is_new(self) -> bool:
        """Whether nothing is known of it."""
        return self.mean < 0 and not self.quick and not self.counted


class Kinds:
    """The records of one event loop. `find` may be called by any thread.

    Args:
        kind: the protocol's, whose errors are logged, and harm nobody.
        name: of the protocol, for logs.
    """

    def __init__(self, kind: Callable[[Any], Hashable], throttles: LogThrottles, name: str) -> None:
        self.kind = kind
        self.throttles = throttles
        self.name = name
        self.shared = Record("(others)")
        self._records: dict[Hashable, Record] = {}
        # Each record is in one of these; append and popleft are atomic, and their order need not be exact.
        self._young: deque[Record] = deque()
        self._old: deque[Record] = deque()

    def find(self, message: Any) -> Record:
        """Return the record of the kind of `message`."""
        try:
            kind = self.kind(message)
            record = self._records.get(kind)
            return self._begin(kind) if record is None else record
        except BaseException as error:  # of the protocol's `kind`, or of what it returned: its hash, how it is compared
            self._tell("kind() failed", error)
            return self.shared

    def _begin(self, kind: Hashable) -> Record:
        """Begin a record; the first message goes the way of those before it that were the first of theirs."""
        if not _is_small(kind):
            self._tell(f"kind() returned {brief(kind)}, which takes more than {LONGEST} bytes", None)
            return self.shared
        made = Record(kind, min(1, self.shared.level))  # where they wait for none of those that are slowest
        record = self._records.setdefault(kind, made)
        if record is made:
            self.shared.quick += not self.shared.level  # until it turns out that it was slow
            self._young.append(made)
            if len(self._young) > YOUNG:
                self._grow_old()
            while len(self._records) > MOST and self._let_go():
                pass
        return record

    def _grow_old(self) -> None:
        """Make the first of the young an old one if it came again, or there is room; else let go of it."""
        try:
            record = self._young.popleft()
        except IndexError:  # another thread was faster
            return
        record.looked = record.messages
        if record.looked > 1 or len(self._records) <= MOST:
            self._old.append(record)
        else:
            self._records.pop(record.kind, None)

    def _let_go(self) -> bool:
        """Let go of the first of the old ones, unless it came again since that was last tried; False: there is none."""
        try:
            record = self._old.popleft()
        except IndexError:  # as above
            return False
        if record.messages > record.looked:
            record.looked = record.messages
            self._old.append(record)
        else:
            self._records.pop(record.kind, None)
        return True

    def _tell(self, what: str, error: BaseException | None) -> None:
        throttle = self.throttles.of("kind", *(() if error is None else kind_of(error)))
        if throttle.begins():
            said = "%s: %s; its messages share what is known of others like them%s"
            log(_log, logging.WARNING, said, self.name, what, throttle.rest, error=error)

    # -- what is learnt; the loop's lock is held ------------------------------------------------------------------

    def caught(self, record: Record) -> None:
        """The leader lost the lead over a message, which was counted as a quick one when it began."""
        if record.quick:
            record.quick -= 1
        new = record.is_new()
        self._count_slow(record, new)
        record.counted += 1
        if new and record is not self.shared:
            self.caught(self.shared)

    def returned(self, record: Record, took: float) -> None:
        """The message over which the lead was lost has taken so many seconds."""
        if record.counted == 1 and record is not self.shared:
            self.returned(self.shared, took)
        record.mean = took if record.mean < 0 else record.mean + (took - record.mean) * MEAN
        self._set_level(record)

    def timed(self, record: Record, took: float) -> None:
        """A message that was handed over has taken so many seconds."""
        new = record.is_new()
        if new:
            record.level = 0  # what it had was of others
        if took > SLOW:
            self._count_slow(record, new)
        else:
            self._fade(record)
            record.share -= record.share * SHARE
            record.row += 1
            if record.level and record.row >= QUICK_AGAIN:
                record.level, record.share, record.mean = 0, 0.0, took
        record.mean = took if record.mean < 0 else record.mean + (took - record.mean) * MEAN
        record.counted += 1
        self._set_level(record)
        if new and record is not self.shared:
            self.timed(self.shared, took)

    def _count_slow(self, record: Record, new: bool) -> None:
        self._fade(record)
        record.share += (1 - record.share) * SHARE
        record.row = 0
        if new or record.share > OFTEN:
            record.level = max(record.level, 1)

    def _fade(self, record: Record) -> None:
        """Have those that were handled inline count, each as a quick one that took no time."""
        quick, record.quick = record.quick, 0
        if quick:
            record.counted += quick
            record.share *= (1 - SHARE) ** quick
            record.mean = max(0.0, record.mean) * (1 - MEAN) ** quick

    def _set_level(self, record: Record) -> None:
        mean = record.mean
        level = (mean > SLOW) + (mean > SLOW * STEP)
        if level > record.level or (record.level == 2 and mean < SLOW * STEP / HALF_STEP):
            record.level = max(level, 1)

    def slow(self) -> list[tuple[Hashable, float]]:
        """Return the kinds that are slow, and the mean of each, in seconds. From any thread."""
        return [(record.kind, max(0.0, record.mean)) for record in list(self._records.values()) if record.level]


def _is_small(kind: object) -> bool:
    """Whether a kind takes at most so many bytes; of a tuple, what is in it as well."""
    left, size = [kind], 0
    while left:
        one = left.pop()
        if isinstance(one, memoryview):  # it keeps the whole of the message
            return False
        if isinstance(one, (tuple, frozenset)):
            left.extend(one)
            size += 8 * len(one)
        elif isinstance(one, (str, bytes)):
            size += len(one)
        else:  # what else there is, such as a function, is the program's
            size += getsizeof(one) if isinstance(one, int) else 8
        if size > LONGEST:
            return False
    return True

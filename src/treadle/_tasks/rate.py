"""Rate: at most so many tasks begin in so many seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from treadle._base import checks, clock
from treadle._base.locks import locked, new_lock
from treadle._base.timer import TIMERS, TimerHandle
from treadle._base.words import is_a, show, type_name
from treadle._tasks.future import Future, owner_of

__all__ = ["Bucket", "Rate", "bucket_of", "hold", "let_go", "rate_of"]

_lock = new_lock()  # of every rate: held for an instant, and across a fork; taken after a pool's lock, never before
hold, let_go = (
    _lock.acquire,
    _lock.release,
)  # around a fork, for which `treadle._dispatch.lifecycle` holds every lock in turn


class Rate:
    """`n` tasks may begin each `per` seconds, evenly spread, and up to `burst` at once after a pause: a token bucket.

        politely = Rate(2)                  # one every half second
        politely = Rate(100, per=60)        # a hundred a minute: one every 0.6 seconds
        bursty = Rate(2, burst=10)          # two a second; ten at once, if none began in the five seconds before

    Make it once, and give it to a pool, `Pool(8, rate=politely)`, or to views, `pool.options(rate=politely)`, of one
    pool or of several: all that have the same object share it. The first `burst` tasks begin at once.

    Tasks that have to wait for their turn hold no thread. They wait beside the queue, in the order in which they came
    to its head, and count as waiting there: `queue_size` bounds them too, but for one more for each thread that was
    free as they came, since a thread takes a task before it asks the rate. A task that is run inside another one,
    because that waits for its result, begins at once, and those after it wait the longer for it.

    It may be used, and its attributes be read, in any thread. A copy of it, pickled or not, is another one with the
    same numbers.

    Args:
        n: tasks, more than 0.
        per: seconds, more than 0.
        burst: tasks, 1 or more.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    __slots__ = ("__weakref__", "_bucket")

    def __init__(self, n: float, per: float = 1.0, burst: int = 1) -> None:
        self._bucket = Bucket(
            checks.number("n", n, more_than=0),
            checks.number("per", per, more_than=0),
            checks.integer("burst", burst, least=1),
        )

    @property
    def n(self) -> float:
        """How many tasks may begin each `per` seconds."""
        return self._bucket.n

    @property
    def per(self) -> float:
        """In how many seconds `n` tasks may begin."""
        return self._bucket.per

    @property
    def burst(self) -> int:
        """How many tasks may begin at once after a pause."""
        return self._bucket.burst

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.n, self.per, self.burst)

    def __repr__(self) -> str:
        bucket = self._bucket
        return f"Rate({bucket.n:.12g}, per={bucket.per:.12g}, burst={bucket.burst}; {bucket.waiting()} waiting)"


def rate_of(rate: Rate | None) -> Rate | None:
    """Return `rate`, if it is one; a number is none, for each view would have a bucket of its own, and limit nothing.

    Raises:
        TypeError: it is neither that nor None.
    """
    if rate is None or is_a(rate, Rate):
        return rate
    example = f"Rate({show(rate)})" if is_a(rate, (int, float)) else "Rate(2)"
    raise TypeError(
        f"rate={show(rate)} is {type_name(rate)}; allowed: a treadle.Rate, which is made once and shared by all "
        f"that are to keep to it, as in {example}; or None"
    )


bucket_of: Callable[[Rate], Bucket] = attrgetter("_bucket")  # what those ask who share it


class Bucket:
    """The tokens of one rate, and the tasks that wait for them.

    A thread that is about to run a task asks `admit`. One that is not admitted is throttled, and then `arm` is called;
    when there is a token for it, its owner is to `resume` it, and then it comes to a thread again. All methods may be
    called from any thread.
    """

    def __init__(self, n: float, per: float, burst: int) -> None:
        self.n = n
        self.per = per
        self.burst = burst
        # _lock guards what follows.
        self._tokens = float(burst)
        self._filled = clock.now()  # when they were counted last
        self._line: deque[Future[Any]] = deque()  # tasks that wait
        self._called: set[Future[Any]] = set()  # tasks that were put back to the queue, for there is a token for each
        self._timer: TimerHandle | None = None

    def waiting(self) -> int:
        """Return how many tasks wait for a token."""
        return len(self._line)

    def admit(self, task: Future[Any]) -> bool:
        """Take a token for `task`, whose thread is about to run it; False: it is to wait, and was put in line."""
        return locked(_lock, self._admit, task)

    def _admit(self, task: Future[Any]) -> bool:
        self._fill()
        called = task in self._called
        if (called or not (self._line or self._called)) and self._tokens >= 1:
            self._tokens -= 1
            self._called.discard(task)
            return True
        if called:
            self._line.appendleft(task)
            self._called.discard(task)
        else:
            self._line.append(task)
        return False

    def has_called(self, task: Future[Any]) -> bool:
        """Whether it is the turn of `task`, which was in line."""
        return task in self._called

    def charge(self, task: Future[Any]) -> None:
        """Take a token for `task`, which begins whether there is one or not."""
        locked(_lock, self._charge)
        self.forget(task)

    def _charge(self) -> None:
        self._fill()
        self._tokens -= 1

    def forget(self, task: Future[Any]) -> None:
        """Take `task` out of the line, for it will not run, or runs now."""
        locked(_lock, self._forget, task)
        self.arm()

    def _forget(self, task: Future[Any]) -> None:
        if task in self._called:
            self._called.discard(task)
            self._disarm()  # its token is the next one's, perhaps at once
        while task in self._line:  # twice, if it came to a thread before it was called
            self._line.remove(task)
        if not self._line:
            self._disarm()  # or the timers' thread would stay for nothing, perhaps for hours

    def arm(self) -> None:
        """See that the first task in line is called when there is a token for it; no lock is held."""
        when = self._due()
        if when is None:
            return
        timer = TIMERS.call_at(when, self._call)
        if not locked(_lock, self._set_timer, timer):
            timer.cancel()

    def _due(self) -> float | None:
        """Return when the first task in line is to be called; None if there is none, or that is seen to."""
        timer = self._timer  # read once, for others may change it
        if not self._line or (timer is not None and timer.is_due):  # it is not, if the process forked
            return None
        missing = 1 + len(self._called) - self._tokens
        return self._filled + max(0.0, missing * self.per / self.n)

    def _set_timer(self, timer: TimerHandle) -> bool:
        if not self._line or (self._timer is not None and self._timer.is_due):
            return False
        self._timer = timer if timer.is_due else None  # it may have been called already
        return True

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fill(self) -> None:
        now = clock.now()
        self._tokens = min(float(self.burst), self._tokens + (now - self._filled) * self.n / self.per)
        self._filled = now

    def _call(self) -> None:
        """Put the tasks for which there are tokens back to the queue."""
        called = locked(_lock, self._call_next)
        self.arm()
        for task in called:
            owner_of(task).resume(task)

    def _call_next(self) -> list[Future[Any]]:
        if self._timer is not None and not self._timer.is_due:  # else this is another's, that was not noted in time
            self._timer = None
        self._fill()
        called = []
        # A token is kept for each that was called. But if none has been taken for so long that the bucket is full,
        # those that were called are held up, perhaps by what waits for the next in line: so that one is called too.
        wanted = min(1 + len(self._called), self.burst)
        while self._line and self._tokens + 1e-9 >= wanted:
            task = self._line.popleft()
            self._called.add(task)
            called.append(task)
            wanted = 1 + len(self._called)
        return called

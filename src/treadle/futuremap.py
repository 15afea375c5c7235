"""map through `submit`, with a future for each item: for pools whose `submit` somebody has replaced.

The standard library's `map` calls `submit`, and others build on that: a subclass that wraps each call, a progress bar
that sets `pool.submit`. They get what they expect; who leaves `submit` alone gets the faster `treadle.mapping`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError
from itertools import islice
from typing import Any, Generic, TypeVar

from treadle import clock
from treadle.waiting import wait

__all__ = ["FutureMap"]

T = TypeVar("T")


class FutureMap(Iterator[T], Generic[T]):
    """The results of calls that are submitted as they are needed, at most `ahead` before their results are taken."""

    def __init__(
        self,
        submit: Callable[..., Future[T]],
        fn: Callable[..., T],
        rows: Iterator[tuple[Any, ...]],
        *,
        ahead: int,
        timeout: float | None,
        ordered: bool,
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._rows = rows
        self._ahead = ahead
        self._deadline = None if timeout is None else clock.now() + timeout
        self._ordered = ordered
        self._begun = False
        self._futures: deque[Future[T]] = deque()
        self._read_ahead()

    def __iter__(self) -> FutureMap[T]:
        return self

    def __next__(self) -> T:
        self._begun = True
        self._read_ahead()
        if not self._futures:
            raise StopIteration
        future = self._next_done()
        self._futures.remove(future)
        try:
            return future.result()
        finally:
            del future  # the traceback holds this frame: no cycle through it

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""
        self._rows = iter(())
        while self._futures:
            self._futures.pop().cancel()

    def _read_ahead(self) -> None:
        for row in islice(self._rows, self._ahead - len(self._futures)):
            self._futures.append(self._submit(self._fn, *row))

    def _next_done(self) -> Future[T]:
        """Return the future whose result is next; in order that is the first, or else any that is done."""
        candidates = [self._futures[0]] if self._ordered else list(self._futures)
        left = None if self._deadline is None else max(0.0, self._deadline - clock.now())
        try:
            done = wait(candidates, left, FIRST_COMPLETED).done
        except BaseException:  # it should stop
            self.close()
            raise
        if not done:
            self.close()
            raise TimeoutError("the results of map were not there in time; what had not begun was cancelled")
        return next(future for future in candidates if future in done)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # One that nobody iterated over was, as in the standard library, called for its effects. And when Python is
        # taken apart, pools are closed, and globals may be gone.
        if getattr(self, "_begun", False) and not is_finalizing():
            self.close()

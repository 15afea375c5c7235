"""wait and as_completed: the standard library's, except that a worker never waits for its own pool.

A future made by treadle is one of the standard library's, so its functions do the work, where nobody may wait for the
thread (see `deadlock`). In a worker, those of the futures that its own pool has not begun are run there and
then.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, TimeoutError, _base
from contextlib import nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar, cast

from treadle._base import checks, clock
from treadle._base.locks import is_held
from treadle._base.words import is_a, show, type_name
from treadle._dispatch import deadlock
from treadle._dispatch.worker import Worker, current_worker
from treadle._tasks.future import CANCELLED_AND_NOTIFIED, FINISHED, Future, owner_of
from treadle._tasks.scope import Scope, current

__all__ = ["as_completed", "wait"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=concurrent.futures.Future[Any])
ReturnWhen = Literal["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]


if TYPE_CHECKING:

    class DoneAndNotDoneFutures(NamedTuple, Generic[F]):
        """What `wait` returns: two sets of futures, of the kind that it was given."""

        done: set[F]
        not_done: set[F]

else:
    DoneAndNotDoneFutures = _base.DoneAndNotDoneFutures


class _Event:
    """What the standard library's waiters set, in the place of an event, whose lock Ctrl-C could leave taken.

    Setting it is one call of C's, so that a future is not noted as told and nobody woken.
    """

    __slots__ = ("_told", "set")

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()
        self.set = partial(self._told.put, None)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        try:
            self._told.get(blocking, None if timeout < 0 else timeout)
        except Empty:
            return False
        return True


def wait(
    fs: Iterable[F], timeout: float | None = None, return_when: ReturnWhen = ALL_COMPLETED
) -> DoneAndNotDoneFutures[F]:
    """Wait for futures, as `concurrent.futures.wait` does.

    Args:
        fs: futures of any executors.
        timeout: seconds, none left if negative; None: no limit. A task that is run here is not interrupted when they
            have passed.
        return_when: ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION.

    Returns:
        The named pair (done, not_done) of sets.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
        DeadlineExceeded, Cancelled: the caller's deadline passed first, or it was asked to stop.
        PoolDeadlock: the wait could never end.
    """
    timeout = checks.time_left("timeout", timeout)
    checks.one_of("return_when", return_when, (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION))
    futures = _futures_in(fs)
    del fs
    try:
        return _wait_in(current(), futures, timeout, return_when)
    finally:
        del futures  # what a task raises that is run here leads to this frame: no cycle through it


def _futures_in(fs: Iterable[F]) -> set[F]:
    """Return the futures, each once.

    Raises:
        TypeError: `fs` is no iterable, or holds something else.
    """
    futures = checks.several("fs", fs, "an iterable of futures, as in [future]")
    for future in futures:
        if not is_a(future, concurrent.futures.Future):
            raise TypeError(f"fs holds {show(future)}, which is {type_name(future)}; allowed: what submit() returned")
    return set(futures)


def _wait_in(
    scope: Scope | None,
    futures: set[F],
    timeout: float | None,
    return_when: str,
) -> DoneAndNotDoneFutures[F]:
    """Wait as `wait` does, and no longer than `scope`, if any, allows. The waiter is the standard library's own."""
    deadline = None if timeout is None else clock.now() + timeout
    worker = current_worker()
    try:
        if worker is not None:
            _help(worker, scope, futures, return_when, deadline)
        done = _done(futures)
        if _satisfied(futures, done, return_when):  # as it stays, so nobody is to be kept from changing it
            return DoneAndNotDoneFutures(done, futures - done)
        return _sleep(worker, scope, futures, deadline, return_when)
    finally:
        futures = done = None  # type: ignore[assignment]  # as in `wait`


def _sleep(
    worker: Worker | None, scope: Scope | None, futures: set[F], deadline: float | None, return_when: str
) -> DoneAndNotDoneFutures[F]:
    """Wait until they are done, or it is time to stop, whatever is to be run here for that."""
    conditions = [future._condition for future in sorted(futures, key=id)]
    done, waiter = _holding(conditions, _install_waiter, futures, return_when)
    if waiter is None:
        return DoneAndNotDoneFutures(done, futures - done)
    every = return_when == ALL_COMPLETED
    ours = [future for future in futures if isinstance(future, Future)]
    known = every or len(ours) == len(futures)  # of a wait that strangers may end, nothing is
    pending = partial(_pending, ours)
    try:
        with nullcontext() if scope is None else scope.waking(waiter.event.set):
            left = None if deadline is None else deadline - clock.now()
            left = left if scope is None else scope.left(left)
            deadlock.wait(waiter.event, worker, pending if known else None, left, every=every)
    finally:
        for future in futures - done:
            _holding([future._condition], future._waiters.remove, waiter)
        ours = waiter = future = pending = None  # type: ignore[assignment]  # as in `wait`
    try:
        done = _done(futures)
        if scope is not None and not _satisfied(futures, done, return_when):
            scope.check()
        return DoneAndNotDoneFutures(done, futures - done)
    finally:
        del futures, done


def _pending(futures: Iterable[Future[Any]]) -> list[Future[Any]]:
    return [future for future in futures if not future.done()]


def _install_waiter(futures: set[F], return_when: str) -> tuple[set[F], Any]:
    """Return which are done, and what is told of the others; None: there is nothing to wait for."""
    done = _done(futures)
    if _satisfied(futures, done, return_when):
        return done, None
    waiter = _base._create_and_install_waiters(futures - done, return_when)  # type: ignore[attr-defined]
    waiter.event = _Event()  # before anybody sets it
    return done, waiter


def _holding(conditions: list[Condition], section: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `section(*args)`, called with all of these held, which are let go wherever Ctrl-C comes."""
    taken: list[Condition] = []
    try:
        for condition in conditions:
            taken += [condition]  # or is about to be
            condition.acquire()
        result = section(*args, **kwargs)
        _let_go(taken)
    except BaseException:
        _let_go(taken)
        raise
    return result


def _let_go(taken: list[Condition]) -> None:
    while taken:
        # No exception comes before the last call.
        condition = taken[-1]
        if not is_held(condition):
            del taken[-1]
            continue
        del taken[-1]
        condition.release()


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """Iterate over futures as they are done, as `concurrent.futures.as_completed` does.

    Args:
        fs: futures of any executors; one that is given twice is returned once.
        timeout: seconds from now, none left if negative; None: no limit.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
        TimeoutError: not all of them were done in time.
        DeadlineExceeded, Cancelled: as `wait`.
        PoolDeadlock: the wait could never end.
    """
    timeout = checks.time_left("timeout", timeout)
    futures = _futures_in(fs)
    if current() is None and not deadlock.is_awaited():
        return cast(Iterator[F], concurrent.futures.as_completed(futures, timeout))
    return _as_completed_here(futures, None if timeout is None else clock.now() + timeout)


def _as_completed_here(futures: set[F], deadline: float | None) -> Iterator[F]:
    total, done = len(futures), set[F]()
    try:
        while futures:
            left = None if deadline is None else max(0.0, deadline - clock.now())
            done = wait(futures, left, FIRST_COMPLETED).done
            if not done:
                raise TimeoutError(f"{len(futures)} (of {total}) futures unfinished")
            futures -= done
            while done:
                yield done.pop()
    finally:
        del futures, done  # as in `wait`


def _help(
    worker: Worker,
    scope: Scope | None,
    futures: set[F],
    return_when: str,
    deadline: float | None,
) -> None:
    """Run, in this worker's thread, what its own pool has not begun, until the wait is over, or is to end."""
    future: Any = None
    try:
        for future in futures:
            if _satisfied(futures, _done(futures), return_when) or (deadline is not None and clock.now() >= deadline):
                return
            if scope is not None and scope.over() is not None:
                return
            home = owner_of(future) if isinstance(future, Future) else None
            if home is worker.owner:
                worker.owner.run_instead(future)
    finally:
        del future, futures  # as in `wait`


def _done(futures: set[F]) -> set[F]:
    return {future for future in futures if future._state in (FINISHED, CANCELLED_AND_NOTIFIED)}


def _satisfied(futures: set[F], done: set[F], return_when: str) -> bool:
    """Return whether the wait is over, for these of the futures are done."""
    if len(done) == len(futures):
        return True
    if return_when == FIRST_EXCEPTION:
        return any(not future.cancelled() and future.exception() is not None for future in done)
    return return_when == FIRST_COMPLETED and bool(done)

"""Locks that an exception cannot take away, and latches: locks that are opened once.

An asynchronous exception (Ctrl-C, or what PyThreadState_SetAsyncExc sends) is raised where a call returns, where a
function begins, and where a loop begins anew; never between. Where the call is that of a lock's `acquire`, it is taken
then. So `with lock:` will not do: since Python 3.14 that has such a call before the block that lets it go is entered;
and a condition has methods written in Python for that, one of which begins before it is let go.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from operator import methodcaller
from threading import Condition, RLock
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import ref

from treadle._base.words import log

if TYPE_CHECKING:
    from _thread import LockType

__all__ = [
    "closed_latch",
    "defer",
    "deferred",
    "is_held",
    "locked",
    "make_deferred_calls",
    "new_lock",
    "open_latch",
    "unheld",
]

_log = logging.getLogger("treadle")

P = ParamSpec("P")
T = TypeVar("T")

_locks: set[ref[RLock]] = set()  # adding, discarding and copying are atomic
deferred: deque[Callable[[], object]] = deque()  # appending and taking are atomic; who spells `locked` out looks here

# Whether this thread holds the lock, or that of a condition; in C, for each section asks. Conditions rely on it too.
is_held: Callable[[RLock | Condition], bool] = methodcaller("_is_owned")


def new_lock() -> RLock:
    """Return a lock under which nothing of the user's may run, as a destructor would: see `defer`."""
    lock = RLock()
    _locks.add(ref(lock, _locks.discard))
    return lock


def unheld(wait: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `wait(*args)`, called with none of these locks held by this thread; it has them again afterwards.

    For a signal handler or a finalizer that has come amid a section, and waits for threads that want its lock.
    """
    held = [lock for reference in list(_locks) if (lock := reference()) is not None and is_held(lock)]
    if not held:
        return wait(*args, **kwargs)
    times = [0] * len(held)  # that each was let go; where an exception comes amid that, whoever goes on looks anew
    try:
        for place, lock in enumerate(held):
            while is_held(lock):
                lock.release()
                times[place] += 1
        make_deferred_calls()  # what was done amid the sections has left some, to be made where they are over
        return wait(*args, **kwargs)
    finally:
        again = {lock: more for lock, more in zip(held, times, strict=True) if more}
        _take_again(list(again))
        for lock, more in again.items():
            for _ in range(more - 1):
                lock.acquire()


def _take_again(locks: list[RLock]) -> None:
    """Take all of them, in no order that could be another thread's reverse: while one is waited for, none is held."""
    while True:
        taken: list[RLock] = []
        for lock in locks:
            if not lock.acquire(blocking=not taken):
                break
            taken.append(lock)
        else:
            return
        for lock in taken:
            lock.release()
        locks = [*locks[len(taken) :], *taken]  # wait for the one that was not to be had


def defer(call: Callable[[], object]) -> None:
    """Make a call that is the user's, for a destructor, which may run amid a section: now, or once its lock is let go.

    For whoever waits for that lock may hold what the call wants.
    """
    deferred.append(call)
    make_deferred_calls()


def make_deferred_calls() -> None:
    """Make the calls that were deferred, unless this thread holds a lock; log what they raise, which is nobody's."""
    if any(lock is not None and is_held(lock) for lock in [reference() for reference in list(_locks)]):
        return  # whoever lets it go looks again
    while deferred:
        try:
            call = deferred.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            call()
        except Exception as error:
            log(_log, logging.ERROR, "what a destructor has left to be called failed", error=error)


def locked(lock: RLock | Condition, section: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `section(*args)`, called with the lock held, which is let go whatever is raised, wherever.

    It is let go as often as it was taken here: who holds it already, as a signal handler may in whose midst of a
    section this is called, holds it still.
    """
    held = None  # whether it is; None: it is being taken
    try:
        lock.acquire()
        held = True
        result = section(*args, **kwargs)
        held = False
        lock.release()
    except BaseException:
        # Raised as `acquire` returned, it is held; before, it can have been raised only to a thread that waits for it,
        # and so has none of it. Nor has one whose wait at a condition, or at `unheld`, was cut in two. That is not
        # asked, for another exception may come as it is answered.
        try:
            if held is not False:
                lock.release()
        except RuntimeError:
            pass
        raise
    if deferred:
        make_deferred_calls()
    return result


def closed_latch() -> LockType:
    """Return a latch that others wait at with `acquire`, until it is opened."""
    latch = allocate_lock()
    latch.acquire()
    return latch


def open_latch(latch: LockType) -> None:
    """Open a latch; it may be open already."""
    try:
        latch.release()
    except RuntimeError:  # somebody else was faster
        pass

"""Locks that an exception cannot take away, and latches: locks that are opened once.

An asynchronous exception (Ctrl-C, or what PyThreadState_SetAsyncExc sends) is raised where a call returns, where a
function begins, and where a loop begins anew; never between. Where the call is that of a lock's `acquire`, it is taken
then. So `with lock:` will not do: since Python 3.14 that has such a call before the block that lets it go is entered;
and a condition has methods written in Python for that, one of which begins before it is let go.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock
from collections.abc import Callable
from operator import methodcaller
from threading import Condition, RLock
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import WeakMethod, ref

from treadle._base.words import log

if TYPE_CHECKING:
    from _thread import LockType

__all__ = [
    "at_waits",
    "closed_latch",
    "defer",
    "deferred",
    "holds_any",
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

Methods = tuple[WeakMethod[Callable[[], object]], WeakMethod[Callable[[], object]]]

# All that `new_lock` has made, and what `at_waits` is to call. Adding, taking out and copying are atomic.
_locks: dict[ref[RLock], Methods | None] = {}
deferred: list[Callable[[], object]] = []  # appending and taking are atomic; who spells `locked` out looks here

# Whether this thread holds the lock, or that of a condition; in C, for each section asks. Conditions rely on it too.
is_held: Callable[[RLock | Condition], bool] = methodcaller("_is_owned")


def new_lock() -> RLock:
    """Return a lock under which nothing of the user's may run, as a destructor would: see `defer`."""
    lock = RLock()
    _locks[ref(lock, _forget)] = None
    return lock


def _forget(reference: ref[RLock]) -> None:
    _locks.pop(reference, None)


def at_waits(lock: RLock, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Have `before` called where `unheld` is about to let go of `lock`, and `after` when it has it again; it is held.

    Args:
        lock: of `new_lock`.
        before: a bound method, which does not keep its object. It may raise why there must be no wait.
        after: likewise; it must not raise.
    """
    _locks[ref(lock)] = WeakMethod(before), WeakMethod(after)


def unheld(wait: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `wait(*args)`, called with none of these locks held by this thread; it has them again afterwards.

    For a signal handler or a finalizer that has come amid a section, and waits for threads that want its lock.
    """
    # The copies are of keys, for which nothing is allocated one by one: there a lock could be destroyed.
    locks = [(reference(), reference) for reference in list(_locks)]
    held = {lock: _locks[reference] for lock, reference in locks if lock is not None and is_held(lock)}
    if not held:
        return wait(*args, **kwargs)
    before, after = ([method() for methods in held.values() if methods for method in [methods[n]]] for n in (0, 1))
    times = dict.fromkeys(held, 0)  # that each was let go; after an exception amid that, whoever goes on looks anew
    try:
        for call in before:
            if call is not None:
                call()
        for lock in held:
            while is_held(lock):
                lock.release()
                times[lock] += 1
        make_deferred_calls()
        return wait(*args, **kwargs)
    finally:
        _take_again([lock for lock, more in times.items() if more])
        for lock, more in times.items():
            for _ in range(more - 1):
                lock.acquire()
        for call in after:
            if call is not None:
                call()


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
    if holds_any():
        return  # whoever lets it go looks again
    while deferred:
        try:
            call = deferred.pop(0)
        except IndexError:  # another thread was faster
            return
        try:
            call()
        except Exception as error:
            log(_log, logging.ERROR, "what a destructor has left to be called failed", error=error)


def holds_any() -> bool:
    """Return whether this thread holds any of the locks that `new_lock` has made."""
    locks = [reference() for reference in list(_locks)]
    return any(lock is not None and is_held(lock) for lock in locks)


def locked(lock: RLock | Condition, section: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `section(*args)`, called with the lock held, which is let go whatever is raised, wherever.

    It is let go as often as it was taken here: who holds it already, as a signal handler may in whose midst of a
    section this is called, holds it still.
    """
    held = True  # or about to be
    try:
        lock.acquire()
        result = section(*args, **kwargs)
        held = False
        lock.release()
    except BaseException:
        # Raised as `acquire` returned, it is held; before, it can have been raised only to a thread that waits for it,
        # and so has none of it. Nor has one whose wait at a condition, or at `unheld`, was cut in two. That is not
        # asked, for another exception may come as it is answered.
        try:
            if held:
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

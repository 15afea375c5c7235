"""What happens to pools when the interpreter exits, and when the process forks.

Workers are daemon threads, and exit handlers drain their pools. So, unlike the standard library's: threads that
outlive the main one may still submit; Ctrl-C ends the program, whatever its tasks wait for; and the exit handlers of
others may use pools:

    the main thread ends -> the other threads that are no daemons end -> what was accepted is run, as there
        -> other exit handlers -> what these submitted is run; no pool takes more -> handlers from before the import
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.fork import at_fork, at_last
from treadle._base.locks import closed_latch, locked, make_deferred_calls, unheld
from treadle._base.threads import DAEMON, has_ended
from treadle._base.words import log
from treadle._dispatch import deadlock
from treadle._dispatch.state import AT_EXIT
from treadle._dispatch.worker import Worker, current_worker
from treadle._tasks import rate
from treadle._tasks.future import orphan
from treadle._tasks.unretrieved import log_living

if TYPE_CHECKING:
    from threading import Thread

    from treadle._dispatch.dispatcher import Dispatcher, Inheritance

__all__ = ["after_fork", "before_exit", "exiting", "join", "register"]

_log = logging.getLogger("treadle")

A_MOMENT = 0.01  # seconds between two looks at a thread that nobody can wait for

Bound = Any  # a bound method without arguments
Method = weakref.WeakMethod[Bound]

_lock = RLock()
_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()  # guarded by _lock
# Methods of others, which keep nobody: by whose they are, how it leaves, and what it forgets; guarded by _lock.
_leavers: weakref.WeakKeyDictionary[object, tuple[Method, Method]] = weakref.WeakKeyDictionary()
_orphans: weakref.WeakKeyDictionary[object, Method] = weakref.WeakKeyDictionary()
_forking: list[Dispatcher] = []  # those whose locks are held across a fork; guarded by _lock
_exiting = _holding = False  # the latter: whether they are; guarded by _lock


def register(dispatcher: Dispatcher) -> None:
    """See to `dispatcher` at exit and after a fork."""
    locked(_lock, _register, dispatcher)
    if _exiting:
        dispatcher.close(AT_EXIT, cancel=False)


def _register(dispatcher: Dispatcher) -> None:
    if _holding:  # others' handlers are called now
        dispatcher.lock.acquire()
        _forking.append(dispatcher)
    _dispatchers.add(dispatcher)


def after_fork(forget: Bound) -> None:
    """Have `forget` called in every forked child, at exit too, before the pools' tasks are given up there.

    Its object is to be at the end then: the threads, and what they held or wait for, stayed in the parent. The pools
    are in order already, and no lock is held.

    Args:
        forget: a bound method, which does not keep its object.
    """
    locked(_lock, _orphans.__setitem__, forget.__self__, weakref.WeakMethod(forget))


def before_exit(leave: Bound, forget: Bound) -> None:
    """Have `leave` called when Python exits, before its object's pools are closed and waited for.

    It is to let the tasks end, and not to wait for them.

    Args:
        leave: a bound method, which does not keep its object.
        forget: another, called in a forked child, once the pools' tasks were given up there.
    """
    locked(_lock, _leavers.__setitem__, leave.__self__, (weakref.WeakMethod(leave), weakref.WeakMethod(forget)))


def _alive(methods: Iterable[Method]) -> list[Bound]:
    return [method for reference in methods if (method := reference()) is not None]


def exiting() -> bool:
    """Whether the interpreter has begun to exit."""
    return _exiting


def join(dispatcher: Dispatcher, timeout: float | None) -> bool:
    """Wait until every thread of a closed pool has ended, but for the one that calls.

    Returns:
        False if `timeout` seconds passed first.

    Raises:
        PoolDeadlock: they could never end.
    """
    dispatcher.expect_nothing()  # of a submit that this thread is in the midst of, as in a signal handler
    if not deadlock.is_awaited():
        return unheld(_join, dispatcher, timeout)
    return deadlock.wait(_End(dispatcher), current_worker(), lambda: _workers(dispatcher), timeout)


class _End:
    """The end of a closed pool's threads, as a gate to sleep at."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return unheld(_join, self._dispatcher, None if timeout < 0 else timeout)


def _workers(dispatcher: Dispatcher) -> list[Worker]:
    return locked(dispatcher.lock, dispatcher.workers.everybody)


def _join(dispatcher: Dispatcher, timeout: float | None) -> bool:
    deadline = None if timeout is None else clock.now() + timeout
    while True:
        threads, coming = _threads_to_join(dispatcher)
        if not threads and not coming:
            return True
        for thread in threads:
            if not _join_one(thread, deadline):
                return False
        dispatcher.count_out_the_dead()
        if coming or not all(map(has_ended, threads)):  # of one that is taken for dead
            closed_latch().acquire(True, A_MOMENT)
        if deadline is not None and clock.now() > deadline:
            return not any(_threads_to_join(dispatcher))


def _threads_to_join(dispatcher: Dispatcher) -> tuple[list[Thread], bool]:
    """Return the threads of a pool; or the last that left, as long as it has not ended. And whether more may come."""
    (threads, departed), coming = locked(dispatcher.lock, _look_at_threads, dispatcher)
    if threads or departed is None:
        return threads, coming
    if departed.is_alive():
        return [departed], coming
    dispatcher.workers.departed = None  # a pool that has ended keeps no thread
    return [], coming


def _look_at_threads(dispatcher: Dispatcher) -> tuple[tuple[list[Thread], Thread | None], bool]:
    """In one section: between two looks the last one that is being started may have come up."""
    return dispatcher.workers.threads(), dispatcher.workers.is_started_elsewhere()


def _join_one(thread: Thread, deadline: float | None) -> bool:
    thread.join(None if deadline is None else max(0.0, deadline - clock.now()))
    return not thread.is_alive()


def _living() -> list[Dispatcher]:
    return locked(_lock, list, _dispatchers)


def _interrupted() -> bool:
    """Whether Ctrl-C ended the main thread: then nobody waits for what is queued, or runs."""
    return issubclass(type(getattr(sys, "last_value", None)), KeyboardInterrupt) and not hasattr(sys, "ps1")


@atexit.register
def _at_exit() -> None:
    """Run what was accepted, then end."""
    global _exiting
    _exiting = True
    try:
        _drain(cancel=_interrupted())
    finally:
        log_living()


def _before_exit_handlers() -> None:
    """Run what was accepted before other exit handlers take away what it needs; then they may use the pools."""
    global _exiting
    if _interrupted():
        return
    _exiting = True
    _drain(cancel=False)
    _exiting = False
    _each(dispatcher.reopen for dispatcher in _living())


def _drain(*, cancel: bool) -> None:
    """Close all pools, and wait until what they accepted has run, unless it is to be cancelled."""
    leavers = dict(locked(_lock, list, _leavers.items()))
    try:
        _each(_alive([leave for leave, _ in leavers.values()]))
        for leaver in leavers:
            locked(_lock, _leavers.pop, leaver, None)
        pools = _living()
        _each(partial(dispatcher.close, AT_EXIT, cancel=cancel) for dispatcher in pools)
        _each(partial(dispatcher.read_maps, wait=False) for dispatcher in pools)
        _each(dispatcher.leave_maps for dispatcher in pools)
        if not cancel:
            _each(partial(join, dispatcher, None) for dispatcher in pools if not dispatcher.state.abandoned)
    except KeyboardInterrupt:
        _each(dispatcher.abandon for dispatcher in _living())
        raise


def _each(calls: Iterable[Callable[[], object]]) -> None:
    """Make every call, and log what one raises, but for Ctrl-C: none keeps the others from ending."""
    for call in calls:
        try:
            call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            log(_log, logging.ERROR, "a failure while Python exits", error=error)


def _before_fork() -> None:
    """Hold every lock, so that the child's copy of each pool is sound."""
    global _holding
    _lock.acquire()
    _holding = True
    deadlock.hold()
    _forking.extend(_dispatchers)
    for dispatcher in _forking:
        dispatcher.lock.acquire()
    rate.hold()


def _after_fork_in_parent() -> None:
    rate.let_go()
    pools = _let_go()
    deadlock.let_go()
    _lock.release()
    at_last(partial(_follow_up, pools))


def _let_go() -> list[Dispatcher]:
    """Let go of the pools' locks, and return the pools, to be let go of later."""
    global _holding
    pools = list(_forking)
    _forking.clear()
    _holding = False
    for dispatcher in pools:
        dispatcher.lock.release()
    return pools


def _follow_up(pools: list[Dispatcher]) -> None:
    """Do what others' handlers and destructors, which may use the pools, have left undone while locks were held."""
    _each([make_deferred_calls, *(dispatcher.attend for dispatcher in pools if dispatcher.state.attention)])


def _after_fork_in_child() -> None:
    """Leave the child an empty, working pool: the threads, and so the tasks, stayed in the parent.

    Nothing that may be the user's is called or let go of before every pool is in order, and no lock is held: it may use
    the pools. A name is the user's to tell, and destructors are.
    """
    inherited = [dispatcher.start_afresh() for dispatcher in _forking]
    forgetting = _alive([_leavers[whose][1] for whose in list(_leavers) if whose not in _orphans])
    _leavers.clear()
    pools = _let_go()  # the same locks as before: this thread may be a worker, or in the middle of a section
    rate.let_go()
    waits = deadlock.let_go(forget=True)
    _lock.release()
    at_last(partial(_give_up, inherited, forgetting))
    at_last(waits.clear)
    at_last(inherited.clear)
    at_last(partial(_follow_up, pools))


def _give_up(inherited: list[Inheritance], forgetting: list[Bound]) -> None:
    """Settle the parent's tasks, and forget what else is the parent's."""
    _each(_alive(list(_orphans.values())))  # first, for their tasks reach for what threads may have held
    settled: list[Callable[[], object]] = []
    try:
        _settle(inherited, settled)
    except BaseException:  # Ctrl-C: nobody else would settle the rest
        _settle(inherited, settled)
        raise
    finally:
        _each(settled)
        _each(forgetting)
        _each(feed.forget_readers for pool in inherited for feed in pool.maps)


def _settle(inherited: list[Inheritance], settled: list[Callable[[], object]]) -> None:
    """Settle the parent's tasks, as far as that was not done; and note what is to be called then."""
    for pool in inherited:
        for task in pool.tasks:
            if not task.done():
                settled.append(orphan(task, pool.rest, begun=task not in pool.pending))


def _at_thread_exit() -> None:
    """Have what was accepted run before the exit handlers that were registered until now, for the last is called first.

    Or be `_at_exit` where that comes too late, or never. Where daemon threads are not allowed, the interpreter waits
    for the workers before it calls the handlers of `atexit`; and a process that multiprocessing has forked calls none
    of them. `threading` calls this in both.
    """
    process = sys.modules.get("multiprocessing.process")
    if not DAEMON or (process is not None and process.parent_process() is not None):
        _at_exit()
    else:
        atexit.register(_before_exit_handlers)


_register_atexit = getattr(threading, "_register_atexit", None)  # private, and what the standard library's pool uses
if _register_atexit is not None:
    _register_atexit(_at_thread_exit)
at_fork("pools", _before_fork, _after_fork_in_parent, _after_fork_in_child)

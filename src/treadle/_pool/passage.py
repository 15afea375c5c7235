"""Passage: how a call goes through what others have put in the place of `ThreadPoolExecutor.submit`.

Sentry, OpenTelemetry and others replace that method, to wrap each call in what its thread is to know; `Pool.submit`,
which overrides it, lets them have their say:

    Pool.submit -> their wrapper -> the standard library's submit -> pool._shutdown_lock, pool._work_queue.put
                                                                       `-> a task of the pool, when the lock is let go

The standard library's `submit` is the only thing that their wrapper can end in. It makes a future and a work item, puts
that into the queue, and returns the future. What it finds in a pool for lock and queue makes a task of the item. Since
the wrapper may keep that future, give it callbacks, or hand it out, it is kept in step with the task's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, thread
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from treadle._base.locks import locked
from treadle._tasks.call import name_of
from treadle._tasks.future import CANCELLED, final_of, leave_to_others, see
from treadle._tasks.future import Future as Task
from treadle._tasks.waiters import InternalCallback

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["STANDARD", "ShutdownLock", "Way", "bare_call", "hand_over", "looks_open", "pass_through", "untouched"]


class Way:
    """The way into a pool, or a view of one, for a call that has passed through."""

    __slots__ = ("dispatcher", "enter", "make", "pool")

    def __init__(
        self, pool: Any, dispatcher: Dispatcher, make: Callable[..., Task[Any]], enter: Callable[[Task[Any]], object]
    ) -> None:
        self.pool = pool  # the user's
        self.dispatcher = dispatcher
        self.make = make  # a task of function, arguments, keywords, and a name for want of another
        self.enter = enter  # admits what was made


def _standard(found: Any) -> object:
    """Return the standard library's own `submit`, which `found` is, or was made from; None if that cannot be told."""
    while found is not None:
        if type(found) is FunctionType and found.__globals__ is vars(thread):
            return found
        found = getattr(found, "__wrapped__", None)
    return None


STANDARD = _standard(vars(ThreadPoolExecutor).get("submit"))
"""What `ThreadPoolExecutor.submit` is as long as nobody has replaced it."""

_code = getattr(STANDARD, "__code__", None)
STANDARD_CODE = _code if _code is not None and "_work_queue" in _code.co_names else None
"""Its code: ddtrace leaves the function where it is, and puts other code into it; perhaps before this is imported."""


def untouched(*, context: bool) -> bool:
    """Whether nobody has replaced `ThreadPoolExecutor.submit`; or its code, unless tasks copy the `context`.

    For a copy has what such code brings to the task.
    """
    return ThreadPoolExecutor.submit is STANDARD and (context or getattr(STANDARD, "__code__", None) is STANDARD_CODE)


class _Passage:
    """One submit on its way through the method that was replaced."""

    __slots__ = ("made", "name", "way")

    def __init__(self, way: Way, name: str) -> None:
        self.way = way
        self.name = name  # of the task; the wrapper's function tells nothing
        self.made: list[tuple[Future[Any], Task[Any]]] = []  # usually one


class _Here(threading.local):
    """What is under way in this thread."""

    passage: _Passage | None = None  # the innermost

    def __init__(self) -> None:
        self.blocks: list[tuple[Dispatcher, list[Any]]] = []  # that hold a ShutdownLock, and what was put in them


_here = _Here()


def pass_through(way: Way, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Submit a call through the method that was replaced.

    Returns:
        The task; or what the replacement returns in its stead.

    Raises:
        Whatever the way in, or the replacement, raises.
    """
    if _here.blocks or getattr(thread, "_shutdown", False):
        # A signal handler, or a destructor, in the midst of the standard library's `submit`, which holds a lock that is
        # not re-entrant. Or that takes nothing more, because Python exits: the pool does until it has run what it has.
        task = way.make(fn, args, kwargs)
        way.enter(task)
        return task
    if not kwargs.keys().isdisjoint(("self", "fn")):  # the replacement's own arguments are called so
        fn, kwargs = partial(fn, **kwargs), {}
    outer, passage = _here.passage, _Passage(way, name_of(fn))
    pool = way.pool
    try:
        _here.passage = passage
        found = vars(ThreadPoolExecutor)["submit"]
        bind = getattr(type(found), "__get__", None)  # a mock has none
        returned = (found if bind is None else bind(found, pool, type(pool)))(fn, *args, **kwargs)
    finally:
        _here.passage = outer
        _here.blocks.clear()  # Ctrl-C may have come before a block was left
    for future, task in passage.made:
        if future is returned:
            return task
    for _, task in passage.made:
        task.add_done_callback(_SEEN)
    return returned


def looks_open(dispatcher: Dispatcher) -> bool:
    """Whether the pool is to look open here, for admission refuses what is passed through: with treadle's errors."""
    passage = _here.passage
    return bool(_here.blocks) and passage is not None and passage.way.dispatcher is dispatcher


class ShutdownLock:
    """What is found in the place of an executor's `_shutdown_lock`.

    It keeps nobody out, for a pool's lock is not to be held while code of others runs. What is put into the pool's
    queue by a block that holds it is submitted at the block's end: the standard library's `submit` holds a lock of the
    whole process there, under which nothing may wait for room, or call out.
    """

    __slots__ = ("_way",)

    def __init__(self, way: Way) -> None:
        self._way = way

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Begin a block; at once, whoever else is in one."""
        _here.blocks.append((self._way.dispatcher, []))
        return True

    def release(self) -> None:
        """End the block, and submit what was put.

        Raises:
            RuntimeError: none was begun by this thread.
            As `Pool.submit`.
        """
        for item in self._leave():
            _submit_item(self._way, item)

    def _leave(self) -> list[Any]:
        if not _here.blocks:
            raise RuntimeError("release unlocked lock")
        return _here.blocks.pop()[1]

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            self._leave()


def hand_over(way: Way, item: Any) -> None:
    """Submit the call of a work item of the standard library: when the block is left that holds the lock, or now.

    Raises:
        As `Pool.submit`.
    """
    if item is None:  # what wakes the standard library's threads, to end
        return
    if _here.blocks and _here.blocks[-1][0] is way.dispatcher:
        _here.blocks[-1][1].append(item)
    else:
        _submit_item(way, item)


def _submit_item(way: Way, item: Any) -> None:
    future: Future[Any] = item.future
    if future.cancelled():
        return
    fn, args, kwargs = item.task if hasattr(item, "task") else (item.fn, item.args, item.kwargs)  # task: since 3.14
    passage = _here.passage
    if passage is None or passage.way.dispatcher is not way.dispatcher:  # the method was called directly
        passage = _Passage(way, name_of(fn))
    mine: list[Task[Any]] = []
    task = passage.way.make(partial(_begin, mine, future, fn), args, kwargs, passage.name)
    mine.append(task)
    # Before it is admitted, and may have run.
    future.add_done_callback(partial(_end_with, task))
    task.add_done_callback(partial(_settle, future))
    if passage is not _here.passage:
        task.add_done_callback(_SEEN)
    passage.made.append((future, task))
    passage.way.enter(task)


# -- keeping the standard library's future in step with the task ----------------------------------------------------


def _begin(mine: list[Task[Any]], future: Future[Any], fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Make the call of `future`; what such a task has for a function.

    Unless others were faster, after the task was claimed, who have begun the future, settled or cancelled it: then the
    task ends as that does (see `_end_with`).
    """
    task = mine.pop()
    if not locked(future._condition, _begin_unless_others_did, future):
        leave_to_others(task, cancelled=False)
        return None
    try:
        return fn(*args, **kwargs)
    finally:
        del future, task  # the traceback holds this frame: no cycle through it


def _begin_unless_others_did(future: Future[Any]) -> bool:
    """Begin it; its condition, which is re-entrant, is held."""
    return not future.running() and not future.done() and future.set_running_or_notify_cancel()


def bare_call(fn: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return function and arguments of a task without what `_begin` adds to it."""
    if type(fn) is partial and fn.func is _begin:
        return partial(fn.args[2], **fn.keywords) if fn.keywords else fn.args[2], args
    return fn, args


def _end_with(task: Task[Any], future: Future[Any]) -> None:
    """End the task as its other future has, if somebody else has cancelled or settled that."""
    if task.done():
        return
    with suppress(InvalidStateError):  # it has ended meanwhile
        if future.cancelled():
            if not task.cancel():
                leave_to_others(task, cancelled=True)
        elif (error := future.exception()) is not None:
            task.set_exception(error)
        else:
            task.set_result(future.result())


def _see(task: Task[Any]) -> None:
    if not task.cancelled():
        see(task)


_SEEN = InternalCallback(_see)
"""For a task that nobody has: whoever asks for what it raised asks its other future, so it is not lost."""


def _settle(future: Future[Any], task: Task[Any]) -> None:
    """Let `future` end as the task has."""
    if task.cancelled():
        if future.cancel():
            locked(future._condition, _take_note, future)
        return
    final = final_of(task)
    with suppress(InvalidStateError):  # it was cancelled after the task was claimed, or settled by others
        if final._exception is None:
            future.set_result(final._result)
        else:
            future.set_exception(final._exception)


def _take_note(future: Future[Any]) -> None:
    """Take note of its cancellation, if nobody has; its condition is held."""
    if future._state == CANCELLED:
        future.set_running_or_notify_cancel()

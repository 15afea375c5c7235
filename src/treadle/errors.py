"""Every error that treadle raises, drawn as a tree.

    TreadleError
    |- Overloaded                    more is asked of a pool than it can do
    |  |- PoolFull                   it had no room for a task, and its policy said no
    |  `- Shed                       it dropped a task that waited
    |- Cancelled (CancelledError)    the running task was asked to stop
    |- DeadlineExceeded (TimeoutError)  the deadline of a task, or of the caller, has passed
    |- PoolClosed (RuntimeError)     the pool was shut down, or Python is exiting
    |- PoolBroken (BrokenThreadPool) a worker's initializer failed, or the pool's order
    |- WorkerLost                    a worker thread ended in the middle of a task
    |- PoolDeadlock (RuntimeError)   every thread that could end a wait is itself waiting for it
    |- PatchedTooLate (RuntimeError)  threads were replaced by greenlets after treadle was imported
    |- BindError (OSError)           a server cannot listen where it was told to
    |- MessageTooLong                a client's message was longer than the limit
    |- ChannelFull (queue.Full)      a channel had no room within the time allowed
    |- ChannelEmpty (queue.Empty)    a channel had no item within the time allowed
    `- ChannelClosed (queue.ShutDown)  a channel takes no more items, or has none left

A class tells what failed; its attributes carry the facts; its message ends with what to do next. All of them can be
pickled and copied, and so come out of other processes as they are.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterable
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from treadle._base.late import Late
from treadle._base.words import counted, pass_on, show

if TYPE_CHECKING:
    import copy
    import io
    import pickle
else:
    copy, io, pickle = Late("copy"), Late("io"), Late("pickle")

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """Stands for `queue.ShutDown`, which Python has since 3.13."""


__all__ = [
    "BindError",
    "Cancelled",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "DeadlineExceeded",
    "MessageTooLong",
    "Overloaded",
    "PatchedTooLate",
    "PoolBroken",
    "PoolClosed",
    "PoolDeadlock",
    "PoolFull",
    "Shed",
    "TreadleError",
    "WorkerLost",
]

E = TypeVar("E", bound="TreadleError")


class TreadleError(Exception):
    """The root of every error of treadle's own.

    All of them can be pickled and copied, with their type, text, attributes and notes; cause and traceback are lost, as
    they are of every exception. So can subclasses, whatever arguments they take. What an error carries that cannot be
    pickled travels as its `repr`, and what cannot be copied deeply is shared.
    """

    # Python would call the class with the error's `args`. Those are its text, and not what the class takes; so an error
    # is put together again without a call of its `__init__`.

    def __reduce__(self) -> tuple[Any, ...]:
        args, state = map(_portable, _args_of(self)), self.__getstate__()
        if type(state) is dict:  # else a subclass has made it up, and knows what can be pickled
            state = {name: _portable(value) for name, value in state.items()}
        return _remake, (type(self), tuple(args)), state

    def __getstate__(self) -> Any:
        made_from: Any = super().__reduce__()
        own: Any = super().__getstate__()
        plain, slots = own if isinstance(own, tuple) else (own, None)
        return {**(made_from[2] if len(made_from) > 2 else {}), **(plain or {}), **(slots or {})}

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        for name, value in (state or {}).items():
            object.__setattr__(self, name, value)  # a frozen dataclass takes them in no other way

    def __copy__(self) -> Self:
        twin = _remake(type(self), _args_of(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        args = tuple(_deep_copy(arg, memo) for arg in _args_of(self))
        memo[id(self)] = twin = _remake(type(self), args)  # what it carries may lead back to it
        state = self.__getstate__()
        if type(state) is dict:
            state = {name: _deep_copy(value, memo) for name, value in state.items()}
        twin.__setstate__(state)
        return twin


# No methods: subclasses are the users', and so are the names there.


def _args_of(error: TreadleError) -> tuple[Any, ...]:
    """Return what Python's own class below makes an error from: its `args`; and the file's name, of an OSError."""
    made_from: Any = super(TreadleError, error).__reduce__()
    return cast("tuple[Any, ...]", made_from[1])


def _remake(kind: type[E], args: tuple[Any, ...]) -> E:
    """Return an error without its attributes; pickles name this function."""
    native: Any = kind
    while native.__module__ != "builtins":
        native = native.__base__
    error = native.__new__(kind, *args)
    native.__init__(error, *args)
    return cast(E, error)


def _portable(value: Any) -> Any:
    """Return `value`, or else, if it does not survive being pickled, its `repr`."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    try:
        trial = io.BytesIO()
        _trial(trial).dump(value)
        pickle.loads(trial.getvalue())
        return value
    except BaseException as error:
        pass_on(error)
        return show(value)


def _trial(file: Any) -> pickle.Pickler:
    """Return what passes over errors of treadle's: they see to what they carry, which may lead back here."""

    class Trial(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return (str, ()) if issubclass(type(obj), TreadleError) else NotImplemented

    return Trial(file)


def _deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of `value`, or else, if there can be none, `value`."""
    try:
        return copy.deepcopy(value, memo)
    except BaseException as error:
        pass_on(error)
        return value


class Overloaded(TreadleError):
    """More is asked of a pool than it can do, so a task was not taken, or was dropped: try later, or do without it.

    Attributes:
        pool: the pool's name.
        task_name: the task's name.
        key: the task's key, see `Pool.options`; None if it has none.
        waited: the seconds that it has waited, for room or in the queue; 0 if it has not.
    """

    def __init__(self, message: str, *, pool: str, task_name: str, key: object = None, waited: float = 0.0) -> None:
        self.pool = pool
        self.task_name = task_name
        self.key = key
        self.waited = waited
        super().__init__(message)


class PoolFull(Overloaded):
    """The pool's queue was full, and its policy (or the time allowed) said no.

    Attributes:
        pool, task_name, key: see `Overloaded`.
        waited: the seconds that its caller has waited for room; 0 if it has not.
        queue_size: the pool's limit on waiting tasks; None if it has none.
        waiting: how many tasks were waiting when the task was refused.
        of_key: whether it was not that limit that was reached, but the key's own (see `treadle.orders.Fair`).
    """

    def __init__(
        self,
        pool: str,
        task_name: str,
        *,
        queue_size: int | None,
        waiting: int,
        waited: float = 0.0,
        key: object = None,
        of_key: bool = False,
    ) -> None:
        self.queue_size = queue_size
        self.waiting = waiting
        self.of_key = of_key
        after = f" after waiting {waited:g} s for room" if waited else ""
        if of_key:
            message = (
                f"pool {pool!r} is full for key {show(key)}{after}: as many of its tasks wait as its order allows one "
                "key (max_waiting); submit less for that key, or choose another when_full"
            )
        else:
            held = counted(waiting, "task waits", "tasks wait")
            message = (
                f"pool {pool!r} is full{after}: {held}, queue_size={queue_size}; "
                "submit less, raise queue_size or max_workers, or choose another when_full"
            )
        super().__init__(message, pool=pool, task_name=task_name, key=key, waited=waited)


class Shed(Overloaded):
    """The pool dropped a task that waited, for more was offered than it can do.

    Attributes:
        pool, task_name, key: see `Overloaded`.
        waited: seconds from its submission until it was dropped.
        reason: "too_old", if it had waited too long (see `treadle.orders.Adaptive`); "discarded", if the queue was
            full, and `when_full="discard_oldest"` made room for a newer one.
    """

    def __init__(
        self,
        pool: str,
        task_name: str,
        waited: float,
        reason: Literal["too_old", "discarded"],
        *,
        key: object = None,
    ) -> None:
        self.reason = reason
        if reason == "discarded":
            message = (
                f"pool {pool!r} dropped task {task_name} after {waited:.3f} s, to make room for a newer one: its queue "
                "is full, and when_full is 'discard_oldest'; do without it, submit less, or raise queue_size or "
                "max_workers"
            )
        else:
            message = (
                f"pool {pool!r} shed task {task_name} after {waited:.3f} s: it is offered more than it can do; "
                "answer with a quick refusal, try again later, or raise max_workers"
            )
        super().__init__(message, pool=pool, task_name=task_name, key=key, waited=waited)


class Cancelled(TreadleError, CancelledError):
    """The running task was asked to stop: by `Future.request_cancel`, or because its group is over.

    To `except concurrent.futures.CancelledError` it is that; but the future of a task that ends with it is done, and
    not `cancelled()`, for the task had begun.

    Attributes:
        task_name: the name of the task that was to stop; None if it was no task, but the code around some, as of a
            group's block.
        pool: the name of its pool; None likewise.
    """

    def __init__(self, task_name: str | None = None, pool: str | None = None) -> None:
        self.task_name = task_name
        self.pool = pool
        who = "the code here" if task_name is None else f"task {task_name}"
        super().__init__(f"{who} was asked to stop; let this pass, so that it ends")


class DeadlineExceeded(TreadleError, TimeoutError):
    """The deadline has passed, of a task before it was done, or of whoever waits or submits.

    Attributes:
        seconds: what `treadle.deadline` was given.
        task_name: the name of the task that was not done, or did not go on, in time; None if it was no task.
        pool: the name of its pool; None likewise.
    """

    def __init__(self, seconds: float, task_name: str | None = None, pool: str | None = None) -> None:
        self.seconds = seconds
        self.task_name = task_name
        self.pool = pool
        whose = "" if task_name is None else f" for task {task_name}"
        super().__init__(f"the deadline of {seconds:g} s has passed{whose}; give more time, or do less")


class PoolClosed(TreadleError, RuntimeError):
    """The pool, or the view of it, takes no more tasks: it was shut down, or Python is exiting.

    Attributes:
        pool: the pool's name.
        reason: after what it was closed, in words: "shutdown", "interpreter shutdown", ...
    """

    def __init__(self, pool: str, reason: str = "shutdown", *, view: bool = False) -> None:
        self.pool = pool
        self.reason = reason
        what, instead = f"pool {pool!r}", "submit before closing it"
        if view:
            what, instead = f"a view of {what}", "make another one with the pool's options(...)"
        super().__init__(f"cannot schedule new futures after {reason}: {what} is closed; {instead}")


class PoolBroken(TreadleError, BrokenThreadPool):
    """A worker's `initializer`, its `thread_lifespan`, or the pool's order failed, so the pool runs nothing more.

    What that raised is the error's `__cause__`.

    Attributes:
        pool: the pool's name.
        reason: what failed, in words.
    """

    def __init__(self, pool: str, reason: str = "A thread initializer failed") -> None:
        self.pool = pool
        self.reason = reason
        super().__init__(f"{reason}, the thread pool is not usable anymore: pool {pool!r}; the log holds the traceback")


class WorkerLost(TreadleError):
    """A worker thread ended, or stayed behind in a parent process, before its task was done.

    Attributes:
        thread: the thread's name; None if it stayed behind in the parent process.
        task_name: the task's name.
        reason: what ended the thread, in words.
    """

    def __init__(self, thread: str | None, task_name: str, reason: BaseException | str | None) -> None:
        self.thread = thread
        self.task_name = task_name
        self.reason = reason if isinstance(reason, str) else show(reason)
        worker = "the worker of the parent process" if thread is None else f"worker {thread}"
        super().__init__(
            f"{worker} ended in the middle of task {task_name}: {self.reason}; "
            "submit the task again if it may run twice"
        )


class PoolDeadlock(TreadleError, RuntimeError):
    """A wait that could never end: every thread that could end it is itself waiting.

    So is that of a signal handler, or of a finalizer, for a task, where it comes amid another call of the pool: until
    that goes on, no thread of the pool does. It is refused after half a second.

    Attributes:
        pools: the names of the pools whose threads wait for each other.
        targets: what was waited for: names of tasks, and of what else threads may bring.
    """

    def __init__(self, pools: Iterable[str], targets: Iterable[str]) -> None:
        self.pools = tuple(pools)
        self.targets = tuple(targets)
        where = f", in {', '.join(map(repr, self.pools))}," if self.pools else ""
        super().__init__(
            f"deadlock: waiting for {', '.join(self.targets)} could never end, because every thread that could end "
            f"it{where} waits too; wait with a timeout, or not from inside a task or a signal handler"
        )


class PatchedTooLate(TreadleError, RuntimeError):
    """Threads were replaced by greenlets after treadle was imported, so no thread can be started.

    Its locks are those of real threads, and a greenlet that waits for one stops all others. What threads were running
    before goes on.
    """

    def __init__(self) -> None:
        super().__init__(
            "no thread can be started: the threading module was patched after treadle was imported, and greenlets "
            "would hang at treadle's locks; call gevent.monkey.patch_all(), or eventlet.monkey_patch(), first thing in "
            "the program, before treadle is imported"
        )


class ChannelFull(TreadleError, queue.Full):
    """The channel had no room within the time allowed.

    Attributes:
        channel: the channel's name.
        capacity: the most items that wait in it.
        waited: the seconds allowed, which have passed; 0 if the caller did not wait.
    """

    def __init__(self, channel: str, capacity: int, waited: float = 0.0) -> None:
        self.channel = channel
        self.capacity = capacity
        self.waited = waited
        after = f" after waiting {waited:g} s for room" if waited else ""
        super().__init__(
            f"channel {channel!r} is full{after}: capacity={capacity}; take items faster, raise capacity, or wait "
            "longer"
        )


class ChannelEmpty(TreadleError, queue.Empty):
    """The channel had no item within the time allowed.

    Attributes:
        channel, waited: as of `ChannelFull`.
        capacity: the most items that wait in it; None: no limit.
    """

    def __init__(self, channel: str, capacity: int | None = None, waited: float = 0.0) -> None:
        self.channel = channel
        self.capacity = capacity
        self.waited = waited
        after = f" after waiting {waited:g} s for an item" if waited else ""
        super().__init__(f"channel {channel!r} is empty{after}; put items faster, or wait longer")


class ChannelClosed(TreadleError, ShutDown):
    """The channel is closed: it takes no more items, or has none left to give. A `queue.ShutDown` since Python 3.13.

    Attributes:
        channel, capacity: as of `ChannelEmpty`.
        waited: the seconds that the caller had waited when it was closed; 0 if it was before.
    """

    def __init__(self, channel: str, capacity: int | None = None, waited: float = 0.0, *, empty: bool = False) -> None:
        self.channel = channel
        self.capacity = capacity
        self.waited = waited
        state = "closed and empty: no item will come; stop taking"
        if not empty:
            state = "closed: it takes no more items; put before closing it"
        super().__init__(f"channel {channel!r} is {state}")


class BindError(TreadleError, OSError):
    """A server cannot listen where it was told to.

    Attributes:
        bind: where, as it was given.
        reason: why not, and what to do, in words.
        errno, strerror, filename: as of every OSError; None where the system has not said a word.
    """

    def __init__(self, bind: str, reason: str, error: OSError | None = None) -> None:
        self.bind = bind
        self.reason = reason
        message = f"cannot listen on {bind}: {reason}"
        if error is None or error.errno is None:
            super().__init__(message)
        elif error.filename is None:
            super().__init__(error.errno, error.strerror)
        else:
            super().__init__(error.errno, error.strerror, error.filename)

    def __str__(self) -> str:
        return f"cannot listen on {self.bind}: {self.reason}"


class MessageTooLong(TreadleError):
    """A client's message was longer than `Limits.max_message`; its connection is closed.

    Attributes:
        limit: bytes allowed.
        length: bytes announced by the client, or None where a framing has no length.
    """

    def __init__(self, limit: int, length: int | None = None) -> None:
        self.limit = limit
        self.length = length
        what = "a message" if length is None else f"a message of {counted(length, 'byte')}"
        super().__init__(
            f"{what} is longer than {counted(limit, 'byte')}; raise Limits(max_message=...) if clients may send that"
        )


def __dir__() -> list[str]:
    return list(__all__)

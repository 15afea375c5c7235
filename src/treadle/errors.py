"""Every error that treadle raises, drawn as a tree.

    TreadleError
    |- PoolFull                      the pool had no room for a task, and its policy said no
    |- Cancelled (CancelledError)    the running task was asked to stop
    |- DeadlineExceeded (TimeoutError)  the deadline of a task, or of the caller, has passed
    |- Shed                          the pool dropped a waiting task, for more was offered than it can do
    |- PoolClosed (RuntimeError)     the pool was shut down, or Python is exiting
    |- PoolBroken (BrokenThreadPool) a worker's initializer failed
    |- WorkerLost                    a worker thread ended in the middle of a task
    |- PoolDeadlock (RuntimeError)   every thread that could end a wait is itself waiting for it
    |- PatchedTooLate (RuntimeError)  threads were replaced by greenlets after treadle was imported
    |- BindError (OSError)           a server cannot listen where it was told to
    |- MessageTooLong                a client's message was longer than the limit
    |- ChannelFull                   a channel had no room within the time allowed
    |- ChannelEmpty                  a channel had no item within the time allowed
    `- ChannelClosed                 a channel takes no more items, or has none left

A class tells what failed; its attributes carry the facts; its message ends with what to do next.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool

from treadle._words import show

__all__ = [
    "BindError",
    "Cancelled",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "DeadlineExceeded",
    "MessageTooLong",
    "PatchedTooLate",
    "PoolBroken",
    "PoolClosed",
    "PoolDeadlock",
    "PoolFull",
    "Shed",
    "TreadleError",
    "WorkerLost",
]


class TreadleError(Exception):
    """The root of every error of treadle's own."""


class PoolFull(TreadleError):
    """The pool's queue was full, and its policy (or the time allowed) said no.

    Attributes:
        pool: the pool's name.
        queue_size: the limit on waiting tasks that was reached.
        waiting: how many tasks were waiting when the task was refused.
        key: the task's key, if it was that key's own ceiling that was reached (see `treadle.orders.Fair`).
    """

    def __init__(
        self,
        pool: str,
        queue_size: int,
        waiting: int,
        waited: float | None = None,
        key: object = None,
        *,
        of_key: bool = False,
    ) -> None:
        self.pool = pool
        self.queue_size = queue_size
        self.waiting = waiting
        self.key = key
        after = "" if waited is None else f" after waiting {waited:g} s for room"
        if of_key:
            super().__init__(
                f"pool {pool!r} is full for key {show(key)}{after}: as many of its tasks wait as its order allows one "
                "key (max_waiting); submit less for that key, or choose another when_full"
            )
            return
        super().__init__(
            f"pool {pool!r} is full{after}: {waiting} tasks wait, queue_size={queue_size}; "
            "submit less, raise queue_size or max_workers, or choose another when_full"
        )


class Cancelled(TreadleError, CancelledError):
    """The running task was asked to stop: by `Future.request_cancel`, or because its group is over.

    To `except concurrent.futures.CancelledError` it is that; but the future of a task that ends with it is done, and
    not `cancelled()`, for the task had begun.
    """

    def __init__(self) -> None:
        super().__init__("the task was asked to stop; let this pass, so that it ends")


class DeadlineExceeded(TreadleError, TimeoutError):
    """The deadline has passed, of a task before it was done, or of whoever waits or submits.

    Attributes:
        seconds: what `treadle.deadline` was given.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the deadline of {seconds:g} s has passed; give more time, or do less")


class Shed(TreadleError):
    """The task was dropped while it waited: more was offered than the pool can do, and it had waited too long.

    Attributes:
        pool: the pool's name.
        task: the task's name.
        waited: seconds from its submission until it was dropped.
    """

    def __init__(self, pool: str, task: str, waited: float) -> None:
        self.pool = pool
        self.task = task
        self.waited = waited
        super().__init__(
            f"pool {pool!r} shed task {task} after {waited:.3f} s: it is offered more than it can do; "
            "answer with a quick refusal, try again later, or raise max_workers"
        )


class PoolClosed(TreadleError, RuntimeError):
    """The pool takes no more tasks: it was shut down, or Python is exiting.

    Attributes:
        pool: the pool's name.
    """

    def __init__(self, pool: str, when: str = "shutdown") -> None:
        self.pool = pool
        super().__init__(f"cannot schedule new futures after {when}: pool {pool!r} is closed; submit before closing it")


class PoolBroken(TreadleError, BrokenThreadPool):
    """A worker's initializer failed, so the pool runs nothing more.

    Attributes:
        pool: the pool's name.
    """

    def __init__(self, pool: str) -> None:
        self.pool = pool
        super().__init__(
            f"A thread initializer failed, the thread pool is not usable anymore: pool {pool!r}; "
            "the log holds the initializer's traceback"
        )


class WorkerLost(TreadleError):
    """A worker thread ended, or stayed behind in a parent process, before its task was done.

    Attributes:
        worker: the thread's name.
        task: the task's name.
    """

    def __init__(self, worker: str, task: str, reason: BaseException | str | None) -> None:
        self.worker = worker
        self.task = task
        super().__init__(
            f"worker {worker} ended in the middle of task {task}: {show(reason)}; "
            "submit the task again if it may run twice"
        )


class PoolDeadlock(TreadleError, RuntimeError):
    """A wait that could never end: every thread that could end it is itself waiting.

    Attributes:
        pools: the names of the pools whose threads wait for each other.
    """

    def __init__(self, pools: list[str], targets: list[str]) -> None:
        self.pools = pools
        where = f", in {', '.join(map(repr, pools))}," if pools else ""
        super().__init__(
            f"deadlock: waiting for {', '.join(targets)} could never end, because every thread that could end "
            f"it{where} waits too; wait with a timeout, or not from inside a task"
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


class ChannelFull(TreadleError):
    """The channel had no room within the time allowed."""


class ChannelEmpty(TreadleError):
    """The channel had no item within the time allowed."""


class ChannelClosed(TreadleError):
    """The channel is closed: it takes no more items, or has none left to give."""


class BindError(TreadleError, OSError):
    """A server cannot listen where it was told to.

    Attributes:
        bind: where, as it was given.
    """

    def __init__(self, bind: str, why: str) -> None:
        self.bind = bind
        super().__init__(f"cannot listen on {bind}: {why}")


class MessageTooLong(TreadleError):
    """A client's message was longer than `Limits.max_message`; its connection is closed.

    Attributes:
        limit: bytes allowed.
        length: bytes announced by the client, or None where a framing has no length.
    """

    def __init__(self, limit: int, length: int | None = None) -> None:
        self.limit = limit
        self.length = length
        what = "a message" if length is None else f"a message of {length} bytes"
        super().__init__(f"{what} is longer than {limit} bytes; raise Limits(max_message=...) if clients may send that")


def __dir__() -> list[str]:
    return list(__all__)

"""The asyncio bridge: await what threads do without blocking the event loop.

No result passes through an asyncio future: of what a task may raise, asyncio takes some for its own (CancelledError, by
which a TaskGroup would think that it was cancelled) and refuses some (StopIteration, and then the await never ends). A
future of the loop only tells that the task is done.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from treadle._base.threads import start_thread
from treadle._tasks.future import Future
from treadle._tasks.waiters import why_dropped

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["call", "outcome"]

T = TypeVar("T")


async def outcome(dispatcher: Dispatcher, future: concurrent.futures.Future[T], timeout: float | None) -> T:
    """Await the result of a task that was submitted without blocking the loop, and may still wait for room.

    If the await is cancelled, cancel the task, or ask it to stop.

    Args:
        dispatcher: the pool's.
        future: the task; or what somebody returns in its stead.
        timeout: seconds to wait for room; None: no limit.

    Raises:
        PoolFull, PoolClosed, PoolBroken: it was not taken.
        Shed, PoolClosed: the pool dropped it.
        asyncio.CancelledError: the await was cancelled.
        concurrent.futures.CancelledError: somebody cancelled the task itself.
        RuntimeError: it raised StopIteration, or asyncio.CancelledError, which mean other things here.
        BaseException: whatever else it raises.
    """
    loop, timer = asyncio.get_running_loop(), None
    if timeout is not None and isinstance(future, Future) and future in dispatcher.admission.waiting:
        timer = loop.call_later(timeout, dispatcher.give_up_waiting, future, timeout)
    try:
        await _until_done(future, loop)
    except asyncio.CancelledError:
        if isinstance(future, Future):
            future.request_cancel()
        raise
    finally:
        if timer is not None:
            timer.cancel()
    try:
        return _outcome(future)
    finally:
        del future  # the traceback holds this frame: no cycle through it


async def call(fn: Callable[[], T], name: str) -> T:
    """Call `fn` in a thread of its own, called `name`, and await the result.

    The loop's executor will not do: it may be the pool that is to be closed. Cancelling the await leaves the thread at
    work.

    Raises:
        RuntimeError: no thread can be started; or as `run`.
        BaseException: whatever `fn` raises.
    """
    loop = asyncio.get_running_loop()
    future: Future[T] = Future()
    start_thread(partial(_settle, future, fn), name)
    await _until_done(future, loop)
    try:
        return _outcome(future)
    finally:
        del future


def _settle(future: Future[T], fn: Callable[[], T]) -> None:
    try:
        result = fn()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future


async def _until_done(future: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Return when `future` is done, whatever came of it."""
    done = loop.create_future()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody awaits it any more
            loop.call_soon_threadsafe(_wake, done)

    future.add_done_callback(tell)
    await done


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():  # it may be cancelled
        done.set_result(None)


def _outcome(future: concurrent.futures.Future[T]) -> T:
    """Return what the task, which is done, returned; raise what it raised, or why its pool has cancelled it."""
    why = why_dropped(future)
    try:
        if why is not None:
            raise why
        return future.result()
    except asyncio.CancelledError as error:  # or whoever awaits would seem to be cancelled
        raise RuntimeError("the task raised asyncio.CancelledError") from error
    finally:
        del future, why

"""The asyncio bridge: await a task without blocking the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, TypeVar

from treadle.futures import Future

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher

__all__ = ["outcome"]

T = TypeVar("T")


async def outcome(dispatcher: Dispatcher, future: concurrent.futures.Future[T], timeout: float | None) -> T:
    """Await the result of a task that was submitted without blocking the loop, and may still wait for room.

    Args:
        dispatcher: the pool's.
        future: the task; or what somebody returns in its stead.
        timeout: seconds to wait for room; None: no limit.

    Raises:
        PoolFull, PoolClosed, PoolBroken: it was not taken.
        BaseException: what it raises.
    """
    if timeout is None or not isinstance(future, Future) or future not in dispatcher.admission.entrants:
        return await _outcome(future)

    def give_up() -> None:
        error = dispatcher.admission.give_up(future, timeout)
        if error is not None:
            future._drop(error)

    timer = asyncio.get_running_loop().call_later(timeout, give_up)
    try:
        return await _outcome(future)
    finally:
        timer.cancel()


async def _outcome(future: concurrent.futures.Future[T]) -> T:
    """Await the task; if that is cancelled, and the task runs, ask it to stop."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if isinstance(future, Future):
            future.request_cancel()
        raise

"""The asyncio bridge: await a task without blocking the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from treadle.futures import Future

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher

__all__ = ["run"]

T = TypeVar("T")


async def run(dispatcher: Dispatcher, task: Future[T], when_full: str, timeout: float | None) -> T:
    """Admit `task` and await its result.

    Args:
        dispatcher: the pool's.
        task: not admitted yet.
        when_full: the policy; "run" waits, since running here would block the loop.
        timeout: seconds to wait for room; None: no limit.

    Raises:
        PoolFull, PoolClosed, PoolBroken: it was not taken.
        BaseException: what it raises.
    """
    loop = asyncio.get_running_loop()
    entered = dispatcher.admission.enter_later(task, when_full)
    if entered or timeout is None:
        return await _outcome(task)

    def give_up() -> None:
        error = dispatcher.admission.give_up(task, timeout)
        if error is not None:
            task._drop(error)

    timer = loop.call_later(timeout, give_up)
    try:
        return await _outcome(task)
    finally:
        timer.cancel()


async def _outcome(task: Future[T]) -> T:
    """Await the task; if that is cancelled, and the task runs, ask it to stop."""
    try:
        return await asyncio.wrap_future(task)
    except asyncio.CancelledError:
        task.request_cancel()
        raise

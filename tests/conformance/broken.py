"""Executors and futures that are wrong on purpose, to show that the suite finds out."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

# By other names than they are looked up by, for driver.py puts the classes below in their place.
StandardExecutor = concurrent.futures.ThreadPoolExecutor
StandardFuture = concurrent.futures.Future


class Future(StandardFuture[Any]):
    """Claims that it was cancelled, always."""

    def cancel(self) -> bool:
        super().cancel()
        return True


class Forgetful(StandardExecutor):
    """Runs no task, and says that it was done."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> StandardFuture[Any]:
        future = Future()
        future.set_result(None)
        return future


class Stuck(StandardExecutor):
    """Its tasks never end."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> StandardFuture[Any]:
        return super().submit(threading.Event().wait)


class Leaky(StandardExecutor):
    """Leaves a thread behind."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        threading.Thread(target=threading.Event().wait, daemon=True).start()

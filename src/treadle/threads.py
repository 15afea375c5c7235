"""Threads: the only place where treadle makes them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context

__all__ = ["DAEMON", "new_thread", "start_thread"]

DAEMON = getattr(threading, "_daemon_threads_allowed", lambda: True)()
"""Whether threads are daemons: not in an isolated sub-interpreter, which has none (see `treadle.lifecycle`)."""


def new_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Return a thread that was not started: a pool's worker. It has a context of its own, and so no caller's scope."""
    if sys.version_info >= (3, 14):  # there a free-threaded build would give it a copy of its starter's
        return threading.Thread(target=target, name=name, daemon=DAEMON, context=Context())
    return threading.Thread(target=target, name=name, daemon=DAEMON)


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread beside the pools': a server's watchdog, the alarm.

    Raises:
        RuntimeError: no thread can be started.
    """
    thread = new_thread(target, name)
    thread.start()
    return thread

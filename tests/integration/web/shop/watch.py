"""Looks whether each request has a thread and a context of its own, and what becomes of the thread's connection."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from django.core import signals
from django.db import connections

visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


class Log:
    """What was seen since it was last cleared."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.started = 0
        self.finished = 0
        self.ends: Counter[str] = Counter()  # how often each request was closed
        self.strays: list[str] = []  # what was done in another thread or context than the view; empty if all is well
        self.leaks: list[str] = []  # what a request has found of another
        self.threads: set[threading.Thread] = set()  # of the views

    def start(self, **_: Any) -> None:
        self.started += 1

    def finish(self, **_: Any) -> None:
        """Note where the request ended: Django closes the connections of the thread that says so."""
        self.finished += 1
        if threading.current_thread() not in self.threads:
            self.strays.append(f"request_finished in {threading.current_thread()}")

    def check(self, requests: int) -> None:
        assert self.strays == []
        assert self.leaks == []
        assert len(self.ends) == requests
        assert set(self.ends.values()) == {1}
        assert self.started == self.finished == requests


LOG = Log()
signals.request_started.connect(LOG.start)
signals.request_finished.connect(LOG.finish)


def stay(where: str, name: str) -> None:
    """Note if this is another context than that of the request."""
    if visitor.get() != name:
        LOG.strays.append(f"{where} of {name} in the context of {visitor.get()}")


class Watch:
    """Django's middleware around each view."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        name, thread = request.get_full_path(), threading.current_thread()
        if visitor.get() is not None:
            LOG.leaks.append(f"{name} found {visitor.get()}")
        if connections["default"].connection is not None and connections["default"].settings_dict["CONN_MAX_AGE"] == 0:
            LOG.leaks.append(f"{name} found a connection of another")
        visitor.set(name)
        LOG.threads.add(thread)
        response = self.get_response(request)

        def close() -> None:
            LOG.ends[name] += 1
            stay("close", name)
            if threading.current_thread() is not thread:
                LOG.strays.append(f"close of {name} in {threading.current_thread()}")

        response._resource_closers.append(close)
        return response

"""Calls: what a task is called in logs, in what it runs, and what becomes of an exception that nobody asks for."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from treadle._base.words import LONGEST_NAME, cut, log, note, pass_on, type_name
from treadle.errors import Cancelled

__all__ = ["Gone", "NoContext", "Unretrieved", "log_living", "name_of"]

_log = logging.getLogger("treadle")


def name_of(fn: object) -> str:
    """Return the name by which logs and snapshots call a task that runs `fn`: its type's, if it does not tell one."""
    plain = fn.func if type(fn) is partial else fn
    if type(plain) is MethodType:
        plain = plain.__func__
    if type(plain) is FunctionType:  # nearly always, and nothing of it is the user's
        return cut(plain.__qualname__, LONGEST_NAME)
    target: object = fn
    name: Any = None
    try:
        target = getattr(fn, "func", fn)  # functools.partial
        if type(fn) is partial and fn.args and type(getattr(target, "__self__", None)) is Context:
            target = fn.args[0]  # as asyncio.to_thread makes a call
        name = getattr(target, "__qualname__", None)
    except BaseException as error:  # a proxy out of its context may raise anything
        pass_on(error)
    if type(name) is str and len(name) <= LONGEST_NAME:
        return name
    return cut(name, LONGEST_NAME) if issubclass(type(name), str) else type_name(target)


class NoContext:
    """Runs a call in no context of its own; what a task has instead of a Context in a pool without contexts."""

    @staticmethod
    def run(fn: Callable[..., Any], *args: Any) -> Any:
        """Return `fn(*args)`."""
        return fn(*args)

    def copy(self) -> NoContext:
        """Return what the next call is to run in."""
        return self


class Gone(NoContext):
    """Runs nothing; what a task has that was not begun when its thread forked: in the child, it is the parent's."""

    @staticmethod
    def run(fn: Callable[..., Any], *args: Any) -> Any:
        """Raise what is neither kept as a failure nor logged."""
        raise Cancelled


class Unretrieved:
    """Logs an exception, once, if its future vanishes before anybody asked for it, or still lives when Python exits."""

    __slots__ = ("__weakref__", "error", "name", "where")

    def __init__(self, name: str, error: BaseException, where: str | None = None) -> None:
        self.name = name
        self.error: BaseException | None = error
        self.where = where  # it was raised, for a note; made when it is told, for others may raise the same object
        _living.add(weakref.ref(self, _living.discard))

    def see(self) -> BaseException:
        """Return the exception, for the one that asked for it; from now on it is not lost any more."""
        error, self.error = self.error, None
        self.locate(error)
        return error  # type: ignore[return-value]  # None only if it was seen before

    def log(self) -> None:
        """Log the exception, unless somebody has seen it."""
        error, self.error = self.error, None
        if error is not None:
            self.locate(error)
            log(_log, logging.ERROR, "task %s failed, and nobody asked for its result", self.name, error=error)

    def locate(self, error: BaseException | None) -> None:
        """Note in the exception where it was raised."""
        if error is not None and self.where is not None:
            note(error, self.where)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():  # then modules are taken apart, log_living() has run, and globals may be gone
            self.log()


_living: set[weakref.ref[Unretrieved]] = set()  # adding and discarding are atomic


def log_living() -> None:
    """Log, when Python exits, every exception that nobody asked for so far."""
    interrupted: BaseException | None = None
    for reference in list(_living):
        unretrieved = reference()
        if unretrieved is not None:
            try:
                unretrieved.log()
            except KeyboardInterrupt as error:  # there is not much left to do before the program ends
                interrupted = error
    if interrupted is not None:
        raise interrupted

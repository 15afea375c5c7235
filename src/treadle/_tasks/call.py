"""Call: what a task is called in logs, and in what it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from treadle._base.words import LONGEST_NAME, cut, pass_on, type_name
from treadle.errors import Cancelled

__all__ = ["Gone", "NoContext", "name_of"]


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

"""Unretrieved: what becomes of an exception that nobody asks for."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from functools import partial

from treadle._base.locks import defer
from treadle._base.words import log, note

__all__ = ["Unretrieved", "log_living"]

_log = logging.getLogger("treadle")


LOST = "task %s failed, and nobody asked for its result"


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
            defer(partial(log, _log, logging.ERROR, LOST, self.name, error=error))  # for handlers may do anything

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
    try:
        if interrupted is not None:
            raise interrupted
    finally:
        interrupted = None  # its traceback holds this frame: no cycle

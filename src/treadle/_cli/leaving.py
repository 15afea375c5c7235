"""Leaving: a command that has served ends with its status, though nobody reads what it says last."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from functools import partial
from threading import Event

from treadle._base.threads import start_thread
from treadle._cli.descriptors import lead_nowhere

__all__ = ["Leaving"]

PATIENCE = 1.0  # seconds for the last words; a guess


class Leaving:
    """Sees to it that the last words of a command do not keep it, nor Python's exit after them.

    Standard output may be a pipe that is full, and a thread that was left behind may hold the lock of a stream, or of a
    log handler, for it is stuck in that. Python's exit waits for these without a limit, or aborts. So each is tried
    while there is still something to be done about it: if it takes too long, the process ends here and now, which is
    the only way then.
    """

    def __init__(self) -> None:
        self._said = Event()

    def begin(self, status: int) -> int:
        """From now on, leave with `status`, which is returned."""
        with suppress(RuntimeError):  # no thread can be had; then it is hoped for the best
            start_thread(partial(self._watch, status), "leaving")
        return status

    def end(self) -> None:
        """All is said: have it written, and leave the rest to Python."""
        # Private, and what logging goes through when Python exits.
        for handler in [reference() for reference in getattr(logging, "_handlerList", ())]:
            if handler is not None:
                handler.acquire()
                handler.release()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                try:
                    stream.flush()
                except OSError:  # its reader is gone, or its disk is full; Python would try again, and say 120 for it
                    lead_nowhere(stream)
        self._said.set()

    def _watch(self, status: int) -> None:
        if not self._said.wait(PATIENCE):
            os._exit(status)

"""Threads: the only place where treadle makes them, and where it looks at their stacks."""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import islice
from types import BuiltinFunctionType, FrameType, ModuleType
from typing import TYPE_CHECKING

from treadle._base.late import Late
from treadle.errors import PatchedTooLate

if TYPE_CHECKING:
    import faulthandler
    import tempfile
else:
    faulthandler, tempfile = Late("faulthandler"), Late("tempfile")

__all__ = [
    "DAEMON",
    "GREENLETS",
    "Thread",
    "at_end_of",
    "check_unpatched",
    "has_ended",
    "made_anew",
    "new_thread",
    "parse_dump",
    "stacks_of",
    "start_thread",
]

DAEMON = getattr(threading, "_daemon_threads_allowed", lambda: True)()
"""Whether threads are daemons: not in an isolated sub-interpreter, which has none: see the lifecycle of pools."""

GREENLETS = not isinstance(threading.get_ident, BuiltinFunctionType)
"""Whether threads were greenlets already when treadle was imported, as gevent and eventlet make them."""

WITH_GIL: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)

DUMPED_THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)\b.*")
DUMPED_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')

# Which locks there are, when treadle binds them. Private; but debuggers and profilers, which take threads for threads,
# replace what is public, and what starts them.
_locks = getattr(threading, "_allocate_lock", None)


def check_unpatched() -> None:
    """Raise if threads have become greenlets, which gevent and eventlet see to, since treadle was imported.

    Raises:
        PatchedTooLate: that is so.
    """
    if getattr(threading, "_allocate_lock", None) is not _locks:
        raise PatchedTooLate


def made_anew(module: ModuleType) -> ModuleType:
    """Return a module of Python's, one that is written in C, made once more: as nobody knows it, nobody patches it."""
    spec = module.__spec__
    if spec is None or spec.loader is None:
        return module
    made = spec.loader.create_module(spec)
    if made is None:
        return module
    spec.loader.exec_module(made)
    return made


class Thread(threading.Thread):
    """A thread whose end is told in it, whichever way it comes: by an exception before its target's first line, say.

    No destructor can do that: `threading` keeps a thread for ever that is killed at the wrong instant, and so may
    whoever is told of its exception; and without the GIL an object may be destroyed by who has made it, and sleeps.

    One that is killed so early that `start` has not returned is none: as with any, `start` never does.
    """

    over: Callable[[], object] | None = None
    ended = False

    def _bootstrap(self) -> None:
        """Do what the new thread does, all of it: private, and so in every version of Python."""
        over, self.over = self.over, None  # no cycle: it may know of this
        try:
            super()._bootstrap()  # type: ignore[misc]
        finally:
            try:
                if over is not None:
                    over()
            except BaseException:  # it is killed here, perhaps as that begins
                if over is not None:
                    over()
                raise
            finally:
                self.ended = True
                over = None  # frames outside of a traceback are kept with it
                vars(self).pop("_target", None)  # as `run` does; it may not have come to that


def new_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Return a thread that was not started: a pool's worker. It has a context of its own, and so no caller's scope.

    Raises:
        PatchedTooLate: see `check_unpatched`.
    """
    check_unpatched()
    # Not in the place of a debugger's, say; and eventlet, whose greenlets nobody kills, knows but the plain one.
    kind = Thread if threading.Thread is Thread.__base__ and not GREENLETS else threading.Thread
    if sys.version_info >= (3, 14):  # there a free-threaded build would give it a copy of its starter's
        return kind(target=target, name=name, daemon=DAEMON, context=Context())
    return kind(target=target, name=name, daemon=DAEMON)


def has_ended(thread: threading.Thread) -> bool:
    """Whether a thread that was started has ended, or is about to.

    Python 3.11 takes one for dead, and does not wait for it, whose `join` Ctrl-C has interrupted, and which goes on.
    """
    return thread.ended if isinstance(thread, Thread) else not thread.is_alive()


def at_end_of(thread: threading.Thread, over: Callable[[], object]) -> None:
    """Have `over` called in a thread as it ends, in whichever way, and perhaps twice.

    Not in one of a debugger's, nor in a greenlet.
    """
    if isinstance(thread, Thread):
        thread.over = over


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread beside the pools': a server's watchdog, the timers.

    Raises:
        RuntimeError: no thread can be started.
        PatchedTooLate: see `check_unpatched`.
    """
    thread = new_thread(target, name)
    thread.start()
    return thread


def stacks_of(idents: Iterable[int | None], most: int | None = None) -> dict[int | None, traceback.StackSummary]:
    """Return where those of the threads are that run Python code, by their identities: each outermost call first.

    At most so many calls of each, the innermost.

    Without the GIL a frame must not be looked at while its thread runs on: that ends the process at times (CPython's
    gh-152355). `faulthandler` stops all threads for as long as it writes, and tells of at most 100 of them, 100 calls
    of each. There is none of it where the disk is full, nor in isolated sub-interpreters, which cannot import that.
    """
    if WITH_GIL():
        frames = sys._current_frames()
        return {ident: _extract(frames[ident], most) for ident in idents if ident in frames}
    stacks: dict[int | None, traceback.StackSummary] = {}
    try:
        with tempfile.TemporaryFile("w+", encoding="ascii", errors="replace") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            dumped = parse_dump(file, most)
    except (OSError, ImportError):
        return stacks
    return {ident: dumped[ident] for ident in idents if ident in dumped}


def _extract(frame: FrameType, most: int | None) -> traceback.StackSummary:
    frames = list(islice(traceback.walk_stack(frame), most))
    return traceback.StackSummary.extract(reversed(frames), lookup_lines=False)


def parse_dump(lines: Iterable[str], most: int | None = None) -> dict[int | None, traceback.StackSummary]:
    """Return the stacks of a dump of `faulthandler`, by the threads' identities."""
    stacks: dict[int | None, traceback.StackSummary] = {}
    for line in lines:
        if thread := DUMPED_THREAD.match(line):
            stack = stacks[int(thread[1], 16)] = traceback.StackSummary()
        elif (most is None or len(stack) < most) and (frame := DUMPED_FRAME.match(line)):
            filename, lineno, name = frame.groups()
            stack.insert(0, traceback.FrameSummary(filename, int(lineno), name, lookup_line=False))
    return stacks

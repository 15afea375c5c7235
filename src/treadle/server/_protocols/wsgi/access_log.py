"""AccessLog: a line for each request, written by a thread of its own, so that no request waits for a disk or a pipe."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self
from weakref import WeakSet

from treadle._base import checks, clock
from treadle._base.fork import at_fork
from treadle._base.locks import closed_latch, open_latch
from treadle._base.log_throttle import LogThrottle
from treadle._base.threads import start_thread
from treadle._base.words import brief, counted, log
from treadle.server._protocols.wsgi.access_line import FORMS, Entry, hider
from treadle.server._protocols.wsgi.access_sink import Writer, sink_for

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["AccessLog", "Entry"]

_log = logging.getLogger("treadle.server")
_logs: WeakSet[AccessLog] = WeakSet()

GATHER = 0.05  # seconds that a line waits for others, so that a busy server does not wake the thread for each; a guess
MOST_LINES = 4096  # that wait to be written; a guess: what the fastest server here answers in a tenth of a second
MOST_BYTES = 4 << 20  # of them; a guess: a thousand to a line
PATIENCE = 5.0  # seconds that the end waits for a slow disk; a guess


class AccessLog:
    """Writes a line for each request.

    `write` makes the line, and leaves it to the log's own thread, which starts with the first one and ends with
    `close`: a line is written within a twentieth of a second, and no request waits for that. While the disk or the pipe
    is slow, or stuck, no more than 4,096 lines or 4 MiB wait, and as much is being written; those beyond are lost. So
    are those for which there is no room on the disk, or nobody to read the pipe. They are counted in `lost`. The logger
    "treadle.server" is told why nothing can be written, and how many lines were lost once others are written again,
    each no more than once in ten seconds: by that thread, for the logger may be as stuck as the log.

    All methods may be called from any thread; `write` and `reopen`, which wait for nothing, from signal handlers too. A
    forked child has a thread of its own, and writes to the same file; lines do not mix. At the end of the program what
    waits is written, but not at that of a process that ends by `os._exit`, as forked ones may: that has to close it.

    Args:
        where: "-" for standard output, the path of a file, which is appended to, or an object with `write(text)`, which
            is called with a line at a time.
        form: "combined" for Apache's combined log format, or "json" for an object a line.
        redact: the names of query parameters whose values are told as `***`, or "query" for all that follows the path;
            in the target and in the referer.

    Raises:
        TypeError, ValueError: an argument is none of what is allowed.
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | Writer,
        *,
        form: Literal["combined", "json"] = "combined",
        redact: Iterable[str] | Literal["query"] = (),
    ) -> None:
        self._form = FORMS[checks.one_of("form", form, FORMS)]
        self._hide = hider(redact)
        self._sink = sink_for(where)  # the thread's
        self._closed = False
        self.forget_threads()
        _logs.add(self)

    def forget_threads(self) -> None:
        """In a forked child, have no thread, nor any line: those are the parent's."""
        self._failures, self._losses, self._faults = LogThrottle(), LogThrottle(), LogThrottle()
        self._told = 0  # of the lost lines; the thread's
        self._lock = threading.RLock()  # guards what follows, and `_closed`
        self._lost = 0
        self._lines: list[str] = []
        self._size = 0  # characters in them
        self._flushes: list[LockType] = []  # latches, to be opened once the lines are written
        self._started = False  # and not ended
        self._thread: threading.Thread | None = None
        self._asked = False  # to reopen; a signal handler sets it without the lock
        self._wanted, self._hurry = closed_latch(), closed_latch()  # open: there is something to do; and at once

    @property
    def lost(self) -> int:
        """How many lines were not written, so far and in this process."""
        return self._lost

    def write(self, entry: Entry) -> None:
        """Have a line written soon. Raises nothing, and waits for nothing."""
        try:
            target, referer = entry.target, entry.referer
            if self._hide is not None:
                target, referer = self._hide(target), self._hide(referer)
            line = self._form(entry, target, referer)
        except Exception as error:  # such as a time that is none
            with self._lock:
                self._lost += 1
            if self._faults.begins():
                log(_log, logging.ERROR, "a request makes no line of the access log%s", self._faults.rest, error=error)
            return
        with self._lock:
            lines = self._lines
            if self._closed or len(lines) >= MOST_LINES or self._size + len(line) > MOST_BYTES:
                self._lost += 1
                return
            lines.append(line)
            self._size += len(line)
            starts, self._started = not self._started, True
        if self._wanted.locked():
            open_latch(self._wanted)
        if len(lines) > MOST_LINES // 2 or self._size > MOST_BYTES // 2:
            open_latch(self._hurry)
        if starts:
            self._start()

    def _start(self) -> None:
        try:
            self._thread = start_thread(self._run, "treadle-access-log")
        except Exception as error:  # there may be too many; the next line tries again
            with self._lock:
                self._started = False
            if self._failures.begins():
                log(_log, logging.WARNING, "the access log has no thread: %s%s", brief(error), self._failures.rest)

    def reopen(self) -> None:
        """Go on soon in a new file at the path, for the old one was moved away; nothing, where there is no path.

        In each process, for all that it has is its own. If that file cannot be opened, the log says so and goes on in
        the old one.
        """
        self._asked = True
        open_latch(self._wanted)
        open_latch(self._hurry)

    def flush(self, timeout: float | None = PATIENCE) -> bool:
        """Wait until the lines that wait are written, or lost; return False if they are not.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            TypeError, ValueError: it is no number of seconds.
        """
        timeout = checks.seconds("timeout", timeout)
        latch = closed_latch()
        with self._lock:
            if not self._started:
                return not self._lines  # there are some if there can be no thread
            self._flushes.append(latch)
        return self._wait_for(latch, timeout)

    def _wait_for(self, latch: LockType, timeout: float | None) -> bool:
        open_latch(self._wanted)
        open_latch(self._hurry)
        return latch.acquire(timeout=-1.0 if timeout is None else timeout)

    def close(self, timeout: float | None = PATIENCE) -> None:
        """Write what waits, close the file, and tell of lines that were lost. What is written later is lost.

        Args:
            timeout: seconds to wait for a disk or pipe that is stuck; None for no limit.

        Raises:
            TypeError, ValueError: it is no number of seconds.
        """
        timeout = checks.seconds("timeout", timeout)
        begun, latch = clock.now(), closed_latch()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread, started = self._thread, self._started
            if started:
                self._flushes.append(latch)
            else:
                self._lost += len(self._lines)
        if not started:
            self._end()
        elif not self._wait_for(latch, timeout):
            said = "the access log %s is stuck, and what waits to be written is lost"
            log(_log, logging.WARNING, said, self._sink.name)
        elif thread is not None:
            thread.join(None if timeout is None else max(0.0, timeout - (clock.now() - begun)))

    def __enter__(self) -> Self:
        """Leave it open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        return f"<AccessLog {self._sink.name}{', closed' if self._closed else ''}>"

    def _run(self) -> None:
        """Write what comes, until it is closed."""
        over = False
        while not over:
            self._wanted.acquire()
            self._hurry.acquire(timeout=GATHER)
            over = self._write_all()

    def _write_all(self) -> bool:
        """Write what waits; return whether that was all, for the log is closed."""
        with self._lock:
            lines, self._lines, self._size = self._lines, [], 0
            flushes, self._flushes = self._flushes, []
            over = self._closed
            self._started = not over
        try:
            if lines:
                self._settle(len(lines), *self._sink.write(lines))
            if self._asked:
                self._asked = False  # first: who asks now is too late for what follows, or comes round again
                self._reopen()
            if over:
                self._end()
        finally:
            for latch in flushes:
                open_latch(latch)
        return over

    def _settle(self, number: int, written: int, error: BaseException | None) -> None:
        """Count, and tell, what became of so many lines."""
        with self._lock:
            self._lost += number - written
        if error is None:
            if self._lost > self._told and self._losses.begins():
                self._tell_lost()
        elif self._failures.begins():
            said = "the access log %s cannot be written, and lines are lost: %s%s"
            log(_log, logging.WARNING, said, self._sink.name, brief(error), self._failures.rest)

    def _tell_lost(self) -> None:
        lost = self._lost - self._told
        self._told += lost
        log(_log, logging.WARNING, "the access log %s has lost %s", self._sink.name, counted(lost, "line"))

    def _reopen(self) -> None:
        try:
            self._sink.reopen()
        except OSError as error:
            said = "the access log %s cannot be opened anew, and goes on in the old file: %s"
            log(_log, logging.WARNING, said, self._sink.name, brief(error))

    def _end(self) -> None:
        if self._lost > self._told:
            self._tell_lost()
        try:
            self._sink.close()
        except OSError as error:  # a disk may say only now that it was full
            log(_log, logging.WARNING, "the access log %s: %s", self._sink.name, brief(error))


@atexit.register
def _close_all() -> None:
    for each in list(_logs):
        each.close()


def _nothing() -> None:
    """Be what is done in a process that forks: its thread goes on."""


def _forget_threads() -> None:
    for each in list(_logs):
        each.forget_threads()


at_fork("logs", _nothing, _nothing, _forget_threads)

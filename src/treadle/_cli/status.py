"""What a running server shows: its status on standard output, and its log on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, TextIO, TypeVar, cast

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from treadle._base.clock import now
from treadle._base.words import log, log_first
from treadle._cli.descriptors import CLOSED, lead_nowhere

__all__ = ["Status", "View", "complain", "say", "status_view"]

STATUS = logging.Formatter("%(asctime)s %(message)s")
LOG = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
ECHO = "^C"  # what a terminal adds where the cursor stands, which is to stay in the line
LIVE_EVERY = 0.25  # seconds; four a second look alive, and cost nothing that can be measured
PLAIN_EVERY = 5.0  # seconds between two plain lines at the least; a guess at what a log can bear

Result = TypeVar("Result")

_log = logging.getLogger("treadle")
_told: dict[object, object] = {}  # what was said once, see `log_first`


@dataclass(frozen=True)
class Status:
    """What a server does at this moment, and has done so far."""

    threads: int
    max_threads: int
    connections: int
    messages: int
    handed_over: int
    closed: int
    rejected: int
    unit: str = "message"

    def __str__(self) -> str:
        return (
            f"threads {self.threads}/{self.max_threads}  connections {self.connections}  {self.unit}s {self.messages}"
            f"  handed over {self.handed_over}  closed {self.closed}  rejected {self.rejected}"
        )


class View:
    """Shows a status when it is due and has changed. One thread uses it.

    Args:
        show: shows a status.
        every: seconds between two of them at the least.
        end: takes what is shown away; it may be called again.
    """

    def __init__(self, show: Callable[[Status], None], every: float, end: Callable[[], object] = int) -> None:
        self._show = show
        self._every = every
        self.end = end
        self._due = now()
        self._shown: Status | None = None

    def update(self, status: Status) -> float:
        """Show `status` if it has changed and the time has come; return the seconds until that time comes again."""
        left = self._due - now()
        if left > 0:
            return left
        self._due = now() + self._every
        if status != self._shown:
            self._shown = status
            self._show(status)
        return self._every


@contextmanager
def status_view(*, live: bool = True, quiet: bool = False, level: int = logging.INFO) -> Iterator[View]:
    """Show, for as long as the block lasts, a status on standard output, and the log of `treadle` on standard error.

    On a terminal the status is one line at the foot, rewritten in place; log lines pass above it if standard error is
    that terminal too, and the last words of a command take its place (see `View.end`). Elsewhere, and on a terminal
    that cannot move its cursor, it is a line now and then, seldom enough to be read.

    Args:
        live: False for plain lines everywhere, as when several processes share the terminal.
        quiet: whether no status is shown.
        level: the least one of the log lines that are shown, of the loggers `treadle` and those below it.
    """
    console = _Console(sys.stdout)
    plain = _PlainHandler(sys.stderr)
    if quiet or not live or not sys.stdout.isatty() or console.is_dumb_terminal:
        with _logging_through(plain, level):
            if "stdout" in CLOSED and not quiet:
                log(_log, logging.WARNING, "standard output is closed, so the status is not shown")
            if "stderr" in CLOSED:
                say("standard error is closed, so the log is not shown")
            yield View((lambda status: None) if quiet else _show_plainly, PLAIN_EVERY)
        return

    def show(status: Status) -> None:
        if not _in_foreground():
            return
        text = Text(str(status), no_wrap=True)
        # COLUMNS, which rich goes by, may be of another terminal, or of this one before it was resized.
        width = min(console.width, _columns() or console.width)
        text.truncate(max(1, width - len(ECHO) - 1), overflow="crop" if console.options.ascii_only else "ellipsis")
        with console.turn:  # before the lock of rich's that this takes, as all who print take it
            line.update(text, refresh=True)

    def end() -> None:
        with console.turn:
            line.stop()

    # Refreshed by hand: rich would start a thread for it, outside every bound. What it redirects it prints on standard
    # output, above the line, where a standard error that leads elsewhere has nothing to do.
    same = sys.stderr.isatty()
    with (
        Live(console=console, auto_refresh=False, transient=True, redirect_stderr=same) as line,
        _logging_through(_ConsoleHandler(console) if same else plain, level),
    ):
        console.show_cursor()  # which rich hides, and nobody would bring back after Ctrl-Z, or what kills at once
        try:
            yield View(show, LIVE_EVERY, end)
        finally:
            end()


def _in_foreground() -> bool:
    """Return whether the command has the terminal, and not a shell that runs it in the background, and is typed at."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:  # the terminal is one that controls other programs
        return True


def _columns() -> int:
    """Return how wide the terminal on standard output is; 0 where it does not know."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:  # it is gone
        return 0


class _Console(Console):
    """A console that prints one thing at a time. A line that another thread was about to print when the live line ended
    would bring that back, below the last words.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=cast(TextIO, _Terminal(stream)))
        self.turn = RLock()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as any console does, when it is its turn."""
        with self.turn:
            super().print(*objects, **options)


class _Terminal:
    """Standard output as rich writes to it; it may go away at any moment, for its window is closed, say."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, if there is still somebody to read it."""
        return self._try(lambda: self._stream.write(text)) or 0

    def flush(self) -> None:
        """Have written what was."""
        self._try(self._stream.flush)

    def _try(self, do: Callable[[], Result]) -> Result | None:
        try:
            return do()
        except BlockingIOError:  # it is slow, and made not to block by another program; it is tried again with the next
            return None
        except OSError:
            lead_nowhere(self._stream)
            return None


def _show_plainly(status: Status) -> None:
    say(STATUS.format(logging.LogRecord("treadle", logging.INFO, "", 0, str(status), None, None)))


@contextmanager
def _logging_through(handler: logging.Handler, level: int) -> Iterator[None]:
    handler.setFormatter(LOG)
    before = _log.level
    _log.addHandler(handler)
    _log.setLevel(level)
    try:
        yield
    finally:
        _log.setLevel(before)
        _log.removeHandler(handler)


def say(text: str, *, aside: bool = False) -> None:
    """Print `text`, if anybody still reads it; that it could not be printed is logged once.

    Args:
        text: a line, or some.
        aside: on standard error, for standard output is somebody else's.
    """
    # Not through rich, which would break lines that are there to be pasted, nor through click, which writes UTF-8 where
    # another encoding is wanted.
    own = sys.stderr if aside else sys.stdout
    stream = getattr(own, "rich_proxied_file", own)
    try:
        # In one piece, or other processes may come between: where nothing is buffered, print writes each by itself.
        print(f"{text}\n", end="", file=stream, flush=True)
    except BrokenPipeError:
        lead_nowhere(own)
    except OSError as error:  # the disk that it leads to is full; later lines may find room
        if aside:  # where that would be logged, too
            return
        message = "standard output cannot be written, so the status is not shown: %s"
        log_first(_told, "stdout", _log, logging.WARNING, message, error.strerror)


def complain(error: click.ClickException) -> None:
    """Show `error` on standard error, if that leads anywhere; the status tells of it in any case."""
    try:
        error.show()
    except OSError:
        lead_nowhere(sys.stderr)  # or Python would try again when it exits, and say 120 for it


class _PlainHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic since Python 3.11 only
    """Writes log lines to a standard stream, as long as anybody reads it; that it could not is said once."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError):
            lead_nowhere(self.stream)
        elif not isinstance(error, OSError):
            super().handleError(record)
        elif "stderr" not in _told:  # the disk that it leads to is full; later lines may find room
            _told["stderr"] = None
            say(f"standard error cannot be written, so the log is not shown: {error.strerror}")


class _ConsoleHandler(logging.Handler):
    """Writes log lines through a rich console, which puts them above its live line."""

    def __init__(self, console: _Console) -> None:
        super().__init__()
        self._console = console
        self.lock = console.turn  # one for both: what is collected while something is shown may log

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, emoji=False, highlight=False, soft_wrap=True)

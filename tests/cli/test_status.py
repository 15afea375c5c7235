"""What a running server shows, and how seldom. What it looks like on a real terminal is in test_echo.py."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from rich.live import Live

from programs import Program, open_terminal
from treadle._cli import status as status_module
from treadle._cli.status import PLAIN_EVERY, Status, View, complain, say, status_view

QUIET = Status(threads=1, max_threads=4, connections=0, messages=0, handed_over=0, closed=0, rejected=0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(status_module, "now", clock)
    return clock


def test_a_status_is_shown_when_it_has_changed_and_is_due(clock: Clock) -> None:
    shown: list[Status] = []
    view = View(shown.append, every=5.0)
    first, second = replace(QUIET, messages=1), replace(QUIET, messages=2)
    assert view.update(first) == 5.0
    clock.now += 2.0
    assert view.update(second) == 3.0
    assert shown == [first]
    clock.now += 3.0
    assert view.update(second) == 5.0
    assert shown == [first, second]
    clock.now += 50.0
    assert view.update(second) == 5.0
    assert shown == [first, second]


def test_a_status_reads_as_one_line() -> None:
    busy = Status(threads=3, max_threads=4, connections=7, messages=12, handed_over=4, closed=2, rejected=1)
    assert str(busy) == "threads 3/4  connections 7  messages 12  handed over 4  closed 2  rejected 1"


def test_a_flood_of_changes_is_a_line_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with status_view() as view:
        for number in range(1000):
            view.update(replace(QUIET, messages=number))
            clock.now += PLAIN_EVERY / 100
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].endswith("threads 1/4  connections 0  messages 0  handed over 0  closed 0  rejected 0")


def test_a_quiet_view_shows_no_status(capsys: pytest.CaptureFixture[str]) -> None:
    with status_view(quiet=True) as view:
        assert view.update(QUIET) == PLAIN_EVERY
        logging.getLogger("treadle").warning("something is wrong")
    out, error = capsys.readouterr()
    assert out == ""
    assert error.endswith(" WARNING something is wrong\n")


def test_the_log_begins_at_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    with status_view(level=logging.ERROR):
        logging.getLogger("treadle.server").warning("left out")
        logging.getLogger("treadle.server").error("shown")
    assert capsys.readouterr().err.split()[2:] == ["ERROR", "shown"]


def test_what_is_wrong_is_complained_of_where_that_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    complain(click.ClickException("it is wrong"))
    assert capsys.readouterr() == ("", "Error: it is wrong\n")


def test_the_library_logs_through_the_view_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("treadle")
    before = logger.level, list(logger.handlers)
    with status_view():
        logging.getLogger("treadle.echo").info("[brackets] are no markup")
    assert capsys.readouterr().err.endswith(" INFO [brackets] are no markup\n")
    assert (logger.level, logger.handlers) == before


def test_on_a_terminal_log_lines_stand_as_they_are() -> None:
    program = """
import errno
import io
import logging
import os
import sys
import threading
from treadle._cli.status import status_view
with status_view():
    logging.getLogger("treadle.echo").info("[bold]brackets[/bold] are no markup")
"""
    with Program([sys.executable, "-c", program], terminal=True) as shown:
        shown.wait_for(r"\[bold\]brackets\[/bold\] are no markup")
        assert shown.wait() == 0


class Failing(io.StringIO):
    """A terminal whose every write fails with `error`."""

    def __init__(self, number: int, error: OSError) -> None:
        super().__init__()
        self._number = number
        self._error = error

    def fileno(self) -> int:
        return self._number

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "stays"),
    [(BlockingIOError(errno.EAGAIN, "would block"), True), (OSError(errno.EIO, "it is gone"), False)],
)
def test_what_is_shown_may_fail_and_a_terminal_that_is_only_slow_stays(
    error: OSError, stays: bool, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as file:
        terminal = status_module._Terminal(Failing(file.fileno(), error))
        assert terminal.write("threads 1/4") == 0
        terminal.flush()
        os.write(file.fileno(), b"still there")
    assert (tmp_path / "out").read_text() == ("still there" if stays else "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_a_log_line_that_comes_at_the_end_does_not_bring_the_live_line_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been put above the live line already, in another thread, when that is taken away."""
    reader, theirs = open_terminal()
    printing, ended = threading.Event(), threading.Event()
    original = Live.process_renderables

    def process_renderables(live: Live, renderables: list[Any]) -> list[Any]:
        if threading.current_thread() is logging_thread:
            processed = original(live, renderables)
            printing.set()
            ended.wait(0.2)  # as long as it takes where nothing keeps the end from coming first
            return processed
        return original(live, renderables)

    monkeypatch.setattr(Live, "process_renderables", process_renderables)
    logging_thread = threading.Thread(target=lambda: logging.getLogger("treadle").warning("late"))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with status_view() as view:
            view.update(QUIET)
            logging_thread.start()
            assert printing.wait(60)
            view.end()
            status_module.say("stopped")
            ended.set()
            logging_thread.join(60)
        monkeypatch.undo()
    pieces = []
    with suppress(OSError):  # how a pseudo-terminal says that the other end is closed
        while piece := os.read(reader, 65536):
            pieces.append(piece)
    os.close(reader)
    shown = b"".join(pieces).decode()
    assert "late" in shown
    assert shown.rindex("threads 1/4") < shown.index("stopped")


class Pieces(io.RawIOBase):
    """Keeps what each write was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if data:
            self.written.append(bytes(data))
        return len(data)


def test_what_is_said_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or two processes would write one line, where Python keeps nothing back (PYTHONUNBUFFERED)."""
    pieces = Pieces()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pieces, write_through=True))  # type: ignore[type-var]  # it wants no more
    status_module.say("stopped")
    assert pieces.written == [b"stopped\n"]


def test_what_is_said_aside_leaves_standard_output_to_others(capfd: pytest.CaptureFixture[str]) -> None:
    say("once\nmore", aside=True)
    assert capfd.readouterr() == ("", "once\nmore\n")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), BrokenPipeError()])
def test_what_cannot_be_said_aside_is_left(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    left: list[object] = []
    monkeypatch.setattr(sys, "stderr", Full())
    monkeypatch.setattr(status_module, "lead_nowhere", left.append)
    say("once", aside=True)
    assert left == ([sys.stderr] if isinstance(error, BrokenPipeError) else [])

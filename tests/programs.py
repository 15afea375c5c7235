"""Programs under test as real processes: their output awaited with a deadline, their end certain."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Self

import pytest

PATIENCE = 30.0  # seconds that a program may take to say or do what is expected of it
TREADLE = (sys.executable, "-m", "treadle")


class Program:
    """A running program. What it writes to standard output and error is kept in `output`; leaving the block kills it.

    Args:
        command: the program and its arguments.
        terminal: give it a pseudo-terminal for standard output, instead of a pipe. Where there is none, the test is
            skipped.
        descriptors: its hard limit on open files; None leaves it as it is.
        env: variables set beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        terminal: bool = False,
        descriptors: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.output = ""
        if descriptors is not None:
            command = ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command)
        self._reader, writer = open_terminal() if terminal else os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **(env or {})},
            )
        finally:
            os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        os.close(self._reader)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first match of `pattern` in the output, waiting until it comes."""
        deadline = monotonic() + PATIENCE
        while not (match := re.search(pattern, self.output)):
            assert self._read_until(deadline), f"ended, or was silent, without {pattern!r}; it said:\n{self.output}"
        return match

    def wait_for_port(self) -> int:
        """Return the port that the program says it listens on."""
        return int(self.wait_for(r"127\.0\.0\.1(?::| port )(\d+)\s").group(1))

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Read what the program still says, and return its exit status."""
        deadline = monotonic() + PATIENCE
        while self._read_until(deadline):
            pass
        return self._process.wait(max(0.1, deadline - monotonic()))

    def _read_until(self, deadline: float) -> bool:
        """Add the next piece of output; return False if there is none before the deadline or the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - monotonic())):
                return False
        try:
            piece = os.read(self._reader, 65536)
        except OSError:  # how a pseudo-terminal says that the other end is closed
            return False
        self.output += piece.decode(errors="replace")
        return bool(piece)


def open_terminal() -> tuple[int, int]:
    try:
        return os.openpty()
    except OSError as error:
        pytest.skip(f"this system gives out no pseudo-terminals (is /dev/pts there?): {error}")


def run(*command: str, env: Mapping[str, str] | None = None, patience: float = PATIENCE) -> tuple[int, str, str]:
    """Run a program to its end; return its exit status and what it wrote to standard output and error."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience, env={**os.environ, **(env or {})}, check=False
    )
    return done.returncode, done.stdout, done.stderr

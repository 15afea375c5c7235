"""A terminal with a person at it: what is typed goes to a program, and what stands on the screen can be read."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Sequence

import pyte

from programs import Program, open_terminal

__all__ = ["Terminal"]


class Terminal(Program):
    """A program that has a terminal of its own, as a shell in a window gives it: Ctrl-C is typed, and echoed.

    Args:
        command: the program and its arguments.
        columns: how wide it is.
        rows: how high it is.
    """

    def __init__(self, command: Sequence[str], *, columns: int = 80, rows: int = 24) -> None:
        self.output = ""
        self._size = columns, rows
        self._reader, theirs = open_terminal()
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            self._process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**env, "TERM": "xterm-256color"},
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # or Ctrl-C would be no signal
            )
        finally:
            os.close(theirs)

    def type(self, keys: str) -> None:
        """Type `keys`; "\\x03" is Ctrl-C."""
        os.write(self._reader, keys.encode())

    def close(self) -> None:
        """Close the window. The system tells the program with SIGHUP, and takes the terminal away from it."""
        reader, writer = os.pipe()
        os.close(writer)
        os.dup2(reader, self._reader)  # there is nothing more to read
        os.close(reader)

    def lines(self) -> list[str]:
        """Return what stands on the screen now, without what is blank at the ends of lines, and empty lines."""
        screen = pyte.Screen(*self._size)
        pyte.Stream(screen).feed(self.output)
        return [line.rstrip() for line in screen.display if line.strip()]

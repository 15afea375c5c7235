"""A terminal with a person at it: what is typed goes to a program, and what stands on the screen can be read."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

import pyte

from programs import Program, open_terminal

__all__ = ["Terminal"]


class Terminal(Program):
    """A program that has a terminal of its own, as a shell in a window gives it: Ctrl-C is typed, and echoed.

    Args:
        command: the program and its arguments.
        columns: how wide it is.
        rows: how high it is.
        env: variables set beside those of this process.
    """

    def __init__(
        self, command: Sequence[str], *, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self.output = ""
        self._size = columns, rows
        self._reader, theirs = open_terminal()
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            self._process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**ours, "TERM": "xterm-256color", **(env or {})},
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # or Ctrl-C would be no signal
            )
        finally:
            os.close(theirs)

    def type(self, keys: str) -> None:
        """Type `keys`; "\\x03" is Ctrl-C."""
        os.write(self._reader, keys.encode())

    def hang_up(self) -> None:
        """Take the terminal away, as closing its window does; what the program says from now on is not read."""
        os.close(self._reader)
        self._reader, theirs = os.pipe()
        os.close(theirs)

    def lines(self) -> list[str]:
        """Return what stands on the screen now, without what is blank at the ends of lines, and empty lines."""
        return [line.rstrip() for line in self._screen().display if line.strip()]

    def shows_cursor(self) -> bool:
        """Tell whether a person could see where the cursor stands."""
        return not self._screen().cursor.hidden

    def _screen(self) -> pyte.Screen:
        screen = pyte.Screen(*self._size)
        pyte.Stream(screen).feed(self.output)
        return screen

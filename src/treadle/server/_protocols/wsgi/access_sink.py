"""Where the lines of an access log go: a file, by its path or descriptor, or an object with a `write`."""

from __future__ import annotations

import os
import select
import selectors
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from treadle._base.words import pass_on, show, type_name

__all__ = ["DescriptorSink", "FileSink", "ObjectSink", "Writer", "sink_for"]

ATOM = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes at once or not at all (POSIX: 512 or more)
CHUNK = 1 << 20  # bytes written at once to a file, which is locked meanwhile; a guess
MODE = 0o640  # of a new file, less the umask: addresses are nobody else's business


class Writer(Protocol):
    """What lines can be written to: a file that is open for text, say."""

    def write(self, text: str, /) -> object:
        """Take a line, with its end."""


class DescriptorSink:
    """Writes to a descriptor, which is not its own: standard output. For one thread.

    Each system call writes whole lines, and to a pipe no more than what that takes as one; so the lines of several
    processes do not mix, but for those in a pipe that are longer.
    """

    name = "on standard output"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False  # whether the last line has no end, for there was no more room

    def write(self, lines: list[str]) -> tuple[int, BaseException | None]:
        """Write ASCII lines; return how many were written, and why the others were not."""
        written = 0
        try:
            most = CHUNK if stat.S_ISREG(os.fstat(self._descriptor).st_mode) else ATOM
            for piece in _pieces(lines, most):
                torn, data = self._torn, b"\n" + piece if self._torn else piece
                sent, error = self._send(memoryview(data))
                if sent:
                    written += data.count(b"\n", 0, sent) - torn
                    self._torn = data[sent - 1] != ord("\n")
                if error is not None:
                    return written, error
        except Exception as error:
            return written, error
        return written, None

    def _send(self, data: memoryview) -> tuple[int, OSError | None]:
        """Return how many bytes were written, and why the others were not."""
        sent = 0
        while sent < len(data):
            try:
                sent += os.write(self._descriptor, data[sent:])
            except BlockingIOError:  # who shares it has made it so: another program at the same terminal, say
                with selectors.DefaultSelector() as selector:
                    selector.register(self._descriptor, selectors.EVENT_WRITE)
                    selector.select()
            except OSError as error:
                return sent, error
        return sent, None

    def reopen(self) -> None:
        """Go on as before: there is no path."""

    def close(self) -> None:
        """Leave it open: it is somebody else's."""


class FileSink(DescriptorSink):
    """Appends to the file at a path. For one thread.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)  # whatever becomes of the current folder
        self.name = f"at {show(self._path)}"
        super().__init__(self._open())

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)

    def reopen(self) -> None:
        """Go on in the file that is at the path now, or a new one.

        Raises:
            OSError: it cannot be opened; it goes on in the old one.
        """
        old, self._descriptor = self._descriptor, self._open()
        self._torn = False
        os.close(old)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class ObjectSink:
    """Calls the `write` of an object with each line, and then its `flush`, if it has one. For one thread."""

    def __init__(self, to: Writer) -> None:
        self.name = f"in a {type_name(to)}"
        self._write = to.write
        self._flush: Callable[[], object] | None = getattr(to, "flush", None)

    def write(self, lines: list[str]) -> tuple[int, BaseException | None]:
        """Write lines; return how many were written, and why the others were not."""
        written = 0
        try:
            for line in lines:
                self._write(line)
                written += 1
            if self._flush is not None:
                self._flush()
        except BaseException as error:  # which is the user's
            pass_on(error)
            return written, error
        return written, None

    def reopen(self) -> None:
        """Go on as before: there is no path."""

    def close(self) -> None:
        """Leave it open: it is somebody else's."""


def sink_for(where: str | os.PathLike[str] | Writer) -> DescriptorSink | ObjectSink:
    """Return what writes to `where`: "-" is standard output.

    Raises:
        TypeError: it is none of these.
        ValueError: there is no standard output.
        OSError: the file cannot be opened.
    """
    if isinstance(where, str) and where == "-":
        if sys.stdout is None:
            raise ValueError('where="-": this process has no standard output; name a file')
        try:
            return DescriptorSink(sys.stdout.fileno())
        except (AttributeError, OSError, ValueError):  # something was put in its place
            return ObjectSink(sys.stdout)
    if isinstance(where, str | os.PathLike):
        return FileSink(os.fsdecode(where))
    if callable(getattr(where, "write", None)):
        return ObjectSink(where)
    raise TypeError(f'where={show(where)} is {type_name(where)}; allowed: "-", a path, or an object with write(text)')


def _pieces(lines: list[str], most: int) -> Iterator[bytes]:
    """Give the bytes of whole lines, no more than `most` at once, or one line."""
    first = size = 0
    for number, line in enumerate(lines):
        if size + len(line) > most and number > first:
            yield "".join(lines[first:number]).encode("ascii")
            first, size = number, 0
        size += len(line)
    if first < len(lines):
        yield "".join(lines[first:]).encode("ascii")

"""Disks: files that are scripted, with descriptors of the same Net as sockets, so that one for another is found out."""

from __future__ import annotations

import errno
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fuzz.wire import Wire, failing

if TYPE_CHECKING:
    from fuzz.wire import Net

__all__ = ["Disk", "FakeFile"]


class FakeFile:
    """A file, as it is in the system and as Python has it."""

    def __init__(self, disk: Disk, data: bytes = b"") -> None:
        self.disk = disk
        self.data = bytearray(data)
        self.most: int | None = None  # bytes that it may have
        self.sendable = disk.net.dice.random() < 0.8  # by `sendfile`
        self.fd = disk.net.take(self)

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ValueError: it is closed.
        """
        if self.fd < 0:
            raise ValueError("I/O operation on closed file")
        return self.fd

    def truncate(self, size: int) -> None:
        """Have it end there."""
        self.disk.net.stage.step()
        del self.data[size:]

    def close(self) -> None:
        """Close, once or more often."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.disk.net.give(fd)
            self.disk.net.stage.step()

    def __repr__(self) -> str:
        return f"FakeFile {self.fd}"


class Disk:
    """What the system does with files; it takes the place of `os`, and of `tempfile`."""

    def __init__(self, net: Net, most: int) -> None:
        self.net = net
        self.most = most  # bytes of a temporary file
        self.system = SimpleNamespace(
            fstat=self.fstat, pread=self.pread, pwrite=self.pwrite, sendfile=self.sendfile, PathLike=str
        )

    def TemporaryFile(self, **options: object) -> FakeFile:  # as `tempfile` has it
        """Make a file without a name."""
        self.net.stage.step()
        if self.net.odds(self.net.faults.odd):
            raise failing(errno.EMFILE)
        file = FakeFile(self)
        file.most = self.most
        return file

    def fstat(self, fd: int) -> SimpleNamespace:
        """Return how large a file is."""
        return SimpleNamespace(st_mode=stat.S_IFREG, st_size=len(self._file(fd, "fstat").data))

    def pread(self, fd: int, size: int, at: int) -> bytes:
        """Read."""
        self._call(fd, "pread")
        return bytes(self._file(fd, "pread").data[at : at + size])

    def pwrite(self, fd: int, view: Any, at: int) -> int:
        """Write."""
        self._call(fd, "pwrite")
        file, dice = self._file(fd, "pwrite"), self.net.dice
        size = dice.randrange(1, len(view) + 1) if self.net.odds(self.net.faults.short) else len(view)
        if file.most is not None and at + size > file.most:
            self.net.stage.tear(f"{file} is written up to {at + size}, and may have {file.most} bytes")
        file.data.extend(bytes(max(0, at - len(file.data))))
        file.data[at : at + size] = view[:size]
        return size

    def sendfile(self, wire_fd: int, fd: int, offset: int, size: int) -> int:
        """Send some of a file."""
        file, wire = self._file(fd, "sendfile"), self.net.open.get(wire_fd)
        if not isinstance(wire, Wire):
            self.net.stage.tear(f"sendfile to {wire}")
        assert isinstance(wire, Wire)
        if not file.sendable:
            raise failing(errno.EINVAL)
        data = bytes(file.data[offset : offset + size])
        return wire.send(data) if data else 0

    def _call(self, fd: int, what: str) -> None:
        self._file(fd, what)
        self.net.stage.step()
        if self.net.odds(self.net.faults.odd / 4):
            raise failing(errno.ENOSPC if what == "pwrite" else errno.EIO)

    def _file(self, fd: int, what: str) -> FakeFile:
        """Return the file of a descriptor, which must be one, also after others had their turn."""
        file = self.net.open.get(fd)
        if not isinstance(file, FakeFile):
            self.net.stage.tear(f"{what} of {fd}, which is {file}")
        assert isinstance(file, FakeFile)
        return file

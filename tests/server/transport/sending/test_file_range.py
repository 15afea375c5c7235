"""FileRange: which files, which bytes of them, and what becomes of one that cannot be sent."""

from __future__ import annotations

import errno
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from kernels import Kernel
from treadle.server import FileRange
from treadle.server._transport.sending.outbox import BURST


@pytest.fixture
def file(tmp_path: Path) -> Iterator[IO[bytes]]:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as opened:
        yield opened


@pytest.mark.parametrize(
    ("offset", "size", "sent"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 2, b"34"), (0, 0, b""), (10, None, b""), (99, None, b"")],
)
def test_it_is_sent_as_far_as_the_kernel_takes_it(file: IO[bytes], offset: int, size: int | None, sent: bytes) -> None:
    part, kernel = FileRange(file, offset, size), Kernel(3, 100)
    assert part.size == len(sent)
    while not part.is_over():
        assert part.send(kernel) <= 3
    assert part.send(kernel) == 0
    assert (kernel.taken, part.size, kernel.torn, file.closed) == (sent, 0, False, False)
    part.drop()
    assert file.closed


def test_one_client_is_given_so_much_at_once(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(BURST + 1))
    kernel = Kernel(2 * BURST, 2 * BURST)
    with path.open("rb") as file:
        FileRange(file).send(kernel)
    assert kernel.offered == [BURST]


@pytest.mark.parametrize(
    ("offset", "size", "error", "words"),
    [
        (-1, None, ValueError, "offset must be 0 or more"),
        (0, -1, ValueError, "size must be 0 or more"),
        (0, 11, ValueError, "size=11, but the file has 10 bytes from 0 on"),
        (9, 2, ValueError, "size=2, but the file has 1 byte from 9 on"),
        (11, 1, ValueError, "size=1, but the file has 0 bytes from 11 on"),
        ("0", None, TypeError, "offset='0' is str"),
        (0, 1.5, TypeError, "size=1.5 is float"),
    ],
)
def test_a_range_has_to_be_in_the_file(
    file: IO[bytes], offset: Any, size: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        FileRange(file, offset, size)
    assert not file.closed  # it is still the caller's


def test_what_is_no_regular_file_open_for_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    with path.open() as text, pytest.raises(TypeError, match=r"allowed: a file, as from open\(path, 'rb'\)"):
        FileRange(text)
    with pytest.raises(TypeError, match="is str; allowed"):
        FileRange(str(path))
    with pytest.raises(io.UnsupportedOperation):
        FileRange(io.BytesIO(b"x"))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="is no regular file"):
        FileRange(ours)
    with path.open("rb") as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        FileRange(file)


def test_a_file_that_got_shorter_or_was_closed_is_half_an_answer(file: IO[bytes], tmp_path: Path) -> None:
    part, kernel = FileRange(file), Kernel(4, 100)
    part.send(kernel)
    os.truncate(tmp_path / "file", 4)
    with pytest.raises(ConnectionAbortedError, match="to the end"):
        part.send(kernel)
    assert kernel.torn
    part, kernel = FileRange(file), Kernel(4, 100)
    file.close()
    with pytest.raises(ConnectionAbortedError, match="to the end"):
        part.send(kernel)
    assert kernel.torn


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE])
def test_a_file_that_cannot_be_read_is_half_an_answer_too(file: IO[bytes], number: int) -> None:
    class Broken(Kernel):
        def send_file(self, file: IO[bytes], offset: int, size: int) -> int:
            raise OSError(number, os.strerror(number))

    part, kernel = FileRange(file), Broken(1, 1)
    with pytest.raises(OSError, match=os.strerror(number)):
        part.send(kernel)
    assert kernel.torn


def test_a_kernel_that_is_full_tears_nothing(file: IO[bytes]) -> None:
    part, kernel = FileRange(file), Kernel(1, 0)
    with pytest.raises(BlockingIOError):
        part.send(kernel)
    assert (part.size, kernel.torn) == (10, False)


def test_it_shows_what_is_left(file: IO[bytes]) -> None:
    part = FileRange(file, 2, 5)
    part.send(Kernel(3, 3))
    assert repr(part) == f"FileRange({file!r}, 5, 2)"


def test_a_file_that_does_not_close_is_let_be(file: IO[bytes]) -> None:
    """One of a network's file system, say."""

    class Stubborn:
        def fileno(self) -> int:
            return file.fileno()

        def close(self) -> None:
            raise OSError(errno.EIO, "scripted")

    FileRange(Stubborn()).drop()

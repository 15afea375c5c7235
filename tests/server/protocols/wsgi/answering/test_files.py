"""FileWrapper: which files the kernel is given to send, and how the others are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.server._protocols.wsgi.answering.files import BLOCK, FileWrapper

CONTENT = bytes(range(256)) * 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


class Sent:
    """What the kernel is given: for `FileRange.send`."""

    def __init__(self) -> None:
        self.data = b""

    def send_file(self, file: Any, offset: int, size: int) -> int:
        self.data += os.pread(file.fileno(), size, offset)
        return size

    def tear(self) -> None:
        raise AssertionError("it is torn")


def sent(wrapper: FileWrapper, length: int | None = None) -> bytes:
    """Return what the kernel sends of it."""
    part = wrapper.range(length)
    assert part is not None
    wire: Any = Sent()
    while not part.is_over():
        part.send(wire)
    part.drop()
    data: bytes = wire.data
    return data


def test_what_has_read_is_given_in_blocks_up_to_its_end() -> None:
    assert list(FileWrapper(io.BytesIO(b"abcdefg"), 3)) == [b"abc", b"def", b"g"]
    assert list(FileWrapper(io.BytesIO(b""))) == []


def test_blocks_have_a_size_by_default_that_can_be_given_by_name_or_place() -> None:
    sizes: list[int] = []

    class File:
        def read(self, size: int) -> bytes:
            sizes.append(size)
            return b""

    for wrapper in (FileWrapper(File()), FileWrapper(File(), 7), FileWrapper(File(), block_size=8)):
        assert list(wrapper) == []
    assert sizes == [BLOCK, 7, 8]


def test_wrapper_is_its_own_iterator() -> None:
    wrapper = FileWrapper(io.BytesIO(b"ab"), 1)
    assert iter(wrapper) is wrapper
    assert next(wrapper) == b"a"


def test_close_closes_what_was_wrapped_and_is_there_only_if_that_has_it() -> None:
    file = io.BytesIO(b"a")
    FileWrapper(file).close()
    assert file.closed

    class Bare:
        def read(self, size: int) -> bytes:
            return b""

    assert not hasattr(FileWrapper(Bare()), "close")


@pytest.mark.parametrize("buffering", [0, -1])
def test_kernel_sends_a_file_from_where_it_stands(path: Path, buffering: int) -> None:
    with path.open("rb", buffering=buffering) as file:
        assert sent(FileWrapper(file)) == CONTENT
        file.seek(100)
        assert sent(FileWrapper(file)) == CONTENT[100:]
        assert file.read(3) == CONTENT[100:103]
        assert sent(FileWrapper(file)) == CONTENT[103:]


@pytest.mark.parametrize("length", [0, 1, len(CONTENT) - 10, len(CONTENT)])
def test_kernel_sends_no_more_than_the_length(path: Path, length: int) -> None:
    with path.open("rb") as file:
        file.seek(10)
        assert sent(FileWrapper(file), length) == CONTENT[10 : 10 + length]


def test_file_that_stands_behind_its_end_has_nothing_left(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(len(CONTENT) + 1)
        wrapper = FileWrapper(file)
        assert wrapper.range(None) is None
        assert list(wrapper) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="files of /proc are Linux's")
def test_file_whose_size_the_system_does_not_say_is_read() -> None:
    with Path("/proc/self/cmdline").open("rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.range(None) is None
        assert b"python" in b"".join(wrapper)


def test_application_may_close_its_file_before_it_is_sent(path: Path) -> None:
    with path.open("rb") as file:
        part = FileWrapper(file).range(None)
    assert part is not None
    wire: Any = Sent()
    part.send(wire)
    assert wire.data == CONTENT
    part.drop()


def test_temporary_file_is_sent_by_the_kernel() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENT)
        file.seek(5)
        assert sent(FileWrapper(file)) == CONTENT[5:]


def in_text(path: Path) -> Any:
    return path.open("r", encoding="latin-1")


def in_tar(path: Path) -> Any:
    """Return a part of a file, as an archive gives it: with the descriptor of the whole."""

    class Part(io.RawIOBase):
        def __init__(self) -> None:
            self.file = path.open("rb")

        def fileno(self) -> int:
            return self.file.fileno()

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.file.readinto(memoryview(buffer)[:10])

        def tell(self) -> int:
            return 0

        def close(self) -> None:
            self.file.close()
            super().close()

    return io.BufferedReader(Part())


PACKERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[Path], Any]]] = {
    "gzip": (gzip.compress, gzip.open),
    "bz2": (bz2.compress, bz2.open),
    "lzma": (lzma.compress, lzma.open),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_file_is_read_for_the_kernel_would_send_it_packed(tmp_path: Path, packer: str) -> None:
    compress, unpacked = PACKERS[packer]
    path = tmp_path / "packed"
    path.write_bytes(compress(CONTENT))
    with unpacked(path) as file:
        wrapper = FileWrapper(file)
        assert file.fileno() >= 0
        assert wrapper.range(None) is None
        assert b"".join(wrapper) == CONTENT
    with unpacked(path) as file, io.BufferedReader(file) as buffered:
        assert FileWrapper(buffered).range(None) is None


@pytest.mark.parametrize("opened", [in_text, in_tar])
def test_what_gives_something_else_than_its_descriptor_has_is_read(path: Path, opened: Callable[[Path], Any]) -> None:
    with opened(path) as file:
        assert FileWrapper(file).range(None) is None


def pipes() -> Iterator[Any]:
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as file:
        yield file


def test_pipe_is_read() -> None:
    for file in pipes():
        wrapper = FileWrapper(file)
        assert wrapper.range(None) is None
        assert list(wrapper) == []


class Odd:
    """What has a descriptor, or says so."""

    def __init__(self, fileno: Callable[[], Any], tell: Callable[[], Any] = lambda: 0) -> None:
        self.fileno = fileno
        self.tell = tell

    def read(self, size: int) -> bytes:
        return b""


def fails(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "fileno", [lambda: None, lambda: "3", lambda: -1, fails(OSError()), fails(ValueError()), fails(AttributeError())]
)
def test_what_has_no_descriptor_is_read(fileno: Callable[[], Any]) -> None:
    assert FileWrapper(Odd(fileno)).range(None) is None


@pytest.mark.parametrize("tell", [lambda: None, fails(OSError(29, "Illegal seek")), fails(ValueError("closed"))])
def test_what_cannot_say_where_it_is_is_read(path: Path, tell: Callable[[], Any]) -> None:
    with path.open("rb") as file:
        assert FileWrapper(Odd(file.fileno, tell)).range(None) is None


def test_object_of_ones_own_with_a_descriptor_is_sent_by_the_kernel(path: Path) -> None:
    with path.open("rb") as file:
        assert sent(FileWrapper(Odd(file.fileno, lambda: 7))) == CONTENT[7:]


def test_what_has_no_descriptor_at_all_is_read() -> None:
    assert FileWrapper(io.BytesIO(CONTENT)).range(None) is None
    assert FileWrapper(object()).range(None) is None


def test_closed_file_is_read_and_so_says_that_it_is_closed(path: Path) -> None:
    with path.open("rb") as file:
        wrapper = FileWrapper(file)
    assert wrapper.range(None) is None
    with pytest.raises(ValueError, match="closed file"):
        next(wrapper)

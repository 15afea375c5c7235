"""Body: what comes is what is read, in memory and in a file, and nothing of it is left behind."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.server._protocols.http.body import EMPTY, IN_MEMORY, Body, Empty
from treadle.server._protocols.http.refused import Refused

LONG = bytes(range(256)) * (IN_MEMORY // 256)  # as much as is kept in memory


def body_of(*parts: bytes, most: int = 1 << 30, folder: str | os.PathLike[str] | None = None) -> Body:
    body = Body(most, folder)
    for part in parts:
        body.write(part)
    return body


def read(body: Body) -> bytes:
    with body.open() as source:
        return source.read()


@pytest.mark.parametrize("size", [9, 2 * IN_MEMORY])
def test_what_is_its_own_is_taken_out_of_a_buffer_and_no_more(size: int) -> None:
    content = (LONG * 2)[:size]
    body, buffer = Body(1 << 30, None), bytearray(content + b"next")
    assert [body.take(buffer, 4), body.take(buffer, size - 4), body.take(buffer, 0)] == [4, size - 4, 0]
    assert buffer == b"next"
    assert body.take(buffer, 99) == 4
    assert not buffer
    assert read(body) == content + b"next"


def test_a_buffer_is_free_again_where_the_body_is_refused() -> None:
    body, buffer = Body(3, None), bytearray(b"four")
    with pytest.raises(Refused):
        body.take(buffer, 4)
    buffer += b"and it can grow"


# -- none -------------------------------------------------------------------------------------------------------------


def test_an_empty_body_can_be_read_in_every_way() -> None:
    buffer = bytearray(b"abc")
    assert (EMPTY.read(), EMPTY.read(5), EMPTY.readline(), EMPTY.readlines(), list(EMPTY)) == (b"", b"", b"", [], [])
    assert (EMPTY.read1(), EMPTY.readinto(buffer), bytes(buffer)) == (b"", 0, b"abc")
    assert (EMPTY.readable(), EMPTY.seekable(), EMPTY.tell()) == (True, True, 0)


def test_nobody_can_close_the_one_that_all_share() -> None:
    EMPTY.close()
    with EMPTY:
        pass
    io.BufferedReader(EMPTY).close()  # as some frameworks wrap it
    with io.TextIOWrapper(EMPTY) as text:
        assert text.read() == ""
    assert not EMPTY.closed
    assert EMPTY.read() == b""


def test_nobody_can_move_in_it() -> None:
    """Who reads it next would be somewhere else: its state is everybody's."""
    assert [EMPTY.seek(5), EMPTY.seek(-1, 2), EMPTY.seek(3, os.SEEK_CUR)] == [0, 0, 0]
    assert EMPTY.tell() == 0


@pytest.mark.parametrize(("method", "argument"), [("write", b"x"), ("writelines", [b"x"])])
def test_nobody_can_write_into_it(method: str, argument: Any) -> None:
    empty = Empty()
    with pytest.raises(io.UnsupportedOperation, match=f"^{method}$"):
        getattr(empty, method)(argument)
    assert empty.getvalue() == b""


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_what_is_short_is_in_memory() -> None:
    body = body_of(b"abc", b"", b"def")
    assert (body.size, body.in_file) == (6, False)
    assert isinstance(body.open(), io.BytesIO)
    assert read(body) == b"abcdef"


def test_a_body_of_nothing_is_empty() -> None:
    assert (body_of().size, body_of().in_file, read(body_of())) == (0, False, b"")


def test_memory_is_for_512_kib() -> None:
    assert IN_MEMORY == 512 * 1024
    body = body_of(LONG)
    assert not body.in_file
    body.write(b"x")
    assert body.in_file
    assert body.size == IN_MEMORY + 1
    assert read(body) == LONG + b"x"


@given(st.lists(st.integers(0, IN_MEMORY // 2), max_size=6))
def test_what_comes_is_what_is_read_whatever_its_parts(sizes: list[int]) -> None:
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    body = body_of(*parts)
    assert body.size == sum(sizes)
    assert body.in_file is (sum(sizes) > IN_MEMORY)
    assert read(body) == b"".join(parts)


@pytest.mark.parametrize("long", [False, True])
def test_it_can_seek(long: bool) -> None:
    content = LONG * 2 if long else b"0123456789"
    with body_of(content).open() as source:
        assert source.seekable()
        assert source.tell() == 0
        assert source.read(3) == content[:3]
        assert source.seek(-4, os.SEEK_END) == len(content) - 4
        assert source.read() == content[-4:]
        assert source.seek(1) == 1
        assert source.read(2) == content[1:3]
        assert source.seek(0) == 0
        assert source.read() == content


def test_what_reads_a_file_has_its_descriptor() -> None:
    """For who hands it on, as to sendfile."""
    with body_of(LONG, b"x").open() as source:
        assert os.fstat(source.fileno()).st_size == len(LONG) + 1
        assert not os.get_inheritable(source.fileno())


# -- its bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", [0, IN_MEMORY])
def test_it_has_at_most_so_many_bytes(long: int) -> None:
    body = Body(long + 4, None)
    body.write(bytes(long))
    body.write(b"abc")
    with pytest.raises(Refused) as caught:
        body.write(b"de")
    assert (caught.value.status, body.size) == (413, long + 3)
    assert caught.value.why == f"the body is longer than max_body allows, {long + 4} bytes"
    body.write(b"d")
    assert body.size == long + 4
    assert read(body)[long:] == b"abcd"


def test_room_is_asked_for_beforehand() -> None:
    body = Body(10, None)
    body.expect(10)
    body.expect(10)  # nothing has come yet
    with pytest.raises(Refused, match="max_body"):
        body.expect(11)
    body.write(b"abc")
    body.expect(7)
    with pytest.raises(Refused, match="max_body") as caught:
        body.expect(8)
    assert caught.value.status == 413


# -- its file ---------------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
    """Return the paths of the open files that lie in `folder`, or have lain there."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the one that lists them
            continue
    return [link for link in links if link.startswith(f"{folder}/")]


on_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed in /proc")


@on_linux
@pytest.mark.parametrize("as_text", [False, True])
def test_its_file_lies_in_the_folder_and_has_no_name(tmp_path: Path, as_text: bool) -> None:
    """So a process that is killed leaves nothing behind."""
    body = body_of(LONG, b"x", folder=str(tmp_path) if as_text else tmp_path)
    assert len(files_in(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    body.drop()


@on_linux
def test_what_is_in_memory_needs_no_file(tmp_path: Path) -> None:
    body = body_of(LONG, folder=tmp_path)
    assert files_in(tmp_path) == []
    body.drop()


@on_linux
def test_what_is_dropped_is_gone(tmp_path: Path) -> None:
    body = body_of(LONG, b"x", folder=tmp_path)
    body.drop()
    assert files_in(tmp_path) == []
    assert not body.in_file
    body.drop()  # twice does no harm


@on_linux
def test_what_is_dropped_is_closed_though_somebody_reads_it(tmp_path: Path) -> None:
    body = body_of(LONG, b"x", folder=tmp_path)
    source = body.open()
    body.drop()
    assert files_in(tmp_path) == []
    assert source.closed


def test_what_is_dropped_takes_no_memory() -> None:
    body = body_of(b"abc")
    body.drop()
    assert read(body) == b""


@on_linux
def test_what_nobody_has_is_closed_without_a_word(tmp_path: Path) -> None:
    """An application keeps what it reads as long as it likes; a ResourceWarning would be none of its business."""
    for opened in (False, True):
        body: Any = body_of(LONG, b"x", folder=tmp_path)
        kept = body.open() if opened else None
        del body
        gc.collect()
        assert len(files_in(tmp_path)) == opened  # what reads it keeps it
        del kept
        gc.collect()
        assert files_in(tmp_path) == []


@on_linux
def test_closing_what_reads_it_closes_the_file(tmp_path: Path) -> None:
    body = body_of(LONG, b"x", folder=tmp_path)
    body.open().close()
    assert files_in(tmp_path) == []


def test_a_folder_that_is_not_there_is_507(tmp_path: Path) -> None:
    """RFC 4918, section 11.5: for that request; the server goes on."""
    body = Body(1 << 30, tmp_path / "none")
    body.write(LONG)
    with pytest.raises(Refused, match="the body cannot be kept: ") as caught:
        body.write(b"x")
    assert caught.value.status == 507
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not body.in_file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_a_disk_that_is_full_is_507_and_what_was_kept_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    body = body_of(LONG)
    with pytest.raises(Refused) as caught:
        body.write(b"x")
    assert caught.value.status == 507
    assert os.strerror(errno.ENOSPC) in caught.value.why
    assert not body.in_file


@pytest.mark.skipif(sys.platform != "linux", reason="a disk that has room for a part of what is written")
def test_what_the_disk_takes_a_part_of_is_507_too(tmp_path: Path) -> None:
    """`write` says then how much it was, and raises nothing: what is not written again would be lost unseen."""
    import resource

    body = body_of(LONG, b"x", folder=tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LONG) + 3, before[1]))
    try:
        with pytest.raises(Refused) as caught:
            body.write(b"abcd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.status == 507
    assert os.strerror(errno.EFBIG) in caught.value.why
    assert not body.in_file


def test_a_reader_that_has_lost_its_file_is_closed_without_an_error(tmp_path: Path) -> None:
    """Whoever has it last closes it, perhaps as the server closes the file in another thread."""
    body = Body(2 * IN_MEMORY, tmp_path)
    body.write(bytes(IN_MEMORY + 1))
    reader: Any = body.open()
    file = reader.detach()
    reader.close()
    file.close()

"""Spool: what a handler makes is kept in order, in memory and in a file, within its marks."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels import Kernel
from tcp import PATIENCE
from treadle.server._transport.sending.outbox import VIEWS
from treadle.server._transport.sending.spool import OVERHEAD, ClientLeft, Spool


class Told:
    """Counts how often there was something to be sent again."""

    def __init__(self, *, led: bool = True) -> None:
        self.count = 0
        self.led = led

    def __call__(self) -> bool:
        self.count += 1
        return self.led


def new(memory: int = 1 << 16, most: int = 1 << 20, folder: Path | None = None, tell: Told | None = None) -> Spool:
    return Spool(memory, most, folder, tell or Told())


def send_all(spool: Spool, kernel: Kernel) -> None:
    """Send what there is."""
    while spool.send(kernel):
        pass


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def wait_until_full(spool: Spool, size: int) -> None:
    """Wait until another thread has added so much that it waits."""
    gone = threading.Event()
    for _ in range(int(PATIENCE / 0.001)):
        if spool.size >= size:
            return
        gone.wait(0.001)
    raise AssertionError(spool.size)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The files that spools have made."""
    made: list[Any] = []
    new_file = tempfile.TemporaryFile

    def make(*args: Any, **options: Any) -> Any:
        made.append(new_file(*args, **options))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    yield made
    assert all(file.closed for file in made)


def test_pieces_are_sent_in_order_and_those_that_may_be_changed_are_copied(files: list[Any]) -> None:
    spool, kernel, open_ = new(), Kernel(1000, 1000), bytearray(b"two")
    for piece in (b"one", open_, memoryview(b"threes")[:5], b"", b"four"):
        spool.add(piece)
    open_[:] = b"new"
    assert (spool.size, spool.made) == (15, 15)
    send_all(spool, kernel)
    assert (kernel.taken, spool.size, spool.made) == (b"onetwothreefour", 0, 15)
    assert not files


def test_what_the_kernel_does_not_take_stays() -> None:
    spool, kernel = new(), Kernel(5, 9)
    for piece in (b"abc", b"def", b"ghi", b"jkl"):
        spool.add(piece)
    assert spool.send(kernel) == 5
    assert spool.send(kernel) == 4
    with pytest.raises(BlockingIOError):
        spool.send(kernel)
    assert spool.size == 3
    kernel.left = 3
    send_all(spool, kernel)
    assert kernel.taken == b"abcdefghijkl"


def test_of_many_small_pieces_the_kernel_is_given_some_at_a_time() -> None:
    spool, kernel = new(), Kernel(1000, 1000)
    for _ in range(VIEWS + 1):
        spool.add(b"x")
    assert (spool.send(kernel), spool.send(kernel)) == (VIEWS, 1)


@pytest.mark.parametrize("piece", ["text", None, 7, [b"x"]])
def test_what_has_no_bytes_is_no_piece(piece: Any) -> None:
    with pytest.raises(TypeError, match=f"a piece of an answer is {type(piece).__name__}; allowed: bytes"):
        new().add(piece)


def test_the_leader_is_told_of_the_first_and_again_only_after_it_has_found_nothing() -> None:
    tell = Told()
    spool, kernel = new(tell=tell), Kernel(2, 100)
    spool.add(b"abc")
    spool.add(b"d")
    assert tell.count == 1
    assert spool.send(kernel) == 2
    spool.add(b"e")
    assert tell.count == 1
    send_all(spool, kernel)
    spool.add(b"f")
    assert tell.count == 2


def test_it_is_told_again_of_what_comes_after_all_was_sent_though_it_did_not_find_that_out() -> None:
    """It stops when a client has had its turn, and with nothing left it would not come back by itself."""
    tell = Told()
    spool, kernel = new(tell=tell), Kernel(100, 100)
    spool.add(b"abc")
    assert spool.send(kernel) == 3
    spool.add(b"d")
    assert tell.count == 2


def test_small_pieces_count_for_what_they_take(files: list[Any]) -> None:
    spool = new(memory=10 * (OVERHEAD + 1))
    for _ in range(10):
        spool.add(b"x")
    assert not files
    spool.add(b"x")
    assert len(files) == 1
    assert spool.size == 11
    spool.drop()


def test_what_does_not_fit_is_in_a_file_until_that_is_empty(tmp_path: Path, files: list[Any]) -> None:
    spool, kernel = new(1000, 5000, tmp_path), Kernel(10_000, 100_000)
    pieces = [os.urandom(400) for _ in range(12)]
    for piece in pieces:
        spool.add(piece)
    assert os.fstat(files[0].fileno()).st_size == 10 * 400
    assert not list(tmp_path.iterdir())  # it has no name
    spool.send(kernel)  # what is in memory
    spool.add(b"behind")  # though there is room before it
    send_all(spool, kernel)
    assert kernel.taken == b"".join(pieces) + b"behind"
    spool.add(b"in memory")
    assert os.fstat(files[0].fileno()).st_size == 0
    send_all(spool, kernel)
    assert kernel.taken.endswith(b"behindin memory")
    spool.drop()
    assert len(files) == 1


@pytest.mark.parametrize("takes", [1, 7, 64, 1000])
@pytest.mark.parametrize(("memory", "most"), [(0, 1), (0, 100), (0, 101), (200, 64), (100, 0), (0, 0)])
def test_in_a_circle_nothing_is_lost_or_mixed_up_and_the_file_stays_within_its_mark(
    files: list[Any], memory: int, most: int, takes: int
) -> None:
    spool, kernel = new(memory, most), Kernel(takes, 1 << 20)
    pieces = [bytes([number]) * (number * 7 % 90) for number in range(40)]

    def make() -> None:
        for piece in pieces:
            spool.add(piece)
        spool.complete()

    thread = in_thread(make)
    while not spool.is_over():
        spool.send(kernel)
        assert spool.size <= max(memory, 90) + most
        if files:
            assert os.fstat(files[0].fileno()).st_size <= most
    thread.join(PATIENCE)
    assert kernel.taken == b"".join(pieces)
    spool.drop()


def test_beyond_both_marks_the_thread_waits_and_is_let_go_when_nobody_will_send_it(files: list[Any]) -> None:
    spool = new(200, 300)
    ended: list[type[BaseException]] = []

    def make() -> None:
        try:
            while True:
                spool.add(b"x" * 100)
        except BaseException as error:
            ended.append(type(error))

    thread = in_thread(make)
    wait_until_full(spool, 400)
    assert not ended
    spool.drop()
    thread.join(PATIENCE)
    assert (ended, spool.size) == ([ClientLeft], 0)
    with pytest.raises(ClientLeft):
        spool.add(b"more")


def test_where_nobody_leads_any_more_nothing_is_kept() -> None:
    spool = new(tell=Told(led=False))
    spool.add(b"for nobody")
    assert spool.size == 0
    with pytest.raises(ClientLeft):
        spool.add(b"more")


def test_it_is_over_when_all_was_made_and_sent() -> None:
    spool, kernel = new(), Kernel(100, 100)
    assert not spool.is_over()
    spool.add(b"x")
    spool.complete()
    assert not spool.is_over()
    send_all(spool, kernel)
    assert spool.is_over()
    assert not kernel.torn


def test_after_a_failure_what_was_made_is_sent_and_the_client_sees_that_it_is_not_the_whole() -> None:
    spool, kernel = new(), Kernel(100, 100)
    spool.add(b"half")
    spool.fail()
    assert spool.send(kernel) == 4
    assert not kernel.torn
    assert not spool.is_over()
    with pytest.raises(ConnectionAbortedError, match="to the end"):
        spool.send(kernel)
    assert kernel.torn


def test_a_disk_that_is_full_is_an_error_of_whoever_adds_and_what_was_written_is_kept(
    monkeypatch: pytest.MonkeyPatch, files: list[Any]
) -> None:
    spool, kernel, write = new(0, 1000), Kernel(1000, 1000), os.pwrite

    def fills_up(fd: int, data: memoryview, at: int) -> int:
        if at >= 150:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[: 150 - at], at)

    monkeypatch.setattr(os, "pwrite", fills_up)
    spool.add(b"a" * 100)
    with pytest.raises(OSError, match="No space"):
        spool.add(b"b" * 100)
    spool.fail()
    assert spool.send(kernel) == 150
    with pytest.raises(ConnectionAbortedError):
        spool.send(kernel)
    assert kernel.taken == b"a" * 100 + b"b" * 50
    spool.drop()


@pytest.mark.parametrize("fault", ["raises", "is short"])
def test_a_file_that_cannot_be_read_back_is_a_broken_answer(
    monkeypatch: pytest.MonkeyPatch, files: list[Any], fault: str
) -> None:
    spool, kernel = new(0, 1000), Kernel(1000, 1000)
    spool.add(b"lost")

    def read(fd: int, size: int, at: int) -> bytes:
        if fault == "raises":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return b""

    monkeypatch.setattr(os, "pread", read)
    with pytest.raises(ConnectionAbortedError, match="to the end"):
        spool.send(kernel)
    assert kernel.torn
    spool.drop()


def test_a_file_is_not_closed_under_who_writes_it(monkeypatch: pytest.MonkeyPatch, files: list[Any]) -> None:
    """Its descriptor may be somebody else's by then."""
    spool, write = new(0, 1000), os.pwrite

    def dropped_meanwhile(fd: int, data: memoryview, at: int) -> int:
        spool.drop()
        assert not files[0].closed
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", dropped_meanwhile)
    spool.add(b"x" * 100)
    assert files[0].closed
    assert spool.size == 0
    assert spool.send(Kernel(0, 0)) == 0


def test_what_is_in_the_file_is_not_sent_from_it() -> None:
    """The kernel would refer to what is written over it before the client has it."""

    class Copies(Kernel):
        def send_file(self, file: Any, offset: int, size: int) -> int:
            raise AssertionError

    spool, kernel = new(0, 1000), Copies(1000, 1000)
    spool.add(b"copied")
    send_all(spool, kernel)
    assert kernel.taken == b"copied"
    spool.drop()


def test_a_forked_child_lets_go_of_it_though_another_thread_had_its_lock(files: list[Any]) -> None:
    spool = new(0, 1000)
    spool.add(b"x")
    with spool._lock:
        thread = in_thread(spool.forget_threads)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert files[0].closed
    with pytest.raises(ClientLeft):
        spool.add(b"more")


def test_also_an_empty_piece_tells_that_its_client_has_left() -> None:
    spool = new(100, 0)
    spool.add(b"")
    spool.drop()
    with pytest.raises(ClientLeft):
        spool.add(b"")

"""Sinks: whole lines, in files that many share, that are full, moved away, or closed."""

from __future__ import annotations

import io
import os
import re
import select
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from programs import PATIENCE
from treadle.server._protocols.wsgi.access_sink import ATOM, DescriptorSink, FileSink, ObjectSink, sink_for

LINES = [f"{number} {'x' * (number % 300)}\n" for number in range(1000)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:  # the test has closed it
            pass


def test_lines_are_appended_to_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("before\n")
    sizes: list[int] = []
    write = os.write

    def noted(to: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(to, data)

    monkeypatch.setattr(os, "write", noted)
    sink = FileSink(str(tmp_path / "log"))
    assert sink.write(LINES) == (len(LINES), None)
    sink.close()
    assert (tmp_path / "log").read_text() == "before\n" + "".join(LINES)
    assert len(sizes) == 1


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="pipes keep no packets apart here")
def test_a_pipe_is_given_whole_lines_as_many_as_it_takes_as_one() -> None:
    """So that those of several processes do not mix."""
    reader, writer = os.pipe2(os.O_DIRECT)  # what one write wrote, one read reads
    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(reader, 2 * ATOM):
            pieces.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    assert DescriptorSink(writer).write(LINES) == (len(LINES), None)
    os.close(writer)
    thread.join(PATIENCE)
    os.close(reader)
    assert b"".join(pieces).decode() == "".join(LINES)
    assert all(piece.endswith(b"\n") and len(piece) <= ATOM for piece in pieces)
    assert len(pieces) < len(LINES) / 10


PROCESS = """
import sys
from treadle.server._protocols.wsgi.access_sink import FileSink
sink = FileSink(sys.argv[1])
for _ in range(50):
    sink.write([sys.argv[2] * size + "\\n" for size in range(1, 200)])
"""


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    log = tmp_path / "log"
    marks = "abc"
    running = [subprocess.Popen([sys.executable, "-c", PROCESS, str(log), mark]) for mark in marks]
    assert [process.wait(PATIENCE) for process in running] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert all(len(set(line)) == 1 for line in lines)
    assert len(lines) == 50 * 199 * len(marks)


def test_a_new_file_is_nobody_elses_business(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        FileSink(str(tmp_path / "log")).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


def test_reopening_goes_on_at_the_path_wherever_the_program_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = FileSink("log")
    monkeypatch.chdir("/")
    sink.write(["one\n"])
    (tmp_path / "log").rename(tmp_path / "log.1")
    sink.write(["two\n"])
    sink.reopen()
    sink.write(["three\n"])
    sink.close()
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert (tmp_path / "log").read_text() == "three\n"


def test_a_file_that_cannot_be_opened_anew_leaves_the_old_one(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError):
        sink.reopen()
    assert sink.write(["two\n"]) == (1, None)
    sink.close()
    assert (tmp_path / "log.1").read_text() == "two\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
def test_a_full_disk_is_an_error_and_no_line() -> None:
    sink = FileSink("/dev/full")
    written, error = sink.write(["one\n", "two\n"])
    sink.close()
    assert written == 0
    assert isinstance(error, OSError)


FULL = """
import resource, sys
from treadle.server._protocols.wsgi.access_sink import FileSink
sink = FileSink(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))  # as a disk that is full amid a line
written, error = sink.write(["1234567890\\n"] * 3)
print(written, type(error).__name__)
print(*sink.write(["lost\\n"])[:1])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # there is room again
print(*sink.write(["next\\n", "last\\n"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit here")
def test_a_line_for_which_there_was_no_room_does_not_spoil_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "2 OSError\n0\n2 None\n"
    assert (tmp_path / "log").read_text() == "1234567890\n1234567890\n123\nnext\nlast\n"


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    """It is one for all who share it: what else runs at a terminal does so."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(DescriptorSink(writer).write(LINES)))
    thread.start()
    data = b""
    while len(data) < len("".join(LINES)):
        assert select.select([reader], [], [], PATIENCE)[0]
        data += os.read(reader, 65536)
    thread.join(PATIENCE)
    assert result == [(len(LINES), None)]
    assert data.decode() == "".join(LINES)


def test_a_pipe_that_nobody_reads_any_more_is_an_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    written, error = DescriptorSink(pipe[1]).write(LINES)
    assert written == 0
    assert isinstance(error, BrokenPipeError)


def test_a_descriptor_that_is_closed_is_an_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    written, error = DescriptorSink(pipe[1]).write(LINES)
    assert written == 0
    assert isinstance(error, OSError)


def test_an_object_is_given_a_line_at_a_time_and_flushed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        sink = sink_for(file)
        assert sink.write(["one\n", "two\n"]) == (2, None)
        assert (tmp_path / "log").read_text() == "one\ntwo\n"
        sink.close()
        assert not file.closed


class Fails:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        if len(self.lines) == 2:
            raise SystemExit("no more")
        self.lines.append(text)


def test_what_an_object_raises_is_returned_with_how_many_lines_it_took() -> None:
    to = Fails()
    written, error = ObjectSink(to).write(["one\n", "two\n", "three\n"])
    assert written == 2
    assert isinstance(error, SystemExit)
    assert to.lines == ["one\n", "two\n"]


def test_a_file_that_is_closed_is_an_error() -> None:
    file = io.StringIO()
    file.close()
    written, error = ObjectSink(file).write(["one\n"])
    assert written == 0
    assert isinstance(error, ValueError)


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    sink = sink_for("-")
    assert isinstance(sink, DescriptorSink)
    sink.write(["one\n"])
    sink.reopen()
    sink.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "one\nstill open\n"


def test_a_dash_is_what_was_put_in_the_place_of_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    place = io.StringIO()
    monkeypatch.setattr(sys, "stdout", place)
    sink_for("-").write(["one\n"])
    assert place.getvalue() == "one\n"
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ValueError, match="no standard output"):
        sink_for("-")


def test_a_path_may_be_an_object_and_a_folder_is_none(tmp_path: Path) -> None:
    sink = sink_for(tmp_path / "log")
    sink.write(["one\n"])
    sink.close()
    assert (tmp_path / "log").read_text() == "one\n"
    assert re.search("log", sink.name)
    with pytest.raises(IsADirectoryError):
        sink_for(tmp_path)


@pytest.mark.parametrize("wrong", [None, 1, object()])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="where="):
        sink_for(wrong)

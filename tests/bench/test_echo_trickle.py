"""Slow readers of large answers: who they are, what the server notes, and what is made of both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from socketservers import until

Import = Callable[[str], ModuleType]
PROGRAM = str(Path(__file__).parents[2] / "bench" / "echo.py")
PATIENCE = 60.0
WAYS = ("pieces", "bytes", "file", "session")
SIZE = 150_000  # two blocks, and some

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark is for Linux only")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Serve one client that asks with a line, and then hang up; give the port."""

    def serve() -> None:
        with listener.accept()[0] as sock:
            sock.settimeout(PATIENCE)
            if sock.recv(2):
                sock.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(PATIENCE)


def expected(bench: Import, size: int) -> bytes:
    return b"".join(bench("echo_trickle_server").blocks(size))


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 200_000])
def test_pieces_are_blocks_made_anew_and_together_as_large_as_was_told(bench: Import, size: int) -> None:
    server = bench("echo_trickle_server")
    pieces = list(server.blocks(size))
    assert len(b"".join(pieces)) == size
    assert all(piece == server.BLOCK[: len(piece)] and piece is not server.BLOCK for piece in pieces)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_answers_whole_and_counts_and_sends_back_other_lines(bench: Import, way: str, tmp_path: Path) -> None:
    trickle, peers = bench("echo_trickle"), bench("echo_peers")
    flags = ("--trickle", way, "--size", str(SIZE), "--folder", str(tmp_path))
    with peers.serving("treadle", *flags) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock, sock.makefile("rb") as file:
            sock.sendall(b"hello\n")
            assert file.readline() == b"hello\n"
            sock.sendall(b"t\n")
            assert file.read(SIZE) == expected(bench, SIZE)
        until(lambda: [look[1:] for look in trickle.looks_in((tmp_path / "seen").read_text())[-1:]] == [(0, 1, 1)])


def test_a_server_of_large_answers_is_told_where_it_may_keep_them(
    bench: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        bench("echo_servers").main(["treadle", "--trickle", "pieces"])
    assert left.value.code == 2
    assert "--trickle needs --folder" in capsys.readouterr().err


class Wire:
    """A socket to which all of `data` has come."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, most: int) -> bytes:
        got, self.data = self.data[:most], self.data[most:]
        if not got:
            raise BlockingIOError
        return got

    def send(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_slow_client_reads_what_its_pace_allows(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what it could have read long ago, it reads no more than a burst."""
    clients, now, size = bench("echo_trickle_clients"), [100.0], 7000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = clients.Client(listener.getsockname()[1], size, 8000.0)
        client.sock.close()
    client.sock = Wire(expected(bench, size))
    monkeypatch.setattr(clients.time, "monotonic", lambda: now[0])
    client.ask()
    got = []
    for seconds in (0.0, 0.125, 0.5, 0.125, 10.0, 10.0, 10.0):
        now[0] += seconds
        client.read()
        got.append(client.got)
    burst = int(8000 * clients.BURST)
    assert got == [0, 1000, 1000 + burst, 2000 + burst, 2000 + 2 * burst, 2000 + 3 * burst, size]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-1], "the server hung up after 99999 of 100000 bytes"),
        (lambda data: data[:70_000] + b"!" + data[70_001:], "wrong bytes after"),
    ],
)
def test_a_slow_client_that_is_not_given_its_answer_says_so(
    bench: Import, capsys: pytest.CaptureFixture[str], spoil: Callable[[bytes], bytes], said: str
) -> None:
    clients = bench("echo_trickle_clients")
    with answering(spoil(expected(bench, 100_000))) as port:
        words = ["slow", str(port), "--clients", "1", "--size", "100000", "--pace", "1e9"]
        assert clients.main(words) == 1
    output, errors = capsys.readouterr()
    assert output == "asked\n"
    assert errors.startswith("slow: ")
    assert said in errors


def test_clients_that_are_not_served_in_time_are_left(bench: Import, capsys: pytest.CaptureFixture[str]) -> None:
    clients = bench("echo_trickle_clients")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ["slow", str(listener.getsockname()[1]), "--clients", "3", "--size", "10", "--limit", "0.1"]
        assert clients.main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[1])
    assert (found["left"], found["bytes"]) == (3, 0)
    assert found["last"] >= found["asked"] + 0.1


def test_a_quick_client_that_gets_no_answer_has_waited_all_the_time(
    bench: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where conversations hold every thread: no answer is no reason to count nothing."""
    clients = bench("echo_trickle_clients")
    reading, writing = os.pipe()
    said = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as sock:
            sock.sendall(sock.recv(16))
        os.write(writing, b"go\n")
        with listener.accept()[0] as sock:
            assert sock.recv(16) == b"q\n"
            os.close(writing)
            said.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as listener, os.fdopen(reading, "r") as standard_input:
        monkeypatch.setattr(clients.sys, "stdin", standard_input)
        thread = threading.Thread(target=serve)
        thread.start()
        found = clients.quick(listener.getsockname()[1])
        said.set()
        thread.join(PATIENCE)
    assert found["count"] == 0
    assert 0 < found["p50"] == found["p99"] == found["max"] <= 1000 * found["seconds"]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.001, 1), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(bench: Import, share: float, value: int) -> None:
    assert bench("echo_trickle_clients").at(range(1, 101), share) == value


@pytest.mark.parametrize(
    ("way", "free", "size", "what"),
    [
        ("pieces", 2000, 100, None),
        ("pieces", 1000, 50, "disk"),
        ("bytes", 1000, 50, "memory"),
        ("file", 10, 100, None),
        ("session", 10, 100, None),
    ],
)
def test_answers_are_smaller_where_there_is_no_room_for_them_and_that_is_said(
    bench: Import,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    way: str,
    free: int,
    size: int,
    what: str | None,
) -> None:
    trickle = bench("echo_trickle")
    monkeypatch.setattr(trickle, "free_memory", lambda: free * trickle.MIB)
    monkeypatch.setattr(trickle.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free * trickle.MIB))
    assert trickle.affordable(way, 10, 100 * trickle.MIB, tmp_path) == size * trickle.MIB
    said = f"answers are of {size} MiB and not 100: {free:,} MiB of {what} are free\n" if what else ""
    assert capsys.readouterr().out == said


def test_files_without_a_name_count_as_what_is_held_on_disk(bench: Import, tmp_path: Path) -> None:
    trickle = bench("echo_trickle")
    before = trickle.held_by(os.getpid())
    with tempfile.TemporaryFile(dir=tmp_path) as file, (tmp_path / "named").open("wb") as named:
        for each in file, named:
            each.write(bytes(1 << 20))
            each.flush()
            os.fsync(each.fileno())
        assert trickle.held_by(os.getpid()) - before >= 1 << 20
        assert trickle.held_by(os.getpid()) - before < 2 << 20


def test_memory_is_that_which_the_kernel_tells(bench: Import) -> None:
    trickle = bench("echo_trickle")
    assert trickle.peak_memory(os.getpid()) > 1 << 20
    assert trickle.free_memory() > 1 << 20


def test_what_the_server_is_still_writing_is_not_read(bench: Import) -> None:
    trickle = bench("echo_trickle")
    assert trickle.looks_in("") == []
    assert trickle.looks_in("1.500 2 3 4\n1.5") == [(1.5, 2, 3, 4)]


def test_descriptors_are_wanted_for_each_client_and_its_file(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    trickle, servers = bench("echo_trickle"), bench("echo_servers")
    monkeypatch.setattr(trickle.resource, "getrlimit", lambda which: (1024, 2199))
    with pytest.raises(servers.Unavailable, match="2199, is too low"):
        trickle.trickle("pieces", "treadle", 1000, 100, 100.0)


def test_clients_that_fail_are_quoted(bench: Import) -> None:
    trickle, load = bench("echo_trickle"), bench("load")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with trickle.Clients("slow", SimpleNamespace(port=port), clients=1) as clients:
        with pytest.raises(load.LoadFailed, match=r"slow: .*Connection refused"):
            clients.wait_for_line()


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_measured(bench: Import, way: str) -> None:
    values = bench("echo_trickle").trickle(way, "treadle", 12, 400_000, 1e6)
    assert values["left"] == 0
    assert (values["clients"], values["answer"]) == (12, 400_000 / (1 << 20))
    assert values["taken"] >= values["made"] >= 0
    assert values["taken"] >= 0.2  # at its pace, but for a burst
    assert 1 <= values["busy_most"] <= 8
    assert 0 <= values["busy"] <= values["busy_most"]
    assert 0 < values["p50"] <= values["p99"] <= values["wait"]
    assert values["memory"] > 1


def test_it_runs_scaled_down_and_is_written(bench: Import, tmp_path: Path) -> None:
    load = bench("load")
    try:
        load.compiled()
    except load.NoClients as reason:
        pytest.skip(str(reason))
    words = ("--quick", "--clients=6", "--mib=0.3", "--pace=2", "--output", str(tmp_path), "trickle")
    command = (sys.executable, PROGRAM, *words)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.iterdir()  # there is nothing to compare, and no chart
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert record["values"]["treadle"]["clients"] == 6
    assert record["values"]["treadle"]["answer"] == pytest.approx(0.3, rel=0.001)
    assert record["title"] in done.stdout
    assert "6 clients, 0.3 MiB each" in done.stdout

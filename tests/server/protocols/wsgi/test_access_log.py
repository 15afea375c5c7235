"""AccessLog: every line is written, or counted and told as lost; and no request waits for it."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from behaviour.scripts import script
from treadle._base import log_throttle
from treadle._base.threads import start_thread
from treadle.server._protocols.wsgi import access_log as module
from treadle.server._protocols.wsgi.access_log import AccessLog, Entry

PATIENCE = 30.0
NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def request(target: str = "/") -> Entry:
    return Entry(host="::1", method="GET", target=target, version="HTTP/1.1", status=200)


def targets_in(text: str) -> list[str]:
    return re.findall(r'"GET (\S+) HTTP/1.1"', text)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(log_throttle, "clock", SimpleNamespace(now=lambda: time.now))
    return time


class Gate:
    """Takes lines only while it is open, as a disk or a pipe that is stuck."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)
        self.lines.append(text)

    @property
    def targets(self) -> list[str]:
        return targets_in("".join(self.lines))


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


class Broken:
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        self.fails = True
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        if self.fails:
            raise OSError(28, "No space left on device")
        self.lines.append(text)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"treadle.server"}
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("form", ["combined", "json"])
def test_lines_come_in_their_order_and_are_there_when_it_is_closed(form: Any, tmp_path: Path) -> None:
    with AccessLog(tmp_path / "log", form=form) as log:
        for number in range(2000):
            log.write(request(f"/{number}"))
    text = (tmp_path / "log").read_text()
    found = targets_in(text) if form == "combined" else [json.loads(line)["target"] for line in text.splitlines()]
    assert found == [f"/{number}" for number in range(2000)]
    assert log.lost == 0


def test_flush_returns_once_what_was_written_before_is_there(tmp_path: Path) -> None:
    with AccessLog(tmp_path / "log") as log:
        assert log.flush()  # nothing was written, and no thread started
        for number in range(20):
            log.write(request(f"/{number}"))
            assert log.flush()
            assert len(targets_in((tmp_path / "log").read_text())) == number + 1
    assert log.flush()


def test_a_line_is_written_though_nobody_asks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with AccessLog(tmp_path / "log") as log:
        for number in range(3):
            log.write(request(f"/{number}"))
            assert select.select([reader], [], [], PATIENCE)[0]
            assert targets_in(os.read(reader, 4096).decode()) == [f"/{number}"]
    os.close(reader)


def test_lines_of_many_threads_are_all_there(tmp_path: Path) -> None:
    with AccessLog(tmp_path / "log") as log:

        def write(name: int) -> None:
            for number in range(300):
                log.write(request(f"/{name}/{number}"))

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    found = targets_in((tmp_path / "log").read_text())
    assert sorted(found) == sorted(f"/{name}/{number}" for name in range(8) for number in range(300))
    for name in range(8):
        assert [it for it in found if it.startswith(f"/{name}/")] == [f"/{name}/{number}" for number in range(300)]


def test_there_is_one_thread_which_ends_with_it(gate: Gate) -> None:
    before = set(threading.enumerate())
    log = AccessLog(gate)
    assert set(threading.enumerate()) == before
    for _ in range(10):
        log.write(request())
    (thread,) = set(threading.enumerate()) - before
    gate.open.set()
    log.close()
    assert not thread.is_alive()


def test_while_it_is_stuck_so_many_lines_wait_and_the_rest_is_lost_and_told_later(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    with AccessLog(gate) as log:
        log.write(request("/first"))
        assert gate.reached.wait(PATIENCE)  # its thread is stuck with it
        for number in range(50):
            log.write(request(f"/{number}"))  # returns, or the test hangs
        assert log.lost == 40
        assert not log.flush(0.0)
        assert told(caplog) == []
        gate.open.set()
        assert log.flush()
        assert gate.targets == ["/first", *(f"/{number}" for number in range(10))]
        log.write(request("/again"))
        assert log.flush()
    assert gate.targets[-1] == "/again"
    assert told(caplog) == ["the access log in a Gate has lost 40 lines"]


def test_no_more_than_so_many_bytes_wait(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    with AccessLog(gate) as log:
        log.write(request("/first"))
        assert gate.reached.wait(PATIENCE)
        for _ in range(10):
            log.write(request("/" + "x" * 3000))
        assert log.lost == 7
        log.write(request("/small"))  # for which there is room
        gate.open.set()
    assert gate.targets[-1] == "/small"
    assert len(gate.targets) == 5


def test_a_pipe_that_nobody_reads_holds_up_neither_requests_nor_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(tmp_path / "log")
    for _ in range(20_000):
        log.write(request())
    assert log.lost > 0
    log.close(0.0)
    assert "the access log at" in told(caplog)[0]
    assert "is stuck, and what waits to be written is lost" in told(caplog)[0]
    os.close(reader)  # so that its thread ends


def test_many_lines_do_not_wait_for_others(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", PATIENCE * 10)
    monkeypatch.setattr(module, "MOST_LINES", 100)
    with AccessLog(gate) as log:
        for _ in range(51):
            log.write(request())
        assert gate.reached.wait(PATIENCE)
        gate.open.set()


def test_a_full_disk_is_told_once_in_ten_seconds_and_then_what_was_lost(
    time: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    to = Broken()
    with AccessLog(to) as log:

        def write(at: float) -> None:
            time.now = at
            log.write(request(f"/{at}"))
            assert log.flush()

        for at in (0.0, 3.0, 9.9, 10.0, 12.0):
            write(at)
        failed = (
            "the access log in a Broken cannot be written, and lines are lost: OSError(28, 'No space left on device')"
        )
        assert told(caplog) == [failed, f"{failed} (2 more like it since the last such line)"]
        to.fails = False
        write(13.0)
        assert told(caplog)[2:] == ["the access log in a Broken has lost 5 lines"]
        to.fails = True
        write(14.0)
        to.fails = False
        write(15.0)
        assert len(told(caplog)) == 3, "told once in ten seconds"
        assert log.lost == 6
        write(23.0)
        assert told(caplog)[3:] == ["the access log in a Broken has lost 1 line"]
        assert targets_in("".join(to.lines)) == ["/13.0", "/15.0", "/23.0"]
        to.fails = True
        write(24.0)
    assert told(caplog)[-1] == "the access log in a Broken has lost 1 line", "at the end all are told"
    assert log.lost == 7


def test_a_request_that_makes_no_line_is_an_error_of_ours_and_nobody_elses(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    wrong: Any = None
    with AccessLog(tmp_path / "log") as log:
        for entry in (Entry(began=float("nan")), Entry(began=1e300), wrong):
            log.write(entry)
        assert log.lost == 3
        log.write(request())
    assert targets_in((tmp_path / "log").read_text()) == ["/"]
    lost = f"the access log at {str(tmp_path / 'log')!r} has lost 3 lines"
    assert told(caplog) == ["a request makes no line of the access log", lost]
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info


def test_without_a_thread_lines_wait_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    start = start_thread

    def refuse(*_: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with AccessLog(tmp_path / "log") as log:
        monkeypatch.setattr(module, "start_thread", refuse)
        log.write(request("/1"))
        log.write(request("/2"))
        assert not log.flush(PATIENCE)
        monkeypatch.setattr(module, "start_thread", start)
        log.write(request("/3"))
    assert targets_in((tmp_path / "log").read_text()) == ["/1", "/2", "/3"]
    assert told(caplog) == ['the access log has no thread: RuntimeError("can\'t start new thread")']
    monkeypatch.setattr(module, "start_thread", refuse)
    log = AccessLog(tmp_path / "log")
    log.write(request("/4"))
    log.close()
    assert log.lost == 1


def test_it_goes_on_in_a_new_file_once_the_old_one_was_moved_away(tmp_path: Path) -> None:
    with AccessLog(tmp_path / "log") as log:
        log.write(request("/1"))
        assert log.flush()
        (tmp_path / "log").rename(tmp_path / "log.1")
        log.write(request("/2"))
        log.reopen()
        assert log.flush()
        assert (tmp_path / "log").exists(), "though nothing was written since"
        log.write(request("/3"))
    assert targets_in((tmp_path / "log.1").read_text()) == ["/1", "/2"]
    assert targets_in((tmp_path / "log").read_text()) == ["/3"]


def test_a_file_that_cannot_be_opened_anew_is_told_and_the_old_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the server has given up the rights with which it opened it."""
    with AccessLog(tmp_path / "log") as log:
        log.write(request("/1"))
        (tmp_path / "log").rename(tmp_path / "log.1")
        (tmp_path / "log").mkdir()
        log.reopen()
        for number in (2, 3):
            log.write(request(f"/{number}"))
            assert log.flush()
    assert targets_in((tmp_path / "log.1").read_text()) == ["/1", "/2", "/3"]
    (line,) = told(caplog)
    assert "cannot be opened anew, and goes on in the old file: IsADirectoryError" in line


def test_reopening_may_be_asked_for_by_a_signal_handler_amid_a_write(tmp_path: Path) -> None:
    """As of SIGUSR1, with which programs that move logs away say so; it may come at any line."""
    with AccessLog(tmp_path / "log") as log:
        log.write(request("/before"))
        assert log.flush()
        (tmp_path / "log").rename(tmp_path / "log.1")
        handler = signal.signal(signal.SIGUSR1, lambda number, frame: log.reopen())
        lock = log._lock

        class Raises:
            def __enter__(self) -> None:
                lock.acquire()
                signal.raise_signal(signal.SIGUSR1)

            def __exit__(self, *_: object) -> None:
                lock.release()

        try:
            log._lock = Raises()  # type: ignore[assignment]
            log.write(request("/amid"))
            log._lock = lock
        finally:
            signal.signal(signal.SIGUSR1, handler)
        assert log.flush()
        log.write(request("/after"))
    assert targets_in((tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()) == [
        "/before",
        "/amid",
        "/after",
    ]
    assert targets_in((tmp_path / "log").read_text())[-1:] == ["/after"]


def test_what_has_no_path_goes_on_when_it_is_reopened(gate: Gate) -> None:
    gate.open.set()
    with AccessLog(gate) as log:
        log.reopen()
        log.write(request("/1"))
        log.reopen()
        log.write(request("/2"))
    assert gate.targets == ["/1", "/2"]


def test_what_comes_after_the_end_is_lost_and_the_end_comes_once(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log")
    log.write(request("/1"))
    log.close()
    log.close()
    log.write(request("/2"))
    log.reopen()
    assert log.lost == 1
    assert targets_in((tmp_path / "log").read_text()) == ["/1"]
    AccessLog(tmp_path / "log").close()  # which nothing was written to


def test_secrets_are_hidden_in_both_places_and_forms(tmp_path: Path) -> None:
    forms: tuple[Literal["combined"], Literal["json"]] = ("combined", "json")
    entry = Entry(method="GET", target="/x?token=s3cret&a=1", version="HTTP/1.1", referer="http://h/?a=1&token=s3cret")
    for form in forms:
        with AccessLog(tmp_path / form, form=form, redact=["token"]) as log:
            log.write(entry)
        text = (tmp_path / form).read_text()
        assert "s3cret" not in text
        assert "/x?token=***&a=1" in text
        assert "http://h/?a=1&token=***" in text
    with AccessLog(tmp_path / "all", redact="query") as log:
        log.write(entry)
    assert '"GET /x?*** HTTP/1.1" - 0 "http://h/?***"' in (tmp_path / "all").read_text()
    assert entry.target == "/x?token=s3cret&a=1", "the entry is whose it was"


def test_standard_output_is_written_to_and_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    with AccessLog("-") as log:
        log.write(request())
    print("still open", flush=True)
    assert targets_in(capfd.readouterr().out) == ["/"]


@pytest.mark.parametrize(
    ("wrong", "named"), [({"form": "apache"}, "form"), ({"redact": "token"}, "redact"), ({"form": None}, "form")]
)
def test_a_wrong_argument_is_refused(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        AccessLog(tmp_path / "log", **wrong)
    with pytest.raises(OSError, match="no such folder"):
        AccessLog(tmp_path / "no such folder" / "log")


def test_what_waits_is_written_at_the_end_of_a_program(tmp_path: Path) -> None:
    done = script(f"""
        from treadle.server._protocols.wsgi.access_log import AccessLog, Entry
        log = AccessLog({str(tmp_path / "log")!r})
        log.write(Entry(method="GET", target="/last", version="HTTP/1.1"))
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert targets_in((tmp_path / "log").read_text()) == ["/last"]


@NO_FORK
def test_a_forked_child_writes_its_own_lines_and_none_of_its_parents(tmp_path: Path) -> None:
    done = script(f"""
        from treadle.server._protocols.wsgi import access_log as module
        from treadle.server._protocols.wsgi.access_log import AccessLog, Entry
        module.GATHER = 1e6  # so what the parent wrote still waits, and its thread is amid that
        log = AccessLog({str(tmp_path / "log")!r})

        def write(target):
            log.write(Entry(method="GET", target=target, version="HTTP/1.1"))

        def child():
            assert not log.lost
            write("/child")
            assert log.flush(20)

        write("/parent")
        log._lock.acquire()  # as another thread may have it
        log._failures._lock.acquire()
        status = fork(child)
        log._failures._lock.release()
        log._lock.release()
        assert status == 0
        write("/parent")
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert targets_in((tmp_path / "log").read_text()) == ["/child", "/parent", "/parent"]


def test_the_module_says_what_it_says_of_its_bounds() -> None:
    """They stand in the documents."""
    assert (module.MOST_LINES, module.MOST_BYTES, module.GATHER) == (4096, 4 << 20, 0.05)
    assert sys.getsizeof(Entry()) < 300


def test_it_says_where_it_writes(tmp_path: Path) -> None:
    with AccessLog(tmp_path / "access.log") as log:
        assert repr(log) == f"<AccessLog at {str(tmp_path / 'access.log')!r}>"
    assert repr(log).endswith(", closed>")

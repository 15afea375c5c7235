"""Processes: a parent that keeps its children, in real processes of their own."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType

import pytest

from programs import PATIENCE, Program
from tcp import ask, receive_all
from treadle.server import _processes as module
from treadle.server._processes import serve_in_processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# `idle` serves nothing and ends as a server does; `said` is one line in one piece, whoever else writes.
PRELUDE = """
import errno, logging, os, select, signal, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from treadle.server import Lines, Messages, Server
from treadle.server import _processes as processes
from treadle.server._accept.listen import open_listeners
from treadle.server._processes import serve_in_processes
from treadle.server._signals import LOST, Signals

folder = Path(sys.argv[1])
alive = os.open(folder / "alive", os.O_WRONLY)  # and so do the children
listeners = open_listeners("127.0.0.1:0")

def said(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def idle(listeners, lifeline, hear=lambda number: None):
    with Signals(lifeline) as signals:
        said("child", os.getpid())
        while (number := signals.hear(None)) not in (signal.SIGTERM, LOST):
            hear(number)
    return 0

def first_alone(name):
    "Whether this is the first of all children to ask."
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def main(count, serve, drain_timeout=30.0):
    said("listens on", listeners[0])
    said("ends with", serve_in_processes(count, listeners, serve, drain_timeout=drain_timeout))
"""


class Family(Program):
    """A parent and its children, whose end can be awaited: all hold a FIFO open."""

    def __init__(self, source: str, folder: Path) -> None:
        os.mkfifo(folder / "alive")
        self._alive = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
        here = str(Path(module.__file__).parents[2])
        command = [sys.executable, "-W", "error", "-c", PRELUDE + source, str(folder)]
        super().__init__(command, env={"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])})

    def __enter__(self) -> Family:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        os.close(self._alive)

    def all_end(self) -> None:
        """Wait for the end of each of them, once at least one has begun."""
        assert select.select([self._alive], [], [], PATIENCE)[0], f"somebody lives on:\n{self.output}"
        assert os.read(self._alive, 1) == b""


def children(parent: Family, count: int) -> list[int]:
    """Wait until so many children have said that they are there; return all that have, in their order."""
    parent.wait_for(rf"(?:child \d+\n[\s\S]*){{{count}}}")
    return [int(pid) for pid in re.findall(r"child (\d+)\n", parent.output)]


def ends_in_order(parent: Family) -> None:
    """Wait for the end of the parent, which leaves no child behind."""
    assert parent.wait() == 0, parent.output
    parent.all_end()
    assert "ends with 0\n" in parent.output, parent.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_ends_all_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with Family("main(3, idle)", tmp_path) as parent:
        assert len(set(children(parent, 3))) == 3
        parent.send(number)
        ends_in_order(parent)
        assert parent.output.count(f"{number.name}: stopping") == 1


def connect_again_and_again(address: tuple[str, int]) -> None:
    """Those that come before the last listener is closed are let in, or reset; either way they are closed."""
    while True:
        with socket.create_connection(address, PATIENCE) as late:
            assert receive_all(late) == b""


def test_a_request_that_was_begun_is_answered_and_later_clients_are_refused(tmp_path: Path) -> None:
    source = """
def slow(line, peer):
    said("begun")
    os.close(os.open(folder / "gate", os.O_RDONLY))  # a FIFO: until the test opens it
    return line + b"\\n"

def serve(listeners, lifeline):
    return int(Server(Messages(slow, Lines()), listeners, max_workers=2)._run(30.0, lifeline=lifeline) > 0)

os.mkfifo(folder / "gate")
main(2, serve)
"""
    with Family(source, tmp_path) as parent:
        address = ("127.0.0.1", parent.wait_for_port())
        with socket.create_connection(address, PATIENCE) as client:
            parent.wait_for(r"(?:serving slow[\s\S]*){2}")
            client.sendall(b"hello\n")
            parent.wait_for("begun")
            parent.send(signal.SIGTERM)
            parent.wait_for(r"(?:stopping[\s\S]*){3}")  # the parent and both children say so
            with pytest.raises(ConnectionRefusedError):
                connect_again_and_again(address)
            with open(tmp_path / "gate", "wb"):
                assert ask(client, b"", 6) == b"hello\n"
        ends_in_order(parent)


def test_a_second_signal_cuts_at_once(tmp_path: Path) -> None:
    source = """
def slow(line, peer):
    said("begun")
    select.select([], [], [], 3600)

def serve(listeners, lifeline):
    return int(Server(Messages(slow, Lines()), listeners, max_workers=2)._run(3600.0, lifeline=lifeline) > 0)

processes.GRACE = 3600.0  # what ends it is the signal, not that it is killed later
main(1, serve, drain_timeout=3600.0)
"""
    with Family(source, tmp_path) as parent:
        with socket.create_connection(("127.0.0.1", parent.wait_for_port()), PATIENCE) as client:
            client.sendall(b"x\n")
            parent.wait_for("begun")
            parent.send(signal.SIGTERM)
            parent.wait_for(r"(?:stopping[\s\S]*){2}")
            parent.send(signal.SIGTERM)
            assert receive_all(client) == b""
        assert parent.wait() == 0
        assert "ends with 1\n" in parent.output


DEAF = """
def deaf(listeners, lifeline):
    signal.signal(signal.SIGTERM, lambda number, frame: said("heard"))
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)  # or one that comes just before the sleep would be heard after it
    said("child", os.getpid())
    while True:
        select.select([wake], [], [], 3600)
        os.read(wake, 1)
"""


def test_a_child_that_does_not_end_is_killed_when_the_time_is_over(tmp_path: Path) -> None:
    with Family(f"processes.GRACE = 0.05\n{DEAF}\nmain(2, deaf, drain_timeout=0.05)", tmp_path) as parent:
        pids = children(parent, 2)
        parent.send(signal.SIGTERM)
        assert parent.wait() == 0
        for pid in pids:
            assert parent.output.count(f"process {pid} did not end in time, and is killed\n") == 1
        assert "ends with 1\n" in parent.output


def test_a_child_that_others_kill_while_all_stop_is_named(tmp_path: Path) -> None:
    """As a system does that is out of memory; nobody else says why the status is 1."""
    with Family(f"{DEAF}\nmain(1, deaf, drain_timeout=3600.0)", tmp_path) as parent:
        (pid,) = children(parent, 1)
        parent.send(signal.SIGTERM)
        parent.wait_for("heard")
        os.kill(pid, signal.SIGKILL)
        assert parent.wait() == 0
        assert parent.output.count(f"process {pid} was killed by SIGKILL before it was done\n") == 1
        assert "ends with 1\n" in parent.output


def test_a_child_that_is_stopped_goes_on_and_ends_in_order(tmp_path: Path) -> None:
    with Family("main(3, idle)", tmp_path) as parent:
        first, second, _ = children(parent, 3)
        os.kill(first, signal.SIGSTOP)
        os.kill(second, signal.SIGTSTP)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert "killed" not in parent.output


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_second_signal_has_a_child_go_on_that_was_stopped_meanwhile(tmp_path: Path) -> None:
    source = """
def serve(listeners, lifeline):
    with Signals(lifeline) as signals:
        said("child", os.getpid())
        while signals.hear(None) != LOST:
            pass
    return 0

main(1, serve, drain_timeout=3600.0)
"""
    with Family(source, tmp_path) as parent:
        (pid,) = children(parent, 1)
        parent.send(signal.SIGTERM)
        parent.wait_for("SIGTERM: stopping")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: ") T " in stat_of(pid))
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert "killed" not in parent.output


def test_a_child_that_stays_stopped_is_killed_and_the_others_say_how_it_ended(tmp_path: Path) -> None:
    source = """
processes.GRACE = 1.0  # seconds in which it stops again, however busy the machine is

def serve(listeners, lifeline):
    if first_alone("stopped"):
        def stop(number, frame):
            while True:
                os.kill(os.getpid(), signal.SIGSTOP)
        signal.signal(signal.SIGTERM, stop)
        said("child", os.getpid())
        while True:
            select.select([], [], [], 3600)
    return idle(listeners, lifeline)

main(2, serve, drain_timeout=1.0)
"""
    with Family(source, tmp_path) as parent:
        children(parent, 2)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert len(re.findall(r"process \d+ was stopped and did not go on, and is killed\n", parent.output)) == 1


def test_a_child_that_not_even_sigkill_ends_does_not_keep_its_parent(tmp_path: Path) -> None:
    """As one that waits for a broken disk."""
    source = """
processes.GRACE = 0.05
kill = os.kill
os.kill = lambda pid, number: number == signal.SIGKILL or kill(pid, number)

def deaf(listeners, lifeline):
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    said("child", os.getpid())
    while not select.select([lifeline], [], [], 3600)[0]:
        pass

main(1, deaf, drain_timeout=0.05)
"""
    with Family(source, tmp_path) as parent:
        (pid,) = children(parent, 1)
        parent.send(signal.SIGTERM)
        assert parent.wait() == 0
        assert f"processes that were killed do not end, and are left behind: {pid}\n" in parent.output
        assert "ends with 1\n" in parent.output


def test_signals_that_were_ignored_stay_so_in_parent_and_children(tmp_path: Path) -> None:
    source = """
def serve(listeners, lifeline):
    said("ignored:", signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
    return idle(listeners, lifeline)

signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
main(1, serve)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for("ignored: True")
        children(parent, 1)
        parent.send(signal.SIGINT)
        parent.send(signal.SIGHUP)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert "SIGINT" not in parent.output


SUBREAPER = """
import ctypes
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans are ours, as process 1's are

def serve(listeners, lifeline):
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until its parent has ended
        os._exit(0)
    os.wait()
    os.close(writer)
    said("orphaned")
    return idle(listeners, lifeline)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no PR_SET_CHILD_SUBREAPER")
def test_orphans_are_reaped_by_the_parent(tmp_path: Path) -> None:
    with Family(SUBREAPER + "main(2, serve)", tmp_path) as parent:
        parent.wait_for(r"(?:orphaned[\s\S]*){2}")
        pids = children(parent, 2)
        wait_until(lambda: set(children_of(parent.pid)) == set(pids))
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no PR_SET_CHILD_SUBREAPER")
def test_a_child_that_the_program_had_before_is_the_programs_to_wait_for(tmp_path: Path) -> None:
    source = """
before = os.fork() or os._exit(7)
os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
main(2, idle)
said("its status was", os.waitstatus_to_exitcode(os.waitpid(before, 0)[1]))
"""
    with Family(source, tmp_path) as parent:
        first, *_ = children(parent, 2)
        os.kill(first, signal.SIGKILL)
        children(parent, 3)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert "its status was 7\n" in parent.output


def children_of(pid: int) -> list[int]:
    """Return the process ids of those that have `pid` for a parent, zombies included."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [each for each in found if stat_of(each).rpartition(")")[2].split()[1:2] == [str(pid)]]


def stat_of(pid: int) -> str:
    """Return what the system says of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not true():
        assert monotonic() < deadline
        sleep(0.01)


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with Family("main(2, idle)", tmp_path) as parent:
        first, second = children(parent, 2)
        os.kill(first, signal.SIGKILL)
        parent.wait_for(rf"process {first} ended by SIGKILL after [\d.]+ s\n")
        assert len({first, second, *children(parent, 3)}) == 3
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert parent.output.count(" ended ") == 1, "it is told once"


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """None holds the parent's end of the pipe open for the others."""
    with Family("main(3, idle)", tmp_path) as parent:
        children(parent, 3)
        parent.send(signal.SIGKILL)
        parent.all_end()
        assert parent.wait() == -signal.SIGKILL


def test_sighup_reaches_every_child(tmp_path: Path) -> None:
    with Family('main(2, lambda *a: idle(*a, hear=lambda number: said("heard", number)))', tmp_path) as parent:
        children(parent, 2)
        parent.send(signal.SIGHUP)
        parent.wait_for(rf"(?:heard {signal.SIGHUP:d}\n[\s\S]*){{2}}")
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


def test_a_signal_that_the_program_has_a_handler_for_is_no_order(tmp_path: Path) -> None:
    source = 'signal.signal(signal.SIGUSR1, lambda *a: said("my own handler"))\nmain(1, idle)'
    with Family(source, tmp_path) as parent:
        children(parent, 1)
        parent.send(signal.SIGUSR1)
        parent.wait_for("my own handler")
        parent.send(signal.SIGHUP)  # heard after it
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert "SIGUSR1" not in parent.output


def test_signals_while_a_child_begins_are_not_lost_and_no_failure(tmp_path: Path) -> None:
    """SIGHUP does not end it, SIGTERM does, in order: it has no handlers of a server's yet."""
    source = """
def begins(listeners, lifeline):
    said("child", os.getpid())
    select.select([], [], [], 3600)

main(2, begins, drain_timeout=3600.0)
"""
    with Family(source, tmp_path) as parent:
        for pid in children(parent, 2):
            os.kill(pid, signal.SIGHUP)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert " ended " not in parent.output


def test_a_signal_in_the_very_instant_of_the_fork_is_not_lost(tmp_path: Path) -> None:
    """The child still has its parent's handlers then, which would take it for nothing."""
    source = """
fork = os.fork

def struck():
    pid = fork()
    if pid == 0 and first_alone("struck"):
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = struck
main(1, idle)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for("ended by SIGTERM")
        children(parent, 1)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


def test_children_hold_no_signal_back(tmp_path: Path) -> None:
    """Programs that handlers start would inherit it, and could not be ended."""
    source = """
def serve(listeners, lifeline):
    said("held back:", sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return idle(listeners, lifeline)

main(1, serve)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for(r"held back: \[\]")
        children(parent, 1)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


def test_ctrl_c_on_a_terminal_reaches_the_parent_alone(tmp_path: Path) -> None:
    """It goes to the whole process group, and the children would hear it twice: the second one cuts."""
    with Family('main(2, lambda *a: said("group", os.getpgrp() == os.getpid()) or idle(*a))', tmp_path) as parent:
        parent.wait_for(r"(?:group True\n[\s\S]*){2}")
        children(parent, 2)
        parent.send(signal.SIGINT)
        ends_in_order(parent)


@pytest.mark.parametrize("ending", ["return None", "return 3", "sys.exit('text')", "raise ValueError('no')"])
def test_a_child_that_ends_unasked_is_replaced_however_it_ends(ending: str, tmp_path: Path) -> None:
    source = f"""
def serve(listeners, lifeline):
    if first_alone("ended"):
        {ending}
    return idle(listeners, lifeline)

main(1, serve)
"""
    status = {"return None": 0, "return 3": 3}.get(ending, 1)
    with Family(source, tmp_path) as parent:
        parent.wait_for(rf"ended with status {status} after")
        children(parent, 1)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert ("ValueError: no" in parent.output) is ending.startswith("raise")


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="there are no real-time signals")
def test_a_signal_without_a_name_ends_a_child_and_not_the_parent(tmp_path: Path) -> None:
    source = """
def serve(listeners, lifeline):
    if first_alone("ended"):
        os.kill(os.getpid(), signal.SIGRTMIN + 2)
    return idle(listeners, lifeline)

main(1, serve)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for(rf"ended by signal {signal.SIGRTMIN + 2}")
        children(parent, 1)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


def test_a_child_that_cannot_write_its_last_words_harms_nobody(tmp_path: Path) -> None:
    """It would go on as a second parent, and kill its siblings."""
    source = """
class Broken:
    def write(self, text):
        return len(text)
    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "scripted")

def serve(listeners, lifeline):
    if first_alone("broken"):
        sys.stdout = Broken()
        return 3
    return idle(listeners, lifeline)

main(3, serve)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for("ended with status 3")
        children(parent, 3)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert parent.output.count(" ended ") == 1, parent.output


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    source = """
fork, calls = os.fork, []

def scarce():
    calls.append(1)
    if len(calls) == 2:
        raise BlockingIOError(errno.EAGAIN, "scripted")
    return fork()

os.fork = scarce
main(2, idle)
"""
    with Family(source, tmp_path) as parent:
        parent.wait_for("cannot start a process: scripted; trying again")
        children(parent, 2)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)


def test_when_all_end_as_soon_as_they_begin_it_gives_up_after_five_rounds(tmp_path: Path) -> None:
    source = "processes.FIRST_PAUSE = 0.001\nmain(3, lambda *a: 1)"
    with Family(source, tmp_path) as parent:
        assert parent.wait() == 0
        assert parent.output.count(" serves\n") in (15, 16, 17), "the last ones may end together"
        assert parent.output.count("; giving up after ") == 1
        assert "ends with 1\n" in parent.output


def test_what_another_try_does_not_change_is_not_tried_again(tmp_path: Path) -> None:
    """Such as a module that does not exist: 2 is what the command line ends with."""
    with Family("main(2, lambda *a: 2)", tmp_path) as parent:
        assert parent.wait() == 0
        assert parent.output.count(" serves\n") == 2
        assert "ends with 2\n" in parent.output


@pytest.mark.parametrize("status", [1, 2])
def test_once_it_has_served_it_does_not_give_up(status: int, tmp_path: Path) -> None:
    """A child that dies in the middle of an upgrade, when its module is not whole, is not to end the others."""
    source = f"""
now = processes.now
processes.now = lambda: now() + 100.0 * (folder / "later").exists()
processes.FIRST_PAUSE, processes.LONGEST_PAUSE = 0.001, 0.01

def serve(listeners, lifeline):
    if (folder / "unfinished").exists():
        return {status}
    return idle(listeners, lifeline)

main(2, serve)
"""
    with Family(source, tmp_path) as parent:
        first, second = children(parent, 2)
        (tmp_path / "later").touch()
        (tmp_path / "unfinished").touch()
        os.kill(first, signal.SIGKILL)
        parent.wait_for(rf"(?:ended with status {status}[\s\S]*){{20}}")
        (tmp_path / "unfinished").unlink()
        assert second in children(parent, 3)
        parent.send(signal.SIGTERM)
        ends_in_order(parent)
        assert f"process {second} ended" not in parent.output


def test_the_pauses_double_with_each_round_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "now", lambda: 100.0)
    parent = module.Parent(2, [], lambda listeners, lifeline: 0, 1.0)
    try:
        pauses = []
        for _ in range(16):
            parent.put_off()
            pauses.append(round(parent.start_at - 100.0, 3))
        for _ in range(5000):
            parent.put_off()
        assert pauses[::2] == pauses[1::2] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        assert parent.start_at == 105.0
    finally:
        os.close(parent.lifeline)
        os.close(parent.held)


def test_without_fork_it_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(OSError, match=r"need os\.fork, which this platform lacks; run one process"):
        serve_in_processes(2, [], lambda listeners, lifeline: 0, drain_timeout=1.0)

"""Orphans: reaped by process 1, which takes no status from the program that runs in it."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from programs import run
from treadle.server._orphans import Orphans, has_children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a thread's children apart")

# PR_SET_CHILD_SUBREAPER: orphans of our descendants are ours, as if we were process 1.
PRELUDE = """
import ctypes, os, signal, socket, subprocess, sys, threading, time
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
from treadle.server import Lines, Messages, Server
process_1 = os.getpid
os.getpid = lambda: 1

def orphan():
    "The process id of one that has ended, and whose parent ended before it did."
    script = "import os; r, w = os.pipe(); p = os.fork(); p and (print(p, flush=True), os._exit(0)); os.close(w)"
    return int(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout)

def is_gone(pid):
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)  # why: the kernel tells nobody that a process is gone
    return True
"""

SERVES = (
    PRELUDE
    + """
def handle(line, peer):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its status
    pid = orphan()
    return b"%d %d\\n" % (is_gone(pid), child.wait())

server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2)

def ask():
    while server.snapshot().state != "serving" or server._group is None:
        time.sleep(0.01)  # why: `run` holds the main thread, and tells nobody that it serves
    with socket.create_connection(server.address, 30) as sock:
        sock.sendall(b"x\\n")
        print(sock.makefile().readline(), end="", flush=True)
    server.stop(5.0)

asker = threading.Thread(target=ask)
asker.start()
print(server.run(5.0))
asker.join()
"""
)


def test_a_server_that_is_process_1_reaps_orphans_and_takes_no_status_from_its_handlers() -> None:
    status, out, err = run(sys.executable, "-c", SERVES)
    assert (status, out) == (0, "1 7\n0\n"), err


@pytest.mark.skipif(shutil.which("unshare") is None, reason="util-linux is not there")
def test_so_does_one_in_a_container() -> None:
    source = SERVES.replace("assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0", "").replace(
        "os.getpid = lambda: 1", "assert os.getpid() == 1"
    )
    container = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    if run(*container, "true")[0] != 0:
        pytest.skip("this system does not let us make a process 1")
    status, out, err = run(*container, sys.executable, "-c", source)
    assert (status, out) == (0, "1 7\n0\n"), err


def test_nothing_is_reaped_where_the_program_waits_itself() -> None:
    """It has started something in the main thread, or sees to SIGCHLD, or is not process 1."""
    source = (
        PRELUDE
        + """
from treadle.server._orphans import Orphans
print(Orphans().ours)
child = subprocess.Popen([sys.executable, "-c", "pass"])
print(Orphans().ours, child.wait(), Orphans().ours)
for handler in (signal.SIG_IGN, lambda number, frame: None):
    signal.signal(signal.SIGCHLD, handler)
    print(Orphans().ours)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
os.getpid = process_1
print(Orphans().ours)
"""
    )
    status, out, err = run(sys.executable, "-c", source)
    assert (status, out.split()) == (0, ["True", "False", "0", "True", "False", "False", "False"]), err


def test_without_children_there_is_nothing_to_reap(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(process: int, options: int) -> tuple[int, int]:
        raise ChildProcessError

    orphans = Orphans()
    orphans.ours = True
    monkeypatch.setattr(os, "waitpid", none_left)
    orphans.reap()


def test_where_the_system_cannot_tell_there_may_be_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", refuse)
        assert has_children()
    monkeypatch.delattr(os, "waitid")
    assert has_children()

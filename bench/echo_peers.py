"""Echo servers in processes of their own: started, watched, and ended."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from select import select
from time import monotonic, sleep
from typing import IO, Any

from echo_servers import SERVERS, UNAVAILABLE, Unavailable
from load import LoadFailed, load

PROGRAM = Path(__file__).with_name("echo_servers.py")
PATIENCE = 120.0  # seconds that a server may take to begin; Go compiles first
OURS = "treadle"
PACKAGES = {"treadle": "treadle", "uvloop": "uvloop", "gevent": "gevent"}  # whose versions are recorded
LABELS = {
    "loop": "a bare loop, one thread",
    "socketserver": "ThreadingTCPServer",
    "pool": "ThreadPoolExecutor(128)",
    "go": "Go net, GOMAXPROCS=1",
}
NAMES = tuple(SERVERS)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class ServerFailed(Exception):
    """A server did not begin, or failed its clients; the message says how, and what it wrote."""


@dataclass(frozen=True)
class Running:
    """A server that serves.

    Attributes:
        name: whose it is.
        port: on 127.0.0.1.
        pids: the processes that serve: children if there are any, else the one that was started.
        process: that was started; what it writes goes to `errors`.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    process: subprocess.Popen[str]
    errors: IO[str]

    def load(self, **options: float) -> dict[str, Any]:
        """Run clients against it (see `load.load`).

        Raises:
            ServerFailed: it did not do as it should.
        """
        try:
            return load(self.port, self.pids, **options)
        except LoadFailed as reason:
            status = self.process.poll()
            state = "still runs" if status is None else f"ended with status {status}"
            raise ServerFailed(f"{reason}; {self.name} {state}. {_tail(self.errors)}".strip()) from reason


@contextmanager
def serving(name: str, *flags: str, children: int = 0, program: Path = PROGRAM) -> Iterator[Running]:
    """Run the server `name` with these options of its program; with `children`, wait for so many processes.

    Raises:
        Unavailable: it cannot be had here.
        ServerFailed: it did not begin.
    """
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(program), name, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=partial(libc.prctl, DIE_WITH_PARENT, signal.SIGKILL),
        )
        try:
            port = _port(name, process, errors)
            pids = _children(process.pid, children) if children else (process.pid,)
            yield Running(name, port, pids, process, errors)
        finally:
            _end(process)


def _port(name: str, process: subprocess.Popen[str], errors: IO[str]) -> int:
    assert process.stdout is not None
    ready, _, _ = select([process.stdout], [], [], PATIENCE)
    line = process.stdout.readline() if ready else ""
    if line.startswith("serving on "):
        return int(line.rpartition(":")[2])
    if not ready:
        raise ServerFailed(f"{name} does not begin")
    status = process.wait(PATIENCE)
    if status == UNAVAILABLE:
        raise Unavailable(_tail(errors))
    raise ServerFailed(f"{name} ended with status {status}: {_tail(errors)}")


def _tail(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()[-2000:].strip()


def _children(pid: int, count: int) -> tuple[int, ...]:
    """Return the process ids of a process's children, when there are `count`."""
    listed, deadline = Path(f"/proc/{pid}/task/{pid}/children"), monotonic() + PATIENCE
    while monotonic() < deadline:
        found = tuple(map(int, listed.read_text(encoding="utf-8").split()))
        if len(found) >= count:
            return found
        sleep(0.01)
    raise ServerFailed(f"process {pid} has not started {count} children")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()

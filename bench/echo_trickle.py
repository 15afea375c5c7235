"""`trickle`: many clients take a large answer slowly; what they cost the server, and a quick client, meanwhile."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from echo_peers import Running, serving
from echo_servers import Unavailable
from load import LoadFailed

PROGRAM = Path(__file__).with_name("echo_trickle_clients.py")
THREADS = 8
SPARE = 200  # descriptors beside those of clients
SHARE = 0.5  # of the disk or memory that is free, which the answers may take
LIMIT = 12.0  # times as long as one client takes, for all of them; then what was not taken is given up
LEAST = 30.0  # seconds, at least
PATIENCE = 60.0  # seconds for clients to connect, or to end
OFTEN = 0.1  # seconds from one look at the disk to the next
MIB = 1 << 20


def trickle(way: str, peer: str, clients: int, size: int, pace: float) -> dict[str, float]:
    """Have so many clients ask for `size` bytes at once, and read `pace` of them a second each.

    Args:
        way: in which the answers are made (see echo_trickle_server.py).

    Returns:
        What was seen.
        rate, p50, p99, wait: of a quick client meanwhile: answers a second, and milliseconds; `wait` is the longest.
        busy, busy_most: threads that are busy with answers, in the median over the time, and at most.
        memory, disk: MiB that were resident, and that files without a name took, at most.
        made, taken: seconds until no thread had an answer to make any more, and until the last client had its own.
        clients, answer, left: how many; MiB of an answer; clients without theirs.
        read, behind: MiB a second that all read, and seconds that a client read late, at most.

    Raises:
        Unavailable: there may not be so many open files.
        ServerFailed, LoadFailed: the server did not do as it should.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < 2 * clients + SPARE:
        raise Unavailable(f"the limit on open files, {files}, is too low (ulimit -Hn)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="treadle-bench-")))
        size = affordable(way, clients, size, folder)
        seen = folder / "seen"
        flags = ["--trickle", way, "--size", str(size), "--folder", str(folder), "--threads", str(THREADS)]
        server = stack.enter_context(serving(peer, *flags))
        limit = max(LEAST, LIMIT * size / pace)
        quick = stack.enter_context(Clients("quick", server))
        quick.wait_for_line()
        words = {"clients": clients, "size": size, "pace": pace, "limit": limit}
        slow = stack.enter_context(Clients("slow", server, **words))
        slow.wait_for_line()
        quick.tell("go")
        disk = held_until_over(slow, server.pids[0])
        took, other = slow.result(), quick.result()
        memory = peak_memory(server.pids[0])
        looks = looks_in(seen.read_text(encoding="ascii"))
    seconds = took["last"] - took["asked"]
    busy = [look.running for look in looks if took["asked"] <= look.at <= took["last"]]
    made = [look.at for look in looks if look.ended >= clients]
    return {
        "rate": other["count"] / other["seconds"],
        "p50": other["p50"],
        "p99": other["p99"],
        "wait": other["max"],
        "busy_most": looks[-1].most,
        "busy": statistics.median(busy),
        "memory": memory / MIB,
        "disk": disk / MIB,
        "made": max(0.0, made[0] - took["asked"]) if made else seconds,
        "taken": seconds,
        "left": took["left"],
        "clients": clients,
        "answer": size / MIB,
        "read": took["bytes"] / MIB / seconds,
        "behind": took["behind"],
    }


def affordable(way: str, clients: int, size: int, folder: Path) -> int:
    """Return `size`, or so much less that all answers fit in half the disk or memory that is free; then say so."""
    if way in ("file", "session"):
        return size
    what, free = ("memory", free_memory()) if way == "bytes" else ("disk", shutil.disk_usage(folder).free)
    most = max(1, int(SHARE * free / clients))
    if size > most:
        found = f"{free / MIB:,.0f} MiB of {what} are free"
        print(f"answers are of {most / MIB:.3g} MiB and not {size / MIB:.3g}: {found}")
    return min(size, most)


def free_memory() -> int:
    """Return the bytes of memory that programs may have."""
    return _kib(Path("/proc/meminfo"), "MemAvailable")


def peak_memory(pid: int) -> int:
    """Return the bytes of a process that were resident at most."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM")


def _kib(path: Path, name: str) -> int:
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def held_until_over(clients: Clients, pid: int) -> int:
    """Wait for clients; return the bytes on disk of the files without a name that `pid` had open, at most."""
    most = 0
    while clients.are_running(OFTEN):
        most = max(most, held_by(pid))
    return most


def held_by(pid: int) -> int:
    """Return the bytes on disk of the files without a name that a process has open."""
    total = 0
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for one in descriptors:
            try:
                found = os.stat(one.path)
            except OSError:  # it was closed meanwhile
                continue
            if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                total += found.st_blocks * 512  # whatever the blocks of the disk are
    return total


class Look(NamedTuple):
    """What the server has noted at an instant: threads that are busy, and were at most, and answers that are made."""

    at: float
    running: int
    most: int
    ended: int


def looks_in(text: str) -> list[Look]:
    """Return what the server has noted; it may be writing the last line."""
    whole = text[: text.rfind("\n") + 1]
    return [Look(float(at), *map(int, counts)) for at, *counts in map(str.split, whole.splitlines())]


class Clients:
    """Clients that are running, slow ones or the quick one; a context manager, at whose end they are gone."""

    def __init__(self, kind: str, server: Running, **options: float) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
        command = [sys.executable, str(PROGRAM), kind, str(server.port), *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def wait_for_line(self) -> None:
        """Wait until they say something."""
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.result()

    def tell(self, line: str) -> None:
        """Say something to them."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def are_running(self, timeout: float) -> bool:
        """Return whether they still run, after so many seconds if they do."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return True
        return False

    def result(self) -> dict[str, Any]:
        """Have them end, and return what they measured."""
        try:
            output, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"not done within {PATIENCE:.0f} seconds") from None
        if self.process.returncode:
            raise LoadFailed(errors.strip() or f"the clients ended with status {self.process.returncode}")
        return dict(json.loads(output))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

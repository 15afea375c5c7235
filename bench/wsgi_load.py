"""wrk, the clients of web servers: runs it, and counts the processor time that a server takes meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from echo_peers import Running, ServerFailed, serving
from load import LoadFailed, NoClients

SCRIPT = Path(__file__).with_name("wsgi.lua")
PROGRAM = Path(__file__).with_name("wsgi_servers.py")
PATIENCE = 60.0  # seconds beyond those that are measured
BEGINS = 30.0  # seconds that a server may take until it answers
LEAVES = 5.0  # seconds that a worker may take to end when its server has


def wrk() -> str:
    """Return the path of wrk.

    Raises:
        NoClients: it is not here, or this is no Linux.
    """
    if not sys.platform.startswith("linux"):
        raise NoClients(f"processor time is read from /proc, which needs Linux, and this is {sys.platform}")
    program = shutil.which("wrk")
    if program is None:
        raise NoClients("the clients are wrk, and there is none; on Debian and Ubuntu: apt-get install wrk")
    return program


def request(target: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request; it is a POST if it has a body."""
    lines = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", *fields]
    if body:
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = listed.read_text(encoding="ascii").split()
        except OSError:
            continue  # that thread has ended
        found += [one for child in children for one in family(int(child))]
    return found


def processor_time(pids: Sequence[int]) -> float:
    """Return the seconds, of user and system, that processes have taken; finer than the ticks of /proc/PID/stat."""
    # The clock of a process is its number, inverted and shifted, and 2 for what it ran (clock_getcpuclockid(3)).
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@contextmanager
def serving_web(name: str, *flags: str) -> Iterator[Running]:
    """Run the web server `name` with these options of wsgi_servers.py; at the end its workers are gone too.

    Raises:
        Unavailable: it cannot be had here.
        ServerFailed: it did not begin.
    """
    workers = list[int]()
    try:
        with serving(name, *flags, program=PROGRAM) as server:
            try:
                yield server
            finally:
                workers = [os.pidfd_open(pid) for pid in family(server.process.pid)[1:]]
    finally:
        for worker in workers:
            try:
                _until_ended(worker)
            finally:
                os.close(worker)


def _until_ended(worker: int) -> None:
    """Wait until a process has ended, and end it if that takes long; its parent, who is gone, should have done so."""
    deadline = time.monotonic() + LEAVES
    try:
        while time.monotonic() < deadline:
            signal.pidfd_send_signal(worker, 0)
            time.sleep(0.01)
        signal.pidfd_send_signal(worker, signal.SIGKILL)
    except ProcessLookupError:
        pass


def answer(server: Running, sent: bytes) -> bytes:
    """Return the body of the answer to a request, as soon as the server answers.

    Raises:
        ServerFailed: it does not, or not with status 200.
    """
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split()
    deadline = time.monotonic() + BEGINS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BEGINS)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for field in fields:
                connection.putheader(*field.split(": ", 1))
            connection.endheaders(body or None)
            got = connection.getresponse()
            content = got.read()
            break
        except ConnectionRefusedError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise failed(server, "it does not begin to listen") from None
            time.sleep(0.01)
        except (OSError, http.client.HTTPException) as reason:
            raise failed(server, repr(reason)) from reason
        finally:
            connection.close()
    if got.status != 200:
        raise failed(server, f"status {got.status}")
    return content


def failed(server: Running, why: str) -> ServerFailed:
    """Return the error that says what a server did, and what it wrote."""
    status = server.process.poll()
    state = "still runs" if status is None else f"ended with status {status}"
    server.errors.seek(0)
    return ServerFailed(f"{why}; {server.name} {state}. {server.errors.read()[-2000:].strip()}".strip())


def load(server: Running, seconds: int, connections: int, requests: Sequence[bytes], of: int = 0) -> dict[str, Any]:
    """Run wrk against a server; return what wsgi.lua writes, and `cpu_s`, the processor time of the server meanwhile.

    Args:
        server: that is loaded.
        seconds: how long.
        connections: how many are kept alive; each has one request under way.
        requests: what is sent; if there are two, one `of` so many is the second, and both are timed.
        of: see `requests`.

    Raises:
        NoClients: there is no wrk.
        ServerFailed: not all answers were right.
    """
    with tempfile.TemporaryDirectory(prefix="treadle-bench-") as folder:
        files = [Path(folder, str(number)) for number in range(len(requests))]
        for path, data in zip(files, requests, strict=True):
            path.write_bytes(data)
        mixed = [str(of)] if len(files) > 1 else []
        command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT)]
        command += [f"http://127.0.0.1:{server.port}/", "--", *map(str, files), *mixed]
        pids = family(server.process.pid)
        before = processor_time(pids)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"not done within {seconds + PATIENCE:.0f} seconds") from None
        try:
            taken = processor_time(pids) - before
        except OSError:
            raise failed(server, "a process of it has ended") from None
    if done.returncode or not done.stdout.strip():
        raise LoadFailed(done.stderr.strip() or f"wrk ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    wrong = {name: count for name, count in {**found["errors"], "odd": found["all"]["odd"]}.items() if count}
    if wrong or not found["all"]["bytes"]:  # of a large answer none may be whole
        raise failed(server, f"of {found['all']['requests']} answers not all were right: {wrong}")
    return {**found, "cpu_s": taken}

"""The clients: compiles load.c once, runs it, and returns what it measured."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("load.c")
PATIENCE = 120.0  # seconds beyond those that are measured


class NoClients(Exception):
    """The clients cannot be had on this machine; the message says why."""


class LoadFailed(Exception):
    """The clients did not get what they are due; the message is theirs."""


def cache() -> Path:
    """Return the folder for what is compiled, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "treadle-bench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"treadle-bench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def compiler() -> str:
    """Return the C compiler: $CC, or cc, gcc or clang."""
    if not sys.platform.startswith("linux"):
        raise NoClients(f"the clients need Linux (epoll and /proc), and this is {sys.platform}")
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise NoClients("the clients are written in C, and there is no compiler; on Debian and Ubuntu: apt-get install gcc")


def compiled() -> Path:
    """Return the program, compiled if its source is not what it was."""
    chosen, source = compiler(), SOURCE.read_bytes()
    program = cache() / f"load-{hashlib.sha256(source).hexdigest()[:16]}"
    if not program.exists():
        unfinished = program.with_name(f"{program.name}.{os.getpid()}")
        command = [chosen, "-O2", "-o", str(unfinished), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoClients(f"{chosen} cannot compile {SOURCE.name}: {done.stderr.strip()}")
        unfinished.replace(program)
    return program


def load(port: int, pids: Iterable[int] = (), **options: float) -> dict[str, Any]:
    """Run clients against a server, and return what they measured (`load --help`, and load.c, tell what that is).

    Args:
        port: of the server, on 127.0.0.1.
        pids: the server's processes, to be watched.
        options: those of the program, as in `until_cut=3`.

    Raises:
        NoClients: they cannot be compiled here.
        LoadFailed: the server did not do as it should.
    """
    with Clients(port, pids, **options) as clients:
        return clients.result()


class Clients:
    """Clients that are running; a context manager, at whose end they are gone."""

    def __init__(self, port: int, pids: Iterable[int] = (), **options: float) -> None:
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", f"{value:g}")]
        words += [word for pid in pids for word in ("--pid", str(pid))]
        command = [str(compiled()), *words, str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.patience = PATIENCE + sum(options.get(name, 0.0) for name in ("seconds", "warmup", "until_cut"))

    def result(self) -> dict[str, Any]:
        """Wait for them, and return what they measured."""
        try:
            output, errors = self.process.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"not done within {self.patience:.0f} seconds") from None
        if self.process.returncode:
            said = errors.strip().removeprefix("load: ")
            raise LoadFailed(said or f"the clients ended with status {self.process.returncode}")
        return dict(json.loads(output))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

"""Leaving: the status of a command is certain, whoever holds what its last words need."""

from __future__ import annotations

import sys

import pytest

from programs import run
from treadle._cli import leaving as module
from treadle._cli.leaving import Leaving

PRELUDE = """
import atexit, logging, os, sys, threading
from treadle._cli import leaving as module
from treadle._cli.leaving import Leaving
atexit.register(lambda: os.write(2, b"at exit"))
leaving = Leaving()
"""


def test_what_is_said_in_time_ends_as_python_does() -> None:
    source = PRELUDE + 'status = leaving.begin(3)\nprint("stopped")\nleaving.end()\nsys.exit(status)'
    assert run(sys.executable, "-c", source) == (3, "stopped\n", "at exit")


def test_a_full_pipe_does_not_keep_the_process() -> None:
    source = (
        PRELUDE
        + """
module.PATIENCE = 0.05
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while os.write(writer, bytes(65536)):
        pass
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 1)
leaving.begin(3)
print("nobody reads this")
leaving.end()
"""
    )
    assert run(sys.executable, "-c", source) == (3, "", "")


def test_a_log_handler_that_is_held_for_ever_does_not_keep_the_process() -> None:
    """Python takes the lock of each when it exits."""
    source = (
        PRELUDE
        + """
module.PATIENCE = 0.05
handler, held = logging.StreamHandler(), threading.Event()
threading.Thread(target=lambda: handler.acquire() or held.set() or threading.Event().wait(), daemon=True).start()
held.wait()
sys.exit(leaving.end() if leaving.begin(3) == 3 else None)
"""
    )
    assert run(sys.executable, "-c", source) == (3, "", "")


def test_without_a_thread_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_thread", refuse)
    assert Leaving().begin(3) == 3

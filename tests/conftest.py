"""What holds for every test: it leaves no thread and no open socket behind, and no warning passes unseen.

Warnings become errors, and a test that hangs ends the run with every stack printed; both are set in pyproject.toml.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from treadle.alarm import ALARM

PATIENCE = 10.0  # seconds that threads which are on their way out may still take
EXIT_PATIENCE = 60  # seconds for the interpreter to end after the last test
DESCRIPTORS = Path("/proc/self/fd")
LEAKABLE = ("socket:", "pipe:", "anon_inode:")  # the rest are files, which pytest and its plugins open at will


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a thread or a socket lives on that was not there before."""
    threads_before, descriptors_before = set(threading.enumerate()), _open_descriptors()
    bells_before = {id(bell) for bell in ALARM._bells}
    yield
    if request.node.get_closest_marker("leaves_behind"):
        return
    bells = [bell for bell in ALARM._bells if bell.ring is not None and id(bell) not in bells_before]
    assert not bells, f"the test left alarms set: {[bell.ring for bell in bells]}"
    threads = _threads_beyond(threads_before)
    assert not threads, f"the test left threads behind: {threads}"
    descriptors = _descriptors_beyond(descriptors_before)
    assert not descriptors, f"the test left descriptors open: {descriptors}"


def _threads_beyond(before: set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads not in `before` that are still alive after they had time to end."""
    deadline = monotonic() + PATIENCE
    for thread in set(threading.enumerate()) - before - {threading.current_thread()}:
        if isinstance(thread, threading._DummyThread):
            continue  # a foreign thread that once ran Python code; it cannot be joined
        # One that another thread is just starting is listed, and cannot be joined yet.
        if thread._started.wait(max(0.0, deadline - monotonic())):  # type: ignore[attr-defined]  # of threading.Thread
            thread.join(max(0.0, deadline - monotonic()))
    left = set(threading.enumerate()) - before
    return [thread for thread in left if thread.is_alive() and not isinstance(thread, threading._DummyThread)]


def _descriptors_beyond(before: set[tuple[str, str]]) -> set[tuple[str, str]]:
    left = _open_descriptors() - before
    if left:
        gc.collect()  # what only a cycle of garbage holds open is not leaked, and is reported as a ResourceWarning
        left = _open_descriptors() - before
    return left


def _open_descriptors() -> set[tuple[str, str]]:
    """Return number and target of each open socket, pipe and poller; nothing where there is no /proc."""
    found = set()
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.exists() else ():
        try:
            target = os.readlink(DESCRIPTORS / name)
        except OSError:
            continue  # the descriptor of this very listing
        if target.startswith(LEAKABLE):
            found.add((name, target))
    return found


def pytest_unconfigure() -> None:
    """End an interpreter that a leftover thread would keep from ending."""
    faulthandler.dump_traceback_later(EXIT_PATIENCE, exit=True, file=2)

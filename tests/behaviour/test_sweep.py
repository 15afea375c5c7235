"""An exception at every instant at which CPython could raise it inside treadle's files loses nothing.

What is not swept, since the standard library cannot survive it: `treadle.as_completed` outside of pools' threads and of
deadlines is its own function, which holds the conditions of all futures as it begins and lets none go if it is
interrupted there; and the `with` statement of a context manager written in Python, such as `treadle.deadline`, may be
interrupted between the manager's last line and the block's first, so that nobody calls its end.

`make stress` sweeps all; here is a slice of each operation.
"""

from __future__ import annotations

import threading

import pytest

from behaviour.sweep import SCENES, WORKERS, run, run_in_workers

# It may come amid a destructor, or as a generator is closed: there Python can only report what is raised.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.leaves_behind("a timer that was just set when Ctrl-C came is not cancelled, and calls in vain"),
]

SLICE = 40  # instants of each operation, evenly spread; and its last ones, which are after the fact
LAST = 10


def slice_of(total: int) -> list[int]:
    step = max(1, total // SLICE)
    return sorted({*range(1, total + 1, step), *range(max(1, total - LAST), total + 1)})


@pytest.fixture
def _killed_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are killed outside of all that is caught."""
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)


@pytest.mark.parametrize("name", SCENES)
def test_ctrl_c_loses_nothing(name: str) -> None:
    make, operation = SCENES[name]
    for at in slice_of(run(make, operation, None).count):
        run(make, operation, at)


@pytest.mark.usefixtures("_killed_in_silence")
@pytest.mark.parametrize("name", WORKERS)
def test_a_thread_that_is_killed_loses_nothing(name: str) -> None:
    make, operation = WORKERS[name]
    for at in slice_of(run_in_workers(make, operation, None).count):
        run_in_workers(make, operation, at)

"""What holds for every test: it leaves no thread and no open socket behind, and no warning passes unseen.

Warnings become errors, and a test that hangs ends the run with every stack printed; both are set in pyproject.toml.
One that fails while its tasks wait for it does not hang: it fails. And the machine may be slow, and whoever started us
may ignore signals.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import hypothesis
import hypothesis.internal.conjecture.optimiser  # or it is parsed amid a test's threads: fails on 3.11.2, see gh-106905
import pytest

from certificates import Authority
from treadle._base.timer import TIMERS
from treadle._dispatch import deadlock, lifecycle
from treadle.server import Certificates
from treadle.server._serving.watchdog import Sample, Watchdog

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher

PATIENCE = 10.0  # seconds that threads which are on their way out may still take
GRACE = 2.0  # seconds that what a failed test has started may still take
EXIT_PATIENCE = 60  # seconds for the interpreter to end after the last test
DESCRIPTORS = Path("/proc/self/fd")
LEAKABLE = ("socket:", "pipe:", "anon_inode:")  # the rest are files, which pytest and its plugins open at will
FAILED = pytest.StashKey[bool]()  # of a test: whether it has failed

# A busy machine is no fault of the code: examples may take any time.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def _hear_signals() -> None:
    """See that programs under test can be stopped, though this process was started with signals ignored.

    As by `nohup`, or by `&` in a script. What is ignored stays so in every child; what is caught does not.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ} if hasattr(signal, "SIGPIPE") else ():
        if signal.getsignal(number) is signal.SIG_IGN:  # but for those two, which Python ignores itself
            ours = signal.default_int_handler if number == signal.SIGINT else lambda number, frame: None
            signal.signal(number, ours)


_hear_signals()


@pytest.fixture(scope="session", autouse=True)
def _multiprocessing_is_at_work() -> None:
    """Its locks want a helper process: the first one starts it, and the pipe to it stays open."""
    if os.name == "posix":
        resource_tracker.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _programs_are_compiled_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where Python is told to write no bytecode beside the sources, have programs under test write it elsewhere.

    Tests start a thousand of them, and each would compile treadle anew, which takes longer than what it is started for.
    """
    if not sys.dont_write_bytecode:
        return
    folder = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):
        folder = folder.parent  # which all of pytest-xdist's workers share
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of servers and clients under test; one that changes files has one of its own."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def certificates(authority: Authority) -> Certificates:
    """What a server at 127.0.0.1 shows to clients that trust `authority`."""
    return authority.certificates()


@pytest.fixture
def blind_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the watchdogs of servers take the lead from nobody.

    The system may hold up any handler, however quick, for longer than they let one keep the others waiting.
    """
    monkeypatch.setattr(Watchdog, "_promote_new_leader", lambda self, lead: None)
    monkeypatch.setattr(Sample, "look", lambda self, lead: None)


@hypothesis.given(hypothesis.strategies.none())
def _first_example(_: None) -> None:
    """Be an example."""


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what lives as long as the run: modules, and ten thousand tests.

    Tests have it look for what they drop, hundreds of times, and to look at all of that took 0.2 s each time. With its
    first example hypothesis asks the collector who keeps its random numbers, so that one comes before.
    """
    _first_example()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test has failed, for what comes after it."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _fails_rather_than_hang(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test that fails inside a `with` block fail, though what the block waits for waits for the test.

    A pool or a group that is left by an exception, or by the fixture of a test that has failed, is waited for a moment
    and then abandoned: its tasks are never cancelled, and its threads die with this process.
    """
    join, wait = lifecycle.join, deadlock.wait

    def grace() -> float | None:
        """Return the seconds that this thread may wait; None: what it likes, for nothing has failed."""
        if threading.current_thread() is not threading.main_thread():
            return None
        error = sys.exception()
        if isinstance(error, (AssertionError, pytest.fail.Exception)) or request.node.stash.get(FAILED, False):
            return GRACE
        return None if error is None else PATIENCE

    def give_up() -> NoReturn:
        request.node.stash[FAILED] = True
        raise sys.exception() or pytest.fail.Exception("what the test started does not end, now that it has failed")

    def join_in_time(dispatcher: Dispatcher, timeout: float | None) -> bool:
        allowed = grace()
        if allowed is None or (timeout is not None and timeout <= allowed):
            return join(dispatcher, timeout)
        if join(dispatcher, allowed):
            return True
        dispatcher.state.abandoned = True
        give_up()

    def wait_in_time(gate: Any, worker: Any, targets: Any, timeout: float | None, **options: Any) -> bool:
        allowed = grace()
        try:
            if allowed is None or timeout is not None:
                return wait(gate, worker, targets, timeout, **options)
            if not wait(gate, worker, targets, allowed, **options):
                give_up()
            return True
        finally:
            del targets  # as there: what a task raises that is run here leads to this frame

    monkeypatch.setattr(lifecycle, "join", join_in_time)
    monkeypatch.setattr(deadlock, "wait", wait_in_time)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a thread or a socket lives on that was not there before."""
    threads_before, descriptors_before = set(threading.enumerate()), _open_descriptors()
    bells_before = {id(bell) for bell in TIMERS._handles}
    yield
    if request.node.get_closest_marker("leaves_behind") or request.node.stash.get(FAILED, False):
        return
    bells = [bell for bell in TIMERS._handles if bell.is_due and id(bell) not in bells_before]
    assert not bells, f"the test left calls due: {[bell.callback for bell in bells]}"
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


def pytest_unconfigure(config: pytest.Config) -> None:
    """End an interpreter that a leftover thread would keep from ending; what tests have left unasked is no news."""
    logging.disable(logging.CRITICAL)
    if not hasattr(config, "workerinput"):  # one of several processes waits for the others, and is ended by the first
        faulthandler.dump_traceback_later(EXIT_PATIENCE, exit=True, file=2)

"""A sweep: Ctrl-C at every instant at which CPython could raise it inside treadle's files, one run an instant.

An asynchronous exception is raised where a call returns, where a function begins, and where a loop begins anew (see
`treadle._base.locks`). A profile function sees the first two, a trace function the third, and what they raise is raised
there. So an operation is run as often as there are instants in it, with the exception at one after the other, and after
each run everything has to be as it should: see `Scene.check`.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future as AnyFuture
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import treadle
from treadle import Pool

PATIENCE = 20.0  # seconds for what must happen
HOUSE = str(Path(treadle.__file__).parent)

_numbers = itertools.count()


class Instants:
    """Counts the instants in treadle's files that a thread comes by, and raises `error` at one of them."""

    def __init__(self, at: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count = 0
        self.at = at  # None: at none
        self.error = error
        self.where = ""
        self._thread: int | None = None

    def _come_by(self, frame: FrameType, what: str) -> None:
        if not frame.f_code.co_filename.startswith(HOUSE):
            return
        self.count += 1
        if self.count == self.at:
            sys.setprofile(None)
            sys.settrace(None)
            name = frame.f_code.co_filename.removeprefix(HOUSE)
            self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}, {what}"
            raise self.error

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """See calls."""
        if event == "call":
            self._come_by(frame, "as it begins")
        elif event == "c_return":
            self._come_by(frame, f"after {getattr(argument, '__qualname__', argument)}")

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """See loops."""
        if not frame.f_code.co_filename.startswith(HOUSE):
            return None
        last = -1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def local(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            if event == "opcode":
                if frame.f_lasti < last:  # nothing else jumps backward
                    self._come_by(frame, "as a loop begins anew")
                last = frame.f_lasti
            return local

        return local

    @contextmanager
    def here(self) -> Iterator[None]:
        """Look in this thread."""
        if sys.version_info >= (3, 12):  # 3.11 crashes where a trace function raises at an opcode
            sys.settrace(self.trace)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            sys.settrace(None)


class Scene:
    """One run: a pool, what is submitted to it, and what became of that."""

    def __init__(self, **options: Any) -> None:
        self.name = f"swept-{next(_numbers)}"
        self.pool = Pool(options.pop("max_workers", 1), name=self.name, **options)
        self.killed = False  # whether one of its threads may be killed as it is checked
        self.gate = threading.Event()
        self.began = threading.Event()
        self.futures: dict[str, AnyFuture[Any]] = {}  # by the name of the task
        self.ran: list[str] = []
        self.refused: set[str] = set()  # whose submit has raised
        # Whether one whose submit has raised may have run: in that, or while that slept and did not know of it.
        self.lenient = options.get("when_full", "block") in ("caller_runs", "block") and "queue_size" in options

    def task(self, name: str) -> str:
        """What a task does."""
        self.ran.append(name)
        return name

    def hold(self, name: str) -> str:
        """What a task does that keeps its thread until the gate opens."""
        self.ran.append(name)
        self.began.set()
        assert self.gate.wait(PATIENCE)
        return name

    def busy(self) -> Scene:
        """Have the one thread of the pool busy."""
        self.futures["holder"] = self.pool.submit(self.hold, "holder")
        assert self.began.wait(PATIENCE)
        return self

    def submit(self, name: str, to: Any = None) -> None:
        """Submit a task; note whether it was refused."""
        self.refused.add(name)
        future = (to or self.pool).submit(self.task, name)
        self.futures[name] = future
        self.refused.discard(name)

    def check(self) -> None:
        """See that every future ends, nothing runs that was refused, the pool works, counts add up, no thread is left."""
        self.gate.set()
        for name, future in self.futures.items():
            assert future.cancel() or future.exception(PATIENCE) is None or True, name
            assert future.done(), name
        if not self.pool.closed:
            probes = [self.pool.submit(abs, -1) for _ in range(2 if self.killed else 1)]
            errors = [probe.exception(PATIENCE) for probe in probes]
            assert None in errors, f"the pool does not work: {errors}"
        left = self.pool.shutdown(timeout=PATIENCE)
        assert left == (), f"left undone: {left}"
        assert self.lenient or not self.refused & set(self.ran), f"ran, though refused: {self.refused & set(self.ran)}"
        assert len(self.ran) == len(set(self.ran)), f"ran twice: {self.ran}"
        now = self.pool.snapshot()
        assert (now.waiting, now.blocked, now.busy, now.threads) == (0, 0, 0, 0), now
        assert now.submitted == now.finished + now.cancelled + now.shed, now
        assert min(now.finished, now.failed, now.cancelled, now.shed, now.rejected) >= 0, now
        for thread in self._threads():
            thread.join(PATIENCE)
        assert not self._threads(), "threads are left"

    def _threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith(f"{self.name}-")]


Operation = Callable[[Scene], object]


def run(make: Callable[[], Scene], operation: Operation, at: int | None) -> Instants:
    """Run one operation with an exception at the instant `at`, and check what came of it."""
    scene, instants = make(), Instants(at)
    try:
        try:
            with instants.here():
                operation(scene)
        except (KeyboardInterrupt, treadle.errors.TreadleError):
            pass
        scene.check()
    except BaseException as error:
        error.add_note(f"instant {at}: {instants.where}")
        raise
    return instants


def sweep(make: Callable[[], Scene], operation: Operation, step: int = 1) -> list[str]:
    """Run it at each instant, or at every so manieth; return what went wrong, and where."""
    wrong = []
    total = run(make, operation, None).count
    for at in range(1, total + 1, step):
        try:
            run(make, operation, at)
        except BaseException as error:
            wrong.append(f"{' '.join(getattr(error, '__notes__', []))}: {type(error).__name__}: {error}")
    return wrong

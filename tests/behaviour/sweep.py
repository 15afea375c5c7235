"""A sweep: Ctrl-C at every instant at which CPython could raise it inside treadle's files, one run an instant.

An asynchronous exception is raised where a call returns, where a function begins, and where a loop begins anew (see
`treadle._base.locks`). So an operation is run as often as there are calls in it, with an exception at one after the
other, and after each run everything has to be as it should: see `Scene.check`.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import Future as AnyFuture
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import treadle
from treadle import Pool, Rate, TaskGroup
from treadle._base.locks import closed_latch, open_latch
from treadle._dispatch.idle import IdleTask
from treadle._tasks.scope import Scope, current, within
from treadle.events import Observer

PATIENCE = 20.0  # seconds for what must happen
HOUSE = str(Path(treadle.__file__).parent)
# What threading does in each thread, between what is treadle's. Not as it takes its lock, which it may never let go of.
AROUND = {"run", "_bootstrap", "_bootstrap_inner", "_delete"}

_numbers = itertools.count()
SIGINT = int(signal.SIGINT)  # no enum, whose conversion would be seen as a call


class Instants:
    """Counts the calls in treadle's files that a thread comes by, and has an exception raised at one of them.

    At that call, or where it returns, a function of C's is told what Ctrl-C, or `PyThreadState_SetAsyncExc`, tell the
    interpreter: so that is raised at the very next instant at which it looks, as it would be.
    """

    def __init__(self, at: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count = 0
        self._numbers = itertools.count(1)  # one for all threads, none of which comes by the same
        self.at = at  # None: at none
        self.error = error
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See what a profile function is shown."""
        around = frame.f_code.co_filename == threading.__file__ and frame.f_code.co_name in AROUND
        if not frame.f_code.co_filename.startswith(HOUSE) and not (around and self.error is Killed):
            return
        if around and getattr(argument, "__name__", "") == "__enter__":
            return
        if self.error is Killed and not threading.current_thread().name.startswith("swept-"):
            return  # the timers' thread is none of a pool's
        if sys.version_info < (3, 12) and (event not in ("call", "c_return") or frame.f_code.co_name == "<genexpr>"):
            return  # it is raised right here, and nothing is at other events; and 3.11 crashes amid a generator
        self.count = number = next(self._numbers)
        if number == self.at:
            name = frame.f_code.co_filename.removeprefix(HOUSE)
            what = getattr(argument, "__qualname__", "") if event.startswith("c_") else ""
            self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}, {event} {what}"
            if sys.version_info < (3, 12):  # there each call of ctypes is an event as well
                sys.setprofile(None)
                raise self.error
            sys.setprofile(self._trip())  # for each event from the next on, until it is raised

    def _trip(self) -> Callable[..., object]:
        if self.error is KeyboardInterrupt:
            return partial(_set_interrupt, SIGINT)
        return partial(_set_exception, threading.get_ident(), self.error)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Look in this thread."""
        handler = signal.signal(signal.SIGINT, _interrupt)
        sys.setprofile(self)
        try:
            yield
        finally:
            with suppress(KeyboardInterrupt):
                sys.setprofile(None)
                for _ in range(2):  # where it begins anew, what has not been raised yet is
                    pass
            signal.signal(signal.SIGINT, handler)


class Killed(SystemExit):
    """What a thread is killed with; it watches no longer as soon as this is made, and so is struck but once."""

    __init__ = staticmethod(partial(sys.setprofile, None))  # of C's, or it would be watched


def _interrupt(*_: object) -> None:
    sys.setprofile(None)
    raise KeyboardInterrupt


# They take more arguments than they look at: those of a profile function.
_objects = (ctypes.py_object,) * 3
_set_interrupt = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, *_objects)(("PyErr_SetInterruptEx", ctypes.pythonapi))
_set_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object, *_objects)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class Scene:
    """One run: a pool, what is submitted to it, and what became of that."""

    def __init__(self, **options: Any) -> None:
        self.name = f"swept-{next(_numbers)}"
        self.fragile = "thread_lifespan" in options  # whether it breaks if a thread is killed as it is set up
        self.pool = Pool(options.pop("max_workers", 1), name=self.name, **options)
        self.killed = False  # whether one of its threads may be killed as it is checked
        self.gate = threading.Event()
        self.began = threading.Event()
        self.futures: dict[str, AnyFuture[Any]] = {}  # by the name of the task
        self.ran: list[str] = []
        self.refused: set[str] = set()  # whose submit has raised
        # Whether one whose submit has raised may have run: in that, or while that slept and did not know of it.
        # Without the GIL a worker may be faster than the exception that comes as its wake-up, the last call, returns.
        self.lenient = options.get("when_full", "block") in ("caller_runs", "block") and "queue_size" in options
        self.lenient = self.lenient or not getattr(sys, "_is_gil_enabled", lambda: True)()

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

    def crowd(self, waiting: int) -> Scene:
        """Have the pool busy, and tasks waiting."""
        self.busy()
        for number in range(waiting):
            self.submit(f"waiting {number}", self.way_in(number))
        return self

    def way_in(self, number: int) -> Any:
        """Return what the task of that number is submitted to, of those that wait."""
        return self.pool

    def submit(self, name: str, to: Any = None) -> None:
        """Submit a task; note whether it was refused."""
        self.refused.add(name)
        try:
            self.futures[name] = (to or self.pool).submit(self.task, name)
        except BaseException:
            if self.gate.is_set():  # by a timer, on a busy machine: it may have begun before
                self.refused.discard(name)
            raise
        self.refused.discard(name)

    def check(self) -> None:
        """See that every future ends, nothing refused runs, the pool works, counts add up, no thread is left."""
        self.gate.set()
        for name, future in self.futures.items():
            with suppress(CancelledError):
                assert isinstance(future.exception(PATIENCE), BaseException | None), f"{name} does not end"
        if not self.pool.closed and not (self.killed and self.fragile and self.pool._task_dispatcher.broken):
            probes = [self.pool.submit(abs, -1) for _ in range(2 if self.killed else 1)]
            errors = [probe.exception(PATIENCE) for probe in probes]
            assert None in errors, f"the pool does not work: {errors}"
        undone = self.pool.shutdown(timeout=PATIENCE)
        assert undone == (), f"left undone: {undone}"
        assert self.lenient or not self.refused & set(self.ran), f"ran, though refused: {self.refused & set(self.ran)}"
        assert len(self.ran) == len(set(self.ran)), f"ran twice: {self.ran}"
        now = self.pool.snapshot()
        assert (now.waiting, now.blocked, now.busy, now.threads) == (0, 0, 0, 0), now
        assert now.submitted == now.finished + now.cancelled + now.shed, now
        assert min(now.finished, now.failed, now.cancelled, now.shed, now.rejected) >= 0, now
        for thread in self._threads():
            thread.join(PATIENCE)
        left = self._threads()
        if self.killed:  # one that is killed in threading's own last lines stays in its list
            left = [thread for thread in left if thread.is_alive()]
        assert not left, "threads are left"

    def _threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith(f"{self.name}-")]


Make = Callable[[], Scene]
Operation = Callable[[Scene], object]


def run(make: Make, operation: Operation, at: int | None) -> Instants:
    """Run one operation with an exception at the instant `at`, and check what came of it."""
    if at is None:
        gc.collect()  # or the destructors of earlier runs are counted, of which there may be thousands
    scene, instants = make(), Instants(at)
    try:
        try:
            with instants.here():
                copy_context().run(operation, scene)  # a deadline's block may be left without its end
        except (KeyboardInterrupt, treadle.errors.TreadleError):
            pass
        scene.check()
    except BaseException as error:
        error.add_note(f"instant {at}: {instants.where}")
        raise
    return instants


def run_in_workers(make: Make, operation: Operation, at: int | None) -> Instants:
    """Run one operation with an exception at the instant `at` of one of the pool's threads, and check what came of it.

    The operation is called in no thread of the pool's.
    """
    if at is None:
        gc.collect()  # as in `run`
    instants = Instants(at, Killed)
    threading.setprofile(instants)
    try:
        scene = make()
        scene.killed = True
        # Of several threads another may begin a task between the lock's release and the exception in its submit: nobody
        # can have it not run any more.
        scene.lenient = scene.lenient or scene.pool.max_workers > 1
        try:
            with suppress(Killed, treadle.errors.TreadleError):  # as a map raises it, and a pool that breaks
                operation(scene)
            for future in list(scene.futures.values()):
                with suppress(CancelledError):
                    future.exception(PATIENCE)
        finally:
            threading.setprofile(None)
        scene.check()
    except BaseException as error:
        error.add_note(f"instant {at}: {instants.where}")
        raise
    return instants


def free(**options: Any) -> Make:
    """Return what makes a scene with an idle pool."""
    return lambda: Scene(**options)


def busy(**options: Any) -> Make:
    """Return what makes a scene whose pool has its one thread busy."""
    return lambda: Scene(**options).busy()


def rested(**options: Any) -> Make:
    """Return what makes a scene whose pool has an idle thread."""

    def make() -> Scene:
        scene = Scene(**options)
        scene.pool.submit(abs, -1).result(PATIENCE)
        return scene

    return make


def crowded(waiting: int = 5, **options: Any) -> Make:
    """Return what makes a scene whose pool is busy, and has tasks waiting."""

    return lambda: Scene(**options).crowd(waiting)


def throttled() -> Make:
    """Return what makes a scene in which tasks wait for their rate."""

    def make() -> Scene:
        scene, tick = Scene(rate=Rate(50)), threading.Event()
        for name in ("one", "two", "three"):
            scene.submit(name)
        # Until they do, unless the machine was too slow.
        while len(scene.pool._task_dispatcher.queue.throttled) < 2 and not scene.futures["two"].done():
            tick.wait(0.0001)
        return scene

    return make


def full(**options: Any) -> Make:
    """Return what makes a scene whose pool has no room."""
    return crowded(1, queue_size=1, **options)


def shut_down_and_cancel(scene: Scene) -> None:
    """Cancel what waits; if that is interrupted once the pool is closed, nothing is left to run."""
    try:
        scene.pool.shutdown(wait=False, cancel_futures=True)
    except KeyboardInterrupt:
        if scene.pool.snapshot().closed:
            waiting = [future for name, future in scene.futures.items() if name not in scene.ran]
            assert all(future.cancelled() for future in waiting), waiting
        raise


def resized(*sizes: int) -> Operation:
    """Return an operation that gives the pool these sizes, one after the other."""

    def operation(scene: Scene) -> None:
        for size in sizes:
            scene.pool.resize(size)

    return operation


def opening(call: Operation) -> Operation:
    """Return an operation during which the gate is opened."""

    def operation(scene: Scene) -> None:
        threading.Timer(0.01, scene.gate.set).start()
        call(scene)

    return operation


def submitting(**options: Any) -> Operation:
    """Return the operation of a submit with options."""
    return lambda scene: scene.submit("it", scene.pool.options(**options))


def submit(scene: Scene) -> None:
    """Submit a task."""
    scene.submit("it")


def cancel(scene: Scene) -> None:
    """Cancel a task that waits, of which somebody is told."""
    scene.submit("it")
    scene.futures["it"].add_done_callback(lambda future: None)
    scene.futures["it"].cancel()


def cancel_second(scene: Scene) -> None:
    """Cancel one of those that wait; those behind it are to run nevertheless."""
    scene.futures["two"].cancel()


def cancel_later(scene: Scene) -> None:
    """Cancel a task that waits for room."""
    enter_later(scene)
    scene.futures["it"].cancel()


def request_cancel(scene: Scene) -> None:
    """Ask a task that runs to stop, and cancel one that waits."""
    scene.submit("it")
    for future in list(scene.futures.values()):
        future.request_cancel()  # type: ignore[attr-defined]


def settle(scene: Scene) -> None:
    """Settle a task by hand that waits."""
    scene.submit("it")
    scene.futures["it"].set_result("by hand")


def ask(scene: Scene) -> None:
    """Wait for a result."""
    scene.submit("it")
    scene.futures["it"].result(PATIENCE)


def wait_for_all(scene: Scene) -> None:
    """Wait for several futures."""
    for name in ("one", "two"):
        scene.submit(name)
    treadle.wait([scene.futures["one"], scene.futures["two"]], PATIENCE)


def wait_for_one(scene: Scene) -> None:
    """Wait for the first of several futures."""
    for name in ("one", "two"):
        scene.submit(name)
    treadle.wait([scene.futures["one"], scene.futures["two"]], PATIENCE, treadle.FIRST_COMPLETED)


def take_as_completed(scene: Scene) -> None:
    """Take futures as they are done."""
    for name in ("one", "two"):
        scene.submit(name)
    list(treadle.as_completed([scene.futures["one"], scene.futures["two"]], PATIENCE))


def under_deadline(call: Operation) -> Operation:
    """Return an operation under a deadline: where the future of no block can be left without its end."""
    return lambda scene: within(Scope(current(), 60.0), call, scene)


def inside(call: Operation) -> Operation:
    """Return an operation that is called by a task of the pool."""

    def operation(scene: Scene) -> None:
        scene.futures["caller"] = scene.pool.submit(call, scene)

    return operation


def four(scene: Scene) -> None:
    """Submit four tasks."""
    for number in range(4):
        scene.submit(f"task {number}")


def end(scene: Scene) -> None:
    """Submit four tasks, and shut the pool down."""
    four(scene)
    scene.pool.shutdown(timeout=PATIENCE)


def preempted(scene: Scene) -> None:
    """Have a worker do an idle task, and then tasks."""
    scene.pool._task_dispatcher.add_idle(Spell(scene.pool))
    four(scene)


class Spell(IdleTask):
    """An idle task, which is at work until it is preempted."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool._task_dispatcher)
        self.latch = closed_latch()

    def run_idle(self) -> None:
        """Do nothing."""
        self.latch.acquire(True, PATIENCE)

    def preempt(self) -> None:
        """Do it no longer."""
        open_latch(self.latch)


def enter_later(scene: Scene) -> None:
    """Submit a task as `Pool.run` does."""
    scene.refused.add("it")
    scene.futures["it"] = scene.pool.options(name="it")._submit_later(scene.task, ("it",), {})
    scene.refused.discard("it")


def await_later(scene: Scene) -> None:
    """Submit a task as `Pool.run` does, and let it wait for room no longer."""
    enter_later(scene)
    scene.pool._task_dispatcher.give_up_waiting(scene.futures["it"], 1.0)  # type: ignore[arg-type]


def group(scene: Scene) -> None:
    """Run three tasks in a group."""
    with TaskGroup(scene.pool) as tasks:
        for name in ("one", "two", "three"):
            scene.refused.add(name)
            scene.futures[name] = tasks.submit(scene.task, name)
            scene.refused.discard(name)


def mapping(**options: Any) -> Operation:
    """Return the operation of a map of which every result is taken."""
    return lambda scene: list(scene.pool.map(abs, range(6), **options))


def leave_map(scene: Scene) -> None:
    """Begin a map in a loop, and leave that."""
    for _ in scene.pool.map(abs, range(20), buffersize=4):
        break


def leave_group(scene: Scene) -> None:
    """Leave the block of a group by an error."""
    with suppress(ExceptionGroup), TaskGroup(scene.pool) as tasks:
        scene.refused.add("it")
        scene.futures["it"] = tasks.submit(scene.task, "it")
        scene.refused.discard("it")
        raise ValueError


def leave_block(scene: Scene) -> None:
    """Leave the block of a pool by an error."""
    with suppress(ValueError), scene.pool:
        raise ValueError


def interrupt_block(scene: Scene) -> None:
    """Leave the block of a pool by Ctrl-C."""
    with suppress(KeyboardInterrupt), scene.pool:
        raise KeyboardInterrupt


def close_view(scene: Scene) -> None:
    """Shut down a view, and not the pool."""
    view = scene.pool.options(name="view")
    scene.submit("it", view)
    view.shutdown()


def close_map(scene: Scene) -> None:
    """Begin a map, and close it."""
    results = scene.pool.map(abs, range(20))
    next(results)
    results.close()


POLICIES = ("block", "reject", "caller_runs", "discard_oldest")
AT_A_RATE = Rate(1000)

SCENES: dict[str, tuple[Make, Operation]] = {
    "submit that starts a thread": (free(), submit),
    "submit that starts another thread": (busy(max_workers=2), submit),
    "submit to an idle pool": (rested(), submit),
    "submit to a busy pool": (busy(), submit),
    **{f"submit to a fresh pool, {policy}": (free(queue_size=1, when_full=policy), submit) for policy in POLICIES},
    **{f"submit to a busy pool, {policy}": (busy(queue_size=1, when_full=policy), submit) for policy in POLICIES},
    "submit to a full pool, reject": (full(when_full="reject"), submit),
    "submit to a full pool, caller_runs": (full(when_full="caller_runs"), submit),
    "submit to a full pool, discard_oldest": (full(when_full="discard_oldest"), submit),
    "submit to a full pool, block": (full(), opening(submit)),
    "submit to a full pool, block for a time": (full(), submitting(block_timeout=0.001)),
    "submit with a deadline": (busy(), submitting(deadline=60.0)),
    "submit with a deadline that starts a thread": (free(), submitting(deadline=60.0)),
    "submit with a deadline that waits for room": (full(), opening(submitting(deadline=60.0))),
    "submit with a deadline that passes": (full(), submitting(deadline=0.001)),
    "submit under a deadline": (busy(), under_deadline(submit)),
    "submit at a rate": (busy(rate=Rate(1e6)), submit),
    "submit at a rate that starts a thread": (free(rate=Rate(1e6)), submit),
    "submit at a rate of a view": (busy(), submitting(rate=Rate(1e6))),
    "submit with a key": (busy(order="fair"), submitting(key="key")),
    "submit with a key that starts a thread": (free(order="fair"), submitting(key="key")),
    "submit with a key to a full pool, discard_oldest": (
        full(order="fair", when_full="discard_oldest"),
        submitting(key="key"),
    ),
    "submit with a priority": (busy(order="priority"), submitting(priority=3)),
    "submit to an adaptive queue": (busy(order="adaptive"), submit),
    "submit to a pool with an observer": (busy(observers=[Observer()]), submit),
    "submit later": (busy(), enter_later),
    "submit later that starts a thread": (free(), enter_later),
    "submit later that waits for room": (full(), enter_later),
    "submit later that waits in vain": (full(), await_later),
    "cancel": (busy(), cancel),
    "cancel one of many": (crowded(200), cancel),
    "cancel of a task that waits for room": (full(), cancel_later),
    "cancel at a rate": (throttled(), cancel_second),
    "request_cancel": (busy(), request_cancel),
    "set_result": (busy(), settle),
    "result": (busy(), opening(ask)),
    "result under a deadline": (busy(), opening(under_deadline(ask))),
    "wait": (busy(), opening(wait_for_all)),
    "wait under a deadline": (busy(), opening(under_deadline(wait_for_all))),
    "wait for the first": (busy(), opening(wait_for_one)),
    "as_completed under a deadline": (busy(), opening(under_deadline(take_as_completed))),
    "group": (free(max_workers=2), group),
    "group that is left by an error": (busy(), opening(leave_group)),
    "map": (free(), mapping()),
    "map on two threads": (free(max_workers=2), mapping(chunksize=2)),
    "map in any order": (free(max_workers=2), mapping(ordered=False)),
    "map with a buffersize": (free(max_workers=2), mapping(buffersize=2)),
    "map in a busy pool": (busy(), opening(mapping())),
    "map that is closed": (free(max_workers=2), close_map),
    "map that is left": (free(max_workers=2), leave_map),
    "map with a deadline for each item": (
        free(),
        lambda scene: list(scene.pool.options(deadline=60.0).map(abs, [1, 2])),
    ),
    "outcomes": (free(), lambda scene: list(scene.pool.outcomes(abs, range(3)))),
    "shutdown": (crowded(), opening(lambda scene: scene.pool.shutdown())),
    "shutdown that waits for a time": (crowded(), lambda scene: scene.pool.shutdown(timeout=0.001)),
    "shutdown that waits for nothing": (crowded(), lambda scene: scene.pool.shutdown(wait=False)),
    "shutdown that cancels": (crowded(), shut_down_and_cancel),
    "shutdown that cancels and waits": (crowded(), opening(lambda scene: scene.pool.shutdown(cancel_futures=True))),
    "shutdown of a view": (busy(), opening(close_view)),
    "end of a with block": (crowded(), opening(lambda scene: scene.pool.__exit__(None, None, None))),
    "end of a with block by an error": (crowded(), opening(leave_block)),
    "end of a with block by Ctrl-C": (crowded(), interrupt_block),
    "resize up": (crowded(), lambda scene: scene.pool.resize(3)),
    "resize down": (crowded(), resized(3, 1)),
}

WORKERS: dict[str, tuple[Make, Operation]] = {
    "one thread": (free(), four),
    "two threads": (free(max_workers=2), four),
    "fair": (free(order="fair"), four),
    "priority": (free(order="priority"), four),
    "adaptive": (free(order="adaptive"), four),
    "that leave at once": (free(idle_timeout=0.0), four),
    "at a rate": (free(rate=AT_A_RATE), four),
    "under a deadline": (free(), under_deadline(four)),
    "with an observer": (free(observers=[Observer()]), four),
    "with a lifespan": (free(thread_lifespan=nullcontext), four),
    "with an idle task": (free(), preempted),
    "submit inside": (free(max_workers=2), inside(submit)),
    "result inside": (free(), inside(ask)),
    "wait inside": (free(), inside(wait_for_all)),
    "as_completed inside": (free(max_workers=2), inside(take_as_completed)),
    "group inside": (free(max_workers=2), inside(group)),
    "map inside": (free(max_workers=2), inside(mapping())),
    "map": (free(max_workers=2), mapping(timeout=PATIENCE)),
    "map in any order": (free(max_workers=2), mapping(timeout=PATIENCE, ordered=False)),
    "shutdown": (free(max_workers=2), end),
}

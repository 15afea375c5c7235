"""A sweep: the pool is called at every instant at which CPython could call a signal handler, or a finalizer, in it.

A handler runs in the main thread, and a finalizer that the garbage collector calls in any, where a call of C's returns,
where a function begins, and where a loop begins anew (see `treadle._base.locks`): so it may come amid a section of the
very lock that the pool takes. An operation is run as often as there are such instants in it, with a deed at one after
the other, and after each run everything has to be as it should: see `Visited.check`.
"""

from __future__ import annotations

import ast
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from queue import Empty
from types import FrameType
from typing import Any

from behaviour.sweep import (
    HOUSE,
    PATIENCE,
    Operation,
    Scene,
    cancel_later,
    cancel_second,
    close_map,
    end,
    enter_later,
    four,
    group,
    inside,
    leave_map,
    mapping,
    request_cancel,
    resized,
    settle,
    submit,
    submitting,
)
from orders.lifo import Lifo
from treadle import Rate
from treadle._dispatch.dispatcher import Dispatcher
from treadle.errors import PoolClosed, PoolDeadlock, PoolFull, TreadleError
from treadle.orders import Adaptive, Fair, Fifo, Priority

Deed = Callable[["Visited"], object]

AFTER_A_TEST = "loop, after its test"


class Visited(Scene):
    """A scene in which a handler comes; and what that has done."""

    def __init__(self, **options: Any) -> None:
        order = options.get("order")
        if callable(order):
            options["order"] = order()
        super().__init__(**options)
        self.lenient = True  # a task that is refused may have run: the handler lets others in meanwhile
        self.maps: list[Any] = []
        self.noted: dict[int, int] = {}  # how often each callback was called
        self.faults: list[BaseException] = []
        self.fresh = itertools.count()

    def view(self, **options: Any) -> Any:
        """Return what submits with these options, as far as the pool's order looks at them."""
        looks_at = self.pool._task_dispatcher.order.looks_at
        return self.pool.options(
            **{name: value for name, value in options.items() if name not in ("key", "priority") or name in looks_at}
        )

    def way_in(self, number: int) -> Any:
        """As in any scene: by turns with one key, and one priority, or another."""
        return self.view(key=number % 3, priority=number % 2)

    def visit(self, deed: Deed) -> None:
        """Be the handler."""
        try:
            deed(self)
        except (PoolFull, PoolClosed):
            pass
        except PoolDeadlock as error:  # it may not wait amid a call of an order that is written in Python
            if self.pool._task_dispatcher.queue.line is not None:
                self.faults.append(error)
        except BaseException as error:
            self.faults.append(error)

    def submit_new(self, **options: Any) -> None:
        """Submit one more task."""
        self.submit(f"new {next(self.fresh)}", self.view(**options))

    def open(self) -> list[Any]:
        """Return the futures of the tasks that have not ended."""
        return [future for future in list(self.futures.values()) if not future.done()]

    def check(self) -> None:
        """See that all that was accepted has ended as it should, and that the pool's books are true."""
        for fault in self.faults:
            raise fault
        with self._settled():
            self._check_books()
        self.gate.set()
        for results in self.maps:
            with suppress(CancelledError, TreadleError):
                assert list(results) == [0, 1, 2], "a map has lost items"
        super().check()
        for name, future in self.futures.items():
            if not future.cancelled() and future.exception(0) is None and future.result(0) == name:
                assert name in self.ran, f"{name} has not run"
        assert not self.noted or set(self.noted.values()) == {1}, f"callbacks were called {self.noted} times"
        with self._settled() as dispatcher:
            self._check_books()
            queue = dispatcher.queue
            left = (queue.everything(), dispatcher.admission.waiting, dispatcher.state.claimed, queue._keys)
            assert not any(left), left

    @contextmanager
    def _settled(self) -> Iterator[Dispatcher]:
        """Hold the pool's lock, at a moment when nobody is about to do what is left to be done without it."""
        dispatcher, tick = self.pool._task_dispatcher, threading.Event()
        state, end = dispatcher.state, time.monotonic() + PATIENCE
        dispatcher.lock.acquire()
        try:
            while state.visited or any(task.done() for task in state.claimed):
                dispatcher.lock.release()
                assert time.monotonic() < end, "nobody has done what was left to be done"
                tick.wait(0.001)
                dispatcher.lock.acquire()
            yield dispatcher
        finally:
            with suppress(RuntimeError):  # it was not taken again
                dispatcher.lock.release()

    def _check_books(self) -> None:
        """See that what follows from where the tasks are is so; the lock is held."""
        queue = self.pool._task_dispatcher.queue
        tasks = list(queue.tasks)
        assert len(tasks) == len(queue.tasks), f"{len(queue.tasks)} are counted, and there are {len(tasks)}"
        assert len(set(tasks)) == len(tasks), "a task waits twice"
        dead = sum(task._state != "PENDING" for task in tasks)
        assert queue.tombstones == dead, f"{queue.tombstones} tombstones are counted, and there are {dead}"
        assert not any(task in tasks for task in queue.throttled), "a throttled task is in the order"


@cache
def whiles_of(file: str) -> set[int]:
    """Return the lines at which loops of a file begin that test something.

    Until CPython 3.14 the test stands at their end as well, before the jump at which a handler is called.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.lineno for node in ast.walk(tree) if isinstance(node, ast.While)}


class Visits:
    """Counts the instants that a thread comes by, and does a deed at one of them."""

    def __init__(self, at: int | None, deed: Deed, only: str = "") -> None:
        self.count = 0
        self.only = only  # what is an instant; "": all are
        self._numbers = itertools.count(1)  # one for all threads
        self.at = at  # None: at none
        self.deed = deed
        self.scene: Visited | None = None
        self.where = ""
        self._lines: dict[FrameType, tuple[int, bool]] = {}  # where each is, and whether it has jumped back there
        self._visiting = threading.Lock()
        # CPython 3.11 lets go of a trace function that ends itself, and calls it once more.
        self._tracer, self._profiler = self.trace, self.profile

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """See what a profile function is shown: a function that begins, and a call of C's that returns."""
        if event == "call" or event == "c_return":
            self._come_by(frame, event, argument)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """See what a trace function is shown: a loop that begins anew."""
        if not frame.f_code.co_filename.startswith(HOUSE):
            return None
        if event == "line":
            (before, again), now = self._lines.get(frame, (0, False)), frame.f_lineno
            self._lines[frame] = now, now <= before
            if now <= before:
                self._come_by(frame, "loop", argument)
            elif again and before in whiles_of(frame.f_code.co_filename):
                self._come_by(frame, AFTER_A_TEST, argument)
        elif event == "return":
            self._lines.pop(frame, None)
        return self._tracer

    def _come_by(self, frame: FrameType, event: str, argument: Any) -> None:
        if not frame.f_code.co_filename.startswith(HOUSE) or self.scene is None or self.only not in ("", event):
            return
        thread = threading.current_thread()
        if thread is not threading.main_thread() and not thread.name.startswith("swept-"):
            return
        self.count = number = next(self._numbers)
        if number == self.at:
            name = frame.f_code.co_filename.removeprefix(HOUSE)
            self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}, {event}"
            sys.setprofile(None)
            sys.settrace(None)
            with self._visiting:
                if self.at is not None:
                    self.scene.visit(self.deed)

    def end(self) -> None:
        """Do the deed no more; wait for one that is being done."""
        with self._visiting:
            self.at = None

    @contextmanager
    def here(self) -> Iterator[None]:
        """Look in this thread."""
        gc.disable()  # before Python 3.12 it may run where anything is allocated, which is here at every line
        sys.settrace(self._tracer)
        sys.setprofile(self._profiler)
        try:
            yield
        finally:
            sys.setprofile(None)
            sys.settrace(None)
            gc.enable()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Look in the threads that are started."""
        gc.disable()  # before Python 3.12 it may run where anything is allocated, which is here at every line
        threading.settrace(self._tracer)
        threading.setprofile(self._profiler)
        try:
            yield
        finally:
            threading.setprofile(None)
            threading.settrace(None)
            gc.enable()


# -- deeds ------------------------------------------------------------------------------------------------------------


def plain(scene: Visited) -> None:
    """Submit a task by the pool's own policy."""
    scene.gate.set()  # there may be no room
    scene.submit_new()


def keyed(scene: Visited) -> None:
    """Submit tasks of two keys and two priorities."""
    scene.submit_new(when_full="reject", key="another", priority=7)
    scene.submit_new(when_full="reject", key="key", priority=-7)


def with_deadline(scene: Visited) -> None:
    """Submit a task with a deadline, and a rate."""
    scene.submit_new(when_full="reject", deadline=60.0, rate=Rate(1e6))


def discard(scene: Visited) -> None:
    """Submit a task for which another one is given up."""
    scene.submit_new(when_full="discard_oldest")


def cancel_last(scene: Visited) -> None:
    """Cancel the task that was submitted last."""
    for future in scene.open()[-1:]:
        future.cancel()


def cancel_all(scene: Visited) -> None:
    """Cancel all that waits."""
    for future in scene.open():
        future.cancel()


def replace_all(scene: Visited) -> None:
    """Cancel all that waits, and submit as many others."""
    many = scene.open()
    for future in many:
        future.cancel()
    for _ in many:
        scene.submit_new(when_full="reject")


def start_map(scene: Visited) -> None:
    """Begin a map."""
    scene.gate.set()
    scene.maps.append(scene.pool.map(int, range(3)))


def grow(scene: Visited) -> None:
    """Have more threads."""
    scene.pool.resize(3)


def shrink(scene: Visited) -> None:
    """Have fewer threads."""
    scene.pool.resize(1)


def look(scene: Visited) -> None:
    """Take a snapshot."""
    now = scene.pool.snapshot()
    assert min(now.waiting, now.blocked, now.finished, now.cancelled, now.submitted) >= 0, now
    scene.pool.stacks()


def shut_down(scene: Visited) -> None:
    """Take no more tasks."""
    scene.pool.shutdown(wait=False)


def shut_down_and_cancel(scene: Visited) -> None:
    """Take no more tasks, and cancel those that wait."""
    scene.pool.shutdown(wait=False, cancel_futures=True)


def shut_down_and_wait(scene: Visited) -> None:
    """Take no more tasks, and wait until those that were accepted have ended."""
    scene.gate.set()
    scene.pool.shutdown()


def shut_down_cancel_and_wait(scene: Visited) -> None:
    """Cancel those that wait, and wait for the others."""
    scene.gate.set()
    scene.pool.shutdown(cancel_futures=True)


def ask_to_stop(scene: Visited) -> None:
    """Cancel all that waits, and ask what runs to stop."""
    for future in scene.open():
        future.request_cancel()


def add_callback(scene: Visited) -> None:
    """Have something called when each task is done."""
    for future in list(scene.futures.values()):
        number = len(scene.noted)
        scene.noted[number] = 0

        def note(_: object, number: int = number) -> None:
            scene.noted[number] += 1

        future.add_done_callback(note)


DEEDS: tuple[Deed, ...] = (
    plain,
    keyed,
    with_deadline,
    discard,
    cancel_last,
    cancel_all,
    replace_all,
    start_map,
    grow,
    shrink,
    look,
    shut_down,
    shut_down_and_cancel,
    shut_down_and_wait,
    shut_down_cancel_and_wait,
    ask_to_stop,
    add_callback,
)

# -- scenes -----------------------------------------------------------------------------------------------------------


def opening(call: Operation) -> Operation:
    """Return an operation at whose beginning another thread is about to open the gate."""

    def operation(scene: Scene) -> None:
        threading.Timer(0.001, scene.gate.set).start()
        call(scene)

    return operation


def rounds(scene: Scene) -> None:
    """Submit several tasks, cancel every other, and submit more."""
    for number in range(4):
        scene.submit(f"task {number}", scene.view(key=number % 2, priority=number % 3))  # type: ignore[attr-defined]
    for number in range(0, 4, 2):
        scene.futures[f"task {number}"].cancel()
    scene.submit("last")


def cancel_waiting(scene: Scene) -> None:
    """Cancel all that waits."""
    for name, future in list(scene.futures.items()):
        if name != "holder":
            future.cancel()


def wait_for_result(scene: Scene) -> None:
    """Wait for the result of a task that waits."""
    scene.futures["waiting 0"].result(PATIENCE)


def watch_all(scene: Scene) -> None:
    """Have something called when each task is done, and something else again."""
    for _ in range(2):
        add_callback(scene)  # type: ignore[arg-type]  # it is one that is visited


def take_out(scene: Scene) -> None:
    """Be a stranger who takes a task out of its turn, and cancels it."""
    with suppress(Empty):
        item = scene.pool._work_queue.get_nowait()
        if item is not None:
            item.future.cancel()


def cancel_and_submit(scene: Scene) -> None:
    """Have tombstones, and then a full pool."""
    for name, future in list(scene.futures.items()):
        if name == "waiting 1":
            future.cancel()
    for number in range(2):
        scene.submit(f"task {number}", scene.view(when_full="discard_oldest"))  # type: ignore[attr-defined]


def make(kind: str = "free", waiting: int = 5, **options: Any) -> Callable[[], Visited]:
    """Return what makes a scene: "free", "rested", "idle", "busy" or "crowded"."""

    def made() -> Visited:
        scene = Visited(**options)
        if kind == "rested":
            scene.pool.submit(abs, -1).result(PATIENCE)
        elif kind == "idle":
            both = threading.Barrier(3)
            for _ in range(2):
                scene.pool.submit(both.wait, PATIENCE)
            both.wait(PATIENCE)
            until_idle(scene)
        elif kind == "busy":
            scene.busy()
        elif kind == "crowded":
            scene.crowd(waiting)
        return scene

    return made


def until_idle(scene: Visited) -> None:
    """Wait until every thread of the pool has nothing to do."""
    workers, tick = scene.pool._task_dispatcher.workers, threading.Event()
    while len(workers.entrance.idle) < len(workers.present):
        tick.wait(0.0001)


def throttled() -> Visited:
    """Return a scene in which tasks wait for their rate."""
    scene, tick = Visited(rate=Rate(50)), threading.Event()
    for name in ("one", "two", "three"):
        scene.submit(name)
    while len(scene.pool._task_dispatcher.queue.throttled) < 2 and not scene.futures["two"].done():
        tick.wait(0.0001)
    return scene


def standing() -> Adaptive:
    """Return an adaptive order that stands at once."""
    return Adaptive(target=0.0, interval=0.0)


def bounded() -> Fair:
    """Return a fair order with every bound."""
    return Fair({"key": 2}, max_running=1, max_waiting=3)


def fair_by_priority() -> Fair:
    """Return a fair order, of each key by priority."""
    return Fair(order="priority")


def fair_of_others() -> Fair:
    """Return a fair order of orders that are not treadle's."""
    return Fair(order=Lifo)


ORDERS: dict[str, Callable[[], Any]] = {
    "fifo": Fifo,
    "priority": Priority,
    "fair": Fair,
    "fair by priority": fair_by_priority,
    "fair with bounds": bounded,
    "adaptive": Adaptive,
    "adaptive that stands": standing,
    "of the user's": Lifo,
    "fair of the user's": fair_of_others,
}

VISITED: dict[str, tuple[Callable[[], Visited], Operation]] = {
    # Where a key has a bound, what a handler has put may leave it no room until the first task is over.
    **{
        f"rounds, {name}": (make("busy", order=order), opening(rounds) if order is bounded else rounds)
        for name, order in ORDERS.items()
    },
    **{
        f"cancel of many, {name}": (make("crowded", 70, order=order), cancel_waiting)
        for name, order in ORDERS.items()
        if name in ("fifo", "priority", "fair", "of the user's")
    },
    **{
        f"discard, {name}": (make("crowded", 3, order=order, queue_size=3), cancel_and_submit)
        for name, order in ORDERS.items()
    },
    **{
        f"shutdown that cancels, {name}": (
            make("crowded", 3, order=order),
            lambda scene: scene.pool.shutdown(wait=False, cancel_futures=True),
        )
        for name, order in ORDERS.items()
    },
    "submit to a full pool, block": (make("crowded", 1, queue_size=1), opening(submit)),
    "submit to a full pool, caller_runs": (make("crowded", 1, queue_size=1, when_full="caller_runs"), submit),
    "submit with a deadline": (make("busy"), submitting(deadline=60.0)),
    "submit at a rate": (make("busy", rate=Rate(1e6)), submit),
    "submit that starts a thread": (make(max_workers=2), submit),
    "submit that starts another thread": (make("busy", max_workers=2), submit),
    "submit to an idle pool": (make("rested"), submit),
    "submit later that waits for room": (make("crowded", 1, queue_size=1), enter_later),
    "cancel of a task that waits for room": (make("crowded", 1, queue_size=1), cancel_later),
    "cancel at a rate": (throttled, cancel_second),
    "take out": (make("crowded", 2), take_out),
    "take out at a rate": (throttled, take_out),
    "request_cancel": (make("busy"), request_cancel),
    "set_result": (make("busy"), settle),
    "result": (make("crowded", 1), opening(wait_for_result)),
    "add_done_callback": (make("crowded", 2), watch_all),
    "group": (make(max_workers=2), group),
    "map": (make(max_workers=2), mapping()),
    "map that is closed": (make(max_workers=2), close_map),
    "map that is left": (make(max_workers=2), leave_map),
    "shutdown that waits": (make("crowded", 2), opening(lambda scene: scene.pool.shutdown())),
    "shutdown of idle threads": (make("idle", max_workers=2), lambda scene: scene.pool.shutdown(wait=False)),
    "resize": (make("crowded", 3), resized(3, 1)),
    "snapshot": (make("crowded", 3), lambda scene: scene.pool.snapshot()),
}

WORKERS: dict[str, tuple[Callable[[], Visited], Operation]] = {
    **{f"rounds, {name}": (make(order=order, max_workers=2), rounds) for name, order in ORDERS.items()},
    "four": (make(), four),
    "four at a rate": (make(rate=Rate(1000)), four),
    "with a full queue": (make(queue_size=1, when_full="caller_runs"), four),
    "group": (make(max_workers=2), group),
    "map": (make(max_workers=2), mapping(timeout=PATIENCE)),
    "map inside": (make(max_workers=2), inside(mapping())),
    "submit inside": (make(max_workers=2), inside(submit)),
    "shutdown": (make(max_workers=2), end),
}


def chosen(total: int, most: int, first: int) -> Iterator[tuple[int, Deed]]:
    """Give at most so many of `total` instants, evenly spread, and a deed for each: by turns, from `first` on."""
    step = max(1, -(-total // most))
    deeds = itertools.cycle(DEEDS[first % len(DEEDS) :] + DEEDS[: first % len(DEEDS)])
    return zip(range(1 + first % step, total + 1, step), deeds, strict=False)


# -- the sweep --------------------------------------------------------------------------------------------------------


def run(make: Callable[[], Visited], operation: Operation, at: int | None, deed: Deed, only: str = "") -> Visits:
    """Run one operation with a deed at the instant `at` of this thread, and check what came of it."""
    if at is None:
        gc.collect()  # as in the other sweep
    visits = Visits(at, deed, only)
    try:
        scene = visits.scene = make()
        with visits.here(), suppress(CancelledError, InvalidStateError, TreadleError, ExceptionGroup):
            operation(scene)
        scene.check()
    except BaseException as error:
        error.add_note(f"{deed.__name__} at instant {at}: {visits.where}")
        raise
    return visits


def run_in_workers(make: Callable[[], Visited], operation: Operation, at: int | None, deed: Deed) -> Visits:
    """Run one operation with a deed at the instant `at` of one of the pool's threads, and check what came of it."""
    if at is None:
        gc.collect()
    visits = Visits(at, deed)
    try:
        with visits.elsewhere():
            scene = visits.scene = make()
            with suppress(CancelledError, TreadleError, ExceptionGroup):
                operation(scene)
            for future in list(scene.futures.values()):
                with suppress(CancelledError):
                    future.exception(PATIENCE)
        visits.end()
        scene.check()
    except BaseException as error:
        error.add_note(f"{deed.__name__} at instant {at}: {visits.where}")
        raise
    return visits

"""Random programs whose books are audited: each task has one beginning and one end, and the counts say the same.

    program -> a pool and its observer -> at rest: what was told of each task, and what the snapshot counts

A program is the steps of one thread, made from a seed by the stress run, or by hypothesis. Its tasks wait at gates that
it opens; what else happens at the same time is up to the machine, and the books are to be right whatever happens.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from treadle import ConcurrencyLimit, Future, Pool, Rate, TaskGroup, deadline, sleep
from treadle._base.timer import TIMERS, run_later
from treadle._dispatch import lifecycle
from treadle._dispatch.dispatcher import Dispatcher
from treadle._pool.snapshot import snapshot_of
from treadle._pool.submit import POLICIES, WhenFull
from treadle._pool.view import PoolView
from treadle.errors import TreadleError
from treadle.events import Observer, PoolSnapshot, TaskEvent
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority

ORDERS: dict[str, Callable[[], Order]] = {
    "fifo": Fifo,
    "priority": lambda: Priority(0.01),
    "fair": lambda: Fair({1: 2.5}),
    "capped": lambda: Fair(max_running=1, max_waiting=2),
    "adaptive": lambda: Adaptive(0.0, 0.0),  # which sheds whenever it can
}
STEPS = (
    "submit",
    "submit",
    "hold",
    "hold",
    "block",
    "special",
    "in_time",
    "cancel",
    "stop",
    "ask",
    "map",
    "group",
    "run",
    "call_back",
    "resize",
    "release",
    "shut",
)
ENDINGS = ("drain", "cancel", "give up", "drop")
ENDS = ("finished", "cancelled", "shed", "rejected")
LONG = 60.0  # seconds after which a wait that ought to end is taken to hang


class Ledger(Observer):
    """Keeps what it is told of each task, in that order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.told: defaultdict[int, list[str]] = defaultdict(list)
        self.failed = 0  # of those that finished
        self.wrong: list[TaskEvent] = []  # that say when they began, or do not, where they should not

    def note(self, what: str, event: TaskEvent) -> None:
        with self.lock:
            self.told[event.task_id].append(what)
            self.failed += what == "finished" and event.error is not None
            waited, ran = event.waited is not None, event.ran is not None
            if (waited, ran) != (what in ("started", "finished"), what == "finished"):
                self.wrong.append(event)

    def submitted(self, event: TaskEvent) -> None:
        self.note("submitted", event)

    def started(self, event: TaskEvent) -> None:
        self.note("started", event)

    def finished(self, event: TaskEvent) -> None:
        self.note("finished", event)

    def cancelled(self, event: TaskEvent) -> None:
        self.note("cancelled", event)

    def rejected(self, event: TaskEvent) -> None:
        self.note("rejected", event)

    def shed(self, event: TaskEvent) -> None:
        self.note("shed", event)

    def count(self, what: str) -> int:
        """Return how often that was told."""
        return sum(told.count(what) for told in self.told.values())

    def unsound(self) -> dict[int, list[str]]:
        """Return what was told of the tasks, all of them over, of which that cannot be true."""
        return {task: told for task, told in self.told.items() if not is_sound(told)}


def is_sound(told: list[str]) -> bool:
    """Whether that is what is told of a task: its beginning, its start if it has run, and its only end."""
    return told == ["submitted", "started", "finished"] or (
        len(told) == 2 and told[0] == "submitted" and told[1] in ("cancelled", "shed", "rejected")
    )


@dataclass
class Program:
    """A pool's arguments, and what is done with it.

    Attributes:
        workers, queue_size, policy, order, context: the pool's.
        rate, limit: whether it has one.
        unlucky: which call of its initializer fails; 0: none.
        steps: what is done, each with a number that varies it.
        ending: what becomes of the pool.
    """

    workers: int
    queue_size: int | None
    policy: WhenFull
    order: str
    context: bool
    rate: bool
    limit: bool
    unlucky: int
    steps: list[tuple[str, int]]
    ending: str


@dataclass
class Audit:
    """One run of a program."""

    program: Program
    pool: Pool = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    ledger: Ledger = field(default_factory=Ledger)
    gate: threading.Event = field(default_factory=threading.Event)  # that tasks wait at which come now
    futures: list[Future[Any]] = field(default_factory=list)
    blocked: list[threading.Thread] = field(default_factory=list)  # that may wait for room
    own: threading.Thread = field(default_factory=threading.current_thread)  # the program's thread
    lock: threading.Lock = field(default_factory=threading.Lock)
    initialized: int = 0  # threads; guarded by the lock
    submitted: int = 0  # tasks, as the last snapshot said; guarded by the lock
    fell: list[tuple[int, int]] = field(default_factory=list)  # when it was more at the snapshot before
    excess: list[PoolSnapshot] = field(default_factory=list)  # that say more have failed than finished

    def run(self) -> None:
        """Do all steps, end the pool, and raise AssertionError with what does not add up."""
        program = self.program
        self.pool = Pool(
            program.workers,
            queue_size=program.queue_size,
            when_full=program.policy,
            order=ORDERS[program.order](),
            context=program.context,
            rate=Rate(5000.0, burst=2) if program.rate else None,
            limit=ConcurrencyLimit() if program.limit else None,
            initializer=self.initialize,
            idle_timeout=0.01,
            name="books",
            observers=[self.ledger],
        )
        self.dispatcher = self.pool._task_dispatcher
        try:
            for step, number in program.steps:
                with may_be_refused():
                    getattr(self, f"do_{step}")(number)
                self.look()
            self.end()
        finally:
            self.open_gate()
            self.dispatcher.close("the end", cancel=False)
        self.come_to_rest()
        self.check()

    def end(self) -> None:
        """Do with the pool what the program says, while tasks may still wait at gates."""
        if self.program.ending == "cancel":
            self.pool.shutdown(wait=False, cancel_futures=True)
        elif self.program.ending == "give up":
            self.pool.shutdown(timeout=0.0)
        elif self.program.ending == "drop":
            del self.pool  # tasks that ask for it fail from now on

    def come_to_rest(self) -> None:
        """Wait until nothing runs any more, and the timers' thread has told whoever was to be called."""
        for thread in self.blocked:
            thread.join(LONG)
            assert not thread.is_alive(), f"a submit hangs: {self.program}"
        assert lifecycle.join(self.dispatcher, LONG), f"the pool's threads do not end: {self.program}"
        told = threading.Event()
        TIMERS.call_at(0.0, lambda: run_later(told.set))
        assert told.wait(LONG)

    def look(self) -> None:
        """Take a snapshot, and compare it with the last one."""
        with self.lock:
            now = snapshot_of(self.dispatcher)
            if now.submitted < self.submitted:
                self.fell.append((self.submitted, now.submitted))
            if now.failed > now.finished:
                self.excess.append(now)
            self.submitted = now.submitted

    def check(self) -> None:
        """What holds at rest."""
        ledger, now = self.ledger, snapshot_of(self.dispatcher)
        assert not ledger.unsound(), ledger.unsound()
        assert (now.threads, now.busy, now.waiting, now.blocked) == (0, 0, 0, 0), now
        counted = {"finished": now.finished, "cancelled": now.cancelled, "shed": now.shed, "rejected": now.rejected}
        assert counted == {end: ledger.count(end) for end in ENDS}, now
        assert now.failed == ledger.failed, now
        assert now.submitted == ledger.count("submitted") - now.rejected, now
        assert not self.fell, f"fewer tasks had been submitted than before: {self.fell}"
        assert not self.excess, f"more tasks had failed than finished: {self.excess}"
        assert not ledger.wrong, f"what began tells how long it waited, and nothing else does: {ledger.wrong}"
        assert (now.limit is None) is not self.program.limit, now
        assert all(future.done() for future in self.futures)

    # -- what is run ----------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        with self.lock:
            self.initialized += 1
            unlucky = self.initialized == self.program.unlucky
        if unlucky:
            raise ValueError("this thread is unlucky")

    def work(self, number: int) -> int:
        """Be a task: one that returns, raises, or uses its own pool."""
        if number % 5 == 1:
            raise ZeroDivisionError
        if number % 5 == 2:
            return self.pool.submit(self.work, number // 5).result()
        if number % 5 == 3:
            return sum(self.pool.map(abs, range(number % 7), buffersize=2))
        return number

    def work_at_gate(self, gate: threading.Event, number: int) -> int:
        """As `work`, once the gate is open. The program's own thread, which opens it, waits for nothing."""
        if threading.current_thread() is self.own:
            return number
        assert gate.wait(LONG)
        return self.work(number)

    def open_gate(self) -> None:
        """Let the tasks go on that wait; those that come from now on wait at another gate."""
        self.gate.set()
        self.gate = threading.Event()

    # -- how it is submitted --------------------------------------------------------------------------------------

    def view(self, number: int, **options: Any) -> PoolView:
        """Return what to submit to, so that the program cannot hang while tasks wait at its gate."""
        if self.program.policy == "block" and number % 2:
            return self.pool.options(block_timeout=0.0, **options)
        self.open_gate()
        return self.pool.options(**options)

    def add(self, to: Pool | PoolView | TaskGroup, fn: Callable[..., Any], *args: Any) -> None:
        self.futures.append(to.submit(fn, *args))

    # -- steps ----------------------------------------------------------------------------------------------------

    def do_submit(self, number: int) -> None:
        self.add(self.view(number), self.work, number)

    def do_hold(self, number: int) -> None:
        if self.program.policy == "block":
            number |= 1  # or it would open the gate
        self.add(self.view(number), self.work_at_gate, self.gate, number)

    def do_block(self, number: int) -> None:
        """Submit in another thread, that may wait for room until the end."""

        def submit() -> None:
            with may_be_refused():
                pool.submit(self.work, number)

        pool = self.pool.options(block_timeout=LONG if self.program.policy == "block" else None)
        thread = threading.Thread(target=submit)
        thread.start()
        self.blocked.append(thread)

    def do_special(self, number: int) -> None:
        options: dict[str, Any] = {"name": "special"}
        if self.program.order == "priority":
            options["priority"] = number % 5 - 2
        if self.program.order in ("fair", "capped"):
            options["key"] = number % 3
        if number % 3 == 0:
            options["rate"] = Rate(2000.0)
        self.add(self.view(number, **options), self.work_at_gate, self.gate, number)

    def do_in_time(self, number: int) -> None:
        """Submit under a deadline, and perhaps stay until it has passed."""
        with deadline(number % 4 / 1000):
            for _ in range(number % 3 + 1):
                self.add(self.view(number), self.work_at_gate, self.gate, number)
            if number % 2:
                sleep(LONG)

    def do_cancel(self, number: int) -> None:
        if self.futures:
            self.futures[number % len(self.futures)].cancel()

    def do_stop(self, number: int) -> None:
        if self.futures:
            self.futures[number % len(self.futures)].request_cancel()

    def do_ask(self, number: int) -> None:
        if self.futures:
            self.open_gate()
            self.futures[number % len(self.futures)].result()

    def do_map(self, number: int) -> None:
        """Take a few results, or all of them; close the map, or forget it."""
        items = iter(range(number % 11) if number % 3 else count())
        view = self.view(number)
        results = view.map(
            self.work, items, buffersize=1 + number % 5, chunksize=1 + number % 2, ordered=number % 7 < 4
        )
        self.open_gate()
        for _ in islice(count(), number % 13):
            try:
                next(results)
            except StopIteration:
                return
            except (TreadleError, CancelledError, ZeroDivisionError):
                pass
        if number % 4:
            results.close()

    def do_group(self, number: int) -> None:
        with TaskGroup(self.view(number | 1), keep_going=number % 3 == 0) as group:  # which does not wait for room
            try:
                for index in range(number % 4):
                    self.add(group, self.work_at_gate, self.gate, number + index)
                if number % 5 == 0:
                    group.cancel()
            finally:
                self.open_gate()  # where it is left, it waits for its tasks

    def do_run(self, number: int) -> None:
        """Submit from an event loop, and cancel, close the pool, or neither, before it goes on."""

        async def main() -> None:
            impatient = number % 2 and self.program.policy == "block"
            view = self.pool.options(block_timeout=0.001 if impatient else None)
            calls = [view.run(self.work_at_gate, self.gate, number + index) for index in range(number % 4 + 1)]
            runs = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
            if number % 5 == 0:
                runs[-1].cancel()
            elif number % 5 == 1:
                self.pool.shutdown(wait=False)
            elif number % 2:
                await asyncio.wait(runs, timeout=0.01)  # for room
            self.open_gate()
            await asyncio.gather(*runs, return_exceptions=True)

        asyncio.run(main())

    def do_call_back(self, number: int) -> None:
        """Have the snapshots compared that are taken in the middle of the pool's work."""
        if self.futures:
            self.futures[number % len(self.futures)].add_done_callback(lambda _: self.look())

    def do_resize(self, number: int) -> None:
        self.pool.resize(1 + number % 3)

    def do_release(self, number: int) -> None:
        self.open_gate()

    def do_shut(self, number: int) -> None:
        self.pool.shutdown(wait=False, cancel_futures=number % 2 == 0)


@contextmanager
def may_be_refused() -> Iterator[None]:
    """Go on after what a pool may say, and what tasks raise."""
    try:
        yield
    except (TreadleError, CancelledError, ZeroDivisionError, BaseExceptionGroup):
        pass


def random_program(seed: int) -> Program:
    """Return the program of a seed."""
    chance = random.Random(seed)
    return Program(
        workers=chance.randint(1, 3),
        queue_size=chance.choice([0, 1, 2, 3, None]),
        policy=chance.choice(POLICIES),
        order=chance.choice(sorted(ORDERS)),
        context=chance.random() < 0.7,
        rate=chance.random() < 0.2,
        limit=chance.random() < 0.2,
        unlucky=chance.choice([0, 0, 0, 1, 2]),
        steps=[(chance.choice(STEPS), chance.randrange(1000)) for _ in range(chance.randint(1, 30))],
        ending=chance.choice(ENDINGS),
    )

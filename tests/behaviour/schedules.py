"""Random schedules of everything a pool can be asked, with invariants that are checked after each step.

A schedule is a list of steps, made from a seed by the stress run, or by hypothesis.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from treadle import Future, Pool, Rate, TaskGroup, as_completed, deadline, wait
from treadle._base.timer import TIMERS, run_later
from treadle._pool.submit import POLICIES, WhenFull
from treadle._pool.view import PoolView
from treadle.errors import Cancelled, DeadlineExceeded, PoolClosed, PoolFull, Shed
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority

STEPS = (
    "submit",
    "submit",
    "submit",
    "nested",
    "fail",
    "cancel",
    "ask",
    "map",
    "unordered",
    "close_map",
    "wait",
    "drop",
    "special",
    "grouped",
    "in_time",
    "stop",
    "resize",
)
ORDERS: dict[str, Callable[[], Order]] = {
    "fifo": Fifo,
    "priority": lambda: Priority(0.01),
    "fair": lambda: Fair({1: 2.5}),
    "capped": lambda: Fair(max_running=1, max_waiting=3),
    "adaptive": lambda: Adaptive(0.0, 0.0),  # which sheds whenever it can
}
REFUSED = (PoolFull, Shed, CancelledError, DeadlineExceeded)
LONG = 60.0  # seconds after which a wait that ought to end is taken to hang


@dataclass
class Schedule:
    """A pool's arguments, and what is done with it.

    Attributes:
        workers, queue_size, policy, order: the pool's.
        threads: for each thread, its steps with a number that varies them.
        cancel: whether the shutdown at the end cancels.
    """

    workers: int
    queue_size: int | None
    policy: WhenFull
    order: str
    threads: list[list[tuple[str, int]]]
    cancel: bool


@dataclass
class Play:
    """One run of a schedule."""

    schedule: Schedule
    pool: Pool = field(init=False)
    rate: Rate = field(init=False)
    lock: Any = field(default_factory=threading.Lock)
    ran: dict[int, int] = field(default_factory=dict)  # how often each task was run
    futures: list[tuple[int, Future[Any]]] = field(default_factory=list)
    called: dict[int, int] = field(default_factory=dict)  # how often each task's callback was called
    faults: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(self) -> None:
        """Do all steps; raise AssertionError with what did not hold."""
        schedule = self.schedule
        self.pool = Pool(
            schedule.workers,
            queue_size=schedule.queue_size,
            when_full=schedule.policy,
            order=ORDERS[schedule.order](),
            idle_timeout=0.01,
            name="play",
        )
        self.rate = Rate(5000.0, burst=2)
        threads = [threading.Thread(target=self.follow, args=(steps,)) for steps in schedule.threads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), f"a step hangs: {schedule}"
        assert self.pool.shutdown(cancel_futures=schedule.cancel, timeout=LONG) == (), f"shutdown hangs: {schedule}"
        self.check_the_end()

    def follow(self, steps: list[tuple[str, int]]) -> None:
        """Be one thread."""
        try:
            for step, number in steps:
                getattr(self, step)(number)
                self.check_bounds()
        except BaseException as error:
            self.faults.append(f"{step} {number}: {error!r}")
            raise

    # -- invariants -----------------------------------------------------------------------------------------------

    def check_bounds(self) -> None:
        """What holds at every instant."""
        now = self.pool.snapshot()
        assert 0 <= now.busy <= now.threads <= self.schedule.workers, now
        assert now.waiting >= 0, now
        if self.schedule.queue_size is not None:
            assert now.waiting <= self.schedule.queue_size + self.schedule.workers - now.busy, now

    def check_the_end(self) -> None:
        """What holds when all is over, and the timers' thread has told whoever was to be called."""
        told = threading.Event()
        TIMERS.call_at(0.0, lambda: run_later(told.set))
        assert told.wait(30)
        assert not self.faults, self.faults
        now = self.pool.snapshot()
        assert (now.threads, now.waiting, now.blocked, now.busy) == (0, 0, 0, 0), now
        assert now.submitted == now.finished + now.cancelled + now.shed, now
        for number, future in self.futures:
            times = self.ran.get(number, 0)
            assert future.done(), f"task {number} was forgotten"
            error = None if future.cancelled() else future.exception()
            never = future.cancelled() or isinstance(error, Shed)
            allowed = (0, 1) if isinstance(error, (DeadlineExceeded, Cancelled)) else (0,) if never else (1,)
            assert times in allowed, f"task {number} ran {times} times: {future!r}"
            assert self.called.get(number) == 1, f"callback of task {number}: {self.called.get(number)} calls"

    # -- steps ----------------------------------------------------------------------------------------------------

    def task(self, number: int, depth: int = 0) -> int:
        """What is run: counts itself, and may use its own pool."""
        with self.lock:
            self.ran[number] = self.ran.get(number, 0) + 1
        if depth:
            try:
                child = self.pool.submit(self.task, -abs(number) * 10 - depth, depth - 1)
                child.result()
                if depth == 2:
                    assert list(as_completed([child])) == [child]
            except (*REFUSED, PoolClosed):
                pass  # by policy, or at the end
        return number

    def add(self, fn: Any, *args: Any) -> None:
        """Submit a task that is kept and counted."""
        self.add_to(self.pool, fn, *args)

    def add_to(self, pool: Pool | PoolView | TaskGroup, fn: Any, *args: Any) -> None:
        """Submit it there."""
        number = next(self.numbers)
        try:
            future = pool.submit(fn, number, *args)
        except REFUSED:
            return

        def called(_: Future[Any]) -> None:
            with self.lock:
                self.called[number] = self.called.get(number, 0) + 1

        with self.lock:
            self.futures.append((number, future))
        future.add_done_callback(called)

    def pick(self, number: int) -> Future[Any] | None:
        """Return one of the futures so far."""
        with self.lock:
            return self.futures[number % len(self.futures)][1] if self.futures else None

    def submit(self, number: int) -> None:
        self.add(self.task)

    def nested(self, number: int) -> None:
        self.add(self.task, number % 3)

    def fail(self, number: int) -> None:
        try:
            future = self.pool.submit(int, "not a number")
        except PoolFull:
            return
        assert isinstance(future.exception(LONG), (ValueError, Shed))

    def cancel(self, number: int) -> None:
        future = self.pick(number)
        if future is not None and future.cancel():
            assert future.cancelled()

    def ask(self, number: int) -> None:
        future = self.pick(number)
        if future is not None:
            try:
                future.result(LONG if number % 2 else 0.0001)
            except Shed as error:
                if error.reason == "discarded":
                    assert self.schedule.policy == "discard_oldest"
                else:
                    assert self.schedule.order == "adaptive"
            except (Cancelled, DeadlineExceeded):
                assert future.done()
            except CancelledError:
                assert future.cancelled()
            except concurrent.futures.TimeoutError:
                assert number % 2 == 0, "a result that never comes"

    def map(self, number: int) -> None:
        self.mapped(number, ordered=True)

    def unordered(self, number: int) -> None:
        self.mapped(number, ordered=False)

    def mapped(self, number: int, *, ordered: bool) -> None:
        count = number % 40
        try:
            got = list(
                self.pool.map(abs, range(count), buffersize=1 + number % 7, chunksize=1 + number % 3, ordered=ordered)
            )
        except (PoolFull, CancelledError, Shed):
            assert self.may_refuse()
            return
        assert (got if ordered else sorted(got)) == list(range(count))

    def close_map(self, number: int) -> None:
        try:
            results = self.pool.map(abs, iter(int, 1), buffersize=1 + number % 5)
            for _ in range(number % 4):
                next(results)
            results.close()
        except (PoolFull, CancelledError, Shed):
            assert self.may_refuse()

    def may_refuse(self) -> bool:
        """Whether the pool may drop or refuse what it is given."""
        return self.schedule.policy in ("reject", "discard_oldest") or self.schedule.order == "adaptive"

    def wait(self, number: int) -> None:
        with self.lock:
            some = [future for _, future in self.futures[-(number % 10) - 1 :]]
        assert not wait(some, LONG).not_done, "tasks that never end"

    def drop(self, number: int) -> None:
        """Forget a future at once."""
        try:
            self.pool.submit(int)
        except PoolFull:
            pass

    def special(self, number: int) -> None:
        """Submit with whatever options the order looks at, or at a rate."""
        options: dict[str, Any] = {"name": "special"}
        if self.schedule.order == "priority":
            options["priority"] = number % 5 - 2
        if self.schedule.order in ("fair", "capped"):
            options["key"] = number % 4
        if number % 3 == 0:
            options["rate"] = self.rate
        self.add_to(self.pool.options(**options), self.task, number % 2)

    def grouped(self, number: int) -> None:
        try:
            with TaskGroup(self.pool, keep_going=number % 2 == 0) as group:
                for _ in range(number % 5):
                    self.add_to(group, self.task, number % 3)
                if number % 7 == 0:
                    group.cancel()
        except BaseExceptionGroup as failures:
            _, others = failures.split(REFUSED)
            if others is not None:
                raise others from None

    def in_time(self, number: int) -> None:
        """Submit under a deadline that may well pass before."""
        with deadline(number % 10 / 5000):
            for _ in range(number % 4):
                self.add(self.task, number % 3)

    def stop(self, number: int) -> None:
        future = self.pick(number)
        if future is not None:
            future.request_cancel()

    def resize(self, number: int) -> None:
        self.pool.resize(1 + number % self.schedule.workers)


def random_schedule(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    chance = random.Random(seed)
    return Schedule(
        workers=chance.randint(1, 4),
        queue_size=chance.choice([0, 1, 2, 5, 100, None]),
        policy=chance.choice(POLICIES),
        order=chance.choice(sorted(ORDERS)),
        threads=[
            [(chance.choice(STEPS), chance.randrange(1000)) for _ in range(chance.randint(1, 40))]
            for _ in range(chance.randint(1, 4))
        ],
        cancel=chance.random() < 0.3,
    )

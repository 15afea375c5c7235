"""The way into a pool: what happens when there is no room."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any, get_args

import pytest

from blocked import until_blocked
from scripted import ScriptedLock, nothing
from treadle import Future, Pool, deadline
from treadle._base.locks import is_held
from treadle._dispatch import deadlock
from treadle._dispatch import dispatcher as dispatcher_module
from treadle._dispatch.admission import Admission, WaitingSubmitter
from treadle._dispatch.dispatcher import Dispatcher
from treadle._pool.submit import WhenFull
from treadle._tasks.scope import SCOPE
from treadle.errors import Cancelled, PoolBroken, PoolClosed, PoolDeadlock, PoolFull, Shed
from treadle.events import Observer, TaskEvent
from treadle.orders import Fair, OrderName


class Blocked:
    """A pool of one thread that is held by a task until the gate opens, and `queue_size` tasks behind it."""

    def __init__(self, queue_size: int, when_full: WhenFull = "block") -> None:
        self.gate = threading.Event()
        self.pool = Pool(1, queue_size=queue_size, when_full=when_full, name="narrow")
        began = threading.Event()

        def hold() -> None:
            began.set()
            assert self.gate.wait(30)

        self.pool.submit(hold)
        assert began.wait(30)
        self.waiting = [self.pool.submit(int) for _ in range(queue_size)]


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    made = Blocked(2)
    yield made
    made.gate.set()
    made.pool.shutdown()


def test_a_full_pool_says_its_name_its_limit_and_how_many_wait(blocked: Blocked) -> None:
    with pytest.raises(PoolFull) as caught:
        blocked.pool.options(when_full="reject").submit(int)
    error = caught.value
    assert (error.pool, error.queue_size, error.waiting) == ("narrow", 2, 2)
    assert "'narrow'" in str(error)
    assert "queue_size=2" in str(error)


def test_waiting_for_room_ends_when_the_time_allowed_is_over(blocked: Blocked) -> None:
    with pytest.raises(PoolFull, match=r"after waiting 0\.01 s"):
        blocked.pool.options(block_timeout=0.01).submit(int)
    assert blocked.pool.snapshot().blocked == 0
    assert blocked.pool.snapshot().rejected == 1


@pytest.mark.parametrize("end", ["shutdown", "break_down"])
def test_each_caller_that_is_turned_away_raises_an_error_of_its_own(blocked: Blocked, end: str) -> None:
    """Else the traceback of each would be that of all."""
    errors: list[Exception] = []

    def submit() -> None:
        try:
            blocked.pool.submit(int)
        except (PoolClosed, PoolBroken) as error:
            errors.append(error)

    callers = [threading.Thread(target=submit) for _ in range(3)]
    for caller in callers:
        caller.start()
    until_blocked(blocked.pool, 3)
    if end == "shutdown":
        blocked.pool.shutdown(wait=False)
    else:
        blocked.pool._task_dispatcher.break_down()
    for caller in callers:
        caller.join(30)
    assert len({id(error) for error in errors}) == len(errors) == 3
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1


def test_callers_enter_in_the_order_they_came(blocked: Blocked) -> None:
    order: list[int] = []
    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=blocked.pool.submit, args=(order.append, number)))
        threads[-1].start()
        until_blocked(blocked.pool, number + 1)
    assert blocked.pool.snapshot().waiting == 2, "nobody may enter while there is no room"
    blocked.gate.set()
    for thread in threads:
        thread.join(30)
    blocked.pool.shutdown()
    assert order == [0, 1, 2, 3, 4]


def test_cancelling_a_waiting_task_lets_the_next_caller_in(blocked: Blocked) -> None:
    entered: list[Future[int]] = []
    thread = threading.Thread(target=lambda: entered.append(blocked.pool.submit(int)))
    thread.start()
    until_blocked(blocked.pool, 1)
    assert blocked.waiting[0].cancel()
    thread.join(30)
    assert len(entered) == 1
    assert blocked.pool.snapshot().waiting == 2


def test_shutdown_turns_away_whoever_waits_for_room(blocked: Blocked) -> None:
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            blocked.pool.submit(int)
        except PoolClosed as error:
            errors.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    until_blocked(blocked.pool, 1)
    blocked.pool.shutdown(wait=False)
    thread.join(30)
    assert len(errors) == 1
    assert all(not future.cancelled() for future in blocked.waiting), "what was admitted is still run"


@pytest.mark.parametrize("policy", get_args(WhenFull))
def test_a_submit_amid_which_a_signal_handler_shuts_the_pool_down_says_so(
    policy: WhenFull, blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_room = Admission.has_room

    def visited(admission: Admission, task: Future[Any]) -> bool:
        monkeypatch.undo()
        blocked.pool.shutdown(wait=False, cancel_futures=True)
        return has_room(admission, task)

    monkeypatch.setattr(Admission, "has_room", visited)
    with pytest.raises(PoolClosed):
        blocked.pool.options(when_full=policy).submit(int)


def test_shutdown_turns_away_a_caller_whose_time_has_just_passed(
    blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = ScriptedLock(blocked.pool._task_dispatcher)

    def shut_down() -> None:
        lock.before = nothing
        blocked.pool.shutdown(wait=False)

    def wait(*_: object) -> bool:
        lock.before = shut_down
        return False

    monkeypatch.setattr(deadlock, "wait", wait)
    with pytest.raises(PoolClosed):
        blocked.pool.options(block_timeout=30).submit(int)


def test_a_task_whose_caller_was_turned_away_cannot_be_cancelled_out_of_the_queue(blocked: Blocked) -> None:
    """It is in no queue any more; or a cancel, say of Ctrl-C in its caller, would count out one that waits."""
    dispatcher = blocked.pool._task_dispatcher
    tasks = [blocked.pool._task_made(int, (), {}) for _ in range(3)]
    with dispatcher.lock:
        for task in tasks:
            dispatcher.admission.waiting[task] = WaitingSubmitter(blocking=True)
        full = dispatcher._stop_waiting(tasks[0], None, 0.5)
    assert full is not None
    errors = [full(), Cancelled("scripted"), PoolClosed("narrow", "shutdown")]
    dispatcher.stop_waiting(tasks[1], errors[1])
    blocked.pool.shutdown(wait=False)  # turns away the third
    assert [task.cancel() for task in tasks] == [False] * 3
    assert dispatcher.queue.tombstones == 0
    assert blocked.pool.snapshot().waiting == 2
    for task, error in zip(tasks, errors, strict=True):  # as their callers do
        dispatcher.take_back(task, error)
    assert not dispatcher.state.claimed
    assert (blocked.pool.snapshot().rejected, blocked.pool.snapshot().cancelled) == (3, 0)


def test_a_caller_whose_task_was_let_in_is_not_asked_to_stop_any_more(blocked: Blocked) -> None:
    """Its time may run out, or its deadline pass, just then."""
    dispatcher, task = blocked.pool._task_dispatcher, blocked.waiting[0]
    dispatcher.stop_waiting(task, Cancelled("scripted"))
    dispatcher.give_up_waiting(task, 0.5)
    assert not task.done()
    assert blocked.pool.snapshot().waiting == 2
    blocked.gate.set()
    assert task.result(30) == 0


class Moody:
    """A key that can be hashed until it cannot."""

    broken = False

    def __hash__(self) -> int:
        if self.broken:
            raise ValueError("cannot be hashed any more")
        return 1


@pytest.mark.parametrize("awaits", [False, True])
def test_a_key_that_fails_while_its_caller_waits_for_room_is_not_asked_any_more(awaits: bool) -> None:
    """Neither the worker is, that makes the room, to be told, nor is the caller to wait for ever."""
    gate, began, key = threading.Event(), threading.Event(), Moody()
    ran, raised = list[int](), list[Exception]()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    def submit() -> None:
        view = pool.options(key=key)
        try:
            ran.append(asyncio.run(view.run(abs, -2)) if awaits else view.submit(abs, -2).result(30))
        except Exception as error:
            raised.append(error)

    with Pool(1, queue_size=0, order="fair") as pool:
        pool.submit(hold)
        assert began.wait(30)
        caller = threading.Thread(target=submit)
        caller.start()
        until_blocked(pool, 1)
        key.broken = True
        gate.set()
        caller.join(30)
        assert (ran, raised) == ([2], [])
        assert pool.submit(abs, -1).result(30) == 1
        assert pool.snapshot().waiting == pool.snapshot().blocked == 0


def test_run_runs_in_the_caller(blocked: Blocked) -> None:
    future = blocked.pool.options(when_full="caller_runs").submit(threading.get_ident)
    assert future.result(0) == threading.get_ident()


def test_discard_oldest_sheds_the_one_that_waited_longest(blocked: Blocked) -> None:
    newest = blocked.pool.options(when_full="discard_oldest").submit(int)
    error = blocked.waiting[0].exception(0)
    assert isinstance(error, Shed)
    assert (error.reason, error.task_name) == ("discarded", "int")
    assert not blocked.waiting[0].cancelled()
    assert not blocked.waiting[1].done()
    assert not newest.done()
    assert blocked.pool.snapshot().shed == 1


def test_no_queue_takes_a_task_only_for_a_free_thread() -> None:
    blocked = Blocked(0, "reject")
    with pytest.raises(PoolFull):
        blocked.pool.submit(int)
    blocked.gate.set()
    blocked.pool.shutdown()


class Told(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def submitted(self, event: TaskEvent) -> None:
        self.seen.append(("submitted", event.name))

    def rejected(self, event: TaskEvent) -> None:
        self.seen.append(("rejected", event.name))

    def cancelled(self, event: TaskEvent) -> None:
        self.seen.append(("cancelled", event.name))


def test_a_task_whose_caller_ctrl_c_interrupts_while_it_waits_for_room_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not only forgotten: observers were told that it was submitted, and hear of its end."""

    class Interrupted:
        @staticmethod
        def wait(*_: object, **__: object) -> bool:
            raise KeyboardInterrupt

    told, ran, gate = Told(), list[int](), threading.Event()
    with Pool(1, queue_size=0, observers=[told]) as pool:
        try:
            pool.submit(gate.wait, 30)
            with monkeypatch.context() as patch:
                patch.setattr(dispatcher_module, "deadlock", Interrupted)
                with pytest.raises(KeyboardInterrupt):
                    pool.options(name="interrupted").submit(ran.append, 1)
            assert pool.snapshot().blocked == 0
        finally:
            gate.set()
    assert ran == []
    assert told.seen[1:] == [("submitted", "interrupted"), ("rejected", "interrupted")]
    now = pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled, now.rejected) == (1, 1, 0, 1)


def test_a_caller_is_let_in_by_the_claim_that_makes_room_and_not_only_when_the_queue_is_empty() -> None:
    gate, seen = threading.Event(), list[int]()
    with Pool(1, queue_size=1) as pool:
        caller = threading.Thread(target=pool.submit, args=(int,))
        try:
            pool.submit(gate.wait, 30)
            pool.submit(lambda: seen.append(pool.snapshot().blocked))
            caller.start()
            until_blocked(pool, 1)
        finally:
            gate.set()
        caller.join(30)
    assert seen == [0]


def test_a_caller_whose_task_is_cancelled_by_somebody_else_waits_no_longer(blocked: Blocked) -> None:
    futures: list[Future[int]] = []
    caller = threading.Thread(target=lambda: futures.append(blocked.pool.options(block_timeout=60).submit(int)))
    caller.start()
    until_blocked(blocked.pool, 1)
    (task,) = blocked.pool._task_dispatcher.admission.waiting
    assert task.cancel()
    caller.join(20)
    assert futures == [task]


@pytest.mark.parametrize("put_first", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_ctrl_c_in_the_middle_of_a_submit_leaves_the_lock_free_and_no_task(
    plain: bool, put_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the task is in, and after that; where `submit` spells the section out, and elsewhere."""
    ran, take_back = list[int](), Dispatcher.take_back

    def take_back_late(dispatcher: Dispatcher, task: Future[Any], error: BaseException) -> None:
        threading.Event().wait(0.05)  # in which whoever was woken could come for it
        take_back(dispatcher, task, error)

    def interrupted(task: Future[Any]) -> None:
        if put_first:
            put(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(Dispatcher, "take_back", take_back_late)
    with Pool(1) as pool:
        dispatcher = pool._task_dispatcher
        pool.submit(int).result(30)
        while not dispatcher.entrance.idle:
            threading.Event().wait(0.001)
        put = dispatcher.queue.put
        with deadline(600) if not plain else nullcontext():
            dispatcher.entrance.put = dispatcher.queue.put = interrupted
            with pytest.raises(KeyboardInterrupt):
                pool.submit(ran.append, 1)
            dispatcher.entrance.put = dispatcher.queue.put = put
        held = is_held(dispatcher.lock)
        if held:
            dispatcher.lock.release()
        assert not held
        assert pool.submit(abs, -1).result(30) == 1
        assert (pool.snapshot().waiting, pool.snapshot().rejected) == (0, 1)
    assert ran == []


def test_a_map_that_would_wait_for_room_for_ever_leaves_nothing_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Knotted:
        @staticmethod
        def wait(*_: object, **__: object) -> bool:
            raise PoolDeadlock(["narrow"], ["abs"])

    gate = threading.Event()
    with Pool(1, queue_size=0) as pool:
        try:
            pool.submit(gate.wait, 30)
            with monkeypatch.context() as patch:
                patch.setattr(dispatcher_module, "deadlock", Knotted)
                with pytest.raises(PoolDeadlock):
                    pool.map(abs, [-1])
            assert pool.snapshot().blocked == 0
        finally:
            gate.set()


def test_a_submit_that_an_observer_ends_is_rejected_and_leaves_its_scope() -> None:
    """What an observer raises that would end a thread is raised to the caller; the task is nowhere afterwards."""
    told: list[str] = []

    class Killing(Observer):
        def submitted(self, event: TaskEvent) -> None:
            told.append("submitted")
            raise SystemExit

        def rejected(self, event: TaskEvent) -> None:
            told.append("rejected")

    with Pool(1, observers=[Killing()]) as pool, deadline(600):
        scope = SCOPE.get()
        assert scope is not None
        with pytest.raises(SystemExit):
            pool.submit(int)
        assert scope._members == {}
    assert told == ["submitted", "rejected"]
    assert (pool.snapshot().submitted, pool.snapshot().rejected) == (0, 1)


# -- in the thread of an event loop -------------------------------------------------------------------------------


def test_an_event_loop_never_waits_for_room_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """What makes room may need that very loop: here, as its default executor, tasks that call back into it."""

    loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # until it runs

    async def answer(number: int) -> int:
        return number

    def ask(number: int) -> int:
        return asyncio.run_coroutine_threadsafe(answer(number), loop).result(30)

    async def main() -> list[int]:
        nonlocal loop
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Pool(2, queue_size=10, name="narrow"))
        return await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(50))), 60)

    assert asyncio.run(main()) == list(range(50))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pool 'narrow' is full" in caplog.text
    assert "beyond the bound" in caplog.text


def test_threads_wait_for_nobody_to_learn_that_no_loop_runs() -> None:
    """A lock that all threads want would be everybody's bottleneck without the GIL, and may be taken in a child."""
    resource = pytest.importorskip("resource")
    threads, times = 4, 10_000
    start = threading.Barrier(threads)

    def look() -> None:
        start.wait(30)
        for _ in range(times):
            assert dispatcher_module.running_loop() is None

    # Who wants a lock that is taken there gives the processor away, up to 40 times.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    lookers = [threading.Thread(target=look) for _ in range(threads)]
    for each in lookers:
        each.start()
    for each in lookers:
        each.join(60)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before < threads * times


def test_no_loop_runs_where_asyncio_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncio.events", ModuleType("asyncio.events"))
    with Pool(1) as pool:
        assert pool.submit(abs, -3).result(30) == 3


def test_no_loop_runs_where_asyncio_was_taken_out_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing(dict[str, ModuleType]):
        def __contains__(self, name: object) -> bool:
            return super().__contains__(name) or name == "asyncio.events"

    without = Losing(sys.modules)
    del without["asyncio.events"]
    monkeypatch.setattr(sys, "modules", without)
    assert dispatcher_module.running_loop() is None


@pytest.mark.parametrize("policy", ["block", "caller_runs"])
@pytest.mark.parametrize("order", ["fifo", "priority", "fair", "adaptive"])
def test_no_policy_that_blocks_holds_up_an_event_loop(policy: WhenFull, order: OrderName) -> None:
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    async def main() -> None:
        assert began.wait(30)
        futures = [pool.submit(threading.get_ident) for _ in range(4)]
        impatient = pool.options(when_full="block", block_timeout=30)
        futures.append(impatient.submit(threading.get_ident))
        numbers = pool.map(abs, [-1, -2])
        assert pool.snapshot().waiting == 6
        assert pool.snapshot().blocked == 0
        gate.set()
        assert threading.get_ident() not in {future.result(30) for future in futures}
        assert list(numbers) == [1, 2]

    with Pool(1, queue_size=2, when_full=policy, order=order) as pool:
        pool.submit(hold)
        asyncio.run(main())


def test_an_event_loop_in_a_task_is_not_held_up_by_its_own_pool() -> None:
    ran: list[int] = []

    async def main() -> None:
        for _ in range(3):
            pool.submit(lambda: ran.append(threading.get_ident()))
        assert ran == []

    with Pool(1, queue_size=1) as pool:
        pool.submit(lambda: asyncio.run(main())).result(30)
    assert len(ran) == 3


def test_policies_that_do_not_block_hold_for_event_loops_too(blocked: Blocked) -> None:
    async def main() -> None:
        with pytest.raises(PoolFull):
            blocked.pool.options(when_full="reject").submit(int)
        with pytest.raises(PoolFull):
            blocked.pool.options(block_timeout=0).submit(int)
        blocked.pool.options(when_full="discard_oldest").submit(int)
        assert isinstance(blocked.waiting[0].exception(0), Shed)
        assert blocked.pool.snapshot().waiting == 2

    asyncio.run(main())


def test_the_bound_holds_again_for_others_when_a_loop_has_exceeded_it(blocked: Blocked) -> None:
    async def main() -> None:
        for _ in range(3):
            blocked.pool.submit(int)

    asyncio.run(main())
    assert blocked.pool.snapshot().waiting == 5
    with pytest.raises(PoolFull):
        blocked.pool.options(block_timeout=0.01).submit(int)
    blocked.gate.set()
    assert blocked.pool.submit(abs, -1).result(30) == 1
    assert blocked.pool.snapshot().blocked == 0


def test_a_log_handler_that_raises_does_not_undo_a_submit(
    blocked: Blocked, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> Future[int]:
        return blocked.pool.submit(abs, -4)

    def fail(record: object) -> None:
        raise LookupError

    monkeypatch.setattr(caplog.handler, "handle", fail)
    future = asyncio.run(main())
    blocked.gate.set()
    assert future.result(30) == 4


def test_a_submit_whose_thread_others_have_given_work_meanwhile_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a signal handler submits as the thread is started; that is not to wait for what the handler waits for."""
    gate, start, inner = threading.Event(), threading.Thread.start, list[Future[Any]]()

    def start_and_be_overtaken(thread: threading.Thread) -> None:
        start(thread)
        if not inner:
            inner.append(pool.submit(gate.wait, 30))

    with Pool(2) as pool:
        monkeypatch.setattr(threading.Thread, "start", start_and_be_overtaken)
        try:
            assert pool.submit(abs, -1).result(30) == 1
            assert not inner[0].done()
        finally:
            gate.set()


def test_a_task_that_begins_with_a_thread_of_its_own_is_known_to_the_order() -> None:
    order = Fair(max_running=1)
    gate = threading.Event()
    with Pool(2, order=order) as pool:
        view = pool.options(key="a")
        running = view.submit(gate.wait, 30)
        waiting = view.submit(abs, -1)
        assert order.holders(waiting) == [running]
        assert pool.submit(abs, -2).result(30) == 2
        assert not waiting.done()
        gate.set()
        assert waiting.result(30) == 1

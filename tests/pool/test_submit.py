"""Submitter: what a pool and its views have in common."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import treadle
from treadle import Future, Pool, Rate
from treadle._pool.submit import Submitter
from treadle._pool.view import PoolView
from treadle._tasks.contexts import EMPTY
from treadle._tasks.future import RUNNING
from treadle._tasks.options import PLAIN, TaskOptions
from treadle._tasks.scoped import ScopedTask
from treadle.errors import PoolFull

PATIENCE = 30.0


def test_pools_and_views_submit_by_the_same_code() -> None:
    assert Pool.submit is PoolView.submit is Submitter.submit


@pytest.mark.parametrize("view", [False, True])
def test_a_task_has_the_options_of_what_it_was_submitted_to(view: bool) -> None:
    with Pool(1, order="priority") as pool:
        door: Submitter = pool.options(name="weft", priority=3) if view else pool
        task = door.submit(int)
        assert task._options == (TaskOptions("weft", 3) if view else PLAIN)
        assert task.result(PATIENCE) == 0


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_a_task_sees_its_submitters_context_unless_the_pool_has_none(view: bool, context: bool) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    with Pool(1, context=context) as pool:
        door: Submitter = pool.options() if view else pool
        variable.set("here")
        assert door.submit(variable.get).result(PATIENCE) == ("here" if context else "none")


def calls_of(call: Callable[[], object]) -> list[tuple[str, str]]:
    """Return module and name of each function of treadle's that is called in this thread."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("treadle."):
            calls.append((module, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls


def test_a_submit_to_a_busy_pool_is_one_python_call() -> None:
    """That is the design: what every task comes by is spelled out in one place."""
    gate = threading.Event()
    with Pool(1) as pool:
        pool.submit(gate.wait, PATIENCE)
        until_busy(pool)
        for _ in range(2):  # then it is known that a thread can call it
            pool.submit(int)
        empty = contextvars.Context()  # the values of another are looked at, too
        calls = empty.run(calls_of, lambda: pool.submit(int))
        gate.set()
    assert calls == [("treadle._pool.submit", "Submitter.submit")]


def until_busy(pool: Pool) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if pool.snapshot().busy and not pool.snapshot().waiting:
            return
        tick.wait(0.01)
    raise AssertionError(pool.snapshot())


def test_only_what_is_under_a_deadline_or_at_a_rate_is_governed() -> None:
    with Pool(1) as pool:
        assert type(pool.submit(int)) is Future
        assert type(pool.options(name="a").submit(int)) is Future
        assert isinstance(pool.options(rate=Rate(1000)).submit(int), ScopedTask)
        with treadle.deadline(PATIENCE):
            assert isinstance(pool.submit(int), ScopedTask)
            assert isinstance(pool.options(name="a").submit(int), ScopedTask)


def test_a_submit_that_is_interrupted_leaves_no_task_and_lets_the_lock_go() -> None:
    """Ctrl-C may raise between any two lines, here while the order takes the task."""
    pool = Pool(1)
    dispatcher = pool._task_dispatcher
    entrance, queue = dispatcher.entrance, dispatcher.queue
    put = queue.put
    ran: list[int] = []
    assert pool.submit(abs, -1).result(PATIENCE) == 1  # from now on a thread is idle

    def interrupted(task: Future[Any]) -> None:
        put(task)
        raise KeyboardInterrupt

    for door in (pool, pool.options(name="a")):
        entrance.put = queue.put = interrupted
        with pytest.raises(KeyboardInterrupt):
            door.submit(ran.append, 1)
        entrance.put = queue.put = put
        assert door.submit(abs, -1).result(PATIENCE) == 1
    pool.shutdown()
    assert ran == []


def test_a_view_waits_for_room_no_longer_than_it_says() -> None:
    gate = treadle.Channel[None](1)
    with Pool(1, queue_size=0) as pool:
        held = pool.submit(gate.get)
        while held._state != RUNNING:
            treadle.sleep(0.001)
        with pytest.raises(PoolFull, match="after waiting"):
            pool.options(block_timeout=0.01).submit(int)
        gate.put(None)


async def weave() -> None:
    """Never run."""


@pytest.mark.parametrize("view", [False, True])
def test_a_coroutine_function_is_refused_in_words_also_when_others_were_submitted_before(view: bool) -> None:
    with Pool(1) as pool:
        door: Submitter = pool.options() if view else pool
        for _ in range(3):
            with pytest.raises(TypeError, match=r"^fn=<function weave .*> is a coroutine function; fn must be"):
                door.submit(weave)
            assert door.submit(abs, -1).result(PATIENCE) == 1
            with pytest.raises(TypeError, match="fn=None is NoneType"):
                door.submit(None)  # type: ignore[arg-type]  # that is the point
            assert door.submit(lambda: 2).result(PATIENCE) == 2
        assert pool.snapshot().submitted == 6


def all_ways(pool: Pool, view: PoolView, fn: Any, *args: Any) -> list[Any]:
    """Return what `fn(*args)` returned, run in every way in which a task may be run."""
    with treadle.deadline(PATIENCE):
        governed = pool.submit(fn, *args)
    within = pool.submit(lambda: pool.submit(fn, *args).result(PATIENCE))  # in its own thread
    tasks = [
        pool.submit(fn, *args),
        view.submit(fn, *args),
        pool.options(rate=Rate(1000)).submit(fn, *args),
        governed,
        within,
    ]
    return [task.result(PATIENCE) for task in tasks]


@pytest.mark.parametrize("initializer", [None, lambda: contextvars.ContextVar[str]("lent").set("x")])
def test_where_nothing_is_set_each_task_sets_what_it_likes_for_itself_alone(initializer: Any) -> None:
    variable = contextvars.ContextVar("variable", default="none")

    def look_and_set() -> str:
        seen = variable.get()
        variable.set("a task's")
        return seen

    def program() -> None:
        with Pool(1, initializer=initializer) as pool:
            for _ in range(2):
                assert set(all_ways(pool, pool.options(), look_and_set)) == {"none"}
        assert variable.get() == "none"

    contextvars.Context().run(program)
    assert not EMPTY


def test_a_task_that_waits_holds_a_context_only_where_something_is_set() -> None:
    variable = contextvars.ContextVar[int]("variable")

    def program() -> None:
        gate = threading.Event()
        with Pool(1) as pool:
            pool.submit(gate.wait, PATIENCE)
            doors: list[Submitter] = [pool, pool.options()]
            assert all(door.submit(int)._context is EMPTY for door in doors)
            variable.set(1)
            assert all(door.submit(int)._context[variable] == 1 for door in doors)
            gate.set()

    contextvars.Context().run(program)


@pytest.mark.parametrize("count", range(5))
def test_a_function_is_called_with_as_many_arguments_as_were_given(count: int) -> None:
    def call(*args: object, **kwargs: object) -> Any:
        return args, kwargs

    args = tuple(range(count))
    with Pool(1) as pool:
        assert all(result == (args, {}) for result in all_ways(pool, pool.options(), call, *args))
        assert pool.submit(call, *args, a=1).result(PATIENCE) == (args, {"a": 1})
        assert list(pool.map(call, *([arg] for arg in args))) == ([(args, {})] if count else [])

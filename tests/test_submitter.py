"""Submitter: what a pool and its views have in common."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest

import treadle
from treadle import Future, Pool
from treadle.errors import PoolFull
from treadle.futures import RUNNING
from treadle.governed import Governed
from treadle.options import Options
from treadle.submitter import Submitter

PATIENCE = 30.0


def test_pools_and_views_submit_by_the_same_code() -> None:
    assert Pool.submit is Options.submit is Submitter.submit


@pytest.mark.parametrize("view", [False, True])
def test_a_task_has_the_options_of_what_it_was_submitted_to(view: bool) -> None:
    with Pool(1, order="priority") as pool:
        door: Submitter = pool.options(name="weft", priority=3) if view else pool
        task = door.submit(int)
        assert task._traits == (("weft", 3, None) if view else (None, 0, None))
        assert task.result(PATIENCE) == 0


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_a_task_sees_its_submitters_context_unless_the_pool_has_none(view: bool, context: bool) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    with Pool(1, context=context) as pool:
        door: Submitter = pool.options() if view else pool
        variable.set("here")
        assert door.submit(variable.get).result(PATIENCE) == ("here" if context else "none")


def test_only_what_is_under_a_deadline_or_at_a_rate_is_governed() -> None:
    with Pool(1) as pool:
        assert type(pool.submit(int)) is Future
        assert type(pool.options(name="a").submit(int)) is Future
        assert isinstance(pool.options(rate=1000).submit(int), Governed)
        with treadle.deadline(PATIENCE):
            assert isinstance(pool.submit(int), Governed)
            assert isinstance(pool.options(name="a").submit(int), Governed)


def test_a_submit_that_is_interrupted_leaves_no_task_and_lets_the_lock_go() -> None:
    """Ctrl-C may raise between any two lines, here while the order takes the task."""
    pool = Pool(1)
    dispatcher = pool._dispatcher
    put = dispatcher.put
    ran: list[int] = []

    def interrupted(task: Future[Any]) -> None:
        put(task)
        raise KeyboardInterrupt

    for door in (pool, pool.options(name="a")):
        dispatcher.put = interrupted
        with pytest.raises(KeyboardInterrupt):
            door.submit(ran.append, 1)
        dispatcher.put = put
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
            pool.options(timeout=0.01).submit(int)
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

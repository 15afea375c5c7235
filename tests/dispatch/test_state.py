"""State: what a pool takes, and what was claimed to be ended, and counted."""

from __future__ import annotations

import pytest

from treadle import Future
from treadle._base.locks import is_held, locked
from treadle._dispatch.idle import IdleTask
from treadle._dispatch.state import AT_EXIT, Claims, Counts, State
from treadle._tasks.future import PENDING, RUNNING
from treadle._tasks.owner import Unowned
from treadle.errors import PoolBroken, PoolClosed, PoolFull


@pytest.fixture
def state() -> State:
    return State("loom", ())


def counted(counts: Counts) -> dict[str, int]:
    """Return what is not zero."""
    return {name: getattr(counts, name) for name in Counts.__slots__ if getattr(counts, name)}


def test_a_state_is_open_sound_and_takes_its_lock_again(state: State) -> None:
    assert (state.closed, state.broken, state.order_failed, state.attention) == (None, None, None, False)
    assert not state.dropping
    assert not state.abandoned
    assert locked(state.lock, locked, state.lock, is_held, state.lock)
    assert not is_held(state.lock)


def test_each_who_asks_why_it_is_broken_has_an_error_of_its_own_with_one_cause(state: State) -> None:
    """Else the traceback of each would be that of all."""
    cause = ValueError("scripted")
    state.break_off("Odd.put", cause)
    first, second = state.why_broken(), state.why_broken()
    assert first is not second
    assert (first.pool, first.reason) == ("loom", "The order failed in Odd.put")
    assert first.__cause__ is second.__cause__ is cause


def test_the_first_failure_of_an_order_is_the_one_that_is_told(state: State) -> None:
    state.break_off("Odd.put", ValueError("first"))
    assert (state.order_failed, state.attention) == ("Odd.put", True)
    state.order_failed, state.attention = None, False  # as who has seen to it
    state.break_off("Odd.take", ValueError("second"))
    assert str(state.why_broken().__cause__) == "first"
    assert (state.order_failed, state.attention) == (None, False)


def test_an_order_that_fails_in_a_pool_that_is_broken_already_changes_nothing(state: State) -> None:
    state.broken = PoolBroken("loom", "A thread initializer failed")
    state.break_off("Odd.put", ValueError("scripted"))
    assert state.why_broken().reason == "A thread initializer failed"
    assert state.order_failed is None


@pytest.mark.parametrize(("after", "kind"), [("shutdown", PoolClosed), (AT_EXIT, RuntimeError)])
def test_why_it_is_closed_is_a_plain_error_where_python_exits(state: State, after: str, kind: type[Exception]) -> None:
    """For those who look for the standard library's."""
    state.closed = after
    error = state.why_closed()
    assert type(error) is kind
    assert after in str(error)
    assert state.why_closed() is not error


@pytest.mark.parametrize(
    ("why", "count"),
    [
        ("too_old", "shed"),
        ("discarded", "shed"),
        ("turned away", "rejected"),
        (PoolFull("scripted", "task", queue_size=0, waiting=0), "rejected"),
        ("closed", "cancelled"),
        ("broken", "cancelled"),
        (ValueError("scripted"), "cancelled"),
    ],
)
@pytest.mark.parametrize("before", [PENDING, RUNNING])
def test_what_is_claimed_runs_to_all_others_is_known_to_all_and_counted_once(
    state: State, why: str | float | BaseException, count: str, before: str
) -> None:
    """A task that waits, and one that whoever claims it has claimed already."""
    claims, task = state.claims(), Future[int]()
    task._state = before
    claims.add(task, why)
    assert task._state is RUNNING
    assert not task.cancel()
    assert claims.mine == [task]
    assert state.claimed == {task: why}
    assert counted(state.counts) == {count: 1}


def test_a_task_of_treadles_own_is_claimed_and_not_counted(state: State) -> None:
    claims, task = state.claims(), IdleTask(Unowned())
    claims.add(task, "closed")
    assert claims.mine == [task]
    assert counted(state.counts) == {}


def test_operations_do_not_have_each_others_claims_in_hand(state: State) -> None:
    first, second = state.claims(), state.claims()
    tasks = [Future[int]() for _ in range(3)]
    first.add(tasks[0], "closed")
    second.add(tasks[1], "closed")
    first.add(tasks[2], "closed")
    assert (first.mine, second.mine) == ([tasks[0], tasks[2]], [tasks[1]])
    assert list(state.claimed) == tasks
    assert isinstance(first, Claims)

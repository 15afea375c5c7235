"""Backlog: who waits for too long is told so when the next one comes, as the threads went lately."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from treadle.orders._levels import SLOWEST
from treadle.server._serving.calling.backlog import WEIGHT, Backlog


@dataclass(eq=False)
class Task:
    level: int = 0


def filled(backlog: Backlog[Task], count: int, *, level: int = 0, now: float = 0.0) -> list[Task]:
    tasks = [Task(level) for _ in range(count)]
    for task in tasks:
        assert backlog.enter(task, now) is None
    return tasks


def test_nobody_waits_in_an_empty_backlog() -> None:
    assert Backlog[Task](1.0).wait(1000.0) == 0.0


def test_while_none_is_begun_with_all_wait_as_long_as_the_first() -> None:
    backlog = Backlog[Task](10.0)
    filled(backlog, 1, now=5.0)
    filled(backlog, 1, now=7.0)
    assert backlog.wait(8.0) == 3.0


def test_the_oldest_is_told_when_one_comes_after_the_time_and_not_at_it() -> None:
    backlog = Backlog[Task](10.0)
    oldest, second = filled(backlog, 2, now=5.0)
    assert backlog.enter(Task(), 15.0) is None
    assert backlog.enter(Task(), 15.1) is oldest
    backlog.leave(oldest, None)
    assert backlog.enter(Task(), 15.2) is second


def test_who_comes_alone_may_be_the_one_that_is_told() -> None:
    """Where threads were slow lately, nobody who waits at all will have one in time."""
    backlog = Backlog[Task](1.0)
    at = 0.0
    for _ in range(20):
        (task,) = filled(backlog, 1, now=at)
        at += 1.0
        backlog.leave(task, at)
    backlog.timeout = 0.1
    late = Task()
    assert backlog.enter(late, at) is late


def test_mean_moves_by_its_weight_towards_the_time_between_two() -> None:
    backlog = Backlog[Task](1000.0)
    tasks = filled(backlog, 10)
    backlog.leave(tasks[0], 32.0)
    assert backlog.wait(32.0) == pytest.approx(10 * 32 * WEIGHT)
    backlog.leave(tasks[1], 48.0)
    mean = 32 * WEIGHT
    assert backlog.wait(48.0) == pytest.approx(9 * (mean + (16 - mean) * WEIGHT))


def test_wait_is_one_more_than_there_are_times_the_mean_or_the_time_since_one_was_begun_with() -> None:
    backlog = Backlog[Task](1000.0)
    tasks = filled(backlog, 5)
    backlog.leave(tasks[0], 8.0)
    assert backlog.wait(8.5) == pytest.approx(5 * 8 * WEIGHT)
    assert backlog.wait(28.0) == 20.0


def test_time_in_which_nobody_waited_counts_for_nothing() -> None:
    backlog = Backlog[Task](1000.0)
    (first,) = filled(backlog, 1)
    backlog.leave(first, 1.0)
    assert backlog.wait(100.0) == 0.0
    filled(backlog, 1, now=100.0)
    assert backlog.wait(100.0) == pytest.approx(2 * WEIGHT)
    assert backlog.wait(101.0) == 1.0


def test_who_gives_up_leaves_the_mean_as_it_is() -> None:
    backlog = Backlog[Task](1000.0)
    tasks = filled(backlog, 3)
    backlog.leave(tasks[1], None)
    assert backlog.wait(5.0) == 5.0
    backlog.leave(tasks[0], 6.4)
    assert backlog.wait(6.4) == pytest.approx(2 * 6.4 * WEIGHT)


def test_who_does_not_wait_can_leave_and_changes_nothing() -> None:
    backlog = Backlog[Task](1000.0)
    (task,) = filled(backlog, 1)
    backlog.leave(Task(), 50.0)
    assert backlog.wait(50.0) == 50.0
    backlog.leave(task, 64.0)
    backlog.leave(task, 6400.0)
    filled(backlog, 1, now=6400.0)
    assert backlog.wait(6400.0) == pytest.approx(2 * 64 * WEIGHT)


def test_levels_wait_each_for_their_own() -> None:
    backlog = Backlog[Task](10.0)
    (slow,) = filled(backlog, 1, level=SLOWEST)
    quick = filled(backlog, 1, level=0, now=9.0)
    assert backlog.enter(Task(0), 12.0) is None
    assert backlog.enter(Task(SLOWEST), 12.0) is slow
    backlog.leave(quick[0], 12.0)


def test_wait_is_told_of_the_level_of_which_most_wait() -> None:
    backlog = Backlog[Task](1000.0)
    filled(backlog, 1, level=2)
    filled(backlog, 2, level=1, now=3.0)
    assert backlog.wait(10.0) == 7.0


def test_task_whose_level_has_changed_meanwhile_leaves_the_one_that_it_entered() -> None:
    backlog = Backlog[Task](1000.0)
    (task,) = filled(backlog, 1, level=1)
    task.level = 0
    backlog.leave(task, 1.0)
    assert backlog.wait(100.0) == 0.0

"""Errors: whose they are, what they carry, what they say."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

import pytest

from treadle import errors


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"TreadleError"}))
def test_every_error_is_treadles_own_and_stands_in_the_tree(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.TreadleError)
    assert f"- {name}" in str(errors.__doc__)


def test_pool_full_says_name_limit_and_how_many_wait() -> None:
    error = errors.PoolFull("db", 10, 9, waited=0.5)
    assert (error.pool, error.queue_size, error.waiting) == ("db", 10, 9)
    assert all(word in str(error) for word in ("'db'", "queue_size=10", "9 tasks wait", "0.5 s"))


def test_a_closed_pool_is_a_runtime_error_in_the_standard_librarys_words() -> None:
    assert isinstance(errors.PoolClosed("db"), RuntimeError)
    assert str(errors.PoolClosed("db")).startswith("cannot schedule new futures after shutdown")


def test_a_broken_pool_is_a_broken_executor() -> None:
    assert isinstance(errors.PoolBroken("db"), BrokenExecutor)
    assert "'db'" in str(errors.PoolBroken("db"))


def test_a_lost_worker_names_thread_task_and_reason() -> None:
    error = errors.WorkerLost("db-1", "query", SystemExit(3))
    assert (error.worker, error.task) == ("db-1", "query")
    assert "SystemExit(3)" in str(error)


def test_a_deadlock_names_the_pools_and_what_was_waited_for() -> None:
    error = errors.PoolDeadlock(["a", "b"], ["query"])
    assert error.pools == ["a", "b"]
    assert all(word in str(error) for word in ("'a', 'b'", "query"))

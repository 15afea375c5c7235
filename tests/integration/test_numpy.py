"""numpy, which from version 2 on keeps what to do about floating-point errors in a context variable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest

from treadle import Channel, Future, Pool, deadline, wait
from treadle.errors import ChannelEmpty

np: Any = pytest.importorskip("numpy", minversion="2", reason="numpy 2 is not installed")

PATIENCE = 30.0


def divide(_: object = None) -> str:
    try:
        np.float64(1) / np.float64(0)
    except FloatingPointError:
        return "raised"
    return "passed"


@pytest.mark.parametrize("make", [ThreadPoolExecutor, Pool])
def test_tasks_see_what_the_initializer_set(make: Callable[..., Executor]) -> None:
    with make(2, initializer=lambda: np.seterr(all="raise")) as pool:
        assert pool.submit(divide).result(PATIENCE) == "raised"
        assert list(pool.map(divide, range(4))) == ["raised"] * 4


def test_what_the_submitter_set_goes_before_it() -> None:
    with Pool(1, initializer=lambda: np.seterr(all="raise")) as pool, np.errstate(all="ignore"):
        assert pool.submit(divide).result(PATIENCE) == "passed"


def test_what_submitter_or_task_set_goes_on_to_another_pool_though_it_is_as_the_initializer_set_it() -> None:
    def by_itself() -> str:
        np.seterr(all="raise")
        return other.submit(divide).result(PATIENCE)

    with (
        Pool(1, initializer=lambda: np.seterr(all="raise")) as pool,
        Pool(1, initializer=lambda: np.seterr(all="ignore")) as other,
    ):
        assert pool.submit(lambda: other.submit(divide).result(PATIENCE)).result(PATIENCE) == "passed"
        assert pool.submit(by_itself).result(PATIENCE) == "raised"
        with np.errstate(all="raise"):
            assert pool.submit(lambda: other.submit(divide).result(PATIENCE)).result(PATIENCE) == "raised"


def test_tasks_do_not_set_each_others() -> None:
    together = threading.Barrier(2, timeout=PATIENCE)

    def task(action: str) -> str:
        np.seterr(all=action)
        together.wait()
        return divide()

    with Pool(2) as pool, np.errstate(all="ignore"):
        assert list(pool.map(task, ["raise", "ignore"])) == ["raised", "passed"]
        assert divide() == "passed"


@pytest.mark.parametrize("kind", ["float64", "float32", "int64"])
def test_its_numbers_are_times(kind: str) -> None:
    soon = getattr(np, kind)(0)
    future: Future[int] = Future()
    with pytest.raises(TimeoutError):
        future.result(soon)
    with pytest.raises(ChannelEmpty):
        Channel[int]().get(soon)
    assert not wait([future], soon).done
    with Pool(1, idle_timeout=soon) as pool, deadline(getattr(np, kind)(PATIENCE)):
        assert pool.submit(abs, -1).result(getattr(np, kind)(PATIENCE)) == 1

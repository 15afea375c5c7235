"""Wrappers of other libraries that run a coroutine function, or make one: what they say of themselves decides."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from treadle import Pool
from treadle._base import checks

PATIENCE = 30.0


async def answer() -> int:
    return 42


def test_what_asgiref_makes_of_a_coroutine_function_blocks_and_the_reverse_does_not() -> None:
    sync: Any = pytest.importorskip("asgiref.sync", reason="asgiref is not installed")
    with Pool(1) as pool:
        assert pool.submit(sync.async_to_sync(answer)).result(PATIENCE) == 42
        with pytest.raises(TypeError, match="is a coroutine function"):
            pool.submit(sync.sync_to_async(abs), -1)


def test_a_proxy_of_wrapts_is_not_taken_for_what_it_looks_like() -> None:
    wrapt: Any = pytest.importorskip("wrapt", reason="wrapt is not installed")

    @wrapt.decorator  # type: ignore[untyped-decorator]  # it is Any
    def to_its_end(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return asyncio.run(wrapped(*args, **kwargs))

    class Loom:
        @to_its_end  # type: ignore[untyped-decorator]  # as above
        async def weave(self) -> int:
            return 7

    with Pool(1) as pool:
        assert pool.submit(to_its_end(answer)).result(PATIENCE) == 42
        assert pool.submit(Loom().weave).result(PATIENCE) == 7
    checks.blocking("f", to_its_end)

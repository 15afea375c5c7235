"""Names of calls, and what runs them."""

from __future__ import annotations

import contextvars
import types
from functools import partial

import pytest

from treadle._tasks.call import NoContext, name_of


class Callable:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, "len"),
        (Callable().method, "Callable.method"),
        (Callable(), "Callable"),
        (partial(len, "x"), "len"),
        (partial(Callable().method), "Callable.method"),
        (partial(partial(name_of)), "name_of"),
        (types.MethodType(Callable(), 1), "method"),
    ],
)
def test_a_call_is_named_after_what_it_calls(fn: object, name: str) -> None:
    assert name_of(fn) == name


def test_bare_runs_a_call_in_the_context_of_its_caller_and_is_its_own_copy() -> None:
    bare = NoContext()
    assert bare.run(divmod, 7, 2) == (3, 1)
    assert bare.copy() is bare


def test_a_call_in_a_context_is_called_what_it_calls() -> None:
    """As asyncio.to_thread makes it."""
    assert name_of(partial(contextvars.copy_context().run, abs, -1)) == "abs"
    assert name_of(partial(contextvars.copy_context().run)) != "abs"

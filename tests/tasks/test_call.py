"""Names of calls, what runs them, and exceptions that nobody asks for."""

from __future__ import annotations

import contextvars
import logging
import types
from functools import partial

import pytest

from treadle._tasks.call import NoContext, name_of
from treadle._tasks.unretrieved import Unretrieved


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


def test_an_exception_is_logged_once_when_its_future_vanishes_unasked(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unretrieved("work", ValueError("lost"))
    with caplog.at_level(logging.ERROR, "treadle"):
        del unseen
    (record,) = caplog.records
    assert "task work failed" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost"


def test_an_exception_that_was_asked_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unretrieved("work", ValueError("seen"))
    unseen.error = None
    del unseen
    assert not caplog.records


def test_a_call_in_a_context_is_called_what_it_calls() -> None:
    """As asyncio.to_thread makes it."""
    assert name_of(partial(contextvars.copy_context().run, abs, -1)) == "abs"
    assert name_of(partial(contextvars.copy_context().run)) != "abs"

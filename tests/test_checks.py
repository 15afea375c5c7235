"""Checks of arguments name the argument, the value and what is allowed."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from treadle import checks


async def answer() -> None:
    """Never run."""


async def answers() -> AsyncIterator[int]:
    """Never run."""
    yield 1


def numbers(message: bytes, peer: object) -> Iterator[bytes]:
    """Never run."""
    yield message


class Two:
    def __getitem__(self, index: int) -> int:
        if index > 1:
            raise IndexError
        return index


class Answer:
    async def __call__(self) -> None:
        """Never run."""


@pytest.mark.parametrize(
    ("check", "error", "words"),
    [
        (lambda: checks.integer("n", "x", least=1), TypeError, ("n='x'", "str", "integer")),
        (lambda: checks.integer("n", True, least=1), TypeError, ("n=True", "bool")),
        (lambda: checks.integer("n", 0, least=1), ValueError, ("n=0", "greater than 0")),
        (lambda: checks.integer("n", -1, least=0), ValueError, ("n=-1", "0 or more")),
        (lambda: checks.integer("n", 9, least=-5, most=5), ValueError, ("n=9", "-5 to 5")),
        (lambda: checks.integer("n", -9, least=-5, most=5), ValueError, ("n=-9", "-5 to 5")),
        (lambda: checks.number("x", "1", least=0), TypeError, ("x='1'", "a number, 0 or more")),
        (lambda: checks.number("x", True, least=0), TypeError, ("x=True",)),
        (lambda: checks.number("x", 0, more_than=0), ValueError, ("x=0", "a number of more than 0")),
        (lambda: checks.number("x", float("inf"), least=1), ValueError, ("x=inf", "1 or more")),
        (lambda: checks.integer_or_none("n", 2.0, least=1), TypeError, ("n=2.0", "n must be an integer or None")),
        (lambda: checks.integer_or_none("n", 0, least=1), ValueError, ("n=0", "n must be None or > 0")),
        (lambda: checks.seconds("t", "1"), TypeError, ("t='1'", "None for no limit")),
        (lambda: checks.seconds("t", -0.5), ValueError, ("t=-0.5", "0 seconds or more")),
        (lambda: checks.seconds("t", float("nan")), ValueError, ("t=nan",)),
        (lambda: checks.one_of("p", "x", ("a", "b")), ValueError, ("p='x'", "'a', 'b'")),
        (lambda: checks.one_of("p", 1, ("a",)), TypeError, ("p=1", "'a'")),
        (lambda: checks.boolean("b", 1), TypeError, ("b=1", "True or False")),
        (lambda: checks.duration("t", None), TypeError, ("t=None", "seconds as a number")),
        (lambda: checks.duration("t", -1), ValueError, ("t=-1", "0 seconds or more")),
        (lambda: checks.time_left("t", "1"), TypeError, ("t='1'", "seconds as a number, or None for no limit")),
        (lambda: checks.time_left("t", math.nan), ValueError, ("t=nan", "a number of seconds, or None for no limit")),
        (
            lambda: checks.several("l", 3, "things"),  # type: ignore[arg-type]  # that is the point
            TypeError,
            ("l=3 is int", "an iterable of things, as in [3]"),
        ),
        (lambda: checks.text("s", 1), TypeError, ("s=1", "string")),
        (lambda: checks.function("f", 1), TypeError, ("f=1", "callable")),
        (lambda: checks.blocking("f", 1), TypeError, ("f=1", "callable")),
        (lambda: checks.blocking("f", answer), TypeError, ("f=<function answer", "coroutine", "ordinary")),
        (lambda: checks.blocking("f", functools.partial(answer)), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", Answer()), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", answers), TypeError, ("f=<function answers", "async generator", "ordinary")),
        (lambda: handler(answer), TypeError, ("h=<function answer", "coroutine")),
        (lambda: handler(numbers), TypeError, ("h=<function numbers", "generator", "return instead of yield")),
        (lambda: handler(functools.partial(numbers, b"")), TypeError, ("generator",)),
        (lambda: handler(lambda conn: conn), TypeError, ("takes (conn)", "(message, peer)", "did you mean that?")),
        (lambda: handler(functools.partial(lambda a: a, 1)), TypeError, ("called with (message, peer)",)),
    ],
)
def test_a_bad_value_is_named(check: Callable[[], Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


def handler(value: Any) -> None:
    checks.handler("h", value, "message", "peer", instead="that")


def test_a_handler_is_refused_only_if_it_certainly_cannot_be_called_so() -> None:
    """What a decorator takes is not what it wraps takes, and some builtins do not say."""

    @functools.wraps(lambda message: message)
    def wrapper(*arguments: Any) -> Any:
        return arguments

    for value in (lambda message, peer: message, lambda *all: all, lambda a, b=1, *, c=2: a, wrapper, print, max, min):
        handler(value)
    assert checks.accepts(dict.fromkeys, "a")
    assert not checks.accepts(lambda: None, "a")


def test_good_values_pass() -> None:
    assert checks.integer("n", 3, least=3) == 3
    assert checks.integer_or_none("n", None, least=1) is None
    assert checks.integer_or_none("n", 1, least=1) == 1
    assert checks.seconds("t", None) is None
    assert checks.seconds("t", 0) == 0.0
    assert checks.time_left("t", None) is None
    assert [checks.time_left("t", value) for value in (2, 0, -1, -math.inf, math.inf)] == [2.0, 0.0, 0.0, 0.0, math.inf]
    assert checks.one_of("p", "a", ("a",)) == "a"
    assert checks.boolean("b", False) is False
    assert checks.text("s", "x") == "x"
    assert checks.duration("t", 3) == 3.0
    assert checks.several("l", iter("ab"), "things") == ("a", "b")
    assert checks.several("l", Two(), "things") == (0, 1)  # type: ignore[arg-type]  # it can be iterated over
    checks.function("f", len)
    checks.blocking("f", len)
    checks.blocking("f", functools.partial(int, "3"))

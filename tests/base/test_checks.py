"""Checks of arguments name the argument, the value and what is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import math
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from types import MethodType
from typing import Any
from unittest.mock import AsyncMock, MagicMock, create_autospec

import pytest

from treadle import Pool
from treadle._base import checks


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
            lambda: checks.several("l", 3, "a list, as in [9]"),  # type: ignore[arg-type]  # that is the point
            TypeError,
            ("l=3 is int; allowed: a list, as in [9]",),
        ),
        (lambda: checks.text("s", 1), TypeError, ("s=1", "string")),
        (lambda: checks.function("f", 1), TypeError, ("f=1", "callable")),
        (lambda: checks.blocking("f", 1), TypeError, ("f=1", "callable")),
        (lambda: checks.blocking("f", answer), TypeError, ("f=<function answer", "coroutine", "ordinary")),
        (lambda: checks.blocking("f", functools.partial(answer)), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", Answer()), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", functools.partial(Answer())), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", staticmethod(answer)), TypeError, ("coroutine",)),
        (lambda: checks.blocking("f", answers), TypeError, ("f=<function answers", "async generator", "ordinary")),
        (lambda: handler(answer), TypeError, ("h=<function answer", "coroutine")),
        (lambda: handler(numbers), TypeError, ("h=<function numbers", "generator", "return instead of yield")),
        (lambda: handler(functools.partial(numbers, b"")), TypeError, ("generator",)),
        (lambda: handler(functools.cache(numbers)), TypeError, ("generator",)),
        (lambda: handler(lambda conn: conn), TypeError, ("takes (conn)", "(message, peer)", "did you mean that?")),
        (lambda: handler(functools.partial(lambda a: a, 1)), TypeError, ("called with (message, peer)",)),
    ],
)
def test_a_bad_value_is_named(check: Callable[[], Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


def test_where_nothing_else_may_have_been_meant_nothing_is_suggested() -> None:
    with pytest.raises(TypeError, match=r"give it such arguments$"):
        checks.handler("h", lambda: None, "a")


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


def test_a_factory_is_refused_only_if_it_certainly_returns_no_context_manager() -> None:
    wrong: list[Any] = [answer, answers, numbers, lambda connection: connection, 3]
    for value in wrong:
        with pytest.raises(TypeError, match=r"^f=.*( a coroutine |async gen|contextlib|without arguments|callable)"):
            checks.factory("f", value)
    right: list[Any] = [object, functools.partial(open, "x"), lambda *_: None, contextlib.contextmanager(numbers)]
    for value in (*right, MagicMock()):
        checks.factory("f", value)


def test_good_values_pass() -> None:
    assert checks.integer("n", 3, least=3) == 3
    assert checks.integer_or_none("n", None, least=1) is None
    assert checks.integer_or_none("n", 1, least=1) == 1
    assert checks.seconds("t", None) is None
    assert checks.seconds("t", 0) == 0.0
    assert checks.time_left("t", None) is None
    assert [checks.time_left("t", value) for value in (2, 0.5, 0, -1, -math.inf)] == [2.0, 0.5, 0.0, 0.0, 0.0]
    assert [checks.time_left("t", value) for value in (True, False, Fraction(1, 2))] == [1.0, 0.0, 0.5]
    assert checks.seconds("t", Fraction(1, 2)) == checks.duration("t", Fraction(1, 2)) == 0.5
    assert checks.one_of("p", "a", ("a",)) == "a"
    assert checks.boolean("b", False) is False
    assert checks.text("s", "x") == "x"
    assert checks.duration("t", 3) == 3.0
    assert checks.several("l", iter("ab"), "things") == ("a", "b")
    assert checks.several("l", Two(), "things") == (0, 1)  # type: ignore[arg-type]  # it can be iterated over
    checks.function("f", len)
    checks.blocking("f", len)
    checks.blocking("f", functools.partial(int, "3"))
    checks.blocking("f", Answer)  # a call makes an Answer
    checks.blocking("f", Shy())
    checks.blocking("f", functools.partial(Shy()))


@pytest.mark.parametrize("value", [math.inf, 1e308, 10**400, Fraction(10**400), threading.TIMEOUT_MAX])
def test_more_seconds_than_can_be_waited_are_no_limit(value: Any) -> None:
    assert checks.time_left("t", value) is None
    assert checks.seconds("t", value) is None
    assert checks.time_left("t", -value) == 0.0
    with pytest.raises(ValueError, match="0 seconds or more"):
        checks.seconds("t", -value)


class Shy:
    """A proxy of something that is not there: whoever looks at it is told so."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: there is nothing")

    def __call__(self) -> int:
        return 5


class Loom:
    def weave(self) -> None:
        """Run by nobody."""

    async def rest(self) -> None:
        """Never run."""

    @functools.lru_cache  # noqa: B019  # nobody calls it
    async def thread(self) -> None:
        """Never run."""

    nap = functools.partialmethod(rest)
    doze = functools.partialmethod(functools.partial(answer))
    beam = functools.partialmethod(weave)


class Spindle:
    def __call__(self) -> Any:
        """Run by nobody."""


class Delegate:
    __call__ = Answer()


class Cached:
    @functools.lru_cache  # noqa: B019  # nobody calls it
    async def __call__(self) -> None:
        """Never run."""


class Static:
    @staticmethod
    async def __call__() -> None:
        """Never run."""


class Factory(type):
    async def __call__(cls) -> None:
        """Never run."""


class Made(metaclass=Factory):
    """A class whose objects are made by a coroutine."""


class Awaited:
    async def __new__(cls) -> Awaited:  # type: ignore[misc]  # that is the point
        """Never run."""
        return object.__new__(cls)


class Circle:
    """Calls itself, and so nothing."""

    __call__: Any


Circle.__call__ = Circle()  # type: ignore[method-assign]  # that is the point


class Running(functools.partial):  # type: ignore[type-arg]  # of whatever
    """Runs the coroutine that it makes."""

    def __call__(self, /, *args: Any, **keywords: Any) -> Any:
        return asyncio.run(super().__call__(*args, **keywords))


class RunningStatic(staticmethod):  # type: ignore[type-arg]  # of whatever
    """The same."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return asyncio.run(super().__call__(*args, **keywords))


class Proxy:
    """Looks like what it stands for, and runs it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    @property  # type: ignore[misc]  # the base's can be set
    def __class__(self) -> Any:
        return type(self.function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __call__(self) -> Any:
        return asyncio.run(self.function())


@types.coroutine
def old() -> Iterator[None]:
    """Never run."""
    yield


@types.coroutine
def maker() -> Any:
    """What it returns is an awaitable perhaps, and perhaps not."""


@functools.wraps(answer)
def runs() -> Any:
    return asyncio.run(answer())


@functools.wraps(Loom.nap)
def runs_a_method() -> None:
    """Run by nobody."""


class Slotted:
    __slots__ = ()

    def __call__(self) -> None:
        """Run by nobody."""


ASYNC: list[Any] = [
    answer, answers, old, Answer(), Answer().__call__, Delegate(), Cached(), Static(), staticmethod(answer), Awaited,
    Made, Loom().rest, Loom.rest, Loom().thread, Loom.thread, Loom().nap, Loom.nap, Loom().doze, Loom.doze,
    functools.lru_cache(answer), functools.cache(answers), functools.partial(functools.cache(answer)),
    functools.partial(Loom().rest), functools.partial(functools.partial(answer), 1), MethodType(answer, 1),
    AsyncMock(), AsyncMock(spec=answer), create_autospec(answer), MagicMock(spec=Loom).rest,
]  # fmt: skip
ORDINARY: list[Any] = [
    numbers, Shy(), Slotted(), abs, int, lambda: 1, Answer, Loom, Loom().weave, Loom.weave, Loom().beam, Loom.beam,
    functools.partial(Loom().weave), functools.cache(runs), runs, runs_a_method, maker, Running(answer),
    RunningStatic(answer), Proxy(answer), Circle(), MagicMock(), MagicMock(spec=Loom), create_autospec(runs),
]  # fmt: skip


@pytest.mark.parametrize("value", [None, 3, *ASYNC], ids=lambda value: type(value).__name__)
def test_what_cannot_be_called_from_a_thread_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        checks.blocking("f", value)


@pytest.mark.parametrize("before", [numbers, abs, None])
@pytest.mark.parametrize("value", [None, 3, *ASYNC], ids=lambda value: type(value).__name__)
def test_what_is_vetted_is_refused_too_whatever_was_vetted_before(value: Any, before: Any) -> None:
    vetted = checks.Vetted()
    for _ in range(3):
        if before is not None:
            vetted.check("f", before)
        with pytest.raises(TypeError):
            vetted.check("f", value)


def test_what_was_vetted_twice_is_known_again_as_long_as_it_lives() -> None:
    """A method is made anew each time it is asked for; what is known of it is its function."""
    vetted = checks.Vetted()
    shy = Shy()
    for value, known in (
        (numbers, None), (numbers, numbers), (Loom().weave, numbers), (Loom().weave, Loom.weave),
        (functools.partial(Loom().weave), Loom.weave), (functools.partial(runs), Loom.weave),
        (functools.partial(runs), runs), (shy, runs), (shy, shy),
    ):  # fmt: skip
        vetted.check("f", value)
        assert vetted.known() is known
    for _ in range(3):
        vetted.check("f", Slotted())  # there is no weak reference to one
    del shy, value, known
    gc.collect()
    assert vetted.known() is None


@pytest.mark.parametrize("value", ORDINARY, ids=lambda value: type(value).__name__)
def test_what_can_be_called_from_a_thread_is_not_refused(value: Any) -> None:
    """What a wrapper makes of what it wraps, nobody can tell: it may run it to its end."""
    checks.blocking("f", value)
    checks.callback("f", value)
    checks.Vetted().check("f", value)


def mark_of_asyncio(value: Any) -> Any:
    value._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # what asyncio looks for
    return value


MARKS = [mark_of_asyncio]
if hasattr(inspect, "markcoroutinefunction"):  # since Python 3.12
    MARKS.append(inspect.markcoroutinefunction)


@pytest.mark.parametrize("mark", MARKS)
def test_what_is_marked_as_a_coroutine_function_is_refused(mark: Callable[[Any], Any]) -> None:
    def plain() -> Any:
        return answer()

    vetted = checks.Vetted()
    vetted.check("f", plain)
    mark(plain)

    @functools.wraps(plain)
    def wrapper() -> Any:
        """Has a copy of the mark."""
        return asyncio.run(plain())

    for marked in (plain, mark(Spindle()), functools.partial(plain), functools.cache(plain)):
        with pytest.raises(TypeError, match="coroutine function"):
            checks.blocking("f", marked)
        with Pool(1) as pool, pytest.raises(TypeError, match="coroutine function"):
            pool.submit(marked)
    mark(Spindle)  # so its objects are
    with pytest.raises(TypeError, match="coroutine function"):
        checks.blocking("f", Spindle())
    for ordinary in (wrapper, functools.cache(wrapper), Spindle, Proxy(plain)):
        checks.blocking("f", ordinary)
        checks.callback("f", ordinary)
        vetted.check("f", ordinary)

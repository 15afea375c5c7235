"""Checks of arguments: each error names the argument, the value seen, and what is allowed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = [
    "accepts",
    "blocking",
    "boolean",
    "duration",
    "function",
    "handler",
    "integer",
    "integer_or_none",
    "number",
    "one_of",
    "seconds",
    "several",
    "text",
]

T = TypeVar("T")


def integer(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return `value` if it is an integer of at least `least`, and at most `most`.

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: an integer, {allowed}")
    number = int(value.__index__())
    if most is not None and not least <= number <= most:
        raise ValueError(f"{name}={value!r}: {name} must be {least} to {most}")
    if number < least:
        raise ValueError(f"{name}={value!r}: {name} must be {'greater than 0' if least == 1 else f'{least} or more'}")
    return number


def integer_or_none(name: str, value: object, *, least: int) -> int | None:
    """Return `value` if it is an integer of at least `least`, or None.

    Raises:
        TypeError, ValueError: it is not.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; {name} must be an integer or None")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name}={value!r}: {name} must be None or {'> 0' if least == 1 else f'>= {least}'}")
    return number


def number(name: str, value: object, *, least: float | None = None, more_than: float | None = None) -> float:
    """Return `value` if it is a finite number, of at least `least` or of more than `more_than`.

    Raises:
        TypeError, ValueError: it is not.
    """
    allowed = f"a number of more than {more_than:g}" if more_than is not None else f"a number, {least or 0:g} or more"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: {allowed}")
    enough = value > more_than if more_than is not None else value >= (least or 0)
    if not (enough and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}; allowed: {allowed}")
    return float(value)


def seconds(name: str, value: object, *, least: float = 0.0) -> float | None:
    """Return `value` if it is a number of seconds of at least `least`, or None.

    Raises:
        TypeError, ValueError: it is not.
    """
    return None if value is None else _at_least(name, value, least, ", or None for no limit")


def duration(name: str, value: object, *, least: float = 0.0) -> float:
    """Return `value` if it is a number of seconds of at least `least`, which None is not.

    Raises:
        TypeError, ValueError: it is not.
    """
    return _at_least(name, value, least, "")


def _at_least(name: str, value: object, least: float, none: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: seconds as a number{none}")
    if not value >= least:  # not a number is refused too
        raise ValueError(f"{name}={value!r}; allowed: {least:g} seconds or more{none}")
    return float(value)


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`.

    Raises:
        TypeError, ValueError: it is not.
    """
    allowed = tuple(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: {', '.join(map(repr, allowed))}")
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; allowed: {', '.join(map(repr, allowed))}")
    return value


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: True or False")
    return value


def several(name: str, value: Iterable[T], what: str) -> tuple[T, ...]:
    """Return what `value` holds, if it is an iterable.

    Raises:
        TypeError: it is not.
    """
    try:
        found = iter(value)  # isinstance knows nothing of objects that have __getitem__ alone
    except TypeError:
        allowed = f"an iterable of {what}, as in [{value!r}]"
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: {allowed}") from None
    return tuple(found)


def text(name: str, value: object) -> str:
    """Return `value` if it is a string.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; allowed: a string")
    return value


def function(name: str, value: object) -> None:
    """Check that `value` can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; {name} must be a callable")


def blocking(name: str, value: object) -> None:
    """Check that `value` can be called from a thread, which an `async def` cannot: it would return at once, unrun.

    Raises:
        TypeError: it cannot.
    """
    function(name, value)
    for kind, is_it in (
        ("a coroutine function", inspect.iscoroutinefunction),
        ("an async generator function", inspect.isasyncgenfunction),
    ):
        if is_it(value) or is_it(getattr(value, "__call__", None)):  # noqa: B004  # not whether, but what is called
            raise TypeError(f"{name}={value!r} is {kind}; {name} must be an ordinary one, which may block")


def accepts(function: Callable[..., object], *arguments: str) -> bool:
    """Tell whether `function` may be called with so many arguments; True where it does not say, as some builtins."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # a decorator may add arguments, or drop some
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def handler(name: str, value: Callable[..., object], *arguments: str, instead: str) -> None:
    """Check that `value` can be called from a thread with `arguments`, as far as can be told, and runs when it is.

    Args:
        name: of the argument.
        value: the function.
        arguments: the names of what it is called with.
        instead: what may have been meant, if the function does not take these.

    Raises:
        TypeError: it is async, a generator function, or takes other arguments.
    """
    blocking(name, value)
    if inspect.isgeneratorfunction(value) or inspect.isgeneratorfunction(getattr(value, "__call__", None)):  # noqa: B004  # as above
        raise TypeError(f"{name}={value!r} is a generator function, which a call does not run; return instead of yield")
    if not accepts(value, *arguments):
        raise TypeError(
            f"{name}={value!r} takes {inspect.signature(value, follow_wrapped=False)}, and is called with "
            f"({', '.join(arguments)}); give it such arguments, or did you mean {instead}?"
        )

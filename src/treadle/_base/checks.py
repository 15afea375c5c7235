"""Checks of arguments: each error names the argument, the value seen, and what is allowed."""

from __future__ import annotations

import math
import operator
import sys
from _thread import TIMEOUT_MAX
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial, partialmethod
from types import BuiltinFunctionType, FunctionType, MethodType, WrapperDescriptorType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from treadle._base.late import Late
from treadle._base.words import is_a, pass_on, show, type_name

if TYPE_CHECKING:
    import inspect
    import numbers
else:
    inspect, numbers = Late("inspect"), Late("numbers")

__all__ = [
    "Vetted",
    "accepts",
    "blocking",
    "boolean",
    "bounded",
    "callback",
    "duration",
    "factory",
    "function",
    "handler",
    "integer",
    "integer_or_none",
    "number",
    "one_of",
    "seconds",
    "several",
    "text",
    "time_left",
]

T = TypeVar("T")

ABSENT = object()

# Of a code object, as `inspect` has them; they are part of what the interpreter is.
CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
ASYNC = {  # a call of what has such a flag runs nothing yet
    CO_COROUTINE: "a coroutine function",
    CO_ITERABLE_COROUTINE: "a coroutine function",  # made of a generator function by types.coroutine
    CO_ASYNC_GENERATOR: "an async generator function",
}
ASYNC_FLAGS = sum(ASYNC)
# By their marks inspect.markcoroutinefunction, and asyncio before it came, say that a call returns a coroutine.
INSPECTS_MARK, ASYNCIOS_MARK = "_is_coroutine_marker", "_is_coroutine"
_MARKS = {INSPECTS_MARK: ("inspect", "_is_coroutine_mark"), ASYNCIOS_MARK: ("asyncio.coroutines", "_is_coroutine")}
# Where to find what is called by a call of these, unless a subclass has a `__call__` of its own.
INNER = {
    MethodType.__call__: "__func__",
    staticmethod.__call__: "__func__",
    partial.__call__: "func",
    type(lru_cache(len)).__call__: "__wrapped__",
    type.__call__: "__new__",
}
PARTIAL_METHOD = partialmethod(lambda: None).__get__(None, object).__code__  # of what a class gives in its place
MOST_LAYERS = 100  # of callables that call another; there are some that call themselves


def integer(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return `value` if it is an integer of at least `least`, and at most `most`.

    Raises:
        TypeError, ValueError: it is not.
    """
    number = _index(value)
    if number is None:
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: an integer, {allowed}")
    if most is not None and not least <= number <= most:
        raise ValueError(f"{name}={show(value)}: {name} must be {least} to {most}")
    if number < least:
        allowed = "greater than 0" if least == 1 else f"{least} or more"
        raise ValueError(f"{name}={show(value)}: {name} must be {allowed}")
    return number


def _index(value: object) -> int | None:
    """Return the integer that `value` is; None if it is none."""
    if type(value) is int:  # nothing is caught that a signal handler may raise here
        return value
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # or TypeError
    except Exception:
        return None


def _real(value: object) -> float | None:
    """Return the number that `value` is; None if it is none."""
    if type(value) is float:  # as above
        return value
    try:
        if type(value) is not int:  # noqa: SIM102  # as type checkers can follow it
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                return None
        try:
            return float(value)
        except OverflowError:  # an integer, or a fraction, that is too large for a float
            return -math.inf if value < 0 else math.inf
    except Exception:
        return None


def _text(value: object) -> str | None:
    """Return the string that `value` is, as a plain one; None if it is none."""
    if type(value) is str:  # as above
        return value
    try:
        if isinstance(value, str):
            return "".join(value)
    except Exception:  # it is taken for none
        pass
    return None


def integer_or_none(name: str, value: object, *, least: int) -> int | None:
    """Return `value` if it is an integer of at least `least`, or None.

    Raises:
        TypeError, ValueError: it is not.
    """
    if value is None:
        return None
    number = _index(value)
    if number is None:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; {name} must be an integer or None")
    if number < least:
        raise ValueError(f"{name}={show(value)}: {name} must be None or {'> 0' if least == 1 else f'>= {least}'}")
    return number


def number(name: str, value: object, *, least: float | None = None, more_than: float | None = None) -> float:
    """Return `value` if it is a finite number, of at least `least` or of more than `more_than`.

    Raises:
        TypeError, ValueError: it is not.
    """
    allowed = f"a number of more than {more_than:g}" if more_than is not None else f"a number, {least or 0:g} or more"
    number = _real(value)
    if number is None:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: {allowed}")
    enough = number > more_than if more_than is not None else number >= (least or 0)
    if not (enough and math.isfinite(number)):
        raise ValueError(f"{name}={show(value)}; allowed: {allowed}")
    return number


def seconds(name: str, value: object, *, least: float = 0.0) -> float | None:
    """Return `value` if it is a number of seconds of at least `least`, or None; None too for more than can be waited.

    Raises:
        TypeError, ValueError: it is not.
    """
    return None if value is None else bounded(_at_least(name, value, least, ", or None for no limit"))


def time_left(name: str, value: object) -> float | None:
    """Return `value`, as for the standard library's waits: 0 if negative, and what True is worth.

    Returns:
        Seconds; None for no limit, and for more than can be waited.

    Raises:
        TypeError, ValueError: it is no number of seconds, nor None.
    """
    if value is None or (type(value) is float and 0.0 <= value < TIMEOUT_MAX):
        return value
    seconds = int(value) if isinstance(value, bool) else value
    return bounded(max(0.0, _at_least(name, seconds, -math.inf, ", or None for no limit")))


def bounded(seconds: float) -> float | None:
    """Return `seconds`; None, for no limit, if no lock can be waited for so long: a hundred years, or infinity."""
    return seconds if seconds < TIMEOUT_MAX else None


def duration(name: str, value: object, *, least: float = 0.0) -> float:
    """Return `value` if it is a number of seconds of at least `least`, which None is not.

    Raises:
        TypeError, ValueError: it is not.
    """
    return _at_least(name, value, least, "")


def _at_least(name: str, value: object, least: float, none: str) -> float:
    number = _real(value)
    if number is None:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: seconds as a number{none}")
    if not number >= least:  # not a number is refused too
        enough = "a number of seconds" if least == -math.inf else f"{least:g} seconds or more"
        raise ValueError(f"{name}={show(value)}; allowed: {enough}{none}")
    return number


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`.

    Raises:
        TypeError, ValueError: it is not.
    """
    allowed = tuple(allowed)
    text = _text(value)
    if text is None:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: {', '.join(map(repr, allowed))}")
    if text not in allowed:
        raise ValueError(f"{name}={show(value)} is unknown; allowed: {', '.join(map(repr, allowed))}")
    return text


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        TypeError: it is not.
    """
    if not is_a(value, bool):
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: True or False")
    return value


def several(name: str, value: Iterable[T], allowed: str) -> tuple[T, ...]:
    """Return what `value` holds, if it is an iterable, of which `allowed` gives an example.

    Raises:
        TypeError: it is not.
    """
    try:
        found = iter(value)  # isinstance knows nothing of objects that have __getitem__ alone
    except TypeError:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: {allowed}") from None
    return tuple(found)


def text(name: str, value: object) -> str:
    """Return `value` if it is a string.

    Raises:
        TypeError: it is not.
    """
    text = _text(value)
    if text is None:
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; allowed: a string")
    return text


def function(name: str, value: object) -> None:
    """Check that `value` can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name}={show(value)} is {type_name(value)}; {name} must be a callable")


def blocking(name: str, value: object) -> None:
    """Check that `value` can be called from a thread, which an `async def` cannot: it would return at once, unrun.

    What only a call can tell passes: what a wrapper makes of that which it wraps, and what a function returns.

    Raises:
        TypeError: it cannot.
    """
    function(name, value)
    flags = _flags_of(value)
    for flag, kind in ASYNC.items():
        if flags & flag:
            raise TypeError(f"{name}={show(value)} is {kind}; {name} must be an ordinary one, which may block")


def _flags_of(value: Any) -> int:
    """Return the flags of the code that a call of `value` runs, as far as they show before the call."""
    try:
        for _ in range(MOST_LAYERS):
            call = type(value).__call__  # of the type that it has, whatever it says: a proxy has a call of its own
            built_in = type(call) is WrapperDescriptorType
            if built_in and call in INNER:
                value = getattr(value, INNER[call])
            elif _is_marked(value):
                return CO_COROUTINE
            elif type(value) is FunctionType:
                if value.__code__ is not PARTIAL_METHOD:
                    return value.__code__.co_flags
                held = value.__dict__
                value = (held.get("__partialmethod__") or held["_partialmethod"]).func  # the latter until Python 3.12
            elif built_in:
                break
            else:
                value = call
    except BaseException as error:
        pass_on(error)
    return 0


def _is_marked(value: object) -> bool:
    """Whether `value` is marked as a coroutine function; itself, and not by `functools.wraps` as what it wraps is."""
    for name, (module, its_name) in _MARKS.items():
        found = getattr(value, name, None)
        if found is None or module not in sys.modules:  # nobody can have marked anything
            continue
        mark = getattr(sys.modules[module], its_name, ABSENT)
        if found is mark and not issubclass(type(value), type):  # there its objects are meant
            own = object.__getattribute__  # a proxy shows the marks of another
            wrapped = own(value, "__wrapped__") if hasattr(value, "__wrapped__") else None
            return own(value, name) is mark and getattr(wrapped, name, None) is not mark
    return False


def factory(name: str, value: Callable[..., object]) -> None:
    """Check that `value` can be called from a thread, without arguments, for a context manager, as far as can be told.

    Raises:
        TypeError: it cannot.
    """
    blocking(name, value)
    if _flags_of(value) & CO_GENERATOR:
        what = "is a generator function, which returns no context manager; decorate it with contextlib.contextmanager"
        raise TypeError(f"{name}={show(value)} {what}")
    if not accepts(value):
        takes = inspect.signature(value, follow_wrapped=False)
        raise TypeError(
            f"{name}={show(value)} takes {takes}, and is called without arguments; give it those with functools.partial"
        )


def callback(name: str, value: object) -> None:
    """Check as `blocking` does, most callables in a fraction of the time.

    Raises:
        TypeError: it cannot be called from a thread.
    """
    if not _is_plain(value):
        blocking(name, value)


def _is_plain(value: Any) -> bool:
    """Whether a glance is enough to see that a call of `value` runs something."""
    kind = type(value)
    if kind is FunctionType:  # nearly always
        code = value.__code__
        return not (
            code.co_flags & ASYNC_FLAGS
            or code is PARTIAL_METHOD
            or getattr(value, INSPECTS_MARK, None)
            or getattr(value, ASYNCIOS_MARK, None)
        )
    return kind is BuiltinFunctionType or (kind is type and type(value.__new__) is BuiltinFunctionType)


class Vetted:
    """What was found to be callable from a thread, for whoever is given the same again and again.

    Races between threads cost nothing but another look.
    """

    __slots__ = ("known", "seen")

    def __init__(self) -> None:
        self.known: Callable[[], object] = _nobody  # a weak reference to what came twice in a row
        self.seen = 0  # the identity of what came last; to make a reference to each costs more than to look at it

    def check(self, name: str, value: object) -> None:
        """Check as `blocking` does, most callables in a fraction of the time.

        Raises:
            TypeError: it cannot be called from a thread.
        """
        inner: Any = value
        kind = type(inner)
        if kind is partial or kind is MethodType:  # made anew each time, mostly; what lasts is the function
            if kind is partial:
                inner = inner.func
            if type(inner) is MethodType:
                inner = inner.__func__
            if self.known() is inner is not None:
                return
        if not _is_plain(inner):
            blocking(name, value)
        if id(inner) == self.seen:
            with suppress(TypeError):  # of it there are no weak references
                self.known = ref(inner)
        self.seen = id(inner)


def _nobody() -> None:
    """Be a reference to what is gone."""


def accepts(function: Callable[..., object], *arguments: str) -> bool:
    """Tell whether `function` may be called with so many arguments; True where it does not say, as some builtins."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # a decorator may add arguments, or drop some
    except Exception:
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def handler(
    name: str, value: Callable[..., object], *arguments: str, instead: str = "", generates: bool = False
) -> None:
    """Check that `value` can be called from a thread with `arguments`, as far as can be told, and runs when it is.

    Args:
        name: of the argument.
        value: the function.
        arguments: the names of what it is called with.
        instead: what may have been meant, if the function does not take these; "": nothing.
        generates: whether it may be a generator function, for whoever calls it takes what that gives.

    Raises:
        TypeError: it is async, a generator function that it may not be, or takes other arguments.
    """
    blocking(name, value)
    if _flags_of(value) & CO_GENERATOR and not generates:
        what = "is a generator function, which a call does not run; return instead of yield"
        raise TypeError(f"{name}={show(value)} {what}")
    if not accepts(value, *arguments):
        raise TypeError(
            f"{name}={show(value)} takes {inspect.signature(value, follow_wrapped=False)}, and is called with "
            f"({', '.join(arguments)}); give it such arguments{f', or did you mean {instead}?' if instead else ''}"
        )

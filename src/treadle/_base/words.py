"""Words: how objects of the user's are named and shown, and what happens is logged, whatever they raise.

A callable, an exception, a key, an observer, a log handler may raise anything when it is asked for an attribute, shown
or compared: proxies outside of their context, frozen dataclasses, mocks, objects that are half made. What treadle says
of them is never worth a thread, a future, or the error that was to be told.
"""

from __future__ import annotations

import logging
import reprlib
import traceback
from threading import get_ident, main_thread
from types import TracebackType
from typing import TypeGuard, TypeVar

__all__ = [
    "LONGEST_NAME",
    "all_of",
    "brief",
    "counted",
    "cut",
    "is_a",
    "log",
    "log_first",
    "note",
    "pass_on",
    "show",
    "traceback_of",
    "type_name",
]

T = TypeVar("T")

LONGEST_NAME = 200  # characters of a name, and
LONGEST = 2000  # of what is shown; guesses: more than anybody reads
BRIEF = 80  # characters of what is shown in passing; a guess: a line
MOST_NOTES = 8  # of treadle's own in one exception; a guess: maps are seldom nested as deep
OURS = ("in item ", "in task ", "in stage ")  # how they begin

_repr = reprlib.Repr()  # which does not look at all of a large collection, or text
_repr.maxstring = _repr.maxother = _repr.maxlong = BRIEF

_name_of_class = type.__dict__["__name__"].__get__  # not to be overridden, as in a metaclass
_traceback_of = BaseException.__dict__["__traceback__"].__get__  # nor in a class of exceptions


def type_name(value: object) -> str:
    """Return the name of the type of `value`."""
    return cut(_name_of_class(type(value)), LONGEST_NAME)


def show(value: object) -> str:
    """Return `repr(value)`; if that raises, or returns no text, say so with the type's name."""
    try:
        return cut(repr(value), LONGEST)
    except BaseException as error:
        pass_on(error)
        return f"<{type_name(value)}, whose repr raised {type_name(error)}>"


def brief(value: object) -> str:
    """As `show`, on one line, and no longer than that; of what is long or large, a part."""
    try:
        return cut(" ".join(_repr.repr(value).split()), BRIEF)
    except BaseException as error:
        pass_on(error)
        return show(value)


def counted(number: int, one: str, many: str = "") -> str:
    """Return `number` and what there are so many of: `one`, or `many`, which is `one` and an s if it is not given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def all_of(number: int, one: str) -> str:
    """Return that all there are of something do what follows: of one, that `the only one` does."""
    return f"the only {one} is" if number == 1 else f"all {number} {one}s are"


def note(error: BaseException, text: str) -> None:
    """Add a note to `error` (PEP 678), unless its class forbids that; `text` begins as OURS do.

    The same exception may be raised again and again: beyond MOST_NOTES, a note takes the place of the last.
    """
    try:
        notes = getattr(error, "__notes__", [])
        ours = [place for place, told in enumerate(notes) if told.startswith(OURS)]
        if len(ours) < MOST_NOTES:
            BaseException.add_note(error, text)
        else:
            notes[ours[-1]] = text
    except BaseException as raised:
        pass_on(raised)


def is_a(value: object, kind: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """As `isinstance`; False for what raises when it is asked for its class."""
    if type(value) is kind:  # which asks nothing of it: nor is what a signal handler raises here taken for its answer
        return True
    try:
        return isinstance(value, kind)
    except Exception:
        return False


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error`, whatever its class has made of that attribute."""
    found: TracebackType | None = _traceback_of(error)
    return found


def log(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    error: BaseException | None = None,
    stacklevel: int = 2,
) -> None:
    """Log `message % args`, with the traceback of `error`; what handlers, filters and formatters raise is dropped.

    The arguments must be plain, such as what the other functions here return.
    """
    try:
        if not logger.isEnabledFor(level):
            return
        if error is None:
            logger.log(level, message, *args, stacklevel=stacklevel)
            return
        what = (type(error), error, traceback_of(error))
        if _can_be_told(what):
            logger.log(level, message, *args, exc_info=what, stacklevel=stacklevel)
        else:
            where = "".join(traceback.format_tb(traceback_of(error)))
            message = f"{message}: %s, which cannot be shown, raised here:\n%s"
            logger.log(level, message, *args, type_name(error), where, stacklevel=stacklevel)
    except BaseException as raised:
        pass_on(raised)


def log_first(
    told: dict[object, object],
    key: object,
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """As `log`, of what any number of tasks may bring about: the first at `level`, and all others at DEBUG.

    Args:
        told: where the keys are kept of what was logged, a pool's.
        key: what it is that happens again, a hashable value of treadle's own.
    """
    mine = object()
    first = told.setdefault(key, mine) is mine  # one step, whatever other threads do
    log(logger, level if first else logging.DEBUG, message, *args, error=error, stacklevel=3)


def _can_be_told(what: tuple[type[BaseException], BaseException, TracebackType | None]) -> bool:
    """Whether the traceback module copes with an exception, its notes, and those that led to it."""
    try:
        traceback.format_exception(*what)
    except BaseException as raised:
        pass_on(raised)
        return False
    return True


def pass_on(error: BaseException) -> None:
    """Raise Ctrl-C in the main thread, the only one it comes to: it is the program's. Drop all else."""
    if issubclass(type(error), KeyboardInterrupt) and get_ident() == main_thread().ident:
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: no cycle


def cut(text: str, longest: int) -> str:
    """Return `text`, as a plain string, and no more of it than `longest` characters."""
    text = str.__str__(text)  # a subclass may override all that follows
    return text if len(text) <= longest else f"{text[:longest]}..."

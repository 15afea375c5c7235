"""Contexts: which values of context variables a task sees, and which of them are its own.

A task runs in a copy of its submitter's context, and sees what was set there; where nothing was, it sees what the
pool's `initializer` has set in its thread. Such a copy holds the same objects. So the values that the standard library
changes in place, decimal's context above all, are copied too, or a task would set its submitter's and its neighbours'.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, TypeVar

from treadle._tasks.call import NoContext

__all__ = ["EMPTY", "Lent", "copier", "detached", "taken"]

T = TypeVar("T")


class Kind:
    """What the standard library keeps in one of its variables and changes in place."""

    __slots__ = ("settings", "unset")

    def __init__(self, unset: Any, settings: Callable[[Any], Any]) -> None:
        self.unset = unset  # what holds where nobody has set anything; never changed through the variable
        self.settings = settings  # of a value, to be compared

    def is_set(self, value: Any) -> bool:
        """Whether somebody has set `value`: to use a Decimal, say, is enough to have one that equals the default."""
        return value is not self.unset and not self.same(value, self.unset)

    def same(self, one: Any, other: Any) -> bool:
        """Whether two values make no difference."""
        return bool(self.settings(one) == self.settings(other))


def _settings_of_decimal(context: Any) -> tuple[Any, ...]:
    *settings, _, traps = context.__reduce__()[1]  # the one before the traps: flags, which report and set nothing
    return (*settings, traps)


def _find_warnings() -> dict[ContextVar[Any], Kind]:
    """Return the variable with the filters of `catch_warnings`, where it has one."""
    if not getattr(sys.flags, "context_aware_warnings", False):  # from Python 3.14 on; the default without the GIL
        return {}

    def enter_and_leave() -> None:
        with warnings.catch_warnings():
            pass

    context = Context()
    context.run(enter_and_leave)
    return {variable: Kind(unset, vars) for variable, unset in context.items()}


_modules = sys.modules
_kinds = _find_warnings()  # bound anew, never changed: other threads may be iterating
_decimal_found = False


def _find_decimal() -> None:
    """Find the variable of decimal, which has no public name, once its import is complete."""
    global _kinds, _decimal_found
    decimal: Any = _modules["decimal"]
    if not hasattr(decimal, "getcontext") or not hasattr(decimal, "DefaultContext"):
        return
    context = Context()
    context.run(decimal.getcontext)
    _kinds = _kinds | dict.fromkeys(context, Kind(decimal.DefaultContext, _settings_of_decimal))
    _decimal_found = True


EMPTY = Context()
"""What a task has whose submitter has set nothing; it stands for one that is made when the task runs. Never run in."""

# -- what a task gets of its submitter ----------------------------------------------------------------------------


def taken() -> Context:
    """Return a copy of the caller's context, for a task: see `detached`."""
    context = copy_context()
    return detached(context) if context else context


def detached(context: Context) -> Context:
    """Return what a task is to run in that was submitted in a context of which `context` is a fresh copy.

    It holds copies of the values that are changed in place, as they are now; and not what was lent to the submitter,
    who has set nothing of it.
    """
    if "decimal" in _modules and not _decimal_found:  # it is imported for nobody
        _find_decimal()
    if LENT in context:
        context = context[LENT].out_of(context)
    if _kinds:
        for variable, kind in _kinds.items():
            value = context.get(variable, kind.unset)
            if value is not kind.unset:
                context.run(variable.set, value.copy())
    return context


def copier(context: Context | NoContext, lent: Lent | None = None) -> Callable[[], Context | NoContext]:
    """Return what makes copies of `context`, each with values of its own; and, if this thread lends some, with those.

    `context` is one that `taken` returned, and that nobody has run in.
    """
    if isinstance(context, NoContext):
        return context.copy
    model = context if lent is None else lent.to(context.copy())
    parts = [(var.set, model[var].copy) for var, kind in _kinds.items() if model.get(var, kind.unset) is not kind.unset]
    if not parts:
        return model.copy

    loan = model.get(LENT)
    if loan is not None and loan.given.keys().isdisjoint(_kinds):
        loan = None  # its objects are the same in every copy

    def copy() -> Context:
        context = model.copy()
        for put, value in parts:
            context.run(put, value())
        if loan is not None:
            context.run(loan.renew)
        return context

    return copy


# -- and of its thread --------------------------------------------------------------------------------------------


class Lent:
    """What an initializer has set in the context of its thread, and tasks see there unless their submitter set it.

    It stays the thread's: a task that submits another does not pass it on, for that may run in another thread, which
    has values of its own, or in another pool.
    """

    __slots__ = ("_values", "_whole")

    def __init__(self, values: dict[ContextVar[Any], Any]) -> None:
        self._values = values
        # The loan of all of them, if they are lent as they are.
        self._whole = None if any(variable in _kinds for variable in values) else Loan(values, values)

    @classmethod
    def by_this_thread(cls) -> Lent | None:
        """Return what is set in the caller's context, from now on on loan; None if nothing is."""
        context = taken()
        values = {var: value for var, value in context.items() if var not in _kinds or _kinds[var].is_set(value)}
        if not values:
            return None
        LENT.set(Loan(values, {variable: variable.get() for variable in values}))
        return cls(values)

    def to(self, context: Context) -> Context:
        """Return `context`, in which nobody runs, or one like it, with what its submitter has not set."""
        if context is EMPTY:
            context = Context()
        other = context.get(LENT)
        if other is not None:  # of a thread in which it was about to run, and had to wait
            context = other.out_of(context)
        context.run(self._fill, context)
        return context

    def run(self, context: Context, fn: Callable[..., T], *args: Any) -> T:
        """Return `fn(*args)`, called in a context that outlives the call and may come to another thread after it."""
        tokens = context.run(self._fill, context)
        try:
            return context.run(fn, *args)
        finally:
            context.run(self._take_back, tokens)

    def _fill(self, context: Context) -> list[Token[Any]]:
        """Set, in `context`, what its submitter has not set."""
        tokens: list[Token[Any]] = []
        for variable, value in self._values.items():
            kind = _kinds.get(variable)
            if variable not in context or (kind is not None and not kind.is_set(context[variable])):
                tokens.append(variable.set(value if kind is None else value.copy()))
        loan = self._whole if len(tokens) == len(self._values) else None
        if loan is None:
            loan = Loan(self._values, {token.var: token.var.get() for token in tokens})
        tokens.append(LENT.set(loan))
        return tokens

    def _take_back(self, tokens: list[Token[Any]]) -> None:
        """Unset what was set, unless it has been changed since."""
        loan = LENT.get()
        for token in tokens:
            if token.var is LENT or loan.has(token.var, token.var.get()):
                token.var.reset(token)


class Loan:
    """What was lent to one context: not what its submitter has set, though it be the same.

    What runs there has set a variable itself where the value is another object, or one that was changed in place. To
    set the very object that was lent leaves a context as it is, down to its bits: so that cannot be told, and whoever
    sets None where None was lent has set nothing.
    """

    __slots__ = ("given", "values")

    def __init__(self, values: dict[ContextVar[Any], Any], given: dict[ContextVar[Any], Any]) -> None:
        self.values = values  # as they were
        self.given = given  # the objects that stand there for them: copies, of what is changed in place

    def has(self, variable: ContextVar[Any], value: Any) -> bool:
        """Whether `value` was lent, and is as it was."""
        if variable not in self.given or value is not self.given[variable]:
            return False
        kind = _kinds.get(variable)
        return kind is None or kind.same(value, self.values[variable])

    def out_of(self, context: Context) -> Context:
        """Return a context like `context` without what was lent to it, and is as it was."""
        rest = Context()  # a variable cannot be taken out of a copy
        for variable, value in context.items():
            if variable is not LENT and not self.has(variable, value):
                rest.run(variable.set, value)
        return rest

    def renew(self) -> None:
        """Lend the same to the caller's context, a copy of the one it was lent to, with values of its own."""
        LENT.set(Loan(self.values, {variable: variable.get() for variable in self.given}))


LENT: ContextVar[Loan] = ContextVar("treadle.lent")
"""What was lent to the context that has it."""

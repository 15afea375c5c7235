"""Fork: what is done before and after a process forks, in one table.

A child has one thread, and a copy of every lock as it was: those that other threads held stay taken for ever. So all
are taken before a fork, in the order of the table, which is that in which any thread takes them; and are let go after
it in the reverse order. What may call, or let go of, what is the user's, such as destructors, is done after that.
"""

from __future__ import annotations

import logging  # noqa: F401  # so its own step is the later one before a fork, and it holds no lock while these wait
import os
from collections.abc import Callable
from typing import Literal, get_args

__all__ = ["Place", "at_fork", "at_last"]

Place = Literal[
    "imports",  # of modules that few programs use
    "groups",  # of every task group
    "pools",  # which pools there are, who waits for whom, each pool, the rates: see `treadle._dispatch.lifecycle`
    "scopes",  # deadlines and cancellation
    "timers",
    "callbacks",
    "logs",  # of requests
]


Step = Callable[[], object]

_table: dict[Place, tuple[Step, Step, Step]] = {}
_last: list[Step] = []


def at_fork(place: Place, before: Step, in_parent: Step, in_child: Step) -> None:
    """Have `before` called before each fork, and one of the others after it, in its place; it must not raise."""
    _table[place] = before, in_parent, in_child


def at_last(step: Step) -> None:
    """Have `step` called once no lock is held any more; it must not raise. For the steps after a fork, in a place."""
    _last.append(step)


def _before() -> None:
    for place in get_args(Place):
        if place in _table:
            _table[place][0]()


def _in_parent() -> None:
    for place in reversed(get_args(Place)):
        if place in _table:
            _table[place][1]()
    _do_the_rest()


def _in_child() -> None:
    for place in reversed(get_args(Place)):
        if place in _table:
            _table[place][2]()
    _do_the_rest()


def _do_the_rest() -> None:
    if _last:
        step = _last[0]
        del _last[0]  # first, for it may fork
        try:
            step()
        finally:  # Ctrl-C may come
            _do_the_rest()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

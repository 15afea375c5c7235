"""TaskOptions: what `Pool.options` gives a task."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple
from weakref import ref

__all__ = ["PLAIN", "KeySlot", "TaskOptions", "slot_of"]


class KeySlot:
    """What stands for a key, and all that equal it, where a pool's lock is held: its hash and equality are object's.

    Those of a key are the user's, and may do anything; so they are called when the key is given, and never again.
    """

    __slots__ = ("__weakref__", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key


class _Entry:
    """A key as the table of slots has it: its hash is asked for once, so that one that fails later harms nobody.

    One that nobody has any more is asked for nothing, and equals none; nor does one that cannot be compared, for the
    other one may be of another pool.
    """

    __slots__ = ("hash", "key", "slot")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.hash = hash(key)
        self.slot: ref[KeySlot] | None = None

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Entry) or self.is_gone() or other.is_gone():
            return False
        try:
            return self.key is other.key or bool(self.key == other.key)
        except Exception:
            return False

    def is_gone(self) -> bool:
        """Return whether nobody has its slot any more."""
        return self.slot is None or self.slot() is None


class _SlotRef(ref[KeySlot]):
    """A reference to a slot, that knows where it is in the table."""

    __slots__ = ("entry",)
    entry: _Entry


_slots: dict[_Entry, _SlotRef] = {}
_gone: deque[_SlotRef] = deque()  # of slots that nobody has any more; appending and popping are atomic

_NONE = KeySlot(None)


def slot_of(key: Hashable) -> KeySlot:
    """Return the slot of `key`, and of every key that equals it.

    Raises:
        TypeError: it cannot be hashed; or whatever else its `__hash__` raises.
    """
    if key is None:
        return _NONE
    while _gone:
        try:
            dead = _gone.popleft()
        except IndexError:  # another thread was faster
            break
        if dead.entry.slot is dead:
            _slots.pop(dead.entry, None)  # it is found by what it is, for it equals none
            dead.entry.slot = None  # no cycle
    entry = _Entry(key)
    while True:
        slot = KeySlot(key)
        reference = entry.slot = _SlotRef(slot, _gone.append)
        reference.entry = entry
        living = _slots.setdefault(entry, reference)()
        if living is not None:  # else it has just gone, and is not found again
            return living


class _Fields(NamedTuple):
    name: str | None
    priority: int
    key: Hashable
    slot: KeySlot


class TaskOptions(_Fields):
    """What orders, logs and snapshots want to know of a task; one for all tasks of a view."""

    __slots__ = ()

    def __new__(cls, name: str | None = None, priority: int = 0, key: Hashable = None) -> TaskOptions:
        """Return those of a task of that name, priority and key; raise as `slot_of`."""
        return super().__new__(cls, name, priority, key, slot_of(key))

    def copy(self) -> TaskOptions:
        """Return the same as another object, by which the tasks of another view are found."""
        return super().__new__(type(self), *self)

    def named(self, name: str) -> TaskOptions:
        """Return the same with another name, for a task of the same view."""
        named = Named(name, self.priority, self.key)
        named.original = self
        return named

    def belong_to(self, options: TaskOptions) -> bool:
        """Whether a task that has these is of the view whose tasks have `options`."""
        return self is options


class Named(TaskOptions):
    """Those of one task, beside others that have the original."""

    original: TaskOptions

    def belong_to(self, options: TaskOptions) -> bool:
        """As those that it was made of."""
        return self.original.belong_to(options)


PLAIN = TaskOptions()

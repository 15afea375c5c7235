"""Door: the way in through one view of a pool, which may be shut while the pool is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle._base import checks
from treadle._tasks.scope import HERE
from treadle.errors import PoolClosed

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["Door", "Shut"]


class Door:
    """Whether a view takes more, and what becomes of what it took. Both only ever become true, so no lock is needed."""

    __slots__ = ("_dispatcher", "_shut", "cancelled")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._shut = False
        self.cancelled = False  # what had not begun; asked for each item of a map

    def shut(self, *, cancel: bool) -> None:
        """Take no more; and drop what has not begun, if `cancel`."""
        self._shut = True
        self.cancelled = self.cancelled or cancel

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken, here or by the pool."""
        return self._shut or self._dispatcher.closed is not None

    @property
    def dropping(self) -> bool:
        """Whether it is closed, and what had not begun was cancelled."""
        return self.cancelled or self._dispatcher.dropping

    def refusal(self) -> PoolClosed:
        """Return the error that says nothing more is taken."""
        dispatcher = self._dispatcher
        if dispatcher.closed is not None:
            return PoolClosed(dispatcher.name, dispatcher.closed)
        return PoolClosed(dispatcher.name, view=True)

    def check_open(self) -> None:
        """Raise if the view is shut. What belongs to a map that was accepted before is let in, as by the pool."""
        if self._shut and self not in HERE.reading:
            raise self.refusal()


class Shut(checks.Vetted):
    """What a view that is shut has in the place of what it has vetted: so that to ask costs nothing before."""

    __slots__ = ("_door",)

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door

    def check(self, name: str, value: object) -> None:
        """Raise PoolClosed; or check as `blocking` does, and remember nothing."""
        self._door.check_open()
        checks.callback(name, value)

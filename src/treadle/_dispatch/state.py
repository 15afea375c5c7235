"""State: what the parts of a pool share: its lock, whether it takes tasks, what was counted, what was claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from treadle._base.locks import new_lock
from treadle._tasks.future import PENDING, RUNNING, Future, InternalTask
from treadle.errors import PoolBroken, PoolClosed, PoolFull

if TYPE_CHECKING:
    from treadle.events import Observer

__all__ = ["AT_EXIT", "INLINE", "REFUSED", "Claims", "Counts", "State", "Task"]

Task = Future[Any]

AT_EXIT = "interpreter shutdown"  # after what a pool is closed when the interpreter exits; the standard library's words

# Why a task is claimed whose claimer has it in hand itself; compared by `is`, beside errors that are the user's.
INLINE = "inline"  # it is about to run inside of what its thread runs
REFUSED = "refused"  # its caller waited for room, and is to raise


class Counts:
    """How many tasks became what since the pool was made; what living workers have run is in `Worker.ended`."""

    __slots__ = ("cancelled", "ended", "failed", "inline", "rejected", "shed")

    def __init__(self) -> None:
        self.ended = 0  # by workers that left, and by callers
        self.failed = 0  # of them, those that raised
        self.inline = 0  # that were claimed to be run in a caller's thread, and have not ended
        self.cancelled = 0
        self.rejected = 0
        self.shed = 0


class State:
    """Whether a pool takes tasks, and what is to be done that nobody may do while the lock is held.

    The lock guards every field but the name and the observers; what is over in one step, such as noting that Ctrl-C
    ended a block, or that what was claimed has ended, needs none. It is re-entrant, because a signal handler or a
    finalizer may submit in the middle of a section.
    """

    __slots__ = (
        "abandoned",
        "attention",
        "broken",
        "claimed",
        "closed",
        "counts",
        "dropping",
        "inside",
        "lock",
        "name",
        "observers",
        "order_failed",
        "told",
        "visited",
    )

    def __init__(self, name: str, observers: tuple[Observer, ...]) -> None:
        self.lock = new_lock()
        self.name = name
        self.observers = observers  # fixed, unless strangers set them (see Pool)
        self.counts = Counts()
        self.closed: str | None = None  # after what it was closed ("shutdown", ...), None while it is open
        self.dropping = False  # closed, and what had not begun was cancelled
        self.abandoned = False  # Ctrl-C ended its `with` block: nobody waits for what still runs
        self.broken: PoolBroken | None = None
        self.claimed: dict[Task, str | float | BaseException] = {}  # tasks that somebody is about to end, and why
        self.order_failed: str | None = None  # where; until that is dealt with
        self.inside = False  # whether a section is amid another one of its thread
        self.visited = False  # whether one was, and what follows from that is to be found anew
        self.attention = False  # somebody has left undone what cannot be done while the lock is held
        self.told: dict[object, object] = {}  # what was logged of it, see `treadle._base.words.log_first`

    def why_broken(self) -> PoolBroken:
        """Return an error that says why the pool is broken, for one caller or future alone."""
        broken = cast(PoolBroken, self.broken)
        error = PoolBroken(broken.pool, broken.reason)
        error.__cause__ = broken.__cause__
        return error

    def break_off(self, where: str, error: BaseException) -> None:
        """Take nothing more, for the order has raised `error`, and see that all that waits fails soon.

        The lock is held, in the middle of whatever asked the order.
        """
        if self.broken is None:
            self.broken = PoolBroken(self.name, f"The order failed in {where}")
            self.broken.__cause__ = error
            self.order_failed = where
            self.attention = True

    def why_closed(self) -> Exception:
        """Return an error that says why the pool takes no more; a plain RuntimeError when Python exits.

        For those who look for the standard library's.
        """
        closed = PoolClosed(self.name, str(self.closed))
        return RuntimeError(str(closed)) if self.closed == AT_EXIT else closed

    def claims(self) -> Claims:
        """Return what one operation is going to claim, to end it."""
        return Claims(self)


class Claims:
    """The tasks that one operation has claimed, to end them with no lock held.

    Until that is done all know them (`State.claimed`): so a shutdown returns them as not done, and a forked child, in
    which the operation does not go on, ends them.
    """

    __slots__ = ("_all", "_counts", "mine")

    def __init__(self, state: State) -> None:
        self._all = state.claimed
        self._counts = state.counts
        self.mine: list[Task] = []

    def add(self, task: Task, why: str | float | BaseException) -> None:
        """Claim `task`, which waits, or is claimed by the caller already, and count it; the lock is held.

        Args:
            task: it is to be ended with `Dispatcher.end_claimed`.
            why: "too_old" or "discarded": it is shed. "closed" or "broken", or an error: it is cancelled. "turned away"
                or PoolFull: it is rejected, and its caller does not sleep, but awaits it.
        """
        self._add(task, why, waiting=False)

    def add_waiting(self, task: Task, why: str | float | BaseException) -> bool:
        """As `add`, for a task that waits; False if it does not any more."""
        return self._add(task, why, waiting=True)

    def _add(self, task: Task, why: str | float | BaseException, *, waiting: bool) -> bool:
        full, loud = isinstance(why, PoolFull), not isinstance(task, InternalTask)
        # No exception comes between these lines.
        if waiting and task._state is not PENDING:
            return False
        self._all[task] = why
        self.mine += [task]
        if loud:
            counts = self._counts
            if why == "too_old" or why == "discarded":
                counts.shed += 1
            elif why == "turned away" or full:
                counts.rejected += 1
            else:
                counts.cancelled += 1
        if task._state is PENDING:
            task._state = RUNNING
        return True

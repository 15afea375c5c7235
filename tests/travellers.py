"""One of each error, and what other processes do with them; a module of its own, for they have to find it."""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass

from treadle import errors
from treadle.server import CloseConnection

__all__ = ["Frozen", "Guarded", "Own", "Remembering", "Slotted", "examples", "fall", "of_users"]


class Guarded:
    """A key that can neither be pickled nor copied deeply: it has a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "<the key of shelf 7>"


class Remembering:
    """A key that leads back to the error that it is the key of."""

    error: errors.TreadleError | None = None
    asked = 0

    def __getstate__(self) -> dict[str, object]:
        Remembering.asked += 1
        return vars(self)


class Own(errors.PoolFull):
    """A user's, with arguments of its own."""

    def __init__(self, shop: str, *, shelf: int) -> None:
        super().__init__("shop", "sell", queue_size=1, waiting=1)
        self.shop = shop
        self.shelf = shelf
        self._state = self._args = "the shop's"

    def __str__(self) -> str:
        return f"{self.shop}: shelf {self.shelf} is full"


class Slotted(errors.TreadleError):
    """A user's, which keeps a fact in a slot, and never calls the `__init__` above."""

    __slots__ = ("shelf",)

    def __init__(self, shelf: int, *, shop: str) -> None:
        self.shelf = shelf
        self.shop = shop


@dataclass(frozen=True)
class Frozen(errors.TreadleError):
    """A user's, which takes no attributes; so no pool of processes can give it the cause that they give."""

    shelf: int
    shop: str = "corner"


class OfSystem(errors.TreadleError, OSError):
    """A user's, which is an OSError."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EACCES, "not allowed", path)


def examples() -> list[BaseException]:
    """Return one of each error of treadle's own, with all its facts."""
    return [
        errors.TreadleError("plain"),
        errors.Overloaded("too much", pool="db", task_name="query", key="ann", waited=0.5),
        errors.PoolFull("db", "query", queue_size=10, waiting=9, waited=0.5, key=("ann", 7), of_key=True),
        errors.Shed("db", "query", 0.5, "too_old", key="ann"),
        errors.Cancelled("query", "db"),
        errors.DeadlineExceeded(2.5, "query", "db"),
        errors.PoolClosed("db", "interpreter shutdown"),
        errors.PoolBroken("db", "its order raised ValueError()"),
        errors.WorkerLost("db-1", "query", SystemExit(3)),
        errors.PoolDeadlock(["a", "b"], ["query"]),
        errors.PatchedTooLate(),
        errors.ChannelFull("jobs", 7, 0.5),
        errors.ChannelEmpty("jobs", None, 0.5),
        errors.ChannelClosed("jobs", 7, 0.5, empty=True),
        errors.BindError("127.0.0.1:80", "another server listens there"),
        errors.BindError("unix:/x", "not allowed", PermissionError(errno.EACCES, "Permission denied", "/x")),
        errors.MessageTooLong(100, 200),
        CloseConnection(memoryview(b"bye\n")),
    ]


def of_users() -> list[BaseException]:
    """Return some of classes that users derive."""
    return [Own("corner", shelf=7), Slotted(7, shop="corner"), OfSystem("/x")]


def fall(number: int) -> None:
    """Raise one of all of them."""
    raise [*examples(), *of_users()][number]

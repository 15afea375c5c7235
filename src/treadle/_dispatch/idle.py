"""Standing: work that a pool's workers do when they have nothing else to do, such as leading a server.

A standing task waits beside the queue: it takes no room there, admission never refuses it, and a worker takes it up
instead of falling idle. As soon as a task waits that no worker is free for, it is recalled: the worker that does it is
as good as an idle one, and is to be back soon.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from treadle._base.words import log
from treadle._tasks.call import NoContext
from treadle._tasks.future import Future

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["Standing"]

_log = logging.getLogger("treadle")


class Standing(Future[Any]):
    """One spell of standing work. Override `stand` and `recall`, and give it to `Dispatcher.stand`."""

    __slots__ = ()
    _silent = True

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._owner = dispatcher
        self._context = NoContext()

    def stand(self) -> None:
        """Do the work, on a worker, until there is no more, or it is recalled."""
        raise NotImplementedError

    def recall(self) -> None:
        """Make `stand` return soon. Called at most once, with the pool's lock held: it must not block or call out."""
        raise NotImplementedError

    def _invoke(self) -> bool:
        self._result = self._exception = None
        dispatcher = cast("Dispatcher", self._owner)
        try:
            self.stand()
        except Exception as error:
            log(_log, logging.ERROR, "standing task %s failed", self.name, error=error)
        finally:
            dispatcher.staff.stood_down(self)
        self._context = None
        return False

    def _forget_call(self) -> None:
        pass

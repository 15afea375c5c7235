"""Instants: answers that need no handler, and so no thread, by what a protocol says of each message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import log

__all__ = ["Instants"]

_log = logging.getLogger("treadle.server")


class Instants:
    """Asks the protocol for answers at once. For one event loop; from any thread.

    Args:
        instant: the protocol's, whose errors are logged, and harm nobody.
        name: of the protocol, for logs.

    Attributes:
        answered: messages that the leader has answered so. For the leader alone.
    """

    def __init__(self, instant: Callable[[Any], bytes | None], throttles: LogThrottles, name: str) -> None:
        self.instant = instant
        self.throttles = throttles
        self.name = name
        self.answered = 0

    def find(self, message: Any) -> bytes | None:
        """Return the answer to `message`; None: it is the handler's."""
        try:
            answer = self.instant(message)
        except BaseException as error:
            self._tell("instant() failed", error)
            return None
        if answer is None or isinstance(answer, bytes):
            return answer
        self._tell(f"instant() returned {type(answer).__name__}; allowed: bytes, or None", None)
        return None

    def _tell(self, what: str, error: BaseException | None) -> None:
        throttle = self.throttles.of("instant", *(() if error is None else kind_of(error)))
        if throttle.begins():
            said = "%s: %s; the message goes to the handler%s"
            log(_log, logging.WARNING, said, self.name, what, throttle.rest, error=error)

"""Accounts: what the access log is told of each request, once it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle.server._protocols.wsgi.access_line import Entry

if TYPE_CHECKING:
    from treadle.server._protocols.http.request import Request
    from treadle.server._protocols.wsgi.access_log import AccessLog
    from treadle.server._transport.peer import Peer

__all__ = ["Account", "Accounts"]


class Account(Entry):
    """One request, while it is answered.

    Attributes:
        exchange: with the times of it.
        head: bytes of the answer's head, which do not count.
        rejected: the status, and the bytes of the body, that the client was told in place of the application's answer.
    """

    __slots__ = ("exchange", "head", "rejected")

    def __init__(self, request: Request, host: str, exchange: Any) -> None:
        environ = request.environ
        super().__init__(
            host=host,
            method=request.method,
            target=request.target,
            version=environ.get("SERVER_PROTOCOL", ""),
            referer=environ.get("HTTP_REFERER", ""),
            agent=environ.get("HTTP_USER_AGENT", ""),
            request_id=request.id,
            route=request.route,
        )
        self.exchange = exchange
        self.head = 0
        self.rejected: tuple[int, int] | None = None


class Accounts:
    """Has the access log write a line for each request that is over. From any thread."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log

    def begin(self, request: Request, peer: Peer) -> None:
        """The application is about to be called with `request`, and may change its environ."""
        request.entry = Account(request, peer.host, peer.exchange)

    def reject(self, request: Request, status: int, size: int) -> None:
        """The client is told `status`, with a body of so many bytes, whatever the application says."""
        account = request.entry
        if account is None:  # it was never begun with
            request.entry = account = Account(request, request.environ.get("REMOTE_ADDR", ""), None)
        account.rejected = status, size

    def over(self, request: Request, sent: int, error: BaseException | None) -> None:
        """Write what became of `request`, of whose answer `sent` bytes were taken."""
        account = request.entry or Account(request, request.environ.get("REMOTE_ADDR", ""), None)
        now, exchange = clock.now(), account.exchange
        account.began = clock.wall()
        if exchange is not None:
            account.began -= now - exchange.first_byte
            account.wait = max(0.0, exchange.begun - exchange.complete)
            account.run = max(0.0, (exchange.made or now) - exchange.begun)
            account.send = max(0.0, (exchange.sent or now) - (exchange.made or now))
        account.bytes_out = max(0, sent - account.head)
        if error is not None and sent <= 0:  # whatever it was to be
            account.status = 0
        if account.rejected is not None:
            account.status, account.bytes_out = account.rejected
        account.error = "" if error is None else f"{type(error).__name__}: {error}"
        account.exchange = request.entry = None
        self._log.write(account)

    def refused(self, host: str, status: int, line: str, why: str, size: int) -> None:
        """Write that what came makes no request, or one that is refused, by an answer with a body of so many bytes."""
        method, _, rest = line.partition(" ")
        target, _, version = rest.rpartition(" ")
        whole = bool(method and target and version.startswith("HTTP/"))
        entry = Entry(host=host, began=clock.wall(), status=status, bytes_out=size, error=why)
        entry.method, entry.target, entry.version = (method, target, version) if whole else ("", line, "")
        self._log.write(entry)

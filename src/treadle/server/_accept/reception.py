"""Reception: hears from trusted proxies who their clients are, before anything else is done with a connection."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from treadle._base.log_throttle import LogThrottle
from treadle._base.words import counted, log
from treadle.server._accept.limiter import ConnectionLimiter, limit_of
from treadle.server._accept.proxy import MOST, Header, Proxies, begins_with_header
from treadle.server._transport.causes import MALFORMED, UNTRUSTED
from treadle.server._transport.connection import BLOCKED, CHUNK, ClientConnection
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._transport.io import ConnectionIO

__all__ = ["MALFORMED", "REFUSED", "UNTRUSTED", "Reception"]

_log = logging.getLogger("treadle.server")

REFUSED = "refused"  # why a connection is closed: the client that a proxy speaks for was turned away


class Reception:
    """Receives one event loop's connections when a server trusts proxies. For the leader alone, but for `vet`.

    A trusted proxy's connection is nothing to anybody, TLS included, until its header is whole. Everybody else is
    served as without proxies, at once and under an address of their own; only, if what they send first is a header,
    they are closed for it. That is judged by the first bytes as they come, for nothing of an ordinary client's may be
    held back; a header in pieces escapes it, and is junk to the handler, which deceives nobody.

    Args:
        opened: called with a connection that is ready to talk.
    """

    def __init__(
        self,
        io: ConnectionIO,
        limiter: ConnectionLimiter,
        proxies: Proxies,
        opened: Callable[[ClientConnection], object],
    ) -> None:
        self.loop: EventLoop = io.loop
        self.io = io
        self.opened = opened
        self.limiter = limiter
        self.proxies = proxies
        self.malformed, self.untrusted, self.refusals = LogThrottle(), LogThrottle(), LogThrottle()

    def receive(self, conn: ClientConnection) -> None:
        """Decide whether a connection that was just accepted has to begin with a header."""
        if conn.peer.address in self.proxies:
            conn.state, conn.intake.header = State.HEADER, Header()
        else:
            conn.intake.vet = self.vet

    def hear(self, conn: ClientConnection, header: Header) -> None:
        """Read what has come of the header, and not a byte more: TLS, or a Session, reads the rest from the socket."""
        try:
            data = conn.plain.recv(MOST, socket.MSG_PEEK)
        except BLOCKED:
            return
        except OSError:
            data = b""  # a reset, by which checks end that see whether anybody listens
        if not data and not header.seen:
            self.io.close(conn, "")
            return
        try:
            if not data:
                raise ValueError(
                    f"it ends after {counted(len(header.seen), 'byte')}; it begins with {header.seen[:32]!r}"
                )
            conn.plain.recv(header.feed(data))
        except ValueError as error:
            if self.malformed.begins():
                log(_log, logging.WARNING, "%s: closed, for its PROXY header is not valid: %s", conn.peer, error)
            self.io.close(conn, MALFORMED)
            return
        except OSError as error:
            self.io.close(conn, error.strerror or type(error).__name__)
            return
        if header.whole:
            self.introduce(conn, header)

    def introduce(self, conn: ClientConnection, header: Header) -> None:
        """Go on with a connection whose header is whole, in the client's name if it says one."""
        conn.intake.header = None
        if header.client is not None:
            refusal = self.limiter.enter_behind(header.client)
            if refusal is not None:
                self.turn_away(conn, refusal)
                return
            conn.peer.proxy, conn.peer.address = conn.peer.address, header.client
        if conn.record is not None:
            conn.record.connected()
            if self.loop.orphaned:  # an observer has forked, and this is the child
                return
        if conn.secure:
            conn.intake.vet = self.vet  # proxies' checks often end here, and are no handshakes that failed
            conn.enter(State.HANDSHAKE)
        else:
            self.opened(conn)

    def turn_away(self, conn: ClientConnection, refusal: str) -> None:
        """Refuse the client that a proxy speaks for, as it would have been when it was accepted."""
        if self.refusals.begins():
            log(_log, logging.WARNING, "%s: clients behind it are rejected: %s", conn.peer, refusal)
        try:
            if not conn.secure:
                conn.send(self.io.refusals.at_the_door(limit_of(refusal)))
                conn.recv(CHUNK)  # or the kernel would send a reset for what came already, and the rejection be lost
        except OSError:
            pass  # it is gone already, or sent nothing yet
        if conn.record is not None:
            conn.record.rejected(limit_of(refusal))
        self.io.close(conn, REFUSED)

    def look(self, conn: ClientConnection) -> bool:
        """Look at what comes before TLS has it; False: there is nothing yet, or the connection is over."""
        try:
            data = conn.plain.recv(MOST, socket.MSG_PEEK)
        except BLOCKED:
            return False
        except OSError:
            data = b""
        if not data:
            self.io.close(conn, "")  # without a word; so no handshake has failed
            return False
        if not self.vet(conn, data):
            self.io.settle(conn)
            return False
        return True

    def vet(self, conn: ClientConnection, data: bytes) -> bool:
        """Return whether `conn`, which sent `data` first, may go on. Called by the thread that has `conn`."""
        conn.intake.vet = None
        peer = conn.peer
        if not begins_with_header(data) or peer.proxy is not None or peer.address in self.proxies:
            return True
        conn.give_up(UNTRUSTED)
        if self.untrusted.begins():
            who = peer.host.partition("%")[0] or "unix"
            what = "a forged one, or it is a proxy that is not trusted"
            how = f"to trust it: Server(proxy={who!r}), --proxy-trust {who}"
            log(_log, logging.WARNING, "%s: closed, for it begins with a PROXY header: %s; %s", peer, what, how)
        return False

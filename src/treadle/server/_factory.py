"""ConnectionFactory: makes connections of the sockets that were accepted."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import log
from treadle.server._protocols.protocol import Protocol, phases_of
from treadle.server._transport.causes import NO_HANDSHAKE
from treadle.server._transport.connection import ClientConnection, hang_up
from treadle.server._transport.observing.record import Record
from treadle.server._transport.peer import Peer

if TYPE_CHECKING:
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.observing.observer import Observers

__all__ = ["ConnectionFactory"]

_log = logging.getLogger("treadle.server")


class ConnectionFactory:
    """Makes the connections of one server. For the leader that accepts.

    Args:
        observers: who is told of connections and messages; None: nobody.
        throttles: which faults are told.
        failed: called with the address of a client that could not be taken in, and why, before it is closed.

    Attributes:
        context: of TLS; replaced when certificates are read again. None: no TLS.
        orphaned: this is a forked child, and the server is the parent's.
    """

    def __init__(
        self,
        protocol: Protocol,
        limits: Limits,
        observers: Observers | None,
        throttles: LogThrottles,
        failed: Callable[[Any, str], object],
    ) -> None:
        self.protocol = protocol
        self.limits = limits
        self.observers = observers
        self.throttles = throttles
        self.failed = failed
        self.context: ssl.SSLContext | None = None
        self.orphaned = False
        self.phased = bool(phases_of(protocol).keys() - {"idle"})

    def make(self, sock: socket.socket, address: Any) -> ClientConnection | None:
        """Return the connection of a socket that was accepted; None if it could not be taken in, and is closed."""
        decoder, why, now = None, "framing", clock.now()
        try:
            sock = self._set_up(sock)
        except Exception as error:
            peer, why = Peer(address, sock, now), self._fault_of(error)
        else:
            peer = Peer(address, sock, now)
            decoder = self._decoder(peer)
        if self.orphaned:  # the framing has forked, and this is the child, where no server is
            sock.close()
            return None
        if decoder is None:
            self.failed(address, why)
            if self.observers is not None:
                Record(self.observers, peer).closed(why)
            hang_up(sock)
            return None
        conn = ClientConnection(sock, peer, decoder, Context(), now)
        if self.observers is not None:
            conn.observe(Record(self.observers, peer, converses=self.protocol.converse is not None))
        return conn

    def rejecting(self, sock: socket.socket, address: Any, reason: str) -> None:
        """A client is about to be turned away."""
        if self.observers is not None:
            Record(self.observers, Peer(address, sock, clock.now())).rejected(reason)

    def _set_up(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is None:
            return sock
        return self.context.wrap_socket(
            sock,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # see ConnectionIO.cut_short
        )

    def _fault_of(self, error: Exception) -> str:
        """Return by what a client is closed that could not be taken in, and say so if that is no fault of its own."""
        if isinstance(error, OSError) and (not isinstance(error, ssl.SSLError) or error.errno == errno.ENOTCONN):
            # It is gone already, perhaps after it has sent something: ordinary.
            return os.strerror(error.errno) if error.errno else type(error).__name__
        throttle = self.throttles.of("context", *kind_of(error))
        if throttle.begins():
            said = "%s: clients are closed, for TLS fails before the handshake%s"
            log(_log, logging.ERROR, said, self.protocol.name, throttle.rest, error=error)
        return NO_HANDSHAKE

    def _decoder(self, peer: Peer) -> Decoder[Any] | None:
        """Return a decoder for a new connection; None if the framing, which may be the user's, fails."""
        try:
            decoder = self.protocol.decoder(self.limits, peer)
            if not (hasattr(decoder, "feed") and hasattr(decoder, "finish")):
                raise TypeError(
                    f"the framing's decoder() returned {type(decoder).__name__}; allowed: an object with feed, held "
                    "and finish, such as Lines().decoder(limit)"
                )
            if self.phased and not hasattr(decoder, "phase"):
                raise TypeError(f"the protocol has phases, and its decoder, {type(decoder).__name__}, no phase")
            return decoder
        except BaseException as error:
            throttle = self.throttles.of("decoder", *kind_of(error))
            if not self.orphaned and throttle.begins():
                said = "%s: clients are closed, for the framing fails%s"
                log(_log, logging.ERROR, said, self.protocol.name, throttle.rest, error=error)
            return None

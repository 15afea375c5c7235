"""Peer: who is at the other end of a connection, and how addresses are written."""

from __future__ import annotations

import select
import socket
import ssl
from ipaddress import IPv6Address
from typing import Any, Protocol

__all__ = ["Peer", "foretell", "host_of", "is_stopping", "open_answer", "send_ahead", "text_of"]

GONE = getattr(select, "POLLRDHUP", 0)  # what Linux tells of a peer that sends no more; 0: the system has no such thing


class Outlook(Protocol):
    """What has been decided about a connection's end."""

    def is_near(self) -> bool:
        """Whether the connection is closed after the answer at hand."""

    def is_stopping(self) -> bool:
        """Whether the server stops."""

    def send_ahead(self, fd: int, data: bytes, *, whole: bool) -> None:
        """Send `data` while the handler runs; see `send_ahead`."""

    def open_answer(self, fd: int) -> Any:
        """Begin the answer while the handler runs; see `open_answer`."""


class Peer:
    """Who is at the other end of a connection. One object a connection, so `state` is a place to keep things.

    Attributes:
        address: as the socket module gives it: (host, port) for IPv4, (host, port, flow, scope) for IPv6; "" for UNIX.
        proxy: the address of the trusted proxy that said so; None: the peer is connected to us itself, or the proxy has
            not said who its client is, and `address` is its own.
        exchange: what is known of the message that is handled, its times among it, if the protocol asks for that, by
            having `over`; None: it does not.
        accepted: when the connection was accepted, in seconds of `time.monotonic`.
        state: a dictionary for the handler's own use; messages of one connection are never handled at the same time.
    """

    __slots__ = ("_local", "_outlook", "_sock", "_state", "accepted", "address", "exchange", "proxy")

    def __init__(self, address: Any, sock: socket.socket, accepted: float = 0.0) -> None:
        self.address = address
        self.proxy: Any = None
        self.accepted = accepted
        self._sock = sock
        self._local: Any = None  # as it was read
        self._outlook: Outlook | None = None  # None: it was turned away
        self._state: dict[Any, Any] | None = None
        self.exchange: Any = None  # what is known of the message that is handled, if the protocol asks for that

    @property
    def state(self) -> dict[Any, Any]:
        """A dictionary that lives as long as the connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def host(self) -> str:
        """The peer's IP address, an IPv4 client's as such also at [::], a link-local one as fe80::1%eth0; UNIX: ""."""
        return host_of(self.address)

    @property
    def port(self) -> int:
        """The peer's port; 0 for a UNIX socket."""
        return int(self.address[1]) if isinstance(self.address, tuple) else 0

    @property
    def local(self) -> Any:
        """Our end's address, as the socket module gives it; "" for UNIX.

        Also "" once the connection is closed, unless it was looked at before.
        """
        if self._local is None:
            try:
                local = self._sock.getsockname()
            except OSError:
                return ""
            self._local = local if isinstance(local, tuple) else ""
        return self._local

    @property
    def secure(self) -> bool:
        """Whether the connection has TLS."""
        return isinstance(self._sock, ssl.SSLSocket)

    @property
    def closing(self) -> bool:
        """Whether the connection will be closed after the answer at hand: for protocols that announce it.

        The server stops, the connection is too old, or was cut, or the client has ended; and no other message waits
        that was read already. Also once it is closed.
        """
        return self._outlook is None or self._outlook.is_near()

    def has_left(self) -> bool:
        """Whether the client has closed its end, or the connection is broken, as far as the system knows now.

        Safe from any thread, and never blocks: for handlers that work long, and would do so for nobody. A client may
        have closed its half only, and still wait for its answer, as some do who send one message. A client that has
        vanished without a word has not left. True once the connection is closed by us.
        """
        fd = self._sock.fileno()
        if fd < 0:
            return True
        if not GONE:
            return _has_ended(fd, self._sock)
        poller = select.poll()
        poller.register(fd, GONE | select.POLLHUP | select.POLLERR)
        return bool(poller.poll(0)) or self._sock.fileno() != fd  # the latter: it was closed, and may be another's now

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What the client's TLS certificate says, as `ssl.SSLSocket.getpeercert` has it; None without one.

        Also None once the TLS stream is over: look at it while the connection is open.
        """
        if not isinstance(self._sock, ssl.SSLSocket):
            return None
        try:
            return self._sock.getpeercert() or None
        except (AttributeError, OSError, ValueError):  # the first: after its goodbye, the socket has no TLS any more
            return None

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on in the TLS handshake; None without one."""
        return self._sock.selected_alpn_protocol() if isinstance(self._sock, ssl.SSLSocket) else None

    def __str__(self) -> str:
        if not isinstance(self.address, tuple):
            return "a UNIX socket"
        return text_of(self.address)

    def __repr__(self) -> str:
        return f"<Peer {self}>"


def foretell(peer: Peer, outlook: Outlook) -> None:
    """Have `peer` tell by `outlook` whether its connection is about to be closed."""
    peer._outlook = outlook


def is_stopping(peer: Peer) -> bool:
    """Whether the server stops, or the connection is closed: what has no end of its own may end then."""
    return peer._outlook is None or peer._outlook.is_stopping()


def send_ahead(peer: Peer, data: bytes, *, whole: bool = False) -> None:
    """Send `data` behind all before it, while the handler of a message runs, whose answer follows.

    For the thread that runs it, and a protocol with `sends_ahead`.

    Args:
        whole: it is the answer itself; nothing follows it.

    Raises:
        RuntimeError: the answer has begun, in pieces.
        ClientLeft: the handler has had its time, and the client was told so.
    """
    if peer._outlook is not None:
        peer._outlook.send_ahead(peer._sock.fileno(), data, whole=whole)


def open_answer(peer: Peer) -> Any:
    """Begin the answer to a message while its handler runs; return what its first pieces are added to.

    The handler is to return an iterator of the others. For the thread that runs it, and a protocol with `sends_ahead`.

    Raises:
        ClientLeft: the handler has had its time, and the client was told so.
    """
    return None if peer._outlook is None else peer._outlook.open_answer(peer._sock.fileno())


def _has_ended(fd: int, sock: socket.socket) -> bool:
    """Whether the peer will send no more, where the poller does not say so; not seen behind what it has sent.

    Through a copy of the descriptor, for `sock` may have a time-out, and would wait.
    """
    if not hasattr(socket, "MSG_DONTWAIT"):  # Windows, which does not tell
        return False
    try:
        with socket.fromfd(fd, sock.family, sock.type) as copy:
            return not copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def host_of(address: Any) -> str:
    """Return the IP address in `address`, (host, port) or (host, port, flow, scope), as one would write it.

    That of an IPv4 client whom an IPv6 socket has accepted, which is ::ffff:192.0.2.1 there (RFC 4291, section
    2.5.5.2), is 192.0.2.1; a link-local one, which means nothing without it, has its interface: fe80::1%eth0
    (RFC 4007, section 11). "" for a UNIX socket.
    """
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    if host.startswith("::ffff:"):
        mapped = IPv6Address(host).ipv4_mapped
        return host if mapped is None else str(mapped)
    scope = address[3] if len(address) == 4 else 0
    return f"{host}%{_interface(scope)}" if scope and "%" not in host else host


def _interface(scope: int) -> str:
    """Return the name of an interface, or its number if it has gone."""
    try:
        return socket.if_indextoname(scope)
    except (OSError, AttributeError):  # the latter: a platform that has no names
        return str(scope)


def text_of(address: Any) -> str:
    """Return `address` as in "127.0.0.1:5000", "[::1]:5000"."""
    host = host_of(address)
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"

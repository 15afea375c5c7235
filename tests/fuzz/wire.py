"""Wires: sockets, listeners and pollers that are scripted, so that every answer of the system can come at any time."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.pollers import FakePoller
    from fuzz.stage import Actor, Stage

__all__ = ["ERR", "HUP", "READ", "WRITE", "Faults", "Net", "SecureWire", "Wire"]

READ, WRITE, ERR, HUP = 1, 4, 8, 16
HARD = [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR]
HARD += [errno.EHOSTUNREACH, errno.EIO]


def failing(number: int) -> OSError:
    """Return the error as the system would raise it."""
    return OSError(number, os.strerror(number))


class Faults:
    """How often the system answers what nobody likes."""

    def __init__(self, dice: random.Random, *, lenient: bool) -> None:
        self.short = dice.choice([0.0, 0.1, 0.6])  # reads and writes
        self.soft = dice.choice([0.0, 0.0, 0.1, 0.4])  # ready, and then not
        self.hard = dice.choice([0.0, 0.0, 0.0, 0.01, 0.1])  # errors
        self.accept = dice.choice([0.0, 0.0, 0.1, 0.5])
        self.odd = dice.choice([0.0, 0.0, 0.2])  # an error of calls that seldom fail
        self.watch = dice.choice([0.0] * 9 + [0.1])  # the poller is out of something
        if lenient and dice.random() < 0.8:
            self.hard = self.accept = self.odd = self.watch = 0.0


class Net:
    """What the system keeps: descriptors, lowest first, and how it answers."""

    def __init__(self, stage: Stage, dice: random.Random, *, lenient: bool) -> None:
        self.stage = stage
        self.dice = dice
        self.faults = Faults(dice, lenient=lenient)
        self.gathers = dice.random() < 0.8  # its sockets have `sendmsg`
        self.open: dict[int, Any] = {}
        self.pollers: list[FakePoller] = []

    def take(self, what: Any) -> int:
        """Return the lowest free descriptor."""
        fd = 1000
        while fd in self.open:
            fd += 1
        self.open[fd] = what
        return fd

    def give(self, fd: int) -> None:
        """Close a descriptor: pollers forget it."""
        del self.open[fd]
        for poller in self.pollers:
            poller.watched.pop(fd, None)

    def odds(self, share: float) -> bool:
        """Whether it happens this time."""
        return share > 0 and self.dice.random() < share


class Wire:
    """The server's end of a connection; what the client's end does is done to the fields."""

    family = 2

    def __init__(self, net: Net, client: Any) -> None:
        self.net = net
        self.client = client
        self.fd = net.take(self)
        self.incoming = bytearray()
        self.eof = False  # the client sends no more
        self.room = net.dice.choice([0, 1, 10, 1000, 1 << 20, 1 << 20])  # bytes that the client's side takes still
        self.reset = False
        self.error: int | None = None  # to be told once
        self.broken = False  # an error was told that ends the connection
        self.cut = False  # shut down in both directions
        self.said_end = False
        self.closed = 0
        self.timeout: float | None = None  # of a socket that blocks; 0.0: it does not
        self.user: Actor | None = None

    # -- what the system knows -------------------------------------------------------------------------------------

    def readiness(self) -> int:
        """Return what a poller tells."""
        if self.reset or self.cut:
            return READ | WRITE | HUP | (ERR if self.error else 0)
        events = READ if self.incoming or self.eof else 0
        return events | (WRITE if self.room else 0) | (HUP if self.eof and self.said_end else 0)

    def _enter(self, what: str) -> None:
        """Begin a call."""
        stage = self.net.stage
        if stage.failure is None and self.closed:
            stage.tear(f"{what} of a closed socket: {self}")
        if stage.failure is None and self.user is not None and self.user is not stage.me():
            stage.tear(f"{what} of {self}, which is used by {self.user.name} already")
        self.user = stage.me()
        try:
            stage.step()
        finally:
            self.user = None
        if stage.failure is None and self.closed:
            stage.tear(f"{self} was closed in the middle of {what}")

    def _mishap(self) -> None:
        """Raise what the system has to tell, or what the dice want it to."""
        if self.reset and self.error is not None:
            number, self.error = self.error, None
            self.broken = True
            raise failing(number)
        if self.net.odds(self.net.faults.hard):
            self.broken = True
            raise failing(self.net.dice.choice(HARD))
        if self.timeout == 0.0 and self.net.odds(self.net.faults.soft):
            raise self.again()

    def again(self) -> Exception:
        """Return what a call raises that would block."""
        return BlockingIOError(errno.EAGAIN, "would block")

    def _await(self, event: int) -> None:
        """Wait, if this socket blocks, until it is ready."""
        if self.timeout != 0.0 and not self.readiness() & event:
            what = f"{'bytes' if event == READ else 'room'} of {self}"
            if not self.net.stage.wait(lambda: bool(self.readiness() & event), self.timeout, what):
                raise TimeoutError("timed out")

    def _size(self, size: int) -> int:
        return self.net.dice.randrange(1, size + 1) if size > 1 and self.net.odds(self.net.faults.short) else size

    def greet(self) -> None:
        """The client begins the TLS handshake, if there is one."""

    # -- what a socket has -----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor."""
        return -1 if self.closed else self.fd

    def setblocking(self, blocking: bool) -> None:
        """Choose whether calls wait."""
        self.settimeout(None if blocking else 0.0)

    def settimeout(self, timeout: float | None) -> None:
        """Choose how long calls wait."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self.timeout = timeout

    def setsockopt(self, *what: object) -> None:
        """Set an option, or fail."""
        if self.net.odds(self.net.faults.odd):
            raise failing(self.net.dice.choice([errno.EINVAL, errno.ENOBUFS]))

    def recv(self, size: int) -> bytes:
        """Return what has come."""
        self._enter("recv")
        return self.take(size)

    def take(self, size: int) -> bytes:
        """Return what has come, without a look at who asks."""
        if self.cut:
            return b""
        self._mishap()
        self._await(READ)
        if self.reset:
            self.broken = True
            return b""
        if not self.incoming:
            if self.eof or self.cut:
                return b""
            raise self.again()
        size = self._size(min(size, len(self.incoming)))
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def peek(self, size: int) -> bytes:
        """Return what has come, and leave it there."""
        if self.cut or self.reset or self.eof or self.incoming:
            return bytes(self.incoming[:size])
        raise self.again()

    def send(self, data: Any) -> int:
        """Take what there is room for."""
        view = memoryview(data).cast("B")
        self._enter("send")
        if self.cut or self.said_end:
            raise failing(errno.EPIPE)
        self._mishap()
        self._await(WRITE)
        if self.reset or self.cut:
            self.broken = True
            raise failing(errno.EPIPE)
        if not len(view):
            return 0
        if not self.room:
            raise self.again()
        size = self._size(min(len(view), self.room))
        self.room -= size
        self.client.received += view[:size]
        return size

    def __getattr__(self, name: str) -> Any:
        if name == "sendmsg" and self.net.gathers:
            return lambda views: self.send(b"".join(views))
        raise AttributeError(name)

    def shutdown(self, how: int) -> None:
        """End one direction, or both."""
        if self.closed:
            raise failing(errno.EBADF)
        self.net.stage.step()
        if self.reset:
            raise failing(errno.ENOTCONN)
        if how == socket.SHUT_RD:
            self.eof = True
            return
        if how == socket.SHUT_RDWR:
            self.cut = True
        elif self.net.odds(self.net.faults.odd):
            raise failing(errno.ENOTCONN)
        self.said_end = True

    def close(self) -> None:
        """Close."""
        if self.closed:
            self.closed += 1
            self.net.stage.tear(f"{self} is closed twice")
        self._enter("close")
        self.closed += 1
        self.net.give(self.fd)

    def getpeercert(self) -> None:
        """Return no certificate."""

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.fd} of client {self.client.number}"


class SecureWire(Wire):
    """The same with TLS, as far as the server can tell: the stream is not really encrypted."""

    def __init__(self, net: Net, client: Any) -> None:
        super().__init__(net, client)
        self.plain = bytearray()  # decrypted, and not taken
        self.flights = net.dice.randrange(1, 4)  # of the handshake, still to come
        self.context = SimpleNamespace(sni_callback=net.dice.choice([None, print]))  # which is never called
        self.greeted = False
        self.shaken = False  # the handshake is done

    def greet(self) -> None:
        """The client begins the handshake, with all of its flights."""
        if not self.greeted and not self.reset:
            self.greeted = True
            self.incoming += b"\x16" * self.flights

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return ssl.SSLSocket

    def again(self) -> Exception:
        """Return what a call raises that would block."""
        return ssl.SSLWantReadError("want read")

    def do_handshake(self) -> None:
        """Go on with the handshake: each flight is one byte of the client's."""
        self._enter("do_handshake")
        self._mishap()
        while self.flights:
            if self.reset or (self.eof and not self.incoming):
                self.broken = True
                raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
            if self.net.odds(self.net.faults.hard):
                self.broken = True
                raise ssl.SSLError(1, "no shared cipher")
            if not self.incoming:
                raise ssl.SSLWantReadError("want read")
            del self.incoming[:1]
            self.flights -= 1
            if self.net.odds(self.net.faults.soft):
                raise ssl.SSLWantWriteError("want write")
        self.shaken = True

    def pending(self) -> int:
        """Return how many bytes are decrypted, and not taken."""
        return len(self.plain)

    def recv(self, size: int) -> bytes:
        """Return what is decrypted, of one record at most."""
        self._enter("recv")
        if not self.plain:  # what is decrypted can be had at once, and without fail
            if self.timeout == 0.0 and self.net.odds(self.net.faults.soft / 2):
                raise ssl.SSLWantWriteError("want write")
            if self.net.odds(self.net.faults.hard):
                self.broken = True
                raise self.net.dice.choice([ssl.SSLError(1, "bad record mac"), ssl.SSLEOFError(8, "EOF occurred")])
            self.plain += self.take(self.net.dice.choice([10, 1000, 16384]))
        data = bytes(self.plain[: self._size(min(size, len(self.plain)))])
        del self.plain[: len(data)]
        return data

    def again_to_send(self) -> Exception:
        """Return what `send` raises that would block."""
        return ssl.SSLWantReadError("want read") if self.net.odds(0.1) else ssl.SSLWantWriteError("want write")

    def send(self, data: Any) -> int:
        """Take what there is room for."""
        try:
            return super().send(data)
        except ssl.SSLWantReadError:
            raise self.again_to_send() from None

    def unwrap(self) -> None:
        """Say goodbye, which always would wait."""
        self._enter("unwrap")
        raise self.net.dice.choice([ssl.SSLWantReadError("w"), failing(errno.EPIPE), ValueError("No SSL wrapper")])

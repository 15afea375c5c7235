"""Pollers and listeners that are scripted; see wire.py."""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from fuzz.wire import ERR, HUP, READ, Net, SecureWire, Wire

if TYPE_CHECKING:
    from fuzz.stage import Actor

__all__ = ["FakeListener", "FakePoller"]


class FakeListener:
    """A listener, with clients in its queue."""

    def __init__(self, net: Net, *, secure: bool) -> None:
        self.net = net
        self.secure = secure
        self.sock = self
        self.inherited = False
        self.queue: deque[Any] = deque()
        self.handed_out: list[Wire] = []
        self.closed = False
        self.fd = net.take(self)

    def __str__(self) -> str:
        return "listener"

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def is_there(self) -> bool:
        """Whether it is open; nobody closes it behind the server's back."""
        return not self.closed

    def readiness(self) -> int:
        """Return what a poller tells."""
        return READ if self.queue else 0

    def accept(self) -> tuple[Any, Any]:
        """Return the next client, or fail."""
        net = self.net
        assert not self.closed
        net.stage.step()
        if self.queue and net.odds(net.faults.accept):
            number = net.dice.choice([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED,
                                      errno.EPROTO, errno.EPERM, errno.EAGAIN, errno.EINTR])  # fmt: skip
            if number == errno.ECONNABORTED:
                self.queue.popleft()
            raise OSError(number, os.strerror(number))
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "would block")
        client = self.queue.popleft()
        wire = SecureWire(net, client) if self.secure else Wire(net, client)
        client.wire = wire
        if client.early or net.odds(0.7):
            wire.greet()
        wire.incoming += client.early
        wire.eof = client.early_end
        self.handed_out.append(wire)
        return wire, client.address

    def close(self) -> None:
        """Close; those in the queue are refused by the system."""
        assert not self.closed
        self.closed = True
        self.net.give(self.fd)


class FakeWaker:
    """What `wake` makes readable."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.fd = net.take(self)
        self.awake = False

    def readiness(self) -> int:
        """Return what a poller tells."""
        return READ if self.awake else 0

    def clear(self) -> bool:
        """Make it unreadable; nobody shuts it down."""
        self.net.stage.step()
        self.awake = False
        self.net.stage.step()
        return True


class FakePoller:
    """A level-triggered poller that is as strict as epoll, and tells what it knows in any order, or a part of it."""

    def __init__(self, net: Net, about_to_poll: Any) -> None:
        self.net = net
        self.about_to_poll = about_to_poll
        self.waker = FakeWaker(net)
        self.watched: dict[int, int] = {self.waker.fd: READ}
        self.closed = False
        self.user: Actor | None = None
        net.pollers.append(self)

    def told(self) -> list[tuple[int, int]]:
        """Return what is ready."""
        ready = []
        for fd, events in list(self.watched.items()):
            if happened := self.net.open[fd].readiness() & (events | ERR | HUP):
                ready.append((fd, happened))
        return ready

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`."""
        self._change("add", fd, None, events)

    def change(self, fd: int, before: int, events: int) -> None:
        """Watch `fd` for `events` instead."""
        self._change("change", fd, before, events)

    def remove(self, fd: int, before: int) -> None:
        """Watch `fd` no more."""
        self._change("remove", fd, before, 0)

    def _change(self, what: str, fd: int, before: int | None, events: int) -> None:
        stage = self.net.stage
        if stage.failure is None:
            if self.closed:
                stage.tear(f"{what} {fd} of a poller that is closed")
            if fd not in self.net.open:
                stage.tear(f"{what} {fd}, which is not open")
            if self.watched.get(fd) != before:
                stage.tear(f"{what} {fd}: it is watched for {self.watched.get(fd)}, not for {before}")
        wire: Any = self.net.open.get(fd)
        if events and type(wire) in (Wire, SecureWire) and self.net.odds(self.net.faults.watch):
            wire.broken = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if events:
            self.watched[fd] = events
        else:
            del self.watched[fd]
        if stage.failure is None:
            stage.step()

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Wait, and tell."""
        stage = self.net.stage
        if stage.failure is None and (self.closed or self.user is not None):
            stage.tear(f"poll of a poller that {'is closed' if self.closed else f'{self.user} polls already'}")
        self.user = stage.me()
        self.about_to_poll(self)
        stage.step()
        if timeout > 0 and not self.told():
            stage.wait(lambda: bool(self.told()), timeout, "events")
        self.user = None
        ready = self.told()
        if len(ready) > 1:
            self.net.dice.shuffle(ready)
            if self.net.odds(0.1):
                del ready[self.net.dice.randrange(1, len(ready)) :]
        return ready

    def wake(self) -> None:
        """Make `poll` return."""
        stage = self.net.stage
        if stage.failure is None:
            stage.step()
        self.waker.awake = True
        if stage.failure is None:
            stage.step()

    def close(self) -> None:
        """Let go."""
        assert not self.closed
        self.closed = True
        self.net.pollers.remove(self)
        self.net.give(self.waker.fd)

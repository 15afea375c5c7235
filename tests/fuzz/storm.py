"""Storms: a real server, real threads and real sockets that fail at random. A seed repeats the plan, not the races."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from treadle._base import clock
from treadle.server import Limits, Lines, Messages, Peer, Server
from treadle.server._accept.listen import Listener
from treadle.server._loop import event_loop as loops
from treadle.server._loop.poller import SelectorPoller, new_poller
from treadle.server._serving import driver as drivers
from treadle.server._serving import leadership as leaderships

__all__ = ["Storm", "play"]

PATIENCE = 30.0  # seconds of real time for anything
HARD = [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ENOBUFS, errno.ENOMEM]


class Faults:
    """How often calls of sockets fail, and the dice of each thread."""

    def __init__(self, seed: int, dice: random.Random) -> None:
        self.seed = seed
        self.soft = dice.choice([0.0, 0.1, 0.3])
        self.hard = dice.choice([0.0, 0.0, 0.02])
        self.short = dice.choice([0.0, 0.3])
        self.accept = dice.choice([0.0, 0.0, 0.3])
        self.local = threading.local()

    def odds(self, share: float) -> bool:
        """Whether it happens this time."""
        return share > 0 and self.dice().random() < share

    def dice(self) -> random.Random:
        """Return this thread's dice."""
        if not hasattr(self.local, "dice"):
            self.local.dice = random.Random(f"{self.seed} {threading.current_thread().name}")
        dice: random.Random = self.local.dice
        return dice


class FaultySocket(socket.socket):
    """A socket that fails as the dice want it to, and says so in `broken`."""

    faults: Faults
    broken = False

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept, or fail."""
        faults = self.faults
        if faults.odds(faults.accept):
            number = faults.dice().choice([errno.EMFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EAGAIN])
            raise OSError(number, os.strerror(number))
        fd, address = self._accept()  # type: ignore[attr-defined]
        sock = FaultySocket(self.family, self.type, self.proto, fileno=fd)
        sock.faults = faults
        return sock, address

    def _mishap(self) -> None:
        faults = self.faults
        if faults.odds(faults.hard):
            self.broken = True
            number = faults.dice().choice(HARD)
            raise OSError(number, os.strerror(number))
        if faults.odds(faults.soft):
            raise BlockingIOError(errno.EAGAIN, "would block")

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, or fail."""
        self._mishap()
        return super().recv(self.faults.dice().randrange(1, 50) if self.faults.odds(self.faults.short) else size, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, or fail."""
        view = memoryview(data)
        self._mishap()
        return super().send(
            view[: self.faults.dice().randrange(1, 50)] if self.faults.odds(self.faults.short) else view
        )


class Faultless(logging.Handler):
    """Notes what must never be logged."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        said = record.getMessage()
        if "a fault in treadle itself" in said or "idle task" in said or "was killed" in said:
            self.faults.append(self.format(record))


class Talker:
    """One client: it sends numbered lines, and reads the answers."""

    def __init__(self, storm: Storm, number: int) -> None:
        self.storm = storm
        self.number = number
        self.dice = random.Random(f"{storm.seed} talker {number}")
        self.lines = self.dice.choice([0, 1, 20, 100])
        self.leaves = self.dice.random() < storm.leaving
        self.seen: list[int] = []  # by the handler
        self.answers = bytearray()
        self.received = bytearray()
        self.complete = False
        self.thread = threading.Thread(target=self.talk, name=f"talker {number}", daemon=True)

    def talk(self) -> None:
        """Send and read, both at once."""
        try:
            with socket.create_connection(self.storm.address, PATIENCE) as sock:
                reader = threading.Thread(target=self.read, args=(sock,), daemon=True)
                reader.start()
                self.send(sock)
                reader.join(PATIENCE)
        except OSError:
            pass  # refused, cut

    def send(self, sock: socket.socket) -> None:
        """Send every line, in any pieces."""
        data = b"".join(b"%d %d\n" % (self.number, serial) for serial in range(self.lines))
        try:
            while data:
                size = self.dice.choice([1, 7, 100, 10_000])
                sock.sendall(data[:size])
                data = data[size:]
                if self.dice.random() < 0.1:
                    self.storm.jump(self.dice)
                if self.leaves and self.dice.random() < 0.2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    sock.shutdown(socket.SHUT_RD)
                    return
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut

    def read(self, sock: socket.socket) -> None:
        """Read up to the end."""
        try:
            while data := sock.recv(self.dice.choice([10, 65536])):
                self.received += data
            self.complete = True
        except OSError:
            pass  # cut


class Storm:
    """One server and its clients."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = dice = random.Random(seed)
        self.faults = Faults(seed, dice)
        self.leaving = dice.choice([0.0, 0.3])
        self.slow = dice.choice([0.0, 0.05, 0.5])
        self.jumps = dice.random() < 0.2
        self.offset = 0.0
        self.large = dice.choice([0.0, 0.05])
        self.limits = Limits(
            max_connections=dice.choice([2, 100]),
            max_unsent=dice.choice([0, 100, 65536]),
            linger_timeout=dice.choice([0.0, 0.05]),
            idle_timeout=30.0,
        )
        self.talkers = [Talker(self, number) for number in range(dice.choice([1, 3, 8]))]
        self.wrong: list[str] = []
        self.address: Any = None
        self.early = dice.random() < 0.3  # the server stops in the middle of it
        self.poller = dice.choice([new_poller, new_poller, SelectorPoller])
        self.local = threading.local()

    def jump(self, dice: random.Random) -> None:
        """Move time on, in some storms."""
        if self.jumps:
            self.offset += dice.choice([0.01, 1.0, 40.0])

    def handle(self, line: bytes, peer: Peer) -> bytes:
        """Answer a line."""
        number, serial = map(int, line.split())
        talker = self.talkers[number]
        if not hasattr(self.local, "dice"):
            self.local.dice = random.Random(f"{self.seed} {threading.current_thread().name}")
        dice = self.local.dice
        if peer.state.setdefault("inside", False):
            self.wrong.append(f"two messages of {number} are handled at the same time")
        peer.state["inside"] = True
        talker.seen.append(serial)
        if dice.random() < self.slow:
            threading.Event().wait(dice.choice([0.0002, 0.002, 0.004]))
        answer = b"%d" % serial + b"." * (200_000 if dice.random() < self.large else 1) + b"\n"
        talker.answers += answer
        peer.state["inside"] = False
        return answer

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Replace clock, poller and log."""
        plain = clock.now
        log = Faultless()
        logger = logging.getLogger("treadle")

        def later() -> float:
            return plain() + self.offset

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(loops, "new_poller", self.poller))
            if self.jumps:
                stack.enter_context(mock.patch.object(clock, "now", later))
                stack.enter_context(mock.patch.object(loops, "clock", later))
                stack.enter_context(mock.patch.object(drivers, "clock", later))
                stack.enter_context(mock.patch.object(leaderships, "clock", later))
            stack.enter_context(mock.patch.object(logger, "propagate", False))
            logger.addHandler(log)
            stack.callback(logger.removeHandler, log)
            stack.callback(sys.setswitchinterval, sys.getswitchinterval())
            sys.setswitchinterval(self.dice.choice([1e-6, 1e-4, 0.005]))
            yield
        self.wrong += log.faults

    def run(self) -> None:
        """Let it rage, and look at what is left."""
        with self.replaced():
            sock = FaultySocket(socket.AF_INET, socket.SOCK_STREAM)
            sock.faults = self.faults
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            self.address = sock.getsockname()
            workers = self.dice.choice([1, 2, 4])
            listener = Listener(sock, inherited=False)
            server = Server(Messages(self.handle, Lines()), [listener], max_workers=workers, limits=self.limits)
            server.start()
            for talker in self.talkers:
                talker.thread.start()
            if not self.early:
                self.join()
            stopper = threading.Thread(target=self.stop, args=(server,), daemon=True)
            stopper.start()
            stopper.join(PATIENCE)
            assert not stopper.is_alive(), "stop hangs"
            self.join()
        self.check(server)

    def stop(self, server: Server) -> None:
        """Stop the server."""
        self.cut = server.stop(self.dice.choice([0.0, 0.01, 1.0]) if self.early else 5.0)

    def join(self) -> None:
        """Wait for the clients."""
        for talker in self.talkers:
            talker.thread.join(PATIENCE)
            assert not talker.thread.is_alive(), f"{talker.thread.name} hangs"

    def check(self, server: Server) -> None:
        """Everything in order, and nothing left."""
        assert not self.wrong, "; ".join(self.wrong)
        shown = server.snapshot()
        assert shown.connections == 0 or self.cut, shown
        assert (
            shown.closed_connections + shown.rejected_connections + shown.connections == shown.accepted
            or self.faults.accept
        ), shown
        undisturbed = not (self.early or self.jumps or self.faults.hard or self.cut)
        for talker in self.talkers:
            said = f"talker {talker.number}"
            assert talker.seen == list(range(len(talker.seen))), f"{said}: {talker.seen}"
            assert talker.answers.startswith(talker.received), said
            if undisturbed and not talker.leaves and not self.faults.accept:
                assert talker.complete, said
                assert len(talker.seen) == talker.lines, f"{said}: {len(talker.seen)} of {talker.lines}"
                assert talker.received == talker.answers, f"{said}: {len(talker.received)} of {len(talker.answers)}"


def play(seed: int) -> Storm:
    """Play one storm."""
    storm = Storm(seed)
    storm.run()
    return storm

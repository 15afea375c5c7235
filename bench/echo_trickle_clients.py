"""The clients of `trickle`, in processes of their own: many that read slowly, or one that asks and asks.

    python bench/echo_trickle_clients.py slow PORT --clients N --size BYTES --pace BYTES --limit SECONDS
    python bench/echo_trickle_clients.py quick PORT

The slow ones connect, ask, and say so with a line; then each reads what has come, but no more than its pace allows, and
compares it. The quick one asks once, says so, waits for a line on standard input, and asks until that ends, with a
pause of a millisecond after each answer. Both end with a line of JSON; what is wrong is one line on standard error, and
status 1.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from echo_trickle_server import ASK, BLOCK

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds to connect
TURN = 0.05  # seconds from one look at a client to the next
BURST = 4 * TURN  # seconds whose bytes a client may read at once, when nothing had come for a while
PRECISION = 0.001  # seconds that a client may be early
PAUSE = 1  # milliseconds of the quick client
SEGMENT = 1448  # bytes, as on Ethernet: those of loopback are so large that some MiB wait in the kernel
WINDOW = 1 << 16  # bytes that wait in the kernel for a client, at least
EXPECTED = BLOCK * 2  # what is read at once, from anywhere in a block


class Failed(Exception):
    """A client was not given what it is due; the message says how."""


class Client:
    """One that reads slowly.

    Attributes:
        got: bytes of its answer so far.
    """

    def __init__(self, port: int, size: int, pace: float) -> None:
        self.size = size
        self.pace = pace
        self.got = 0
        self._looked = 0.0
        self._may = 0.0  # bytes
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(WINDOW, int(2 * TURN * pace)))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect((HOST, port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setblocking(False)

    def ask(self) -> None:
        """Ask for the answer."""
        self.sock.send(ASK + b"\n")
        self._looked = time.monotonic()

    def read(self) -> None:
        """Read what has come, as far as its pace allows; leave if that was the end.

        Raises:
            Failed: it is not what it should be, or the server hung up.
        """
        now = time.monotonic()
        self._may = min(self._may + self.pace * (now - self._looked), max(1.0, self.pace * BURST))
        self._looked = now
        while self._may >= 1 and self.got < self.size:
            try:
                data = self.sock.recv(min(int(self._may), len(BLOCK)))
            except BlockingIOError:
                break
            except OSError as error:
                raise Failed(f"after {self.got} of {self.size} bytes: {error}") from None
            if not data:
                raise Failed(f"the server hung up after {self.got} of {self.size} bytes")
            if not EXPECTED.startswith(data, self.got % len(BLOCK)):
                raise Failed(f"wrong bytes after {self.got} of {self.size}")
            self.got += len(data)
            self._may -= len(data)
        if self.got == self.size:
            self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def slow(port: int, clients: int, size: int, pace: float, limit: float) -> dict[str, float]:
    """Have so many clients ask for `size` bytes each, and read `pace` of them a second; give up after `limit` seconds.

    Returns:
        When all had asked, `asked`, and when the last had its answer, `last`; both by the monotonic clock. How many
        have none, `left`; the bytes that were read; and how late the latest look at a client was, `behind`.
    """
    with ExitStack() as stack:
        everybody = [stack.enter_context(Client(port, size, pace)) for _ in range(clients)]
        for client in everybody:
            client.ask()
        asked = last = time.monotonic()
        print("asked", flush=True)
        reading, turn, behind = everybody, asked, 0.0
        while reading and last < asked + limit:
            behind = max(behind, take_turn(reading, turn))
            reading = [client for client in reading if client.got < size]
            last = time.monotonic()
            turn = max(turn + TURN, last)  # who comes late gets no more turns for it
    total = sum(client.got for client in everybody)
    return {"asked": asked, "last": last, "left": len(reading), "bytes": total, "behind": behind}


def take_turn(reading: Sequence[Client], begin: float) -> float:
    """Have each client read, evenly over a turn; return the seconds that one was late, at most."""
    behind = 0.0
    for number, client in enumerate(reading):
        late = time.monotonic() - begin - TURN * number / len(reading)
        behind = max(behind, late)
        if late < -PRECISION:
            time.sleep(-late)
        client.read()
    return behind


def quick(port: int) -> dict[str, float]:
    """Ask and ask until standard input ends; return milliseconds, and how often it was answered in how many seconds.

    An answer that has not come by then is taken to have taken that long.
    """
    with socket.create_connection((HOST, port), PATIENCE) as sock:  # what it asks is known to the server then
        sock.sendall(b"q\n")
        sock.recv(16)
    print("warm", flush=True)
    sys.stdin.readline()
    took, count, begun = list[float](), 0, time.monotonic()
    with socket.create_connection((HOST, port), PATIENCE) as sock:
        poller = select.poll()
        poller.register(sys.stdin, select.POLLIN | select.POLLHUP)
        both = select.poll()
        for one in sys.stdin, sock:
            both.register(one, select.POLLIN | select.POLLHUP)
        while not poller.poll(PAUSE):
            start = time.monotonic()
            sock.sendall(b"q\n")
            ready = {descriptor for descriptor, _ in both.poll()}
            if sock.fileno() in ready:
                if sock.recv(16) != b"q\n":
                    raise Failed("the quick client was answered with something else, or not at all")
                count += 1
            took.append(1000 * (time.monotonic() - start))
    seconds = time.monotonic() - begun
    if not took:
        took.append(1000 * seconds)
    took.sort()
    return {"count": count, "seconds": seconds, "p50": at(took, 0.5), "p99": at(took, 0.99), "max": took[-1]}


def at(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of them is."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the clients; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench/echo_trickle_clients.py", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["slow", "quick"])
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=1000, help="slow: how many (default %(default)s)")
    parser.add_argument("--size", type=int, default=10 << 20, help="slow: bytes of an answer (default %(default)s)")
    parser.add_argument("--pace", type=float, default=1 << 20, help="slow: bytes a second (default %(default)s)")
    parser.add_argument("--limit", type=float, default=120.0, help="slow: seconds for all (default %(default)s)")
    options = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        found: dict[str, Any] = (
            quick(options.port)
            if options.kind == "quick"
            else slow(options.port, options.clients, options.size, options.pace, options.limit)
        )
    except (Failed, OSError) as reason:
        print(f"{options.kind}: {reason}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

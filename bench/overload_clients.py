"""Clients that send lines to 127.0.0.1:PORT at fixed instants, and never wait for an answer before the next.

    python bench/overload_clients.py PORT [--connections N] [--rate N] [--warmup SECONDS] [--seconds SECONDS]

prints as JSON what bench/overload_tally.py counts, and: "misplaced", answers that are not to the message whose turn it
was; "lost", messages without answer or refusal a while after the last was sent.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter

from overload_tally import Tally, Values, punctuality

PATIENCE = 1.0  # seconds after the last message in which the last answers have to come
CHUNK = 65536  # bytes


class Client:
    """One connection. Its messages are numbered, and so are the answers to be: refused ones have their place too.

    Attributes:
        due: when each message was due that has no answer yet, the oldest first.
        answered: how many have one.
        misplaced: answers that were not to the message whose turn it was.
    """

    def __init__(self, connection: socket.socket, refusal: bytes, tally: Tally) -> None:
        self.connection = connection
        self.refusal = refusal
        self.tally = tally
        self.due = deque[float]()
        self.answered = 0
        self.misplaced = 0
        self.rest = b""

    def send(self, due: float) -> None:
        """Send the next message. The kernel has room for all there are; that it had none would be an error."""
        message = b"%d\n" % (self.answered + len(self.due))
        if self.connection.send(message) != len(message):
            raise BlockingIOError("the server does not read")
        self.due.append(due)

    def receive(self) -> None:
        """Take what has come.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        data = self.connection.recv(CHUNK)
        if not data:
            raise ConnectionAbortedError("the server closed a connection")
        at = perf_counter()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.take(line, at)

    def take(self, line: bytes, at: float) -> None:
        """Note an answer, or a refusal."""
        if not self.due:
            self.misplaced += 1
            return
        due = self.due.popleft()
        if line == self.refusal:
            self.tally.refusals.append((due, at))
        elif line == b"%d" % self.answered:
            self.tally.answers.append((due, at))
        else:
            self.misplaced += 1
        self.answered += 1


def converse(clients: Sequence[Client], rate: float, begin: float, end: float) -> list[float]:
    """Send from `begin` until `end`, and receive until all is answered or nobody waits for it any more.

    Returns:
        How many seconds late each message was sent.
    """
    late = list[float]()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.connection, selectors.EVENT_READ, client)
        while True:
            now, due = perf_counter(), begin + len(late) / rate
            while due <= now and due < end:
                clients[len(late) % len(clients)].send(due)
                late.append(now - due)
                due = begin + len(late) / rate
            if now >= end + PATIENCE or (now >= end and not any(client.due for client in clients)):
                return late
            for key, _ in selector.select(max(0.0, (due if due < end else end + PATIENCE) - now)):
                key.data.receive()


def connected(port: int) -> socket.socket:
    """Return a connection that never blocks."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


def measured(connections: Sequence[socket.socket], options: argparse.Namespace) -> Values:
    """Send and receive, and return what is counted."""
    tally, begin = Tally(), perf_counter()
    clients = [Client(connection, options.refusal, tally) for connection in connections]
    counted, end = begin + options.warmup, begin + options.warmup + options.seconds
    late = converse(clients, options.rate, begin, end)
    return {
        **tally.values(counted, end),
        **punctuality(late, end - begin),
        "misplaced": sum(client.misplaced for client in clients),
        "lost": sum(len(client.due) for client in clients),
    }


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench/overload_clients.py", description=__doc__.split("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=300, help="default %(default)s")
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second (default %(default)g)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds that are not counted (default %(default)g)")
    parser.add_argument("--seconds", type=float, default=2.0, help="that are counted (default %(default)g)")
    parser.add_argument("--refusal", type=str.encode, default=b"BUSY", help="the line that says no (default BUSY)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Connect, converse, print; return the exit status."""
    options = options_from(arguments)
    try:
        with ExitStack() as stack:
            connections = [stack.enter_context(connected(options.port)) for _ in range(options.connections)]
            values = measured(connections, options)
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(values))
    return 0


if __name__ == "__main__":
    sys.exit(main())

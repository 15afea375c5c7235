"""A server that is offered several times what it can do, by clients in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

from overload_load import PATIENCE, TASK, THREADS, Rows, Settings, capacity, turned
from overload_tally import Values

import treadle
from treadle.server import Limits, Lines, Messages, Server

PROGRAM = Path(__file__).with_name("overload_clients.py")
LOAD = 5.0  # times what it can do
REFUSAL = b"BUSY\n"
ORDERS = ("adaptive", "fifo")


class ClientsFailed(Exception):
    """The clients did not come to their end; the message is theirs."""


def tcp(settings: Settings, number: int) -> Rows:
    """Offer a server five times what it can do: how much is answered in time, how soon the rest is refused."""
    able = capacity(settings.seconds / 2)
    rows = {"capacity": {"rate": able}}
    for order in turned(ORDERS, number):
        values = served(order, LOAD * able, settings)
        rows[order] = {"kept": values["rate"] / able, **values}
    return rows


def answer(message: bytes, peer: Any) -> bytes:
    """The handler: it blocks, as a query would."""
    sleep(TASK)
    return message + b"\n"


def served(order: str, rate: float, settings: Settings) -> Values:
    """Serve clients that send `rate` messages a second, whatever became of those before."""
    with treadle.Pool(THREADS, order=order) as pool:
        server = Server(
            Messages(answer, Lines()), "127.0.0.1:0", pool=pool, limits=Limits(reject_messages_with=REFUSAL)
        ).start()
        try:
            return clients(server.address[1], rate, settings)
        finally:
            server.stop(0.0)
            pool.shutdown(cancel_futures=True)


def clients(port: int, rate: float, settings: Settings) -> Values:
    """Run the clients, and return what they counted.

    Raises:
        ClientsFailed: the server did not do as it should.
    """
    options = {
        "--connections": settings.connections,
        "--rate": rate,
        "--warmup": settings.warmup,
        "--seconds": settings.seconds,
        "--refusal": REFUSAL.decode().strip(),
    }
    words = [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words, str(port)],
        capture_output=True,
        text=True,
        timeout=PATIENCE + settings.warmup + settings.seconds,
        check=False,
    )
    if done.returncode:
        raise ClientsFailed(done.stderr.strip())
    return dict(json.loads(done.stdout))

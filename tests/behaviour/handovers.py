"""Random hand-overs: handlers that block at random, on few threads; each message is answered once and in order."""

from __future__ import annotations

import random
import socket
import threading
import time

from tcp import PATIENCE, client, receive
from treadle import Pool
from treadle.server import Lines, Messages, Peer, Server

__all__ = ["run"]

BLOCK = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0005, 0.0012, 0.003, 0.01)  # seconds in a handler


def run(seed: int, *, clients: int, messages: int, workers: int) -> dict[str, int]:
    """Serve `clients` that send `messages` lines each, in bursts; return the server's counts.

    Raises:
        AssertionError: an answer was lost, came twice, or out of order.
    """
    dice = random.Random(seed)
    handled: list[list[int]] = [[] for _ in range(clients)]
    running = [0] * clients

    def handle(line: bytes, peer: Peer) -> bytes:
        number, message, block = line.split()
        who = int(number)
        running[who] += 1
        assert running[who] == 1, "two messages of one connection at once"
        if block != b"0.0":
            time.sleep(float(block))  # a handler that blocks is what this is about
        handled[who].append(int(message))
        running[who] -= 1
        return line + b"\n"

    def talk(who: int, sock: socket.socket, seed: int) -> None:
        dice = random.Random(seed)
        sent = 0
        while sent < messages:
            burst = b"".join(
                b"%d %d %r\n" % (who, number, dice.choice(BLOCK))
                for number in range(sent, min(messages, sent + dice.choice((1, 1, 1, 2, 7, 90))))
            )
            sent += burst.count(b"\n")
            cut = dice.randrange(len(burst) + 1)
            sock.sendall(burst[:cut])
            sock.sendall(burst[cut:])
            if receive(sock, len(burst)) != burst:
                faults.append(f"client {who}: wrong answer")
                return

    faults: list[str] = []
    with Pool(workers, queue_size=dice.choice((0, 1, 1000))) as pool:
        with Server(Messages(handle, Lines()), "127.0.0.1:0", pool=pool) as server:
            threads = []
            for who in range(clients):
                threads.append(threading.Thread(target=_with_client, args=(server, talk, who, dice.random())))
            for thread in threads:
                thread.start()
            for _ in range(dice.choice((0, 50))):
                assert pool.submit(abs, -1).result(PATIENCE) == 1
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"a client hangs: {server.snapshot()}"
            counts = server.snapshot()
    assert not faults, faults
    assert handled == [list(range(messages))] * clients
    assert counts.pool.threads <= workers
    return {"messages": counts.messages, "handed over": counts.handed_over}


def _with_client(server: Server, talk: object, who: int, seed: float) -> None:
    with client(server) as sock:
        talk(who, sock, seed)  # type: ignore[operator]

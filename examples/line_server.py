"""A line protocol: each line is a word, each answer how often it was asked for, from a database that may be slow.

Run it: python examples/line_server.py 5000        Talk to it: printf 'warp\nweft\n' | nc -q1 127.0.0.1 5000
"""

import logging
import sqlite3
import sys
import threading

from treadle.server import CloseConnection, Lines, Messages, Peer, Server

logging.basicConfig(level=logging.INFO)
here = threading.local()  # SQLite wants a connection of its own in each thread


def ask(line: bytes, peer: Peer) -> bytes:
    if line == b"quit":
        raise CloseConnection(b"bye\n")
    if not hasattr(here, "words"):
        here.words = sqlite3.connect("file:words?mode=memory&cache=shared", uri=True, isolation_level=None, timeout=30)
        here.words.execute("create table if not exists words (word text primary key, asked integer)")
    with writing:
        (asked,) = here.words.execute(
            "insert into words values (?, 1) on conflict do update set asked = asked + 1 returning asked",
            (line.decode(errors="replace"),),
        ).fetchone()
    return b"%s %d\n" % (line, asked)


writing = threading.Lock()
port = sys.argv[1] if len(sys.argv) > 1 else "5000"
server = Server(Messages(ask, Lines(), greeting=b"which word?\n"), f"127.0.0.1:{port}", max_workers=8)
sys.exit(min(server.run(), 1))  # until Ctrl-C or SIGTERM; 1: some had to be cut

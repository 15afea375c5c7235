r"""A line protocol: each line is a word, each answer how often it was asked for, from a database that may be slow.

Run it: python examples/line_server.py 5000
Talk to it:
    python -c "import socket; s = socket.create_connection(('127.0.0.1', 5000)); s.send(b'warp\nquit\n'); \
    print(*s.makefile())"
"""

import logging
import sqlite3
import sys
import threading
from contextlib import closing

from treadle.errors import BindError
from treadle.server import CloseConnection, Lines, Messages, Peer, Server

logging.basicConfig(level=logging.INFO)
database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
database.execute("create table words (word text primary key, asked integer)")
turn = threading.Lock()  # the handler runs on several threads, and a connection of SQLite serves one at a time


def ask(line: bytes, peer: Peer) -> bytes:
    if line == b"quit":
        raise CloseConnection(b"bye\n")
    count = "insert into words values (?, 1) on conflict do update set asked = asked + 1 returning asked"
    with turn:
        (asked,) = database.execute(count, (line.decode(errors="replace"),)).fetchone()
    return b"%s %d\n" % (line, asked)


port = sys.argv[1] if len(sys.argv) > 1 else "5000"
with closing(database):
    try:
        server = Server(Messages(ask, Lines(), greeting=b"which word?\n"), f"127.0.0.1:{port}", max_workers=8)
        cut = server.run()  # until Ctrl-C or SIGTERM
    except (BindError, ValueError) as error:  # the port is taken, or none
        sys.exit(str(error))
sys.exit(min(cut, 1))  # 1: some had to be cut

"""A binary protocol: a message is its length (4 bytes) and as many bytes; the answer is their SHA-256, in like form.

Run it: python examples/binary_server.py 5000      Try it: python examples/binary_server.py 5000 some words
"""

import hashlib
import logging
import socket
import sys

from treadle.errors import BindError
from treadle.server import LengthPrefix, Limits, Messages, Peer, Server

logging.basicConfig(level=logging.INFO)
framing = LengthPrefix(4)


def digest(data: bytes, peer: Peer) -> bytes:
    return framing.pack(hashlib.sha256(data).digest())  # releases the GIL for large messages, so several run at once


port, words = sys.argv[1] if len(sys.argv) > 1 else "5000", sys.argv[2:]
if words:
    with socket.create_connection(("127.0.0.1", int(port))) as client, client.makefile("rb") as answers:
        for word in words:
            client.sendall(framing.pack(word.encode()))
            length = int.from_bytes(answers.read(4), "big")
            print(word, answers.read(length).hex())
else:
    limits = Limits(max_message=64 << 20, max_connections=1000, idle_timeout=300)
    try:
        sys.exit(min(Server(Messages(digest, framing), f"127.0.0.1:{port}", limits=limits).run(), 1))
    except (BindError, ValueError) as error:  # the port is taken, or none
        sys.exit(str(error))

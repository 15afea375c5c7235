r"""A TCP echo server: one blocking function per client, at most 128 clients at once; those beyond wait their turn.

Run it: python examples/echo_server.py 5000        Talk to it:
    python -c "import socket; s = socket.create_connection(('127.0.0.1', 5000)); s.send(b'hello\n'); print(s.recv(99))"
"""

import signal
import socket
import sys
from contextlib import suppress
from threading import Event

from treadle import Pool


def echo(client: socket.socket) -> None:
    with client, suppress(OSError):  # a client that resets, or is silent for a minute, is gone: its own business
        client.settimeout(60)
        while data := client.recv(65536):
            client.sendall(data)


port = sys.argv[1] if len(sys.argv) > 1 else "5000"
signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops it as Ctrl-C does: the pool waits for no client then
try:
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=1024)
except (OSError, OverflowError, ValueError) as error:
    sys.exit(f"cannot listen on port {port}: {error}")
with suppress(KeyboardInterrupt), listener, Pool(128, name="echo") as pool:
    print("echo server on 127.0.0.1 port", listener.getsockname()[1], flush=True)
    while True:
        try:
            pool.submit(echo, listener.accept()[0])
        except OSError as error:  # such as "too many open files": pause, and go on
            print("cannot accept for now:", error)
            Event().wait(0.2)

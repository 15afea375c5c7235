"""A TCP echo server as one would make it by hand: 8 long-lived threads drain a channel of accepted connections.

Run it: python examples/handmade_pool.py 127.0.0.1 5000        Talk to it: as to echo_server.py
"""

import signal
import socket
import sys
from functools import partial
from threading import Event

from treadle import Channel, Crew


def echo(client: socket.socket) -> None:
    with client:
        client.settimeout(60)  # a silent client must not hold its thread for ever
        while data := client.recv(65536):
            client.sendall(data)


host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
port = sys.argv[2] if len(sys.argv) > 2 else "5000"
signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops it as Ctrl-C does
accepted: Channel[socket.socket] = Channel(100)
note = partial(print, "a client failed, and its thread goes on:", flush=True)  # is called with the client, and why
try:
    with socket.create_server((host, int(port))) as listener, Crew(echo, 8, channel=accepted, on_error=note):
        print("echo server on", host, "port", listener.getsockname()[1], flush=True)
        while True:
            try:
                accepted.put(listener.accept()[0])  # waits when 100 clients wait; others then wait in the kernel
            except OSError as error:  # such as "too many open files": pause, and go on
                print("cannot accept for now:", error, flush=True)
                Event().wait(0.2)
except KeyboardInterrupt:
    print("stopped", flush=True)
except (OSError, OverflowError, ValueError) as error:
    sys.exit(f"cannot listen on {host} port {port}: {error}")

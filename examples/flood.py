"""2,000 clients pour in at once. 128 threads serve them, memory stays bounded, and everyone who waits is served.

Run it:  python examples/flood.py
"""

import resource
import socket

from treadle import Pool

CLIENTS = 2000
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * CLIENTS + 100)), hard))  # both ends live here


def echo(client: socket.socket) -> None:
    with client:
        while data := client.recv(65536):
            client.sendall(data)


def memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most"  # Linux counts kilobytes


with socket.create_server(("127.0.0.1", 0)) as listener, Pool(128, queue_size=CLIENTS) as pool:
    print(f"before:  {memory()}")
    clients = []
    for number in range(CLIENTS):
        clients.append(socket.create_connection(listener.getsockname()))
        clients[-1].sendall(b"client %d" % number)
        pool.submit(echo, listener.accept()[0])
    seen = pool.snapshot()
    print(f"flooded: {CLIENTS} connections, {seen.threads} threads, {seen.waiting} waiting, {memory()}")
    served = 0
    for number, client in enumerate(clients):
        with client:
            served += client.recv(100) == b"client %d" % number
    print(f"served:  {served} of {CLIENTS}, {memory()}")

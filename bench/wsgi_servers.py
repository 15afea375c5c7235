"""The web servers that are measured, each in a process of its own, with settings that do justice to each.

    python bench/wsgi_servers.py NAME [--app APP] [--port PORT] [--threads N] [--file FILE]

prints `serving on 127.0.0.1:PORT` and serves an app of wsgi_apps.py until it is terminated. Some begin to listen a
little later, and have a process for their worker. A server that cannot be had here says why on standard error, and ends
with status 69.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import wsgi_apps
from echo_servers import BACKLOG, HOST, UNAVAILABLE, Unavailable, module, serving

CONNECTIONS = 5000  # that a peer is to admit; some have few by default


def application(options: argparse.Namespace) -> Any:
    """Return the app that is asked for."""
    try:
        return getattr(wsgi_apps, options.app)
    except AttributeError:
        raise Unavailable("Flask is not installed") from None


def serve_treadle(options: argparse.Namespace) -> None:
    """treadle: as its manual shows, with the threads that all have."""
    server = module("treadle.server")
    if not hasattr(server, "WSGI"):
        raise Unavailable("this treadle has no WSGI")
    web = server.Server(server.WSGI(application(options)), f"{HOST}:{options.port}", max_workers=options.threads)
    web.start()
    serving(web.address[1])
    web.run()


def serve_granian(options: argparse.Namespace) -> None:
    """granian: HTTP in Rust, the app in as many threads."""
    words = "--interface wsgi --workers 1 --backpressure 4096 --no-ws --log-level warning"
    threads = ["--blocking-threads", str(options.threads)]
    become("granian", options, lambda port: [*words.split(), *threads, "--host", HOST, "--port", str(port)])


def serve_gunicorn(options: argparse.Namespace) -> None:
    """gunicorn: its worker with threads."""
    words = f"-w 1 -k gthread --keep-alive 75 --worker-connections {CONNECTIONS} --backlog {BACKLOG}"
    words += f" --log-level warning --threads {options.threads}"
    become("gunicorn", options, lambda port: [*words.split(), "--bind", f"{HOST}:{port}"])


def serve_waitress(options: argparse.Namespace) -> None:
    """waitress: one loop, and threads that call the app."""
    server = module("waitress").create_server(
        application(options),
        host=HOST,
        port=options.port,
        threads=options.threads,
        connection_limit=CONNECTIONS,
        backlog=BACKLOG,
    )
    serving(server.effective_port)
    server.run()


def serve_cheroot(options: argparse.Namespace) -> None:
    """cheroot: a thread for each connection that has something to say."""
    server = module("cheroot.wsgi").Server(
        (HOST, options.port),
        application(options),
        numthreads=options.threads,
        max=options.threads,
        request_queue_size=BACKLOG,
    )
    server.keep_alive_conn_limit = CONNECTIONS
    server.prepare()
    serving(server.bind_addr[1])
    server.serve()


def become(package: str, options: argparse.Namespace, flags: Callable[[int], Sequence[str]]) -> NoReturn:
    """Turn this process into the command of `package`; what it writes goes to standard error.

    It is given a port that was free just now, for neither says which one it took.
    """
    application(options)
    if find_spec(package) is None:
        raise Unavailable("not installed")
    port = options.port or free_port()
    serving(port)
    os.dup2(2, 1)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", package, *flags(port), f"wsgi_apps:{options.app}"]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


SERVERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "treadle": serve_treadle,
    "granian": serve_granian,
    "gunicorn": serve_gunicorn,
    "waitress": serve_waitress,
    "cheroot": serve_cheroot,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return the exit status if that cannot be."""
    parser = argparse.ArgumentParser(prog="bench/wsgi_servers.py", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--app", default="hello", help="of wsgi_apps.py (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="(default: any that is free)")
    parser.add_argument("--threads", type=int, default=8, help="that call the app (default %(default)s)")
    parser.add_argument("--file", type=Path, help="which the app `file` sends")
    options = parser.parse_args(arguments)
    if options.file is not None:
        os.environ[wsgi_apps.FILE] = str(options.file)
    try:
        SERVERS[options.name](options)
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A web application with the standard library alone: an upload, a stream, a file, JSON, and what its threads do.

Run it: python examples/web_app.py 8000        Look at it: http://127.0.0.1:8000/
Talk to it:
    curl -s -T README.md 'http://127.0.0.1:8000/upload'
    curl -s 'http://127.0.0.1:8000/slow?seconds=0.5'
"""

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FrameType
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

requests: Counter[str] = Counter()  # by route
counting = threading.Lock()  # the application is called in several threads at once

PAGE = """<!doctype html>
<title>treadle</title>
<style>body { font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 44em }</style>
<h1>What the threads do</h1>
<pre id=state></pre>
<p>Keep some of them busy: <button onclick="tell('/slow?seconds=5')">sleep 5 s</button>
<button onclick="tick()">tick for 10 s</button> <input type=file onchange="tell('/upload', this.files[0])">
or take <a href=/source>the source</a>.</p>
<pre id=answers></pre>
<script>
const say = (id, text) => document.getElementById(id).textContent = text
const ask = async (path, body) => (await fetch(path, body && {method: 'POST', body})).text()
const tell = async (path, body) => say('answers', await ask(path, body))
const tick = () => {
  const ticks = new EventSource('/ticks')
  ticks.onmessage = tick => say('answers', tick.data)
  ticks.addEventListener('end', () => ticks.close())  // or the browser would begin anew
}
const look = () => ask('/state').then(text => say('state', text), error => say('state', error))
setInterval(look, 1000); look()
</script>
"""


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return text(start_response, PAGE, kind="text/html")


def state(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    frames = sys._current_frames()
    threads = {thread.name: doing(frames.get(thread.ident or 0)) for thread in threading.enumerate()}
    with counting:
        found = {"threads": threads, "requests": dict(requests)}
    return text(start_response, json.dumps(found, indent=2) + "\n", kind="application/json")


def doing(frame: FrameType | None) -> str:
    """Return which line of this file a thread is in."""
    while frame is not None and frame.f_code.co_filename != __file__:
        frame = frame.f_back
    return "waits" if frame is None else f"{frame.f_code.co_name}, line {frame.f_lineno}"


def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    (seconds,) = parse_qs(environ["QUERY_STRING"]).get("seconds", ["1"])
    time.sleep(min(float(seconds), 10))  # as a database would; others are served meanwhile, in other threads
    return text(start_response, f"slept {seconds} s\n")


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    digest, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(65536):
        digest.update(piece)
        size += len(piece)
    return text(start_response, f"{size} bytes, SHA-256 {digest.hexdigest()}\n")


def ticks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
    for number in range(10):
        yield b"data: tick %d\n\n" % number  # sent at once
        time.sleep(1)
    yield b"event: end\ndata:\n\n"


def source(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    file = open(__file__, "rb")  # noqa: SIM115  # the server closes it
    size = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(size))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)  # the kernel sends it
    return wrapped


def missing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return text(start_response, f"there are {', '.join(ROUTES)}\n", status="404 Not Found")


def text(
    start_response: StartResponse, body: str, *, status: str = "200 OK", kind: str = "text/plain"
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8")])
    return [body.encode()]


ROUTES = {"/": page, "/state": state, "/slow": slow, "/upload": upload, "/ticks": ticks, "/source": source}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    with counting:
        requests[path if path in ROUTES else "elsewhere"] += 1
    try:
        return ROUTES.get(path, missing)(environ, start_response)
    except ValueError as error:  # the client's fault: no number of seconds
        return text(start_response, f"{error}\n", status="400 Bad Request")


if __name__ == "__main__":  # the application itself needs nothing of treadle
    from treadle.errors import BindError
    from treadle.server import WSGI, Server

    logging.basicConfig(level=logging.INFO)
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    try:
        cut = Server(WSGI(app), f"127.0.0.1:{port}", max_workers=8).run()  # until Ctrl-C or SIGTERM
    except (BindError, ValueError) as error:  # the port is taken, or none
        sys.exit(str(error))
    sys.exit(min(cut, 1))  # 1: some had to be cut

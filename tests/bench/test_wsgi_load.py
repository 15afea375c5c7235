"""The clients of web servers: what they send, what they find wrong, and how processor time is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Import = Callable[[str], ModuleType]
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark is for Linux only")


@pytest.fixture
def with_clients(bench: Import) -> None:
    """Skip where there is no wrk, and say why."""
    try:
        bench("wsgi_load").wrk()
    except bench("load").NoClients as reason:
        pytest.skip(str(reason))


class Handler(BaseHTTPRequestHandler):
    """Answers with the query; with 500 where the path says so, and with something else where it says that."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        answer = b"else" if path == "/else" else query.encode()
        self.send_response(500 if path == "/broken" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def answering() -> Iterator[SimpleNamespace]:
    """Serve in a thread, and give what stands for a server that runs in a process of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        process = SimpleNamespace(pid=os.getpid(), poll=lambda: None)
        try:
            yield SimpleNamespace(name="some", port=server.server_port, process=process, errors=StringIO("its words"))
        finally:
            server.shutdown()
            thread.join()


def test_a_request_is_what_is_sent(bench: Import) -> None:
    request = bench("wsgi_load").request
    assert request("/a?b", "Host: c", "D: e") == b"GET /a?b HTTP/1.1\r\nHost: c\r\nD: e\r\n\r\n"
    body = b"POST / HTTP/1.1\r\nHost: c\r\nContent-Type: application/octet-stream\r\nContent-Length: 3\r\n\r\nabc"
    assert request("/", "Host: c", body=b"abc") == body


def test_processor_time_is_that_of_all_processes_of_a_family(bench: Import) -> None:
    load = bench("wsgi_load")
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ninput()"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    command = [sys.executable, "-c", parent, busy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        pids = load.family(process.pid)
        assert pids[0] == process.pid
        assert len(pids) == 2
        assert 0.2 <= load.processor_time(pids[1:]) <= load.processor_time(pids)
        process.communicate("\n", timeout=PATIENCE)


def test_processor_time_of_this_process_is_what_it_says_itself(bench: Import) -> None:
    before = time.process_time()
    measured = bench("wsgi_load").processor_time([os.getpid()])
    assert before <= measured <= time.process_time()


def test_an_answer_is_looked_at_before_anything_is_measured(bench: Import) -> None:
    load = bench("wsgi_load")
    with answering() as server:
        assert load.answer(server, load.request("/?some", "Host: a")) == b"some"
        with pytest.raises(load.ServerFailed, match=r"status 500; some still runs\. its words"):
            load.answer(server, load.request("/broken", "Host: a"))


def test_a_server_that_ends_instead_of_listening_is_quoted(bench: Import) -> None:
    load, port = bench("wsgi_load"), bench("wsgi_servers").free_port()
    ended = SimpleNamespace(
        name="some", port=port, process=SimpleNamespace(poll=lambda: 3), errors=StringIO("its words")
    )
    with pytest.raises(load.ServerFailed, match=r"does not begin to listen; some ended with status 3\. its words"):
        load.answer(ended, load.request("/", "Host: a"))


@pytest.mark.usefixtures("with_clients")
def test_two_routes_are_told_apart_and_counted(bench: Import) -> None:
    load = bench("wsgi_load")
    with answering() as server:
        found = load.load(server, 1, 2, [load.request(f"/{name}?@", "Host: a") for name in ("one", "other")], 4)
    assert found["cpu_s"] > 0
    assert found["q"]["count"] > found["s"]["count"] > 0
    assert found["q"]["count"] + found["s"]["count"] == found["all"]["requests"]
    assert 0 < found["q"]["p50_us"] <= found["q"]["p99_us"] <= found["q"]["max_us"]


@pytest.mark.usefixtures("with_clients")
@pytest.mark.parametrize(("path", "wrong"), [("/broken", "status"), ("/else", "odd")])
def test_an_answer_that_is_wrong_fails_the_run(bench: Import, path: str, wrong: str) -> None:
    load = bench("wsgi_load")
    with answering() as server, pytest.raises(load.ServerFailed, match=f"not all were right: .*{wrong}"):
        load.load(server, 1, 2, [load.request(f"{path}?@", "Host: a")] * 2, 4)


@pytest.mark.parametrize(("count", "right"), [(5000, True), (0, False)])
def test_large_answers_of_which_none_is_whole_are_counted_by_their_bytes(
    bench: Import, monkeypatch: pytest.MonkeyPatch, count: int, right: bool
) -> None:
    load = bench("wsgi_load")
    said = f'{{"all": {{"requests": 0, "bytes": {count}, "odd": 0}}, "errors": {{"read": 0}}}}\n'
    monkeypatch.setattr(load, "wrk", lambda: "wrk")
    done = SimpleNamespace(returncode=0, stdout=said, stderr="")
    monkeypatch.setattr(
        load, "subprocess", SimpleNamespace(run=lambda *_, **options: done, TimeoutExpired=TimeoutError)
    )
    server = SimpleNamespace(name="some", port=1, process=SimpleNamespace(pid=os.getpid(), poll=lambda: None))
    server.errors = StringIO("its words")
    if right:
        assert load.load(server, 1, 2, [b"some"])["all"]["bytes"] == count
    else:
        with pytest.raises(load.ServerFailed, match="of 0 answers"):
            load.load(server, 1, 2, [b"some"])

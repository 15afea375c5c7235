"""examples/fetch_urls.py, run as a user runs it, against pages served here."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event

import pytest

from programs import PATIENCE, Program, run
from treadle import Pool

EXAMPLE = Path(__file__).parents[2] / "examples" / "fetch_urls.py"


class Site(ThreadingHTTPServer):
    """Serves /page/N (N bytes), /slow (when `released`), /together (when three have asked), and 404 for all else."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked_slow, self.released, self.three = Event(), Event(), Barrier(3)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        body = self.body()
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes | None:
        if self.path.startswith("/page/"):
            return b"x" * int(self.path.removeprefix("/page/"))
        if self.path == "/slow":
            self.server.asked_slow.set()
            return b"at last" if self.server.released.wait(PATIENCE) else None
        if self.path == "/together":
            try:
                self.server.three.wait(PATIENCE)
            except BrokenBarrierError:
                return None
            return b"all three"
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Pool(1) as pool, Site() as site:
        pool.submit(site.serve_forever, 0.01)
        yield site
        site.released.set()
        site.shutdown()


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that is taken and where nobody listens, so that every connection to it is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_every_page_is_fetched_and_named_in_the_order_asked_for(site: Site) -> None:
    pages = {site.url(f"/page/{size}"): size for size in (10, 2000, 0, 300_000)}
    status, output, errors = run(sys.executable, str(EXAMPLE), *pages)
    assert output.splitlines() == [f"{url}: {size} bytes" for url, size in pages.items()]
    assert (status, errors) == (0, "")


def test_pages_are_fetched_at_once(site: Site) -> None:
    """Each is answered only when all three have been asked for."""
    url = site.url("/together")
    status, output, _ = run(sys.executable, str(EXAMPLE), url, url, url)
    assert (status, output) == (0, f"{url}: 9 bytes\n" * 3)


def test_failing_urls_are_reported_in_their_places_and_harm_no_other(site: Site) -> None:
    with refused_port() as port:
        refused = f"http://127.0.0.1:{port}/"
        one, missing, two, three = (site.url(path) for path in ("/page/1", "/missing", "/page/2", "/page/3"))
        urls = [one, missing, two, refused, "nonsense", three]
        status, output, errors = run(sys.executable, str(EXAMPLE), *urls)
    lines = output.splitlines()
    assert lines[0].endswith("/page/1: 1 bytes")
    assert lines[1].startswith(f"{urls[1]}: failed: HTTP Error 404")
    assert lines[2].endswith("/page/2: 2 bytes")
    assert lines[3].startswith(f"{refused}: failed: ")
    assert "refused" in lines[3]
    assert lines[4].startswith("nonsense: failed: unknown url type")
    assert lines[5].endswith("/page/3: 3 bytes")
    assert (status, errors) == (1, "")


def test_result_blocks_until_the_slow_page_is_there(site: Site) -> None:
    urls = [site.url("/page/1"), site.url("/slow"), site.url("/page/2")]
    with Program([sys.executable, str(EXAMPLE), *urls]) as program:
        program.wait_for("/page/1: 1 bytes")
        assert site.asked_slow.wait(PATIENCE)
        assert "/page/2" not in program.output, "it did not wait for the slow page"
        site.released.set()
        assert program.wait() == 0
        assert program.output.splitlines()[1:] == [f"{urls[1]}: 7 bytes", f"{urls[2]}: 2 bytes"]


def test_it_is_under_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40

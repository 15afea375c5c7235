"""What is measured of web servers, and what is promised of treadle's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from echo_cases import Goal
from wsgi_load import answer, failed, load, request, serving_web
from wsgi_servers import SERVERS

Values = dict[str, float]
Measure = Callable[[], Values]

NAMES = tuple(SERVERS)
HOST = "Host: 127.0.0.1:8000"
# What Chrome sends for a page, behind a proxy that ends TLS; eleven fields.
BROWSER = (
    HOST,
    "Connection: keep-alive",
    'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Accept-Encoding: gzip, deflate, br",
    "Accept-Language: en-GB,en;q=0.9",
    "Cookie: session=eyJ1c2VyIjo0Mn0.aRk2Zw.5sX0",
)
MIB = 1 << 20
SLOW = 20  # of so many requests one sleeps
GRANIAN = {"granian": 0.8}
THREADED = {"gunicorn": 0.125, "waitress": 0.125}
FASTEST = {"granian": 1.0, "gunicorn": 1.0, "waitress": 1.0}


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes:
        seconds: that are measured in a round, after `warmup` that are not; wrk wants whole ones.
        connections: that are kept alive; `takers` of the large file are fewer, or none would have all of it in time.
        threads: of each server.
        file: the path of the file that is sent.
        judged: whether that is enough to be judged by.
    """

    seconds: int = 2
    warmup: int = 1
    connections: int = 64
    takers: int = 8
    threads: int = 8
    file: Path = Path("file")
    judged: bool = True


@dataclass(frozen=True)
class Case:
    """One thing that is measured, of every server.

    Attributes:
        name: in the command line; its files are called wsgi_<name>.
        title: what the chart is called.
        app: of wsgi_apps.py.
        requests: what is sent; of two, one of `SLOW` is the second, which sleeps.
        expected: what the body of the first answer begins with.
        goals: what is promised.
        size: of the answer, in bytes, where few come back whole: requests are counted by the bytes then.
        longer: times the usual seconds.
    """

    name: str
    title: str
    app: str
    requests: Sequence[bytes]
    expected: bytes
    goals: Sequence[Goal] = ()
    size: int | None = None
    longer: int = 1
    rounds: int | None = field(default=None, init=False)
    slices: int = field(default=1, init=False)

    @property
    def opened(self) -> Callable[[str, Settings], AbstractContextManager[Measure]]:
        """What prepares a server for one round, and gives what measures it."""
        return partial(opened, self)


@contextmanager
def opened(case: Case, peer: str, settings: Settings) -> Iterator[Measure]:
    """Start a server, look whether it answers as it should, and load it until it is warm."""
    flags = ["--app", case.app, "--threads", str(settings.threads)]
    if case.app == "file":
        flags += ["--file", str(settings.file)]
    connections = settings.takers if case.size else settings.connections
    with serving_web(peer, *flags) as server:
        got = answer(server, case.requests[0])
        if not got.startswith(case.expected) or (case.size and len(got) != case.size):
            raise failed(server, f"it answered {got[:80]!r}, {len(got):,} bytes")
        if settings.warmup:
            load(server, case.longer * settings.warmup, connections, case.requests, SLOW)
        yield lambda: values(case, load(server, case.longer * settings.seconds, connections, case.requests, SLOW))


def values(case: Case, found: dict[str, Any]) -> Values:
    """Return what wrk found, in requests a second, microseconds of processor time a request, and milliseconds."""
    everything, seconds = found["all"], found["all"]["duration_us"] / 1e6
    requests = everything["bytes"] / case.size if case.size else everything["requests"]
    cpu = found["cpu_s"] / requests * 1e6
    if len(case.requests) == 1:
        return {"rate": requests / seconds, "cpu": cpu, **_times(everything)}
    nothing = {"count": 0, "p50_us": seconds * 1e6, "p99_us": seconds * 1e6}
    quick, slow = (found.get(name, nothing) for name in "qs")
    return {
        "rate": quick["count"] / seconds,
        "cpu": cpu,
        **_times(quick),
        "slow": slow["count"] / seconds,
        "slow_p50": slow["p50_us"] / 1000,
    }


def _times(found: dict[str, Any]) -> Values:
    return {"p50": found["p50_us"] / 1000, "p99": found["p99_us"] / 1000}


def cases() -> list[Case]:
    """Return what is measured, in order."""
    bare = request("/", HOST)
    browser = request("/", *BROWSER)
    page = request("/shops/42/items?first=100", *BROWSER)
    body = bytes(MIB)
    mixed = [request(f"/{route}?@", HOST) for route in ("quick", "slow")]
    quick = [Goal("p99", "p99 of the quick, milliseconds", most=5.0)]
    return [
        Case("bare", "Hello, with a bare head", "hello", [bare], b"Hello", _cpu(GRANIAN | THREADED)),
        Case("browser", "Hello, with a browser's head", "hello", [browser], b"Hello", _cpu(GRANIAN | THREADED)),
        Case("flask", "A page of Flask: JSON, 20 records", "page", [page], b"{", _cpu({"granian": 1.0})),
        Case("upload", "1 MiB up", "upload", [request("/", HOST, body=body)], b"1048576", _cpu(FASTEST)),
        Case("download", "1 MiB down", "download", [bare], b"xxx", _cpu(FASTEST)),
        Case("file", "A file of 100 MiB, by wsgi.file_wrapper", "file", [bare], b"", _cpu(FASTEST), 100 * MIB),
        Case("routes", "1 request in 20 sleeps 100 ms: the others", "routes", mixed, b"@", quick, longer=2),
    ]


def _cpu(most: dict[str, float]) -> list[Goal]:
    return [Goal("cpu", f"CPU a request to {peer}", peer, most=ratio) for peer, ratio in most.items()]

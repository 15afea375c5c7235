"""What is measured of an echo server, and what is promised of treadle's."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from echo_peers import NAMES, OURS, Running, serving
from echo_servers import SLEEP, Unavailable
from echo_trickle import trickle
from load import Clients, cache

Values = dict[str, float]
Measure = Callable[[], Values]

SIZES = {"echo_64": 64, "echo_1k": 1024, "echo_10k": 10 * 1024, "echo_100k": 100 * 1024}
TIMEOUT = 1.0  # seconds that treadle gives to read, write and shake hands where it is attacked
LATE = 1.0  # seconds after that, at most, until the last attacker is cut
MIB = 1024.0  # KiB
SPARE = 200  # descriptors beside those of idle connections
SLOW = 4  # clients whose handler sleeps
TRIED = 10  # the part of the clients that come and go that does so before memory is looked at
SLICES = 4  # of the time that each server is measured in a round: what slows the machine for a second slows all
ROUNDS = 3  # where treadle is compared with itself
ONE_LEADER, TWO_LEADERS = 2, 4  # threads of a server: it has a leader for each core, and for every two of its threads
LONGER = 5  # times the usual seconds, where some messages take 100 ms: some hundreds of these come back
GIL = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
TRICKLES = {  # scenarios, with the way in which their answers are made, and words for it
    "trickle": ("pieces", "made piece by piece"),
    "trickle_bytes": ("bytes", "in one"),
    "trickle_file": ("file", "from a file"),
    "trickle_session": ("session", "written by conversations"),
}
WITHOUT_THREADS = ("treadle", "uvloop", "asyncio", "gevent", "go")  # the others have a thread for each connection


@dataclass(frozen=True)
class Goal:
    """What is promised of one value of treadle's.

    Attributes:
        value: its name.
        to: the peer whose value it is divided by; None: the value itself is meant.
        least, most: what it has to be; exactly one is given.
        what: in words.
    """

    value: str
    what: str
    to: str | None = None
    least: float | None = None
    most: float | None = None

    def reached(self, measured: float) -> bool:
        """Whether it is what was promised."""
        return measured >= self.least if self.least is not None else measured <= (self.most or 0.0)

    def __str__(self) -> str:
        unit = "x" if self.to or self.value == "kept" else ""
        return f">= {self.least:g}{unit}" if self.least is not None else f"<= {self.most:g}{unit}"


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes:
        seconds: that are measured in a round; `warmup` of them before are not.
        connections: busy clients.
        idle, partial(afresh, churn), attackers: how many of each.
        trickling: clients that take a large answer slowly; `answer` MiB each, `pace` of them a second.
        judged: whether that is enough to be judged by.
    """

    seconds: float = 1.0
    warmup: float = 0.2
    connections: int = 64
    idle: int = 10_000
    churn: int = 50_000
    attackers: int = 200
    trickling: int = 1000
    answer: float = 10.0
    pace: float = 1.0
    judged: bool = True


QUICK = Settings(
    seconds=0.1,
    warmup=0.05,
    connections=16,
    idle=200,
    churn=200,
    attackers=10,
    trickling=20,
    answer=0.5,
    judged=False,
)


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured.

    Attributes:
        name: its name in files.
        title: what the chart is called.
        opened: prepares a peer for one round, and gives what measures it. Of the values the "rate", replies a second,
            is what is drawn.
        peers: whom it is measured of; others would fail, or show nothing.
        goals: what is promised.
        rounds: at most so many.
        slices: how many times each is measured in a round, in turn.
        variant_of: the scenario of which this is another, which is measured only where it is asked for.
    """

    name: str
    title: str
    opened: Callable[[str, Settings], AbstractContextManager[Measure]]
    peers: Sequence[str]
    goals: Sequence[Goal] = ()
    rounds: int | None = None
    slices: int = 1
    variant_of: str | None = None


@dataclass(frozen=True)
class Mix:
    """Messages of several routes, some of which sleep, and the server that they come to.

    Attributes:
        name, title: of the scenario.
        quick: the route whose messages are not to wait; some "v" sleep too, and are "v_sleeps" here.
        weights: of so many messages in all, how many are of each route.
        threads, queue_size: of the server; None: its default.
    """

    name: str
    title: str
    quick: str
    weights: dict[str, float]
    threads: int = 8
    queue_size: int | None = None

    @property
    def sleeping(self) -> str | None:
        """The messages that sleep 100 ms, if there are any."""
        return next((route for route in ("s", "v_sleeps") if route in self.weights), None)


MIXES = (
    Mix("routes", "1 message in 20 sleeps 100 ms: the others", "q", {"q": 19, "s": 1}),
    Mix("routes_fifth", "1 message in 5 sleeps 100 ms: the others", "q", {"q": 4, "s": 1}),
    Mix("routes_levels", "Of 16 messages 5 sleep 5 ms, and one 100 ms: the others", "q", {"q": 10, "m": 5, "s": 1}),
    Mix("routes_m", "All messages sleep 5 ms", "m", {"m": 1}),
    Mix("routes_v", "1 message in 50 of the same route sleeps 100 ms: the others", "v", {"v": 49, "v_sleeps": 1}),
    Mix("routes_two", "1 message in 20 sleeps 100 ms, 2 threads: the others", "q", {"q": 19, "s": 1}, threads=2),
    Mix(
        "routes_queue", "1 message in 20 sleeps 100 ms, queue_size=8: the others", "q", {"q": 19, "s": 1}, queue_size=8
    ),
)


def busy(server: Running, settings: Settings, **options: float) -> dict[str, Any]:
    """Load a server with busy clients, and others if `options` say so; return what load.c does."""
    usual: dict[str, float] = {"connections": settings.connections, "seconds": settings.seconds}
    return server.load(**{**usual, "warmup": settings.warmup, **options})


@contextmanager
def echo(size: int, peer: str, settings: Settings) -> Iterator[Measure]:
    """Messages of `size` bytes: how many a second, how long each takes, and the server's CPU time for one."""

    def measure() -> Values:
        found = busy(server, settings, size=size, seconds=settings.seconds / SLICES)
        rest = found["rest"]
        cpu, p50 = found["cpu_us_per_reply"], rest["p50_us"] / 1000
        return {"rate": rest["per_second"], "cpu": cpu, "p50": p50, **_tail(found)}

    with serving(peer) as server:
        yield measure


@contextmanager
def afresh(measure: Callable[[str, Settings], Values], peer: str, settings: Settings) -> Iterator[Measure]:
    """Measure with servers that are started for each time."""
    yield partial(measure, peer, settings)


def _tail(found: dict[str, Any]) -> Values:
    """The 99th percentile and the longest, in milliseconds; the whole time that was measured, if no reply came."""
    return _times(found, "rest", "p99", "max")


def _times(found: dict[str, Any], which: str, *names: str) -> Values:
    """Percentiles of some replies, as `_tail` has them."""
    return {name: found[which].get(f"{name}_us", found["seconds"] * 1e6) / 1000 for name in names}


def slow(peer: str, settings: Settings) -> Values:
    """Some clients' handlers sleep: what the others keep of the rate that they have alone."""
    with serving(peer, "--slow") as server:
        alone = busy(server, settings, connections=settings.connections - SLOW)
        found = busy(server, settings, slow=SLOW)
    rest = found["rest"]
    kept = rest["per_second"] / alone["rest"]["per_second"]
    return {"rate": rest["per_second"], "kept": kept, "slow": found["slow"]["per_second"], **_tail(found)}


def routes(mix: Mix, peer: str, settings: Settings) -> Values:
    """Messages of several routes: how long the quick take beside those that sleep, and how many of each a second."""
    queue = [] if mix.queue_size is None else ["--queue-size", str(mix.queue_size)]
    longer = {"seconds": LONGER * settings.seconds, "warmup": LONGER * settings.warmup}
    with serving(peer, "--routes", "--threads", str(mix.threads), *queue) as server:
        found = busy(server, settings, **longer, **mix.weights)
    values = {"rate": found[mix.quick]["per_second"], **_times(found, mix.quick, "p50", "p99", "p999", "max")}
    if "m" in mix.weights.keys() - {mix.quick}:
        values |= {"m": found["m"]["per_second"]}
        values |= {f"m_{name}": value for name, value in _times(found, "m", "p50", "p99").items()}
    if mix.sleeping is not None:
        slow = found[mix.sleeping]["per_second"]
        values |= {"slow": slow, "slow_p50": _times(found, mix.sleeping, "p50")["p50"]}
        values |= {"slow_kept": slow * SLEEP / mix.threads}
    return values


def idle(peer: str, settings: Settings) -> Values:
    """Many idle connections beside the busy ones."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < settings.idle + SPARE:
        raise Unavailable(f"the limit on open files, {files}, is too low (ulimit -Hn)")
    with serving(peer) as server:
        alone = busy(server, settings)
        found = busy(server, settings, idle=settings.idle)
    if found["idle"]["closed"]:
        raise Unavailable(f"closed {found['idle']['closed']:.0f} of {settings.idle} idle connections")
    return {
        "rate": found["rest"]["per_second"],
        "kept": found["rest"]["per_second"] / alone["rest"]["per_second"],
        "memory": found["after"]["rss_kib"] / MIB,
        "threads": found["after"]["threads"] - alone["after"]["threads"],
        **_tail(found),
    }


def churn(peer: str, settings: Settings) -> Values:
    """Connect, echo one message, leave: how many a second, and what the server has more of after so many."""
    with serving(peer) as server:
        server.load(churn=settings.churn // TRIED)
        found = server.load(churn=settings.churn)
    before, after = found["before"], found["after"]
    return {
        "rate": found["per_second"],
        "memory": (after["rss_kib"] - before["rss_kib"]) / MIB,
        "descriptors": after["descriptors"] - before["descriptors"],
        "threads": after["threads"] - before["threads"],
    }


def processes(peer: str, settings: Settings) -> Values:
    """Two processes that share the socket, and one. Two threads of clients, so that these are not the limit."""

    def rate(count: int) -> float:
        half = {"connections": settings.connections // 2, "seconds": settings.seconds, "warmup": settings.warmup}
        with serving(peer, "--processes", str(count), children=count if count > 1 else 0) as server:
            with Clients(server.port, **half) as one, Clients(server.port, **half) as other:
                return sum(float(clients.result()["rest"]["per_second"]) for clients in (one, other))

    alone, both = rate(1), rate(2)
    return {"rate": both, "alone": alone, "kept": both / alone}


def cores(peer: str, settings: Settings) -> Values:
    """Handlers that compute, with two leaders and with one: what the second core adds, where threads run at once."""
    rates = []
    for threads in ONE_LEADER, TWO_LEADERS:
        with serving(peer, "--work", "--threads", str(threads)) as server:
            rates.append(busy(server, settings)["rest"]["per_second"])
    return {"rate": rates[1], "alone": rates[0], "kept": rates[1] / rates[0]}


def attack(kind: str, flags: Callable[[], Sequence[str]], peer: str, settings: Settings, **options: float) -> Values:
    """Hostile clients: what the others keep while these are there and are cut, and how late the last is cut."""
    with serving(peer, "--timeout", str(TIMEOUT), *flags()) as server:
        longer = {"seconds": max(settings.seconds, TIMEOUT + LATE), **options}
        alone = busy(server, settings, **longer)
        found = busy(server, settings, **longer, **{kind: settings.attackers, "until_cut": TIMEOUT + 3 * LATE})
    hit, rest = found[kind], found["rest"]
    return {
        "rate": rest["per_second"],
        "kept": rest["per_second"] / alone["rest"]["per_second"],
        "left": hit["count"] - hit["closed"],
        "late": hit.get("last_s", TIMEOUT + 3 * LATE) - TIMEOUT,
        **_tail(found),
    }


def trickled(way: str, peer: str, settings: Settings) -> Values:
    """Clients that take a large answer slowly: what the server has of them, and a quick client beside them."""
    return trickle(way, peer, settings.trickling, int(settings.answer * 2**20), settings.pace * 2**20)


def certificate() -> str:
    """Return a PEM file with a certificate and its key, made by the openssl command."""
    program = shutil.which("openssl")
    if program is None:
        raise Unavailable("no openssl command, and so no certificate")
    path = cache() / "certificate.pem"
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 -days 3650"
        out = ["-keyout", "-", "-out", "-"]
        made = subprocess.run([program, *words.split(), *out], capture_output=True, text=True, check=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(made.stdout, encoding="utf-8")
        unfinished.replace(path)
    return str(path)


def promised() -> bool:
    """Whether this Python is one that targets are promised for: 3.13 or later, with a GIL."""
    return sys.version_info >= (3, 13) and GIL


def scenarios() -> list[Scenario]:
    """Return what is measured, in order."""
    return [
        *(_throughput(name, size) for name, size in SIZES.items()),
        _slow(),
        *map(_routes, MIXES),
        _idle(),
        _churn(),
        _processes(),
        *([] if GIL else [_cores()]),
        _attack("stalled", "200 clients stall in mid-message", lambda: ["--lines"], lines=1),
        _attack("deaf", "200 clients send and never read", lambda: ["--lines"], lines=1),
        _attack("silent", "200 clients never begin their TLS handshake", lambda: ["--cert", certificate()], tls=1),
        *(_trickle(*each) for each in TRICKLES.items()),
    ]


def _throughput(name: str, size: int) -> Scenario:
    least = {"uvloop": 1.0}
    if size <= 10 * 1024:
        least |= {"asyncio": 1.2, "gevent": 1.7, "pool": 1.5}
    if name == "echo_64":
        least["loop"] = 0.95
    goals = [Goal("rate", f"replies/s to {peer}", peer, least=ratio) for peer, ratio in least.items()]
    goals.append(Goal("cpu", "CPU a message to uvloop", "uvloop", most=1.0))
    return Scenario(name, f"Echo of {size:,} bytes, 64 connections", partial(echo, size), NAMES, goals, slices=SLICES)


def _slow() -> Scenario:
    goals = [
        Goal("kept", "the others' rate to that without", least=0.75),
        Goal("p99", "the others' p99, milliseconds", most=3.0),
    ]
    return Scenario(
        "slow",
        "Echo to 60 clients, while the handlers of 4 others sleep 100 ms",
        partial(afresh, slow),
        NAMES,
        goals,
        ROUNDS,
    )


def _routes(mix: Mix) -> Scenario:
    """The quick are judged where a route is always quick; the slow where there is one of them, and threads enough."""
    goals = []
    if mix.quick == "q":
        goals.append(Goal("p99", "p99 of the quick, milliseconds", most=2.0))
    if mix.weights.keys() == {"q", "s"} and mix.threads == 8:
        goals.append(Goal("slow_kept", "the slow/s to 8 threads' 80/s", least=0.8))
    measure = partial(afresh, partial(routes, mix))
    first = MIXES[0].name
    return Scenario(
        mix.name, mix.title, measure, (OURS,), goals, ROUNDS, variant_of=first if mix.name != first else None
    )


def _idle() -> Scenario:
    goals = [
        Goal("kept", "rate to that without", least=0.9),
        Goal("memory", "resident memory, MiB", most=100.0),
        Goal("threads", "threads more", most=0.0),
    ]
    return Scenario(
        "idle", "64 busy connections beside 10,000 idle ones", partial(afresh, idle), WITHOUT_THREADS, goals, ROUNDS
    )


def _churn() -> Scenario:
    goals = [
        Goal("memory", "memory more than after 5,000, MiB", most=1.0),
        Goal("descriptors", "descriptors more", most=0.0),
        Goal("threads", "threads more", most=0.0),
    ]
    return Scenario(
        "churn",
        "Connect, send one message, leave: 50,000 clients, one after the other",
        partial(afresh, churn),
        WITHOUT_THREADS,
        goals,
        1,
    )


def _processes() -> Scenario:
    """Judged only where two cores are free beside those that the clients take."""
    free = (os.cpu_count() or 1) >= 4
    goals = [Goal("kept", "rate to that of one process", least=1.8)] if free else []
    return Scenario("processes", "Two processes on one socket", partial(afresh, processes), (OURS,), goals, ROUNDS)


def _cores() -> Scenario:
    """Not judged: targets are promised for builds with a GIL."""
    goals = [Goal("kept", "rate to that of one leader", least=1.5)]
    return Scenario("cores", "Handlers that compute, on two cores", partial(afresh, cores), (OURS,), goals, ROUNDS)


def _attack(kind: str, title: str, flags: Callable[[], Sequence[str]], **options: float) -> Scenario:
    goals = [
        Goal("kept", "the others' rate to that without", least=0.9),
        Goal("left", "attackers that were not cut", most=0.0),
        Goal("late", "seconds that the last was cut late", most=LATE),
    ]
    measure = partial(afresh, partial(attack, kind, flags, **options))
    return Scenario(kind, f"{title}: the others", measure, (OURS,), goals, ROUNDS)


def _trickle(name: str, how: tuple[str, str]) -> Scenario:
    """A thread for each client that is served is what the last of them shows, so not all are served in time there."""
    way, words = how
    title = f"1,000 clients take 10 MiB each at 1 MiB/s, {words}: a quick one"
    goals = [Goal("left", "clients without their answer", most=0.0)] if way != "session" else []
    measure = partial(afresh, partial(trickled, way))
    first = next(iter(TRICKLES))
    return Scenario(name, title, measure, (OURS,), goals, 1, variant_of=first if name != first else None)

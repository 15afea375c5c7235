"""The clients, against servers that do what they should, and others."""

from __future__ import annotations

import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

Import = Callable[[str], ModuleType]


@pytest.fixture
def load(bench: Import) -> ModuleType:
    module = bench("load")
    try:
        module.compiled()
    except module.NoClients as reason:
        pytest.skip(str(reason))
    return module


def same(data: bytes) -> bytes:
    return data


@contextmanager
def server(answer: Callable[[bytes], bytes] = same, patience: float | None = None) -> Iterator[int]:
    """Serve with a thread for each client, and give the port; one that says nothing for `patience` seconds is cut."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(patience)
            try:
                while data := self.request.recv(1 << 16):
                    self.request.sendall(answer(data))
            except OSError:
                pass

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()
            thread.join(60)


@pytest.mark.parametrize("size", [2, 64, 100_000])
def test_replies_are_counted_and_timed(load: ModuleType, size: int) -> None:
    with server() as port:
        found = load.load(port, [os.getpid()], connections=4, size=size, seconds=0.3, warmup=0.05)
    rest = found["rest"]
    assert found["connections"] == 4
    assert rest["replies"] > 0
    assert rest["per_second"] == pytest.approx(rest["replies"] / found["seconds"], rel=0.01)
    assert 0 < rest["p50_us"] <= rest["p99_us"] <= rest["p999_us"] <= rest["max_us"]
    assert "slow" not in found
    assert found["after"]["cpu_seconds"] > found["before"]["cpu_seconds"]
    spent = found["after"]["cpu_seconds"] - found["before"]["cpu_seconds"]
    assert found["cpu_us_per_reply"] == pytest.approx(spent / rest["replies"] * 1e6, rel=0.01)
    assert found["after"]["threads"] >= 5
    assert found["after"]["descriptors"] > 4
    assert found["after"]["rss_kib"] > 1000


def test_only_the_messages_of_slow_clients_begin_with_s_and_they_are_counted_apart(load: ModuleType) -> None:
    begun: list[bytes] = []

    def answer(data: bytes) -> bytes:
        begun.append(data[:1])
        return data

    with server(answer) as port:
        load.load(port, connections=2, seconds=0.05, warmup=0)
        assert b"S" not in begun
        begun.clear()
        for seconds in (0.1, 1, 10):  # longer where the machine is busy
            found = load.load(port, connections=2, slow=2, seconds=seconds, warmup=0)
            if found["slow"]["replies"]:
                break
    assert found["rest"] == {"replies": 0, "per_second": 0.0}
    assert begun.count(b"S") >= found["slow"]["replies"] > 0


def test_routes_are_drawn_by_their_weights_and_counted_apart(load: ModuleType) -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data)
        return data

    with server(answer) as port:
        for seconds in (0.1, 1, 10):  # longer where the machine is busy
            seen.clear()
            found = load.load(port, connections=3, size=20, q=6, m=2, v=1, v_sleeps=1, seconds=seconds, warmup=0)
            if len(seen) > 1000:
                break
    assert {(line[-1:], line.count(b"\n"), len(line)) for line in seen} == {(b"\n", 1, 20)}
    begun = [line[:3] if line[2:3] == b"S" else line[:2] for line in seen]
    assert set(begun) == {b"q ", b"m ", b"v ", b"v S"}
    for begins, route, share in ((b"q ", "q", 0.6), (b"m ", "m", 0.2), (b"v ", "v", 0.1), (b"v S", "v_sleeps", 0.1)):
        assert begun.count(begins) / len(begun) == pytest.approx(share, abs=0.06)
        assert begun.count(begins) >= found[route]["replies"] > 0
    assert not {"rest", "slow", "s"} & set(found)


def test_the_client_that_warms_a_server_sends_what_returns_at_once(load: ModuleType) -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data[:2])
        return data

    with server(answer) as port:
        load.load(port, connections=1, s=1, seconds=0.05, warmup=0)
    assert seen[:10] == [b"q "] * 10
    assert set(seen[10:]) <= {b"s "}


def test_a_reply_is_timed_with_those_of_its_route(load: ModuleType) -> None:
    """Whatever comes between: what takes long is counted where it belongs, and nothing that is faster with it."""

    def answer(data: bytes) -> bytes:
        if data[:2] == b"s ":
            time.sleep(0.02)  # why: a reply that takes long is what is timed here
        return data

    with server(answer) as port:
        for seconds in (0.5, 5, 50):  # longer where the machine is busy
            found = load.load(port, [os.getpid()], connections=4, q=1, s=1, seconds=seconds, warmup=0)
            if found["s"]["replies"] > 3:
                break
    assert found["s"]["p50_us"] >= 20_000
    spent = found["after"]["cpu_seconds"] - found["before"]["cpu_seconds"]
    replies = found["q"]["replies"] + found["s"]["replies"]
    assert found["cpu_us_per_reply"] == pytest.approx(spent / replies * 1e6, rel=0.01)


def test_lines_end_in_a_newline(load: ModuleType) -> None:
    ends: set[bytes] = set()

    def answer(data: bytes) -> bytes:
        ends.add(data[-1:])
        return data

    with server(answer) as port:
        load.load(port, connections=2, size=20, lines=1, seconds=0.05, warmup=0)
    assert ends == {b"\n"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda data: data[:-1] + b"?", "what came back is not what was sent"),
        (lambda data: data + b"?", "what came back is not what was sent"),
        (lambda data: (_ for _ in ()).throw(ConnectionResetError()), "no echo"),
    ],
)
def test_a_server_that_does_not_echo_is_no_fast_one(
    load: ModuleType, answer: Callable[[bytes], bytes], said: str
) -> None:
    with server(answer) as port, pytest.raises(load.LoadFailed, match=said):
        load.load(port, connections=2, seconds=0.1)


def test_a_server_that_breaks_later_is_found_out_as_well(load: ModuleType) -> None:
    """Ten messages warm it; they are compared one by one, and these here in the loop that measures."""
    seen: list[int] = []

    def answer(data: bytes) -> bytes:
        seen.append(1)
        return data if len(seen) < 20 else data.swapcase()

    with server(answer) as port, pytest.raises(load.LoadFailed, match="not what was sent"):
        load.load(port, connections=1, seconds=5)


def test_a_server_that_hangs_up_has_failed(load: ModuleType) -> None:
    seen: list[int] = []

    def answer(data: bytes) -> bytes:
        seen.append(1)
        if len(seen) > 20:
            raise ConnectionResetError
        return data

    with server(answer) as port, pytest.raises(load.LoadFailed, match="the server closed client 0 after"):
        load.load(port, connections=1, seconds=5)


def test_nobody_there(load: ModuleType) -> None:
    with server() as port:
        pass
    with pytest.raises(load.LoadFailed, match="cannot connect: Connection refused"):
        load.load(port)


def test_clients_that_come_and_go(load: ModuleType) -> None:
    with server() as port:
        found = load.load(port, [os.getpid()], churn=30)
    assert found["churn"] == 30
    assert found["per_second"] > 0
    assert set(found["before"]) == set(found["after"]) == {"cpu_seconds", "rss_kib", "threads", "descriptors"}


def test_idle_clients_stay(load: ModuleType) -> None:
    with server() as port:
        found = load.load(port, [os.getpid()], connections=2, idle=20, seconds=0.1, warmup=0)
    assert found["idle"] == {"count": 20, "closed": 0}
    assert found["after"]["threads"] >= found["alone"]["threads"] + 20
    assert found["rest"]["replies"] > 0


@pytest.mark.parametrize("kind", ["stalled", "silent"])
def test_attackers_are_seen_to_be_cut(load: ModuleType, kind: str) -> None:
    options = {"connections": 2, "seconds": 0.1, "warmup": 0, "until_cut": 60, kind: 5, "lines": 1}
    with server(patience=0.2) as port:
        found = load.load(port, **options)
    hit = found[kind]
    assert (hit["count"], hit["closed"]) == (5, 5)
    assert 0 < hit["first_s"] <= hit["last_s"]


def test_who_never_reads_sends_until_nothing_more_goes(load: ModuleType) -> None:
    """Its handler is stuck in sendall, until the time-out cuts it."""
    sizes: list[int] = []

    def answer(data: bytes) -> bytes:
        sizes.append(len(data))
        return data

    with server(answer, patience=0.5) as port:
        found = load.load(port, connections=1, deaf=2, lines=1, seconds=0.1, warmup=0, until_cut=60)
    assert found["deaf"]["closed"] == 2
    assert sum(sizes) > 2 * (1 << 14)


@pytest.mark.parametrize(
    "options",
    [{"size": 1}, {"sized": 3}, {"slow": 65}, {"seconds": -1}, {"q": 1, "slow": 1}, {"q": 1, "size": 3}, {"q": -1}],
)
def test_options_that_make_no_sense_are_refused(load: ModuleType, options: dict[str, float]) -> None:
    with server() as port, pytest.raises(load.LoadFailed):
        load.load(port, **options)


def test_it_is_compiled_once(load: ModuleType, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = load.compiled()
    made = program.stat().st_mtime_ns
    assert load.compiled() == program
    assert program.stat().st_mtime_ns == made
    assert os.access(program, os.X_OK)
    assert [path.name for path in program.parent.iterdir()] == [program.name]


def test_a_compiler_that_fails_is_quoted(load: ModuleType, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(load, "compiler", lambda: "false")
    with pytest.raises(load.NoClients, match=r"false cannot compile load\.c"):
        load.compiled()


def test_another_system_is_told_what_is_missing(load: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.sys, "platform", "darwin")
    with pytest.raises(load.NoClients, match="need Linux"):
        load.compiler()

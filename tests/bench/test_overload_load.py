"""How overload is made, and how what comes of it is counted."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from treadle import Pool
from treadle.errors import PoolClosed, PoolFull, Shed

Import = Callable[[str], ModuleType]
PATIENCE = 30.0  # seconds after which a wait that ought to end is taken to hang


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 100.0
        for module in modules:
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)
            monkeypatch.setattr(module, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


# -- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rank", "expected"),
    [
        (100, 99, 99),
        (100, 50, 50),
        (100, 100, 100),
        (101, 99, 100),
        (1000, 99, 990),
        (10, 99, 10),
        (1, 99, 1),
        (4, 0, 1),
    ],
)
def test_percentile_is_the_smallest_that_so_many_do_not_exceed(
    bench: Import, count: int, rank: float, expected: int
) -> None:
    assert bench("overload_tally").percentile(list(range(count, 0, -1)), rank) == expected


def test_nothing_has_no_percentile(bench: Import) -> None:
    with pytest.raises(ValueError, match="no values"):
        bench("overload_tally").percentile([], 99)


def test_goodput_is_what_was_answered_in_time_while_it_was_counted(bench: Import) -> None:
    """Counted by when the answer came: what came before or after belongs to no second that is divided by."""
    tally = bench("overload_tally").Tally()
    tally.answers += [(9.9, 9.99), (9.9, 10.0), (10.0, 10.15), (10.0, 10.3), (11.8, 11.99), (11.9, 12.0)]
    tally.refusals += [(9.0, 9.5), (10.0, 10.01), (10.0, 10.02), (10.0, 10.03)]
    values = tally.values(10.0, 12.0, within=0.16)
    assert values.pop("p99") == pytest.approx(300)
    assert values.pop("refused p99") == pytest.approx(30)
    assert values == {"rate": 1.0, "late": 1.0, "refused": 1.5}


def test_where_nothing_was_answered_there_is_no_latency(bench: Import) -> None:
    assert bench("overload_tally").Tally().values(0.0, 1.0) == {"rate": 0.0, "late": 0.0, "refused": 0.0}


def test_how_far_a_loop_was_behind_is_told(bench: Import) -> None:
    punctuality = bench("overload_tally").punctuality
    assert punctuality([0.001] * 99 + [0.5], 2.0) == {"offered": 50.0, "behind": 1.0}
    assert punctuality([], 2.0) == {"offered": 0.0}


def test_what_became_of_a_task_is_told_apart(bench: Import) -> None:
    load, tally = bench("overload_load"), bench("overload_tally").Tally()
    answered, shed, cancelled, broken = (concurrent.futures.Future[None]() for _ in range(4))
    answered.set_result(None)
    shed.set_exception(Shed("pool", "task", 0.1, "too_old"))
    cancelled.cancel()
    broken.set_exception(ZeroDivisionError())
    for due, future in enumerate((answered, shed, cancelled)):
        load.note(tally, float(due), future)
    with pytest.raises(ZeroDivisionError):
        load.note(tally, 3.0, broken)
    assert [due for due, _ in tally.answers] == [0.0]
    assert [due for due, _ in tally.refusals] == [1.0]


def test_a_task_that_there_is_no_room_for_is_refused(bench: Import) -> None:
    load, tally = bench("overload_load"), bench("overload_tally").Tally()

    def submit(fn: Callable[[], object]) -> Any:
        raise PoolFull("pool", "task", queue_size=1, waiting=1)

    load.submit_due(submit, load.task, tally, 5.0)
    assert [due for due, _ in tally.refusals] == [5.0]
    assert not tally.answers


# -- the open loop ----------------------------------------------------------------------------------------------------


def test_tasks_are_offered_when_they_are_due(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    load = bench("overload_load")
    clock, sent = Clock(monkeypatch, load), list[tuple[float, float]]()
    late = load.offer(lambda due: sent.append((due, clock.now)), 4, 100.0, 101.0)
    assert sent == [(100.0, 100.0), (100.25, 100.25), (100.5, 100.5), (100.75, 100.75)]
    assert late == [0.0] * 4


def test_who_is_late_catches_up_and_the_delay_counts(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that moved its schedule instead would wait for the pool, and ask for no more than it can do."""
    load = bench("overload_load")
    clock, sent = Clock(monkeypatch, load), list[tuple[float, float]]()

    def send(due: float) -> None:
        sent.append((due, clock.now))
        if len(sent) == 1:
            clock.now += 0.6

    late = load.offer(send, 4, 100.0, 101.0)
    assert sent == [(100.0, 100.0), (100.25, 100.6), (100.5, 100.6), (100.75, 100.75)]
    assert late == [pytest.approx(seconds) for seconds in (0.0, 0.35, 0.1, 0.0)]


def test_the_loop_ends_in_time_even_if_it_is_behind(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    load = bench("overload_load")
    clock = Clock(monkeypatch, load)
    assert len(load.offer(lambda due: clock.sleep(0.7), 4, 100.0, 101.0)) == 2


def test_each_round_begins_with_another(bench: Import) -> None:
    turned = bench("overload_load").turned
    assert [turned(["a", "b", "c"], number) for number in range(4)] == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]


@pytest.mark.parametrize("name", ["standard", "fifo", "adaptive"])
def test_warming_starts_every_thread(bench: Import, name: str) -> None:
    load, executor = bench("overload_load"), bench("overload_pools").POOLS[name]()
    with load.loaded(executor):
        load.warm(executor)
        assert len(executor._threads) == load.THREADS


def test_what_is_not_begun_when_the_load_ends_is_cancelled(bench: Import) -> None:
    load, gate = bench("overload_load"), threading.Event()
    pool = Pool(1)
    with load.loaded(pool):
        running = pool.submit(gate.wait, PATIENCE)
        waiting = pool.submit(gate.wait, PATIENCE)
        waiting.add_done_callback(lambda future: gate.set())
    assert running.result() is True
    assert waiting.cancelled()


def test_a_flood_ends_when_the_pool_is_closed(bench: Import) -> None:
    counted = iter(range(3))

    def submit(fn: Callable[..., object], seconds: float) -> None:
        if next(counted, None) is None:
            raise PoolClosed("pool")

    bench("overload_pools").flood(submit)
    assert next(counted, None) is None


# -- the cost of orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "fifo-view", "adaptive", "priority", "priority-10", "fair", "fair-10"])
def test_as_many_tasks_wait_as_is_said_until_enough_have_passed(
    bench: Import, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pools, settings = bench("overload_pools"), replace(bench("overload_load").QUICK, passed=60)
    waiting = list[int]()
    order, views = pools.KINDS[kind]

    def watched(pool: Pool) -> list[Any]:
        def watching(submit: Callable[..., Any]) -> Callable[..., Any]:
            def submit_and_look(*args: Any) -> Any:
                future = submit(*args)
                waiting.append(pool.snapshot().waiting)
                return future

            return submit_and_look

        return [watching(submit) for submit in views(pool)]

    monkeypatch.setitem(pools.KINDS, kind, (order, watched))
    rate, cpu = pools.passing(kind, 5, settings)
    assert rate > 0
    assert cpu > 0
    assert waiting == [1, 2, 3, 4, 5, 6] + [6] * 54  # the thread is held at first; then one runs, and submits another


# -- the backend ------------------------------------------------------------------------------------------------------


def test_the_more_calls_the_backend_has_the_longer_each_takes(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    module, slept = bench("overload_limit"), list[float]()
    monkeypatch.setattr(module, "perf_counter", lambda: 100.0)
    monkeypatch.setattr(module, "sleep", slept.append)
    backend = module.Backend((200.0, 300.0))
    for _ in range(2 * module.THREADS + 1):
        backend.call()
    once, twice = [module.TASK] * module.THREADS, [2 * module.TASK] * module.THREADS
    assert slept == pytest.approx([*once, *twice, 3 * module.TASK])


@pytest.mark.parametrize(("now", "times"), [(199.9, 1), (200.0, 10), (299.9, 10), (300.0, 1)])
def test_the_backend_is_slow_for_a_while(
    bench: Import, monkeypatch: pytest.MonkeyPatch, now: float, times: int
) -> None:
    module, slept = bench("overload_limit"), list[float]()
    monkeypatch.setattr(module, "perf_counter", lambda: now)
    monkeypatch.setattr(module, "sleep", slept.append)
    module.Backend((200.0, 300.0)).call()
    assert slept == [pytest.approx(module.TASK * times)]


def test_calls_in_flight_are_counted(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("overload_limit")
    clock = Clock(monkeypatch, module)
    backend = module.Backend((200.0, 300.0))
    backend.call()
    monkeypatch.setattr(module, "sleep", lambda seconds: backend.call() if backend.inside < 3 else None)
    clock.now = 110.0
    backend.call()
    assert backend.in_flight(110.0, 111.0) == 2  # of one, two and three
    assert backend.in_flight(100.0, 101.0) == 1
    assert backend.in_flight(120.0, 121.0) == 0


# -- the clients ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(bench: Import) -> Iterator[tuple[Any, socket.socket]]:
    """Give a client, and the server's end of its connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield bench("overload_clients").Client(ours, b"BUSY", bench("overload_tally").Tally()), theirs


def test_messages_are_numbered_and_a_refused_one_keeps_its_place(pair: tuple[Any, socket.socket]) -> None:
    client, server = pair
    for due in (1.0, 2.0, 3.0):
        client.send(due)
    assert server.recv(100) == b"0\n1\n2\n"
    server.sendall(b"0\nBUSY\n2")
    client.receive()
    assert (client.answered, client.misplaced, list(client.due)) == (2, 0, [3.0])
    server.sendall(b"\n")
    client.receive()
    assert [due for due, _ in client.tally.answers] == [1.0, 3.0]
    assert [due for due, _ in client.tally.refusals] == [2.0]
    client.send(4.0)
    assert server.recv(100) == b"3\n"


@pytest.mark.parametrize(
    ("answers", "misplaced"), [(b"1\n0\n", 2), (b"0\n0\n", 1), (b"BUSY\n0\n", 1), (b"0\n1\n2\n", 1), (b"0\n\n", 1)]
)
def test_an_answer_to_another_message_is_noticed(
    pair: tuple[Any, socket.socket], answers: bytes, misplaced: int
) -> None:
    client, server = pair
    client.send(1.0)
    client.send(2.0)
    server.sendall(answers)
    client.receive()
    assert client.misplaced == misplaced


def test_a_server_that_hangs_up_fails_the_run(pair: tuple[Any, socket.socket]) -> None:
    client, server = pair
    server.close()
    with pytest.raises(ConnectionError, match="closed a connection"):
        client.receive()


def test_what_a_server_never_answers_is_lost(
    bench: Import, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = bench("overload_clients")
    monkeypatch.setattr(clients, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        options = ["--connections=2", "--rate=100", "--warmup=0.01", "--seconds=0.05"]
        assert clients.main([*options, str(deaf.getsockname()[1])]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["lost"] > 0
    assert values["lost"] == pytest.approx(values["offered"] * 0.06)
    assert "p99" not in values


def test_clients_that_find_no_server_say_so(bench: Import) -> None:
    tcp = bench("overload_tcp")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(tcp.ClientsFailed, match="Refused"):
            tcp.clients(unheard.getsockname()[1], 100.0, bench("overload_load").QUICK)

"""The benchmark as `make bench` runs it, at a size that measures nothing; and that what it measures is what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Import = Callable[[str], ModuleType]
PROGRAM = str(Path(__file__).parents[2] / "bench" / "pool.py")
CASES = ("submit_result", "map", "submitters", "latency", "memory")
OURS, STANDARD = "treadle", "concurrent.futures"
PATIENCE = 200  # seconds; it takes two where nothing else runs


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the benchmark; return its exit status and what it wrote to standard output and error."""
    command = (sys.executable, PROGRAM, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_every_case_runs_and_is_written(tmp_path: Path) -> None:
    status, output, errors = run("--quick", "--output", str(tmp_path))
    assert (status, errors) == (0, "")
    records = {
        path.name.split(".")[0]: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")
    }
    assert set(records) == set(CASES) == {path.name.split(".")[0] for path in tmp_path.glob("*.svg")}
    for name, record in records.items():
        assert record["medians"][OURS] > 0
        assert record["medians"][STANDARD] > 0
        assert f"\n  {name} " in output


def test_named_cases_are_measured_alone() -> None:
    status, output, _ = run("--quick", "memory")
    assert status == 0
    assert "Memory of a waiting task" in output
    assert "lone task" not in output


@pytest.mark.parametrize(("argument", "said"), [("speed", "unknown case speed"), ("--rounds=0", "1 or more, not 0")])
def test_what_makes_no_sense_is_refused_with_status_2(argument: str, said: str) -> None:
    status, _, errors = run("--quick", argument)
    assert status == 2
    assert said in errors


def peer_named(bench: Import, name: str) -> Any:
    return next(kind for kind in bench("peers").PEERS if kind.name == name)


@pytest.mark.parametrize("name", [OURS, STANDARD, "multiprocessing.pool.ThreadPool"])
def test_each_operation_does_all_of_its_work_before_it_returns(bench: Import, name: str) -> None:
    """Else a peer would be measured for what it has not done."""
    ran: list[int] = []  # append is atomic, with a GIL and without
    with bench("peers").opened(peer_named(bench, name)) as peer:
        peer.submit_all(lambda: ran.append(1), 50)
        assert len(ran) == 50
        assert len(peer.one_by_one(lambda: ran.append(1), 10)) == 10
        assert len(ran) == 60
        assert peer.map(lambda n: -n, 50) == [-n for n in range(50)]


def test_items_mapped_in_chunks_are_the_same_items(bench: Import) -> None:
    peers = bench("peers")
    with peers.opened(peers.TreadleInChunks) as peer:
        assert peer.map(lambda n: -n, 101) == [-n for n in range(101)]


def test_warming_starts_every_thread(bench: Import) -> None:
    peers, cases = bench("peers"), bench("cases")
    with peers.opened(peers.Treadle) as peer:
        cases.warm(peer)
        assert peer.executor.snapshot().threads == peers.WORKERS


def test_memory_is_measured_while_every_task_waits(bench: Import) -> None:
    """And in a pool with room for them all: one that is full would run none and let none in."""
    peers, cases = bench("peers"), bench("cases")
    waiting: list[int] = []

    def submit_only(peer: Any, fn: Callable[..., Any], count: int) -> Any:
        futures = peers.Treadle.submit_only(peer, fn, count)
        waiting.append(peer.executor.snapshot().waiting)
        return futures

    watched = type("Watched", (peers.Treadle,), {"submit_only": submit_only})
    with peers.opened(watched, 2000) as peer:
        assert cases.memory(2000)(peer).cost > 50
    assert waiting[-1] == 2000


def test_a_submitter_that_fails_is_not_taken_for_a_fast_one(bench: Import) -> None:
    peers, cases = bench("peers"), bench("cases")

    def submit_all(peer: Any, fn: Callable[..., Any], count: int) -> None:
        raise RuntimeError(f"broken in {threading.current_thread().name}")

    failing = type("Failing", (peers.Standard,), {"submit_all": submit_all})
    with peers.opened(failing) as peer, pytest.raises(RuntimeError, match="broken in Thread"):
        cases.submitters(40)(peer)


@pytest.mark.parametrize("gil", [True, False])
def test_a_build_without_a_gil_has_targets_of_its_own(bench: Import, gil: bool) -> None:
    targets = {case.name: case.target for case in bench("cases").cases(1.0, gil=gil)}
    assert tuple(targets) == CASES
    if sys.version_info < (3, 13):
        assert set(targets.values()) == {None}
    elif gil:
        assert targets == {"submit_result": 5.0, "map": 10.0, "submitters": None, "latency": 1.0, "memory": 5.0}
    else:
        assert targets == {"submit_result": 2.0, "map": 2.0, "submitters": None, "latency": None, "memory": None}


def test_only_memory_is_measured_with_more_room_than_by_default(bench: Import) -> None:
    """All of its tasks have to wait at once; where they need not, treadle keeps its ceiling."""
    room = {case.name: case.room for case in bench("cases").cases(1.0, gil=True)}
    assert room == {"submit_result": None, "map": None, "submitters": None, "latency": None, "memory": 5000}

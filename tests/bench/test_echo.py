"""The echo benchmark: what it is told, what it makes of the numbers, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
PROGRAM = str(Path(__file__).parents[2] / "bench" / "echo.py")
ROUTES = ["routes", "routes_fifth", "routes_levels", "routes_m", "routes_v", "routes_two", "routes_queue"]
NAMES = ["echo_64", "echo_1k", "echo_10k", "echo_100k", "slow", *ROUTES, "idle", "churn", "processes"]
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    NAMES.append("cores")
TRICKLES = ["trickle", "trickle_bytes", "trickle_file", "trickle_session"]
NAMES += ["stalled", "deaf", "silent", *TRICKLES]
PATIENCE = 200  # seconds; it takes two where nothing else runs


@pytest.fixture
def with_clients(bench: Import) -> None:
    """Skip where the clients cannot be compiled, and say why."""
    load = bench("load")
    try:
        load.compiled()
    except load.NoClients as reason:
        pytest.skip(str(reason))


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the benchmark; return its exit status and what it wrote to standard output and error."""
    command = (sys.executable, PROGRAM, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.usefixtures("with_clients")
def test_a_scenario_runs_and_is_written(tmp_path: Path) -> None:
    arguments = ("--quick", "--peers", "treadle,asyncio", "--output", str(tmp_path), "echo_1k", "slow")
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    records = {
        path.name.split(".")[0]: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")
    }
    assert set(records) == {"echo_1k", "slow"} == {path.name.split(".")[0] for path in tmp_path.glob("*.svg")}
    for record in records.values():
        assert record["medians"]["treadle"] > 0
        assert set(record["medians"]) == {"treadle", "asyncio"}
        assert record["title"] in output
        assert {target["verdict"] for target in record["targets"]} == {None}  # too little to be judged by
    assert "PASS" not in output
    assert "FAIL" not in output


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("speed", "unknown scenario speed"),
        ("--peers=twisted,asyncio", "unknown peer twisted;"),
        ("--rounds=0", "1 or more, not 0"),
        ("--seconds=0", "more than 0"),
        ("--seconds=nan", "more than 0"),
        ("--clients=0", "--clients has to be more than 0"),
        ("--mib=-1", "--mib has to be more than 0"),
        ("--pace=nan", "--pace has to be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_status_2(
    bench: Import, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        bench("echo").options_from([argument], NAMES)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_options(bench: Import) -> None:
    echo = bench("echo")
    options = echo.options_from([], NAMES)
    assert (options.rounds, options.settings, options.output) == (5, echo.Settings(), echo.RESULTS)
    options = echo.options_from(["--quick", "idle"], NAMES)
    assert (options.rounds, options.settings, options.output) == (1, echo.QUICK, None)
    options = echo.options_from(["--seconds=2.5", "--rounds", "3", "--peers", "go,treadle"], NAMES)
    assert options.settings == replace(echo.Settings(), seconds=2.5)
    assert (options.rounds, options.peers) == (3, ["go", "treadle"])
    options = echo.options_from(["--clients=100", "--mib=1", "--pace", "0.5", "trickle"], NAMES)
    assert options.settings == replace(echo.Settings(), trickling=100, answer=1.0, pace=0.5)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], [name for name in NAMES if name not in ROUTES[1:] + TRICKLES[1:]]),
        (["all"], NAMES),
        (["routes"], ["routes"]),
        (["routes", "all"], ROUTES),
        (["trickle", "all"], TRICKLES),
        (["slow", "all"], ["slow"]),
        (["routes_two", "idle"], ["routes_two", "idle"]),
    ],
)
def test_variants_are_measured_only_where_they_are_asked_for(bench: Import, words: list[str], names: list[str]) -> None:
    echo = bench("echo")
    options = echo.options_from(words, NAMES)
    assert [scenario.name for scenario in echo.chosen(echo.scenarios(), options.scenarios)] == names


def test_without_clients_nothing_is_measured_and_the_reason_is_told(
    bench: Import, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo, load = bench("echo"), bench("load")
    monkeypatch.setattr(load.shutil, "which", lambda name: None)
    monkeypatch.setattr(load.sys, "platform", "linux")
    assert echo.main([]) == 69
    output, errors = capsys.readouterr()
    assert output == ""
    assert "there is no compiler" in errors


def test_targets(bench: Import) -> None:
    found = {scenario.name: scenario for scenario in bench("echo_cases").scenarios()}
    assert list(found) == NAMES
    goals = {name: [f"{goal.value}/{goal.to} {goal}" for goal in found[name].goals] for name in NAMES}
    several = ["rate/uvloop >= 1x", "rate/asyncio >= 1.2x", "rate/gevent >= 1.7x", "rate/pool >= 1.5x"]
    assert goals["echo_64"] == [*several, "rate/loop >= 0.95x", "cpu/uvloop <= 1x"]
    assert goals["echo_1k"] == goals["echo_10k"] == [*several, "cpu/uvloop <= 1x"]
    assert goals["echo_100k"] == ["rate/uvloop >= 1x", "cpu/uvloop <= 1x"]
    assert goals["slow"] == ["kept/None >= 0.75x", "p99/None <= 3"]
    quick, slow = "p99/None <= 2", "slow_kept/None >= 0.8"
    assert goals["routes"] == goals["routes_fifth"] == goals["routes_queue"] == [quick, slow]
    assert goals["routes_levels"] == goals["routes_two"] == [quick]
    assert goals["routes_m"] == goals["routes_v"] == []
    assert goals["idle"] == ["kept/None >= 0.9x", "memory/None <= 100", "threads/None <= 0"]
    assert goals["churn"] == ["memory/None <= 1", "descriptors/None <= 0", "threads/None <= 0"]
    assert goals["trickle"] == goals["trickle_bytes"] == goals["trickle_file"] == ["left/None <= 0"]
    assert goals["trickle_session"] == []
    assert goals["stalled"] == ["kept/None >= 0.9x", "left/None <= 0", "late/None <= 1"]


@pytest.mark.parametrize(("cores", "goals"), [(2, []), (3, []), (4, [">= 1.8x"]), (64, [">= 1.8x"])])
def test_two_processes_are_judged_only_where_cores_are_free(
    bench: Import, monkeypatch: pytest.MonkeyPatch, cores: int, goals: list[str]
) -> None:
    cases = bench("echo_cases")
    monkeypatch.setattr(cases.os, "cpu_count", lambda: cores)
    (processes,) = (scenario for scenario in cases.scenarios() if scenario.name == "processes")
    assert list(map(str, processes.goals)) == goals


def outcome_of(bench: Import, ours: list[float], theirs: list[float], cpu: float = 1.0, judged: bool = True) -> Any:
    """Return the outcome of a scenario with these rates, and treadle's CPU time in terms of uvloop's."""
    cases, report = bench("echo_cases"), bench("echo_report")
    goals = [
        cases.Goal("rate", "replies/s to uvloop", "uvloop", least=1.0),
        cases.Goal("cpu", "CPU", "uvloop", most=1.0),
        cases.Goal("p99", "p99", most=3.0),
    ]
    scenario = cases.Scenario("some", "Some <scenario>", lambda peer, settings: {}, ("treadle", "uvloop"), goals)
    samples = {
        "treadle": [{"rate": rate, "cpu": 6.0 * cpu, "p99": 2.0} for rate in ours],
        "uvloop": [{"rate": rate, "cpu": 6.0, "p99": 1.0} for rate in theirs],
    }
    return report.Outcome(scenario, samples, {"go": "no go compiler"}, judged=judged)


def test_a_ratio_is_the_median_of_the_rounds(bench: Import) -> None:
    """The machine was slow in the second round, for both."""
    outcome = outcome_of(bench, [150.0, 30.0, 110.0], [100.0, 20.0, 100.0])
    rate = outcome.scenario.goals[0]
    assert outcome.measured(rate) == 1.5
    assert outcome.spread(rate) == (1.1, 1.5)
    assert outcome.median("treadle") == 110.0
    assert outcome.ratio("go") is None


@pytest.mark.parametrize(
    ("rate", "cpu", "verdicts"),
    [
        (100.0, 1.0, ["PASS", "PASS", "PASS"]),
        (99.0, 1.0, ["FAIL", "PASS", "PASS"]),
        (101.0, 1.01, ["PASS", "FAIL", "PASS"]),
    ],
)
def test_verdicts(bench: Import, rate: float, cpu: float, verdicts: list[str]) -> None:
    report = bench("echo_report")
    outcome = outcome_of(bench, [rate], [100.0], cpu)
    assert [report.verdict(outcome, goal) for goal in outcome.scenario.goals] == verdicts
    lines = report.summary([outcome]).splitlines()[1:]
    assert [line.split("x  " if "x  " in line else "3  ")[-1].split()[0] for line in lines] == verdicts
    failed = "FAIL" in verdicts
    assert report.status([outcome], forgiving=False) == failed
    assert report.status([outcome], forgiving=True) == 0


def test_nothing_is_judged_where_nothing_is_promised(bench: Import) -> None:
    report = bench("echo_report")
    outcome = outcome_of(bench, [1.0], [100.0], judged=False)
    assert {report.verdict(outcome, goal) for goal in outcome.scenario.goals} == {""}
    assert report.status([outcome], forgiving=False) == 0


def test_a_goal_whose_peer_is_absent_is_open(bench: Import) -> None:
    report = bench("echo_report")
    outcome = outcome_of(bench, [100.0], [100.0])
    del outcome.samples["uvloop"]
    assert [report.verdict(outcome, goal) for goal in outcome.scenario.goals] == ["", "", "PASS"]
    assert report.status([outcome], forgiving=False) == 0


@pytest.mark.parametrize("failed", [True, False])
def test_treadle_that_fails_is_never_forgiven_but_it_may_be_unavailable(bench: Import, failed: bool) -> None:
    report = bench("echo_report")
    outcome = outcome_of(bench, [100.0], [100.0])
    del outcome.samples["treadle"]
    outcome.absent["treadle"] = "some reason"
    outcome.failed = {"treadle"} if failed else set()
    assert report.status([outcome], forgiving=True) == failed
    assert "some reason" in report.table(outcome)
    assert report.summary([outcome])


def test_a_peer_that_did_not_answer_at_all_has_no_ratio(bench: Import) -> None:
    outcome = outcome_of(bench, [100.0], [0.0])
    assert outcome.ratio("uvloop") is None


def test_table_chart_and_record(bench: Import, tmp_path: Path) -> None:
    report = bench("echo_report")
    outcome = outcome_of(bench, [3000.0, 3000.0], [1500.0, 1500.0])
    title, first, second, last = report.table(outcome).splitlines()
    assert title == "Some <scenario>"
    assert first.split() == ["treadle", "3,000/s", "6.0", "µs", "CPU,", "p99", "2.00", "ms"]
    assert second.split()[:4] == ["uvloop", "1,500/s", "treadle", "2.00x"]
    assert last.split() == ["Go", "net,", "GOMAXPROCS=1", "-", "no", "go", "compiler"]
    report.write([outcome], report.environment(), tmp_path)
    (drawn,) = tmp_path.glob("some.py*.svg")
    words = [text.text for text in ElementTree.fromstring(drawn.read_text(encoding="utf-8")).iter() if text.text]
    assert "3,000, 6.0 µs CPU each" in words
    (written,) = tmp_path.glob("some.py*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    assert record["medians"] == {"treadle": 3000.0, "uvloop": 1500.0}
    assert record["ratios"] == {"treadle": 1.0, "uvloop": 2.0}
    assert record["samples"] == outcome.samples
    assert record["absent"] == {"go": "no go compiler"}
    assert [target["verdict"] for target in record["targets"]] == ["PASS", "PASS", "PASS"]
    assert record["targets"][0] == {
        "what": "replies/s to uvloop",
        "target": ">= 1x",
        "measured": 2.0,
        "verdict": "PASS",
    }


def test_rounds_take_turns_and_a_peer_that_fails_is_left_out(bench: Import) -> None:
    echo, cases = bench("echo"), bench("echo_cases")
    asked: list[str] = []

    def measure(peer: str, settings: Any) -> dict[str, float]:
        asked.append(peer)
        if peer == "go":
            raise echo.Unavailable("no go compiler")
        if peer == "gevent" and asked.count("gevent") == 2:
            raise echo.ServerFailed("no echo")
        return {"rate": 1.0}

    scenario = cases.Scenario("some", "Some", partial(cases.afresh, measure), (), rounds=3)
    outcome = echo.run(scenario, ("treadle", "go", "gevent"), 5, echo.QUICK)
    assert asked == ["treadle", "go", "gevent", "gevent", "treadle", "treadle"]
    assert outcome.samples == {"treadle": [{"rate": 1.0}] * 3}
    assert outcome.absent == {"go": "no go compiler", "gevent": "no echo"}
    assert outcome.failed == {"gevent"}
    assert not outcome.judged


def test_a_round_of_slices_has_every_server_at_once_and_measures_them_in_turn(bench: Import) -> None:
    echo, cases = bench("echo"), bench("echo_cases")
    seen: list[str] = []

    @contextmanager
    def opened(peer: str, settings: Any) -> Iterator[Callable[[], dict[str, float]]]:
        if peer == "go":
            raise echo.Unavailable("no go compiler")

        def measure() -> dict[str, float]:
            seen.append(peer)
            return {"rate": 1.0}

        seen.append(f"{peer} begins")
        yield measure
        seen.append(f"{peer} ends")

    scenario = cases.Scenario("some", "Some", opened, (), slices=2)
    outcome = echo.run(scenario, ("treadle", "go", "pool"), 1, echo.QUICK)
    begun, turns, ended = seen[:2], seen[2:-2], seen[-2:]
    assert (begun, ended) == (["treadle begins", "pool begins"], ["pool ends", "treadle ends"])
    assert turns == ["treadle", "pool", "pool", "treadle"]
    assert {peer: len(samples) for peer, samples in outcome.samples.items()} == {"treadle": 2, "pool": 2}
    assert outcome.absent == {"go": "no go compiler"}


def test_routes_are_told_apart(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, flags, asked = bench("echo_cases"), list[str](), dict[str, float]()
    found = {
        "seconds": 5.0,
        "q": {"per_second": 900.0, "p50_us": 100.0, "p99_us": 200.0, "p999_us": 300.0, "max_us": 400.0},
        "m": {"per_second": 450.0, "p50_us": 5500.0, "p99_us": 6500.0, "p999_us": 7500.0, "max_us": 8500.0},
        "s": {"per_second": 0.0, "replies": 0},
    }

    def load(**options: float) -> dict[str, Any]:
        asked.update(options)
        return found

    @contextmanager
    def serving(*words: str) -> Iterator[Any]:
        flags.extend(words)
        yield SimpleNamespace(load=load)

    monkeypatch.setattr(cases, "serving", serving)
    mix = cases.Mix("some", "Some", "q", {"q": 10, "m": 5, "s": 1}, threads=4, queue_size=3)
    quick = {"rate": 900.0, "p50": 0.1, "p99": 0.2, "p999": 0.3, "max": 0.4}
    medium = {"m": 450.0, "m_p50": 5.5, "m_p99": 6.5}
    none_came_back = {"slow": 0.0, "slow_p50": 5000.0, "slow_kept": 0.0}
    assert cases.routes(mix, "treadle", cases.Settings()) == quick | medium | none_came_back
    assert flags == ["treadle", "--routes", "--threads", "4", "--queue-size", "3"]
    assert asked == {"connections": 64, "seconds": 5.0, "warmup": 1.0, "q": 10, "m": 5, "s": 1}
    found["s"] = {"per_second": 30.0, "replies": 150, "p50_us": 120_000.0}
    medium = {"rate": 450.0, "p50": 5.5, "p99": 6.5, "p999": 7.5, "max": 8.5}
    slow = {"slow": 30.0, "slow_p50": 120.0, "slow_kept": 0.75}
    mix = replace(mix, quick="m", weights={"m": 5, "s": 1})
    assert cases.routes(mix, "treadle", cases.Settings()) == medium | slow


@pytest.mark.usefixtures("with_clients")
def test_a_mix_of_all_routes_is_measured(bench: Import) -> None:
    cases = bench("echo_cases")
    mix = cases.Mix("some", "Some", "v", {"v": 20, "v_sleeps": 1, "m": 4}, queue_size=8)
    values = cases.routes(mix, "treadle", cases.QUICK)
    assert values["rate"] > 0
    assert values["slow_p50"] >= 100
    assert values["m_p50"] >= 5


@pytest.mark.usefixtures("with_clients")
def test_routes_run_and_are_written(tmp_path: Path) -> None:
    status, output, errors = run("--quick", "--output", str(tmp_path), "routes")
    assert (status, errors) == (0, "")
    (path,) = tmp_path.iterdir()  # there is nothing to compare, and no chart
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["scenario"] == "routes"
    assert {"rate", "p50", "p99", "p999", "slow", "slow_p50", "slow_kept"} <= set(record["values"]["treadle"])
    assert [target["what"] for target in record["targets"]] == [
        "p99 of the quick, milliseconds",
        "the slow/s to 8 threads' 80/s",
    ]
    assert record["title"] in output


@pytest.mark.usefixtures("with_clients")
def test_a_server_that_fails_its_clients_is_quoted(bench: Import) -> None:
    peers = bench("echo_peers")
    with peers.serving("asyncio") as server, pytest.raises(peers.ServerFailed, match="see --help; asyncio still runs"):
        server.load(no_such_option=1)


def test_idle_connections_want_descriptors(bench: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, servers = bench("echo_cases"), bench("echo_servers")
    monkeypatch.setattr(cases.resource, "getrlimit", lambda which: (1024, 4096))
    with pytest.raises(servers.Unavailable, match="4096, is too low"):
        cases.idle("treadle", cases.Settings())

"""The benchmark of web servers: what it is told, what it makes of the numbers, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
PROGRAM = str(Path(__file__).parents[2] / "bench" / "wsgi.py")
NAMES = ["bare", "browser", "flask", "upload", "download", "file", "routes"]
PATIENCE = 200  # seconds; it takes some where nothing else runs


@pytest.fixture
def with_clients(bench: Import) -> None:
    """Skip where there is no wrk, and say why."""
    try:
        bench("wsgi_load").wrk()
    except bench("load").NoClients as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("with_clients")
@pytest.mark.skipif(find_spec("waitress") is None, reason="waitress is not installed")
def test_cases_run_and_are_written(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "--quick", "--peers", "treadle,waitress", "--output", str(tmp_path)]
    command += ["--cases", "browser,routes"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    records = {
        path.name.split(".")[0]: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")
    }
    assert set(records) == {"wsgi_browser", "wsgi_routes"}
    for record in records.values():
        assert record["values"]["waitress"]["cpu"] > 0
        assert {target["verdict"] for target in record["targets"]} == {None}  # too little to be judged by
        assert record["title"] in done.stdout
    assert records["wsgi_routes"]["values"]["waitress"]["slow_p50"] >= 100
    assert "PASS" not in done.stdout
    assert "FAIL" not in done.stdout


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--cases=speed,bare", "unknown case speed;"),
        ("--peers=bjoern,granian", "unknown peer bjoern;"),
        ("--rounds=0", "1 or more, not 0"),
        ("--seconds=0", "1 or more"),
        ("--seconds=0.5", "invalid int"),
    ],
)
def test_what_makes_no_sense_is_refused_with_status_2(
    bench: Import, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        bench("wsgi").options_from([argument], NAMES)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_options(bench: Import) -> None:
    wsgi = bench("wsgi")
    options = wsgi.options_from([], NAMES)
    assert (options.rounds, options.settings, options.output) == (5, wsgi.Settings(), wsgi.RESULTS)
    options = wsgi.options_from(["--quick"], NAMES)
    assert (options.rounds, options.settings, options.output) == (1, wsgi.QUICK, None)
    options = wsgi.options_from(["--seconds=3", "--rounds=7", "--peers=granian,treadle", "--cases=file"], NAMES)
    assert (options.settings.seconds, options.rounds) == (3, 7)
    assert (options.peers, options.cases) == (["granian", "treadle"], ["file"])


def test_without_clients_nothing_is_measured_and_the_reason_is_told(
    bench: Import, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wsgi, load = bench("wsgi"), bench("wsgi_load")
    monkeypatch.setattr(load.shutil, "which", lambda name: None)
    monkeypatch.setattr(load.sys, "platform", "linux")
    assert wsgi.main([]) == 69
    output, errors = capsys.readouterr()
    assert output == ""
    assert "apt-get install wrk" in errors


def test_targets(bench: Import) -> None:
    found = {case.name: case for case in bench("wsgi_cases").cases()}
    assert list(found) == NAMES
    goals = {name: [f"{goal.value}/{goal.to} {goal}" for goal in found[name].goals] for name in NAMES}
    hello = ["cpu/granian <= 0.8x", "cpu/gunicorn <= 0.125x", "cpu/waitress <= 0.125x"]
    assert goals["bare"] == goals["browser"] == hello
    assert goals["flask"] == ["cpu/granian <= 1x"]
    fastest = ["cpu/granian <= 1x", "cpu/gunicorn <= 1x", "cpu/waitress <= 1x"]
    assert goals["upload"] == goals["download"] == goals["file"] == fastest
    assert goals["routes"] == ["p99/None <= 5"]


def test_a_browser_sends_eleven_fields(bench: Import) -> None:
    (browser,) = next(case for case in bench("wsgi_cases").cases() if case.name == "browser").requests
    first, *fields, last, rest = browser.split(b"\r\n")
    assert (first, last, rest) == (b"GET / HTTP/1.1", b"", b"")
    assert len(fields) == len({field.partition(b":")[0].lower() for field in fields}) == 11
    assert 540 <= len(browser) <= 640


def found(**changes: Any) -> dict[str, Any]:
    """Return what wrk finds in two seconds, and the processor time of the server."""
    everything = {"requests": 1000, "bytes": 5000, "duration_us": 2e6, "p50_us": 500, "p99_us": 1500, "odd": 0}
    return {"all": everything, "errors": {}, "cpu_s": 0.5, **changes}


def test_processor_time_is_divided_by_requests(bench: Import) -> None:
    cases = bench("wsgi_cases")
    case = cases.Case("some", "Some", "hello", [b""], b"")
    assert cases.values(case, found()) == {"rate": 500.0, "cpu": 500.0, "p50": 0.5, "p99": 1.5}


def test_requests_whose_answer_is_large_are_counted_by_its_bytes(bench: Import) -> None:
    cases = bench("wsgi_cases")
    case = cases.Case("some", "Some", "file", [b""], b"", size=2000)
    assert cases.values(case, found()) == {"rate": 1.25, "cpu": 200_000.0, "p50": 0.5, "p99": 1.5}


def test_the_quick_are_told_from_the_slow(bench: Import) -> None:
    cases = bench("wsgi_cases")
    case = cases.Case("some", "Some", "routes", [b"", b""], b"")
    quick = {"count": 950, "p50_us": 200, "p99_us": 3000}
    slow = {"count": 50, "p50_us": 110_000, "p99_us": 120_000}
    values = {"rate": 475.0, "cpu": 500.0, "p50": 0.2, "p99": 3.0, "slow": 25.0, "slow_p50": 110.0}
    assert cases.values(case, found(q=quick, s=slow)) == values
    values |= {"slow": 0.0, "slow_p50": 2000.0}  # none came back: as long as was waited
    assert cases.values(case, found(q=quick)) == values


def outcome_of(bench: Import, ours: list[float], theirs: list[float], requests: int = 1) -> Any:
    """Return the outcome of a case with these processor times."""
    cases, report = bench("wsgi_cases"), bench("wsgi_report")
    goal = bench("echo_cases").Goal("cpu", "CPU a request to granian", "granian", most=0.8)
    case = cases.Case("some", "Some <case>", "hello", [b""] * requests, b"", [goal])
    samples = {
        "granian": [{"rate": 1000.0, "cpu": cpu, "p99": 100.0} for cpu in theirs],
        "treadle": [{"rate": 3000.0, "cpu": cpu, "p99": 5.0} for cpu in ours],
    }
    return report.Outcome(case, samples, {"cheroot": "not installed"})


@pytest.mark.parametrize(("cpu", "verdict"), [(15.9, "PASS"), (16.1, "FAIL")])
def test_verdicts(bench: Import, cpu: float, verdict: str) -> None:
    report = bench("wsgi_report")
    outcome = outcome_of(bench, [cpu], [20.0])
    assert verdict in report.summary([outcome])
    assert report.status([outcome], forgiving=False) == (verdict == "FAIL")
    assert report.status([outcome], forgiving=True) == 0


def test_a_ratio_is_the_median_of_the_rounds(bench: Import) -> None:
    """The machine was slow in the second round, for both."""
    outcome = outcome_of(bench, [10.0, 60.0, 12.0], [20.0, 100.0, 20.0])
    assert outcome.ratio("granian", "cpu") == 0.6


def test_table_chart_and_record(bench: Import, tmp_path: Path) -> None:
    report = bench("wsgi_report")
    outcome = outcome_of(bench, [10.0, 12.0], [20.0, 24.0])
    title, first, second, last = report.table(outcome).splitlines()
    assert title == "Some <case>"
    assert first.split() == ["treadle", "3,000/s", "11.0", "µs", "CPU,", "p99", "5.00", "ms"]
    assert second.split()[:6] == ["granian", "treadle", "0.50", "of", "its", "cpu"]
    assert last.split() == ["cheroot", "-", "not", "installed"]
    report.write([outcome], report.environment(), tmp_path)
    (drawn,) = tmp_path.glob("wsgi_some.py*.svg")
    words = [text.text for text in ElementTree.fromstring(drawn.read_text(encoding="utf-8")).iter() if text.text]
    assert "11.0 µs, 3,000/s" in words
    assert any("shorter is better" in text for text in words)
    (written,) = tmp_path.glob("wsgi_some.py*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    assert list(record["values"]) == ["treadle", "granian"]
    assert record["ratios"] == {
        "treadle": {"rate": 1.0, "cpu": 1.0, "p99": 1.0},
        "granian": {"rate": 3.0, "cpu": 0.5, "p99": 0.05},
    }
    assert record["samples"] == outcome.samples
    assert record["absent"] == {"cheroot": "not installed"}


def test_where_some_sleep_the_wait_of_the_quick_is_compared(bench: Import) -> None:
    report = bench("wsgi_report")
    outcome = outcome_of(bench, [30.0], [20.0], requests=2)
    assert report.best_first(outcome) == ["treadle", "granian"]
    assert "treadle 0.05 of its p99" in report.table(outcome)

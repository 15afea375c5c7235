"""The benchmark of overload: what it is told, what it makes of the numbers, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
PROGRAM = str(Path(__file__).parents[2] / "bench" / "overload.py")
NAMES = ["goodput", "tenants", "limit", "cost", "tcp"]
ORDERS = ("adaptive", "priority", "priority-10", "fair", "fair-10")
PATIENCE = 200  # seconds; it takes eight where nothing else runs


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the benchmark; return its exit status and what it wrote to standard output and error."""
    command = (sys.executable, PROGRAM, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def at(whom: Iterable[str], where: Sequence[str]) -> list[str]:
    """Return the names of rows."""
    return [f"{name}@{place}" for name in whom for place in where]


def test_every_case_runs_and_is_written(tmp_path: Path) -> None:
    status, output, errors = run("--quick", "--output", str(tmp_path))
    assert (status, errors) == (0, "")
    records = {
        path.name.split(".")[0]: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")
    }
    assert set(records) == set(NAMES) == {path.name.split(".")[0] for path in tmp_path.glob("*.svg")}
    for record in records.values():
        assert record["title"] in output
        assert record["environment"]["workers"] == 8
        assert {target["verdict"] for target in record["targets"]} == {None}  # too little to be judged by
    assert "PASS" not in output
    assert "FAIL" not in output
    assert records["goodput"]["medians"]["capacity.rate"] > 0
    assert records["cost"]["medians"]["fifo@100.to_fifo"] == 1
    assert records["tcp"]["medians"]["adaptive.misplaced"] == 0
    rows = {name: set(record["samples"][0]) for name, record in records.items()}
    loads, states = ("0.8x", "5x"), ("before", "slowed", "recovered")
    assert rows["goodput"] == {"capacity", *at(("standard", "fifo", "adaptive"), loads)}
    assert rows["tenants"] == {"capacity", "alone", "fair", "fifo"}
    assert rows["limit"] == {*at(("limit", "without"), states)}
    assert rows["cost"] == {*at(("fifo", "fifo-view", *ORDERS), ("1", "100"))}
    assert rows["tcp"] == {"capacity", "adaptive", "fifo"}


def test_named_cases_are_measured_alone_and_quick_ones_are_written_nowhere() -> None:
    status, output, _ = run("--quick", "cost")
    assert status == 0
    assert "What an order costs" in output
    assert "beside one that floods" not in output
    assert "wrote" not in output


@pytest.mark.parametrize(("argument", "said"), [("speed", "unknown case speed;"), ("--rounds=0", "1 or more, not 0")])
def test_what_makes_no_sense_is_refused_with_status_2(
    bench: Import, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        bench("overload").options_from([argument], NAMES)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_options(bench: Import) -> None:
    overload = bench("overload")
    options = overload.options_from([], NAMES)
    assert (options.rounds, options.quick, options.no_targets, options.output) == (3, False, False, overload.RESULTS)
    options = overload.options_from(["--quick", "tcp"], NAMES)
    assert (options.rounds, options.cases, options.output) == (1, ["tcp"], None)
    options = overload.options_from(["--quick", "--rounds", "2", "--no-targets", "--output", "here"], NAMES)
    assert (options.rounds, options.no_targets, options.output) == (2, True, Path("here"))


def test_targets(bench: Import) -> None:
    found = {case.name: case for case in bench("overload_cases").cases(bench("overload_load").Settings())}
    assert list(found) == NAMES
    goals = {name: [f"{goal.row} {goal.value} {goal}" for goal in case.goals] for name, case in found.items()}
    loads = [[f"adaptive@{load}x kept >= 0.95", f"adaptive@{load}x p99 <= 100"] for load in ("1.5", "2", "5", "10")]
    assert goals["goodput"] == ["adaptive@0.8x refused <= 0", *sum(loads, [])]
    assert goals["tenants"] == ["fair p99 to alone <= 2"]
    kept = ["limit@before kept >= 0.9", "limit@slowed kept >= 0.9"]
    assert goals["limit"] == [*kept, "limit@recovered to before >= 0.9"]
    assert goals["cost"] == [f"{order}@{depth} to fifo >= 0.6" for depth in (1, 100, 100_000) for order in ORDERS]
    none = ["adaptive misplaced <= 0", "adaptive lost <= 0"]
    assert goals["tcp"] == ["adaptive kept >= 0.9", "adaptive refused p99 <= 150", *none]


@pytest.mark.parametrize(
    ("measured", "limits", "reached"),
    [
        (0.95, {"least": 0.95}, True),
        (0.949, {"least": 0.95}, False),
        (2.0, {"most": 2.0}, True),
        (2.01, {"most": 2.0}, False),
        (0.0, {"most": 0.0}, True),
        (0.1, {"most": 0.0}, False),
        (None, {"least": 0.95}, False),
        (None, {"most": 2.0}, False),
    ],
)
def test_a_goal_is_reached_at_it_and_never_by_what_could_not_be_measured(
    bench: Import, measured: float | None, limits: dict[str, float], reached: bool
) -> None:
    assert bench("overload_cases").Goal("row", "value", "what", **limits).reached(measured) is reached


def outcome_of(bench: Import, *kept: float, judged: bool = True) -> Any:
    """Return an outcome in which a row kept so much, round by round; another has answered in one round only."""
    cases, report = bench("overload_cases"), bench("overload_report")
    goals = [cases.Goal("ours@5x", "kept", "kept of <it>", least=0.95)]
    case = cases.Case("tcp", "Some <case>", ("kept", "p99"), lambda settings, number: {}, goals)
    rounds = [
        {"capacity": {"rate": 990.0}, "ours@5x": {"kept": value, "p99": 12.0}, "theirs": {"kept": 0.0}}
        for value in kept
    ]
    rounds[0]["theirs"]["p99"] = 700.0
    return report.Outcome(case, rounds, judged=judged)


@pytest.mark.parametrize(
    ("kept", "judged", "verdict", "status"),
    [
        ((0.9, 0.97, 0.96), True, "PASS", 0),
        ((0.9, 0.94, 0.99), True, "FAIL", 1),
        ((0.9, 0.94, 0.99), False, "", 0),
    ],
)
def test_the_median_of_the_rounds_is_judged(
    bench: Import, kept: tuple[float, ...], judged: bool, verdict: str, status: int
) -> None:
    report, outcome = bench("overload_report"), outcome_of(bench, *kept, judged=judged)
    assert report.verdict(outcome, outcome.case.goals[0]) == verdict
    assert report.status([outcome_of(bench, 1.0), outcome], forgiving=False) == status
    assert report.status([outcome], forgiving=True) == 0
    assert ("FAIL" in report.summary([outcome])) is (verdict == "FAIL")
    assert "(0.900 to 0.9" in report.summary([outcome])


def test_what_one_round_has_no_value_of_has_no_median(bench: Import) -> None:
    outcome = outcome_of(bench, 0.9, 0.97, 0.96)
    assert outcome.median("ours@5x", "p99") == 12.0
    assert outcome.median("theirs", "p99") is None
    assert outcome.median("nobody", "kept") is None
    assert outcome.values("theirs") == {"kept": 0.0}


def test_clients_that_fail_are_told_and_never_forgiven(bench: Import) -> None:
    overload, report, failed = bench("overload"), bench("overload_report"), bench("overload_tcp").ClientsFailed
    case = outcome_of(bench, 1.0).case

    def measure(settings: Any, number: int) -> dict[str, Any]:
        if number == 1:
            raise failed("the server closed a connection")
        return {"ours@5x": {"kept": 1.0}}

    case = type(case)(case.name, case.title, case.first, measure, case.goals)
    outcome = overload.run(case, 3, None, judged=True)
    assert len(outcome.rounds) == 1
    assert "failed: the server closed a connection" in report.table(outcome)
    assert report.status([outcome], forgiving=True) == 1


def test_a_case_without_a_round_is_reported_as_missed(bench: Import) -> None:
    report, outcome = bench("overload_report"), outcome_of(bench, 1.0)
    outcome.rounds.clear()
    outcome.failed = "it broke"
    assert "FAIL" in report.summary([outcome])
    assert report.record(outcome, {})["failed"] == "it broke"


def test_what_is_written_holds_every_sample_and_names_medians_without_spaces(bench: Import, tmp_path: Path) -> None:
    """Marks in the READMEs name them, and end a name at a space."""
    report = bench("overload_report")
    outcome = outcome_of(bench, 0.9, 0.97, 0.96)
    for rows in outcome.rounds:
        rows["ours@5x"]["refused p99"] = 13.0
    report.write([outcome], report.environment(), tmp_path / "new")
    stem = tmp_path / "new" / f"tcp.{bench('report').python_tag()}"
    record = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
    assert record["samples"] == outcome.rounds
    assert record["medians"]["ours@5x.kept"] == 0.96
    assert record["medians"]["ours@5x.refused_p99"] == 13.0
    assert record["targets"][0]["verdict"] == "PASS"
    assert record["failed"] is None
    ElementTree.parse(stem.with_name(stem.name + ".svg"))

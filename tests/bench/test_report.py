"""Verdicts, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("report")


def outcome_of(bench: Import, ratio: float, target: float | None, unit: str = "tasks/s") -> Any:
    """Return the outcome of a case in which treadle was `ratio` times as good as the standard library."""
    measure, report = bench("measure"), bench("report")
    case = measure.Case("some", "Some case", unit, lambda peer: None, target)
    sample = measure.Sample
    samples = {report.BASE: [sample(ratio)], report.OURS: [sample(1.0)], report.NOISE: [sample(ratio)]}
    return measure.Outcome(case, samples, {"pebble": "not installed"})


@pytest.mark.parametrize(
    ("ratio", "target", "missed"), [(5.0, 5.0, False), (4.99, 5.0, True), (9.0, 5.0, False), (0.1, None, False)]
)
def test_a_target_is_missed_below_it_only(
    bench: Import, module: ModuleType, ratio: float, target: float | None, missed: bool
) -> None:
    outcome = outcome_of(bench, ratio, target)
    assert module.missed(outcome) is missed
    assert ("FAIL" in module.summary([outcome])) is missed
    assert ("PASS" in module.summary([outcome])) is (target is not None and not missed)


def test_one_missed_target_makes_the_status_1_unless_forgiven(bench: Import, module: ModuleType) -> None:
    outcomes = [outcome_of(bench, 9.0, 5.0), outcome_of(bench, 4.0, 5.0), outcome_of(bench, 9.0, 5.0)]
    assert module.status(outcomes, forgiving=False) == 1
    assert module.status(outcomes, forgiving=True) == 0
    assert module.status(outcomes[:1], forgiving=False) == 0


@pytest.mark.parametrize(
    ("unit", "cost", "text"),
    [("tasks/s", 0.0001, "10,000 tasks/s"), ("µs", 0.0000123, "12.3 µs"), ("bytes", 1234.4, "1,234 bytes")],
)
def test_costs_are_shown_in_the_unit_of_the_case(module: ModuleType, unit: str, cost: float, text: str) -> None:
    assert module.shown(unit, cost) == text


def test_the_table_has_the_best_first_and_says_why_a_peer_is_absent(bench: Import, module: ModuleType) -> None:
    title, first, *_, last = module.table(outcome_of(bench, 2.0, None)).splitlines()
    assert title == "Some case"
    assert first.split()[:1] == ["treadle"]
    assert "2.00x" in first
    assert last.split() == ["pebble", "-", "not", "installed"]


@pytest.mark.parametrize(
    ("load", "processors", "warns"),
    [(0.99, 2, False), (1.0, 2, True), (1.0, 8, False), (None, 2, False), (1.0, None, True)],
)
def test_a_busy_machine_is_mentioned(
    module: ModuleType, load: float | None, processors: int | None, warns: bool
) -> None:
    assert bool(module.busy({"load at start": load, "processors": processors})) is warns


def test_what_is_written_holds_every_sample_and_the_versions(bench: Import, module: ModuleType, tmp_path: Path) -> None:
    module.write([outcome_of(bench, 2.0, 5.0)], module.environment(), tmp_path / "new")
    stem = tmp_path / "new" / f"some.{module.python_tag()}"
    record = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
    assert record["samples"] == {module.BASE: [2.0], module.OURS: [1.0], module.NOISE: [2.0]}
    assert record["ratios"][module.OURS] == 2.0
    assert record["absent"] == {"pebble": "not installed"}
    assert record["environment"]["workers"] == 4
    assert set(record["environment"]["versions"]) >= {"treadle", "pebble", "joblib", "anyio", "trio"}
    ElementTree.parse(stem.with_name(stem.name + ".svg"))

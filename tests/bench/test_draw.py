"""Charts of records: in plain words, of nothing but the record, and in bench/results those of the records there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
RESULTS = Path(__file__).parents[2] / "bench" / "results"
RECORDS = sorted(RESULTS.glob("*.json"))
ENVIRONMENT = {
    "python": "CPython 3.13.0 (main, May 9 2026) [GCC]",
    "gil": True,
    "processor": "Some Processor",
    "processors": 2,
    "began": "2026-11-27T16:41:17+00:00",
    "workers": 4,
    "versions": {"treadle": "1.2", "pebble": "3.4", "joblib": "5.6", "trio": None},
}


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("draw")


def pool(unit: str = "tasks/s", **changes: Any) -> dict[str, Any]:
    """Return the record of a case in which treadle costs a half of what the standard library's pool does."""
    samples = {
        "treadle": [0.001, 0.0005, 0.002],
        "concurrent.futures, again": [0.002, 0.002, 0.002],
        "concurrent.futures": [0.002, 0.002, 0.004],
    }
    return {
        "case": "some",
        "title": "Some <case>",
        "shown in": unit,
        "environment": ENVIRONMENT,
        "medians": {"treadle": 0.001, "concurrent.futures, again": 0.002, "concurrent.futures": 0.002},
        "ratios": {"treadle": 2.0, "concurrent.futures, again": 1.0, "concurrent.futures": 1.0},
        "tails": {},
        "absent": {"joblib (threading)": "has no submit"},
        "samples": samples,
        **changes,
    }


def server(scenario: str, **values: float) -> dict[str, Any]:
    """Return the record of a scenario in which treadle gives twice as many replies as asyncio."""
    rates = {"treadle": [3000.0, 2900.0, 3200.0], "asyncio": [1500.0, 1500.0, 1500.0]}
    return {
        "scenario": scenario,
        "title": "Some scenario",
        "environment": ENVIRONMENT,
        "values": {"treadle": {"rate": 3000.0, **values}, "asyncio": {"rate": 1500.0, **values}},
        "absent": {"go": "no go compiler"},
        "samples": {peer: [{"rate": rate} for rate in several] for peer, several in rates.items()},
    }


def overload(case: str, promised: list[str], *rounds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the record of a case; the second round is the median one."""
    values = {
        f"{row}.{name.replace(' ', '_')}": value
        for row, found in rounds[1 % len(rounds)].items()
        for name, value in found.items()
    }
    return {
        "case": case,
        "title": "Some overload",
        "environment": ENVIRONMENT,
        "targets": [{"row": row} for row in promised],
        "medians": values,
        "samples": list(rounds),
    }


def texts_in(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter() if text.tag.endswith("}text")]


def widths_in(svg: str) -> list[float]:
    rects = (rect for rect in ElementTree.fromstring(svg).iter() if rect.get("class") in {"bar", "ours"})
    return [float(rect.get("width", "")) for rect in rects]


# -- what lies in bench/results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_chart_in_results_is_that_of_its_record(module: ModuleType, path: Path) -> None:
    """`python bench/figures.py` draws all of them anew."""
    drawn, chart = module.draw(json.loads(path.read_text(encoding="utf-8"))), path.with_suffix(".svg")
    if drawn is None:
        assert not chart.exists()
    else:
        assert chart.read_bytes() == drawn.encode()


def test_there_is_no_chart_without_a_record() -> None:
    assert {path.stem for path in RESULTS.glob("*.svg")} <= {path.stem for path in RECORDS}
    assert RECORDS


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.svg")), ids=lambda path: path.stem)
def test_a_chart_in_results_names_machine_cores_date_and_versions_and_what_is_better(path: Path) -> None:
    surroundings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["environment"]
    _, subtitle, *words = texts_in(path.read_text(encoding="utf-8"))
    text = " ".join(words)
    assert f"{surroundings['processor']}, {surroundings['processors']} cores, {surroundings['began'][:10]}" in text
    assert f"treadle {surroundings['versions']['treadle']}" in text
    assert f"CPython {surroundings['python'].split()[1]}" in text
    assert ("free-threaded" in text) is not surroundings["gil"]
    assert "is better" in subtitle


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.svg")), ids=lambda path: path.stem)
def test_a_chart_in_results_has_no_name_of_a_row(path: Path) -> None:
    """What is called `adaptive@10x`, `fair-10` or `limit@slowed` in records is told in words."""
    text = " ".join(texts_in(path.read_text(encoding="utf-8")))
    assert not re.search(r"@|\b(adaptive|fifo|fair|priority)(-\w+)?(?!\")\b|in chunks:|refused", text)


# -- pools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "longest", "better", "end"),
    [
        ("tasks/s", 0, "longer is better", "1,000 (2.00x)"),
        ("µs", 1, "shorter is better", "1,000.0 (2.00x)"),
        ("bytes", 1, "shorter is better", "0 (2.00x)"),
    ],
)
def test_rates_are_drawn_as_rates_and_which_end_is_better_is_said(
    module: ModuleType, unit: str, longest: int, better: str, end: str
) -> None:
    drawn = module.draw(pool(unit))
    widths = widths_in(drawn)
    assert len(widths) == 2, "the bar that shows only the noise is left out"
    assert widths[longest] == max(widths)
    title, subtitle, *rest = texts_in(drawn)
    assert title == "Some <case>"
    assert better in subtitle
    assert rest[:3] == ["treadle.Pool", end, "ThreadPoolExecutor"]


def test_a_whisker_goes_from_the_lowest_round_to_the_highest(module: ModuleType, bench: Import) -> None:
    """A round of 0.5 ms is the fastest there is, twice the median; the slowest takes 2 ms."""
    chart, drawn = bench("chart"), module.draw(pool())
    whisker = re.search(r'class="range" d="M([\d.]+) .*H([\d.]+)', drawn)
    assert whisker is not None
    assert [float(end) for end in whisker.groups()] == [chart.LABELS + chart.BARS / 4, chart.LABELS + chart.BARS]


def test_the_99th_percentile_stands_beside_the_median(module: ModuleType) -> None:
    assert "1,000.0, p99 3,000.0 (2.00x)" in texts_in(module.draw(pool("µs", tails={"treadle": 0.003})))


def test_versions_are_those_of_the_peers_that_are_shown_and_why_others_are_not_is_said(module: ModuleType) -> None:
    *_, often, versions, absent = texts_in(module.draw(pool()))
    assert often == (
        "Medians of 3 measurements; whiskers: the lowest and the highest. Some Processor, 2 cores, 2026-11-27."
    )
    assert versions == "CPython 3.13.0, treadle 1.2."
    assert absent == "Not measured: joblib, threads (has no submit)."


def test_one_peer_alone_has_no_chart(module: ModuleType) -> None:
    """Beside itself it is alone too."""
    assert module.draw(pool(samples={"treadle": [1.0]})) is None
    assert module.draw(pool(samples={"concurrent.futures": [1.0], "concurrent.futures, again": [1.0]})) is None
    assert module.draw({**server("slow"), "samples": {"treadle": [{"rate": 1.0}]}}) is None


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "values", "end"),
    [
        ("echo_1k", {"cpu": 5.61, "p99": 2.0}, "3,000, 5.6 µs CPU each"),
        ("slow", {"kept": 0.9, "p99": 2.04}, "3,000, p99 2.0 ms"),
        ("idle", {"kept": 0.9, "memory": 57.1, "p99": 2.0}, "3,000, 57 MiB resident"),
        ("churn", {"memory": 0.0, "threads": 0.0}, "3,000"),
    ],
)
def test_what_stands_beside_a_rate(module: ModuleType, scenario: str, values: dict[str, float], end: str) -> None:
    _, subtitle, *rest = texts_in(module.draw(server(scenario, **values)))
    assert "a second" in subtitle
    assert rest[:3] == ["treadle.Server", end, "asyncio"]
    assert rest[-1] == "Not measured: Go, 1 core (no go compiler)."


def test_a_single_measurement_has_no_whisker(module: ModuleType) -> None:
    record = server("churn")
    record["samples"] = {peer: samples[:1] for peer, samples in record["samples"].items()}
    drawn = module.draw(record)
    assert 'class="range"' not in drawn
    assert "One measurement each." in " ".join(texts_in(drawn))


# -- overload ---------------------------------------------------------------------------------------------------------


def test_goodput_is_a_line_for_each_pool_over_the_load(module: ModuleType) -> None:
    rounds = [
        {"capacity": {"rate": 990.0}, **{f"{name}@{load}x": {"kept": kept} for name, load, kept in measured}}
        for measured in (
            [("standard", 0.8, 0.8), ("adaptive", 0.8, 0.8), ("standard", 10, 0.0), ("adaptive", 10, 0.9)],
            [("standard", 0.8, 0.8), ("adaptive", 0.8, 0.8), ("standard", 10, 0.0), ("adaptive", 10, 0.95)],
        )
    ]
    drawn = module.draw(overload("goodput", ["adaptive@10x"], *rounds))
    texts = texts_in(drawn)
    assert {"ThreadPoolExecutor: 0%", 'treadle, order="adaptive": 95%', "0.8", "10"} <= set(texts)
    assert "offered load, in multiples of capacity" in texts
    classes = [line.get("class") for line in ElementTree.fromstring(drawn).iter() if line.tag.endswith("polyline")]
    assert sorted(map(str, classes)) == ["line", "ours-line"]
    assert not any("990" in text for text in texts)


def test_a_tenant_that_nothing_answers_is_said_so(module: ModuleType) -> None:
    """A pool that is full of another's tasks has no latency to show."""
    rows = {"capacity": {"rate": 990.0}, "alone": {"p99": 8.0}, "fair": {"p99": 16.0}, "fifo": {"rate": 0.0}}
    _, _, *rest = texts_in(module.draw(overload("tenants", ["fair"], rows, rows)))
    assert rest[:4] == ["alone, nobody floods", "8.0 ms", 'treadle, order="fair"', "16.0 ms"]
    assert rest[4:6] == ['treadle, order="fifo"', "nothing was answered"]


def test_a_limit_is_drawn_state_by_state_beside_none(module: ModuleType) -> None:
    rows = {
        f"{name}@{state}": {"kept": 0.5, "in flight": 16.0}
        for name in ("limit", "without")
        for state in ("before", "slowed", "recovered")
    }
    _, _, *rest = texts_in(module.draw(overload("limit", [], rows)))
    pair = ["with a ConcurrencyLimit", "50%, 16 calls at once", "without", "50%, 16 calls at once"]
    states = ("Before the backend slows down", "While it takes ten times as long", "When it has recovered")
    assert rest[:15] == [text for state in states for text in (state, *pair)]


def test_orders_are_drawn_by_how_many_tasks_wait(module: ModuleType) -> None:
    rows = {
        f"{name}@{depth}": {"rate": 900000.0, "to fifo": 0.75} for depth in (1, 100000) for name in ("fifo", "fair-10")
    }
    _, _, *rest = texts_in(module.draw(overload("cost", ["fair-10@1"], rows)))
    pair = ['treadle, order="fifo"', "900,000 (0.75x)", "the same, 10 keys", "900,000 (0.75x)"]
    assert rest[:10] == ["1 task waiting", *pair, "100,000 tasks waiting", *pair]


def test_a_server_under_overload_and_what_is_promised_of_it_is_set_apart(module: ModuleType) -> None:
    rows = {"capacity": {"rate": 990.0}, "adaptive": {"kept": 0.99, "p99": 10.0}, "fifo": {"kept": 0.0}}
    drawn = module.draw(overload("tcp", ["adaptive"], rows, rows))
    assert texts_in(drawn)[2:6] == [
        'treadle, order="adaptive"',
        "99%, p99 10 ms",
        'treadle, order="fifo"',
        "0%",
    ]
    classes = [rect.get("class") for rect in ElementTree.fromstring(drawn).iter() if rect.tag.endswith("rect")]
    assert classes == ["page", "ours", "bar"]


def test_a_case_that_failed_before_its_first_round_has_no_chart(module: ModuleType) -> None:
    assert module.draw({"case": "tcp", "samples": []}) is None


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_record_is_saved_with_its_chart_and_the_chart_goes_with_what_it_showed(
    module: ModuleType, tmp_path: Path
) -> None:
    module.save(pool(), tmp_path / "new", "some.py313")
    record, chart = (tmp_path / "new" / f"some.py313.{kind}" for kind in ("json", "svg"))
    assert json.loads(record.read_text(encoding="utf-8")) == pool()
    assert chart.read_text(encoding="utf-8") == module.draw(pool())
    alone = pool(samples={"treadle": [1.0]})
    module.save(alone, tmp_path / "new", "some.py313")
    assert json.loads(record.read_text(encoding="utf-8")) == alone
    assert not chart.exists()

"""The chart of a record: what stands in bench/results/<case>.<python>.json, as <case>.<python>.svg.

`save` writes a record, `redraw` makes the chart from the file. So a chart says nothing that its record does not, and
all can be drawn anew without measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chart import Bar, Heading, Line, Point, bars, lines

__all__ = ["draw", "redraw", "save"]

Record = dict[str, Any]

AGAIN = "concurrent.futures, again"  # how much ratios vary by themselves is for the table; here the whiskers show it
CAPACITY = "capacity"  # the row that says what there was to be kept
POOLS = {
    "treadle": "treadle.Pool",
    "treadle, in chunks": "treadle.Pool, with chunksize",
    "concurrent.futures": "ThreadPoolExecutor",
    "joblib (threading)": "joblib, threads",
}
CHUNKS = "multiprocessing passes items in chunks by itself; treadle.Pool where chunksize is given, here as many chunks."
UNITS = {"tasks/s": "Tasks a second", "items/s": "Items a second", "µs": "Microseconds", "bytes": "Bytes"}
SERVERS = {
    "treadle": "treadle.Server",
    "loop": "A bare loop, one thread",
    "socketserver": "socketserver.ThreadingTCPServer",
    "pool": "ThreadPoolExecutor, 128 threads",
    "go": "Go, 1 core",
}
# Of a scenario: what is counted, and what stands beside it: a value, and how it is shown.
ECHO = ("Replies a second", "cpu", ", {:.1f} µs CPU each")
ECHOES = {
    "slow": ("Replies a second to the 60", "p99", ", p99 {:,.1f} ms"),
    "idle": ("Replies a second to the busy ones", "memory", ", {:,.0f} MiB resident"),
    "churn": ("Clients a second", "", ""),
}
WEB = {"treadle": "treadle wsgi", "gunicorn": "gunicorn, gthread"}
COMPARED = {
    "cpu": ("Processor time a request; beside it, requests a second", "{:,.1f} µs"),
    "p99": ("How long the quick take, 99th percentile; beside it, how many a second", "{:,.1f} ms"),
}
ORDERS = {
    "standard": "ThreadPoolExecutor",
    "fifo": 'treadle, order="fifo"',
    "fifo-view": "the same, by pool.options()",
    "adaptive": 'treadle, order="adaptive"',
    "priority": 'treadle, order="priority"',
    "priority-10": "the same, 10 priorities",
    "fair": 'treadle, order="fair"',
    "fair-10": "the same, 10 keys",
}
STATES = {
    "before": "Before the backend slows down",
    "slowed": "While it takes ten times as long",
    "recovered": "When it has recovered",
}


def save(record: Record, folder: Path, stem: str) -> None:
    """Write a record and its chart into `folder`, as `stem`.json and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    redraw(path)


def redraw(path: Path) -> bool:
    """Make the chart of the record in `path`, or remove it where there is none to make; return whether there is one."""
    drawn, chart = draw(json.loads(path.read_text(encoding="utf-8"))), path.with_suffix(".svg")
    if drawn is None:
        chart.unlink(missing_ok=True)
    else:
        chart.write_text(drawn, encoding="utf-8", newline="\n")
    return drawn is not None


def draw(record: Record) -> str | None:
    """Return the chart of a record, or None: there is nothing to compare in it, as where one peer was measured."""
    if "compared" in record:
        return _web(record) if len(record["samples"]) > 1 else None
    if "scenario" in record:
        return _server(record) if len(record["samples"]) > 1 else None
    if "shown in" in record:
        return _pool(record) if len(record["samples"].keys() - {AGAIN}) > 1 else None
    return CASES[record["case"]](record) if _rows(record) else None


# -- pools ------------------------------------------------------------------------------------------------------------


def _pool(record: Record) -> str:
    """Peers best first. Costs are in seconds or bytes; where the unit is a rate, the bar is the rate."""
    unit, tails = record["shown in"], record["tails"]
    rate = unit.endswith("/s")

    def shown(cost: float) -> float:
        return 1 / cost if rate else cost * 1e6 if unit == "µs" else cost

    rows = []
    for name, samples in record["samples"].items():
        if name == AGAIN:
            continue
        form = "{:,.1f}" if unit == "µs" else "{:,.0f}"
        tail = f", p99 {form.format(shown(tails[name]))}" if name in tails else ""
        median, ends = shown(record["medians"][name]), sorted(map(shown, samples))
        end = f"{form.format(median)}{tail} ({record['ratios'][name]:.2f}x)"
        rows.append(_bar(POOLS.get(name, name), median, ends, end, ours=name.startswith("treadle")))
    subtitle = f"{UNITS[unit]}, {record['environment']['workers']} workers: {_better(rate)}."
    subtitle += " In brackets: times as good as ThreadPoolExecutor, round by round."
    notes = _notes(record, POOLS) + (f"\n{CHUNKS}" if "treadle, in chunks" in record["samples"] else "")
    return bars(record["title"], subtitle, rows, notes)


# -- servers ----------------------------------------------------------------------------------------------------------


def _server(record: Record) -> str:
    """Peers best first, by their rate."""
    what, beside, form = ECHOES.get(record["scenario"], ECHO)
    rows = []
    for name, samples in record["samples"].items():
        values = record["values"][name]
        end = f"{values['rate']:,.0f}" + (form.format(values[beside]) if beside in values else "")
        rates = [sample["rate"] for sample in samples]
        rows.append(_bar(SERVERS.get(name, name), values["rate"], rates, end, ours=name == "treadle"))
    return bars(record["title"], f"{what}: {_better(True)}.", rows, _notes(record, SERVERS))


# -- web servers ------------------------------------------------------------------------------------------------------


def _web(record: Record) -> str:
    """Servers best first, by the value that is compared; less is better. Beside it stand requests a second."""
    what, form = COMPARED[record["compared"]]
    rows = []
    for name, samples in record["samples"].items():
        values, taken = record["values"][name], [sample[record["compared"]] for sample in samples]
        median = values[record["compared"]]
        end = f"{form.format(median)}, {values['rate']:,.0f}/s"
        rows.append(_bar(WEB.get(name, name), median, taken, end, ours=name == "treadle"))
    return bars(record["title"], f"{what}: {_better(False)}.", rows, _notes(record, WEB))


# -- overload ---------------------------------------------------------------------------------------------------------


def _goodput(record: Record) -> str:
    """A line for each pool."""
    found = dict[str, list[Point]]()
    for row in _rows(record):
        name, _, load = row.partition("@")
        kept = _samples(record, row, "kept")
        point = Point(float(load.removesuffix("x")), _median(record, row, "kept") or 0.0, min(kept), max(kept))
        found.setdefault(name, []).append(point)
    several = [Line(ORDERS.get(name, name), points, ours=name == "adaptive") for name, points in found.items()]
    subtitle = "Share of capacity that is answered in time, by how much is offered: higher is better."
    return lines(record["title"], subtitle, "offered load, in multiples of capacity", several, _notes(record))


def _tenants(record: Record) -> str:
    labels = {"alone": "alone, nobody floods"}
    rows = [_measured(record, row, "p99", "{:,.1f} ms", labels.get(row, ORDERS.get(row, row))) for row in _rows(record)]
    subtitle = f"The latency of its tasks, 99th percentile: {_better(False)}."
    return bars(record["title"], subtitle, rows, _notes(record))


def _limit(record: Record) -> str:
    """For each state of the backend, the pool with a limit and the one without."""
    rows = list[Bar | Heading]()
    for state, words in STATES.items():
        rows.append(Heading(words))
        for name, label in {"limit": "with a ConcurrencyLimit", "without": "without"}.items():
            row = f"{name}@{state}"
            inside = _median(record, row, "in flight")
            beside = "" if inside is None else f", {inside:.0f} calls at once"
            rows.append(_measured(record, row, "kept", "{:.0%}" + beside, label))
    subtitle = f"Answers in time, as a share of what the backend can do: {_better(True)}. Beside: calls in the backend."
    return bars(record["title"], subtitle, rows, _notes(record))


def _cost(record: Record) -> str:
    """For each number of waiting tasks, all orders."""
    rows = list[Bar | Heading]()
    seen = None
    for row in _rows(record):
        name, _, depth = row.partition("@")
        if depth != seen:
            seen = depth
            rows.append(Heading(f"{int(depth):,} {'task' if depth == '1' else 'tasks'} waiting"))
        end = f"{{:,.0f}} ({_median(record, row, 'to fifo'):.2f}x)"
        rows.append(_measured(record, row, "rate", end, ORDERS.get(name, name)))
    subtitle = f'Tasks a second: {_better(True)}. In brackets: ratio to order="fifo", round by round.'
    return bars(record["title"], subtitle, rows, _notes(record))


def _tcp(record: Record) -> str:
    rows = []
    for row in _rows(record):
        tail = _median(record, row, "p99")
        end = "{:.0%}" + ("" if tail is None else f", p99 {tail:,.0f} ms")
        rows.append(_measured(record, row, "kept", end, ORDERS.get(row, row)))
    subtitle = f"As a share of capacity: {_better(True)}. Beside: the 99th percentile of all answers' latency."
    return bars(record["title"], subtitle, rows, _notes(record))


CASES: dict[str, Callable[[Record], str]] = {
    "goodput": _goodput,
    "tenants": _tenants,
    "limit": _limit,
    "cost": _cost,
    "tcp": _tcp,
}


def _rows(record: Record) -> list[str]:
    """Return who was measured, and at what."""
    return [row for row in record["samples"][0] if row != CAPACITY] if record["samples"] else []


def _samples(record: Record, row: str, value: str) -> list[float]:
    """Return a value of each round that has it."""
    return [rows[row][value] for rows in record["samples"] if value in rows.get(row, ())]


def _median(record: Record, row: str, value: str) -> float | None:
    """Return the median of a value; None: not every round has it."""
    median: float | None = record["medians"].get(f"{row}.{value.replace(' ', '_')}")
    return median


def _measured(record: Record, row: str, value: str, form: str, label: str) -> Bar:
    """Return the bar of a value; it is set apart where something is promised of the row."""
    median, ours = _median(record, row, value), any(target["row"] == row for target in record["targets"])
    end = "nothing was answered" if median is None else form.format(median)
    return _bar(label, median, _samples(record, row, value), end, ours=ours)


# -- what all have in common ------------------------------------------------------------------------------------------


def _bar(label: str, median: float | None, samples: Iterable[float], end: str, *, ours: bool) -> Bar:
    """Return a bar with a whisker from the lowest to the highest sample, if there is more than one."""
    samples = list(samples)
    if median is None or len(samples) < 2:
        return Bar(label, median, end, ours=ours)
    return Bar(label, median, end, min(samples), max(samples), ours=ours)


def _better(more: bool) -> str:
    return "longer is better" if more else "shorter is better"


def _notes(record: Record, labels: dict[str, str] | None = None) -> str:
    """Return how often was measured, on what and when, with which versions, and what was not measured and why."""
    surroundings, samples = record["environment"], record["samples"]
    rounds = len(samples) if isinstance(samples, list) else max(map(len, samples.values()))
    python = " ".join(surroundings["python"].split()[:2]) + ("" if surroundings["gil"] else " free-threaded")
    versions = [
        f"{package} {version}"
        for package, version in surroundings["versions"].items()
        if version and (isinstance(samples, list) or any(name.startswith(package) for name in samples))
    ]
    often = "One measurement each"
    if rounds > 1:
        often = f"Medians of {rounds} measurements; whiskers: the lowest and the highest"
    cores, date = surroundings["processors"], surroundings["began"].partition("T")[0]
    machine = f"{surroundings['processor']}, {cores} core{'' if cores == 1 else 's'}, {date}"
    notes = [f"{often}. {machine}.", f"{', '.join([python, *versions])}."]
    absent = {(labels or {}).get(name, name): why for name, why in record.get("absent", {}).items() if name != AGAIN}
    if absent:
        notes.append(f"Not measured: {'; '.join(f'{name} ({why})' for name, why in absent.items())}.")
    return "\n".join(notes)

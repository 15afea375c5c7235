"""What a run leaves: a table on the terminal, a record with every sample, a chart, and a verdict."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from draw import save
from measure import Outcome
from peers import PEERS, WORKERS, Standard, StandardAgain, Treadle

BASE = Standard.name
OURS = Treadle.name
NOISE = StandardAgain.name


def has_gil() -> bool:
    """Whether threads take turns here. A free-threaded build turns its GIL on again if a package asks for it."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def python_name() -> str:
    """Return as in `Python 3.13.0` or `Python 3.13.0 free-threaded`."""
    return f"Python {platform.python_version()}{'' if has_gil() else ' free-threaded'}"


def python_tag() -> str:
    """Return as in `py313` or `py313t`, for names of files; `t` stands for the build, whatever its GIL does now."""
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    return f"py{sys.version_info[0]}{sys.version_info[1]}{'t' if free else ''}"


def environment() -> dict[str, Any]:
    """Return what somebody needs to know to judge the numbers, or to repeat them."""
    return {
        "python": f"{platform.python_implementation()} {sys.version}",
        "gil": has_gil(),
        "switch interval": sys.getswitchinterval(),
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load at start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": WORKERS,
        "versions": {kind.package: version(kind.package) for kind in PEERS if kind.package},
    }


def busy(surroundings: dict[str, Any]) -> str:
    """Return a warning if others use the machine, else nothing."""
    load, processors = surroundings["load at start"], surroundings["processors"] or 1
    if load is None or load < processors / 2:
        return ""
    return (
        f"the machine is busy (load {load:g} on {processors} processors): expect noise, and try again when it is not\n"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def shown(unit: str, cost: float) -> str:
    """Return a cost in the unit of its case."""
    if unit == "µs":
        return f"{cost * 1e6:,.1f} µs"
    return f"{cost:,.0f} bytes" if unit == "bytes" else f"{1 / cost:,.0f} {unit}"


def best_first(outcome: Outcome) -> list[str]:
    """Return the names of the peers that were measured."""
    return sorted(outcome.samples, key=outcome.median)


def table(outcome: Outcome) -> str:
    """Return the peers of a case, best first: the median, the ratio, and the lowest and highest ratio of a round."""
    unit = outcome.case.unit
    lines = [outcome.case.title]
    for name in best_first(outcome):
        ratios = outcome.ratios(name, BASE)
        line = f"  {name:33}{shown(unit, outcome.median(name)):>20}{outcome.ratio(name, BASE):9.2f}x"
        line += f"  ({min(ratios):.2f} to {max(ratios):.2f})"
        tail, tail_ratio = outcome.tail(name), outcome.tail_ratio(name, BASE)
        if tail is not None and tail_ratio is not None:
            line += f"  p99 {shown(unit, tail)}, {tail_ratio:.2f}x"
        lines.append(line)
    lines += [f"  {name:33}{'-':>20}            {reason}" for name, reason in outcome.absent.items()]
    return "\n".join(lines)


def missed(outcome: Outcome) -> bool:
    """Return whether the case has a target that treadle did not reach."""
    return outcome.case.target is not None and outcome.ratio(OURS, BASE) < outcome.case.target


def status(outcomes: Iterable[Outcome], *, forgiving: bool) -> int:
    """Return the exit status: 1 if a target was missed and that is not forgiven."""
    return int(any(map(missed, outcomes)) and not forgiving)


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line a case: treadle's ratio, the target, and the noise."""
    lines = [f"{'treadle to ' + BASE:34}{'ratio':>8}{'target':>9}        {BASE} to itself"]
    for outcome in outcomes:
        target = outcome.case.target
        verdict = "" if target is None else "FAIL" if missed(outcome) else "PASS"
        goal = "-" if target is None else f"{target:g}x"
        noise = f"{outcome.ratio(NOISE, BASE):.2f}x" if NOISE in outcome.samples else "-"
        lines.append(f"  {outcome.case.name:32}{outcome.ratio(OURS, BASE):7.2f}x{goal:>9}  {verdict:4}  {noise}")
    return "\n".join(lines)


def record(outcome: Outcome, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return all that was measured, as JSON takes it. Costs are in seconds a task, or in bytes."""
    case, names = outcome.case, best_first(outcome)
    return {
        "case": case.name,
        "title": case.title,
        "shown in": case.unit,
        "target": case.target,
        "environment": surroundings,
        "medians": {name: outcome.median(name) for name in names},
        "ratios": {name: round(outcome.ratio(name, BASE), 3) for name in names},
        "tails": {name: outcome.tail(name) for name in names if outcome.tail(name) is not None},
        "absent": outcome.absent,
        "samples": {name: [sample.cost for sample in outcome.samples[name]] for name in names},
        "tail samples": {
            name: [sample.tail for sample in outcome.samples[name]] for name in names if outcome.tail(name) is not None
        },
    }


def write(outcomes: Sequence[Outcome], surroundings: dict[str, Any], folder: Path) -> None:
    """Write record and chart of each case into `folder`, as `<case>.<python>.json` and `.svg`."""
    for outcome in outcomes:
        save(record(outcome, surroundings), folder, f"{outcome.case.name}.{python_tag()}")

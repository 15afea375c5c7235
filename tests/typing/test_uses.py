"""What type checkers say of uses of treadle, right ones and wrong ones: mypy --strict and pyright, each of every line.

In the files beside this one a line marked `# wrong` must be an error, and no other line may be. Where a checker cannot
know better, the line says so, with the reason: `# wrong; mypy: ...`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
FILES = [HERE / "pool_uses.py", HERE / "server_uses.py"]
CHECKERS = ("mypy", "pyright")
LEAST = 0.93  # of the uses that both judge rightly; the others are named, with the reason

if not any(map(find_spec, CHECKERS)):
    pytest.skip("neither mypy nor pyright is installed: `make check` has them", allow_module_level=True)

Place = tuple[str, int]  # a file, and a line


def uses() -> dict[Place, str]:
    """Return the lines that a checker is asked about: what is wrong, and what a type is asserted of."""
    found = {}
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith(" ") and ("# wrong" in line or "assert_type(" in line):
                found[path.name, number] = line.strip()
    return found


USES = uses()


@cache
def errors_of(checker: str, source: Path = SOURCE) -> frozenset[Place]:
    """Return the lines in which a checker sees an error."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    tried = subprocess.run((sys.executable, "-m", checker, "--version"), capture_output=True, text=True, timeout=400)
    if tried.returncode != 0:  # pyright fetches itself, once, and may find no network
        pytest.skip(f"{checker} does not run here: {(tried.stderr or tried.stdout).strip()[-200:]}")
    return frozenset(_mypy(source) if checker == "mypy" else _pyright(source))


def _run(*command: str, source: Path) -> str:
    path = {"MYPYPATH": str(source), "PYTHONPATH": str(source)}
    done = subprocess.run(command, cwd=HERE, env={**os.environ, **path}, capture_output=True, text=True, timeout=400)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _mypy(source: Path) -> set[Place]:
    options = ("--strict", "--config-file=", "--no-warn-unused-ignores", "--python-version=3.11", "--no-error-summary")
    text = _run(sys.executable, "-m", "mypy", *options, *(path.name for path in FILES), source=source)
    return {(name, int(line)) for name, line in re.findall(r"^(\w+\.py):(\d+): error", text, re.MULTILINE)}


def _pyright(source: Path) -> set[Place]:
    options = ("--outputjson", "--pythonversion=3.11", f"--pythonpath={sys.executable}")
    text = _run(sys.executable, "-m", "pyright", *options, *(path.name for path in FILES), source=source)
    told = json.loads(text)["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in told if one["severity"] == "error"}


def excused(line: str, checker: str) -> bool:
    """Whether a line says why a checker does not judge it rightly."""
    return bool(re.search(rf"#.*\b{checker}: \w", line))


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("place", USES, ids=lambda place: f"{place[0]}:{place[1]}")
def test_a_use_is_judged_rightly(place: Place, checker: str) -> None:
    line = USES[place]
    right = (place in errors_of(checker)) is ("# wrong" in line)
    assert right is not excused(line, checker), line


@pytest.mark.parametrize("checker", CHECKERS)
def test_nothing_else_is_an_error(checker: str) -> None:
    assert not errors_of(checker) - set(USES)


def test_most_uses_are_judged_rightly_by_both() -> None:
    named = [line for line in USES.values() if any(excused(line, checker) for checker in CHECKERS)]
    assert len(USES) >= 100
    assert len(named) <= (1 - LEAST) * len(USES), named

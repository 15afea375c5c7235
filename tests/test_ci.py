"""What continuous integration makes of what it finds: which Pythons it tests on, and what it forgives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci" / "run"
PROGRAMS = [
    "bash",
    "env",
    "dirname",
    "mktemp",
    "rm",
    "find",
    "sort",
    "tac",
    "tail",
    "tee",
    "grep",
    "cat",
    "readlink",
    "id",
    "mkdir",
    "cp",
]
ABSENT = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.skipif(not CI.exists(), reason="this copy of the sources comes without .ci/run"),
    pytest.mark.skipif(bool(ABSENT), reason=f"without {', '.join(ABSENT)}"),
]
ODD = 'tests/test_a.py::test[it\'s "$HOME" - @x y]'
MAKE = """#!/usr/bin/env bash
case "$*" in
check) ;;
*@*) grep -vqxF "$(cat "${2##*@}")" "$HERE/again" ;;
*) test -s "$HERE/failing" || { echo "== 9 passed in 1.00s =="; exit 0; }
    mkdir -p "${2#*cache_dir=}/v/cache"
    cp "$HERE/failing" "${2#*cache_dir=}/v/cache/lastfailed"
    echo "== 1 failed, 8 passed in 1.00s =="
    echo "make: *** [Makefile:37: test] Error 1"
    exit 1 ;;
esac
"""


def run(
    here: Path, *, pythons: tuple[str, ...] = ("3.11", "3.13"), failing: tuple[str, ...] = (), again: str = "none"
) -> tuple[int, list[str]]:
    """Run it with a `make` that says which tests fail, and fail again; return exit status and its last lines."""
    programs = here / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    for name, text in [("make", MAKE), *((f"python{version}", python) for version in pythons)]:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (here / ".ci").mkdir()
    shutil.copy(CI, here / ".ci")
    (here / "again").write_text(f"{again}\n")
    (here / "failing").write_text(json.dumps({name: True for name in failing if name}) if failing else "")
    environment = {**os.environ, "PATH": str(programs), "HERE": str(here)}
    command = [str(here / ".ci" / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    verdict = done.stderr.rpartition("== ")[2].strip()
    return done.returncode, [verdict, *done.stdout.rpartition("oldest, Python")[2].splitlines()[1:]]


def test_the_oldest_and_the_newest_python_are_tested_and_what_is_not_here_is_said(tmp_path: Path) -> None:
    status, (verdict, newest, free) = run(tmp_path)
    assert (status, verdict) == (0, "all passed")
    assert newest.startswith("newest, Python 3.")
    assert newest.endswith(": == 9 passed in 1.00s ==")
    assert free == "free-threaded: SKIPPED, there is no free-threaded Python here"


def test_with_one_python_there_is_no_newest(tmp_path: Path) -> None:
    status, lines = run(tmp_path, pythons=("3.12",))
    assert (status, lines[:2]) == (0, ["all passed", "newest: SKIPPED, there is no Python here but the oldest"])


def test_up_to_two_tests_that_pass_alone_are_flaky_and_fail_nothing(tmp_path: Path) -> None:
    status, lines = run(tmp_path, failing=(ODD,))
    assert status == 0
    assert lines[0] == "all passed"
    assert lines[-2:] == [f"FLAKY: oldest: {ODD}", f"FLAKY: newest: {ODD}"]


def test_three_are_too_many(tmp_path: Path) -> None:
    status, lines = run(tmp_path, failing=(ODD, "tests/test_b.py::test"))
    assert status == 1
    assert lines[0] == "FAILED"
    assert lines[-4:-2] == [f"FLAKY: oldest: {ODD}", "FLAKY: oldest: tests/test_b.py::test"]
    assert lines[-2:] == [f"FAILED: newest: {ODD}", "FAILED: newest: tests/test_b.py::test"]


def test_one_that_fails_again_has_failed(tmp_path: Path) -> None:
    status, lines = run(tmp_path, failing=(ODD,), again=ODD)
    assert status == 1
    assert lines[0] == "FAILED"
    assert lines[-2:] == [f"FAILED: oldest: {ODD}", f"FAILED: newest: {ODD}"]


def test_a_run_that_fails_without_a_test_that_failed_has_failed(tmp_path: Path) -> None:
    """Its environment cannot be made, or a hang has ended it."""
    status, lines = run(tmp_path, failing=("",))
    assert status == 1
    assert lines[-1] == "FAILED: newest: make test failed, and no test did"

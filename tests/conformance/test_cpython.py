"""CPython's own tests of thread pools, run against `treadle.Pool` and `treadle.Future`; see docs/conformance.md.

Each runs in a process of its own, through driver.py: it has an interpreter to itself and shows that it ends, and one
that hangs shows every stack and stops no other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import treadle

EXECUTOR = os.environ.get("CONFORMANCE_EXECUTOR", "treadle:Pool")
DRIVER = Path(__file__).with_name("driver.py")
LIMIT = 150.0  # seconds for one test; guess: the slowest takes 6, and the machine may be busy
GRACE = 30.0  # seconds past the limit, for a process that cannot even say that it hangs
# How many tests there are at least. In the leanest of Python 3.11 to 3.15 there are 64 and 49.
FEWEST = {"suite": 64, "elsewhere": 48}
WITHOUT_SUITE = [f"No module named '{name}'" for name in ("test", "test.support", "test.test_concurrent_futures")]
MISSING = (
    f"{sys.executable} was installed without CPython's tests of concurrent.futures; "
    f"on Debian and Ubuntu: sudo apt-get install libpython{sys.version_info[0]}.{sys.version_info[1]}-testsuite"
)


def drive(*arguments: str) -> tuple[int, str]:
    """Run driver.py and end whatever it started; return its exit status and all that was written."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT + GRACE)
    except subprocess.TimeoutExpired:
        end_group(process.pid)
        output, _ = process.communicate()
    end_group(process.pid)
    return process.returncode, output


def end_group(leader: int) -> None:
    """Kill what is left of a test: of one that failed, scripts and forked processes may live on."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def answer_in(output: str) -> dict[str, list[str]]:
    return dict(json.loads(output.splitlines()[-1]))


@cache
def listing() -> tuple[int, str]:
    return drive("list", EXECUTOR)


def listed_names() -> list[str]:
    """Name the tests of this interpreter; none if it cannot tell, and a test below says why."""
    status, output = listing()
    return [] if status else [test for tests in answer_in(output).values() for test in tests]


def judge(test: str, executor: str, limit: float = LIMIT) -> tuple[str, str]:
    """Run a test; return "passed", "skipped" or "failed", and what there is to say about it."""
    status, output = drive("run", executor, test, str(limit))
    if status:
        return "failed", f"exit status {status}\n{output}"
    answer = json.loads(output.splitlines()[-1])
    return answer["verdict"], f"{answer['detail']}\n{output}"


def test_the_suite_is_there_and_none_of_its_tests_is_lost() -> None:
    status, output = listing()
    if status and any(words in output for words in WITHOUT_SUITE):
        pytest.skip(MISSING)
    assert status == 0, f"the suite cannot be imported:\n{output}"
    counts = {group: len(set(tests)) for group, tests in answer_in(output).items()}
    assert all(counts[group] >= least for group, least in FEWEST.items()), f"{counts}, but should be {FEWEST} or more"


@pytest.mark.parametrize("test", listed_names(), ids=lambda test: test.removeprefix("test."))
def test_cpython(test: str) -> None:
    verdict, detail = judge(test, EXECUTOR)
    if verdict == "skipped":
        pytest.skip(detail.splitlines()[0])
    assert verdict == "passed", f"{test}: {detail}"


def test_the_futures_that_are_tested_are_those_of_the_pool() -> None:
    with treadle.Pool(1) as pool:
        assert type(pool.submit(int)) is treadle.Future


@pytest.mark.parametrize(
    ("executor", "test", "finding"),
    [
        ("Forgetful", "ThreadPoolExecutorTest.test_submit", "256 != None"),
        ("Forgetful", "ThreadPoolShutdownTest.test_interpreter_shutdown", "b'' != b'apple'"),
        ("Forgetful", "FutureTests.test_cancel", "True is not false"),
        ("Forgetful", "ToThreadTests.test_to_thread", "None != 42"),
        ("Stuck", "ThreadPoolExecutorTest.test_submit", "in result\n"),
        ("Stuck", "ThreadPoolShutdownTest.test_interpreter_shutdown", "_python_exit"),
        ("Leaky", "ThreadPoolExecutorTest.test_submit", "it left <Thread("),
    ],
)
def test_a_broken_executor_is_found_out(executor: str, test: str, finding: str) -> None:
    """By each way in which a test comes by its executor; and a hang is told with the stacks that show it."""
    names = [name for name in listed_names() if name.endswith(test)]
    if not names:
        pytest.skip(MISSING)
    # What hangs is given little time at first: on a busy machine it may not come so far.
    for limit in (4.0, 20.0) if executor == "Stuck" else (20.0,):
        verdict, detail = judge(names[0], f"broken:{executor}", limit)
        if finding in detail:
            break
    assert (verdict, finding in detail) == ("failed", True), f"{verdict}: {detail}"

"""CPython's own tests of `socketserver`, and others that use it, run on PoolMixIn; see docs/conformance.md.

Each runs in a process of its own, through driver_socketserver.py: it has an interpreter to itself and shows that it
ends, and one that hangs shows every stack and stops no other.
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

MIXIN = os.environ.get("CONFORMANCE_MIXIN", "treadle.server:PoolMixIn")
DRIVER = Path(__file__).with_name("driver_socketserver.py")
LIMIT = 120.0  # seconds for one test; guess: the slowest takes 6, and the machine may be busy
GRACE = 30.0  # seconds past the limit, for a process that cannot even say that it hangs
IMPATIENCE = 0.2  # seconds for threads that never end
# How many tests there are at least. In the leanest of Python 3.11 to 3.15 there are 27, 73, 10, 21, 93, 9 and 1.
FEWEST = {
    "test.test_socketserver": 27,
    "test.test_httpservers": 72,
    "test.test_logging": 10,
    "test.test_urllib2_localnet": 20,
    "test.test_xmlrpc": 90,
    "test.test_docxmlrpc": 9,
    "test.test_robotparser": 1,
}
WITHOUT_SUITE = [f"No module named '{name}'" for name in ("test", "test.support", *FEWEST)]
MISSING = (
    f"{sys.executable} was installed without CPython's tests of socketserver and http.server; "
    f"on Debian and Ubuntu: sudo apt-get install libpython{sys.version_info[0]}.{sys.version_info[1]}-testsuite"
)


def drive(*arguments: str) -> tuple[int, str]:
    """Run driver_socketserver.py and end whatever it started; return its exit status and all that was written."""
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
    """Kill what is left of a test: of one that failed, forked processes may live on."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def answer_in(output: str) -> dict[str, list[str]]:
    return dict(json.loads(output.splitlines()[-1]))


@cache
def listing() -> tuple[int, str]:
    return drive("list", MIXIN)


def listed_names() -> list[str]:
    """Name the tests of this interpreter; none if it cannot tell, and a test below says why."""
    status, output = listing()
    return [] if status else [test for tests in answer_in(output).values() for test in tests]


def judge(test: str, mixin: str, *limits: float) -> tuple[str, str]:
    """Run a test; return "passed", "skipped" or "failed", and what there is to say about it.

    Args:
        limits: the driver's LIMIT and PATIENCE, where they are not the usual ones.
    """
    status, output = drive("run", mixin, test, *map(str, limits or [LIMIT]))
    if status:
        return "failed", f"exit status {status}\n{output}"
    answer = json.loads(output.splitlines()[-1])
    return answer["verdict"], f"{answer['detail']}\n{output}"


def test_the_suite_is_there_and_none_of_its_tests_is_lost() -> None:
    status, output = listing()
    if status and any(words in output for words in WITHOUT_SUITE):
        pytest.skip(MISSING)
    assert status == 0, f"the suite cannot be imported:\n{output}"
    counts = {module: len(set(tests)) for module, tests in answer_in(output).items()}
    assert all(counts[module] >= least for module, least in FEWEST.items()), f"{counts}, but should be {FEWEST} or more"


@pytest.mark.parametrize("test", listed_names(), ids=lambda test: test.removeprefix("test."))
def test_cpython(test: str) -> None:
    verdict, detail = judge(test, MIXIN)
    if verdict == "skipped":
        pytest.skip(detail.splitlines()[0])
    assert verdict == "passed", f"{test}: {detail}"


@pytest.mark.parametrize(
    ("mixin", "test", "finding"),
    [
        ("Forgetful", "SocketServerTest.test_ThreadingTCPServer", "b'' != b'hello world"),
        ("Forgetful", "BaseHTTPServerTestCase.test_command", "RemoteDisconnected"),
        ("Stuck", "ErrorHandlerTest.test_threading_handled", "in wait_done\n"),
        ("Stuck", "BaseHTTPServerTestCase.test_command", "in getresponse\n"),
        ("Careless", "ErrorHandlerTest.test_threading_handled", "Error handled"),
        ("Careless", "ErrorHandlerTest.test_threading_not_handled", "SystemExit"),
        ("Leaky", "SocketServerTest.test_ThreadingUnixStreamServer", "it left <Thread("),
        ("Leaky", "BaseHTTPServerTestCase.test_command", "it left <Thread("),
        ("Forgetful", "DocXMLRPCHTTPGETServer.test_valid_get_response", "RemoteDisconnected"),
    ],
)
def test_a_broken_mixin_is_found_out(mixin: str, test: str, finding: str) -> None:
    """By each way in which a test comes by its mixin; and a hang is told with the stacks that show it."""
    names = [name for name in listed_names() if name.endswith(f".{test}")]
    if not names:
        pytest.skip(MISSING)
    # What hangs is given little time at first: on a busy machine it may not come so far.
    for limit in (1.5, 4.0, 20.0) if mixin == "Stuck" else (20.0,):
        verdict, detail = judge(names[0], f"broken_socketserver:{mixin}", limit, IMPATIENCE)
        if finding in detail:
            break
    assert (verdict, finding in detail) == ("failed", True), f"{verdict}: {detail}"

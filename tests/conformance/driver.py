"""Runs one of CPython's own tests against an executor that takes the place of the standard library's.

    python driver.py list MODULE:EXECUTOR              name the tests of thread pools, and others that use one
    python driver.py run  MODULE:EXECUTOR TEST LIMIT   run one of them; LIMIT is in seconds

Either writes its answer to standard output, as JSON in the last line. MODULE.Future takes the place of the standard
library's Future. The tests are those of the interpreter that runs this; none is copied.

The tests come by an executor in four ways, and in each of them they find the one under test:

    concurrent.futures.ThreadPoolExecutor    what the tests' classes and bodies, and asyncio, look up
    concurrent.futures.Future                what asyncio makes, and knows a future by
    concurrent.futures._base.Future          what the tests of futures import; process pools get theirs back after that
    assert_python_ok("-c", source)           scripts that import the executor; the import is rewritten where it stands,
                                             so that what runs at exit runs in the order that the test is about
"""

from __future__ import annotations

import concurrent.futures._base
import faulthandler
import importlib
import inspect
import json
import pkgutil
import re
import sys
import threading
import unittest
from collections.abc import Iterator
from typing import Any

SUITE = "test.test_concurrent_futures"
OF_PROCESSES = {"test_deadlock", "test_interpreter_pool", "test_process_pool", "FailingInitializerResourcesTest"}
ELSEWHERE = (
    "test.test_asyncio.test_base_events",
    "test.test_asyncio.test_events",
    "test.test_asyncio.test_futures",
    "test.test_asyncio.test_tasks",
    "test.test_asyncio.test_threads",
    "test.test_context",
)
USES_THREADS = re.compile(r"ThreadPool|run_in_executor|default_executor|to_thread|\bwrap_future\(|coroutine_threadsafe")
USES_PROCESSES = re.compile("ProcessPool")
PATIENCE = 5.0  # seconds for a thread that is on its way out
EARLIER = 0.2  # of the limit: so long before it a script that hangs says where; guess: time enough to pass it on


class Unplaced(Exception):
    """A script imports the executor in a way that is not known here, so it would test the standard library's."""


def place(spec: str, limit: float) -> type:
    """Put the executor that `spec` names, and its Future, in the place of the standard library's."""
    from test.support import script_helper

    module, _, name = spec.partition(":")
    under_test = importlib.import_module(module)
    executor: type = getattr(under_test, name)
    futures: Any = concurrent.futures
    futures.ThreadPoolExecutor = executor
    futures.Future = futures._base.Future = under_test.Future
    original = script_helper.assert_python_ok

    def assert_python_ok(flag: str, source: str, **env: str) -> Any:
        if flag != "-c":
            raise Unplaced(f"python {flag} {source}")
        return original(flag, redirect(source, module, name, limit * (1 - EARLIER)), **env)

    script_helper.assert_python_ok = assert_python_ok
    return executor


def redirect(source: str, module: str, name: str, limit: float) -> str:
    """Return the script with the executor under test in it, found where this process found it, and a limit in seconds.

    Raises:
        Unplaced: it is not known how the script comes by its executor.
    """
    old = rf"\bfrom concurrent\.futures import ({name}|ThreadPoolExecutor)\b"
    source, count = re.subn(old, rf"from {module} import {name} as \1", source)
    if count != 1 or "concurrent.futures" in source.replace(f"from {module} import", "").replace(SUITE, ""):
        raise Unplaced(source)
    watch = f"import faulthandler; faulthandler.dump_traceback_later({limit}, exit=True)"
    return f"import sys; sys.path[:] = {sys.path}; {watch}\n{source}"


def cases_in(module: str) -> Iterator[tuple[type[unittest.TestCase], str, str]]:
    """Give the class, the method and the full name of each test in a module."""
    for name, case in sorted(vars(importlib.import_module(module)).items()):
        if inspect.isclass(case) and issubclass(case, unittest.TestCase):
            for method in unittest.defaultTestLoader.getTestCaseNames(case):
                yield case, method, f"{module}.{name}.{method}"


def pool_tests(executor: type) -> list[str]:
    """Name the suite's tests: all but those that are known to be about processes, so that none is lost."""
    # A package since Python 3.12, one file before.
    parts = pkgutil.iter_modules(getattr(importlib.import_module(SUITE), "__path__", ()))
    wanted = [part.name for part in parts if part.name.startswith("test_") and part.name not in OF_PROCESSES]
    return [
        test
        for module in [f"{SUITE}.{part}" for part in wanted] or [SUITE]
        for case, _, test in cases_in(module)
        if getattr(case, "executor_type", executor) is executor and case.__name__ not in OF_PROCESSES
    ]


def other_tests() -> list[str]:
    """Name the tests elsewhere in the standard library that use a thread pool or its futures."""
    found = []
    for case, method, test in (entry for module in ELSEWHERE for entry in cases_in(module)):
        source = inspect.getsource(inspect.unwrap(getattr(case, method)))
        if USES_THREADS.search(source) and not USES_PROCESSES.search(source):
            found.append(test)
    return found


def run(test: str, process_future: Any) -> dict[str, str]:
    """Run a test, with the set-up of its class and module, and return what came of it."""
    suite = unittest.defaultTestLoader.loadTestsFromName(test)
    concurrent.futures._base.Future = process_future  # type: ignore[misc]  # a class, to mypy, stays what it is
    result = unittest.TestResult()
    suite.run(result)
    faults = [text for _, text in result.errors + result.failures]
    if result.skipped and not faults:
        return {"verdict": "skipped", "detail": result.skipped[0][1]}
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(PATIENCE)
        if thread.is_alive():
            faults.append(f"it left {thread} behind")
    if result.testsRun != 1 or not result.wasSuccessful():
        faults.append(repr(result))
    return {"verdict": "failed" if faults else "passed", "detail": "\n".join(faults)}


def main(command: str, spec: str, test: str = "", limit: str = "60") -> None:
    """Write the answer. If that, and the interpreter's exit, take longer than `limit`, write every stack instead."""
    faulthandler.dump_traceback_later(float(limit), exit=True)
    process_future = concurrent.futures._base.Future
    executor = place(spec, float(limit))
    if command == "run":
        answer: object = run(test, process_future)
    else:
        answer = {"suite": pool_tests(executor), "elsewhere": other_tests()}
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs one of CPython's own tests of `socketserver`, or that use it, with another mixin in ThreadingMixIn's place.

    python driver_socketserver.py list MODULE:MIXIN                         name the tests
    python driver_socketserver.py run  MODULE:MIXIN TEST LIMIT [PATIENCE]   run one of them

LIMIT is in seconds, and so is PATIENCE: what threads may take to end when the test is over.

Either writes its answer to standard output, as JSON in the last line. The tests are those of the interpreter that runs
this; none is copied. They come by the mixin in four ways, and in each of them they find the one under test:

    socketserver.ThreadingMixIn             what the tests mix into servers of their own
    socketserver.Threading...Server         the servers that are mixed already
    http.server.HTTPServer                  which has no mixin, and has the one under test here
    xmlrpc.server...XMLRPCServer            likewise
"""

from __future__ import annotations

import faulthandler
import gc
import http.server
import importlib
import inspect
import json
import os
import re
import socketserver
import sys
import tempfile
import threading
import unittest
import xmlrpc.server
from time import monotonic
from typing import Any

MODULES = (
    "test.test_socketserver",
    "test.test_httpservers",
    "test.test_logging",
    "test.test_urllib2_localnet",
    "test.test_xmlrpc",
    "test.test_docxmlrpc",
    "test.test_robotparser",
)
WITH_SERVERS = {  # the test cases that have one, where most have none
    "test.test_logging": re.compile("(Socket|Datagram|SysLog|HTTP)HandlerTest"),
    "test.test_robotparser": re.compile("(PasswordProtectedSite|LocalNetwork|HttpErrors)TestCase"),
}
PATIENCE = 5.0  # seconds
TURN = 0.02  # seconds for one thread to end, before the next look at what is garbage now


def place(spec: str) -> None:
    """Put the mixin that `spec` names in the place of the standard library's. The tests are not imported yet."""
    module, _, name = spec.partition(":")
    mixin = getattr(importlib.import_module(module), name)
    # Subclasses that have the names of what they replace, for a test compares the module with its `__all__`.
    standard: Any = socketserver
    standard.ThreadingMixIn = type("ThreadingMixIn", (mixin,), {"__module__": "socketserver"})
    for base in ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"):
        if hasattr(standard, base):
            bases = (standard.ThreadingMixIn, getattr(standard, base))
            setattr(standard, f"Threading{base}", type(f"Threading{base}", bases, {"__module__": "socketserver"}))
    web: Any = http.server
    web.HTTPServer = type("HTTPServer", (mixin, web.HTTPServer), {"__module__": "http.server"})
    calls: Any = xmlrpc.server
    for name in ("SimpleXMLRPCServer", "MultiPathXMLRPCServer", "DocXMLRPCServer"):
        setattr(calls, name, type(name, (mixin, getattr(calls, name)), {"__module__": "xmlrpc.server"}))


def tests_in(module: str) -> list[str]:
    """Name the tests in a module in full."""
    return [
        f"{module}.{name}.{method}"
        for name, case in sorted(vars(importlib.import_module(module)).items())
        if inspect.isclass(case) and issubclass(case, unittest.TestCase)
        if module not in WITH_SERVERS or WITH_SERVERS[module].search(name)
        for method in unittest.defaultTestLoader.getTestCaseNames(case)
    ]


def threads_left(patience: float) -> list[threading.Thread]:
    """Return the threads beside the main one that do not end in time.

    Servers that nobody has closed, as test_xmlrpc's, are garbage, and go with theirs.
    """
    deadline = monotonic() + patience
    while left := [thread for thread in threading.enumerate() if thread is not threading.main_thread()]:
        if monotonic() > deadline:
            break
        gc.collect()
        for thread in left:
            if thread.ident is not None:  # one that is just being started cannot be joined yet
                thread.join(TURN)
    return left


class Result(unittest.TestResult):
    """What came of a test, and the threads that it left: those on their way out are waited for.

    Here, rather than when all is over: the clean-up of some modules looks for threads too, for a second.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        threads_left(self._patience)
        gc.collect()  # the servers of those that ended


def run(test: str, patience: float) -> dict[str, str]:
    """Run a test, with the set-up of its class and module, and return what came of it."""
    result = Result(patience)
    unittest.defaultTestLoader.loadTestsFromName(test).run(result)
    faults = [text for _, text in result.errors + result.failures]
    if result.skipped and not faults:
        return {"verdict": "skipped", "detail": result.skipped[0][1]}
    faults += [f"it left {thread} behind" for thread in threads_left(patience)]
    if result.testsRun != 1 or not result.wasSuccessful():
        faults.append(repr(result))
    return {"verdict": "failed" if faults else "passed", "detail": "\n".join(faults)}


def main(command: str, spec: str, test: str = "", limit: str = "60", patience: str = str(PATIENCE)) -> None:
    """Write the answer. If that, and the interpreter's exit, take longer than `limit`, write every stack instead."""
    faulthandler.dump_traceback_later(float(limit), exit=True)
    place(spec)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the tests make files and UNIX sockets
        answer: object = (
            run(test, float(patience)) if command == "run" else {module: tests_in(module) for module in MODULES}
        )
        os.chdir("/")
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

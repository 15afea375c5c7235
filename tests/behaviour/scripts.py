"""Programs given as text, run in processes of their own that cannot outlive the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

PATIENCE = 90.0  # seconds for a program to end
CHILD_PATIENCE = 30  # seconds for a child that it forks

PRELUDE = f"""
import faulthandler, os, signal, sys, threading, traceback, warnings
warnings.simplefilter("ignore")  # of forking with threads, which is what is tested

if hasattr(os, "fork"):
    faulthandler.register(signal.SIGALRM, chain=True)  # who hangs says where

def print(*words, **_):
    "Write one line in one piece, whatever other threads and processes write."
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def errors_of(results):
    "Take what is left of an iterator; return what it raised."
    errors = []
    while True:
        try:
            next(results)
        except StopIteration:
            return errors
        except BaseException as error:
            errors.append(error)

def fork(child):
    "Call `child` in a forked process that then ends at once; return its exit status."
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        signal.alarm({CHILD_PATIENCE})
        child()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
"""


def script(source: str, *, prelude: str = PRELUDE) -> subprocess.CompletedProcess[str]:
    """Run a program; raise TimeoutExpired, with it and its children killed, if it hangs."""
    command = [sys.executable, "-c", prelude + textwrap.dedent(source)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)  # its group: what it forked holds the pipes open
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)

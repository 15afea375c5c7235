"""Four faults of the standard library's pool, each shown in the same program that treadle's passes.

The program is run twice, in processes of its own, with `Executor` being one and the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

STANDARD = "from concurrent.futures import ThreadPoolExecutor as Executor"
TREADLE = "from treadle import Pool as Executor"
HANGS = 3.0  # seconds after which a program that has nothing to do but to end is taken to hang


def run(imports: str, program: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the program; raises TimeoutExpired if it hangs."""
    source = f"import warnings; warnings.simplefilter('ignore')\n{imports}\n{textwrap.dedent(program)}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )


FORK = """
    import os, sys
    executor = Executor(1)
    executor.submit(int).result()
    pid = os.fork()
    if pid == 0:
        print(executor.submit(abs, -3).result(), flush=True)
        os._exit(0)
    import time
    for _ in range(300):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            sys.exit()
        time.sleep(0.01)  # why: a child that hangs can only be polled
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    print("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("imports", "printed"), [(STANDARD, "the child hangs"), (TREADLE, "3")])
def test_a_pool_that_was_used_before_a_fork_works_in_the_child(imports: str, printed: str) -> None:
    assert run(imports, FORK, 60).stdout.strip() == printed


NO_THREAD = """
    import threading
    executor = Executor(1)
    start = threading.Thread.start
    def refuse(thread):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refuse
    try:
        executor.submit(print, "a task whose submit raised")
    except RuntimeError as error:
        print(error, flush=True)
    threading.Thread.start = start
    executor.submit(print, "the next one", flush=True).result(10)
    executor.shutdown()
"""


@pytest.mark.parametrize(("imports", "runs"), [(STANDARD, True), (TREADLE, False)])
def test_a_task_whose_submit_raised_does_not_run_later(imports: str, runs: bool) -> None:
    printed = run(imports, NO_THREAD, 60).stdout
    assert "can't start new thread" in printed
    assert "the next one" in printed
    assert ("a task whose submit raised" in printed) is runs


NESTED = """
    executor = Executor(1)
    print(executor.submit(lambda: executor.submit(abs, -3).result()).result(), flush=True)
"""


def test_a_task_may_wait_for_a_task_of_its_own_pool() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(STANDARD, NESTED, HANGS)
    assert run(TREADLE, NESTED, 60).stdout.strip() == "3"


CTRL_C = """
    import os, signal, threading
    began = threading.Event()
    def task(number):
        print("task", number, flush=True)
        began.set()
        threading.Event().wait(0.2)
    with Executor(1) as executor:
        for number in range(5):
            executor.submit(task, number)
        assert began.wait(30)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(30)
"""


@pytest.mark.parametrize(("imports", "ran"), [(STANDARD, 5), (TREADLE, 1)])
def test_ctrl_c_inside_the_block_does_not_run_what_is_queued(imports: str, ran: int) -> None:
    done = run(imports, CTRL_C, 60)
    assert done.stdout.count("task") == ran
    assert done.returncode == -signal.SIGINT

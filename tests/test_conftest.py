"""What conftest.py promises, seen from outside: pytest runs faulty tests under it, and each fault fails."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from programs import run

HERE = Path(__file__).parent
HEAD = "import gc, socket, threading, warnings, pytest\nkept = []\n"


def faults_of(body: str, tmp_path: Path, *options: str, **less: float) -> tuple[int, str]:
    """Run a test module with this body under our conftest and settings; return exit status and output.

    Args:
        options: further ones of pytest's.
        less: constants of conftest.py, or the setting faulthandler_timeout, by what is to stand in their place.
    """
    for name in ("conftest.py", "../pyproject.toml"):
        text = (HERE / name).read_text()
        for constant, value in less.items():
            text = re.sub(rf"^{constant} = [\d.]+", f"{constant} = {value}", text, flags=re.MULTILINE)
        (tmp_path / Path(name).name).write_text(text)
    (tmp_path / "tests").mkdir(exist_ok=True)  # where the settings have it look for modules
    shutil.copy(HERE / "certificates.py", tmp_path / "tests")
    (tmp_path / "test_faulty.py").write_text(HEAD + body)
    status, out, error = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        *options,
        str(tmp_path),
    )
    return status, out + error


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("threading.Thread(target=threading.Event().wait, name='forgotten', daemon=True).start()", "forgotten"),
        ("kept.append(socket.socket())", "left descriptors open"),
        ("socket.socket(); gc.collect()", "ResourceWarning"),
        ("warnings.warn('look out')", "UserWarning: look out"),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", "ZeroDivisionError"),
    ],
)
def test_what_a_test_leaves_or_hides_fails_it(body: str, complaint: str, tmp_path: Path) -> None:
    status, output = faults_of(f"def test(): {body}\n", tmp_path, PATIENCE=0.05)
    assert status == 1, output
    assert complaint in output


def test_programs_are_compiled_once_though_nothing_is_written_beside_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "once.py").write_text("")
    program = (
        f"import os, sys; from importlib.util import cache_from_source; sys.path.insert(0, {str(tmp_path)!r}); "
        "import once; print(os.path.exists(cache_from_source(once.__file__)))"
    )
    body = f"def test():\n    assert check_output([sys.executable, '-c', {program!r}]) == b'True\\n'\n"
    status, output = faults_of(f"import sys\nfrom subprocess import check_output\n{body}", tmp_path)
    assert status == 0, output
    assert not list(tmp_path.rglob("__pycache__"))


def test_what_ends_in_time_is_no_fault(tmp_path: Path) -> None:
    """A thread on its way out is waited for."""
    body = "def test():\n    gate = threading.Event()\n    threading.Thread(target=gate.wait).start()\n    gate.set()\n"
    status, output = faults_of(body, tmp_path)
    assert status == 0, output


def test_a_reason_excuses(tmp_path: Path) -> None:
    body = "@pytest.mark.leaves_behind('it is the subject')\ndef test(): kept.append(socket.socket())\n"
    status, output = faults_of(body, tmp_path)
    assert status == 0, output


def test_a_test_that_hangs_ends_the_run_with_every_stack(tmp_path: Path) -> None:
    status, output = faults_of("def test_hangs(): threading.Event().wait()\n", tmp_path, faulthandler_timeout=1)
    assert status == 1
    assert "Timeout" in output
    assert "in test_hangs" in output


def test_a_thread_that_outlives_the_last_test_cannot_keep_the_run_from_ending(tmp_path: Path) -> None:
    body = "def test(): threading.Thread(target=threading.Event().wait, name='immortal').start()\n"
    status, output = faults_of(body, tmp_path, PATIENCE=0.05, EXIT_PATIENCE=1)
    assert status == 1
    assert "immortal" in output


def test_a_process_that_waits_for_the_tests_of_another_is_none_that_a_thread_keeps(tmp_path: Path) -> None:
    body = """
import faulthandler, os
def told(*_, file=None, **__):
    if file == 2:  # pytest's own is another
        os.write(2, b"armed")
faulthandler.dump_traceback_later = told
def test(): pass
"""
    status, output = faults_of(body, tmp_path, "-n", "1")
    assert status == 0, output
    assert "armed" not in output


@pytest.mark.parametrize(
    ("block", "fails"),
    [
        ("with Pool(1) as pool:", "raise KeyError('1 == 2')"),
        ("with Pool(1) as pool, TaskGroup(pool) as pool:", "assert 1 == 2"),
        ("with contextlib.ExitStack() as stack:\n        pool = stack.enter_context(Pool(1))", "pytest.fail('1 == 2')"),
        ("with Crew(hold, 1) as pool:\n        pool.submit = lambda *_: pool.put(None)", "assert 1 == 2"),
    ],
    ids=["pool", "group", "stack", "crew"],
)
def test_a_test_that_fails_while_its_tasks_wait_for_it_says_what_failed(block: str, fails: str, tmp_path: Path) -> None:
    body = f"""
import contextlib
from treadle import Crew, Pool, TaskGroup
def test():
    gate, began = threading.Event(), threading.Event()
    def hold(*_):
        began.set()
        gate.wait()
    {block}
        pool.submit(hold)
        assert began.wait(30)
        {fails}
def test_next(): pass
"""
    status, output = faults_of(body, tmp_path, PATIENCE=0.5, GRACE=0.05, faulthandler_timeout=20, EXIT_PATIENCE=5)
    assert status == 1, output
    assert re.search("^E .*1 == 2", output, flags=re.MULTILINE), output
    assert "1 failed, 1 passed" in output


def test_a_fixture_whose_test_has_failed_waits_for_no_task_of_it(tmp_path: Path) -> None:
    body = """
from treadle import Pool
@pytest.fixture
def pool():
    with Pool(1) as pool:
        yield pool
def test(pool):
    pool.submit(threading.Event().wait)
    assert 1 == 2
def test_next(): pass
"""
    status, output = faults_of(body, tmp_path, GRACE=0.05, faulthandler_timeout=20, EXIT_PATIENCE=5)
    assert status == 1, output
    assert "assert 1 == 2" in output
    assert "1 failed, 1 passed, 1 error" in output


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has other signals")
def test_programs_under_test_hear_signals_though_whoever_started_us_ignores_them(tmp_path: Path) -> None:
    """As `nohup` does, and `&` in a script."""
    body = """
import signal, subprocess, sys
LOOK = "import signal; print([n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN])"
def test():
    child = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert child.stdout == "['SIGPIPE', 'SIGXFSZ']\\n", child.stdout
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
"""
    ignored = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1]
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        status, output = faults_of(body, tmp_path)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert status == 0, output

"""How the command starts, with its extra and without."""

from __future__ import annotations

import sys

import pytest

from programs import TREADLE, run

# A module that sys.modules holds as None is, to an import statement, not installed.
WITHOUT = "import sys; sys.modules[{package!r}] = None; from treadle._cli.main import main; sys.exit(main())"


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_extra_is_named_without_a_traceback(package: str) -> None:
    status, out, error = run(sys.executable, "-c", WITHOUT.format(package=package))
    assert (status, out) == (69, "")
    assert error == f"treadle: the command needs {package}, which is not installed; run: pip install click rich\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
def test_what_standard_error_is_not_there_for_is_not_said_on_standard_output() -> None:
    program = WITHOUT.format(package="click")
    assert run("sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program) == (69, "", "")


def test_a_missing_module_that_is_no_extra_is_a_fault_of_ours() -> None:
    status, _, error = run(sys.executable, "-c", WITHOUT.format(package="selectors"))
    assert status == 1
    assert "ModuleNotFoundError" in error


def test_python_m_treadle_is_the_command() -> None:
    status, out, _ = run(*TREADLE, "--help")
    assert status == 0
    assert out.startswith("Usage: treadle ")


INTERRUPTED_AT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["treadle", "tcp", "app:handle", "--bind", "127.0.0.1:0"]
from treadle._cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["click", "treadle.server._socketserver.requests", "app"])
def test_ctrl_c_while_it_starts_ends_it_without_a_word(module: str) -> None:
    """While its own modules are imported, and while the user's is."""
    assert run(sys.executable, "-c", INTERRUPTED_AT.format(module=module)) == (130, "", "")

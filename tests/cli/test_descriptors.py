"""The limit on open files."""

from __future__ import annotations

import sys

import pytest

from programs import run

if sys.platform == "win32":
    pytest.skip("there is no such limit on Windows", allow_module_level=True)

# In a process of its own, for a hard limit cannot be raised again.
PROGRAM = """
import resource
from treadle._cli.descriptors import reserve_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 500))
print(reserve_descriptors({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("wanted", "granted"), [(50, 100), (100, 100), (300, 300), (9000, 500), (10**30, 500)])
def test_the_soft_limit_is_raised_as_far_as_wanted_and_allowed(wanted: int, granted: int) -> None:
    assert run(sys.executable, "-c", PROGRAM.format(wanted=wanted)) == (0, f"{granted} ({granted}, 500)\n", "")


def test_a_limit_that_the_system_will_not_grant_leaves_things_as_they_are() -> None:
    """An infinite hard limit is still bounded by the kernel's own."""
    program = """
import resource
from treadle._cli import descriptors
def refuse(kind, limits): raise ValueError("not allowed to raise maximum limit")
resource.getrlimit = lambda kind: (100, resource.RLIM_INFINITY)
resource.setrlimit = refuse
print(descriptors.reserve_descriptors(10**12))
"""
    assert run(sys.executable, "-c", program) == (0, "100\n", "")


@pytest.mark.parametrize(("errors", "after"), [("strict", "backslashreplace"), ("surrogateescape", "surrogateescape")])
def test_standard_output_takes_what_its_encoding_has_no_letters_for(errors: str, after: str) -> None:
    program = "import sys; from treadle._cli.main import main; main(); print(sys.stdout.errors, file=sys.stderr)"
    env = {"PYTHONIOENCODING": f"ascii:{errors}"}
    assert run(sys.executable, "-c", program, env=env)[2].splitlines()[-1] == after

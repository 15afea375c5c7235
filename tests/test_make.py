"""What `make` does for a newcomer: it serves with options, and says what it needs where it cannot."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from programs import run

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_make_run_passes_options_on() -> None:
    status, out, _ = run("make", "-C", str(ROOT), "--dry-run", "run", "ARGS=--bind 127.0.0.1:5001")
    assert status == 0
    assert "/bin/treadle echo --bind 127.0.0.1:5001\n" in out


def test_without_a_network_the_first_run_says_once_that_it_needs_one(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": "/dev/null"}
    status, out, error = run("make", "-C", str(tmp_path), "run", f"PYTHON={sys.executable}", env=nowhere)
    assert status == 2
    assert (out + error).count("needs a network") == 1
    assert "which needs a network, once; try again when there is one" in error
    assert "Traceback" not in out + error

"""The version, which stands in one place."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import treadle
from programs import run

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "treadle" / "__init__.py"
PROJECT = ROOT / "pyproject.toml"


def test_a_checkout_that_is_not_installed_tells_its_version() -> None:
    """And asks no metadata for it, which would take longer than the rest of the import."""
    show = "import sys, treadle; print(treadle.__version__, 'importlib.metadata' in sys.modules)"
    code, out, err = run(sys.executable, "-S", "-c", show, env={"PYTHONPATH": str(ROOT / "src")})
    assert (code, out, err) == (0, f"{treadle.__version__} False\n", "")


def test_the_package_has_the_version_of_the_module() -> None:
    try:
        installed = metadata.version("treadle")
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert installed == treadle.__version__


def test_the_project_reads_the_version_from_the_module() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert ROOT / project["tool"]["hatch"]["version"]["path"] == SOURCE
    assert f'__version__ = "{treadle.__version__}"\n' in SOURCE.read_text(encoding="utf-8")

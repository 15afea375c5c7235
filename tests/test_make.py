"""What `make` does for a newcomer: it serves with options, and says what it needs where it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
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


def test_make_run_web_serves_the_example() -> None:
    status, out, _ = run("make", "-C", str(ROOT), "--dry-run", "run-web", "ARGS=--bind 127.0.0.1:8001")
    assert status == 0
    assert "/bin/treadle wsgi --chdir examples web_app:app --bind 127.0.0.1:8001\n" in out
    assert (ROOT / "examples" / "web_app.py").exists()


def test_make_help_lists_every_target() -> None:
    status, out, _ = run("make", "--no-print-directory", "-C", str(ROOT), "help")
    assert status == 0
    phony = re.search(r"^\.PHONY: (.*) FORCE$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert [line.split()[0] for line in out.splitlines()] == phony[1].split()


@pytest.mark.parametrize("home", [{}, {"PIP_USER": "1"}], ids=["", "pip installs at home"])
def test_without_a_network_the_first_run_says_once_that_it_needs_one(home: dict[str, str], tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": "/dev/null"}
    nowhere["PYTHONPYCACHEPREFIX"] = ""  # the new environment has bytecode of its own
    command = ("make", "-C", str(tmp_path), "run", f"PYTHON={sys.executable}")
    status, out, error = run(*command, env={**nowhere, **home}, patience=120.0)  # it makes an environment first
    assert status == 2
    assert (out + error).count("needs a network") == 1
    assert "which needs a network, once; try again" in error
    assert "ERROR: No matching distribution found for" in error
    assert "Traceback" not in out + error
    assert "--user" not in out + error  # which pip refuses in an environment, whatever it is told elsewhere


STAND_IN = """\
#!/bin/sh
# A Python that makes environments, and installs into them, without a network: it notes when two do so at once.
case "$*" in
*run_module*--clear*)
    venv=${*##* }
    mkdir -p "$venv/bin"
    cp "$0" "$venv/bin/python"
    ;;
*pip*install*)
    mkdir "$ONE" || echo "two at once" >>"$SEEN"
    echo installed >>"$SEEN"
    read -r _ <"$GATE"
    rmdir "$ONE"
    [ -e "$WORKS" ] || { echo "ERROR: No matching distribution"; exit 1; }
    printf '#!/bin/sh\\necho serving' >"${0%python}treadle"
    chmod +x "${0%python}treadle"
    ;;
*describe*|*Py_GIL_DISABLED*)
    echo 3.13.0
    ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, and a Python in it that installs nothing. Each installation reads a line of the file GATE."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    for name in ("ONE", "SEEN", "GATE", "WORKS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    os.mkfifo(tmp_path / "GATE")
    return tmp_path


def make_run(place: Path) -> subprocess.Popen[str]:
    command = ["make", "-C", str(place), "run", f"PYTHON={place / 'python'}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_two_first_runs_at_once_install_once(stand_in: Path) -> None:
    (stand_in / "WORKS").touch()
    with make_run(stand_in) as one, make_run(stand_in) as other:
        (stand_in / "GATE").write_text("\n")  # waits until there is one that reads
        told = [run.communicate(timeout=60)[0] for run in (one, other)]
    assert (stand_in / "SEEN").read_text() == "installed\n"
    assert all("serving" in text for text in told), told
    with make_run(stand_in) as later:
        text, _ = later.communicate(timeout=60)
    assert "serving" in text
    assert "up to date" not in text


def test_an_environment_into_which_nothing_can_be_installed_is_made_anew(stand_in: Path) -> None:
    for works in (False, True):
        if works:
            (stand_in / "WORKS").touch()
        with make_run(stand_in) as first:
            (stand_in / "GATE").write_text("\n")
            text, _ = first.communicate(timeout=60)
        assert "make: making .venv-3.13.0, once" in text
        assert ("ERROR: No matching distribution" in text) is not works
        assert ("serving" in text) is works

"""The program behind `make mutants`: which broken lines are noticed, and what is wrong with a list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mutants import main as mutants

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")

TINY = """
def double(number):
    number = abs(number)  # guarded
    total = 0
    while number > 0:
        number -= 1  # or it never ends
        total += 2
    return total  # twice
"""
TESTS = """
from tiny import double

def test_it_doubles():
    assert double(3) == 6

def test_the_sign_is_no_matter():
    assert double(-3) == 6
"""
SETTINGS = '[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of one module and its tests."""
    for name, text in {"src/tiny.py": TINY, "tests/test_tiny.py": TESTS, "pyproject.toml": SETTINGS}.items():
        place = tmp_path / "project" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return tmp_path / "project"


def judged(root: Path, *lines: tuple[str, str], options: tuple[str, ...] = ()) -> int:
    """Judge lines, each given with what it is replaced by; return the exit status."""
    entries = [
        f'[[line]]\nfile = "src/tiny.py"\ntext = {json.dumps(text)}\nbroken = {json.dumps(broken)}\n'
        f'tests = ["tests/test_tiny.py"]\nwhy = "the reason"\n'
        for text, broken in lines
    ]
    (root / "lines.toml").write_text("\n".join(entries))
    return mutants.main(["--root", str(root), "--lines", str(root / "lines.toml"), *options])


def test_each_line_is_judged_by_itself_and_only_what_no_test_needs_fails_the_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(root, ("return total  # twice", "return total  # thrice"), ("number = abs(number)", "pass")) == 1
    said = capsys.readouterr().out
    assert "UNNOTICED  src/tiny.py: return total  # twice\n   every test passed\n   it guards: the reason\n" in said
    assert (
        "noticed    src/tiny.py: number = abs(number)\n   by tests/test_tiny.py::test_the_sign_is_no_matter\n" in said
    )
    assert "test_it_doubles" not in said
    assert "2 lines: 1 UNNOTICED, 1 noticed" in said
    assert (root / "src/tiny.py").read_text() == TINY, "only the copy is broken"


def test_a_line_without_which_a_test_hangs_is_noticed_second_best(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tests are ended, and it is said which of them was under way."""
    assert judged(root, ("number -= 1", "pass"), options=("--limit", "10")) == 0
    said = capsys.readouterr().out
    assert "hung       src/tiny.py: number -= 1\n" in said
    assert "second best, in tests/test_tiny.py::test_it_doubles\n" in said


def test_an_entry_that_says_nothing_about_the_source_fails_the_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = (
        ("number = round(number)", "pass"),
        ("number", "digit"),
        ("number = abs(number)", "number = ("),
        ("def double", "def treble"),
    )
    assert judged(root, *entries) == 1
    said = capsys.readouterr().out
    assert "src/tiny.py has it 0 times, not once: bring the list up to date" in said
    assert f"src/tiny.py has it {TINY.count('number')} times, not once: bring the list up to date" in said
    assert "it cannot be broken so" in said
    assert "no test failed, and pytest ended with 2" in said
    assert "4 lines: 2 STALE, 2 FAULTY" in said


def test_nothing_is_judged_by_tests_that_fail_anyway(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "tests/test_tiny.py").write_text(TESTS.replace("double(3) == 6", "double(3) == 7"))
    assert judged(root, ("number = abs(number)", "pass")) == 2
    assert "with no line broken, these do not pass: tests/test_tiny.py::test_it_doubles" in capsys.readouterr().out


def test_a_word_chooses_lines(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (("return total", "return 0"), ("number = abs(number)", "pass"))
    assert judged(root, *lines, options=("-k", "abs")) == 0
    assert "1 lines: 1 noticed" in capsys.readouterr().out
    assert judged(root, *lines, options=("-k", "nothing like it")) == 2


def test_the_list_is_up_to_date() -> None:
    """Whoever changes a guarded line hears of it at once, and not only from `make mutants`."""
    root = Path(__file__).parent.parent
    lines = mutants.lines_in(root / "tests/mutants/lines.toml", "")
    assert len(lines) >= 40
    stale = [line for line in lines if (root / line.file).read_text(encoding="utf-8").count(line.text) != 1]
    assert not stale, f"found not at all, or more than once: {stale}"
    assert all(line.why and (root / test.split("::")[0]).exists() for line in lines for test in line.tests)

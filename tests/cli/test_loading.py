"""What is loaded for `treadle tcp` and `treadle wsgi`, whose tests show most of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from treadle._cli.loading import CannotImport, find, import_named


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_modules_of_the_current_folder_come_first(here: Path) -> None:
    (here / "loaded_for_a_test.py").write_text("class A:\n    b = 3\n")
    module = import_named("loaded_for_a_test")
    assert sys.path[0] == str(here)
    assert find(module, "A.b") == 3


def test_the_place_where_the_way_ends_is_known(here: Path) -> None:
    with pytest.raises(AttributeError) as caught:
        find(sys, "path.nothing.more")
    assert (caught.value.name, caught.value.obj) == ("nothing", sys.path)


@pytest.mark.parametrize(
    ("name", "path", "hint"),
    [
        ("no_such_thing", "", "is no_such_thing.py in {here}, or installed?"),
        ("no/such.py", "f", "did you mean no.such:f?"),
        ("no/such.py", "", "did you mean no.such?"),
    ],
)
def test_a_module_that_is_not_there_is_told_with_what_may_be_meant(here: Path, name: str, path: str, hint: str) -> None:
    with pytest.raises(LookupError) as caught:
        import_named(name, path)
    assert str(caught.value).endswith(hint.format(here=here))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0\n", "cannot import loaded_in_vain: ZeroDivisionError: division by zero (loaded_in_vain.py, line 1)"),
        ("import sys\nsys.exit('no database')\n", "SystemExit: no database (loaded_in_vain.py, line 2)"),
        ("import no_such_thing\n", "No module named 'no_such_thing' (loaded_in_vain.py, line 1)"),
    ],
)
def test_a_module_that_fails_is_told_with_its_own_frames(here: Path, source: str, said: str) -> None:
    (here / "loaded_in_vain.py").write_text(source)
    with pytest.raises(CannotImport) as caught:
        import_named("loaded_in_vain")
    assert caught.value.message.endswith(said)
    assert caught.value.exit_code == 78
    assert caught.value.story.count('  File "') == 1


def test_what_fails_in_a_frozen_module_is_placed_at_its_caller(here: Path) -> None:
    (here / "loaded_in_vain.py").write_text("import os\nos.environ['NO_SUCH_KEY']\n")
    with pytest.raises(CannotImport) as caught:
        import_named("loaded_in_vain")
    assert caught.value.message.endswith("KeyError: 'NO_SUCH_KEY' (loaded_in_vain.py, line 2)")

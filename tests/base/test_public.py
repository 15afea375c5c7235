"""What is public: the names, where they say they come from, and that nothing else shows."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pydoc
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from programs import run
from surface import MODULES, surface

ROOT = Path(__file__).parents[2]
PUBLIC = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__]

each_public = pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module}.{name}" for module, name in PUBLIC])


@pytest.mark.parametrize("module", MODULES)
def test_a_public_module_shows_what_it_exports_and_nothing_else(module: str) -> None:
    shown = {name for name in dir(importlib.import_module(module)) if not name.startswith("_")}
    below = {public.removeprefix(f"{module}.") for public in MODULES if public.startswith(f"{module}.")}
    assert shown - below == {name for name in importlib.import_module(module).__all__ if not name.startswith("_")}


@each_public
def test_what_is_public_says_where_it_is_documented(module: str, name: str) -> None:
    thing: Any = getattr(importlib.import_module(module), name)
    if isinstance(thing, type) or inspect.isfunction(thing):
        assert thing.__module__ == module
        assert pickle.loads(pickle.dumps(thing)) is thing


# What has types that are not public either: attributes of treadle's own.
UNTOLD = {"Pool", "PoolView", "Connection.__init__"}


@each_public
def test_the_type_hints_of_what_is_public_can_be_had(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    for what, part in [(name, thing), *members(thing, name)]:
        if what not in UNTOLD and (isinstance(part, type) or inspect.isroutine(part)):
            assert all(not isinstance(hint, str) for hint in get_type_hints(part).values()), what


def test_type_hints_can_be_had_before_anything_that_is_imported_late() -> None:
    program = """
        import inspect, typing
        import treadle
        for what, part in inspect.getmembers(treadle.Pool):
            part = part.fget if isinstance(part, property) else part
            if inspect.isfunction(part) and (what == "__init__" or not what.startswith("_")):
                typing.get_type_hints(part)
        assert typing.get_type_hints(treadle.Pool.map)["return"].__origin__ is treadle.Results
        assert typing.get_type_hints(treadle.Pool.snapshot)["return"] is treadle.events.PoolSnapshot
    """
    assert run(sys.executable, "-c", textwrap.dedent(program)) == (0, "", "")


def members(thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    for part, member in inspect.getmembers(thing) if isinstance(thing, type) else ():
        if part == "__init__" or not part.startswith("_"):
            yield f"{name}.{part}", member.fget if isinstance(member, property) else member


@each_public
def test_help_names_no_file_that_a_method_stands_in(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    text = pydoc.plain(pydoc.render_doc(thing)) if isinstance(thing, type) else ""
    assert not re.search(r"^ \|  (?!.*inherited).* from treadle\.(\w+\.)*_", text, re.MULTILINE)


def test_every_other_module_or_its_package_begins_with_an_underscore() -> None:
    source = ROOT / "src"
    modules = [".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*.py")]
    named = {module.removesuffix(".__init__") for module in modules}
    assert {module for module in named if not re.search(r"\._", module)} == set(MODULES)


@pytest.mark.parametrize("page", ["public.md", "public.zh.md"])
def test_the_page_of_what_is_public_names_each(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(treadle[.\w]*)`\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(MODULES)
    for module in MODULES:
        exported = set(importlib.import_module(module).__all__)
        assert set(re.findall(r"`(\w+)`", sections[module])) == exported, module


# What had another name before, and would be found again in a sentence or an example that nobody runs.
OLD = [
    r"when_full=[\"'](wait|run)[\"']",
    r"(?<!\w)treadle\.cancelled|import .*\bcancelled\b",
    r"\bLimit\(|treadle\.Limit\b",
    r"\bConversation\b",
    r"per_peer|per-peer",
    r"(?<![.\w])Snapshot\b",
    r"(?<!gc\.)\bcollect=",
    r"\bstage\([^)]*\bwidth=",
    r"write_buffer|write-buffer",
    r"\blinger=|`linger`|(?<!max_)\blinger_bytes|(?<!min_)\brate_grace",
    r"\bpark = |`park`|server\.park\b",
    r"--drain(?!-timeout|-delay)\b|\b(stop|run)\(drain=",
    r"refused_messages|\b(rejection|refusal)=|`(rejection|refusal)`|limits\.(rejection|refusal)|--rejection",
    r"--queue-full|queue_full",
    r"\boptions\([^)]*(?<![\w])timeout=",
    r"\bevent\.(task|at|worker)\b",
    r"(?<!-)\brate=\d(?!.* is (int|float))",
    r"(?s)\bServer\([^()]*(\([^()]*\)[^()]*)*\b(queue_size|when_full|order)=",
    r"\brun\([^)]*watch=",
]
TEXTS = [
    path
    for pattern in ("src/**/*.py", "docs/*.md", "README*.md", "examples/*.py", "bench/*.py", "tests/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path != Path(__file__) and path.parent.name != "typing"  # which has what is wrong, on purpose
]


@pytest.mark.parametrize("old", OLD)
def test_no_text_has_the_old_word(old: str) -> None:
    found = {}
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        if match := re.search(old, text):
            found[f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"] = match.group()
    assert not found


# What users derive classes of their own from, and what has no objects: protocols.
OF_USERS = {"Observer", "Order", "PoolMixIn", "Decoder", "Framing", "Protocol", "Results", "Task"}


@each_public
def test_the_repr_of_what_is_public_tells_more_than_its_class(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if isinstance(thing, type) and name not in OF_USERS:
        assert inspect.getattr_static(thing, "__repr__") is not object.__repr__


def test_the_surface_is_what_is_written_down() -> None:
    """So that nothing becomes public, or is renamed, by accident; `python tests/surface.py > tests/surface.txt`."""
    assert list(surface()) == (ROOT / "tests" / "surface.txt").read_text(encoding="utf-8").splitlines()

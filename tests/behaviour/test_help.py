"""What `help` shows of the public names: whole paragraphs, each by itself."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

PACKAGES = ["treadle", "treadle.errors", "treadle.events", "treadle.orders", "treadle.server"]
WIDTH = 112  # columns of a method's docstring
ROOM = 30  # columns that no line inside a paragraph leaves free: those who wrote it meant another paragraph there
ENTRY = re.compile(r"- |\d+\. |\*{0,2}[\w.]+(, [\w.]+)*: ")  # what begins a line of its own: an argument, an item


def texts() -> Iterator[tuple[str, str]]:
    """Give each public class, function, method and property, and what `help` says of it."""
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            thing = getattr(package, name)
            if not callable(thing):
                continue
            yield f"{package.__name__}.{name}", inspect.getdoc(thing) or ""
            for part, member in inspect.getmembers(thing) if inspect.isclass(thing) else ():
                if not part.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{package.__name__}.{name}.{part}", inspect.getdoc(member) or ""


def ragged(text: str) -> list[str]:
    """Return the lines inside a paragraph that end long before the width does, though the next word had room."""
    found = []
    for line, following in pairwise(text.splitlines()):
        inside = (
            line.strip()
            and "  # " not in line
            and following.strip()
            and not line.endswith(":")
            and not ENTRY.match(following.strip())
        )
        same = indent(line) == indent(following) or (ENTRY.match(line.strip()) and indent(line) < indent(following))
        if inside and same and len(line) + 1 + len(following.split()[0]) + ROOM <= WIDTH:
            found.append(line)
    return found


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def test_no_paragraphs_run_together() -> None:
    ours = [(name, text) for name, text in texts() if "\n\n" in text]
    assert len(ours) > 100
    assert not {name: lines for name, text in ours if (lines := ragged(text))}


LONG = "Then what is accepted is done, and whoever waits is told of it, in the thread that has done it, at once."


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"Do it.\n\n{LONG}\nAnd this too.", []),
        ("Do it.\n\nIt may be called again.\nUnless it was called, the input is read.", ["It may be called again."]),
        ("Do it.\n\nIt may be called again.\n\nUnless it was called, the input is read.", []),
        ("Args:\n    one: a number.\n    two: another.", []),
        ("Args:\n    one: a number.\n        None: no limit.", []),
        (f"Args:\n    one: {LONG[:50]}\n        {LONG}", [f"    one: {LONG[:50]}"]),
        ("Order:\n\n- first;\n- second.", []),
    ],
)
def test_the_rule_sees_two_in_one(text: str, lines: list[str]) -> None:
    assert ragged(text) == lines

"""The Chinese pages: no line of a paragraph ends where no space belongs, for Markdown shows its end as one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for pattern in ("*.zh.md", "[!.]*/**/*.zh.md") for path in ROOT.glob(pattern))

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
ALONE = re.compile(r"#+ |\|")  # a heading, a row of a table: what comes next is no part of it
FIRST = re.compile(r"(#+|[-*+]|\d+[.)]|>) |\|")  # the same, an item of a list, a quotation: they begin anew
UNSEEN = re.compile(r"<!--.*?-->|\]\([^)]*\)|[\[\]*_`]")  # what Markdown does not show
QUOTES = "“”‘’"  # as wide as the others in a Chinese page, though Unicode leaves that open


def is_wide(char: str) -> bool:
    """Tell whether this is a Chinese character, or punctuation of the full width."""
    return char in QUOTES or unicodedata.east_asian_width(char) in {"W", "F"}


def belong_together(before: str, after: str) -> bool:
    """Tell whether no space belongs between these two: beside wide punctuation, and between Chinese characters."""
    wide = [char for char in (before, after) if is_wide(char)]
    return len(wide) == 2 or any(unicodedata.category(char).startswith("P") for char in wide)


def stray_spaces_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the lines that end amid a paragraph where no space belongs: the number, the last and the next character."""
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    for number, (line, after) in enumerate(pairwise(map(str.strip, text.split("\n"))), 1):
        shown, next_shown = UNSEEN.sub("", line).strip(), UNSEEN.sub("", after).strip()
        goes_on = shown and next_shown and not ALONE.match(line) and not FIRST.match(after)
        if goes_on and belong_together(shown[-1], next_shown[0]):
            yield number, shown[-1], next_shown[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_ends_where_no_space_belongs(path: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: ends in {last}, and the next line begins with {first}; join them"
        for number, last, first in stray_spaces_in(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_page_has_been_found() -> None:
    assert {"README.zh.md", "CHANGELOG.zh.md", "server.zh.md"} <= {path.name for path in PAGES}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("排队的任务\n有上限", [1]),
        ("排队的任务，\n有上限", [1]),
        ("先进先出。\n`Pool` 有上限", [1]),
        ("由 `Pool`\n（线程池）限制", [1]),
        ("她说“好”\n`Pool`", [1]),
        ("**有上限**\n[任务](a.md)", [1]),
        ("[任务](a.md)\n**有上限**", [1]),
        ("- 排队的任务\n  有上限", [1]),
        ("```sh\n任务\n任务\n```\n任务\n有上限", [5]),
        ("排队的\n`Task` 有上限", []),
        ("最多 1000\n个任务", []),
        ("每个占\n<!-- figure: a b c -->177<!-- /figure --> 字节", []),
        ("任务\n\n有上限", []),
        ("# 任务\n有上限", []),
        ("任务\n- 有上限\n- 先进先出\n1. 任务", []),
        ("| 任务 | 上限 |\n| 任务 | 上限 |", []),
        ("```python\n# 任务\n# 有上限\n```", []),
    ],
)
def test_rule_sees_such_a_line(text: str, lines: list[int]) -> None:
    assert [number for number, _, _ in stray_spaces_in(text)] == lines

"""The design pages: what they name is there, and both languages say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ROOT / "docs" / "design.md", ROOT / "docs" / "design.zh.md"
DIAGRAM = re.compile("^    .*", re.MULTILINE)


def names_in(path: Path) -> set[str]:
    """Return what a page has in code font."""
    text = DIAGRAM.sub("", path.read_text(encoding="utf-8"))
    return {" ".join(name.split()) for name in re.findall("`([^`]+)`", text)}


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    files = [name for name in names_in(path) if name.endswith((".py", "/"))]
    assert files
    assert not [file for file in files if not (ROOT / "src" / "treadle" / file).exists()]


def test_both_languages_name_the_same() -> None:
    assert names_in(ENGLISH) == names_in(CHINESE)


@pytest.mark.parametrize("mark", ["^#", "^##", "^###", "^- ", "^    ", r"\]\([^)]*\)", r"\*\*[^*]+\*\*"])
def test_both_languages_have_the_same_shape(mark: str) -> None:
    """As many headings, points, lines of diagrams, links and terms; so that neither is forgotten."""
    counts = [len(re.findall(mark, path.read_text(encoding="utf-8"), re.MULTILINE)) for path in (ENGLISH, CHINESE)]
    assert counts[0] == counts[1]
    assert counts[0]


def test_both_languages_lead_to_each_other() -> None:
    assert ENGLISH.read_text(encoding="utf-8").splitlines()[2] == f"[中文]({CHINESE.name})"
    assert CHINESE.read_text(encoding="utf-8").splitlines()[2] == f"[English]({ENGLISH.name})"


def test_chinese_pages_lead_to_the_chinese_one() -> None:
    pages = {
        path: path.read_text(encoding="utf-8") for path in (ROOT / "README.zh.md", *ENGLISH.parent.glob("*.zh.md"))
    }
    assert [path for path, text in pages.items() if re.search(r"\bdesign\.md\b", text)] == [CHINESE]
    assert any("(docs/design.zh.md)" in text for text in pages.values())

"""What wheel and sdist say to whoever has nothing else, and how the documents say to install them."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path

import pytest

from programs import run

ROOT = Path(__file__).parents[2]
BUILDS = """
import os, sys, hatchling.build
os.chdir(sys.argv[1])
hatchling.build.build_wheel(sys.argv[2])
hatchling.build.build_sdist(sys.argv[2])
"""
ABSENT = [module for module in ("hatchling", "hatch_fancy_pypi_readme") if find_spec(module) is None]
FENCED = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)

# Where a page leads: links and images of Markdown, their definitions, and those of HTML.
TARGETS = [
    r"\]\(\s*<?([^)\s>]*)",
    r"(?m)^\s*\[[^\]]+\]:\s*(\S+)",
    r"(?i)\b(?:src|href|srcset)\s*=\s*[\"']?([^\"'\s>]*)",
]

# Commands that install, or fetch, treadle by its name, where a path (., ./treadle) is meant.
ADVICE = re.compile(
    r"\b(?:(?:pip3?|pipx|uv|poetry|pdm|conda|mamba)(?: [\w-]+)*? (?:install|add|run)|uvx)"
    r"(?: [^\s`;&|#,]+)*? [\"']?treadle\b(?!/)"
)


def leading(text: str) -> list[str]:
    """Return what links and images of a page of Markdown lead to, which is not in its blocks of code."""
    prose = FENCED.sub("", text)
    return [target for pattern in TARGETS for target in re.findall(pattern, prose)]


def described(core_metadata: bytes) -> str:
    """Return the long description, which is the body."""
    message = message_from_bytes(core_metadata)
    assert message["Description-Content-Type"] == "text/markdown"
    return core_metadata.decode("utf-8").partition("\n\n")[2]


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the long descriptions of the wheel and of the sdist."""
    if ABSENT:
        pytest.skip(f"building needs {' and '.join(ABSENT)}, which the extra test installs")
    made = tmp_path_factory.mktemp("dist")
    status, out, error = run(sys.executable, "-c", BUILDS, str(ROOT), str(made))
    assert status == 0, out + error
    (wheel,), (sdist,) = made.glob("*.whl"), made.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        of_wheel = files.read(name)
    with tarfile.open(sdist) as archive:
        of_sdist = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert of_sdist is not None
        return [described(of_wheel), described(of_sdist.read())]


def test_no_link_or_image_of_the_long_description_is_relative(descriptions: list[str]) -> None:
    """Where packages are shown there is no docs/ beside the page; nor are there the page's own headings."""
    for text in descriptions:
        assert [target for target in leading(text) if not re.match(r"https?://|mailto:", target)] == []
        assert "<!--" not in text


def test_the_long_description_is_the_readme_with_files_named_instead(descriptions: list[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in descriptions:
        assert FENCED.findall(text) == FENCED.findall(readme)
        assert re.findall(r"(?m)^#+ .*", text) == re.findall(r"(?m)^#+ .*", readme)
        named = [target for target in leading(readme) if target.endswith(".md")]
        assert named
        assert [target for target in named if target not in text] == []


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("see [the pool](docs/pool.md#order)", "docs/pool.md#order"),
        ("![chart](bench/a.svg)", "bench/a.svg"),
        ("[pool]: docs/pool.md", "docs/pool.md"),
        ('<img alt="x" src="bench/a.svg">', "bench/a.svg"),
    ],
)
def test_a_link_is_found_in_prose_and_not_in_code(text: str, target: str) -> None:
    assert leading(text) == [target]
    assert leading(f"```md\n{text}\n```\n") == []


def test_nobody_is_told_to_install_a_name_that_is_not_published() -> None:
    """The name is free for anybody to take. What is said: from the clone, or which packages the command needs."""
    patterns = ("*.md", "Makefile", "docs/*.md", "src/**/*.py", "examples/*.py", "bench/*.py")
    texts = {path: path.read_text(encoding="utf-8") for pattern in patterns for path in ROOT.glob(pattern)}
    assert len(texts) > 50
    assert [f"{path.name}: {found[0]}" for path, text in texts.items() for found in ADVICE.finditer(text)] == []


@pytest.mark.parametrize(
    ("advice", "is_one"),
    [
        ('pip install "treadle[cli]"', True),
        ("pip install treadle", True),
        ("python -m pip install --upgrade 'treadle[cli]>=1'", True),
        ("uv pip install treadle", True),
        ("uv add treadle", True),
        ("uvx treadle echo", True),
        ("pipx run treadle", True),
        ("pip install '.[cli]'", False),
        ("pip install . && treadle echo", False),
        ("pip install click rich", False),
        ("pip install ./treadle", False),
        ("pip install /src/treadle", False),
    ],
)
def test_advice_to_install_it_by_name_is_recognised(advice: str, is_one: bool) -> None:
    assert bool(ADVICE.search(advice)) is is_one

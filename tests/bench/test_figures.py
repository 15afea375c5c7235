"""Figures and charts come from bench/results, and are brought up to date by one program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Import = Callable[[str], ModuleType]


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("figures")


def test_figures_in_the_documents_are_those_of_the_records(module: ModuleType) -> None:
    """`python bench/figures.py` copies them."""
    counts = []
    for path in module.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- figure:") == len(module.MARK.findall(text)), f"a mark in {path} is not well-formed"
        assert module.MARK.sub(module.current, text) == text, f"{path} has other figures than the records"
        counts.append(len(module.MARK.findall(text)))
    assert sum(counts)


def test_keys_may_have_dots_in_them(module: ModuleType) -> None:
    results = {"medians": {"concurrent.futures": 1, "adaptive@1.5x.kept": 2}, "values": {"treadle": {"kept": 3}}}
    paths = ("medians.concurrent.futures", "medians.adaptive@1.5x.kept", "values.treadle.kept")
    assert [module.value_of(results, path) for path in paths] == [1, 2, 3]


@pytest.mark.parametrize("path", ["medians.nobody", "nothing", "medians.concurrent.futures.more"])
def test_a_figure_that_no_record_holds_is_an_error(module: ModuleType, path: str) -> None:
    with pytest.raises(KeyError):
        module.value_of({"medians": {"concurrent.futures": 1}}, path)


def test_figures_and_charts_are_brought_up_to_date_without_measuring(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in module.RESULTS.glob("churn.*"):
        shutil.copy(path, tmp_path)
    stale, right = tmp_path / "churn.py313.svg", (module.RESULTS / "churn.py313.svg").read_text(encoding="utf-8")
    stale.write_text("stale", encoding="utf-8")
    document = tmp_path / "some.md"
    document.write_text(
        "<!-- figure: churn.py313 values.treadle.threads .0f -->stale<!-- /figure --> threads more", encoding="utf-8"
    )
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "DOCUMENTS", (document,))
    module.main()
    assert stale.read_text(encoding="utf-8") == right
    assert "-->0<!-- /figure --> threads more" in document.read_text(encoding="utf-8")
    assert capsys.readouterr().out == "charts drawn: 1; records without one: 0\nsome.md: figures changed\n"

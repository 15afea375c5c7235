"""The chart writer: well-formed, to scale, and safe with any label."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("chart")


def drawn(module: ModuleType, *bars: object) -> ElementTree.Element:
    return ElementTree.fromstring(module.chart("A title", "A note", bars))


def bars_in(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [rect for rect in svg.iter(f"{SVG}rect") if rect.get("class") != "page"]


def texts_in(svg: ElementTree.Element) -> list[str | None]:
    return [text.text for text in svg.iter(f"{SVG}text")]


def test_bars_are_as_long_as_their_values_and_the_longest_fills_the_width(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("half", 5.0, "5"), module.Bar("whole", 10.0, "10"))
    assert [float(bar.get("width", "")) for bar in bars_in(svg)] == [module.BARS / 2, module.BARS]


def test_title_note_labels_and_ends_are_written_in_order(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1.0, "one"), module.Bar("b", 2.0, "two"))
    assert texts_in(svg) == ["A title", "A note", "a", "one", "b", "two"]
    assert svg.get("aria-label") == "A title"


def test_only_ours_is_set_apart(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1.0, "1"), module.Bar("b", 1.0, "1", ours=True))
    assert [bar.get("class") for bar in bars_in(svg)] == ["bar", "ours"]


def test_a_bar_without_value_is_a_text_and_does_not_change_the_scale(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 3.0, "3"), module.Bar("b", None, "- not installed"))
    assert [float(bar.get("width", "")) for bar in bars_in(svg)] == [module.BARS]
    assert "- not installed" in texts_in(svg)


def test_rows_lie_below_each_other_and_inside_the_picture(module: ModuleType) -> None:
    svg = drawn(module, *(module.Bar(str(n), 1.0, "1") for n in range(5)))
    tops = [float(bar.get("y", "")) for bar in bars_in(svg)]
    assert tops == [module.TOP + module.ROW * n for n in range(5)]
    assert tops[-1] + module.ROW <= float(svg.get("height", ""))


def test_the_smallest_value_is_still_seen(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1e-9, "0"), module.Bar("b", 1.0, "1"))
    assert float(bars_in(svg)[0].get("width", "")) == 1.0


@pytest.mark.parametrize("values", [(), (0.0,), (None,)])
def test_nothing_to_draw_is_no_error(module: ModuleType, values: tuple[float | None, ...]) -> None:
    drawn(module, *(module.Bar("a", value, "-") for value in values))


def test_markup_in_words_is_escaped(module: ModuleType) -> None:
    svg = ElementTree.fromstring(module.chart("<\"&'>", "<i>", [module.Bar("<b>", 1.0, "a & b")]))
    assert texts_in(svg) == ["<\"&'>", "<i>", "<b>", "a & b"]


def test_each_colour_of_the_light_page_has_one_for_the_dark_page(module: ModuleType) -> None:
    light, dark = module.STYLE.split("@media (prefers-color-scheme: dark)")
    for part in ("text", ".note", ".page", ".bar", ".ours"):
        assert f"{part} {{" in light
        assert f"{part} {{" in dark

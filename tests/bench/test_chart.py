"""The chart writer: well-formed, to scale, and safe with any label."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from xml.etree import ElementTree

import pytest

Import = Callable[[str], ModuleType]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("chart")


def drawn(module: ModuleType, *rows: object, notes: str = "") -> ElementTree.Element:
    return ElementTree.fromstring(module.bars("A title", "A subtitle", rows, notes))


def over_loads(module: ModuleType, **shares: list[float]) -> ElementTree.Element:
    """Return a chart of one line for each name, over loads of 1, 2, 3, ...; "ours" is set apart."""
    several = [
        module.Line(
            name,
            [module.Point(load, share, share - 0.1, share + 0.1) for load, share in enumerate(values, 1)],
            ours=name == "ours",
        )
        for name, values in shares.items()
    ]
    return ElementTree.fromstring(module.lines("A title", "A subtitle", "offered <load>", several))


def bars_in(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [rect for rect in svg.iter(f"{SVG}rect") if rect.get("class") != "page"]


def texts_in(svg: ElementTree.Element) -> list[str | None]:
    return [text.text for text in svg.iter(f"{SVG}text")]


def whiskers_in(svg: ElementTree.Element) -> list[list[float]]:
    """Return the numbers of each whisker's path."""
    ranges = (path.get("d", "") for path in svg.iter(f"{SVG}path"))
    return [[float(number) for number in re.findall(r"-?[\d.]+", path)] for path in ranges]


def text_of(svg: ElementTree.Element, start: str) -> ElementTree.Element:
    return next(text for text in svg.iter(f"{SVG}text") if (text.text or "").startswith(start))


def test_bars_are_as_long_as_their_values_and_the_longest_fills_the_width(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("half", 5.0, "5"), module.Bar("whole", 10.0, "10"))
    assert [float(bar.get("width", "")) for bar in bars_in(svg)] == [module.BARS / 2, module.BARS]


def test_a_whisker_goes_from_the_lowest_to_the_highest_on_the_scale_of_the_bars(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 5.0, "5", 2.5, 10.0), module.Bar("b", 2.5, "2.5"))
    assert [float(bar.get("width", "")) for bar in bars_in(svg)] == [module.BARS / 2, module.BARS / 4]
    ((low, *_, high, _, _, _),) = whiskers_in(svg)
    assert (low, high) == (module.LABELS + module.BARS / 4, module.LABELS + module.BARS)
    assert float(text_of(svg, "5").get("x", "")) > high, "what stands at the end of a bar is not crossed out"


def test_title_subtitle_labels_ends_and_notes_are_written_in_order(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1.0, "one"), module.Heading("of b"), module.Bar("b", 2.0, "two"), notes="n\nm")
    assert texts_in(svg) == ["A title", "A subtitle", "a", "one", "of b", "b", "two", "n", "m"]
    assert svg.get("aria-label") == "A title. A subtitle"


def test_only_ours_is_set_apart(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1.0, "1"), module.Bar("b", 1.0, "1", ours=True))
    assert [bar.get("class") for bar in bars_in(svg)] == ["bar", "ours"]


def test_a_bar_without_value_is_a_text_and_does_not_change_the_scale(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 3.0, "3"), module.Bar("b", None, "nothing"))
    assert [float(bar.get("width", "")) for bar in bars_in(svg)] == [module.BARS]
    assert "nothing" in texts_in(svg)


def test_rows_lie_below_each_other_and_inside_the_picture(module: ModuleType) -> None:
    svg = drawn(module, *(module.Bar(str(n), 1.0, "1") for n in range(5)), notes="a note " * 50)
    tops = [float(bar.get("y", "")) for bar in bars_in(svg)]
    assert tops == [module.TOP + module.ROW * n for n in range(5)]
    places = [float(text.get("y", "")) for text in svg.iter(f"{SVG}text")]
    assert len(places) > 2 + 2 * 5 + 1, "a long note is broken into lines"
    assert tops[-1] + module.ROW <= places[-1] < float(svg.get("height", ""))


def test_the_smallest_value_is_still_seen(module: ModuleType) -> None:
    svg = drawn(module, module.Bar("a", 1e-9, "0"), module.Bar("b", 1.0, "1"))
    assert float(bars_in(svg)[0].get("width", "")) == 1.0


@pytest.mark.parametrize("values", [(), (0.0,), (None,)])
def test_nothing_to_draw_is_no_error(module: ModuleType, values: tuple[float | None, ...]) -> None:
    drawn(module, *(module.Bar("a", value, "-") for value in values))
    over_loads(module)


def test_markup_in_words_is_escaped(module: ModuleType) -> None:
    text = module.bars("<\"&'>", "<i>", [module.Bar("<b>", 1.0, "a & b")], "<note>")
    assert texts_in(ElementTree.fromstring(text)) == ["<\"&'>", "<i>", "<b>", "a & b", "<note>"]


def test_lines_go_through_their_points_from_the_lowest_load_to_the_highest(module: ModuleType) -> None:
    svg = over_loads(module, ours=[0.9, 0.9], theirs=[0.9, 0.0])
    places = {line.get("class"): line.get("points", "").split() for line in svg.iter(f"{SVG}polyline")}
    half, whole, top = module.LEFT + module.PLOT / 2, module.LEFT + module.PLOT, module.TOP + module.RISE * 0.1
    assert places["ours-line"] == [f"{half:.1f},{top:.1f}", f"{whole:.1f},{top:.1f}"]
    assert places["line"] == [f"{half:.1f},{top:.1f}", f"{whole:.1f},{module.TOP + module.RISE:.1f}"]


def test_each_point_has_a_whisker(module: ModuleType) -> None:
    whiskers = whiskers_in(over_loads(module, ours=[0.9, 0.5]))
    assert len(whiskers) == 2
    for (_, low, *_, high, _, _, _), share in zip(whiskers, (0.9, 0.5), strict=True):
        assert low == pytest.approx(module.TOP + module.RISE * (1 - share + 0.1))
        assert high == pytest.approx(module.TOP + module.RISE * (1 - share - 0.1))


def test_labels_stand_at_the_ends_of_lines_and_not_on_each_other(module: ModuleType) -> None:
    svg = over_loads(module, ours=[0.9, 0.9], one=[0.9, 0.0], two=[0.9, 0.0], three=[0.9, 0.02])
    labels = [text_of(svg, name) for name in ("ours", "three", "two", "one")]
    assert [label.text for label in labels] == ["ours: 90%", "three: 2%", "two: 0%", "one: 0%"]
    assert all(float(label.get("x", "")) > module.LEFT + module.PLOT for label in labels)
    ours, *others = (float(label.get("y", "")) for label in labels)
    assert ours == pytest.approx(module.TOP + module.RISE * 0.1 + 4, abs=0.5)
    assert [later - earlier for earlier, later in pairwise(others)] == [module.APART] * 2


def test_axes_say_what_they_are_and_loads_that_were_measured(module: ModuleType) -> None:
    texts = texts_in(over_loads(module, ours=[0.5, 1.2]))
    assert {"0%", "50%", "100%", "1", "2", "offered <load>"} <= set(texts)


def test_each_colour_of_the_light_page_has_one_for_the_dark_page(module: ModuleType) -> None:
    light, dark = module.STYLE.split("@media (prefers-color-scheme: dark)")
    coloured = re.findall(r"(\S+) \{[^}]*(?:fill|stroke): #", light)
    assert {"text", ".page", ".range", ".ours-line"} <= set(coloured)
    for part in coloured:
        assert f" {part} {{" in dark

"""Charts as SVG, readable on a light and on a dark page, made without any library: bars, and lines over a load."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Heading", "Line", "Point", "bars", "lines"]

WIDTH, MARGIN = 820, 14  # pixels, as all that follows
TOP = 66  # where bars or lines begin, below title and subtitle
ROW, LABELS, BARS = 28, 262, 300  # of bars: the height of a row, where they begin, how long the longest is
LEFT, PLOT, RISE, APART = 58, 470, 220, 18  # of lines: where they begin, width and height, room between two labels
NOTE, NOTED = 16, 122  # the height of a line of the notes, and how many characters fit into it

# A chart brings its own background: a page's theme may differ from the one that the reader's system asks for.
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .note { fill: #59636e } .small { font-size: 12px; fill: #59636e }
    .ours-label { font-weight: 600 } .page { fill: #ffffff; stroke: #d1d9e0 } .grid { stroke: #d1d9e0 }
    .bar { fill: #9aa4af } .ours { fill: #0969da } .range { stroke: #1f2328; fill: none }
    .line { stroke: #818b98; stroke-width: 2; fill: none } .ours-line { stroke: #0969da; stroke-width: 3; fill: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .note { fill: #9198a1 } .small { fill: #9198a1 }
      .page { fill: #0d1117; stroke: #3d444d } .grid { stroke: #3d444d }
      .bar { fill: #656c76 } .ours { fill: #4493f8 } .range { stroke: #f0f6fc }
      .line { stroke: #9198a1 } .ours-line { stroke: #4493f8 }
    }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: whose it is, how long (None: there is nothing to show), and what stands at its end.

    `lowest` and `highest` are the ends of its whisker, what single measurements gave; None: it has no whisker.
    """

    label: str
    value: float | None
    end: str
    lowest: float | None = None
    highest: float | None = None
    ours: bool = False

    @property
    def reach(self) -> float:
        """How far to the right it goes, whisker included."""
        return max(self.value or 0.0, self.highest or 0.0)


@dataclass(frozen=True)
class Heading:
    """A row that says what the bars below it have in common."""

    text: str


@dataclass(frozen=True)
class Point:
    """What was measured at one load: the median, and what single measurements gave."""

    load: float
    value: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Line:
    """One line, from its lowest load to its highest; its label stands at that end."""

    label: str
    points: Sequence[Point]
    ours: bool = False


def bars(title: str, subtitle: str, rows: Sequence[Bar | Heading], notes: str = "") -> str:
    """Return an SVG document with one horizontal bar for each of `rows`; the one that goes farthest fills the width."""
    farthest = max((row.reach for row in rows if isinstance(row, Bar)), default=0.0) or 1.0
    drawn = []
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        drawn.append(_heading(row, y) if isinstance(row, Heading) else _bar(row, y, BARS / farthest))
    return _document(title, subtitle, drawn, TOP + ROW * len(rows), notes)


def lines(title: str, subtitle: str, across: str, several: Sequence[Line], notes: str = "") -> str:
    """Return an SVG document with `several` lines: shares, in percent, over multiples of something named by `across`.

    Both axes begin at 0, and the upper one of percent is 100, or the highest measurement.
    """
    points = [point for line in several for point in line.points]
    farthest = max((point.load for point in points), default=0.0) or 1.0
    highest = max([1.0, *(point.highest for point in points)])

    def place(load: float, share: float) -> tuple[float, float]:
        return LEFT + PLOT * load / farthest, TOP + RISE * (1 - share / highest)

    drawn = []
    for share in (0.0, 0.5, 1.0):
        _, y = place(0.0, share)
        drawn.append(f'  <line class="grid" x1="{LEFT}" x2="{LEFT + PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(_text(LEFT - 8, y + 4, f"{share:.0%}", "note", anchor="end"))
    below = TOP + RISE + 18
    for load in sorted({point.load for point in points}):
        drawn.append(_text(place(load, 0.0)[0], below, f"{load:g}", "note", anchor="middle"))
    drawn.append(_text(LEFT + PLOT / 2, below + 20, across, "note", anchor="middle"))
    lowest_label = TOP + RISE + 4.0
    for line in sorted(several, key=lambda line: (line.points[-1].value, line.ours)):
        places = [place(point.load, point.value) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'  <polyline class="{"ours-line" if line.ours else "line"}" points="{path}"/>')
        for point, (x, y) in zip(line.points, places, strict=True):
            drawn.append(f'  <circle class="{"ours" if line.ours else "bar"}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
            (_, low), (_, high) = place(point.load, point.lowest), place(point.load, point.highest)
            drawn.append(f'  <path class="range" d="M{x - 3:.1f} {low:.1f}h6m-3 0V{high:.1f}m-3 0h6"/>')
        x, y = places[-1]
        lowest_label = min(lowest_label, y + 4)
        text = f"{line.label}: {line.points[-1].value:.0%}"
        drawn.append(_text(x + 12, lowest_label, text, "ours-label" if line.ours else ""))
        lowest_label -= APART
    return _document(title, subtitle, drawn, below + 32, notes)


def _document(title: str, subtitle: str, drawn: Sequence[str], below: int, notes: str) -> str:
    noted = [line for note in notes.splitlines() for line in textwrap.wrap(note, NOTED)]
    height = below + 10 + NOTE * len(noted) + 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            f' role="img" aria-label="{escape(f"{title}. {subtitle}")}">',
            f"  <style>{STYLE}  </style>",
            f'  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            _text(MARGIN, 26, title, "title"),
            _text(MARGIN, 47, subtitle, "note"),
            *drawn,
            *(_text(MARGIN, below + 18 + NOTE * number, line, "small") for number, line in enumerate(noted)),
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'  <text{attributes} x="{x:.5g}" y="{y:.5g}">{escape(text)}</text>'


def _heading(heading: Heading, y: int) -> str:
    return _text(MARGIN, y + 18, heading.text, "note")


def _bar(bar: Bar, y: int, scale: float) -> str:
    kind = "ours-label" if bar.ours else ""
    parts = [_text(LABELS - 8, y + 15, bar.label, kind, anchor="end")]
    if bar.value is None:
        parts.append(_text(LABELS, y + 15, bar.end, "note"))
        return "\n".join(parts)
    length = max(1.0, scale * bar.value)
    colour = "ours" if bar.ours else "bar"
    parts.append(f'  <rect class="{colour}" x="{LABELS}" y="{y}" width="{length:.1f}" height="20" rx="2"/>')
    if bar.lowest is not None and bar.highest is not None:
        low, high = LABELS + scale * bar.lowest, LABELS + scale * bar.highest
        parts.append(f'  <path class="range" d="M{low:.1f} {y + 6}v8m0 -4H{high:.1f}m0 -4v8"/>')
    parts.append(_text(LABELS + max(length, scale * bar.reach) + 8, y + 15, bar.end, kind))
    return "\n".join(parts)

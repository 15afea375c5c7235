"""A bar chart as SVG, readable on a light and on a dark page, made without any library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "chart"]

WIDTH, ROW, TOP, LABELS, BARS = 820, 30, 66, 230, 350  # pixels

# The chart brings its own background: a page's theme may differ from the one that the reader's system asks for.
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .note { fill: #59636e } .ours-label { font-weight: 600 }
    .page { fill: #ffffff; stroke: #d1d9e0 } .bar { fill: #9aa4af } .ours { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .note { fill: #9198a1 }
      .page { fill: #0d1117; stroke: #3d444d } .bar { fill: #656c76 } .ours { fill: #4493f8 }
    }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: whose it is, how long (None: there is nothing to show), and what stands at its end."""

    label: str
    value: float | None
    end: str
    ours: bool = False


def chart(title: str, note: str, bars: Sequence[Bar]) -> str:
    """Return an SVG document with one horizontal bar for each of `bars`, the longest filling the width."""
    height = TOP + ROW * len(bars) + 10
    longest = max((bar.value for bar in bars if bar.value is not None), default=0) or 1.0
    rows = [_row(bar, TOP + ROW * number, longest) for number, bar in enumerate(bars)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'  <text class="title" x="14" y="26">{escape(title)}</text>',
        f'  <text class="note" x="14" y="48">{escape(note)}</text>',
        *rows,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _row(bar: Bar, y: int, longest: float) -> str:
    label_class = ' class="ours-label"' if bar.ours else ""
    label = f'  <text{label_class} x="{LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(bar.label)}</text>'
    if bar.value is None:
        return f'{label}<text class="note" x="{LABELS}" y="{y + 15}">{escape(bar.end)}</text>'
    length = max(1.0, BARS * bar.value / longest)
    return (
        f'{label}<rect class="{"ours" if bar.ours else "bar"}" x="{LABELS}" y="{y}" width="{length:.1f}" height="20"'
        f' rx="3"/><text{label_class} x="{LABELS + length + 8:.1f}" y="{y + 15}">{escape(bar.end)}</text>'
    )

"""Bring charts and documents up to date with the records in bench/results, without measuring.

    python bench/figures.py

Draws each record's chart anew, and copies figures into the documents, where comments mark their places. A mark names
the record, the value in it and its format:

    <!-- figure: map.py313 ratios.treadle .0f -->11<!-- /figure -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from draw import redraw

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
DOCUMENTS = (*sorted(ROOT.glob("README*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "bench" / "README.md")
MARK = re.compile(r"(<!-- figure: (\S+) (\S+) (\S+) -->).*?(<!-- /figure -->)")


def value_of(results: dict[str, Any], path: str) -> Any:
    """Return what `path` leads to: keys with dots between them, which may have dots themselves.

    Raises:
        KeyError: nothing is there.
    """
    if path in results:
        return results[path]
    for key, inner in results.items():
        if path.startswith(f"{key}.") and isinstance(inner, dict):
            return value_of(inner, path.removeprefix(f"{key}."))
    raise KeyError(path)


def current(mark: re.Match[str]) -> str:
    """Return the mark with the value that the results hold now."""
    opening, name, path, form, closing = mark.groups()
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"{opening}{value_of(results, path):{form}}{closing}"


def main() -> None:
    """Draw all charts, and rewrite the figures of all documents."""
    drawn = [redraw(path) for path in sorted(RESULTS.glob("*.json"))]
    print(f"charts drawn: {sum(drawn)}; records without one: {len(drawn) - sum(drawn)}")
    for path in DOCUMENTS:
        old = path.read_text(encoding="utf-8")
        new = MARK.sub(current, old)
        if MARK.search(new):
            path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: figures {'changed' if new != old else 'as they were'}")


if __name__ == "__main__":
    main()

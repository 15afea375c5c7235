"""Copy figures from bench/results into both READMEs, where comments mark their places.

    python bench/figures.py

A mark names the result, the value in it and its format:

    <!-- figure: map.py313 ratios.treadle .0f -->11<!-- /figure -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
MARK = re.compile(r"(<!-- figure: (\S+) (\w+)\.(\S+) (\S+) -->).*?(<!-- /figure -->)")


def current(mark: re.Match[str]) -> str:
    """Return the mark with the value that the results hold now."""
    opening, name, table, row, form, closing = mark.groups()
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"{opening}{results[table][row]:{form}}{closing}"


def main() -> None:
    """Rewrite the figures of both READMEs."""
    for path in (ROOT / "README.md", ROOT / "README.zh.md"):
        old = path.read_text(encoding="utf-8")
        new = MARK.sub(current, old)
        path.write_text(new, encoding="utf-8")
        print(f"{path.name}: {len(MARK.findall(new))} figures, {'changed' if new != old else 'as they were'}")


if __name__ == "__main__":
    main()

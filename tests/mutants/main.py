"""Break guarded lines, one at a time, and tell which tests notice: `make mutants`, or `python tests/mutants/main.py`.

The lines stand in lines.toml. Each is broken in a scratch copy of the sources and the tests, and the tests that are
named beside it are run there. A line that can be broken without any of them failing is not guarded. A test that hangs
does notice, but second best: whoever breaks the line is told neither where nor why.

Ends with status 1 if a line goes unnoticed, or is not found as it is written; with 2 if nothing could be judged.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PYTEST = (sys.executable, "-m", "pytest", "-v", "--tb=no", "-p", "no:cacheprovider")
ENDED = re.compile(r"^([^\s:]+\.py::.+?) (FAILED|ERROR)\b", re.MULTILINE)
UNDER_WAY = re.compile(r"^([^\s:]+\.py::.+?) *\Z", re.MULTILINE)  # the last thing that pytest said

NOTICED, HUNG, UNNOTICED, STALE, FAULTY = "noticed", "hung", "UNNOTICED", "STALE", "FAULTY"
FAULTS = (UNNOTICED, STALE, FAULTY)


@dataclass(frozen=True)
class Line:
    """A guarded line.

    Attributes:
        file: where it stands, below the root.
        text: the line, or as much of it, or of several, as stands only there.
        broken: what is to stand there instead.
        tests: what pytest is to run, below the root.
        why: what it guards.
    """

    file: str
    text: str
    broken: str
    tests: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Run:
    """What came of running tests: those that failed, and the one that was under way when the run was ended."""

    status: int | None  # of pytest; None: it was ended because its time was over
    failed: tuple[str, ...]
    under_way: str
    output: str


class Scratch:
    """A copy of the sources and the tests below `root`, in which lines are broken and made whole again."""

    def __init__(self, root: Path, copy: Path) -> None:
        self.copy = copy
        for folder in ("src", "tests"):
            shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(root / "pyproject.toml", copy)

    def run(self, tests: Sequence[str], limit: float, *, keep_bytecode: bool = False) -> Run:
        """Run tests in a process group of their own, and end all that is left of it."""
        environment = {**os.environ, "PYTHONPATH": str(self.copy / "src")}
        if not keep_bytecode:  # a broken module's, which could pass for that of another one
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        log = self.copy / "output.txt"  # not a pipe, which a process that is left over would hold open
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*PYTEST, *tests],
                cwd=self.copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:  # nothing is left
                    pass
                process.wait()
        output = log.read_text(errors="replace")
        failed = tuple(dict.fromkeys(name for name, _ in ENDED.findall(output)))
        under_way = UNDER_WAY.search(output)
        return Run(status, failed, under_way.group(1) if under_way else "", output)

    def judge(self, line: Line, limit: float) -> tuple[str, str]:
        """Break a line, run its tests, and make it whole; return the verdict, and what there is to say to it."""
        place = self.copy / line.file
        source = place.read_text(encoding="utf-8") if place.exists() else ""
        if (count := source.count(line.text)) != 1:
            return STALE, f"{line.file} has it {count} times, not once: bring the list up to date"
        mutant = source.replace(line.text, line.broken)
        try:
            compile(mutant, line.file, "exec")
        except SyntaxError as error:
            return FAULTY, f"it cannot be broken so: {error}"
        whole = place.stat()
        place.write_text(mutant, encoding="utf-8")
        # Bytecode is known by a source's size and the second of its change, which may be those of the whole one.
        os.utime(place, ns=(whole.st_atime_ns, whole.st_mtime_ns - 10**10))
        try:
            return verdict_on(self.run(line.tests, limit))
        finally:
            place.write_text(source, encoding="utf-8")
            os.utime(place, ns=(whole.st_atime_ns, whole.st_mtime_ns))  # so that its bytecode is good again


def verdict_on(run: Run) -> tuple[str, str]:
    """Return what a run with a broken line tells."""
    if run.failed:
        return NOTICED, "by " + "\n   ".join(run.failed)
    if run.status is None:
        return HUNG, f"noticed by hanging, which is second best, in {run.under_way or 'the end of the run'}"
    if run.status == 0:
        return UNNOTICED, "every test passed"
    return FAULTY, f"no test failed, and pytest ended with {run.status}:\n{run.output[-2000:]}"


def lines_in(path: Path, word: str) -> list[Line]:
    """Read the lines of which any part but the reason has `word` in it."""
    with path.open("rb") as file:
        entries = tomllib.load(file)["line"]
    lines = [Line(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    return [line for line in lines if word in "\n".join((line.file, line.text, *line.tests))]


def check_whole(scratch: Scratch, lines: Sequence[Line], limit: float) -> bool:
    """Whether the tests pass while no line is broken; if not, say which fail."""
    tests = sorted({test for line in lines for test in line.tests})
    run = scratch.run(tests, limit * len(tests), keep_bytecode=True)
    if run.status != 0:
        failed = ", ".join(run.failed) or run.under_way or run.output[-2000:]
        print(f"nothing can be judged: with no line broken, these do not pass: {failed}")
    return run.status == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the lines of a list."""
    parser = argparse.ArgumentParser(prog="mutants", description="Break guarded lines, and tell which tests notice.")
    parser.add_argument("-k", metavar="WORD", default="", help="only lines with this in their file, text or tests")
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=60.0, help="for the tests of one line")
    parser.add_argument("--root", metavar="DIR", type=Path, default=HERE.parent.parent, help="what has src and tests")
    parser.add_argument("--lines", metavar="FILE", type=Path, default=HERE / "lines.toml", help="the list")
    options = parser.parse_args(arguments)
    lines = lines_in(options.lines, options.k)
    if not lines:
        print(f"no line has {options.k!r} in it")
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as copy:
        scratch = Scratch(options.root, Path(copy))
        if not check_whole(scratch, lines, options.limit):
            return 2
        counts: Counter[str] = Counter()
        for line in lines:
            verdict, remark = scratch.judge(line, options.limit)
            counts[verdict] += 1
            shown = re.sub(r"\s*\n\s*", " | ", line.text.strip())
            print(f"{verdict:9}  {line.file}: {shown}\n   {remark}", flush=True)
            if verdict in FAULTS:
                print(f"   it guards: {line.why}", flush=True)
    print(f"{len(lines)} lines: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    return 1 if any(counts[fault] for fault in FAULTS) else 0


if __name__ == "__main__":
    sys.exit(main())

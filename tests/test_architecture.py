"""The maps of the house, ARCHITECTURE and the design: every file, class and function that they name is there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "treadle"
ARCHITECTURE = [ROOT / "ARCHITECTURE.md", ROOT / "ARCHITECTURE.zh.md"]
DESIGN = [ROOT / "docs" / "design.md", ROOT / "docs" / "design.zh.md"]
LONGEST = 130  # lines: two pages, for a map is looked at, and not read like a book

FENCED = re.compile("^    .*", re.MULTILINE)
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
# Names that are not of treadle's source: Python's, the system's, and what others call theirs.
STRANGERS = {
    "Condition",
    "None",
    "ThreadPoolExecutor.submit",
    "atexit",
    "concurrent.futures.thread._threads_queues",
    "deque.popleft",
    "list.pop",
    "os.read",
    "os.write",
    "socketserver",
    "thread_map",
    "warnings",
    "with",
}

each_page = pytest.mark.parametrize("path", [*ARCHITECTURE, *DESIGN], ids=lambda path: path.name)


def code_in(text: str) -> list[str]:
    """Return what a page has in code font."""
    return [" ".join(code.split()) for code in re.findall("`([^`]+)`", FENCED.sub("", text))]


def is_file(code: str) -> bool:
    """Tell whether it names a file or a folder."""
    return code.endswith((".py", "/"))


def exists(file: str) -> bool:
    """Tell whether a file is there, by its place in the source or in the repository."""
    return (SOURCE / file).exists() or (ROOT / file).exists()


def slots_and_fields(node: ast.ClassDef) -> Iterator[str]:
    """Give the names that a class has beside its methods: slots, annotated ones, those that its methods set."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assign) and any(getattr(to, "id", "") == "__slots__" for to in each.targets):
            yield from (str(part.value) for part in ast.walk(each.value) if isinstance(part, ast.Constant))
        elif isinstance(each, ast.AnnAssign | ast.Assign):
            for to in [each.target] if isinstance(each, ast.AnnAssign) else each.targets:
                if isinstance(to, ast.Name):
                    yield to.id
                elif isinstance(to, ast.Attribute) and isinstance(to.value, ast.Name) and to.value.id == "self":
                    yield to.attr


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Return what a file defines: functions, classes, constants, and `Class.member`."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for to in targets for each in ast.walk(to) if isinstance(each, ast.Name)}
        if isinstance(node, ast.ClassDef):
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            names |= {f"{node.name}.{member}" for member in {*methods, *slots_and_fields(node)}}
    return frozenset(names)


@cache
def bases() -> dict[str, set[str]]:
    """Return the names of the classes that each class has directly above it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name] |= {
                    each.id for base in node.bases for each in ast.walk(base) if isinstance(each, ast.Name)
                }
    return found


@cache
def everything() -> frozenset[str]:
    """Return what any file defines, members and arguments by their own names as well."""
    names: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        names |= defined_in(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names |= {node.name, *(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))}
            elif isinstance(node, ast.ClassDef):
                names |= set(slots_and_fields(node))
    return frozenset(names | {path.stem for path in SOURCE.rglob("*.py")} | {"treadle"})


def is_known(name: str) -> bool:
    """Tell whether treadle's source has a name; a member may be one that its class inherits."""
    if name in everything():
        return True
    kind, _, member = name.partition(".")
    if kind == "treadle":
        return is_known(member)
    return bool(member) and any(is_known(f"{base}.{member}") for base in bases().get(kind, ()))


def unknown_in(text: str) -> list[str]:
    """Return the names in code font that nothing has. What is more than a name, as a call, is not looked at."""
    names = [code for code in code_in(text) if NAME.fullmatch(code.removesuffix("()")) and not is_file(code)]
    return sorted({name for name in names if name not in STRANGERS and not is_known(name.removesuffix("()"))})


def rows_in(text: str) -> list[tuple[list[str], list[str]]]:
    """Return files and names of each row of the table that says where to change what."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    rows = [(code_in(row[1]), code_in(row[2])) for row in cells if len(row) == 3]
    return [(files, names) for files, names in rows if files and all(map(is_file, files))]


@each_page
def test_files_that_are_named_exist(path: Path) -> None:
    files = [code for code in code_in(path.read_text(encoding="utf-8")) if is_file(code)]
    assert files
    assert not [file for file in files if not exists(file)]


@each_page
def test_names_in_code_font_exist(path: Path) -> None:
    assert unknown_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", ARCHITECTURE, ids=lambda path: path.name)
def test_names_of_a_row_are_in_its_files_and_each_file_has_one(path: Path) -> None:
    rows = rows_in(path.read_text(encoding="utf-8"))
    assert len(rows) >= 20
    for files, names in rows:
        defined = {file: defined_in(SOURCE / file) for file in files}
        assert not [name for name in names if not any(name in known for known in defined.values())], (files, names)
        assert not [file for file, known in defined.items() if not known & set(names)], (files, names)


def test_both_languages_name_the_same_in_the_same_rows() -> None:
    ours, theirs = (path.read_text(encoding="utf-8") for path in ARCHITECTURE)
    assert rows_in(ours) == rows_in(theirs)
    assert set(code_in(ours)) == set(code_in(theirs))


def test_names_in_the_diagram_exist() -> None:
    """They stand without code font there: whatever is written as a name of treadle's, or as a member of a class."""
    text = FENCED.findall(ARCHITECTURE[0].read_text(encoding="utf-8"))
    named = set(re.findall(r"\b[A-Z]\w+\.\w+|\b_\w+|\b[a-z]+_[a-z_]+", "\n".join(text)))
    assert len(named) > 8
    assert not [name for name in named if not is_known(name)]


@pytest.mark.parametrize("path", ARCHITECTURE, ids=lambda path: path.name)
def test_the_map_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_stranger_is_named_somewhere() -> None:
    named = {
        code.removesuffix("()")
        for path in (*ARCHITECTURE, *DESIGN)
        for code in code_in(path.read_text(encoding="utf-8"))
    }
    assert named >= STRANGERS


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`Dispatcher.enter`, `Future._tell`, `locked`, `when_full`, `treadle.Pool`", []),
        ("a member that is inherited: `ScopedTask.cancel`", []),
        ("`Dispatcher.summon`", ["Dispatcher.summon"]),
        ("`Staff` and `take_over_all()`", ["Staff", "take_over_all()"]),
        ("`Governed._ready`", ["Governed._ready"]),
        ("what is no name: `with lock:`, `submit(int)`", []),
    ],
)
def test_the_rule_sees_what_is_not_there(text: str, unknown: list[str]) -> None:
    assert unknown_in(text) == unknown

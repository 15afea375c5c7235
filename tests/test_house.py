"""The house: which file may import which, who may start threads, touch sockets and read time, and what a file owes.

Everything here is read from the source's syntax trees, so a module that cannot be imported is judged as well.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_origin

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "treadle"
MODULES = sorted(SOURCE.rglob("*.py"))

# The staircase, lowest first: a file imports from its own package and from those below, annotations included.
STAIRS = ("_base", "_tasks", "orders", "_dispatch", "_pool", "_flow", "__init__", "server", "watch", "_cli")
BESIDE = {"fetch": "server", "engines": "server", "__main__": "_cli", "testing": "__init__"}  # on the same step
PUBLIC_GROUND = {"errors", "events"}  # importable by all
STRANGERS = {"server", "fetch", "engines"}  # side by side, and never importing each other
# Imports for annotations alone that the rule forbids; each with its reason. None is to be added.
EXCEPTIONS = {
    (
        "_pool/view.py",
        "treadle",
    ): "`PoolView.pool` is a Pool, whose `options` returns a PoolView: the two know each other",
}
# The packages of the server, lowest first; what lies in `server` itself stands above them.
SERVER_STAIRS = ("_loop", "_transport", "_accept", "_serving", "_socketserver")
BESIDE_IN_SERVER = {"_protocols": "_accept"}
A_DOZEN = 12
# How often names with one underscore are touched on something other than `self`, above the base. An object is used
# through its own methods, and functions of its module. What is left: the fields that `Submitter.submit` fills in, and
# what `work` does for every task, where a call would show; what the lowest modules ask of a task, which they cannot
# import; one line for each function by which a module lets others use what is hidden from a class's users; and a few
# private names of the standard library. It may only shrink.
PRIVATE_REACH = 39
OF_THE_STANDARD_FUTURE = {"_state", "_result", "_exception", "_waiters", "_condition", "_done_callbacks"}
ABOVE = {"server", "_cli", "__main__.py"}

THREAD_CLASSES = {"Thread", "Timer"}
THREAD_FUNCTIONS = {"start_new_thread", "start_new", "start_joinable_thread"}
MAY_START_THREADS = {"_base/threads.py", "server/_processes.py", "engines/_processes.py"}
MAY_READ_TIME = {"_base/clock.py"}
SOCKETS = {"socket", "_socket", "socketserver", "ssl"}
MAY_TOUCH_SOCKETS = ("server/", "fetch/", "_cli/echo.py")
MUST_LOG_SAFELY = ("server/", "_cli/")
LEVELS = {"critical", "debug", "error", "exception", "fatal", "info", "log", "warn", "warning"}
# The guard around the optional dependencies of the command line.
MAY_IMPORT_IN_FUNCTIONS = {"_cli/main.py"}


def name_of(path: Path) -> str:
    """Return the path below src/treadle, as in `_cli/echo.py`."""
    return path.relative_to(SOURCE).as_posix()


def plain(name: str) -> str:
    """Return the name without the underscore that says it is nobody else's."""
    return name if name.startswith("__") else name.removeprefix("_")


def package_of(module: str) -> str:
    """Return the step that a module stands on: `_pool` for `treadle._pool.mapping.job`, `__init__` for `treadle`."""
    return [*module.split("."), "__init__"][1]


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree, passing by what stands under `if TYPE_CHECKING`: it never runs."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        typing_only = (
            isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        )
        if not typing_only:
            yield from running_nodes(child)


def imports_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give line and dotted name of each module imported, with names imported from `treadle` itself in full."""
    for node in running_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this house"
            base = str(node.module)
            for alias in node.names:
                below = base == "treadle" and (SOURCE / alias.name).with_suffix(".py").exists()
                package = base == "treadle" and (SOURCE / alias.name).is_dir()
                yield node.lineno, f"{base}.{alias.name}" if below or package else base


def step_of(package: str) -> int:
    step = BESIDE.get(package, package)
    assert step in STAIRS, f"package {package!r} stands on no step: place it in STAIRS, and in the design"
    return STAIRS.index(step)


def all_imports_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give line and dotted name of each module imported, for annotations too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this house"
            base = str(node.module)
            for alias in node.names:
                path = ROOT.joinpath("src", *base.split("."), alias.name)
                below = base.startswith("treadle") and (path.with_suffix(".py").exists() or path.is_dir())
                yield node.lineno, f"{base}.{alias.name}" if below else base


def server_step_of(parts: Sequence[str]) -> int:
    """Return the step of what lies at `parts` below `server`."""
    package = BESIDE_IN_SERVER.get(parts[0], parts[0]) if len(parts) > 1 else ""
    return SERVER_STAIRS.index(package) if package else len(SERVER_STAIRS)


def upward_imports_in_server(path: Path, tree: ast.AST) -> list[str]:
    """Give what a file of the server imports from a package of it that is above its own, or beside it."""
    here = name_of(path).removesuffix(".py").split("/")[1:]
    faults = []
    for line, module in all_imports_in(tree):
        if module.split(".")[:2] != ["treadle", "server"]:
            continue
        there = module.split(".")[2:] or ["__init__"]
        beside = (
            here[0] != there[0] and min(len(here), len(there)) > 1 and server_step_of(here) == server_step_of(there)
        )
        if server_step_of(there) > server_step_of(here) or beside:
            faults.append(f"{name_of(path)}:{line} imports {module}")
    return faults


def upward_imports(path: Path, tree: ast.AST) -> list[str]:
    own = name_of(path).removesuffix(".py").split("/")[0]
    faults = []
    for line, module in all_imports_in(tree):
        package = package_of(module)
        if module.split(".")[0] != "treadle" or package in PUBLIC_GROUND or (name_of(path), module) in EXCEPTIONS:
            continue
        strangers = package != own and {package, own} <= STRANGERS
        public = own in PUBLIC_GROUND and package != "_base"
        if strangers or public or (own not in PUBLIC_GROUND and step_of(package) > step_of(own)):
            faults.append(f"{name_of(path)}:{line} imports {module}")
    return faults + (upward_imports_in_server(path, tree) if own == "server" else [])


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions_in(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def last_name_of(node: ast.expr) -> str:
    """Return `Thread` for `threading.Thread` as well as for `Thread`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def thread_starts_in(tree: ast.AST) -> list[int]:
    """Return the lines that make, subclass or import a thread class, or mention a function that starts threads."""
    made = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    found = [node.lineno for node in made + bases if last_name_of(node) in THREAD_CLASSES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in THREAD_FUNCTIONS:
            found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom):
            forbidden = [alias for alias in node.names if alias.name in THREAD_FUNCTIONS]
            renamed = [alias for alias in node.names if alias.name in THREAD_CLASSES and alias.asname]
            found += [node.lineno for _ in forbidden + renamed]
    return sorted(set(found))


@each_module
def test_imports_go_downward_only(path: Path) -> None:
    assert not upward_imports(path, tree_of(path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_tasks/future.py", "from treadle._pool.pool import Pool"),
        ("_base/clock.py", "import treadle._tasks.rate"),
        ("_pool/pool.py", "from treadle import Pool"),
        ("_dispatch/dispatcher.py", "from treadle._pool import pool"),
        ("server/_lead.py", "from treadle.fetch._retry import Retry"),
        ("engines/dask.py", "import treadle.server"),
        ("watch/trace.py", "from treadle._cli.main import main"),
        ("_flow/crew.py", "def f():\n    from treadle.server import Server"),
        ("server/_loop/poller.py", "from treadle.server._transport.peer import Peer"),
        ("server/_transport/io.py", "from treadle.server._serving.driver import Driver"),
        ("server/_accept/tls.py", "from treadle.server._protocols.framing import Lines"),
        ("server/_protocols/messages.py", "from treadle.server._accept.proxy import Proxies"),
        ("server/_serving/driver.py", "from treadle.server._group import EventLoopGroup"),
        ("server/_serving/driver.py", "from treadle.server import Server"),
    ],
)
def test_layer_test_sees_an_upward_import(path: str, source: str) -> None:
    """The rule above holds something only if it can fail."""
    assert upward_imports(SOURCE / path, ast.parse(source))


def dotted(path: Path) -> str:
    return "treadle." + name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.parametrize("annotations", [False, True])
def test_no_modules_import_each_other_in_a_circle(annotations: bool) -> None:
    """Only one of two may import the other; for its annotations too."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        if annotations and path.name == "__init__.py":
            continue
        imports = (all_imports_in if annotations else imports_in)(tree_of(path))
        graph[dotted(path)] = {module for _, module in imports if module.startswith("treadle.")}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for below in graph.get(module, ()):
                visit(below, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_folder_holds_more_than_a_dozen_files() -> None:
    folders = Counter(path.parent for path in MODULES)
    assert max(folders.values()) <= A_DOZEN, folders.most_common(3)


@each_module
def test_no_function_imports(path: Path) -> None:
    """An import inside a function dodges a cycle or hides a dependency."""
    if name_of(path) in MAY_IMPORT_IN_FUNCTIONS:
        return
    hidden = [line for function in functions_in(tree_of(path)) for line, _ in imports_in(function)]
    assert not hidden, f"{name_of(path)} imports inside functions, at lines {hidden}"


@each_module
def test_only_one_place_starts_threads(path: Path) -> None:
    found = thread_starts_in(tree_of(path))
    assert not found or name_of(path) in MAY_START_THREADS, f"{name_of(path)} starts threads, at lines {found}"


@pytest.mark.parametrize(
    ("source", "starts"),
    [
        ("threading.Thread(target=f).start()", True),
        ("from threading import Thread\nThread(target=f)", True),
        ("from threading import Thread as T", True),
        ("class Worker(threading.Thread): pass", True),
        ("threading.Timer(1, f)", True),
        ("start = _thread.start_new_thread", True),
        ("from _thread import start_new_thread", True),
        ("from threading import Lock, Thread\nthread: Thread | None = None", False),
        ("threading.current_thread()", False),
    ],
)
def test_thread_rule_sees_a_start(source: str, starts: bool) -> None:
    assert bool(thread_starts_in(ast.parse(source))) is starts


@each_module
def test_only_the_clock_reads_time(path: Path) -> None:
    found = [line for line, module in imports_in(tree_of(path)) if module == "time"]
    assert not found or name_of(path) in MAY_READ_TIME, f"{name_of(path)} imports time, at lines {found}"


@each_module
def test_only_server_and_fetch_touch_sockets(path: Path) -> None:
    found = [line for line, module in imports_in(tree_of(path)) if module in SOCKETS]
    assert not found or name_of(path).startswith(MAY_TOUCH_SOCKETS), (
        f"{name_of(path)} imports sockets, at lines {found}"
    )


def private_reach_in(tree: ast.AST) -> list[str]:
    """Give line and name of each attribute with one underscore in front that is somebody else's."""
    return [
        f"{node.lineno} {node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in OF_THE_STANDARD_FUTURE
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]


def test_objects_are_used_through_their_own_methods() -> None:
    below = [path for path in MODULES if name_of(path).split("/")[0] not in ABOVE]
    found = [f"{name_of(path)}:{place}" for path in below for place in private_reach_in(tree_of(path))]
    assert len(found) <= PRIVATE_REACH, "\n".join(found)
    assert len(found) == PRIVATE_REACH, f"{len(found)} are left: lower PRIVATE_REACH to that"


@pytest.mark.parametrize(
    ("source", "reaches"),
    [
        ("task._owner", True),
        ("self._pool._task_dispatcher.close()", True),
        ("Future._finish", True),
        ("super()._orphan()", True),
        ("task._rate = None", True),
        ("self._owner", False),
        ("cls._made()", False),
        ("task._state", False),
        ("task.__class__", False),
        ("task.owner", False),
    ],
)
def test_reach_rule_sees_a_private_name(source: str, reaches: bool) -> None:
    assert bool(private_reach_in(ast.parse(source))) is reaches


def log_calls_in(tree: ast.AST) -> list[int]:
    """Return the lines that mention a logger's method, or the logging module's function, that logs."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in LEVELS]
    return [node.lineno for node in found if last_name_of(node.value).strip("_") in {"log", "logger", "logging"}]


@each_module
def test_servers_log_by_way_of_words(path: Path) -> None:
    """Their threads are everybody's, and must not die of what a filter, a handler or a formatter raises."""
    found = log_calls_in(tree_of(path)) if name_of(path).startswith(MUST_LOG_SAFELY) else []
    assert not found, f"{name_of(path)} calls a logger itself, not words.log, at lines {found}"


@pytest.mark.parametrize(
    ("source", "logs"),
    [
        ("_log.warning('text')", True),
        ("tell(partial(_log.log, level))", True),
        ("logging.exception('text')", True),
        ("self._logger.info('text')", True),
        ("log(_log, logging.WARNING, 'text')", False),
        ("_log.addHandler(handler)", False),
        ("math.log(2)", False),
    ],
)
def test_log_rule_sees_a_call(source: str, logs: bool) -> None:
    assert bool(log_calls_in(ast.parse(source))) is logs


@each_module
def test_each_module_has_its_test_module(path: Path) -> None:
    if path.name in {"__init__.py", "__main__.py"}:
        return
    folders = [plain(folder) for folder in path.relative_to(SOURCE).parts[:-1]]
    mirror = ROOT.joinpath("tests", *folders, f"test_{plain(path.name)}")
    assert mirror.exists(), f"{name_of(path)} wants {mirror.relative_to(ROOT)}"


@each_module
def test_every_public_thing_has_a_docstring(path: Path) -> None:
    """Public are modules, and their classes, functions and methods whose names have no underscore in front."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    bare = list(_undocumented(tree))
    assert not bare, f"{name_of(path)} leaves undocumented: {bare}"


def _undocumented(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        overload = any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
        if not overload and not ast.get_docstring(node):
            yield f"{node.name} (line {node.lineno})"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node)


@each_module
def test_all_is_sorted_and_names_what_exists(path: Path) -> None:
    module = importlib.import_module(
        ".".join(("treadle", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    )
    names = getattr(module, "__all__", [])
    ranked = [(not name.isupper(), not name[0].isupper(), name) for name in names]  # CONSTANTS, Classes, functions
    assert all(first < second for first, second in pairwise(ranked)), f"unsorted or doubled: {names}"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{name_of(path)} promises {missing}"


def test_every_public_name_has_a_docstring_at_run_time() -> None:
    """What `help(treadle.name)` says. A name bound to a plain value, such as __version__, has its type's.

    A Literal can have none; it shows what it allows.
    """
    treadle = importlib.import_module("treadle")
    assert treadle.__all__
    public = {name: getattr(treadle, name) for name in treadle.__all__}
    bare = [name for name, thing in public.items() if not inspect.getdoc(thing) and get_origin(thing) is not Literal]
    assert not bare

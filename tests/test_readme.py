"""The documents: every block of Python in them runs as written, and prints what it is said to print."""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import sys
import textwrap
import tokenize
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest

from programs import PATIENCE, TREADLE, Program, run

ROOT = Path(__file__).parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
CHANGELOGS = [ROOT / "CHANGELOG.md", ROOT / "CHANGELOG.zh.md"]
ARCHITECTURE = [ROOT / "ARCHITECTURE.md", ROOT / "ARCHITECTURE.zh.md"]
DOCUMENTS = [README, CHINESE, *CHANGELOGS, *ARCHITECTURE, *sorted((ROOT / "docs").glob("*.md"))]
TRANSLATED = [page for page in DOCUMENTS if page.match("docs/*.zh.md") or page == ARCHITECTURE[1]]
PAGES = [(page.with_name(page.name.replace(".zh.md", ".md")), page) for page in TRANSLATED]
TWINS = [(README, CHINESE), CHANGELOGS, *PAGES]
NAME = re.compile(r"\b(?:[A-Z][a-z]+){2,}\b|\b\w+(?==)|--[a-z][a-z-]+", re.ASCII)  # PoolFull, queue_size=, --bind
OPTIONAL = ["flask", "whitenoise"]  # what a block of Python may import beside treadle and the standard library
FIGURE = re.compile(r"<!-- figure: (\S+) (\S+) (\S+) -->(.*?)<!-- /figure -->")

each_page = pytest.mark.parametrize(("english", "chinese"), PAGES, ids=lambda path: path.name)


class Block(NamedTuple):
    """A fenced block: where it begins, its language and its text."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    text = path.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(path, text.count("\n", 0, found.start()) + 1, *found.groups()) for found in fences]


def programs_of(path: Path) -> list[tuple[Block, str | None]]:
    """Return the blocks of Python, each with what it is to print: the block of text right after it."""
    blocks = [*blocks_of(path), Block(path, 0, "end", "")]
    return [
        (block, after.text if after.language == "text" else None)
        for block, after in pairwise(blocks)
        if block.language == "python"
    ]


def without_comments(source: str) -> list[str]:
    skipped = (tokenize.COMMENT, tokenize.NL)
    return [
        token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skipped
    ]


def shell_lines(path: Path) -> list[str]:
    """Return the commands of the shell blocks, without comments and what is only alignment."""
    lines = [line for block in blocks_of(path) if block.language == "sh" for line in block.text.splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def names_of(path: Path) -> set[str]:
    """Return the words of the code in a document's text, and what looks like a name outside of code; no blocks."""
    text = re.sub(r"^```\w+\n.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    code = " ".join(re.findall(r"`([^`]+)`", re.sub(r"^    .*$", "", text, flags=re.MULTILINE)))
    return {*re.findall(r"[\w-]+", code, re.ASCII), *NAME.findall(text)}


def anchors_of(path: Path) -> set[str]:
    """Return the fragments that lead to the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def entries_of(changelog: Path) -> list[tuple[str, int]]:
    """Return the sections of a changelog: the level of each with its version, if it has one, and how many entries."""
    _, *parts = re.split(r"^(#+ (?:\[.*?\])?)", changelog.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        (mark, len(re.findall("^- ", text, re.MULTILINE))) for mark, text in zip(parts[::2], parts[1::2], strict=True)
    ]


@pytest.mark.parametrize(
    ("block", "output"),
    [program for path in DOCUMENTS for program in programs_of(path)],
    ids=lambda value: str(value)[:20],
)
def test_block_of_python_runs_as_written_and_prints_what_follows(
    block: Block, output: str | None, tmp_path: Path
) -> None:
    for name in OPTIONAL:
        if re.search(rf"^(?:from|import) {name}\b", block.text, re.MULTILINE):
            pytest.importorskip(name, reason=f"{name} is not installed")
    program = tmp_path / "block.py"
    program.write_text(block.text, encoding="utf-8")
    status, printed, errors = run(sys.executable, "-W", "error", str(program))
    assert (status, errors) == (0, ""), str(block)
    assert printed == (output or ""), str(block)


def test_both_readmes_hold_the_same_programs_and_commands() -> None:
    """Only comments are translated."""
    ours, theirs = programs_of(README), programs_of(CHINESE)
    assert [output for _, output in ours] == [output for _, output in theirs]
    assert [without_comments(block.text) for block, _ in ours] == [without_comments(block.text) for block, _ in theirs]
    assert shell_lines(README) == shell_lines(CHINESE)


@pytest.mark.parametrize("mark", ["^#+ ", r"^\|", r"^- ", r"^\d\. ", r"\]\([^)]*\)", FIGURE.pattern])
def test_both_readmes_have_the_same_shape(mark: str) -> None:
    """As many headings, rows, points, links and figures; so that neither is forgotten."""
    counts = [len(re.findall(mark, path.read_text(encoding="utf-8"), re.MULTILINE)) for path in (README, CHINESE)]
    assert counts[0] == counts[1]
    assert counts[0]


def test_both_readmes_give_the_same_figures() -> None:
    ours, theirs = (FIGURE.findall(path.read_text(encoding="utf-8")) for path in (README, CHINESE))
    assert sorted(ours) == sorted(theirs)


@each_page
def test_both_languages_of_a_page_hold_the_same_blocks(english: Path, chinese: Path) -> None:
    """Only comments are translated."""
    ours, theirs = (
        [
            (block.language, without_comments(block.text) if block.language in ("python", "sh") else block.text)
            for block in blocks_of(path)
        ]
        for path in (english, chinese)
    )
    assert ours == theirs


@each_page
@pytest.mark.parametrize("mark", ["^#+ ", r"^\|", r"^- ", r"^\d\. ", r"\]\([^)]*\)", r"^    \S"])
def test_both_languages_of_a_page_have_the_same_shape(english: Path, chinese: Path, mark: str) -> None:
    """As many headings, rows, points, links and indented lines."""
    ours, theirs = (
        len(re.findall(mark, path.read_text(encoding="utf-8"), re.MULTILINE)) for path in (english, chinese)
    )
    assert ours == theirs


@each_page
def test_both_languages_of_a_page_name_the_same(english: Path, chinese: Path) -> None:
    """Options, methods, errors: none is left out, and none is told in one language only."""
    assert not names_of(english) - names_of(chinese)
    told = set(re.findall(r"[\w-]+", english.read_text(encoding="utf-8"), re.ASCII))
    assert not names_of(chinese) - names_of(english) - told


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=lambda path: path.name)
def test_each_language_leads_to_the_other_and_else_stays_in_its_own(english: Path, chinese: Path) -> None:
    for path, line in ((english, f"[中文]({chinese.name})"), (chinese, f"[English]({english.name})")):
        title, blank, link, *rest = path.read_text(encoding="utf-8").splitlines()
        assert (title[:2], blank, link) == ("# ", "", line)
        targets = {(path.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(rest))}
        assert not targets & {theirs if path is english else ours for ours, theirs in TWINS}


def test_every_page_but_these_is_there_in_chinese() -> None:
    alone = {path.name for path in DOCUMENTS} - {path.name for twins in TWINS for path in twins}
    assert alone <= {"conformance.md", "design.md"}


def test_both_changelogs_have_the_same_sections_with_as_many_entries() -> None:
    ours, theirs = (entries_of(path) for path in CHANGELOGS)
    assert ours == theirs
    assert any(entries for _, entries in ours)


@pytest.mark.parametrize("figure", FIGURE.findall(README.read_text(encoding="utf-8")), ids=lambda figure: figure[0])
def test_figure_names_a_result_of_the_benchmarks(figure: tuple[str, str, str, str]) -> None:
    """Its value changes from run to run; `python bench/figures.py` copies it from there."""
    name, path, form, value = figure
    results = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    while path not in results:
        key = next(key for key in results if path.startswith(f"{key}."))  # which may have dots itself
        results, path = results[key], path.removeprefix(f"{key}.")
    assert format(results[path], form)
    float(value.removesuffix("%"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_into_a_page_lead_to_a_heading(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8"))
    missing = [
        f"{name}#{anchor}"
        for name, anchor in links
        if "://" not in name and anchor not in anchors_of(path.parent / name if name else path)
    ]
    assert not missing


def test_commands_of_the_readme_exist() -> None:
    """`make` targets that make knows, and programs that are there; the programs are run by tests/examples."""
    for words in map(shlex.split, shell_lines(README)):
        if words[0] == "make":
            environment = {"MAKEFLAGS": "", "MAKELEVEL": ""}
            status, _, errors = run("make", "-C", str(ROOT), "--dry-run", *words[1:], env=environment)
            assert status == 0, errors
        elif words[0] == ".venv/bin/python":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] in {"pip", "python3", "treadle"}


def test_options_in_the_readmes_line_for_make_reach_the_command() -> None:
    (line,) = [line for line in shell_lines(README) if line.startswith("make run ARGS=") and "--bind" in line]
    environment = {"MAKEFLAGS": "", "MAKELEVEL": ""}
    _, printed, _ = run("make", "-C", str(ROOT), "--dry-run", *shlex.split(line)[1:], env=environment)
    assert re.search(r"/treadle echo --bind 127\.0\.0\.1:5001$", printed, re.MULTILINE)


def test_the_readmes_function_is_served_by_the_readmes_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [block.text for block, _ in programs_of(README) if "def shout" in block.text]
    (tmp_path / "mod.py").write_text("def shout" + source.partition("def shout")[2].partition("\n\n")[0])
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in shell_lines(README) if line.startswith("treadle tcp")]
    command = line.replace("127.0.0.1:5000", "127.0.0.1:0").split()[1:]
    with Program([*TREADLE, *command], env={"PYTHONPATH": str(ROOT / "src")}) as server:
        with socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO\n"


@pytest.mark.parametrize("line", [line for line in shell_lines(README) if line.startswith("treadle wsgi")])
def test_the_readmes_apps_are_served_by_its_commands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Flask's and Django's apps are found; what they do with these is for tests/integration."""
    application = """\
        def app(environ, start_response):
            start_response("200 OK", [])
            return [environ["PATH_INFO"].encode()]


        def create_app():
            return app


        application = app
        """
    name = "shop/wsgi.py" if "shop.wsgi" in line else "shop.py"
    (tmp_path / "shop").mkdir()
    (tmp_path / name).write_text(textwrap.dedent(application))
    monkeypatch.chdir(tmp_path)
    command = [*TREADLE, *shlex.split(line)[1:], "--bind", "127.0.0.1:0"]
    with Program(command, env={"PYTHONPATH": str(ROOT / "src")}) as server:
        with urlopen(f"http://127.0.0.1:{server.wait_for_port()}/warp", timeout=PATIENCE) as answer:
            assert answer.read() == b"/warp"


def test_echo_server_answers_the_readmes_line_which_is_the_one_that_it_prints() -> None:
    (line,) = [line for line in shell_lines(README) if line.startswith("python3 -c")]
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0"]) as server:
        line = line.replace("5000", str(server.wait_for_port()))
        assert server.wait_for(r"talk to it:  (.*)\n")[1].strip() == line
        assert run("sh", "-c", line.replace("python3", shlex.quote(sys.executable), 1)) == (0, "b'hello\\n'\n", "")


def test_echo_server_answers_on_the_port_it_names() -> None:
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0"]) as server:
        with socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_readme_is_short_and_shows_code_on_its_first_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 190
    assert blocks_of(path)[0].line <= 40
    assert programs_of(path)[0][0].line <= 40


def test_no_document_names_a_path_of_some_machine() -> None:
    home = re.compile(r"/(?:root|home|work|tmp)/")
    assert not [path.name for path in DOCUMENTS if home.search(path.read_text(encoding="utf-8"))]

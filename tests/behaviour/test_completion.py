"""The completion of the command in shells, set up by the lines that the documents give."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from programs import run

DOCUMENTS = [Path(__file__).parents[2] / "docs" / name for name in ("server.md", "server.zh.md")]
# What readline does when Tab is pressed: it sets these, calls the function, and reads COMPREPLY.
TAB = """
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
_treadle_completion treadle
echo "${{COMPREPLY[*]}}"
"""
CASES = [
    (["e"], ["echo"]),
    (["tcp", "app:handle", "--fr"], ["--framing"]),
    (["echo", "--at-max"], ["--at-max-connections"]),
    (["echo", "--at-max-connections", ""], ["evict_idle", "pause", "reject"]),
    (["echo", "--order", ""], ["adaptive", "fair", "fifo"]),
    (["tcp", "--when-full", "d"], ["discard_oldest"]),
    (["echo", "--log-level", "w"], ["warning"]),
]


def line_for(shell: str, document: Path) -> str:
    """Return the line of a document that sets up completion in `shell`, without its comment."""
    (line,) = re.findall(rf"(?m)^.*_TREADLE_COMPLETE={shell}_source treadle.*?(?=  +#)", document.read_text("utf-8"))
    return str(line)


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """Return a PATH on which the command is, as one that was installed."""
    command = tmp_path / "treadle"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m treadle "$@"\n')
    command.chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}


def test_both_documents_give_the_same_lines() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert len({line_for(shell, document) for document in DOCUMENTS}) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_choices(path: dict[str, str]) -> None:
    tabs = [TAB.format(words=shlex.join(["treadle", *words])) for words, _ in CASES]
    status, out, error = run("bash", "--norc", "-c", "\n".join([line_for("bash", DOCUMENTS[0]), *tabs]), env=path)
    assert (status, error) == (0, "")
    assert [sorted(line.split()) for line in out.splitlines()] == [found for _, found in CASES]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_files_itself_where_an_option_takes_one(path: dict[str, str]) -> None:
    tabs = [TAB.format(words=f"treadle echo {option} ''") for option in ("--config", "--certfile", "--client-ca")]
    files = 'compopt() { echo "$@"; }'  # with which the function asks for them
    script = "\n".join([line_for("bash", DOCUMENTS[0]), files, *tabs])
    assert run("bash", "--norc", "-c", script, env=path) == (0, "-o default\n\n" * 3, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_commands_options_and_choices(path: dict[str, str]) -> None:
    tabs = [f'complete -C "treadle {" ".join(words)}"; echo' for words, _ in CASES]
    script = "\n".join([line_for("fish", DOCUMENTS[0]), *tabs])
    status, out, error = run("fish", "--no-config", "-c", script, env=path)
    assert status == 0, error
    found = [sorted(line.split("\t")[0] for line in answer.split("\n")) for answer in out.split("\n\n")[:-1]]
    assert found == [found for _, found in CASES]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_line_and_has_a_completion_of_the_command(path: dict[str, str]) -> None:
    script = f"autoload -Uz compinit; compinit -D -u; {line_for('zsh', DOCUMENTS[0])}; echo $_comps[treadle]"
    assert run("zsh", "-f", "-c", script, env=path) == (0, "_treadle_completion\n", "")

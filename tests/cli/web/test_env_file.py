"""Files of variables."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from treadle._cli.web.env_file import parse, read_env_files
from treadle._cli.web.wsgi import wsgi


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=value", "value"),
        ("KEY=", ""),
        ("  KEY = two words \t", "two words"),
        ("export KEY=value", "value"),
        ("KEY=value # why", "value"),
        ("KEY=a#b", "a#b"),
        ("KEY= # nothing", ""),
        ("KEY=a=b", "a=b"),
        ("KEY='it is $HOME # \\n' # why", "it is $HOME # \\n"),
        (r'KEY="a\n\"b\" \\ \$c # d"', 'a\n"b" \\ $c # d'),
        ('KEY=""', ""),
        ("KEY=it's", "it's"),
        ("KEY=谢谢", "谢谢"),
        ("export_KEY=1", None),
    ],
)
def test_a_line_sets_a_variable(line: str, value: str | None) -> None:
    found = dict(parse(f"# first\r\n\n{line}\r\n", ".env"))
    assert found == ({"export_KEY": "1"} if value is None else {"KEY": value})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("KEY", "'KEY' is not KEY=VALUE"),
        ("my-key=1", "'my-key=1' is not KEY=VALUE"),
        ("1KEY=1", "is not KEY=VALUE"),
        ("=1", "is not KEY=VALUE"),
        ("export KEY", "is not KEY=VALUE"),
        ("KEY='open", "KEY begins with a quote that does not end in its line"),
        ('KEY="open\\"', "KEY begins with a quote that does not end in its line"),
        ("KEY='a'b", "KEY goes on after its quote; put all of it in quotes"),
        ("KEY=a\0b", "KEY holds a NUL byte"),
    ],
)
def test_what_is_no_such_line_is_said_with_its_number(line: str, complaint: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        dict(parse(f"A=1\n\n{line}\n", ".env"))
    assert caught.value.message.startswith(".env, line 3: ")
    assert complaint in caught.value.message


def test_what_may_be_a_secret_is_not_shown_whole() -> None:
    with pytest.raises(click.UsageError) as caught:
        dict(parse("a secret that stands alone", ".env"))
    assert "stands" not in caught.value.message


def read(*paths: Path) -> None:
    (option,) = [param for param in wsgi.params if param.name == "env_file"]
    read_env_files(click.Context(wsgi), option, [str(path) for path in paths])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment, with only READ_REAL of what begins so; put back at the end."""
    found = {"READ_REAL": "real"}
    monkeypatch.setattr(os, "environ", found)
    return found


def test_what_is_set_already_stays_and_the_last_file_counts(tmp_path: Path, environment: dict[str, str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("READ_A=1\nREAD_B=1\nREAD_REAL=file\n")
    two.write_bytes("\ufeffREAD_B=2\n".encode())
    read(one, two)
    found = {name: value for name, value in environment.items() if name.startswith("READ_")}
    assert found == {"READ_REAL": "real", "READ_A": "1", "READ_B": "2"}


@pytest.mark.parametrize("name", ["missing", "latin-1", "."])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, environment: dict[str, str], name: str) -> None:
    (tmp_path / "latin-1").write_bytes(b"KEY=\xe9\n")
    with pytest.raises(click.BadParameter, match=r"No such file|it is not text in UTF-8|[Ii]s a directory"):
        read(tmp_path / name)
    assert "KEY" not in environment

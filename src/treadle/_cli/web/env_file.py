"""Files of variables, as in .env: what the app finds in its environment beside what is there already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

__all__ = ["parse", "read_anew", "read_env_files"]

LINE = re.compile(r"(?:export\s+)?(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)", re.ASCII)
QUOTED = re.compile(r"""'(?P<plain>[^']*)'|"(?P<escaped>(?:[^"\\]|\\.)*)\"""")
COMMENT = re.compile(r"(?:^|\s+)#.*")
ESCAPE = re.compile(r"\\(.)")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}  # in double quotes; another character that is escaped is that character


def parse(text: str, where: str) -> Iterator[tuple[str, str]]:
    r"""Give the variables of a file: lines KEY=VALUE, with or without `export` in front; # begins a comment.

    A value in single quotes is taken as it is, in double quotes \n, \t, \", \\ and the like stand for what they do in a
    shell. Nothing is put in place of $NAME.

    Raises:
        click.UsageError: a line is none of that; it names `where`.
    """
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            raise click.UsageError(f"{where}, line {number}: {_brief(line)!r} is not KEY=VALUE")
        yield found["key"], _value_of(found["value"], f"{where}, line {number}: {found['key']}")


def _brief(line: str) -> str:
    """Return the beginning of a line, which may hold a secret."""
    return line if len(line) <= 12 else f"{line[:12]}..."


def _value_of(text: str, where: str) -> str:
    if "\0" in text:
        raise click.UsageError(f"{where} holds a NUL byte, which no variable can")
    if text[:1] not in ("'", '"'):
        return COMMENT.sub("", text)
    found = QUOTED.match(text)
    if found is None:
        raise click.UsageError(f"{where} begins with a quote that does not end in its line")
    if COMMENT.sub("", text[found.end() :]):
        raise click.UsageError(f"{where} goes on after its quote; put all of it in quotes")
    if found["plain"] is not None:
        return found["plain"]
    return ESCAPE.sub(lambda escape: ESCAPED.get(escape[1], escape[1]), found["escaped"])


OURS = f"{__name__}.ours"  # in a context's `meta`: the names of variables that were set from files


def read_env_files(ctx: click.Context, param: click.Parameter, paths: Sequence[str]) -> Sequence[str]:
    """Set the variables of files that are not set already; of those in several files the last one counts.

    Raises:
        click.BadParameter, click.UsageError: a file cannot be read, or is none.
    """
    ctx.meta[OURS] = _set_from(paths, ctx, param)
    return paths


def read_anew(ctx: click.Context, paths: Sequence[str]) -> None:
    """Set what the files say now, in the place of what they said.

    Raises:
        click.UsageError: a file cannot be read, or is none.
    """
    for key in ctx.meta[OURS]:
        os.environ.pop(key, None)
    ctx.meta[OURS] = _set_from(paths, ctx, None)


def _set_from(paths: Sequence[str], ctx: click.Context, param: click.Parameter | None) -> list[str]:
    """Set what the files say and is not set yet; return the names of it."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise click.BadParameter(f"{path}: {error.strerror}", ctx, param) from None
        except UnicodeDecodeError:
            raise click.BadParameter(f"{path}: it is not text in UTF-8", ctx, param) from None
        found.update(parse(text, path))
    new = {key: value for key, value in found.items() if key not in os.environ}
    os.environ.update(new)
    return list(new)

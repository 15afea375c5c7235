"""Where a command's options come from: flags, then the environment, then a TOML file, then defaults.

click looks in exactly that order once the file's table is its `default_map`. What is added here is strictness: a key
that no option has, or a value that the option would refuse, ends the command with status 2 and names file and key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from treadle._cli.values import is_toml_value_for

__all__ = ["ConfiguredCommand", "spelled"]

FILE = "treadle._cli.config.FILE"  # where a context keeps the path of its file


class ConfiguredCommand(click.Command):
    """A command with `--config FILE`: its table of that TOML file, such as [echo], sets what flags do not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                is_eager=True,  # before the other options look for their values
                expose_value=False,
                callback=_load,
                help=f"TOML file whose [{self.name}] table sets what flags and environment do not.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and name the environment variable that a bad value came from."""
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = error.param.name if error.param is not None else None
            if name and ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
                message = f"{error.message} (from the environment variable {spelled(ctx, name)})"
                raise click.BadParameter(message, ctx, error.param, error.param_hint) from None
            raise


def spelled(ctx: click.Context, name: str) -> str:
    """Return how the user gave the option `name`: its flag, its variable, or its key in the file."""
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.ENVIRONMENT:
        return f"{ctx.auto_envvar_prefix}_{name.upper()}"
    option = next(option for option in ctx.command.params if option.name == name)
    if source is ParameterSource.DEFAULT_MAP:
        return f"{ctx.meta[FILE]}: [{ctx.command.name}] {_key(option)}"
    return option.opts[0]


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the command's table of the file at `path` the defaults of its options."""
    if path is None:
        return
    document = _read(path)
    parent = ctx.parent.command if ctx.parent is not None else ctx.command
    tables = list(parent.commands) if isinstance(parent, click.Group) else [str(ctx.command.name)]
    for name, table in document.items():
        if name not in tables:
            raise click.UsageError(f"{path}: unknown table [{name}]{_suggestion(name, tables)}")
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name} must be a table: write [{name}] and its keys below")
    name = str(ctx.command.name)
    ctx.meta[FILE] = path
    ctx.default_map = _checked(document.get(name, {}), f"{path}: [{name}]", ctx)


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [str(other) for other in path.parent.glob("*.toml")]
        raise click.UsageError(f"{path}: no such file{_suggestion(str(path), near)}") from None
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise click.UsageError(f"{path}: not valid TOML: {error}") from None
    return document


def _checked(table: Mapping[str, object], where: str, ctx: click.Context) -> dict[str, object]:
    """Return the table by parameter name, or fail at its first unknown key or impossible value."""
    options = {_key(option): option for option in ctx.command.params if option.name != "config"}
    for key, value in table.items():
        if key not in options:
            raise click.UsageError(f"{where} has no key {key!r}{_suggestion(key, options)}")
        kind = options[key].type
        for one in _values(options[key], value):
            if not is_toml_value_for(kind, one):
                raise click.UsageError(f"{where} {key} = {one!r} is of the wrong type; expected {kind.name}")
            try:
                kind.convert(one, None, ctx)
            except click.BadParameter as error:
                raise click.UsageError(f"{where} {key}: {error.message}") from None
    return {
        str(options[key].name): _values(options[key], value) if _is_repeatable(options[key]) else value
        for key, value in table.items()
    }


def _is_repeatable(option: click.Parameter) -> bool:
    """Whether an option may be given several times; a file gives it once, as a list or as a single value."""
    return isinstance(option, click.Option) and option.multiple


def _values(option: click.Parameter, value: object) -> list[object]:
    """Return the values that a file gives an option."""
    return value if isinstance(value, list) and _is_repeatable(option) else [value]


def _key(option: click.Parameter) -> str:
    """Return how a file spells an option: as its flag, without the dashes in front."""
    return option.opts[0].lstrip("-")


def _suggestion(wrong: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(wrong, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""

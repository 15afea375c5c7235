"""Where a command's options come from: flags, then the environment, then a TOML file, then defaults.

click looks in exactly that order once the file's table is its `default_map`. What is added here is strictness: a key
that no option has, or a value that the option would refuse, ends the command with status 2 and names file and key. The
environment is not the command's alone: a variable there that no option has is named, and that is all.
"""

from __future__ import annotations

import os
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from treadle._cli.descriptors import lead_nowhere
from treadle._cli.options.values import NONE, Number, in_toml, is_toml_value_for, written

__all__ = ["ConfiguredCommand", "Derived", "Needed", "Platform", "spelled"]

FILE = "treadle._cli.options.config.FILE"  # where a context keeps the path of its file
PRINT = "treadle._cli.options.config.PRINT"  # and whether it is only asked what it would run with
NOTHING = ": treadle has nothing of the kind; docs/coming-from.md in its sources says why, or what to use"
LAST_GROUP = "Configuration and help"
LONGEST_ASSIGNMENT = 40  # characters of key and value in front of their source; longer ones move it. A guess


class Needed(click.Argument):
    """An argument that a command cannot run without, but can say without what it would run with.

    Args:
        what: it is, for the help, where it stands among the options, for it is set as they are.
    """

    def __init__(self, *args: Any, what: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.what = what  # not `help`, which click has since 8.5, and puts elsewhere

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the value; None where it is missing and nothing is to run."""
        if ctx.meta.get(PRINT) and self.value_is_missing(value):
            return None
        return super().process_value(ctx, value)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return its row."""
        return self.make_metavar(ctx), f"{self.what}  [env var: {self.envvar}]"


class Derived(click.Option):
    """An option whose default follows from others. A printed file has it in a comment, so that it still follows."""


class Platform(click.Option):
    """An option whose default a variable gives that platforms set for any program, such as PORT.

    It is a default: a flag, a variable of treadle's own and a file come before it. So a printed file has the value in a
    comment where the platform has not set it: it is to be heeded where it does.

    Args:
        variable: its name.
        form: the value of the option, with {} where that of the variable stands.
    """

    def __init__(self, *args: Any, variable: str, form: str = "{}", **options: Any) -> None:
        super().__init__(*args, **options)
        self.variable = variable
        self._form = form

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Return the value, and its source."""
        value, source = super().consume_value(ctx, opts)
        if source is not ParameterSource.DEFAULT or not self.is_set():
            return value, source
        given = self._form.format(os.environ[self.variable])
        return (given,) if self.multiple else given, source

    def is_set(self) -> bool:
        """Whether the platform has set the variable, to anything at all."""
        return bool(os.environ.get(self.variable))


class ConfiguredCommand(click.Command):
    """A command with `--config FILE`: its table of that TOML file, such as [echo], sets what flags do not.

    Args:
        groups: the titles under which help lists the options, each with the names of its parameters. The others stand
            under the last title.
        instead: flags that other programs have, and what each is called here; "": there is nothing of the kind.
    """

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        instead: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.groups = groups or {}
        self.instead = instead or {}
        self.params.insert(
            0,  # before other options that are eager, for they may be set in the file
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                is_eager=True,  # before the other options look for their values
                expose_value=False,
                callback=_load,
                help=f"TOML file whose [{self.name}] table sets what flags and environment do not.",
            ),
        )
        self.params.append(
            click.Option(
                ["--print-config"],
                is_flag=True,
                is_eager=True,  # before an argument is missed
                expose_value=False,
                allow_from_autoenv=False,
                callback=_only_print,
                help="Print each value and where it comes from, as a file for --config, and exit.",
            )
        )
        for param in self.params:
            if isinstance(param, click.Option):
                param.show_envvar = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and name variables: those that no option has, and that which a bad value came from."""
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            here = self.instead.get(error.option_name)
            if here is None:
                raise
            hint = f"; here it is called {here!r}" if here else NOTHING
            raise click.UsageError(f"No such option {error.option_name!r}{hint}", ctx) from None
        except click.UsageError as error:
            _name_unknown_variables(ctx)
            param = error.param if isinstance(error, click.BadParameter) else None
            if param and param.name and (variable := _variable_of_value(ctx, param)):
                message = f"{error.message} (from the environment variable {variable})"
                raise click.BadParameter(message, ctx, param) from None
            raise
        _name_unknown_variables(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or print what it would run with."""
        if ctx.meta.get(PRINT):
            # As bytes, for TOML is in UTF-8 whatever the terminal is. What is no text at all is seen as such.
            return click.echo("\n".join(_printed(ctx, self._sections())).encode(errors="backslashreplace"))
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups, each with its text below, where long names leave it room."""
        for title, params in self._sections(self.get_params(ctx)).items():
            with formatter.section(title):
                for param in params:
                    name, text = param.get_help_record(ctx) or ("", "")
                    indent = " " * (formatter.current_indent + 4)
                    formatter.write(f"{'':{formatter.current_indent}}{name}\n")
                    formatter.write("".join(f"{indent}{line}\n" for line in _wrap(text, formatter.width - len(indent))))

    def _sections(self, params: Iterable[click.Parameter] | None = None) -> dict[str, list[click.Parameter]]:
        """Return the parameters under their titles."""
        titles = {name: title for title, names in self.groups.items() for name in names}
        sections: dict[str, list[click.Parameter]] = {title: [] for title in [*self.groups, LAST_GROUP]}
        for param in self.params if params is None else params:
            sections[titles.get(param.name or "", LAST_GROUP)].append(param)
        sections[LAST_GROUP].sort(key=lambda param: not param.expose_value)  # what is about the command comes last
        return sections


def _wrap(text: str, width: int) -> list[str]:
    """Return the lines of an option's help; flags and variables stay whole, so that they can be searched for."""
    for label in ("env var: ", "default: "):
        text = text.replace(label, label.replace(" ", "\xa0"))  # at which no line is broken
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def spelled(ctx: click.Context, name: str) -> str:
    """Return how the user gave the option `name`: its flag, its variable, or its key in the file."""
    source = ctx.get_parameter_source(name)
    option = next(option for option in ctx.command.params if option.name == name)
    variable = _variable_of_value(ctx, option)
    if variable:
        return variable
    if source is ParameterSource.DEFAULT_MAP:
        return f"{ctx.meta[FILE]}: [{ctx.command.name}] {_key(option)}"
    return option.human_readable_name if isinstance(option, click.Argument) else option.opts[0]


def _variable_of_value(ctx: click.Context, param: click.Parameter) -> str | None:
    """Return the environment variable that the value of `param` comes from; None: it comes from elsewhere."""
    source = ctx.get_parameter_source(str(param.name))
    if source is ParameterSource.ENVIRONMENT:
        return _variable(param, ctx.auto_envvar_prefix)
    given = source is ParameterSource.DEFAULT and isinstance(param, Platform) and param.is_set()
    return param.variable if given and isinstance(param, Platform) else None


def _variable(param: click.Parameter, prefix: str | None) -> str | None:
    """Return the environment variable that sets `param` of the command with this prefix, if one does."""
    if isinstance(param.envvar, str):
        return param.envvar
    automatic = isinstance(param, click.Option) and param.allow_from_autoenv and prefix
    return f"{prefix}_{str(param.name).upper()}" if automatic else None


def _name_unknown_variables(ctx: click.Context) -> None:
    """Say which variables begin as those of treadle's commands do, and are none."""
    above = ctx.parent
    if above is None or above.auto_envvar_prefix is None or not isinstance(above.command, click.Group):
        return
    beginning = f"{above.auto_envvar_prefix}_"
    known = {
        prefix: _variables(command, prefix)
        for name, command in above.command.commands.items()
        for prefix in [f"{beginning}{name.upper().replace('-', '_')}"]  # as click makes it
    }
    for wrong in sorted(name for name in os.environ if name.startswith(beginning)):
        if any(wrong in names for names in known.values()):
            continue
        # Names are compared without what they all begin with, or any two of them would be near.
        prefix = next((prefix for prefix in known if wrong.startswith(f"{prefix}_")), str(ctx.auto_envvar_prefix))
        rest = wrong.removeprefix(f"{prefix}_").removeprefix(beginning)
        near = get_close_matches(rest, [name.removeprefix(f"{prefix}_") for name in known.get(prefix, ())], n=1)
        hint = f"did you mean {prefix}_{near[0]}?" if near else f"{ctx.command_path} --help lists those that it knows"
        try:
            click.echo(f"Warning: the environment variable {wrong} is unknown, and sets nothing; {hint}", err=True)
        except OSError:
            lead_nowhere(sys.stderr)


def _variables(command: click.Command, prefix: str | None) -> list[str]:
    return [name for param in command.params if (name := _variable(param, prefix)) is not None]


def _only_print(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    ctx.meta[PRINT] = asked


def _printed(ctx: click.Context, sections: Mapping[str, Iterable[click.Parameter]]) -> Iterator[str]:
    """Make the lines of a file that has the command run as it would now, with the source of each value."""
    yield f"# What {ctx.command_path} runs with, and where each value comes from."
    yield f"[{ctx.command.name}]"
    for title, params in sections.items():
        lines = [_line(ctx, param) for param in params if param.expose_value]
        if lines:
            yield f"\n# {title}"
            yield from lines


def _line(ctx: click.Context, param: click.Parameter) -> str:
    """Return the line of one value."""
    name, value = str(param.name), ctx.params[str(param.name)]
    if value is None and not (isinstance(param.type, Number) and param.type.none):
        return f"# {_key(param)} is not set"
    text = f"[{', '.join(map(_written, value))}]" if _is_repeatable(param) else _written(value)
    assignment = f"{_key(param)} = {text}"
    if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT or _variable_of_value(ctx, param):
        source = spelled(ctx, name)
    elif isinstance(param, Derived | Platform):
        assignment, source = f"# {assignment}", f"default: {param.show_default}"
    else:
        source = "default"
    # A comment may hold no control character, but a path may.
    source = source if source.isprintable() else ascii(source)
    return f"{assignment:<{LONGEST_ASSIGNMENT}}  # {source}"


def _written(value: object) -> str:
    return in_toml(NONE if value is None else written(value))


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the command's table of the file at `path` the defaults of its options."""
    if path is None:
        return
    document = _read(path)
    parent = ctx.parent.command if ctx.parent is not None else ctx.command
    tables = list(parent.commands) if isinstance(parent, click.Group) else [str(ctx.command.name)]
    for name, table in document.items():
        if name not in tables and not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name!r} stands in no table; write [{ctx.command.name}] above it")
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
    options = {_key(option): option for option in ctx.command.params if option.expose_value}
    for key, value in table.items():
        if key not in options:
            raise click.UsageError(f"{where} has no key {key!r}{_instead(key, ctx) or _suggestion(key, options)}")
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


def _instead(key: str, ctx: click.Context) -> str:
    """Return what is said of a key that other programs have; "": none is known to."""
    here = ctx.command.instead.get(f"--{key}") if isinstance(ctx.command, ConfiguredCommand) else None
    if here is None:
        return ""
    return f"; here it is called {here.lstrip('-')!r}" if here else NOTHING


def _suggestion(wrong: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(wrong, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""

"""The kinds of value that options take, and the TOML type that each is written as."""

from __future__ import annotations

import math
from typing import Any

import click

from treadle.server import Delimiter, LengthPrefix, Lines, Raw
from treadle.server.framing import Framing
from treadle.server.listen import Bind, parse_bind

__all__ = ["BindTo", "Escaped", "FramingNamed", "PerSecond", "Seconds", "is_toml_value_for"]


class BindTo(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """An option that says where to listen, as `Server(bind=...)` does."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bind:
        """Return what `value` says, or fail with what is wrong in it."""
        if isinstance(value, Bind):
            return value
        try:
            return parse_bind(str(value))
        except ValueError as error:
            self.fail(str(error).removeprefix("bind="), param, ctx)


class FramingNamed(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that names a framing: raw, lines, delimiter=BYTES, length-prefix=SIZE[,little]."""

    name = "FRAMING"
    forms = "raw, lines, delimiter=BYTES (as in delimiter=\\0), length-prefix=SIZE, length-prefix=SIZE,little"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Framing:
        """Return the framing that `value` names, or fail with what is wrong in it."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # converted already
        kind, _, argument = value.partition("=")
        try:
            if value in ("raw", "lines"):
                return Raw() if value == "raw" else Lines()
            if kind == "delimiter":
                return Delimiter(argument.encode("latin-1").decode("unicode_escape").encode("latin-1"))
            if kind == "length-prefix":
                size, _, order = argument.partition(",")
                return LengthPrefix(int(size), order or "big")
        except ValueError as error:
            self.fail(f"{value!r} is no framing: {error}; allowed: {self.forms}", param, ctx)
        self.fail(f"{value!r} is no framing; allowed: {self.forms}", param, ctx)


class Escaped(click.ParamType):  # type: ignore[type-arg]  # as above
    r"""An option that is bytes: text in UTF-8, in which \n, \r, \0 and \xNN stand for what they do in Python."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the bytes, or fail with what is wrong in the text."""
        if isinstance(value, bytes):
            return value
        try:
            return str(value).encode().decode("unicode_escape").encode("latin-1")
        except ValueError as error:
            self.fail(f"{value!r} is no text with escapes: {error}", param, ctx)


class Positive(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that is a positive, finite number."""

    what = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return `value` as a float, or fail with what is allowed."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a {self.what}", param, ctx)
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a positive, finite {self.what}", param, ctx)
        return number


class Seconds(Positive):
    """An option that is a positive, finite number of seconds."""

    name = "SECONDS"
    what = "number of seconds"


class PerSecond(Positive):
    """An option that is a positive, finite rate."""

    name = "PER-SECOND"
    what = "rate"


def is_toml_value_for(kind: object, value: object) -> bool:
    """Tell whether `value`, as TOML has it, is of the type that options of this kind are written in.

    click would convert 12.5 to 12 and true to 1; a file that says so holds a mistake.
    """
    if isinstance(kind, Positive):
        return type(value) in (int, float)
    if isinstance(kind, click.types.IntParamType):
        return type(value) is int
    if isinstance(kind, click.types.BoolParamType):
        return type(value) is bool
    return isinstance(value, str)

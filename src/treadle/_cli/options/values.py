"""The kinds of value that options take, and the TOML type that each is written as."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import click

from treadle.server import Delimiter, LengthPrefix, Lines, Raw
from treadle.server._accept.listen import Bind, parse_bind
from treadle.server._accept.proxy import Proxies
from treadle.server._protocols.framing import MAX_PREFIX, Framing

__all__ = [
    "NONE",
    "BindTo",
    "Count",
    "Escaped",
    "FramingNamed",
    "Names",
    "Number",
    "PerSecond",
    "Seconds",
    "Size",
    "Trusted",
    "UrlPath",
    "in_toml",
    "is_toml_value_for",
    "sized",
    "written",
]

SIZES = tuple(map(str, range(1, MAX_PREFIX + 1)))
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}  # bytes
NONE = "none"  # how an option, or a file, says None: TOML has no such value

# A backslash, and what follows it: \xNN, or octal digits, or anything.
ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\\": b"\\"}


def unescaped(text: str) -> bytes:
    r"""Return `text` in UTF-8, in which \n, \r, \t, \\, \0 and \xNN stand for what they do in Python.

    Raises:
        ValueError: a backslash is followed by something else.
    """
    return ESCAPE.sub(_byte, text.encode())


def _byte(found: re.Match[bytes]) -> bytes:
    digits, octal, other = found.groups()
    if other is not None and other not in ESCAPED:
        raise ValueError(f"{found[0].decode(errors='replace')} is no escape, but \\n, \\r, \\t, \\0, \\\\, \\xNN are")
    if other is not None:
        return ESCAPED[other]
    number = int(digits, 16) if digits else int(octal, 8)
    if number > 255:
        raise ValueError(f"{found[0].decode()} is more than a byte, which ends at \\377")
    return bytes([number])


def escaped(data: bytes) -> str:
    """Return the text that `unescaped` makes `data` of; what cannot be read is escaped."""
    text = data.replace(b"\\", rb"\\").decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return short.get(character) or "".join(f"\\x{byte:02x}" for byte in character.encode())


def _is_none(value: object) -> bool:
    return isinstance(value, str) and value.lower() == NONE


class Addresses(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """An option that may be repeated, each time with an address."""

    name = "ADDRESS"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the addresses in an environment variable, which commas or blanks separate."""
        return rv.replace(",", " ").split()


class BindTo(Addresses):
    """An option that says where to listen, as `Server(bind=...)` does."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bind:
        """Return what `value` says, or fail with what is wrong in it."""
        if isinstance(value, Bind):
            return value
        try:
            return parse_bind(str(value))
        except ValueError as error:
            self.fail(str(error).removeprefix("bind="), param, ctx)


class Trusted(Addresses):
    """An option that says which proxies are trusted, as `Server(proxy=...)` does; several are separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the addresses, networks and "unix" in `value`, or fail with what is wrong in one of them."""
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in str(value).split(","))
        try:
            return Proxies(names).names
        except ValueError as error:
            self.fail(str(error).removeprefix("proxy="), param, ctx)


class FramingNamed(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that names a framing: raw, lines, delimiter=BYTES, length-prefix=SIZE[,little]."""

    name = "FRAMING"
    forms = "raw, lines, delimiter=BYTES (as in delimiter=\\0), length-prefix=SIZE, length-prefix=SIZE,little"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Framing[bytes]:
        """Return the framing that `value` names, or fail with what is wrong in it."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # converted already
        kind, equals, argument = value.partition("=")
        why = ""
        try:
            if value in ("raw", "lines"):
                return Raw() if value == "raw" else Lines()
            if kind == "delimiter" and equals:
                return _delimiter(argument)
            if kind == "length-prefix" and equals:
                return _length_prefix(*argument.partition(",")[::2])
        except ValueError as error:
            why = f": {error}"
        self.fail(f"{value!r} is no framing{why}; allowed: {self.forms}", param, ctx)


def _delimiter(text: str) -> Delimiter:
    """Return the framing that ends messages at `text`.

    Raises:
        ValueError: it is none.
    """
    if not text:
        raise ValueError("BYTES are missing, and must be one byte or more")
    return Delimiter(unescaped(text))


def _length_prefix(size: str, order: str) -> LengthPrefix:
    """Return the framing of `SIZE[,ORDER]`.

    Raises:
        ValueError: it is none.
    """
    if size not in SIZES:
        raise ValueError(f"SIZE is {size!r}, and must be 1 to 8 bytes")
    if order not in ("", "big", "little"):
        raise ValueError(f"the order is {order!r}, and must be big or little")
    return LengthPrefix(int(size), "little" if order == "little" else "big")


class Escaped(click.ParamType):  # type: ignore[type-arg]  # as above
    r"""An option that is bytes: text in UTF-8, with the escapes of `unescaped`."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the bytes, or fail with what is wrong in the text."""
        if isinstance(value, bytes):
            return value
        try:
            return unescaped(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is no text with escapes: {error}", param, ctx)


class Number(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that is a finite number, of more than 0.

    Args:
        zero: whether it may be 0, too.
        none: whether it may be `none`, for no limit, too.
    """

    what = "number"
    unit = ""  # after its bound

    def __init__(self, *, zero: bool = False, none: bool = False) -> None:
        self.zero = zero
        self.none = none
        if none:
            self.name = f"{self.name}|{NONE}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what help shows in place of the value; click would write `none` in capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return `value` as a number, or as None, or fail with what is allowed."""
        if self.none and _is_none(value):
            return None
        try:
            number = self.parse(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is not a {self.what}; allowed: {self.allowed()}", param, ctx)
        if not (number > 0 or (self.zero and number == 0)) or number == math.inf:
            self.fail(f"{value!r} is out of range; allowed: {self.allowed()}", param, ctx)
        return number

    def parse(self, value: Any) -> float:
        """Return the number that `value` is, or is written as.

        Raises:
            ValueError: it is none.
        """
        return float(value)

    def allowed(self) -> str:
        """Return what the option may be."""
        least = f"0{self.unit} or more" if self.zero else f"more than 0{self.unit}"
        return f"{least}, or {NONE} for no limit" if self.none else least


class Seconds(Number):
    """An option that is a number of seconds."""

    name = "SECONDS"
    what = "number of seconds"
    unit = " seconds"


class PerSecond(Number):
    """An option that is a rate."""

    name = "PER-SECOND"
    what = "rate"
    unit = " a second"


class Count(Number):
    """An option that is a whole number."""

    name = "NUMBER"
    what = "whole number"

    def parse(self, value: Any) -> float:
        """Return the integer that `value` is, or is written as.

        Raises:
            ValueError: it is none.
        """
        return int(value)


class Size(Count):
    """An option that is a number of bytes; with k, m or g behind it, of so many times 1024 bytes, and so on."""

    name = "SIZE"
    what = "number of bytes"

    def parse(self, value: Any) -> float:
        """Return the integer that `value` is, or is written as.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(value, str):
            return int(value)
        text = value.strip().lower()
        factor = UNITS.get(text[-1:], 1)
        return int(text[:-1] if factor > 1 else text) * factor

    def allowed(self) -> str:
        """Return what the option may be."""
        return f"{super().allowed()}, as 65536, 64k, 1m or 1g"


def sized(number: int) -> str:
    """Return a number of bytes as `Size` takes it, in the largest unit that it is a multiple of."""
    for unit, factor in reversed(UNITS.items()):
        if number >= factor and number % factor == 0:
            return f"{number // factor}{unit}"
    return f"{number} bytes"


class Names(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that may be repeated, each time with a name."""

    name = "NAME"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the names in an environment variable, which commas or blanks separate."""
        return rv.replace(",", " ").split()


class UrlPath(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that is a path as URLs have it, from the first slash on.

    Args:
        empty: whether it may be nothing at all; then it is what others begin with, and ends with no slash.
    """

    name = "PATH"

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path, or fail with what is wrong in it."""
        text = str(value)
        if self.empty and not text:
            return text
        if not text.startswith("/"):
            self.fail(f"{value!r} is no path; it begins with a slash, as in /{text or 'healthz'}", param, ctx)
        if self.empty and text.endswith("/"):
            hint = (
                f", as in {text.rstrip('/')}"
                if text.strip("/")
                else "; leave it out for an app that is mounted nowhere"
            )
            self.fail(f"{value!r} ends with a slash; it is written without{hint}", param, ctx)
        wrong = next((character for character in text if not "!" <= character <= "~" or character in "?#"), None)
        if wrong is not None:
            self.fail(f"{value!r} holds {wrong!r}, which a path has not; write it as clients send it", param, ctx)
        return text


def is_toml_value_for(kind: object, value: object) -> bool:
    """Tell whether `value`, as TOML has it, is of the type that options of this kind are written in.

    click would convert 12.5 to 12 and true to 1; a file that says so holds a mistake.
    """
    if isinstance(kind, Number):
        whole = isinstance(kind, Count)
        if isinstance(kind, Size) and isinstance(value, str):
            return True
        return type(value) is int or (type(value) is float and not whole) or (kind.none and _is_none(value))
    if isinstance(kind, click.types.IntParamType):
        return type(value) is int
    if isinstance(kind, click.types.BoolParamType):
        return type(value) is bool
    return isinstance(value, str)


def written(value: object) -> bool | int | float | str:
    """Return how a TOML file gives the value that an option has: what the kinds above convert to it."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Bind):
        return value.text
    if isinstance(value, bytes):
        return escaped(value)
    if isinstance(value, tuple):  # of Trusted
        return ",".join(value)
    if isinstance(value, Delimiter):
        return f"delimiter={escaped(value.delimiter)}"
    if isinstance(value, LengthPrefix):
        return f"length-prefix={value.size}{',little' if value.byteorder == 'little' else ''}"
    return "lines" if isinstance(value, Lines) else "raw"


def in_toml(value: bool | float | str) -> str:
    """Return `value` in the syntax of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # as people write it: the backslash stays one
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the only one that TOML wants escaped, too

"""Values: the lines of an answer's fields, checked so that none can be taken for two (RFC 9110, section 5.5)."""

from __future__ import annotations

from typing import Any

from treadle._base.words import brief
from treadle.server._protocols.wsgi.answering.names import HEADERS, Names

__all__ = ["encoded", "line_of", "text_of", "wrong_header"]

PLAIN = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))


def encoded(lines: list[str]) -> bytes:
    """Return the lines, each with its end, as bytes.

    Raises:
        ValueError: there is a control character in one, or one that latin-1 does not have.
    """
    try:
        raw = "".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"a header has {error.object[error.start]!r}; WSGI (PEP 3333) wants latin-1") from None
    if len(raw.translate(None, PLAIN)) != 2 * len(lines):  # only the ends are left, or it would be two lines
        unfit = next(line for line in lines if len(line.encode("latin-1").translate(None, PLAIN)) != 2)
        raise ValueError(f"a header is {brief(unfit[:-2])}, with a control character (RFC 9110, section 5.5)")
    return raw


def line_of(header: Any, names: Names) -> str:
    """Return the line of a header that needs no look.

    Raises:
        TypeError, ValueError: it is not what WSGI wants.
    """
    try:
        name, value = header
        begins = names.get(name) or names.learn(name) or f"{name}: "
        return f"{begins}{value if type(value) is str else text_of(name, value)}\r\n"
    except (TypeError, ValueError) as error:
        raise wrong_header(header, error) from None


def text_of(name: object, value: object) -> str:
    """Return a header's value that is a str of another class.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"the value of {name} is {brief(value)}, {type(value).__name__}")
    return str(value)


def wrong_header(header: object, error: Exception) -> Exception:
    """Return what is wrong with a header."""
    said = f"a header is {brief(header)}: {error}"
    return type(error)(said if HEADERS in said else f"{said}; {HEADERS}")

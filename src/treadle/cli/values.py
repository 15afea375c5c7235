"""The kinds of value that options take, and the TOML type that each is written as."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import click

__all__ = ["Address", "HostPort", "Seconds", "is_toml_value_for"]

MAX_PORT = 65535


class Address(NamedTuple):
    """Where to listen: a host name or address, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HostPort(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """An option of the form HOST:PORT, with an IPv6 address in brackets, as in [::1]:5000."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the Address that `value` spells, or fail with what is wrong in it."""
        if isinstance(value, Address):
            return value
        host, colon, port = str(value).rpartition(":")
        if not colon:
            self.fail(f"{value!r} is not HOST:PORT, as in 127.0.0.1:5000", param, ctx)
        if not host:
            self.fail(f"{value!r} names no host; 0.0.0.0{value} listens on every address", param, ctx)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            self.fail(f"{value!r} is ambiguous; write an IPv6 address in brackets, as in [::1]:5000", param, ctx)
        if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
            self.fail(f"{port!r} in {value!r} is not a port; a port is a number from 0 to {MAX_PORT}", param, ctx)
        return Address(host, int(port))


class Seconds(click.ParamType):  # type: ignore[type-arg]  # as above
    """An option that is a positive, finite number of seconds."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return `value` as a float, or fail with what is allowed."""
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is not a positive, finite number of seconds", param, ctx)
        return seconds


def is_toml_value_for(kind: object, value: object) -> bool:
    """Tell whether `value`, as TOML has it, is of the type that options of this kind are written in.

    click would convert 12.5 to 12 and true to 1; a file that says so holds a mistake.
    """
    if isinstance(kind, Seconds):
        return type(value) in (int, float)
    if isinstance(kind, click.types.IntParamType):
        return type(value) is int
    return isinstance(value, str)

"""What is public is known by the name under which it is documented: `treadle.Pool`, not the file that it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any, get_type_hints

__all__ = ["publish"]


def publish(package: str, names: Mapping[str, Any]) -> None:
    """Give classes and functions in `names` the module `package`, where they are documented.

    Pickles, tracebacks and `help` then name it, and what is pickled can be read though the files behind it have moved.

    Args:
        package: the dotted name of a public module.
        names: what it exports, by name: its globals, of which its `__all__` are taken.
    """
    for name in names["__all__"]:
        thing = names[name]
        if not isinstance(thing, type | FunctionType) or not thing.__module__.startswith("treadle."):
            continue
        if isinstance(thing, type) and is_dataclass(thing):
            # Else they would be looked up in `package`, which knows only what is public.
            thing.__annotations__ = get_type_hints(thing, localns=dict(names))
        thing.__module__ = package

"""What is public is known by the name under which it is documented: `treadle.Pool`, not the file that it stands in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, get_type_hints

from treadle._base.late import import_whole

__all__ = ["late", "publish"]


def publish(package: str, names: Mapping[str, Any]) -> None:
    """Give classes and functions in `names` the module `package`, where they are documented.

    Pickles, tracebacks and `help` then name it, and what is pickled can be read though the files behind it have moved.
    Their type hints can be had as before.

    Args:
        package: the dotted name of a public module.
        names: what it exports, by name: its globals, of which its `__all__` are taken.
    """
    public = {name: names[name] for name in names["__all__"] if name in names}
    for thing in public.values():
        if not isinstance(thing, type | FunctionType) or not thing.__module__.startswith("treadle."):
            continue
        if thing.__module__ == package:  # it was published before
            home = _homes[thing]
        else:
            home = _homes[thing] = vars(sys.modules[thing.__module__])
        for name, other in public.items():  # what it could import for type checkers alone, but has in its hints
            home.setdefault(name, other)
        if thing.__module__ != package:
            if isinstance(thing, type):
                _publish_members(thing, package)
            thing.__module__ = package


_homes: dict[object, dict[str, Any]] = {}  # the globals of the file that each public thing stands in


def late(
    package: str, names: dict[str, Any], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a public module, some of whose names are imported when they are asked for.

    Args:
        package: the dotted name of the module.
        names: its globals.
        homes: the modules that they are found in, by name; or which they are.
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import_whole(home)
        if home == f"{package}.{name}":
            return sys.modules[home]
        for each, its_home in homes.items():
            if its_home == home:
                names[each] = getattr(sys.modules[home], each)
        publish(package, names)
        return names[name]

    return get, lambda: sorted({*names, *homes})


def _publish_members(kind: type, package: str) -> None:
    """Do the same for the methods of a class, and keep the hints of its attributes."""
    own = vars(kind).get("__annotations__", {})
    if own:
        # Else they would be looked up in `package`, which knows only what is public.
        with suppress(NameError):  # of what only type checkers import, and is not public
            hints = get_type_hints(kind, include_extras=True)
            kind.__annotations__ = {name: hints[name] for name in own}
    for member in list(vars(kind).values()):
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(function, FunctionType) and function.__module__ == kind.__module__:
            function.__module__ = package

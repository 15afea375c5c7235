"""The surface: every public name of treadle, and what may be passed to it; `python tests/surface.py` prints it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

MODULES = ("treadle", "treadle.errors", "treadle.events", "treadle.orders", "treadle.server")


def surface() -> Iterator[str]:
    """Yield the lines, in the order of the modules, and sorted."""
    for module in MODULES:
        package = importlib.import_module(module)
        for name in sorted(package.__all__):
            thing = getattr(package, name)
            yield f"{module}.{name}{parameters(thing)}"
            if isinstance(thing, type):
                yield from (f"    .{member}" for member in members(thing))


def members(cls: type) -> list[str]:
    """Return the public members that treadle's own classes give `cls`, whatever Python and its library add."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == "treadle":
            found.update(vars(base))
            found.update(dict.fromkeys(getattr(base, "__dataclass_fields__", ())))
            found.update(dict.fromkeys(inspect.get_annotations(base)))
    shown = {name: member for name, member in found.items() if not name.startswith("_")}
    return [f"{name}{parameters(shown[name])}" for name in sorted(shown)]


def parameters(thing: Any) -> str:
    """Return what a function, a method or a class takes, without types, as in `(self, timeout=None)`; "": no call."""
    if isinstance(thing, property) or not callable(getattr(thing, "__func__", thing)):
        return ""
    try:
        signature = inspect.signature(getattr(thing, "__func__", thing))
    except ValueError:
        return ""
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    print("\n".join(surface()))

"""Loading: the modules that users name, and what is in them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

__all__ = ["CannotImport", "find", "import_named"]


class CannotImport(click.ClickException):
    """The user's module, or another part of the user's program, raised `error` when it was to be had.

    Args:
        what: could not be done, as in "import app".
        error: its text is the last line that is shown.

    Attributes:
        story: what is shown before that: the frames of the user's own modules.
        error: as given.
    """

    exit_code = 78  # EX_CONFIG of sysexits.h: another try does not change it

    def __init__(self, what: str, error: BaseException, *machinery: str) -> None:
        trace = error.__traceback__
        while trace is not None and is_machinery(trace.tb_frame.f_code.co_filename, *machinery):
            trace = trace.tb_next
        # A frozen module, as os is, has no file to look into: its caller has.
        frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith("<frozen ")]
        where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        if isinstance(error, SyntaxError):  # which says itself where it is
            where = ""
        super().__init__(f"cannot {what}: {type(error).__name__}: {error}{where}")
        self.story = "".join(traceback.format_exception(type(error), error, trace))
        self.error = error

    def show(self, file: Any = None) -> None:
        """Print the frames of the user's own modules, and what is wrong last."""
        click.echo(self.story, file=file, nl=False, err=True)
        super().show(file)


def is_machinery(filename: str, *others: str) -> bool:
    """Whether a frame of this file, or one of `others`, is what imports the user's module, and none of its own."""
    return filename in (__file__, importlib.__file__, *others) or filename.startswith("<frozen importlib")


def import_named(name: str, path: str = "") -> Any:
    """Return the module called `name`; those of the current folder come first.

    Args:
        name: of the module, with dots.
        path: what is wanted of it, for what is said of a name that was meant otherwise.

    Raises:
        LookupError: there is no such module; says what may have been meant.
        CannotImport: it raises an error when it is imported, or wants to leave the program.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if not missing or not f"{name}.".startswith(f"{missing}."):  # something that the module itself imports
            raise CannotImport(f"import {name}", error) from None
        near = name.removesuffix(".py").replace("/", ".")
        meant = f"{near}:{path}" if path else near
        hint = (
            f"is {missing.replace('.', os.sep)}.py in {os.getcwd()}, or installed?"
            if near == name
            else f"did you mean {meant}?"
        )
        raise LookupError(f"there is no module {missing!r}; {hint}") from None


def find(module: Any, path: str) -> Any:
    """Return what `path`, names with dots between them, leads to in a module.

    Raises:
        AttributeError: `name` is not there, in `obj`, where the way ends.
    """
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise AttributeError(path, name=name, obj=found)
        found = getattr(found, name)
    return found

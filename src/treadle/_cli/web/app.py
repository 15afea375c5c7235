"""The app that `MODULE:APP` names, and what is wrong with it, before a request finds out."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import click

from treadle._base.checks import accepts
from treadle._base.words import cut, type_name
from treadle._cli.loading import CannotImport, find, import_named

__all__ = ["App", "Unservable", "closing_connections", "load_app"]

FORM = "MODULE:APP, as in shop.wsgi:application, or MODULE:make_app(), as in shop:create_app('prod', debug=True)"
USUAL = ("application", "app")  # the names of an app, where only a module is named
FACTORIES = ("create_", "make_", "get_")  # how the names of what makes an app begin
CALLED_WITH = ("environ", "start_response")
LONGEST = 80  # characters of what a function takes; a guess: a line
ASGI = ("scope", "receive", "send")


class Unservable(click.ClickException):
    """There is no app, or it is none that can be served."""

    exit_code = 78  # EX_CONFIG of sysexits.h: another try does not change it


@dataclass(frozen=True)
class App:
    """An app that can be served, as far as can be told.

    Attributes:
        name: as the user may name it: MODULE:APP.
        kind: what it is, in a few words.
        call: the app itself.
    """

    name: str
    kind: str
    call: Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """A call of a factory, `create_app("prod", debug=True)`, with arguments that are literals."""

    path: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def load_app(where: str) -> App:
    """Return the app that MODULE, MODULE:APP or MODULE:make_app() names.

    Raises:
        Unservable: there is none, or it is no WSGI app; says what to write instead, where it is known.
        CannotImport: the module, or the factory, raises an error.
    """
    module_name, colon, rest = where.partition(":")
    if not module_name or module_name.startswith(".") or (colon and not rest.strip()):
        raise Unservable(f"{where!r} is not {FORM}")
    call = _parse_call(where, rest.strip()) if "(" in rest else None
    path = call.path if call else rest.strip()
    if path and not all(map(str.isidentifier, path.split("."))):
        raise Unservable(f"{where!r} is not {FORM}")
    try:
        module = import_named(module_name, rest)
    except LookupError as error:
        raise Unservable(str(error)) from None
    name = f"{module_name}:{path or _usual_in(module)}"
    found = _find_in(module, name)
    if call is None:
        return _checked(name, found)
    return _checked(f"{module_name}:{rest.strip()}", _made_by(name, found, call))


def _parse_call(where: str, text: str) -> Call:
    """Return what a call of a factory says; nothing of it is run."""
    try:
        node = ast.parse(text, mode="eval").body
        if not isinstance(node, ast.Call) or any(word.arg is None for word in node.keywords):
            raise ValueError
        arguments = tuple(ast.literal_eval(each) for each in node.args)
        options = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        literals = "the arguments of a factory are literals, such as texts, numbers, True and None"
        raise Unservable(f"{where!r}: {literals}; allowed: {FORM}") from None
    return Call(ast.unparse(node.func), arguments, options)


def _usual_in(module: ModuleType) -> str:
    """Return the name of the app of a module that was named alone."""
    for name in USUAL:
        if hasattr(module, name):
            return name
    raise Unservable(f"{module.__name__} has neither {' nor '.join(USUAL)}; {_instead_in(module)}")


def _find_in(module: ModuleType, name: str) -> Any:
    try:
        return find(module, name.partition(":")[2])
    except AttributeError as missing:
        raise Unservable(f"{name}: no {missing.name!r} in it; {_instead_in(module)}") from None


def _made_by(name: str, factory: Any, call: Call) -> Any:
    """Return the app that a factory makes."""
    if not callable(factory):
        raise Unservable(f"{name} is {type_name(factory)}, and cannot be called to make an app")
    if _is_async(factory):
        raise Unservable(f"{name} is async, and a factory must be an ordinary function")
    if not _takes(factory, call) and not _wrong_with(factory):
        raise Unservable(f"{name} is an app, and no factory; write {name}")
    try:
        return factory(*call.arguments, **call.options)
    except (Exception, SystemExit) as error:
        raise CannotImport(f"make an app with {name}", error, __file__) from None


def _takes(factory: Any, call: Call) -> bool:
    """Tell whether what is called may take the arguments; True where it does not say."""
    try:
        signature = inspect.signature(factory)
    except Exception:  # some builtins do not say, and some objects raise when asked
        return True
    try:
        signature.bind(*call.arguments, **call.options)
    except TypeError:
        return False
    return True


def _checked(name: str, app: Any) -> App:
    """Return an app, after a look at what can be told of it without calling it."""
    wrong = _wrong_with(app)
    if wrong:
        hint = f"; a factory? write {name}()" if _may_be_factory(app) and not name.endswith(")") else ""
        raise Unservable(f"{name} {wrong}{hint}")
    return App(name, _kind_of(app), app)


def _wrong_with(app: Any) -> str:
    """Return what is wrong with `app`, for what follows its name; "": nothing that can be told."""
    wanted = f"WSGI calls an app with ({', '.join(CALLED_WITH)})"
    if not callable(app):
        what = "a module" if isinstance(app, ModuleType) else "None" if app is None else type_name(app)
        return f"is {what}, and cannot be called; {wanted}"
    if _is_asgi(app):
        return f"is async (ASGI), which an ASGI server runs, as uvicorn or hypercorn; {wanted}, and it may block"
    if isinstance(app, type) and not (hasattr(app, "__iter__") and accepts(app, *CALLED_WITH)):
        what = "its objects give no answer, for they have no __iter__" if accepts(app, *CALLED_WITH) else ""
        return f"is a class, {what or f'made with {_signature_of(app)}'}; {wanted}; is an object of it meant?"
    if not accepts(app, *CALLED_WITH) or (_may_be_factory(app) and not _looks_like_app(app)):
        return f"takes {_signature_of(app)}, and {wanted}"
    return ""


def _is_asgi(app: Any) -> bool:
    """Tell whether an app is called as ASGI has it: it is async, or takes (scope, receive, send)."""
    if _is_async(app):
        return True
    # Or it makes what is async when it is called, as in ASGI 2, or is a class of such.
    names = tuple(parameter.name for parameter in _parameters_of(app))
    makes = isinstance(app, type) and _is_async(inspect.getattr_static(app, "__call__", None))
    return names == ASGI or (names == ASGI[:1] and not accepts(app, *CALLED_WITH)) or makes


def _is_async(value: Any) -> bool:
    while hasattr(value, "func") and type_name(value) == "partial":
        value = value.func
    called = [value]
    if not isinstance(value, type) and not _is_function(value):
        called.append(inspect.getattr_static(type(value), "__call__", None))
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in called)


def _is_function(value: Any) -> bool:
    # Not `inspect.isroutine`, for which a partial is one, too, since Python 3.14.
    return inspect.isfunction(value) or inspect.ismethod(value) or inspect.isbuiltin(value)


def _parameters_of(value: Any) -> list[inspect.Parameter]:
    """Return what `value` takes, which is nothing where it does not say."""
    try:
        return list(inspect.signature(value, follow_wrapped=False).parameters.values())
    except Exception:  # some builtins do not say, and some objects raise when asked
        return []


def _signature_of(value: Any) -> str:
    return cut(f"({', '.join(map(str, _parameters_of(value)))})", LONGEST)


def _looks_like_app(value: Any) -> bool:
    """Tell whether the arguments of `value` are called as those of a WSGI app are."""
    first, second = [*(parameter.name.lower() for parameter in _parameters_of(value)), "", ""][:2]
    return "env" in first and second.startswith(("start", "sr"))


def _may_be_factory(value: Any) -> bool:
    """Tell whether a function can be called without arguments, and takes some that are no WSGI app's, or none."""
    named = all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in _parameters_of(value))
    return inspect.isfunction(value) and named and accepts(value)


def _kind_of(app: Any) -> str:
    """Return what an app is, for whoever wonders whether it is the one that was meant."""
    if isinstance(app, type):
        return f"class {app.__name__}"
    return "function" if _is_function(app) else f"{type_name(app)} of {type(app).__module__}"


def _instead_in(module: ModuleType) -> str:
    """Return what a module has that may have been meant."""
    apps = list(_apps_in(module))
    if not apps:
        return "nothing in it looks like a WSGI app"
    return f"it has {', '.join(apps)}; write {module.__name__}:{apps[0]}"


def _apps_in(module: ModuleType) -> Iterator[str]:
    """Give what in a module looks like an app, and like what makes one."""
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        own = getattr(value, "__module__", None) == module.__name__
        if (own or not (isinstance(value, type) or _is_function(value))) and _is_app(value):
            yield name
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and name.startswith(FACTORIES) and _may_be_factory(value) and not _is_async(value):
            yield f"{name}()"


def _is_app(value: Any) -> bool:
    try:
        return callable(value) and _looks_like_app(value) and not _wrong_with(value)
    except Exception:  # a proxy of what is not there yet, as web frameworks have them
        return False


@contextmanager
def closing_connections() -> Iterator[None]:
    """Be what a thread lives by that calls the app: when it ends, so do the connections that Django keeps for it.

    Django has one for each thread, with CONN_MAX_AGE for longer than a request, and nobody else closes it before the
    garbage collector finds it.
    """
    yield
    django = sys.modules.get("django.db")
    if django is not None:
        django.connections.close_all()

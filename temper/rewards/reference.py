"""A function as another process can find it: pickled by reference, with the files that must be run first."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.rewards.worker import is_async

Function = Callable[..., Any]

# Function -> what a worker runs before the first call, so that a large package's import has no deadline
PREPARE = {
    "temper.rewards.checkers:math_verify": "temper.rewards.checkers:import_math_verify",
    "temper.tasks.reasoning_gym:score": "temper.tasks.reasoning_gym:names",
    "temper.tasks.reasoning_gym:passed": "temper.tasks.reasoning_gym:names",
}


@dataclass(frozen=True)
class Reference:
    """How a worker gets a function.

    modules  (name, file) of what an import by name would not find there
    prepare  "module:function" to run once, before the first call; None: nothing
    """

    name: str
    blob: bytes
    modules: tuple[tuple[str, str], ...]
    asynchronous: bool
    prepare: str | None = None


def refer(function: Function) -> Reference:
    """UserError for what no other process can find: lambdas, nested functions, functions of an interactive session."""
    name, owner = name_of(function), _owner(function)
    qualified = getattr(owner, "__qualname__", "")
    if "<lambda>" in qualified or "<locals>" in qualified:
        raise UserError(
            f"reward {name!r} is a lambda or is defined inside another function, and rewards run in their own process: "
            "define it with def at the top level of a file"
        )
    try:
        blob = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise UserError(f"reward {name!r} cannot be sent to its own process: {' '.join(str(error).split())}")
    module = getattr(owner, "__module__", None)
    return Reference(name, blob, _modules(name, module), is_async(function), PREPARE.get(f"{module}:{qualified}"))


def name_of(function: Function) -> str:
    """What its column and metrics are called."""
    function = _unwrapped(function)
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _unwrapped(function: Function) -> Function:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _owner(function: Function) -> Any:
    """What pickle will look up by module and name: a function, or the class of an instance."""
    function = _unwrapped(function)
    if inspect.ismethod(function):
        return function.__func__
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function)


def _modules(name: str, module: str | None) -> tuple[tuple[str, str], ...]:
    """The module's file, where an import by its name would not lead to it."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module is None or (file is None and module != "__main__"):
        return ()  # built in
    if file is None:
        raise UserError(f"reward {name!r} is defined in an interactive session: put it into a file and import it")
    if module != "__main__" and _found(module) == Path(file).resolve():
        return ()
    return ((module, str(Path(file).resolve())),)


def _found(module: str) -> Path | None:
    """The file that importing `module` afresh would run."""
    loaded = sys.modules.pop(module)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    finally:
        sys.modules[module] = loaded
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None

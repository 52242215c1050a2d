"""What there is, found by walking the packages: a new file is in the contract as soon as it exists."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import temper.envs
import temper.methods
import temper.parts
import temper.recipes

SHARED = ("common", "imitation", "offline", "python_tool")  # modules of temper/recipes that hold no recipe


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Every module below a package."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.ispkg:
            yield importlib.import_module(found.name)


def stem(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def public_classes(package: ModuleType) -> dict[str, type]:
    """{module.Class: class} of those that are defined in the package."""
    return {
        f"{stem(m)}.{name}": c
        for m in modules(package)
        for name, c in vars(m).items()
        if inspect.isclass(c) and c.__module__ == m.__name__ and not name.startswith("_")
    }


def recipes() -> dict[str, Any]:
    """{name: function} of every file of temper/recipes."""
    files = [m for m in modules(temper.recipes) if stem(m) not in SHARED]
    return {stem(m).replace("_", "-"): getattr(m, stem(m), None) for m in files}


METHODS = {m.__name__.removeprefix("temper.methods."): m for m in modules(temper.methods)}
PARTS = public_classes(temper.parts)
ENVS = public_classes(temper.envs)
RECIPES = recipes()

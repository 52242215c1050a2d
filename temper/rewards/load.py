"""Reward functions by name: "FILE.py:function", "package.module:function", or one of the bundled."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from temper.errors import UserError, unknown
from temper.rewards.reference import Reference, name_of, refer
from temper.rewards.signatures import Signature
from temper.rewards.worker import import_file

BUNDLED = {
    "exact_match": "temper.rewards.checkers:exact_match",
    "number_match": "temper.rewards.checkers:number_match",
    "math_verify": "temper.rewards.checkers:math_verify",
    "think_format": "temper.rewards.checkers:think_format",
    "reasoning_gym": "temper.tasks.reasoning_gym:score",
    "reasoning_gym_pass": "temper.tasks.reasoning_gym:passed",
}
_PACKAGES = {  # bundled name -> (what it imports, how to install that)
    "math_verify": ("math_verify", "pip install 'temper-rl[math]'"),
    "reasoning_gym": ("reasoning_gym", "pip install --no-deps reasoning-gym"),
    "reasoning_gym_pass": ("reasoning_gym", "pip install --no-deps reasoning-gym"),
}


@dataclass(frozen=True)
class Reward:
    """A function with its name and signature (found from its parameter names where `style` is None).

    What the function's file imports at its top is imported before any deadline counts; what is imported inside the
    function counts towards its first call.
    """

    function: Callable[..., Any]
    name: str = ""
    style: str | None = None
    reference: Reference = field(init=False, repr=False)
    signature: Signature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or name_of(self.function))
        object.__setattr__(self, "reference", refer(self.function))
        object.__setattr__(self, "signature", Signature.of(self.function, self.style, self.name))


def reward_from(spec: str, style: str | None = None) -> Reward:
    """UserError names what is missing and what is close to it."""
    where, colon, name = spec.rpartition(":")
    if not colon:
        if spec not in BUNDLED:
            raise _unknown_bundled(spec)
        package, remedy = _PACKAGES.get(spec, ("temper", ""))
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the reward {spec} needs the package {package}, which is not installed: {remedy}")
        where, _, name = BUNDLED[spec].rpartition(":")
        return Reward(getattr(importlib.import_module(where), name), name=spec, style=style)
    module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    found = _get(module, name, where)
    return Reward(found, name="" if inspect.isroutine(found) else name, style=style)


def rewards_from(specs: Iterable[str]) -> list[Reward]:
    """`reward_from` each; functions of one name are called FILE.name. UserError for one that is given twice."""
    specs = list(specs)
    named = {spec: reward_from(spec) for spec in specs}
    twice = next((s for s in specs if specs.count(s) > 1), None)
    if twice:
        raise UserError(f"the reward {twice} is given twice: give it once, with a weight of 2")
    times = Counter(r.name for r in named.values())
    return [r if times[r.name] == 1 else replace(r, name=f"{_stem(s)}.{r.name}") for s, r in named.items()]


def _stem(spec: str) -> str:
    where = spec.rpartition(":")[0]
    return Path(where).stem if where.endswith(".py") else where


def _unknown_bundled(spec: str) -> UserError:
    if spec.endswith(".py"):
        return UserError(f"name the function in the file: {spec}:FUNCTION")
    error = unknown("reward", spec, BUNDLED)
    return UserError(f"{error}; a function of your own is FILE.py:FUNCTION")


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise _no_file(path)
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    try:
        return import_file(name, path)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path.name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")


def _no_file(path: Path) -> UserError:
    import difflib

    beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    return UserError(f"no file {path}{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")


def _from_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name} (a file is named with its ending: FILE.py:function)")
    except Exception as error:
        raise UserError(f"{name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")


def _get(module: Any, name: str, where: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if inspect.isclass(found):
        raise UserError(f"{name!r} in {where} is a class: name an instance of it")
    if callable(found):
        return found  # type: ignore[no-any-return]
    if found is not None:
        raise UserError(f"{name!r} in {where} is a {type(found).__name__}, not a function")
    functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    raise unknown(f"function in {where}", name, functions)

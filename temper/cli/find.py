"""Recipes by name, or by file: NAME, FILE.py, FILE.py:function."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.cli import source
from temper.errors import UserError, unknown
from temper.recipe import Option


@dataclass(frozen=True)
class Target:
    """A recipe before it is imported."""

    text: str
    path: Path
    function: str
    bundled: bool

    def options(self) -> list[Option] | None:
        """As far as its source tells; None where only an import could."""
        try:
            return source.options(self.path, self.function)
        except (LookupError, OSError):
            return None

    def load(self) -> Callable[..., Any]:
        """Import it."""
        if self.bundled:
            found: Callable[..., Any] = getattr(
                importlib.import_module(f"temper.recipes.{self.function}"), self.function
            )
            return found
        module = import_file(self.path)
        recipe = getattr(module, self.function, None)
        if not callable(recipe):
            functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise unknown(f"function in {self.path.name}", self.function, functions)
        return recipe  # type: ignore[no-any-return]


def target(text: str) -> Target:
    """UserError names what is close when there is no such recipe."""
    file, _, function = text.partition(":")
    if file.endswith(".py") or "/" in file:
        return _in_file(text, Path(file).expanduser(), function)
    known = source.recipes()
    name = text.replace("_", "-")
    if name not in known:
        if Path(text + ".py").is_file():
            raise UserError(f"unknown recipe {text!r}; did you mean the file {text}.py?")
        raise unknown("recipe", text, known)
    return Target(name, known[name].file, known[name].file.stem, bundled=True)


def _in_file(text: str, path: Path, function: str) -> Target:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
        raise UserError(f"no file {path}{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")
    try:
        functions = source.read(path.resolve()).functions
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not Python: {error}")
    return Target(text, path.resolve(), function or _only(path, functions), bundled=False)


def _only(path: Path, functions: dict[str, Any]) -> str:
    """The function that a file means when none is named: the one named like it, or the only one that says Run."""
    public = [n for n in functions if not n.startswith("_")]
    if path.stem in public:
        return path.stem
    returning = [n for n in public if "Run" in _returns(functions[n])]
    for candidates in (returning, public):
        if len(candidates) == 1:
            return candidates[0]
    if not public:
        raise UserError(f"{path} has no function that could be a recipe")
    raise UserError(f"which recipe? {' or '.join(f'{path}:{n}' for n in returning or public)}")


def _returns(function: Any) -> str:
    import ast

    return ast.unparse(function.returns) if function.returns is not None else ""


def import_file(path: Path) -> Any:
    """The module of a file outside any package, under the name that reward functions of the same file have."""
    from temper.rewards import worker

    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    sys.path.insert(0, str(path.parent))
    try:
        return worker.import_file(name, path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        line = line_of(error, path)
        raise UserError(f"{path.name}{line} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")


def inside_temper(error: BaseException) -> bool:
    """Whether it was raised by temper's own code, which says in one sentence what is wrong with a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(source.PACKAGE)


def line_of(error: BaseException, path: Path) -> str:
    """ " (line N)": the last line of `path` that the error passed through."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    return found

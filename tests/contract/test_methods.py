"""Every method file says what it is, stays short and has a recipe; nothing below it knows its name."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import temper
from temper.catalogue import lines_of_code
from temper.policy import Policy
from temper.testing import check_method
from tests.contract.discover import METHODS, RECIPES, stem

PACKAGE = Path(temper.__file__).parent
CORE = [PACKAGE / f"{n}.py" for n in ("carrier", "loop", "run", "objective", "policy", "state", "bridge")]
FIELDS = ("Paper:", "Hook:", "Claim:", "Left out:")


def function(m: ModuleType) -> Any:
    return getattr(m, stem(m), None)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    m = METHODS[name]
    doc = m.__doc__ or ""
    missing = [word for word in FIELDS if not re.search(rf"(^|\s){word} ?\S", doc)]
    assert not missing, f"the docstring of {name} lacks {', '.join(missing)}"
    assert doc.splitlines()[0] == m.TITLE
    assert stem(m).replace("_", "-") == m.SLUG and name.split(".")[0] == m.FAMILY and m.HOOKS
    assert isinstance(m.PAPER, str) and m.RECIPE in RECIPES, f"{name} names the recipe {m.RECIPE!r}, which is not there"
    assert next(iter(inspect.signature(function(m)).parameters)) == "policy"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_short(name: str) -> None:
    path = Path(str(METHODS[name].__file__))
    assert lines_of_code(path) <= 80


def test_the_core_names_no_method() -> None:
    files = [*CORE, *(PACKAGE / "backends").rglob("*.py")]
    assert len(files) > len(CORE) and all(f.is_file() for f in files)
    words = {w for m in METHODS.values() for w in (m.SLUG, stem(m), m.TITLE)}
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(words)))})(?![\w-])")
    found = [f"{f.name}: {ast.dump(n)[:80]}" for f in files for n in named(f, pattern)]
    assert not found, found


def named(path: Path, pattern: re.Pattern[str]) -> list[ast.AST]:
    """Identifiers and strings of the code (not of docstrings, which may say what a formula is known from)."""
    tree = ast.parse(path.read_text())
    docs = {n.body[0].value for n in ast.walk(tree) if _has_docstring(n)}  # type: ignore[attr-defined]
    return [n for n in ast.walk(tree) if n not in docs and pattern.search(_text(n))]


def _has_docstring(n: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(n, kinds) and ast.get_docstring(n) is not None


def _text(n: ast.AST) -> str:
    if isinstance(n, ast.Constant):
        return str(n.value)
    return next(
        (str(v) for f in ("id", "attr", "name", "module", "arg") if isinstance(v := getattr(n, f, None), str)), ""
    )


def test_a_method_of_ones_own_is_checked_like_ours(exact_model: str, tmp_path: Path) -> None:
    """What other people check their methods with, on one of ours."""

    def make(policy: Policy) -> Any:
        return function(METHODS["objectives.gdpo"])(policy, weights={"a": 1.0, "b": 0.5})

    history = check_method(make, tmp_path, model=exact_model)
    assert len(history) == 3 and history[0]["rewards/a/mean"] is not None

"""What recipes, methods and parts say about themselves, read from their source: nothing is imported or run."""

from __future__ import annotations

import ast
import collections.abc
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from temper.recipe import REQUIRED, Option, helps, summary

PACKAGE = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
KINDS: dict[str, Any] = {
    **{n: getattr(typing, n) for n in ("Any", "Literal", "Optional", "Union", "Tuple", "List", "Dict")},
    **{n: getattr(collections.abc, n) for n in ("Mapping", "Sequence", "Callable")},
    **{k.__name__: k for k in (int, float, str, bool, tuple, list, dict, Path)},
}


@dataclass(frozen=True)
class Module:
    """A parsed file."""

    path: Path
    tree: ast.Module

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def functions(self) -> dict[str, Function]:
        return {n.name: n for n in self.tree.body if isinstance(n, Function)}

    @property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef)}

    @property
    def constants(self) -> dict[str, Any]:
        """Names at the top that are bound to literals."""
        found = {}
        for node in self.tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                try:
                    found[target.id] = ast.literal_eval(value)
                except ValueError:
                    continue
        return found

    def meaning(self, name: str) -> ast.expr | None:
        """What a name at the top stands for, here or in the module of temper that it comes from."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
                return node.value
        where = self.imported(name)
        return read(where[0]).meaning(where[1]) if where is not None and where[0].is_file() else None

    def imported(self, name: str) -> tuple[Path, str] | None:
        """(file, name there) of a name that comes from another module of temper."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("temper."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py"), alias.name
        return None


@lru_cache(maxsize=512)
def read(path: Path) -> Module:
    """Raises SyntaxError for a file that is no Python."""
    return Module(path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def options(path: Path, name: str) -> list[Option]:
    """Options of a recipe with those of the one that it extends. LookupError when its source does not tell them."""
    module = read(path)
    function = module.functions[name]
    own = list(parameters(module, function))
    base = _base(module, function)
    if base is None:
        return own
    parent, without = base
    where = module.imported(parent) or ((path, parent) if parent in module.functions else None)
    if where is None:
        raise LookupError(f"{parent} is not defined in the source")
    inherited = options(*where)
    texts = {o.name: o.help for o in inherited}
    own = [o if o.help else Option(o.name, o.type, o.default, texts.get(o.name, ""), o.recipe) for o in own]
    hidden = {o.name for o in own} | set(without)
    return own + [o for o in inherited if o.name not in hidden]


def parameters(module: Module, function: Function) -> Iterator[Option]:
    """Its own parameters."""
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(a.defaults)) + [*a.defaults]
    pairs = [*zip(plain, defaults), *zip(a.kwonlyargs, a.kw_defaults)]
    texts = helps(ast.get_docstring(function), [arg.arg for arg, _ in pairs])
    for arg, default in pairs:
        said = kind(arg.annotation, module), _default(module, default), texts.get(arg.arg, "")
        yield Option(arg.arg, *said, function.name)


def fields(module: Module, node: ast.ClassDef) -> list[Option]:
    """The fields of a dataclass."""
    annotated = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    annotated = [n for n in annotated if not (isinstance(n.value, ast.Call) and "init=False" in ast.unparse(n.value))]
    names = [n.target.id for n in annotated if isinstance(n.target, ast.Name)]
    texts = helps(ast.get_docstring(node), names)
    return [
        Option(name, kind(n.annotation, module), _default(module, n.value), texts.get(name, ""), node.name)
        for name, n in zip(names, annotated)
    ]


def declared(module: Module, node: ast.ClassDef, what: str) -> list[str] | None:
    """The columns that a class, or one of the same file that it is made from, names as `reads` or `writes`."""
    own = _declared(node, what)
    bases = [module.classes[b] for b in map(ast.unparse, node.bases) if b in module.classes]
    return own if own is not None or not bases else declared(module, bases[0], what)


def uses(module: Module) -> list[str]:
    """The parts that a file imports, by name."""
    known = parts()
    found = [n for n in ast.walk(module.tree) if isinstance(n, ast.ImportFrom)]
    names = [a.name for n in found if (n.module or "").startswith(("temper.parts", "temper.envs")) for a in n.names]
    return sorted(n for n in names if n in known)


def _declared(node: ast.ClassDef, what: str) -> list[str] | None:
    for n in node.body:
        target = n.targets[0] if isinstance(n, ast.Assign) else getattr(n, "target", None)
        value = getattr(n, "value", None)
        if isinstance(target, ast.Name) and target.id == what and isinstance(value, ast.expr):
            return _items(value)
        if isinstance(n, ast.FunctionDef) and n.name == what:
            returned = [r.value for r in ast.walk(n) if isinstance(r, ast.Return) and r.value is not None]
            return list(dict.fromkeys(item for r in returned for item in _items(r)))
    return None


def _items(value: ast.expr) -> list[str]:
    """The members of a tuple; a field of the class by its name alone."""
    members = value.elts if isinstance(value, ast.Tuple) else [value]
    return [ast.unparse(m).replace("self.", "") for m in members]


def kind(annotation: ast.expr | None, module: Module | None = None) -> Any:
    """The type that an annotation names, also by a name for it in Temper, or a stand-in with its text."""
    if annotation is None:
        return str
    if module is not None:
        annotation = _meant(annotation, module)
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    try:
        return eval(compile(str(text), "annotation", "eval"), {"__builtins__": {}}, dict(KINDS))
    except Exception:
        return type(str(text), (), {})


def _meant(annotation: ast.expr, module: Module) -> ast.expr:
    """The annotation, or the sides of its union, by what a name for a type stands for."""
    if isinstance(annotation, ast.BinOp):
        return ast.BinOp(_meant(annotation.left, module), annotation.op, _meant(annotation.right, module))
    if isinstance(annotation, ast.Name) and annotation.id not in KINDS:
        return module.meaning(annotation.id) or annotation
    return annotation


def _default(module: Module, node: ast.expr | None) -> Any:
    """The value where it is a literal or a name for one, else its source."""
    if node is None:
        return REQUIRED
    if isinstance(node, ast.Name):
        return module.constants.get(node.id, Source(node.id))
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Source(ast.unparse(node))


class Source(str):
    """An expression that stands for itself."""


def _base(module: Module, function: Function) -> tuple[str, list[str]] | None:
    """(name, left out) of `@extends(name, without=[…])`. LookupError when the source does not tell them."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "extends":
            said = [_default(module, k.value) for k in decorator.keywords if k.arg == "without"]
            without = said[0] if said else ()
            if isinstance(without, str):
                raise LookupError(f"what {function.name} leaves out is not written down: {without}")
            return ast.unparse(decorator.args[0]).split(".")[-1], list(without)
    return None


@dataclass(frozen=True)
class Entry:
    """One line of `temper list`."""

    name: str
    title: str
    file: Path
    more: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {"name": self.name, "title": self.title, **self.more, "file": shown(self.file)}


def recipes() -> dict[str, Entry]:
    """Every file of temper/recipes with a function of its own name."""
    found = {}
    for path in sorted((PACKAGE / "recipes").glob("*.py")):
        function = read(path).functions.get(path.stem)
        if function is not None:
            name = path.stem.replace("_", "-")
            found[name] = Entry(name, summary(ast.get_docstring(function)), path)
    return found


def methods() -> dict[str, Entry]:
    """Every method file, by slug."""
    found = {}
    for path in sorted((PACKAGE / "methods").rglob("*.py")):
        c = read(path).constants
        if "SLUG" in c:
            more = {"slug": c["SLUG"], "paper": c.get("PAPER", ""), "family": c.get("FAMILY", ""),
                    "hooks": list(c.get("HOOKS", ())), "recipe": c.get("RECIPE", "")}  # fmt: skip
            found[c["SLUG"]] = Entry(c["SLUG"], c.get("TITLE", c["SLUG"]), path, more)
    return found


def parts() -> dict[str, Entry]:
    """Every public class of temper/parts and temper/envs, by name."""
    found = {}
    for folder in ("parts", "envs"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            for name, node in read(path).classes.items():
                if name.startswith("_"):
                    continue
                more = {"kind": path.stem if folder == "parts" else "environment"}
                found[name] = Entry(name, summary(ast.get_docstring(node)), path, more)
    return found


def shown(path: Path) -> str:
    """A path of the package as temper/…; any other as it is."""
    return str(path.relative_to(PACKAGE.parent)) if path.is_relative_to(PACKAGE) else str(path)

"""`python -m temper.catalogue`: writes docs/catalogue.md from the source of methods, parts, recipes, environments."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from temper.cli import source
from temper.recipe import summary

ROOT = source.PACKAGE.parent
TARGET = ROOT / "docs" / "catalogue.md"
FIELDS = ("Paper", "Hook", "Claim", "Left out", "Reconstructed")
HEAD = """# Catalogue

Written by `python -m temper.catalogue` from the files themselves; a test compares the two. Lines are lines of code:
without blank lines, comments and docstrings. `temper show NAME` says more about each entry.
"""


def page() -> str:
    """The whole file."""
    return "\n".join([HEAD, *methods(), *recipes(), *parts(), *environments()]).rstrip() + "\n"


def methods() -> Iterator[str]:
    """Every method, by family; before them an index by hook."""
    found = list(source.methods().values())
    yield f"## Methods ({len(found)})\n"
    hooks = sorted({h for e in found for h in e.more["hooks"]})
    for hook in hooks:
        mine = [f"[{e.title}](#{anchor(heading(e))})" for e in found if hook in e.more["hooks"]]
        yield f"- **{hook}**: {', '.join(sorted(mine, key=str.lower))}"
    for family in sorted({e.more["family"] for e in found}):
        yield f"\n### {family}\n"
        for e in sorted((e for e in found if e.more["family"] == family), key=lambda e: e.title.lower()):
            yield from method(e)


def method(e: source.Entry) -> Iterator[str]:
    said = fields(source.read(e.file).doc)
    yield f"#### {heading(e)}\n"
    yield f"`temper run {e.more['recipe']}` · {link(e.file)} · {lines_of_code(e.file)} lines\n"
    if e.more["paper"]:
        yield f"- Paper: {said['Paper']}"
    yield from (f"- {'Changes' if k == 'Hook' else k}: {said[k]}" for k in ("Hook", "Claim") if k in said)
    yield from (f"- {k}: {said[k]}" for k in FIELDS[3:] if k in said and not said[k].startswith("nothing."))
    yield ""


def heading(e: source.Entry) -> str:
    return f"{e.title} · {e.name}"


def fields(doc: str) -> dict[str, str]:
    """{"Paper": …, "Hook": …} of a method file's docstring; a field goes on until the next one."""
    pieces = re.split(rf"\s*\b({'|'.join(FIELDS)}): ", doc)
    return {k: " ".join(v.split()) for k, v in zip(pieces[1::2], pieces[2::2])}


def recipes() -> Iterator[str]:
    found = source.recipes()
    yield f"## Recipes ({len(found)})\n"
    yield from (f"- `temper run {name}`: {e.title}" for name, e in sorted(found.items()))
    yield ""


def parts() -> Iterator[str]:
    """The public classes of temper/parts, file by file."""
    files = list(modules("parts"))
    yield f"## Parts ({sum(len(classes(m)) for m in files)})\n"
    for m in files:
        if classes(m):
            yield f"### {m.path.stem}\n\n{summary(m.doc)} ({link(m.path)})\n"
            yield from entries(m)


def environments() -> Iterator[str]:
    files = list(modules("envs"))
    yield f"## Environments ({sum(len(classes(m)) for m in files)})\n"
    for m in files:
        yield from entries(m, gap=False)


def entries(m: source.Module, gap: bool = True) -> Iterator[str]:
    yield from (f"- **{name}**: {summary(ast.get_docstring(node))}" for name, node in classes(m).items())
    if gap:
        yield ""


def modules(folder: str) -> Iterator[source.Module]:
    return (source.read(p) for p in sorted((source.PACKAGE / folder).rglob("*.py")))


def classes(m: source.Module) -> dict[str, ast.ClassDef]:
    return {n: c for n, c in m.classes.items() if not n.startswith("_")}


def lines_of_code(path: Path) -> int:
    """Without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    skipped = {k for d in docstrings(ast.parse(text)) for k in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    kept = (t for k, t in enumerate(text.splitlines(), start=1) if k not in skipped)
    return sum(bool(t.strip()) and not t.lstrip().startswith("#") for t in kept)


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for n in ast.walk(tree):
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and n.body:
            first = n.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.value


def anchor(title: str) -> str:
    """As GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def link(path: Path) -> str:
    where = path.relative_to(ROOT)
    return f"[{where}](../{where})"


def main(argv: Iterable[str]) -> None:
    """Write the file (or another one that is named)."""
    target = Path(next(iter(argv), TARGET))
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])

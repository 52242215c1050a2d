"""What the documents say is so: generated pages are current, names and links exist, metrics are documented."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import temper
from temper import catalogue
from temper.loop import train
from temper.recipes.ppo import ppo
from temper.testing import toy_tasks

ROOT = Path(temper.__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_the_catalogue_is_current() -> None:
    committed = catalogue.TARGET.read_text(encoding="utf-8")
    assert committed == catalogue.page(), "docs/catalogue.md is out of date: python -m temper.catalogue writes it"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_anchors_exist(page: Path) -> None:
    text = page.read_text()
    headings = [catalogue.anchor(h) for h in re.findall(r"^#+ (.+)$", text, re.M)]
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(headings)
    if page == catalogue.TARGET:
        assert len(headings) == len(set(headings))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_names_in_code_exist(page: Path) -> None:
    """`temper.module.name` and `folder/file.py` in backticks."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    words = re.findall(r"`([^`\n]+)`", prose)
    files = [w for w in words if re.fullmatch(r"(temper|tests|docs|examples|studies)/[\w/.-]*", w)]
    names = [w for w in words if re.fullmatch(r"temper(\.\w+)+", w)]
    assert not [f for f in files if not (ROOT / f).exists() and "slug" not in f]
    assert not [n for n in names if not resolves(n)]


def resolves(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
        return True
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_how_to_pages_show_the_examples_as_they_are(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (80 if path.stem == "my_two_roles" else 60)
    shown = [p.name for p in PAGES if f"```python\n{path.read_text()}```" in p.read_text()]
    assert len(shown) == 1, f"{path.name} must be on one how-to page, as it is"


def test_every_file_and_metric_of_a_run_is_documented(toy_model: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": t.prompt, "answer": t.answer}) + "\n" for t in toy_tasks()))
    run = ppo(
        model=toy_model, data=str(rows), reward=("exact_match", "think_format"), steps=1, groups=2, attempts=2,
        max_tokens=4, eval_tasks=1,
    )  # fmt: skip
    run.out = tmp_path / "out"
    asyncio.run(train(run))
    page = (ROOT / "docs" / "run-directory.md").read_text()
    documented = [as_pattern(w) for w in re.findall(r"`([^`\n]+)`", page)]
    keys = {k for line in (run.out / "metrics.jsonl").read_text().splitlines() for k in json.loads(line)}
    assert not sorted(k for k in keys if not known(k, documented))
    for name in ("run.json", "summary.json"):
        found = json.loads((run.out / name).read_text())
        assert not sorted(k for k in found if not known(k, documented))
    files = {p.relative_to(run.out).parts[0] for p in run.out.rglob("*")}
    assert all(f in page for f in files)


def as_pattern(word: str) -> re.Pattern[str]:
    """`rewards/NAME/mean`: capitals stand for any name."""
    pieces = re.split(r"(\b[A-Z]{3,}\b)", word)
    return re.compile("".join("[^/]+" if p.isupper() and len(p) > 2 else re.escape(p) for p in pieces))


def known(key: str, documented: list[Any]) -> bool:
    return any(p.fullmatch(key) for p in documented)

"""Put a run's data, the style and the script into one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from temper.page.read import Limits, read_run

SCRIPTS = (
    *("base", "chart", "summary", "curves", "distributions"),
    *("shade", "episodes", "turns", "lanes", "tokens", "tree", "attempts", "rollouts"),
    *("run", "diagnosis", "theme", "main"),
)
"""The page's script, in order: each file is a chapter, and they are joined into one."""

_SLOT = re.compile(r"<!--temper:(\w+)-->")


def write_report(run_dir: Path, limits: Limits | None = None) -> Path:
    """Write `report.html` into `run_dir` from the files there, and return its path.

    The file is replaced in one move, so a reader never meets half a page.
    """
    run_dir = Path(run_dir)
    path = run_dir / "report.html"
    draft = run_dir / ".report.html.part"
    # A lone surrogate (half a character, from a token cut inside one) is no UTF-8; in JSON its escape is exact.
    draft.write_bytes(render(read_run(run_dir, limits)).encode("utf-8", "backslashreplace"))
    os.replace(draft, path)
    return path


def render(data: dict[str, Any]) -> str:
    """The page as a string. Recorded steps are separate blocks, parsed only when they are looked at."""
    episodes = data["episodes"]
    index = [{key: value for key, value in snapshot.items() if key != "groups"} for snapshot in episodes]
    blocks = {"data": {**data, "episodes": index}}
    blocks |= {f"episodes-{i}": snapshot["groups"] for i, snapshot in enumerate(episodes)}
    recipe = str(data["run"].get("recipe") or data["name"])
    return page_of(html.escape(f"{recipe} · Temper report"), blocks, SCRIPTS)


def page_of(title: str, blocks: Mapping[str, Any], scripts: Sequence[str]) -> str:
    """One HTML file: `title` (HTML), JSON blocks by id, and chapters of the script by name."""
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(f"{name}.js") for name in scripts) + "\n})();"
    slots = {
        "title": title,
        "policy": _policy(script),
        "style": f"<style>{_asset('page.css')}</style>",
        "data": "\n".join(_block(name, value) for name, value in blocks.items()),
        "script": f"<script>{script}</script>",
    }
    return _SLOT.sub(lambda slot: slots[slot[1]], _asset("page.html"))


def _asset(name: str) -> str:
    """A file of the page's own, as text."""
    return (files("temper.page.assets") / name).read_text(encoding="utf-8")


def _block(identity: str, value: Any) -> str:
    """A JSON data block. No `<` survives in it, so nothing that a model writes can end the block or open a tag."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>'


def _policy(script: str) -> str:
    """A content policy that allows this script and inline style, and no network at all."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    rules = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'

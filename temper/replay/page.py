"""replay.html and replay.json: one page that loads nothing, in the report's style."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.page.write import page_of

SCRIPTS = ("base", "theme", "replay")


def write(folder: Path, found: dict[str, Any]) -> tuple[Path, Path]:
    """Both files into `folder`, each in one move; returns their paths (page, data)."""
    page, data = folder / "replay.html", folder / "replay.json"
    title = html.escape(f"{found.get('run', 'run')}, step {found['step']} · Temper replay")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _move(page, page_of(title, {"data": found}, SCRIPTS).encode("utf-8", "backslashreplace"))
        _move(data, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --out")
    return page, data


def _move(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)

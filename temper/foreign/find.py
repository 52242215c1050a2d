"""Somebody else's object by name: FILE.py:name or package.module:name."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.rewards.worker import import_file


def found(spec: str) -> Any:
    """UserError says what is missing."""
    where, colon, name = spec.rpartition(":")
    if not colon:
        raise UserError(f"{spec!r} must be FILE.py:NAME or package.module:NAME")
    path = Path(where).expanduser().resolve()
    try:
        if where.endswith(".py"):
            module = import_file(f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}", path)
        else:
            module = importlib.import_module(where)
    except FileNotFoundError:
        raise UserError(f"no file {where}")
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name} (a file is named with its ending: FILE.py:NAME)")
    except (Exception, SystemExit) as error:
        raise UserError(f"{where} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")
    if not hasattr(module, name):
        raise UserError(f"{where} has no {name}")
    return getattr(module, name)

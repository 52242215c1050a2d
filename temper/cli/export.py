"""`temper export` and `temper report`: what can be made of a run directory afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

from temper.errors import UserError


def export(run: Path, folder: Path, *, merge: bool = False) -> int:
    """A model out of a run, as a Hugging Face directory.

    run     a run directory (its latest checkpoint), a checkpoint, or a model directory
    folder  where to; it must be new or empty
    merge   add the adapter's weights to its base model, and write that
    """
    model = model_of(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another directory")
    adapter = (model / "adapter_config.json").exists()
    if merge and not adapter:
        raise UserError(f"{model} is not an adapter: there is nothing to merge; leave --merge out")
    try:
        if merge:
            from temper.models.load import merge_adapter

            merge_adapter(str(model), folder)
        else:
            shutil.copytree(model, folder, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}")
    kind = "adapter" if adapter and not merge else "model"
    print(f"{kind} of {model} written to {folder}")
    return 0


def report(run: Path) -> int:
    """Write a run's report.html again.

    run  a run directory
    """
    from temper.page import write_report

    if not run.is_dir():
        raise UserError(f"there is no directory {run}")
    if not any((run / name).exists() for name in ("run.json", "metrics.jsonl")):
        raise UserError(f"{run} is no run directory: it has neither run.json nor metrics.jsonl")
    print(write_report(run))
    return 0


def model_of(path: Path) -> Path:
    """The model directory that is meant: itself, a checkpoint's, or that of a run's latest checkpoint."""
    if not path.is_dir():
        raise UserError(f"there is no directory {path}")
    last_phase = sorted(path.glob("*/checkpoints/latest"))[-1:]
    for place in (path, path / "model", path / "checkpoints" / "latest" / "model", *(p / "model" for p in last_phase)):
        if (place / "config.json").exists() or (place / "adapter_config.json").exists():
            return place.resolve() if place.parent.is_symlink() else place
    if (path / "run.json").exists():
        raise UserError(f"the run in {path} has no checkpoint yet")
    raise UserError(f"{path} is neither a run, nor a checkpoint, nor a model directory")

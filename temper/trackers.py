"""Metrics for other viewers, beside metrics.jsonl: TensorBoard files, and Weights & Biases (offline by default).

Each takes a step's record as it was written; only its numbers are passed on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from temper.errors import UserError, unknown


class Tracker(Protocol):
    def log(self, step: int, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `<run>/tensorboard`: view with `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tracking with TensorBoard needs its package: pip install 'temper-rl[tensorboard]'")
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        for name, value in numbers(record).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A Weights & Biases run in `<run>/wandb`; WANDB_MODE is "offline" unless the environment sets it."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise UserError("tracking with W&B needs its package: pip install 'temper-rl[wandb]'")
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True)
        self.run = wandb.init(
            project="temper", name=folder.name, dir=str(folder), config=dict(run), mode=mode, settings=settings
        )

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        self.run.log(numbers(record), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


def tracker(name: str) -> Callable[[Path, Mapping[str, Any]], Tracker]:
    """The tracker of that name; UserError names those that exist."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    return TRACKERS[name]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's plain numbers (no step, no histograms, nothing that is not a number)."""
    return {
        k: float(v)
        for k, v in record.items()
        if k != "step" and isinstance(v, (int, float)) and not isinstance(v, bool) and v == v
    }

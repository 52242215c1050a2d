"""Whole steps on disk: the batch that was trained on, and the weights before that. Safetensors and JSON, no code.

recorded/step_000010/batch.safetensors   tables and columns of numbers
                     batch.json          the other columns, names and levels of all
                     weights.safetensors trained weights before the update: POLICY/NAME, and terms' own: POLICY/own/NAME
                     before.json         optimiser steps so far and the memory of terms, both before the update
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from temper import state
from temper.carrier import Batch, Structure
from temper.columns import Column, Level, anything
from temper.errors import UserError
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run

FOLDER, CHECKPOINTS = "recorded", "checkpoints"
TABLES = ("ids", "start", "parent", "sampled", "member", "group")


def steps_of(text: str) -> tuple[int, ...] | str:
    """What --record-steps means: (10, 20) of "10,20", or "checkpoints". UserError for anything else."""
    if text.strip() == CHECKPOINTS:
        return CHECKPOINTS
    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise UserError(f"--record-steps takes step numbers such as 10,20, or checkpoints; got {text!r}")
    return tuple(map(int, parts))


def wanted(run: Run, step: int) -> bool:
    """Whether step number `step` (from 1) is to be recorded: it is named, or it follows a checkpoint."""
    if run.out is None or not run.record:
        return False
    if run.record == CHECKPOINTS:
        return bool(run.save_every) and step > 1 and (step - 1) % run.save_every == 0
    return step in run.record


def save_before(run: Run, step: int) -> None:
    """The weights that step number `step` starts from."""
    tensors: dict[str, Tensor] = {}
    for update in run.updates:
        policy, learner = update.policy, update.policy.learner
        tensors |= {f"{policy.name}/{n}": w.detach().cpu().contiguous() for n, w in learner.weights().items()}
        own = getattr(learner, "own", None)
        tensors |= {f"{policy.name}/own/{n}": w.cpu() for n, w in (own.state_dict() if own is not None else {}).items()}
    memory = {name: part.state_dict() for name, part in state.parts(run) if name.startswith("term/")}
    steps = {u.policy.name: int(getattr(u.policy.learner, "step", 0)) for u in run.updates}
    with _place(run, step) as folder:
        save_file(_apart(tensors), folder / "weights.safetensors")
        _write(folder / "before.json", {"optimiser_steps": steps, "memory": memory})


def save_batch(run: Run, step: int, b: Batch) -> None:
    """The batch of step number `step`, as it was when it was trained on."""
    s = b.structure
    tensors = {f"structure/{t}": getattr(s, t) for t in TABLES}
    columns: list[dict[str, Any]] = []
    for c in b.columns:
        row = {"name": c.name, "level": int(c.level), "dtype": c.dtype, "doc": c.doc}
        if c.dtype == anything:
            row["values"] = _plain(b[c])
        else:
            tensors[f"column/{c.name}"] = b[c]
        columns.append(row)
    with _place(run, step) as folder:
        save_file(_apart(tensors), folder / "batch.safetensors")
        _write(folder / "batch.json", {"step": step, "groups": s.groups, "columns": columns})


@dataclass(frozen=True)
class Recorded:
    """One step, read back.

    weights  {policy: {name: tensor}} from before the update (of a checkpoint, the policy is ""); own: terms' modules
    """

    step: int
    batch: Batch
    weights: Mapping[str, Mapping[str, Tensor]]
    own: Mapping[str, Mapping[str, Tensor]]
    optimiser_steps: Mapping[str, int]
    memory: Mapping[str, Any]


def steps_in(folder: Path) -> list[int]:
    """The steps of a run directory that can be replayed."""
    return sorted(int(p.parent.name.partition("_")[2]) for p in (folder / FOLDER).glob("step_*/batch.json"))


def read(folder: Path, step: int) -> Recorded:
    """Step `step` of the run in `folder`. UserError says what is there instead, or what is gone."""
    place = folder / FOLDER / f"step_{step:06d}"
    known = steps_in(folder)
    if step not in known:
        there = f"recorded are {', '.join(map(str, known))}" if known else "it has none; run with --record-steps"
        raise UserError(f"step {step} of {folder} was not recorded: {there}")
    try:
        b, names = _batch(place)
        weights, own = _weights(folder, place, step)
        before = place / "before.json"
        told = json.loads(before.read_text()) if before.exists() else {}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{place} is damaged ({str(error).splitlines()[0]}): replay another step")
    return Recorded(names, b, weights, own, told.get("optimiser_steps", {}), told.get("memory", {}))


def _batch(place: Path) -> tuple[Batch, int]:
    told = json.loads((place / "batch.json").read_text(encoding="utf-8"))
    tensors = load_file(place / "batch.safetensors")
    columns = {}
    for c in told["columns"]:
        column = Column(c["name"], Level(c["level"]), c["dtype"], c["doc"])
        values = _again(c["values"]) if c["dtype"] == anything else tensors[f"column/{c['name']}"]
        columns[c["name"]] = (column, values)
    tables = {t: tensors[f"structure/{t}"] for t in TABLES}
    return Batch(Structure(**tables, groups=told["groups"]), columns), int(told["step"])


def _weights(folder: Path, place: Path, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """Those beside the batch; where they were deleted, those of the checkpoint before, as far as it has them."""
    found: tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]] = {}, {}
    if (place / "weights.safetensors").exists():
        for name, w in load_file(place / "weights.safetensors").items():
            policy, _, rest = name.partition("/")
            found[rest.startswith("own/")].setdefault(policy, {})[rest.removeprefix("own/")] = w
        return found
    saved = folder / "checkpoints" / f"step_{step - 1}" / "training.pt"
    if not saved.exists():
        raise UserError(
            f"the weights of step {step} are gone: {place / 'weights.safetensors'} was deleted, and there is no"
            f" checkpoint step_{step - 1}"
        )
    kept = torch.load(saved, weights_only=True, map_location="cpu")
    return {"": kept["weights"]}, {"": kept["own"]}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors wants every tensor to own its memory."""
    return {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}


def _plain(x: Any) -> Any:
    """As JSON can hold it, and `_again` gives it back: tasks, tensors and tuples are marked."""
    if isinstance(x, Task):
        return {"__task__": _plain({**asdict(x), "info": dict(x.info)})}
    if isinstance(x, tuple):
        return {"__tuple__": [_plain(v) for v in x]}
    if isinstance(x, Tensor):
        return {"__tensor__": x.tolist(), "dtype": str(x.dtype).removeprefix("torch.")}
    if isinstance(x, list):
        return [_plain(v) for v in x]
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    return x if x is None or isinstance(x, (str, int, float, bool)) else str(x)


def _again(x: Any) -> Any:
    if isinstance(x, dict):
        if "__task__" in x:
            return Task(**_again(x["__task__"]))
        if "__tensor__" in x:
            return torch.tensor(x["__tensor__"], dtype=getattr(torch, x["dtype"]))
        return tuple(_again(v) for v in x["__tuple__"]) if "__tuple__" in x else {k: _again(v) for k, v in x.items()}
    return [_again(v) for v in x] if isinstance(x, list) else x


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, default=_number), encoding="utf-8", errors="backslashreplace")


def _number(x: Any) -> Any:
    return x.tolist() if isinstance(x, Tensor) else str(x)


@contextlib.contextmanager
def _place(run: Run, step: int) -> Iterator[Path]:
    folder = Path(str(run.out)) / FOLDER / f"step_{step:06d}"
    try:
        os.makedirs(folder, exist_ok=True)
        yield folder
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot record step {step} in {folder} ({error}): free some space and --resume")

"""All state of a run is one tree: saved whole, or not at all.

checkpoints/step_20/model/            the first role's policy, Hugging Face layout
checkpoints/step_20/training.pt       its optimiser and exact weights
checkpoints/step_20/policies/<name>/  the same for every other policy that has changed
checkpoints/step_20/state.pt          step, curriculum, stages, probes, what is on the bus, position of the report
checkpoints/latest -> step_20
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from pickle import PicklingError, UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from temper.backends.base import Ack
from temper.carrier import Batch, Structure
from temper.columns import Column, Level
from temper.episode import Episode, Trajectory, Turn
from temper.errors import UserError
from temper.request import Request
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run


def save(run: Run, folder: Path, step: int) -> Path:
    """Write step_N beside the others and move `latest`; a failure leaves every earlier checkpoint as it was."""
    target, partial = folder / f"step_{step}", folder / f".step_{step}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, policy in run.policies.items():
            if policy.trainable or getattr(policy.learner, "changed", False):
                policy.save(partial / _place(run, name))
        torch.save(tree(run, step), partial / "state.pt")
        torch.load(partial / "state.pt", weights_only=True)  # a part whose memory is not plain data is refused here
        _sync(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(partial, target)
        _point(folder / "latest", target.name)
    except (OSError, RuntimeError, SafetensorError, PicklingError, UnpicklingError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = latest(folder)
        kept = f"the last good one is {last.name}" if last else "there is none yet"
        remedy = "free some space and --resume"
        if isinstance(error, (PicklingError, UnpicklingError)):
            remedy = "state_dict and the columns of queued batches may hold plain data and tensors only"
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot write checkpoint step_{step} ({first}); {kept}: {remedy}") from error
    for old in _older(folder, run.keep, target):
        shutil.rmtree(old, ignore_errors=True)
    return target


def restore(run: Run, folder: Path) -> int:
    """Load the latest checkpoint into `run`; 0 when there is none."""
    found = latest(folder) or next(iter(_others(folder)), None)  # killed before `latest` was moved
    if found is None:
        return 0
    if damage := _damage(run, found):
        raise UserError(f"{folder}/{damage}{_instead(folder, found)}")
    try:
        return _restore(run, found)
    except (KeyError, ValueError, RuntimeError, OSError, UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{found.name} does not fit this run ({first}): resume with the options that it was started with"
        ) from error


def _damage(run: Run, found: Path) -> str:
    """The file of a checkpoint that is not there or not whole; "" when all are."""
    for name, policy in run.policies.items():
        if policy.trainable and not (found / _place(run, name) / "training.pt").exists():
            return f"{found.name} has no weights of {name!r}"
    files = (found / "state.pt", *sorted(found.rglob("training.pt")))
    return next((f"{f.relative_to(found.parent)} is damaged" for f in files if not zipfile.is_zipfile(f)), "")


def _others(folder: Path, besides: Path | None = None) -> list[Path]:
    """Complete checkpoints, newest first."""
    complete = [f.parent for f in folder.glob("step_*/state.pt") if f.parent != besides]
    return sorted(complete, key=lambda p: -int(p.name.split("_")[1]))


def _instead(folder: Path, found: Path) -> str:
    others = _others(folder, found)
    if not others:
        return ", and there is no other checkpoint: start anew with another --out"
    return f"; to go on from {others[0].name}: ln -sfn {others[0].name} {folder / 'latest'}, and --resume"


def _restore(run: Run, found: Path) -> int:
    saved = torch.load(found / "state.pt", weights_only=True, map_location="cpu")
    for name, policy in run.policies.items():
        place = found / _place(run, name)
        if (place / "training.pt").exists():
            policy.restore(place)
        policy.version = saved["versions"].get(name, 0)
    run.asked, run.acks = saved["asked"], {n: Ack(*a) for n, a in saved["acks"].items()}
    run.bus.bus.load_state_dict(_decode(saved["bus"]))
    run.restore_asks(_decode(saved["asks"]))
    run.reporter.load_state_dict(saved["reporter"])
    for name, part in parts(run):
        if name in saved["parts"]:
            part.load_state_dict(saved["parts"][name])
    step: int = saved["step"]
    return step


def tree(run: Run, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "asked": run.asked,
        "versions": {p.name: p.version for p in run.policies.values()},
        "acks": {name: (a.version, a.fingerprint) for name, a in run.acks.items()},
        "bus": _encode(run.bus.bus.state_dict()),
        "asks": {step: _encode(vars(ask)) for step, ask in run.asks.items()},
        "reporter": run.reporter.state_dict(),
        "parts": {name: part.state_dict() for name, part in parts(run)},
    }


def parts(run: Run) -> Iterator[tuple[str, Any]]:
    """Every part with memory, under a name that depends only on its place in the run."""
    terms = [
        (f"term/{i}/{t.name}/{f}", getattr(t, f))
        for i, u in enumerate(run.updates)
        for t in u.terms
        for f in ("coef", "loss", "per")
    ]
    rates = [(f"lr/{n}", p.optimizer.lr) for n, p in run.policies.items()]
    hooks = [(f"hook/{i}/{j}", h) for i, u in enumerate(run.updates) for j, h in enumerate((*u.before, *u.after))]
    named = [
        ("ledger", run.ledger),
        ("env", run.env),
        ("curriculum", run.curriculum),
        ("signal", run.signal),
        *((f"on_group/{i}", s) for i, s in enumerate(run.on_group)),
        *((f"on_batch/{i}", s) for i, s in enumerate(run.on_batch)),
        *((f"probe/{i}", p) for i, p in enumerate(run.probes)),
        *terms,
        *rates,
        *hooks,
    ]
    for name, part in named:
        if hasattr(part, "state_dict") and not isinstance(part, (torch.nn.Module, type)):
            yield name, part


def latest(folder: Path) -> Path | None:
    link = folder / "latest"
    found = folder / os.readlink(link) if link.is_symlink() else None
    return found if found is not None and (found / "state.pt").exists() else None


def pack(b: Batch) -> dict[str, Any]:
    """A batch as plain data and tensors."""
    s = b.structure
    tables = {f: getattr(s, f) for f in ("ids", "start", "parent", "sampled", "member", "group", "groups")}
    columns = {c.name: (int(c.level), c.dtype, c.doc, _encode(b[c])) for c in b.columns}
    return {"structure": tables, "columns": columns}


def unpack(saved: dict[str, Any]) -> Batch:
    columns = {
        name: (Column(name, Level(level), dtype, doc), _decode(values))
        for name, (level, dtype, doc, values) in saved["columns"].items()
    }
    return Batch(Structure(**saved["structure"]), columns)


RECORDS: dict[str, Any] = {c.__name__: c for c in (Task, Episode, Turn, Trajectory, Request)}


def _encode(x: Any) -> Any:
    """Batches and records as plain data, wherever they are in `x`."""
    if isinstance(x, Batch):
        return {"__batch__": pack(x)}
    if type(x).__name__ in RECORDS and isinstance(x, RECORDS[type(x).__name__]):
        return {"__record__": type(x).__name__, "fields": {f.name: _encode(getattr(x, f.name)) for f in fields(x)}}
    if isinstance(x, list):
        return [_encode(v) for v in x]
    if isinstance(x, tuple):
        return tuple(_encode(v) for v in x)
    return {k: _encode(v) for k, v in x.items()} if isinstance(x, Mapping) else x


def _decode(x: Any) -> Any:
    if isinstance(x, dict) and "__batch__" in x:
        return unpack(x["__batch__"])
    if isinstance(x, dict) and "__record__" in x:
        return RECORDS[x["__record__"]](**_decode(x["fields"]))
    if isinstance(x, dict):
        return {k: _decode(v) for k, v in x.items()}
    return type(x)(_decode(v) for v in x) if isinstance(x, (list, tuple)) else x


def _place(run: Run, name: str) -> str:
    """Where a policy is kept: the first trainable one at the top."""
    trainable = [n for n, p in run.policies.items() if p.trainable]
    return "" if name == next(iter(trainable or run.policies)) else f"policies/{name}"


def _older(folder: Path, keep: int, newest: Path) -> list[Path]:
    found = sorted((p for p in folder.glob("step_*") if p != newest), key=lambda p: int(p.name.split("_")[1]))
    return found[: max(0, len(found) + 1 - keep)] if keep else []


def _point(link: Path, name: str) -> None:
    fresh = link.with_name(".latest.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    os.replace(fresh, link)


def _sync(folder: Path) -> None:
    """Everything on disk before the rename that makes it count."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())

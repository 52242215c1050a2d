"""Checkpoints of sharded learners: each rank writes its own rows, and any number of ranks reads them.

sharded/*.safetensors  by torch.distributed.checkpoint: trained weights, moments and the terms' own parameters
training.pt            how many optimiser steps were made
model/                 the whole model in Hugging Face layout, written by rank 0

The files are safetensors, planned by every rank for itself (`no_dist`): no pickle is written, read, or sent between
ranks. LocalLearner reads them too, and a rank reads what LocalLearner wrote.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter  # type: ignore[attr-defined]
from torch.distributed.checkpoint import load as dcp_load  # type: ignore[attr-defined]
from torch.distributed.checkpoint import save as dcp_save  # type: ignore[attr-defined]
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor

from temper.backends.fsdp_tensors import copy, like, local, whole
from temper.errors import UserError
from temper.models import load

if TYPE_CHECKING:
    from temper.backends.fsdp import Rank

FOLDER = "sharded"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@torch.no_grad()
def save(rank: Rank, folder: Path) -> None:
    """All ranks at once; they gather the model weight by weight, and rank 0 keeps it."""
    whole = _whole_model(rank)
    folder.mkdir(parents=True, exist_ok=True)
    _write(_state(rank), folder / FOLDER, rank.rank)
    if rank.rank == 0:
        load.save_model(rank.module, rank.tokenizer, folder / "model", whole)
        torch.save({"sharded": rank.world, "step": rank.step}, folder / "training.pt")


def _whole_model(rank: Rank) -> dict[str, Tensor]:
    """On rank 0 every weight and buffer of the model's state by name; those that share memory go on sharing it."""
    weights: dict[int, Tensor] = {}
    for p in rank.module.parameters():
        full = whole(p, rank.device).cpu()
        if rank.rank == 0:
            weights[id(p)] = full
    if rank.rank != 0:
        return {}
    found = {n: weights[id(p)] for n, p in rank.module.named_parameters(remove_duplicate=False)}
    return {n: found[n] if n in found else x.cpu() for n, x in rank.module.state_dict().items()}


@torch.no_grad()
def restore(rank: Rank, folder: Path) -> None:
    """From what any number of ranks saved, or from a LocalLearner's training.pt."""
    saved = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
    rank.changed, rank.step = True, saved["step"]
    if "sharded" not in saved:
        return _put(rank, whole_of(saved, rank.names))
    kept = _sizes(folder / FOLDER, saved["sharded"])
    _make_moments(rank, [n for n in rank.names if f"exp_avg/{n}" in kept])
    state = _state(rank)
    _read(state, folder / FOLDER, saved["sharded"])
    rank.own.load_state_dict({k.removeprefix("own/"): v for k, v in state.items() if k.startswith("own/")})


def _state(rank: Rank) -> dict[str, Tensor]:
    """What training goes on from, by name: sharded tensors that share memory with the rank's, and whole ones."""
    sharded = rank.sharded
    state: dict[str, Tensor] = {f"weight/{n}": p.detach() for n, p in sharded.items()}
    state |= {f"own/{n}": x for n, x in rank.own.state_dict().items()}
    for name, leaf in zip(rank.names, rank.trained):
        for kind, x in rank.optimizer.state.get(leaf, {}).items():
            rows = name in sharded and kind != "step"
            state[f"{kind}/{name}"] = like(sharded[name], x) if rows else x
    return state


def _make_moments(rank: Rank, names: list[str]) -> None:
    """Room for the optimiser's state of these weights."""
    leaves = dict(zip(rank.names, rank.trained))
    rank.optimizer.state.clear()
    for name in names:
        leaf = leaves[name]
        rank.optimizer.state[leaf] = {
            "step": torch.tensor(0.0), "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf)
        }  # fmt: skip


def _put(rank: Rank, state: Mapping[str, Tensor]) -> None:
    """Whole tensors by name into the rank's rows."""
    _make_moments(rank, [n for n in rank.names if f"exp_avg/{n}" in state])
    for name, mine in _state(rank).items():
        if name not in state:
            raise KeyError(f"the checkpoint has no {name}")
        if isinstance(mine, DTensor):
            copy(mine, state[name])
        else:
            mine.copy_(state[name])


# between the two forms ------------------------------------------------------------------------------------------------


def whole_of(training: Mapping[str, Any], names: list[str]) -> dict[str, Tensor]:
    """LocalLearner's training.pt as whole tensors by name; `names`: of its trained weights, in order."""
    state = {f"weight/{n}": x for n, x in training["weights"].items()}
    state |= {f"own/{n}": x for n, x in training["own"].items()}
    for n, moments in training["optimizer"]["state"].items():
        state |= {f"{kind}/{names[n]}": moments[kind] for kind in MOMENTS}
    return state


def training_of(folder: Path, ranks: int, names: list[str], optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """What `ranks` ranks saved in `folder`, as LocalLearner's training.pt; `optimizer`: the state of a new one."""
    state: dict[str, Tensor] = {
        n: torch.empty(size, dtype=kind) for n, (size, kind) in _sizes(folder / FOLDER, ranks).items()
    }
    _read(state, folder / FOLDER, ranks)
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in ("weight", "own", *MOMENTS)}
    for name, x in state.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = x
    moments = {n: {k: parts[k][name] for k in MOMENTS} for n, name in enumerate(names) if name in parts["exp_avg"]}
    return {"weights": parts["weight"], "own": parts["own"], "optimizer": {**optimizer, "state": moments}}


# torch.distributed.checkpoint -----------------------------------------------------------------------------------------


class _Writer(HuggingFaceStorageWriter):
    """Names this rank's file, which no other rank's plan is needed for."""

    def __init__(self, folder: Path, rank: int):
        super().__init__(str(folder), save_distributed=True)
        self.shard = rank + 1

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        return [replace(plan, storage_data={"shard_index": self.shard}) for plan in plans]


class _Planner(DefaultSavePlanner):
    """Content with rows that are not all of a tensor's."""

    def create_global_plan(self, all_plans: list[Any]) -> tuple[list[Any], Metadata]:
        return all_plans, Metadata({})


def _write(state: dict[str, Tensor], folder: Path, rank: int) -> None:
    """This rank's rows; rank 0 also writes what is whole everywhere."""
    mine = {n: x for n, x in state.items() if rank == 0 or (isinstance(x, DTensor) and local(x).numel())}
    with _alone():
        dcp_save(mine, storage_writer=_Writer(folder, rank), planner=_Planner(), no_dist=True)


def _read(state: dict[str, Tensor], folder: Path, ranks: int) -> None:
    """Fill the tensors of `state`, sharded or whole. UserError when the checkpoint of `ranks` ranks lacks something."""
    lacking = sorted(state.keys() - _sizes(folder, ranks).keys())
    if lacking:
        raise UserError(f"{folder} has no {lacking[0]}: resume with the options that the run was started with")
    with _alone():
        dcp_load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _sizes(folder: Path, ranks: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    files = len(list(folder.glob("*.safetensors")))
    if files != ranks:
        raise UserError(f"{folder} has the files of {files} of {ranks} ranks: the checkpoint is not whole")
    found: dict[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: (m.size, m.properties.dtype) for name, m in found.items()}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without the note that each rank works for itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield

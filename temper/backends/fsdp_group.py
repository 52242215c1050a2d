"""The process group of a sharded learner: joining it, and plain values and pieces of columns for all ranks."""

from __future__ import annotations

import json
from dataclasses import astuple
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from temper.backends.local import Piece
from temper.columns import Column, Level
from temper.models import load


def device_of(device: str) -> torch.device:
    """Where this rank computes: with "auto" or "cuda" its own GPU, the local rank's."""
    target = load.pick_device(device)
    return torch.device("cuda", torch.cuda.current_device()) if target.type == "cuda" else target


def join(rank: int, world: int, *, timeout: float, device: str = "auto", local_rank: int | None = None,
         store: Any = None, init_method: str | None = None) -> None:  # fmt: skip
    """Make the process group: of `store`, or as torch's `init_method` says. local_rank: number of the GPU to use."""
    target = load.pick_device(device)
    if target.type == "cuda":
        torch.cuda.set_device(rank if local_rank is None else local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if target.type == "cuda" else "gloo",
        store=store, init_method=init_method, rank=rank, world_size=world, timeout=timedelta(seconds=timeout),
    )  # fmt: skip


def everyone(value: Any) -> list[Any]:
    """Every rank's `value` (plain data, which travels as JSON: nothing is unpickled), in the order of ranks."""
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.tensor(0) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor(len(mine)))
    most = max(int(n) for n in sizes)
    padded = [torch.zeros(most, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(padded, torch.cat([mine, torch.zeros(most - len(mine), dtype=torch.uint8)]))
    return [json.loads(bytes(x[: int(n)].tolist())) for x, n in zip(padded, sizes)]


def exchanged(pieces: list[Piece]) -> list[Piece]:
    """Every rank's pieces, on every rank."""
    forms = everyone([
        [len(rows), [[*astuple(c), str(x.dtype).removeprefix("torch."), x.shape[1:]] for c, x in values.items()]]
        for rows, values in pieces
    ])  # fmt: skip
    found: list[Piece] = []
    for rank, form in enumerate(forms):
        for k, (n, columns) in enumerate(form):
            mine = pieces[k] if rank == dist.get_rank() else None
            rows = _from(rank, mine[0] if mine else torch.empty(n, dtype=torch.int64))
            values: dict[Column, Tensor] = {}
            for name, level, kind, doc, dtype, shape in columns:
                column = Column(name, Level(level), kind, doc)
                empty = torch.empty(n, *shape, dtype=getattr(torch, dtype))
                values[column] = _from(rank, mine[1][column] if mine else empty)
            found.append((rows, values))
    return found


def _from(rank: int, x: Tensor) -> Tensor:
    x = x.contiguous()
    if x.numel():
        dist.broadcast(x.view(-1).view(torch.uint8), src=rank)
    return x

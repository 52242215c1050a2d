"""Modules sharded over ranks, and what of a sharded tensor lies on this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor


def shard(root: nn.Module, mesh: DeviceMesh, *, half: bool, offload: bool, reshard: bool) -> Any:
    """`root` with its decoder layers, and the rest as one, sharded; gradients are summed over the ranks."""
    policy: OffloadPolicy = OffloadPolicy()
    if offload:
        policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for layer in layers(root):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, mp_policy=mixed, offload_policy=policy)
    made: Any = fully_shard(root, mesh=mesh, reshard_after_forward=False, mp_policy=mixed, offload_policy=policy)
    for part in made.modules():
        if hasattr(part, "set_gradient_divide_factor"):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            part.set_reduce_scatter_unused_params(True)
    return made


def layers(root: nn.Module) -> list[nn.Module]:
    """The modules that transformers would not split over devices: decoder layers."""
    names = {n for m in root.modules() for n in getattr(m, "_no_split_modules", None) or ()}
    return [m for m in root.modules() if type(m).__name__ in names]


def norm(leaves: Sequence[Tensor]) -> Tensor:
    grads = [x.grad for x in leaves if x.grad is not None]
    return torch.nn.utils.get_total_norm(grads).double() if grads else torch.zeros((), dtype=torch.float64)


@torch.no_grad()
def local(x: Any) -> Tensor:
    """This rank's rows of a sharded tensor, without a copy."""
    rows: Tensor = x.to_local()
    return rows


def whole(x: Any, device: torch.device) -> Tensor:
    """The tensor that is sharded, on every rank."""
    here = like(x, local(x).to(device)) if isinstance(x, DTensor) else x
    full: Tensor = here.full_tensor() if isinstance(here, DTensor) else here.detach()
    return full


def like(x: DTensor, rows: Tensor) -> DTensor:
    """`rows` as a sharded tensor of the form of `x`."""
    return DTensor.from_local(
        rows, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
    )  # fmt: skip


def copy(x: Any, value: Tensor) -> None:
    """Write this rank's rows of the whole `value`; ValueError when it has another shape."""
    if tuple(x.shape) != tuple(value.shape):
        raise ValueError(f"a weight has shape {tuple(value.shape)}, the model's has {tuple(x.shape)}")
    rows = local(x)
    each = -(-len(value) // x.device_mesh.size())
    begin = min(x.device_mesh.get_local_rank() * each, len(value))
    rows.copy_(value[begin : begin + len(rows)])

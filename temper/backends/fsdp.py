"""One rank of a sharded learner: FSDP2 (`torch.distributed.fsdp.fully_shard`) over a process group.

A `Rank` lives in one process of the group (gloo on CPUs, NCCL on GPUs) and knows nothing of who started it. All ranks
are called alike. Each is given the whole batch, and takes its share of the units (trajectories, groups) that travel
together; the weights of every row were computed on the whole optimiser step, so the ranks' gradients are summed and no
denominator depends on their number. A rank that has fewer micro-batches than another makes passes that count for
nothing, since every pass gathers weights from all of them.

Weights, gradients and the optimiser's moments are sharded, row by row; the parameters that terms own (a value head) are
whole on every rank. See `temper.backends.fsdp_learner` for the Learner that starts ranks, and
`temper.backends.fsdp_state` for checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from temper.backends import fsdp_state
from temper.backends.base import AdamW, Lora, Source, Weights
from temper.backends.local import LocalLearner, Piece, Weighed, tokens_of, units
from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY, Column, Level
from temper.episode import ENV, Episode, Trajectory, Turn
from temper.errors import UserError
from temper.models import layout, load
from temper.objective import Term
from temper.tasks.task import Task


@dataclass(frozen=True)
class FSDP:
    """How a policy's learner is sharded: `Policy(learners=2, sharding=FSDP(…))`.

    offload  weights, gradients and the optimiser live in host memory, and are on the GPU only where they are used
    reshard  free a layer's gathered weights after its forward pass, and gather them again for the backward pass
    timeout  seconds that any rank may take to open, or to answer
    """

    offload: bool = False
    reshard: bool = True
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise UserError(f"timeout must be positive, got {self.timeout:g}")


@dataclass(frozen=True)
class Setup:
    """What a rank makes its share of a policy from; plain data but for `modules`.

    modules  parameters that terms own, built
    random   state of the generator that fresh adapters are drawn with, so that all ranks draw the same
    See `Policy` for the others.
    """

    model: str
    optimizer: AdamW
    dtype: str = "float32"
    lora: Lora | None = None
    checkpointing: bool = False
    token_budget: int = 16384
    device: str = "auto"
    sharding: FSDP = field(default_factory=FSDP)
    modules: tuple[nn.Module, ...] = ()
    random: Tensor | None = None

    def open(self) -> Rank:
        """This process's rank; its process group is there (see `join`). The whole model is in host memory meanwhile."""
        with torch.random.fork_rng(devices=[]):
            if self.random is not None:
                torch.set_rng_state(self.random)
            module = load.load_model(
                self.model, dtype=self.dtype, device="cpu", lora=self.lora, checkpointing=self.checkpointing
            )
        return Rank(
            module, self.optimizer, list(self.modules), tokenizer=load.load_tokenizer(self.model),
            token_budget=self.token_budget, half=self.dtype == "bfloat16", sharding=self.sharding,
            device=device_of(self.device),
        )  # fmt: skip


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


class _Whole(nn.Module):
    """The forward pass as one module: embeddings, norm and head are gathered once for all of it."""

    def __init__(self, module: nn.Module, head: layout.Head | None):
        super().__init__()
        self.module, self.head = module, head

    def forward(self, part: Batch, r: layout.Rectangle) -> tuple[Tensor, Tensor, Tensor]:
        hidden = layout.forward(self.module, r, self.head)
        logp, entropy = layout.score(part, hidden, self.head)
        return hidden, logp.clone(), entropy.clone()  # FSDP2 hangs its hook on what is no view


class Rank(LocalLearner):
    """Trains this process's shard of `module`, which is sharded in place.

    half  gather and compute in bfloat16, over weights, gradients and moments in float32
    """

    def __init__(
        self,
        module: Any,
        optimizer: AdamW,
        modules: list[nn.Module] | None = None,
        *,
        tokenizer: Any = None,
        token_budget: int = 16384,
        half: bool = False,
        sharding: FSDP | None = None,
        device: torch.device | None = None,
    ):
        self.half, self.sharding, self.device = half, sharding or FSDP(), device or torch.device("cpu")
        self.mesh: DeviceMesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._anchor, self._moved = torch.zeros(()), False
        super().__init__(module, optimizer, modules, tokenizer=tokenizer, token_budget=token_budget)

    def _prepare(self) -> None:
        self.own.to(self.device)
        self.whole = shard(_Whole(self.module, self.head), self.mesh, self.sharding, self.half)
        self._train([nn.Parameter(local(p)) for p in self.sharded.values()])

    @property
    def sharded(self) -> dict[str, DTensor]:
        """The trained weights by name, as they lie on the ranks."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    # training ------------------------------------------------------------------------------------------------------

    def advance(self, batch: Batch, weighed: list[Weighed], rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """One optimiser step on the whole of `batch`: sums of this rank's share of the metrics, and what all share."""
        self.spec = replace(self.spec, lr=rate)
        return self._accumulate(batch, weighed), self._optimise()

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        raise TypeError("a rank is one of several: call `advance` on all of them")

    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        raise TypeError("a rank is one of several: call `pieces` on all of them")

    def _accumulate(self, batch: Batch, weighed: list[Weighed]) -> dict[str, float]:
        self._moved = False
        for p in self.sharded.values():
            p.grad = None
        totals = super()._accumulate(batch, weighed)
        self._share_gradients()
        return totals

    def _parts(self, batch: Batch, together: Level) -> Iterator[Batch]:
        """This rank's micro-batches, and empty ones up to the number that the busiest rank has."""
        mine = share(batch, self.rank, self.world, self.token_budget, together, self.flat)
        parts = list(super()._parts(mine, together)) if mine.size(TRAJECTORY) else []
        most = torch.tensor(len(parts))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        yield from parts
        nothing = mine.select(torch.zeros(mine.size(TRAJECTORY), dtype=torch.bool))
        for _ in range(int(most) - len(parts)):
            yield nothing

    def _live(self, part: Batch, watched: Mapping[Column, Any] | None = None) -> Batch:
        if part.size(TOKEN) == 0:  # a pass that counts for nothing
            self._scored(NOTHING, layout.rectangle(NOTHING, self.flat))
        return super()._live(part, watched)

    def _scored(self, part: Batch, r: layout.Rectangle) -> tuple[Tensor, Tensor, Tensor]:
        hidden, logp, entropy = self.whole(part, r)
        self._anchor = 0 * logp.sum()
        return hidden, logp, entropy

    def _backward(self, loss: Tensor) -> None:
        """Every rank goes through every layer, whether its loss depends on it or not."""
        self._moved |= loss.requires_grad
        torch.autograd.backward([loss, self._anchor] if loss.requires_grad else [self._anchor])

    def _share_gradients(self) -> None:
        """Sum those of the modules that terms own; none at all where no rank's loss had any."""
        own = list(self.own.parameters())
        has = torch.tensor([self._moved, *(p.grad is not None for p in own)], dtype=torch.int64)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        moved, *has_own = has.tolist()
        for p, any_has in zip(own, has_own):
            if any_has:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
        for leaf, p in zip(self.trained, self.sharded.values()):
            leaf.data = local(p)
            leaf.grad = local(p.grad) if moved and p.grad is not None else None

    def _clip(self, limit: float) -> Tensor:
        n = len(self.trained) - len(list(self.own.parameters()))
        squares = [norm(self.trained[:n]).square().to(self.device), norm(self.trained[n:]).square().to(self.device)]
        dist.all_reduce(squares[0])
        total = (squares[0] + squares[1]).sqrt()
        for leaf in self.trained:
            if leaf.grad is not None:
                leaf.grad.mul_((limit / (total + 1e-6)).clamp(max=1.0).to(leaf.grad.device, leaf.grad.dtype))
        return total

    # reading -------------------------------------------------------------------------------------------------------

    def pieces(self, batch: Batch, columns: Mapping[Column, Source], base: bool = False) -> list[Piece]:
        """This rank's share of what `read` writes. base: with adapters off."""
        with self.module.disable_adapter() if base else contextlib.nullcontext():
            found = list(self._pieces(batch, columns))
        self.whole.reshard()
        return found

    # weights and state ---------------------------------------------------------------------------------------------

    def weights(self) -> Weights:
        raise TypeError("a rank is one of several: go through `gathered` on all of them")

    @torch.no_grad()
    def gathered(self, trained: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(name, whole weight on the CPU), one after another; all ranks must go through all of them."""
        for name, p in self.module.named_parameters():
            if p.requires_grad or not trained:
                yield name, whole(p, self.device).cpu()

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        mine = dict(self.module.named_parameters())
        for name, value in weights.items():
            copy(mine[name], value)

    def save(self, folder: Path) -> None:
        fsdp_state.save(self, folder)

    def restore(self, folder: Path) -> None:
        fsdp_state.restore(self, folder)


def shard(root: nn.Module, mesh: DeviceMesh, sharding: FSDP, half: bool) -> Any:
    """`root` with its decoder layers, and the rest as one, sharded; gradients are summed over the ranks."""
    policy: OffloadPolicy = OffloadPolicy()
    if sharding.offload:
        policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for layer in layers(root):
        fully_shard(layer, mesh=mesh, reshard_after_forward=sharding.reshard, mp_policy=mixed, offload_policy=policy)
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


def share(b: Batch, rank: int, world: int, token_budget: int, together: Level, flat: bool) -> Batch:
    """The trajectories of `b` that are `rank`'s: whole units, the largest first to the rank with the least tokens."""
    even = -(-len(b.structure.ids) // world)
    unit = units(b, min(token_budget, even), together, flat)
    sizes, loads = tokens_of(b, unit), [0] * world
    mine = torch.zeros(len(sizes), dtype=torch.bool)
    for u in sorted(range(len(sizes)), key=lambda u: (-sizes[u], u)):
        r = min(range(world), key=lambda r: (loads[r], r))
        loads[r] += sizes[u]
        mine[u] = r == rank
    return b.select(mine[unit])


def norm(leaves: list[Tensor]) -> Tensor:
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


def _nothing() -> Batch:
    turns = (Turn((0,), -1, ENV), Turn((0,), 0, "nobody", "", (0.0,)))
    return Batch.of([Episode(Task("", "", ""), turns, (Trajectory((0, 1), "nobody"),), "")])


NOTHING = _nothing()

"""One rank of a sharded learner: FSDP2 (`torch.distributed.fsdp.fully_shard`) over a process group.

A `Rank` lives in one process of the group (gloo on CPUs, NCCL on GPUs) and knows nothing of who started it. It is a
Learner whose every method must be called on all ranks alike, and answers on each of them for the whole. Each is given
the whole batch, and takes its share of the units (trajectories, groups) that travel together; the weights of every row
were computed on the whole optimiser step, so the ranks' gradients are summed and no denominator depends on their
number. A rank that has fewer micro-batches than another makes passes that count for nothing, since every pass gathers
weights from all of them.

Weights, gradients and the optimiser's moments are sharded, row by row; the parameters that terms own (a value head) are
whole on every rank. See `temper.backends.fsdp_learner` for the Learner that starts ranks, and
`temper.backends.fsdp_state` for checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from temper.backends import fsdp_state
from temper.backends.base import AdamW, Lora, Source, Weights
from temper.backends.fsdp_group import device_of, everyone, exchanged, join
from temper.backends.fsdp_tensors import copy, local, norm, shard, whole
from temper.backends.local import LocalLearner, Piece, Weighed, tokens_of, units, written
from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY, Column, Level
from temper.episode import ENV, Episode, Trajectory, Turn
from temper.errors import UserError
from temper.models import layout, load
from temper.objective import Term
from temper.tasks.task import Task

__all__ = ["FSDP", "Rank", "Setup", "join", "setup_of"]


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


def setup_of(policy: Any, modules: Iterable[nn.Module], random: Tensor | None = None) -> Setup:
    """That of a `Policy`; random: what its fresh adapters are drawn with (None: the generator as it is now)."""
    return Setup(
        policy.model, policy.optimizer, policy.dtype, policy.lora, policy.checkpointing, policy.token_budget,
        policy.device, policy.sharding or FSDP(), tuple(modules), torch.get_rng_state() if random is None else random,
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
        self._anchor = torch.zeros(())
        super().__init__(module, optimizer, modules, tokenizer=tokenizer, token_budget=token_budget)

    def _prepare(self) -> None:
        self.own.to(self.device)
        how = self.sharding
        whole = _Whole(self.module, self.head)
        self.whole = shard(whole, self.mesh, half=self.half, offload=how.offload, reshard=how.reshard)
        self._train([nn.Parameter(local(p)) for p in self.sharded.values()])

    @property
    def sharded(self) -> dict[str, DTensor]:
        """The trained weights by name, as they lie on the ranks."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    # training ------------------------------------------------------------------------------------------------------

    def advance(self, seen: Batch, weighed: list[Weighed], rate: float | None = None) -> dict[str, float]:
        """One optimiser step of all ranks. rate: the learning rate (None: the spec's)."""
        self.spec = self.spec if rate is None else replace(self.spec, lr=rate)
        return super().advance(seen, weighed)

    def _shares(self, totals: dict[str, float]) -> list[dict[str, float]]:
        shares: list[dict[str, float]] = everyone(totals)
        return shares

    def begin(self, part: Batch, terms: list[Term]) -> None:
        raise TypeError("a step of a sharded learner begins when it is whole")

    def _accumulate(self, batch: Batch, weighed: list[Weighed], fresh: bool = True) -> dict[str, float]:
        for p in self.sharded.values():
            p.grad = None
        totals = super()._accumulate(batch, weighed, fresh)
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
        torch.autograd.backward([loss, self._anchor] if loss.requires_grad else [self._anchor])

    def _share_gradients(self) -> None:
        """Those of the weights are summed already: here those of the modules that terms own."""
        own = list(self.own.parameters())
        has = torch.tensor([p.grad is not None for p in own], dtype=torch.int64)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        for p, any_has in zip(own, has.tolist()):
            if any_has:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
        for leaf, weight in zip(self.trained, self.sharded.values()):
            leaf.data = local(weight)
            leaf.grad = None if weight.grad is None else local(weight.grad)

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

    def read(self, batch: Batch, columns: Mapping[Column, Source], base: bool = False) -> Batch:
        """See LocalLearner; the whole answer on every rank. base: with adapters off."""
        return written(batch, columns, exchanged(self.pieces(batch, columns, base)))

    def pieces(self, batch: Batch, columns: Mapping[Column, Source], base: bool = False) -> list[Piece]:
        """This rank's share of what `read` writes."""
        with self.module.disable_adapter() if base else contextlib.nullcontext():
            found = list(self._pieces(batch, columns))
        self.whole.reshard()
        return found

    def gradient_norms(self, batch: Batch, which: str) -> Tensor:
        raise UserError("gradients of single trajectories need one learner that is not sharded: learners=1")

    # weights and state ---------------------------------------------------------------------------------------------

    def weights(self) -> Weights:
        """The whole trained weights, on the CPU of every rank; `gathered` needs less memory."""
        return dict(self.gathered())

    @torch.no_grad()
    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole trained weight on the CPU), one after another; all ranks must go through all of them."""
        for name, p in self.sharded.items():
            yield name, whole(p, self.device).cpu()

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        mine = dict(self.module.named_parameters())
        for name, value in weights.items():
            copy(mine[name], value)

    def progress(self) -> tuple[int, dict[str, Tensor]]:
        """Optimiser steps made, and the terms' own parameters."""
        return self.step, {n: x.detach().cpu() for n, x in self.own.state_dict().items()}

    def save(self, folder: Path) -> None:
        fsdp_state.save(self, folder)

    def restore(self, folder: Path) -> None:
        fsdp_state.restore(self, folder)


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


def _nothing() -> Batch:
    turns = (Turn((0,), -1, ENV), Turn((0,), 0, "nobody", "", (0.0,)))
    return Batch.of([Episode(Task("", "", ""), turns, (Trajectory((0, 1), "nobody"),), "")])


NOTHING = _nothing()

"""One policy trained in actors: one that has all of it, or several that share it (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from torch import Tensor, nn

from temper.backends.base import AdamW, Source, Weights
from temper.backends.fsdp import Setup
from temper.backends.fsdp_learner import FSDPLearner
from temper.backends.ray_actors import memories
from temper.backends.ray_gang import Gang
from temper.backends.ray_pack import Pushed, freeze, pack
from temper.carrier import Batch
from temper.columns import Column
from temper.objective import Term
from temper.supervision import Lost


class RayLearner:
    """The Learner protocol over one actor."""

    def __init__(self, gang: Gang, optimizer: AdamW, modules: Sequence[Any]):
        self.gang, self.spec, self.modules = gang, optimizer, list(modules)
        self.changed = False
        self.shape: Any = None
        self.flat = False

    def open(self) -> None:
        self.gang.open()
        self.shape, self.flat = (self.gang.lines[0].about[k] for k in ("shape", "flat"))

    def close(self) -> None:
        self.gang.close()

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        """One optimiser step on the whole of `batch`. Memories of the terms come back with it."""
        [(metrics, states)] = self._change("make an optimiser step", "update", batch, terms, self.spec)
        for part, state in zip(memories(terms, self.spec), states):
            part.load_state_dict(state)
        found: dict[str, float] = metrics
        return found

    def read(self, batch: Batch, columns: Mapping[Column, Source], base: bool = False) -> Batch:
        """Write columns from a forward pass without gradient; base: of the model without its adapters."""
        found: Batch = self.gang.ask("read", "read", pack((batch, dict(columns)), self.modules), base)[0]
        return found

    def gradient_norms(self, batch: Batch, which: str) -> Tensor:
        found: Tensor = self.gang.ask("compute gradients", "gradient_norms", pack((batch, which), self.modules))[0]
        return found

    def weights(self) -> Weights:
        """In the object store; the driver looks at them only when asked to."""
        return pushed(self.gang)

    def load(self, weights: Weights) -> None:
        self.changed = True
        self._change("load weights", "load", freeze(weights), keep=True)

    def save(self, folder: Path) -> None:
        self.gang.ask(f"save to {folder}", "save", str(opened(self.gang, folder)))

    def restore(self, folder: Path) -> None:
        self._change(f"restore {folder}", "restore", str(Path(folder).absolute()), keep=True)

    def _change(self, what: str, kind: str, *args: Any, keep: bool = False) -> list[Any]:
        return self.gang.change(what, pack((kind, *args), self.modules), keep)


def opened(gang: Gang, folder: Path) -> Path:
    """A folder for a checkpoint, made here. UserError when a learner would write it on a machine of its own."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    gang.shared(folder, "--out must be a folder that all machines share")
    return folder


def pushed(gang: Gang) -> Pushed:
    """The weights of a gang, as its first member gives them."""
    sharded = len(gang.lines) > 1
    while True:
        refs = [line.ask("weights", *([n == 0] if sharded else [])) for n, line in enumerate(gang.lines)]
        try:
            marks = [
                line.result(mark, gang.supervisor.faults, "give its weights")
                for line, (_, mark) in zip(gang.lines, refs)
            ]
            return Pushed(refs[0][0], marks[0], ray.get)
        except Lost as why:
            gang.renew(why)


class RayRanks:
    """`temper.backends.fsdp_learner.Ranks` over a gang of actors."""

    CHANGES = ("advance", "load", "restore")

    def __init__(self, gang: Gang, device: str, timeout: float):
        self.gang, self.device, self.timeout = gang, device, timeout
        self.setup: bytes | None = None
        self.model: dict[str, Any] = {}
        gang.prepare = self._join

    def _join(self, gang: Gang) -> None:
        """A process group of the new gang; and the model, once it is known."""
        world, faults, first = len(gang.lines), gang.supervisor.faults, gang.lines[0]
        address = first.result(first.ask("host"), faults, "open a socket for its process group")
        refs = [line.ask("join", n, world, address, self.timeout, self.device) for n, line in enumerate(gang.lines)]
        for line, ref in zip(gang.lines, refs):
            line.result(ref, faults, f"join the process group at {address}")
        if self.setup is not None:
            self.model = gang.once("open the model", "open", self.setup)[0]

    def call(self, method: str, *args: Any, modules: Sequence[nn.Module] = ()) -> list[Any]:
        if method == "open":
            self.setup = pack(args[0])
            self.gang.open()
            return [None] * len(self.gang.lines)
        if method == "save":
            args = (opened(self.gang, args[0]),)
        blob, what = pack((method, args), modules), f"do its share of {method!r}"
        if method in self.CHANGES:
            return self.gang.change(what, blob, keep=method != "advance")
        return self.gang.ask(what, "call", blob)

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        yield from pushed(self.gang).items()

    def close(self) -> None:
        self.gang.close()


class RayShardedLearner(FSDPLearner):
    """A sharded learner whose ranks are actors. Its weights go to the object store without passing the driver."""

    ranks: RayRanks

    def __init__(self, setup: Setup, ranks: RayRanks, tokenizer: Any):
        super().__init__(setup, ranks, None, tokenizer)
        self.shape, self.flat = ranks.model["shape"], ranks.model["flat"]
        del self.module  # there is none here

    def weights(self) -> Weights:
        return pushed(self.ranks.gang)

    def _here(self) -> dict[str, nn.Parameter]:
        return {}


class RayBase:
    """What a LoRA policy is without its adapters, read in the policy's own learners."""

    changed = False

    def __init__(self, learner: Any):
        self.learner, self.shape, self.flat = learner, learner.shape, learner.flat

    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        found: Batch = self.learner.read(batch, columns, base=True)
        return found

    def weights(self) -> Weights:
        return {}

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        raise TypeError("this is the frozen base of a LoRA policy: train the policy")

    def load(self, weights: Weights) -> None:
        if weights:
            raise ValueError("the base of a LoRA policy takes no weights: it shares them with the policy")

    def save(self, folder: Path) -> None:
        """Nothing: the policy's adapter directory names this model as its base."""

    def restore(self, folder: Path) -> None:
        """Nothing: see save."""

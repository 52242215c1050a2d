"""The path of weights through training: kept, reduced to its main direction in every matrix, and continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from temper import streams
from temper.errors import UserError
from temper.models import load
from temper.parts.gates import settled
from temper.policy import Policy

Weights = dict[str, Tensor]
Table = dict[tuple[int, str, str], Tensor]  # (when, weight, what) → piece
Kind = tuple[str, int]  # what a piece is ("u", "s", "v", or "w" of a vector), and its length


@dataclass
class KeepWeights:
    """Writes the weights to folder/step_N.safetensors before the first optimiser step and after every `every`.

    A hook for before the step. Adapters are written merged into the matrices that they are of. Its state is the count.
    """

    folder: Path
    every: int = 10
    steps: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"weights must be kept every 1 or more steps, got {self.every}")

    def __call__(self, batch: Any, update: Any) -> None:
        if self.steps % self.every == 0:
            from safetensors.torch import save_file

            self.folder.mkdir(parents=True, exist_ok=True)
            kept = {n: w.detach().cpu().contiguous().clone() for n, w in trained(update.policy.learner).items()}
            save_file(kept, self.folder / f"step_{self.steps}.safetensors")
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def trained(learner: Any) -> Weights:
    """The weights that training moves, by the names that they have without adapters; adapters are added to theirs."""
    module = getattr(learner, "module", None)
    if not hasattr(module, "get_base_model"):
        return dict(learner.weights())
    made: Weights = {}
    for name, layer in load.plain(module).named_modules():
        for adapter in getattr(layer, "active_adapters", ()) if hasattr(layer, "get_delta_weight") else ():
            base = made.get(f"{name}.weight", layer.base_layer.weight.detach())
            made[f"{name}.weight"] = base + layer.get_delta_weight(adapter).detach().to(base.dtype)
    return made


def kept(folder: Path) -> list[Weights]:
    """What `KeepWeights` wrote, in order. UserError when there is nothing."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("step_*.safetensors"), key=lambda f: int(f.stem.removeprefix("step_")))
    if not files:
        raise UserError(f"{folder} holds no weights of an earlier phase: run that first")
    return [load_file(f) for f in files]


@dataclass
class Merged(Policy):
    """A policy that trains all weights of `model`, also where that is an adapter: its matrices are added first."""

    @classmethod
    def of(cls, policy: Policy) -> Merged:
        return cls(**{f.name: getattr(policy, f.name) for f in fields(policy)})

    def open(self, modules: Any = ()) -> None:
        if not load.is_adapter(self.model):
            return super().open(modules)
        named = self.model
        with TemporaryDirectory() as folder:
            load.merge_adapter(named, Path(folder))
            try:
                self.model = folder
                super().open(modules)
            finally:
                self.model = named
        return None


# the main direction -----------------------------------------------------------------------------------------------


def pieces(delta: Tensor) -> Weights:
    """σ₁ u v' of a matrix (in float64): {"u": [rows], "s": [1], "v": [columns]}; a vector as it is: {"w"}.

    The sign is chosen so that the largest entry of u is positive (the first of equals).
    """
    if delta.dim() < 2:
        return {"w": delta.double().reshape(-1)}
    x = delta.double().flatten(1)
    tall = x.shape[0] > x.shape[1]
    y = x.T if tall else x
    u = torch.linalg.eigh(y @ y.T).eigenvectors[
        :, -1
    ]  # of the smaller Gram matrix: one direction is all that is needed
    v = y.T @ u
    s = v.norm()
    u, v = (v / s.clamp(min=1e-30), u) if tall else (u, v / s.clamp(min=1e-30))
    sign = 1.0 if u[settled(u.abs()).argmax()] >= 0 else -1.0
    return {"u": sign * u, "s": s.reshape(1), "v": sign * v}


def whole(parts: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """The change of a weight from its pieces; u and v are scaled to length 1."""
    if "w" in parts:
        return parts["w"].reshape(shape)
    u, v = (parts[k] / parts[k].norm().clamp(min=1e-30) for k in ("u", "v"))
    return (parts["s"] * torch.outer(u, v)).reshape(shape)


def rank_one_share(deltas: Mapping[str, Tensor]) -> float:
    """σ₁² over Σσ², of all matrices together; NaN where nothing has moved."""
    matrices = [d.double().flatten(1) for d in deltas.values() if d.dim() > 1]
    top = sum(float(pieces(d)["s"]) ** 2 for d in matrices)
    total = sum(float(d.square().sum()) for d in matrices)
    return top / total if total else float("nan")


# the predictor ----------------------------------------------------------------------------------------------------


class _Predictor(nn.Module):
    """Pieces of the way so far and of the last stretch → of the way to come, each [n, size].

    Without biases: what went twice as far goes on twice as far, and what did not move stays.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.far = nn.Sequential(nn.Linear(size, width, bias=False), nn.ReLU())
        self.near = nn.Sequential(nn.Linear(size, width, bias=False), nn.ReLU())
        self.both = nn.Sequential(
            nn.Linear(2 * width, width, bias=False), nn.ReLU(), nn.Linear(width, size, bias=False)
        )

    def forward(self, far: Tensor, near: Tensor) -> Tensor:
        out: Tensor = self.both(torch.cat([self.far(far), self.near(near)], -1))
        return out


def continued(
    path: Sequence[Weights], ahead: int, *, epochs: int = 1000, lr: float = 2e-5, width: int = 256, seed: int = 0
) -> Weights:
    """How the weights go on from path[-1] in the next `ahead` stretches, predicted from how they went.

    path    weights at equal distances; those that are in all of them and have moved are predicted
    ahead   stretches; a network for every kind and length of pieces learns W_{t+ahead} − W_t from W_t − W_0 and
            W_t − W_{t−1}, by summed absolute error, on all tensors and all t at once (`epochs` steps of AdamW, the rate
            falling along a cosine to a tenth). Pieces are divided by the largest norm of their kind
    UserError where no t has both a stretch before it and `ahead` after it.
    """
    last = len(path) - 1
    if last - ahead < 1 or ahead < 1:
        raise UserError(f"{last} stretches are too few to learn {ahead} ahead from: it takes {max(ahead, 1) + 1}")
    shared = [n for n in path[-1] if all(n in p for p in path)]
    names = [n for n in shared if not torch.equal(path[-1][n].cpu(), path[0][n].cpu())]
    found: Weights = {}
    rows: dict[Kind, list[tuple[str, str]]] = {}
    far: Table = {}
    near: Table = {}
    later: Table = {}
    for name in names:
        way = [p[name].cpu().double() for p in path]
        for t in range(1, last + 1):
            for k, x in pieces(way[t] - way[0]).items():
                far[t, name, k] = x
            for k, x in pieces(way[t] - way[t - 1]).items():
                near[t, name, k] = x
            for k, x in (pieces(way[t + ahead] - way[t]) if t + ahead <= last else {}).items():
                later[t, name, k] = x
        for k in pieces(way[1] - way[0]):
            rows.setdefault((k, len(far[1, name, k])), []).append((name, k))
    for kind, mine in rows.items():
        seen = [(t, *m) for t in range(1, last - ahead + 1) for m in mine]
        tables = [torch.stack([table[x] for x in seen]).float() for table in (far, near, later)]
        asked = [torch.stack([table[last, *m] for m in mine]).float() for table in (far, near)]
        said = _learned(kind, tables, asked, last - ahead, epochs, lr, width, seed)
        found |= {f"{name}/{k}": x for (name, k), x in zip(mine, said)}
    return {n: whole({k: found[f"{n}/{k}"] for k in pieces(path[0][n])}, path[0][n].shape) for n in names}


def _learned(
    kind: Kind, tables: list[Tensor], asked: list[Tensor], times: int, epochs: int, lr: float, width: int, seed: int
) -> Tensor:
    """What the network of one kind of pieces says of `asked`, having learnt `tables`."""
    scale = max(float(x.norm(dim=1).max()) for x in (*tables, *asked)) or 1.0
    far, near, later = (x / scale for x in tables)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(seed, "trajectory", *kind))
        net = _Predictor(kind[1], width)
    adam = torch.optim.AdamW(net.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=max(epochs, 1), eta_min=0.1 * lr)
    for _ in range(epochs):
        adam.zero_grad()
        ((net(far, near) - later).abs().sum() / times).backward()
        adam.step()
        falling.step()
    with torch.no_grad():
        return (net(*(x / scale for x in asked)) * scale).double()

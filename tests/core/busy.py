"""A small run with memory in every part: curriculum, judge, critic, coefficient, reference, queue, probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import OUTCOME, REWARD, TOKEN, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.evaluate import Evaluation
from temper.methods.objectives.ppo import ppo
from temper.objective import Update
from temper.parts.curricula import Growing
from temper.parts.kl import Adaptive
from temper.parts.reference import RefreshReference
from temper.parts.signals import RewardVaries
from temper.run import Run
from temper.tasks.task import Task
from tests.seams import toys


class Judge:
    """Share of small letters, against the mean that it has seen so far."""

    reads = ()
    writes = (REWARD, OUTCOME)
    kind = "reward"

    def __init__(self) -> None:
        self.seen = 0
        self.mean = 0.0

    async def __call__(self, b: Batch) -> Batch:
        hit = torch.isin(b.token_ids, torch.arange(97, 123)).float()
        share = b.mean(hit, TOKEN, TRAJECTORY).nan_to_num(nan=0.0)
        reward = share - self.mean
        self.seen += 1
        self.mean += (float(share.mean()) - self.mean) / self.seen
        return b.put(REWARD, reward)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "mean": self.mean}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.seen, self.mean = saved["seen"], saved["mean"]


def task(level: int, k: int) -> Task:
    return Task(f"g{level}/{k}", f"say {'abcd'[level % 4] * (1 + k % 3)}", source=f"level{level}")


def busy(model: str, out: Path | None, *, ahead: int = 1, steps: int = 12, resume: bool = False, **fields: Any) -> Run:
    policy = toys.policy(model, lr=1e-2)
    reference = policy.reference()
    m = ppo(policy, reference=reference, beta=Adaptive(0.05, 0.1, 50), epochs=2, minibatches=2)
    after = [*m.after, RefreshReference(reference, every=5)]
    return Run(
        env=SingleTurn(), curriculum=Growing(task, levels=4, attempts=3, bar=-0.1, window=3), roles={"solver": policy},
        on_group=[Judge(), *m.on_group], on_batch=m.on_batch, others=[reference],
        updates=[Update(policy, m.terms, m.epochs, m.minibatches, before=m.before, after=after)],
        probes=[Evaluation(toys.TASKS, 2, every=3, threshold=0.2)], steps=steps, groups=3, signal=RewardVaries(),
        ahead=ahead, sampling=SamplingParams(max_tokens=5), seed=5, out=out, resume=resume, save_every=2,
        transcripts_every=5, **fields,
    )  # fmt: skip


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a finished run left, without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = folder / "checkpoints" / "latest"
    summary = json.loads((folder / "summary.json").read_text())
    for clock in ("seconds", "peak_memory_mib"):
        del summary["ledger"][clock]
    said = summary["diagnosis"]
    summary["diagnosis"] = {
        "findings": [f for f in said["findings"] if f["name"] != "stragglers"],
        "cost": {k: v for k, v in said["cost"].items() if k not in ("seconds", "idle", "tail")},
        **{k: said[k] for k in ("reliability", "coverage")},
    }
    return {
        "metrics": [{k: v for k, v in r.items() if not k.startswith(("timing_s/", "perf/"))} for r in rows],
        "summary": {k: v for k, v in summary.items() if k not in ("seconds", "spent")},
        "episodes": {p.name: p.read_bytes() for p in sorted((folder / "episodes").glob("*"))},
        "model": (last / "model" / "model.safetensors").read_bytes(),
        "training": plain(torch.load(last / "training.pt", weights_only=True)),
        "reference": plain(torch.load(last / "policies" / "reference" / "training.pt", weights_only=True)["weights"]),
        "state": plain(state_of(last)),
    }


def state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint / "state.pt", weights_only=True)
    state["reporter"] = {"tokens": state["reporter"]["tokens"]}
    del state["parts"]["ledger"]["seconds"]
    return state


def plain(x: Any) -> Any:
    """Tensors as bytes, so that equality is bit for bit (and NaN equals itself)."""
    if isinstance(x, torch.Tensor):
        return (
            str(x.dtype),
            tuple(x.shape),
            x.contiguous().view(torch.uint8).numpy().tobytes() if x.dim() else repr(x),
        )
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    return repr(x) if isinstance(x, float) else x

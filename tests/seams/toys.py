"""A model small enough for a test, tasks that need no skill, and a reward that a few updates can move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.backends.base import AdamW, SamplingParams
from temper.columns import ADVANTAGE, GROUP, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.objective import Term
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.stage import Compute
from temper.tasks.task import Task

TASKS = [Task(f"t{i}", f"say {w}", w, source="toy") for i, w in enumerate(["ab", "ba", "cd", "dc"])]
SHORT = SamplingParams(max_tokens=6)


def save_toy_model(folder: Path, seed: int = 0, sharpness: float = 1.0) -> str:
    """The bundled architecture at a fraction of its size, random weights; `sharpness` scales its logits."""
    from temper.models import tiny

    sizes: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 64}
    model = tiny.tiny_model(seed, **sizes)
    model.model.embed_tokens.weight.data *= sharpness  # tied to the head; a norm follows the embedding
    tiny.save_tiny(model, folder)
    return str(folder)


def policy(model: str, name: str = "policy", lr: float = 1e-3, **fields: Any) -> Policy:
    return Policy(name, model, optimizer=AdamW(lr=lr), **fields)


def curriculum(attempts: int = 4) -> Shuffled:
    return Shuffled(TASKS, attempts)


class Surrogate:
    """-A·log π, written out so that the seam tests depend on no part."""

    reads = (ADVANTAGE, LOGP)

    def __call__(self, b: Any) -> Any:
        return -b[ADVANTAGE] * b[LOGP]


POLICY_TERM = Term("policy", Surrogate())
CENTRED = Compute(
    ADVANTAGE,
    lambda b: b.spread(
        b[REWARD] - b.spread(b.mean(b[REWARD], TRAJECTORY, GROUP), GROUP, TRAJECTORY), TRAJECTORY, TOKEN
    ),
    reads=(REWARD,),
)


class ShareOf:
    """Reward: share of the sampled tokens of a trajectory that are `wanted` ids (no process, no text)."""

    reads = ()
    writes = (REWARD,)

    def __init__(self, wanted: tuple[int, ...] = tuple(range(97, 123))):
        self.wanted = wanted

    async def __call__(self, b: Any) -> Any:
        import torch

        hit = torch.isin(b.token_ids, torch.tensor(self.wanted)).float()
        return b.put(REWARD, b.mean(hit, TOKEN, TRAJECTORY).nan_to_num(nan=0.0))

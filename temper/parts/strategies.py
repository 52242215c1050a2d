"""How many different strategies an answer tries, and whether it stops when one was right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import CORE, REWARD, Column
from temper.errors import UserError
from temper.models.embeddings import Embedder, HashedNgrams
from temper.parts.gates import settled
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.rewards.checkers import final_part, normal, reference_answer
from temper.tasks.task import Task

_TAGGED = re.compile(r"<(strategy|attempt)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
DIVERSITY, FORM, EFFICIENCY = (REWARD.of(part) for part in ("diversity", "form", "efficiency"))

NGRAMS = HashedNgrams()

Segmenter = Callable[[str], list[str]]
Right = Callable[[str, Task], bool]


def segments(completion: str) -> list[str]:
    """What stands in <strategy>…</strategy> or <attempt>…</attempt>; where nothing does, the lines of the thinking."""
    tagged = [inside.strip() for _, inside in _TAGGED.findall(completion)]
    thinking = completion.rpartition("</think>")[0].removeprefix("<think>")
    return [s for s in tagged or (line.strip() for line in thinking.splitlines()) if s]


def ends_in_answer(attempt: str, task: Task) -> bool:
    """Whether the attempt's last word, or what it boxes, is the task's answer. False for a task without one."""
    if task.answer is None:
        return False
    last = re.split(r"[\s=:]+", attempt.strip().rstrip("."))[-1]
    return normal(reference_answer(task.answer)) in (normal(last), normal(final_part(attempt)))


def representatives(vectors: Tensor, tau: float) -> list[int]:
    """Rows of vectors [n, width] that open a cluster: their cosine with every earlier one that does is below tau."""
    cosine, kept = settled(vectors @ vectors.T), list[int]()
    for n in range(len(vectors)):
        if all(cosine[n, k] < tau for k in kept):
            kept.append(n)
    return kept


def diversity(vectors: Tensor, tau: float = 0.8, most: int = 5, spread: float = 0.5) -> float:
    """(1 − spread)·min(clusters, most)/most + spread·mean over pairs of clusters of 1 − max(cosine, 0), in [0, 1].

    The mean is over those that open a cluster, 0 for one alone: what opens none changes nothing.
    """
    kept = vectors[representatives(vectors, tau)][:most]
    n = len(kept)
    apart = 1 - (kept @ kept.T).clamp(0, 1)
    pairs = apart[torch.triu(torch.ones(n, n, dtype=torch.bool), 1)]
    return (1 - spread) * n / most + spread * (float(pairs.mean()) if n > 1 else 0.0)


def efficiency(right: Sequence[bool], clusters: int, most: int = 5) -> float:
    """Where the k-th of n attempts is the first right one 1 − (n − k)/most, at least 0; else clusters/(2·most)."""
    if True in right:
        return max(0.0, 1 - (len(right) - 1 - list(right).index(True)) / most)
    return min(clusters, most) / (2 * most)


@dataclass
class StrategyRewards:
    """DIVERSITY, FORM and EFFICIENCY of every judged answer, in [0, 1].

    FORM is 1 for an answer behind at least one strategy. gated: DIVERSITY counts as far as the answer is right, so that
    nonsense does not pay.

    tau, most, spread  see `diversity`; right: whether an attempt comes to the answer
    """

    embedder: Embedder = NGRAMS
    segmenter: Segmenter = segments
    right: Right = ends_in_answer
    tau: float = 0.8
    most: int = 5
    spread: float = 0.5
    gated: bool = True
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD,)
    uses = CORE
    writes = (DIVERSITY, FORM, EFFICIENCY)

    def __post_init__(self) -> None:
        for ok, why in (
            (self.most >= 1, f"most strategies must be at least 1, got {self.most}"),
            (0 <= self.spread <= 1, f"the share of the spread must be in [0, 1], got {self.spread}"),
        ):
            if not ok:
                raise UserError(why)

    async def __call__(self, b: Batch) -> Batch:
        rows = rows_of(b)
        said = [self.segmenter(row.completion) for row in rows]
        vectors = torch.split(self.embedder([s for tries in said for s in tries]), [len(tries) for tries in said])
        found = [len(representatives(v, self.tau)) for v in vectors]
        right = [[self.right(s, row.task) for s in tries] for tries, row in zip(said, rows)]
        form = [float(bool(tries) and bool(final_part(r.completion))) for tries, r in zip(said, rows)]
        gate = b[REWARD].clamp(0, 1) if self.gated else torch.ones_like(b[REWARD])
        parts = {
            DIVERSITY: gate * torch.tensor([diversity(v, self.tau, self.most, self.spread) for v in vectors]),
            FORM: torch.tensor(form),
            EFFICIENCY: torch.tensor([efficiency(r, n, self.most) for r, n in zip(right, found)]),
        }
        self.metrics = {
            "strategies/tried": sum(len(x) for x in said) / max(1, len(said)),
            "strategies/distinct": sum(found) / max(1, len(found)),
        }
        return b.put_all({c: torch.where(b[REWARD].isnan(), torch.nan, x.float()) for c, x in parts.items()})


@dataclass(frozen=True)
class BatchScores:
    """SHAPED = Σ w·z, z the z-score of a reward part over the batch's judged answers; 0 for a part that is constant.

    Neither the scale nor the place of a part matters. An answer that lacks one of the parts has none.
    """

    weights: Mapping[Column, float] = field(default_factory=lambda: {REWARD: 1.0})
    writes = (SHAPED,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(self.weights)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(SHAPED, torch.stack([w * z_scores(b[c]) for c, w in self.weights.items()]).sum(0))


def z_scores(x: Tensor) -> Tensor:
    """(x − mean)/σ over what is not NaN, σ unbiased; 0 where all are equal to rounding."""
    known = x[~x.isnan()]
    if len(known) < 2 or float(known.std()) <= 1e-6 * float(known.abs().max()):
        return 0 * x
    return (x - known.mean()) / known.std()

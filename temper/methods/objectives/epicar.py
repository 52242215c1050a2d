"""EpiCaR

Paper: "EpiCaR: Knowing What You Don't Know Matters for Better Reasoning in LLMs", 2026, arXiv 2601.06786.
Hook: stage (verdicts on the policy's own answers become examples), loss (one cross-entropy over answers and verdicts).
Claim: Pareto-better than STaR in accuracy and calibration from 3B on; 10 votes weighted by confidence match 30 of STaR.

    a round: K = 10 answers to each task
    D_r  x → y for right answers;   D_e  (x, y, "is this correct?") → yes for right ones, no for wrong ones
    −log π over D_r ∪ D_e, mixed;   confidence = p(yes)/(p(yes) + p(no)), summed over spellings

A step of the run is a round: many tasks, several optimiser steps on what they gave. Of D_e only the verdict's first
token is a target. The larger class of verdicts is thinned to the size of the smaller by chance: else the answer to the
question becomes a constant. "yes" alone makes it one: p(yes) → 1; "none" is STaR.
Reconstructed: every target token weighs the same, as in imitation elsewhere; the words of the question. `base` starts
every round from the first weights (STaR's convention; the optimiser's moments stay), else a round goes on from the
last.
Left out: sets that accumulate over rounds. An attempt that was cut off without the cue gets it and answers behind it
(adaptive injection decoding); the cue is no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from temper import streams
from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import INFO, REWARD, TOKEN, Column, boolean
from temper.errors import UserError
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.forced import Rescue
from temper.parts.gates import to_tokens
from temper.parts.self_evaluation import ASK, Confidence, SelfEvaluation
from temper.parts.sft import NLL
from temper.stage import Counted, Stage

SLUG = "epicar"
TITLE = "EpiCaR"
PAPER = "arXiv 2601.06786"
FAMILY = "objectives"
HOOKS = ("stage", "loss")
RECIPE = "epicar"

LEARNED = Column("learned", TOKEN, boolean, "of a right answer, or a verdict that is kept")
Verdicts = Literal["both", "yes", "none"]


@dataclass
class Examples(Counted):
    """LEARNED: right answers (D_r), and verdicts (D_e), the larger class thinned to the smaller where both count."""

    verdicts: Verdicts = "both"
    right: float = 1.0
    balance: bool = True
    seed: int = 0
    reads = (REWARD, INFO)
    writes = (LEARNED,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        said = [(info or {}).get("verdict") for info in b[INFO]]
        yes, no = (torch.tensor([s is v for s in said], dtype=torch.bool) for v in (True, False))
        self.calls += 1
        if self.verdicts == "both" and self.balance:
            few = int(min(yes.sum(), no.sum()))
            yes, no = self._thinned(yes, few, "yes"), self._thinned(no, few, "no")
        kept = {"both": yes | no, "yes": yes, "none": torch.zeros_like(yes)}[self.verdicts]
        return b.put(LEARNED, to_tokens(b, (b[REWARD] >= self.right) | kept))

    def _thinned(self, flag: Tensor, count: int, name: str) -> Tensor:
        rows = flag.nonzero().flatten()
        draw = torch.Generator().manual_seed(streams.key(self.seed, name, self.calls))
        chosen = rows[torch.randperm(len(rows), generator=draw)[:count]]
        return torch.zeros_like(flag).index_fill(0, chosen, True)


@dataclass
class Restart:
    """The policy's weights become those of `base` again, before a round is learned."""

    policy: Any
    base: Any
    reads = ()
    writes = ()

    async def __call__(self, b: Batch) -> Batch:
        self.policy.learner.load(self.base.learner.weights())
        return b


def epicar(
    policy: Any, *, judges: Sequence[Stage] = (), verdicts: Verdicts = "both", balance: bool = True, right: float = 1.0,
    ask: str = ASK, cue: str = "", cue_tokens: int = 32, base: Any = None, seed: int = 0, epochs: int = 1,
    minibatches: int = 8,
) -> Method:  # fmt: skip
    """cue: what an answer that was cut off gets (empty: nothing); base: a frozen copy, to start every round from."""
    if base is not None and policy.lora is not None:
        raise UserError("a round cannot start from the first weights beside adapters: leave out --lora or --restart")
    rescue = [Rescue(policy, judges, cue, SamplingParams(max_tokens=cue_tokens), seed)] if cue else []
    asked = SelfEvaluation(policy, ask, right)
    restart: list[Stage] = [] if base is None else [Restart(policy, base)]
    return Method(
        on_group=[*rescue, asked],
        on_batch=[Confidence(asked), Examples(verdicts, right, balance, seed), *restart],
        terms=[Term("imitation", NLL(), per=token_mean, where=LEARNED)],
        epochs=epochs,
        minibatches=minibatches,
        policies={} if base is None else {"base": base},
    )

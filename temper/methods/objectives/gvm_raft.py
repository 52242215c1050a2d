"""GVM-RAFT

Paper: Yao et al., "Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and
RL", 2025, arXiv 2505.02391; code RLHFlow/GVM.
Hook: curriculum (how many attempts each task gets), before RAFT++ or GRPO.
Claim: two to four times fewer steps than RAFT++ to the same accuracy, and a better one in the end; likewise for GRPO.
It counts steps: with N' = 8 the probes are as many attempts again as are trained on.

    budget pass: N' probes of every task of a pool; p = share accepted; G = mean over the accepted of ‖∇ Σ_t log π(y_t)‖
    by one block of weights (the embeddings)
    n_i ∝ G_i/√(p_i + α/p_i^(β−1)), in whole numbers of sum attempts·tasks; 0 where p or G is 0
    training on the n_i attempts of each task, then the next pool (an EM iteration)

It minimises Σ G²/(p n), up to α. Tokens count alike in the objective (`token_mean`): up to a factor that all rows share
this is the sum over an answer's tokens whose gradient is measured. Answers are averaged as they come, not by 1/(p n).
For GRPO a task that gets any attempt gets two, since one has nothing to be compared with. The published code's filter
is a ceiling on p, not a floor.
Left out: a fresh optimiser and KL reference in each iteration; padding to a number of devices, which needs no copies
here. Rejected answers are no rows of RAFT++ here, where the published code counts their tokens with A = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.methods.objectives.raft_plus_plus import raft_plus_plus
from temper.objective import token_mean
from temper.parts.budget import Budgeted, NoProbe, ProbeNorms
from temper.parts.kl import towards
from temper.parts.score_norms import GradientNorms
from temper.tasks.task import Task

SLUG = "gvm-raft"
TITLE = "GVM-RAFT"
PAPER = "arXiv 2505.02391"
FAMILY = "objectives"
HOOKS = ("curriculum",)
RECIPE = "gvm-raft"


def gvm_raft(
    policy: Any, *, form: Literal["raft++", "grpo"] = "raft++", pool: int = 72, probes: int = 8,
    block: str = "embed_tokens", alpha: float = 1e-3, power: float = 2.0, ceiling: float = 1.0, enough: float = 0.0,
    threshold: float = 0.0, reference: Any = None, beta: float = 1e-3, clip: float = 0.2, minibatches: int = 1,
) -> Method:  # fmt: skip
    """pool, probes, ceiling, enough, threshold: see `Budgeted`; alpha, power: α and β of `worth`; block: part of the
    names of the weights by which gradients are measured; beta: weight of the KL to `reference`."""
    least = 2 if form == "grpo" else 0

    def deal(tasks: Sequence[Task], attempts: int, seed: int) -> Budgeted:
        return Budgeted(tasks, attempts, seed, pool, probes, alpha, power, threshold, least, ceiling, enough)

    if form == "grpo":
        base = grpo(policy, reference=reference, beta=beta, clip=clip, per=token_mean, minibatches=minibatches)
    else:
        stages, terms = towards(reference, beta)
        base = raft_plus_plus(policy, threshold=threshold, clip=clip, minibatches=minibatches)
        policies = {} if reference is None else {"reference": reference}
        base = replace(base, on_batch=stages, terms=[*base.terms, *terms], policies=policies)
    return replace(
        base,
        on_group=[ProbeNorms(GradientNorms(policy, block), threshold), *base.on_group],
        signal=NoProbe(base.signal),
        curriculum=deal,
    )

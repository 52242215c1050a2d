"""UnityMAS-O

Paper: Chen et al., "UnityMAS-O: A General RL Optimization Framework for LLM-Based Multi-Agent Systems", 2026,
arXiv 2605.26646; mechanics as in the released code (chenyiqun/UnityMAS-O, on verl).
Hook: env (workflows whose every call is a sample of its own), reward (an allocator turns a trace into one scalar a
call), advantage (for each model: critic, GAE and whitening over the calls of its roles), loss (PPO clip, value loss).
Claim: training with several agents lifts hand-written workflows for questions and code, small models most; roles may
share parameters or have their own.
Left out: a critic with a trunk and an optimiser of its own (a head on the policy's here); queues with a time to live (a
step's calls are trained on at once, and a dropped attempt has none).
Reconstructed: whether deltas need the format term is configurable (Workflow.format_weight); a group baseline
(estimator="group") compares calls of one role in one turn of one request, though their prompts differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from temper.envs.workflow import Call
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, Whiten
from temper.parts.losses import Clip
from temper.parts.roles import ForRoles
from temper.parts.values import GAE, ValueHead, ValueLoss, old_values

SLUG = "unitymas-o"
TITLE = "UnityMAS-O"
PAPER = "arXiv 2605.26646"
FAMILY = "environments"
HOOKS = ("rollout", "reward", "advantage", "loss", "value head")
RECIPE = "unitymas-o"
Rewards = list[float | None]


def reflective_code(calls: Sequence[Call]) -> Rewards:
    """R_k is the coder's pass rate in turn k, R_{−1} = 0. Planner and coder get R_k − R_{k−1}, which add up to the last
    R; the reflector gets R_{k+1} − R_k, or 0 where no turn follows."""
    rate = {c.turn: c.score or 0.0 for c in calls if c.role == "coder"}
    return [
        rate.get(c.turn + 1, rate[c.turn]) - rate[c.turn]
        if c.role == "reflector"
        else rate[c.turn] - rate.get(c.turn - 1, 0.0)
        for c in calls
    ]


def iterative_search(calls: Sequence[Call]) -> Rewards:
    """Plan and answers get their own F1; search, summary and update of turn k get F1_k − F1_{k−1} of the answers. A
    search that ends the work gets 0; a turn without an answer is not judged."""
    f1 = {c.turn: c.score or 0.0 for c in calls if c.role == "answer"}
    out: Rewards = []
    for c in calls:
        earlier = [f1[k] for k in sorted(f1) if k < c.turn]
        if c.role in ("plan", "answer"):
            out.append(c.score or 0.0)
        elif c.note == "end":
            out.append(0.0)
        else:
            out.append(f1[c.turn] - (earlier[-1] if earlier else 0.0) if c.turn in f1 else None)
    return out


def math_chain(calls: Sequence[Call]) -> Rewards:
    """Everybody gets whether the final answer is right."""
    return [calls[-1].score or 0.0] * len(calls)


def unitymas_o(
    policy: Any,
    *,
    roles: tuple[str, ...] = ("planner", "coder"),
    estimator: Literal["gae", "group"] = "gae",
    clip: float = 0.2,
    gamma: float = 1.0,
    lam: float = 1.0,
    value_clip: float | None = 0.5,
    value_coef: float = 0.1,
    epochs: int = 1,
    minibatches: int = 1,
) -> Method:
    """For one model; `roles` are those that it plays. estimator: the release's GAE, or GRPO's group baseline."""
    policy_term = Term("policy", Clip(clip, clip), per=token_mean)
    if estimator == "group":
        return Method(
            on_batch=[ForRoles(Advantage(), roles)], terms=[policy_term], epochs=epochs, minibatches=minibatches
        )
    head = ValueHead()
    return Method(
        on_batch=[ForRoles(s, roles) for s in (old_values(policy, head), GAE(gamma, lam), Whiten())],
        terms=[policy_term, Term("value", ValueLoss(head, value_clip), coef=value_coef, per=token_mean)],
        epochs=epochs,
        minibatches=minibatches,
    )

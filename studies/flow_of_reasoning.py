"""Flows against reinforcement in a game with many solutions. python -m studies.flow_of_reasoning --seeds 5"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from studies.check import Check, Measure, main
from studies.versus import at_equal_tokens
from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import INFO, LOGP, REWARD, TASK, TOKEN, TRAJECTORY
from temper.envs.flow import Flow, climbs, paths
from temper.methods.objectives.grpo import grpo as method
from temper.policy import Seat
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.flow_of_reasoning import FIXED, flow_of_reasoning
from temper.run import Run
from temper.tasks.task import Task

PARTS, GOALS, HELD_OUT = (2, 3), (4, 5, 6, 7), (8,)
DRAWS = 20  # plays of a task, of which different solutions are counted
SAMPLED = 12_000


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env", *FIXED))
def grpo(**options: Any) -> Run:
    """GRPO on the same games, with the same restriction to allowed actions."""
    return train_on(
        lambda policy: method(policy, beta=0.0), name="grpo", train=climbs(PARTS, GOALS),
        held_out=climbs(PARTS, HELD_OUT), env=Flow(), **options,
    )  # fmt: skip


@dataclass
class Exact:
    """At the end, without sampling: the policy's probability of every play of every task.

    solved     of a play that reaches the goal
    solutions  expected number of different ones among DRAWS plays
    far        total variation between where games end and R^beta, of training tasks
    """

    tasks: dict[str, list[Task]] = field(
        default_factory=lambda: {"train": climbs(PARTS, GOALS), "held_out": climbs(PARTS, HELD_OUT)}
    )
    beta: float = 2.0

    def due(self, step: int, steps: int) -> bool:
        return step == steps

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        if not self.due(step, run.steps):
            return {}
        policy, found = next(iter(run.roles.values())), Counter[str]()
        for name, tasks in self.tasks.items():
            for task in tasks:
                for figure, value in (await self._of(policy, task)).items():
                    found[f"{name}/{figure}"] += value / len(tasks)
        return dict(found)

    async def _of(self, policy: Any, task: Task) -> dict[str, float]:
        env, seat = Flow(), Seat("solver", policy, SamplingParams(), 0, ())
        b = Batch.of([await env.walk(task, seat, path) for path, _ in paths(env.game, task)])
        p = b.sum(policy.learner.read(b, {LOGP: LOGP})[LOGP].double(), TOKEN, TRAJECTORY).exp()
        assert math.isclose(float(p.sum()), 1.0, abs_tol=1e-3) and b[TASK] == [task]
        solved = b[REWARD] == 1.0
        ends, weight = Counter[str](), dict[str, float]()
        for info, prob, r in zip(b[INFO], p.tolist(), b[REWARD].tolist()):
            ends[info["terminal"]] += prob
            weight[info["terminal"]] = (100 * r + 1) ** self.beta
        total = sum(weight.values())
        return {
            "solved": float(p[solved].sum()),
            "solutions": float((1 - (1 - p[solved].clamp(max=1)) ** DRAWS).sum()),
            "far": sum(abs(ends[x] - w / total) for x, w in weight.items()) / 2,
        }


def exactly(run: Run) -> None:
    run.probes.append(Exact())


def arm(recipe: Any, **options: Any) -> Any:
    """An arm whose tasks are the game's: there is no number of held-out ones to choose."""

    def made(eval_tasks: int, **given: Any) -> Run:
        run: Run = recipe(**given)
        return run

    return at_equal_tokens(made, SAMPLED, exactly, lr=5e-4, **options)


CHECK = Check(
    slug="flow-of-reasoning",
    title="Flow of Reasoning",
    claim="From some 15 examples more different right solutions than SFT and PPO at comparable accuracy (BlocksWorld, "
    "Game24, PrOntoQA; arXiv 2406.05673).",
    setting="temper-tiny in a game: reach 4, 5, 6 or 7 by adding 1 to 2, or 1 to 3, at a time (eight tasks of 4 to 37 "
    f"solutions); held out: 8. Arms of a seed end after {SAMPLED:,} sampled tokens (an action is a token); all choose "
    "among the allowed actions only. A step has eight tasks with eight plays of the policy each (flow: four, and four "
    "that explore). Figures are exact, from the probability of every play. Solutions: expected different ones among "
    f"{DRAWS} plays. Distance: total variation between where games end and R², R = 100·reward + 1.",
    arms={
        "flow": arm(flow_of_reasoning, attempts=4),
        "flow, log Z": arm(flow_of_reasoning, attempts=4, form="logz"),
        "grpo": arm(grpo),
    },
    measures=[
        Measure("last/train/solutions", "flow", "grpo", "different solutions of 20 plays"),
        Measure("last/held_out/solutions", "flow", "grpo", "the same, of the goal held out"),
        Measure("last/train/far", "flow", "grpo", "distance of endings from R²", lower=True),
        Measure("last/train/solutions", "flow, log Z", "grpo", "different solutions, learned log Z"),
    ],
    exact="`tests/methods/test_flow_of_reasoning.py`: with a table of action values, games in a square of nine cells "
    "end in proportion to R^β (total variation below 0.02), also from skewed plays that are not the policy's, where "
    "reinforcement ends in one cell; the loss is 0 where log P_F = β log R + log P_B − log Z.",
    note="GRPO (no KL, no entropy bonus) ends with one solution of each task, and of the held-out goal with none. The "
    "price is accuracy: a single play reaches the goal with probability 0.89 (flow), 0.69 (log Z) and 0.98 (GRPO) in "
    "training tasks, and 0.30, 0.31 and 0.00 in held-out ones; so accuracy is near GRPO's only with VarGrad. A policy "
    "exactly at R² would show 8.2 solutions. One learned log Z for tasks whose sums of rewards differ is the worse fit "
    "(distance 0.32 against 0.17). No arm was tuned; one run of five steps with seed 100 looked at costs.",
    paper="Counts of solutions by models of billions of parameters in other games: not comparable.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

"""Outcome-based exploration against GRPO at equal sampled tokens. python -m studies.outcome_exploration --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SUMS, SUMS_SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.outcome_exploration import outcome_exploration

MANY = {"data": SUMS, "eval_tasks": 70, "eval_attempts": 16}

CHECK = Check(
    slug="outcome-exploration",
    title="Outcome-based exploration",
    claim="Better pass@k at every k than GRPO on competition mathematics; reinforcement alone makes answers "
    "fewer (arXiv 2509.06941).",
    setting=SUMS_SETTING.replace("140 held-out sums × 4", "70 held-out sums × 16")
    + " On the quickstart suite, tried first, every arm has a right answer to 99 % of the questions in 16 attempts.",
    arms={
        "con": at_equal_tokens(outcome_exploration, **MANY),
        "batch": at_equal_tokens(outcome_exploration, form="batch", **MANY),
        "grpo": at_equal_tokens(grpo, **MANY),
    },
    measures=[
        Measure("after/any", "con", "grpo", "tasks with a right answer among 16"),
        Measure("after/any", "batch", "grpo", "tasks with a right answer among 16, penalty for repetition"),
        Measure("after/pass@1", "con", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_outcome_exploration.py`: each form by hand; a bonus in the reward cancels where "
    "all agree; counts are the same after a resume.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

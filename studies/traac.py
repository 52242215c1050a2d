"""TRAAC against GRPO and against its reward alone. python -m studies.traac --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.traac import traac

CHECK = Check(
    slug="traac",
    title="TRAAC",
    claim="8.4 % more accuracy and 36.8 % fewer tokens than the base model, on average over AIME, AMC, GPQA and BBEH "
    "(arXiv 2510.01581).",
    setting=SETTING
    + " Steps of thinking begin at spaces; what copies sample counts as sampled tokens. In thinking of a "
    "few short steps attention is nearly even (in a pilot with seed 100 the paper's gate and targets let nothing go): "
    "here nothing counts as even, and targets are 6, 4 and 2, of which the share 1 − u is taken.",
    arms={
        "traac": at_equal_tokens(traac, uniform=1.0, target=(6.0, 4.0, 2.0)),
        "reward alone": at_equal_tokens(traac, compress=False),
        "grpo": at_equal_tokens(grpo),
    },
    measures=[
        Measure("last/completions/mean_length", "traac", "grpo", "tokens of an answer, last fifth", lower=True),
        Measure("last/completions/mean_length", "traac", "reward alone", "the same, without copies", lower=True),
        Measure("after/pass@1", "traac", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_traac.py`: even attention leaves everything, a peak drops the lowest target·(1 − u) of "
    "the steps; tags stay; easy groups lose more than hard ones; wrong answers get no bonus.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

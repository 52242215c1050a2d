"""Light-IF against GRPO behind plain imitation. python -m studies.light_if --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.light_if import light_if

CHECK = Check(
    slug="light-if",
    title="Light-IF",
    claim="A 32B model above larger ones on instruction following; entropy stays above GRPO's at equal reward "
    "(arXiv 2508.03178).",
    setting=SETTING + " No imitation before. The bonus is scaled from 10 and 5 to 0.3 and 0.15: answers have 15 tokens "
    "here, so that softmax weights are a hundred times those of long reasoning.",
    arms={
        "tea-rl": at_equal_tokens(light_if, imitation=0, strength=0.3, most=0.15),
        "grpo": at_equal_tokens(grpo, per="token", clip=1.0),
    },
    measures=[
        Measure("last/entropy", "tea-rl", "grpo", "entropy a token (nats), last fifth of training"),
        Measure("after/pass@1", "tea-rl", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_light_if.py`: exactly a fifth of a batch's tokens is imitated, with no gradient "
    "elsewhere; the entropy weights of a row sum to at most 10 and are even where rewards are equal.",
    note="Entropy is higher on average, but not in a way that five seeds can tell from none.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

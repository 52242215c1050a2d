"""The geometric mean of two parties' welfare against the arithmetic. python -m studies.gtalign --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.gtalign import gtalign

CHECK = Check(
    slug="gtalign",
    title="GTAlign",
    claim="A reward of the product makes both parties better off than the sum: about 7.2 % more mutual welfare than "
    "the baselines (arXiv 2510.08872).",
    setting=SETTING + " The bundled model writes no table of payoffs: it thinks and answers, all lengths of the reward "
    "times 0.02. PPO with a critic. Welfare: √(U·A), and the smaller of the two, over the last fifth of training.",
    arms={
        "geometric": at_equal_tokens(gtalign),
        "arithmetic": at_equal_tokens(gtalign, form="arithmetic"),
    },
    measures=[
        Measure("last/welfare/minimum", "geometric", "arithmetic", "welfare of the poorer party, last fifth"),
        Measure("after/pass@1", "geometric", "arithmetic", "pass@1 after training"),
    ],
    exact="`tests/methods/test_gtalign.py`: at a constant sum the product falls with the gap; the poorer party has the "
    "larger share of the gradient; a chosen price flips the chosen cell, and the plan is fed behind the table.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

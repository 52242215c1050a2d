"""A reward for thinking longer against PPO without it. python -m studies.rlsp --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.rlsp import rlsp

CHECK = Check(
    slug="rlsp",
    title="RLSP",
    claim="Llama-3.1-8B 23 % more on MATH-500; with outcome rewards alone backtracking and verification appear "
    "less (arXiv 2502.06773).",
    setting=SETTING + " λ = 4, since thinking here has 20 characters and not 4,000.",
    arms={
        "rlsp": at_equal_tokens(rlsp, scale=4.0),
        "outcome only": at_equal_tokens(rlsp, scale=0.0),
    },
    measures=[
        Measure("last/completions/mean_length", "rlsp", "outcome only", "tokens of an answer, last fifth of training"),
        Measure("after/pass@1", "rlsp", "outcome only", "pass@1 after training"),
    ],
    exact="`tests/methods/test_rlsp.py`: the term rises with length, saturates, and cannot outweigh correctness"
    " beyond its cap; the actor's weights stay to the bit while it waits.",
    note="With four characters to a token of thinking the term differs little between answers, and length "
    "stays what the tasks need.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

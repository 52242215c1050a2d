"""A penalty that spares hard tasks against none. python -m studies.apriel_reasoner --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.apriel_reasoner import apriel_reasoner

CHECK = Check(
    slug="apriel-reasoner",
    title="Apriel-Reasoner",
    claim="30 to 50 % shorter reasoning at equal or better accuracy (code ServiceNow/PipelineRL).",
    setting=SETTING + " Answers of at most 48 tokens; the penalty rises over the last 40.",
    arms={
        "apriel": at_equal_tokens(apriel_reasoner, max_tokens=48, buffer=40),
        "no penalty": at_equal_tokens(apriel_reasoner, max_tokens=48, buffer=1),
    },
    measures=[
        Measure(
            "last/completions/mean_length",
            "apriel",
            "no penalty",
            "tokens of an answer, last fifth of training",
            lower=True,
        ),
        Measure("after/pass@1", "apriel", "no penalty", "pass@1 after training"),
    ],
    exact="`tests/methods/test_apriel_reasoner.py`: the penalty of right, wrong and cut answers by solve rate; "
    "where a third of a domain's rollouts is lost the correction takes half of that off, in log odds.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

"""Rewards of steps beside that of the outcome, against the outcome alone. python -m studies.oprl_istar --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.oprl_istar import oprl_istar

TOKENS = 25_000

CHECK = Check(
    slug="oprl-istar",
    title="OPRL (iStar)",
    claim="The best of those compared on WebShop, VisualSokoban and SOTOPIA, in fewer steps than GRPO and RLOO with "
    "rewards of outcomes alone (arXiv 2509.19199).",
    setting=SETTING.replace("40,000", "25,000") + " Steps are words of one answer, or the turns of an episode of up to "
    'three attempts ("that is not right, try again"), where pass@1 is having a right answer within them. Against: the '
    "same without step rewards, which is RLOO.",
    arms={
        "words": at_equal_tokens(oprl_istar, TOKENS),
        "outcome": at_equal_tokens(oprl_istar, TOKENS, alpha=0.0),
        "turns": at_equal_tokens(oprl_istar, TOKENS, turns=3),
        "outcome, turns": at_equal_tokens(oprl_istar, TOKENS, turns=3, alpha=0.0),
    },
    measures=[
        Measure("after/pass@1", "words", "outcome", "pass@1 after training, one answer"),
        Measure("after/pass@1", "turns", "outcome, turns", "right within three attempts after training"),
    ],
    exact="`tests/methods/test_oprl_istar.py`: step rewards add up to the log-ratio of the answer; with the sampler as "
    "process model the advantage is RLOO's; the decisive step of a chain of three is ranked first; without a pair the "
    "model stays to the bit.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

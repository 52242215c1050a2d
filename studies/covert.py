"""The check of COVERT: is a policy that was trained in transformed environments better where the noise is new?"""

from __future__ import annotations

import sys
from functools import partial

from studies.check import Check, Measure, main
from studies.cold import arm
from temper.recipes.covert import covert

COLD, STEPS, SHARE = 40, 12, 0.3
SMALL = {"steps": STEPS, "groups": 8, "attempts": 8, "eval_tasks": 32, "eval_attempts": 3}
recipe = partial(covert, calls=1, turns=4, cold_start=COLD)
UNSEEN, CLEAN = "last/eval/unseen/pass@1", "last/eval/clean/pass@1"

CHECK = Check(
    slug="covert",
    title="COVERT",
    claim="RL in environments with distractors, indirect questions and noisy, reformatted or failing results, the "
    "oracle kept, lifts Qwen2.5-14B from 56.5 to 59.9 on BFCL v3 and from 53.0 to 59.3 on ACEBench (arXiv 2604.09813). "
    "Checked here: training in transformed environments is better on held-out noise than training in clean ones.",
    paper="56.5 → 59.9 on BFCL v3 and 53.0 → 59.3 on ACEBench, Qwen2.5-14B. Not comparable: neither is measured here.",
    setting=f"temper-tiny and the bundled world of tools, questions of one call. Both arms begin at one cold start "
    f"({COLD} steps of imitation of the oracle, with distractors, other wordings and failures at 0.5, results as they "
    f"are) and train for {STEPS} steps of 8 tasks × 8 episodes by GRPO: every transform at {SHARE}, or none. Measured "
    "on 32 tasks of other worlds, 3 episodes each: with noise lines, formats and an error that neither arm trained on, "
    "each at 0.7 (unseen), and as they are (clean).",
    arms={
        "transformed": arm(recipe, "covert", share=SHARE, **SMALL),
        "clean": arm(recipe, "covert", share=0.0, **SMALL),
    },
    measures=[
        Measure(UNSEEN, "transformed", "clean", "pass@1 in unseen noise"),
    ],
    exact="`tests/methods/test_covert.py`: in every transform and in random compositions, for every seed, replaying "
    "the oracle's calls is rewarded with 1 within the turns; no set of distractors that is added does what a step of "
    "the oracle does (exhaustive search of two calls); a name that a question leaves out is in the conversation or "
    "behind a tool.",
    note="Neither arm is better in noise that none was trained on: twelve steps change little, and the figures of "
    "three seeds lie far apart. The setting was changed after pilots: with a shorter cold start and half of "
    "all transforms at once, training under transforms was silent and ended lower in unseen noise than "
    "training without (one seed).",
)

if __name__ == "__main__":
    sys.exit(main(CHECK))

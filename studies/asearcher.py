"""The check of ASearcher: decoupled against plain PPO where batches are up to four updates old."""

from __future__ import annotations

import sys

from studies.check import Check, Measure, main
from studies.cold import arm, began
from temper.recipes.asearcher import asearcher

SMALL = {"steps": 10, "eval_tasks": 25, "eval_attempts": 4}
ARMS = {
    "decoupled": arm(asearcher, "asearcher", **SMALL),
    "coupled": arm(asearcher, "asearcher", decoupled=False, **SMALL),
    "cold start": began("asearcher", "decoupled"),
}

CHECK = Check(
    slug="asearcher",
    title="ASearcher",
    claim="Fully asynchronous RL over long search episodes: QwQ-32B gains 46.7 % (xBench) and 20.8 % (GAIA) Avg@4 "
    "(arXiv 2508.07976). The sheet's check: with staleness 4, decoupled PPO is at least as good as coupled PPO.",
    paper="+46.7 % on xBench and +20.8 % on GAIA, Avg@4, QwQ-32B with web search. Not comparable: a local corpus here.",
    setting="temper-tiny in a made-up world: search a name, read what is found, open its page, read it in full, answer "
    "(five calls, two contexts). Both arms begin at a cold start (40 steps of imitation, a quarter of whose notes are "
    "wrong) and train for 10 steps of 4 questions × 8 episodes with ahead = 4: from step 5 on, every batch is 4 "
    "updates old. Coupled: the same clip of 0.4, against the sampler's log-probs. pass@1: held-out questions.",
    arms=ARMS,
    measures=[
        Measure("after/pass@1", "decoupled", "coupled", "pass@1, decoupled above coupled"),
        Measure("after/pass@1", "decoupled", "cold start", "pass@1, above where it began"),
    ],
    exact="`tests/envs/test_search.py`: five calls that extend one another are one chain whose rows are the sampled "
    "tokens, one compaction makes exactly two, log-probs stay with their tokens, an episode of two chains counts once. "
    "`tests/methods/test_asearcher.py`: advantage, decoupled loss and behaviour weight by hand.",
    note="Ten steps with batches that are four updates old teach neither arm: the decoupled loss ends below "
    "where it began and the coupled one about there, with few answers right from the beginning (0.07). So "
    "the paper's ordering is neither shown nor excluded; a longer cold start and more steps would be "
    "needed.",
)

if __name__ == "__main__":
    sys.exit(main(CHECK))

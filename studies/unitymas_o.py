"""UnityMAS-O: does a planner-coder pair improve under one policy and under two?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.check import Check, Measure, main, trained
from temper.recipes.unitymas_o import unitymas_o

OPTIONS: dict[str, Any] = {"steps": 24, "groups": 12, "eval_tasks": 100, "eval_attempts": 2}


def pair(policies: str) -> Any:
    def arm(seed: int, folder: Path) -> dict[str, float]:
        return trained(unitymas_o, seed, folder, policies=policies, **OPTIONS)

    return arm


def before(seed: int, folder: Path) -> dict[str, float]:
    """The pair as it was, on the same tasks with the same random numbers."""
    figures = trained(unitymas_o, seed, folder, policies="shared", **{**OPTIONS, "steps": 0})
    return {"after/pass@1": figures["before/pass@1"]}


CHECK = Check(
    slug="unitymas-o",
    title="UnityMAS-O",
    claim="Reinforcement with several agents lifts the untrained workflow, with shared and with separate parameters.",
    paper="Trained workflows above untrained ones on questions and code; no single figure. Not comparable: other "
    "tasks here.",
    setting="temper-tiny as planner and coder on sums of four terms: only the planner sees the first two, only the "
    "coder the last two, and the coder's prompt begins with what the planner wrote. Rewards by the allocator for code "
    "(one turn: the pass rate for both) and each role's format term; PPO with a critic, GAE and whitening for each "
    "policy; 24 steps of 12 problems × 8 workflows. Share of 100 held-out problems solved, 2 attempts each.",
    arms={"separate": pair("separate"), "shared": pair("shared"), "untrained": before},
    measures=[
        Measure("after/pass@1", "separate", "untrained", "held-out problems solved, two policies"),
        Measure("after/pass@1", "shared", "untrained", "held-out problems solved, one policy"),
    ],
    exact="tests/methods/test_unitymas_o.py: deltas add up to the last pass rate; reflectors, searches and chains by "
    "hand; with two policies zero reward for a role leaves its parameters exactly where they were, with one policy "
    "either role's reward moves it; a dropped workflow leaves nothing; code is judged outside the interpreter.",
    note="Both mappings improve the pair in every seed. The untrained pair is measured with the same random numbers "
    "for every seed, so its figure is one. The comparison of one policy with two is not a claim: two policies share "
    "out the same samples and are trained on half as many each. Time: 17 to 43 s for a whole run with its two "
    "evaluations, by the clock, in one thread of a machine that others used (processor time was not kept; it is no "
    "more).",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

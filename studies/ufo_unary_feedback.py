"""Unary feedback on a hidden number: does a policy learn to try something else after "that is not right"?

python -m studies.ufo_unary_feedback --seeds 5
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from studies.check import Check, Measure, main, trained
from temper.columns import INFO
from temper.envs.try_again import TryAgain
from temper.evaluate import pass_at_k
from temper.loop import attempts
from temper.recipes.ufo_unary_feedback import hidden_numbers, ufo_unary_feedback
from temper.request import Request
from temper.run import Run

NUMBERS = 4  # to guess from, and turns to find it in
EPISODES = 32  # of each number
SIZES = {
    "steps": 30, "groups": 4, "attempts": 12, "lr": 5e-4, "share": 1.0, "max_tokens": 12, "eval_tasks": 0,
    "save_every": 0,
}  # fmt: skip


class Talks:
    """A probe: at the end, episodes with feedback, and what their first answers would do without any."""

    def due(self, step: int, steps: int) -> bool:
        return step == steps

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        if step != run.steps:
            return {}
        env, run.env = run.env, TryAgain(NUMBERS)
        groups = [await attempts(run, Request(t, EPISODES, id=t.id, split="talks"), 1) for t in hidden_numbers(NUMBERS)]
        run.env = env
        infos = [[dict(i) for i in g[INFO]] for g in groups if g is not None]
        each = [i for group in infos for i in group]
        at_once = [[i["success"] == 1 and i["turns"] == 1 for i in group] for group in infos]
        return {
            "talk/success": mean(i["success"] for i in each),
            "talk/turns": mean(i["turns"] for i in each),
            "talk/distinct": mean(i["distinct"] for i in each if "distinct" in i),
            "talk/one turn": mean(mean(group) for group in at_once),
            "talk/parallel": mean(pass_at_k(group, NUMBERS) for group in at_once),
        }


def arm(turns: int, repetition: float = 0.5) -> Callable[[int, Path], dict[str, float]]:
    def run(seed: int, folder: Path) -> dict[str, float]:
        def recipe(seed: int) -> Run:
            made = ufo_unary_feedback(turns=turns, repetition=repetition, seed=seed, **SIZES)  # type: ignore[arg-type]
            made.probes = [Talks()]
            return made

        trained(recipe, seed, folder)
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        return {k.removeprefix("talk/"): v for k, v in last.items() if k.startswith("talk/")}

    return run


CHECK = Check(
    slug="ufo-unary-feedback",
    title="Unary feedback (UFO)",
    claim="Training with a fixed sentence as feedback solves up to 14 % more questions within five turns than "
    "single-turn training, at the same accuracy in one turn, with more distinct answers (92.8 %, not 79.7; Liu "
    "et al. 2025).",
    paper="Up to +14 % within five turns; 92.8 % distinct answers, not 79.7. Not comparable: four turns and other "
    "tasks here.",
    setting="temper-tiny guesses a hidden number from 1 to 4, all equally often; the question does not tell "
    "which. 30 steps of 4 groups × 12 episodes, credit against the group, every group trained on. Arms: "
    "episodes of up to 4 turns with the repetition penalty (λ = 0.5) and without (λ = 0), and of a single "
    "turn. Each is then measured over 4 × 32 episodes of up to 4 turns.",
    arms={"UFO": arm(NUMBERS), "no penalty": arm(NUMBERS, 0.0), "single turn": arm(1)},
    measures=[
        Measure("success", "UFO", "single turn", "found within 4 turns"),
        Measure("turns", "UFO", "single turn", "turns of an episode", lower=True),
        Measure("distinct", "UFO", "single turn", "share of distinct answers"),
        Measure("distinct", "UFO", "no penalty", "share of distinct answers, λ = 0.5 against 0"),
    ],
    exact="The closed-form table of rewards; enumeration finds the number in 1, 2, 3 or 4 turns (2.5 on the "
    "mean), one answer repeated in a quarter of the episodes; the groups that vary most "
    "(tests/methods/test_ufo_unary_feedback.py).",
    note="A policy that was trained with feedback and the penalty repeats itself less and finds the number a "
    "little more often, with an interval that only just leaves out 0; it is far from enumerating (1.0 in 2.5 "
    "turns; independent retries find it in 0.68). The settings were changed three times after looking at "
    "results (steps, learning rate, group size), and the third seed was added after two: take the direction "
    "as weak evidence. At a higher learning rate and 45 steps one seed went the other way.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

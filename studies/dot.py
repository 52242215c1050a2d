"""DOT against GRPO with KL-Cov, from a model that sometimes goes on for too long. python -m studies.dot --seeds 5"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.common import tasks_for
from temper.recipes.dot import dot
from temper.recipes.imitation import taught
from temper.run import Run
from temper.tasks.solutions import solution
from temper.tasks.task import Task

EASY = "rg:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&size=4000"


def rambling(task: Task, context: str) -> str:
    """A worked answer, whose thought is said three to eight times in one answer of eight."""
    draw = Random(task.id)
    text = solution(task) or ""
    thought, end, answer = text.removeprefix("<think>").partition("</think>")
    times = draw.randint(3, 8) if draw.random() < 1 / 8 else 1
    return f"<think>{' '.join([thought] * times)}{end}{answer}"


def from_rambling(out: Path = Path("runs/dot"), seed: int = 0, **options: Any) -> list[Run]:
    tasks = tasks_for(EASY, None, 0, seed)[0][:1000]
    phases, model = taught(rambling, tasks, out, model="temper-tiny", steps=120, lr=1e-3, seed=seed)
    return [*phases, dot(data=EASY, model=model, seed=seed, minibatches=1, max_tokens=160, **options)]


LARGE = {"groups": 4, "attempts": 32, "sampled": 80_000}

CHECK = Check(
    slug="dot",
    title="DOT (Dynamic Outlier Truncation)",
    claim="AIME 2024 from 30.0 with 15.5k tokens to 52.2 with 5.2k (arXiv 2601.03969).",
    setting=SETTING.replace("8 tasks × 8", "4 tasks × 32")
    .replace("its quickstart suite", "sums of two numbers of one digit")
    .replace("40,000", "80,000")
    + " Both arms start from 120 steps of imitation of worked answers, one in eight of which says its thought three to "
    "eight times; α = 3; in the other arm nothing is cut.",
    arms={
        "dot": at_equal_tokens(from_rambling, **LARGE),
        "kl-cov": at_equal_tokens(from_rambling, alpha=1e6, **LARGE),
    },
    measures=[
        Measure(
            "last/completions/mean_length", "dot", "kl-cov", "tokens of an answer, last fifth of training", lower=True
        ),
        Measure("after/pass@1", "dot", "kl-cov", "pass@1 after training"),
    ],
    exact="`tests/methods/test_dot.py`: nothing can be cut with 8 answers at α = 3, an outlier is with 32; "
    "groups with a wrong answer are untouched; what is cut is judged again.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

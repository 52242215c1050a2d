"""KDRL against GRPO, with a teacher that was trained on the same tasks. python -m studies.kdrl --seeds 5"""

from __future__ import annotations

from pathlib import Path

from studies.check import KEPT, Arm, Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.kdrl import kdrl

SEED = 50  # the teacher's


def teacher() -> str:
    """A model that GRPO trained with another seed on 160,000 sampled tokens; made once."""
    folder = KEPT / "kdrl" / "teacher"
    if not (folder / "summary.json").exists():
        at_equal_tokens(grpo, sampled=160_000)(SEED, folder)
    return str(folder / "checkpoints" / "latest" / "model")


def taught(apply: str, beta: float) -> Arm:
    def arm(seed: int, folder: Path) -> dict[str, float]:
        return at_equal_tokens(
            kdrl, sampled=25_000, teacher=teacher(), apply=apply, beta=beta, beta_end=beta / 5, fall=20
        )(seed, folder)

    return arm


CHECK = Check(
    slug="kdrl",
    title="KDRL",
    claim="57.2 % on average, 2.6 above GRPO and 1.1 above distillation alone (arXiv 2506.02208).",
    setting=SETTING.replace("40,000", "25,000")
    + " The teacher: temper-tiny after 160,000 sampled tokens of GRPO, seed "
    "50. Its term weighs 1 at first and 0.2 after 20 steps, 200 times the paper's weight: here the policy begins close "
    "to its teacher.",
    arms={
        "kdrl": taught("all", 1.0),
        "where wrong": taught("response", 1.0),
        "grpo": at_equal_tokens(grpo, sampled=25_000),
    },
    measures=[
        Measure("after/pass@1", "kdrl", "grpo", "pass@1 after training"),
        Measure("after/pass@1", "where wrong", "grpo", "pass@1 after training, the term on wrong answers only"),
    ],
    exact="`tests/methods/test_kdrl.py`: over all answers the gradient of k2 is that of KL(π_θ‖π_T), of k3 the other "
    "direction; a teacher like the student, or a batch of right answers, gives none.",
    note="The teacher knows these tasks, so a pull towards it helps from the first step. Whether it would "
    "still help beyond the teacher's own level is not asked here.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

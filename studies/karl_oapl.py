"""OAPL against GRPO, both several updates behind. python -m studies.karl_oapl --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.karl_oapl import karl_oapl

CHECK = Check(
    slug="karl-oapl",
    title="KARL (OAPL)",
    claim="Matches a coder trained by GRPO with a third of the samples, tolerates hundreds of updates of lag "
    "and keeps entropy (arXiv 2602.19362, 2603.05218).",
    setting=SETTING.replace("8 tasks × 8", "32 tasks × 8") + " Eight optimiser steps on each batch, in both arms.",
    arms={
        "oapl": at_equal_tokens(karl_oapl, groups=32, minibatches=8),
        "grpo": at_equal_tokens(grpo, groups=32, minibatches=8),
    },
    measures=[
        Measure("after/pass@1", "oapl", "grpo", "pass@1 after training"),
        Measure("last/entropy", "oapl", "grpo", "entropy a token (nats), last fifth of training"),
    ],
    exact="`tests/methods/test_karl_oapl.py`: the loss is 0 at π ∝ π_b exp(r/β) with the exact value, for any "
    "sampling; β_1 → ∞ gives the mean, β_1 → 0 the best.",
    note="Data are at most seven optimiser steps old here. The claim is about hundreds, where a clipped ratio "
    "has no gradient left; that is an exact test.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

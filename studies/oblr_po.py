"""OBLR-PO against RLOO at equal sampled tokens. python -m studies.oblr_po --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.oblr_po import oblr_po
from temper.recipes.rloo import rloo

CHECK = Check(
    slug="oblr-po",
    title="OBLR-PO",
    claim="Lower variance and smoother curves than with the mean as baseline, at equal samples (arXiv 2511.23310).",
    setting=SETTING,
    arms={
        "oblr-po": at_equal_tokens(oblr_po, snr=False),
        "with its rate": at_equal_tokens(oblr_po),
        "rloo": at_equal_tokens(rloo, beta=0.0),
    },
    measures=[
        Measure("last/grad_norm", "oblr-po", "rloo", "norm of the gradient, last fifth of training", lower=True),
        Measure("after/pass@1", "oblr-po", "rloo", "pass@1 after training"),
        Measure(
            "after/pass@1",
            "with its rate",
            "rloo",
            "pass@1 after training, with the learning rate that follows the signal",
        ),
    ],
    exact="`tests/methods/test_oblr_po.py`: on a softmax bandit the variance is least at b*, over a grid; the "
    "factor is 1 for a constant gradient and falls to its floor for noise.",
    note="The rate that follows the signal of 64 answers falls to a tenth of the other arms', and learns accordingly "
    "less.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))

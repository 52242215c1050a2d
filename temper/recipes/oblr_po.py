"""The baseline of least variance on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.oblr_po import oblr_po as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def oblr_po(
    snr: bool = True,
    floor: float = 0.05,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Samples that move the model more count more in the baseline (OBLR-PO 2025).

    snr          the learning rate follows the share of signal in the gradient
    floor        least share of the learning rate that is left
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, snr=snr, floor=floor, minibatches=minibatches),
        name="oblr-po",
        **options,
    )

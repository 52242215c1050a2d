"""Credit by segments on your own tasks, or on the bundled suite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from temper.backends.base import SamplingParams
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.methods.objectives.spo import spo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def spo(
    form: Literal["chain", "tree"] = "chain",
    threshold: float = 0.9,
    every: int = 5,
    continuations: int = 9,
    from_prompt: bool = False,
    widths: tuple[int, ...] = (3, 3, 3),
    segment: int = 4,
    scale: bool = False,
    age: int = 8,
    most: int = 32,
    clip: float = 0.2,
    minibatches: int = 1,
    attempts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    ahead: int = 0,
    seed: int = 0,
    **options: Any,
) -> Run:
    """What each segment of an answer is worth, by answers that go on from its ends (SPO, Guo et al. 2025).

    form           chain: cuts in independent attempts; tree: answers that branch, evaluated with one plain answer
    threshold      probability from which a token is certain: never a cut, and not trained on
    every          uncertain tokens from one cut to the next
    continuations  answers from each cut (chain)
    from_prompt    a cut before the first token too (chain)
    widths         branches at each level (tree; the paper: 6 6 6)
    segment        tokens of a segment (tree; the paper: 30)
    scale          divide by the deviation of the siblings' values (tree)
    age            steps for which a segment may wait to be trained on (tree)
    most           segments of a tree that a step trains on (tree); the others wait
    clip           range of the probability ratio
    minibatches    optimiser steps on each batch
    attempts       attempts at each task (chain)
    max_tokens     longest answer, in tokens
    temperature    of sampling; top_p: from the smallest set of tokens with this probability; top_k: so many (0: all)
    ahead          how many updates old the weights that sampled a batch may be (tree)
    seed           of everything that is drawn
    """
    if form == "chain" and ahead:
        raise UserError("the chain form continues attempts with the weights that made them: leave out ahead")
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)

    def make(policy: Any, judges: Any) -> Any:
        return method(
            policy, judges=judges, form=form, threshold=threshold, every=every, continuations=continuations,
            from_prompt=from_prompt, widths=widths, segment=segment, scale=scale, age=age, most=most,
            clip=clip, sampling=sampling, seed=seed, minibatches=minibatches,
        )  # fmt: skip

    tree = form == "tree"
    run = post_train(
        make, name="spo", attempts=1 if tree else attempts, max_tokens=max_tokens, temperature=temperature,
        top_p=top_p, top_k=top_k, ahead=ahead, seed=seed, **options,
    )  # fmt: skip
    run.probes = [replace(p, env=SingleTurn()) for p in run.probes] if tree else run.probes
    return run

"""THOR: RL on whole episodes, and on the calls that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.backends.base import SamplingParams
from temper.methods.environments.thor import thor as method
from temper.recipe import extends
from temper.recipes.python_tool import with_python
from temper.run import Run


@extends(with_python, without=("method", "name", "env", "wrap", "answer"))
def thor(
    out: Path = Path("runs/thor"),
    step_level: bool = True,
    step_attempts: int = 8,
    back: int = 100,
    shortest: int = 0,
    tail: int = 100,
    share: float = 0.5,
    alpha: float = 0.01,
    dual: float = 3.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    max_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """GRPO over answers, and over new calls from before one that failed (Chang et al. 2025).

    out                  directory of the run: RL starts from the model that the cold start leaves there
    step_level           train on groups of new calls too
    step_attempts        new calls in such a group
    back                 tokens before the failed call that are sampled again with it
    shortest             episodes of no more tokens are left out (the paper's 150 suits long reasoning)
    tail                 tokens at the end of an episode in which a box must stand (0: no box is asked for)
    share                of a group's episodes that must be left, else it is not trained on (the paper's ½)
    alpha                weight of the NLL of tokens with a positive advantage
    dual                 dual clip: bound on the loss of tokens with A < 0
    clip_low, clip_high  range of the probability ratio, below and above 1
    max_tokens           longest turn, in tokens
    temperature          of sampling
    seed                 of everything that is drawn
    """
    return with_python(
        lambda policy, env: method(
            policy, env=env if step_level else None, attempts=step_attempts, back=back, seed=seed, shortest=shortest,
            tail=tail, share=share, alpha=alpha, dual=dual, clip_low=clip_low, clip_high=clip_high,
            sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature),
        ),
        name="thor", out=out, max_tokens=max_tokens, temperature=temperature, seed=seed, **options,
    )  # fmt: skip

"""SimpleTIR: episodes with a void turn are not trained on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from temper.envs.tools import ToolUse
from temper.methods.environments.simpletir import Interpreter, has_box
from temper.methods.environments.simpletir import simpletir as method
from temper.recipe import extends
from temper.recipes.python_tool import with_python
from temper.run import Run


@extends(with_python, without=("method", "name", "env", "wrap", "answer"))
def simpletir(
    out: Path = Path("runs/simpletir"),
    mask_void: bool = True,
    low: float = 0.1,
    high: float = 0.9,
    usable: int = 2,
    dual: float = 3.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    reward: tuple[str, ...] = ("temper.methods.environments.simpletir:boxed_answer",),
    turns: int = 5,
    tokens: int = 0,
    **options: Any,
) -> list[Run]:
    """A turn with neither code nor an answer in a box takes its whole episode out of the loss (Xue et al. 2025).

    out                  directory of the run: RL starts from the model that the cold start leaves there
    mask_void            leave out episodes with a void turn (the paper's filter)
    low, high            groups count whose mean reward is within
    usable               attempts of a group that must not be over-long
    dual                 dual clip: bound on the loss of tokens with A < 0
    clip_low, clip_high  range of the probability ratio, below and above 1
    reward               FILE.py:function, package.module:function or a bundled name (added up, the first is a pass)
    turns                most turns that the model takes
    tokens               most tokens that it samples in an episode, which then is over-long (0: no limit)
    """
    return with_python(
        lambda policy, env: method(
            policy, mask_void=mask_void, tokens=tokens, low=low, high=high, usable=usable, dual=dual,
            clip_low=clip_low, clip_high=clip_high,
        ),
        name="simpletir", env=partial(ToolUse, final=has_box), wrap=Interpreter, out=out, reward=reward, turns=turns,
        tokens=tokens, **options,
    )  # fmt: skip

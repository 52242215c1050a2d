"""Explanations of answers that the policy is told, on your own tasks or on the bundled suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from temper.backends.base import SamplingParams
from temper.methods.objectives.expo import expo as method
from temper.parts.explanations import HINT, hinted
from temper.parts.schedules import Linear
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train, tasks_for
from temper.recipes.imitation import taught
from temper.recipes.light_if import worked
from temper.run import Run


@extends(post_train, without=("method", "name"))
def expo(
    out: Path = Path("runs/expo"),
    form: Literal["grpo", "dpo"] = "grpo",
    beta: float = 0.5,
    beta_steps: int = 200,
    dpo_beta: float = 0.1,
    only_failed: bool = False,
    hint: str = HINT,
    tries: int = 4,
    shortest: int = 4,
    refresh: int = 0,
    cold_start: int = 0,
    cold_start_lr: float = 1e-3,
    max_tokens: int = 128,
    system: str | None = None,
    prefill: str = "",
    model: str = "temper-tiny",
    steps: int = 60,
    lr: float = 2e-4,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> list[Run]:
    """The policy imitates how it explains an answer that it was told (ExPO 2025).

    out            directory of the run: RL starts from the model that the cold start leaves there
    form           grpo: imitation beside GRPO; dpo: the explanation against an own wrong attempt
    beta           weight of imitation at the start (0: GRPO); beta_steps: optimiser steps in which it falls to 0
    dpo_beta       the strength of DPO
    only_failed    explain only where every attempt failed
    hint           how the answer is told; {answer} stands for it
    tries          explanations asked for, of which the first that holds is taken
    shortest       tokens that an explanation must have beside the answer
    refresh        updates of the weights that an explanation serves (0: always a fresh one)
    cold_start     steps that teach the bundled model to answer with a hint, on the bundled suite (0: none)
    cold_start_lr  its learning rate
    max_tokens     longest answer and explanation, in tokens
    system         a system message before every task
    prefill        text that opens every answer and is not trained on
    lr             peak learning rate of RL
    minibatches    optimiser steps on each batch
    """
    plain = tasks_for(SUITE, None, 0, seed)[0][:1000] if cold_start else []
    told = [replace(t, id=f"{t.id}/told", prompt=hinted(t, hint)) if n // 5 % 2 else t for n, t in enumerate(plain)]
    phases, model = taught(worked, told, out, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)
    sampling = SamplingParams(max_tokens, **{k: options[k] for k in ("temperature", "top_p", "top_k") if k in options})

    def make(policy: Any, judges: Any) -> Any:
        return method(
            policy, judges=judges, form=form, reference=policy.reference() if form == "dpo" else None,
            beta=Linear(beta, 0.0, beta_steps) if beta else 0.0, dpo_beta=dpo_beta, only_failed=only_failed, hint=hint,
            tries=tries, shortest=shortest, refresh=refresh, sampling=sampling, system=system, prefill=prefill,
            seed=seed, minibatches=minibatches,
        )  # fmt: skip

    rl = post_train(
        make, name="expo", max_tokens=max_tokens, system=system, prefill=prefill, model=model, steps=steps, lr=lr,
        seed=seed, **options,
    )  # fmt: skip
    return [*phases, rl]

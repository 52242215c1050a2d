"""`temper eval`: a run without updates, whose only probe is the evaluation."""

from __future__ import annotations

import asyncio
import json as json_
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from temper.errors import UserError

if TYPE_CHECKING:
    from temper.run import Run
    from temper.tasks.task import Task


def evaluate(
    model: str,
    *,
    tasks: str = "quickstart",
    reward: tuple[str, ...] = (),
    weights: tuple[float, ...] | None = None,
    attempts: int = 16,
    limit: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 128,
    system: str | None = None,
    prefill: str = "",
    threshold: float = 0.99,
    dtype: str = "float32",
    device: str = "auto",
    max_rows: int = 1024,
    timeout: float = 10.0,
    threads: int = 0,
    seed: int = 1,
    json: bool = False,
) -> int:
    """How good is a model at some tasks: avg@k, unbiased pass@k, majority@k, lengths, format failures, intervals.

    model        a bundled name, a directory in Hugging Face format, or a hub id
    tasks        a suite's name, a file (JSONL, JSON, Parquet), a Hugging Face data set, or "rg:NAME" of reasoning-gym
    reward       FILE.py:function, package.module:function or a bundled name; several are added up
    weights      one for each reward (default: 1 each)
    attempts     answers to each task
    limit        how many tasks (0: all of them)
    temperature  of sampling; 0 answers greedily, with one attempt
    top_p        sample from the smallest set of tokens with this probability; top_k: only from so many
    max_tokens   longest answer, in tokens
    system       a system message before every task
    prefill      text that opens every answer
    threshold    a reward at least this high is a pass
    dtype        float32, or bfloat16 to compute in it
    device       cpu, cuda, or auto
    max_rows     answers sampled at once
    timeout      seconds that one call of a reward function may take
    threads      of torch (default: all cores, at most 4)
    seed         of the random streams of sampling
    json         print the result as JSON
    """
    from temper import install
    from temper.cli.run import default_threads
    from temper.recipes.common import default_reward

    for name, number in (("attempts", attempts), ("max-rows", max_rows), ("max-tokens", max_tokens)):
        if number < 1:
            raise UserError(f"--{name} must be at least 1, got {number}")
    install.permit()
    import torch

    torch.set_num_threads(threads or default_threads())
    found, bundled = tasks_of(tasks, limit)
    judges = reward or default_reward(tasks, bundled)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    run = build(
        model, found, judges, weights, 1 if temperature == 0 else attempts, sampling, system=system, prefill=prefill,
        threshold=threshold, dtype=dtype, device=device, max_rows=max_rows, timeout=timeout, seed=seed,
    )  # fmt: skip
    if not json:
        print(f"{model}: {len(found)} tasks × {run.probes[0].attempts} attempts …", flush=True)
    scores = {"model": model, "data": tasks, "reward": list(judges), **asyncio.run(play(run))}
    print(_json(scores) if json else "\n".join(lines(scores)))
    return 0


def tasks_of(spec: str, limit: int) -> tuple[Sequence[Task], bool]:
    """(tasks, whether they are a bundled suite's held-out ones)."""
    from temper.tasks import suites
    from temper.tasks.data import load_tasks

    if limit < 0:
        raise UserError(f"--limit must not be negative, got {limit}")
    if spec in suites.SUITES:
        return suites.held_out_tasks(spec, limit or 500), True
    return load_tasks(spec, split="test" if spec.startswith("rg:") else "train", limit=limit or None), False


def build(
    model: str, tasks: Sequence[Task], judges: Sequence[str], weights: tuple[float, ...] | None, attempts: int,
    sampling: dict[str, Any], *, system: str | None, prefill: str, threshold: float, dtype: str, device: str,
    max_rows: int, timeout: float, seed: int,
) -> Run:  # fmt: skip
    """A run that trains nothing."""
    from temper.backends.base import SamplingParams
    from temper.envs.single import SingleTurn
    from temper.evaluate import Evaluation
    from temper.parts.curricula import Shuffled
    from temper.parts.rewards import Rewards
    from temper.policy import Policy
    from temper.rewards.load import rewards_from
    from temper.run import Run

    rewards = Rewards(rewards_from(judges), weights, timeout=timeout)
    rewards.check(tasks[:1])
    try:
        params = SamplingParams(**sampling)
    except ValueError as error:
        raise UserError(str(error))
    policy = Policy(model=model, trainable=False, dtype=dtype, device=device, max_rows=max_rows)
    probe = Evaluation(tasks, attempts, threshold=threshold, seed=seed)
    return Run(
        name="eval", env=SingleTurn(system=system, prefill=prefill), curriculum=Shuffled(tasks), steps=0, seed=seed,
        roles={"solver": policy}, updates=[], on_group=[rewards], probes=[probe], sampling=params,
    )  # fmt: skip


async def play(run: Run) -> dict[str, Any]:
    """Play the run's evaluation once."""
    from temper.evaluate import summarise

    probe = run.probes[0]
    with run.live():
        answers = await probe.play(run)
    scores = summarise(answers, probe.threshold)
    more = {"dropped": probe.dropped, "failures": probe.failed}
    return {"avg@k": scores["pass@1"], "k": probe.attempts, **scores, **more}


def lines(scores: dict[str, Any]) -> list[str]:
    """The result as a table."""
    from temper.console import reasons, table

    k = scores["k"]
    wide = [n for n in (1, 4, k) if str(n) in next(iter(scores["tasks"].values()))["pass@k"] and (n > 1)]
    head = ["task", "tasks", f"avg@{k}", "95 % interval", *(f"pass@{n}" for n in dict.fromkeys(wide)), f"maj@{k}",
            "length", "format failures"]  # fmt: skip
    rows = [head]
    for name, t in scores["tasks"].items():
        rows.append([name, str(t["tasks"]), *_row(t, wide)])
    mean: dict[str, Any] = {key: _mean(scores, key) for key in ("maj@k", "format_failures")}
    mean["pass@k"] = {str(n): _mean(scores, "pass@k", str(n)) for n in wide}
    total = sum(t["tasks"] for t in scores["tasks"].values())
    rows.append(["mean", str(total), *_row({**scores, **mean}, wide)])
    out = table(rows)
    if scores["dropped"]:
        out.append(
            "attempts that could not be played: " + ", ".join(f"{n} ({w})" for w, n in scores["dropped"].items())
        )
    if scores["not_judged"]:
        out.append(f"without a reward, and so no pass: {scores['not_judged']:.1%} of the answers{reasons(scores)}")
    return out


def _row(t: dict[str, Any], wide: Sequence[int]) -> list[str]:
    low, high = t["interval"]
    passes = [f"{t['pass@k'][str(n)]:.3f}" for n in dict.fromkeys(wide)]
    return [f"{t['pass@1']:.3f}", f"[{low:.3f}, {high:.3f}]", *passes, f"{t['maj@k']:.3f}", f"{t['mean_length']:.0f}",
            f"{t['format_failures']:.1%}"]  # fmt: skip


def _mean(scores: dict[str, Any], key: str, inner: str | None = None) -> float:
    values = [t[key] if inner is None else t[key][inner] for t in scores["tasks"].values()]
    return float(sum(values) / len(values))


def _json(scores: dict[str, Any]) -> str:
    from temper.report import clean

    return json_.dumps(clean(scores), indent=1, ensure_ascii=False)

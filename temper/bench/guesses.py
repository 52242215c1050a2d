"""What guessing the next tokens saves: passes of the model and CPU seconds with n-gram drafts over those without.

Both sides sample the same requests with the same random numbers, in turn; tokens have to be the same. The cost model
of `temper.backends.speculate` is tried with a drafter that knows the answers: CPU seconds of a pass against the columns
that it computes give the number of columns that cost as much as the pass itself (`knee`).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from temper import streams
from temper.backends.base import SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.backends.speculate import Guess, Running, Speculation
from temper.bench.suite import spelled, where
from temper.bench.workloads import WORKLOADS, make_model
from temper.models.render import renderer_of
from temper.policy import Policy

ANSWER, ATTEMPTS = 64, 8
Ids = tuple[int, ...]
Asked = list[tuple[Ids, SamplingParams]]


@dataclass(frozen=True)
class Case:
    """model: "random" (workload B's) or a bundled one; again: the same prompts in every round, else new ones."""

    name: str
    model: str
    again: bool
    prompts: int


CASES = (
    Case("B, new prompts, 64 rows", "random", False, 8),
    Case("B, the same prompts, 64 rows", "random", True, 8),
    Case("temper-tiny, new tasks, 8 rows", "temper-tiny", False, 1),
    Case("temper-tiny, the same task, 8 rows", "temper-tiny", True, 1),
    Case("temper-tiny, the same tasks, 32 rows", "temper-tiny", True, 4),
    Case("temper-tiny, the same tasks, 64 rows", "temper-tiny", True, 8),
)


def measure(
    tell: Callable[[str], None], repeats: int = 5, cases: Sequence[Case] = CASES, rows: Sequence[int] = (1, 8, 32)
) -> dict[str, Any]:
    """Every case, and the cost model; after two rounds that are not counted."""
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        made = make_model(Path(folder) / "model", WORKLOADS["B"])
        for case in cases:
            found.append(_case(case, made if case.model == "random" else case.model, repeats))
            tell(line(found[-1]))
    knees = {str(n): knee(n, repeats) for n in rows}
    tell("knee: " + ", ".join(f"{k:.0f} at {n} rows" for n, k in knees.items()))
    return {**where(), "repeats": repeats, "cases": found, "knee": knees}


def _case(case: Case, model: str, repeats: int) -> dict[str, Any]:
    policy = Policy(model=model, trainable=False, device="cpu")
    policy.open()
    module, tokenizer = policy.sampler.module, policy.tokenizer
    sides = {
        "plain": LocalSampler(module, tokenizer),
        "guessing": LocalSampler(module, tokenizer, drafts=Speculation()),
    }
    prompts = _prompts(case, tokenizer, repeats + 2)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    passes: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(repeats + 2):
        first = 0 if case.again else n * case.prompts
        asked = _asked(prompts[first : first + case.prompts], n)
        answers = {}
        for name, sampler in sides.items():
            answers[name], spent, per_token = _sampled(sampler, asked)
            if n >= 2:
                seconds[name].append(spent)
                passes[name].append(per_token)
        if answers["plain"] != answers["guessing"]:
            raise RuntimeError(f"guessing changed tokens: {case.name}")
    policy.close()
    ratios = [g / p for g, p in zip(seconds["guessing"], seconds["plain"])]
    return {
        "name": case.name, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
        "passes": {name: statistics.median(p) for name, p in passes.items()}, "seconds": seconds,
    }  # fmt: skip


def _prompts(case: Case, tokenizer: Any, rounds: int) -> list[Ids]:
    if case.model == "random":
        texts = (f"{text} {n}" for n in range(rounds) for text in WORKLOADS["B"].prompts())
        return [tuple(tokenizer.encode(t)) for t in texts]
    from temper.tasks.suites import train_tasks

    render, tasks = renderer_of(tokenizer), train_tasks("quickstart", size=rounds * case.prompts)
    return [render.ids(render.text(task.messages), first=True) for task in tasks]


def _asked(prompts: Sequence[Ids], n: int) -> Asked:
    return [
        (p, SamplingParams(max_tokens=ANSWER, seed=streams.key(0, "guesses", n, i, k)))
        for i, p in enumerate(prompts)
        for k in range(ATTEMPTS)
    ]


def _sampled(sampler: LocalSampler, asked: Asked) -> tuple[list[Ids], float, float]:
    """(answers, CPU seconds, passes for each token)."""

    async def all_of() -> list[Any]:
        return await asyncio.gather(*(sampler.sample(ids, params) for ids, params in asked))

    passes, tokens, began = sampler.passes, sampler.tokens, time.process_time()
    answers = [c.ids for c in asyncio.run(all_of())]
    return answers, time.process_time() - began, (sampler.passes - passes) / (sampler.tokens - tokens)


# the cost model -------------------------------------------------------------------------------------------------------


class Oracle:
    """Knows every answer."""

    def __init__(self, answers: dict[tuple[Ids, int], Ids]):
        self.answers = answers

    def draft(self, requests: Sequence[Running], most: int) -> list[list[Guess]]:
        known = (self.answers[r.ids, r.params.seed][len(r.drawn) :][:most] for r in requests)
        return [[(token, (1,)) for token in ids] for ids in known]

    def ended(self, request: Running) -> None:
        pass


def knee(rows: int, repeats: int) -> float:
    """Columns that cost as much as the pass itself: a / b of CPU seconds of a pass = a + b · columns."""
    policy = Policy(model="temper-tiny", trainable=False, device="cpu")
    policy.open()
    module, tokenizer = policy.sampler.module, policy.tokenizer
    prompt = tuple(tokenizer.encode("the quick brown fox"))
    asked = [(prompt, SamplingParams(max_tokens=ANSWER, seed=s, allowed=tuple(range(97, 123)))) for s in range(rows)]
    answers, _, _ = _sampled(LocalSampler(module, tokenizer), asked)
    oracle = Oracle({(ids, p.seed): a for (ids, p), a in zip(asked, answers)})
    points: dict[int, list[float]] = {}
    for _ in range(repeats):
        for most in (0, 1, 3, 5):
            sampler = LocalSampler(module, tokenizer, drafts=Speculation(oracle, most=most, rows=rows, knee=1000))
            _, spent, _ = _sampled(sampler, asked)
            points.setdefault(rows * (1 + most), []).append(spent * rows / sampler.passes)
    policy.close()
    columns, costs = list(points), [min(v) for v in points.values()]
    mean, level = statistics.mean(columns), statistics.mean(costs)
    slope = sum((c - mean) * (s - level) for c, s in zip(columns, costs)) / sum((c - mean) ** 2 for c in columns)
    return (level - slope * mean) / slope


# what is shown --------------------------------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    """One case for the terminal."""
    p = row["passes"]
    cost = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of the CPU time"
    return f"{row['name']:<40} {p['guessing']:.2f} passes a token (else {p['plain']:.2f})   {cost}"


def page(data: dict[str, Any]) -> str:
    """The cases as a Markdown table."""
    lines = [spelled(data), f"Medians of {data['repeats']} rounds, both sides in turn; smallest and largest.", ""]
    lines += ["| requests | passes a token, without | with | CPU time with over without |", "| --- | --- | --- | --- |"]
    for r in data["cases"]:
        p, cost = r["passes"], f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        lines.append(f"| {r['name']} | {p['plain']:.2f} | {p['guessing']:.2f} | {cost} |")
    found = ", ".join(f"{k:.0f} with {n} rows" for n, k in data["knee"].items())
    return "\n".join([*lines, "", f"Columns that cost as much as a pass itself (`knee`): {found}.", ""])

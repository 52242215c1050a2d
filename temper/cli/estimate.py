"""What a run will need, before it starts: some of its groups are played and trained on, and the rest is arithmetic.

    seconds of a rollout      measured for 1, 2, 4, … groups until a few seconds have passed, then a straight line
    seconds of an update      c · optimiser steps + d · tokens, from an update on one group and one on all
    memory                    what is held + gradients and optimiser + what sampling and updating need for a while, in
                              proportion to rows (an evaluation may have more) and to the tokens of a micro-batch: their
                              sum, since a process keeps what it freed; on a GPU, which uses it again, the larger

Nothing is written, and what was loaded is dropped again. Answers are as long as the model's own are now, or all of them
at their limit: the truth of a run that changes lengths lies between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.bench.memory import CLEAR, resident

if TYPE_CHECKING:
    from temper.carrier import Batch
    from temper.run import Run

SECONDS = 4.0  # of rollouts that are tried
MIB = 2**20


@dataclass
class Trial:
    """What was measured. rollout: (groups, seconds); update: (optimiser steps, tokens, seconds); memory in MiB.

    mean, cap  sampled tokens of a trajectory, and the most that it may have; context: tokens before them
    counted    share of the groups that carried signal
    held       memory before; fixed: gradients and optimiser; sampling, updating: what these need for a while beside
    """

    rollout: list[tuple[int, float]] = field(default_factory=list)
    update: list[tuple[int, int, float]] = field(default_factory=list)
    stages: float = 0.0
    rest: float = 0.0
    mean: float = 0.0
    cap: int = 0
    context: float = 0.0
    counted: float = 1.0
    held: float = 0.0
    fixed: float = 0.0
    sampling: float = 0.0
    updating: float = 0.0
    gpu: bool = False


@dataclass
class Estimate:
    """Seconds of a step by stage, of an evaluation, and of the whole run; peak memory in MiB (None: not known here)."""

    rollout: float
    stages: float
    update: float
    rest: float
    evaluation: float
    evaluations: int
    steps: int
    memory: float | None

    @property
    def step(self) -> float:
        return self.rollout + self.stages + self.update + self.rest

    @property
    def whole(self) -> float:
        return self.steps * self.step + self.evaluations * self.evaluation


def report(phases: list[Run], threads: int) -> list[str]:
    """The estimate of the first phase (later ones begin with what it leaves), or why there is none."""
    import asyncio

    import torch

    run = phases[0]
    missing = [p.model for p in run.policies.values() if not here(p.model)]
    if missing:
        return ["", f"no estimate of time and memory: {missing[0]} is not on this machine yet"]
    torch.set_num_threads(threads)
    out = lines(run, asyncio.run(tried(run)))
    return out if len(phases) == 1 else [*out, f"  of phase 1 of {len(phases)} alone"]


def here(model: str) -> bool:
    """Whether the model can be opened without fetching it."""
    from huggingface_hub import try_to_load_from_cache

    from temper.models.load import RANDOM, resolve

    if model == RANDOM or Path(resolve(model)).is_dir():
        return True
    return isinstance(try_to_load_from_cache(model, "config.json"), str)


async def tried(run: Run) -> Trial:
    """Open the run's models, play and train a little, and close them."""
    from temper.carrier import Batch
    from temper.columns import TOKEN, TRAJECTORY
    from temper.loop import play, together

    trial = Trial(cap=run.sampling.max_tokens)
    with run.live():
        try:
            await run.publish([])
            trial.held, trial.fixed, trial.gpu = now(run), _fixed(run), _cuda(run) is not None
            groups: list[Batch] = []
            played = signal = 0
            for n in _sizes(run.groups):
                with _peak(run) as peak:
                    began = time.perf_counter()
                    requests = [run.numbered(r) for r in run.curriculum.next(n)]
                    groups = [g for g in await together(play(run, r) for r in requests) if g is not None]
                    seconds = time.perf_counter() - began
                trial.sampling = peak[0]
                played, signal = played + n, signal + sum(run.signal is None or run.signal(g) for g in groups)
                trial.rollout.append((n, seconds))
                if len(trial.rollout) > 2 and sum(s for _, s in trial.rollout) > SECONDS:
                    break
            trial.counted = max(signal, 1) / played
            batch = Batch.concat(groups)
            trial.mean = batch.size(TOKEN) / max(1, batch.size(TRAJECTORY))
            trial.context = len(batch.structure.ids) / max(1, batch.size(TRAJECTORY)) - trial.mean
            await _trained(run, trial, batch, groups[0])
        finally:
            await run.aclose()
    return trial


def _sizes(most: int) -> Iterator[int]:
    """1 (which warms up), 1, 2, 4, … most."""
    yield 1
    n = 1
    while n < most:
        yield n
        n *= 2
    yield most


async def _trained(run: Run, trial: Trial, batch: Batch, one: Batch) -> None:
    """Stages and updates on one group and on all of them, and what follows an update."""
    from temper.columns import GROUP, TOKEN

    for b in (one, one, batch):  # the first makes the optimiser's state
        with _peak(run) as peak:
            began = time.perf_counter()
            for stage in run.on_batch:
                b = await run.apply(stage, b)
            trial.stages = time.perf_counter() - began
            began = time.perf_counter()
            metrics = [run.update(u, b, 0) for u in run.updates]
            seconds = time.perf_counter() - began
        trial.updating = max(trial.updating, peak[0] - (0.0 if trial.update else trial.fixed))
        steps = sum(u.epochs * min(u.minibatches, b.size(GROUP)) for u in run.updates)
        trial.update.append((steps, b.size(TOKEN), seconds))
    began = time.perf_counter()
    await run.publish(metrics)
    trial.rest = time.perf_counter() - began


def estimate(run: Run, t: Trial, tokens: float) -> Estimate:
    """For answers of `tokens` sampled tokens on average."""
    longer = tokens / max(1.0, t.mean)
    n = t.rollout[-1][0]
    rollout = _line(t.rollout[1:], run.groups / t.counted) * longer
    per_step, per_token = _costs(t.update[1:])
    trajectories = t.update[-1][1] / max(1.0, t.mean)  # of the trial's batch, of n groups
    sampled = trajectories / n * run.groups * tokens
    steps = sum(u.epochs * min(u.minibatches, run.groups) for u in run.updates)
    attempts = trajectories / n
    evaluated, times = _evaluations(run)
    return Estimate(
        rollout=rollout,
        stages=t.stages * run.groups / n * longer,
        update=per_step * steps + per_token * sampled,
        rest=t.rest,
        evaluation=rollout * evaluated / (run.groups / t.counted * attempts),
        evaluations=times,
        steps=run.steps,
        memory=_memory(run, t, tokens) if t.held else None,
    )


def _line(points: list[tuple[int, float]], n: float) -> float:
    """Seconds at n groups: measured where it was, else on along the line of the last two."""
    (before, less), (last, seconds) = points[-2] if len(points) > 1 else (0, 0.0), points[-1]
    slope = max(0.0, (seconds - less) / (last - before)) if last > before else seconds / last
    return seconds + slope * (n - last)


def _costs(points: list[tuple[int, int, float]]) -> tuple[float, float]:
    """(seconds of an optimiser step, of a token) that explain two updates; neither is negative."""
    (s1, n1, t1), (s2, n2, t2) = points[0], points[-1]
    both = s1 * n2 - s2 * n1
    if not both or not n2:
        return 0.0, t2 / max(1, n2)
    fixed = max(0.0, (t1 * n2 - t2 * n1) / both)
    return fixed, max(0.0, t2 - fixed * s2) / n2


def _evaluations(run: Run) -> tuple[int, int]:
    """(attempts of one evaluation, how many evaluations there are)."""
    found = [p for p in run.probes if hasattr(p, "tasks") and hasattr(p, "attempts")]
    times = max((sum(p.due(step, run.steps) for step in range(run.steps + 1)) for p in found), default=0)
    return sum(len(p.tasks) * p.attempts for p in found), times


def _memory(run: Run, t: Trial, tokens: float) -> float:
    """MiB at the peak."""
    n = t.rollout[-1][0]
    whole = (t.context + tokens) / (t.context + t.mean)
    budget = min((u.policy.token_budget for u in run.updates), default=16384)
    now_, then = (min(budget, x) for x in (_of_step(run, t, n, 1.0), _of_step(run, t, run.groups, whole)))
    attempts = max(1, round(t.update[-1][1] / max(1.0, t.mean) / n))
    most = min((p.max_rows for p in run.roles.values()), default=1024)
    rows = min(most, max(run.groups * attempts, _evaluations(run)[0])) / min(most, n * attempts)
    needs = (t.sampling * rows * whole, t.updating * then / now_)
    return t.held + t.fixed + (max(needs) if t.gpu else sum(needs))


def _of_step(run: Run, t: Trial, groups: int, longer: float) -> float:
    """Tokens of one optimiser step, contexts included."""
    trajectories = t.update[-1][1] / max(1.0, t.mean) / t.rollout[-1][0] * groups
    parts = max((min(u.minibatches, groups) for u in run.updates), default=1)
    return trajectories * (t.context + t.mean) * longer / parts


def _fixed(run: Run) -> float:
    """MiB of gradients and of AdamW's two moments."""
    policies = {id(u.policy): u.policy for u in run.updates}.values()
    weights = [p for policy in policies for p in policy.learner.trained]
    return 3 * sum(p.numel() * p.element_size() for p in weights) / MIB


# memory ---------------------------------------------------------------------------------------------------------------


def _cuda(run: Run) -> Any:
    """torch.cuda where a policy is on a GPU."""
    import torch

    modules = (p.learner.module for p in run.policies.values())
    return torch.cuda if any(next(m.parameters()).device.type == "cuda" for m in modules) else None


def now(run: Run) -> float:
    """MiB in use: of the GPU where the model is there, else of the process (0: not known on this system)."""
    cuda = _cuda(run)
    if cuda is not None:
        return float(cuda.memory_allocated() / MIB)
    return resident("VmRSS") if CLEAR.exists() else 0.0


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _peak(run: Run) -> Iterator[list[float]]:
    """[MiB] that the block needed at its peak above what was in use."""
    trim()  # what was freed and is still held would hide what the block needs
    cuda, before, out = _cuda(run), now(run), [0.0]
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        CLEAR.write_text("5")
    yield out
    if cuda is not None:
        out[0] = cuda.max_memory_allocated() / MIB - before
    elif CLEAR.exists():
        out[0] = max(0.0, resident("VmHWM") - before)


# what is shown --------------------------------------------------------------------------------------------------------


def lines(run: Run, t: Trial) -> list[str]:
    """The estimate in words, with what it rests on."""
    own, most = (estimate(run, t, tokens) for tokens in (t.mean, float(t.cap)))
    out = ["", f"estimate{'':<20}answers of {t.mean:.0f} tokens (as now)   of {t.cap} (the limit)"]
    rows: list[tuple[str, str, str]] = [
        (name, *(f"{getattr(e, name):.2f} s" for e in (own, most))) for name in ("rollout", "stages", "update", "step")
    ]
    rows.append(("evaluation", *(f"{e.evaluation:.1f} s × {e.evaluations}" for e in (own, most))))
    rows.append(("the whole run", *(_duration(e.whole) for e in (own, most))))
    rows.append(
        ("peak memory", *("not known here" if e.memory is None else f"{e.memory:,.0f} MiB" for e in (own, most)))
    )
    out += [f"  {name:<24}{a:>24}   {b:>20}" for name, a, b in rows]
    return [
        *out,
        f"  from {t.rollout[-1][0]} of {run.groups} groups, played and trained on just now; {t.counted:.0%} counted",
        "  the machine is taken to stay as busy as it is; start, checkpoints and report.html are not in it",
    ]


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )

"""Checks of a whole run on a toy model: what it declares, its memory, its seed, and how it cuts batches."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import AdamW, SamplingParams
from temper.carrier import Batch
from temper.envs.single import SingleTurn
from temper.loop import train
from temper.method import Method
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.report import clean
from temper.request import Curriculum, Env
from temper.run import Run
from temper.stage import Stage
from temper.testing.parts import Trace, check_reads, check_touched, same, title
from temper.testing.toys import ToyReward, random_ends, toy_model, toy_tasks

STEPS, STOP = 3, 2  # of every checked run; where it is interrupted
TIMES = ("timing_s/", "perf/")  # metrics that say how long something took


def check_method(
    make: Callable[[Policy], Method],
    folder: Path,
    *,
    model: str | None = None,
    env: Env | None = None,
    curriculum: Callable[[], Curriculum] | None = None,
    reward: Stage | None = None,
    tolerance: float = 1e-12,
) -> list[dict[str, Any]]:
    """`check_run` on a run of the method; returns the metrics of each step.

    model       a directory in Hugging Face format (None: the toy model)
    env         how tasks are played (None: one prompt, one answer); curriculum makes the tasks, anew for every run
    reward      the judge (None: one made of the ids, and a part for every REWARD.of(name) that the method reads)
    tolerance   see check_run
    """
    model = model or toy_model(folder / "model")

    def build() -> Run:
        policy = Policy(model=model, optimizer=AdamW(lr=1e-3))
        m = make(policy)
        also = ({"temperature": 0.0},) if m.greedy else ()
        return Run(
            env=env or SingleTurn(),
            curriculum=curriculum() if curriculum else Shuffled(toy_tasks(), 3, also=also),
            roles={"solver": policy},
            on_group=[reward or ToyReward(parts=_parts_read(m)), *m.on_group],
            on_batch=m.on_batch,
            updates=[Update(policy, m.terms, m.epochs, m.minibatches, before=m.before, after=m.after)],
            others=list(m.policies.values()),
            signal=m.signal,
            keep_silent=m.keep_silent,
            steps=STEPS,
            groups=2,
            sampling=random_ends(SamplingParams()),
        )

    return check_run(build, folder, tolerance)


def check_run(build: Callable[[], Run], folder: Path, tolerance: float = 1e-12) -> list[dict[str, Any]]:
    """Train what `build()` returns (a new run each time, of 3 steps) and say what is wrong; returns its metrics.

    Checked, in float64: stages and losses touch what they declare; metrics are finite and the weights move; the same
    seed gives the same run, to the last bit, also when it is interrupted after step 2 and resumed; and micro-batches of
    one trajectory give the gradient that the whole batch gives, to a relative `tolerance` (1e-6 for models that compute
    partly in float32 also when they are float64: most, for their norms).
    """
    whole = _prepared(build(), folder / "whole")
    _watch(whole)
    asyncio.run(train(whole))
    history = whole.reporter.history
    done = [r["step"] for r in history if r["step"]]  # an evaluation before the first step is a record of its own
    assert done == [1, 2, 3], f"the run must have {STEPS} steps, it had {done}"
    _check_sound(whole, history)
    _check_resumes(build, folder, history)
    _check_split(build, folder, tolerance)
    return history


def _check_sound(run: Run, history: list[dict[str, Any]]) -> None:
    for record in history:
        bad = [k for k, v in record.items() if isinstance(v, float) and v != v and not k.startswith("eval")]
        assert not bad, f"step {record['step']} has metrics that are not a number: {', '.join(bad)}"
    prefixes = [""] if len(run.updates) == 1 else [f"{u.policy.name}/" for u in run.updates]
    for prefix in prefixes:
        norms = [r.get(f"{prefix}grad_norm", 0.0) for r in history]
        assert any(norms), "no step had a gradient: nothing was learned"


def _check_resumes(build: Callable[[], Run], folder: Path, history: list[dict[str, Any]]) -> None:
    first = _prepared(build(), folder / "resumed")
    first.probes.append(Interrupt(STOP + 1))
    with contextlib.suppress(Interrupted):
        asyncio.run(train(first))
    second = _prepared(build(), folder / "resumed")
    second.resume = True
    asyncio.run(train(second))
    for mine, theirs in zip(history, second.reporter.history, strict=True):
        a, b = _lasting(mine), _lasting(theirs)
        differ = [k for k in a.keys() | b.keys() if a.get(k) != b.get(k)]
        who = "a second run of the same seed" if mine["step"] <= STOP else "the resumed run"
        assert not differ, f"step {mine['step']} of {who} differs in {', '.join(sorted(differ))}"
    a, b = (checkpoint(folder / run, STEPS) for run in ("whole", "resumed"))
    for file in a.keys() | b.keys():
        assert same(a.get(file), b.get(file)), f"{file} of the resumed run's last checkpoint differs"


def _check_split(build: Callable[[], Run], folder: Path, tolerance: float) -> None:
    """The first step with one trajectory (or group) in a micro-batch."""
    run = _prepared(build(), folder / "split")
    for policy in run.policies.values():
        policy.token_budget = 1
    run.probes.append(Interrupt(2))
    with contextlib.suppress(Interrupted):
        asyncio.run(train(run))
    a, b = (checkpoint(folder / run, 1) for run in ("whole", "split"))
    for file in (f for f in a if f.endswith("training.pt")):
        mine, theirs = gradient(a[file]), gradient(b[file])
        assert float(mine.norm()) > 0, "the first step has no gradient, so nothing can be said about cutting"
        gap = float((mine - theirs).norm() / mine.norm())
        assert gap < tolerance, f"the gradient depends on how the batch is cut into micro-batches (by {gap:.0e} of it)"


def gradient(training: Mapping[str, Any]) -> Tensor:
    """Adam's first moments, flat: after one step, a constant times the gradient."""
    return torch.cat([s["exp_avg"].flatten() for s in training["optimizer"]["state"].values()])


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """Every tensor file of a checkpoint, by its path in it; without the clock."""
    root = folder / "checkpoints" / f"step_{step}"
    found = {str(p.relative_to(root)): torch.load(p, weights_only=True) for p in sorted(root.rglob("*.pt"))}
    found["state.pt"].pop("reporter")
    found["state.pt"]["parts"].get("ledger", {}).pop("seconds", None)
    return found


def _prepared(run: Run, folder: Path) -> Run:
    assert run.steps == STEPS, f"the run must have {STEPS} steps, it has {run.steps}"
    run.out, run.save_every, run.keep = folder, 1, 0
    for policy in run.policies.values():
        policy.dtype = "float64"
    return run


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that do not depend on the clock, as they are written."""
    kept: dict[str, Any] = json.loads(json.dumps(clean(record)))
    return {k: v for k, v in kept.items() if not k.startswith(TIMES)}


def _parts_read(m: Method) -> tuple[str, ...]:
    """Names of the rewards that the method reads and no stage of it writes."""
    stages = [*m.on_group, *m.on_batch]
    written = {c.name for s in stages for c in s.writes}
    read: Iterable[str] = (c.name for s in stages for c in s.reads if c.name not in written)
    return tuple(dict.fromkeys(n.removeprefix("reward@") for n in read if n.startswith("reward@")))


# watching -------------------------------------------------------------------------------------------------------------


def _watch(run: Run) -> None:
    """Every stage and every loss of `run` is checked at each call."""
    run.on_group = [Watched(s) for s in run.on_group]
    run.on_batch = [Watched(s) for s in run.on_batch]
    for update in run.updates:
        update.terms = [replace(t, loss=WatchedLoss(t)) for t in update.terms]


class Watched:
    """A stage whose reads and writes are compared with what it declares (a declared read may be conditional)."""

    def __init__(self, stage: Any):
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    async def __call__(self, b: Batch) -> Batch:
        trace: Trace = set()
        out = await self._stage(b.traced(trace))
        check_touched(self._stage, b, out, trace, exact=False)
        return Batch(out.structure, out._columns)


class WatchedLoss:
    def __init__(self, term: Any):
        self._term, self._loss = term, term.loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)

    def __call__(self, b: Batch) -> Any:
        trace: Trace = set()
        out = self._loss(b.traced(trace))
        reads = {n for kind, n in trace if kind == "read"}
        uses = getattr(self._loss, "uses", ())
        check_reads(f"term {self._term.name!r}", reads, getattr(self._loss, "reads", ()), uses, exact=False)
        return out


class Interrupted(Exception):
    """What ends a run in the middle."""


class Interrupt:
    """A probe that ends the run in step `at`, after its update and before anything of it is written."""

    def __init__(self, at: int):
        self.at = at

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        if step == self.at:
            raise Interrupted(title(self))
        return {}

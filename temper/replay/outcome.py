"""What each method would have done with a recorded step, as plain data."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from temper import state, streams
from temper.backends.base import AdamW
from temper.backends.local import LocalLearner
from temper.carrier import Batch
from temper.columns import FINISH, REWARD, TASK, TOKEN, TRAJECTORY
from temper.errors import UserError
from temper.models import load
from temper.objective import Update
from temper.replay.gradient import Gradient, Probe, effective, per_trajectory, shares
from temper.replay.methods import ROW, Alternative
from temper.replay.record import Recorded
from temper.run import Run
from temper.transcripts import pieces

SHOWN, CHANGED = 12, 20  # attempts and tokens of each method on the page
FAILURES = (UserError, KeyError, ValueError, RuntimeError)
Json = dict[str, Any]


def replay(run: Run, recorded: Recorded, others: Sequence[Alternative], own: str = "the run's own") -> Json:
    """Gradients at the weights from before the step, on its whole batch; the first method is the run's.

    The run is not open; its policy is opened here, with the local sampler. Of a run that makes several optimiser steps
    on a batch the gradient is that of the first, were it made on the whole batch; what it clips later is told by a pass
    of them all (AdamW from rest, the run's rate), after which the weights are put back.
    """
    bench = Bench(run, recorded)
    try:
        b = recorded.batch.put(ROW, torch.arange(recorded.batch.size(TOKEN)))
        for name, part in state.parts(run):
            if name in recorded.memory:
                part.load_state_dict(recorded.memory[name])
        mine = Alternative(own, bench.policy, run.updates[0])
        first = bench.gradient(mine, mine.update.rows(b))
        rows = [bench.row(mine, first, first)]
        credits = {own: shares(first[0].credit_of(b.size(TOKEN), first[1]))}
        for alternative in others:
            try:
                with bench.lent(alternative):
                    found = bench.gradient(alternative, alternative.update.rows(alternative.batch(b)))
                    if not found[0].norm:
                        raise UserError("no token has a gradient: the batch lacks what it needs, or nothing differs")
                    rows.append(bench.row(alternative, found, first))
                credits[alternative.label] = shares(found[0].credit_of(b.size(TOKEN), found[1]))
            except FAILURES as error:
                said = str(error.args[0] if error.args else error)
                rows.append({"method": alternative.label, "error": " ".join(said.split())})
        for row in rows[1:]:
            if row["method"] in credits:
                row["moved"] = float((credits[row["method"]] - credits[own]).abs().sum()) / 2
        return {
            "step": recorded.step, "groups": b.structure.groups, "trajectories": b.size(TRAJECTORY),
            "tokens": b.size(TOKEN), "methods": rows, **texts(b, credits, own, bench.policy.tokenizer),
        }  # fmt: skip
    finally:
        bench.policy.close()


Found = tuple[Gradient, Batch]


class Bench:
    """The run's policy, opened at the weights from before the step, and learners on it that keep the gradient."""

    def __init__(self, run: Run, recorded: Recorded):
        self.run, self.recorded = run, recorded
        self.update = run.updates[0]
        self.policy: Any = self.update.policy
        if not hasattr(self.policy, "model"):
            raise UserError(f"policy {self.policy.name!r} cannot be replayed: it has no model of its own")
        self.policy.engine, self.policy.drafts = "local", None
        self._open(self.policy, self.update)
        learner = self.policy.learner
        if not isinstance(learner, LocalLearner):
            raise UserError("only runs of the local learner can be replayed: leave its backend options out")
        learner.load(self._of(recorded.weights))
        learner.own.load_state_dict(self._of(recorded.own))
        self.module, self.start = learner.module, {n: w.clone() for n, w in learner.weights().items()}
        self.steps = int(recorded.optimiser_steps.get(self.policy.name, recorded.step - 1))

    def _of(self, weights: Any) -> Any:
        """The policy's; a checkpoint's are those of the first policy that is trained."""
        return weights.get(self.policy.name, weights.get("", {}))

    def _open(self, policy: Any, update: Update) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.key(self.run.seed, "open", policy.name))
            policy.open(update.modules)

    def gradient(self, a: Alternative, b: Batch) -> Found:
        if not b.size(TOKEN):
            raise UserError(f"{a.label} leaves nothing to train on")
        return self._learner(Probe, a).gradient(b, a.update.terms), b

    def _learner(self, kind: Any, a: Alternative) -> Any:
        """A learner on the run's weights, with the terms' own modules of `a`."""
        old = self.policy.learner
        rate = self.policy.optimizer.rate(self.steps)
        spec = replace(self.policy.optimizer, lr=rate) if isinstance(self.policy.optimizer, AdamW) else AdamW(rate)
        made = kind(self.module, spec, a.update.modules, tokenizer=old.tokenizer, token_budget=old.token_budget,
                    autocast=old.autocast)  # fmt: skip
        made.step = self.steps
        return made

    def lent(self, a: Alternative) -> Lent:
        return Lent(self, a)

    def row(self, a: Alternative, found: Found, first: Found) -> Json:
        """One line of the table."""
        (g, b), (g0, _) = found, first
        each = per_trajectory(b, g.credit)
        count = a.update.epochs * min(a.update.minibatches, b.structure.groups)
        told = self._passed(a, b) if count > 1 else g.metrics
        clipped = next((v for k, v in told.items() if k.startswith("clip_ratio")), None)
        return {
            "method": a.label, "cosine": _finite(g.cosine(g0)), "norm": g.norm,
            "ratio": _finite(g.norm / g0.norm if g0.norm else math.nan), "trajectories": b.size(TRAJECTORY),
            "effective_trajectories": effective(each), "effective_tokens": effective(g.credit),
            "used": float((g.credit != 0).float().mean()), "clipped": clipped, "optimiser_steps": count,
            "loss": g.metrics.get("loss"),
        }  # fmt: skip

    def _passed(self, a: Alternative, b: Batch) -> dict[str, float]:
        """Metrics of all its optimiser steps on the batch; the weights are as before afterwards."""
        modules = [copy.deepcopy(m.state_dict()) for m in a.update.modules]
        learner = self._learner(LocalLearner, a)
        seed = self.run.seed * 1_000_003 + self.recorded.step - 1
        told = Update(Holder(learner), a.update.terms, a.update.epochs, a.update.minibatches)(b, seed=seed)
        learner.load(self.start)
        for m, saved in zip(a.update.modules, modules):
            m.load_state_dict(saved)
        return told


class Holder:
    """What an Update needs of a policy."""

    def __init__(self, learner: Any):
        self.learner = learner


class Lent:
    """While it is entered, the policy that an alternative's parts hold on to is the recorded one."""

    def __init__(self, bench: Bench, a: Alternative):
        self.bench, self.a = bench, a

    def __enter__(self) -> None:
        bench, policy = self.bench, self.a.policy
        weight = next(bench.module.parameters())
        modules: list[Any] = self.a.update.modules
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.key(bench.run.seed, "open", policy.name))
            for m in modules:
                if hasattr(m, "build"):
                    m.build(load.hidden_width(bench.module))
                m.to(weight.device)
                if bench.policy.dtype == "float64":
                    m.double()
        policy._learner = bench._learner(Probe, self.a)
        policy._sampler, policy._tokenizer = bench.policy.sampler, bench.policy.tokenizer
        for other in self.a.others:
            other.dtype, other.device = bench.policy.dtype, bench.policy.device
            other.open()

    def __exit__(self, *_: Any) -> None:
        for other in self.a.others:
            other.close()
        self.a.policy._learner = self.a.policy._sampler = None


def texts(b: Batch, credits: dict[str, Tensor], own: str, tokenizer: Any) -> Json:
    """The attempts whose credit the methods see most differently, token by token; and the tokens themselves.

    Credit is relative: 1 is what a token would have if all had the same.
    """
    n = b.size(TOKEN)
    scaled = {label: c * n for label, c in credits.items()}
    apart = sum(((c - scaled[own]).abs() for c in scaled.values()), torch.zeros(n))
    if len(scaled) == 1:
        apart = scaled[own].abs()
    each = b.sum(apart, TOKEN, TRAJECTORY).nan_to_num(nan=0.0)
    rows = _rows(b)
    changed = {
        label: _most(c - scaled[own], c, scaled[own], rows, b, tokenizer)
        for label, c in scaled.items() if label != own
    }  # fmt: skip
    shown = each.argsort(descending=True, stable=True)[:SHOWN].tolist()
    return {"attempts": [_attempt(b, j, rows[j], scaled, tokenizer) for j in shown], "changed": changed}


def _attempt(b: Batch, j: int, rows: list[int], credits: dict[str, Tensor], tokenizer: Any) -> Json:
    g = int(b.structure.group[j])
    task, turns = b[TASK][g], [u for u in b.turns_of(j) if b.structure.sampled[u]]
    tokens = [t for u in turns for t in pieces(tokenizer, b.turn_ids(u))]
    prompt = task.prompt if isinstance(task.prompt, str) else task.prompt[-1].get("content", "")
    reward = float(b[REWARD][j]) if REWARD in b else math.nan
    return {
        "attempt": j, "source": task.source, "task": str(task.id), "prompt": str(prompt)[:600],
        "reward": _finite(reward),
        "finish": b[FINISH][turns[-1]] if turns else None, "tokens": tokens,
        "credit": {label: [round(float(c[k]), 4) for k in rows] for label, c in credits.items()},
    }  # fmt: skip


def _rows(b: Batch) -> list[list[int]]:
    """The TOKEN rows of each trajectory, in order."""
    s = b.structure
    sizes = torch.where(s.sampled, s.start.diff(), torch.zeros_like(s.parent))
    ends = sizes.cumsum(0).tolist()
    begins = [e - k for e, k in zip(ends, sizes.tolist())]
    return [[k for u in path for k in range(begins[u], ends[u])] for path in s.paths]


def _most(change: Tensor, new: Tensor, old: Tensor, rows: list[list[int]], b: Batch, tokenizer: Any) -> list[Json]:
    """The tokens whose credit changed most."""
    owner = {k: (j, place) for j, mine in enumerate(rows) for place, k in enumerate(mine)}
    ids = b.token_ids.tolist()
    top = change.abs().argsort(descending=True, stable=True)[:CHANGED].tolist()
    return [
        {"attempt": owner[k][0], "place": owner[k][1], "token": tokenizer.decode([ids[k]]),
         "before": round(float(old[k]), 4), "after": round(float(new[k]), 4)}
        for k in top if float(change[k]) != 0 and k in owner
    ]  # fmt: skip


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None

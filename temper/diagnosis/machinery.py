"""Pathologies of the machinery: sampler and learner apart, old rows, waiting, failed steps, and what is practised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from temper.diagnosis.record import Absent, Finding, Record, Window, figure, share, span


@dataclass(frozen=True)
class Mismatch:
    """Sampler and learner give the same tokens different probabilities, although the weights are the same.

    Looked at where ρ must be 1: at the first optimiser step on rows that are no update old. Limit 0.001 nats a token
    (k3): the local sampler stays at 1e-9 in float32 and 5e-5 in bfloat16; from 0.001 on, answers of a thousand tokens
    have weights that differ by a factor of e.
    """

    limit: float = 1e-3
    name: ClassVar[str] = "sampler–learner mismatch"
    explains: ClassVar[tuple[str, ...]] = ("clipped tokens",)
    lever: ClassVar[str] = (
        "Compare versions, `--dtype` and `--temperature`, `--top-p` of both sides; sample with `--sampler local` to see"
        " which side is off. To train in spite of it: weigh tokens by the ratio, truncated (`temper.recipes.tis`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        key = "policy_kl_first" if r.points("policy_kl_first") else "policy_kl"
        steps = dict(r.points("ledger/optimiser_steps"))
        told = r.run.get("units") or {}
        once = float(told.get("optimiser steps per step") == 1)
        behind = 0.0 if told.get("updates that sampling may lag behind") == 0 else 1.0  # of records without staleness
        old = dict(r.points("staleness/mean"))
        moved = key == "policy_kl"  # then only steps with one optimiser step tell
        fresh = [
            (s, v) for s, v in r.points(key) if old.get(s, behind) == 0 and (not moved or steps.get(s, once) == 1)
        ][-r.width :]  # fmt: skip
        if len(fresh) < 3:
            raise Absent("policy_kl at ρ = 1")
        kl = Window(fresh)
        if kl.median < self.limit:
            return None
        n = r.answers(kl.steps)
        said = (
            f"In {span(kl.steps)} the sampler's and the learner's log-probs of fresh rows differed by {kl.median:.2g}"
            " nats a token (k3), where they should be equal."
        )
        return Finding(self.name, "alarm", said, self.lever, kl.median, self.limit, kl.steps, n, key)


@dataclass(frozen=True)
class StaleRows:
    """Rows were sampled by weights that are updates old, and the policy has moved away from them.

    Limit 0.01 nats a token between the two policies, with rows that are at least half an update old: rows of `--ahead`
    2 at ordinary rates stay near 0.001, and an answer of 100 tokens then has a weight off by a factor of e.
    """

    limit: float = 0.01
    name: ClassVar[str] = "stale rows"
    explains: ClassVar[tuple[str, ...]] = ("clipped tokens",)
    lever: ClassVar[str] = (
        "Fewer updates between sampling and training (`--ahead`), a lower `--lr`, or a ratio that is truncated or"
        " clipped by sequence (`temper.recipes.tis`, `temper.recipes.gspo`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        old, kl = r.last("staleness/mean"), r.last("policy_kl")
        if old.mean < 0.5 or kl.median < self.limit:
            return None
        n = r.answers(old.steps)
        said = (
            f"In {span(old.steps)} rows were {old.mean:.1f} updates old on average, and the policy was"
            f" {figure(kl.median)} nats a token away from the one that sampled them."
        )
        return Finding(self.name, "alarm", said, self.lever, kl.median, self.limit, old.steps, n, "policy_kl")


@dataclass(frozen=True)
class Stragglers:
    """Most of a rollout is spent waiting for the last tenth of its attempts.

    Limit 0.6 of the rollout's time, and a tenth of a second. Where answers have different lengths the last tenth takes
    up to 0.4; more means that one attempt or tool holds the others up. Silent where rollouts are less than a third of
    the step.
    """

    limit: float = 0.6
    seconds: float = 0.1
    name: ClassVar[str] = "stragglers"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Bound what one attempt may take (`--max-tokens`, `--timeout`, a tool's own limit), sort long tasks out"
        " (`--data`), or let the next batch be sampled meanwhile (`--ahead`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        tail, step = r.last("perf/tail_share"), r.last("timing_s/step")
        lasts = r.last("timing_s/rollout").mean
        rollout = lasts / max(step.mean, 1e-9)
        if tail.median < self.limit or rollout < 1 / 3 or tail.median * lasts < self.seconds:
            return None
        n = r.answers(tail.steps)
        said = (
            f"In {span(tail.steps)} {share(tail.median)} of a rollout's time was waiting for its last tenth of the"
            f" attempts; rollouts take {share(min(1.0, rollout))} of a step."
        )
        return Finding(self.name, "note", said, self.lever, tail.median, self.limit, tail.steps, n, "perf/tail_share")


@dataclass(frozen=True)
class FrontierChasing:
    """The curriculum moves on to where the policy is weak and does not come back: what was learned is not kept.

    Limit: half of the sources of the first quarter are not drawn in the last, where at least 5 groups of each were due,
    while the training reward stays where it was (95 %): it then says how hard tasks are chosen, not how good the policy
    is.
    """

    limit: float = 0.5
    groups: float = 5.0
    name: ClassVar[str] = "frontier-chasing curriculum"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Keep a share for what was learned (`hardest` of `temper.parts.curricula.Growing`, or"
        " `temper.parts.curricula.Mixture`), and judge by held-out tasks of all levels (`--eval-data`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        q = r.quarters("reward")
        names = {k.split("/")[1]: r.points(k) for k in r.keys("by_source/") if k.endswith("/groups")}

        def drawn(w: Window) -> dict[str, float]:
            counts = {name: sum(n for s, n in p if w.steps[0] <= s <= w.steps[1]) for name, p in names.items()}
            return {name: n for name, n in counts.items() if n}

        if len(names) < 2:
            raise Absent("by_source/…/groups of several sources")
        early, late = drawn(q[0]), drawn(q[3])
        due = sum(late.values()) / max(1.0, sum(early.values()))  # groups in the last quarter for one in the first
        gone = sorted(name for name, n in early.items() if name not in late and n * due >= self.groups)
        lost = len(gone) / max(1, len(early))
        if not gone or lost < self.limit or r.improved("reward", q[0], q[3]):
            return None
        n = r.answers(q[3].steps)
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        said = (
            f"{len(gone)} of the {len(early)} sources of {span(q[0].steps)} ({', '.join(gone[:3])}{more}) are not drawn"
            f" in {span(q[3].steps)}, and the reward stayed at {q[3].mean:.2f}."
        )
        chart = f"by_source/{gone[0]}/reward"
        return Finding(self.name, "alarm", said, self.lever, lost, self.limit, q[3].steps, n, chart)


@dataclass(frozen=True)
class NonFinite:
    """Optimiser steps that were left out because the gradient was infinite or no number.

    Limit 0.01: one in a hundred can be an overflow of half precision; a learner in float32 has none.
    """

    limit: float = 0.01
    name: ClassVar[str] = "non-finite gradient"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Look for a loss that divides by nothing or takes a logarithm of it; lower `--lr`; `--dtype float32`."
    )

    def __call__(self, r: Record) -> Finding | None:
        p = r.points("stalled")
        if not p:
            raise Absent("stalled")
        lost = Window(p)
        if lost.mean < self.limit:
            return None
        when = [s for s, v in p if v > 0]
        said = f"{share(lost.mean)} of the optimiser steps were left out, in {len(when)} steps from step {when[0]} on."
        steps, n = (when[0], when[-1]), f"{len(p)} steps"
        return Finding(self.name, "alarm", said, self.lever, lost.mean, self.limit, steps, n, "stalled")


@dataclass(frozen=True)
class DeadGradient:
    """The gradient is 0 in most steps: nothing is learned, whatever the reward does.

    Limit 0.5 of the last window's steps with a norm below 1e-8.
    """

    limit: float = 0.5
    name: ClassVar[str] = "dead gradient"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "See what leaves no row to the loss: a gate that keeps nothing, advantages that are all 0 or NaN, adapters that"
        " are not trained (`--lora`), `--lr` 0."
    )

    def __call__(self, r: Record) -> Finding | None:
        norm = r.last("grad_norm")
        dead = sum(v < 1e-8 for _, v in norm.points) / len(norm.points)
        silent = r.points("frac_reward_zero_std")
        if dead < self.limit or (silent and Window(silent[-r.width :]).mean > 0.8):
            return None
        n = f"{len(norm.points)} steps"
        said = f"In {share(dead)} of {span(norm.steps)} the gradient was 0 although rewards differed."
        return Finding(self.name, "alarm", said, self.lever, dead, self.limit, norm.steps, n, "grad_norm")


@dataclass(frozen=True)
class Clipped:
    """Much of the batch is outside of the trust region and gives no gradient.

    Limit 0.3 of the tokens (GSPO, which clips whole answers, is at 0.15 in its paper and works; others below 0.05).
    """

    limit: float = 0.3
    name: ClassVar[str] = "clipped tokens"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "A lower `--lr`, fewer `--epochs` or `--minibatches` on one batch, a wider range (`--clip`), or a loss that"
        " bounds weights and keeps gradients (`temper.recipes.cispo`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        keys = r.keys("clip_ratio")
        key = next((k for k in ("clip_ratio/region_mean", "clip_ratio") if k in keys), None)
        if key is None:
            raise Absent("clip_ratio")
        cut = r.last(key)
        if cut.mean < self.limit:
            return None
        n = r.answers(cut.steps)
        said = f"In {span(cut.steps)} {share(cut.mean)} of the tokens were clipped and gave no gradient."
        return Finding(self.name, "alarm", said, self.lever, cut.mean, self.limit, cut.steps, n, key)


@dataclass(frozen=True)
class Dropped:
    """Attempts that could not be played.

    Limit 0.05: those that are dropped are seldom a fair sample (the long ones, the hard ones).
    """

    limit: float = 0.05
    name: ClassVar[str] = "dropped attempts"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "The reasons are in metrics.jsonl (`dropped/WHY`): shorter prompts (`--data`), a larger context, or a sounder"
        " tool; `temper.envs.budgets` bounds what an attempt may use."
    )

    def __call__(self, r: Record) -> Finding | None:
        last = r.trained[-r.width :]
        if len(last) < 3:
            raise Absent("3 steps")
        why = {k: sum(row.get(k) or 0.0 for row in last) for k in r.keys("dropped/")}
        gone, kept = sum(why.values()), sum(r.size(row) for row in last)
        lost = gone / max(1.0, gone + kept)
        if lost < self.limit:
            return None
        top = max(why, key=lambda k: why[k])
        steps = (last[0]["step"], last[-1]["step"])
        main, n = top.partition("/")[2], f"{gone + kept:,.0f} attempts"
        said = f"In {span(steps)} {share(lost)} of the attempts could not be played, most of them: {main}."
        return Finding(self.name, "alarm", said, self.lever, lost, self.limit, steps, n, top)

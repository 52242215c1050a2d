"""Toy runs that are broken in just one way: each injection sets off one alarm of `temper.diagnosis`, and no other.

rows = records(INJECTIONS["duplicate samples"](toy_run(model)))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from temper import streams
from temper.backends.base import AdamW, SamplingParams
from temper.carrier import Batch
from temper.columns import GROUP, LOGP, OUTCOME, REWARD, TASK, TOKEN, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.objective import Term, Update
from temper.parts.curricula import Shuffled
from temper.parts.second_opinion import SecondOpinion
from temper.policy import Policy
from temper.request import Drop, Request
from temper.run import Run
from temper.tasks.task import Task
from temper.testing.toys import ToyReward, random_ends

STEPS, GROUPS, ATTEMPTS = 8, 4, 8  # as few steps as a trend needs
ENDS = random_ends(SamplingParams(), every=4, longest=24)  # answers of 4 tokens on average, hardly one cut off


def toy_run(model: str, seed: int = 0, **changes: Any) -> Run:
    """A healthy run of STEPS steps on a toy model (a directory, see `toy_model`); `changes` are fields of Run.

    It learns little, which is no pathology: GRPO with a reward of the tokens' ids, at a small learning rate.
    """
    policy = Policy(model=model, optimizer=AdamW(lr=1e-3))
    m = grpo(policy, beta=0.0)
    tasks = [Task(f"{source}/{k}", f"{source} {k}", str(k), source=source) for source in "abcd" for k in range(25)]
    fields: dict[str, Any] = {
        "env": SingleTurn(), "curriculum": Shuffled(tasks, ATTEMPTS, seed), "roles": {"solver": policy},
        "on_group": [ToyReward(), *m.on_group], "on_batch": m.on_batch, "updates": [Update(policy, m.terms)],
        "steps": STEPS, "groups": GROUPS, "sampling": ENDS, "seed": seed, "name": "toy",
    }  # fmt: skip
    return Run(**{**fields, **changes})


def records(run: Run) -> list[dict[str, Any]]:
    """Train it (nothing is written) and return what it recorded, with `timing_s/rollout` as it was."""
    asyncio.run(train(run))
    return list(run.reporter.history)


# rewards ------------------------------------------------------------------------------------------------------------


@dataclass
class Scored:
    """REWARD from a function of the batch -> [trajectories]."""

    score: Callable[[Batch], Tensor]
    reads = ()
    writes = (REWARD, OUTCOME)
    metrics: dict[str, float] = field(default_factory=dict)

    async def __call__(self, b: Batch) -> Batch:
        r = self.score(b)
        self.metrics = {"rewards/outcome/ok": 1.0}
        if bool(r.isnan().any()):
            failed = float(r.isnan().float().mean())
            self.metrics = {"rewards/outcome/ok": 1 - failed, "rewards/outcome/invalid": failed}
        return b.put(REWARD, r)


def _of_task(b: Batch) -> Tensor:
    """A score of the task alone, the same for all attempts at it."""
    each = torch.tensor([streams.key(0, t.id) % 5 / 4 for t in b[TASK]])
    return b.spread(each, GROUP, TRAJECTORY)


def _length(b: Batch) -> Tensor:
    return b.count(TOKEN, TRAJECTORY) / 24


def _judge(run: Run, stage: Any) -> Run:
    run.on_group[0] = stage
    return run


def constant_reward(run: Run) -> Run:
    return _judge(run, Scored(lambda b: torch.zeros(b.size(TRAJECTORY))))


def zero_signal(run: Run) -> Run:
    return _judge(run, Scored(_of_task))


def length_reward(run: Run) -> Run:
    return _judge(run, Scored(_length))


def unparsable(run: Run) -> Run:
    """One attempt in four has no reward."""

    def score(b: Batch) -> Tensor:
        r = b.mean((b.token_ids % 17) / 16, TOKEN, TRAJECTORY)
        return torch.where(torch.arange(len(r)) % 4 == 0, torch.full_like(r, torch.nan), r)

    return _judge(run, Scored(score))


def disagreement(run: Run) -> Run:
    """The reward passes what the second checker does not, one answer in three."""
    third = Scored(lambda b: (b.token_ids[: b.size(TRAJECTORY)] % 3 == 0).float())
    passing = Scored(lambda b: (b.token_ids[: b.size(TRAJECTORY)] % 2 == 0).float())
    run.on_batch = [*run.on_batch, SecondOpinion(third)]
    return _judge(run, passing)


# sampling -----------------------------------------------------------------------------------------------------------


@dataclass
class Drifting:
    """A curriculum whose n-th round of requests is sampled with `params(n)`."""

    inner: Any
    params: Callable[[int], Mapping[str, Any]]
    rounds: int = 0

    def next(self, n: int) -> list[Request]:
        self.rounds += 1
        return [replace(r, params={**r.params, **self.params(self.rounds)}) for r in self.inner.next(n)]

    def observe(self, group: Batch) -> None:
        self.inner.observe(group)


def _drift(run: Run, params: Callable[[int], Mapping[str, Any]]) -> Run:
    run.curriculum = Drifting(run.curriculum, params)
    return run


def answer_collapse(run: Run) -> Run:
    """One token may be sampled, whatever the task."""
    return _drift(run, lambda n: {"allowed": (4,), "stop_ids": (4,)})


def entropy_collapse(run: Run) -> Run:
    """The temperature falls to a twentieth, and nothing is learned meanwhile."""
    hashed = Scored(lambda b: torch.tensor([streams.key(0, *b.turn_ids(p[-1])) % 7 / 6 for p in b.structure.paths]))
    params = {"stop_ids": tuple(range(1, 4096, 4))}
    run = _rate(_judge(run, hashed), 1e-6)
    return _drift(run, lambda n: {**params, "temperature": max(0.045, 0.3 ** (n - 1))})


def length_blow_up(run: Run) -> Run:
    """Ends become rarer, step by step."""
    return _drift(run, lambda n: {"stop_ids": tuple(range(0, 4096, 2 + 2 * n)), "max_tokens": 96})


def truncation(run: Run) -> Run:
    return _drift(run, lambda n: {"max_tokens": 3})


@dataclass
class Patched:
    """A probe that wraps the sampler of the run's policy before the first step."""

    wrap: Callable[[Any, Callable[..., Any]], Callable[..., Any]]

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        if step == 0:
            for policy in run.roles.values():
                sampler: Any = policy.sampler
                sampler.sample = self.wrap(policy, sampler.sample)
        return {}


def duplicates(run: Run) -> Run:
    """All attempts at a task draw the same random numbers."""

    def wrap(policy: Any, sample: Callable[..., Any]) -> Callable[..., Any]:
        async def shared(ids: Any, params: SamplingParams) -> Any:
            return await sample(ids, replace(params, seed=streams.key(policy.version, *ids)))

        return shared

    run.probes = [*run.probes, Patched(wrap)]
    return run


def mismatch(run: Run) -> Run:
    """The sampler reports log-probs that are off by a tenth, up and down."""

    def wrap(policy: Any, sample: Callable[..., Any]) -> Callable[..., Any]:
        async def off(ids: Any, params: SamplingParams) -> Any:
            done = await sample(ids, params)
            return replace(done, logp=tuple(x + (0.1 if i % 2 else -0.1) for x, i in zip(done.logp, done.ids)))

        return off

    run.probes = [*run.probes, Patched(wrap)]
    return run


# environments, curricula, updates -------------------------------------------------------------------------------------


@dataclass
class Slow(SingleTurn):
    """The last attempt of each round takes five times as long as the others took."""

    played: int = 0
    began: float = 0.0

    async def play(self, task: Task, roles: Mapping[str, Any]) -> Any:
        self.played += 1
        late, now = self.played % (GROUPS * ATTEMPTS), time.perf_counter()
        self.began = now if late == 1 else self.began
        episode = await super().play(task, roles)
        await asyncio.sleep(0 if late else max(0.15, 4 * (time.perf_counter() - self.began)))
        return episode


@dataclass
class Failing(SingleTurn):
    """Every fifth attempt cannot be played."""

    played: int = 0

    async def play(self, task: Task, roles: Mapping[str, Any]) -> Any:
        self.played += 1
        if self.played % 5 == 0:
            raise Drop("no tool")
        return await super().play(task, roles)


@dataclass
class Chasing:
    """Draws from one source for two steps, and then never again."""

    tasks: Sequence[Task]
    attempts: int = ATTEMPTS
    rounds: int = 0

    def next(self, n: int) -> list[Request]:
        source = "abcd"[min(3, self.rounds // 2)]
        mine = [t for t in self.tasks if t.source == source]
        start = n * (self.rounds % 2)
        self.rounds += 1
        return [Request(t, self.attempts) for t in mine[start : start + n]]

    def observe(self, group: Batch) -> None:
        pass


@dataclass(frozen=True)
class Infinite:
    """A loss that is infinite in the steps that hold an id divisible by 50."""

    reads = (LOGP,)

    def __call__(self, b: Batch) -> Tensor:
        return b[LOGP] / (b.token_ids % 50)


def stragglers(run: Run) -> Run:
    run.env = Slow()
    return run


def dropped(run: Run) -> Run:
    run.env = Failing()
    return run


def frontier(run: Run) -> Run:
    shuffled: Any = run.curriculum
    run.curriculum = Chasing(shuffled.tasks)
    return run


def stale(run: Run) -> Run:
    """Rows are three updates old, at thirty times the rate."""
    return _rate(replace(run, ahead=3), 3e-2)


def clipped(run: Run) -> Run:
    """Five epochs on every batch, at ten times the rate."""
    run.updates[0].epochs = 5
    return _rate(run, 1e-2)


def non_finite(run: Run) -> Run:
    run.updates[0].terms = [*run.updates[0].terms, Term("infinite", Infinite(), coef=1e-3)]
    return run


def dead(run: Run) -> Run:
    """Advantages are 0 although rewards differ."""
    run.updates[0].terms = [replace(t, coef=0.0) for t in run.updates[0].terms]
    return run


def _rate(run: Run, lr: float) -> Run:
    run.updates[0].policy.optimizer = AdamW(lr=lr)
    return run


INJECTIONS: dict[str, Callable[[Run], Run]] = {
    "constant reward": constant_reward,
    "zero-signal groups": zero_signal,
    "unparsable reward": unparsable,
    "length-correlated reward": length_reward,
    "verifier disagreement": disagreement,
    "answer collapse": answer_collapse,
    "entropy collapse": entropy_collapse,
    "duplicate samples": duplicates,
    "length blow-up": length_blow_up,
    "truncation": truncation,
    "sampler–learner mismatch": mismatch,
    "stale rows": stale,
    "stragglers": stragglers,
    "frontier-chasing curriculum": frontier,
    "non-finite gradient": non_finite,
    "dead gradient": dead,
    "clipped tokens": clipped,
    "dropped attempts": dropped,
}


def diverging(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of a healthy run, with a training reward that rises and held-out pass@1 that falls.

    Synthetic: what makes the two part (a judge that is gamed) takes a longer run than a test.
    """
    out = [{**row, "reward": row["reward"] + 0.1 * n} for n, row in enumerate(r for r in rows if r["step"])]
    for n, row in enumerate(out):
        row["eval/pass@1"] = 0.6 - 0.03 * n
    return out

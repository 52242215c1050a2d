"""Temper's side of a workload: GRPO with its defaults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from temper.backends.base import AdamW, SamplingParams
from temper.bench.workloads import Workload
from temper.carrier import Batch
from temper.columns import REWARD, TOKEN, TRAJECTORY
from temper.envs.chat import Chat
from temper.envs.single import SingleTurn
from temper.episode import Episode, Recorder
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy, Seat
from temper.run import Run
from temper.tasks.task import Task

STEPS = 1_000_000


@dataclass
class Letters:
    """Reward: the share of lower-case letters among the sampled tokens."""

    spent: dict[str, float] = field(default_factory=dict)  # CPU seconds by part
    reads = ()
    writes = (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        began = time.process_time()
        hit = ((b.token_ids >= 97) & (b.token_ids < 123)).float()
        made = b.put(REWARD, b.mean(hit, TOKEN, TRAJECTORY))
        self.spent["reward"] = self.spent.get("reward", 0.0) + time.process_time() - began
        return made


@dataclass
class Looking:
    """The policy speaks `turns` times; between two it is shown the same text."""

    turns: int
    observed: str
    roles = ("solver",)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat = Chat(roles["solver"], Recorder(task), turns=self.turns)
        chat.start(task.messages)
        while await chat.say() is not None and chat.observe([{"role": "tool", "content": self.observed}]):
            pass
        chat.judge()
        return chat.record.episode()


def run_of(workload: Workload, model: str, spent: dict[str, float] | None = None) -> Run:
    policy = Policy(model=model, optimizer=AdamW(lr=1e-6), device="cpu")
    method = grpo(policy, beta=0.0)
    tasks = [Task(str(i), text) for i, text in enumerate(workload.prompts())]
    observed = "x" * workload.observed
    return Run(
        env=SingleTurn() if workload.turns == 1 else Looking(workload.turns, observed),
        curriculum=Shuffled(tasks, workload.attempts),
        roles={"solver": policy},
        on_group=[Letters({} if spent is None else spent), *method.on_group],
        on_batch=method.on_batch,
        updates=[Update(policy, method.terms)],
        steps=STEPS,
        groups=workload.groups,
        sampling=SamplingParams(max_tokens=workload.answer),
        transcripts_every=0,
    )


def loop(
    workload: Workload, model: str, told: dict[str, Any], spent: dict[str, float] | None = None
) -> Callable[[Callable[[], None]], None]:
    """The training loop; `told` gets the metrics of the last step, `spent` the CPU seconds of rewards."""

    def go(tick: Callable[[], None]) -> None:
        run = run_of(workload, model, spent)

        class Probe:
            async def __call__(self, run: Run, step: int) -> dict[str, float]:
                if step:
                    told.update(run.reporter.history[-1] if run.reporter.history else {})
                    tick()
                return {}

        run.probes.append(Probe())
        torch.set_num_threads(1)
        asyncio.run(train(run))

    return go

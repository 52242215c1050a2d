"""Runs whose samplers have weights of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from temper.backends.base import Gone, SamplingParams
from temper.backends.own import OwnSampler
from temper.bridge import token_versions
from temper.columns import VERSION
from temper.envs.single import SingleTurn
from temper.episode import Recorder
from temper.fleet import Fleet
from temper.loop import train
from temper.objective import Update
from temper.policy import Policy
from temper.run import Run
from tests.seams import toys


class Apart(Policy):
    """A policy with `replicas` samplers of their own; each waits `pause` seconds before it answers, where given."""

    replicas = 1
    pause: Any = None

    def open(self, modules: Any = ()) -> None:
        super().open(modules)
        made = [Slow(self.learner.module, self.tokenizer, self.pause, i) for i in range(self.replicas)]  # type: ignore[attr-defined]
        self.serve(Fleet(made))


class Slow(OwnSampler):
    """pause: (replica, ids, params) -> seconds before the answer."""

    def __init__(self, module: Any, tokenizer: Any, pause: Any, number: int):
        super().__init__(module, tokenizer)
        self.pause, self.number = pause, number
        self.loads: list[int] = []
        self.lost = False

    async def load(self, weights: Any, version: int) -> Any:
        self.loads.append(version)
        return await super().load(weights, version)

    async def sample(self, ids: tuple[int, ...], params: SamplingParams, heard: Any = None) -> Any:
        if self.pause is not None:
            await asyncio.sleep(self.pause(self.number, ids, params))
        if self.lost:
            raise Gone("pulled the plug")
        return await super().sample(ids, params, heard)


class Ages:
    """A stage that notes how many versions old each token is when it is trained on, and which versions a turn has."""

    reads, writes = (VERSION,), ()

    def __init__(self, policy: Policy):
        self.policy = policy
        self.gaps: list[list[int]] = []
        self.batches: list[Any] = []

    async def __call__(self, b: Any) -> Any:
        self.gaps.append((self.policy.version - token_versions(b)).tolist())
        self.batches.append(b)
        return b


def apart(model: str, replicas: int = 1, pause: Any = None, **fields: Any) -> tuple[Run, Ages]:
    policy = Apart("policy", model, optimizer=toys.policy(model).optimizer)
    policy.replicas, policy.pause = replicas, pause
    ages = Ages(policy)
    given: dict[str, Any] = {
        "env": SingleTurn(), "curriculum": toys.curriculum(3), "roles": {"solver": policy},
        "on_group": [toys.ShareOf(), toys.CENTRED], "on_batch": [ages], "steps": 4, "groups": 2,
        "updates": [Update(policy, [toys.POLICY_TERM])], "sampling": toys.SHORT,
    }  # fmt: skip
    return Run(**{**given, **fields}), ages


def go(run: Run, folder: Path | None = None) -> list[dict[str, Any]]:
    run.out = folder
    asyncio.run(train(run))
    return run.reporter.history


class Twice:
    """Two answers, with a word in between."""

    roles = ("solver",)

    async def play(self, task: Any, roles: Any) -> Any:
        seat, record = roles["solver"], Recorder(task)
        first = record.add(seat.chat(task.messages))
        said = record.sampled(await self.asked(seat, record.context(first)), first)
        more = record.add(tuple(seat.tokenizer.encode(" again ", add_special_tokens=False)), said)
        again = record.sampled(await self.asked(seat, record.context(more)), more)
        record.judge((first, said, more, again))
        return record.episode()

    async def asked(self, seat: Any, ids: tuple[int, ...]) -> Any:
        return await seat.sample(ids)


class Served(Twice):
    """The same; what is sampled is asked for by the task of a server, which began with the first play."""

    server: Any = None

    async def asked(self, seat: Any, ids: tuple[int, ...]) -> Any:
        if self.server is None:
            self.queue: asyncio.Queue[Any] = asyncio.Queue()
            self.server = asyncio.ensure_future(self._serve())
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((seat, ids, answer))
        return await answer

    async def _serve(self) -> None:
        async def one(seat: Any, ids: Any, answer: Any) -> None:
            try:
                answer.set_result(await seat.sample(ids))
            except Exception as error:
                answer.set_exception(error)

        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(one(*await self.queue.get()))

    async def aclose(self) -> None:
        self.server.cancel()
        await asyncio.gather(self.server, return_exceptions=True)

"""A reward actor. Nothing heavy is imported here: it starts at once, and starts again at once."""

from __future__ import annotations

import os
import pickle
import socket
from typing import Any

import ray

from temper.rewards.pool import Pool
from temper.rewards.verdict import Verdict
from temper.rewards.worker import Call


def where() -> dict[str, Any]:
    """Who and where this process is."""
    context = ray.get_runtime_context()
    return {
        "pid": os.getpid(), "host": socket.gethostname(), "node": context.get_node_id(), "gpus": ray.get_gpu_ids(),
    }  # fmt: skip


class RewardBody:
    """A pool of one reward process: what a function does to its process stays there."""

    def __init__(self, blob: bytes, threads: int):
        self.given = blob
        self.done = self.open = 0

    async def about(self) -> dict[str, Any]:
        functions, timeout = pickle.loads(self.given)
        self.pool = Pool(functions, timeout, 1)
        return where()

    async def run(self, calls: list[Call]) -> list[list[Verdict]]:
        self.open += 1
        try:
            answers = await self.pool.run(calls)
        finally:
            self.open -= 1
        self.done += len(calls)
        return answers

    @ray.method(concurrency_group="beat")
    async def beat(self) -> tuple[int, bool]:
        return self.done, self.open > 0

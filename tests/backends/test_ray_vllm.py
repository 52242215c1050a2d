"""vLLM as the sampler inside an actor: `make vllm` runs this."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("vllm")

from temper.backends.base import SamplingParams
from temper.backends.ray import Ray
from temper.policy import Policy

PROMPTS = [tuple(range(3, 9 + n)) for n in range(4)]


async def answers(policy: Policy) -> list[Any]:
    asked = [SamplingParams(max_tokens=8, seed=n) for n in range(len(PROMPTS))]
    return list(await asyncio.gather(*map(policy.sampler.sample, PROMPTS, asked)))


def test_an_actor_with_vllm_answers_as_the_local_sampler() -> None:
    here = Policy()
    here.open()
    there = Policy(engine="vllm")
    there.backend = Ray()
    there.open()
    try:

        async def go() -> None:
            weights = {name: w * 1.1 for name, w in here.learner.weights().items()}
            ack = await there.sampler.load(weights, 1)
            here.learner.load(weights)
            assert ack == await here.sampler.load(weights, 1)
            for mine, theirs in zip(await answers(there), await answers(here), strict=True):
                assert mine.ids == theirs.ids and mine.version == 1
                assert mine.logp == pytest.approx(theirs.logp, abs=1e-3)

        asyncio.run(go())
    finally:
        there.close()
        here.close()

"""RLSP: the exploration term, its bound, running moments, and an actor that waits."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from temper.backends.base import AdamW
from temper.columns import REWARD
from temper.loop import train
from temper.methods.objectives.rlsp import ThinkingReward, exploration, rlsp
from temper.parts.shaping import SHAPED
from temper.policy import Policy
from temper.recipes.rlsp import rlsp as recipe
from tests.methods.test_outcome_exploration import answered


def test_longer_thinking_costs_less_and_saturates() -> None:
    terms = [exploration("x" * n + "</think>4", 10.0, 0.5) for n in (8, 80, 160, 800, 8000)]
    assert terms == sorted(terms) and terms[0] == -0.5 and terms[1] == -0.5 and terms[2] == -0.25
    assert terms[4] == pytest.approx(-0.005)
    assert exploration("x" * 800, 10.0, 0.5) == -0.5  # what is not thinking does not count
    assert exploration("xx</think>" + "4" * 4000, 10.0, 0.5) == -0.5  # nor what stands behind the answer


def test_it_cannot_outweigh_correctness_beyond_the_cap() -> None:
    assert 1.0 + exploration("</think>4", 1e6, 0.5) > 0.0 + exploration("x" * 10**6 + "</think>5", 1.0, 0.5) - 1e-9


def test_reward_by_hand() -> None:
    thought = "x" * 40  # ten of four characters
    b = answered(
        [f"{thought}</think>4", f"{thought}</think>5", f"{thought}</think>", f"{thought}</think>4"],
        [1.0, 0.0, 0.0, 1.0],
    )
    b = b.put(REWARD, torch.tensor([1.0, 0.0, 0.0, math.nan]))
    plain = asyncio.run(ThinkingReward(2.0, normalise=False)(b))[SHAPED]
    assert plain[:3].tolist() == pytest.approx([0.8, -0.2, -0.7]) and bool(plain[3].isnan())
    judged = ThinkingReward(0.0, effort=lambda text: None if "5" in text else 1.0, normalise=False)
    assert asyncio.run(judged(b))[SHAPED][:3].tolist() == pytest.approx([0.8 + 0.2, 0.1, -0.4 + 0.2])


def test_running_moments_are_those_of_everything_seen_and_are_kept() -> None:
    one, seen = ThinkingReward(), [1.0, 0.0, 1.0, 0.5]
    one.normalised(torch.tensor(seen[:2]))
    two = ThinkingReward()
    two.load_state_dict(one.state_dict())
    got = two.normalised(torch.tensor([*seen[2:], math.nan]))
    assert got[:2].tolist() == pytest.approx([(x - mean(seen)) / stdev(seen) for x in seen[2:]]) and bool(
        got[2].isnan()
    )
    assert ThinkingReward().normalised(torch.tensor([0.7])).tolist() == [0.0]
    assert ThinkingReward().normalised(torch.tensor([0.7, 0.7])).tolist() == [0.0, 0.0]


def test_the_actor_waits_for_its_critic_to_the_bit(exact_model: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {w}", "answer": "{w}"}}\n' for w in "abcd"))
    sizes = {"steps": 2, "groups": 2, "attempts": 3, "max_tokens": 4, "eval_tasks": 0, "save_every": 0}
    run = recipe(model=exact_model, data=str(rows), reward=("exact_match",), freeze=2, minibatches=1, **sizes)
    policy = next(iter(run.roles.values()))
    run.out, run.threads, kept = tmp_path / "run", 1, {}

    class Look:
        async def __call__(self, run: object, step: int) -> dict[str, float]:
            now = policy.learner.weights()
            kept[step] = {n: w.clone() for n, w in now.items()}
            return {}

    run.probes = [Look()]
    asyncio.run(train(run))
    assert set(kept) == {0, 1, 2}
    assert all(torch.equal(kept[0][n], kept[2][n]) for n in kept[0])


def test_terms() -> None:
    made = rlsp(Policy(optimizer=AdamW()))
    assert [made.terms[0].coefficient(s) for s in (0, 3, 4, 9)] == [0.0, 0.0, 1.0, 1.0]
    assert [t.name for t in made.terms] == ["policy", "value"]

"""Relax: what a staleness asks of the loss and of the run; samplers in this process that go on meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from temper.backends.own import Apart
from temper.columns import LOGP
from temper.errors import UserError
from temper.fleet import Fleet
from temper.loop import train
from temper.methods.rollouts.relax import relax as method
from temper.objective import Update
from temper.parts.ratios import TruncatedIS
from temper.recipes.relax import relax
from temper.simulate import Lognormal, World, simulate
from temper.streaming import streams
from temper.sync import SYNC
from tests.asynchrony.parts import Ages
from tests.core.test_invariants import small
from tests.seams import toys


def test_the_loss_of_a_staleness() -> None:
    policy = toys.policy("temper-tiny")
    for staleness in (0, 1):  # the clipped ratio to what was recorded
        m = method(policy, staleness=staleness)
        assert m.on_batch == [] and [t.name for t in m.terms] == ["policy"]
        assert LOGP.of("behaviour") in m.terms[0].reads
    m = method(policy, staleness=2, cap=3.0)
    assert [s.cap for s in m.on_batch if isinstance(s, TruncatedIS)] == [3.0]


def test_its_options_reach_the_run() -> None:
    run = relax(staleness=3, sync="staggered", eval_tasks=0)
    assert run.ahead == 3 and run.sync == SYNC["staggered"]
    with pytest.raises(UserError, match="samplers must be at least 1, got 0"):
        Apart(0)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_samplers_of_their_own_in_this_process(toy_model: str, tmp_path: Path, staleness: int) -> None:
    """In real time: updates in a thread, answers cut and resumed; no token is more than that old."""
    policy = toys.policy(toy_model)
    policy.backend = Apart(2)
    m = method(policy, staleness=staleness)
    ages = Ages(policy)
    fields: dict[str, Any] = {"on_group": [toys.ShareOf(), *m.on_group], "on_batch": [*m.on_batch, ages], "steps": 3,
                              "updates": [Update(policy, m.terms)]}  # fmt: skip
    run = small(toy_model, policy=policy, ahead=staleness, sync=SYNC["resume"], **fields)
    run.out = tmp_path
    asyncio.run(train(run))
    assert len(ages.gaps) == 3 and all(0 <= gap <= staleness for gaps in ages.gaps for gap in gaps)


def test_streaming_and_staleness_shorten_steps(toy_model: str) -> None:
    """Its ladder: one after the other, streamed at staleness 0, one step off, two; the same requests each time."""
    world = World(samplers=2, slots=4, token=1.0, train=0.2, tail=Lognormal(1.0))
    totals = []
    for staleness, whole in ((0, True), (0, False), (1, False), (2, False)):
        policy = toys.policy(toy_model)
        m = method(policy, staleness=min(staleness, 1))
        run = small(
            toy_model, policy=policy, on_group=[toys.ShareOf(), *m.on_group], groups=4, steps=5, ahead=staleness,
            sync=SYNC["resume"], streamed=not whole, transcripts_every=0,
        )  # fmt: skip
        with run.live():
            run.apart = True
            assert streams(run) == (staleness == 0 and not whole)
        totals.append(simulate(run, world).total)
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[1] > totals[2], totals


def test_a_fleet_is_made_of_the_local_model(toy_model: str) -> None:
    policy = toys.policy(toy_model)
    policy.backend = Apart(2)
    policy.open()
    assert isinstance(policy.sampler, Fleet) and policy.backend == Apart(2)
    modules = [r.sampler.module for r in policy.sampler.replicas]
    learner: Any = policy.learner
    assert len({id(m) for m in (*modules, learner.module)}) == 3  # each its own

"""AsyncFlow: the three rungs of its ladder, by what each may do."""

from __future__ import annotations

import pytest

from temper.recipes.asyncflow_transferqueue import asyncflow_transferqueue
from temper.simulate import Lognormal, World, simulate
from temper.streaming import streams
from temper.sync import SYNC
from tests.core.test_invariants import small
from tests.seams import toys


@pytest.mark.parametrize(
    ("options", "begins"),
    [({"streamed": False, "staleness": 0}, False), ({"staleness": 0}, True), ({"staleness": 1}, False)],
    ids=["separated", "streamed", "delayed"],
)
def test_the_rungs(options: dict[str, object], begins: bool) -> None:
    run = asyncflow_transferqueue(eval_tasks=0, **options)
    assert run.ahead == options["staleness"] and run.sync == SYNC["delayed"]
    with run.live():
        run.apart = True
        assert streams(run) == begins


def test_the_ladder_in_a_balanced_world(toy_model: str) -> None:
    """Sampling, judging and training take about as long: 6 answers of 6 s on 3 slots, 2 s and 2 s each."""
    base = {"samplers": 1, "slots": 3, "token": 1.0, "tail": Lognormal(0.5), "judge": 2.0, "train": 0.33}
    totals = []
    for streamed, ahead in ((False, 0), (True, 0), (True, 1)):
        run = small(toy_model, steps=6, ahead=ahead, sync=SYNC["delayed"], transcripts_every=0, streamed=streamed)
        totals.append(simulate(run, World(**{**base, "streamed": streamed})).total)  # type: ignore[arg-type]
    assert totals[0] > 1.15 * totals[1] and totals[1] > 1.1 * totals[2], totals


def test_weights_are_taken_over_between_answers(toy_model: str) -> None:
    """Delayed: the learner goes on at once, and no turn has two versions."""
    from temper.columns import VERSION, VERSIONS
    from tests.asynchrony.parts import Ages

    policy = toys.policy(toy_model)
    ages = Ages(policy)
    run = small(toy_model, policy=policy, on_batch=[ages], steps=6, ahead=1, sync=SYNC["delayed"])
    simulate(run, World(samplers=2, slots=2, token=1.0, train=0.05, tail=Lognormal(1.0)))
    assert all(VERSION in b and VERSIONS not in b for b in ages.batches)
    assert {gap for gaps in ages.gaps for gap in gaps} == {0, 1}

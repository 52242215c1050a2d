"""GVM: the allocation against random ones, exact totals, what a probe tells, and pools one after another."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from temper.carrier import Batch
from temper.columns import REWARD
from temper.errors import UserError
from temper.methods.objectives.gvm_raft import gvm_raft
from temper.objective import token_mean
from temper.parts.budget import PROBE, Budgeted, NoProbe, ProbeNorms, allocate, worth
from temper.parts.score_norms import GRADIENT_NORM, GradientNorms
from temper.parts.signals import RewardVaries
from temper.policy import Policy
from temper.request import Request
from temper.run import _one_at_a_time
from temper.tasks.task import Task
from tests.core.hand import chain


def test_the_rule_without_alpha_has_the_least_variance() -> None:
    """Σ G²/(p n) against 200,000 random allocations of the same total."""
    rng = np.random.default_rng(0)
    g, p = rng.uniform(0.2, 3.0, 6), rng.uniform(0.02, 1.0, 6)
    w = np.array([worth(a, b, alpha=0.0) for a, b in zip(g, p)])
    assert w == pytest.approx(g / np.sqrt(p))
    best = (g**2 / (p * 64 * w / w.sum())).sum()
    others = (g**2 / (p * 64 * rng.dirichlet(np.ones(6), 200_000))).sum(1)
    assert best <= others.min()
    assert best == pytest.approx(w.sum() ** 2 / 64)


def test_alpha_holds_back_what_is_hardly_ever_solved() -> None:
    assert worth(1.0, 1e-4, alpha=0.0) == pytest.approx(100.0)
    assert worth(1.0, 1e-4) == pytest.approx(1 / (1e-4 + 1e-3 / 1e-4) ** 0.5)  # 0.32, below that of p = 1
    assert worth(1.0, 1e-4) < worth(1.0, 1.0) < worth(1.0, 0.25)
    assert worth(2.0, 0.0) == worth(0.0, 0.5) == worth(float("nan"), 0.5) == 0.0


def test_attempts_add_up_exactly() -> None:
    assert allocate([1.0, 1.0, 1.0], 8) == [3, 3, 2]  # ties in the order of tasks
    assert allocate([3.0, 0.0, 1.0], 8) == [6, 0, 2]
    assert allocate([0.0, 0.0], 8) == [0, 0]
    rng = np.random.default_rng(1)
    for _ in range(200):
        w = (rng.pareto(1.0, 9) * (rng.random(9) < 0.7)).tolist()
        for least in (0, 2):
            n = allocate(w, 72, least)
            assert sum(n) == (72 if any(x > 0 for x in w) else 0)
            assert all(k == 0 for k, x in zip(n, w) if x == 0)
            if least:
                assert all(k >= 2 for k, x in zip(n, w) if x > 1e-6)
            else:
                exact = [x / max(sum(w), 1e-9) * 72 for x in w]
                assert all(abs(k - x) < 1.001 for k, x in zip(n, exact))


def test_a_floor_of_two_where_it_is_affordable() -> None:
    assert allocate([100.0, 1.0, 1.0], 10, least=2) == [6, 2, 2]
    assert allocate([3.0, 1.0, 2.0], 5, least=2) == [3, 0, 2]  # for three tasks it is not: the least worthy gets none
    assert allocate([3.0, 1.0], 1, least=2) == [0, 0]


def test_noise_of_the_layout_changes_no_attempt() -> None:
    w = [2.5, 1.5, 3.5, 0.5]
    assert allocate([x + 1e-9 for x in w], 4) == allocate([x - 1e-9 for x in w], 4) == allocate(w, 4)


TASKS = [Task(f"t{n}", f"say {n}", str(n)) for n in range(4)]


def answered(request: Request, rewards: list[float | None], norms: list[float] | None = None) -> Batch:
    plays = [replace(chain(request.task, "1", 2, r), split=request.split) for r in rewards]
    judged = torch.tensor([torch.nan if r is None else r for r in rewards])
    return Batch.of(plays).put(REWARD, judged).put(GRADIENT_NORM, torch.tensor(norms or [torch.nan] * len(plays)))


def test_norms_are_measured_on_accepted_probes_only(exact_model: str) -> None:
    policy = Policy(model=exact_model, dtype="float64")
    policy.open()
    rewards = [1.0, 0.0, None, 1.0]
    plays = [chain(TASKS[0], "1", n, r) for n, r in zip((2, 3, 1, 4), rewards)]
    stage, whole = ProbeNorms(GradientNorms(policy, "wte")), GradientNorms(policy, "wte")
    probes = Batch.of([replace(e, split=PROBE) for e in plays])
    got, all_of = (asyncio.run(s(probes))[GRADIENT_NORM] for s in (stage, whole))
    assert got.isnan().tolist() == [False, True, True, False]
    assert got[[0, 3]].tolist() == pytest.approx(all_of[[0, 3]].tolist(), rel=1e-5)
    assert bool(asyncio.run(stage(Batch.of(plays)))[GRADIENT_NORM].isnan().all())  # training attempts cost nothing


def test_a_pool_is_probed_then_dealt_out_then_comes_the_next() -> None:
    made = Budgeted(TASKS, attempts=4, pool=4, probes=3)
    probes = made.next(3) + made.next(3)
    assert len(probes) == 4 and {(r.split, r.attempts) for r in probes} == {(PROBE, 3)}
    assert len({r.task.id for r in probes}) == 4
    for request, (rewards, norms) in zip(probes, (
        ([1.0, 0.0, None], [2.0, 50.0, 50.0]),  # p = 1/2 of those judged; G = 2, of the accepted alone
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([0.0, 0.0, 0.0], [9.0, 9.0, 9.0]), ([None, None, None], [9.0, 9.0, 9.0]),
    )):  # fmt: skip
        made.observe(answered(request, rewards, norms))
    trained = made.next(4)
    w = [worth(2.0, 0.5), worth(2.0, 1.0)]
    assert [r.task.id for r in trained] == [r.task.id for r in probes[:2]]
    assert [r.attempts for r in trained] == allocate(w, 16) and sum(r.attempts for r in trained) == 16
    assert {r.split for r in trained} == {"train"}
    made.observe(answered(trained[0], [1.0], [7.0]))  # what is trained on tells the plan nothing
    assert not made.found
    assert [r.split for r in made.next(4)] == [PROBE] * 4


def test_filters() -> None:
    made = Budgeted(TASKS, 4, pool=3, ceiling=0.9, enough=2.0)
    assert made.dealt([(1.0, 5.0), (0.5, 2.0), (0.1, 0.01)]) == [0, 12, 0]


def test_a_lost_probe_holds_up_one_more_pool_at_most() -> None:
    made = Budgeted(TASKS, 1, pool=2, probes=1)
    kept, _ = made.next(2)
    made.observe(answered(kept, [1.0], [1.0]))
    again = made.next(2)  # of the first pool one attempt never landed
    assert [r.split for r in again] == [PROBE] * 2
    for r in again:
        made.observe(answered(r, [0.0]))
    assert [(r.task.id, r.attempts) for r in made.next(2)] == [(kept.task.id, 2)]


def test_a_pool_that_is_never_right_is_passed_over() -> None:
    made = Budgeted(TASKS, 1, pool=2, probes=1)
    for r in made.next(2):
        made.observe(answered(r, [0.0]))
    assert [r.split for r in made.next(2)] == [PROBE] * 2


def test_probes_are_not_trained_on() -> None:
    probe, other = (Request(TASKS[0], 2, split=s) for s in (PROBE, "train"))
    assert not NoProbe()(answered(probe, [1.0, 0.0])) and NoProbe()(answered(other, [1.0, 1.0]))
    assert not NoProbe(RewardVaries())(answered(other, [1.0, 1.0])) and NoProbe(RewardVaries()).reads == (REWARD,)


def test_norms_wait_for_an_update_that_goes_on() -> None:
    """Probes may land while a step is trained: half-updated weights would give the gradient of no policy."""
    said: list[str] = []
    began = threading.Event()

    def update() -> None:
        began.set()
        time.sleep(0.1)
        said.append("updated")

    learner = SimpleNamespace(update=update, read=None, gradient_norms=lambda: said.append("norms"))
    _one_at_a_time(learner)
    thread = threading.Thread(target=learner.update)
    thread.start()
    began.wait()
    learner.gradient_norms()
    thread.join()
    assert said == ["updated", "norms"]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="probes must be at least 1, got 0"):
        Budgeted(TASKS, probes=0)


def test_forms() -> None:
    for form, least in (("raft++", 0), ("grpo", 2)):
        made = gvm_raft(None, form=form, pool=4, beta=0.0)  # type: ignore[arg-type]
        assert made.curriculum is not None and made.curriculum(TASKS, 4, 0).least == least  # type: ignore[attr-defined]
        assert isinstance(made.on_group[0], ProbeNorms) and [t.name for t in made.terms] == ["policy"]
        assert made.terms[0].per is token_mean  # as Σ log π up to a factor of the batch: what G measures is trained on

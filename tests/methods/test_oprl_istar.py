"""OPRL (iStar): step rewards and both advantages by hand; what the process model learns, and from what it does not."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.envs.try_again import TryAgain
from temper.episode import ENV, Completion, Episode, Recorder
from temper.methods.objectives.oprl_istar import oprl_istar
from temper.objective import Term
from temper.parts.advantages import Advantage, leave_one_out, unscaled
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.process_rewards import (
    BEGINS,
    PROCESS,
    STEPS,
    By,
    PairLoss,
    ProcessRewards,
    StepAdvantage,
    Steps,
    pair_mean,
)
from temper.policy import Policy
from temper.tasks.task import Task
from temper.testing import check_method
from tests.core.hand import tree
from tests.methods.groups import of
from tests.parts.toys import SoftmaxPolicy

TEXTS = {1: "a", 2: " ", 3: "\n", 4: " b", 5: "c\n", 6: "d", 7: "\n\n"}
READER = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids: TEXTS.get(ids[0], "x")))


def said(*turns: tuple[int, ...], reward: float | None = None, request: str = "0", logp: float = -1.0) -> Episode:
    """One trajectory: a prompt, then turns with an observation between them."""
    record = Recorder(Task("t", "?"))
    at = record.add((0,))
    path = [at]
    for n, ids in enumerate(turns):
        at = record.add((0, 0), at, author=ENV) if n else at
        path += [at] if n else []
        at = record.sampled(Completion(ids, (logp,) * len(ids)), at)
        path.append(at)
    record.judge(path, reward=reward)
    e = record.episode()
    return Episode(e.task, e.turns, e.trajectories, request)


def run(b: Batch, *stages: Any) -> Batch:
    for stage in stages:
        b = asyncio.run(stage(b))
    return b


def begins(*turns: tuple[int, ...], by: By) -> list[int]:
    found: list[int] = run(Batch.of([said(*turns)]), Steps(READER, by))[BEGINS].int().tolist()
    return found


def test_steps_are_turns_or_pieces_of_the_only_turn() -> None:
    assert begins((1, 3, 6), (1, 3, 1), by="line") == [1, 0, 0, 1, 0, 0]  # several turns: nothing inside one
    assert begins((1, 3, 6, 5, 1), by="turn") == [1, 0, 0, 0, 0]
    assert begins((1, 3, 6, 5, 1), by="line") == [1, 0, 1, 0, 1]
    assert begins((1, 2, 6, 4, 6), by="word") == [1, 0, 1, 1, 0]
    assert begins((1, 7, 3, 1), by="line") == [1, 0, 0, 1]  # marks belong to the step that they end


def scored(b: Batch, log_ratio: list[float], **how: Any) -> Batch:
    """PROCESS where the model gives each token this log-ratio; it cannot be trained."""
    read = SimpleNamespace(read=lambda b, columns: b.put(next(iter(columns)), b[BEHAVIOUR] + torch.tensor(log_ratio)))
    read.update = lambda b, terms: {}
    return run(b, ProcessRewards(SimpleNamespace(learner=read), **how))


def test_step_rewards_add_up_to_the_log_ratio_of_the_whole() -> None:
    b = run(Batch.of([said((1, 3, 6), reward=1.0), said((1, 1), (6,), reward=0.0)]), Steps(READER))
    out = scored(b, [0.5, -0.25, 1.0, 1.0, 1.0, -3.0], normalise=False)
    assert out[PROCESS].tolist() == pytest.approx([0.05 * x for x in (0.25, 0.25, 1.0, 2.0, 2.0, -3.0)])
    assert out[STEPS].tolist() == [2.0, 2.0]
    whole = b.sum(torch.where(out[BEGINS], out[PROCESS], 0.0), TOKEN, TRAJECTORY)
    assert whole.tolist() == pytest.approx([0.05 * 1.25, 0.05 * -1.0])


def test_divided_by_the_largest_sum_of_what_is_to_come() -> None:
    b = run(Batch.of([said((1, 3, 6), reward=1.0), said((1, 1), (6,), reward=0.0)]), Steps(READER))
    out = scored(b, [0.5, -0.25, 1.0, 1.0, 1.0, -3.0])[PROCESS]  # sums to come: 1.25, 1 | −1, −3
    assert out.tolist() == pytest.approx([x / 3 for x in (0.25, 0.25, 1.0, 2.0, 2.0, -3.0)])
    tiny = scored(b, [1e-6, 0.0, 0.0, 0.0, 0.0, 0.0])[PROCESS]
    assert float(tiny.abs().max()) < 1e-4  # rounding is not blown up


def test_both_scopes_by_hand() -> None:
    b = run(Batch.of([said((1, 3, 6), reward=1.0), said((1,), reward=0.0), said((6,), reward=0.5)]), Steps(READER))
    b = b.put(PROCESS, torch.tensor([0.4, 0.4, -0.2, 0.1, 0.3]))
    out = run(b, Advantage(leave_one_out, unscaled), StepAdvantage(2.0))[ADVANTAGE]
    outcome = [1 - 0.25, 1 - 0.25, 1 - 0.25, -0.75, 0.0]
    rest = {0.4: (-0.2 + 0.1 + 0.3) / 3, -0.2: (0.4 + 0.1 + 0.3) / 3, 0.1: (0.4 - 0.2 + 0.3) / 3, 0.3: 0.1}
    step = [0.4, 0.4, -0.2, 0.1, 0.3]
    assert out.tolist() == pytest.approx([a + 2 * (r - rest[r]) for a, r in zip(outcome, step)])
    quirk = run(b, Advantage(leave_one_out, unscaled), StepAdvantage(1.0, first=True))[ADVANTAGE]
    mean = (0.4 + 0.1 + 0.3) / 3  # first steps only
    assert quirk.tolist() == pytest.approx([a + 1.5 * (r - mean) for a, r in zip(outcome, step)], abs=1e-6)


def test_unjudged_answers_and_demonstrations_are_left_alone() -> None:
    b = run(of([(1, 1.0), (1, None), (1, 0.0)]), Steps(READER, "turn"))
    b = b.put(PROCESS, torch.tensor([0.5, 9.0, 0.1]))
    out = run(b, Advantage(leave_one_out, unscaled), StepAdvantage())[ADVANTAGE]
    assert out[[0, 2]].tolist() == pytest.approx([1 + 0.4, -1 - 0.4]) and bool(out[1].isnan())
    shown = b.put(BEHAVIOUR, torch.tensor([-1.0, -1.0, math.nan]))
    model = SoftmaxPolicy()
    before = model.theta.clone()
    stage = ProcessRewards(model)
    out = run(shown, Steps(READER, "turn"), IdsBelow(stage))
    assert torch.equal(model.theta, before)  # the only pair has a demonstration in it
    assert bool(out[PROCESS][2].isnan()) and not bool(out[PROCESS][:2].isnan().any())


class IdsBelow:
    """A stage that a softmax of five can compute: ids modulo five."""

    def __init__(self, stage: Any):
        self.stage = stage

    async def __call__(self, b: Batch) -> Batch:
        s = b.structure
        small = Batch(type(s)(s.ids % 5, s.start, s.parent, s.sampled, s.member, s.group, s.groups), b._columns)
        out: Batch = await self.stage(small)
        return out


@pytest.mark.parametrize("rewards", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, None, 1.0)])
def test_without_a_pair_the_model_stays(rewards: tuple[float | None, ...]) -> None:
    model = SoftmaxPolicy()
    before = model.theta.clone()
    run(of([(n + 1, r) for n, r in enumerate(rewards)]), Steps(READER, "turn"), IdsBelow(ProcessRewards(model)))
    assert torch.equal(model.theta, before) and model.step == 0


def test_a_model_that_is_the_sampler_leaves_rloo() -> None:
    model = SoftmaxPolicy(lr=0.0)
    logp = model.theta.log_softmax(0)

    def sampled(ids: tuple[int, ...], r: float) -> Episode:
        record = Recorder(Task("t", "?"))
        turn = record.sampled(Completion(ids, tuple(logp[list(ids)].tolist())), record.add((0,)))
        record.judge([0, turn], reward=r)
        return record.episode()

    b = Batch.of([sampled((1, 3, 2), 1.0), sampled((4,), 0.0)])
    b = run(b, Advantage(leave_one_out, unscaled))
    out = run(b, Steps(READER), ProcessRewards(model), StepAdvantage())
    assert out[PROCESS].abs().max() < 1e-4
    assert out[ADVANTAGE].tolist() == pytest.approx(b[ADVANTAGE].tolist(), abs=1e-4)


def test_the_loss_of_every_pair_by_hand() -> None:
    """Rewards 1, ½, 0 | 1, none: pairs (0,1), (0,2), (1,2), all of one group."""
    b = run(of([(1, 1.0), (2, 0.5), (1, 0.0)], [(1, 1.0), (1, None)]), Steps(READER, "turn"))
    b = scored(b, [0.0] * 6)
    logp = torch.tensor([3.0, 1.0, 0.0, -1.0, 0.0, 0.0], dtype=torch.float64) - 1
    q = [0.5 * 3.0, 0.5 * 1.0, 0.5 * -1.0]
    term = Term("process", PairLoss(0.5), per=pair_mean)
    values, said = term.values(b.put(LOGP, logp))
    by_hand = sum(math.log1p(math.exp(-(q[i] - q[j]))) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert values.tolist() == pytest.approx([by_hand, 0.0]) and said["process/accuracy"].tolist() == [1.0, 0.0]
    assert term.weights(b).tolist() == pytest.approx([1 / 3, 0.0])


def test_a_longer_answer_has_no_larger_score_for_its_steps() -> None:
    """Q is a mean over steps: the same log-ratio in each step gives the same Q, however many there are."""
    b = run(Batch.of([said((1,), (1,), (1,), reward=1.0), said((1,), reward=0.0)]), Steps(READER))
    b = scored(b, [0.0] * 4)
    values, _ = PairLoss(1.0)(b.put(LOGP, b[BEHAVIOUR] + 0.7))
    assert values.tolist() == pytest.approx([math.log(2)])


def test_the_decisive_step_of_a_chain_is_ranked_first() -> None:
    """Three turns of one of two actions; only the action 3 in place of 1 in the second turn is rewarded."""
    played = [(a, b, c) for a in (0, 2) for b in (1, 3) for c in (0, 4)]
    b = Batch.of([said(*((x,) for x in p), reward=float(p[1] == 3), logp=math.log(0.5)) for p in played])
    model = SoftmaxPolicy(lr=20.0)
    model.theta = torch.zeros(5, dtype=torch.float64)
    stage, b = ProcessRewards(model, fresh=True), run(b, Steps(READER, "turn"))
    for _ in range(30):
        out = run(b, stage)
    reward = out[PROCESS].reshape(-1, 3)
    won = torch.tensor([p[1] == 3 for p in played])
    assert bool((reward[won].argmax(1) == 1).all()) and bool((reward[~won].argmin(1) == 1).all())


def test_scores_are_those_before_the_update_unless_fresh() -> None:
    b = run(of([(1, 1.0), (2, 0.0)]), Steps(READER, "turn"))
    scores: list[Tensor] = []
    for fresh in (False, True):
        model = SoftmaxPolicy(lr=50.0)
        scores.append(run(b, IdsBelow(ProcessRewards(model, fresh=fresh, normalise=False)))[PROCESS])
        assert model.step == 1
    untrained = SoftmaxPolicy(lr=0.0)
    still = run(b, IdsBelow(ProcessRewards(untrained, normalise=False)))[PROCESS]
    assert torch.equal(scores[0], still) and not torch.equal(scores[1], still)


def test_shared_turns() -> None:
    """A stem that three trajectories share is a step of each of them."""
    b = run(tree(), Steps(READER))
    out = scored(b, [0.1] * b.size(TOKEN))
    assert out[STEPS].tolist() == [2.0, 2.0, 2.0]
    whole = run(out, Advantage(leave_one_out, unscaled), StepAdvantage())[ADVANTAGE]
    assert bool(whole.isfinite().all())


def test_over_turns_it_resumes_and_is_the_same_however_cut(exact_model: str, tmp_path: Path) -> None:
    env = TryAgain(turns=2)
    steps = check_method(lambda p: oprl_istar(p, process_lr=1e-3), tmp_path, model=exact_model, env=env)
    assert all(0 <= step["process/accuracy"] <= 1 for step in steps if "process/accuracy" in step)
    assert any(step.get("process/loss") for step in steps)


def test_parts_of_the_method() -> None:
    policy = Policy()
    made = oprl_istar(policy, by="word")
    model = made.policies["process"]
    assert model.trainable and model.optimizer.clip == 10.0 and model.optimizer.lr == 1e-6
    assert model.model == policy.model and model.name != policy.name
    assert [type(s).__name__ for s in made.on_batch] == ["Steps", "ProcessRewards", "StepAdvantage"]
    plain = oprl_istar(policy, alpha=0.0)
    assert plain.on_batch == [] and plain.policies == {} and REWARD in plain.on_group[0].reads

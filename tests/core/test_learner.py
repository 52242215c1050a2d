"""The local learner: one gradient, however a batch is cut up, ordered or packed.

In float64 on GPT-2, because its norm, positions and attention keep float64 (those of Qwen3 compute in float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from temper import objective
from temper.backends.base import AdamW
from temper.backends.local import LocalLearner, cut
from temper.carrier import Batch
from temper.columns import (
    ENTROPY,
    GROUP,
    HIDDEN,
    LOGP,
    REWARD,
    TEMPERATURE,
    TOKEN,
    TRAJECTORY,
    Column,
    boolean,
    floating,
)  # fmt: skip
from temper.episode import Episode, Recorder, Trajectory, Turn
from temper.errors import UserError
from temper.models import load
from temper.objective import Term, Update
from temper.tasks.task import Task
from tests.core import hand

VOCABULARY = 60
ADV = Column("adv", TOKEN, floating)
GATE = Column("gate", TOKEN, boolean)


def gpt2(seed: int = 0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3,
            eos_token_id=0, bos_token_id=0,
        )  # fmt: skip
        return load._ready(GPT2LMHeadModel(config).double(), "cpu", False)


def learner(budget: int = 16384, flat: bool | None = None, modules: list[nn.Module] | None = None) -> LocalLearner:
    made = LocalLearner(gpt2(), AdamW(lr=0.0, clip=0.0), modules, token_budget=budget)
    made.flat = made.flat if flat is None else flat
    return made


def shuffled(b: Batch, seed: int) -> Batch:
    """The same rows in another order of groups."""
    order = torch.randperm(b.size(GROUP), generator=torch.Generator().manual_seed(seed)).tolist()
    return Batch.concat([b.select(torch.arange(b.size(GROUP)) == g, GROUP) for g in order])


def mixed() -> Batch:
    """Ragged answers, a tree, a context reset and a dialogue, with advantages that differ and a few that are absent."""
    b = Batch.concat([hand.ragged(), hand.tree(), hand.reset(), hand.dialogue(), hand.ragged()])
    g = torch.Generator().manual_seed(1)
    adv = torch.randn(b.size(TOKEN), generator=g)
    adv[::5] = torch.nan
    b = b.put(ADV, adv).put(GATE, torch.rand(b.size(TOKEN), generator=g) < 0.7)
    ids = torch.randint(1, VOCABULARY, (len(b.structure.ids),), generator=g)
    return Batch(replace(b.structure, ids=ids), {c.name: (c, b[c]) for c in b.columns})


class Policy:
    reads = (ADV, LOGP)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ratio = (b[LOGP] - b[LOGP].detach()).exp()
        return -b[ADV] * ratio, {"ratio": ratio}


class Likelihood:
    reads = (LOGP, ENTROPY)

    def __call__(self, b: Batch) -> Tensor:
        return -b[LOGP] - 0.1 * b[ENTROPY]


class PerTrajectory:
    """A loss at TRAJECTORY that is not linear in the tokens."""

    reads = (LOGP, REWARD)
    level = TRAJECTORY

    def __call__(self, b: Batch) -> Tensor:
        return (b.sum(b[LOGP], TOKEN, TRAJECTORY) - b[REWARD]) ** 2


class PerGroup:
    """Couples the trajectories of a group."""

    reads = (LOGP,)
    level = GROUP

    def __call__(self, b: Batch) -> Tensor:
        score = b.mean(b[LOGP], TOKEN, TRAJECTORY)
        centred = score - b.spread(b.mean(score, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        return b.sum(centred**2, TRAJECTORY, GROUP)


class Critic(nn.Module):
    def build(self, width: int) -> None:
        self.linear = nn.Linear(width, 1, dtype=torch.float64)
        nn.init.constant_(self.linear.weight, 0.1)


class ValueLoss:
    reads = (HIDDEN, ADV)

    def __init__(self) -> None:
        self.critic = Critic()
        self.critic.build(16)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.critic,)

    def __call__(self, b: Batch) -> Tensor:
        return (self.critic.linear(b[HIDDEN]).squeeze(-1) - b[ADV]) ** 2


AGGREGATIONS: dict[str, Any] = {
    "token_mean": objective.token_mean,
    "seq_mean_token_mean": objective.seq_mean_token_mean,
    "seq_mean_token_sum": objective.seq_mean_token_sum,
    "seq_mean_token_sum_norm": objective.SeqMeanTokenSumNorm(7.0),
}


def terms_of(what: str) -> list[Term]:
    if what in AGGREGATIONS:
        return [Term("policy", Policy(), 0.7, AGGREGATIONS[what]), Term("nll", Likelihood(), 0.2, where=GATE)]
    loss: Any = {"trajectory": PerTrajectory, "group": PerGroup, "value": ValueLoss}[what]()
    return [Term(what, loss), Term("policy", Policy())]


def gradient(b: Batch, terms: list[Term], budget: int, flat: bool) -> tuple[Tensor, dict[str, float]]:
    update = Update(None, terms)
    made = learner(budget, flat, update.modules)
    metrics = made.update(b, terms)
    grads = [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in made.trained]
    return torch.cat([g.double() for g in grads]), metrics


KINDS = [*AGGREGATIONS, "trajectory", "group", "value"]


@pytest.mark.parametrize("what", KINDS)
def test_the_gradient_does_not_depend_on_how_the_batch_is_run(what: str) -> None:
    """Micro-batch budgets from a token to everything, rows in another order, shared beginnings packed or not."""
    b, terms = mixed(), terms_of(what)
    whole, metrics = gradient(b, terms, 1 << 20, False)
    assert float(whole.abs().max()) > 1e-3
    for rows, budget, flat in [
        (b, 1, False), (b, 12, False), (b, 30, False), (b, 1 << 20, True), (b, 20, True), (b, 9, True),
        (shuffled(b, 1), 1 << 20, False), (shuffled(b, 2), 14, False), (shuffled(b, 3), 25, True),
    ]:  # fmt: skip
        parts, their_metrics = gradient(rows, terms, budget, flat)
        assert float((parts - whole).abs().max()) < 1e-12 * max(1.0, float(whole.abs().max()))
        for name, value in metrics.items():  # metrics are summed in float32
            assert their_metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_cut_respects_the_budget_and_keeps_every_token_once() -> None:
    b = mixed().put(Column("n", TOKEN, floating), torch.arange(float(mixed().size(TOKEN))))
    for budget in (8, 16, 40):
        for together in (TRAJECTORY, GROUP):
            parts = list(cut(b, budget, together))
            seen = sorted(i for p in parts for i in p[Column("n", TOKEN, floating)].tolist())
            assert seen == [float(i) for i in range(b.size(TOKEN))]
            assert len(parts) > 1


def test_the_gradient_is_the_formula() -> None:
    """One micro-batch, one term, by plain autograd over unpadded contexts."""
    b = hand.reset().put(ADV, torch.linspace(-1, 1, 9))
    got, metrics = gradient(b, [Term("policy", Policy())], 1 << 20, 0)
    module = gpt2()
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(9):
        turn = int(b.structure.token_turn[k])
        place = int(b.structure.token_position[k] - b.structure.start[turn])
        ids = [*b.turn_ids(int(b.structure.parent[turn])), *b.turn_ids(turn)]
        before = len(ids) - len(b.turn_ids(turn)) + place
        logits = module(input_ids=torch.tensor([ids])).logits[0, before - 1]
        loss = loss - b[ADV][k] / 9 * logits.log_softmax(0)[ids[before]]
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)  # the weights 1/9 are float32
    assert metrics["ratio"] == pytest.approx(1.0)


def test_terms_do_not_dilute_one_another() -> None:
    b = mixed()
    one, _ = gradient(b, [Term("policy", Policy())], 1 << 20, 0)
    two, _ = gradient(b, [Term("nll", Likelihood(), 0.5, where=GATE)], 1 << 20, 0)
    both, _ = gradient(b, [Term("policy", Policy()), Term("nll", Likelihood(), 0.5, where=GATE)], 1 << 20, 0)
    torch.testing.assert_close(both, one + two, rtol=0, atol=1e-12)


# weights by hand ----------------------------------------


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        (objective.token_mean, [1 / 6, 1 / 6, 0, 1 / 6, 1 / 6, 1 / 6, 0, 1 / 6]),
        (objective.seq_mean_token_mean, [1 / 6, 1 / 6, 0, 1 / 9, 1 / 9, 1 / 9, 0, 1 / 3]),
        (objective.seq_mean_token_sum, [1 / 3, 1 / 3, 0, 1 / 3, 1 / 3, 1 / 3, 0, 1 / 3]),
        (objective.SeqMeanTokenSumNorm(10.0), [1 / 30, 1 / 30, 0, 1 / 30, 1 / 30, 1 / 30, 0, 1 / 30]),
    ],
)
def test_weights_by_hand(per: Callable[[Batch, Tensor], Tensor], expected: list[float]) -> None:
    live = torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1])  # answers of 2, 1, 3, 1, 1 tokens; the second and fourth are gated
    torch.testing.assert_close(per(hand.ragged(), live), torch.tensor(expected))


def test_rows_without_a_value_are_not_the_terms() -> None:
    """Absent is not zero: neither in the numerator nor in the denominator; also when the level above is absent."""

    class FromAbove:
        reads = (LOGP, REWARD)

        def __call__(self, b: Batch) -> Tensor:
            return -b.at(REWARD, TOKEN) * b[LOGP]

    b = hand.ragged()  # the fourth answer is not judged
    term = Term("above", FromAbove())
    assert term.live(b).tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
    whole, metrics = gradient(b, [term], 1 << 20, 0)
    judged, _ = gradient(b.select(~b[REWARD].isnan()), [term], 1 << 20, 0)
    torch.testing.assert_close(whole, judged, rtol=0, atol=1e-12)
    assert math.isfinite(metrics["loss"]) and float(whole.abs().max()) > 1e-3
    per_trajectory = Term("each", PerTrajectory())
    assert per_trajectory.live(b).tolist() == [1, 1, 1, 0, 1]
    grads, _ = gradient(b, [per_trajectory], 1 << 20, 0)
    assert bool(grads.isfinite().all())


# batches in which nothing can be learned ----------------------------------------


def stepped(b: Batch, terms: list[Term]) -> tuple[dict[str, float], Tensor]:
    made = LocalLearner(gpt2(), AdamW(lr=0.1))
    before = torch.cat([p.detach().clone().flatten() for p in made.trained])
    metrics = made.update(b, terms)
    return metrics, torch.cat([p.detach().flatten() for p in made.trained]) - before


def test_advantages_of_zero_move_nothing() -> None:
    b = hand.ragged().put(ADV, torch.zeros(8))
    metrics, moved = stepped(b, [Term("policy", Policy())])
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and metrics["stalled"] == 0
    assert float(moved.abs().max()) == 0


@pytest.mark.parametrize("per", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_a_gate_that_lets_nothing_through(per: Any) -> None:
    b = hand.ragged().put(ADV, torch.full((8,), torch.nan)).put(GATE, torch.zeros(8, dtype=torch.bool))
    metrics, moved = stepped(b, [Term("a", Policy(), per=per), Term("b", Likelihood(), per=per, where=GATE)])
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and float(moved.abs().max()) == 0
    assert all(math.isfinite(v) for v in metrics.values())


def test_a_gradient_that_is_not_finite_is_counted_and_not_taken() -> None:
    class Explodes:
        reads = (LOGP,)

        def __call__(self, b: Batch) -> Tensor:
            return (b[LOGP] * 1e300) * 1e300

    made = LocalLearner(gpt2(), AdamW(lr=0.1), token_budget=1 << 20)
    before = [p.detach().clone() for p in made.trained]
    bad = made.update(hand.ragged(), [Term("explodes", Explodes())])
    assert bad["stalled"] == 1.0 and not math.isfinite(bad["grad_norm"])
    assert all(torch.equal(p, q) for p, q in zip(made.trained, before))
    good = made.update(hand.ragged(), [Term("nll", Likelihood())])
    assert good["stalled"] == 0.0 and math.isfinite(good["grad_norm"])
    assert not torch.equal(made.trained[0], before[0])


def test_trajectories_in_which_nothing_was_sampled() -> None:
    record = Recorder(hand.TASK_A)
    record.judge([record.add([1, 2, 3])], reward=0.0)
    record.judge([], reward=0.0)
    b = Batch.concat([Batch.of([record.episode()]), Batch.of([hand.chain(hand.TASK_A, "1", 2, 1.0)])])
    b = b.put(ADV, torch.ones(2))
    made = learner(1, 0)
    assert math.isfinite(made.update(b, [Term("policy", Policy())])["loss"])
    assert made.read(b, {LOGP.of("old"): LOGP})[LOGP.of("old")].shape == (2,)
    assert Update(None, []).__call__(b.select(torch.tensor([True, True, False]))) == {"skipped_updates": 1.0}


def test_a_role_does_not_train_on_what_another_role_said() -> None:
    b = hand.dialogue().put(ADV, torch.tensor([1.0, 1.0, -1.0]))
    mine = Update(None, [], roles=("verifier",)).rows(b)
    assert mine.size(TOKEN) == 1
    term = [Term("nll", Likelihood())]
    alone, _ = gradient(mine, term, 1 << 20, 0)
    turns = (Turn((1, 2, 3, 10, 11, 7)), hand.turn(1, 0, "verifier", 50))
    flat = Batch.of([Episode(hand.TASK_A, turns, (Trajectory((0, 1), "verifier"),), "1")])
    expected, _ = gradient(flat, term, 1 << 20, 0)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-12)


# reading and updating ----------------------------------------


def test_read_gives_the_same_in_any_split() -> None:
    b = mixed()
    whole = learner().read(b, {LOGP.of("old"): LOGP, ENTROPY.of("old"): ENTROPY})
    for budget, flat in ((5, False), (20, True), (64, True)):
        parts = learner(budget, flat).read(b, {LOGP.of("old"): LOGP, ENTROPY.of("old"): ENTROPY})
        for column in (LOGP.of("old"), ENTROPY.of("old")):
            torch.testing.assert_close(parts[column], whole[column], rtol=0, atol=1e-12)
    half = learner().read(b, {LOGP.of("old"): lambda live: live[LOGP] / 2})
    torch.testing.assert_close(half[LOGP.of("old")], whole[LOGP.of("old")] / 2)


def test_temperature_divides_the_logits() -> None:
    b = hand.ragged()
    hot = b.put(TEMPERATURE, torch.full((b.size(1),), 4.0))
    logp, entropy = LOGP.of("old"), ENTROPY.of("old")
    cold, warm = (learner().read(x, {logp: LOGP, entropy: ENTROPY}) for x in (b, hot))
    assert float(warm[entropy].mean()) > float(cold[entropy].mean()) + 0.05
    greedy = learner().read(b.put(TEMPERATURE, torch.zeros(b.size(1))), {logp: LOGP})
    torch.testing.assert_close(greedy[logp], cold[logp])  # greedy log-probs are those at temperature 1


def test_minibatches_deal_whole_groups() -> None:
    seen: list[Batch] = []
    b = mixed()

    class Spy:
        class learner:
            @staticmethod
            def update(part: Batch, terms: list[Term]) -> dict[str, float]:
                seen.append(part)
                return {"loss": float(len(seen))}

    update = Update(Spy, [], epochs=2, minibatches=3)
    assert update(b, seed=4)["loss"] == 3.5 and len(seen) == 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(t for p in epoch for t in p.count(TRAJECTORY, GROUP).tolist()) == sorted(
            b.count(TRAJECTORY, GROUP).tolist()
        )
    assert [p.size(TOKEN) for p in seen[:3]] != [p.size(TOKEN) for p in seen[3:]]
    first = [p.size(TOKEN) for p in seen]
    seen.clear()
    update(b, seed=4)
    assert [p.size(TOKEN) for p in seen] == first  # the order is a function of the seed


def test_hooks_see_every_optimiser_step() -> None:
    calls: list[str] = []
    policy = type("P", (), {"learner": type("L", (), {"update": staticmethod(lambda b, t: {"x": 1.0})})})
    update = Update(
        policy, [], epochs=2, before=[lambda b, u: calls.append("b")], after=[lambda b, u: calls.append("a")]
    )
    update(hand.ragged())
    assert calls == ["b", "a", "b", "a"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"minibatches": 0}, "minibatches must be at least 1, got 0"),
        ({"terms": [Term("a", Policy()), Term("a", Likelihood())]}, "two terms are called 'a': give each its own name"),
    ],
)
def test_updates_that_make_no_sense(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=f"^{why}$"):
        Update(None, **{"terms": [], **fields})


def test_gradient_checkpointing_changes_no_gradient_and_no_sample(toy_model: str) -> None:
    import asyncio

    from temper.backends.base import SamplingParams
    from temper.backends.local_sampler import LocalSampler

    out = []
    for checkpointing in (False, True):
        module = load.load_model(toy_model, device="cpu", checkpointing=checkpointing)
        made = LocalLearner(module, AdamW(lr=0.0), token_budget=16384)
        sampler = LocalSampler(module, load.load_tokenizer(toy_model))
        b = hand.ragged().put(ADV, torch.linspace(-1, 1, 8))
        norm = made.update(b, [Term("policy", Policy())])["grad_norm"]
        c = asyncio.run(sampler.sample((65, 66, 67), SamplingParams(max_tokens=8, seed=3)))
        turns = (Turn((65, 66, 67)), Turn(c.ids, 0, "solver", logp=c.logp))
        again = Batch.of([Episode(Task("t", "t"), turns, (Trajectory((0, 1)),))])
        old = made.read(again, {LOGP.of("old"): LOGP})[LOGP.of("old")]
        torch.testing.assert_close(old, again[LOGP.of("behaviour")], rtol=0, atol=1e-5)
        out.append((norm, c.ids))
    assert out[0][0] == pytest.approx(out[1][0], rel=1e-4) and out[0][1] == out[1][1]


def test_weights_go_in_and_out() -> None:
    a, b = LocalLearner(gpt2(0), AdamW()), LocalLearner(gpt2(1), AdamW())
    assert not all(torch.equal(x, y) for x, y in zip(a.weights().values(), b.weights().values()))
    b.load(a.weights())
    assert all(torch.equal(x, y) for x, y in zip(a.weights().values(), b.weights().values())) and b.changed

"""Training that begins before its step is whole gives the gradient of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from temper.bus import Bus, InOrder
from temper.methods.objectives.grpo import grpo
from temper.objective import SeqMeanTokenSumNorm, Term, Update, seq_mean_token_mean, seq_mean_token_sum, token_mean
from temper.parts.curricula import Generated
from temper.parts.kl import KL
from temper.run import Run
from temper.simulate import Lognormal, World, backend, simulate
from temper.streaming import streams
from temper.tasks.task import Task
from temper.testing.runs import checkpoint, gradient
from tests.core.test_invariants import go, small
from tests.seams import toys

SIZES: dict[str, Any] = {"steps": 1, "groups": 10, "streamed": True}
WORLD = World(samplers=2, slots=4, token=1.0, train=0.1, tail=Lognormal(1.0))


def built(model: str, folder: Path, per: Any, **fields: Any) -> Run:
    policy = toys.policy(model, dtype="float64")
    m = grpo(policy, per=per)
    run = small(
        model, policy=policy, curriculum=Generated(lambda k: Task(f"t{k}", f"say {'abc' * (1 + k % 4)}"), 4),
        on_group=[toys.ShareOf(), *m.on_group], updates=[Update(policy, m.terms)], **{**SIZES, **fields},
    )  # fmt: skip
    run.out = folder
    return run


WEIGHTINGS = {"token": token_mean, "answer": seq_mean_token_mean, "sum": seq_mean_token_sum,
              "constant": SeqMeanTokenSumNorm(7.0)}  # fmt: skip


@pytest.mark.parametrize(("per", "exact"), [*((p, False) for p in WEIGHTINGS), ("token", True), ("answer", True)])
def test_parts_give_the_gradient_and_metrics_of_the_whole(
    exact_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per: str, exact: bool
) -> None:
    """To a relative 1e-12 with weights in float64 (`exact`), else to the plain loop's rounding of them to float32."""
    live = Term.live
    if exact:
        monkeypatch.setattr(Term, "live", lambda self, b: live(self, b).double())
    plain = go(built(exact_model, tmp_path / "plain", WEIGHTINGS[per]), tmp_path / "plain")
    run = built(exact_model, tmp_path / "streamed", WEIGHTINGS[per])
    begun, begin = list[int](), backend._Learner.begin

    def watched(self: Any, part: Any, terms: Any) -> None:
        begun.append(part.size(0))
        begin(self, part, terms)

    monkeypatch.setattr(backend._Learner, "begin", watched)
    outcome = simulate(run, WORLD)
    assert len(begun) >= 4 and sum(begun) == plain[0]["num_tokens"]  # it did begin before
    mine, theirs = (gradient(checkpoint(tmp_path / f, 1)["training.pt"]) for f in ("streamed", "plain"))
    assert float((mine - theirs).norm() / theirs.norm()) < (1e-12 if exact else 1e-7)
    for name in ("loss", "loss/policy", "grad_norm", "reward"):
        assert outcome.history[0][name] == pytest.approx(plain[0][name], rel=1e-9 if exact else 1e-6, abs=1e-8), name


def test_it_hides_training_behind_the_last_rollouts(exact_model: str, tmp_path: Path) -> None:
    streamed = simulate(built(exact_model, tmp_path / "a", token_mean, steps=2), WORLD)
    whole = built(exact_model, tmp_path / "b", token_mean, steps=2)
    whole.streamed = False
    assert simulate(whole, WORLD).total > 1.05 * streamed.total


def test_which_runs_begin_early(exact_model: str, tmp_path: Path) -> None:
    run = built(exact_model, tmp_path, token_mean)
    with run.live():
        assert not streams(run)  # the sampler shares the learner's weights
        run.apart = True
        assert streams(run)
        for name, value in (("streamed", False), ("ahead", 1), ("signal", lambda g: True), ("on_batch", [object()])):
            before = getattr(run, name)
            setattr(run, name, value)
            assert not streams(run)
            setattr(run, name, before)
        [update] = run.updates
        for name, value in (("epochs", 2), ("minibatches", 2), ("before", [print]), ("roles", ("solver",))):
            before = getattr(update, name)
            setattr(update, name, value)
            assert not streams(run)
            setattr(update, name, before)
        update.terms.append(Term("kl", KL(), per=seq_mean_token_mean))  # another total
        assert not streams(run)


class Whole(backend._Learner):
    """What a sharded learner, or one in an actor, is: it trains on whole steps only."""

    @property
    def begin(self) -> Any:
        raise AttributeError("begin")


@pytest.mark.parametrize("learner", [backend._Learner, Whole])
def test_what_does_not_stream_says_so(
    exact_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], learner: Any
) -> None:
    monkeypatch.setattr(backend, "_Learner", learner)
    note = "note: training begins once all of a step has landed: "
    simulate(built(exact_model, tmp_path / "a", token_mean), WORLD)
    whole = learner is Whole
    assert (f"{note}Whole cannot begin before\n" in capsys.readouterr().out) == whole
    for fields in ({"streamed": False}, {"ahead": 1}):  # nobody expects it
        simulate(built(exact_model, tmp_path / f"{fields}", token_mean, **fields), WORLD)
        assert note not in capsys.readouterr().out
    go(built(exact_model, tmp_path / "plain", token_mean), tmp_path / "plain")
    assert f"{note}samplers share the learner's weights\n" in capsys.readouterr().out


def test_groups_in_order() -> None:
    b = Bus({"train": ("batch",)})
    b.open("open", 0, {g: [g + "/0"] for g in "abcde"})
    b.put("batch", dict.fromkeys("bcd", 0))
    assert b.take("1", "train", 0, InOrder(2)) == []  # the first is missing
    b.put("batch", {"a": 0})
    assert [t["group"] for t in b.take("1", "train", 0, InOrder(2))] == ["a", "b"]
    assert [t["group"] for t in b.take("2", "train", 0, InOrder(2))] == ["c", "d"]
    assert b.take("3", "train", 0, InOrder(1)) == []

"""NExt: the sign of a direction, a way that is predicted and one drawn straight on, adapters merged, the jump."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from temper.backends.base import Lora
from temper.errors import UserError
from temper.evaluate import Answers, Evaluation
from temper.loop import train_all
from temper.methods.objectives.next_extrapolation import Jump, next_extrapolation
from temper.parts.rewards import Rewards
from temper.parts.trajectories import KeepWeights, Merged, continued, kept, pieces, rank_one_share, trained, whole
from temper.policy import Policy
from temper.recipes.next_extrapolation import next_extrapolation as recipe
from temper.sync import Sync
from temper.tasks.task import Task
from temper.testing import ToyReward, toy_tasks
from tests.asynchrony.parts import Slow, apart, go
from tests.contract.test_recipes import written


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3)])
def test_pieces_are_the_first_singular_triple_with_one_sign(shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    u, s, v = torch.linalg.svd(x.flatten(1), full_matrices=False)
    got, turned = pieces(x), pieces(-x)
    assert torch.allclose(whole(got, x.shape).flatten(1), s[0] * torch.outer(u[:, 0], v[0]))
    assert torch.allclose(whole(turned, x.shape), -whole(got, x.shape))
    assert torch.allclose(turned["u"], got["u"]) and torch.allclose(turned["v"], -got["v"])
    assert float(got["u"][got["u"].abs().argmax()]) > 0
    share = float(s[0] ** 2 / s.square().sum())
    assert rank_one_share({"w": x, "vector": drawn(4)}) == pytest.approx(share)


def test_a_vector_and_what_has_not_moved() -> None:
    x = drawn(4)
    assert torch.equal(whole(pieces(x), x.shape), x)
    assert torch.equal(whole(pieces(torch.zeros(2, 3)), torch.Size((2, 3))), torch.zeros(2, 3).double())
    assert rank_one_share({"w": torch.zeros(2, 3)}) != rank_one_share({"w": torch.zeros(2, 3)})


def way(last: int, tensors: int = 4) -> list[dict[str, Tensor]]:
    """W_t = W_0 + a √t u v' of several matrices, and √t w of a vector."""
    made = []
    for t in range(last + 1):
        w = {
            f"m{n}": drawn(8, 6, seed=n)
            + (1 + n / tensors) * t**0.5 * torch.outer(drawn(8, seed=50 + n), drawn(6, seed=90 + n)) / 20
            for n in range(tensors)
        }
        made.append({**w, "still": torch.ones(3, 3), "vector": 0.02 * t**0.5 * drawn(6, seed=7)})
    return made


def test_the_way_is_continued_and_better_than_straight_on() -> None:
    path, future, ahead = way(15), way(18), 3
    said = continued(path, ahead, epochs=300, lr=2e-3, width=128)
    assert set(said) == {*(f"m{n}" for n in range(4)), "vector"}  # what stands still is left out
    for name in said:
        true = future[18][name] - path[15][name]
        straight = ahead * (path[15][name] - path[14][name])
        cosine = float((said[name] * true).sum() / said[name].norm() / true.norm())
        assert cosine > 0.99
        assert float((said[name] - true).norm()) < float((straight - true).norm())
        assert float(said[name].norm() / true.norm()) == pytest.approx(1.0, abs=0.1)


def test_the_same_way_is_continued_alike() -> None:
    one, other = (continued(way(6), 2, epochs=5) for _ in range(2))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_too_short_a_way_is_refused() -> None:
    with pytest.raises(UserError, match="5 stretches are too few to learn 5 ahead from"):
        continued(way(5), 5)
    with pytest.raises(UserError, match="must be multiples of every"):
        recipe(trajectory=10, every=4)
    with pytest.raises(UserError, match="every 1 or more steps, got 0"):
        KeepWeights(Path("nowhere"), 0)


def test_weights_are_kept_as_they_were_before_the_step(tmp_path: Path) -> None:
    weights = {"w": torch.zeros(2, 2)}
    update = SimpleNamespace(policy=SimpleNamespace(learner=SimpleNamespace(weights=lambda: weights)))
    hook = KeepWeights(tmp_path / "weights", 4)
    for _ in range(10):
        hook(None, update)
        weights["w"] += 1
    assert [float(w["w"][0, 0]) for w in kept(tmp_path / "weights")] == [0.0, 4.0, 8.0]
    other = KeepWeights(tmp_path / "weights", 4)
    other.load_state_dict(hook.state_dict())
    assert other.steps == 10
    with pytest.raises(UserError, match="holds no weights of an earlier phase"):
        kept(tmp_path / "none")


def test_an_adapter_is_kept_merged_and_opened_merged(exact_model: str, tmp_path: Path) -> None:
    first = Policy(model=exact_model, lora=Lora(2, 4), dtype="float64")
    first.open()
    for n, (name, w) in enumerate(first.learner.weights().items()):
        assert "lora_" in name
        w.copy_(drawn(*w.shape, seed=n) / 10)
    made = trained(first.learner)
    first.save(tmp_path)
    second = Merged(model=str(tmp_path / "model"), dtype="float64")
    second.open()
    theirs = second.learner.weights()
    assert second.model == str(tmp_path / "model") and made
    assert all(torch.allclose(theirs[name], w.to(theirs[name].dtype), atol=1e-6) for name, w in made.items())
    assert not second.learner.optimizer.state  # type: ignore[attr-defined]
    base = Policy(model=exact_model, dtype="float64")
    base.open()
    assert set(theirs) == set(base.learner.weights())
    assert not any(torch.allclose(base.learner.weights()[name], theirs[name]) for name in made)


class Learner:
    def __init__(self, w: Tensor):
        self.w = w

    def weights(self) -> dict[str, Tensor]:
        return {"w": self.w}

    def load(self, weights: dict[str, Tensor]) -> None:
        self.w = weights["w"]


def jumped(tmp_path: Path, liked: float, coefficients: tuple[float, ...]) -> tuple[Any, Tensor, dict[str, float]]:
    """A jump whose validation likes weights that have gone `liked` of the predicted way."""
    path = [{"w": w["m0"]} for w in way(6)]
    hook = KeepWeights(tmp_path, 1)
    for w in path[:-1]:
        hook(None, SimpleNamespace(policy=SimpleNamespace(learner=Learner(w["w"]))))
    learner = Learner(path[-1]["w"])
    said = continued(path, 2, epochs=20, lr=1e-3)["w"]
    target = path[-1]["w"] + liked * said
    published, looked = [], []

    async def publish(metrics: list[Any]) -> None:
        published.append(metrics)

    async def play(run: Any) -> list[Answers]:
        looked.append(len(published))
        near = float((learner.w - target).norm() / said.norm()) < 0.6
        return [Answers(Task("t", "?"), [float(near), 1.0], [1, 1], [True, True], ["", ""])]

    policy = SimpleNamespace(learner=learner, sampler=SimpleNamespace())
    validation: Any = SimpleNamespace(play=play, threshold=0.99)
    jump = Jump(policy, tmp_path, validation, 2, coefficients, 20, 1e-3)
    run = SimpleNamespace(publish=publish, steps=3, apart=False, policies={"p": SimpleNamespace(trainable=False)})
    found = asyncio.run(jump(run, 0))
    assert looked == list(range(1, len(coefficients) + 1)) and len(published) == len(coefficients) + 1
    return jump, (learner.w - path[-1]["w"]) / said, found


def test_validation_chooses_and_of_equals_the_smallest(tmp_path: Path) -> None:
    jump, gone, found = jumped(tmp_path, 2.0, (3.0, 2.5, 1.0, 1.5))
    assert found["jump/coefficient"] == 1.5 and found["jump/validation"] == 1.0
    assert torch.allclose(gone, torch.tensor(1.5, dtype=gone.dtype), atol=1e-4)
    assert found["jump/rank_one_share"] == pytest.approx(1.0)
    assert jump.state_dict() == {"done": True} and not jump.due(0, 3)
    assert asyncio.run(jump(None, 0)) == {}  # not once more


@pytest.mark.parametrize("wait", [True, False])
def test_samplers_with_weights_of_their_own_get_every_jump(
    wait: bool, exact_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(model=exact_model)
    policy.open()
    last = {n: w.clone() for n, w in policy.learner.weights().items()}
    hook = KeepWeights(tmp_path, 1)
    for t in range(3):
        there = {n: w - 0.01 * (3 - t) * drawn(*w.shape).to(w.dtype) for n, w in last.items()}
        hook(None, SimpleNamespace(policy=SimpleNamespace(learner=SimpleNamespace(weights=lambda: there))))  # noqa: B023
    run, ages = apart(exact_model, steps=1, sync=Sync(wait=wait))
    jump = Jump(ages.policy, tmp_path, Evaluation(toy_tasks()[:2], 1, name="validation"), 1, (1.0, 2.0), epochs=2)
    run.probes = [jump]
    loads: list[int] = []
    monkeypatch.setattr(Slow, "load", noting(loads))
    history = go(run)
    assert loads[:4] == [0, 1, 2, 3] and (loads[4:] == [4] or not wait) and ages.gaps == [[0] * len(ages.gaps[0])]
    assert history[0]["jump/coefficient"] in (1.0, 2.0)


def noting(loads: list[int]) -> Any:
    """Slow.load that notes versions."""
    load = Slow.load

    async def noted(self: Slow, weights: Any, version: int) -> Any:
        loads.append(version)
        return await load(self, weights, version)

    return noted


def test_no_coefficient_is_refused() -> None:
    with pytest.raises(UserError, match="no coefficient to choose from"):
        Jump(None, Path("nowhere"), None, coefficients=())  # type: ignore[arg-type]


def test_the_method_alone_keeps_nothing() -> None:
    assert next_extrapolation(None).before == []
    assert isinstance(next_extrapolation(None, folder=Path("there")).before[0], KeepWeights)


@pytest.mark.parametrize("lora", [0, 2])
def test_two_phases(lora: int, exact_model: str, tmp_path: Path) -> None:
    """The second phase starts from the jump, with a fresh optimiser; its tasks of validation are nobody else's."""
    rows = written(tmp_path / "rows.jsonl", [(f"say {n}", str(n)) for n in range(20)])
    first, second = recipe(
        out=tmp_path, model=exact_model, data=rows, reward=("exact_match",), trajectory=3, every=1,
        horizon=1, epochs=3, coefficients=(1.0, 2.0), validation=2, eval_tasks=2, eval_attempts=1, groups=2, attempts=2,
        max_tokens=4, steps=1, lora=lora, lr=1e-3,
    )  # fmt: skip
    jump, tested = second.probes
    sets = [{t.id for t in tasks} for tasks in (jump.validation.tasks, tested.tasks, first.curriculum.tasks)]  # type: ignore[attr-defined]
    assert sets[1] == {t.id for t in first.probes[0].tasks} and all(sets)
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    for phase in (first, second):
        phase.on_group = [ToyReward() if isinstance(s, Rewards) else s for s in phase.on_group]
    first.out, second.out = tmp_path / f"1-{first.name}", tmp_path / f"2-{second.name}"
    asyncio.run(train_all([first, second]))
    assert len(kept(tmp_path / "1-trajectory" / "weights")) == 3
    record = json.loads((Path(second.out) / "metrics.jsonl").read_text().splitlines()[0])
    assert record["jump/coefficient"] in (1.0, 2.0) and 0 < record["jump/rank_one_share"] <= 1
    assert not (Path(second.out) / "checkpoints" / "latest" / "model" / "adapter_config.json").exists()

"""The drafter foresees hidden states, is trained on the sheet's loss, and changes no token."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.backends.speculate import Speculation
from temper.errors import UserError
from temper.loop import train
from temper.methods.rollouts.tlt_adaptive_drafter import tlt_adaptive_drafter
from temper.models.drafter import HiddenDrafter
from temper.models.tiny import tiny_model, tiny_tokenizer
from temper.policy import Policy
from temper.recipes.tlt_adaptive_drafter import tlt_adaptive_drafter as recipe
from tests.core.test_sampler import many

PROMPTS = [(72, 105), (97, 98, 99, 100), (65, 66, 67)]
SMALL: dict[str, Any] = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 64}


@pytest.fixture
def module() -> Any:
    model = tiny_model(3, **SMALL).eval()
    model.model.embed_tokens.weight.data *= 8.0  # logits that are not flat
    return model


def drafter(module: Any, window: int = 64) -> HiddenDrafter:
    made = HiddenDrafter(window)
    made.build(module)
    return made


def samples(module: Any, n: int = 12) -> list[Any]:
    """Answers and the hidden states that predicted them, by the target's own forward."""
    asked = [(PROMPTS[k % 3], SamplingParams(max_tokens=20, seed=k)) for k in range(n)]
    out = []
    for (ids, _), c in zip(asked, many(LocalSampler(module, tiny_tokenizer()), *asked)):
        with torch.no_grad():
            states = module.model(input_ids=torch.tensor([[*ids, *c.ids]])).last_hidden_state[0]
        out.append((torch.tensor(c.ids), states[len(ids) - 1 : -1]))
    return out


class Noting(HiddenDrafter):
    """Checks what the sampler shows: the hidden state after each token but the last, as the plain forward has it."""

    module: Any = None
    seen = 0

    def draft(self, requests: Any, most: int) -> Any:
        for r in requests:
            if len(r.drawn) > 1:
                with torch.inference_mode():
                    whole = self.module.model(input_ids=torch.tensor([[*r.ids, *r.drawn[:-1]]])).last_hidden_state[0]
                torch.testing.assert_close(torch.cat(r.hidden), whole[len(r.ids) :], atol=1e-4, rtol=1e-4)
                Noting.seen += 1
        return super().draft(requests, most)


@pytest.mark.parametrize("lean", [True, False])
def test_it_is_shown_the_targets_hidden_states_and_changes_no_token(module: Any, lean: bool) -> None:
    asked = [(PROMPTS[k % 3], SamplingParams(max_tokens=9 + 3 * k, seed=k, temperature=k % 3 / 2)) for k in range(7)]
    plain = LocalSampler(module, tiny_tokenizer())
    before = many(plain, *asked)
    noting = Noting()
    noting.build(module)
    noting.module, Noting.seen = module, 0
    sampler = LocalSampler(module, tiny_tokenizer(), drafts=Speculation(noting, knee=10**6))
    sampler.decoder = sampler.decoder if lean else None
    after = many(sampler, *asked)
    assert [c.ids for c in after] == [c.ids for c in before] and Noting.seen > 20
    for a, b in zip(after, before):
        assert a.logp == pytest.approx(b.logp, abs=5e-5)


def test_the_loss_by_hand(module: Any) -> None:
    """Half the smooth L1 of hidden states and half the cross-entropy, over tokens that have a successor to foresee."""
    d, known = drafter(module), samples(module, 2)
    known = [(i[:n], h[:n]) for (i, h), n in zip(known, (5, 8))]
    total, n = 0.0, 0
    for ids, h in known:
        foreseen = d.foresee(ids[None, 1:-1], h[None, 1:-1])[0].detach()
        for said, truth in zip(foreseen, h[2:]):
            gap = (said - truth).abs().detach()
            near = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()
            p = module.lm_head(truth).softmax(-1).detach()
            total += 0.5 * float(near) - 0.5 * float((p * module.lm_head(said).log_softmax(-1).detach()).sum())
            n += 1
    assert n == 3 + 6
    assert float(d.loss(known)[0].detach()) == pytest.approx(total / n, rel=1e-4)


def test_training_foresees_and_leaves_the_target_alone(module: Any) -> None:
    known, before = samples(module), copy.deepcopy(module.state_dict())
    d = drafter(module)
    parameters = list(d.net.parameters())  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    first = d.loss(known)
    for _ in range(60):
        loss, _ = d.loss(known)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.grad = g
        optimizer.step()
    last = d.loss(known)
    assert float(last[0].detach()) < 0.8 * float(first[0].detach()) and float(last[1]) > float(first[1]) + 0.2, (
        first,
        last,
    )
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_it_follows_the_moving_head(module: Any) -> None:
    d = drafter(module)
    hidden = torch.randn(1, 32)
    before = d.head(hidden)
    module.lm_head.weight.data *= 2
    torch.testing.assert_close(d.head(hidden), 2 * before)


def test_what_cannot_be_is_refused(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.models.layout.head_of", lambda _: None)
    with pytest.raises(UserError, match="a drafter cannot be made for Qwen3ForCausalLM: use n-grams"):
        HiddenDrafter().build(module)
    with pytest.raises(UserError, match="window must be at least 1, got 0"):
        HiddenDrafter(0)


def test_nothing_looks_ahead_and_distances_are_what_counts(module: Any) -> None:
    d, ids, h = drafter(module), torch.arange(5)[None] + 60, torch.randn(1, 5, 32)
    whole = d.foresee(ids, h)
    torch.testing.assert_close(d.foresee(ids[:, :3], h[:, :3]), whole[:, :3], atol=1e-5, rtol=1e-4)
    again = d.foresee(ids[:, [0, 0, 1, 2, 3]], h[:, [0, 0, 1, 2, 3]])
    assert (again[:, 2] - whole[:, 1]).abs().max() > 1e-4  # one more before it is seen


def test_the_same_seed_makes_the_same_and_leaves_the_stream_alone(module: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b = drafter(module).net, drafter(module).net
    assert torch.equal(torch.rand(3), expected)
    assert a is not None and b is not None
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


class Row:
    def __init__(self, drawn: list[int], hidden: list[Any], uniform: list[float], temperature: float = 1.0):
        self.ids, self.drawn, self.hidden, self.uniform = (1,), drawn, hidden, uniform
        self.params = SamplingParams(temperature=temperature)


def test_guesses_do_not_depend_on_neighbours_and_need_two_tokens(module: Any) -> None:
    d, h = drafter(module), torch.randn(6, 32)
    long, short = Row([3, 4, 5, 6], [h[:2], h[2:3]], [0.3] * 9), Row([7, 8], [h[4:5]], [0.9] * 9)
    new, late = Row([7], [], [0.1] * 9), Row([7, 8, 9], [h[4:5]], [0.1] * 9)  # nothing to go by, or not all of it
    together = d.draft([long, new, short, late], 3)
    assert together == [d.draft([long], 3)[0], [], d.draft([short], 3)[0], []]
    assert [len(g) for g in together] == [3, 0, 3, 0] and d.draft([long], 0) == [[]]
    assert HiddenDrafter().draft([long], 3) == [[]]  # before it is made
    with torch.no_grad():
        p = module.lm_head(d.foresee(torch.tensor([[8]]), h[None, 4:5])[0, -1]).softmax(-1)
    total = p.double().cumsum(0)
    assert together[2][0][0] == int(torch.searchsorted(total, 0.9 * total[-1], right=True))  # with the row's own number
    greedy = d.draft([Row([7, 8], [h[4:5]], [], 0.0)], 1)[0]
    assert greedy == [(int(p.argmax()), (0, int(10 * float(p.max()))))]


def test_it_looks_back_no_further_than_its_window(module: Any) -> None:
    d, h = drafter(module, window=4), torch.randn(9, 32)
    far = h.clone()
    far[:5] = 0.0
    a, b = (d.draft([Row([9, 9, 9, 9, 9, 9, 1, 2, 3, 4], [x], [0.5] * 20)], 3) for x in (h, far))
    assert a == b


def test_what_it_sets_up() -> None:
    m = tlt_adaptive_drafter(p := Policy(), rows=3, most=2, updates=1)
    assert p.drafts is not None and (p.drafts.rows, p.drafts.most, p.drafts.hidden) == (3, 2, True)
    assert p.reference().drafts is None and m.terms == [] and len(m.on_batch) == 1


def run_of(folder: Path, steps: int, **options: Any) -> Any:
    run = recipe(steps=steps, groups=2, attempts=3, max_tokens=16, eval_tasks=7, updates=2, knee=1000, **options)
    run.probes, run.out, run.threads, run.save_every = [], folder, 1, 1
    return run


def kept(folder: Path) -> Any:
    parts = torch.load(folder / "checkpoints" / "latest" / "state.pt", weights_only=True)["parts"]
    return next(state for name, state in parts.items() if name.startswith("on_batch") and "trained" in state)


def test_state_is_kept_and_drafts_change_nothing_of_training(tmp_path: Path) -> None:
    """Three steps at once, and two and one; and with a drafter that is never asked."""
    whole = run_of(tmp_path / "whole", 3)
    asyncio.run(train(whole))
    asyncio.run(train(run_of(tmp_path / "parts", 2)))
    rest = run_of(tmp_path / "parts", 3)
    rest.resume = True
    asyncio.run(train(rest))
    a, b = kept(tmp_path / "whole"), kept(tmp_path / "parts")
    assert a["trained"] == 6 and a["step"] == 3 and len(a["buffer"]) == 2
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    silent = run_of(tmp_path / "silent", 3, most=0)
    asyncio.run(train(silent))
    keep = ("reward/mean", "loss", "num_tokens", "grad_norm")
    pick = lambda r: [{k: m.get(k) for k in keep} for m in r.reporter.history]  # noqa: E731
    assert [m["num_tokens"] for m in pick(silent)] == [m["num_tokens"] for m in pick(whole)]
    assert pick(silent)[0] == pick(whole)[0]
    assert next(iter(whole.policies.values())).drafts.guessed > 20
    assert silent.reporter.history[-1]["drafter/passes_per_token"] == 1


def test_until_leaves_the_drafter_as_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, 3, until=1)
    asyncio.run(train(run))
    stage = run.on_batch[-1]
    assert stage.trained == 2 and stage.step == 3 and "drafter/loss" not in stage.metrics
    assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(2 / 10 * 1e-3)  # warming up

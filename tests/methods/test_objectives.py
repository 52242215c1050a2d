"""Every published objective: its file says what it is, its parts fit together, and it learns a one-softmax task."""

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import temper.methods.objectives as family
from temper.carrier import Batch
from temper.columns import CORE, REWARD, TOKEN, TRAJECTORY
from temper.episode import Completion
from temper.method import Method
from temper.objective import SeqMeanTokenSumNorm, Update, luspo, token_mean
from temper.parts.advantages import BatchStd, batch_mean, unscaled
from temper.parts.kl import Adaptive
from temper.parts.logprobs import Read
from temper.parts.preferences import PairsFromReward
from temper.parts.ratios import mask
from temper.parts.schedules import Linear
from tests.parts.toys import BEHAVIOUR, VOCABULARY, SoftmaxPolicy, of_request, recorder

MODULES = {  # those without a test file of their own
    m.name: importlib.import_module(f"{family.__name__}.{m.name}")
    for m in pkgutil.iter_modules(family.__path__)
    if not (Path(__file__).parent / f"test_{m.name}.py").exists()
}
GOOD = 2  # the token that is rewarded, demonstrated and preferred
OPTIONS: dict[str, dict[str, Any]] = {
    "gdpo": {"weights": {"a": 1.0, "b": 0.5}},
    "dr_grpo": {"max_tokens": 3},
    "clip_cov": {"low": -5.0, "high": 5.0, "share": 0.1},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("reinforce", {"baseline": batch_mean}),
    ("grpo", {"scale": BatchStd()}),
    ("grpo", {"scale": unscaled, "per": luspo}),
    ("grpo", {"per": SeqMeanTokenSumNorm(3), "reference": None}),
    ("grpo", {"beta": Linear(0.1, 0.0, 10), "minibatches": 3}),
    ("rloo", {"reference": None}),
    ("reinforce_plus_plus", {"reference": None}),
    ("ppo", {"reference": None, "dual_clip": 3.0, "value_clip": None, "minibatches": 2}),
    ("ppo", {"beta": Adaptive(0.05, target=0.1, horizon=500)}),
    ("dapo", {"filter_overlong": True, "max_tokens": 3, "buffer": 2}),
    ("tis", {"level": TRAJECTORY, "cut": mask, "cap": 3.0, "normalise": True}),
    ("dpo", {"sft": 0.5, "noise": 0.1}),
    ("dpo", {"pairs": PairsFromReward()}),
    ("tr_dpo", {"every": 2}),
]
CASES = [(name, OPTIONS.get(name, {})) for name in MODULES] + VARIANTS
IDS = [f"{name}-{i}" if i >= len(MODULES) else name for i, (name, _) in enumerate(CASES)]


@dataclass
class Trial:
    """A method on a toy policy: `step` plays a batch, runs the stages and updates."""

    policy: SoftmaxPolicy
    method: Method
    play: Callable[[SoftmaxPolicy, int], Batch]

    def step(self, k: int) -> None:
        b = self.play(self.policy, k)
        for stage in (*self.method.on_group, *self.method.on_batch):
            b = asyncio.run(stage(b))
        self.update(b, seed=k)

    @property
    def update(self) -> Update:
        m = self.method
        return Update(self.policy, m.terms, m.epochs, m.minibatches, before=m.before, after=m.after)

    @property
    def good(self) -> float:
        return self.policy.theta.softmax(0)[GOOD].item()

    @property
    def parts(self) -> list[Any]:
        found = [*self.method.on_group, *self.method.on_batch, *self.method.after]
        return [part for part in found if hasattr(part, "state_dict")]


def trial(name: str, options: dict[str, Any]) -> Trial:
    function = getattr(MODULES[name], name)
    options = {k: Adaptive(v.value, v.target, v.horizon) if isinstance(v, Adaptive) else v for k, v in options.items()}
    policy = near_uniform()
    if "reference" in inspect.signature(function).parameters:
        options.setdefault("reference", near_uniform())
    method = function(policy, **options)
    for term in method.terms:
        for module in getattr(term.loss, "modules", ()):
            module.build(VOCABULARY)
    play = demonstrations if "pairs" in inspect.signature(function).parameters or name == "sft" else rollouts
    return Trial(policy, method, play)


def near_uniform() -> SoftmaxPolicy:
    policy = SoftmaxPolicy(0)
    policy.theta = 0.3 * policy.theta
    return policy


def rollouts(policy: SoftmaxPolicy, step: int) -> Batch:
    """8 groups of 6 attempts of 1 to 3 tokens, and a greedy one; the reward is the share of good tokens."""
    g = torch.Generator().manual_seed(step)
    logp = policy.theta.log_softmax(0)
    episodes = []
    for group in range(8):
        for i in range(7):
            n, temperature = 1 + (group + i) % 3, 0.0 if i == 6 else 1.0
            ids = torch.multinomial(logp.exp(), n, True, generator=g) if temperature else logp.argmax().expand(n)
            finish = "length" if n == 3 and i < 3 else "stop"
            c = Completion(tuple(ids.tolist()), tuple(logp[ids].tolist()), finish, temperature=temperature)
            share = (ids == GOOD).double().mean().item()
            r = recorder(f"t{group}")
            r.judge((0, r.sampled(c, r.add((0, 1)))), reward=share, rewards={"a": share, "b": float(ids[0] == GOOD)})
            episodes.append(of_request(r, str(group)))
    return as_double(Batch.of(episodes))


def demonstrations(policy: SoftmaxPolicy, step: int) -> Batch:
    """6 groups of a good demonstration and a bad one."""
    episodes = []
    for group in range(6):
        for chosen in (True, False):
            token = GOOD if chosen else (GOOD + 1 + group % 3) % VOCABULARY
            r = recorder(f"t{group}")
            turn = r.add((token,) * (1 + group % 3), r.add((0, 1)), author="solver")
            r.judge((0, turn), reward=float(chosen), info={"chosen": chosen})
            episodes.append(of_request(r, str(group)))
    return Batch.of(episodes)


def as_double(b: Batch) -> Batch:
    return b.put(BEHAVIOUR, b[BEHAVIOUR].double())


@pytest.mark.parametrize("name", MODULES)
def test_a_file_says_what_it_is(name):
    m = MODULES[name]
    assert m.SLUG.replace("-", "_") == name and m.FAMILY == "objectives" and m.RECIPE == m.SLUG
    assert m.__doc__.splitlines()[0] == m.TITLE and isinstance(m.PAPER, str)
    assert all(word in m.__doc__ for word in ("Paper:", "Hook:", "Claim:")) and m.HOOKS
    assert next(iter(inspect.signature(getattr(m, name)).parameters)) == "policy"


@pytest.mark.parametrize("name, options", CASES, ids=IDS)
def test_every_read_is_written_before_and_every_wanted_column_is_read(name, options):
    m = trial(name, options).method
    written = {c.name for c in (*CORE, BEHAVIOUR, REWARD, REWARD.of("a"), REWARD.of("b"))}
    wanted, read = set(), set()
    for part in (*m.on_group, *([m.signal] if m.signal else []), *m.on_batch, *m.terms):
        needs = {c.name for c in part.reads}
        assert needs <= written, f"{type(part).__name__} reads {needs - written}"
        read |= needs
        written |= {c.name for c in getattr(part, "writes", ())}
        wanted |= {c.name for c in part.writes} if getattr(part, "wanted", False) else set()
    assert wanted <= read


@pytest.mark.parametrize("name, options", CASES, ids=IDS)
def test_stages_and_losses_touch_what_they_declare(name, options):
    t = trial(name, options)
    b = t.play(t.policy, 0)
    for stage in (*t.method.on_group, *t.method.on_batch):
        trace: set[tuple[str, str]] = set()
        out = asyncio.run(stage(b if isinstance(stage, Read) else b.traced(trace)))
        if not isinstance(stage, Read):  # a learner reads for it
            assert {n for kind, n in trace if kind == "read"} == {c.name for c in stage.reads}
            assert {n for kind, n in trace if kind == "write"} == {c.name for c in stage.writes}
        b = Batch(out.structure, out._columns)
    live = t.policy.live(b, t.policy.theta)
    for term in t.method.terms:
        trace = set()
        term.values(live.traced(trace))
        read = {n for kind, n in trace if kind == "read"} - ({term.where.name} if term.where else set())
        assert read == {c.name for c in term.loss.reads}


@pytest.mark.parametrize("name, options", CASES, ids=IDS)
def test_a_method_learns(name, options):
    t = trial(name, options)
    before = t.good
    for k in range(25):
        t.step(k)
    assert t.policy.theta.isfinite().all()
    assert t.good > before + 0.05, f"{before:.3f} -> {t.good:.3f}"


@pytest.mark.parametrize("name, options", CASES, ids=IDS)
def test_a_resumed_method_goes_on_as_if_nothing_had_happened(name, options):
    straight, first, second = (trial(name, options) for _ in range(3))
    for k in range(4):
        straight.step(k)
    for k in range(2):
        first.step(k)
    move(first, second)
    for k in (2, 3):
        second.step(k)
    assert torch.equal(straight.policy.theta, second.policy.theta)


def move(a: Trial, b: Trial) -> None:
    """What a checkpoint carries from one process to the next."""
    b.policy.theta, b.policy.step = a.policy.theta.clone(), a.policy.step
    for mine, theirs in zip(a.parts, b.parts, strict=True):
        theirs.load_state_dict(mine.state_dict())
    for mine, theirs in zip(a.method.terms, b.method.terms, strict=True):
        for x, y in zip(getattr(mine.loss, "modules", ()), getattr(theirs.loss, "modules", ()), strict=True):
            y.load_state_dict(x.state_dict())
    for key, policy in a.method.policies.items():
        b.method.policies[key].theta = policy.theta.clone()


def test_the_value_head_learns_with_the_policy():
    t = trial("ppo", {})
    head = t.update.modules[0]
    for k in range(10):
        t.step(k)
    values = head(torch.eye(VOCABULARY))
    assert values.std() > 0.05 and values[GOOD] == values.max()


def test_epochs_and_minibatches_reach_the_update():
    t = trial("ppo", {"epochs": 3, "minibatches": 2})
    t.step(0)
    assert t.policy.step == 6


def test_greedy_attempts_are_no_part_of_remaxs_loss():
    t = trial("remax", {})
    b = t.play(t.policy, 0)
    for stage in t.method.on_group:
        b = asyncio.run(stage(b))
    (term,) = t.method.terms
    greedy = b.spread(torch.tensor([i % 7 == 6 for i in range(b.size(TRAJECTORY))]).float(), TRAJECTORY, TOKEN) > 0
    assert t.method.greedy and (term.weights(b)[greedy] == 0).all() and (term.weights(b)[~greedy] > 0).all()


def test_a_custom_weighting_is_used():
    terms = [trial("grpo", {"per": per, "reference": None}).method.terms[0] for per in (token_mean, luspo)]
    policy = SoftmaxPolicy(0)
    b = rollouts(policy, 0)
    for stage in trial("grpo", {"reference": None}).method.on_group:
        b = asyncio.run(stage(b))
    assert not torch.allclose(terms[0].weights(b), terms[1].weights(b))

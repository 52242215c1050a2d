"""The nine invariants of the design. The first has a file of its own (test_learner), as has the fifth (test_kill)."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import Ack, SamplingParams, fingerprint
from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    FINISH,
    LOGP,
    REQUEST,
    REWARD,
    SPLIT,
    TASK,
    TOKEN,
    VERSION,
    Column,
    boolean,
    floating,
)
from temper.envs.single import SingleTurn
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.loop import train
from temper.models.render import Renderer, renderer_of
from temper.objective import Term, Update
from temper.parts.kl import Adaptive
from temper.parts.rewards import Rewards
from temper.policy import Policy, Seat
from temper.request import Request
from temper.run import Run
from temper.stage import Compute
from temper.tasks.task import Task
from tests.core.busy import busy, outcome, plain
from tests.seams import toys

BEHAVIOUR = LOGP.of("behaviour")


def small(model: str, **fields: Any) -> Run:
    """Two steps of two groups; `fields` of Run replace what is here."""
    policy = fields.pop("policy", None) or toys.policy(model)
    given: dict[str, Any] = {
        "env": SingleTurn(), "curriculum": toys.curriculum(3), "roles": {"solver": policy},
        "on_group": [toys.ShareOf(), toys.CENTRED], "updates": [Update(policy, [toys.POLICY_TERM])], "steps": 2,
        "groups": 2, "sampling": toys.SHORT,
    }  # fmt: skip
    return Run(**{**given, **fields})


def go(run: Run, folder: Path | None = None) -> list[dict[str, Any]]:
    run.out = folder
    asyncio.run(train(run))
    return run.reporter.history


def without_clock(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if not k.startswith(("timing_s/", "perf/", "eval/"))}


class Watch:
    """Keeps the batches that come by."""

    reads = writes = ()

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    async def __call__(self, b: Batch) -> Batch:
        self.seen.append(b)
        return b


# 2: the ratio is 1 before the first update ----------------------------------------


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.6}, {"temperature": 1.8, "top_p": 0.7}, {"top_k": 5}, {"allowed": tuple(range(97, 123))},
     {"allowed": (97, 98, 99), "top_k": 20}, {"allowed": tuple(range(97, 105)), "top_k": 20, "top_p": 0.9},
     {"temperature": 0.0}],
    ids=lambda p: ",".join(p) or "plain",
)  # fmt: skip
def test_ratio_is_one_before_the_first_update(toy_model: str, params: dict[str, Any]) -> None:
    class Both:
        """The sampler's log-probs and the learner's, of the same tokens."""

        reads, writes = (BEHAVIOUR,), (LOGP.of("old"),)

        async def __call__(self, b: Batch) -> Batch:
            b = policy.learner.read(b, {LOGP.of("old"): LOGP})
            gaps.append(float((b[LOGP.of("old")] - b[BEHAVIOUR]).abs().max()))
            return b

    policy, gaps = toys.policy(toy_model, lr=0.05, token_budget=40), list[float]()
    run = small(toy_model, policy=policy, on_batch=[Both()], sampling=SamplingParams(max_tokens=7).but(**params))
    history = go(run)
    assert len(gaps) == 2 and max(gaps) < 2e-5  # also at step 2: the weights that sampled are those that are scored
    assert history[0]["policy_kl"] < 1e-9


# 3: no decode–encode between sampling and loss ----------------------------------------


class OneWay:
    """A tokenizer that can render prompts and decode answers for people, and refuses everything else."""

    def __init__(self, inner: Any):
        self.inner, self.rendered = inner, 0

    eos_token_id = property(lambda self: self.inner.eos_token_id)

    def renderer(self) -> Renderer:
        self.rendered += 1
        return renderer_of(self.inner)

    def decode(self, ids: Any) -> str:
        return "text that does not encode to the ids"

    def __len__(self) -> int:
        return len(self.inner)

    def save_pretrained(self, folder: Path) -> None:
        self.inner.save_pretrained(folder)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"tokenizer.{name} was used between sampling and loss")

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("something was encoded between sampling and loss")


def test_nothing_is_encoded_between_sampling_and_loss(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.models import load

    made: list[OneWay] = []
    real = load.load_tokenizer
    end_ids = load.end_ids

    def one_way(model: str) -> Any:
        made.append(OneWay(real(model)))
        return made[-1]

    monkeypatch.setattr(load, "load_tokenizer", one_way)
    monkeypatch.setattr(load, "end_ids", lambda module, tokenizer: end_ids(module, tokenizer.inner))
    monkeypatch.setattr("temper.policy.renderer_of", OneWay.renderer)
    watch = Watch()
    history = go(small(toy_model, on_batch=[watch]), tmp_path / "run")
    assert history[0]["policy_kl"] < 1e-9 and len(history) == 2
    assert made[0].rendered == 2 * 2 * 3  # one prompt an attempt
    with pytest.raises(AssertionError):
        made[0].encode("x")


# 4: curricula ----------------------------------------


class Recording:
    """A curriculum that writes down what it is asked and told."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.told: list[tuple[str, str, float]] = []
        self.events: list[str] = []
        self.made = 0

    def next(self, n: int) -> list[Request]:
        self.asked.append(n)
        self.events += ["ask"] * n
        self.made += n
        return [Request(Task(f"t{k}", "say a"), 2) for k in range(self.made - n, self.made)]

    def observe(self, group: Batch) -> None:
        self.events.append("tell")
        self.told.append((group[TASK][0].id, group[SPLIT][0], float(group[REWARD].mean())))


def test_curricula_observe_each_group_once_and_never_an_evaluation(toy_model: str) -> None:
    curriculum = Recording()
    probe = Evaluation(toys.TASKS, 2, every=1)
    run = small(toy_model, curriculum=curriculum, probes=[probe], steps=3, groups=3)
    go(run)
    assert [t for t, _, _ in curriculum.told] == [f"t{k}" for k in range(9)]  # in the order of asking
    assert {split for _, split, _ in curriculum.told} == {"train"}
    assert curriculum.asked == [3, 3, 3]


def test_every_group_is_observed_before_any_filter(toy_model: str) -> None:
    curriculum, watch = Recording(), Watch()

    class Odd:
        """Only every second group carries signal."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, b: Batch) -> bool:
            self.calls += 1
            return self.calls % 2 == 0

    history = go(small(toy_model, curriculum=curriculum, signal=Odd(), on_batch=[watch], steps=1, groups=3))
    assert curriculum.asked == [3, 2, 1]  # the 2nd, 4th and 6th count: refilled until there are three
    assert len(curriculum.told) == 6 and watch.seen[0].size(3) == 3
    assert history[0]["frac_groups_without_signal"] == 0.5


def test_work_is_pulled_not_prefetched(toy_model: str) -> None:
    curriculum = Recording()
    go(small(toy_model, curriculum=curriculum, steps=3, groups=2))
    assert curriculum.events == ["ask", "ask", "tell", "tell"] * 3
    ahead = Recording()
    go(small(toy_model, curriculum=ahead, steps=5, groups=2, ahead=2))
    assert ahead.events == ["ask", "ask", "tell", "tell"] * 5  # asked for when it is played, and never beyond the end


def test_a_mixture_tells_the_part_that_asked(toy_model: str) -> None:
    """Also where two parts ask for tasks of the same id; and their metrics and reads come through."""
    from temper.parts.curricula import Growing, Mixture

    one, two = Recording(), Recording()
    mixture = Mixture([(2.0, one), (1.0, two)])
    go(small(toy_model, curriculum=mixture, steps=2, groups=3))
    assert [t for t, _, _ in one.told] == ["t0", "t1", "t2", "t3"] and [t for t, _, _ in two.told] == ["t0", "t1"]
    assert not mixture._owner
    grows = Growing(lambda level, k: Task(f"g{k}", "say a"), levels=2, attempts=2)
    both = Mixture([(1.0, grows), (1.0, one)])
    assert both.reads == (REWARD,) and both.metrics == {"curriculum/open_levels": 1.0}
    said = refused(toy_model, curriculum=both, on_group=[], updates=[])
    assert said == "Mixture reads reward, which nothing before it writes"


def test_a_group_that_nobody_judged_does_not_hold_a_level_back() -> None:
    from temper.parts.curricula import Growing
    from tests.core import hand

    grows = Growing(lambda level, k: Task(f"g{k}", "say a"), levels=2, attempts=1, bar=0.5, window=2)
    for k, reward in enumerate((1.0, None, 1.0)):
        [request] = grows.next(1)
        grows.observe(Batch.of([hand.chain(request.task, str(k), 1, 0.0 if reward is None else reward)]).put(
            REWARD, torch.tensor([float("nan") if reward is None else reward])))  # fmt: skip
    assert grows.open == 2


# ahead ----------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_batches_are_at_most_so_many_versions_old(toy_model: str, ahead: int) -> None:
    watch, gaps = Watch(), list[int]()

    class Age:
        reads, writes = (VERSION,), ()

        async def __call__(self, b: Batch) -> Batch:
            versions = b[VERSION][b.structure.sampled]
            gaps.extend((policy.version - versions).tolist())
            return b

    policy = toys.policy(toy_model)
    go(small(toy_model, policy=policy, ahead=ahead, steps=6, on_batch=[watch, Age()]))
    assert max(gaps) == ahead and min(gaps) == 0 and len(watch.seen) == 6


def test_a_queue_that_holds_nothing_is_the_plain_loop(toy_model: str, tmp_path: Path) -> None:
    """ahead=0 against a loop written out here: sample, judge, update, publish."""
    run = small(toy_model, steps=3)
    go(run, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "latest" / "training.pt")["weights"]

    async def by_hand() -> dict[str, Any]:
        from temper.loop import play

        again = small(toy_model, steps=3)
        policy = again.roles["solver"]
        with again.live():
            for step in range(3):
                groups = [await play(again, again.numbered(r)) for r in again.curriculum.next(2)]
                batch = Batch.concat([g for g in groups if g is not None])
                again.updates[0](batch, seed=step)
                await again.publish([{}])
            return {n: w.clone() for n, w in policy.learner.weights().items()}

    weights = asyncio.run(by_hand())
    assert plain(weights) == plain(saved)


# 5: state ----------------------------------------


@pytest.mark.parametrize("ahead", [0, 2])
def test_resume_equals_the_uninterrupted_run(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Stopped after a checkpoint, and between two; with a queue, curriculum, critic, controller, moving reference."""
    go(busy(toy_model, None, ahead=ahead, steps=7), tmp_path / "whole")
    for stop in (4, 5):
        folder = tmp_path / f"stopped{stop}"
        with monkeypatch.context() as m:
            m.setattr(Run, "report", stopping(stop))
            with pytest.raises(KeyboardInterrupt):
                go(busy(toy_model, None, ahead=ahead, steps=7), folder)
        go(busy(toy_model, None, ahead=ahead, steps=7, resume=True), folder)
        mine, theirs = outcome(folder), outcome(tmp_path / "whole")
        for part in theirs:
            assert mine[part] == theirs[part], part
        controller = mine["state"]["parts"]["on_batch/1"]
        assert controller["calls"] == 7 and controller["value"] != repr(0.05)
    assert (
        not mine["state"]["bus"]["groups"]
        and not mine["state"]["asks"]
        and mine["state"]["versions"] == {"policy": 7, "reference": 0}
    )


def stopping(at: int) -> Any:
    real = Run.report

    async def report(self: Run, step: int, batch: Batch, metrics: Any) -> None:
        await real(self, step, batch, metrics)
        if step + 1 == at:
            raise KeyboardInterrupt

    return report


@dataclass
class Duel:
    """Two seats that each say something, and are rewarded by the other's letters."""

    roles = ("first", "second")
    writes = (REWARD,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record = Recorder(task)
        for role in self.roles:
            prompt = record.add(roles[role].chat(task.messages))
            said = record.sampled(await roles[role].sample(record.context(prompt)), prompt, author=role)
            record.judge([prompt, said], role=role, reward=float(sum(97 <= i < 123 for i in record.turns[said].ids)))
        return record.episode()


def duel(model: str, **fields: Any) -> Run:
    one, two = toys.policy(model, "one", lr=1e-2), toys.policy(model, "two", lr=5e-3)
    terms = [Term("policy", toys.Surrogate(), coef=Adaptive(v)) for v in (1.0, 0.5)]
    return Run(
        env=Duel(), curriculum=toys.curriculum(3), roles={"first": one, "second": two}, on_group=[toys.CENTRED],
        updates=[Update(one, terms[:1], roles=("first",), after=[drift]),
                 Update(two, terms[1:], roles=("second",), after=[drift])],
        steps=4, groups=2, sampling=toys.SHORT, save_every=2, **fields,
    )  # fmt: skip


def drift(batch: Batch, update: Update) -> None:
    """Each update's coefficient has its own memory, under the same term's name."""
    update.terms[0].coef.value *= 1.5  # type: ignore[union-attr]


def test_two_policies_resume(toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(duel(toy_model), tmp_path / "whole")
    with monkeypatch.context() as m:
        m.setattr(Run, "report", stopping(3))
        with pytest.raises(KeyboardInterrupt):
            go(duel(toy_model), tmp_path / "stopped")
    resumed = duel(toy_model, resume=True)
    go(resumed, tmp_path / "stopped")
    assert [u.terms[0].coef.value for u in resumed.updates] == [1.0 * 1.5**4, 0.5 * 1.5**4]  # type: ignore[union-attr]
    for place in (".", "policies/two"):
        states = [torch.load(tmp_path / r / "checkpoints/latest" / place / "training.pt") for r in ("whole", "stopped")]
        assert plain(states[0]) == plain(states[1])


def test_state_that_is_not_plain_data_is_refused_when_it_is_saved(toy_model: str, tmp_path: Path) -> None:
    class Odd(Watch):
        def state_dict(self) -> dict[str, Any]:
            return {"path": Path("x")}

    with pytest.raises(UserError, match=r"cannot write checkpoint step_1 .*plain data and tensors only"):
        go(small(toy_model, on_batch=[Odd()], save_every=1), tmp_path / "run")


def test_a_checkpoint_of_another_model_is_one_sentence(toy_model: str, tmp_path: Path) -> None:
    go(small(toy_model, steps=1), tmp_path / "run")
    from temper.models import tiny

    other = tmp_path / "other"
    tiny.save_tiny(tiny.tiny_model(0, hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=32), other)
    with pytest.raises(UserError, match=r"step_1 does not fit this run \(.*\): resume with the options"):
        go(small(str(other), steps=2, resume=True), tmp_path / "run")


@pytest.mark.parametrize("lora", [False, True])
def test_the_same_seed_gives_the_same_run(toy_model: str, lora: bool) -> None:
    from temper.backends.base import Lora

    if lora:
        pytest.importorskip("peft")
    histories = []
    for noise in range(2):
        torch.manual_seed(noise)  # what else has drawn numbers in this process does not matter
        policy = toys.policy(toy_model, lr=1e-2, lora=Lora(4, 8) if lora else None)
        histories.append(go(small(toy_model, policy=policy)))
    first, second = (
        [{k: v for k, v in r.items() if not k.startswith(("timing_s/", "perf/"))} for r in h] for h in histories
    )
    assert repr(first) == repr(second)


# 6: weights reach the sampler ----------------------------------------


class Deaf:
    """A sampler with weights of its own, that does not take new ones."""

    def __init__(self, inner: Any, says: str):
        self.inner, self.says = inner, says
        self.mine = {n: p.detach().clone() for n, p in inner.module.named_parameters()}

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Any:
        return await self.inner.sample(ids, params)

    async def load(self, weights: Any, version: int) -> Ack:
        honest = Ack(version, fingerprint(self.mine.items()))
        return honest if self.says == "new version" else Ack(0, fingerprint(weights.items()))


@pytest.mark.parametrize("says", ["new version", "new weights"])
def test_a_sampler_that_ignores_weights_is_refused(toy_model: str, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    opened = Policy.open

    def deaf(self: Policy, modules: Any = ()) -> None:
        opened(self, modules)
        self._sampler = Deaf(self._sampler, says)

    monkeypatch.setattr(Policy, "open", deaf)
    run = small(toy_model, steps=2)
    with pytest.raises(UserError, match=r"the sampler of 'policy' serves version \d .*new weights do not reach it"):
        go(run)
    assert not run.reporter.history  # the first step was not reported as if all were well


# 7: nothing without effect ----------------------------------------


def refused(toy_model: str, **fields: Any) -> str:
    with pytest.raises(UserError) as error:
        small(toy_model, **fields)
    return str(error.value)


GATE = Column("gate", TOKEN, boolean, "which tokens")
BONUS = Column("bonus", TOKEN, floating, "more")


class Wanted(Watch):
    writes: Any = (GATE,)
    wanted = True
    name = "Novelty"


def test_a_column_that_nothing_reads_is_refused(toy_model: str) -> None:
    said = refused(toy_model, on_batch=[Wanted()])
    assert said == "Novelty writes gate, which nothing reads: drop it, or add the term that uses it"
    policy = toys.policy(toy_model)
    gated = Term("policy", toys.Surrogate(), where=GATE)
    small(toy_model, policy=policy, on_batch=[Wanted()], updates=[Update(policy, [gated])])


def test_what_is_read_must_have_been_written_before(toy_model: str) -> None:
    make = Compute(BONUS, lambda b: b[ADVANTAGE], reads=(ADVANTAGE,))
    take = Compute(ADVANTAGE, lambda b: b[BONUS], reads=(BONUS,))
    small(toy_model, on_batch=[make, take])
    assert refused(toy_model, on_batch=[take, make]) == "Compute reads bonus, which nothing before it writes"
    policy = toys.policy(toy_model)
    updates = [Update(policy, [Term("kl", type("KL", (), {"reads": (LOGP.of("reference"),)})())])]
    said = refused(toy_model, policy=policy, updates=updates)
    assert said == "term 'kl' reads logp@reference, which nothing before it writes"
    said = refused(toy_model, policy=policy, updates=[Update(policy, [Term("a", toys.Surrogate(), where=GATE)])])
    assert said == "term 'a' reads gate, which nothing before it writes"
    late = Compute(REWARD, lambda b: b[REWARD])
    said = refused(toy_model, on_group=[], on_batch=[late, toys.CENTRED], signal=Reads())
    assert said == "Reads reads reward, which nothing before it writes"


class Reads:
    reads = (REWARD,)

    def __call__(self, b: Batch) -> bool:
        return True


def test_roles_and_policies_are_known_by_name(toy_model: str) -> None:
    policy = toys.policy(toy_model)
    said = refused(toy_model, policy=policy, updates=[Update(policy, [toys.POLICY_TERM], roles=("solvr",))])
    assert said == "unknown role 'solvr'; did you mean solver?"
    said = refused(toy_model, env=SingleTurn("writer"))
    assert said == "the environment has a role 'writer' that no policy plays; roles: solver"
    said = refused(toy_model, policy=policy, others=[toys.policy(toy_model)])
    assert said == "two policies are called 'policy': give each its own name"
    unknown = toys.curriculum(2)
    unknown.also = ({"temprature": 0.0},)
    with pytest.raises(UserError, match=r"unknown sampling parameter 'temprature'; did you mean temperature"):
        go(small(toy_model, curriculum=unknown))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", -1), ("groups", 0), ("rounds", 0), ("ahead", -1), ("roles", {})]
)
def test_sizes_are_checked(toy_model: str, field: str, value: Any) -> None:
    assert refused(toy_model, **{field: value})


# 8: rewards ----------------------------------------


def misbehaving(completion: str, answer: str) -> Any:
    """By task: raises, hangs, is not a number, or scores."""
    import time

    if answer == "ab":
        raise RuntimeError("no such file")
    if answer == "ba":
        time.sleep(60)
    return float("nan") if answer == "cd" else float(len(completion))


def test_bad_rewards_are_counted_outcomes_and_the_run_goes_on(toy_model: str) -> None:
    watch = Watch()
    rewards = Rewards([misbehaving], timeout=0.4, give_up=0)
    fields = {"curriculum": toys.curriculum(2), "on_group": [rewards, toys.CENTRED], "on_batch": [watch]}
    run = small(toy_model, **fields, steps=1, groups=4)
    history = go(run)
    b = watch.seen[0]
    why = {t.answer: b[REWARD][b.structure.group == g] for g, t in enumerate(b[TASK])}
    assert all(bool(why[a].isnan().all()) for a in ("ab", "ba", "cd")) and not why["dc"].isnan().any()
    assert history[0]["frac_not_judged"] == 0.75 and history[0]["grad_norm"] > 0
    shares = {k: v for k, v in history[0].items() if k.startswith("rewards/outcome/")}
    assert shares["rewards/outcome/error"] == shares["rewards/outcome/timeout"] == 0.25 and sum(shares.values()) == 1
    assert torch.equal(toys.POLICY_TERM.live(b) == 1, ~b[ADVANTAGE].isnan())


# 9: a method is one file ----------------------------------------

METHOD = '''
"""Reward-weighted letters: a column, a stage, a term and a recipe of my own."""

from temper.columns import LOGP, REWARD, TOKEN, TRAJECTORY, Column, floating
from temper.envs.single import SingleTurn
from temper.backends.base import AdamW, SamplingParams
from temper.objective import Term, Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.run import Run
from temper.tasks.task import Task

SURPRISE = Column("surprise", TOKEN, floating, "how unlikely the sampler found the token")


class Surprise:
    reads = (LOGP.of("behaviour"),)
    writes = (SURPRISE, REWARD)

    async def __call__(self, b):
        b = b.put(SURPRISE, -b[LOGP.of("behaviour")])
        return b.put(REWARD, b.mean(b[SURPRISE], TOKEN, TRAJECTORY))


class Calm:
    reads = (LOGP, SURPRISE)

    def __call__(self, b):
        return -b[LOGP] * b[SURPRISE], {"surprise": b[SURPRISE]}


def calm(model: str, steps: int = 2, lr: float = 1e-3) -> Run:
    """Calm the model down."""
    policy = Policy(model=model, optimizer=AdamW(lr))
    tasks = [Task("a", "say a"), Task("b", "say b")]
    return Run(
        env=SingleTurn(), curriculum=Shuffled(tasks, 2), roles={"solver": policy}, on_group=[Surprise()],
        updates=[Update(policy, [Term("calm", Calm())])], steps=steps, groups=2, sampling=SamplingParams(max_tokens=4),
    )
'''


def test_a_method_is_one_file_outside_the_repository(toy_model: str, tmp_path: Path) -> None:
    from temper.cli import find

    file = tmp_path / "calm.py"
    file.write_text(textwrap.dedent(METHOD))
    found = find.target(str(file))
    assert [o.name for o in found.options() or []] == ["model", "steps", "lr"]
    run = found.load()(toy_model, steps=3)
    history = go(run, tmp_path / "run")
    assert len(history) == 3 and history[0]["surprise"] > 0 and "loss/calm" in history[0]
    resolved = json.loads((tmp_path / "run" / "run.json").read_text())["resolved"]
    assert resolved["updates"][0]["terms"][0]["loss"]["class"].endswith(".Calm")


# evaluation leaves no trace ----------------------------------------


def test_evaluation_changes_nothing_in_training(toy_model: str) -> None:
    """With or without an evaluation at every step, the rewards and the weights are the same: judges with memory too."""
    plainly, watched = list[Any](), list[Any]()
    for probes, out in (([], plainly), ([Evaluation(toys.TASKS, 2, every=1)], watched)):
        run = busy(toy_model, None, steps=4)
        run.probes = list(probes)
        out.extend(without_clock(record) for record in go(run) if record["step"])
    assert repr(plainly) == repr(watched)


def test_evaluation_judges_without_reshaping(toy_model: str) -> None:
    """Stages that reshape a reward for training do not touch what is reported."""
    shaped = Compute(REWARD, lambda b: b[REWARD] - 5.0, reads=(REWARD,))
    probe = Evaluation(toys.TASKS, 2, threshold=-1.0)
    go(small(toy_model, on_group=[toys.ShareOf(), shaped, toys.CENTRED], probes=[probe], steps=1))
    assert probe.results["after"]["pass@1"] == 1.0 and probe.results["after"]["tasks"]["toy"]["reward"] >= 0


def test_requests_are_numbered_and_named(toy_model: str) -> None:
    watch = Watch()
    go(small(toy_model, on_batch=[watch]))
    names = [r for b in watch.seen for r in b[REQUEST]]
    assert len(set(names)) == 4 and [n.split(":")[0] for n in names] == ["1", "2", "3", "4"]
    assert all(f in ("stop", "length", None) for b in watch.seen for f in b[FINISH])

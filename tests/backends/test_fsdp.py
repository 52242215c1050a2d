"""The sharded learner against the local one, with two processes over gloo on a CPU."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from temper.backends.adapters import BaseLearner
from temper.backends.base import AdamW, Lora, SamplingParams, fingerprint
from temper.backends.fsdp import FSDP, Rank, Setup, join
from temper.backends.fsdp_learner import FSDPLearner
from temper.backends.fsdp_processes import Processes
from temper.backends.local import LocalLearner
from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, GROUP, HIDDEN, LOGP, TOKEN, TRAJECTORY, Column, floating
from temper.envs.single import SingleTurn
from temper.episode import Recorder
from temper.errors import UserError
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.methods.objectives.ppo import ppo
from temper.models import load
from temper.objective import Term, Update, seq_mean_token_mean
from temper.parts.curricula import Shuffled
from temper.parts.logprobs import BEHAVIOUR, REFERENCE
from temper.parts.losses import Clip
from temper.parts.preferences import DPO, PAIRED, PREFERENCE
from temper.parts.schedules import Linear
from temper.parts.values import OLD_VALUE, RETURN, ReadValue, ValueHead, ValueLoss
from temper.policy import Policy
from temper.run import Run
from temper.testing.toys import ToyReward, random_ends, toy_tasks
from tests.core.test_learner import mixed

OPTIMIZER = AdamW(lr=Linear(1e-2, 1e-3, 5), clip=0.5)
VALUE, OLD, SPREAD, STATES = (Column(n, TOKEN, floating) for n in ("v", "old_logp", "h", "states"))


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    ranks = Processes(2, timeout=300.0)
    yield ranks
    ranks.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only."""
    join(0, 1, timeout=300, device="cpu", store=dist.FileStore(str(tmp_path / "store"), 1))
    yield
    dist.destroy_process_group()


def batch() -> Batch:
    """Trees, resets, dialogues and ragged answers, with what GRPO, PPO and DPO read; some of it absent."""
    b = mixed()
    g = torch.Generator().manual_seed(3)
    n = b.size(TOKEN)
    noise = [torch.randn(n, generator=g, dtype=torch.float64) for _ in range(5)]
    noise[0][::5] = torch.nan
    sign = torch.zeros(b.size(TRAJECTORY), dtype=torch.int64)
    paired = torch.zeros(b.size(GROUP), dtype=torch.bool)
    for k in range(b.size(GROUP)):
        rows = (b.structure.group == k).nonzero().flatten().tolist()
        if len(rows) > 1:
            sign[rows[0]], sign[rows[1]], paired[k] = 1, -1, True
    b = b.put(ADVANTAGE, noise[0]).put(BEHAVIOUR, noise[1] / 10 - 7.5).put(REFERENCE, noise[2] / 10 - 7.5)
    return b.put(RETURN, noise[3]).put(OLD_VALUE, noise[4]).put(PREFERENCE, sign).put(PAIRED, paired)


def terms(what: str) -> list[Term]:
    policy = Term("policy", Clip(0.2, 0.28), per=seq_mean_token_mean)
    if what == "grpo":
        return [policy]
    if what == "ppo":
        return [replace(policy, coef=0.7), Term("value", ValueLoss(ValueHead()), coef=Linear(0.5, 0.1, 4))]
    return [Term("pairs", DPO(0.1), where=PAIRED), replace(policy, coef=0.1)]


@dataclass
class Made:
    """A learner, its terms, and their value head if they have one."""

    learner: Any
    terms: list[Term]
    modules: list[nn.Module] = field(default_factory=list)


def made(model: str, what: str, how: Any, dtype: str = "float64", **options: Any) -> Made:
    """A local learner (`how` None), a rank of this process (FSDP), or the learner of some `Processes`."""
    torch.manual_seed(5)
    random, lora = torch.get_rng_state(), options.pop("lora", None)
    checkpointing = options.pop("checkpointing", False)
    module = load.load_model(model, dtype=dtype, device="cpu", lora=lora, checkpointing=checkpointing)
    tokenizer, chosen = load.load_tokenizer(model), terms(what)
    modules = Update(None, chosen).modules
    for m in modules:
        m.build(load.hidden_width(module))
        m.to(load.DTYPES[dtype] if dtype == "float64" else torch.float32)
    if isinstance(how, Processes):
        setup = Setup(
            model, OPTIMIZER, dtype, lora, checkpointing, device="cpu", modules=tuple(modules), random=random, **options
        )
        return Made(FSDPLearner(setup, how, module, tokenizer), chosen, modules)
    if how is None:
        half = torch.bfloat16 if dtype == "bfloat16" else None
        return Made(LocalLearner(module, OPTIMIZER, modules, tokenizer=tokenizer, autocast=half, **options), chosen)
    return Made(Rank(module, OPTIMIZER, modules, tokenizer=tokenizer, sharding=how, **options), chosen)


def moments(learner: LocalLearner) -> Tensor:
    """Adam's first moments, flat: after one step, a constant times the gradient."""
    return torch.cat([learner.optimizer.state[p]["exp_avg"].flatten() for p in learner.trained])


def read_back(made_: Made, model: str, what: str, folder: Path, **options: Any) -> LocalLearner:
    """What the ranks have, by a local learner that reads their checkpoint."""
    made_.learner.save(folder)
    found: LocalLearner = made(model, what, None, **options).learner
    found.restore(folder)
    return found


def same_state(a: LocalLearner, b: LocalLearner) -> bool:
    pairs = zip([*a.trained, *moments(a)], [*b.trained, *moments(b)])
    return a.step == b.step and all(torch.equal(x, y) for x, y in pairs)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# the same as one process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["grpo", "ppo", "dpo"])
@pytest.mark.parametrize("budget", [16384, 20])
def test_gradient_and_metrics_are_those_of_one_process(
    two: Processes, exact_model: str, tmp_path: Path, what: str, budget: int
) -> None:
    mine, other = (made(exact_model, what, how, token_budget=budget) for how in (two, None))
    b = batch()
    ours, theirs = mine.learner.update(b, mine.terms), other.learner.update(b, other.terms)
    assert mine.learner.flat
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert float(moments(other.learner).norm()) > 1e-3
    assert gap(moments(read_back(mine, exact_model, what, tmp_path)), moments(other.learner)) < 1e-10


@pytest.mark.parametrize("trajectories", [1, 2])
def test_a_rank_with_less_to_do_passes_for_nothing(
    two: Processes, exact_model: str, tmp_path: Path, trajectories: int
) -> None:
    mine, other = (made(exact_model, "ppo", how, token_budget=4) for how in (two, None))
    b = batch()
    b = b.put(ADVANTAGE, -torch.ones(b.size(TOKEN))).select(torch.arange(b.size(TRAJECTORY)) < trajectories)
    ours, theirs = mine.learner.update(b, mine.terms), other.learner.update(b, other.terms)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert gap(moments(read_back(mine, exact_model, "ppo", tmp_path)), moments(other.learner)) < 1e-10


WAYS: dict[str, dict[str, Any]] = {
    "offload": {"sharding": FSDP(offload=True)},
    "no-reshard": {"sharding": FSDP(reshard=False)},
    "checkpointing": {"checkpointing": True},
    "lora": {"lora": Lora(rank=2)},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_several_steps_with(two: Processes, exact_model: str, tmp_path: Path, options: dict[str, Any]) -> None:
    mine = made(exact_model, "ppo", two, **options)
    options = {k: v for k, v in options.items() if k != "sharding"}
    other, b = made(exact_model, "ppo", None, **options), batch()
    for _ in range(3):
        assert mine.learner.update(b, mine.terms) == pytest.approx(
            other.learner.update(b, other.terms), rel=1e-6, abs=1e-9
        )
    back = read_back(mine, exact_model, "ppo", tmp_path, **options)
    assert gap(moments(back), moments(other.learner)) < 1e-10 and back.step == 3
    assert all(torch.equal(p, q) for p, q in zip(mine.modules[0].parameters(), back.own.parameters()))  # it follows
    weights = mine.learner.weights()
    assert list(weights) == list(other.learner.weights())
    assert fingerprint(weights.items()) == fingerprint(back.weights().items())
    loaded = load.load_model(str(tmp_path / "model"), dtype="float64", device="cpu")
    assert all(torch.equal(p, weights[n]) for n, p in loaded.named_parameters() if n in weights)
    if "lora" in options:
        wanted = {OLD: LOGP}
        base = mine.learner.base().read(b, wanted)[OLD]
        assert gap(base, BaseLearner(other.learner).read(b, wanted)[OLD]) < 1e-10
        assert gap(base, other.learner.read(b, wanted)[OLD]) > 1e-6


def test_reading_is_that_of_one_process(two: Processes, exact_model: str) -> None:
    mine, other = (made(exact_model, "ppo", how, token_budget=12) for how in (two, None))
    mine.learner.update(batch(), mine.terms)
    other.learner.update(batch(), other.terms)
    found = []
    for m in (mine, other):
        head = m.terms[1].loss.head  # type: ignore[union-attr]
        columns = {OLD: LOGP, SPREAD: ENTROPY, STATES: HIDDEN, VALUE: ReadValue(head)}
        found.append(m.learner.read(batch(), columns))
    for column in (OLD, SPREAD, STATES, VALUE):
        assert gap(found[0][column], found[1][column]) < 1e-10, column.name


def test_weights_that_are_copied_in(two: Processes, exact_model: str) -> None:
    mine, other = (made(exact_model, "grpo", how) for how in (two, None))
    other.learner.update(batch(), other.terms)
    mine.learner.load(other.learner.weights())
    wanted = {OLD: LOGP}
    assert gap(mine.learner.read(batch(), wanted)[OLD], other.learner.read(batch(), wanted)[OLD]) < 1e-12
    assert mine.learner.changed
    assert fingerprint(mine.learner.weights().items()) == fingerprint(other.learner.weights().items())


def test_bfloat16_stays_near_float32(two: Processes, toy_model: str, tmp_path: Path) -> None:
    """Gradients of bfloat16 passes differ from float32's by a few per cent, sharded or not."""
    exact = made(toy_model, "grpo", None, "float32")
    half = made(toy_model, "grpo", None, "bfloat16")
    mine = made(toy_model, "grpo", two, "bfloat16")
    for m in (exact, half, mine):
        m.learner.update(batch(), m.terms)
    back = read_back(mine, toy_model, "grpo", tmp_path, dtype="bfloat16")
    assert gap(moments(half.learner), moments(exact.learner)) < 0.05
    assert gap(moments(back), moments(exact.learner)) < 0.05
    assert {p.dtype for p in back.trained} == {torch.float32}


# checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_resumed_learner_ends_as_the_uninterrupted_one(two: Processes, exact_model: str, tmp_path: Path) -> None:
    b = batch()
    m = made(exact_model, "ppo", two)
    for step in range(4):
        if step == 2:
            m.learner.save(tmp_path / "middle")
        m.learner.update(b, m.terms)
    straight = read_back(m, exact_model, "ppo", tmp_path / "straight")
    m = made(exact_model, "ppo", two)
    m.learner.restore(tmp_path / "middle")
    for _ in range(2):
        m.learner.update(b, m.terms)
    assert same_state(read_back(m, exact_model, "ppo", tmp_path / "resumed"), straight)


def test_other_numbers_of_ranks_go_on_from_a_checkpoint(
    two: Processes, alone: None, exact_model: str, tmp_path: Path
) -> None:
    """Two ranks -> one -> a local learner -> two ranks: each has, to the last bit, what the one before it saved."""
    m = made(exact_model, "ppo", two)
    m.learner.update(batch(), m.terms)
    first = read_back(m, exact_model, "ppo", tmp_path / "two")
    rank = made(exact_model, "ppo", FSDP()).learner
    rank.restore(tmp_path / "two")
    rank.save(tmp_path / "one")
    second = made(exact_model, "ppo", None).learner
    second.restore(tmp_path / "one")
    assert same_state(first, second)
    second.save(tmp_path / "local")
    m = made(exact_model, "ppo", two)
    m.learner.restore(tmp_path / "local")
    assert same_state(read_back(m, exact_model, "ppo", tmp_path / "again"), first)
    assert m.learner.step == 1


# what goes wrong ------------------------------------------------------------------------------------------------------


def test_three_ranks_take_up_what_two_left_and_one_is_killed(two: Processes, exact_model: str, tmp_path: Path) -> None:
    b, m = batch(), made(exact_model, "ppo", two)
    m.learner.update(b, m.terms)
    first = read_back(m, exact_model, "ppo", tmp_path / "two")
    ranks = Processes(3, timeout=300.0, name="pupil")
    m = made(exact_model, "ppo", ranks)
    m.learner.restore(tmp_path / "two")
    assert same_state(read_back(m, exact_model, "ppo", tmp_path / "three"), first)
    m.learner.update(b, m.terms)
    back, straight = read_back(m, exact_model, "ppo", tmp_path / "on"), made(exact_model, "ppo", None)
    straight.learner.restore(tmp_path / "two")
    straight.learner.update(b, straight.terms)
    assert gap(moments(back), moments(straight.learner)) < 1e-10
    victim = ranks.processes[1].pid
    os.kill(victim, signal.SIGSTOP)  # so that the update cannot be over before it dies
    threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"'pupil': rank 1 died \(SIGKILL\) while computing an update; --resume"):
        m.learner.update(b, m.terms)
    assert time.monotonic() - began < 10
    assert all(process.poll() is not None for process in ranks.processes)
    with pytest.raises(UserError, match="rank 1 died"):  # and says so again
        m.learner.weights()


class Wrong:
    """A loss that fails where it is computed."""

    reads = (LOGP,)

    def __call__(self, b: Batch) -> Tensor:
        raise ZeroDivisionError("seven by nothing")


def test_what_cannot_be_sent_is_refused_and_changes_nothing(two: Processes, exact_model: str) -> None:
    m = made(exact_model, "grpo", two)
    with pytest.raises(UserError, match="define it at the top level of a file"):
        m.learner.update(batch(), [Term("policy", lambda b: -b[LOGP])])
    assert m.learner.update(batch(), m.terms)["grad_norm"] > 0
    with pytest.raises(UserError, match="not sharded"):
        m.learner.gradient_norms(batch(), "wte")


def test_a_loss_that_fails_ends_the_ranks(exact_model: str) -> None:
    ranks = Processes(1, timeout=300.0)
    m = made(exact_model, "grpo", ranks)
    with pytest.raises(RuntimeError, match=r"rank 0 failed \(seven by nothing\) while computing an update") as error:
        m.learner.update(batch(), [Term("policy", Wrong())])
    assert "ZeroDivisionError" in error.value.__notes__[0]
    assert ranks.processes[0].poll() is not None


def test_a_rank_that_does_not_answer_is_named(exact_model: str) -> None:
    ranks = Processes(1, timeout=0.5)
    os.kill(ranks.processes[0].pid, signal.SIGSTOP)
    with pytest.raises(UserError, match=r"rank 0 gave no answer within 0.5 s while opening the model"):
        made(exact_model, "grpo", ranks)
    assert ranks.processes[0].poll() is not None


DRIVER = """
import time
import temper.backends.fsdp_processes as p
ranks = p.Processes(2)
print(*(x.pid for x in ranks.processes), flush=True)
time.sleep(100)
"""


def test_ranks_end_with_the_run(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    ranks = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(ranks) == 2 and all(map(alive, ranks))
    driver.kill()
    driver.wait()
    until = time.monotonic() + 30
    while any(map(alive, ranks)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, ranks))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# a run ----------------------------------------------------------------------------------------------------------------


def run(model: str, folder: Path, learners: int) -> Run:
    policy = Policy(model=model, dtype="float64", optimizer=AdamW(lr=1e-3), learners=learners)
    m = ppo(policy, epochs=2, minibatches=2)
    return Run(
        env=SingleTurn(), curriculum=Shuffled(toy_tasks(), 3), roles={"solver": policy}, on_group=[ToyReward()],
        on_batch=m.on_batch, updates=[Update(policy, m.terms, m.epochs, m.minibatches)], groups=2, steps=2,
        save_every=1, sampling=random_ends(SamplingParams()), out=folder,
    )  # fmt: skip


def test_a_run_with_two_learners_is_that_with_one(exact_model: str, tmp_path: Path) -> None:
    one, two = (run(exact_model, tmp_path / str(n), n) for n in (1, 2))
    for r in (one, two):
        asyncio.run(train(r))
    for mine, theirs in zip(two.reporter.history, one.reporter.history, strict=True):
        names = [n for n in theirs if isinstance(theirs[n], float) and not n.startswith(("timing_s/", "perf/"))]
        assert len(names) > 10 and [mine[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-6)
    resumed = run(exact_model, tmp_path / "2", 1)  # where two learners saved, one goes on
    resumed.steps, resumed.resume = 3, True
    assert asyncio.run(train(resumed))["steps"] == 3


class Pair:
    """Two policies answer one task, one after the other."""

    roles = ("first", "second")

    async def play(self, task: Any, roles: Any) -> Any:
        record = Recorder(task)
        prompt = record.add(roles["first"].chat(task.messages))
        for role in self.roles:
            said = record.sampled(await roles[role].sample(record.context(prompt)), prompt, author=role)
            record.judge([prompt, said], role=role)
        return record.episode()


def pair(model: str, folder: Path, learners: int) -> Run:
    policies = {r: Policy(r, model, dtype="float64", optimizer=AdamW(lr=1e-3), learners=learners) for r in Pair.roles}
    methods = {r: grpo(p) for r, p in policies.items()}
    return Run(
        env=Pair(), curriculum=Shuffled(toy_tasks(), 3), roles=policies,
        on_group=[ToyReward(), *methods["first"].on_group], groups=2, steps=2, save_every=0,
        updates=[Update(policies[r], m.terms, roles=(r,)) for r, m in methods.items()],
        sampling=random_ends(SamplingParams()), out=folder,
    )  # fmt: skip


def test_two_sharded_policies_in_one_run_are_two_local_ones(exact_model: str, tmp_path: Path) -> None:
    """Each over two processes of its own: neither takes the other's gradients or weights."""
    one, two = (pair(exact_model, tmp_path / str(n), n) for n in (1, 2))
    for r in (one, two):
        asyncio.run(train(r))
    for mine, theirs in zip(two.reporter.history, one.reporter.history, strict=True):
        names = [f"{role}/{n}" for role in Pair.roles for n in ("grad_norm", "loss", "policy_kl", "entropy")]
        assert [mine[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-6, abs=1e-12)
        assert mine["first/grad_norm"] != pytest.approx(mine["second/grad_norm"], rel=1e-3)

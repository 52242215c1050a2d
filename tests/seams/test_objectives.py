"""Combinations of data and terms: two phases, a mixture in one batch, a teacher, a growing curriculum."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, LOGP, REWARD, TASK, TOKEN, VERSION, Column, boolean, floating
from temper.envs.conversations import Dialogue, chains_of
from temper.envs.demonstrations import Demonstrations
from temper.envs.single import SingleTurn
from temper.envs.switch import Switch
from temper.loop import train, train_all
from temper.objective import Term, Update
from temper.parts.curricula import Growing, Mixture, Shuffled
from temper.policy import Policy
from temper.run import Run
from temper.stage import Compute
from temper.tasks.task import Task
from tests.seams import toys
from tests.seams.test_topologies import go, keep_batches

DEMONSTRATED = Column("demonstrated", TOKEN, boolean, "the token was not sampled by a policy")
MARK = Compute(DEMONSTRATED, lambda b: b.at(VERSION, TOKEN) == -1, reads=(VERSION,))
SHOWN = [Task(f"d{i}", f"say {w}", w, source="shown", info={"env": "shown"}) for i, w in enumerate(["abab", "cdcd"])]


class NLL:
    reads = (LOGP,)

    def __call__(self, b: Batch) -> torch.Tensor:
        return -b[LOGP]


def spans(task: Task, tokenizer: Any) -> Any:
    (chain,) = chains_of(Dialogue(task.messages, [{"role": "assistant", "content": task.answer}]), tokenizer)
    return chain


def sft(policy: Policy, **fields: Any) -> Run:
    return Run(
        env=Demonstrations(spans), curriculum=Shuffled(SHOWN, 1), roles={"solver": policy},
        updates=[Update(policy, [Term("nll", NLL())])], **fields,
    )  # fmt: skip


def test_sft_then_rl_as_two_phases(toy_model: str, tmp_path: Path) -> None:
    first = sft(toys.policy(toy_model, lr=1e-2), steps=8, groups=2, out=tmp_path / "sft")
    learned = tmp_path / "sft" / "checkpoints" / "latest" / "model"
    second_policy = toys.policy(str(learned))
    second = Run(
        env=SingleTurn(), curriculum=toys.curriculum(), roles={"solver": second_policy},
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(second_policy, [toys.POLICY_TERM])],
        steps=2, groups=2, sampling=toys.SHORT, out=tmp_path / "rl",
    )  # fmt: skip
    asyncio.run(train_all([first, second]))
    losses = [r["loss"] for r in first.reporter.history]
    assert losses[-1] < losses[0] - 0.5
    from safetensors.torch import load_file

    before = load_file(learned / "model.safetensors")
    after = load_file(tmp_path / "rl" / "checkpoints" / "latest" / "model" / "model.safetensors")
    moved = max(float((after[n] - before[n]).abs().max()) for n in before)
    assert 0 < moved < 0.02  # RL went on from what SFT left: two steps of 1e-3 away from it


def test_demonstrations_and_rollouts_in_one_batch(toy_model: str, tmp_path: Path) -> None:
    policy = toys.policy(toy_model)
    run = Run(
        env=Switch({"play": SingleTurn(), "shown": Demonstrations(spans)}, default="play"),
        curriculum=Mixture([(1.0, toys.curriculum()), (1.0, Shuffled(SHOWN, 1))]), roles={"solver": policy},
        on_group=[toys.ShareOf(), toys.CENTRED], on_batch=[MARK],
        updates=[Update(policy, [toys.POLICY_TERM, Term("nll", NLL(), 0.1, where=DEMONSTRATED)])],
        steps=1, groups=4, sampling=toys.SHORT,
    )  # fmt: skip
    run.on_batch.append(OnlySampled())
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    b = seen[0]
    shown = b[DEMONSTRATED]
    assert 0 < int(shown.sum()) < len(shown)
    assert bool(b[LOGP.of("behaviour")][shown].isnan().all()) and not bool(
        b[LOGP.of("behaviour")][~shown].isnan().any()
    )
    policy_term, nll = run.updates[0].terms
    assert torch.equal(policy_term.live(b) == 1, ~shown) and torch.equal(nll.live(b) == 1, shown)
    assert abs(float(nll.weights(b).sum()) - 1) < 1e-6 and abs(float(policy_term.weights(b).sum()) - 1) < 1e-6
    assert history[0]["loss/nll"] > 1.0


class OnlySampled:
    """Demonstrations have no advantage."""

    reads = (ADVANTAGE, DEMONSTRATED)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(ADVANTAGE, torch.where(b[DEMONSTRATED], torch.nan, b[ADVANTAGE]))


class ReadTeacher:
    wanted = True
    reads = ()
    writes = (LOGP.of("teacher"),)

    def __init__(self, teacher: Policy):
        self.teacher = teacher

    async def __call__(self, b: Batch) -> Batch:
        return self.teacher.learner.read(b, {LOGP.of("teacher"): LOGP})


BASELINE = Column(
    "teacher_baseline", TOKEN, floating, "mean over the batch of the sampler's log-prob minus the teacher's"
)


def mean_gap(b: Batch) -> torch.Tensor:
    gap = b[LOGP.of("behaviour")] - b[LOGP.of("teacher")]
    return gap.mean().expand(len(gap))


class ReverseKL:
    """Score-function estimate of the gradient of KL(policy || teacher) on the policy's own samples."""

    reads = (LOGP, LOGP.of("teacher"), BASELINE)

    def __call__(self, b: Batch) -> torch.Tensor:
        gap = (b[LOGP] - b[LOGP.of("teacher")] - b[BASELINE]).detach()
        return gap * b[LOGP]


def test_distillation_term_reads_a_teacher(toy_model: str, tmp_path: Path) -> None:
    teacher = Policy("teacher", toys.save_toy_model(tmp_path / "teacher", seed=7, sharpness=12.0), trainable=False)
    policy = toys.policy(toy_model, lr=2e-2)
    run = Run(
        env=SingleTurn(), curriculum=toys.curriculum(8), roles={"solver": policy}, others=[teacher],
        on_batch=[ReadTeacher(teacher), Compute(BASELINE, mean_gap, (LOGP.of("behaviour"), LOGP.of("teacher")))],
        updates=[Update(policy, [Term("distil", ReverseKL())])], steps=24, groups=8, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    go(run, tmp_path / "run")
    gap = [float((b[LOGP.of("behaviour")] - b[LOGP.of("teacher")]).mean()) for b in seen]
    assert sum(gap[-3:]) < 0.85 * sum(gap[:3])  # the KL estimate falls
    assert not (tmp_path / "run" / "checkpoints" / "latest" / "policies" / "teacher").exists()


def test_curriculum_adds_tasks_while_training(toy_model: str, tmp_path: Path) -> None:
    policy = toys.policy(toy_model)
    growing = Growing(
        lambda level, k: Task(f"g{level}/{k}", f"say {'ab'[level % 2]}", source=f"level{level}"), levels=3, attempts=2,
        bar=0.0, window=4,
    )  # fmt: skip
    run = Run(
        env=SingleTurn(), curriculum=growing, roles={"solver": policy}, on_group=[toys.ShareOf(), toys.CENTRED],
        updates=[Update(policy, [toys.POLICY_TERM])], steps=4, groups=4, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    assert {t.source for t in seen[0][TASK]} == {"level0"}
    assert "level1" in {t.source for t in seen[1][TASK]}  # bar 0: a level opens as soon as its window is full
    assert [h["curriculum/open_levels"] for h in history] == sorted(h["curriculum/open_levels"] for h in history)
    assert history[-1]["curriculum/open_levels"] == 3
    assert all(b.size(GROUP) == 4 and REWARD in b for b in seen)


def test_train_returns_the_summary(toy_model: str, tmp_path: Path) -> None:
    run = sft(toys.policy(toy_model), steps=1, groups=2, out=tmp_path / "one")
    summary = asyncio.run(train(run))
    assert summary["steps"] == 1 and summary["tokens"] > 0 and Path(summary["report"]).is_file()

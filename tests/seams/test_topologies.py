"""Rollout shapes that need no flag in the carrier: tree, context reset, two roles, cut and re-roll."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from temper import streams
from temper.bridge import to_episodes
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, LOGP, REWARD, ROLE, TOKEN, TRAJECTORY, TURN
from temper.envs.single import SingleTurn
from temper.episode import Episode, Recorder
from temper.loop import train
from temper.objective import Update
from temper.policy import Policy, Seat
from temper.run import Run
from temper.tasks.task import Task
from tests.seams import toys


def go(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train to the end; the metrics of every step."""
    run.out = folder
    asyncio.run(train(run))
    return run.reporter.history


def keep_batches(run: Run) -> list[Batch]:
    """The batches that the updates saw."""
    seen: list[Batch] = []

    class Spy:
        reads = writes = ()

        async def __call__(self, b: Batch) -> Batch:
            seen.append(b)
            return b

    run.on_batch.append(Spy())
    return seen


@dataclass
class Tree:
    """One stem, several branches: each branch is a trajectory, and the stem's turn is a member of all."""

    branches: int = 3
    roles = ("solver",)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles["solver"], Recorder(task)
        prompt = record.add(seat.chat(task.messages))
        stem = record.sampled(await seat.sample(record.context(prompt), max_tokens=3), prompt)
        for _ in range(self.branches):
            leaf = record.sampled(await seat.sample(record.context(stem)), stem)
            record.judge([prompt, stem, leaf])
        return record.episode()


def test_tree_rollout_with_segment_credit(toy_model: str, tmp_path: Path) -> None:
    policy = toys.policy(toy_model)
    run = Run(
        env=Tree(), curriculum=toys.curriculum(attempts=2), roles={"solver": policy},
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])],
        steps=2, groups=2, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    b = seen[0]
    assert b.size(TRAJECTORY) == 2 * 2 * 3 and b.size(GROUP) == 2
    members = torch.bincount(b.structure.member[0], minlength=b.size(TURN))
    stems = [u for u in range(b.size(TURN)) if b.structure.sampled[u] and members[u] == 3]
    assert len(stems) == 4
    token_turn = b.structure.token_turn
    centred = b[REWARD] - b.spread(b.mean(b[REWARD], TRAJECTORY, GROUP), GROUP, TRAJECTORY)
    for stem in stems:  # a shared segment's credit is the mean of its branches' advantages
        mine = b.structure.member[1][b.structure.member[0] == stem]
        expected = centred[mine].mean()
        torch.testing.assert_close(b[ADVANTAGE][token_turn == stem], expected.expand(int((token_turn == stem).sum())))
    assert history[-1]["policy_kl"] < 1e-6  # every token, shared or not, is scored as it was sampled


@dataclass
class Chunked:
    """Thinking in chunks: each chunk starts a fresh context that carries over only the last few ids (a reset)."""

    chunks: int = 2
    carry: int = 2
    roles = ("solver",)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles["solver"], Recorder(task)
        question = seat.chat(task.messages)
        turns, tail = [], ()
        for _ in range(self.chunks):
            opened = record.add((*question, *tail))
            chunk = await seat.sample(record.context(opened))
            turns += [opened, record.sampled(chunk, opened)]
            tail = chunk.ids[-self.carry :]
        record.judge(turns)
        return record.episode()


def test_context_reset_is_one_trajectory_over_two_chains(toy_model: str, tmp_path: Path) -> None:
    policy = toys.policy(toy_model)
    run = Run(
        env=Chunked(), curriculum=toys.curriculum(2), roles={"solver": policy}, on_group=[toys.ShareOf(), toys.CENTRED],
        updates=[Update(policy, [toys.POLICY_TERM])], steps=2, groups=2, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    b = seen[0]
    assert b.size(TRAJECTORY) == 4
    assert all(len([u for u in b.turns_of(j) if b.structure.sampled[u]]) == 2 for j in range(4))
    assert all(int(b.structure.parent[u]) == -1 for u in range(b.size(TURN)) if not b.structure.sampled[u])
    assert history[0]["policy_kl"] < 1e-6


@dataclass
class Game:
    """Two seats speak in turn; the one that says more letters wins: +1 and -1."""

    roles = ("first", "second")
    writes = (REWARD,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record = Recorder(task)
        said: dict[str, list[int]] = {}
        turns: dict[str, list[int]] = {}
        heard: tuple[int, ...] = ()
        for role in self.roles:
            seat = roles[role]
            opened = record.add((*seat.chat(task.messages), *heard))
            move = await seat.sample(record.context(opened))
            turns[role] = [opened, record.sampled(move, opened, author=role)]
            said[role], heard = [i for i in move.ids if 97 <= i < 123], move.ids
        lead = len(said["first"]) - len(said["second"])
        for role, sign in (("first", 1), ("second", -1)):
            record.judge(turns[role], role=role, reward=float(sign * ((lead > 0) - (lead < 0))))
        return record.episode()


def test_two_roles_train_two_policies(toy_model: str, tmp_path: Path) -> None:
    one, two = toys.policy(toy_model, "one"), toys.policy(toy_model, "two", lr=5e-3)
    run = Run(
        env=Game(), curriculum=toys.curriculum(4), roles={"first": one, "second": two}, on_group=[toys.CENTRED],
        updates=[Update(one, [toys.POLICY_TERM], roles=("first",)), Update(two, [toys.POLICY_TERM], roles=("second",))],
        steps=2, groups=2, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    b = seen[0]
    assert b.size(GROUP) == 4  # request x role: a player is compared with itself
    assert set(b[ROLE]) == {"first", "second"}
    assert torch.allclose(b.sum(b[REWARD], TRAJECTORY, GROUP)[0::2], -b.sum(b[REWARD], TRAJECTORY, GROUP)[1::2])
    assert {"one/loss", "two/loss"} <= set(history[0])
    saved = tmp_path / "run" / "checkpoints" / "latest"
    first, second = torch.load(saved / "training.pt"), torch.load(saved / "policies" / "two" / "training.pt")
    assert any(not torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])


@dataclass
class CutAndReroll:
    """Cuts every trajectory after `keep` sampled tokens, samples the rest anew, and has it judged again."""

    policy: Policy
    judge: Any
    keep: int = 2
    reads = (REWARD, LOGP.of("behaviour"))
    writes = (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        edited = await asyncio.gather(*[self._edit(e) for e in to_episodes(b)])
        return await self.judge(Batch.of(edited))

    async def _edit(self, e: Episode) -> Episode:
        record = Recorder(e.task)
        prompt = record.add(e.turns[0].ids)
        for n, j in enumerate(e.trajectories):
            old = e.turns[j.turns[-1]]
            kept = replace(old, ids=old.ids[: self.keep], logp=old.logp[: self.keep], parent=prompt, finish=None)
            record.turns.append(kept)
            stem = len(record.turns) - 1
            params = replace(toys.SHORT, seed=streams.key(0, e.request, "reroll", n))
            rest = await self.policy.sampler.sample(record.context(stem), params)
            record.judge([prompt, stem, record.sampled(rest, stem)])
        return replace(record.episode(), request=e.request, split=e.split)


def test_stage_that_cuts_rerolls_and_judges_again(toy_model: str, tmp_path: Path) -> None:
    policy, judge = toys.policy(toy_model), toys.ShareOf()
    run = Run(
        env=SingleTurn(), curriculum=toys.curriculum(3), roles={"solver": policy},
        on_group=[judge, CutAndReroll(policy, judge), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])],
        steps=2, groups=2, sampling=toys.SHORT,
    )  # fmt: skip
    seen = keep_batches(run)
    history = go(run, tmp_path / "run")
    b = seen[0]
    assert b.size(TRAJECTORY) == 6
    for j in range(6):
        stem, rest = [u for u in b.turns_of(j) if b.structure.sampled[u]]
        assert len(b.turn_ids(stem)) <= 2 and int(b.structure.parent[rest]) == stem
    hit = torch.isin(b.token_ids, torch.arange(97, 123)).float()
    torch.testing.assert_close(b[REWARD], b.mean(hit, TOKEN, TRAJECTORY))  # the reward is that of the edited text
    assert history[0]["policy_kl"] < 1e-6  # kept and new tokens carry the log-probs they were sampled with

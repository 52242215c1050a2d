"""Unary feedback: the closed-form reward, what an episode sees, and which groups are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, TOKEN, TRAJECTORY
from temper.envs.try_again import TryAgain, final_answer
from temper.episode import ENV, Completion, Episode, Recorder
from temper.methods.rollouts.ufo_unary_feedback import CHOSEN, TopGroups, ufo_unary_feedback
from temper.models.tiny import tiny_tokenizer
from temper.parts.advantages import Whiten
from temper.parts.losses import Clip
from temper.parts.values import GAE, RETURN
from temper.recipes.ufo_unary_feedback import hidden_numbers
from temper.recipes.ufo_unary_feedback import ufo_unary_feedback as recipe
from temper.run import Run
from temper.tasks.task import Task
from temper.testing import check_run, random_ends
from tests.envs.actors import Actor, Guarded, says, seat

TASK = Task("t", "Which?", "B")


def play(env: TryAgain, *answers: str, longest: int = 64) -> tuple[Episode, Actor]:
    actor = Actor(Guarded(tiny_tokenizer()), says(*answers))  # refuses to encode again what was sampled
    return asyncio.run(env.play(TASK, {"solver": seat(actor, max_tokens=longest)})), actor


# the reward -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers, reward",
    [
        (["B"], 1.0),
        (["A", "B"], 0.5),
        (["A", "C", "B"], 0.25),
        (["A", "A", "B"], 0.25 - 0.5 * (1 - 2 / 3)),
        (["A", "A", "A", "B"], 0.125 - 0.5 * (1 - 2 / 4)),
        (["A", "C", "D", "E", "B"], 0.0625),
        (["A", "C", "D", "E", "F"], 0.0),
        (["A"] * 5, -0.5 * (1 - 1 / 5)),
        (["a ", "A", " A.", "b"], 0.125 - 0.5 * (1 - 2 / 4)),  # white space, case and a stop make no other answer
        (["<think>B</think>", "B"], 0.5 - 0.1),  # no answer: a turn, the penalty, nothing to repeat
        (["<think>x</think>"] * 5, -0.5),
        (["<answer>A</answer>", "so <answer>b</answer>"], 0.5),
    ],
)
def test_the_table_of_rewards(answers: list[str], reward: float) -> None:
    episode, _ = play(TryAgain(), *answers, "B")
    assert episode.trajectories[0].reward == pytest.approx(reward)


def test_parts_and_notes() -> None:
    episode, _ = play(TryAgain(), "A", "", "A", "B")
    (t,) = episode.trajectories
    assert t.rewards == pytest.approx({"success": 0.125, "format": -0.1, "repetition": -0.5 * (1 - 2 / 3)})
    assert (t.info["turns"], t.info["success"], t.info["invalid"]) == (4, 1.0, 1)
    assert t.info["distinct"] == pytest.approx(2 / 3)
    episode, _ = play(TryAgain(turns=2, gamma=0.9, violation=0.3, repetition=0.2), "A", "A")
    assert episode.trajectories[0].reward == pytest.approx(-0.2 * 0.5)
    episode, _ = play(TryAgain(turns=1), "B and more", longest=3)  # cut off: no answer
    assert episode.trajectories[0].reward == pytest.approx(-0.1) and "distinct" not in episode.trajectories[0].info
    assert final_answer(Completion((1,), (-1.0,), "length", text="B")) is None


def test_the_feedback_is_one_sentence_and_ids_stay() -> None:
    env = TryAgain(feedback="No.")
    episode, actor = play(env, "A", "", "B")
    shown = [t.text for t in episode.turns if t.author == ENV]
    assert shown == ["Which?", "No.", "No."]  # nothing numeric, nothing about turns left; also after an empty answer
    answers = [t for t in episode.turns if t.author == "solver"]
    assert [t.ids for t in answers] == [c.ids for c in actor.answers]
    assert actor.asked[2][: len(actor.asked[1])] == actor.asked[1]  # what was said stays in context as it was
    b = Batch.of([episode])
    assert b.size(TOKEN) == sum(len(t.ids) for t in answers) and b.size(TRAJECTORY) == 1


def test_enumerating_and_repeating_a_hidden_answer() -> None:
    """Four numbers, four turns: never one twice finds it always, in 2.5 turns on the mean; always one in 1 of 4."""
    order = ["1", "2", "3", "4"]
    scores = []
    for answers in (order, ["1"] * 4):
        found = []
        for task in hidden_numbers():
            actor = Actor(tiny_tokenizer(), says(*answers))
            found.append(asyncio.run(TryAgain(turns=4).play(task, {"solver": seat(actor)})).trajectories[0])
        scores.append(([t.info["success"] for t in found], [t.info["turns"] for t in found], [t.reward for t in found]))
    assert scores[0] == ([1.0] * 4, [1, 2, 3, 4], [1.0, 0.5, 0.25, 0.125])
    assert scores[1][0] == [1.0, 0.0, 0.0, 0.0] and scores[1][2] == pytest.approx([1.0] + [-0.375] * 3)
    assert pytest.approx(0.684, abs=1e-3) == 1 - (3 / 4) ** 4  # independent retries


# groups ---------------------------------------------------------------------------------------------------------------


def groups(*rewards: list[float | None]) -> Batch:
    episodes = []
    for k, mine in enumerate(rewards):
        for r in mine:
            record = Recorder(Task(f"t{k}", "?"))
            record.judge([record.add((1,)), record.sampled(Completion((5, 6), (-1.0, -1.0)), 0)], reward=r)
            episodes.append(record.episode())
            episodes[-1] = Episode(episodes[-1].task, episodes[-1].turns, episodes[-1].trajectories, str(k))
    b = Batch.of(episodes)
    return b.put(ADVANTAGE, torch.arange(b.size(TOKEN), dtype=torch.float32))


def kept(b: Batch, **options: Any) -> list[bool]:
    out = asyncio.run(TopGroups(**options)(b))
    chosen = [bool(out[CHOSEN][2 * i]) for i in range(out.size(TRAJECTORY))]
    assert torch.equal(out[ADVANTAGE].isnan(), ~out[CHOSEN])
    return [chosen[b.structure.group.tolist().index(g)] for g in range(b.size(GROUP))]


def test_the_groups_whose_rewards_vary_most_are_kept() -> None:
    b = groups([0.0, 0.0], [0.0, 1.0], [0.0, 0.5], [0.0, -2.0])
    assert kept(b) == [False, False, False, True]
    assert kept(b, share=0.5) == [False, True, False, True]
    assert kept(b, share=0.9) == [False, True, True, True] and kept(b, share=1.0) == [True] * 4
    assert kept(b, share=0.01) == [False, False, False, True]  # at least one


def test_degenerate_groups_come_last() -> None:
    b = groups([1.0], [None, 1.0], [0.0, 0.1], [0.2, 0.2])
    assert kept(b) == [False, False, True, False]
    assert kept(b, share=0.5) == [False, False, True, True]  # a std of 0 before none at all


def test_the_methods_settings() -> None:
    m = ufo_unary_feedback(None)
    assert m.env == TryAgain(5, 0.5, 0.1, 0.5)
    clip, bonus, value = m.terms
    assert isinstance(clip.loss, Clip) and (clip.loss.low, clip.loss.high) == (0.2, 0.28)
    assert (bonus.coef, bonus.where) == (1e-3, CHOSEN) and value.name == "value"
    gae = next(s for s in m.on_batch if isinstance(s, GAE))
    top = next(s for s in m.on_batch if isinstance(s, TopGroups))
    assert (gae.gamma, gae.lam) == (1.0, 1.0) and (top.share, top.credit) == (0.25, (ADVANTAGE, RETURN))
    assert isinstance(m.on_batch[-1], Whiten)
    group = ufo_unary_feedback(None, critic=False)
    assert [t.name for t in group.terms] == ["policy", "entropy"] and len(group.on_group) == 1


def test_a_run_with_a_critic(exact_model: str, tmp_path: Path) -> None:
    """Declared columns, resumed to the last bit, cut in any way; with the KL in the reward."""

    def build() -> Run:
        run = recipe(
            model=exact_model,
            turns=2,
            credit="critic",
            beta=0.1,
            share=0.5,
            steps=3,
            groups=2,
            attempts=3,
            eval_tasks=0,
        )
        run.sampling = random_ends(run.sampling)
        return run

    history = check_run(build, tmp_path)
    assert {"loss/policy", "loss/value", "loss/entropy"} <= set(history[0])


def test_evaluation_counts_what_is_solved() -> None:
    run = recipe(turns=3)
    assert run.probes[0].env == TryAgain(3, 1.0, 0.0, 0.0) and run.env == TryAgain(3)

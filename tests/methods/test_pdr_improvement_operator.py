"""PDR: rounds of drafts, what a workspace holds, the two budgets, and the objective of two halves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP_KEY, LOGP, TOKEN, TRAJECTORY
from temper.envs.refine import DRAFTS, Refine, agreement, likelihood
from temper.envs.single import SingleTurn
from temper.envs.switch import Switch
from temper.episode import ENV, Completion, Episode, Recorder
from temper.errors import UserError
from temper.methods.rollouts.pdr_improvement_operator import OPERATOR, half_each, pdr_improvement_operator
from temper.parts.curricula import Mixture
from temper.parts.gates import REWARDED
from temper.parts.losses import CISPO
from temper.parts.sft import NLL
from temper.recipes.pdr_improvement_operator import Through
from temper.recipes.pdr_improvement_operator import pdr_improvement_operator as recipe
from temper.run import Run
from temper.tasks.task import Task
from temper.testing import ToyReward, check_run, random_ends
from tests.envs.test_tree import said, seat_of

TASK = Task("t", "1+1?", "2")


def play(env: Refine, *texts: str, task: Task = TASK) -> tuple[Episode, list[str]]:
    """The episode, and what the policy was asked (the user's texts)."""
    seat = seat_of(lambda n, ids, params: said(texts[n], "stop", start=n))
    episode = asyncio.run(env.play(task, {"solver": seat}))
    return episode, [t.text for t in episode.turns if t.author == ENV]


# rounds ---------------------------------------------------------------------------------------------------------------


def test_drafts_a_workspace_and_a_refinement() -> None:
    episode, asked = play(Refine((3,)), "2", "<think>hm</think>3", "2", "<think>two say so</think>2")
    assert asked == ["1+1?"] * 3 + ["1+1?\n\nDrafts: 2; 3; 2"]  # of the drafts: their final parts
    (only,) = episode.trajectories
    assert only.group == "" and [episode.turns[u].text for u in only.turns] == [asked[3], "<think>two say so</think>2"]
    assert [t.parent for t in episode.turns] == [-1, 0, -1, 2, -1, 4, -1, 6]  # contexts of their own
    b = Batch.of([episode])
    assert b.size(TOKEN) == len(episode.turns[7].ids) and b.size(TRAJECTORY) == 1  # drafts are not trained


def test_a_workspace_is_made_anew_from_each_round() -> None:
    _, asked = play(Refine((2, 2)), "a", "b", "c", "d", "e")
    assert asked == ["1+1?"] * 2 + ["1+1?\n\nDrafts: a; b"] * 2 + ["1+1?\n\nDrafts: c; d"]


def test_drafts_may_be_trained_among_themselves() -> None:
    episode, _ = play(Refine((2,), train_drafts=True), "a", "b", "c")
    assert [t.group for t in episode.trajectories] == [DRAFTS, DRAFTS, ""]
    b = Batch.of([episode])
    assert b[GROUP_KEY] == [DRAFTS, ""] and b.structure.group.tolist() == [0, 0, 1]
    assert b.size(TOKEN) == sum(len(t.ids) for t in episode.turns if t.author != ENV)


def test_one_draft_kept_whole_is_sequential_refinement(exact_model: str) -> None:
    """(a) token for token: rounds of one with "all", against a loop that shows the solution before."""
    from temper.policy import Policy, Seat

    policy = Policy(model=exact_model, dtype="float64")
    policy.open()
    env = Refine((1, 1, 1), shown=str)

    def fresh() -> Seat:
        params = SamplingParams(max_tokens=12, allowed=tuple(range(97, 123)))
        return Seat("solver", policy, params, 0, ("t",))

    async def sequential() -> list[tuple[int, ...]]:
        seat, before, out = fresh(), "", []
        for _ in range(4):
            question = f"1+1?\n\nDrafts: {before}" if before else "1+1?"
            answer = await seat.sample(seat.chat([{"role": "user", "content": question}]))
            before = answer.text
            out.append(answer.ids)
        return out

    episode = asyncio.run(env.play(TASK, {"solver": fresh()}))
    assert [t.ids for t in episode.turns if t.author != ENV] == asyncio.run(sequential())


# distilling -----------------------------------------------------------------------------------------------------------


def spaces(env: Refine, *texts: str) -> list[str]:
    _, asked = play(env, *texts, *["?"] * 8)
    return [a.removeprefix("1+1?\n\nDrafts: ") for a in asked[env.rounds[0] :]]


def test_what_is_kept() -> None:
    drafts = ("w", "x", "y", "z")  # the n-th has mean log-prob −(n + 1)
    assert spaces(Refine((4,), "top", keep=2), *drafts) == ["w; x"]
    assert spaces(Refine((4,), "top", keep=3, rank=lambda d: [0.0, 3.0, 1.0, 2.0]), *drafts) == ["x; z; y"]
    assert spaces(Refine((4,), "top", keep=1, rank=agreement), "a", "b", "c", "b") == ["b"]
    assert set("".join(spaces(Refine((4,), "random", keep=2), *drafts)).replace("; ", "")) <= set("wxyz")
    shared = spaces(Refine((4, 3), "random", keep=2), *drafts)[:3]
    assert len(set(shared)) == 1 and len(shared[0]) == 4  # one workspace for all
    own = spaces(Refine((4, 6), "own top", keep=2, rank=lambda d: [0.0] * len(d)), *drafts)[:6]
    assert len(set(own)) > 1 and all(len(w) == 4 for w in own)  # each has its own
    sure = spaces(Refine((4, 6), "own top", keep=1, rank=lambda d: [99.0, *[0.0] * (len(d) - 1)]), *drafts)[:6]
    assert set(sure) == {"w"}


def test_scores_of_drafts() -> None:
    drafts = [Completion((1, 2), (-1.0, -3.0), text="<think>a</think>b"), Completion((1,), (-1.5,), text="b")]
    assert likelihood(drafts) == [-2.0, -1.5] and agreement(drafts) == [2.0, 2.0]


def test_a_workspace_is_never_cut_in_a_draft() -> None:
    episode, asked = play(Refine((3,), room=5), "abc", "defgh", "i", "?")
    assert asked[-1] == "1+1?\n\nDrafts: abc"  # "abc; i" would be 6 tokens
    assert episode.trajectories[0].info["left_out"] == 2
    episode, asked = play(Refine((2,), room=2), "abc", "def", "?")
    assert asked[-1] == "1+1?" and episode.trajectories[0].info["left_out"] == 2  # nothing fits: a plain question
    _, asked = play(Refine((2,), room=64, shape="{question} [{workspace}]"), "{x}", "b", "?")
    assert asked[-1] == "1+1? [{x}; b]"


def test_a_summary_is_the_policys_own() -> None:
    limits: list[int] = []

    def say(n: int, ids: Any, params: SamplingParams) -> Completion:
        limits.append(params.max_tokens)
        return said(["2", "3", "both", "2"][n], "stop", start=n)

    env = Refine((2,), "summary", room=9)
    episode = asyncio.run(env.play(TASK, {"solver": seat_of(say)}))
    asked = [t.text for t in episode.turns if t.author == ENV]
    assert asked[2].startswith("1+1?\n\nDrafts: 2; 3\n\nSumm") and asked[3] == "1+1?\n\nDrafts: both" and limits[2] == 9
    assert episode.trajectories[0].info == {"b_seq": 2 + 5 + 2, "b_total": 2 + 2 + 5 + 2, "left_out": 0}


def test_latency_is_the_longest_call_of_each_round() -> None:
    """(b) B_seq = 5 + 3 + 1 with the token that ends each call, B_total all of them."""
    episode, _ = play(Refine((3, 2)), "abcd", "a", "ab", "ab", "a", "")
    assert episode.trajectories[0].info["b_seq"] == 5 + 3 + 1
    assert episode.trajectories[0].info["b_total"] == (5 + 2 + 3) + (3 + 2) + 1
    with pytest.raises(UserError):
        Refine(())
    with pytest.raises(UserError):
        Refine((4, 0))


# the objective --------------------------------------------------------------------------------------------------------


def halves() -> Batch:
    """Plain answers of 1 and 3 tokens, refinements of 2 and 2."""
    out = []
    for n, how, r in ((1, "plain", 1.0), (3, "plain", -1.0), (2, OPERATOR, 1.0), (2, OPERATOR, -1.0)):
        record = Recorder(Task(how, "?", info={"env": how}))
        turns = [record.add((1,)), record.sampled(Completion((5,) * n, (-1.0,) * n), 0)]
        record.judge(turns, reward=r)
        e = record.episode()
        out.append(Episode(e.task, e.turns, e.trajectories, how))
    return Batch.of(out)


def test_each_half_has_its_own_mean() -> None:
    b = halves()
    live = torch.ones(8)
    assert half_each(b, live).tolist() == pytest.approx([1 / 8] * 4 + [1 / 8] * 4)
    live[:3] = 0
    assert half_each(b, live).tolist() == pytest.approx([0.0] * 3 + [1 / 2] + [1 / 8] * 4)
    live[3] = 0
    assert half_each(b, live).tolist() == pytest.approx([0.0] * 4 + [1 / 4] * 4)  # one kind: all of it
    assert half_each(b, torch.zeros(8)).sum() == 0


def test_the_ratio_is_a_weight_without_gradient_and_right_answers_are_imitated() -> None:
    m = pdr_improvement_operator(None)
    policy, right = m.terms
    assert isinstance(policy.loss, CISPO) and (policy.loss.upper, policy.loss.lower) == (1.2, 0.8)
    assert isinstance(right.loss, NLL) and right.coef == 0.1 and right.where == REWARDED
    b = halves()
    for stage in m.on_group:
        b = asyncio.run(stage(b))
    assert b[REWARDED].tolist() == [True] + [False] * 3 + [True] * 2 + [False] * 2
    assert right.weights(b).tolist() == pytest.approx([1 / 2] + [0.0] * 3 + [1 / 4] * 2 + [0.0] * 2)
    gap = torch.tensor([0.5, 0.1, -0.5, 0.0, -2.0, 0.0, 0.0, 0.0])
    logp = (b[LOGP.of("behaviour")] + gap).requires_grad_()
    values, _ = policy.values(b.put(LOGP, logp))
    (g,) = torch.autograd.grad(values.sum(), logp)
    torch.testing.assert_close(g, -gap.exp().clamp(0.8, 1.2) * b[ADVANTAGE])


def test_half_of_the_tasks_go_through_the_operator() -> None:
    tasks = Through([TASK, Task("u", "?", info={"x": 1})])
    assert len(tasks) == 2 and tasks[1] == Task("u/operator", "?", info={"x": 1, "env": OPERATOR})
    run = recipe(eval_tasks=4)
    assert isinstance(run.env, Switch) and isinstance(run.curriculum, Mixture)
    asked = [r.task.info.get("env", "plain") for r in run.curriculum.next(8)]
    assert sorted(asked) == [OPERATOR] * 4 + ["plain"] * 4
    assert [(p.name, type(p.env)) for p in run.probes] == [("eval", SingleTurn), ("refined", Refine)]
    plain = recipe(eval_tasks=4, share=0.0)
    assert {r.task.info.get("env", "plain") for r in plain.curriculum.next(8)} == {"plain"}


def test_a_run_whose_drafts_are_trained(exact_model: str, tmp_path: Path) -> None:
    """Declared columns, resumed to the last bit, cut in any way; with a summary."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {a}", "answer": "{a}"}}\n' for a in ("ab", "ba", "cd", "dc")))

    def build() -> Run:
        run = recipe(
            model=exact_model, data=str(rows), reward=("exact_match",), drafts=(2,), distil="summary",
            train_drafts=True, steps=3, groups=2, attempts=2, max_tokens=6, eval_tasks=0, lr=1e-3,
        )  # fmt: skip
        run.on_group[0] = ToyReward()
        run.sampling = random_ends(run.sampling)
        return run

    history = check_run(build, tmp_path)
    assert history[0]["env/b_total"] > history[0]["env/b_seq"] > 0

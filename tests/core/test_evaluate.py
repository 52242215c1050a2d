"""Evaluation: estimators against brute force, intervals, and what a summary holds."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from temper.columns import OUTCOME, REWARD, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.evaluate import (
    Answers,
    Evaluation,
    answer_text,
    answers_of,
    bootstrap_mean,
    deciding,
    judges,
    majority,
    paired_difference,
    pass_at_k,
    powers,
    summarise,
)
from temper.loop import train
from temper.objective import Update
from temper.request import Drop
from temper.run import Run
from temper.tasks.task import Task
from tests.core import hand
from tests.seams import toys

NAN = math.nan


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(n: int) -> None:
    for passed in itertools.product([False, True], repeat=n):
        for k in range(1, n + 1):
            draws = [any(d) for d in itertools.combinations(passed, k)]
            assert pass_at_k(passed, k) == pytest.approx(sum(draws) / len(draws))


def test_powers() -> None:
    assert [powers(n) for n in (1, 2, 5, 16)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16]]


def answers(source: str, rewards: list[float], text: list[str] | None = None, length: float = 3.0) -> Answers:
    n = len(rewards)
    finished = [r == r for r in rewards]
    return Answers(Task("t", "?", source=source), rewards, [length] * n, finished, text or [str(r) for r in rewards])


@pytest.mark.parametrize(
    ("text", "rewards", "passes"),
    [
        (["<answer>7</answer>", "so 7", "<answer> 7 </answer>"], [1.0, 0.0, 1.0], True),
        (["8", "7", "8"], [0.0, 1.0, 0.0], False),
        (["7", "8"], [1.0, 0.0], True),  # a tie: the one that came first
        (["8", "7"], [0.0, 1.0], False),
        (["<think>8 8 8</think>7", "<think>9</think> 7", "8"], [1.0, 1.0, 0.0], True),
        (["7", "7", "8"], [NAN, NAN, 1.0], False),  # nobody judged the most frequent one: no pass
    ],
)
def test_majority(text: list[str], rewards: list[float], passes: bool) -> None:
    assert majority(answers("s", rewards, text), 0.99) is passes


def test_what_counts_as_the_answer_of_a_text() -> None:
    assert answer_text("<think>a</think> <answer> 1\n 2 </answer> rest") == "1 2"
    assert answer_text("plain  words") == "plain words" and answer_text("<answer>3") == "3"


def test_bootstrap_interval() -> None:
    values = list(np.random.default_rng(0).normal(0.5, 0.1, 400))
    low, high = bootstrap_mean(values, ["s"] * 400)
    middle, spread = float(np.mean(values)), 1.96 * float(np.std(values)) / 20
    assert low == pytest.approx(middle - spread, abs=1e-3) and high == pytest.approx(middle + spread, abs=1e-3)
    assert bootstrap_mean(values, ["s"] * 400) == [low, high]  # the same numbers, the same interval
    assert bootstrap_mean([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]) == [0.5, 0.5]  # resampled within each source


def test_paired_difference_uses_the_pairs() -> None:
    """Tasks differ much, each rises a little: paired, the interval is narrow and excludes 0."""
    before = [[True] * k + [False] * (10 - k) for k in range(9)] * 4
    after = [[True] * (k + 1) + [False] * (9 - k) for k in range(9)] * 4
    got = paired_difference(before, after, ["s"] * 36)
    assert got["pass@1"] == pytest.approx(0.1) and got["interval"] == pytest.approx([0.1, 0.1])
    assert got["tasks"]["s"]["pass@1"] == pytest.approx(0.1) and "paired bootstrap" in got["method"]
    mixed = paired_difference([[False]] * 10 + [[True]] * 10, [[True]] * 15 + [[False]] * 5, ["s"] * 20)
    assert mixed["interval"][0] < 0.25 < mixed["interval"][1] and mixed["pass@1"] == 0.25


def test_summary_by_hand() -> None:
    rows = [answers("a", [1, 0, 0, NAN], length=2.0), answers("a", [1] * 4, length=4.0), answers("b", [0] * 4)]
    got = summarise(rows, 0.99, trained=("a",))
    a, b = got["tasks"]["a"], got["tasks"]["b"]
    assert a["pass@1"] == 0.625 and b["pass@1"] == 0 and got["pass@1"] == 0.3125  # the mean over sources
    assert a["pass@k"] == {"1": 0.625, "2": pytest.approx(0.75), "4": 1.0}
    assert a["reward"] == pytest.approx(5 / 7) and a["mean_length"] == 3 and got["mean_length"] == 3
    assert a["format_failures"] == 0.125 and (a["tasks"], a["attempts"]) == (2, 4)
    assert a["trained"] and not b["trained"] and a["maj@k"] == 0.5
    assert got["interval"][0] <= 0.3125 <= got["interval"][1]
    unjudged = summarise([answers("a", [NAN, NAN])], 0.99)
    assert unjudged["tasks"]["a"]["reward"] is None and unjudged["pass@1"] == 0
    uneven = summarise([answers("a", [1.0, 0.0]), answers("a", [1.0])], 0.99)
    assert set(uneven["tasks"]["a"]["pass@k"]) == {"1"}


def test_attempts_that_were_dropped_are_not_judged() -> None:
    b = hand.ragged()
    got = answers_of(b.select(b.structure.group == 1), hand.TASK_B, 5)
    assert got.reward[0] == 1 and got.reward[1] != got.reward[1] and len(got.reward) == len(got.text) == 5
    assert got.length == [3, 1, 1, 0, 0] and got.finished == [True, True, True, False, False]
    assert got.text[0] == "turn of 3" and got.passed(0.5) == [True, False, False, False, False]
    nothing = answers_of(None, hand.TASK_A, 2)
    assert nothing.passed(0.0) == [False, False] and nothing.task is hand.TASK_A


def test_of_several_rewards_the_first_that_applies_says_what_passes() -> None:
    b = hand.ragged()
    n, parts = b.size(TRAJECTORY), (REWARD.of("right"), REWARD.of("also"), REWARD.of("form"))
    said = [[0.0, 1.0, NAN, NAN, 1.0][:n], [NAN, NAN, 0.0, NAN, 1.0][:n], [1.0] * n]
    total = torch.tensor([1.0, 2.0, 1.0, 1.0, NAN][:n])  # the last was not judged
    b = b.put_all({REWARD: total, **{c: torch.tensor(x) for c, x in zip(parts, said)}})
    assert n == 5 and str(deciding(b, parts).tolist()) == str([0.0, 1.0, 0.0, 1.0, NAN])
    assert str(deciding(b, parts[:1]).tolist()) == str(total.tolist()) == str(deciding(b, ()).tolist())


def test_which_stages_judge() -> None:
    judge, reshape = toys.ShareOf(), type("Reshape", (), {"reads": (REWARD,), "writes": (REWARD,)})()
    before = type("Before", (), {"reads": (), "writes": (OUTCOME,)})()
    needs = type("Needs", (), {"reads": (OUTCOME,), "writes": (REWARD,)})()
    assert judges([judge, reshape, toys.CENTRED]) == [judge]
    assert judges([before, judge]) == [judge]
    assert judges([before, needs, reshape]) == [before, needs]


class Picky(SingleTurn):
    async def play(self, task: Task, roles: Any) -> Any:
        if task.id == "t1":
            raise Drop("no such page")
        return await super().play(task, roles)


def test_evaluation_in_a_run(toy_model: str, tmp_path: Path) -> None:
    policy = toys.policy(toy_model, lr=1e-2)
    probe = Evaluation(toys.TASKS, 3, every=2, threshold=0.2, trained=("toy",), sampling={"max_tokens": 3})
    run = Run(
        env=Picky(), curriculum=toys.curriculum(2), roles={"solver": policy}, on_group=[toys.ShareOf(), toys.CENTRED],
        updates=[Update(policy, [toys.POLICY_TERM])], probes=[probe], steps=5, groups=4, sampling=toys.SHORT,
        out=tmp_path / "run",
    )  # fmt: skip
    asyncio.run(train(run))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for when in ("before", "after"):
        assert 0 <= summary[when]["pass@1"] <= 1 and len(summary[when]["interval"]) == 2
        assert summary[when]["tasks"]["toy"]["trained"] is True
        assert summary[when]["mean_length"] <= 3
    rise = summary["after"]["pass@1"] - summary["before"]["pass@1"]
    assert summary["difference"]["pass@1"] == pytest.approx(rise)
    assert len(summary["examples"]) == 1 and {"task", "before", "after"} == set(summary["examples"][0])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [r["step"] for r in rows if "eval/pass@1" in r and r["step"]]
    assert evaluated == [2, 4, 5]  # every second step, and the last
    assert {r["dropped/no such page"] % 2 for r in rows if r["step"]} == {0}  # not the evaluation's three
    assert probe.dropped == {"no such page": 3}


def test_evaluations_are_paired_over_time(toy_model: str) -> None:
    """The same seed at every evaluation: weights that do not move give the same answers."""
    policy = toys.policy(toy_model, lr=0.0)
    probe = Evaluation(toys.TASKS, 2, threshold=0.1)
    run = Run(
        env=SingleTurn(), curriculum=toys.curriculum(2), roles={"solver": policy}, probes=[probe], sampling=toys.SHORT,
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])], steps=2, groups=2,
    )  # fmt: skip
    asyncio.run(train(run))
    assert probe.examples["before"] == probe.examples["after"] and probe.passes["before"] == probe.passes["after"]


def test_an_evaluation_may_play_in_another_way_than_training(toy_model: str) -> None:
    policy = toys.policy(toy_model, lr=0.0)
    probe = Evaluation(toys.TASKS, 2, env=Picky())
    run = Run(
        env=SingleTurn(), curriculum=toys.curriculum(2), roles={"solver": policy}, probes=[probe], sampling=toys.SHORT,
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])], steps=1, groups=4,
    )  # fmt: skip
    env = run.env
    asyncio.run(train(run))
    assert probe.dropped == {"no such page": 2} and run.env is env  # Picky drops t1; training did not
    assert not any("dropped" in key for record in run.reporter.history for key in record)


def test_an_evaluation_needs_tasks_and_attempts() -> None:
    with pytest.raises(UserError, match="there are no tasks to evaluate on: the data is empty"):
        Evaluation([])
    with pytest.raises(UserError, match="an evaluation needs at least 1 attempt at each task, got 0"):
        Evaluation(toys.TASKS, 0)

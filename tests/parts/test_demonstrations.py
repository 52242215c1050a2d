"""Worked answers beside attempts: same prompt, same group, judged like them, no behaviour log-probs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import GROUP, INFO, REWARD, TOKEN, TRAJECTORY, VERSION
from temper.episode import Completion, Episode, Recorder
from temper.models.tiny import tiny_tokenizer
from temper.parts.demonstrations import AddDemonstration, all_fail, judged
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.tasks.skills import held_out
from temper.tasks.solutions import solution
from temper.tasks.task import Task

BONUS = REWARD.of("bonus")


class Live:
    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer()


class Long:
    """Rewards 1 for answers of more than three tokens."""

    reads, writes = (), (REWARD, BONUS)

    async def __call__(self, b: Batch) -> Batch:
        length = b.sum(torch.ones(b.size(TOKEN)), TOKEN, TRAJECTORY)
        return b.put(REWARD, (length > 3).float()).put(BONUS, length)


def group(rewards: list[float | None], task: Task | None = None) -> Batch:
    made = []
    for n, r in enumerate(rewards):
        record = Recorder(task or Task("t", "?", "x", info={"completion": "abcdef"}))
        prompt = record.add((5, 6, 7), text="?")
        answer = record.sampled(Completion((8 + n, 9), (-0.5, -1.0), text="so"), prompt)
        record.judge([prompt, answer], reward=r)
        e = record.episode()
        made.append(Episode(e.task, e.turns, e.trajectories, "1:t"))
    return Batch.of(made)


def add(b: Batch, **how: Any) -> Batch:
    return asyncio.run(AddDemonstration(Live(), **how)(b))


def test_it_stands_behind_the_attempts_prompt_and_is_judged() -> None:
    b = asyncio.run(judged(group([None, None]), [Long()]))
    out = add(b, judges=[Long()])
    assert out.size(GROUP) == 1 and out.size(TRAJECTORY) == 3
    assert out[REWARD].tolist() == [0.0, 0.0, 1.0] and out[BONUS].tolist()[2] == 7.0  # six letters and the end
    turns = out.turns_of(2)
    assert out.turns_of(0)[0] == turns[0] and len(turns) == 2  # the prompt is stored once
    ids = out.turn_ids(turns[1])
    assert Live().tokenizer.decode(ids) == "abcdef<|im_end|>" and int(out[VERSION][turns[1]]) == -1
    assert out[BEHAVIOUR].isnan().tolist() == [False] * 4 + [True] * 7
    assert out[BEHAVIOUR][:4].tolist() == [-0.5, -1.0, -0.5, -1.0] and out[INFO][2] == {"demonstration": True}
    marked = asyncio.run(MarkDemonstrations()(out))[DEMONSTRATION]
    assert marked.tolist() == [False] * 4 + [True] * 7


def test_without_judges_its_reward_is_absent() -> None:
    out = add(group([1.0, 0.0]))
    assert out[REWARD][:2].tolist() == [1.0, 0.0] and bool(out[REWARD][2].isnan())


def test_only_where_it_is_wanted_and_in_their_place() -> None:
    b = group([0.0, 0.0])
    assert add(b, when=all_fail).size(TRAJECTORY) == 3
    assert add(group([0.0, 1.0]), when=all_fail).size(TRAJECTORY) == 2
    alone = add(b, when=all_fail, replace=True)
    assert alone.size(TRAJECTORY) == 1 and bool(alone[BEHAVIOUR].isnan().all() and alone[REWARD].isnan().all())
    same = group([0.0], Task("t", "?"))
    assert add(same) is same  # nothing to show


def test_attempts_that_nobody_judged_do_not_fail() -> None:
    b = group([0.0, None])
    assert all_fail(b) and all_fail(b, 0.5) and not all_fail(group([0.6, None]), 0.5)


@pytest.mark.parametrize("skill", ["chain_sum", "gcd", "letter_counting"])
def test_bundled_skills_have_worked_answers(skill: str) -> None:
    task = held_out(skill, 1)[0]
    text = solution(task)
    assert text is not None and text.startswith("<think>") and text.endswith(str(task.answer))
    assert solution(task) == text  # no draw of its own


def test_what_a_row_says_comes_first_and_a_bare_answer_shows_nothing() -> None:
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "because"}]
    assert solution(Task("a", "?", "4", info={"messages": said})) == "because"
    assert solution(Task("a", "?", "4", info={"solution": "2+2 is 4"})) == "2+2 is 4"
    assert solution(Task("a", "?", "4")) is None

"""ExPO: which explanation is taken, behind which prompt, and what each form learns from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, INFO, REWARD, TASK, TOKEN, TRAJECTORY, TURN_TEXT, VERSION
from temper.errors import UserError
from temper.methods.objectives.expo import FALLING, expo
from temper.parts.explanations import HINT, SelfExplain, hinted, tells
from temper.parts.gates import DEMONSTRATION
from temper.parts.preferences import CHOSEN_TOKEN, PAIRED, PREFERENCE
from temper.tasks.task import Task
from tests.methods.told import Told, attempts

TASK_7 = Task("t", "three and four?", "7")
GOOD, OTHER = "<think>3+4=7</think>7", "<think>4+3=7</think>7"


class EndsWithAnswer:
    """1 where the answer's text ends with the task's; unjudged where it says so."""

    reads, writes = (), (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        texts = [b[TURN_TEXT][b.turns_of(j)[-1]].replace("<|im_end|>", "") for j in range(b.size(TRAJECTORY))]
        right = [float("nan") if "?" in t else float(t.endswith(f">{b[TASK][0].answer}")) for t in texts]
        return b.put(REWARD, torch.tensor(right))


def policy(*texts: str) -> Told:
    return Told(lambda n, context: texts[n % len(texts)])


def explained(says: Told, b: Batch, **how: Any) -> Batch:
    return asyncio.run(SelfExplain(says, [EndsWithAnswer()], **how)(b))


def failed() -> Batch:
    return attempts(TASK_7, [("<think>3+4=8</think>8", 0.0), ("9", 0.0)])


def shown(b: Batch) -> list[str]:
    return [b[TURN_TEXT][b.turns_of(j)[-1]] for j, info in enumerate(b[INFO]) if (info or {}).get("demonstration")]


def test_it_is_asked_with_the_answer_and_stands_behind_the_question_alone() -> None:
    says = policy(GOOD)
    out = explained(says, failed(), sampling=SamplingParams(max_tokens=9))
    asked, params = says.asked[0]
    assert "three and four?" in asked and "The right answer is 7." in asked and params.max_tokens == 9
    assert out.size(TRAJECTORY) == 3 and shown(out) == [f"{GOOD}<|im_end|>"]
    assert out.turns_of(2)[0] == out.turns_of(0)[0]  # the plain prompt, stored once
    mine = out.turns_of(2)[1]
    of_mine = out.structure.token_turn == mine
    assert int(out[VERSION][mine]) == -1 and bool(out[BEHAVIOUR][of_mine].isnan().all())
    assert not bool(out[BEHAVIOUR][~of_mine].isnan().any()) and bool(out[REWARD][2].isnan())


def test_the_hint_never_occurs_in_what_is_learned() -> None:
    out = explained(policy("The right answer is 7. <think>3+4=7</think>7", GOOD), failed())
    assert shown(out) == [f"{GOOD}<|im_end|>"]
    text = says_all(out)
    assert not tells(text, HINT) and "Explain" not in text
    assert tells("so: explain step by step how to get there", HINT) and not tells("the right sum", HINT)


def says_all(b: Batch) -> str:
    from temper.models.tiny import tiny_tokenizer

    return str(tiny_tokenizer().decode(b.token_ids.tolist()))


@pytest.mark.parametrize(
    "bad", ["<think>3+4=8</think>8", ">7", "<think>3+4=7</think>7…", "<think>?</think>7"],
    ids=["wrong", "a bare restatement", "cut off", "not judged"],
)  # fmt: skip
def test_what_does_not_hold_is_not_taken(bad: str) -> None:
    assert explained(policy(bad), failed()).size(TRAJECTORY) == 2
    assert shown(explained(policy(bad, GOOD), failed())) == [f"{GOOD}<|im_end|>"]


def test_a_task_without_answer_and_a_group_that_succeeds() -> None:
    says = policy(GOOD)
    assert explained(says, attempts(Task("t", "?"), [("8", 0.0)])).size(TRAJECTORY) == 1
    some = attempts(TASK_7, [(GOOD, 1.0), ("8", 0.0)])
    when = expo(says, judges=[EndsWithAnswer()], only_failed=True).on_group[0].when  # type: ignore[attr-defined]
    assert explained(says, some, when=when).size(TRAJECTORY) == 2 and not says.asked
    assert explained(says, some).size(TRAJECTORY) == 3


def test_an_explanation_serves_for_a_while_and_is_remembered() -> None:
    says = policy(GOOD, OTHER)
    stage = SelfExplain(says, [EndsWithAnswer()], tries=1, refresh=3)
    assert shown(asyncio.run(stage(failed()))) == [f"{GOOD}<|im_end|>"]
    says.version = 2
    again = SelfExplain(says, [EndsWithAnswer()], tries=1, refresh=3)
    again.load_state_dict(stage.state_dict())
    assert shown(asyncio.run(again(failed()))) == [f"{GOOD}<|im_end|>"] and len(says.asked) == 1
    says.version = 3
    assert shown(asyncio.run(again(failed()))) == [f"{OTHER}<|im_end|>"]
    assert again.metrics == {"explanations/asked": 2.0, "explanations/found": 1.0} and again.metrics == {}


def test_grpo_learns_something_where_every_attempt_fails() -> None:
    made, b = expo(policy(GOOD), judges=[EndsWithAnswer()]), failed()
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    n = int(b[DEMONSTRATION].sum())
    reinforce, imitate = made.terms
    assert b[ADVANTAGE][~b[DEMONSTRATION]].tolist() == [0.0] * (b.size(TOKEN) - n)  # the explanation is in no statistic
    assert bool(b[ADVANTAGE][b[DEMONSTRATION]].isnan().all())
    assert imitate.weights(b).tolist() == pytest.approx([0.0] * (b.size(TOKEN) - n) + [1 / n] * n)
    assert reinforce.weights(b)[b[DEMONSTRATION]].sum() == 0
    assert imitate.coef is FALLING and FALLING(0) == 0.5 and FALLING(200) == FALLING(999) == 0.0
    assert [t.name for t in expo(policy(), judges=[EndsWithAnswer()], beta=0).terms] == ["policy"]


def test_pairs_are_the_explanation_against_an_own_wrong_attempt() -> None:
    made = expo(policy(GOOD), judges=[EndsWithAnswer()], form="dpo", reference=object())

    def pairs(b: Batch) -> Batch:
        for stage in made.on_group:
            b = asyncio.run(stage(b))
        return b

    b = pairs(attempts(TASK_7, [(OTHER, 1.0), ("?", None), ("8", 0.0), ("9", 0.0)]))
    assert b[PREFERENCE].tolist() == [0, 0, -1, 0, 1] and b[PAIRED].tolist() == [True]
    assert int(b[CHOSEN_TOKEN].sum()) == len(b.turn_ids(b.turns_of(4)[1]))
    assert pairs(attempts(TASK_7, [(OTHER, 1.0)]))[PAIRED].tolist() == [False]
    assert pairs(attempts(TASK_7, [("8", None)]))[PAIRED].tolist() == [False]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="reference"):
        expo(policy(), judges=[EndsWithAnswer()], form="dpo")
    with pytest.raises(UserError, match="judges"):
        expo(policy(), judges=[])
    with pytest.raises(UserError, match="answer"):
        expo(policy(), judges=[EndsWithAnswer()], hint="You know it.")


def test_the_hint_stands_behind_the_last_message() -> None:
    talk = Task("t", [{"role": "system", "content": "s"}, {"role": "user", "content": "q {x}"}], "4{2}")
    assert hinted(talk, "It is {answer}.") == [
        {"role": "system", "content": "s"}, {"role": "user", "content": "q {x}\n\nIt is 4{2}."}
    ]  # fmt: skip

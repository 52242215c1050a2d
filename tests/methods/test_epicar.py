"""EpiCaR: what is asked behind an answer, what is learned of it, and how sure the policy is."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import FINISH, HIDDEN, INFO, REWARD, TASK, TOKEN, TRAJECTORY, TURN_TEXT, VERSION
from temper.errors import UserError
from temper.methods.objectives.epicar import LEARNED, Examples, epicar
from temper.parts.forced import Rescue
from temper.parts.self_evaluation import NO, YES, SelfEvaluation, _Yes, first_ids, follow_up
from temper.tasks.task import Task
from tests.methods.test_expo import EndsWithAnswer
from tests.methods.told import Told, attempts

TASK_7 = Task("t", "three and four?", "7")
POLICY = Told(lambda n, context: "7")
DECODE = POLICY.tokenizer.decode
FOUR = [("<think>3+4=7</think>7", 1.0), ("<think>3+4=7</think>7…", 1.0), ("8", 0.0), ("9", None)]


def asked(b: Batch) -> Batch:
    return asyncio.run(SelfEvaluation(POLICY)(b))


def verdicts(b: Batch) -> list[int]:
    return [n for n, info in enumerate(b[INFO]) if "verdict" in (info or {})]


def context(b: Batch, turn: int) -> str:
    ids: list[int] = []
    while turn >= 0:
        ids = [*b.turn_ids(turn), *ids]
        turn = int(b.structure.parent[turn])
    return str(DECODE(ids))


def test_labels_match_outcomes() -> None:
    b = asked(attempts(TASK_7, FOUR))
    mine = verdicts(b)
    assert [b[INFO][n]["verdict"] for n in mine] == [True, True, False]  # what is not judged is not asked about
    assert [b[INFO][n]["answer"] for n in mine] == ["7", "7", "8"]
    assert b[REWARD][mine].isnan().all() and b.size(TRAJECTORY) == 7


def test_only_the_verdict_is_a_target_and_its_context_is_the_attempt() -> None:
    b = asked(attempts(TASK_7, FOUR))
    question = str(DECODE(list(follow_up(POLICY.tokenizer, SelfEvaluation(POLICY).ask))))
    for n, answer, said in zip(verdicts(b), (FOUR[0][0], FOUR[1][0][:-1], "8"), "yyn"):
        turns = b.turns_of(n)
        assert context(b, turns[-1]) == f"three and four?{answer}{question}{said}"
        rows = b.spread(torch.arange(b.size(TRAJECTORY)) == n, TRAJECTORY, TOKEN) > 0
        assert int(rows.sum()) == 1 and DECODE(b.token_ids[rows].tolist()) == said
        assert bool(b[BEHAVIOUR][rows].isnan().all()) and int(b[VERSION][turns[-1]]) == -1
    first = b.turns_of(0)[-1]
    assert b[BEHAVIOUR][b.structure.token_turn == first].tolist() == [-1.0] * len(b.turn_ids(first))


def test_spellings_are_summed() -> None:
    """By hand: logits of four ids; yes is 0 or 1, no is 2."""
    b = asked(attempts(TASK_7, FOUR))
    logits = torch.tensor([0.2, 0.3, 0.1, 0.4]).log().repeat(b.size(TOKEN), 1)
    q = _Yes((2,), (0, 1))(b.put(HIDDEN, logits), None)
    mine = [n in verdicts(b) for n in range(b.size(TRAJECTORY))]
    is_verdict = b.spread(torch.tensor(mine), TRAJECTORY, TOKEN) > 0
    assert q[is_verdict].tolist() == pytest.approx([0.5 / 0.6] * 3) and bool(q[~is_verdict].isnan().all())
    no, yes = SelfEvaluation(POLICY).verdicts
    assert not set(no) & set(yes) and [DECODE([i]) for i in (no[0], yes[0])] == ["n", "y"]
    assert " " not in [DECODE([i]) for i in (*no, *yes)]  # what begins both says nothing
    with pytest.raises(UserError, match="cannot tell"):
        first_ids(POLICY.tokenizer, (" yes",), (" no",))
    assert len(first_ids(POLICY.tokenizer, YES, NO)) == 2


def learned(b: Batch, **how: object) -> tuple[list[str], Batch]:
    """The texts of the turns that are learned from."""
    b = asyncio.run(Examples(**how)(b))  # type: ignore[arg-type]
    turns = b.structure.token_turn[b[LEARNED]].unique().tolist()
    return [b[TURN_TEXT][u].replace("<|im_end|>", "") for u in turns], b


def test_examples_are_right_answers_and_as_many_verdicts_of_either_kind() -> None:
    right = "<think>3+4=7</think>7"
    b = asked(attempts(TASK_7, [(right, 1.0), (right, 1.0), (right, 1.0), ("8", 0.0), ("9", None)]))
    assert sorted(learned(b)[0]) == sorted([right] * 3 + ["yes", "no"])
    assert sorted(learned(b, balance=False)[0]) == sorted([right] * 3 + ["yes"] * 3 + ["no"])
    assert sorted(learned(b, verdicts="yes")[0]) == sorted([right] * 3 + ["yes"] * 3)
    assert learned(b, verdicts="none")[0] == [right] * 3
    only = asked(attempts(TASK_7, [(right, 1.0)]))
    assert learned(only)[0] == [right]  # one kind alone would make a constant
    picked = {tuple(learned(b, seed=seed)[1][LEARNED].tolist()) for seed in range(9)}
    assert len(picked) > 1  # by chance


def test_every_target_weighs_the_same() -> None:
    _, b = learned(asked(attempts(TASK_7, [("<think>3+4=7</think>7", 1.0), ("8", 0.0)])))
    weights, n = epicar(POLICY).terms[0].weights(b), len(b.turn_ids(b.turns_of(0)[-1]))
    assert b.sum(weights, TOKEN, TRAJECTORY).tolist() == pytest.approx([n / (n + 2), 1 / (n + 2), 0.0, 1 / (n + 2)])


def test_examples_remember_how_often_they_drew() -> None:
    b = asked(attempts(TASK_7, [("7", 1.0)] * 6 + [("8", 0.0)] * 2))
    first, second = Examples(), Examples()
    asyncio.run(first(b))
    second.load_state_dict(first.state_dict())
    assert asyncio.run(first(b))[LEARNED].tolist() == asyncio.run(second(b))[LEARNED].tolist()


def test_what_is_cut_off_gets_a_cue_and_answers() -> None:
    says = Told(lambda n, context: "7")
    b = attempts(TASK_7, [("<think>3+4=7…", 0.0), ("<think>3</think>8…", 0.0), ("8", 0.0)])
    out = asyncio.run(Rescue(says, [EndsWithThought()])(b))
    assert len(says.asked) == 1 and says.asked[0][0].endswith("<think>3+4=7</think>")
    assert out[REWARD].tolist() == [1.0, 0.0, 0.0]
    _, _, cue, answer = out.turns_of(0)
    assert out[TURN_TEXT][cue] == "</think>" and not bool((out.structure.token_turn == cue).any())  # no target
    assert not out[BEHAVIOUR].isnan().any() and out[FINISH][answer] == "stop"
    assert (
        asyncio.run(Rescue(says, [EndsWithThought()])(b.select(torch.tensor([False, True, True])))).size(TRAJECTORY)
        == 2
    )


class EndsWithThought(EndsWithAnswer):
    """The last turn's text is the task's answer."""

    async def __call__(self, b: Batch) -> Batch:
        texts = [b[TURN_TEXT][b.turns_of(j)[-1]].replace("<|im_end|>", "") for j in range(b.size(TRAJECTORY))]
        return b.put(REWARD, torch.tensor([float(t == b[TASK][0].answer) for t in texts]))


def test_nothing_judged_nothing_asked() -> None:
    b = attempts(TASK_7, [("7", None)])
    assert asked(b) is b and math.isnan(b[REWARD][0])


def test_rounds_cannot_restart_beside_adapters() -> None:
    from temper.policy import Policy

    with pytest.raises(UserError, match="restart"):
        epicar(Policy(lora=object()), base=object())  # type: ignore[arg-type]

"""TRAAC: steps, which of them go, what the copies are, and the reward for length."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, INFO, REWARD, TOKEN, TRAJECTORY, TURN_TEXT
from temper.errors import UserError
from temper.methods.objectives.traac import traac
from temper.models.tiny import tiny_tokenizer
from temper.parts.attention import END_ATTENTION
from temper.parts.compression import RATE, Compress, evicted, level, steps_of
from temper.parts.logprobs import OLD
from temper.parts.shaping import SHAPED
from temper.parts.short_answers import LengthReward, bonus
from temper.tasks.task import Task
from tests.methods.test_epicar import EndsWithThought
from tests.methods.test_expo import EndsWithAnswer
from tests.methods.told import Told, attempts

TASK_7 = Task("t", "three and four?", "7")
LONG = "<think>3+4=7 4+3=7 so 7</think>7"  # steps "3+4=7", " 4+3=7", " so", " 7"


def ids(text: str) -> list[int]:
    return list(tiny_tokenizer().encode(text, add_special_tokens=False))


def test_steps_begin_at_cues_and_tags_belong_to_none() -> None:
    tokenizer, of = tiny_tokenizer(), ids(LONG)
    steps = steps_of(tokenizer, of, (" ",))
    assert steps is not None and len(steps) < len(of)  # the answer is not thinking

    def text(step: int) -> str:
        return str(tokenizer.decode([i for i, s in zip(of, steps) if s == step]))

    assert [text(k) for k in range(-1, 4)] == ["<think></think>", "3+4=7", " 4+3=7", " so", " 7"]
    assert max(steps_of(tokenizer, ids("<think> a b</think>7"), (" ",)) or []) == 1
    assert set(steps_of(tokenizer, of, ()) or []) == {-1, 0}
    for bad in ("7", "<think>7", "<think>7</think></think>7", "</think><think>7"):
        assert steps_of(tokenizer, ids(bad), (" ",)) is None
    assert steps_of(tokenizer, ids("3 4</think>7"), (" ",), start="") == [0, 1, 1, -1]


def test_even_attention_leaves_everything_and_one_peak_drops_the_lowest_steps() -> None:
    assert (
        evicted(torch.ones(10), 0.6) == [] and evicted(torch.ones(1), 0.6) == [] and evicted(torch.zeros(4), 0.6) == []
    )
    score = torch.tensor([3e-3, 1.0, 1e-3, 2e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3])
    p = (score / score.sum()).double()
    u = float(-(p * p.log()).sum() / torch.tensor(10.0).log())
    for target in (0.6, 0.4, 0.2):
        gone = evicted(score, target)
        assert len(gone) == round(target * (1 - u) * 10) and 1 not in gone
        assert gone == sorted([2, 3, 0, 4, 5, 6][: len(gone)])
    assert len(evicted(score, 5.0, most=0.8)) == 8
    assert evicted(torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.5) == [0, 1]  # equal scores: the first go
    noisy = torch.tensor([1e-9, 0.0, 0.0, 1.0])
    assert evicted(noisy, 0.5) == [0, 1]  # rounding decides nothing


class Frozen:
    """Attention of a model that looks at the steps' tokens by the table."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table, self.learner, self.read_texts = table, self, list[str]()

    def read(self, b: Batch, columns: Any) -> Batch:
        assert list(columns) == [END_ATTENTION] and list(columns[END_ATTENTION].layers(4)) == [0, 1]
        decode = tiny_tokenizer().decode
        self.read_texts += [str(decode(b.turn_ids(b.turns_of(j)[-1]))) for j in range(b.size(TRAJECTORY))]
        return b.put(
            END_ATTENTION, torch.tensor([self.table.get(str(decode([i])), 0.01) for i in b.token_ids.tolist()])
        )


def compressed(b: Batch, says: Told, frozen: Frozen, **how: Any) -> Batch:
    made = Compress(says, frozen, [EndsWithThought()], cues=(" ",), **how)  # type: ignore[arg-type]
    return asyncio.run(made(b))


def texts(b: Batch) -> list[str]:
    said = [[b[TURN_TEXT][u] for u in b.turns_of(j)[1:]] for j in range(b.size(TRAJECTORY))]
    return sorted("".join(t).replace("<|im_end|>", "") for t in said)


def test_a_copy_keeps_tags_and_whole_steps_and_answers_again() -> None:
    says, frozen = Told(lambda n, context: "7"), Frozen({"7": 2.0, "=": 2.0, "3": 2.0, "+": 2.0, "4": 2.0})
    b = attempts(TASK_7, [(LONG, 1.0)])
    seen = {tuple(texts(compressed(b, says, frozen, target=(1.6, 1.0, 1.0), uniform=1.0, seed=s))) for s in range(9)}
    short = "<think>3+4=7 4+3=7 7</think>7"
    assert seen == {(LONG,), (short,)}  # the group keeps its size, drawn from both
    assert says.asked[0][0] == f"three and four?{short[:-1]}" and frozen.read_texts[0] == LONG[:-1]
    for seed in range(9):
        out = compressed(b, says, frozen, target=(1.6, 1.0, 1.0), uniform=1.0, seed=seed)
        edited = out.turns_of(0)[1]
        logp = out[BEHAVIOUR][out.structure.token_turn == edited]
        assert bool(logp.isnan().all()) is (texts(out) == [short])  # nobody sampled the copy's thinking
        assert out[INFO][0][RATE] == 1.0 and out[REWARD].tolist() == [1.0]


def test_wrong_unjudged_and_badly_formed_attempts_are_left_alone() -> None:
    says, frozen = Told(lambda n, context: "7"), Frozen({"7": 9.0})
    b = attempts(TASK_7, [(LONG, 0.0), (LONG, None), ("7", 1.0), ("<think>3 4", 1.0)])
    out = compressed(b, says, frozen, target=(9.0, 9.0, 9.0), uniform=1.0)
    assert texts(out) == texts(b) and not says.asked and not frozen.read_texts
    assert [info[RATE] for info in out[INFO]] == pytest.approx([2 / 3] * 4)  # of those that were judged
    nothing = attempts(TASK_7, [(LONG, None)])
    assert compressed(nothing, says, frozen) is nothing


def test_difficulty_decides_how_much_goes() -> None:
    assert [level(x) for x in (1.0, 0.8, 0.79, 0.3, 0.29, 0.0)] == ["easy", "easy", "medium", "medium", "hard", "hard"]
    sizes = []
    for wrong in (0, 1, 9):
        says = Told(lambda n, context: "7")
        b = attempts(TASK_7, [(LONG, 1.0), *([("8", 0.0)] * wrong)])
        compressed(b, says, Frozen({"s": 5.0, "o": 5.0}), target=(1.0, 0.5, 0.0), uniform=1.0)
        sizes.append(len(says.asked[0][0]) if says.asked else 0)
    assert 0 < sizes[0] < sizes[1] and sizes[2] == 0


def test_bonus_by_hand() -> None:
    assert bonus(10, []) == 0.0
    assert bonus(10, [10, 20, 30]) == 1.0
    assert bonus(30, [10, 20, 30]) == pytest.approx(1 / (1 + 2.718281828**5), abs=1e-6)
    assert bonus(22, [10, 20, 30]) == pytest.approx(max(8 / 20, 1 / (1 + 2.718281828**1)))
    assert bonus(20, [20, 20]) == 0.5 and 0.5 < bonus(5, [20, 20]) <= 1.0


def test_reward_and_its_memory() -> None:
    b = attempts(TASK_7, [(LONG, 1.0), ("7", 1.0), (LONG, 0.0), (LONG, None), ("</think>7<think>", 0.0)])
    stage = LengthReward()
    shaped = asyncio.run(stage(b))[SHAPED]
    assert shaped[:3].tolist() == [4.5, 4.0, 0.5] and bool(shaped[3].isnan())  # the first batch has no bonus
    assert shaped[4] == 0.25  # one pair, out of order
    lengths = sorted(b.count(TOKEN, TRAJECTORY)[:2].tolist())
    assert stage.history == [{"task/medium": lengths[::-1]}]
    again = LengthReward()
    again.load_state_dict(stage.state_dict())
    second = asyncio.run(again(b))[SHAPED]
    assert second[1] == pytest.approx(4.0 + 0.75 * 1.0) and second[2] == 0.5  # a wrong one gets no bonus
    assert second[0] == pytest.approx(4.5 + 0.75 * bonus(lengths[1], lengths))
    for _ in range(12):
        asyncio.run(again(b))
    assert len(again.history) == 10


def test_every_row_has_the_learners_own_log_probs() -> None:
    made = traac(Told(lambda n, c: "7"), judges=[EndsWithAnswer()], frozen=SimpleNamespace())
    assert OLD in made.terms[0].reads and any(OLD in s.writes for s in made.on_batch)
    assert made.terms[0].loss.high == 0.28 and made.terms[1].coef == 1e-3  # type: ignore[union-attr]
    b = asyncio.run(LengthReward()(attempts(TASK_7, [(LONG, 1.0), ("8", 0.0)])))
    a = asyncio.run(made.on_batch[1](b))[ADVANTAGE]
    assert float(a[0]) > 0 > float(a[-1])


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="judges"):
        traac(None, judges=[], frozen=None)
    with pytest.raises(UserError, match="easy, medium and hard"):
        traac(None, judges=[EndsWithAnswer()], frozen=None, target=(0.5,))

"""GTAlign: the two parties by hand, what a product rewards that a mean does not, the table, and steering by prices."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import REWARD
from temper.envs.steered import END, PLANS, Steered
from temper.episode import ENV, Completion, Recorder
from temper.errors import UserError
from temper.methods.objectives.gtalign import gtalign
from temper.parts.shaping import SHAPED
from temper.parts.welfare import Welfare
from temper.rewards.payoffs import (
    CELLS,
    best_cell,
    payoffs,
    priced,
    section,
    time_priced,
    tokens_priced,
    told_apart,
    well_sectioned,
)
from temper.rewards.welfare import measured, window
from temper.tasks.task import Task

TABLE = {
    "DQ_DA": {"user": 4.1, "LLM": 2.8}, "DQ_CQ": {"user": 2, "LLM": 3.6}, "DQ_AQ": {"user": 3.5, "LLM": 3.5},
    "VQ_DA": {"user": 1, "LLM": 1}, "VQ_CQ": {"user": 1.3, "LLM": 1.0}, "VQ_AQ": {"user": 2.8, "LLM": 3},
}  # fmt: skip


def written(table: Any = TABLE, response: str = "four", thinking: str = "so") -> str:
    said = table if isinstance(table, str) else json.dumps(table)
    return (
        f"<thinking>{thinking}</thinking><payoff>{said}</payoff><analyze>a</analyze>\n<response>{response}</response>"
    )


def answers(rows: list[tuple[str, float | None]]) -> Batch:
    made = []
    for text, r in rows:
        record = Recorder(Task("t", "2+2=?", "4"))
        prompt = record.add((1, 2))
        record.judge([prompt, record.sampled(Completion((3,), (-1.0,), text=text), prompt)], reward=r)
        made.append(record.episode())
    return Batch.of(made)


def test_the_table_is_read() -> None:
    found = payoffs(written())
    assert found is not None and set(found) == set(CELLS) and found["DQ_CQ"] == (2.0, 3.6)
    assert payoffs(written(str(TABLE))) == found  # Python's quotes
    assert section(written(), "response") == "four" and section("<response>", "response") is None
    assert well_sectioned(written() + "<|im_end|>") and not well_sectioned("Hm. " + written())


@pytest.mark.parametrize(
    "table",
    ["", "{", "[1]", "{[1]: 2}", {**TABLE, "XX": TABLE["DQ_DA"]}, {k: TABLE[k] for k in CELLS[1:]},
     {**TABLE, "DQ_DA": {"user": 1}}, {**TABLE, "DQ_DA": {"user": "1", "LLM": 2}},
     {**TABLE, "DQ_DA": {"user": True, "LLM": 2}}, {**TABLE, "DQ_DA": {"user": math.nan, "LLM": 2}},
     {**TABLE, "DQ_DA": {"user": math.inf, "LLM": 2}}, {**TABLE, "DQ_DA": {"user": 10**400, "LLM": 2}}, "(" * 4000],
)  # fmt: skip
def test_anything_else_is_no_table(table: Any) -> None:
    assert payoffs(written(table)) is None and not well_sectioned(written(table))


def test_constant_payoffs_do_not_pay() -> None:
    """DQ_DA, DQ_CQ and VQ_CQ by more than a tenth; DQ_AQ and VQ_DA not at all; VQ_AQ by less."""
    found = payoffs(written())
    assert found is not None and told_apart(found) == pytest.approx((2 + 2 + 2 + 1) / 12)
    assert told_apart(dict.fromkeys(CELLS, (1.0, 1.0))) == 0.0


def test_both_parties_by_hand() -> None:
    text = written(response="the answer is four")
    thought = text.partition("<response>")[0]
    out = asyncio.run((stage := Welfare())(answers([(text, 1.0), (text, 0.0), ("four", 1.0), (text, None)])))[SHAPED]
    words, n = len(text.split()), 4
    left, right = 1 / (1 + math.exp(0.005 * (20 - n))), 1 / (1 + math.exp(0.005 * (n - 500)))
    assert window(n, 20, 500) == pytest.approx(left * right)
    brief = 0.2 * left * right + 0.3 * math.exp(-len(thought) / 500)
    rest = 0.2 + 0.2 * 7 / 12 + 0.2 * window(words, 500, 1000)
    user, assistant = (1e-4 + 0.5 + brief, 1e-4 + brief), (1e-4 + 0.4 + rest, 1e-4 + rest)
    assert out[:2].tolist() == pytest.approx([(u * a) ** 0.5 for u, a in zip(user, assistant)])
    assert float(out[2]) == 0.0 and bool(out[3].isnan())
    assert stage.metrics["welfare/read"] == 0.75
    mean = asyncio.run(Welfare("arithmetic")(answers([(text, 1.0)])))[SHAPED]
    assert mean.tolist() == pytest.approx([(user[0] + assistant[0]) / 2])


def test_without_sections() -> None:
    text = "<think>2+2=4</think>4"
    m = measured(text, sections=False, lengths=0.02)
    assert m.read and m.form == 1.0 and m.apart == 0.0
    assert m.reasoning == pytest.approx(math.exp(-len("<think>2+2=4") / 10))
    assert m.response == pytest.approx(window(1 / 0.02, 20, 500))
    out = asyncio.run(Welfare(sections=False, lengths=0.02)(answers([(text, 1.0), ("<think></think>", 0.0)])))[SHAPED]
    u = 1e-4 + 0.5 + 0.2 * m.response + 0.3 * m.reasoning
    a = 1e-4 + (0.2 + 0.4 + 0.2 * m.whole) / 0.8
    assert out.tolist() == pytest.approx([(u * a) ** 0.5, 0.0])
    assert measured("4", sections=False).form == 0.0 and measured("4", sections=False).read


def test_at_a_constant_sum_the_product_falls_with_the_gap_and_the_mean_does_not() -> None:
    gaps = torch.linspace(0, 0.9, 7)
    user, assistant = 0.5 + gaps / 2, 0.5 - gaps / 2
    assert bool((Welfare().joint(user, assistant).diff() < 0).all())
    assert Welfare("arithmetic").joint(user, assistant).tolist() == [0.5] * 7


def test_the_poorer_party_has_the_larger_share_of_the_gradient() -> None:
    parties = torch.tensor([0.2, 0.8], requires_grad=True)
    (gradient,) = torch.autograd.grad(Welfare().joint(*parties), parties)
    assert gradient.tolist() == pytest.approx([0.5 * (0.8 / 0.2) ** 0.5, 0.5 * (0.2 / 0.8) ** 0.5])


def test_a_part_of_nothing_keeps_an_order() -> None:
    """U is never below ε, so that A still counts where c, brevity and length come to nothing."""
    stage = Welfare(eps=1e-4)
    empty = measured(written(thinking="x" * 10**5), lengths=1e-6)
    pairs = [stage.parties([empty], torch.tensor([c]))[0].item() for c in (0.0, 1.0)]
    assert pairs[0] == pytest.approx(1e-4, rel=1e-3) and pairs[1] > 0.5


def test_prices_flip_what_is_done() -> None:
    table = payoffs(written())
    assert table is not None and best_cell(table) == "DQ_AQ"
    assert best_cell(priced(table, {"AQ": (0.0, -2.0)})) == "DQ_DA"
    assert best_cell(priced(table, {"CQ": (3.0, 0.0)})) == "DQ_CQ"
    assert priced(table, tokens_priced(-2.0))["DQ_CQ"] == pytest.approx((2.5, 1.6))
    assert priced(table, time_priced(-0.5))["VQ_AQ"] == pytest.approx((2.3, 3.5)) and priced(table, {}) == table


def test_two_losses_are_no_gain() -> None:
    losses = dict.fromkeys(CELLS, (-1.0, -1.0))
    assert best_cell({**losses, "DQ_DA": (-5.0, -5.0), "VQ_CQ": (0.1, 0.1)}) == "VQ_CQ"
    assert best_cell({**losses, "VQ_AQ": (-0.5, -0.5)}) == "VQ_AQ"  # nothing to gain: the smallest loss


class Desk:
    """A seat that says what it is told to, a token a character, and remembers what it was asked with."""

    def __init__(self, *said: str):
        self.said, self.asked, self.tokenizer = list(said), list[tuple[tuple[int, ...], dict[str, Any]]](), self

    def chat(self, messages: Any) -> tuple[int, ...]:
        return tuple(map(ord, messages[-1]["content"]))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))

    async def sample(self, ids: tuple[int, ...], **how: Any) -> Completion:
        self.asked.append((ids, how))
        text = self.said.pop(0)
        return Completion(tuple(map(ord, text)), (-1.0,) * len(text), text=text)


def steered(env: Steered, *said: str) -> tuple[Any, Desk]:
    desk = Desk(*said)
    return asyncio.run(env.play(Task("t", "2+2=?", "4"), {"solver": desk})), desk  # type: ignore[dict-item]


def test_steering_feeds_the_plan_behind_the_table() -> None:
    begun = written().partition("<analyze>")[0]
    episode, desk = steered(Steered({"AQ": (0.0, -2.0)}), begun + "<ana", "four</response>")
    assert [t.author for t in episode.turns] == [ENV, "solver", ENV, "solver"]
    fed = f"<analyze>{PLANS['DA']}</analyze><response>"
    assert [t.text for t in episode.turns] == ["2+2=?", begun, fed, "four</response>"]  # what came after is cut
    assert desk.decode(desk.asked[1][0]) == "2+2=?" + begun + fed and desk.asked[0][1] == {"stop": (END,)}
    (judged,) = episode.trajectories
    assert judged.turns == (0, 1, 2, 3) and judged.info["cell"] == "DQ_DA" and judged.info["unpriced"] == "DQ_AQ"


@pytest.mark.parametrize("said", ["<think>2</think>4", "<payoff>{}</payoff>"])
def test_without_a_table_an_answer_stays_as_it_is(said: str) -> None:
    episode, _ = steered(Steered(), said)
    assert [t.text for t in episode.turns] == ["2+2=?", said]
    assert episode.trajectories[0].info == {"steered": False}


def test_refusals_and_parts() -> None:
    with pytest.raises(UserError, match="lengths must be above 0"):
        Welfare(lengths=0.0)
    made = gtalign(None)
    assert [type(s).__name__ for s in made.on_batch] == ["Welfare", "Read", "GAE", "Whiten"]
    assert SHAPED in made.on_batch[2].reads and REWARD in made.on_batch[0].reads
    assert [t.name for t in made.terms] == ["policy", "value"]

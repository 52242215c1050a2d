"""A call's own reward reaches the call's own tokens."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN
from temper.envs.tools import ToolUse
from temper.models.tiny import tiny_tokenizer
from temper.parts.calls import CALL_REWARD, CallCredit
from temper.tasks.task import Task
from temper.tools.base import Toolbox
from temper.tools.calculator import Calculator
from tests.envs.actors import Actor, says, seat

TOKENIZER = tiny_tokenizer()
POLICY: Any = SimpleNamespace(tokenizer=TOKENIZER)


def call(expression: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'calculator', 'arguments': {'expression': expression}})}</tool_call>"


def credited(*answers: tuple[str, ...], single: bool = False, **options: Any) -> Batch:
    """A group of attempts, each with these answers, and an advantage of 0.5 everywhere before."""
    env = ToolUse(Toolbox([Calculator()]), single=single)
    plays = [env.play(Task("t", "?"), {"solver": seat(Actor(TOKENIZER, says(*a)), max_tokens=400)}) for a in answers]

    async def every() -> list[Any]:
        return [await play for play in plays]

    b = Batch.of(asyncio.run(every()))
    b = b.put(ADVANTAGE, torch.full((b.size(TOKEN),), 0.5))
    return asyncio.run(CallCredit(POLICY, **options)(b))


def spans(b: Batch, column: Any) -> dict[float, str]:
    """What the tokens of each value say together."""
    values, ids = b[column].tolist(), b.token_ids.tolist()
    return {v: TOKENIZER.decode([i for i, x in zip(ids, values) if x == v]) for v in set(values) if v == v}


def test_two_calls_of_one_turn_have_a_reward_each() -> None:
    good, bad = call("6*7"), call("6 apples")
    b = credited((f"So {good} or {bad} then.", "It is 42."))
    assert spans(b, CALL_REWARD) == {1.0: good, 0.0: bad}
    left = spans(b, ADVANTAGE)
    assert left[1.0] == good and left[0.0] == bad  # 0.5 ± (1 − ½)
    assert left[0.5].startswith("So  or  then.") and "It is 42." in left[0.5]


def test_calls_are_compared_within_their_group_and_may_be_left_alone() -> None:
    paid = {"1": 1.0, "2": 2.0, "x": 6.0}
    judge = lambda c: paid[c["arguments"]["expression"]]  # noqa: E731
    b = credited((call("1"), call("2"), "Done."), (call("x"), "Done."), weight=3.0, judge=judge)
    assert spans(b, CALL_REWARD) == {1.0: call("1"), 2.0: call("2"), 6.0: call("x")}
    left = spans(b, ADVANTAGE)
    assert {v: text for v, text in left.items() if v != 0.5} == {
        0.5 - 6.0: call("1"), 0.5 - 3.0: call("2"), 0.5 + 9.0: call("x")
    }  # fmt: skip
    b = credited((call("1"), "Done."), judge=lambda c: None)
    assert b[CALL_REWARD].isnan().all() and (b[ADVANTAGE] == 0.5).all()


def test_with_one_call_a_turn_the_call_is_the_turns_end() -> None:
    b = credited((f"So {call('2+2')} and more", "It is 4."), (f"{call('2 2')}", "No."), single=True)
    assert spans(b, CALL_REWARD) == {1.0: call("2+2"), 0.0: call("2 2")}

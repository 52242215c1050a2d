"""SimpleTIR: what is void, what that does to loss and statistics, and which groups count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TRAJECTORY
from temper.envs.chat import TOKENS
from temper.envs.tools import ToolUse
from temper.episode import Episode
from temper.methods.environments.simpletir import Informative, Interpreter, boxed_answer, has_box, simpletir
from temper.models.tiny import tiny_tokenizer
from temper.parts.selection import KEPT, NOT_VOID
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox
from temper.tools.python import Python
from tests.envs.actors import Actor, says, seat
from tests.parts.toys import BEHAVIOUR, SoftmaxPolicy, close, nan, of_request, recorder, run, said

CODE = "So\n```python\n6*7\n```\n"


class Told:
    """A Python that says what it is told to."""

    name, description = "python", "Run Python code and return what it prints."
    parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}  # noqa: RUF012

    def __init__(self, text: str = "42", outcome: Any = "ok"):
        self.text, self.outcome = text, outcome

    async def __call__(self, code: str) -> Result:
        return Result(self.text, self.outcome)


def play(*words: str, tool: Any = None, max_tokens: int = 200, **options: Any) -> Episode:
    env = ToolUse(Toolbox([tool or Told()]), format="fenced", final=has_box, **options)
    actor = Actor(tiny_tokenizer(), says(*words))
    return asyncio.run(env.play(Task("t", "6*7?", "42"), {"solver": seat(actor, max_tokens=max_tokens)}))


@pytest.mark.parametrize(
    "words, void, turns, calls",
    [((CODE, "\\boxed{42}"), False, 2, 1), ((CODE, "It is 42."), True, 2, 1), (("Hm.", CODE), True, 1, 0),
     (("```python\n6*7", CODE), True, 1, 0), (("\\boxed{42}",), False, 1, 0), ((f"{CODE}\\boxed{{4}}",), False, 2, 1)],
)  # fmt: skip
def test_a_turn_with_neither_complete_code_nor_a_box_is_void_and_ends_the_episode(
    words: tuple[str, ...], void: bool, turns: int, calls: int
) -> None:
    info = play(*words, turns=2).trajectories[0].info
    assert (info["void"], info["turns"], len(info["calls"])) == (void, turns, calls)


def test_a_turn_that_was_cut_by_its_length_is_void() -> None:
    episode = play("Let me think about six times seven", max_tokens=5)
    assert episode.turns[-1].finish == "length" and episode.trajectories[0].info["void"]


def test_what_code_prints_can_end_the_episode() -> None:
    episode = play(CODE, "never said", tool=Told("\\boxed{42}"))
    info = episode.trajectories[0].info
    assert (info["turns"], info["void"]) == (1, False)
    assert boxed_answer(episode.turns[-1].text, "42", info["calls"]) == 1.0


def test_only_a_box_is_an_answer() -> None:
    assert boxed_answer("42", "42") == 0.0 and boxed_answer("\\boxed{42}", "42") == 1.0
    assert boxed_answer("It is 42", "42", [{"text": "42"}]) == 0.0


def test_without_final_nothing_is_void() -> None:
    env = ToolUse(Toolbox([Told()]), format="fenced")
    episode = asyncio.run(env.play(Task("t", "6*7?", "42"), {"solver": seat(Actor(tiny_tokenizer(), says("Hm.")))}))
    assert "void" not in episode.trajectories[0].info


# what the gate does ---------------------------------------------------------------------------------------------------


def group(*rows: tuple[float, bool, str]) -> Batch:
    """Attempts of (reward, void?, why it ended), of 2, 3, 4 … tokens."""
    episodes = []
    for n, (reward, void, finish) in enumerate(rows):
        r = recorder()
        turn = r.sampled(said(n + 2, shift=n), r.add((0, 1)))
        r.judge((0, turn), reward=reward, info={"void": void, "finish": finish, "calls": []})
        episodes.append(of_request(r, "0"))
    return Batch.of(episodes)


def staged(b: Batch, **options: Any) -> tuple[Batch, Any]:
    method = simpletir(None, **options)
    for stage in method.on_group:
        b = run(stage, b)
    return b, method


ROWS = [(1.0, False, "done"), (0.0, True, "done"), (0.0, False, "done"), (1.0, False, "done")]


def test_a_void_episode_has_exactly_no_gradient_and_stays_in_the_statistics() -> None:
    b, method = staged(group(*ROWS))
    plain, without = staged(group(*ROWS), mask_void=False)
    assert torch.equal(b[ADVANTAGE], plain[ADVANTAGE])  # r̄ = ½ with the void row; it would be ⅔ without
    assert close(b[ADVANTAGE][:2], [0.5 / (1 / 3) ** 0.5] * 2, 1e-5)
    (term,) = method.terms
    void = b.spread(torch.tensor([0.0, 1.0, 0.0, 0.0]), TRAJECTORY, 0) > 0
    assert not b[NOT_VOID][void].any() and b[NOT_VOID][~void].all()
    assert not term.weights(b)[void].any()
    policy = SoftmaxPolicy(3)
    b = policy.read(b, {BEHAVIOUR: LOGP})  # ρ = 1
    alone = b.select(torch.tensor([True, False, True, True]))
    assert torch.allclose(policy.gradient(b, method.terms), policy.gradient(alone, method.terms), atol=1e-15)
    only = b.put(ADVANTAGE, torch.where(void, b[ADVANTAGE], torch.zeros_like(b[ADVANTAGE])))
    assert not policy.gradient(only, method.terms).any() and policy.gradient(only, without.terms).any()


def test_an_over_long_episode_leaves_loss_and_statistics() -> None:
    b, method = staged(group(*ROWS, (0.0, False, TOKENS)))
    assert b[KEPT].isnan().tolist() == [False] * 4 + [True]
    fewer, _ = staged(group(*ROWS))
    assert close(b[ADVANTAGE], [*fewer[ADVANTAGE].tolist(), *[nan] * 6])
    b, _ = staged(group(*ROWS, (0.0, False, "done")), tokens=6)  # the fifth has six tokens
    assert b[KEPT].isnan().tolist() == [False] * 4 + [True]
    assert not method.terms[0].weights(staged(group(*ROWS, (0.0, False, TOKENS)))[0])[-6:].any()


def judged(rewards: list[float], kept: list[float]) -> Batch:
    return group(*((r, False, "done") for r in rewards)).put(KEPT, torch.tensor([float(k) for k in kept]))


@pytest.mark.parametrize(
    "rewards, kept, counts",
    [([1, 0, 0, 1], [1, 0, 0, 1], True), ([1, 1, 1, 1], [1, 1, 1, 1], False), ([0, 0, 0, 0], [0, 0, 0, 0], False),
     ([1.0, 1.0005, 1.0, 1.0], [1, 1, 1, 1], False), ([0.95, 0.8, 1.0, 1.0], [1, 1, 1, 1], False),
     ([1, 0, 0, 1], [1, nan, nan, nan], False), ([1, 0, 0, 1], [1, nan, nan, 1], True)],
)  # fmt: skip
def test_which_groups_count(rewards: list[float], kept: list[float], counts: bool) -> None:
    assert Informative()(judged(rewards, kept)) is counts


def test_the_share_of_right_answers_counts_over_long_ones_too() -> None:
    b = judged([1.0] + [0.0] * 10, [1.0, 0.0] + [nan] * 9)
    assert b[REWARD].mean() < 0.1 and not Informative()(b) and Informative(low=0.0)(b)


# what the interpreter says --------------------------------------------------------------------------------------------


def test_an_observation_is_output_or_the_last_line_of_an_error_cut_in_the_middle() -> None:
    def shown(tool: Any) -> str:
        return asyncio.run(Interpreter(tool)(code="1")).text

    assert shown(Told("42")) == "Code execution result: 42"
    assert shown(Told("Traceback\n  line 1\nNameError: x", "tool error")) == "Code execution result: NameError: x"
    long = shown(Told("a" * 400 + "b" * 400))
    assert "a" * 256 in long and "b" * 256 in long and "a" * 257 not in long


def test_code_can_print_the_box() -> None:
    async def printed() -> Result:
        tool = Interpreter(Python(workers=1))
        try:
            return await tool.fresh()(code="final_answer(6*7)")
        finally:
            tool.close()

    assert asyncio.run(printed()) == Result("Code execution result: \\boxed{42}")

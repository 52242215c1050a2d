"""THOR: prefixes by ids, groups of their own for a step, which episodes are left, and backing off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, EPISODE, GROUP, GROUP_KEY, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.envs.backoff import before
from temper.envs.tools import ToolUse
from temper.episode import ENV, Episode
from temper.methods.environments.thor import Tidy, thor
from temper.models.tiny import tiny_tokenizer
from temper.parts.selection import KEPT, POSITIVE, EnoughLeft, RewardsDiffer
from temper.parts.steps import STEP, StepGroup, cut_back
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox
from tests.envs.actors import Actor, says, seat
from tests.parts.toys import BEHAVIOUR, SoftmaxPolicy, close, nan, of_request, recorder, run, said

TASK = Task("t", "6*7?", "42")


class Syntax:
    """A Python whose only failure is a bracket that is not closed."""

    name, description = "python", "Run Python code and return what it prints."
    parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}  # noqa: RUF012

    async def __call__(self, code: str) -> Result:
        bad = code.count("(") != code.count(")")
        return Result("SyntaxError", "tool error") if bad else Result("42")


def call(code: str) -> str:
    return f"```python\n{code}\n```"


def env(**options: Any) -> ToolUse:
    return ToolUse(Toolbox([Syntax()]), format="fenced", turns=4, **options)


def play(actor: Actor, **options: Any) -> Episode:
    return asyncio.run(env(**options).play(TASK, {"solver": seat(actor, max_tokens=200)}))


def actor(*words: str) -> Actor:
    return Actor(tiny_tokenizer(), says(*words))


# a prefix by ids ------------------------------------------------------------------------------------------------------

SPANS = [(ENV, [1, 2]), ("solver", [3, 4, 5]), (ENV, [6, 7]), ("solver", [8, 9])]


@pytest.mark.parametrize(
    "back, left",
    [(0, 9), (1, 8), (2, 7), (3, 7), (4, 7), (5, 4), (6, 3), (7, 2), (8, 2), (100, 2)],
)  # fmt: skip
def test_a_prefix_keeps_the_prompt_and_observations_whole(back: int, left: int) -> None:
    assert cut_back(SPANS, back) == tuple(range(1, left + 1))


@pytest.mark.parametrize("character, ids", [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4)])
def test_ids_before_a_character_lie_wholly_before_it(character: int, ids: int) -> None:
    class Pairs:
        def decode(self, ids: list[int]) -> str:
            return "".join(("a", "bc", "de", "f")[i] for i in ids)

    assert before((0, 1, 2, 3), character, 0, Pairs()) == ids
    assert before((0, 1, 2, 3), character, 2, Pairs()) == max(0, ids - 2)


# the step level -------------------------------------------------------------------------------------------------------

THOUGHT = "Six by seven.\n"


def failed() -> Episode:
    """A good call, then some thought and a bad one, then the answer."""
    return play(actor(call("6"), THOUGHT + call("print(6*7"), "\\boxed{42}"))


def stepped(back: int, *words: str) -> tuple[Batch, Episode]:
    episode = failed()
    b = Batch.of([episode]).put(REWARD, torch.tensor([1.0]))
    stage = StepGroup(actor(*words), env(), attempts=3, back=back, sampling=SamplingParams(max_tokens=100))
    return run(stage, b), episode


def test_a_side_group_starts_before_the_failed_call_and_only_what_is_new_is_trained_on() -> None:
    b, e = stepped(2, call("6*7") + "\nso", call("(6"), "I will not.")
    assert b.size(GROUP) == 2 and b[GROUP_KEY] == ["", STEP]  # answers and steps are never compared
    assert b[EPISODE].tolist() == [0, 1, 1, 1]
    assert close(b[REWARD], [1.0, 1.0, 0.0, nan])  # runs, fails, calls nothing
    tokenizer = tiny_tokenizer()
    thought = e.turns[3].ids[: len(tokenizer.encode(THOUGHT)) - 2]
    prefix = e.turns[0].ids + e.turns[1].ids + e.turns[2].ids + thought
    side = b.select(torch.tensor([False, True, True, True]))
    root = [u for u in range(len(side.structure.parent)) if side.structure.parent[u] < 0]
    assert [tuple(side.turn_ids(u)) for u in root] == [prefix] and not side.structure.sampled[root].any()
    texts = [tokenizer.decode(side.turn_ids(u)) for u in range(1, 4)]
    assert texts[0] == call("6*7") and texts[1].removesuffix("<|im_end|>") == call(
        "(6"
    )  # up to the end of the first call
    assert side.size(TOKEN) == sum(len(side.turn_ids(u)) for u in range(1, 4))


def test_prefix_tokens_get_exactly_no_gradient() -> None:
    """The gradient is that of the suffixes alone, worked out token by token: no prefix token has a part in it."""
    b, _ = stepped(2, call("6*7"), call("(6"))
    method = thor(actor(""), shortest=1000)  # no episode is left, so only the step's group trains
    for stage in method.on_group:
        b = run(stage, b)
    policy = SoftmaxPolicy(1)
    b = Batch(b.structure, b._columns)
    b.structure.ids.remainder_(5)  # a vocabulary of five
    b = policy.read(b, {BEHAVIOUR: LOGP})
    a = b[ADVANTAGE].nan_to_num(nan=0.0).double()
    suffix = b.spread(torch.tensor([0.0, 1.0, 1.0, 1.0]), TRAJECTORY, TOKEN) > 0
    assert not a[~suffix].any() and a[suffix].any()
    theta = policy.theta.clone().requires_grad_()
    logp, n, up = theta.log_softmax(0)[b.token_ids], int(suffix.sum()), a > 0
    (-(a * logp).sum() / n - 0.01 * logp[up].sum() / up.sum()).backward()
    torch.testing.assert_close(policy.gradient(b, method.terms), theta.grad, atol=1e-8, rtol=0)


def test_the_same_request_draws_the_same_and_without_a_failure_nothing_is_added() -> None:
    first, second = (stepped(0, call("6*7"))[0] for _ in range(2))
    assert torch.equal(first.structure.ids, second.structure.ids)
    b = Batch.of([play(actor(call("6*7"), "\\boxed{42}"))])
    assert run(StepGroup(actor(""), env()), b) is b


# which episodes are left ----------------------------------------------------------------------------------------------


def answers(*rows: tuple[float, str, str, int]) -> Batch:
    """Attempts of (reward, how its call ended, what it said at last, tokens before that)."""
    tokenizer, episodes = tiny_tokenizer(), []
    for reward, outcome, text, more in rows:
        r = recorder()
        first = r.sampled(said(more), r.add((0, 1)))
        ids = tuple(tokenizer.encode(text))
        last = r.sampled(said(len(ids)).__class__(ids, (-1.0,) * len(ids), text=text), first)
        r.judge((0, first, last), reward=reward, info={"calls": [{"turn": 0, "outcome": outcome}]})
        episodes.append(of_request(r, "0"))
    return Batch.of(episodes)


FINE = (1.0, "ok", "\\boxed{42}", 150)


def kept(b: Batch) -> list[bool]:
    b = run(Tidy(policy=actor("")), b)
    return (~b[KEPT].isnan()).tolist()


def test_episodes_that_are_left_out() -> None:
    rows = [FINE, (1.0, "tool error", FINE[2], 150), (1.0, "ok", "42", 150), (0.0, "ok", FINE[2], 10)]
    assert kept(answers(*rows, (1.0, "ok", "\\boxed{42}" + "x" * 95, 150))) == [True, False, False, False, True]
    assert kept(answers((1.0, "ok", "\\boxed{42}" + "x" * 100, 150))) == [False]  # not at the end


def test_half_of_a_group_must_be_left_and_rewards_must_differ() -> None:
    def left(*r: float) -> list[bool]:
        b = answers(*[FINE] * len(r)).put(KEPT, torch.tensor(r))
        for stage in (EnoughLeft(KEPT), RewardsDiffer(KEPT)):
            b = run(stage, b)
        return (~b[KEPT].isnan()).tolist()

    assert left(1, 0, nan, nan) == [True, True, False, False]
    assert left(1, 0, nan, nan, nan) == [False] * 5  # ⌈2.5⌉ = 3 are needed
    assert left(1.0, 1.0, 1.0, nan) == [False] * 4


def test_the_nll_is_that_of_tokens_with_a_positive_advantage() -> None:
    b = answers(FINE, (0.0, *FINE[1:]), FINE)
    method = thor(actor(""), alpha=0.5)
    for stage in method.on_group:
        b = run(stage, b)
    policy, positive = method.terms
    assert positive.coef == 0.5 and torch.equal(b[POSITIVE], b[ADVANTAGE] > 0) and b[POSITIVE].any()
    assert float(positive.weights(b).sum()) == pytest.approx(1.0) and not positive.weights(b)[b[ADVANTAGE] < 0].any()
    assert [t.name for t in thor(actor(""), alpha=0.0).terms] == ["policy"] == [policy.name]


# backing off ----------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_taken_back_by_ids_and_tried_again() -> None:
    voice = actor(THOUGHT + call("(6*7"), " So:\n" + call("6*7") + "\nand", "\\boxed{42}")
    episode = play(voice, retries=2, back=1)
    info = episode.trajectories[0].info
    assert [c["outcome"] for c in info["calls"]] == ["ok"] and info["taken_back"] == 1
    thought = len(tiny_tokenizer().encode(THOUGHT)) - 1
    turn = episode.turns[1]
    assert turn.ids[:thought] == voice.answers[0].ids[:thought]
    assert turn.ids[thought:] == voice.answers[1].ids[: len(turn.ids) - thought]
    assert voice.asked[1] == episode.turns[0].ids + turn.ids[:thought]
    assert len(turn.logp or ()) == len(turn.ids) and turn.text == THOUGHT[:-1] + " So:\n" + call("6*7")


def test_retries_are_few_and_of_the_whole_episode() -> None:
    episode = play(actor(call("(1"), call("(2"), call("(3"), call("(4"), "\\boxed{42}"), retries=2)
    info = episode.trajectories[0].info
    assert info["taken_back"] == 2 and [c["outcome"] for c in info["calls"]] == ["tool error"] * 2
    assert "taken_back" not in play(actor(call("(1"), "\\boxed{42}")).trajectories[0].info

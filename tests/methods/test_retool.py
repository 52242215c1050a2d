"""ReTool: rewards by hand, and that what the interpreter says is never learned."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from temper.carrier import Batch
from temper.columns import TOKEN, VERSION
from temper.envs.shown import Shown
from temper.envs.tools import ToolUse
from temper.episode import ENV, Episode
from temper.methods.environments.retool import Signed
from temper.models.tiny import tiny_tokenizer
from temper.parts.shaping import SHAPED
from temper.recipes.python_tool import BOXED, Arithmetic
from temper.recipes.retool import retool
from temper.tasks.skills.tools import call_text
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox
from temper.tools.python import Python
from tests.envs.actors import Actor, says, seat
from tests.parts.toys import close, nan, of_request, recorder, run, said

ROOT = Path(__file__).parents[2]
PRODUCT = Task("product/12x34", "What is 12 * 34?", "408")


def judged(turns: int, reward: float | None) -> Episode:
    r = recorder()
    r.judge((0, r.sampled(said(2), r.add((0, 1)))), reward=reward, info={"turns": turns})
    return of_request(r, "0")


def test_rewards_by_hand() -> None:
    b = Batch.of([*(judged(k, 0.0) for k in (1, 2, 3, 4, 5, 6)), judged(1, 1.0), judged(6, 1.0), judged(2, None)])
    assert close(run(Signed(), b)[SHAPED], [-1, -0.9, -0.8, -0.7, -0.6, -0.6, 1, 1, nan])
    assert close(run(Signed(bonus=0.0), b)[SHAPED], [-1] * 6 + [1, 1, nan])


class Slow:
    """Python without a sandbox, for products."""

    name, description = "python", "Run Python code and return what it prints."
    parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}  # noqa: RUF012

    async def __call__(self, code: str) -> Result:
        a, b = code.removeprefix("print(").rstrip(")").split("*")
        return Result(str(int(a) * int(b)))


def solver(*words: str) -> dict[str, Any]:
    actor: Any = Actor(tiny_tokenizer(), says(*words))
    actor.version = 0
    return {"solver": seat(actor, max_tokens=200)}


def learned(episode: Episode) -> tuple[list[str], list[str]]:
    """(texts that are learned, texts that are context)."""
    b = Batch.of([episode])
    assert b.size(TOKEN) == sum(len(t.ids) for t in episode.turns if t.author != ENV)
    texts: tuple[list[str], list[str]] = ([], [])
    for t in episode.turns:
        texts[t.author == ENV].append(tiny_tokenizer().decode(t.ids, skip_special_tokens=True))
    return texts


def test_the_cold_start_learns_code_and_answer_and_not_the_output() -> None:
    env = Shown(ToolUse(Toolbox([Slow()])), Arithmetic(BOXED, calls=True))
    episode = asyncio.run(env.play(PRODUCT, solver("")))
    mine, context = learned(episode)
    assert "12*34" in mine[0] and mine[1] == BOXED % 408 and len(mine) == 2
    assert "408" not in mine[0] and "408" in context[1] and Batch.of([episode])[VERSION].tolist() == [-1] * 4


def test_a_call_that_failed_is_made_again() -> None:
    shows = Arithmetic(BOXED, calls=True)
    asked = shows(PRODUCT, "<tool_response>Error: 1</tool_response>")
    assert asked == shows(PRODUCT, "") and "12*34" in asked
    assert shows(PRODUCT, "<tool_response>Error</tool_response><tool_response>408</tool_response>") == BOXED % 408
    assert Arithmetic(BOXED, calls=False)(PRODUCT, "") == BOXED % 408


def test_an_episode_of_rl_has_the_same_context_as_its_demonstration() -> None:
    shows = Arithmetic(BOXED, calls=True)
    demonstration = Shown(ToolUse(Toolbox([Slow()])), shows)
    words = (shows(PRODUCT, "") + " so", shows(PRODUCT, "<tool_response>408"))
    played, shown = (asyncio.run(env.play(PRODUCT, solver(*words))) for env in (demonstration.env, demonstration))
    assert [t.ids for t in played.turns] == [t.ids for t in shown.turns]
    assert played.turns[1].logp is not None and shown.turns[1].logp is None


@pytest.mark.parametrize(
    "code, text", [("12*34", "408"), ("x = 12*34", ""), ("print(12*34)", "408"), ("x=1\nx+1", "2")]
)
def test_the_last_bare_expression_is_printed_and_statements_stay_as_they_are(code: str, text: str) -> None:
    tool = Python(workers=1)
    env = ToolUse(Toolbox([tool]))
    words = (call_text("python", {"code": code}), BOXED % 408)

    async def play() -> Any:
        try:
            return await env.play(PRODUCT, solver(*words))
        finally:
            await env.aclose()

    (noted,) = asyncio.run(play()).trajectories[0].info["calls"]
    assert (noted["outcome"], noted["text"]) == ("ok", text)


def test_what_a_recipe_takes_reaches_the_environment() -> None:
    (rl,) = retool(cold_start=0, system="Use Python.", turns=4, tokens=99, tool="none")
    env: Any = rl.env
    assert (env.system, env.turns, env.tokens, env.tools) == ("Use Python.", 4, 99, ())
    first, second = retool(cold_start=3)
    assert second.env is first.env.env and env.tools != second.env.tools  # type: ignore[attr-defined]
    train = {t.prompt for t in first.curriculum.tasks}  # type: ignore[attr-defined]
    (probe,) = second.probes
    assert train == {t.prompt for t in second.curriculum.tasks}  # type: ignore[attr-defined]
    assert not train & {t.prompt for t in probe.tasks}  # held out of both phases


def test_the_interpreter_is_worth_three_tenths_and_more_in_every_stored_seed() -> None:
    figures = json.loads((ROOT / "docs" / "claims" / "retool.json").read_text())["figures"]
    for python, none in zip(figures["python"], figures["none"], strict=True):
        assert python["after/pass@1"] - none["after/pass@1"] >= 0.3 and python["gain"] > 0
        assert python["cpu"] + none["cpu"] <= 600

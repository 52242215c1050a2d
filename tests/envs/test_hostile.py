"""Policies, tools and opponents that mean harm: an episode ends as it would without the trick, and the run goes on."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from types import SimpleNamespace

import pytest

from temper import transcripts
from temper.carrier import Batch
from temper.envs.adapters.openenv import _Invalid, _Session, action_of
from temper.envs.tools import ToolUse
from temper.episode import Episode
from temper.models.tiny import tiny_tokenizer
from temper.request import Env
from temper.tasks.task import Task
from temper.tools.base import Toolbox
from temper.tools.calculator import Calculator
from tests.envs.actors import Actor, Words, says, seat


def play(env: Env, words: Words, *, roles: tuple[str, ...] = ("solver",), context: int = 100_000) -> Episode:
    """One play in which every role says the same words."""
    seats = {r: seat(Actor(tiny_tokenizer(), words, context=context), r, max_tokens=20_000) for r in roles}
    return asyncio.run(env.play(Task("t", "say ab"), seats))


@pytest.mark.parametrize("depth", [330, 700, 960])
def test_deep_arguments_are_a_refused_call_and_no_more(depth: int) -> None:
    text = f'<tool_call>{{"name": "calculator", "arguments": {{"expression": {"[" * depth}{"]" * depth}}}}}</tool_call>'
    episode = play(ToolUse(Toolbox([Calculator()])), says(text, "It is ab."))
    info = episode.trajectories[0].info
    assert info["outcomes"] == {"refused": 1} and info["calls"][0]["arguments"] == {}
    assert copy.deepcopy(episode) == pickle.loads(pickle.dumps(episode)) == episode
    (line,) = transcripts.lines(Batch.of([episode]), 0, tiny_tokenizer())
    assert json.loads(line)["trajectories"][0]["info"]["outcomes"] == {"refused": 1}


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_a_deep_action_is_no_action(depth: int) -> None:
    """Of a policy that plays on an OpenEnv server and writes JSON."""

    class Move:
        model_fields = {"x": SimpleNamespace(is_required=lambda: True, annotation=list)}  # noqa: RUF012
        model_validate = staticmethod(lambda given: given)

    class Client(list[Move]):
        """A stand-in for a client of such actions."""

    session = _Session(Client(), 1.0)
    with pytest.raises(_Invalid, match="This is no action"):
        asyncio.run(session.step(action_of(Client), '{"x": ' + "[" * depth + "]" * depth + "}"))

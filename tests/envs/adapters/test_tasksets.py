"""Task sets of verifiers v1: its episodes, harness interface, interception and rewards, with a policy as the model."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1")

from temper.envs.adapters.tasksets import Taskset
from temper.episode import Episode
from temper.errors import UserError
from temper.models.tiny import tiny_tokenizer
from tests.envs.adapters.plays import Clock, ended, heard, play, plays
from tests.envs.adapters.servers import openenv_template

WORDS = """
    import asyncio
    import verifiers.v1 as vf

    class Data(vf.TaskData):
        answer: str

    class Word(vf.Task[Data]):
        @vf.reward(weight=2.0)
        async def right(self, trace: vf.Trace) -> float:
            if self.data.answer == "raise":
                raise KeyError("score")
            if self.data.answer == "hang":
                await asyncio.sleep(20)
            if self.data.answer == "nan":
                return float("nan")
            return float(trace.last_reply == self.data.answer)

        @vf.metric
        async def length(self, trace: vf.Trace) -> float:
            return len(trace.last_reply or "")

    class Config(vf.TasksetConfig):
        words: list[str] = ["ab", "cd"]

    class Words(vf.Taskset[Word, Config]):
        def load(self):
            for k, w in enumerate(self.config.words):
                yield Word(Data(idx=k, prompt=f"say {w}", system_prompt="Be brief.", answer=w), self.config.task)

    class Twice(vf.SingleAgentEnv):
        async def run(self, task, agents):
            async with agents.agent.interaction(task) as interaction:
                await interaction.turn()
                await interaction.turn("And again.")
"""


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two packages: one plays its tasks itself, one leaves that to verifiers."""
    folder = tmp_path_factory.mktemp("packages")
    for name, exported in (("some_words", ["Words"]), ("words_twice", ["Words", "Twice"])):
        (folder / f"{name}.py").write_text(f"{textwrap.dedent(WORDS)}\n__all__ = {exported}\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def words(*answers: str, id: str = "some-words", **options: Any) -> Taskset:
    return Taskset(id, {"words": list(answers or ("ab", "cd"))}, **{"timeout": 15.0, **options})


def test_a_task_set() -> None:
    env = words()
    tasks = env.tasks()
    assert [t.id for t in tasks] == ["some-words/0", "some-words/1"] and tasks[1].prompt == "say cd"
    episodes = plays(env, tasks * 3, "ab")
    assert [ended(e) for e in episodes] == [(2.0, "ok"), (0.0, "ok")] * 3
    (trajectory,) = episodes[0].trajectories if isinstance(episodes[0], Episode) else ()
    assert trajectory.rewards == {"right": 2.0} and trajectory.info["metrics"] == {"length": 2.0}
    assert heard(episodes[1]) == ["say cd"] and isinstance(episodes[1], Episode)
    assert "Be brief." in tiny_tokenizer().decode(episodes[1].turns[0].ids)


def test_an_environment_that_talks() -> None:
    env = words(id="words-twice")
    episode = play(env, env.tasks()[0], "cd", "ab")
    assert ended(episode) == (2.0, "ok") and heard(episode) == ["say ab", "And again."]
    assert isinstance(episode, Episode) and episode.trajectories[0].info["chains"] == 1


def test_a_task_set_that_verifiers_ships(tmp_path: Path) -> None:
    """verifiers' own `openenv` task set, on the environment that the package openenv writes: nothing of it is ours."""
    pytest.importorskip("openenv")
    with openenv_template(tmp_path) as port:
        config = {"base_url": f"http://127.0.0.1:{port}", "resets": [{}, {"seed": 3}]}
        env = Taskset("openenv", config, env={"player": {"max_turns": 2}}, episodes=1, timeout=20.0)
        episodes = plays(env, env.tasks(), "abc", '{"message": "four"}', guarded=False)  # it quotes the policy
    assert [ended(e) for e in episodes] == [(pytest.approx(0.3 + 0.4), "ok")] * 2
    first, second, *_ = map(json.loads, heard(episodes[1]))
    assert first["observation"]["echoed_message"] == "Echo Words environment ready!"
    assert second["observation"]["echoed_message"] == "abc" and second["observation"]["message_length"] == 3
    assert first["action_schema"]["required"] == ["message"]


def test_rewards_that_fail() -> None:
    env = words("raise", "hang", "nan", timeout=4.0)
    with Clock(20):
        raised, hung, nan = (ended(e) for e in plays(env, env.tasks(), "ab"))
    assert raised[0] is None and raised[1].startswith("error: TaskError") and "KeyError" in raised[1]
    assert hung == (None, "timeout")
    assert nan[0] is None and nan[1].startswith("error: ")


def test_a_prompt_that_does_not_fit() -> None:
    env = words("x" * 500)
    assert play(env, env.tasks()[0], "ab", context=200) == "prompt too long"
    env = words("y" * 300, id="words-twice")
    episode = play(env, env.tasks()[0], "ab", context=350)
    assert ended(episode) == (0.0, "ok")  # judged by what was said until then


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the task set 'no-such-words'"):
        Taskset("no-such-words")
    with pytest.raises(UserError, match="wrods"):
        Taskset("some-words", {"wrods": []})
    with pytest.raises(UserError, match="needs time"):
        words(timeout=0)

"""Environments of verifiers: its own classes play, with a policy behind its client."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers")
vf: Any = pytest.importorskip("verifiers.legacy", reason="task sets only")

from datasets import Dataset  # noqa: E402

from temper.envs.adapters.verifiers import Verifiers  # noqa: E402
from temper.episode import ENV, Episode  # noqa: E402
from temper.errors import UserError  # noqa: E402
from temper.models.render import renderer_of  # noqa: E402
from temper.models.tiny import tiny_tokenizer  # noqa: E402
from temper.testing import check_env  # noqa: E402
from tests.envs.adapters.plays import HOSTILE, Clock, call, ended, heard, play, plays  # noqa: E402

ROWS = [{"question": f"say {w}", "answer": w, "info": {"word": w}} for w in ("ab", "cd", "ef")]


def rows(n: int = 3) -> Dataset:
    return Dataset.from_list(ROWS[:n])


def exact(completion: Any, answer: str) -> float:
    return float(completion[-1]["content"] == answer)


def spread(gym: str = "") -> Any:
    """An environment in which the answers of a random model differ."""

    def number(completion: Any) -> float:
        return float(sum(str(completion).encode()) % 7)

    data = Dataset.from_list(ROWS * 4)
    return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[number]), system_prompt=gym or None)


other = spread


def single(*functions: Any, **options: Any) -> Verifiers:
    rubric = vf.Rubric(funcs=list(functions or (exact,)))
    return Verifiers(vf.SingleTurnEnv(dataset=rows(), rubric=rubric, system_prompt="Be brief."), **options)


class Riddle(vf.MultiTurnEnv):
    """Three turns; the game answers."""

    reply = "Warm."

    async def setup_state(self, state: Any) -> Any:
        state["heard"] = []
        return await super().setup_state(state)

    @vf.stop
    async def found(self, state: Any) -> bool:
        return bool(state["heard"]) and state["heard"][-1] == "found"

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        state["heard"].append(messages[-1]["content"])
        return [{"role": "user", "content": self.reply}]


def riddle(reply: Any = "Warm.", kind: type = Riddle, **options: Any) -> Verifiers:
    def heard(state: Any) -> float:
        return len(state["heard"]) / 10

    made = kind(dataset=rows(), rubric=vf.Rubric(funcs=[exact, heard], weights=[1.0, 0.5]), max_turns=3)
    made.reply = reply
    return Verifiers(made, **{"timeout": 5.0, **options})


def test_a_single_turn(tmp_path: Path, exact_model: str) -> None:
    env = single()
    tasks = env.tasks()
    assert [t.answer for t in tasks] == ["ab", "cd", "ef"] and tasks[0].messages[0]["content"] == "Be brief."
    episode = play(env, tasks[1], "cd")
    assert ended(episode) == (1.0, "ok") and heard(episode) == ["say cd"]
    assert ended(play(env, tasks[1], "ab")) == (0.0, "ok")
    check_env(single(lambda completion: float(len(completion))), tmp_path, task=tasks[0], model=exact_model)


def test_several_turns_with_state_and_metrics() -> None:
    env = riddle()
    episode = play(env, env.tasks()[0], "one", "two", "ab")
    assert isinstance(episode, Episode) and heard(episode) == ["say ab", "Warm.", "Warm."]
    assert ended(episode) == (1.0 + 0.5 * 0.2, "ok")
    (trajectory,) = episode.trajectories
    assert trajectory.rewards == {"exact": 1.0, "heard": 0.2, "num_turns": 3.0}
    assert trajectory.info == {"calls": 3, "chains": 1, "stop": "max_turns_reached"}


def test_tools() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: Another.
        """
        return a + b

    env = Verifiers(vf.ToolEnv(tools=[add], dataset=rows(), rubric=vf.Rubric(funcs=[exact]), max_turns=4))
    lines = (call("add", a=2, b=3), call("add", a="x"), "ab")
    episode = play(env, env.tasks()[0], *lines)
    assert isinstance(episode, Episode) and ended(episode) == (1.0, "ok") and heard(episode)[1] == "5"
    assert episode.trajectories[0].rewards["add_calls"] == 2.0 and episode.trajectories[0].info["chains"] == 1


def test_a_whole_environment_of_the_package() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("needs reasoning-gym")
    gym = {"gym": "chain_sum", "num_train_examples": 5, "num_eval_examples": 2, "system_prompt": ""}
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    env = Verifiers("verifiers:ReasoningGymEnv", gym)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    train, held_out = env.split(2)
    assert (len(train), len(held_out)) == (5, 2) and train[0].prompt != held_out[0].prompt
    total = eval(heard(play(env, train[0], "<answer>x</answer>"))[0].partition(":")[2].strip(" ="))
    assert ended(play(env, train[0], f"<answer>{total}</answer>")) == (1.0, "ok")
    assert ended(play(env, train[0], "<answer>x</answer>"))[0] == 0.0


def test_an_installed_environment_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import verifiers as vf\nfrom datasets import Dataset\n\ndef load_environment(word='hi'):\n    " \
        "data = Dataset.from_list([{'question': 'say it', 'answer': word}])\n    " \
        "return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[lambda completion, answer: 1.0]))\n"  # fmt: skip
    (tmp_path / "my_words.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    env = Verifiers("my-words", {"word": "ho"})
    assert env.tasks()[0].answer == "ho" and env.tasks()[0].id == "my-words/train/0"
    assert ended(play(env, env.tasks()[0], "hm")) == (1.0, "ok")
    with pytest.raises(UserError, match="unexpected keyword argument 'words'"):
        Verifiers("my-words", {"words": "ho"})
    with pytest.raises(UserError, match="Could not import 'my-other'"):
        Verifiers("my-other")


def test_many_at_once() -> None:
    class Slow(Riddle):
        most = running = 0

        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
            await asyncio.sleep(0.05)
            Slow.running -= 1
            return await super().env_response(messages, state)

    env = riddle(kind=Slow, rollouts=8)
    episodes = plays(env, env.tasks() * 10, "one", "two", "ab", latency=0.01)
    assert {e.task.id for e in episodes if isinstance(e, Episode)} == {t.id for t in env.tasks()}
    assert sorted(ended(e)[0] or 0 for e in episodes) == [0.1] * 20 + [1.1] * 10 and 1 < Slow.most <= 8


# where it goes wrong --------------------------------------------------------------------------------------------------


def test_a_reward_function_that_raises_is_no_score() -> None:
    def broken(completion: Any) -> float:
        raise KeyError("score")

    async def late(completion: Any) -> float:
        raise ValueError("late")

    env = single(exact, broken)
    assert ended(play(env, env.tasks()[0], "ab")) == (None, "error: broken raised KeyError: 'score'")
    assert ended(play(single(late), env.tasks()[0], "ab")) == (None, "error: late raised ValueError: late")
    assert ended(play(single(exact, broken, blame=True), env.tasks()[0], "ab")) == (1.0, "ok")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", None])
def test_a_reward_that_is_none(value: Any) -> None:
    env = single(lambda completion: value)
    reward, outcome = ended(play(env, env.tasks()[0], "ab"))
    assert reward is None and outcome.startswith("error: ")


def test_a_rubric_for_groups_is_refused() -> None:
    with pytest.raises(UserError, match="scores a task's rollouts together"):
        single(lambda completions: [0.0 for _ in completions])


class Broken(Riddle):
    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        match self.reply:
            case "raise":
                raise AssertionError("my own fault")
            case "infrastructure":
                raise vf.SandboxError("the sandbox is gone")
            case "tool":
                raise vf.ToolCallError("no such tool")
            case "wait":
                await asyncio.sleep(20)
            case "block":
                time.sleep(2.5)
            case "number":
                return 7
            case "long":
                return [{"role": "user", "content": "x" * 10_000_000}]
            case "surrogate":
                return [{"role": "user", "content": "half \ud800"}]
            case "hostile":
                return [{"role": "user", "content": HOSTILE}]
        return [{"role": "user", "content": "Go on."}]


def broken(reply: str, *lines: str, **options: Any) -> Episode | str:
    env = riddle(reply, Broken, **{"timeout": 10.0, **options})
    with Clock(25):
        return play(env, env.tasks()[0], *lines)


def test_an_environment_that_raises() -> None:
    assert ended(broken("raise", "one")) == (None, "error: AssertionError: my own fault")
    assert broken("infrastructure", "one") == "infrastructure: SandboxError"
    assert ended(broken("tool", "ab"))[1] == "ok"  # the policy's own doing, as verifiers sees it
    reward, outcome = ended(broken("number", "one"))
    assert reward is None and outcome.startswith("error: ")


def test_an_environment_that_does_not_end() -> None:
    assert ended(broken("wait", "one", timeout=0.5)) == (None, "timeout")
    env = riddle("block", Broken, timeout=0.5)
    with Clock(8):
        assert ended(play(env, env.tasks()[0], "one", close=False)) == (None, "timeout")
        env._env.reply = "Warm."
        assert ended(play(env, env.tasks()[0], "one", "two", "ab"))[1] == "ok"  # in a loop of its own
    made = Riddle(dataset=rows(), rubric=vf.Rubric(funcs=[exact]), max_turns=-1, timeout_seconds=0.5)
    env = Verifiers(made)
    assert ended(play(env, env.tasks()[0], "one", latency=0.02)) == (None, "timeout")  # its own limit


def test_what_it_says() -> None:
    assert broken("long", "one") == "infrastructure: ModelError -> APIStatusError"  # more than a request may hold
    assert broken("surrogate", "one") == "infrastructure: ModelError -> UnicodeEncodeError"
    forbidden = renderer_of(tiny_tokenizer()).forbidden
    counts = []
    for reply in ("hostile", "else"):
        episode = broken(reply, "one", "two", "ab")
        assert isinstance(episode, Episode) and len(heard(episode)) == 3
        counts.append([sum(i in forbidden for i in t.ids) for t in episode.turns if t.author == ENV])
    assert counts[0] == counts[1]


def test_what_the_policy_does() -> None:
    env = riddle()
    reward, outcome = ended(play(env, env.tasks()[0], ""))  # an empty answer is its own doing
    assert (reward, outcome) == (0.0, "ok")
    env = riddle("x" * 400)
    reward, outcome = ended(play(env, env.tasks()[0], "one", "two", "ab", context=300))
    assert outcome == "ok" and reward is not None and reward < 1  # judged by what was said until then
    assert play(env, env.tasks()[0], "one", context=5) == "prompt too long"

"""Environments, tools and rewards in TRL's form; what happens where they fail."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from temper.envs.adapters.trl import Trl, messages
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.models.render import renderer_of
from temper.models.tiny import tiny_tokenizer
from tests.envs.adapters.plays import HOSTILE, Clock, call, ended, heard, play, plays


class Counter:
    """Count to a number: the state is the environment's."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.thread = threading.get_ident()

    def reset(self, target: int = 3, **row: Any) -> str:
        self.count, self.target, self.row = 0, target, row
        self.lucky = random.random()
        return f" Count to {target}."

    def get_reward(self) -> float:
        return float(self.count == self.target)

    def increment(self, step: int) -> int:
        """Count on.

        Args:
            step: How far.

        Returns:
            The count.
        """
        assert threading.get_ident() == self.thread
        self.count += step
        return self.count

    async def later(self, step: int) -> int:
        """Count on, in a while.

        Args:
            step: How far.
        """
        await asyncio.sleep(0.01)
        return self.increment_now(step)

    def _hidden(self) -> None: ...

    def increment_now(self, step: int) -> int:
        """Count on at once.

        Args:
            step: How far.
        """
        self.count += step
        return self.count


def shout(word: str) -> str:
    """Say it loud.

    Args:
        word: What.
    """
    return word.upper()


def seen(**columns: Any) -> list[float]:
    seen.columns = columns  # type: ignore[attr-defined]
    return [0.25 * len(columns["completions"][0])]


def spread(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Something that differs between the answers of a random model."""
    return [float(sum(ids) % 7) for ids in completion_ids]


async def lucky(environments: list[Counter], log_metric: Any, **columns: Any) -> list[float | None]:
    log_metric("luck", environments[0].lucky)
    return [None]


ROWS = [{"prompt": [{"role": "user", "content": "Play."}], "target": 5, "answer": "five"}]


def test_an_environment_with_tools_and_rewards() -> None:
    env = Trl(Counter, tools=[shout], reward_funcs=[seen, lucky], weights=[2.0, 1.0])
    (task,) = env.tasks(ROWS)
    lines = ("I count. " + call("increment", step=2) + call("shout", word="hi"), call("later", step=3), "Done.")
    episode = play(env, task, *lines)
    assert isinstance(episode, Episode)
    assert heard(episode) == ["Play. Count to 5.", "2\nHI", "5"]
    assert ended(episode) == (1.0 + 2.0 * 0.25 * 6, "ok")
    trajectory = episode.trajectories[0]
    assert trajectory.rewards == {"seen": 1.5, "Counter": 1.0} and 0 < trajectory.info["noted"]["luck"] < 1
    got = seen.columns  # type: ignore[attr-defined]
    assert got["answer"] == ["five"] and got["target"] == [5] and got["environments"][0].row["answer"] == "five"
    assert got["prompts"] == [[{"role": "user", "content": "Play. Count to 5."}]]
    (said,) = got["completions"]
    assert [m["role"] for m in said] == ["assistant", "tool", "tool", "assistant", "tool", "assistant"]
    assert said[0]["content"] == "I count." and said[-1]["content"] == "Done." and said[2]["name"] == "shout"
    assert said[0]["tool_calls"][0]["function"] == {"name": "increment", "arguments": {"step": 2}}
    assert got["completion_ids"] == [[i for t in episode.turns[1:] for i in t.ids]]
    assert messages(episode) == said


def test_public_methods_are_tools_and_others_are_not() -> None:
    env = Trl(Counter)
    episode = play(
        env, env.tasks(ROWS)[0], call("_hidden"), call("reset"), call("get_reward"), call("increment", step=5)
    )
    assert isinstance(episode, Episode)
    outcomes = [c["outcome"] for c in episode.trajectories[0].info["calls"]]
    assert outcomes[:3] == ["refused"] * 3 and "later" in episode.trajectories[0].info["calls"][0]["text"]


def test_attempts_have_environments_of_their_own_and_begin_alike() -> None:
    env, Counter.made = Trl(Counter, reward_funcs=[lucky]), 0
    tasks = [task for task in env.tasks(n=3) for _ in range(8)]
    state = random.getstate()
    episodes = plays(env, tasks, call("increment", step=1), call("increment", step=2), "Done.", close=False)
    assert {ended(e) for e in episodes} == {(1.0, "ok")} and random.getstate() == state
    luck = [e.trajectories[0].info["noted"]["luck"] for e in episodes if isinstance(e, Episode)]
    assert len(set(luck)) == 3 and len(set(luck[:8])) == 1
    made = Counter.made
    assert made <= 24 and plays(env, tasks, call("increment", step=3), "Done.") and Counter.made == made  # used again


def test_several_environments_by_name() -> None:
    class Other(Counter):
        def reset(self, **row: Any) -> None:
            assert "environment" not in row
            self.count = self.target = 0

    env = Trl({"count": Counter, "other": Other})
    count, other, none = env.tasks([{"environment": n, "prompt": "Go"} for n in ("count", "other", "none")])
    assert heard(play(env, count, "Done."))[0] == "Go Count to 3." and heard(play(env, other, "Done."))[0] == "Go"
    with pytest.raises(UserError, match="there are: count, other"):
        play(env, none, "Done.")


def test_tools_without_an_environment() -> None:
    env = Trl(tools=[shout], reward_funcs=[lambda completions, **_: [float(completions[0][-1]["content"] == "HI")]])
    episode = play(env, env.tasks([{"prompt": "Shout hi."}])[0], call("shout", word="hi"), "HI")
    assert ended(episode) == (1.0, "ok")


# where it goes wrong --------------------------------------------------------------------------------------------------


class Bad:
    """Each way of failing has a tool, or a reset."""

    def reset(self, how: str = "", **row: Any) -> Any:
        self.how, self.value = how, 1.0
        match how:
            case "reset raises":
                raise RuntimeError("no game today")
            case "reset hangs":
                time.sleep(2)
            case "wrong type":
                return 7
            case "long":
                return "x" * 10_000_000
            case "surrogate":
                return "half \ud800 a pair"
            case "hostile":
                return HOSTILE
        return None

    def get_reward(self) -> Any:
        if self.how == "reward raises":
            raise KeyError("score")
        return {"nan": float("nan"), "inf": float("inf"), "none": None, "text": "much", "huge": 10**400}.get(
            self.how, 1.0
        )

    def act(self, what: str) -> Any:
        """Do it.

        Args:
            what: What to do.
        """
        match what:
            case "raise":
                raise ValueError("not like this")
            case "hang":
                time.sleep(2)
            case "lost":
                raise ConnectionResetError("gone")
            case "exit":
                raise SystemExit(3)
            case "long":
                return "y" * 10_000_000
            case "surrogate":
                return "\udfff"
            case "hostile":
                return HOSTILE
        return {"a": [1, 2]}


def bad(how: str, *lines: str, **options: Any) -> Episode | str:
    env = Trl(Bad, **{"timeout": 0.3, **options})
    with Clock(8):
        return play(env, env.tasks([{"prompt": "Go.", "how": how}])[0], *lines)


@pytest.mark.parametrize(
    "how, outcome",
    [("nan", "error: no reward source applies"), ("none", "error: no reward source applies"),
     ("inf", "error: Bad is infinite"), ("text", "error: ValueError"), ("huge", "error: OverflowError"),
     ("reward raises", "error: KeyError: 'score'")],
)  # fmt: skip
def test_a_reward_that_is_none(how: str, outcome: str) -> None:
    reward, why = ended(bad(how, "Done."))
    assert reward is None and why.startswith(outcome)


def test_a_reset_that_fails() -> None:
    assert bad("reset raises", "Done.") == "reset failed: RuntimeError: no game today"
    assert bad("reset hangs", "Done.") == "reset timeout"
    with pytest.raises(UserError, match="must return a text or None, got int"):
        bad("wrong type", "Done.")


def test_calls_that_fail() -> None:
    assert heard(bad("", call("act", what="raise"), "Done."))[1] == "{'error': 'not like this'}"
    assert heard(bad("", call("act", what="exit"), "Done."))[1] == "{'error': 'SystemExit(3)'}"
    assert heard(bad("", call("act", what="else"), "Done."))[1] == "{'a': [1, 2]}"
    assert heard(bad("", call("act", what=7), "Done."))[1] == "act: what must be string, not integer."
    assert bad("", call("act", what="lost"), "Done.") == "tool fault"


def test_an_environment_that_hangs_is_left_behind() -> None:
    env = Trl(Bad, timeout=0.3)
    (task,) = env.tasks([{"prompt": "Go."}])
    with Clock(8):
        episode = play(env, task, call("act", what="hang"), call("act", what="x"), "Done.", close=False)
        assert ended(episode) == (None, "timeout") and "no result within 0.3 s" in heard(episode)[1]
        assert ended(play(env, task, "Done.")) == (1.0, "ok")


def test_what_it_says_is_cut_and_stays_text() -> None:
    assert len(heard(bad("long", "Done.", limit=1000))[0]) < 1100
    assert len(heard(bad("", call("act", what="long"), "Done.", limit=1000))[1]) < 1100
    assert heard(bad("surrogate", call("act", what="surrogate"), "Done."))[:2] == ["Go.half ? a pair", "?"]
    forbidden = renderer_of(tiny_tokenizer()).forbidden
    lines = (call("act", what="hostile"), "Done.")
    counts = []
    for how, said in (("hostile", lines), ("", (call("act", what="x"), "Done."))):
        episode = bad(how, *said)
        assert isinstance(episode, Episode)
        counts.append([sum(i in forbidden for i in t.ids) for t in episode.turns if t.author == ENV])
    assert counts[0] == counts[1]


def test_what_cannot_be_played() -> None:
    class NoReset:
        pass

    class Undescribed(Counter):
        def extra(self, x):  # type: ignore[no-untyped-def]
            return x

    with pytest.raises(UserError, match="NoReset has no reset method"):
        play(Trl(NoReset), Trl(NoReset).tasks(n=1)[0], "Done.")
    with pytest.raises(UserError, match=r"Undescribed\.extra cannot be a tool"):
        play(Trl(Undescribed), Trl(Undescribed).tasks(n=1)[0], "Done.")
    with pytest.raises(UserError, match="must be a class"):
        Trl({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="2 weights for 1 reward"):
        Trl(Counter, reward_funcs=[seen], weights=[1.0, 2.0])

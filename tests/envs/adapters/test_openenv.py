"""Environments behind a real OpenEnv server in a process of its own, also while it fails and dies."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openenv.core")

from openenv.core import GenericEnvClient

from temper.envs.adapters.openenv import OpenEnv, action_of, shown
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.models.render import renderer_of
from temper.models.tiny import tiny_tokenizer
from temper.testing import check_env
from tests.envs.adapters.openenv_server import GameClient, Guess, Seen
from tests.envs.adapters.plays import HOSTILE, Clock, call, ended, heard, play, plays
from tests.envs.adapters.servers import openenv_template, served

SERVER = [sys.executable, str(Path(__file__).parent / "openenv_server.py")]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(lambda port: [*SERVER, str(port)]) as number:
        yield number


def game(port: int, **options: Any) -> OpenEnv:
    return OpenEnv(partial(GameClient, base_url=f"http://127.0.0.1:{port}"), **{"timeout": 5.0, **options})


def failing(port: int, how: str, *lines: str, n: int = 7, **options: Any) -> Episode | str:
    env = game(port, **options)
    with Clock(12):
        return play(env, env.tasks("Play.", n, how=how, hostile=HOSTILE)[-1], *lines)


def test_a_game(port: int, tmp_path: Path, exact_model: str) -> None:
    env = game(port)
    task = env.tasks("Guess a word.", n=3)[2]
    episode = play(env, task, "word1", "<think>2?</think> word2")
    assert heard(episode) == ["Guess a word.\n\nFind word 2.", "Not that."] and ended(episode) == (1.25, "ok")
    assert isinstance(episode, Episode)
    info = episode.trajectories[0].info
    assert (info["steps"], info["invalid"], info["over"]) == (2, 0, True)
    lost = play(game(port, turns=2, total=max), task, "a", "b")
    assert ended(lost) == (0.25, "ok") and isinstance(lost, Episode) and not lost.trajectories[0].info["over"]
    check_env(env, tmp_path, task=task, model=exact_model)


def test_sessions_at_once(port: int) -> None:
    env = game(port, attempts=8)
    tasks = env.tasks(n=24)
    episodes = plays(env, tasks, "no", "word7", latency=0.01)
    assert [heard(e)[0] for e in episodes] == [f"Find word {k}." for k in range(24)]
    assert [ended(e)[0] for e in episodes] == [1.25 if k == 7 else 1.0 for k in range(24)]


def test_a_client_without_the_environments_package(port: int) -> None:
    client = partial(GenericEnvClient, base_url=f"http://127.0.0.1:{port}")
    env = OpenEnv(client, field="word")
    assert ended(play(env, env.tasks(n=1)[0], "word0")) == (1.0, "ok")
    with pytest.raises(UserError, match="say which field"):
        play(OpenEnv(client), env.tasks(n=1)[0], "word0")
    env = OpenEnv(client, act=json.loads, turns=3)
    episode = play(env, env.tasks(n=1)[0], "word0", '{"wort": 1}', '{"word": "word0"}')
    assert ended(episode) == (1.0, "ok") and isinstance(episode, Episode)
    assert episode.trajectories[0].info["invalid"] == 2 and "no action" in heard(episode)[1]


def test_tools_of_a_server(port: int) -> None:
    from openenv.core.mcp_client import MCPToolClient

    env = OpenEnv(partial(MCPToolClient, base_url=f"http://127.0.0.1:{port}/sums"), timeout=10.0, turns=5)
    lines = (f"{call('add', a=2, b=3)} {call('add', a=1, b=1)}", call("add", a="x"), call("add", a=-1, b=1), "It is 5.")
    episode = play(env, env.tasks("Add.", n=1)[0], *lines)
    assert isinstance(episode, Episode)
    assert heard(episode)[:2] == ["Add.", "5\n2"] and "not below 0" in heard(episode)[3]
    assert ended(episode)[1] == "ok" and episode.trajectories[0].info["steps"] == 3


def test_actions_and_observations() -> None:
    assert action_of(GameClient)("<think>x</think> cat\n") == Guess(word="cat")
    assert (
        shown(Seen(text="hi", reward=1.0)) == "hi" and shown({"a": 1, "done": True}) == '{"a": 1}' and shown(7) == "7"
    )


def test_the_environment_that_openenv_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `openenv init` writes, server and client, as it is."""
    with openenv_template(tmp_path) as number:
        monkeypatch.syspath_prepend(str(tmp_path))
        from echo_words import EchoWordsEnv  # type: ignore[import-not-found]

        env = OpenEnv(partial(EchoWordsEnv, base_url=f"http://127.0.0.1:{number}"), turns=3, attempts=1, timeout=10.0)
        lines = ("<think>three letters</think> abc", "four", "seven 7")
        episodes = plays(env, env.tasks("Say something.", n=2), *lines, guarded=False)  # it quotes the policy
        assert [ended(e) for e in episodes] == [(pytest.approx(0.3 + 0.4 + 0.7), "ok")] * 2
        seen = [json.loads(text.removeprefix("Say something.\n\n")) for text in heard(episodes[0])]
        said = [s["echoed_message"] for s in seen]
        assert said == ["Echo Words environment ready!", "abc", "four"]
        assert [s["message_length"] for s in seen] == [0, 3, 4]


# where it goes wrong --------------------------------------------------------------------------------------------------


def test_resets_that_fail(port: int) -> None:
    assert failing(port, "raise", "a") == (
        "infrastructure: reset failed (RuntimeError: Server error: no game today (code: EXECUTION_ERROR))"
    )
    assert failing(port, "hang", "a", timeout=0.5) == "infrastructure: reset failed timeout"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "ConnectionError: Failed to connect" in str(failing(closed.getsockname()[1], "", "a"))


def test_steps_that_fail(port: int) -> None:
    reward, outcome = ended(failing(port, "", "a", "raise"))
    assert reward is None and outcome.startswith("error: RuntimeError: Server error: not like this")
    assert ended(failing(port, "", "a", "raise", blame=True)) == (0.25, "ok")
    assert ended(failing(port, "", "hang", timeout=0.5)) == (None, "timeout")
    assert ended(failing(port, "none", "a")) == (None, "error: no step was rewarded")
    reward, outcome = ended(failing(port, "nan", "a"))
    assert reward is None and outcome.startswith("error: ")


def test_what_it_says_is_cut_and_stays_text(port: int) -> None:
    assert len(heard(failing(port, "long", "word6", limit=500))[0]) < 600
    assert ended(failing(port, "surrogate", "word6")) == (1.0, "ok")
    forbidden = renderer_of(tiny_tokenizer()).forbidden
    counts = []
    for how in ("hostile", ""):
        episode = failing(port, how, "a", "word6")
        assert isinstance(episode, Episode)
        counts.append([sum(i in forbidden for i in t.ids) for t in episode.turns if t.author == ENV])
    assert counts[0] == counts[1]


def test_what_cannot_be_played() -> None:
    with pytest.raises(UserError, match="leave out"):
        env = OpenEnv(lambda: object())
        play(env, env.tasks(n=1)[0], "a")
    with pytest.raises(UserError, match="must be positive"):
        OpenEnv(GameClient, timeout=0)


def test_a_connection_that_is_lost(port: int) -> None:
    """The client opens it again, to an environment without a game: that is not a reward of 0."""
    made: list[GameClient] = []

    class Lost(OpenEnv):
        lost = False

        def _text(self, seen: Any) -> str:
            if seen.text.startswith("Not") and not self.lost:
                self.lost = True
                made[-1]._ws = None  # as the client itself forgets a socket that it finds closed
            return str(seen.text)

    def client() -> GameClient:
        made.append(GameClient(base_url=f"http://127.0.0.1:{port}"))
        return made[-1]

    env = Lost(client, timeout=5.0)
    assert play(env, env.tasks(n=1)[0], "a", "b", "c") == "infrastructure: the connection was lost"


def test_a_server_that_dies(port: int) -> None:
    """The last test: nobody answers afterwards."""
    assert str(failing(port, "", "a", "die")).startswith("infrastructure: ")
    assert "Failed to connect" in str(failing(port, "", "a"))

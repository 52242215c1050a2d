"""TRL's own GRPOTrainer and Temper's adapter play the same environment: tokens, masks, messages and rewards."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from trl import GRPOConfig, GRPOTrainer

from temper.envs.adapters.trl import Trl, messages
from temper.episode import ENV, Episode
from temper.models.load import BUNDLED
from temper.models.tiny import tiny_tokenizer
from tests.envs.adapters.plays import call, play
from tests.envs.adapters.servers import served
from tests.envs.adapters.test_trl import ROWS, Bad, Counter, shout


class Played(GRPOTrainer):
    """What TRL makes of a policy whose words are known: only the decoding is replaced."""

    lines: tuple[str, ...] = ()

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        tokenizer, said = self.processing_class, []
        for ids in prompt_ids:
            turn = tokenizer.decode(ids).count("<|im_start|>assistant") - 1
            said.append([*tokenizer.encode(self.lines[turn], add_special_tokens=False), tokenizer.eos_token_id])
        return said, None

    def _generate(self, prompts: list[Any]) -> Any:
        found = super()._generate(prompts)
        self.found = {"prompt": found[0][0], "ids": found[1][0], "mask": found[2][0], "messages": found[3][0]}
        return found

    def _calculate_rewards(self, *arguments: Any) -> Any:
        rewards = super()._calculate_rewards(*arguments)
        self.found["rewards"] = dict(zip(self.reward_func_names, rewards[0].tolist(), strict=True))
        return rewards


def by_trl(folder: Path, rows: Any, *lines: str, **given: Any) -> dict[str, Any]:
    """One step of GRPOTrainer, which ends before the weights change: what was played, and how it was scored."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.chat_template_utils import qwen3_template

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["temper-tiny"])
    tokenizer.response_template = qwen3_template  # <tool_call>{"name": …, "arguments": …}</tool_call>
    config = GRPOConfig(
        output_dir=str(folder), num_generations=2, per_device_train_batch_size=2, max_steps=1, learning_rate=0.0,
        max_completion_length=400, beta=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_steps=10,
    )  # fmt: skip
    trainer = Played(
        model=AutoModelForCausalLM.from_pretrained(BUNDLED["temper-tiny"]), args=config, processing_class=tokenizer,
        train_dataset=rows if isinstance(rows, Dataset) else Dataset.from_list(copy.deepcopy(rows)), **given,
    )  # fmt: skip
    trainer.lines = lines
    trainer.train()
    return trainer.found


def by_temper(env: Trl, task: Any, *lines: str) -> dict[str, Any]:
    """The same of an episode."""
    episode = play(env, task, *lines, guarded=False)
    assert isinstance(episode, Episode), episode
    first, *rest = episode.turns
    return {
        "prompt": list(first.ids),
        "ids": [i for t in rest for i in t.ids],
        "mask": [int(t.author != ENV) for t in rest for _ in t.ids],
        "messages": messages(episode),
        "rewards": dict(episode.trajectories[0].rewards),
    }


def half(completions: list[Any], **columns: Any) -> list[float]:
    return [0.5 * len(c) for c in completions]


def described(found: dict[str, Any]) -> dict[str, Any]:
    """As text, without what Temper leaves out: what a tool says of its result."""
    text = tiny_tokenizer().decode(found["prompt"])
    return {**found, "prompt": re.sub(r', "return": \{[^}]*\}', "", text)}


@pytest.mark.parametrize(
    "lines",
    [
        (call("increment", step=2) + "\n" + call("shout", word="hi"), "On.\n" + call("later", step=3), "Done."),
        (call("increment", step=4), "I stop here."),
        ("No calls.",),
    ],
)
def test_the_same_episode(tmp_path: Path, lines: tuple[str, ...]) -> None:
    theirs = by_trl(tmp_path, ROWS * 2, *lines, environment_factory=Counter, tools=[shout], reward_funcs=[half])
    env = Trl(Counter, tools=[shout], reward_funcs=[half])
    assert described(by_temper(env, env.tasks(ROWS)[0], *lines)) == described(theirs)
    assert sum(theirs["mask"]) > 0 and theirs["rewards"]["Counter"] == float(len(lines) == 3)


def test_a_tool_that_raises(tmp_path: Path) -> None:
    rows, lines = [{"prompt": [{"role": "user", "content": "Go."}], "how": ""}], (call("act", what="raise"), "Done.")
    theirs = by_trl(tmp_path, rows * 2, *lines, environment_factory=Bad)
    assert described(by_temper(Trl(Bad), Trl(Bad).tasks(rows)[0], *lines)) == described(theirs)


def test_wrong_calls_read_otherwise(tmp_path: Path) -> None:
    """Where Temper says more: its tools check arguments before they run."""
    lines = (call("increment", step="x"), call("missing", step=1), "Done.")
    theirs = by_trl(tmp_path, ROWS * 2, *lines, environment_factory=Counter)["messages"]
    mine = by_temper(Trl(Counter), Trl(Counter).tasks(ROWS)[0], *lines)["messages"]
    assert [m for m in theirs if m["role"] != "tool"] == [m for m in mine if m["role"] != "tool"]
    said = ["unsupported operand type(s) for +=: 'int' and 'str'", "Tool missing not found."]
    assert [m["content"] for m in theirs if m["role"] == "tool"] == [str({"error": e}) for e in said]
    said = ["increment: step must be integer, not string.", "There is no tool 'missing'. Tools: "]
    assert all(m["content"].startswith(s) for m, s in zip([m for m in mine if m["role"] == "tool"], said, strict=True))


# an environment of TRL's own ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that `orwd init` writes, of the package openreward."""
    pytest.importorskip("openreward")
    folder = tmp_path_factory.mktemp("openreward")
    subprocess.run([sys.executable, "-m", "openreward.cli", "init", "arithmetic"], cwd=folder, check=True)
    start = "from server import *; Server([BasicEnvironment]).run('127.0.0.1', %d)"
    with (
        served(lambda port: [sys.executable, "-c", start % port], folder / "arithmetic") as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OPENREWARD_SESSION_URL", f"http://127.0.0.1:{port}")  # else its client asks sessions.HOST
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("answer, reward", [("4", 1.0), ("5", 0.0)])
def test_an_environment_that_trl_ships(arithmetic: str, tmp_path: Path, answer: str, reward: float) -> None:
    """`trl.experimental.openreward` on a server of another package: TRL plays it, and Temper does."""
    from trl.experimental.openreward import OpenRewardSpec

    spec, lines = OpenRewardSpec(arithmetic), (call("answer", answer=answer), "Done.")
    rows = spec.train_dataset.to_list()
    made: list[Any] = []

    def factory() -> Any:
        made.append(spec.environment_factory())
        return made[-1]

    theirs = by_trl(tmp_path, rows * 2, *lines, environment_factory=factory, reward_funcs=spec.reward_funcs)
    env = Trl(factory, reward_funcs=[spec.reward_funcs])
    mine = by_temper(env, env.tasks(rows)[0], *lines)
    for e in made:
        e._close()  # else their sessions ping the server after its end
    assert described(mine) == described(theirs) and list(theirs["rewards"].values()) == [reward]
    assert [m["content"] for m in theirs["messages"] if m["role"] == "tool"] == ["Correct!" if reward else "Wrong!"]

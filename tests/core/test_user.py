"""What a user gets wrong, and the one sentence that they read."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import OUTCOME, REWARD, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.episode import Episode
from temper.errors import UserError
from temper.loop import train
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.parts.signals import RewardVaries
from temper.policy import Seat
from temper.request import Request
from temper.run import Run
from temper.stage import Compute
from temper.tasks.task import Task
from tests.seams import toys


def run_on(model: str, **fields: Any) -> Run:
    policy = toys.policy(model)
    given: dict[str, Any] = {
        "env": SingleTurn(), "curriculum": toys.curriculum(2), "on_group": [toys.ShareOf(), toys.CENTRED], "steps": 2,
        "groups": 2, "sampling": toys.SHORT,
    }  # fmt: skip
    return Run(
        **{**given, "roles": {"solver": policy}, "updates": [Update(policy, [toys.POLICY_TERM])], **fields}
    )  # fmt: skip


def said(run: Run) -> str:
    """The error that the run ends with: one line."""
    with pytest.raises(UserError) as error:
        asyncio.run(train(run))
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(toy_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


# models ----------------------------------------


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    text = said(run_on(str(tmp_path / "nowhere")))
    assert text.startswith("no model at ") and "give a directory in Hugging Face format" in text


def test_a_model_without_a_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    text = said(run_on(str(folder)))
    assert "has no usable tokenizer" in text and "save one into its directory" in text


def test_a_model_without_a_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template: set tokenizer.chat_template and save it" in said(run_on(str(folder)))


def test_a_model_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert said(run_on(str(folder))).startswith("cannot load model")


def test_weights_that_are_cut_short(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert said(run_on(str(folder))).startswith("cannot load model")


def test_a_tokenizer_that_is_larger_than_the_embedding(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra_{n}>" for n in range(300)])
    tokenizer.save_pretrained(folder)
    assert f"has {len(tokenizer)} tokens, its model only 512 embeddings" in said(run_on(str(folder)))


# data ----------------------------------------


def test_no_tasks() -> None:
    with pytest.raises(UserError, match="there are no tasks to train on: the data is empty"):
        Shuffled([], 4)


def long_and_short() -> Shuffled:
    return Shuffled([Task("long", "x" * 2000), *toys.TASKS], 2)


def test_a_prompt_longer_than_the_context_is_a_counted_drop(toy_model: str, tmp_path: Path) -> None:
    run = run_on(toy_model, curriculum=long_and_short(), steps=3, groups=5, out=tmp_path / "run")
    asyncio.run(train(run))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["step"]]
    assert len(rows) == 3 and sum(r.get("dropped/prompt too long", 0) for r in rows) >= 4
    assert not [k for r in rows for k in r if k.startswith("dropped/") and k != "dropped/prompt too long"]


def test_prompts_that_are_all_too_long(toy_model: str) -> None:
    run = run_on(toy_model, curriculum=Shuffled([Task("long", "x" * 2000)], 2), rounds=3)
    assert said(run) == "no group carried signal in 3 rounds of sampling: 12 attempts dropped (prompt too long)"


def test_a_reward_that_is_always_the_same(toy_model: str) -> None:
    constant = Compute(REWARD, lambda b: torch.ones(b.size(TRAJECTORY)))
    run = run_on(toy_model, on_group=[constant, toys.CENTRED], signal=RewardVaries(), rounds=4)
    assert said(run) == "no group carried signal in 4 rounds of sampling: 8 groups whose attempts all scored the same"
    free = run_on(toy_model, on_group=[constant, toys.CENTRED])  # without the filter it trains on nothing, and says so
    asyncio.run(train(free))
    last = free.reporter.history[-1]
    assert last["frac_reward_zero_std"] == 1.0 and last["grad_norm"] == 0.0 and last["stalled"] == 0.0


class Ending:
    """A curriculum with three tasks and no more."""

    def __init__(self) -> None:
        self.left = [Request(t, 2) for t in toys.TASKS[:3]]

    def next(self, n: int) -> list[Request]:
        given, self.left = self.left[:n], self.left[n:]
        return given

    def observe(self, group: Batch) -> None:
        pass


def test_a_curriculum_that_ends(toy_model: str) -> None:
    run = run_on(toy_model, curriculum=Ending(), steps=5)
    assert said(run) == "there are no more tasks"
    steps = [r["step"] for r in run.reporter.history if r["step"]]
    assert steps == [1, 2]  # the second with the one task that was left


# environments ----------------------------------------


class Breaks(SingleTurn):
    """One task fails at once, while the others are sampled."""

    cancelled = 0

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        if task.id == "t1":
            raise KeyError("colour")
        try:
            return await super().play(task, roles)
        except asyncio.CancelledError:
            Breaks.cancelled += 1
            raise


def test_an_environment_that_raises(toy_model: str, capfd: pytest.CaptureFixture[str]) -> None:
    Breaks.cancelled = 0
    run = run_on(toy_model, env=Breaks(), groups=4, sampling=SamplingParams(max_tokens=200))
    with pytest.raises(UserError) as error:
        asyncio.run(train(run))
    assert str(error.value) == "Breaks failed on task 't1': KeyError: 'colour'"
    assert isinstance(error.value.__cause__, KeyError)  # with its traceback, for crash.log
    assert Breaks.cancelled == 3 * 2  # nothing goes on behind the error
    assert "never retrieved" not in capfd.readouterr().err


BROKEN = """
from temper.backends.base import SamplingParams
from temper.envs.single import SingleTurn
from temper.objective import Term, Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.run import Run
from temper.tasks.task import Task

class Broken(SingleTurn):
    async def play(self, task, roles):
        return {}["colour"]

def broken(model: str) -> Run:
    return Run(Broken(), Shuffled([Task("t0", "?")], 1), {"solver": Policy(model=model)}, [], steps=1, groups=1)
"""


def test_the_traceback_of_an_environment_is_kept(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from temper.cli import main

    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(BROKEN)
    assert main(["run", "broken.py", "--model", toy_model, "--out", "here", "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Broken failed on task 't0': KeyError: 'colour'; the traceback is in here/crash.log" in error
    assert 'return {}["colour"]' in Path("here/crash.log").read_text()


class Refuses(SingleTurn):
    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        return await super().play(Task(task.id, [{"role": "pope", "content": "?"}]), roles)


def test_a_chat_template_that_refuses_the_messages(toy_model: str) -> None:
    text = said(run_on(toy_model, env=Refuses()))
    assert text.startswith("the chat template of ") and text.endswith("refuses these messages: unknown role pope")


class Lost(SingleTurn):
    writes = (OUTCOME,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        return Episode(task, (), ())


def test_an_environment_that_judges_nothing(toy_model: str) -> None:
    assert said(run_on(toy_model, env=Lost(), rounds=2)).startswith("no group carried signal in 2 rounds")


# sizes ----------------------------------------


def test_zero_steps(toy_model: str, tmp_path: Path) -> None:
    from temper.evaluate import Evaluation

    run = run_on(toy_model, steps=0, probes=[Evaluation(toys.TASKS, 2)], out=tmp_path / "run")
    summary = asyncio.run(train(run))
    assert summary["steps"] == 0 and summary["before"] == summary["after"]
    assert summary["difference"]["pass@1"] == 0 and Path(summary["report"]).is_file()


def test_a_folder_that_cannot_be_written(toy_model: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = said(run_on(toy_model, out=tmp_path / "file" / "run"))
    assert text.startswith("cannot write to ") and text.endswith("(Not a directory): choose another --out")


def test_a_file_in_the_place_of_the_folder(toy_model: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another --out" in said(run_on(toy_model, out=tmp_path / "file"))


def test_a_full_disk_at_the_metrics(toy_model: str, tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"

    class FillsTheDisk:
        reads = writes = ()

        async def __call__(self, b: Batch) -> Batch:
            metrics.unlink(missing_ok=True)
            metrics.symlink_to("/dev/full")
            return b

    text = said(run_on(toy_model, out=tmp_path / "run", on_batch=[FillsTheDisk()]))
    assert text == f"cannot write {metrics} (No space left on device): free some space and --resume"

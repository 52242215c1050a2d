"""The files of examples/ are complete, short and right: what docs/how-to-*.md shows is what runs here."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.cli import main
from temper.columns import AUTHOR, REWARD
from temper.episode import ENV, Completion
from temper.loop import train
from temper.objective import Term
from temper.parts.rewards import Rewards
from temper.request import Request
from temper.rewards.load import reward_from
from temper.tasks.task import Task
from temper.testing import (
    ToyReward,
    check_curriculum,
    check_env,
    check_run,
    check_stage,
    check_term,
    toy_batch,
    toy_group,
    toy_tasks,
)
from temper.testing.toys import random_ends

ROOT = Path(__file__).parents[1]


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": t.prompt, "answer": t.answer}) + "\n" for t in toy_tasks()))
    return path


def test_the_method_declares_what_it_does() -> None:
    m = example("my_method")
    b = check_stage(m.Surprise(2.0))
    w = b[m.SURPRISE]
    assert bool((w[~w.isnan()] >= 0).all())
    check_term(Term("policy", m.Weighted()))
    flat = check_stage(m.Surprise(0.0))[m.SURPRISE]
    assert bool((flat[~flat.isnan()] == 1).all())


def test_the_method_runs_resumes_and_repeats(exact_model: str, rows: Path, tmp_path: Path) -> None:
    recipe = example("my_method").my_method

    def build() -> Any:
        run = recipe(
            model=exact_model, data=str(rows), reward=("exact_match",), steps=3, groups=2, attempts=3, eval_tasks=1
        )
        run.on_group[0] = ToyReward()
        run.sampling = random_ends(run.sampling)
        return run

    check_run(build, tmp_path)


def test_the_method_runs_from_the_command_line(exact_model: str, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = main(
        ["run", str(ROOT / "examples" / "my_method.py"), "--power", "2", "--model", exact_model, "--data", str(rows),
         "--reward", "exact_match", "--steps", "1", "--groups", "2", "--attempts", "2", "--max-tokens", "4",
         "--eval-tasks", "1", "--out", str(out)]
    )  # fmt: skip
    assert status == 0
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 1 and "ratio" in record and record["loss/policy"] is not None
    resolved = json.loads((out / "run.json").read_text())["resolved"]
    assert resolved["on_group"][-1]["power"] == 2.0


def test_the_environment_plays_and_judges(exact_model: str, tmp_path: Path) -> None:
    m = example("my_environment")
    task = Task("n5", "Guess a number from 1 to 9.", "5")
    episode = check_env(m.Guess(3), tmp_path, task=task, model=exact_model)
    (trajectory,) = episode.trajectories
    assert trajectory.reward == 0.0 and len(episode.turns) == 6  # a random model finds nothing in three guesses
    asked = [t.text for t in episode.turns if t.author == ENV]
    assert len(asked) == 3


class Says:
    """A seat whose answers are known."""

    def __init__(self, *answers: str):
        self.answers = list(answers)
        self.heard: list[str] = []

    def chat(self, messages: Any) -> tuple[int, ...]:
        self.heard.append(messages[-1]["content"])
        return (1, 2)

    async def sample(self, ids: Any) -> Any:
        return Completion((3,), (-1.0,), text=self.answers.pop(0))


@pytest.mark.parametrize(
    "answers, reward, heard",
    [(("5",), 1.0, []), (("3", "it is 5"), 0.5, ["Higher."]), (("7", "what?", "5"), 1 / 3, ["Lower.", "Say a number."]),
     (("1", "2", "3"), 0.0, ["Higher.", "Higher."])],
)  # fmt: skip
def test_the_game(answers: tuple[str, ...], reward: float, heard: list[str]) -> None:
    seat = Says(*answers)
    episode = asyncio.run(example("my_environment").Guess(3).play(Task("n", "Guess.", "5"), {"solver": seat}))
    assert episode.trajectories[0].reward == reward and seat.heard[1:] == heard


def test_the_environment_trains(exact_model: str, tmp_path: Path) -> None:
    run = example("my_environment").my_environment(model=exact_model, steps=1, groups=2, attempts=2)
    run.out = tmp_path / "run"
    seen = []
    run.on_batch.append(Spy(seen))
    asyncio.run(train(run))
    assert seen[0][AUTHOR].count(ENV) < len(seen[0][AUTHOR]) and REWARD in seen[0]


class Spy:
    reads = writes = ()

    def __init__(self, seen: list[Any]):
        self.seen = seen

    async def __call__(self, b: Any) -> Any:
        self.seen.append(b)
        return b


def test_the_curriculum_keeps_its_word() -> None:
    check_curriculum(example("my_curriculum").NearHalf(toy_tasks(), 2))


def test_the_curriculum_prefers_the_middle() -> None:
    tasks = toy_tasks()
    c = example("my_curriculum").NearHalf(tasks, 2, memory=0.0)
    asked = [r.task.id for _ in range(3) for r in c.next(2)]
    assert sorted(asked) == sorted(t.id for t in tasks)  # all are tried
    for task, mean in zip(tasks, (0.0, 1.0, 0.4, 0.9, 0.1, 0.5)):
        c.observe(toy_group(Request(task, 2)).put(REWARD, torch.full((2,), mean)))
    assert [r.task.id for r in c.next(2)] == ["t5", "t2"]
    lost = toy_group(Request(tasks[0], 2)).put(REWARD, torch.full((2,), torch.nan))
    c.observe(lost)
    assert c.state["rate"]["t0"] == 0.0


def test_the_curriculums_recipe(exact_model: str, rows: Path) -> None:
    m = example("my_curriculum")
    run = m.my_curriculum(model=exact_model, data=str(rows), reward=("exact_match",), memory=0.25, attempts=5)
    assert isinstance(run.curriculum, m.NearHalf) and run.curriculum.memory == 0.25 and run.curriculum.attempts == 5
    assert run.name == "grpo" and len(run.curriculum.tasks) == 5


def test_the_rewards() -> None:
    m = example("my_reward")
    assert [m.right(c, "12") for c in ("so 12", "12 or 13", "no")] == [1.0, 0.5, 0.0]
    assert m.brief("x" * 20) == 0.5 and m.brief("to explain") is None and m.brief("x" * 99, 50) == 0.0
    assert m.unlike_the_others(["a\nb", "b", "c"]) == [0.5, 0.5, 1.0]


def test_the_rewards_in_their_processes() -> None:
    names = ("right", "brief", "unlike_the_others")
    stage = Rewards([reward_from(f"{ROOT / 'examples' / 'my_reward.py'}:{n}") for n in names], [1.0, 0.2, 0.1])
    try:
        b = check_stage(stage, toy_batch())
    finally:
        stage.close()
    assert all(bool(b[REWARD.of(n)].isfinite().any()) for n in names)


# environments with tools and with two roles -----------------------------------------------------------------


def test_the_guide_is_short() -> None:
    lengths = {f.stem: len(f.read_text().splitlines()) for f in (ROOT / "examples").glob("*.py")}
    assert lengths["my_tool_environment"] <= 60 and lengths["my_two_roles"] <= 80


def test_the_tool_environment_is_learned_from(tmp_path: Path) -> None:
    """The bundled model looks facts up: some attempts are right before any training."""
    run = example("my_tool_environment").my_tool_environment(
        facts=20, steps=1, groups=4, attempts=4, max_tokens=64, eval_attempts=1
    )
    run.out, run.threads = tmp_path / "run", 1
    asyncio.run(train(run))
    record = json.loads((run.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["env/outcomes/ok"] > 0.3 and 0.1 < record["reward"] < 1


def test_the_register_and_its_judge() -> None:
    m = example("my_tool_environment")
    register = m.Register({"river of kalo": "Miva"})
    assert asyncio.run(register("River of Kalo ")).text == "Miva"
    assert asyncio.run(register("river of x")).outcome == "tool error"
    assert [m.right("It is Miva", "Miva", [{}] * n) for n in (0, 1, 3)] == [1.0, 1.0, 0.8]
    assert m.right("no", "Miva", [{}]) == 0.0


@pytest.mark.parametrize("policies, names", [("shared", {"both"}), ("separate", {"guide", "guesser"})])
def test_two_roles_train_one_policy_or_two(policies: str, names: set[str], exact_model: str, tmp_path: Path) -> None:
    run = example("my_two_roles").my_two_roles(model=exact_model, policies=policies, steps=1, groups=2, attempts=2)
    assert set(run.policies) == names
    run.out = tmp_path / "run"
    asyncio.run(train(run))
    record = json.loads((run.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"by_role/guide/reward", "by_role/guesser/reward"} <= set(record)
    episode = check_env(example("my_two_roles").Hint(), tmp_path, task=Task("n", "Hint.", "12"), model=exact_model)
    assert [t.role for t in episode.trajectories] == ["guide", "guesser"]

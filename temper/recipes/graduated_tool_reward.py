"""Multi-step tool orchestration over cached API responses, with a reward for each call and for their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.envs.scenes import Scenes, says
from temper.envs.tools import ToolUse
from temper.errors import UserError
from temper.method import Method
from temper.methods.environments.graduated_tool_reward import graduated_tool_reward as method
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import tasks_for, train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.run import Run
from temper.tasks.orchestration import read_templates, synthesise
from temper.tasks.orchestration_cache import ApiCache, CachedTools
from temper.tasks.task import Task


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def graduated_tool_reward(
    out: Path = Path("runs/graduated-tool-reward"),
    cache: str = "",
    workflows: str = "",
    tasks: str = "",
    queries: int = 10,
    distractors: int = 2,
    atomic: float = 0.5,
    orchestration: float = 0.5,
    exact: float = 0.0,
    unread: bool = False,
    beta: float = 1e-3,
    turns: int = 6,
    limit: int = 4000,
    cold_start: int = 10,
    cold_start_lr: float = 2e-3,
    model: str = "temper-tiny",
    steps: int = 20,
    groups: int = 4,
    attempts: int = 16,
    lr: float = 3e-4,
    max_tokens: int = 40,
    eval_tasks: int = 48,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """GRPO on chains of API calls whose responses are in a cache.

    out            directory of the run: RL starts from the model that the cold start leaves there
    cache          a file {function: [{"arguments", "response"}, …]} (default: bundled, made-up travel APIs)
    workflows      a file of workflow templates to make tasks from, with cache (the paper's format)
    tasks          a file of rows with prompt, functions and oracle = [{"name", "arguments", "after"}], with cache
    queries        tasks made from each template, 1 to 10
    distractors    further functions that a task offers
    atomic         weight of the mean over calls of name, parameters, values and success
    orchestration  weight of the share of steps that were made in their order
    exact          weight of 1 for making every reference call in order, else 0 (the paper's: 0)
    unread         count calls that cannot be read
    beta           weight of the KL to the model that RL starts from (0: none)
    turns          most turns that the model takes (the paper's 20)
    limit          characters of a response that the model gets to see (the paper's 8192 tokens)
    cold_start     steps of imitation of the reference calls before RL (0: none); bundled tasks only
    cold_start_lr  its learning rate
    groups         tasks in a step
    attempts       episodes of each task, compared with one another
    lr             peak learning rate
    max_tokens     longest turn, in tokens
    eval_tasks     held-out tasks
    seed           of everything that is drawn
    """
    found, train, held_out = sources(cache, workflows, tasks, queries, distractors, eval_tasks)
    env, phases = Scenes(CachedTools(found), talk=ToolUse(turns=turns), limit=limit), []
    if cold_start and not cache:
        phases.append(imitate(env, says, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options))
        model = left_by(out)

    def make(policy: Policy) -> Method:
        return method(
            policy, env=env, atomic=atomic, orchestration=orchestration, exact=exact, unread=unread, beta=beta,
            reference=policy.reference() if beta else None,
        )  # fmt: skip

    run = train_on(
        make, name="graduated-tool-reward", train=train, held_out=held_out, model=model, steps=steps, groups=groups,
        attempts=attempts, lr=lr, max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    run.threads = 0 if cache else 1  # temper-tiny is too small for more
    return [*phases, run]


def sources(
    cache: str, workflows: str, tasks: str, queries: int, distractors: int, eval_tasks: int
) -> tuple[ApiCache, list[Task], list[Task]]:
    """(cache, tasks for training, held-out tasks)."""
    if not cache:
        if workflows or tasks:
            raise UserError("workflows and tasks are about the calls of a cache: give --cache FILE.json")
        from temper.tasks import orchestration_trips as trips

        found, templates = trips.cache(), list(trips.TEMPLATES)
    else:
        found = ApiCache.read(cache)
        if bool(workflows) == bool(tasks):
            raise UserError("what is to be done with the cache? Give --workflows FILE.json or --tasks FILE.jsonl")
        templates = read_templates(workflows) if workflows else []
    if tasks:
        train, held_out, _ = tasks_for(tasks, None, eval_tasks, 0)
        for task in (*train, *held_out):
            check(task, found, tasks)
        return found, list(train), list(held_out)
    made = synthesise(found, templates, queries, distractors)
    share = min(eval_tasks, len(made) // 5)
    held = set(range(0, len(made), max(1, len(made) // share))) if share else set()
    return found, [t for n, t in enumerate(made) if n not in held], [made[n] for n in sorted(held)][:eval_tasks]


def check(task: Task, cache: ApiCache, where: str) -> None:
    """UserError for a task that the cache cannot play."""
    if not isinstance(task.info.get("oracle"), list) or not isinstance(task.info.get("functions"), list):
        raise UserError(f"{where}: task {task.id!r} needs functions (names) and oracle (calls)")
    for call in task.info["oracle"]:
        if (call["name"], call["arguments"]) not in cache:
            raise UserError(
                f"{where}: task {task.id!r} calls {call['name']}({call['arguments']}): it is not in the cache"
            )

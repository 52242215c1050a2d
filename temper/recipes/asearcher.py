"""ASearcher: long search episodes with pages that are read in full and remembered shortened, by decoupled PPO."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from temper.envs.search import Engine
from temper.errors import UserError
from temper.methods.environments.asearcher import asearcher as method
from temper.parts.rewards import Rewards
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.recipes.zerosearch import asked
from temper.rewards.load import Reward, rewards_from
from temper.rewards.qa import AnswerReward
from temper.run import Run
from temper.sync import SYNC, Name
from temper.tasks.knowledge import World, chains
from temper.tasks.synthesis import synthesise
from temper.tasks.task import Task
from temper.tools.search import Search

WORLD = "world"  # bundled: questions about a made-up world, whose pages are the corpus
SYNTHETIC = "synthetic"  # the same world, questions made hard by temper.tasks.synthesis


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def asearcher(
    out: Path = Path("runs/asearcher"),
    questions: str = WORLD,
    eval_questions: str | None = None,
    reward: tuple[str, ...] = (),
    eval_tasks: int = 60,
    corpus: str | None = None,
    hops: tuple[int, ...] = (1,),
    turns: int = 12,
    top: int = 1,
    document: int = 12,
    page: int = 25_000,
    short: int = 12,
    explain: bool = False,
    valid: float = 0.3,
    whiten: bool = True,
    clip: float = 0.4,
    cap: float = 5.0,
    decoupled: bool = True,
    minibatches: int = 1,
    ahead: int = 4,
    sync: Name = "resume",
    cold_start: int = 40,
    cold_start_lr: float = 2e-3,
    model: str = "temper-tiny",
    steps: int = 20,
    groups: int = 4,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 32,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """Search, open pages, answer; trained on what weights up to `ahead` updates old did (Gao et al. 2025).

    out            directory of the run: RL starts from the model that the cold start leaves there
    questions      "world" or, harder, "synthetic" (both bundled), a file of questions, or a Hugging Face data set
    eval_questions held-out questions (default: a fifth of the world's, else the last part of questions)
    reward         FILE.py:function, package.module:function or a bundled name, added up (default: F1 as in the paper)
    eval_tasks     held-out questions
    corpus         a JSONL file of {"title", "text", "url"} to search in (default: the world's pages)
    hops           of the world's questions: 1, 2 or both
    turns          most calls of an episode
    top            documents that a search brings
    document       characters shown of each
    page           characters of a page that are read at once
    short          characters of them that stay in later contexts
    explain        the prompt explains the tags, and how to reject a question
    valid          share of the questions whose prompt says that they have an answer
    whiten         advantages over the batch's tokens, as the paper's code does
    clip           range of the probability ratio
    cap            tokens with a higher π_learner/π_sampler are left out
    decoupled      clip against the learner's log-probs and correct for the sampler's; else clip against the sampler's
    minibatches    optimiser steps on each batch
    ahead          how many updates old the weights that sampled a token may be
    sync           how samplers with weights of their own (--backend ray) change them: blocking, delayed, staggered,
                   episodes, or resume (calls are cut, and go on under the new weights)
    cold_start     steps of imitation before RL (0: none), for "world" only
    cold_start_lr  its learning rate
    groups         questions in a step
    attempts       episodes of each question, compared with one another
    lr             peak learning rate
    max_tokens     longest call, in tokens
    """
    bundled = questions == WORLD
    known = chains(World(), hops) if bundled else synthesise(World(), seed) if questions == SYNTHETIC else None
    train, held_out = asked(known, questions, eval_questions, eval_tasks, seed)
    if corpus is None and known is None:
        raise UserError("what is searched in? Give --corpus FILE, lines of {title, text, url}")
    engine: Engine = Search(corpus or World().pages(), top=top)
    given: dict[str, Any] = {
        "turns": turns,
        "top": top,
        "document": document,
        "page": page,
        "short": short,
        "explain": explain,
    }
    given["valid"] = valid
    phases = []
    if cold_start and bundled:
        env: Any = method(Policy(), engine=engine, **given).env
        phases.append(imitate(env, says, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options))
        model = left_by(out)
    given |= {"whiten": whiten, "clip": clip, "cap": cap, "decoupled": decoupled, "minibatches": minibatches}
    measured = [replace(t, info={**t.info, "valid": False}) for t in held_out]
    judges = rewards_from(reward) or [Reward(AnswerReward("set", -0.5), name="f1")]
    rl = train_on(
        lambda policy: method(policy, engine=engine, **given),
        name="asearcher", train=train, held_out=measured, judges=[Rewards(judges)], model=model, steps=steps,
        groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens, ahead=ahead, seed=seed, **options,
    )  # fmt: skip
    rl.sync = SYNC[sync]
    rl.threads = 1 if bundled else 0  # temper-tiny is too small for more
    return [*phases, rl]


def says(task: Task, context: str) -> str:
    """A demonstration: search for the next name, open its page, note what it says; after the last relation, answer.

    A quarter of the notes names another line of the page, so that there is something to learn.
    """
    rng = Random(f"{task.id}/{len(context)}")
    *inner, name = str(task.prompt).removeprefix("What is the ").rstrip("?").split(" of ")
    relations = [r.removeprefix("the ") for r in reversed(inner)]
    noted = [name, *re.findall(r"</information>\n<think>\n(\w+)</think>", context)]
    if context.endswith("<think>\n"):
        lines = re.findall(r"(\w+): (\w+)", context.rpartition(">>>> Page")[2])
        if "[Doc" in context.rpartition("<information>")[2]:
            return "open</think>"
        wanted = relations[_pages(context) - 1]
        value = next((v for r, v in lines if r == wanted), "none")
        return f"{rng.choice(lines)[1] if lines and rng.random() < 0.25 else value}</think>"
    known = [n for n in noted if n != "open"]
    if context.endswith("open</think>"):
        return f"<access>{known[-1].lower()}</access>"
    if len(known) > len(relations):
        return f"<answer>{known[-1]}</answer>"
    return f"<search>{known[-1]}</search>"


def _pages(context: str) -> int:
    return context.count(">>>> Page")

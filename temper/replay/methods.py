"""What a method would have made of a recorded batch: its stages, and its terms."""

from __future__ import annotations

import asyncio
import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import CORE, GROUP, LOGP, REQUEST, REWARD, TOKEN, TURN_REWARD, Column, integer
from temper.errors import UserError, unknown
from temper.evaluate import judges
from temper.method import Method
from temper.objective import Update
from temper.policy import Policy
from temper.recipe import signature
from temper.run import Run
from temper.stage import Stage

ROW = Column("recorded_row", TOKEN, integer, "the token's row in the recorded batch")


@dataclass
class Alternative:
    """policy: the object that stages and terms hold on to; others: further policies that they need."""

    label: str
    policy: Any
    update: Update
    on_group: Sequence[Stage] = ()
    on_batch: Sequence[Stage] = ()
    signal: Callable[[Batch], bool] | None = None
    others: Sequence[Any] = field(default_factory=list)

    @staticmethod
    def of_run(label: str, run: Run) -> Alternative:
        """A run's, without the stages that judge: rewards stay as they were."""
        update, judging = run.updates[0], judges(run.on_group)
        kept = [s for s in run.on_group if not any(s is j for j in judging)]
        return Alternative(label, update.policy, update, kept, run.on_batch, run.signal, run.others)

    @staticmethod
    def of_method(label: str, policy: Any, m: Method) -> Alternative:
        update = Update(policy, m.terms, m.epochs, m.minibatches)
        return Alternative(label, policy, update, m.on_group, m.on_batch, m.signal, list(m.policies.values()))

    def batch(self, recorded: Batch) -> Batch:
        """The recorded rollouts and rewards with this method's columns. UserError when it leaves nothing."""
        b = bare(recorded)
        order = dict.fromkeys(b[REQUEST])
        groups = [b.select(torch.tensor([x == r for x in b[REQUEST]]), GROUP) for r in order]
        made = [g for g in (asyncio.run(_through(g, self.on_group)) for g in groups) if g.structure.groups]
        if self.signal is not None:
            made = [g for g in made if self.signal(g)]
        if not made:
            raise UserError(f"{self.label} leaves no group of this batch: none carries its signal")
        return asyncio.run(_through(Batch.concat(made), self.on_batch))


def bare(b: Batch) -> Batch:
    """What rollouts and judges wrote, without what the run's method made of it."""
    names = {c.name for c in CORE} | {LOGP.of("behaviour").name, REWARD.name, TURN_REWARD.name, ROW.name}
    kept = {c.name: (c, b[c]) for c in b.columns if c.name in names or c.name.startswith("reward@")}
    return Batch(b.structure, kept)


async def _through(b: Batch, stages: Sequence[Stage]) -> Batch:
    for stage in stages:
        b = await stage(b)
    return b


def named(text: str, own: Mapping[str, Any]) -> Alternative:
    """An alternative from "RECIPE --option value", FILE.py or FILE.py:function; `own`: options of the recorded run.

    A function in a file is a recipe (it returns a Run), or a method: its first parameter is `policy`. Options that
    every recipe has (model, max_tokens, …) are those of the recorded run; the method's own are the recipe's defaults.
    """
    from temper.cli import find, options

    words = shlex.split(text)
    if not words:
        raise UserError("--with names nothing: give recipes, as in --with dr-grpo,rloo")
    target = find.target(_recipe(words[0]))
    make = target.load()
    label = text if len(words) > 1 or not target.path.stem else re.sub(r"\.py$", "", words[0].rpartition("/")[2])
    if next(iter(inspect.signature(make).parameters), "") == "policy":
        policy = Policy(model=own.get("model", "temper-tiny"))
        return Alternative.of_method(label, policy, make(policy))
    known = signature(make)
    shared = {o.name for o in _shared()}
    given = {o.name: own[o.name] for o in known if o.name in shared and o.name in own}
    given |= {"eval_tasks": 0} if any(o.name == "eval_tasks" for o in known) else {}
    made = make(**{**given, **options.parse(words[1:], known)})
    runs = made if isinstance(made, list) else [made]
    if not isinstance(runs[-1], Run):
        raise UserError(f"{words[0]} returned {type(made).__name__}, not a Run")
    return Alternative.of_run(label, runs[-1])


def _shared() -> list[Any]:
    from temper.recipes.common import post_train

    return [o for o in signature(post_train) if o.name not in ("method", "name", "seed", "eval_tasks")]


def _recipe(name: str) -> str:
    """The recipe's name as it is written: drgrpo is dr-grpo, reinforce++ is reinforce-plus-plus."""
    from temper.cli import source

    if name.partition(":")[0].endswith(".py") or "/" in name:
        return name
    known = {_letters(n): n for n in source.recipes()}
    if _letters(name) not in known:
        raise unknown("recipe", name, source.recipes())
    return known[_letters(name)]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))
